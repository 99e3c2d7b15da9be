//! The circuit breaker of one backend address: after enough failures in a row calls are refused
//! at once, until a single probe has found the backend well.
//!
//! What counts as a failure is the caller's to say.

use crate::clock::Instant;
use crate::snapshot::BreakerLimits;

/// One per (service, address) and shard.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Breaker {
    state: State,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// Consecutive failures, `< limits.failures`.
    Closed {
        failures: u32,
    },
    Open {
        until: Instant,
    },
    /// One probe is under way.
    HalfOpen,
}

impl Default for State {
    fn default() -> Self {
        Self::Closed { failures: 0 }
    }
}

/// Leave for one call. Each ends in exactly one of [`Breaker::succeeded`], [`Breaker::failed`] and
/// [`Breaker::abandoned`]; a lost probe would leave the breaker half open.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub enum Pass {
    Call,
    /// The one call by which an open breaker finds out how the backend is.
    Probe,
}

/// How a breaker stands, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Closed,
    Open,
    HalfOpen,
}

impl Breaker {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Would [`Self::admit`] let a call through? Asked of every address when one is chosen.
    #[must_use]
    pub fn admits(&self, now: Instant, limits: &BreakerLimits) -> bool {
        match self.state {
            State::Closed { .. } => true,
            State::Open { until } => limits.failures == 0 || now >= until,
            State::HalfOpen => limits.failures == 0,
        }
    }

    /// Leave for a call, or `None` when it is to be refused.
    pub fn admit(&mut self, now: Instant, limits: &BreakerLimits) -> Option<Pass> {
        if !self.admits(now, limits) {
            return None;
        }
        match self.state {
            State::Open { .. } if limits.failures > 0 => {
                self.state = State::HalfOpen;
                Some(Pass::Probe)
            }
            _ => Some(Pass::Call),
        }
    }

    pub fn succeeded(&mut self, pass: Pass) {
        match (&self.state, pass) {
            (State::Closed { .. }, Pass::Call) | (_, Pass::Probe) => self.state = State::default(),
            // A call from before the breaker opened proves nothing about the backend since.
            (State::Open { .. } | State::HalfOpen, Pass::Call) => {}
        }
    }

    pub fn failed(&mut self, pass: Pass, now: Instant, limits: &BreakerLimits) {
        match (&mut self.state, pass) {
            (State::Closed { failures }, Pass::Call) => {
                *failures = failures.saturating_add(1);
                if limits.failures > 0 && *failures >= limits.failures {
                    self.state = State::Open { until: now + limits.open_for };
                }
            }
            (_, Pass::Probe) => self.state = State::Open { until: now + limits.open_for },
            (State::Open { .. } | State::HalfOpen, Pass::Call) => {}
        }
    }

    /// The call ended before the backend's health showed, for instance because its client left.
    pub fn abandoned(&mut self, pass: Pass, now: Instant) {
        if pass == Pass::Probe {
            self.state = State::Open { until: now };
        }
    }

    #[must_use]
    pub fn standing(&self) -> Standing {
        match self.state {
            State::Closed { .. } => Standing::Closed,
            State::Open { .. } => Standing::Open,
            State::HalfOpen => Standing::HalfOpen,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const LIMITS: BreakerLimits = BreakerLimits { failures: 3, open_for: Duration::from_secs(5) };
    const OFF: BreakerLimits = BreakerLimits { failures: 0, open_for: Duration::from_secs(5) };
    const START: Instant = Instant(7);

    fn opened() -> Breaker {
        let mut breaker = Breaker::new();
        for _ in 0..LIMITS.failures {
            let pass = breaker.admit(START, &LIMITS).unwrap();
            breaker.failed(pass, START, &LIMITS);
        }
        breaker
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_not_otherwise() {
        let mut breaker = Breaker::new();
        for succeeds in [false, false, true, false, false] {
            let pass = breaker.admit(START, &LIMITS).unwrap();
            if succeeds { breaker.succeeded(pass) } else { breaker.failed(pass, START, &LIMITS) }
        }
        assert_eq!(breaker.standing(), Standing::Closed);
        breaker.failed(Pass::Call, START, &LIMITS);
        assert_eq!(breaker.standing(), Standing::Open);
        assert_eq!(breaker.admit(START, &LIMITS), None);
    }

    #[test]
    fn one_probe_is_let_through_when_the_time_is_over() {
        let mut breaker = opened();
        let until = START + LIMITS.open_for;
        assert!(!breaker.admits(Instant(until.0 - 1), &LIMITS));
        assert_eq!(breaker.admit(until, &LIMITS), Some(Pass::Probe));
        assert_eq!(breaker.admit(until + LIMITS.open_for, &LIMITS), None);
    }

    #[test]
    fn the_probe_decides() {
        let until = START + LIMITS.open_for;
        let mut breaker = opened();
        let probe = breaker.admit(until, &LIMITS).unwrap();
        breaker.succeeded(probe);
        assert_eq!(breaker.admit(until, &LIMITS), Some(Pass::Call));

        let mut breaker = opened();
        let probe = breaker.admit(until, &LIMITS).unwrap();
        breaker.failed(probe, until, &LIMITS);
        assert_eq!(breaker.admit(Instant((until + LIMITS.open_for).0 - 1), &LIMITS), None);
        assert_eq!(breaker.admit(until + LIMITS.open_for, &LIMITS), Some(Pass::Probe));
    }

    #[test]
    fn an_abandoned_probe_makes_way_for_the_next() {
        let until = START + LIMITS.open_for;
        let mut breaker = opened();
        let probe = breaker.admit(until, &LIMITS).unwrap();
        breaker.abandoned(probe, until);
        assert_eq!(breaker.admit(until, &LIMITS), Some(Pass::Probe));
    }

    #[test]
    fn calls_from_before_it_opened_change_nothing() {
        let mut breaker = Breaker::new();
        let late: Vec<_> = (0..4).map(|_| breaker.admit(START, &LIMITS).unwrap()).collect();
        for _ in 0..LIMITS.failures {
            breaker.failed(Pass::Call, START, &LIMITS);
        }
        let later = START + Duration::from_secs(4);
        let mut late = late.into_iter();
        breaker.succeeded(late.next().unwrap());
        breaker.failed(late.next().unwrap(), later, &LIMITS);
        assert_eq!(breaker.admit(START + LIMITS.open_for, &LIMITS), Some(Pass::Probe));
        breaker.succeeded(late.next().unwrap());
        breaker.abandoned(late.next().unwrap(), later);
        assert_eq!(breaker.standing(), Standing::HalfOpen);
    }

    #[test]
    fn switched_off_it_admits_everything_even_when_it_stood_open() {
        let mut breaker = opened();
        assert_eq!(breaker.admit(START, &OFF), Some(Pass::Call));
        let mut breaker = Breaker::new();
        for _ in 0..100 {
            let pass = breaker.admit(START, &OFF).unwrap();
            breaker.failed(pass, START, &OFF);
        }
        assert_eq!(breaker.standing(), Standing::Closed);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Wait(u64),
        Admit,
        /// Ends the running call of this index, modulo their number.
        Succeed(usize),
        Fail(usize),
        Abandon(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u64..4).prop_map(Step::Wait),
            Just(Step::Admit),
            any::<usize>().prop_map(Step::Succeed),
            any::<usize>().prop_map(Step::Fail),
            any::<usize>().prop_map(Step::Abandon),
        ]
    }

    /// The rules as a ledger: outcomes that count since the breaker last closed or opened.
    #[derive(Debug, Default)]
    struct Ledger {
        failures_in_a_row: u32,
        open_until: Option<u64>,
        probing: bool,
    }

    proptest! {
        #[test]
        fn it_follows_the_ledger(steps in prop::collection::vec(step(), 0..200)) {
            let (mut breaker, mut ledger, mut now) = (Breaker::new(), Ledger::default(), 0u64);
            let mut running: Vec<Pass> = Vec::new();
            let at = |seconds: u64| Instant::default() + Duration::from_secs(seconds);
            for step in steps {
                let (kind, index) = match step {
                    Step::Wait(seconds) => {
                        now += seconds;
                        continue;
                    }
                    Step::Admit => {
                        let expected = match ledger.open_until {
                            None => Some(Pass::Call),
                            Some(until) if !ledger.probing && now >= until => Some(Pass::Probe),
                            Some(_) => None,
                        };
                        prop_assert_eq!(breaker.admits(at(now), &LIMITS), expected.is_some());
                        let pass = breaker.admit(at(now), &LIMITS);
                        prop_assert_eq!(&pass, &expected);
                        ledger.probing |= pass == Some(Pass::Probe);
                        running.extend(pass);
                        prop_assert!(running.iter().filter(|pass| **pass == Pass::Probe).count() <= 1);
                        continue;
                    }
                    Step::Succeed(index) => (0, index),
                    Step::Fail(index) => (1, index),
                    Step::Abandon(index) => (2, index),
                };
                if running.is_empty() {
                    continue;
                }
                let pass = running.swap_remove(index % running.len());
                let (counts, probe) = (ledger.open_until.is_none(), pass == Pass::Probe);
                match kind {
                    0 => {
                        breaker.succeeded(pass);
                        if probe || counts {
                            ledger = Ledger::default();
                        }
                    }
                    1 => {
                        breaker.failed(pass, at(now), &LIMITS);
                        ledger.failures_in_a_row += u32::from(counts);
                        if probe || (counts && ledger.failures_in_a_row == LIMITS.failures) {
                            ledger.open_until = Some(now + 5);
                            ledger.probing = false;
                        }
                    }
                    _ => {
                        breaker.abandoned(pass, at(now));
                        if probe {
                            ledger.open_until = Some(now);
                            ledger.probing = false;
                        }
                    }
                }
            }
        }
    }
}
