//! Which calls are traced, and the spans of those that are under way.
//!
//! A session pays nothing for it: what it brought along and which of its calls are traced stand in
//! maps of the shard, which are empty while tracing is off.

use std::num::NonZeroU64;

use ahash::AHashMap;

use super::Engine;
use super::calling::{CallRef, Question};
use crate::clock::{Instant, Now};
use crate::id::ConnectionKey;
use crate::lane::{Span, ToControl};
use crate::probe::Shed;
use crate::snapshot::Tracing;
use crate::sockets::Sockets;
use crate::upstream::trace::{CallLines, Trace};
use crate::wire::code::ResponseCode;
use crate::wire::handshake::Request;

const MILLION: u32 = 1_000_000;

/// The traces of one shard.
#[derive(Debug, Default)]
pub(super) struct Traces {
    /// What clients have brought to their upgrade, while they are connected.
    brought: AHashMap<ConnectionKey, Trace>,
    /// Spans of calls that are with their backends; as many as run, at most.
    open: AHashMap<CallRef, OpenSpan>,
    /// Calls of a session that is being forgotten.
    abandoned: Vec<CallRef>,
}

#[derive(Debug)]
struct OpenSpan {
    /// Its end is not known yet.
    span: Box<Span>,
    began: Instant,
}

impl Traces {
    /// A call goes to its backend. Returns its context if it is sampled, and keeps its span if
    /// somebody wants it.
    fn begin(
        &mut self,
        call: CallRef,
        what: Question,
        tracing: &Tracing,
        now: Now,
        random: &mut fastrand::Rng,
    ) -> Option<Trace> {
        let brought = self.brought.get(&call.client);
        if brought.is_none() && random.u32(..MILLION) >= tracing.sampled_per_million {
            return None;
        }
        let trace = Trace {
            trace: brought.map_or_else(|| random.u128(1..), |brought| brought.trace),
            span: random.u64(1..),
            flags: Trace::SAMPLED,
        };
        if tracing.export {
            let began_unix_ns = now.unix_ms.saturating_mul(1_000_000);
            let span = Box::new(Span {
                trace: trace.trace,
                span: trace.span,
                parent: brought.and_then(|brought| NonZeroU64::new(brought.span)),
                endpoint: what.endpoint,
                meta: what.meta,
                began_unix_ns,
                ended_unix_ns: began_unix_ns,
                code: None,
            });
            self.open.insert(call, OpenSpan { span, began: now.mono });
        }
        Some(trace)
    }

    /// The finished span of a call, if it has one. The monotonic clock says how long it took: the
    /// other may be set meanwhile.
    fn end(
        &mut self,
        call: CallRef,
        code: Option<ResponseCode>,
        now: Instant,
    ) -> Option<Box<Span>> {
        let OpenSpan { mut span, began } = self.open.remove(&call)?;
        let took = now.since(began).as_nanos() as u64;
        span.ended_unix_ns = span.began_unix_ns.saturating_add(took);
        span.code = code;
        Some(span)
    }

    /// A client has left while this call was with its backend. [`Engine::end_abandoned_spans`]
    /// follows.
    pub(super) fn abandon(&mut self, call: CallRef) {
        if !self.open.is_empty() {
            self.abandoned.push(call);
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.brought.is_empty() && self.open.is_empty() && self.abandoned.is_empty()
    }
}

impl<S: Sockets> Engine<S> {
    /// The trace that the upgrade of a client brings along, if it counts.
    pub(super) fn brought_trace(&self, request: &Request<'_>) -> Option<Trace> {
        if !accepts_from_clients(&self.snapshot.tracing) {
            return None;
        }
        // Malformed or repeated, it is as if there were none: so the standard wants it.
        let text = request.fields.single("traceparent").ok().flatten()?;
        Trace::parse(text).filter(|trace| trace.is_sampled())
    }

    pub(super) fn keep_brought_trace(&mut self, key: ConnectionKey, trace: Option<Trace>) {
        if let Some(trace) = trace {
            self.traces.brought.insert(key, trace);
        }
    }

    pub(super) fn forget_brought_trace(&mut self, key: ConnectionKey) {
        if !self.traces.brought.is_empty() {
            self.traces.brought.remove(&key);
        }
    }

    /// The configuration is a new one.
    pub(super) fn review_brought_traces(&mut self) {
        if !accepts_from_clients(&self.snapshot.tracing) {
            self.traces.brought = AHashMap::default();
        }
    }

    /// The trace context of a call that goes to its backend now; `None` for those not sampled.
    pub(super) fn begin_trace(&mut self, call: CallRef, what: Question) -> Option<Trace> {
        let tracing = &self.snapshot.tracing;
        if tracing.is_off() {
            return None;
        }
        let trace = self.traces.begin(call, what, tracing, self.now, &mut self.random);
        if trace.is_some() {
            self.probe.calls_traced.increment();
        }
        trace
    }

    /// What a call to an HTTP backend says beside the endpoint's own head.
    pub(super) fn call_lines(&mut self, trace: Option<Trace>) -> Option<CallLines> {
        let correlates = self.snapshot.tracing.correlation_id;
        if trace.is_none() && !correlates {
            return None;
        }
        let fresh = || self.random.u128(1..);
        let correlation = correlates.then(|| trace.map_or_else(fresh, |trace| trace.trace));
        Some(CallLines::new(trace, correlation))
    }

    /// A call has ended. `code` as for [`Span::code`].
    pub(super) fn end_span(&mut self, call: CallRef, code: Option<ResponseCode>) {
        if self.traces.open.is_empty() {
            return;
        }
        let Some(span) = self.traces.end(call, code, self.now.mono) else {
            return;
        };
        match self.lanes.tell_control(ToControl::Span(span), self.now.mono) {
            Ok(()) => self.probe.spans_recorded.increment(),
            Err(_) => self.probe.shed(Shed::SpanLaneFull),
        }
    }

    pub(super) fn end_abandoned_spans(&mut self) {
        while let Some(call) = self.traces.abandoned.pop() {
            self.end_span(call, None);
        }
    }
}

fn accepts_from_clients(tracing: &Tracing) -> bool {
    !tracing.is_off() && tracing.accept_from_clients
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{EndpointId, Generation, ServiceId, Slot};
    use crate::session::calls::{Admission, Calls, Credit, Reply, Request as Asked, Transport};
    use crate::snapshot::SessionLimits;
    use crate::wire::header::{Flags, ReplyTo};

    const WHAT: Question = Question { endpoint: EndpointId(3), meta: None };
    const NOW: Now = Now { mono: Instant(5_000), unix_ms: 1_700_000_000_123 };
    const BROUGHT: Trace = Trace { trace: 0xA1, span: 0xB2, flags: Trace::SAMPLED };

    fn tracing(sampled_per_million: u32) -> Tracing {
        Tracing { sampled_per_million, export: true, ..Tracing::default() }
    }

    /// The first call of a client.
    fn call(slot: u32) -> CallRef {
        let request = Asked {
            reply_to: ReplyTo { flags: Flags::NONE, channel: 0, sequence: 0, message_id: 0 },
            service: ServiceId(0),
            transport: Transport::Link,
            reply: Reply::Wanted,
            bytes: 0,
            deadline: Instant::NEVER,
        };
        let limits = SessionLimits::default();
        let admission =
            Calls::<(), ()>::default().admit(request, &limits, Credit::Available, || None);
        let Admission::Dispatch(id) = admission else { panic!("{admission:?}") };
        CallRef { client: ConnectionKey { slot: Slot(slot), generation: Generation(0) }, id }
    }

    #[test]
    fn the_share_decides_how_many_calls_are_sampled() {
        for (share, least, most) in [(0, 0, 0), (100_000, 850, 1150), (1_000_000, 10_000, 10_000)] {
            let (mut traces, mut random) = (Traces::default(), fastrand::Rng::with_seed(7));
            let tracing = tracing(share);
            let call = call(1);
            let begin = |_: &u32| {
                traces.begin(call, WHAT, &tracing, NOW, &mut random).is_some_and(Trace::is_sampled)
            };
            let sampled = (0..10_000).filter(begin).count();
            assert!((least..=most).contains(&sampled), "{sampled} of 10000 at {share}");
        }
    }

    #[test]
    fn calls_have_traces_of_their_own() {
        let (mut traces, mut random) = (Traces::default(), fastrand::Rng::with_seed(7));
        let mut begin =
            |slot| traces.begin(call(slot), WHAT, &tracing(1_000_000), NOW, &mut random).unwrap();
        let (one, other) = (begin(1), begin(2));
        assert_ne!(one.trace, other.trace);
        assert_ne!(one.span, other.span);
    }

    #[test]
    fn a_brought_trace_takes_all_calls_of_its_client_and_no_others() {
        let (mut traces, mut random) = (Traces::default(), fastrand::Rng::with_seed(7));
        traces.brought.insert(call(1).client, BROUGHT);
        // So few that none of these would be sampled for its own sake.
        let tracing = tracing(1);
        let mut spans = Vec::new();
        for _ in 0..100 {
            let trace = traces.begin(call(1), WHAT, &tracing, NOW, &mut random).unwrap();
            assert_eq!(trace.trace, BROUGHT.trace);
            assert!(trace.span != BROUGHT.span && !spans.contains(&trace.span));
            spans.push(trace.span);
            let span = traces.end(call(1), Some(ResponseCode::Ok), NOW.mono).unwrap();
            assert_eq!((span.trace, span.span), (trace.trace, trace.span));
            assert_eq!(span.parent.map(NonZeroU64::get), Some(BROUGHT.span));
            assert_eq!(traces.begin(call(2), WHAT, &tracing, NOW, &mut random), None);
        }
    }

    #[test]
    fn a_span_lasts_as_long_as_its_call_and_ends_once() {
        let (mut traces, mut random) = (Traces::default(), fastrand::Rng::with_seed(7));
        let trace = traces.begin(call(1), WHAT, &tracing(1_000_000), NOW, &mut random).unwrap();
        let later = Instant(NOW.mono.0 + 1_234_567);
        assert_eq!(traces.end(call(2), Some(ResponseCode::Ok), later), None);
        let span = traces.end(call(1), Some(ResponseCode::BackendConflict), later).unwrap();
        assert_eq!(
            *span,
            Span {
                trace: trace.trace,
                span: trace.span,
                parent: None,
                endpoint: EndpointId(3),
                meta: None,
                began_unix_ns: 1_700_000_000_123_000_000,
                ended_unix_ns: 1_700_000_000_124_234_567,
                code: Some(ResponseCode::BackendConflict),
            }
        );
        assert_eq!(traces.end(call(1), None, later), None);
        assert!(traces.is_empty());
    }

    #[test]
    fn without_a_collector_nothing_is_kept() {
        let (mut traces, mut random) = (Traces::default(), fastrand::Rng::with_seed(7));
        let tracing = Tracing { export: false, ..tracing(1_000_000) };
        assert!(traces.begin(call(1), WHAT, &tracing, NOW, &mut random).is_some());
        assert!(traces.is_empty());
        traces.abandon(call(1));
        assert!(traces.is_empty(), "nothing grows that nobody empties");
    }
}
