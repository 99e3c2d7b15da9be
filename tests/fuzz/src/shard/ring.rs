//! A ring without a kernel: it does what the engine asks for at each exchange, and complains about
//! whatever the kernel would punish.

#![expect(unsafe_code, reason = "it plays the kernel, which fills receive buffers by address")]

use std::collections::VecDeque;

use corelane_shard::buffers::{BufferId, ReceiveBuffers};
use corelane_shard::id::{ConnectionKey, ShardId};
use corelane_shard::snapshot::Address;
use corelane_shard::sockets::{
    AcceptEnd, Completion, ListenerId, Outgoing, Pending, ReceiveEnd, Sent, Socket, Sockets,
};

use super::peer::Peer;

/// Sockets that there can be; beyond them the table is full.
const SOCKETS_MAX: usize = 40;

/// Buffers that one socket may fill in one exchange, as the kernel has it.
const BUFFERS_PER_SOCKET: usize = 33;

/// What is left in a buffer that is given back: nobody may read it any more.
const GIVEN_BACK: u8 = 0xDD;

/// `ECANCELED`, `ECONNRESET`, `ECONNREFUSED`
const CANCELLED: i32 = 125;
const RESET: i32 = 104;
const REFUSED: i32 = 111;

const LISTENER: ListenerId = ListenerId(0);

#[derive(Debug)]
enum Submission {
    Accept,
    StopAccepting,
    Receive(Socket, ConnectionKey),
    StopReceiving(ConnectionKey),
    Send(Socket, ConnectionKey, Outgoing),
    SendRest(Socket, ConnectionKey, Outgoing),
    PeerName(Socket, ConnectionKey),
    Open(ConnectionKey, Address),
    Connect(Socket, ConnectionKey),
    Finish(Socket, ConnectionKey),
    Close(Socket, ConnectionKey, Pending),
    Provide(Vec<BufferId>),
}

/// One socket, and who is at its other end.
pub(super) struct Wire {
    pub(super) peer: Peer,
    /// Bytes on their way to the shard.
    pub(super) inbox: VecDeque<u8>,
    /// What comes behind them.
    pub(super) end: Option<ReceiveEnd>,
    /// Bytes that come in one piece.
    pub(super) piece: usize,
    /// Bytes that the peer still takes; `None`: all.
    pub(super) takes: Option<usize>,
    pub(super) key: Option<ConnectionKey>,
    receiving: bool,
    connecting: bool,
    sent_this_exchange: bool,
    /// The rest of a send, and how much of it is gone.
    waiting: Option<(Outgoing, usize)>,
    finished: bool,
}

impl Wire {
    fn new(peer: Peer) -> Self {
        Self {
            peer,
            inbox: VecDeque::new(),
            end: None,
            piece: usize::MAX,
            takes: None,
            key: None,
            receiving: false,
            connecting: false,
            sent_this_exchange: false,
            waiting: None,
            finished: false,
        }
    }

    pub(super) fn reset(&mut self) {
        self.inbox.clear();
        self.end = Some(ReceiveEnd::Failed(RESET));
    }

    pub(super) fn finish(&mut self) {
        self.end.get_or_insert(ReceiveEnd::Eof);
    }

    /// Says whether `bytes` are on their way: nothing follows the end, and no peer has room for more
    /// than so much.
    pub(super) fn say(&mut self, bytes: &[u8]) -> bool {
        let room = self.end.is_none() && self.inbox.len() < 64 << 10;
        if room {
            self.inbox.extend(bytes);
        }
        room
    }

    fn is_reset(&self) -> bool {
        matches!(self.end, Some(ReceiveEnd::Failed(_)))
    }

    /// As much of `bytes` as the peer takes now.
    fn take(&mut self, bytes: &[u8]) -> usize {
        let taken = self.takes.map_or(bytes.len(), |takes| takes.min(bytes.len()));
        if let Some(takes) = &mut self.takes {
            *takes -= taken;
        }
        self.peer.got(&bytes[..taken]);
        taken
    }
}

/// What becomes of connections that the shard wants to backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, arbitrary::Arbitrary)]
pub(super) enum Dialling {
    Answered,
    Refused,
    NoSocket,
    /// Nothing is heard of them.
    Silent,
}

pub(super) struct Ring {
    memory: *mut u8,
    buffer_bytes: usize,
    /// Buffers that the kernel may fill.
    provided: Vec<BufferId>,
    pub(super) wires: Vec<Option<Wire>>,
    pub(super) dialling: Dialling,
    submitted: Vec<Submission>,
    completions: VecDeque<Completion>,
    settled: Vec<(ConnectionKey, Outgoing, Sent)>,
    accepting: bool,
    listening: bool,
}

impl Ring {
    pub(super) fn new(buffers: &ReceiveBuffers) -> Self {
        Self {
            memory: buffers.base(),
            buffer_bytes: buffers.buffer_size(),
            provided: Vec::new(),
            wires: Vec::new(),
            dialling: Dialling::Answered,
            submitted: Vec::new(),
            completions: VecDeque::new(),
            settled: Vec::new(),
            accepting: false,
            listening: true,
        }
    }

    /// A client connects, if it can.
    pub(super) fn connect_client(&mut self, peer: Peer) {
        if !self.accepting {
            return;
        }
        match self.add(peer) {
            Some(socket) => {
                self.completions.push_back(Completion::Accepted { listener: LISTENER, socket });
            }
            None => {
                self.accepting = false;
                let cause = AcceptEnd::TableFull;
                self.completions.push_back(Completion::AcceptEnded { listener: LISTENER, cause });
            }
        }
    }

    /// Buffers that the engine does not have: with the kernel, or named by a completion.
    pub(super) fn buffers(&self) -> usize {
        let named = |completion: &&Completion| matches!(completion, Completion::Received { .. });
        self.provided.len() + self.completions.iter().filter(named).count()
    }

    /// Does what was asked for, and what the peers have done since.
    pub(super) fn exchange(&mut self) {
        for submission in std::mem::take(&mut self.submitted) {
            self.submit(submission);
        }
        for at in 0..self.wires.len() {
            self.deliver(at);
            self.send_waiting(at);
            if let Some(wire) = &mut self.wires[at] {
                wire.sent_this_exchange = false;
            }
        }
    }

    fn submit(&mut self, submission: Submission) {
        match submission {
            Submission::Accept => {
                assert!(!std::mem::replace(&mut self.accepting, true), "accepts once");
                assert!(self.listening, "a closed listener accepts nobody");
            }
            Submission::StopAccepting => {
                if std::mem::take(&mut self.accepting) {
                    let cause = AcceptEnd::Cancelled;
                    let ended = Completion::AcceptEnded { listener: LISTENER, cause };
                    self.completions.push_back(ended);
                }
            }
            Submission::Receive(socket, key) => {
                let wire = self.wire(socket, key);
                assert!(!std::mem::replace(&mut wire.receiving, true), "receives once");
            }
            Submission::StopReceiving(key) => {
                let wires = self.wires.iter_mut().flatten();
                for wire in wires.filter(|wire| wire.key == Some(key) && wire.receiving) {
                    wire.receiving = false;
                    let cause = ReceiveEnd::Cancelled;
                    self.completions.push_back(Completion::ReceiveEnded { key, cause });
                }
            }
            Submission::Send(socket, key, bytes) => self.send_now(socket, key, bytes),
            Submission::SendRest(socket, key, bytes) => {
                let wire = self.wire(socket, key);
                let alone = !wire.sent_this_exchange && wire.waiting.is_none();
                assert!(alone && !wire.finished, "one send at a time, and none behind FIN");
                wire.waiting = Some((bytes, 0));
            }
            Submission::PeerName(socket, key) => {
                let peer = Some(([192, 0, 2, 1], 1024 + socket.0 as u16).into());
                self.wire(socket, key);
                self.completions.push_back(Completion::PeerName { key, peer });
            }
            Submission::Open(key, address) => {
                let refused = self.dialling == Dialling::NoSocket;
                let socket = (!refused).then(|| self.add(Peer::backend(&address))).flatten();
                self.completions.push_back(Completion::Opened { key, socket });
            }
            Submission::Connect(socket, key) => self.connect_backend(socket, key),
            Submission::Finish(socket, key) => {
                let wire = self.wire(socket, key);
                let gone = wire.waiting.is_none() && !wire.sent_this_exchange;
                assert!(gone, "FIN comes when the last byte is known to be gone");
                assert!(!wire.finished, "FIN comes once");
                wire.finished = true;
            }
            Submission::Close(socket, key, pending) => self.close_now(socket, key, pending),
            Submission::Provide(buffers) => {
                for id in buffers {
                    assert!(!self.provided.contains(&id), "a buffer is given back once");
                    self.buffer(id).fill(GIVEN_BACK);
                    self.provided.push(id);
                }
            }
        }
    }

    fn connect_backend(&mut self, socket: Socket, key: ConnectionKey) {
        let dialling = self.dialling;
        let wire = self.wire(socket, key);
        assert!(!wire.connecting && !wire.receiving, "connects once");
        let outcome = match dialling {
            Dialling::Answered => Ok(()),
            Dialling::Refused | Dialling::NoSocket => Err(REFUSED),
            Dialling::Silent => {
                wire.connecting = true;
                return;
            }
        };
        self.completions.push_back(Completion::Connected { key, outcome });
    }

    fn send_now(&mut self, socket: Socket, key: ConnectionKey, bytes: Outgoing) {
        let wire = self.wire(socket, key);
        let alone = !std::mem::replace(&mut wire.sent_this_exchange, true);
        assert!(alone && wire.waiting.is_none(), "one send at a time");
        assert!(!wire.finished, "nothing is sent behind FIN");
        let len = bytes.as_slice().len();
        assert!(len > 0, "something is sent");
        let outcome = if wire.is_reset() {
            Sent::Failed
        } else {
            match wire.take(bytes.as_slice()) {
                taken if taken == len => Sent::All,
                taken => Sent::Partial(taken),
            }
        };
        self.settled.push((key, bytes, outcome));
    }

    fn send_waiting(&mut self, at: usize) {
        let Some(wire) = &mut self.wires[at] else { return };
        let (Some((bytes, gone)), Some(key)) = (wire.waiting.take(), wire.key) else { return };
        if wire.is_reset() {
            self.settled.push((key, bytes, Sent::Failed));
            return;
        }
        let gone = gone + wire.take(&bytes.as_slice()[gone..]);
        if gone == bytes.as_slice().len() {
            self.settled.push((key, bytes, Sent::All));
        } else {
            wire.waiting = Some((bytes, gone));
        }
    }

    /// Puts what has come into buffers, as long as there are some.
    fn deliver(&mut self, at: usize) {
        for _ in 0..BUFFERS_PER_SOCKET {
            let Some(wire) = &mut self.wires[at] else { return };
            let (true, Some(key)) = (wire.receiving, wire.key) else { return };
            if wire.inbox.is_empty() {
                if let Some(cause) = wire.end {
                    wire.receiving = false;
                    self.completions.push_back(Completion::ReceiveEnded { key, cause });
                }
                return;
            }
            let Some(buffer) = self.provided.pop() else {
                wire.receiving = false;
                let cause = ReceiveEnd::NoBuffers;
                self.completions.push_back(Completion::ReceiveEnded { key, cause });
                return;
            };
            let len = wire.inbox.len().min(wire.piece).min(self.buffer_bytes);
            let bytes: Vec<u8> = wire.inbox.drain(..len).collect();
            self.buffer(buffer)[..len].copy_from_slice(&bytes);
            self.completions.push_back(Completion::Received { key, buffer, len: len as u32 });
        }
    }

    fn close_now(&mut self, socket: Socket, key: ConnectionKey, pending: Pending) {
        let Some(wire) = self.wires.get_mut(socket.0 as usize).and_then(Option::take) else {
            panic!("{socket:?} is closed once");
        };
        assert!(wire.key.is_none_or(|own| own == key), "{socket:?} is closed by its owner");
        match pending {
            Pending::Nothing => {
                let idle = !wire.receiving && wire.waiting.is_none() && !wire.connecting;
                assert!(idle, "nothing is left pending on {socket:?}");
            }
            Pending::Receive => assert!(wire.waiting.is_none() && !wire.connecting),
            Pending::Unknown => {}
        }
        if wire.receiving {
            let cause = ReceiveEnd::Cancelled;
            self.completions.push_back(Completion::ReceiveEnded { key, cause });
        }
        if wire.connecting {
            let outcome = Err(CANCELLED);
            self.completions.push_back(Completion::Connected { key, outcome });
        }
        if let Some((bytes, gone)) = wire.waiting {
            let outcome = if gone == 0 { Sent::Failed } else { Sent::Partial(gone) };
            self.settled.push((key, bytes, outcome));
        }
        self.completions.push_back(Completion::Closed { key });
    }

    fn add(&mut self, peer: Peer) -> Option<Socket> {
        let free = self.wires.iter().position(Option::is_none);
        if free.is_none() && self.wires.len() == SOCKETS_MAX {
            return None;
        }
        let at = free.unwrap_or_else(|| {
            self.wires.push(None);
            self.wires.len() - 1
        });
        self.wires[at] = Some(Wire::new(peer));
        Some(Socket(at as u32))
    }

    /// The socket of `key`; who names it first owns it.
    fn wire(&mut self, socket: Socket, key: ConnectionKey) -> &mut Wire {
        let Some(Some(wire)) = self.wires.get_mut(socket.0 as usize) else {
            panic!("nothing is done with {socket:?} once it is closed");
        };
        assert_eq!(*wire.key.get_or_insert(key), key, "a socket has one owner");
        wire
    }

    fn buffer(&mut self, id: BufferId) -> &mut [u8] {
        let at = self.memory.wrapping_add(usize::from(id.0) * self.buffer_bytes);
        // SAFETY: the engine, which owns the buffers and lives as long as this ring, has given this
        // one back: it holds no reference into it until a completion names it.
        unsafe { std::slice::from_raw_parts_mut(at, self.buffer_bytes) }
    }
}

impl Sockets for Ring {
    fn accept(&mut self, _listener: ListenerId) {
        self.submitted.push(Submission::Accept);
    }

    fn stop_accepting(&mut self, _listener: ListenerId) {
        self.submitted.push(Submission::StopAccepting);
    }

    fn close_listener(&mut self, _listener: ListenerId) {
        assert!(!self.accepting, "a listener is closed when it accepts no more");
        self.listening = false;
    }

    fn receive(&mut self, socket: Socket, key: ConnectionKey) {
        self.submitted.push(Submission::Receive(socket, key));
    }

    fn stop_receiving(&mut self, key: ConnectionKey) {
        self.submitted.push(Submission::StopReceiving(key));
    }

    fn send(&mut self, socket: Socket, key: ConnectionKey, bytes: Outgoing) {
        self.submitted.push(Submission::Send(socket, key, bytes));
    }

    fn send_rest(&mut self, socket: Socket, key: ConnectionKey, bytes: Outgoing) {
        self.submitted.push(Submission::SendRest(socket, key, bytes));
    }

    fn peer_name(&mut self, _listener: ListenerId, socket: Socket, key: ConnectionKey) {
        self.submitted.push(Submission::PeerName(socket, key));
    }

    fn open(&mut self, key: ConnectionKey, address: &Address) {
        self.submitted.push(Submission::Open(key, address.clone()));
    }

    fn connect(&mut self, socket: Socket, key: ConnectionKey, _address: &Address) {
        self.submitted.push(Submission::Connect(socket, key));
    }

    fn finish(&mut self, socket: Socket, key: ConnectionKey) {
        self.submitted.push(Submission::Finish(socket, key));
    }

    fn close(&mut self, socket: Socket, key: ConnectionKey, pending: Pending) {
        self.submitted.push(Submission::Close(socket, key, pending));
    }

    fn ring_doorbell(&mut self, shard: ShardId) {
        panic!("there is no {shard:?}");
    }

    fn provide(&mut self, buffers: &mut Vec<BufferId>) {
        if !buffers.is_empty() {
            self.submitted.push(Submission::Provide(std::mem::take(buffers)));
        }
    }

    fn settled(&mut self) -> Option<(ConnectionKey, Outgoing, Sent)> {
        self.settled.pop()
    }

    fn completion(&mut self) -> Option<Completion> {
        self.completions.pop_front()
    }

    fn backlog(&self) -> usize {
        self.completions.len()
    }
}
