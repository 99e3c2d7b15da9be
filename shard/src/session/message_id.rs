//! Message ids that the gateway makes.

use crate::clock::Now;

/// Source of one session's message ids: Unix milliseconds shifted left by 16, with 16 scattered bits
/// below, and always greater than the one before: an event's id is also its place in the order of
/// acknowledgement.
#[derive(Debug, Clone)]
pub struct MessageIds {
    last: u64,
}

impl MessageIds {
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { last: seed >> 48 }
    }

    pub fn next(&mut self, now: Now) -> u64 {
        let scattered = (self.last ^ now.unix_ms).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 48;
        let fresh = now.unix_ms << 16 | scattered;
        self.last = fresh.max(self.last.saturating_add(1));
        self.last
    }

    /// The one that was made last; nothing greater has been sent.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::Instant;

    proptest! {
        #[test]
        fn ids_rise_strictly_even_when_the_clock_steps_back(
            seed: u64, times in proptest::collection::vec(0..1_u64 << 44, 2..100),
        ) {
            let mut ids = MessageIds::new(seed);
            let mut last = 0;
            for unix_ms in times {
                let id = ids.next(Now { mono: Instant(0), unix_ms });
                prop_assert!(id > last || (last == 0 && id == 0));
                prop_assert!(id >> 16 >= unix_ms);
                last = id;
            }
        }
    }

    #[test]
    fn an_id_carries_its_millisecond() {
        let id = MessageIds::new(1).next(Now { mono: Instant(0), unix_ms: 1_772_463_381_123 });
        assert_eq!(id >> 16, 1_772_463_381_123);
    }
}
