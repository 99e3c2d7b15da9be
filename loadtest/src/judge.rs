//! Whether a run passed, failed, or says nothing because the generator was the limit; and what a
//! reader must know even of a good run. Judging again gives the same: only the outcome counts.

use std::net::IpAddr;
use std::process::ExitCode;

use crate::outcome::metrics::Dimension;
use crate::outcome::{Judgement, Outcome, ThresholdResult, Verdict};
use crate::quantity::{self, count, in_dimension, microseconds, per_second, share};
use crate::scenario::{Arrival, Bound, Threshold, Traffic};

/// How the process ends: the one list of exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Passed = 0,
    Failed = 1,
    /// The command line or the scenario is wrong; nothing was run.
    Usage = 2,
    Invalid = 3,
}

impl From<Verdict> for Exit {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Passed => Self::Passed,
            Verdict::Failed => Self::Failed,
            Verdict::Invalid => Self::Invalid,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Values below this many samples beyond a percentile are mostly chance.
const SAMPLES_BEYOND_P999: u64 = 10;

/// Fills `outcome.judgement`.
///
/// An invalid run stays invalid whatever its thresholds say. Only messages that came twice, in
/// another order or changed fail it all the same, because no slow generator does that.
pub fn judge(outcome: &mut Outcome) {
    let generator_limits =
        if outcome.scenario.is_open_loop() { generator_limits(outcome) } else { Vec::new() };
    let thresholds: Vec<_> =
        outcome.scenario.thresholds.iter().map(|t| hold_against(t, outcome)).collect();
    let mut failures = faults(outcome);
    failures.extend(thresholds.iter().filter(|t| !t.holds).map(broken_threshold));

    let messages = &outcome.messages;
    let wrong_messages = messages.duplicated + messages.reordered + messages.corrupted > 0;
    let verdict = match (generator_limits.is_empty(), failures.is_empty()) {
        (true, true) => Verdict::Passed,
        (true, false) => Verdict::Failed,
        (false, _) if wrong_messages => Verdict::Failed,
        (false, _) => Verdict::Invalid,
    };
    let reasons = match verdict {
        Verdict::Failed => failures.into_iter().chain(generator_limits).collect(),
        _ => generator_limits.into_iter().chain(failures).collect(),
    };
    outcome.judgement = Judgement { verdict, reasons, notes: notes(outcome), thresholds };
}

/// What to do about a generator that is too slow.
const NEXT_STEP: &str = "use more threads or another machine for the generator, or a lower rate";

fn generator_limits(outcome: &Outcome) -> Vec<String> {
    let validity = &outcome.scenario.validity;
    let mut limits = Vec::new();
    let lag_us = outcome.latency.send_lag.quantile_us(0.99);
    let lag_max_us = validity.lag_p99_max.as_secs_f64() * 1e6;
    if lag_us > lag_max_us {
        limits.push(format!(
            "The generator sent too late: the p99 of its send lag is {}, and at most {} is \
             allowed; {NEXT_STEP}.",
            microseconds(lag_us),
            microseconds(lag_max_us),
        ));
    }
    let busy = busiest_generator_thread(outcome);
    if busy > validity.busy_max {
        limits.push(format!(
            "The generator was the limit: its busiest thread used {} of a processor, and at most \
             {} is allowed; {NEXT_STEP}.",
            share(busy),
            share(validity.busy_max),
        ));
    }
    // What was begun has the warm-up's share in it, so this is the least that can have been left out.
    let messages = &outcome.messages;
    let (begun, what) = if outcome.opens_connections_by_plan() {
        (outcome.connections.attempted, "connections")
    } else {
        (messages.sent, "messages")
    };
    let left_out = messages.planned.saturating_sub(begun + messages.unsent);
    if left_out > 0 {
        limits.push(format!(
            "The generator did not get to {} of {} planned {what}; {NEXT_STEP}.",
            count(left_out),
            count(messages.planned),
        ));
    }
    limits
}

fn busiest_generator_thread(outcome: &Outcome) -> f64 {
    let threads = outcome.generators.iter().flat_map(|generator| &generator.threads);
    threads.map(|thread| thread.busy).fold(0.0, f64::max)
}

fn hold_against(threshold: &Threshold, outcome: &Outcome) -> ThresholdResult {
    let value = outcome.value_of(threshold.metric);
    let holds = value.is_some_and(|value| match threshold.bound {
        Bound::AtMost(limit) => value <= limit,
        Bound::AtLeast(limit) => value >= limit,
    });
    ThresholdResult { threshold: threshold.clone(), value, holds }
}

fn broken_threshold(result: &ThresholdResult) -> String {
    let Threshold { metric, bound } = result.threshold;
    let title = metric.title();
    let wanted = quantity::bound(bound, metric.dimension());
    let Some(value) = result.value else {
        return format!("The {title} must be {wanted}, and the run did not measure it.");
    };
    let verb = if metric.dimension() == Dimension::Count { "were" } else { "was" };
    let value = in_dimension(value, metric.dimension());
    format!("The {title} {verb} {value} and must be {wanted}.")
}

fn faults(outcome: &Outcome) -> Vec<String> {
    let messages = &outcome.messages;
    let mut faults = Vec::new();
    let kinds = [
        (messages.corrupted, "came back changed"),
        (messages.duplicated, "came more than once"),
        (messages.reordered, "came in another order than they were sent"),
        (messages.lost, "were lost"),
    ];
    for (number, what) in kinds.into_iter().filter(|&(number, _)| number > 0) {
        faults.push(format!(
            "{} of {} expected messages {what}.",
            count(number),
            count(messages.expected),
        ));
    }
    let connections = &outcome.connections;
    if connections.lost > 0 && !expects_lost_connections(&outcome.scenario.traffic) {
        faults.push(format!(
            "{} of {} connections were ended by the server or the network before the run did.",
            count(connections.lost),
            count(connections.ready),
        ));
    }
    if messages.unsent > 0 {
        faults.push(format!(
            "{} of {} planned messages were never sent, because the window was full until the \
             end: the server did not keep up, and no percentile has their delay in it.",
            count(messages.unsent),
            count(messages.planned),
        ));
    }
    if let Some(search) = &outcome.search
        && search.highest.is_none()
    {
        faults.push(format!("Not even the lowest rate of the search held: {}.", search.limit));
    }
    let received = match outcome.scenario.arrival {
        // It was published before.
        Arrival::Backlog { .. } => messages.measured > 0,
        _ => !outcome.latency.from_intended.0.is_empty(),
    };
    if measures_latency(&outcome.scenario.traffic) && !received {
        faults.push("Nothing was received within the measurement.".to_owned());
    }
    faults
}

/// All connections are reset halfway, and what the server ends meanwhile is part of the load.
fn expects_lost_connections(traffic: &Traffic) -> bool {
    matches!(traffic, Traffic::Reconnect { .. })
}

fn measures_latency(traffic: &Traffic) -> bool {
    !matches!(traffic, Traffic::Hold)
}

fn notes(outcome: &Outcome) -> Vec<String> {
    let scenario = &outcome.scenario;
    let mut notes = Vec::new();
    if is_loopback(&scenario.target.url) {
        notes.push(
            "Generator and server share a machine (loopback): no network is in the figures, and \
             both compete for the same processors and caches."
                .to_owned(),
        );
    }
    if let Arrival::Closed { in_flight } = scenario.arrival {
        notes.push(format!(
            "Closed loop with {in_flight} in flight: while the server stalls nothing is sent, so \
             the time that users would have waited is not in the latency."
        ));
        let busy = busiest_generator_thread(outcome);
        if busy > scenario.validity.busy_max {
            notes.push(format!(
                "The busiest generator thread used {} of a processor: the rate is the \
                 generator's, not the server's; processor time per message still holds.",
                share(busy),
            ));
        }
    }
    match scenario.traffic {
        Traffic::Peer { .. } | Traffic::Broadcast { .. } => notes.push(
            "Times are one way: from the sender to the receiver, not there and back.".to_owned(),
        ),
        Traffic::Push if matches!(scenario.arrival, Arrival::Backlog { .. }) => notes.push(
            "All was published while the server stood still: what a delivery costs it is measured, \
             and no times."
                .to_owned(),
        ),
        Traffic::Push if scenario.target.kafka.is_some() => notes.push(
            "Times are one way, from when an event was to be published until its client had it, \
             brokers included."
                .to_owned(),
        ),
        Traffic::Push => notes.push(
            "Times are one way, from the server's stamp to its receipt: they hold as far as the \
             two clocks agree."
                .to_owned(),
        ),
        _ => {}
    }
    let connections = &outcome.connections;
    if connections.failed > 0 {
        notes.push(format!(
            "{} of {} connections did not become ready; the others carried the load.",
            count(connections.failed),
            count(connections.attempted),
        ));
    }
    let samples = outcome.latency.from_intended.0.len();
    if samples > 0 && samples < SAMPLES_BEYOND_P999 * 1000 {
        notes.push(format!(
            "The p99.9 rests on the longest {} of {} times: mostly chance.",
            count(samples.div_ceil(1000)),
            count(samples),
        ));
    }
    if let (Some(sent), Some(planned)) = (outcome.sent_rate(), planned_rate(&scenario.arrival))
        && sent < planned * 0.99
    {
        notes.push(format!(
            "{} were planned and {} were sent.",
            per_second(planned),
            per_second(sent),
        ));
    }
    if outcome.generators.len() > 1 {
        notes.push(format!("{} generators' results are put together.", outcome.generators.len()));
    }
    notes
}

/// The same throughout the run; nothing if it changes or follows the server.
fn planned_rate(arrival: &Arrival) -> Option<f64> {
    match *arrival {
        Arrival::Constant { rate, .. } => Some(rate),
        // The others scatter around their mean or change on purpose.
        _ => None,
    }
}

fn is_loopback(url: &str) -> bool {
    let authority = url.split("://").nth(1).and_then(|rest| rest.split('/').next());
    let host = authority.and_then(|a| a.rsplit_once(':')).map_or("", |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests;
