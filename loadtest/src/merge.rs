//! Puts the outcomes of several generators that ran at the same time together as if one generator
//! had made all of the load. Nothing is estimated: histograms and counts are added. The result is
//! not judged here.

mod intervals;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use thiserror::Error;

use crate::outcome::{
    ConnectionCounts, FORMAT, Judgement, Latency, MessageCounts, Outcome, Series, ServerUse,
    Verdict,
};
use crate::scenario::{Arrival, Scenario};
use crate::scenario_difference::differing_fields;

/// Why outcomes do not make one.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum MergeError {
    #[error("there is no outcome to merge")]
    Nothing,
    #[error(
        "the scenarios differ in `{field}`: only sources, connection counts, rates, seed, threads, \
         processors, first_sender and the file of authorities may differ between generators"
    )]
    Scenario { field: String },
    #[error(
        "two generators number their senders alike: from {first} and from {second}, with {count} \
         connections each side; give each generator its own first_sender"
    )]
    Senders { first: u32, second: u32, count: usize },
    #[error("the runs did not overlap: one ended {gap_ms} ms before another began")]
    Apart { gap_ms: u64 },
    #[error("the outcome of a search has no single run in it that could be merged")]
    Search,
}

/// What may differ; all of it is put together, or belongs to one generator alone.
const MAY_DIFFER: [&str; 11] = [
    "arrival.rate",
    "arrival.from",
    "arrival.to",
    "connections.count",
    "connections.per_second",
    "connections.sources",
    "generator.cpus",
    "generator.first_sender",
    "generator.seed",
    "generator.threads",
    "tls.ca",
];

/// The order of `parts` does not matter. The caller judges the result.
pub fn merge(mut parts: Vec<Outcome>) -> Result<Outcome, MergeError> {
    parts.sort_by_key(|part| part.scenario.generator.first_sender);
    let first = parts.first().ok_or(MergeError::Nothing)?;
    for part in &parts[1..] {
        check_same(&first.scenario, &part.scenario)?;
    }
    if parts.iter().any(|part| part.search.is_some()) {
        return Err(MergeError::Search);
    }
    check_senders(&parts)?;
    let (started_unix_ms, measured_seconds) = measurement(&parts)?;
    let mut messages = MessageCounts::default();
    for part in &parts {
        add_messages(&mut messages, &part.messages);
    }
    let mut errors = BTreeMap::new();
    for (kind, number) in parts.iter().flat_map(|part| &part.errors) {
        *errors.entry(kind.clone()).or_default() += number;
    }
    let mut handshakes = BTreeMap::new();
    for (agreed, number) in parts.iter().flat_map(|part| &part.handshakes) {
        *handshakes.entry(agreed.clone()).or_default() += number;
    }
    let connections = parts.iter().fold(ConnectionCounts::default(), add_connections);
    let server = server(&parts, messages.measured, connections.ready);
    Ok(Outcome {
        format: FORMAT,
        scenario: scenario(&parts, &first.scenario),
        started_unix_ms,
        measured_seconds,
        connections,
        messages,
        errors,
        handshakes,
        latency: latency(&parts),
        intervals: intervals::aligned(&parts),
        server,
        generators: parts.into_iter().flat_map(|part| part.generators).collect(),
        judgement: Judgement {
            verdict: Verdict::Invalid,
            reasons: vec!["The merged result has not been judged.".to_owned()],
            notes: Vec::new(),
            thresholds: Vec::new(),
        },
        search: None,
    })
}

fn check_same(a: &Scenario, b: &Scenario) -> Result<(), MergeError> {
    let mut fields = differing_fields(a, b).into_iter();
    match fields.find(|field| !MAY_DIFFER.contains(&field.as_str())) {
        Some(field) => Err(MergeError::Scenario { field }),
        None => Ok(()),
    }
}

/// `parts` are in the order of their first senders.
fn check_senders(parts: &[Outcome]) -> Result<(), MergeError> {
    for pair in parts.windows(2) {
        let (a, b) = (&pair[0].scenario, &pair[1].scenario);
        let (first, second) = (a.generator.first_sender, b.generator.first_sender);
        let count = a.connections.count;
        if (u64::from(first) + count as u64) > u64::from(second) {
            return Err(MergeError::Senders { first, second, count });
        }
    }
    Ok(())
}

/// From the first start to the last end, so that rates never come out too high.
fn measurement(parts: &[Outcome]) -> Result<(u64, f64), MergeError> {
    let start = parts.iter().map(|part| part.started_unix_ms).min().unwrap_or(0);
    let after_start = |part: &Outcome| (part.started_unix_ms - start) as f64 / 1e3;
    let ends = || parts.iter().map(|part| after_start(part) + part.measured_seconds);
    let last_start = parts.iter().map(after_start).fold(0.0, f64::max);
    let first_end = ends().fold(f64::MAX, f64::min);
    if last_start > first_end {
        return Err(MergeError::Apart { gap_ms: ((last_start - first_end) * 1e3).ceil() as u64 });
    }
    Ok((start, ends().fold(0.0, f64::max)))
}

/// As if one generator had been given all of the load.
fn scenario(parts: &[Outcome], first: &Scenario) -> Scenario {
    let all = || parts.iter().map(|part| &part.scenario);
    let mut merged = first.clone();
    let sources: BTreeSet<IpAddr> =
        all().flat_map(|scenario| scenario.connections.sources.iter().copied()).collect();
    merged.connections.sources = sources.into_iter().collect();
    merged.connections.count = all().map(|scenario| scenario.connections.count).sum();
    // One that opens as fast as the server answers sets no rate for all.
    let per_second = || all().map(|scenario| scenario.connections.per_second);
    let unlimited = per_second().any(|rate| rate == 0.0);
    merged.connections.per_second = if unlimited { 0.0 } else { per_second().sum() };
    merged.generator.threads = all().map(|scenario| scenario.generator.threads).sum();
    merged.generator.cpus = all().flat_map(|s| s.generator.cpus.iter().copied()).collect();
    let rate_of = |of: fn(&Arrival) -> f64| all().map(|scenario| of(&scenario.arrival)).sum();
    match &mut merged.arrival {
        Arrival::Closed { .. } | Arrival::Replay { .. } | Arrival::Backlog { .. } => {}
        Arrival::Constant { rate, .. }
        | Arrival::Poisson { rate, .. }
        | Arrival::Burst { rate, .. } => *rate = rate_of(starting_rate),
        Arrival::Ramp { from, to, .. } => {
            *from = rate_of(starting_rate);
            *to = rate_of(ending_rate);
        }
    }
    merged
}

fn starting_rate(arrival: &Arrival) -> f64 {
    match *arrival {
        Arrival::Constant { rate, .. }
        | Arrival::Poisson { rate, .. }
        | Arrival::Burst { rate, .. } => rate,
        Arrival::Ramp { from, .. } => from,
        Arrival::Closed { .. } | Arrival::Replay { .. } | Arrival::Backlog { .. } => 0.0,
    }
}

fn ending_rate(arrival: &Arrival) -> f64 {
    match *arrival {
        Arrival::Ramp { to, .. } => to,
        _ => starting_rate(arrival),
    }
}

fn add_messages(sum: &mut MessageCounts, part: &MessageCounts) {
    let MessageCounts {
        planned,
        sent,
        expected,
        received,
        lost,
        duplicated,
        reordered,
        corrupted,
        unsent,
        measured,
        bytes_sent,
        bytes_received,
    } = part;
    sum.planned += planned;
    sum.sent += sent;
    sum.expected += expected;
    sum.received += received;
    sum.lost += lost;
    sum.duplicated += duplicated;
    sum.reordered += reordered;
    sum.corrupted += corrupted;
    sum.unsent += unsent;
    sum.measured += measured;
    sum.bytes_sent += bytes_sent;
    sum.bytes_received += bytes_received;
}

fn add_connections(mut sum: ConnectionCounts, part: &Outcome) -> ConnectionCounts {
    let ConnectionCounts { attempted, ready, failed, lost } = part.connections;
    sum.attempted += attempted;
    sum.ready += ready;
    sum.failed += failed;
    sum.lost += lost;
    sum
}

fn latency(parts: &[Outcome]) -> Latency {
    let sum = |of: fn(&Latency) -> &Series| {
        let mut sum = Series::new();
        for part in parts {
            sum.add(of(&part.latency));
        }
        sum
    };
    Latency {
        from_intended: sum(|latency| &latency.from_intended),
        from_send: sum(|latency| &latency.from_send),
        send_lag: sum(|latency| &latency.send_lag),
        connect: sum(|latency| &latency.connect),
        handshake: sum(|latency| &latency.handshake),
        upgrade: sum(|latency| &latency.upgrade),
        first_message: sum(|latency| &latency.first_message),
    }
}

/// Who looked at what: the same process number on two hosts is two processes.
type Observed<'a> = (&'a str, &'a str);

/// Each observed server once, and added up if they are several. Shares of one message or
/// connection are of all generators' messages and connections.
fn server(parts: &[Outcome], measured: u64, ready: u64) -> Option<ServerUse> {
    let mut servers: BTreeMap<Observed<'_>, ServerUse> = BTreeMap::new();
    for part in parts {
        let Some(server) = &part.server else { continue };
        let host = part.generators.first().map_or("", |generator| generator.host.as_str());
        servers
            .entry((&server.source, host))
            .and_modify(|seen| *seen = wider(seen, server))
            .or_insert_with(|| server.clone());
    }
    let mut servers = servers.into_values();
    let first = servers.next()?;
    let mut sum = servers.fold(first, |sum, server| both(&sum, &server));
    sum.cpu_us_per_message =
        sum.cpu_us_per_message.and((measured > 0).then(|| sum.cpu_us / measured as f64));
    sum.bytes_per_connection = sum
        .bytes_with_connections
        .zip(sum.bytes_before)
        .filter(|_| sum.bytes_per_connection.is_some() && ready > 0)
        .map(|(with, before)| with.saturating_sub(before) as f64 / ready as f64);
    Some(sum)
}

/// Of two looks at one server during the same run, all that either saw.
fn wider(a: &ServerUse, b: &ServerUse) -> ServerUse {
    let longer = if a.cpu_us >= b.cpu_us { a } else { b };
    ServerUse {
        bytes_before: pick(a.bytes_before, b.bytes_before, u64::min),
        bytes_with_connections: pick(a.bytes_with_connections, b.bytes_with_connections, u64::max),
        bytes_after: pick(a.bytes_after, b.bytes_after, u64::max),
        cpu_us_per_message: a.cpu_us_per_message.or(b.cpu_us_per_message),
        bytes_per_connection: a.bytes_per_connection.or(b.bytes_per_connection),
        ..longer.clone()
    }
}

/// Of two servers. A figure that one of them lacks is not known of both.
fn both(a: &ServerUse, b: &ServerUse) -> ServerUse {
    let add = |a: Option<u64>, b: Option<u64>| a.zip(b).map(|(a, b)| a + b);
    let busier = [&a.busiest_thread, &b.busiest_thread];
    let busiest_thread =
        busier.into_iter().flatten().max_by(|(_, a), (_, b)| a.total_cmp(b)).cloned();
    ServerUse {
        source: format!("{} and {}", a.source, b.source),
        user_us: a.user_us + b.user_us,
        system_us: a.system_us + b.system_us,
        cpu_us: a.cpu_us + b.cpu_us,
        threads: a.threads.iter().chain(&b.threads).cloned().collect(),
        busiest_thread,
        cpu_us_per_message: a.cpu_us_per_message.and(b.cpu_us_per_message),
        voluntary_switches: add(a.voluntary_switches, b.voluntary_switches),
        involuntary_switches: add(a.involuntary_switches, b.involuntary_switches),
        bytes_before: add(a.bytes_before, b.bytes_before),
        bytes_with_connections: add(a.bytes_with_connections, b.bytes_with_connections),
        bytes_after: add(a.bytes_after, b.bytes_after),
        bytes_per_connection: a.bytes_per_connection.and(b.bytes_per_connection),
    }
}

fn pick(a: Option<u64>, b: Option<u64>, of_two: fn(u64, u64) -> u64) -> Option<u64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(of_two(a, b)),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests;
