//! What the control core counts. Written by the control core alone.

use std::sync::Arc;

use corelane_shard::lane::ClaimRefusal;
use corelane_shard::probe::{Counter, Kind, Sample};

use super::bus::kafka::KafkaCounts;
use super::certificates::CertificateCounts;
use super::internal::ListenerCounts;
use super::nodes::NodeCounts;
use super::redis::RedisProbe;
use super::sessions::refusal_label;
use crate::events::Unusable;

const REFUSALS: [ClaimRefusal; 7] = [
    ClaimRefusal::Full,
    ClaimRefusal::Draining,
    ClaimRefusal::Unavailable,
    ClaimRefusal::TooMany,
    ClaimRefusal::Unknown,
    ClaimRefusal::Revoked,
    ClaimRefusal::Mismatch,
];
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

/// Where the events come from that the client of a session lacks which is taken up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resume {
    /// They are kept here.
    Kept,
    /// From the node that had the session.
    HandedOver,
    /// From the bus.
    ReadAgain,
    /// Nobody knows which they are: the client is told so.
    Gap,
}

impl Resume {
    /// In the order of the variants.
    const LABELS: [&'static str; 4] = ["kept", "handed_over", "read_again", "gap"];
}

/// Counters of the control core; lives for the whole process.
#[derive(Debug, Default)]
pub struct ControlProbe {
    pub(super) turns: Counter,
    pub(super) turns_behind: Counter,
    pub(super) sessions: Counter,
    pub(super) sessions_waiting: Counter,
    pub(super) mailboxes: Counter,
    pub(super) mailbox_bytes: Counter,
    pub(super) resumed: Counter,
    resumes: [Counter; Resume::LABELS.len()],
    pub(super) sessions_ended: Counter,
    pub(super) sessions_expired: Counter,
    pub(super) sessions_lost: Counter,
    pub(super) replaying: Counter,
    pub(super) replays: Counter,
    pub(super) records_replayed: Counter,
    pub(super) gaps: Counter,
    pub(super) events_lost: Counter,
    pub(super) events_expired: Counter,
    pub(super) records_in: Counter,
    pub(super) records_expired: Counter,
    pub(super) records_out: Counter,
    pub(super) records_without_session: Counter,
    pub(super) grants_without_service: Counter,
    pub(super) notices_dropped: Counter,
    pub(super) rpcs_timed_out: Counter,
    pub(super) granted: Counter,
    /// By position in [`REFUSALS`].
    refused: [Counter; REFUSALS.len()],
    /// By [`Unusable::index`].
    unusable: [Counter; Unusable::LABELS.len()],
    pub(super) evictions: Counter,
    pub(super) releases: Counter,
    pub(super) releases_outdated: Counter,
    pub(super) resolve_failures: Counter,
    pub(super) address_changes: Counter,
    pub(super) keys_replaced: Counter,
    pub(super) certificates: CertificateCounts,
    pub(super) reloads: Counter,
    pub(super) reloads_refused: Counter,
    pub(super) internal: ListenerCounts,
    pub(super) nodes: NodeCounts,
    pub(super) redis: Arc<RedisProbe>,
    pub(super) kafka: KafkaCounts,
    fetches: [Counter; FetchOutcome::ALL.len()],
    validations: [Counter; ValidationOutcome::ALL.len()],
    pub(super) spans_exported: Counter,
    pub(super) span_export_failures: Counter,
    spans_dropped: [Counter; SpanDrop::ALL.len()],
}

/// Why the span of a traced call did not reach the collector, once it had reached the control core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SpanDrop {
    /// More came than the collector takes.
    QueueFull,
    CollectorDown,
    /// The collector does not want it.
    Rejected,
}

impl SpanDrop {
    const ALL: [Self; 3] = [Self::QueueFull, Self::CollectorDown, Self::Rejected];

    fn label(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::CollectorDown => "collector_down",
            Self::Rejected => "rejected",
        }
    }
}

impl ControlProbe {
    pub(super) fn took_up(&self, how: Resume) {
        self.resumes[how as usize].increment();
    }

    #[cfg(test)]
    pub(super) fn resumes(&self) -> [u64; Resume::LABELS.len()] {
        self.resumes.each_ref().map(Counter::read)
    }

    pub(super) fn refused(&self, why: ClaimRefusal) {
        if let Some(at) = REFUSALS.iter().position(|refusal| *refusal == why) {
            self.refused[at].increment();
        }
    }

    pub(super) fn fetched(&self, outcome: FetchOutcome) {
        self.fetches[outcome as usize].increment();
    }

    pub(super) fn validated(&self, outcome: ValidationOutcome) {
        self.validations[outcome as usize].increment();
    }

    pub(super) fn span_dropped(&self, why: SpanDrop, spans: u64) {
        self.spans_dropped[why as usize].add(spans);
    }

    #[cfg(test)]
    pub(super) fn spans_dropped(&self, why: SpanDrop) -> u64 {
        self.spans_dropped[why as usize].read()
    }

    pub(super) fn unusable(&self, fault: &Unusable) {
        self.unusable[fault.index()].increment();
    }

    /// What is wrong outside, though the gateway serves.
    pub(super) fn degraded(&self) -> Option<&'static str> {
        self.kafka.is_down().then_some("no broker of Kafka answers")
    }

    /// Hands every value to `each`, families together.
    pub fn visit(&self, each: &mut dyn FnMut(Sample)) {
        use Kind::Counter as C;
        let plain = [
            ("control_turns", "Turns of the control core", C, &self.turns),
            (
                "control_turns_behind",
                "Turns that took no claims because a shard does not read its lane",
                C,
                &self.turns_behind,
            ),
            ("resolve_failures", "Host names not resolved", C, &self.resolve_failures),
            ("address_changes", "Address lists published", C, &self.address_changes),
            ("keys_replaced", "Key files read again", C, &self.keys_replaced),
            ("reloads", "Configurations taken", C, &self.reloads),
            ("reloads_refused", "Configurations refused", C, &self.reloads_refused),
            ("spans_exported", "Spans that the collector took", C, &self.spans_exported),
            (
                "span_export_failures",
                "Posts that the collector did not take",
                C,
                &self.span_export_failures,
            ),
        ];
        for (name, help, kind, counter) in plain {
            each(Sample { name, help, kind, label: None, value: counter.read() });
        }
        self.visit_sessions(each);
        self.visit_outcomes(each);
        self.nodes.visit(each);
    }

    /// Sessions and what waits for them.
    fn visit_sessions(&self, each: &mut dyn FnMut(Sample)) {
        use Kind::{Counter as C, Gauge as G};
        let plain = [
            ("directory_sessions", "Sessions with a connection", G, &self.sessions),
            (
                "sessions_waiting",
                "Sessions that wait to be taken up again",
                G,
                &self.sessions_waiting,
            ),
            ("sessions_resumed", "Sessions taken up with a reconnect token", C, &self.resumed),
            ("sessions_ended", "Sessions ended for good", C, &self.sessions_ended),
            ("sessions_expired", "Sessions nobody took up in time", C, &self.sessions_expired),
            (
                "sessions_lost",
                "Sessions given up because another node has them, or has ended them",
                C,
                &self.sessions_lost,
            ),
            ("sessions_replaying", "Sessions whose events are read again", G, &self.replaying),
            ("replays", "Readings of what sessions from elsewhere may lack", C, &self.replays),
            ("records_replayed", "Records read again for sessions", C, &self.records_replayed),
            ("mailboxes", "Sessions for which something waits", G, &self.mailboxes),
            ("mailbox_bytes", "Bytes that wait for sessions", G, &self.mailbox_bytes),
            ("event_gaps", "Gaps that clients were told of", C, &self.gaps),
            ("events_lost", "Events that a full mailbox lost", C, &self.events_lost),
            ("events_expired", "Events that nobody wanted any more", C, &self.events_expired),
            ("records_received", "Records of the bus taken", C, &self.records_in),
            (
                "records_expired",
                "Records for the gateway itself that came too late",
                C,
                &self.records_expired,
            ),
            ("records_published", "Records put on the bus", C, &self.records_out),
            (
                "records_without_session",
                "Events for sessions that are not here",
                C,
                &self.records_without_session,
            ),
            (
                "grants_without_service",
                "Granted endpoints of services that are not configured",
                C,
                &self.grants_without_service,
            ),
            (
                "notices_dropped",
                "Error notices that an administrator's shard had no room for",
                C,
                &self.notices_dropped,
            ),
            ("rpcs_timed_out", "RPCs that a client did not answer", C, &self.rpcs_timed_out),
            ("evictions", "Owners replaced by a newer claim", C, &self.evictions),
            ("releases", "Sessions released by their owner", C, &self.releases),
            (
                "releases_outdated",
                "Releases by connections that were no longer the owner",
                C,
                &self.releases_outdated,
            ),
        ];
        for (name, help, kind, counter) in plain {
            each(Sample { name, help, kind, label: None, value: counter.read() });
        }
    }

    fn visit_outcomes(&self, each: &mut dyn FnMut(Sample)) {
        use Kind::Counter as C;
        for (fault, counter) in Unusable::LABELS.into_iter().zip(&self.unusable) {
            let (name, help) = ("records_unusable", "Records of events that mean nothing");
            let label = Some(("fault", fault));
            each(Sample { name, help, kind: C, label, value: counter.read() });
        }
        for (outcome, counter) in Resume::LABELS.into_iter().zip(&self.resumes) {
            let (name, help) = ("resumes", "Sessions taken up, by where their events come from");
            let label = Some(("outcome", outcome));
            each(Sample { name, help, kind: C, label, value: counter.read() });
        }
        let refused = REFUSALS.into_iter().map(refusal_label).zip(&self.refused);
        for (outcome, counter) in [("granted", &self.granted)].into_iter().chain(refused) {
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
        for (why, counter) in SpanDrop::ALL.into_iter().zip(&self.spans_dropped) {
            let (name, help) = ("spans_dropped", "Spans that the collector did not get");
            let label = Some(("reason", why.label()));
            each(Sample { name, help, kind: C, label, value: counter.read() });
        }
    }
}
