//! From a verdict to the socket: queueing, one send per connection and turn, and what becomes of
//! a send that the kernel did not take whole.

use super::connection::{Hold, Phase, Sending};
use super::{Arrived, Engine, Role, Source};
use crate::block::Block;
use crate::buffers::Lent;
use crate::id::ConnectionKey;
use crate::outbox::{Kept, Memory, Outbox, OutboxLimits, Refused};
use crate::sockets::{Outgoing, Sent, Sockets};
use crate::wire::frame::{
    ControlFrame, ControlKind, ControlPayload, OpCode, server_header_len, write_server_header,
};
use crate::wire::header::Priority;

/// Why a message could not be queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotQueued {
    /// No such connection, or it takes no more.
    Gone,
    Full,
}

impl From<Refused> for NotQueued {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Full | Refused::Blocks => Self::Full,
        }
    }
}

impl<S: Sockets> Engine<S> {
    /// Forwards the payload of a message to a client: from the buffer or block that it lies in
    /// when that is possible, else with one copy.
    pub(super) fn forward(
        &mut self,
        to: ConnectionKey,
        opcode: OpCode,
        arrived: Arrived<'_>,
        priority: Priority,
    ) -> Result<(), NotQueued> {
        self.forward_under(to, opcode, &[], arrived, priority)
    }

    /// As [`Self::forward`], with `header` between the frame header and the payload.
    pub(super) fn forward_under(
        &mut self,
        to: ConnectionKey,
        opcode: OpCode,
        header: &[u8],
        arrived: Arrived<'_>,
        priority: Priority,
    ) -> Result<(), NotQueued> {
        let message_len = header.len() + arrived.payload.len();
        let frame_len = server_header_len(message_len);
        let in_front = frame_len + header.len();
        let write = |front: &mut [u8]| {
            write_server_header(&mut front[..frame_len], opcode, message_len);
            front[frame_len..].copy_from_slice(header);
        };
        match arrived.source {
            // What the payload came under is longer than what it leaves under: there is room.
            Source::Buffer(received) if arrived.payload.start >= in_front => {
                let start = arrived.payload.start - in_front;
                write(received.range(start..arrived.payload.start));
                let lent = self.buffers.lend(received, start..arrived.payload.end);
                self.queue_lent(to, lent, priority)
            }
            Source::Buffer(received) => {
                let payload = received.range(arrived.payload);
                self.copies += 1;
                self.queue_copied(to, in_front, write, payload, priority)
            }
            Source::Bytes(bytes) => {
                let payload = &bytes[arrived.payload];
                self.copies += u64::from(!payload.is_empty());
                self.queue_copied(to, in_front, write, payload, priority)
            }
            Source::Block(mut block) => {
                block.truncate(arrived.payload.end);
                block.consume(arrived.payload.start);
                write(block.prepend(in_front));
                self.queue_block(to, block, priority)
            }
        }
    }

    fn queue_copied(
        &mut self,
        to: ConnectionKey,
        in_front: usize,
        write_front: impl FnOnce(&mut [u8]),
        payload: &[u8],
        priority: Priority,
    ) -> Result<(), NotQueued> {
        self.queue_with(to, in_front + payload.len(), priority, |room| {
            let (front, rest) = room.split_at_mut(in_front);
            write_front(front);
            rest.copy_from_slice(payload);
        })
    }

    /// Queues bytes that are no frame: what is said before and instead of a WebSocket. Not even the
    /// Pong to a Ping that came behind the request overtakes it.
    pub(super) fn queue_raw(&mut self, to: ConnectionKey, bytes: &[u8]) -> Result<(), NotQueued> {
        let write = |room: &mut [u8]| room.copy_from_slice(bytes);
        self.queue_lone(to, bytes.len(), Priority::Urgent, write)
    }

    /// As [`Self::queue_frame`], for what the gateway may have to say to everybody in one turn.
    pub(super) fn queue_notice(
        &mut self,
        to: ConnectionKey,
        payload: &[u8],
        priority: Priority,
    ) -> Result<(), NotQueued> {
        if self.compresses_for(to, payload.len())
            && let Some(queued) = self.queue_compressed(to, payload, priority)
        {
            return queued;
        }
        let header_len = server_header_len(payload.len());
        self.queue_lone(to, header_len + payload.len(), priority, |room| {
            write_server_header(&mut room[..header_len], OpCode::Binary, payload.len());
            room[header_len..].copy_from_slice(payload);
        })
    }

    /// Queues a frame made of `payload`, which is copied.
    pub(super) fn queue_frame(
        &mut self,
        to: ConnectionKey,
        opcode: OpCode,
        payload: &[u8],
        priority: Priority,
    ) -> Result<(), NotQueued> {
        let header_len = server_header_len(payload.len());
        self.queue_with(to, header_len + payload.len(), priority, |room| {
            write_server_header(&mut room[..header_len], opcode, payload.len());
            room[header_len..].copy_from_slice(payload);
        })
    }

    /// Queues `len` bytes that `write` puts straight into the outbox.
    pub(super) fn queue_with_as_is(
        &mut self,
        to: ConnectionKey,
        len: usize,
        priority: Priority,
        write: impl FnOnce(&mut [u8]),
    ) -> Result<(), NotQueued> {
        let (outbox, limits, mut memory) = self.outbox_of(to).ok_or(NotQueued::Gone)?;
        let queued = outbox.reserve(len, priority, limits, &mut memory).map(write);
        self.after_queueing(to, len, queued)
    }

    /// As [`Self::queue_with_as_is`], for a message that is likely to leave without company: the
    /// block that it begins holds little more.
    fn queue_lone(
        &mut self,
        to: ConnectionKey,
        len: usize,
        priority: Priority,
        write: impl FnOnce(&mut [u8]),
    ) -> Result<(), NotQueued> {
        let (outbox, limits, mut memory) = self.outbox_of(to).ok_or(NotQueued::Gone)?;
        let queued = outbox.reserve(len, priority, limits.lone(), &mut memory).map(write);
        self.after_queueing(to, len, queued)
    }

    /// Queues a control frame, which is no message: it is not counted as one and does not keep a
    /// session from being idle.
    pub(super) fn queue_control(
        &mut self,
        to: ConnectionKey,
        kind: ControlKind,
        payload: &ControlPayload,
        priority: Priority,
    ) -> Result<(), NotQueued> {
        let frame = ControlFrame::unmasked(kind, payload);
        let bytes = frame.as_slice();
        let (outbox, limits, mut memory) = self.outbox_of(to).ok_or(NotQueued::Gone)?;
        let room = outbox.reserve(bytes.len(), priority, limits.lone(), &mut memory);
        let queued = room.map(|room| room.copy_from_slice(bytes));
        self.mark_dirty(to);
        Ok(queued?)
    }

    /// Queues a range of a receive buffer: by reference when it is alone and can leave this turn.
    pub(super) fn queue_lent_as_is(
        &mut self,
        to: ConnectionKey,
        lent: Lent,
        priority: Priority,
    ) -> Result<(), NotQueued> {
        let len = lent.len();
        let waits = self
            .table
            .get(to)
            .is_some_and(|c| c.sending == Sending::Waiting || c.hold != Hold::Off);
        let Some((outbox, limits, mut memory)) = self.outbox_of(to) else {
            self.buffers.give_back(lent);
            return Err(NotQueued::Gone);
        };
        let kept = if waits {
            outbox.push_copied(lent, priority, limits, &mut memory).map(|()| Kept::Copied)
        } else {
            outbox.push_lent(lent, priority, limits, &mut memory)
        };
        let queued = match kept {
            Ok(Kept::ByReference) => Ok(()),
            Ok(Kept::Copied) => {
                self.copies += 1;
                Ok(())
            }
            Err((refused, lent)) => {
                self.buffers.give_back(lent);
                Err(refused)
            }
        };
        self.after_queueing(to, len, queued)
    }

    pub(super) fn queue_block_as_is(
        &mut self,
        to: ConnectionKey,
        block: Block,
        priority: Priority,
    ) -> Result<(), NotQueued> {
        let len = block.len();
        let Some((outbox, limits, mut memory)) = self.outbox_of(to) else {
            self.blocks.give_back(block);
            return Err(NotQueued::Gone);
        };
        let queued = match outbox.push_block(block, priority, limits, &mut memory) {
            Ok(()) => Ok(()),
            Err((refused, block)) => {
                self.blocks.give_back(block);
                Err(refused)
            }
        };
        self.after_queueing(to, len, queued)
    }

    /// The outbox of a connection that still takes messages, with what it draws on.
    fn outbox_of(&mut self, key: ConnectionKey) -> Option<(&mut Outbox, OutboxLimits, Memory<'_>)> {
        let connection = self.table.get_mut(key)?;
        if connection.phase != Phase::Open {
            return None;
        }
        let outbox =
            connection.outbox.get_or_insert_with(|| self.outboxes.pop().unwrap_or_default());
        let memory = Memory {
            blocks: &mut self.blocks,
            buffers: &mut self.buffers,
            copies: &mut self.copies,
        };
        let limits = match connection.role {
            Role::Link(_) | Role::Http(_) => self.limits.link_outbox,
            Role::Proxied(_) | Role::Head(_) | Role::Echo(_) | Role::Session(_) | Role::Gone => {
                self.limits.outbox
            }
        };
        Some((outbox, limits, memory))
    }

    fn after_queueing(
        &mut self,
        key: ConnectionKey,
        len: usize,
        queued: Result<(), Refused>,
    ) -> Result<(), NotQueued> {
        let Some(connection) = self.table.get_mut(key) else {
            return Err(NotQueued::Gone);
        };
        if queued.is_ok() {
            connection.tally.message_out();
            connection.tally.bytes_out += len as u64;
            if matches!(connection.role, Role::Session(_) | Role::Echo(_)) {
                self.probe.messages_out.increment();
            }
            if let Role::Session(player) = &mut connection.role {
                player.liveness.on_data(self.now.mono);
            }
        }
        self.mark_dirty(key);
        Ok(queued?)
    }

    pub(super) fn mark_dirty(&mut self, key: ConnectionKey) {
        if let Some(connection) = self.table.get_mut(key)
            && !connection.dirty
        {
            connection.dirty = true;
            self.dirty.push(key);
        }
    }

    /// One send for each connection with something to say. Those with more stay on the list.
    pub(super) fn flush(&mut self) {
        std::mem::swap(&mut self.dirty, &mut self.flushing);
        let mut keys = std::mem::take(&mut self.flushing);
        for key in keys.drain(..) {
            self.flush_one(key);
        }
        self.flushing = keys;
    }

    fn flush_one(&mut self, key: ConnectionKey) {
        let Some(connection) = self.table.get_mut(key) else {
            return;
        };
        connection.dirty = false;
        if connection.tls.is_some() {
            return self.flush_sealed(key);
        }
        let (Some(socket), Some(outbox)) = (connection.socket, connection.outbox.as_mut()) else {
            return;
        };
        let sendable = matches!(connection.phase, Phase::Open | Phase::Leaving(_));
        if connection.sending == Sending::Waiting || connection.hold == Hold::On || !sendable {
            return;
        }
        if let Some(outgoing) = outbox.take() {
            self.probe.sends.increment();
            self.probe.bytes_out.add(outgoing.as_slice().len() as u64);
            self.sockets.send(socket, key, outgoing);
            if connection.hold == Hold::BehindThis {
                connection.hold = Hold::On;
            }
        }
        if outbox.is_empty() {
            self.outboxes.extend(connection.outbox.take());
        } else {
            connection.dirty = true;
            self.dirty.push(key);
        }
    }

    /// Learns how the last turn's sends ended, before anything that was sent from is reused.
    pub(super) fn settle_sends(&mut self) {
        while let Some((key, outgoing, sent)) = self.sockets.settled() {
            match sent {
                Sent::All => self.sent_whole(key, outgoing),
                Sent::Partial(taken) => self.sent_partly(key, outgoing, taken),
                Sent::Failed => self.send_failed(key, outgoing),
            }
        }
    }

    fn send_failed(&mut self, key: ConnectionKey, outgoing: Outgoing) {
        let Some(connection) = self.table.get_mut(key) else {
            return self.recycle(outgoing);
        };
        let whole = connection.sending == Sending::Free;
        connection.sending = Sending::Free;
        match (outgoing, &connection.role) {
            // Not one byte of the request has left: it may go to another connection.
            (Outgoing::Block(request), Role::Http(_)) if whole => self.lost_unsent(key, request),
            (outgoing, _) => {
                self.recycle(outgoing);
                self.lost(key, "send failed");
            }
        }
        self.free_if_over(key);
    }

    fn sent_whole(&mut self, key: ConnectionKey, outgoing: Outgoing) {
        self.recycle(outgoing);
        let Some(connection) = self.table.get_mut(key) else {
            return;
        };
        if connection.sending == Sending::Waiting {
            connection.sending = Sending::Free;
            if !connection.has_nothing_to_send() && !connection.dirty {
                connection.dirty = true;
                self.dirty.push(key);
            }
        }
        match connection.phase {
            Phase::Open | Phase::Lingering => {}
            Phase::Leaving(_) => self.finish_if_flushed(key),
            Phase::Closing | Phase::Closed => self.free_if_over(key),
        }
    }

    fn sent_partly(&mut self, key: ConnectionKey, outgoing: Outgoing, taken: usize) {
        self.probe.sends_partial.increment();
        let rest = match outgoing {
            Outgoing::Block(mut block) => {
                block.consume(taken);
                block
            }
            // The receive buffer is wanted back: the rest moves to a block.
            Outgoing::Lent(lent) => {
                let rest = &lent.as_slice()[taken..];
                let copied = self.blocks.take(rest.len()).map(|mut block| {
                    block.append(rest);
                    block
                });
                self.copies += 1;
                self.buffers.give_back(lent);
                match copied {
                    Some(block) => block,
                    None => return self.lost(key, "no block for the rest of a send"),
                }
            }
        };
        let Some(connection) = self.table.get_mut(key) else {
            return self.blocks.give_back(rest);
        };
        let alive = matches!(connection.phase, Phase::Open | Phase::Leaving(_));
        let (true, Some(socket)) = (alive, connection.socket) else {
            connection.sending = Sending::Free;
            self.blocks.give_back(rest);
            return self.free_if_over(key);
        };
        if connection.sending == Sending::Free {
            connection.sending = Sending::Waiting;
            connection.stalled_since = self.now.mono;
        }
        self.sockets.send_rest(socket, key, Outgoing::Block(rest));
        self.set_deadline(key);
    }

    pub(super) fn recycle(&mut self, outgoing: Outgoing) {
        match outgoing {
            Outgoing::Lent(lent) => self.buffers.give_back(lent),
            Outgoing::Block(block) => self.blocks.give_back(block),
        }
    }
}
