//! What the control core counts. Written by the control core alone.

use corelane_shard::lane::ClaimRefusal;
use corelane_shard::probe::{Counter, Kind, Sample};

/// What became of fetching a published key set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FetchOutcome {
    Fetched,
    Failed,
}

impl FetchOutcome {
    const ALL: [(Self, &'static str); 2] = [(Self::Fetched, "fetched"), (Self::Failed, "failed")];
}

/// What became of a question to the auth service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ValidationOutcome {
    Accepted,
    Refused,
    ServerError,
    /// An answer that cannot be understood, or is too long.
    Malformed,
    Unreachable,
    TimedOut,
    /// Not asked.
    BreakerOpen,
}

impl ValidationOutcome {
    const ALL: [(Self, &'static str); 7] = [
        (Self::Accepted, "accepted"),
        (Self::Refused, "refused"),
        (Self::ServerError, "server_error"),
        (Self::Malformed, "malformed"),
        (Self::Unreachable, "unreachable"),
        (Self::TimedOut, "timed_out"),
        (Self::BreakerOpen, "breaker_open"),
    ];
}

/// Counters of the control core; lives for the whole process.
#[derive(Debug, Default)]
pub struct ControlProbe {
    pub(super) turns: Counter,
    pub(super) turns_behind: Counter,
    pub(super) sessions: Counter,
    pub(super) granted: Counter,
    refused_full: Counter,
    refused_draining: Counter,
    pub(super) evictions: Counter,
    pub(super) releases: Counter,
    pub(super) releases_outdated: Counter,
    pub(super) resolve_failures: Counter,
    pub(super) address_changes: Counter,
    pub(super) keys_replaced: Counter,
    pub(super) reloads: Counter,
    pub(super) reloads_refused: Counter,
    fetches: [Counter; FetchOutcome::ALL.len()],
    validations: [Counter; ValidationOutcome::ALL.len()],
}

impl ControlProbe {
    pub(super) fn refused(&self, why: ClaimRefusal) {
        match why {
            ClaimRefusal::Full => self.refused_full.increment(),
            ClaimRefusal::Draining => self.refused_draining.increment(),
        }
    }

    pub(super) fn fetched(&self, outcome: FetchOutcome) {
        self.fetches[outcome as usize].increment();
    }

    pub(super) fn validated(&self, outcome: ValidationOutcome) {
        self.validations[outcome as usize].increment();
    }

    /// Hands every value to `each`, families together.
    pub fn visit(&self, each: &mut dyn FnMut(Sample)) {
        use Kind::{Counter as C, Gauge as G};
        let plain = [
            ("control_turns", "Turns of the control core", C, &self.turns),
            (
                "control_turns_behind",
                "Turns that took no claims because a shard does not read its lane",
                C,
                &self.turns_behind,
            ),
            ("directory_sessions", "Sessions in the directory", G, &self.sessions),
            ("evictions", "Owners replaced by a newer claim", C, &self.evictions),
            ("releases", "Sessions released by their owner", C, &self.releases),
            (
                "releases_outdated",
                "Releases by connections that were no longer the owner",
                C,
                &self.releases_outdated,
            ),
            ("resolve_failures", "Host names not resolved", C, &self.resolve_failures),
            ("address_changes", "Address lists published", C, &self.address_changes),
            ("keys_replaced", "Key files read again", C, &self.keys_replaced),
            ("reloads", "Configurations taken", C, &self.reloads),
            ("reloads_refused", "Configurations refused", C, &self.reloads_refused),
        ];
        for (name, help, kind, counter) in plain {
            each(Sample { name, help, kind, label: None, value: counter.read() });
        }
        let claims = [
            ("granted", &self.granted),
            ("full", &self.refused_full),
            ("draining", &self.refused_draining),
        ];
        for (outcome, counter) in claims {
            let (name, help) = ("claims", "Claims on sessions by outcome");
            let label = Some(("outcome", outcome));
            each(Sample { name, help, kind: C, label, value: counter.read() });
        }
        for ((_, outcome), counter) in FetchOutcome::ALL.iter().zip(&self.fetches) {
            let (name, help) = ("key_set_fetches", "Fetches of published key sets by outcome");
            let label = Some(("outcome", *outcome));
            each(Sample { name, help, kind: C, label, value: counter.read() });
        }
        for ((_, outcome), counter) in ValidationOutcome::ALL.iter().zip(&self.validations) {
            let (name, help) = ("validations", "Questions to the auth service by outcome");
            let label = Some(("outcome", *outcome));
            each(Sample { name, help, kind: C, label, value: counter.read() });
        }
    }
}
