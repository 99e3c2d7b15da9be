//! Bytes from a socket become messages and verdicts.

use super::connection::{Phase, Receiving};
use super::{Arrived, BUFFERS_PER_TURN, Engine, Role, Source};
use crate::buffers::{BufferId, Received};
use crate::id::ConnectionKey;
use crate::outbox::Priority;
use crate::probe::{Route, Shed};
use crate::sockets::{ReceiveEnd, Sockets};
use crate::wire::close::CloseCode;
use crate::wire::frame::{ControlFrame, ControlKind, ControlPayload, OpCode};
use crate::wire::inbound::{Arrival, DataKind};

impl<S: Sockets> Engine<S> {
    pub(super) fn received(&mut self, key: ConnectionKey, buffer: BufferId, len: u32) {
        let mut received = self.buffers.received(buffer, len);
        self.probe.bytes_in.add(u64::from(len));
        if let Some(connection) = self.table.get_mut(key) {
            connection.tally.bytes_in += u64::from(len);
            let greedy = connection.quota.take(self.turn) > BUFFERS_PER_TURN;
            if greedy && connection.receiving == Receiving::Armed {
                connection.receiving = Receiving::Pausing;
                self.sockets.stop_receiving(key);
            }
            match connection.phase {
                Phase::Open | Phase::Leaving { .. } => self.read(key, &mut received),
                Phase::Lingering { .. } | Phase::Closing | Phase::Closed => {}
            }
        }
        self.buffers.done(received);
    }

    fn read(&mut self, key: ConnectionKey, received: &mut Received) {
        let mut from = 0;
        if let Some(connection) = self.table.get(key)
            && matches!(connection.role, Role::Head(_))
        {
            let Some(head_len) = self.read_head(key, received.bytes()) else { return };
            from = head_len;
        }
        self.read_frames(key, Kept::Buffer(received), from);
    }

    /// Frames that came while the connection was still at the door.
    pub(super) fn read_early(&mut self, key: ConnectionKey, bytes: &mut [u8]) {
        self.read_frames(key, Kept::Aside(bytes), 0);
    }

    fn read_frames(&mut self, key: ConnectionKey, mut kept: Kept<'_>, from: usize) {
        let mut at = from;
        loop {
            let Some(connection) = self.table.get_mut(key) else { return };
            let input = &mut kept.bytes()[at..];
            let limits = &self.limits.inbound;
            let next = connection.inbound.next(input, self.now.mono, limits, &mut self.blocks);
            let (base, arrival) = match next {
                Ok((consumed, arrival)) => {
                    let base = at;
                    at += consumed;
                    (base, arrival)
                }
                Err(error) => {
                    self.probe.parse_errors.increment();
                    return self.leave(key, error.into(), "protocol error");
                }
            };
            match arrival {
                Arrival::NeedMore => return,
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
                Arrival::Ping(payload) => self.queue_control(key, ControlKind::Pong, &payload),
                Arrival::Pong(_) => {}
                Arrival::Close { code, .. } => return self.peer_closes(key, code),
            }
        }
    }

    fn message(&mut self, key: ConnectionKey, kind: DataKind, arrived: Arrived<'_>) {
        let Some(connection) = self.table.get_mut(key) else { return self.discard(arrived) };
        // A connection that is leaving answers nothing more; only its close frame is awaited.
        if connection.phase != Phase::Open {
            return self.discard(arrived);
        }
        connection.tally.messages_in += 1;
        self.probe.messages_in.increment();
        match &mut connection.role {
            Role::Echo => {
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
            Role::Head(_) | Role::Gone => self.discard(arrived),
        }
    }

    fn too_long(&mut self, key: ConnectionKey, _kind: DataKind, _head: &[u8]) {
        self.probe.shed(Shed::MessageTooLong);
        let Some(connection) = self.table.get(key) else { return };
        match &connection.role {
            Role::Echo => self.leave(key, CloseCode::MessageTooLong, "message too long"),
            Role::Head(_) | Role::Gone => {}
        }
    }

    fn discard(&mut self, arrived: Arrived<'_>) {
        if let Source::Block(block) = arrived.source {
            self.blocks.give_back(block);
        }
    }

    pub(super) fn queue_control(
        &mut self,
        key: ConnectionKey,
        kind: ControlKind,
        payload: &ControlPayload,
    ) {
        let frame = ControlFrame::unmasked(kind, payload);
        let bytes = frame.as_slice();
        let queued =
            self.queue_with(key, bytes.len(), Priority::Urgent, |room| room.copy_from_slice(bytes));
        if queued.is_err() {
            self.probe.shed(Shed::OwnOutboxFull);
        }
    }

    pub(super) fn receive_ended(&mut self, key: ConnectionKey, cause: ReceiveEnd) {
        let Some(connection) = self.table.get_mut(key) else { return };
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
            (Phase::Leaving { .. }, ReceiveEnd::Eof) => self.peer_finished_while_leaving(key),
            (Phase::Lingering { .. }, _) => self.close(key),
            (Phase::Open | Phase::Leaving { .. }, _) => self.lost(key, "connection reset"),
        }
    }

    /// Arms receives again while buffers last, in the order in which they ended.
    pub(super) fn rearm_receives(&mut self) {
        for _ in 0..self.rearm.len() {
            if self.buffers_are_scarce() {
                return;
            }
            let Some(key) = self.rearm.pop_front() else { return };
            let Some(connection) = self.table.get_mut(key) else { continue };
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
enum Kept<'a> {
    Buffer(&'a mut Received),
    Aside(&'a mut [u8]),
}

impl Kept<'_> {
    fn bytes(&mut self) -> &mut [u8] {
        match self {
            Self::Buffer(received) => received.bytes(),
            Self::Aside(bytes) => bytes,
        }
    }

    fn source(&mut self) -> Source<'_> {
        match self {
            Self::Buffer(received) => Source::Buffer(received),
            Self::Aside(bytes) => Source::Bytes(bytes),
        }
    }
}
