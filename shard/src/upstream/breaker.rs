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
                    self.state = State::Open {
                        until: now + limits.open_for,
                    };
                }
            }
            (_, Pass::Probe) => {
                self.state = State::Open {
                    until: now + limits.open_for,
                }
            }
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
