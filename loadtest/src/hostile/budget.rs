//! What all bad clients together may send.

use std::time::Instant;

/// Messages that may still be sent: at most a tenth of a second's worth.
#[derive(Debug)]
pub(super) struct Budget {
    per_second: f64,
    left: f64,
    filled: Instant,
}

impl Budget {
    pub(super) fn new(per_second: f64, now: Instant) -> Self {
        Self { per_second, left: 0.0, filled: now }
    }

    pub(super) fn refill(&mut self, now: Instant) {
        let since = now.duration_since(self.filled).as_secs_f64();
        let most = (self.per_second / 10.0).max(1.0);
        self.left = (self.left + since * self.per_second).min(most);
        self.filled = now;
    }

    /// Whether one more may be sent.
    pub(super) fn take(&mut self) -> bool {
        let may = self.left >= 1.0;
        if may {
            self.left -= 1.0;
        }
        may
    }

    /// What each of `sharers` may try to send of what is left.
    pub(super) fn share_of(&self, sharers: usize) -> usize {
        (self.left / sharers as f64).ceil().max(1.0) as usize
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn taken(budget: &mut Budget) -> usize {
        std::iter::repeat_with(|| budget.take()).take_while(|&may| may).count()
    }

    #[test]
    fn no_more_is_sent_than_the_rate_allows() {
        let start = Instant::now();
        let mut budget = Budget::new(2000.0, start);
        assert_eq!(taken(&mut budget), 0);
        let mut sent = 0;
        for ms in 1..=1000 {
            budget.refill(start + Duration::from_millis(ms));
            sent += taken(&mut budget);
        }
        assert!((1990..=2000).contains(&sent), "{sent}");
    }

    #[test]
    fn a_pause_is_not_made_up_for() {
        let start = Instant::now();
        let mut budget = Budget::new(2000.0, start);
        budget.refill(start + Duration::from_secs(60));
        assert_eq!(budget.share_of(50), 4);
        assert_eq!(budget.share_of(150), 2, "rounded up, or nobody would send");
        assert_eq!(taken(&mut budget), 200);
        assert_eq!(budget.share_of(50), 1);
    }
}
