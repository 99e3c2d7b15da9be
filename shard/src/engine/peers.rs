//! Messages from player to player, on this shard and across lanes.

use super::compressing::ForAll;
use super::sending::NotQueued;
use super::{Arrived, Engine, Source};
use crate::buffers::Lent;
use crate::id::{ConnectionKey, ShardId};
use crate::lane::{Acknowledge, Broadcast, Crossing, Deliver, Loan, Payload, Refusal};
use crate::probe::Shed;
use crate::session::peer_ack::PeerAcknowledgement;
use crate::sockets::Sockets;
use crate::wire::code::SessionRefusal;
use crate::wire::frame::{OpCode, server_header_len, write_server_header};
use crate::wire::guid::{Guid, PeerRoute};

use crate::wire::header::{Priority, ReplyTo, WantsReply};

/// A peer message without its bytes.
pub(super) struct Letter {
    pub(super) route: PeerRoute,
    pub(super) guid: Guid,
    pub(super) acknowledge: WantsReply,
    pub(super) priority: Priority,
}

impl<S: Sockets> Engine<S> {
    pub(super) fn send_to_peer(
        &mut self,
        from: ConnectionKey,
        reply_to: ReplyTo,
        letter: Letter,
        arrived: Arrived<'_>,
    ) {
        let PeerRoute { node, shard, slot, generation } = letter.route;
        let target = ConnectionKey { slot, generation };
        let known = node == self.snapshot.node && usize::from(shard.0) < self.options.shards;
        if !known {
            if node != self.snapshot.node && self.options.relaying.messages {
                return self.send_abroad(from, reply_to, letter, arrived);
            }
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

    pub(super) fn acknowledge(&mut self, to: ConnectionKey, reply_to: &ReplyTo, target: Guid) {
        let ack = PeerAcknowledgement::new(target, reply_to.message_id);
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
                let header = received.range(start..arrived.payload.start);
                write_server_header(header, OpCode::Binary, len);
                let lent = self.buffers.lend(received, start..arrived.payload.end);
                Loan::of(lent).map(Payload::Borrowed).ok_or(SessionRefusal::LaneFull)
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

    fn copy_crossing(&mut self, crossing: Crossing) -> Result<Crossing, SessionRefusal> {
        let copied = crossing.with_frame(|frame| {
            let Payload::Borrowed(loan) = frame else {
                return Some(frame);
            };
            let lent = loan.taken_back();
            let block = self.blocks.take(lent.len()).map(|mut block| {
                block.append(lent.as_slice());
                block
            });
            self.copies += 1;
            self.buffers.give_back(lent);
            block.map(Payload::Owned)
        });
        copied.ok_or(SessionRefusal::BlocksExhausted)
    }

    fn take_back(&mut self, crossing: Crossing) {
        match crossing.into_frame() {
            Payload::Borrowed(loan) => self.buffers.give_back(loan.taken_back()),
            Payload::Owned(block) => self.blocks.give_back(block),
        }
    }

    /// To every other session, here and on the other shards. Never acknowledged.
    pub(super) fn broadcast(
        &mut self,
        from: ConnectionKey,
        mut arrived: Arrived<'_>,
        priority: Priority,
    ) {
        if self.options.relaying.broadcasts {
            self.broadcast_abroad(&mut arrived, priority);
        }
        let header_len = server_header_len(arrived.payload.len()) as u8;
        let Ok(frame) = self.frame_for_lane(arrived) else {
            return self.probe.shed(Shed::BroadcastOutboxFull);
        };
        match frame {
            Payload::Borrowed(loan) => {
                let lent = loan.taken_back();
                for shard in self.lanes.peers() {
                    let again = self.buffers.lend_again(&lent);
                    let Some(frame) = Loan::of(again).map(Payload::Borrowed) else {
                        continue;
                    };
                    self.broadcast_to(shard, Broadcast { from, frame, header_len, priority });
                }
                self.lend_to_all(lent, Some(from), priority);
            }
            Payload::Owned(block) => {
                for shard in self.lanes.peers() {
                    let Some(mut copy) = self.blocks.take(block.len()) else {
                        self.probe.shed(Shed::BroadcastLaneFull);
                        continue;
                    };
                    copy.append(block.as_slice());
                    self.copies += 1;
                    let frame = Payload::Owned(copy);
                    self.broadcast_to(shard, Broadcast { from, frame, header_len, priority });
                }
                self.copy_to_all(block.as_slice(), Some(from), priority);
                self.blocks.give_back(block);
            }
        }
    }

    fn broadcast_to(&mut self, shard: ShardId, broadcast: Broadcast) {
        if self.request(shard, Crossing::Broadcast(broadcast)).is_err() {
            self.probe.shed(Shed::BroadcastLaneFull);
        }
    }

    /// One lent frame to every session of this shard but `except`.
    pub(super) fn lend_to_all(
        &mut self,
        lent: Lent,
        except: Option<ConnectionKey>,
        priority: Priority,
    ) {
        let mut for_all = ForAll::Untried;
        for slot in self.slots() {
            let Some(to) = self.session_in(slot) else { continue };
            if Some(to) != except {
                let queued = match self.compressed_for(to, lent.as_slice(), &mut for_all) {
                    Some(frame) => self.queue_copy(to, frame, priority),
                    None => {
                        let again = self.buffers.lend_again(&lent);
                        self.queue_lent_as_is(to, again, priority)
                    }
                };
                if queued.is_err() {
                    self.probe.shed(Shed::BroadcastOutboxFull);
                }
            }
        }
        self.end_for_all(for_all);
        self.buffers.give_back(lent);
    }

    pub(super) fn copy_to_all(
        &mut self,
        frame: &[u8],
        except: Option<ConnectionKey>,
        priority: Priority,
    ) {
        let mut for_all = ForAll::Untried;
        for slot in self.slots() {
            let Some(to) = self.session_in(slot) else { continue };
            if Some(to) != except {
                let frame = self.compressed_for(to, frame, &mut for_all).unwrap_or(frame);
                if self.queue_copy(to, frame, priority).is_err() {
                    self.probe.shed(Shed::BroadcastOutboxFull);
                }
            }
        }
        self.end_for_all(for_all);
    }

    fn queue_copy(
        &mut self,
        to: ConnectionKey,
        frame: &[u8],
        priority: Priority,
    ) -> Result<(), NotQueued> {
        self.copies += 1;
        self.queue_with_as_is(to, frame.len(), priority, |room| room.copy_from_slice(frame))
    }
}

fn refusal_of(refused: NotQueued) -> SessionRefusal {
    match refused {
        NotQueued::Gone => SessionRefusal::PeerGone,
        NotQueued::Full => SessionRefusal::PeerOutboxFull,
    }
}
