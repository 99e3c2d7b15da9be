//! The results of the threads become one outcome. The judgement stays empty: `judge` makes it.

use crate::outcome::{
    FORMAT, GeneratorUse, Interval, Judgement, Latency, Outcome, Series as Times, Verdict,
};
use crate::scenario::Scenario;
use crate::server_use::{Observed, Sample};

use super::driver::Found;
use super::intervals::span;
use super::plan::Layout;
use super::tally::{Part, Tally};
use super::{ServerAt, Watcher};

/// What the main thread has seen.
pub(crate) struct Gathered {
    pub(crate) started_unix_ms: u64,
    pub(crate) generator: GeneratorUse,
    pub(crate) server: Option<(Sample, Sample)>,
    pub(crate) server_at: Option<ServerAt>,
    pub(crate) elapsed_ns: u64,
    pub(crate) bytes_before: Option<u64>,
    pub(crate) bytes_with_connections: Option<u64>,
    pub(crate) bytes_after: Option<u64>,
    pub(crate) connections: u64,
}

/// The time series while it grows: an interval is complete when every thread has told its part.
pub(crate) struct Series {
    scenario: Scenario,
    threads: usize,
    /// The parts so far and how many they are, from interval `intervals.len()` on.
    growing: Vec<(Part, usize)>,
    intervals: Vec<Interval>,
}

impl Series {
    pub(crate) fn new(scenario: &Scenario, threads: usize) -> Self {
        Self { scenario: scenario.clone(), threads, growing: Vec::new(), intervals: Vec::new() }
    }

    pub(crate) fn add(&mut self, part: &Part, watcher: &mut dyn Watcher) {
        let at = part.index - self.intervals.len();
        while self.growing.len() <= at {
            self.growing.push((Part::default(), 0));
        }
        let (whole, parts) = &mut self.growing[at];
        whole.add(part);
        *parts += 1;
        while self.growing.first().is_some_and(|&(_, parts)| parts == self.threads) {
            self.complete(watcher);
        }
    }

    /// No further parts come.
    pub(crate) fn finish(&mut self, watcher: &mut dyn Watcher) {
        while !self.growing.is_empty() {
            self.complete(watcher);
        }
    }

    fn complete(&mut self, watcher: &mut dyn Watcher) {
        let (part, _) = self.growing.remove(0);
        let span = span(&self.scenario.timing, self.intervals.len());
        let interval = Interval {
            from_seconds: span.from_seconds,
            seconds: span.seconds,
            sent: part.sent,
            received: part.received,
            errors: part.errors,
            ready: part.ready,
            measured: span.measured,
            from_intended: part.from_intended.series(),
            lag_max_ns: part.lag_max,
        };
        watcher.interval(&interval);
        self.intervals.push(interval);
    }
}

/// Everything together.
pub(crate) fn gather(
    scenario: &Scenario,
    found: Vec<Found>,
    series: Series,
    seen: Gathered,
) -> Outcome {
    let mut whole = Tally::default();
    let mut latency = Latency {
        from_intended: Times::new(),
        from_send: Times::new(),
        send_lag: Times::new(),
        connect: Times::new(),
        handshake: Times::new(),
        upgrade: Times::new(),
        first_message: Times::new(),
    };
    let mut generator = seen.generator;
    for (thread, Found { tally, busy, .. }) in found.into_iter().enumerate() {
        // A thread measures itself from edge to edge; the main thread may be late to look.
        if let Some(used) = generator.threads.get_mut(thread) {
            used.busy = busy;
        }
        tally.from_intended.add_to(&mut latency.from_intended);
        tally.from_send.add_to(&mut latency.from_send);
        tally.send_lag.add_to(&mut latency.send_lag);
        tally.connect.add_to(&mut latency.connect);
        tally.handshake.add_to(&mut latency.handshake);
        tally.upgrade.add_to(&mut latency.upgrade);
        tally.first_message.add_to(&mut latency.first_message);
        whole.add_counts(tally);
    }
    if !scenario.is_open_loop() {
        latency.from_send = latency.from_intended.clone();
    }
    let notes = notes(scenario, &whole);
    let server = seen.server.zip(seen.server_at).map(|((before, after), server)| {
        let observed = Observed {
            server: &server,
            before,
            after,
            elapsed_ns: seen.elapsed_ns,
            messages: whole.messages.measured,
            bytes_before: seen.bytes_before,
            bytes_with_connections: seen.bytes_with_connections,
            bytes_after: seen.bytes_after,
            connections: seen.connections,
        };
        observed.summary()
    });
    Outcome {
        format: FORMAT,
        scenario: scenario.clone(),
        started_unix_ms: seen.started_unix_ms,
        measured_seconds: scenario.timing.duration.as_secs_f64(),
        generators: vec![generator],
        connections: whole.connections,
        messages: whole.messages,
        errors: whole.errors,
        handshakes: whole.handshakes,
        latency,
        intervals: series.intervals,
        server,
        judgement: Judgement {
            verdict: Verdict::Passed,
            reasons: Vec::new(),
            notes,
            thresholds: Vec::new(),
        },
        search: None,
    }
}

fn notes(scenario: &Scenario, whole: &Tally) -> Vec<String> {
    let mut notes = Vec::new();
    let places = Layout::new(scenario).places;
    if places < scenario.connections.count {
        let wanted = scenario.connections.count;
        notes.push(format!(
            "{places} of {wanted} connections were opened: the rest makes no whole pair or room"
        ));
    }
    if whole.foreign > 0 {
        notes.push(format!(
            "{} messages of senders outside this generator were received and not counted",
            whole.foreign
        ));
    }
    notes
}

impl Tally {
    fn add_counts(&mut self, other: Self) {
        let (mine, more) = (&mut self.messages, other.messages);
        mine.planned += more.planned;
        mine.sent += more.sent;
        mine.expected += more.expected;
        mine.received += more.received;
        mine.lost += more.lost;
        mine.duplicated += more.duplicated;
        mine.reordered += more.reordered;
        mine.corrupted += more.corrupted;
        mine.unsent += more.unsent;
        mine.measured += more.measured;
        mine.bytes_sent += more.bytes_sent;
        mine.bytes_received += more.bytes_received;
        let (mine, more) = (&mut self.connections, other.connections);
        mine.attempted += more.attempted;
        mine.ready += more.ready;
        mine.failed += more.failed;
        mine.lost += more.lost;
        for (kind, count) in other.errors {
            *self.errors.entry(kind).or_default() += count;
        }
        for (agreed, count) in other.handshakes {
            *self.handshakes.entry(agreed).or_default() += count;
        }
        self.foreign += other.foreign;
    }
}
