//! The sending side of one connection: what it has sent, how much of that is under way, and what
//! waits for its window to open.

use std::collections::VecDeque;

/// One message that was sent and whose answer does not tell when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub(crate) sequence: u64,
    pub(crate) intended: u64,
    pub(crate) delay: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Flow {
    /// Whether it is a sender at all, and its connection stands.
    pub(crate) alive: bool,
    /// Messages sent; also the number of the next.
    pub(crate) sent: u64,
    /// Receivers of each message.
    pub(crate) copies: u64,
    /// Copies that may be under way.
    window: u64,
    /// Copies that came for the first time, or were answered with an error.
    pub(crate) answered: u64,
    /// Copies answered with an error code.
    pub(crate) refused: u64,
    /// Copies that came without a readable stamp: they are somebody's answer.
    pub(crate) nameless: u64,
    /// Missing copies of messages below `given_up_below`: they no longer hold the window.
    given_up: u64,
    given_up_below: u64,
    /// What `sent` was at the last sweep.
    mark: u64,
    /// Intended times of messages that are due and not sent, in order.
    pub(crate) queue: VecDeque<u64>,
    /// How many at the front of `queue` the window held back.
    held: usize,
    /// Kept where answers carry no stamp.
    pub(crate) unstamped: Option<VecDeque<Sent>>,
}

impl Flow {
    /// `window` is in messages; nothing is no bound.
    pub(crate) fn new(copies: u64, window: Option<u32>, answers_are_stamped: bool) -> Self {
        Self {
            alive: false,
            sent: 0,
            copies,
            window: window.map_or(u64::MAX, |window| u64::from(window.max(1)) * copies),
            answered: 0,
            refused: 0,
            nameless: 0,
            given_up: 0,
            given_up_below: 0,
            mark: 0,
            queue: VecDeque::new(),
            held: 0,
            unstamped: (!answers_are_stamped).then(VecDeque::new),
        }
    }

    /// Copies that may still come.
    #[inline]
    pub(crate) fn under_way(&self) -> u64 {
        (self.sent * self.copies).saturating_sub(self.answered + self.given_up)
    }

    #[inline]
    pub(crate) fn may_send(&self) -> bool {
        self.alive && self.under_way().saturating_add(self.copies) <= self.window
    }

    /// A copy of message `sequence` has come for the first time.
    #[inline]
    pub(crate) fn answer(&mut self, sequence: u64) {
        self.answered += 1;
        if sequence < self.given_up_below {
            self.given_up = self.given_up.saturating_sub(1);
        }
    }

    /// The next due message: when it was intended, and whether it was held back.
    #[inline]
    pub(crate) fn take_due(&mut self) -> Option<(u64, bool)> {
        let intended = self.queue.pop_front()?;
        let held = self.held > 0;
        self.held = self.held.saturating_sub(1);
        Some((intended, held))
    }

    /// Everything that is due now waits for the window, not for the generator.
    #[inline]
    pub(crate) fn hold(&mut self) {
        self.held = self.queue.len();
    }

    /// Has messages that were sent before the last sweep and are not answered.
    pub(crate) fn is_overdue(&self) -> bool {
        self.mark > self.given_up_below && self.under_way() > 0
    }

    /// The number below which a sweep gives up.
    pub(crate) fn sweep_end(&self) -> u64 {
        self.mark
    }

    /// Of the messages below [`Self::sweep_end`], `missing` copies have not come: they are not
    /// waited for any longer, so that a lost message does not keep its place in the window.
    pub(crate) fn sweep(&mut self, missing: u64) {
        self.given_up = missing.saturating_sub(self.nameless);
        self.given_up_below = self.mark;
    }

    pub(crate) fn set_mark(&mut self) {
        self.mark = self.sent;
    }

    /// Takes the record of message `sequence`; without a number the oldest.
    pub(crate) fn take_unstamped(&mut self, sequence: Option<u64>) -> Option<Sent> {
        let waiting = self.unstamped.as_mut()?;
        match sequence {
            None => waiting.pop_front(),
            Some(sequence) => {
                let at = waiting.iter().position(|sent| sent.sequence == sequence)?;
                waiting.remove(at)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(copies: u64, window: u32) -> Flow {
        Flow { alive: true, ..Flow::new(copies, Some(window), true) }
    }

    #[test]
    fn a_window_counts_unanswered_messages() {
        let mut flow = flow(1, 2);
        flow.sent = 2;
        assert!(!flow.may_send());
        flow.answer(1);
        assert!(flow.may_send());
    }

    #[test]
    fn a_room_has_one_message_under_way_until_the_last_member_has_it() {
        let mut flow = flow(3, 1);
        flow.sent = 1;
        for _ in 0..3 {
            assert!(!flow.may_send());
            flow.answer(0);
        }
        assert!(flow.may_send());
    }

    #[test]
    fn a_lost_message_gives_its_place_back_and_may_still_come() {
        let mut flow = flow(1, 1);
        flow.sent = 1;
        flow.set_mark();
        assert!(flow.is_overdue());
        flow.sweep(1);
        assert!(flow.may_send());
        flow.answer(0);
        assert_eq!(flow.under_way(), 0);
    }

    #[test]
    fn only_what_was_due_while_the_window_was_full_was_held() {
        let mut flow = flow(1, 1);
        flow.queue.extend([10, 20]);
        flow.hold();
        flow.queue.push_back(30);
        let taken: Vec<_> = std::iter::from_fn(|| flow.take_due()).collect();
        assert_eq!(taken, [(10, true), (20, true), (30, false)]);
    }
}
