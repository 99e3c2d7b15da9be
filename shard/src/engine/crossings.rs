//! What arrives on lanes from other shards.

use super::Engine;
use crate::block::Block;
use crate::buffers::Lent;
use crate::id::{ConnectionKey, ShardId};
use crate::lane::{Acknowledge, Answer, Arrival, Broadcast, Deliver, Frame, Returned};
use crate::probe::Shed;
use crate::sockets::Sockets;
use crate::wire::code::ResponseCode;
use crate::wire::guid::Guid;
use crate::wire::header::{Priority, RequestHeader};

use super::sending::NotQueued;

/// Crossings taken from one lane in one turn.
const CROSSINGS_PER_TURN: usize = 1024;

/// A frame of another shard, free of the lane that carried it: borrowed bytes last until the lane
/// is released, which is after the sends of this turn were settled.
enum Freed {
    Lent(Lent),
    Block(Block),
}

impl Freed {
    fn of(frame: Frame<'_>) -> Self {
        match frame {
            Frame::Borrowed(frame) => Self::Lent(frame.lend()),
            Frame::Owned(block) => Self::Block(block),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Lent(lent) => lent.as_slice(),
            Self::Block(block) => block.as_slice(),
        }
    }
}

enum Crossed {
    Deliver(Deliver<Freed>),
    Broadcast(Broadcast<Freed>),
}

impl Crossed {
    fn of(arrival: Arrival<'_>) -> Self {
        match arrival {
            Arrival::Deliver(Deliver {
                target,
                from,
                frame,
                header_len,
                priority,
                acknowledge,
            }) => {
                let frame = Freed::of(frame);
                Self::Deliver(Deliver { target, from, frame, header_len, priority, acknowledge })
            }
            Arrival::Broadcast(Broadcast { from, frame, header_len, priority }) => {
                let frame = Freed::of(frame);
                Self::Broadcast(Broadcast { from, frame, header_len, priority })
            }
        }
    }
}

impl<S: Sockets> Engine<S> {
    /// Gives back what lanes held of other shards, and takes back what they held of this one.
    /// Only after the sends of the last turn were settled.
    pub(super) fn settle_lanes(&mut self) {
        self.lanes.release();
        let (buffers, blocks) = (&mut self.buffers, &mut self.blocks);
        self.lanes.reclaim(|returned| match returned {
            Returned::Buffer(id) => buffers.release(id),
            Returned::Block { bytes } => blocks.disown(bytes),
        });
    }

    /// Takes what other cores have put on the lanes. Says whether there was anything.
    pub(super) fn take_lanes(&mut self) -> bool {
        let mut heard = false;
        for shard in self.lanes.peers() {
            for _ in 0..CROSSINGS_PER_TURN {
                let Some(arrival) = self.lanes.next_arrival(shard) else {
                    break;
                };
                let crossed = Crossed::of(arrival);
                self.probe.lane_crossings_in.increment();
                heard = true;
                match crossed {
                    Crossed::Deliver(deliver) => self.deliver_crossed(shard, deliver),
                    Crossed::Broadcast(broadcast) => self.broadcast_crossed(broadcast),
                }
            }
            while let Some(answer) = self.lanes.next_answer(shard) {
                heard = true;
                self.delivery_answered(answer);
            }
        }
        self.hear_control() || heard
    }

    fn deliver_crossed(&mut self, shard: ShardId, deliver: Deliver<Freed>) {
        let Deliver { target, from, frame, header_len, priority, acknowledge } = deliver;
        let header = frame.bytes().get(usize::from(header_len)..).map(RequestHeader::parse);
        let Some(Ok(header)) = header else {
            return self.drop_freed(frame);
        };
        let delivered = if self.player(target).is_some() {
            self.queue_freed(target, frame, priority)
        } else {
            self.drop_freed(frame);
            Err(NotQueued::Gone)
        };
        let code = match delivered {
            Ok(()) => ResponseCode::Ok,
            Err(NotQueued::Gone) => {
                self.probe.shed(Shed::PeerGone);
                ResponseCode::ClientNotFound
            }
            Err(NotQueued::Full) => {
                self.probe.shed(Shed::PeerOutboxFull);
                ResponseCode::ClientNotFound
            }
        };
        if code != ResponseCode::Ok || acknowledge == Acknowledge::Always {
            let answer = Answer {
                to: from,
                reply: header.reply_to(),
                guid: header.guid.0,
                code: code.value(),
            };
            self.lanes.answer(shard, answer);
        }
    }

    fn queue_freed(
        &mut self,
        to: ConnectionKey,
        frame: Freed,
        priority: Priority,
    ) -> Result<(), NotQueued> {
        match frame {
            Freed::Lent(lent) => self.queue_lent(to, lent, priority),
            Freed::Block(block) => match self.blocks.adopt(block) {
                Ok(block) => self.queue_block(to, block, priority),
                // Not ours to keep and no room to make it so: it goes back to the allocator.
                Err(_) => Err(NotQueued::Full),
            },
        }
    }

    fn drop_freed(&mut self, frame: Freed) {
        match frame {
            Freed::Lent(lent) => self.buffers.give_back(lent),
            Freed::Block(block) => drop(block),
        }
    }

    fn broadcast_crossed(&mut self, broadcast: Broadcast<Freed>) {
        match broadcast.frame {
            Freed::Lent(lent) => self.lend_to_all(lent, None, broadcast.priority),
            Freed::Block(block) => self.copy_to_all(block.as_slice(), None, broadcast.priority),
        }
    }

    /// The target's shard has delivered or refused.
    fn delivery_answered(&mut self, answer: Answer) {
        match ResponseCode::from_value(answer.code) {
            Some(ResponseCode::Ok) => self.acknowledge(answer.to, &answer.reply, Guid(answer.guid)),
            _ => self.reply(answer.to, &answer.reply, ResponseCode::ClientNotFound),
        }
    }
}
