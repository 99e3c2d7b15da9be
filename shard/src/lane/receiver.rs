//! The receiving end of a lane: reading ahead of the index, answering, releasing.

use rtrb::{Consumer, Producer};

use super::borrowed::Unreleased;
use super::crossing::{Answer, Arrival, Crossing, Frame, Payload};

/// Owned by the receiving shard.
#[derive(Debug)]
pub struct LaneReceiver {
    /// A slot is `None` from the moment it is read until its release.
    requests: Consumer<Option<Crossing>>,
    answers: Producer<Answer>,
    /// Requests that were read since the last release; the index stands before them.
    read: usize,
    /// How many of those may still be answered.
    answerable: usize,
    unreleased: Unreleased,
}

impl LaneReceiver {
    pub(super) fn new(requests: Consumer<Option<Crossing>>, answers: Producer<Answer>) -> Self {
        Self { requests, answers, read: 0, answerable: 0, unreleased: Unreleased::new() }
    }

    /// Reads the next request and leaves the index where it is, so that a borrowed frame lasts
    /// until [`Self::release`].
    pub fn next_arrival(&mut self) -> Option<Arrival<'_>> {
        let mut chunk = self.requests.read_chunk(self.read + 1).ok()?;
        let (first, second) = chunk.as_mut_slices();
        let slot = match self.read.checked_sub(first.len()) {
            None => first.get_mut(self.read),
            Some(index) => second.get_mut(index),
        };
        let crossing = slot?.take()?;
        self.read += 1;
        self.answerable += usize::from(matches!(crossing, Crossing::Deliver(_)));
        let unreleased = &mut self.unreleased;
        Some(crossing.arrive(|payload| match payload {
            Payload::Borrowed(loan) => Frame::Borrowed(loan.open(unreleased)),
            Payload::Owned(block) => Frame::Owned(block),
        }))
    }

    #[must_use]
    pub fn has_arrival(&self) -> bool {
        self.requests.slots() > self.read
    }

    /// Answers a [`super::Deliver`] that was read and not yet released, at most once each.
    ///
    /// # Panics
    /// When there are more answers than such requests.
    pub fn answer(&mut self, answer: Answer) {
        assert!(self.answerable > 0, "one answer for each delivery, before its release");
        self.answerable -= 1;
        let pushed = self.answers.push(answer);
        assert!(pushed.is_ok(), "the request reserved the place of its answer");
    }

    /// Moves the index past everything that was read: the sender may reuse those buffers.
    pub fn release(&mut self) {
        if self.read == 0 {
            return;
        }
        if let Ok(chunk) = self.requests.read_chunk(self.read) {
            chunk.commit_all();
        }
        self.read = 0;
        self.answerable = 0;
    }
}
