//! What stands in for the ring: it moves bytes between an engine and its wires, whole or in part,
//! soon or late, and watches that the engine keeps the contract of [`Sockets`].

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};

use super::network::{LISTENERS, Network, Wire, WireId};
use crate::buffers::{BufferId, ReceiveBuffers};
use crate::engine::NOBODY;
use crate::id::{ConnectionKey, ShardId};
use crate::snapshot::Address;
use crate::sockets::{
    AcceptEnd, Completion, ListenerId, Outgoing, Pending, ReceiveEnd, Sent, Socket, Sockets,
};

/// errno values, as the kernel names them.
const ECONNREFUSED: i32 = 111;
const ECONNRESET: i32 = 104;
const ECANCELED: i32 = 125;

/// What the kernel writes before anything has come.
const SPOILT: u8 = 0xEE;

/// Buffers that one socket may fill in one exchange.
const BUFFERS_PER_EXCHANGE: usize = 40;

#[derive(Debug)]
enum Operation {
    Accept(ListenerId),
    StopAccepting(ListenerId),
    Receive(Socket, ConnectionKey),
    StopReceiving(ConnectionKey),
    Send(Socket, ConnectionKey, Outgoing),
    SendRest(Socket, ConnectionKey, Outgoing),
    PeerName(ConnectionKey),
    Open(ConnectionKey),
    Connect(Socket, ConnectionKey, Address),
    Finish(Socket),
    Close(Socket, ConnectionKey, Pending),
}

/// One entry of the descriptor table.
#[derive(Debug, Default)]
struct Descriptor {
    /// `None` until it is connected.
    wire: Option<WireId>,
    receiving: Option<ConnectionKey>,
    connecting: Option<(ConnectionKey, Address)>,
    rest: Option<Rest>,
}

/// Where clients knock.
#[derive(Debug, Clone, Copy)]
struct Listener {
    accepting: bool,
    listening: bool,
}

/// The rest of a partial send, which waits for its peer.
#[derive(Debug)]
struct Rest {
    key: ConnectionKey,
    bytes: Outgoing,
    sent: usize,
}

/// The sockets of one shard.
#[derive(Debug)]
pub(super) struct Kernel {
    shard: usize,
    rng: fastrand::Rng,
    operations: Vec<Operation>,
    descriptors: Vec<Option<Descriptor>>,
    provided: VecDeque<BufferId>,
    /// How many of the last provided ones still hold what they held before.
    unspoilt: usize,
    queue: VecDeque<Completion>,
    /// What has ended and is told in a later exchange, in any order.
    late: Vec<Completion>,
    settled: Vec<(ConnectionKey, Outgoing, Sent)>,
    listeners: [Listener; LISTENERS],
    /// Whose bells were rung in this turn.
    pub(super) bells: Vec<ShardId>,
}

impl Kernel {
    pub(super) fn new(shard: usize, descriptors: usize, seed: u64) -> Self {
        Self {
            shard,
            rng: fastrand::Rng::with_seed(seed),
            operations: Vec::new(),
            descriptors: (0..descriptors).map(|_| None).collect(),
            provided: VecDeque::new(),
            unspoilt: 0,
            queue: VecDeque::new(),
            late: Vec::new(),
            settled: Vec::new(),
            listeners: [Listener { accepting: false, listening: true }; LISTENERS],
            bells: Vec::new(),
        }
    }

    /// A bell that another core has rung.
    pub(super) fn ring(&mut self) {
        self.queue.push_back(Completion::Doorbell);
    }

    /// Whether there is something for the engine to take.
    pub(super) fn has_news(&self) -> bool {
        !self.queue.is_empty() || !self.settled.is_empty()
    }

    /// Buffers that the engine knows nothing of: offered to the network, or filled and not taken.
    pub(super) fn buffers(&self) -> usize {
        let filled = |c: &&Completion| matches!(c, Completion::Received { .. });
        self.provided.len() + self.queue.iter().filter(filled).count()
    }

    /// Receive buffers that are being sent from, each counted once.
    pub(super) fn lent(&self) -> usize {
        let lent = self.settled.iter().filter_map(|(_, outgoing, _)| match outgoing {
            Outgoing::Lent(lent) => lent.buffer().map(|id| id.0),
            Outgoing::Block(_) => None,
        });
        let mut lent: Vec<u16> = lent.collect();
        lent.sort_unstable();
        lent.dedup();
        lent.len()
    }

    pub(super) fn open_descriptors(&self) -> usize {
        self.descriptors.iter().flatten().count()
    }

    /// Whether anybody can still connect.
    pub(super) fn is_listening(&self) -> bool {
        self.listeners.iter().any(|listener| listener.listening)
    }

    /// What waits to be taken by the engine.
    pub(super) fn backlog_of_completions(&self) -> &VecDeque<Completion> {
        &self.queue
    }

    /// Hands what the engine has asked for to the wires.
    pub(super) fn submit(&mut self, network: &mut Network) {
        let mut sending = Vec::new();
        for operation in std::mem::take(&mut self.operations) {
            match operation {
                Operation::Accept(listener) => {
                    let Listener { accepting, listening } = self.listener(listener);
                    assert!(!*accepting, "a listener is armed once");
                    *accepting = *listening;
                }
                Operation::StopAccepting(listener) => {
                    if std::mem::take(&mut self.listener(listener).accepting) {
                        self.take_backlog(network, listener);
                        let cause = AcceptEnd::Cancelled;
                        self.queue.push_back(Completion::AcceptEnded { listener, cause });
                    }
                }
                Operation::Receive(socket, key) => {
                    let receiving = &mut self.descriptor(socket).receiving;
                    assert!(receiving.is_none(), "{key:?} receives twice");
                    *receiving = Some(key);
                }
                Operation::StopReceiving(key) => self.cancel_receive(key),
                Operation::Send(socket, key, bytes) => {
                    assert!(!sending.contains(&key), "{key:?} has two sends in one exchange");
                    sending.push(key);
                    self.send_now(network, socket, key, bytes);
                }
                Operation::SendRest(socket, key, bytes) => {
                    let rest = &mut self.descriptor(socket).rest;
                    assert!(rest.is_none(), "{key:?} has two rests");
                    *rest = Some(Rest { key, bytes, sent: 0 });
                }
                Operation::PeerName(key) => {
                    let port = 1000 + key.slot.0 as u16;
                    let peer = SocketAddr::from((Ipv4Addr::new(10, 0, 0, 1), port));
                    let peer = (self.rng.u8(..8) > 0).then_some(peer);
                    self.late.push(Completion::PeerName { key, peer });
                }
                Operation::Open(key) => {
                    let socket = self.free_descriptor();
                    if let Some(Socket(at)) = socket {
                        self.descriptors[at as usize] = Some(Descriptor::default());
                    }
                    self.late.push(Completion::Opened { key, socket });
                }
                Operation::Connect(socket, key, address) => {
                    self.descriptor(socket).connecting = Some((key, address));
                }
                Operation::Finish(socket) => {
                    if let Some(wire) = self.descriptor(socket).wire {
                        let wire = network.wire(wire);
                        wire.to_remote.fin = true;
                        wire.finished_by_shard = true;
                    }
                }
                Operation::Close(socket, key, pending) => {
                    self.close_now(network, socket, key, pending)
                }
            }
        }
        for (at, listener) in self.listeners.iter().enumerate() {
            if !listener.listening {
                for wire in std::mem::take(&mut network.backlogs[self.shard][at]) {
                    network.wire(wire).reset();
                }
            }
        }
    }

    /// Lets the network do its part: accepts, connects, sends rests, receives.
    pub(super) fn progress(&mut self, network: &mut Network, buffers: &mut ReceiveBuffers) {
        self.tell_late();
        self.spoil(buffers);
        for listener in (0..LISTENERS as u8).map(ListenerId) {
            if self.listener(listener).accepting {
                self.take_backlog(network, listener);
            }
        }
        let first = self.rng.usize(..self.descriptors.len());
        for at in (first..self.descriptors.len()).chain(0..first) {
            let Some(mut descriptor) = self.descriptors[at].take() else { continue };
            self.try_to_connect(network, &mut descriptor);
            if let Some(wire) = descriptor.wire
                && !one_in(&mut self.rng, network.weather.stalls)
            {
                self.go_on_sending(network.wire(wire), &mut descriptor);
                let cuts = network.weather.cuts;
                self.fill_buffers(network.wire(wire), cuts, &mut descriptor, buffers);
            }
            self.descriptors[at] = Some(descriptor);
        }
    }

    /// The kernel may write to what it has at any time: whoever still reads there finds nothing good.
    fn spoil(&mut self, buffers: &mut ReceiveBuffers) {
        let fresh = self.provided.len() - std::mem::take(&mut self.unspoilt);
        for buffer in self.provided.range(fresh..) {
            let mut filled = buffers.received(*buffer, buffers.buffer_size() as u32);
            filled.from(0).fill(SPOILT);
            buffers.done(filled);
            assert_eq!(buffers.returned().pop(), Some(*buffer), "nothing else referred to it");
        }
    }

    fn tell_late(&mut self) {
        self.rng.shuffle(&mut self.late);
        for completion in std::mem::take(&mut self.late) {
            if self.rng.u8(..4) > 0 {
                self.queue.push_back(completion);
            } else {
                self.late.push(completion);
            }
        }
    }

    fn listener(&mut self, listener: ListenerId) -> &mut Listener {
        &mut self.listeners[usize::from(listener.0)]
    }

    fn take_backlog(&mut self, network: &mut Network, listener: ListenerId) {
        let backlog = &mut network.backlogs[self.shard][usize::from(listener.0)];
        while let Some(wire) = backlog.pop_front() {
            let Some(socket) = self.free_descriptor() else {
                backlog.push_front(wire);
                self.listener(listener).accepting = false;
                let cause = AcceptEnd::TableFull;
                self.queue.push_back(Completion::AcceptEnded { listener, cause });
                return;
            };
            let descriptor = Descriptor { wire: Some(wire), ..Descriptor::default() };
            self.descriptors[socket.0 as usize] = Some(descriptor);
            self.queue.push_back(Completion::Accepted { listener, socket });
        }
    }

    fn try_to_connect(&mut self, network: &mut Network, descriptor: &mut Descriptor) {
        if descriptor.connecting.is_none() || self.rng.u8(..4) == 0 {
            return;
        }
        let Some((key, address)) = descriptor.connecting.take() else { return };
        let refused = one_in(&mut self.rng, network.weather.refusals);
        if !refused {
            descriptor.wire = network.dial_backend(&address, &mut self.rng);
        }
        let outcome = descriptor.wire.map(|_| ()).ok_or(ECONNREFUSED);
        self.queue.push_back(Completion::Connected { key, outcome });
    }

    fn send_now(
        &mut self,
        network: &mut Network,
        socket: Socket,
        key: ConnectionKey,
        bytes: Outgoing,
    ) {
        let descriptor = self.descriptor(socket);
        assert!(descriptor.rest.is_none(), "{key:?} overtakes the rest of its own send");
        let wire = descriptor.wire.expect("only what is connected sends");
        let sent = take(network.wire(wire), bytes.as_slice());
        let sent = match sent {
            Some(all) if all == bytes.as_slice().len() => Sent::All,
            Some(part) => Sent::Partial(part),
            None => Sent::Failed,
        };
        self.settled.push((key, bytes, sent));
    }

    fn go_on_sending(&mut self, wire: &mut Wire, descriptor: &mut Descriptor) {
        let Some(Rest { key, bytes, sent }) = descriptor.rest.take() else { return };
        match take(wire, &bytes.as_slice()[sent..]) {
            None => self.settled.push((key, bytes, Sent::Failed)),
            Some(more) if sent + more == bytes.as_slice().len() => {
                self.settled.push((key, bytes, Sent::All));
            }
            // A signal may end a waiting send in the middle.
            Some(more) if more > 0 && self.rng.u8(..16) == 0 => {
                self.settled.push((key, bytes, Sent::Partial(sent + more)));
            }
            Some(more) => descriptor.rest = Some(Rest { key, bytes, sent: sent + more }),
        }
    }

    fn fill_buffers(
        &mut self,
        wire: &mut Wire,
        cuts: u32,
        descriptor: &mut Descriptor,
        buffers: &mut ReceiveBuffers,
    ) {
        let Some(key) = descriptor.receiving else { return };
        for _ in 0..BUFFERS_PER_EXCHANGE {
            let cause = if wire.reset {
                Some(ReceiveEnd::Failed(ECONNRESET))
            } else if wire.to_shard.bytes.is_empty() {
                wire.to_shard.fin.then_some(ReceiveEnd::Eof)
            } else if self.provided.is_empty() {
                Some(ReceiveEnd::NoBuffers)
            } else {
                self.fill(wire, cuts, key, buffers);
                (self.rng.u8(..64) == 0).then_some(ReceiveEnd::Rearm)
            };
            if let Some(cause) = cause {
                descriptor.receiving = None;
                return self.queue.push_back(Completion::ReceiveEnded { key, cause });
            }
            if wire.to_shard.bytes.is_empty() {
                return;
            }
        }
    }

    /// Moves bytes into a buffer, which must be nobody else's.
    fn fill(
        &mut self,
        wire: &mut Wire,
        cuts: u32,
        key: ConnectionKey,
        buffers: &mut ReceiveBuffers,
    ) {
        let Some(buffer) = self.provided.pop_front() else { return };
        let most = buffers.buffer_size();
        let len = if one_in(&mut self.rng, cuts) { self.rng.usize(1..=most) } else { most };
        let bytes = wire.to_shard.pop(len);
        let len = bytes.len() as u32;
        let mut filled = buffers.received(buffer, len);
        filled.from(0).copy_from_slice(&bytes);
        buffers.done(filled);
        assert_eq!(buffers.returned().pop(), Some(buffer), "nothing else referred to it");
        self.queue.push_back(Completion::Received { key, buffer, len });
    }

    fn cancel_receive(&mut self, key: ConnectionKey) {
        let armed = self.descriptors.iter_mut().flatten().find(|d| d.receiving == Some(key));
        if let Some(descriptor) = armed {
            descriptor.receiving = None;
            let cause = ReceiveEnd::Cancelled;
            self.queue.push_back(Completion::ReceiveEnded { key, cause });
        }
    }

    fn close_now(
        &mut self,
        network: &mut Network,
        socket: Socket,
        key: ConnectionKey,
        pending: Pending,
    ) {
        let place = &mut self.descriptors[socket.0 as usize];
        let descriptor = place.take().expect("a socket is closed once");
        let idle = descriptor.connecting.is_none() && descriptor.rest.is_none();
        match pending {
            Pending::Nothing => {
                assert!(idle && descriptor.receiving.is_none(), "{key:?} leaves operations behind");
            }
            Pending::Receive => assert!(idle, "{key:?} leaves operations behind"),
            Pending::Unknown => {}
        }
        if let Some(key) = descriptor.receiving {
            let cause = ReceiveEnd::Cancelled;
            self.late.push(Completion::ReceiveEnded { key, cause });
        }
        if let Some((key, _)) = descriptor.connecting {
            self.late.push(Completion::Connected { key, outcome: Err(ECANCELED) });
        }
        if let Some(Rest { key, bytes, .. }) = descriptor.rest {
            self.settled.push((key, bytes, Sent::Failed));
        }
        if let Some(wire) = descriptor.wire {
            let wire = network.wire(wire);
            let unread = !wire.to_shard.bytes.is_empty();
            wire.closed_by_shard = true;
            wire.to_shard.bytes.clear();
            wire.to_remote.fin = true;
            // Whoever closes without having read all resets.
            if unread && self.rng.bool() {
                wire.reset();
            }
        }
        self.late.push(Completion::Closed { key });
    }

    fn descriptor(&mut self, socket: Socket) -> &mut Descriptor {
        self.descriptors[socket.0 as usize].as_mut().expect("the socket is open")
    }

    fn free_descriptor(&self) -> Option<Socket> {
        let free = self.descriptors.iter().position(Option::is_none)?;
        Some(Socket(free as u32))
    }
}

/// Bytes that the kernel takes of `bytes`; `None` when the peer is gone.
fn take(wire: &mut Wire, bytes: &[u8]) -> Option<usize> {
    if wire.reset {
        return None;
    }
    if wire.closed_by_remote {
        // The answer to this is a reset, which the next send finds.
        wire.reset();
        return Some(bytes.len());
    }
    assert!(!wire.to_remote.fin, "something is sent behind the FIN");
    Some(wire.to_remote.push(bytes))
}

/// Never for 0.
pub(super) fn one_in(rng: &mut fastrand::Rng, times: u32) -> bool {
    times > 0 && rng.u32(..times) == 0
}

impl Sockets for Kernel {
    fn accept(&mut self, listener: ListenerId) {
        self.operations.push(Operation::Accept(listener));
    }

    fn stop_accepting(&mut self, listener: ListenerId) {
        self.operations.push(Operation::StopAccepting(listener));
    }

    fn close_listener(&mut self, listener: ListenerId) {
        self.listener(listener).listening = false;
    }

    fn receive(&mut self, socket: Socket, key: ConnectionKey) {
        self.operations.push(Operation::Receive(socket, key));
    }

    fn stop_receiving(&mut self, key: ConnectionKey) {
        self.operations.push(Operation::StopReceiving(key));
    }

    fn send(&mut self, socket: Socket, key: ConnectionKey, bytes: Outgoing) {
        self.operations.push(Operation::Send(socket, key, bytes));
    }

    fn send_rest(&mut self, socket: Socket, key: ConnectionKey, bytes: Outgoing) {
        self.operations.push(Operation::SendRest(socket, key, bytes));
    }

    fn peer_name(&mut self, _listener: ListenerId, _socket: Socket, key: ConnectionKey) {
        self.operations.push(Operation::PeerName(key));
    }

    fn open(&mut self, key: ConnectionKey, _address: &Address) {
        self.operations.push(Operation::Open(key));
    }

    fn connect(&mut self, socket: Socket, key: ConnectionKey, address: &Address) {
        self.operations.push(Operation::Connect(socket, key, address.clone()));
    }

    fn finish(&mut self, socket: Socket, _key: ConnectionKey) {
        self.operations.push(Operation::Finish(socket));
    }

    fn close(&mut self, socket: Socket, key: ConnectionKey, pending: Pending) {
        assert!(key != NOBODY || pending == Pending::Nothing);
        self.operations.push(Operation::Close(socket, key, pending));
    }

    fn ring_doorbell(&mut self, shard: ShardId) {
        self.bells.push(shard);
    }

    fn provide(&mut self, buffers: &mut Vec<BufferId>) {
        self.unspoilt += buffers.len();
        self.provided.extend(buffers.drain(..));
    }

    fn settled(&mut self) -> Option<(ConnectionKey, Outgoing, Sent)> {
        self.settled.pop()
    }

    fn completion(&mut self) -> Option<Completion> {
        self.queue.pop_front()
    }

    fn backlog(&self) -> usize {
        self.queue.len()
    }
}
