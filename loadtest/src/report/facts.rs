//! The figures of an outcome as tables of words, the same for the terminal and for the page. How
//! a table looks is in `summary` and `html`.

use std::time::{Duration, SystemTime};

use crate::outcome::{GeneratorUse, Outcome, Series, Verdict};
use crate::quantity::{bound, bytes, count, in_dimension, microseconds, per_second, share};
use crate::scenario::Metric;

/// The first column says what a row is; the others are figures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) title: &'static str,
    /// Of the columns; the first may be empty.
    pub(super) head: Vec<&'static str>,
    pub(super) rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn has_head(&self) -> bool {
        self.head.iter().any(|title| !title.is_empty())
    }
}

pub(super) fn verdict_word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Passed => "passed",
        Verdict::Failed => "failed",
        Verdict::Invalid => "invalid",
    }
}

/// In UTC.
pub(super) fn start_time(outcome: &Outcome) -> String {
    let start = SystemTime::UNIX_EPOCH + Duration::from_millis(outcome.started_unix_ms);
    humantime::format_rfc3339_seconds(start).to_string()
}

const QUANTILES: [(&str, f64); 7] = [
    ("p50", 0.5),
    ("p90", 0.9),
    ("p99", 0.99),
    ("p99.9", 0.999),
    ("p99.99", 0.9999),
    ("p99.999", 0.99999),
    ("longest", 1.0),
];

pub(super) fn latency(outcome: &Outcome) -> Table {
    let latency = &outcome.latency;
    let series = [&latency.from_intended, &latency.from_send, &latency.send_lag];
    let mut rows: Vec<_> = QUANTILES
        .iter()
        .map(|&(name, quantile)| {
            let values = series.iter().map(|s| quantile_or_dash(s, quantile));
            std::iter::once(name.to_owned()).chain(values).collect()
        })
        .collect();
    let lengths = series.iter().map(|s| count(s.0.len()));
    rows.push(std::iter::once("times".to_owned()).chain(lengths).collect());
    Table {
        title: "Latency",
        head: vec!["", "from the intended send", "from the actual send", "send lag"],
        rows,
    }
}

/// A percentile that no sample lies beyond would only repeat the longest time.
fn quantile_or_dash(series: &Series, quantile: f64) -> String {
    let samples = series.0.len();
    let beyond = (samples as f64 * (1.0 - quantile)).round();
    if samples == 0 || (quantile < 1.0 && beyond < 1.0) {
        return "–".to_owned();
    }
    microseconds(series.quantile_us(quantile))
}

pub(super) fn counts(outcome: &Outcome) -> Table {
    let (messages, connections) = (&outcome.messages, &outcome.connections);
    let rows = [
        ("Rate sent", or_dash(outcome.sent_rate(), per_second)),
        ("Rate received", or_dash(outcome.value_of(Metric::Rate), per_second)),
        ("Messages planned", count(messages.planned)),
        ("Messages sent", count(messages.sent)),
        ("Messages expected", count(messages.expected)),
        ("Messages received", count(messages.received)),
        ("Lost", count(messages.lost)),
        ("Duplicated", count(messages.duplicated)),
        ("Reordered", count(messages.reordered)),
        ("Corrupted", count(messages.corrupted)),
        ("Unsent, window full", count(messages.unsent)),
        ("Bytes sent", bytes(messages.bytes_sent as f64)),
        ("Bytes received", bytes(messages.bytes_received as f64)),
        ("Connections attempted", count(connections.attempted)),
        ("Connections ready", count(connections.ready)),
        ("Connections failed", count(connections.failed)),
        ("Connections lost", count(connections.lost)),
        ("Errors", count(outcome.error_count())),
    ];
    Table { title: "Counts", head: vec!["", ""], rows: rows.map(pair).into() }
}

/// Nothing if there were none.
pub(super) fn errors(outcome: &Outcome) -> Option<Table> {
    let mut kinds: Vec<_> = outcome.errors.iter().filter(|(_, number)| **number > 0).collect();
    kinds.sort_by_key(|&(_, number)| std::cmp::Reverse(number));
    let rows: Vec<_> =
        kinds.into_iter().map(|(kind, &number)| vec![kind.clone(), count(number)]).collect();
    (!rows.is_empty()).then(|| Table { title: "Errors", head: vec!["kind", "number"], rows })
}

pub(super) fn thresholds(outcome: &Outcome) -> Option<Table> {
    let results = &outcome.judgement.thresholds;
    let rows: Vec<_> = results
        .iter()
        .map(|result| {
            let metric = result.threshold.metric;
            let value = result
                .value
                .map_or("not measured".to_owned(), |v| in_dimension(v, metric.dimension()));
            let holds = if result.holds { "holds" } else { "does not hold" };
            vec![
                metric.title().to_owned(),
                bound(result.threshold.bound, metric.dimension()),
                value,
                holds.to_owned(),
            ]
        })
        .collect();
    let head = vec!["metric", "must be", "was", ""];
    (!rows.is_empty()).then_some(Table { title: "Thresholds", head, rows })
}

/// How long connections took to open, phase by phase.
pub(super) fn opening(outcome: &Outcome) -> Option<Table> {
    let latency = &outcome.latency;
    let phases = [
        ("TCP connect", &latency.connect),
        ("TLS handshake", &latency.handshake),
        ("Upgrade to the 101", &latency.upgrade),
        ("First message after it", &latency.first_message),
    ];
    let rows: Vec<_> = phases
        .into_iter()
        .filter(|(_, series)| !series.0.is_empty())
        .map(|(name, series)| {
            let values = [0.5, 0.99, 1.0].map(|quantile| quantile_or_dash(series, quantile));
            std::iter::once(name.to_owned()).chain(values).collect()
        })
        .collect();
    let head = vec!["phase", "p50", "p99", "longest"];
    (!rows.is_empty()).then_some(Table { title: "Opening connections", head, rows })
}

/// What the TLS of the connections is; nothing without TLS.
pub(super) fn handshakes(outcome: &Outcome) -> Option<Table> {
    let rows: Vec<_> = outcome
        .handshakes
        .iter()
        .map(|(agreed, &number)| vec![agreed.clone(), count(number)])
        .collect();
    let head = vec!["agreed", "number"];
    (!rows.is_empty()).then_some(Table { title: "TLS handshakes", head, rows })
}

pub(super) fn efficiency(outcome: &Outcome) -> Table {
    let measured = outcome.messages.measured;
    let per_message = |us: u64| {
        let share = (measured > 0).then(|| us as f64 / measured as f64);
        or_dash(share, microseconds)
    };
    let mut rows = Vec::new();
    let mut row = |name: &str, value: String| rows.push(vec![name.to_owned(), value]);
    if let Some(server) = &outcome.server {
        row("Server processor time per message", or_dash(server.cpu_us_per_message, microseconds));
        row("– in user mode", per_message(server.user_us));
        row("– in the kernel", per_message(server.system_us));
        for (name, us) in &server.threads {
            let each = (measured > 0).then(|| us / measured as f64);
            // Of those that do something for messages.
            if let Some(each) = each.filter(|each| *each >= 0.01) {
                row(&format!("– of {name}"), microseconds(each));
            }
        }
        if let Some((name, busy)) = &server.busiest_thread {
            row("Server's busiest thread", format!("{name}, {}", share(*busy)));
        }
        row("Server memory per connection", or_dash(server.bytes_per_connection, bytes));
        row("Server memory grown under the load", or_dash(server.bytes_grown(), bytes));
        row("Server switches, voluntary", or_dash(server.voluntary_switches, count));
        row("Server switches, involuntary", or_dash(server.involuntary_switches, count));
    }
    let threads = || outcome.generators.iter().flat_map(|generator| &generator.threads);
    let user: u64 = threads().map(|thread| thread.user_us).sum();
    let system: u64 = threads().map(|thread| thread.system_us).sum();
    row("Generator processor time per message", per_message(user + system));
    row("– in user mode", per_message(user));
    row("– in the kernel", per_message(system));
    row("Generator's busiest thread", share(threads().map(|t| t.busy).fold(0.0, f64::max)));
    let switches = |of: fn(&GeneratorUse) -> u64| count(outcome.generators.iter().map(of).sum());
    row("Generator switches, voluntary", switches(|generator| generator.voluntary_switches));
    row("Generator switches, involuntary", switches(|generator| generator.involuntary_switches));
    Table { title: "Efficiency", head: vec!["", ""], rows }
}

/// Of the search for the highest rate.
pub(super) fn rates(outcome: &Outcome) -> Option<Table> {
    let search = outcome.search.as_ref()?;
    let rows = search
        .points
        .iter()
        .map(|point| {
            vec![
                per_second(point.rate),
                per_second(point.achieved),
                microseconds(point.p50_us),
                microseconds(point.p99_us),
                microseconds(point.p999_us),
                count(point.faults),
                verdict_word(point.verdict).to_owned(),
            ]
        })
        .collect();
    let head = vec!["rate", "achieved", "p50", "p99", "p99.9", "faults", "verdict"];
    Some(Table { title: "Rates that were tried", head, rows })
}

/// What the search came to, in a sentence.
pub(super) fn search_result(outcome: &Outcome) -> Option<String> {
    let search = outcome.search.as_ref()?;
    let limit = search.limit.trim_end_matches('.');
    Some(match search.highest {
        Some(rate) => {
            format!("The highest rate that held is {}; beyond it: {}.", per_second(rate), limit)
        }
        None => format!("No rate held: {limit}."),
    })
}

/// Which generators, of which version.
pub(super) fn generators(outcome: &Outcome) -> Table {
    let rows = outcome
        .generators
        .iter()
        .map(|generator| {
            vec![
                generator.host.clone(),
                generator.version.clone(),
                count(generator.threads.len() as u64),
            ]
        })
        .collect();
    Table { title: "Generators", head: vec!["host", "version", "threads"], rows }
}

fn or_dash<T>(value: Option<T>, write: impl Fn(T) -> String) -> String {
    value.map_or("–".to_owned(), write)
}

fn pair((name, value): (&str, String)) -> Vec<String> {
    vec![name.to_owned(), value]
}
