//! Messages from player to player, on this shard and across lanes.

use super::{Arrived, Engine, Role, Source};
use super::sending::NotQueued;
use crate::buffers::Lent;
use crate::id::{ConnectionKey, ShardId};
use crate::lane::{Acknowledge, Answer, Arrival, Broadcast, Crossing, Deliver, Frame, Payload, Refusal};
use crate::outbox::Priority;
use crate::probe::Shed;
use crate::session::peer_ack::PeerAck;
use crate::sockets::Sockets;
use crate::wire::code::{ResponseCode, SessionRefusal};
use crate::wire::frame::{OpCode, server_header_len, write_server_header};
use crate::wire::guid::{Guid, PeerRoute};
use crate::wire::header::{ReplyTo, RequestHeader, WantsReply};

/// Crossings taken from one lane in one turn.
const CROSSINGS_PER_TURN: usize = 1024;

/// A peer message without its bytes.
pub(super) struct Letter {
    pub(super) route: PeerRoute,
    pub(super) guid: Guid,
    pub(super) acknowledge: WantsReply,
    pub(super) priority: Priority,
}

impl<S: Sockets> Engine<S> {
    pub(super) fn to_peer(
        &mut self,
        from: ConnectionKey,
        reply_to: ReplyTo,
        letter: Letter,
        arrived: Arrived<'_>,
    ) {
        let PeerRoute { node, shard, slot, generation } = letter.route;
        let target = ConnectionKey { slot, generation };
        let known = node == self.snapshot.node && usize::from(shard.0) < self.shards;
        if !known {
            self.discard(arrived);
            return self.refuse_message(from, &reply_to, SessionRefusal::PeerGone);
        }
        if shard != self.options.shard {
            return self.cross(from, reply_to, shard, target, letter, arrived);
        }
        match self.deliver(target, arrived, letter.priority) {
            Ok(()) if letter.acknowledge == WantsReply::Yes => {
                self.acknowledge(from, &reply_to, letter.guid);
            }
            Ok(()) => {}
            Err(refusal) => self.refuse_message(from, &reply_to, refusal),
        }
    }

    fn deliver(
        &mut self,
        target: ConnectionKey,
        arrived: Arrived<'_>,
        priority: Priority,
    ) -> Result<(), SessionRefusal> {
        if self.player(target).is_none() {
            self.discard(arrived);
            return Err(SessionRefusal::PeerGone);
        }
        self.forward(target, OpCode::Binary, arrived, priority).map_err(refusal_of)
    }

    fn acknowledge(&mut self, to: ConnectionKey, reply_to: &ReplyTo, target: Guid) {
        let ack = PeerAck::delivered(target, reply_to.message_id);
        self.reply_with(to, reply_to, ack.as_bytes());
    }

    /// Sends a peer message to another shard: by reference, or as a block once too many receive
    /// buffers are out on lanes.
    fn cross(
        &mut self,
        from: ConnectionKey,
        reply_to: ReplyTo,
        shard: ShardId,
        target: ConnectionKey,
        letter: Letter,
        arrived: Arrived<'_>,
    ) {
        let acknowledge = match letter.acknowledge {
            WantsReply::Yes => Acknowledge::Always,
            WantsReply::No => Acknowledge::OnRefusal,
        };
        let priority = letter.priority;
        let header_len = server_header_len(arrived.payload.len()) as u8;
        let sent = self.frame_for_lane(arrived).and_then(|frame| {
            let deliver = Deliver { target, from, frame, header_len, priority, acknowledge };
            self.request(shard, Crossing::Deliver(deliver))
        });
        if let Err(refusal) = sent {
            self.refuse_message(from, &reply_to, refusal);
        }
    }

    /// Writes the frame header in front of a message and makes it fit for a lane.
    fn frame_for_lane(&mut self, arrived: Arrived<'_>) -> Result<Payload, SessionRefusal> {
        let len = arrived.payload.len();
        let header_len = server_header_len(len);
        match arrived.source {
            Source::Buffer(received) => {
                let start = arrived.payload.start - header_len;
                write_server_header(
                    &mut received.bytes()[start..arrived.payload.start],
                    OpCode::Binary,
                    len,
                );
                let lent = self.buffers.lend(received, start..arrived.payload.end);
                Ok(Payload::Borrowed(lent.into_loan()))
            }
            Source::Bytes(bytes) => {
                let mut block =
                    self.blocks.take(header_len + len).ok_or(SessionRefusal::BlocksExhausted)?;
                write_server_header(block.reserve(header_len), OpCode::Binary, len);
                block.append(&bytes[arrived.payload]);
                self.copies += 1;
                Ok(Payload::Owned(block))
            }
            Source::Block(mut block) => {
                write_server_header(block.prepend(header_len), OpCode::Binary, len);
                Ok(Payload::Owned(block))
            }
        }
    }

    fn request(&mut self, shard: ShardId, crossing: Crossing) -> Result<(), SessionRefusal> {
        let refused = match self.lanes.try_request(shard, crossing) {
            Ok(()) => {
                self.probe.lane_crossings_out.increment();
                return Ok(());
            }
            Err(refused) => refused,
        };
        if refused.why == Refusal::LendLimit {
            let crossing = self.copy_crossing(refused.crossing)?;
            return match self.lanes.try_request(shard, crossing) {
                Ok(()) => {
                    self.probe.lane_crossings_out.increment();
                    Ok(())
                }
                Err(refused) => {
                    self.take_back(refused.crossing);
                    Err(SessionRefusal::LaneFull)
                }
            };
        }
        self.take_back(refused.crossing);
        Err(SessionRefusal::LaneFull)
    }

    fn copy_crossing(&mut self, mut crossing: Crossing) -> Result<Crossing, SessionRefusal> {
        let frame = crossing.payload_mut();
        if let Payload::Borrowed(loan) = frame {
            let lent = Lent::from_loan(loan);
            let Some(mut block) = self.blocks.take(lent.len()) else {
                self.buffers.give_back(lent);
                return Err(SessionRefusal::BlocksExhausted);
            };
            block.append(lent.as_slice());
            self.copies += 1;
            self.buffers.give_back(lent);
            *frame = Payload::Owned(block);
        }
        Ok(crossing)
    }

    fn take_back(&mut self, mut crossing: Crossing) {
        match crossing.payload_mut() {
            Payload::Borrowed(loan) => self.buffers.give_back(Lent::from_loan(loan)),
            Payload::Owned(block) => self.blocks.give_back(block),
        }
    }
}

fn refusal_of(refused: NotQueued) -> SessionRefusal {
    match refused {
        NotQueued::Gone => SessionRefusal::PeerGone,
        NotQueued::Full => SessionRefusal::PeerOutboxFull,
    }
}
