//! The clock of a run: it goes when it is told to.

use std::time::Duration;

use crate::clock::{Instant, Now};

#[derive(Debug)]
pub(super) struct Clock {
    now: Now,
}

impl Clock {
    pub(super) fn new() -> Self {
        Self { now: Now { mono: Instant(1_000_000_000), unix_ms: 1_772_463_381_123 } }
    }

    pub(super) fn now(&self) -> Now {
        self.now
    }

    pub(super) fn advance(&mut self, by: Duration) {
        let before = self.now.mono.0 / 1_000_000;
        self.now.mono = self.now.mono + by;
        self.now.unix_ms += self.now.mono.0 / 1_000_000 - before;
    }
}
