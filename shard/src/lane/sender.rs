//! The sending end of a lane: what may be sent, and what has come back.

use std::collections::VecDeque;

use rtrb::{Consumer, Producer};
use thiserror::Error;

use super::crossing::{Answer, Crossing, Payload};
use super::lending::{Lending, Returned};
use super::places::ring;
use super::receiver::LaneReceiver;

/// A lane from one shard to another: `capacity` requests one way, as many answers the other.
#[must_use]
pub fn lane(capacity: usize) -> (LaneSender, LaneReceiver) {
    let (requests, arriving) = ring(capacity, || None);
    let (answers, answered) = ring(capacity, || Answer::FILLER);
    let mut kept_alive = VecDeque::new();
    kept_alive.resize(capacity, (0, Returned::Block { bytes: 0 }));
    kept_alive.clear();
    let sender =
        LaneSender { requests, answers: answered, pushed: 0, passed: 0, unread: 0, kept_alive };
    (sender, LaneReceiver::new(arriving, answers))
}

/// Owned by the sending shard.
///
/// A request may be answered until the receiver's index has passed it, and answers wait until they
/// are read. So `(pushed - passed) + unread` bounds the answers that can still need a place, and
/// it never exceeds the capacity, which is that of either ring.
#[derive(Debug)]
pub struct LaneSender {
    requests: Producer<Option<Crossing>>,
    answers: Consumer<Answer>,
    /// Requests ever pushed.
    pushed: u64,
    /// Of those, how many the receiver's index had passed when it was last read.
    passed: u64,
    /// Answers that were waiting at that moment and still do.
    unread: u64,
    /// What the slots keep alive, by position, oldest first; at most one entry for each slot.
    kept_alive: VecDeque<(u64, Returned)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Refusal {
    #[error("the lane is full")]
    Full,
    /// A quarter of the receive buffers is out on lanes: the caller may copy the frame into a
    /// block and try again.
    #[error("too many receive buffers are lent")]
    LendLimit,
}

/// A request that was not taken, unchanged.
#[derive(Debug, Error)]
#[error("{why}")]
pub struct Refused {
    pub why: Refusal,
    pub crossing: Crossing,
}

impl LaneSender {
    /// Puts a request on the lane together with the place of its answer. On success the lane keeps
    /// the loan or block until [`Self::reclaim`] yields it.
    pub fn try_request(
        &mut self,
        crossing: Crossing,
        lending: &mut Lending,
    ) -> Result<(), Refused> {
        if !self.has_room() {
            return Err(Refused { why: Refusal::Full, crossing });
        }
        let kept_alive = match crossing.payload() {
            Payload::Borrowed(loan) if !lending.permits(loan.buffer()) => {
                return Err(Refused { why: Refusal::LendLimit, crossing });
            }
            Payload::Borrowed(loan) => {
                lending.lend(loan.buffer());
                Returned::Buffer(loan.buffer())
            }
            Payload::Owned(block) => Returned::Block { bytes: block.capacity() },
        };
        let pushed = self.requests.push(Some(crossing));
        assert!(pushed.is_ok(), "there is room while pushed - passed < capacity");
        self.kept_alive.push_back((self.pushed, kept_alive));
        self.pushed += 1;
        Ok(())
    }

    /// Takes the oldest answer.
    pub fn next_answer(&mut self) -> Option<Answer> {
        let answer = self.answers.pop().ok()?;
        // One that came after `passed` was read is still counted there, as its request.
        self.unread = self.unread.saturating_sub(1);
        Some(answer)
    }

    #[must_use]
    pub fn has_answer(&self) -> bool {
        !self.answers.is_empty()
    }

    /// Yields what the slots kept alive that the receiver's index has passed.
    pub fn reclaim(&mut self, lending: &mut Lending, mut each: impl FnMut(Returned)) {
        if self.kept_alive.is_empty() {
            return;
        }
        self.look();
        while let Some(&(position, returned)) = self.kept_alive.front()
            && position < self.passed
        {
            self.kept_alive.pop_front();
            if let Returned::Buffer(buffer) = returned {
                lending.returned(buffer);
            }
            each(returned);
        }
    }

    fn has_room(&mut self) -> bool {
        let capacity = self.answers.buffer().capacity() as u64;
        if self.pushed - self.passed + self.unread >= capacity {
            self.look();
        }
        self.pushed - self.passed + self.unread < capacity
    }

    /// Reads where the receiver is. The order matters: an answer is pushed before the index passes
    /// its request, so whatever this index has passed is among the answers counted after it.
    fn look(&mut self) {
        let capacity = self.requests.buffer().capacity();
        let unreleased = capacity - self.requests.slots();
        self.passed = self.pushed - unreleased as u64;
        self.unread = self.answers.slots() as u64;
    }
}
