//! What the control core counts. Written by the control core alone.

use corelane_shard::lane::ClaimRefusal;
use corelane_shard::probe::{Counter, Kind, Sample};

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
    pub(super) fn refused(&self, why: ClaimRefusal) {
        match why {
            ClaimRefusal::Full => self.refused_full.increment(),
            ClaimRefusal::Draining => self.refused_draining.increment(),
        }
    }

    pub(super) fn span_dropped(&self, why: SpanDrop, spans: u64) {
        self.spans_dropped[why as usize].add(spans);
    }

    #[cfg(test)]
    pub(super) fn spans_dropped(&self, why: SpanDrop) -> u64 {
        self.spans_dropped[why as usize].read()
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
        for (why, counter) in SpanDrop::ALL.into_iter().zip(&self.spans_dropped) {
            let (name, help) = ("spans_dropped", "Spans that the collector did not get");
            let label = Some(("reason", why.label()));
            each(Sample { name, help, kind: C, label, value: counter.read() });
        }
    }
}
