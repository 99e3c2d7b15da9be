//! What a message of the server means for the counts: whose it is, whether it is whole, in order
//! and for the first time, and how long it took.

use std::collections::HashMap;

use super::flow::Flow;
use super::tally::Tally;
use crate::protocol::Incoming;
use crate::stamp::{Damaged, Stamp};
use crate::track::{Seen, Track};

/// What one connection has received.
#[derive(Clone, Debug)]
pub(crate) struct Reception {
    /// Whose messages it is to receive: a place among the thread's connections.
    pub(crate) from: usize,
    pub(crate) track: Track,
    order: Order,
    /// Of servers that send by themselves, by sender.
    pushed: HashMap<u32, Track>,
}

#[derive(Clone, Debug)]
enum Order {
    /// For each lane one above its highest number.
    Lanes(Box<[u64]>),
    None,
}

impl Reception {
    pub(crate) fn new(from: usize, lanes: u64) -> Self {
        let order = match lanes {
            0 => Order::None,
            lanes => Order::Lanes(vec![0; lanes as usize].into_boxed_slice()),
        };
        Self { from, track: Track::new(), order, pushed: HashMap::new() }
    }

    /// Messages of servers that send by themselves: those that came, and gaps before the last.
    pub(crate) fn pushed(&self) -> (u64, u64) {
        self.pushed.values().fold((0, 0), |(came, missing), track| {
            (came + track.distinct(), missing + track.missing_below(track.next()))
        })
    }
}

/// What the traffic expects.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Expectation {
    /// Number of the first of this generator's connections, and how many there are.
    pub(crate) first_number: u32,
    pub(crate) connections: u32,
    /// Answers carry the request's payload.
    pub(crate) answers_echo: bool,
    /// The server sends by itself.
    pub(crate) pushed: bool,
    /// Errors answer what the connection sent, whose copies others receive.
    pub(crate) relayed: bool,
    pub(crate) hears_itself: bool,
    pub(crate) payload_bytes: usize,
}

/// One connection listening at one moment.
pub(crate) struct Ear<'a> {
    pub(crate) expectation: &'a Expectation,
    pub(crate) reception: &'a mut Reception,
    pub(crate) flows: &'a mut [Flow],
    pub(crate) tally: &'a mut Tally,
    /// The connection itself, and the number of the one it listens to.
    pub(crate) at: usize,
    pub(crate) number: u32,
    /// Nothing for the sender of a room, who listens to nobody.
    pub(crate) from_number: Option<u32>,
    pub(crate) now: u64,
}

impl Ear<'_> {
    #[inline]
    pub(crate) fn payload(&mut self, payload: &[u8]) {
        if self.expectation.pushed {
            return self.pushed(payload);
        }
        match Stamp::read(payload) {
            Ok(stamp) if Some(stamp.sender) == self.from_number && self.is_whole(payload) => {
                self.arrived(stamp);
            }
            Ok(stamp) | Err(Damaged::Filler(stamp)) => self.unexpected(stamp),
            Err(Damaged::Stamp) => self.nameless("payload: no valid stamp"),
        }
    }

    #[inline]
    fn is_whole(&self, payload: &[u8]) -> bool {
        payload.len() == self.expectation.payload_bytes
    }

    /// The answer to the connection's own call.
    #[inline]
    pub(crate) fn answer(&mut self, sequence: Option<u64>, payload: &[u8]) {
        if !self.expectation.answers_echo {
            return self.unstamped_answer(sequence);
        }
        match (Stamp::read(payload), sequence) {
            (Ok(stamp), _)
                if stamp.sender == self.number
                    && sequence.is_none_or(|sequence| sequence == stamp.sequence)
                    && self.is_whole(payload) =>
            {
                self.arrived(stamp);
            }
            (_, Some(sequence)) => {
                self.tally.error("answer: another payload than the call's");
                self.corrupted(sequence);
            }
            (Ok(stamp) | Err(Damaged::Filler(stamp)), None) => self.unexpected(stamp),
            (Err(Damaged::Stamp), None) => self.nameless("answer: no valid stamp"),
        }
    }

    /// A message that `from` sent is here as it was.
    #[inline]
    fn arrived(&mut self, stamp: Stamp) {
        let flow = &mut self.flows[self.reception.from];
        if stamp.sequence >= flow.sent {
            return self.nameless("payload: a number that was not sent");
        }
        if self.reception.arrive(stamp.sequence, self.tally) {
            flow.answer(stamp.sequence);
            self.tally.messages.received += 1;
            self.tally.completed(stamp.intended, stamp.delay, self.now);
        }
    }

    /// Something that the server sent by itself, whoever the sender is.
    fn pushed(&mut self, payload: &[u8]) {
        let (stamp, whole) = match Stamp::read(payload) {
            Ok(stamp) => (stamp, true),
            Err(Damaged::Filler(stamp)) => (stamp, false),
            Err(Damaged::Stamp) => {
                self.tally.error("payload: no valid stamp");
                self.tally.messages.corrupted += 1;
                return;
            }
        };
        let seen = self.reception.pushed.entry(stamp.sender).or_default().arrive(stamp.sequence);
        count_order(seen, seen == Seen::Late, self.tally);
        if !whole {
            self.tally.error("payload: changed bytes");
            self.tally.messages.corrupted += 1;
        } else if seen != Seen::Again {
            self.tally.messages.received += 1;
            self.tally.completed(stamp.intended, stamp.delay, self.now);
        }
    }

    /// A readable stamp on a payload that is not what was to come here.
    #[cold]
    fn unexpected(&mut self, stamp: Stamp) {
        let Expectation { first_number, connections, hears_itself, .. } = *self.expectation;
        let ours = stamp.sender.wrapping_sub(first_number) < connections;
        if Some(stamp.sender) == self.from_number {
            self.tally.error("payload: changed bytes");
            return self.corrupted(stamp.sequence);
        }
        if stamp.sender == self.number && hears_itself {
            return;
        }
        if !ours {
            self.tally.foreign += 1;
            return;
        }
        self.tally.error("payload: of another connection");
        self.tally.messages.corrupted += 1;
    }

    /// Message `sequence` of `from` is here, but not as it was sent.
    #[cold]
    fn corrupted(&mut self, sequence: u64) {
        self.tally.messages.corrupted += 1;
        let flow = &mut self.flows[self.reception.from];
        if sequence < flow.sent && self.reception.arrive(sequence, self.tally) {
            flow.answer(sequence);
        }
    }

    /// Something is here that does not say which message it is.
    #[cold]
    pub(crate) fn nameless(&mut self, kind: &str) {
        self.tally.error(kind);
        self.tally.messages.corrupted += 1;
        let flow = &mut self.flows[self.reception.from];
        flow.nameless += 1;
        flow.answered += 1;
    }

    fn unstamped_answer(&mut self, sequence: Option<u64>) {
        let Some(sent) = self.flows[self.at].take_unstamped(sequence) else {
            match sequence.filter(|&sequence| sequence < self.flows[self.at].sent) {
                Some(_) => self.tally.messages.duplicated += 1,
                None => self.nameless("answer: to a call that was not made"),
            }
            return;
        };
        if self.reception.arrive(sent.sequence, self.tally) {
            self.flows[self.at].answer(sent.sequence);
            self.tally.messages.received += 1;
            self.tally.completed(sent.intended, sent.delay, self.now);
        }
    }

    /// The connection's own message was answered with an error code.
    #[cold]
    pub(crate) fn refused(&mut self, sequence: Option<u64>, code: u32) {
        self.tally.error(&format!("code {code}"));
        let taken = self.flows[self.at].take_unstamped(sequence).map(|sent| sent.sequence);
        let flow = &mut self.flows[self.at];
        let Some(sequence) = sequence.or(taken).filter(|&sequence| sequence < flow.sent) else {
            return;
        };
        if self.expectation.relayed {
            flow.refused += flow.copies;
            flow.answered += flow.copies;
        } else if self.reception.arrive_out_of_turn(sequence, self.tally) {
            flow.refused += 1;
            flow.answer(sequence);
        }
    }

    pub(crate) fn hear(&mut self, incoming: Incoming<'_>) {
        match incoming {
            Incoming::Payload(payload) => self.payload(payload),
            Incoming::Answer { sequence, payload } => self.answer(sequence, payload),
            Incoming::Refused { sequence, code } => self.refused(sequence, code),
            Incoming::Wrong(kind) => self.nameless(kind),
            Incoming::Ready | Incoming::SendBack(_) => {}
        }
    }
}

impl Reception {
    /// Says whether it is the first time.
    #[inline]
    fn arrive(&mut self, sequence: u64, tally: &mut Tally) -> bool {
        let seen = self.track.arrive(sequence);
        let late = match &mut self.order {
            Order::None => false,
            Order::Lanes(lanes) => {
                let lane = match lanes.len() {
                    1 => 0,
                    count => (sequence % count as u64) as usize,
                };
                let late = sequence < lanes[lane];
                lanes[lane] = lanes[lane].max(sequence + 1);
                late
            }
        };
        count_order(seen, late, tally);
        seen != Seen::Again
    }

    /// A refusal: it may overtake the answers of calls before it. Says whether it is the first time.
    fn arrive_out_of_turn(&mut self, sequence: u64, tally: &mut Tally) -> bool {
        let seen = self.track.arrive(sequence);
        count_order(seen, false, tally);
        seen != Seen::Again
    }
}

#[inline]
fn count_order(seen: Seen, late: bool, tally: &mut Tally) {
    match seen {
        Seen::Again => tally.messages.duplicated += 1,
        Seen::Late | Seen::InOrder => tally.messages.reordered += u64::from(late),
    }
}
