//! Windows: how many messages and bytes of one session may be under way in one direction.

/// The size of every session's window, as the receiving side's hello says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub messages: u32,
    pub bytes: u32,
}

/// What is under way and not given back. Small: two of these live per open session and link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Used {
    messages: u32,
    bytes: u32,
}

impl Used {
    /// A message larger than the window passes when the window is untouched.
    pub(super) fn admits(self, bytes: usize, window: Window) -> bool {
        let bytes_after = u64::from(self.bytes) + bytes as u64;
        self.messages == 0
            || (self.messages < window.messages && bytes_after <= u64::from(window.bytes))
    }

    pub(super) fn take(&mut self, bytes: usize) {
        self.messages = self.messages.saturating_add(1);
        self.bytes = self.bytes.saturating_add(saturated(bytes));
    }

    /// What exceeds the use is lost: credit never adds up to more than the window.
    pub(super) fn give_back(&mut self, messages: u32, bytes: u32) {
        self.messages = self.messages.saturating_sub(messages);
        self.bytes = if self.messages == 0 { 0 } else { self.bytes.saturating_sub(bytes) };
    }

    pub(super) fn messages(self) -> u32 {
        self.messages
    }

    pub(super) fn bytes(self) -> u32 {
        self.bytes
    }

    /// Worth a credit message: half of the window or more.
    pub(super) fn is_due(self, window: Window) -> bool {
        self.messages > 0
            && (self.messages >= window.messages.div_ceil(2)
                || self.bytes >= window.bytes.div_ceil(2))
    }
}

pub(super) fn saturated(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Window = Window { messages: 3, bytes: 100 };

    #[test]
    fn messages_and_bytes_both_bound() {
        let mut used = Used::default();
        used.take(60);
        assert!(used.admits(40, WINDOW) && !used.admits(41, WINDOW));
        used.take(1);
        used.take(1);
        assert!(!used.admits(0, WINDOW));
        used.give_back(1, 60);
        assert!(used.admits(98, WINDOW) && !used.admits(99, WINDOW));
    }

    #[test]
    fn a_message_larger_than_the_window_passes_only_when_it_is_untouched() {
        let mut used = Used::default();
        assert!(used.admits(5000, WINDOW));
        used.take(5000);
        assert!(!used.admits(0, WINDOW));
        used.give_back(1, 5000);
        used.take(1);
        assert!(!used.admits(5000, WINDOW));
    }

    #[test]
    fn more_given_back_than_taken_adds_nothing_to_the_window() {
        let mut used = Used::default();
        used.take(10);
        used.give_back(u32::MAX, u32::MAX);
        assert_eq!(used, Used::default());
    }
}
