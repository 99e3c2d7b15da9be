//! Bytes from a socket become messages and verdicts.

use std::ops::Range;

use super::connection::{Fin, Phase, Receiving};
use super::{Arrived, BUFFERS_PER_TURN, Engine, Role, Source};
use crate::buffers::{BufferId, Received};
use crate::id::ConnectionKey;
use crate::probe::{Route, Shed};
use crate::sockets::{ReceiveEnd, Sockets};
use crate::wire::close::CloseCode;
use crate::wire::frame::{ControlKind, ControlPayload, OpCode};
use crate::wire::header::Priority;
use crate::wire::inbound::{Arrival, DataKind};

impl<S: Sockets> Engine<S> {
    pub(super) fn received(&mut self, key: ConnectionKey, buffer: BufferId, len: u32) {
        let mut received = self.buffers.received(buffer, len);
        self.probe.bytes_in.add(u64::from(len));
        if let Some(connection) = self.table.get_mut(key) {
            connection.tally.bytes_in += u64::from(len);
            let taken = connection.quota.take(self.turn);
            let greedy = taken > BUFFERS_PER_TURN && !connection.role.is_upstream();
            if greedy && connection.receiving == Receiving::Armed {
                connection.receiving = Receiving::Pausing;
                self.sockets.stop_receiving(key);
            }
            match connection.phase {
                Phase::Open | Phase::Leaving(Fin::Answered) => {
                    self.take_in(key, &mut received, 0);
                }
                Phase::Leaving(Fin::Flushed)
                | Phase::Lingering
                | Phase::Closing
                | Phase::Closed => {}
            }
        }
        self.buffers.done(received);
    }

    /// Everything behind the first `start` bytes, as it left the peer.
    fn take_in(&mut self, key: ConnectionKey, received: &mut Received, start: usize) {
        let Some(connection) = self.table.get_mut(key) else {
            return;
        };
        if let Role::Proxied(_) = connection.role {
            // What comes behind it is read as if the client itself had connected.
            if let Some(len) = self.read_proxy_header(key, received.from(start)) {
                self.take_in(key, received, start + len);
            }
        } else if connection.tls.is_some() {
            self.read_sealed(key, received, start);
        } else {
            let end = received.len();
            self.read(key, Kept::Buffer(received), start..end);
        }
    }

    /// Reads a range of `kept`, in which nothing is sealed any more.
    pub(super) fn read(&mut self, key: ConnectionKey, mut kept: Kept<'_>, range: Range<usize>) {
        let Some(connection) = self.table.get_mut(key) else {
            return;
        };
        let from = match (&mut connection.role, &mut kept) {
            (Role::Head(_), _) => self.read_head(key, kept.range(range.clone())),
            // Backends are spoken to without TLS: what they say is all of a buffer.
            (Role::Http(_), Kept::Buffer(received)) => return self.read_response(key, received),
            (Role::Link(_), Kept::Buffer(received)) => self.read_upgrade(key, received),
            (Role::Proxied(_) | Role::Http(_) | Role::Link(_), _) => None,
            (Role::Echo(_) | Role::Session(_) | Role::Gone, _) => Some(0),
        };
        if let Some(liveness) = self.table.get_mut(key).and_then(|c| c.role.liveness()) {
            liveness.on_bytes(self.now.mono);
        }
        if let Some(from) = from {
            self.read_frames(key, kept, range.start + from..range.end);
        }
    }

    /// Frames that came while the connection was still at the door.
    pub(super) fn read_early(&mut self, key: ConnectionKey, bytes: &mut [u8]) {
        let len = bytes.len();
        self.read_frames(key, Kept::Aside(bytes), 0..len);
    }

    fn read_frames(&mut self, key: ConnectionKey, mut kept: Kept<'_>, range: Range<usize>) {
        let mut at = range.start;
        loop {
            let Some(connection) = self.table.get_mut(key) else {
                return;
            };
            let input = kept.range(at..range.end);
            let limits = match connection.role {
                Role::Link(_) => &self.limits.link_inbound,
                _ => &self.limits.inbound,
            };
            let next = connection.inbound.next(input, self.now.mono, limits, &mut self.blocks);
            let (base, arrival) = match next {
                Ok((consumed, arrival)) => {
                    let base = at;
                    at += consumed;
                    (base, arrival)
                }
                Err(error) => {
                    self.probe.parse_errors.increment();
                    return self.broken_frames(key, error.into());
                }
            };
            match arrival {
                Arrival::NeedMore => return self.note_unfinished(key),
                Arrival::InPlace { kind, payload } => {
                    let payload = payload.start + base..payload.end + base;
                    self.message(key, kind, Arrived { source: kept.source(), payload });
                }
                Arrival::Assembled { kind, block } => {
                    let payload = 0..block.len();
                    self.message(key, kind, Arrived { source: Source::Block(block), payload });
                }
                Arrival::TooLong { kind, head, head_len } => {
                    self.too_long(key, kind, &head[..head_len]);
                }
                Arrival::Ping(payload) => self.pinged(key, &payload),
                Arrival::Pong(payload) => self.pong_arrived(key, payload.as_slice()),
                Arrival::Close { code, .. } => return self.peer_closes(key, code),
            }
        }
    }

    fn message(&mut self, key: ConnectionKey, kind: DataKind, arrived: Arrived<'_>) {
        let Some(connection) = self.table.get_mut(key) else {
            return self.discard(arrived);
        };
        // A connection that is leaving answers nothing more; only its close frame is awaited.
        if connection.phase != Phase::Open {
            return self.discard(arrived);
        }
        connection.tally.message_in();
        self.probe.messages_in.increment();
        match &mut connection.role {
            Role::Echo(liveness) => {
                liveness.on_data(self.now.mono);
                liveness.on_message_complete();
                let opcode = match kind {
                    DataKind::Text => OpCode::Text,
                    DataKind::Binary => OpCode::Binary,
                };
                self.probe.route(Route::Echo);
                if self.forward(key, opcode, arrived, Priority::Normal).is_err() {
                    self.probe.shed(Shed::OwnOutboxFull);
                    self.leave(key, CloseCode::TryAgainLater, "slow consumer");
                }
            }
            Role::Session(_) => self.player_message(key, kind, arrived),
            Role::Link(_) => self.link_message(key, arrived),
            Role::Proxied(_) | Role::Head(_) | Role::Http(_) | Role::Gone => self.discard(arrived),
        }
    }

    fn too_long(&mut self, key: ConnectionKey, kind: DataKind, head: &[u8]) {
        let Some(connection) = self.table.get_mut(key) else {
            return;
        };
        if connection.phase != Phase::Open {
            return;
        }
        connection.tally.message_in();
        match &connection.role {
            Role::Session(_) => self.player_message_too_long(key, kind, head),
            Role::Echo(_) | Role::Link(_) => {
                self.probe.shed(Shed::MessageTooLong);
                self.broken_frames(key, CloseCode::MessageTooLong);
            }
            Role::Proxied(_) | Role::Head(_) | Role::Http(_) | Role::Gone => {}
        }
    }

    /// Frames that break the protocol end the connection.
    fn broken_frames(&mut self, key: ConnectionKey, code: CloseCode) {
        match self.table.get(key).map(|connection| &connection.role) {
            Some(Role::Link(_)) => self.link_misframed(key, code),
            _ => self.hang_up(key, code, "protocol error"),
        }
    }

    fn pinged(&mut self, key: ConnectionKey, payload: &ControlPayload) {
        match self.table.get(key).map(|connection| &connection.role) {
            Some(Role::Link(_)) => self.link_ping(key, payload),
            Some(Role::Echo(_) | Role::Session(_)) => {
                let answered =
                    self.queue_control(key, ControlKind::Pong, payload, Priority::Urgent);
                if answered.is_err() {
                    self.probe.shed(Shed::OwnOutboxFull);
                }
            }
            _ => {}
        }
    }

    /// Puts a deadline on a message that was begun and is not finished.
    fn note_unfinished(&mut self, key: ConnectionKey) {
        let now = self.now.mono;
        let Some(connection) = self.table.get_mut(key) else {
            return;
        };
        let unfinished = connection.inbound.is_mid_message();
        let Some(liveness) = connection.role.liveness() else {
            return;
        };
        if unfinished {
            liveness.on_message_incomplete(now);
            self.set_deadline(key);
        } else {
            liveness.on_message_complete();
        }
    }

    pub(super) fn discard(&mut self, arrived: Arrived<'_>) {
        if let Source::Block(block) = arrived.source {
            self.blocks.give_back(block);
        }
    }

    pub(super) fn receive_ended(&mut self, key: ConnectionKey, cause: ReceiveEnd) {
        let Some(connection) = self.table.get_mut(key) else {
            return;
        };
        let again = match cause {
            ReceiveEnd::Rearm | ReceiveEnd::NoBuffers => true,
            ReceiveEnd::Cancelled => connection.receiving == Receiving::Pausing,
            ReceiveEnd::Eof | ReceiveEnd::Failed(_) => false,
        };
        if cause == ReceiveEnd::NoBuffers {
            self.probe.receive_buffers_exhausted.increment();
        }
        let alive = !matches!(connection.phase, Phase::Closing | Phase::Closed);
        if again && alive {
            connection.receiving = Receiving::Queued;
            self.rearm.push_back(key);
            return;
        }
        connection.receiving = Receiving::Ended;
        match (connection.phase, cause) {
            (Phase::Closing | Phase::Closed, _) => self.free_if_over(key),
            (Phase::Open, ReceiveEnd::Eof) => self.peer_finished(key),
            (Phase::Leaving(_), ReceiveEnd::Eof) => self.peer_finished_while_leaving(key),
            (Phase::Lingering, _) => self.close(key),
            (Phase::Open | Phase::Leaving(_), _) => self.lost(key, "connection reset"),
        }
    }

    /// Arms receives again while buffers last, in the order in which they ended.
    pub(super) fn rearm_receives(&mut self) {
        for _ in 0..self.rearm.len() {
            if self.buffers_are_scarce() {
                return;
            }
            let Some(key) = self.rearm.pop_front() else {
                return;
            };
            let Some(connection) = self.table.get_mut(key) else {
                continue;
            };
            let open = !matches!(connection.phase, Phase::Closing | Phase::Closed);
            if let (true, Receiving::Queued, Some(socket)) =
                (open, connection.receiving, connection.socket)
            {
                connection.receiving = Receiving::Armed;
                self.sockets.receive(socket, key);
            }
        }
    }

    /// More than half of the receive buffers are out of the kernel's hands.
    pub(super) fn buffers_are_scarce(&self) -> bool {
        self.buffers.out() * 2 > self.buffers.count()
    }
}

/// Where the input of a connection is kept while it is read.
pub(super) enum Kept<'a> {
    Buffer(&'a mut Received),
    Aside(&'a mut [u8]),
}

impl Kept<'_> {
    pub(super) fn range(&mut self, range: Range<usize>) -> &mut [u8] {
        match self {
            Self::Buffer(received) => received.range(range),
            Self::Aside(bytes) => &mut bytes[range],
        }
    }

    /// The same, for somebody who takes it.
    pub(super) fn again(&mut self) -> Kept<'_> {
        match self {
            Self::Buffer(received) => Kept::Buffer(received),
            Self::Aside(bytes) => Kept::Aside(bytes),
        }
    }

    fn source(&mut self) -> Source<'_> {
        match self {
            Self::Buffer(received) => Source::Buffer(received),
            Self::Aside(bytes) => Source::Bytes(bytes),
        }
    }
}
