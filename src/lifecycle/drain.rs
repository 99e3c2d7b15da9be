//! The shutdown as a state machine: phases, how long each may last, when the next begins.
//! Time is an argument.

use std::time::Duration;

use corelane_shard::clock::Instant;
use corelane_shard::id::ShardId;
use corelane_shard::lane::DrainPhase;
use thiserror::Error;

/// How long a shutdown may take, by its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainPlan {
    /// Readiness says 503 and new connections are still taken, so that balancers can look away.
    pub grace: Duration,
    /// Sessions are closed at moments spread over this time.
    pub spread: Duration,
    /// What a session's running calls get beyond its moment.
    pub calls: Duration,
    /// From the signal to the moment at which whatever is left is cut; what the parts above leave
    /// of it is for close replies. `grace + spread + calls <= deadline`.
    pub deadline: Duration,
}

/// The plan does not fit into its own deadline, or that not into the service manager's patience.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PlanError {
    #[error(
        "drain.grace, drain.spread and drain.calls come to {parts:?}, more than drain.deadline = \
         {deadline:?}: shorten them or raise it"
    )]
    Deadline { parts: Duration, deadline: Duration },
    #[error(
        "a shutdown may take {needed:?} (drain.deadline and {CUTTING_MAX:?} to end) but systemd \
         kills after {allowed:?}: shorten drain.deadline or raise TimeoutStopSec="
    )]
    StopTimeout { needed: Duration, allowed: Duration },
}

impl DrainPlan {
    /// The longest time between the signal and the exit.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.deadline.saturating_add(CUTTING_MAX)
    }

    /// `allowed` is the service manager's stop time-out, if that is known.
    pub fn check(&self, allowed: Option<Duration>) -> Result<(), PlanError> {
        let parts = self.grace.saturating_add(self.spread).saturating_add(self.calls);
        if parts > self.deadline {
            return Err(PlanError::Deadline { parts, deadline: self.deadline });
        }
        let needed = self.total();
        match allowed {
            Some(allowed) if needed > allowed => Err(PlanError::StopTimeout { needed, allowed }),
            _ => Ok(()),
        }
    }
}

/// One shutdown under way. Phases only move forward and each ends at its time at the latest, so
/// the whole ends within [`DrainPlan::total`] whatever the shards do.
#[derive(Debug)]
pub struct Drain {
    deadline: Instant,
    phase: DrainPhase,
    phase_ends: Instant,
    /// By shard index.
    finished: Vec<bool>,
}

impl Drain {
    #[must_use]
    pub fn begin(plan: DrainPlan, shards: usize, now: Instant) -> Self {
        Self {
            deadline: now + plan.deadline,
            phase: DrainPhase::Grace,
            phase_ends: now + plan.grace.min(plan.deadline),
            finished: vec![false; shards],
        }
    }

    #[must_use]
    pub fn phase(&self) -> DrainPhase {
        self.phase
    }

    /// When [`Self::advance`] has work at the latest.
    #[must_use]
    pub fn phase_ends(&self) -> Instant {
        self.phase_ends
    }

    /// When the process has ended at the latest, as [`DrainPlan::total`] promises.
    #[must_use]
    pub fn ends_by(&self) -> Instant {
        self.deadline + CUTTING_MAX
    }

    /// A shard's report. Only `Done` matters here: its sockets and calls are gone.
    pub fn reached(&mut self, shard: ShardId, phase: DrainPhase) {
        if phase == DrainPhase::Done
            && let Some(finished) = self.finished.get_mut(usize::from(shard.0))
        {
            *finished = true;
        }
    }

    /// The next phase, if it begins at `now`. To be called until it returns `None`.
    pub fn advance(&mut self, now: Instant) -> Option<DrainPhase> {
        let over = now >= self.phase_ends;
        let empty = self.finished.iter().all(|finished| *finished);
        let next = match self.phase {
            DrainPhase::Grace if over => DrainPhase::Closing,
            DrainPhase::Closing if empty => DrainPhase::Done,
            DrainPhase::Closing if over => DrainPhase::Cutting,
            DrainPhase::Cutting if empty || over => DrainPhase::Done,
            DrainPhase::Grace | DrainPhase::Closing | DrainPhase::Cutting | DrainPhase::Done => {
                return None;
            }
        };
        self.phase = next;
        self.phase_ends = match next {
            DrainPhase::Grace | DrainPhase::Closing => self.deadline,
            DrainPhase::Cutting => now + CUTTING_MAX,
            DrainPhase::Done => now,
        };
        Some(next)
    }
}

/// Cancelling and reaping what is left takes no longer; then the process ends with it.
const CUTTING_MAX: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: DrainPlan = DrainPlan {
        grace: Duration::from_secs(5),
        spread: Duration::from_secs(10),
        calls: Duration::from_secs(20),
        deadline: Duration::from_secs(38),
    };

    fn at(seconds: u64) -> Instant {
        Instant(seconds * 1_000_000_000)
    }

    #[test]
    fn shards_that_never_answer_are_given_up_at_the_end_of_the_plan() {
        let mut drain = Drain::begin(PLAN, 2, at(100));
        assert_eq!(drain.advance(at(104)), None);
        assert_eq!(drain.advance(at(105)), Some(DrainPhase::Closing));
        assert_eq!(drain.advance(at(137)), None);
        assert_eq!(drain.phase_ends(), at(138));
        assert_eq!(drain.advance(at(138)), Some(DrainPhase::Cutting));
        assert_eq!(drain.advance(at(138)), None);
        assert_eq!(drain.advance(at(139)), Some(DrainPhase::Done));
        assert_eq!(drain.advance(at(999)), None);
        assert_eq!(at(139).since(at(100)), PLAN.total());
    }

    #[test]
    fn closing_ends_when_the_last_shard_is_empty_and_skips_cutting() {
        let mut drain = Drain::begin(PLAN, 2, at(0));
        drain.advance(at(5));
        drain.reached(ShardId(0), DrainPhase::Done);
        drain.reached(ShardId(1), DrainPhase::Closing);
        assert_eq!(drain.advance(at(6)), None);
        drain.reached(ShardId(1), DrainPhase::Done);
        assert_eq!(drain.advance(at(6)), Some(DrainPhase::Done));
    }

    #[test]
    fn grace_lasts_its_time_even_when_nobody_is_there() {
        let mut drain = Drain::begin(PLAN, 1, at(0));
        drain.reached(ShardId(0), DrainPhase::Done);
        assert_eq!(drain.advance(at(4)), None);
        assert_eq!(drain.advance(at(5)), Some(DrainPhase::Closing));
    }

    #[test]
    fn a_report_of_a_shard_that_does_not_exist_is_ignored() {
        let mut drain = Drain::begin(PLAN, 1, at(0));
        drain.reached(ShardId(7), DrainPhase::Done);
        drain.advance(at(5));
        assert_eq!(drain.advance(at(6)), None);
    }

    #[test]
    fn a_plan_that_does_not_fit_is_refused_with_its_numbers() {
        assert_eq!(PLAN.check(None), Ok(()));
        assert_eq!(PLAN.check(Some(Duration::from_secs(39))), Ok(()));
        let refused = PLAN.check(Some(Duration::from_secs(38))).unwrap_err().to_string();
        assert!(refused.contains("39s") && refused.contains("TimeoutStopSec="), "{refused}");
        let cramped = DrainPlan { deadline: Duration::from_secs(34), ..PLAN };
        let refused = cramped.check(None).unwrap_err().to_string();
        assert!(refused.contains("35s") && refused.contains("34s"), "{refused}");
    }
}
