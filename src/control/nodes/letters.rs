//! Messages of sessions to sessions of other nodes, and what becomes of them.

use bytes::Bytes;
use corelane_shard::clock::Instant;
use corelane_shard::id::{ConnectionKey, Generation, ShardId, Slot};
use corelane_shard::lane::{Abroad, Acknowledge, AnswerFromAbroad, WayBack};
use corelane_shard::wire::header::{Priority, RequestHeader};

use super::counts::{LinkEnded, NotRelayed};
use super::link::{self, LinkId, Waiting};
use super::said::{self, Said, Ticket};
use super::{Heard, Nodes};

impl Nodes {
    /// Sends a session's message to its node. Whoever wants to hear of it is kept in mind.
    pub(in crate::control) fn send(
        &mut self,
        shard: ShardId,
        abroad: &Abroad,
    ) -> Result<(), NotRelayed> {
        let Self { links, by_node, held, numbers, probe, .. } = self;
        let link = by_node.get(&abroad.node).and_then(|id| links.get_mut(id));
        let link = link.ok_or(NotRelayed::NoLink)?;
        let mut number = 0;
        if abroad.acknowledge == Acknowledge::Always {
            if link.waiting.len() >= WAITING_MAX {
                return Err(NotRelayed::AnswersFull);
            }
            number = numbers.next();
        }
        let ticket = Ticket { number, sender: packed(shard, abroad.from) };
        let bytes = said::letter(&abroad.message, abroad.priority, ticket);
        link.put(bytes, held).map_err(|_| NotRelayed::QueueFull)?;
        probe.nodes.messages_out.increment();
        if number != 0
            && let Some(waiting) = refused(shard, abroad.from, &abroad.message)
        {
            link.waiting.insert(number, waiting);
        }
        Ok(())
    }

    /// Tells another node what became of its session's message, where that is wanted. Without room
    /// for it the link ends: who waits there must not wait for ever. Then those who wait here are
    /// returned, who are to be told.
    #[must_use]
    pub(in crate::control) fn answer(
        &mut self,
        back: WayBack,
        message: &[u8],
        delivered: bool,
        now: Instant,
    ) -> Vec<Waiting> {
        let id = LinkId(back.link);
        if delivered && back.number == 0 {
            return Vec::new();
        }
        let (Some(link), Ok(header)) = (self.links.get(&id), RequestHeader::parse(message)) else {
            return Vec::new();
        };
        let ticket = Ticket { number: back.number, sender: back.sender };
        let answer = Said::Answer { header, delivered, ticket }.encode();
        if link.put_answer(answer, &self.held).is_ok() {
            return Vec::new();
        }
        match self.end(id, LinkEnded::Overrun, 1013, "answers find no room", now) {
            Heard::Answers(waiting) => waiting,
            _ => Vec::new(),
        }
    }

    pub(super) fn hear_letter(
        &mut self,
        id: LinkId,
        message: Bytes,
        priority: Priority,
        ticket: Ticket,
        now: Instant,
    ) -> Heard {
        self.probe.nodes.messages_in.increment();
        let Ticket { number, sender } = ticket;
        let back = WayBack { link: id.0, number, sender };
        let guid = RequestHeader::parse(&message).map(|header| header.guid);
        let route = guid.ok().and_then(|guid| self.keys.decode(guid));
        match route.filter(|route| route.node == self.rules.number) {
            Some(route) => Heard::Letter { route, message, priority, back },
            None => {
                self.probe.nodes.not_relayed(NotRelayed::NotHere);
                Heard::answers(self.answer(back, &message, false, now))
            }
        }
    }

    pub(super) fn hear_answer(
        &mut self,
        id: LinkId,
        header: &RequestHeader,
        delivered: bool,
        ticket: Ticket,
    ) -> Heard {
        let waiting = if ticket.number == 0 {
            let (shard, from) = unpacked(ticket.sender);
            refused(shard, from, &header.to_bytes())
        } else {
            self.links.get_mut(&id).and_then(|link| link.waiting.remove(&ticket.number))
        };
        let answered = waiting.map(|mut waiting| {
            waiting.answer.delivered = delivered;
            waiting
        });
        Heard::answers(answered.into_iter().collect())
    }
}

/// Who is to hear what becomes of a message: as yet, that it was refused.
pub(in crate::control) fn refused(
    shard: ShardId,
    to: ConnectionKey,
    message: &[u8],
) -> Option<Waiting> {
    let header = RequestHeader::parse(message).ok()?;
    let (reply, guid) = (header.reply_to(), header.guid.0);
    Some(Waiting { shard, answer: AnswerFromAbroad { to, reply, guid, delivered: false } })
}

/// Shard, slot and generation in one number, for the way there and back.
fn packed(shard: ShardId, key: ConnectionKey) -> u64 {
    u64::from(shard.0) << 52 | u64::from(key.slot.0) << 32 | u64::from(key.generation.0)
}

fn unpacked(sender: u64) -> (ShardId, ConnectionKey) {
    let slot = Slot((sender >> 32 & 0xF_FFFF) as u32);
    let generation = Generation(sender as u32 & ((1 << Generation::BITS) - 1));
    (ShardId((sender >> 52) as u8), ConnectionKey { slot, generation })
}

/// Senders that wait for an answer over one link.
pub(super) const WAITING_MAX: usize = link::ANSWERS_RESERVED;
