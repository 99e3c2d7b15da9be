//! How much one session may ask for: GCRA buckets of 8 bytes and the counts that end a session
//! which does not stop. What spends which bucket is decided in [`super::routing`].

use std::time::Duration;

use thiserror::Error;

use crate::clock::Instant;
use crate::snapshot::SessionLimits;

/// `N` messages per window as GCRA parameters: emission interval `T = window / N`, burst `N`.
///
/// From idle exactly `N` pass at one instant; in any (half-open) window at most `2N − 1` pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// `T`, rounded up so that the bound holds for windows that `N` does not divide; 0 = off.
    interval_ns: u64,
    /// How far the bucket may run ahead of the clock: `(N − 1) · T`.
    tolerance_ns: u64,
}

impl RateLimit {
    /// `messages` = 0 switches the limit off.
    #[must_use]
    pub fn new(messages: u32, window: Duration) -> Self {
        let window_ns = nanos(window).max(1);
        let interval_ns = match messages {
            0 => 0,
            messages => window_ns.div_ceil(u64::from(messages)),
        };
        let tolerance_ns = interval_ns.saturating_mul(u64::from(messages.saturating_sub(1)));
        Self { interval_ns, tolerance_ns }
    }
}

/// The limits of all sessions of one configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimits {
    /// For messages that are routed.
    pub routed: RateLimit,
    /// For everything else that a client can send and that costs work: four times as lax.
    pub lax: RateLimit,
    pub window: Duration,
    /// Refusals in one window after which the session is closed: `2N`.
    pub refusals_max: u32,
}

impl RateLimits {
    #[must_use]
    pub fn new(limits: &SessionLimits) -> Self {
        let messages = limits.messages_per_window;
        Self {
            routed: RateLimit::new(messages, limits.rate_window),
            lax: RateLimit::new(messages.saturating_mul(LAX_FACTOR), limits.rate_window),
            window: limits.rate_window,
            refusals_max: messages.saturating_mul(2),
        }
    }
}

/// State of one bucket: the theoretical arrival time of the next message.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bucket {
    theoretical_arrival: Instant,
}

/// What a bucket says to one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    Admitted,
    /// The bucket is as it was: a refused message costs nothing.
    Refused,
}

impl Bucket {
    pub fn admit(&mut self, limit: RateLimit, now: Instant) -> Admission {
        if self.is_empty(limit, now) {
            return Admission::Refused;
        }
        let start = self.theoretical_arrival.max(now);
        self.theoretical_arrival = Instant(start.0.saturating_add(limit.interval_ns));
        Admission::Admitted
    }

    /// Whether [`Self::admit`] would refuse.
    #[must_use]
    pub fn is_empty(&self, limit: RateLimit, now: Instant) -> bool {
        let ahead_ns = self.theoretical_arrival.0.saturating_sub(now.0);
        limit.interval_ns != 0 && ahead_ns > limit.tolerance_ns
    }
}

/// Counts offences in windows that begin with the first offence after a quiet one. 8 bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Offences {
    /// Milliseconds, wrapping after 49 days: an ancient window may then pass for a recent one,
    /// which at worst keeps a few old offences on the count.
    window_start_ms: u32,
    count: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tolerance {
    Tolerated,
    /// More than the allowed number fell into one window.
    Exhausted,
}

impl Offences {
    pub fn add(&mut self, allowed: u32, window: Duration, now: Instant) -> Tolerance {
        let now_ms = (now.0 / 1_000_000) as u32;
        let elapsed = now_ms.wrapping_sub(self.window_start_ms);
        if self.count == 0 || u128::from(elapsed) >= window.as_millis() {
            self.window_start_ms = now_ms;
            self.count = 0;
        }
        self.count = self.count.saturating_add(1);
        if self.count > allowed { Tolerance::Exhausted } else { Tolerance::Tolerated }
    }
}

/// One session's share: a bucket for routed messages, one for the rest, and the refusals of both.
#[derive(Debug, Default)]
pub struct Allowance {
    routed: Bucket,
    lax: Bucket,
    refusals: Offences,
}

/// A message came too soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum OverLimit {
    #[error("the message rate limit is reached")]
    Refused,
    #[error("the message rate limit was ignored for too long")]
    Abused,
}

impl Allowance {
    pub fn spend_routed(&mut self, limits: &RateLimits, now: Instant) -> Result<(), OverLimit> {
        match self.routed.admit(limits.routed, now) {
            Admission::Admitted => Ok(()),
            Admission::Refused => Err(self.refuse(limits, now)),
        }
    }

    pub fn spend_lax(&mut self, limits: &RateLimits, now: Instant) -> Result<(), OverLimit> {
        match self.lax.admit(limits.lax, now) {
            Admission::Admitted => Ok(()),
            Admission::Refused => Err(self.refuse(limits, now)),
        }
    }

    /// Whether [`Self::spend_lax`] would refuse.
    #[must_use]
    pub fn lax_is_spent(&self, limits: &RateLimits, now: Instant) -> bool {
        self.lax.is_empty(limits.lax, now)
    }

    /// Counts a message that is refused without being weighed.
    pub fn refuse(&mut self, limits: &RateLimits, now: Instant) -> OverLimit {
        match self.refusals.add(limits.refusals_max, limits.window, now) {
            Tolerance::Tolerated => OverLimit::Refused,
            Tolerance::Exhausted => OverLimit::Abused,
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Meta requests, invalid messages, text and stray answers come in bursts at the start of a
/// session, so they get more room than routed messages.
const LAX_FACTOR: u32 = 4;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Tokens in units of 1/T: a continuous bucket of N tokens that refills one every T.
    struct NaiveBucket {
        tokens_scaled: u128,
        last: u64,
    }

    impl NaiveBucket {
        fn admit(&mut self, messages: u32, interval: u64, now: u64) -> Admission {
            let full = u128::from(messages) * u128::from(interval);
            let refill = u128::from(now - self.last);
            self.tokens_scaled = full.min(self.tokens_scaled + refill);
            self.last = now;
            if self.tokens_scaled < u128::from(interval) {
                return Admission::Refused;
            }
            self.tokens_scaled -= u128::from(interval);
            Admission::Admitted
        }
    }

    fn passes(bucket: &mut Bucket, limit: RateLimit, at: Instant, tries: u32) -> u32 {
        (0..tries).filter(|_| bucket.admit(limit, at) == Admission::Admitted).count() as u32
    }

    #[test]
    fn a_bucket_is_eight_bytes() {
        assert_eq!(size_of::<Bucket>(), 8);
        assert_eq!(size_of::<Offences>(), 8);
    }

    #[test]
    fn zero_messages_switch_the_limit_off() {
        let limit = RateLimit::new(0, Duration::from_secs(60));
        assert_eq!(passes(&mut Bucket::default(), limit, Instant(7), 100_000), 100_000);
    }

    #[test]
    fn one_message_per_window_admits_one() {
        let limit = RateLimit::new(1, Duration::from_secs(1));
        let mut bucket = Bucket::default();
        assert_eq!(passes(&mut bucket, limit, Instant(5), 3), 1);
        assert_eq!(passes(&mut bucket, limit, Instant(1_000_000_004), 3), 0);
        assert_eq!(passes(&mut bucket, limit, Instant(1_000_000_005), 3), 1);
    }

    #[test]
    fn more_offences_than_allowed_in_one_window_exhaust_the_tolerance() {
        let window = Duration::from_secs(60);
        let mut offences = Offences::default();
        let at = |s: u64| Instant(s * 1_000_000_000);
        for second in 0..10 {
            assert_eq!(offences.add(10, window, at(second)), Tolerance::Tolerated);
        }
        let mut later = offences;
        assert_eq!(offences.add(10, window, at(59)), Tolerance::Exhausted);
        assert_eq!(later.add(10, window, at(60)), Tolerance::Tolerated);
    }

    proptest! {
        #[test]
        fn exactly_n_pass_at_one_instant_from_idle(
            n in 1..2000_u32, window_ms in 1..100_000_u64, at in 0..u64::MAX / 2, extra in 0..50_u32,
        ) {
            let limit = RateLimit::new(n, Duration::from_millis(window_ms));
            prop_assert_eq!(passes(&mut Bucket::default(), limit, Instant(at), n + extra), n);
        }

        #[test]
        fn any_window_admits_at_most_twice_the_number_less_one(
            n in 1..20_u32, window in 1..1000_u64, steps in proptest::collection::vec(0..60_u64, 1..400),
        ) {
            let limit = RateLimit::new(n, Duration::from_nanos(window));
            let mut bucket = Bucket::default();
            let mut now = 0;
            let mut admitted = Vec::new();
            for step in steps {
                now += step;
                if bucket.admit(limit, Instant(now)) == Admission::Admitted {
                    admitted.push(now);
                }
            }
            for (i, start) in admitted.iter().enumerate() {
                let inside = admitted[i..].iter().filter(|at| **at < start + window).count();
                prop_assert!(inside < 2 * n as usize, "{} in one window", inside);
            }
        }

        #[test]
        fn the_bucket_agrees_with_a_naive_one(
            n in 1..20_u32, window in 1..1000_u64, steps in proptest::collection::vec(0..60_u64, 1..400),
        ) {
            let limit = RateLimit::new(n, Duration::from_nanos(window));
            let mut bucket = Bucket::default();
            let full = u128::from(n) * u128::from(limit.interval_ns);
            let mut naive = NaiveBucket { tokens_scaled: full, last: 0 };
            let mut now = 0;
            for step in steps {
                now += step;
                let expected = naive.admit(n, limit.interval_ns, now);
                prop_assert_eq!(bucket.is_empty(limit, Instant(now)), expected == Admission::Refused);
                prop_assert_eq!(bucket.admit(limit, Instant(now)), expected);
            }
        }
    }
}
