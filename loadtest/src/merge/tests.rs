use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::outcome::{GeneratorUse, Interval, synthetic};
use crate::scenario::{Bound, Metric, Threshold};

const CONNECTIONS: usize = 10;
const INTERVALS: usize = 4;

/// A message as it went through one generator.
#[derive(Clone, Debug)]
struct Message {
    generator: usize,
    interval: usize,
    latency_ns: u64,
    lag_ns: u64,
    lost: bool,
    error: Option<&'static str>,
}

fn messages() -> impl Strategy<Value = Vec<Message>> {
    let latency = prop_oneof![1..1_000_000_u64, 1..100_000_000_000_u64];
    let error = prop_oneof![5 => Just(None), 1 => Just(Some("reset")), 1 => Just(Some("code 60"))];
    let message = (0..3_usize, 0..INTERVALS, latency, 0..1_000_000_u64, any::<bool>(), error);
    let message = message.prop_map(|(generator, interval, latency_ns, lag_ns, lost, error)| {
        Message { generator, interval, latency_ns, lag_ns, lost, error }
    });
    proptest::collection::vec(message, 0..60)
}

/// What the given generators of three found, as if they were one.
fn found(messages: &[Message], generators: &[usize]) -> Outcome {
    let mut outcome = synthetic::outcome(1, 0, 0, 1.0);
    let number = generators.len();
    let scenario = &mut outcome.scenario;
    scenario.connections.count = CONNECTIONS * number;
    scenario.connections.per_second = 50.0 * number as f64;
    scenario.generator.threads = 2 * number;
    scenario.generator.first_sender = (generators[0] * CONNECTIONS) as u32;
    scenario.arrival = Arrival::Poisson { rate: 125.0 * number as f64, window: None };
    scenario.timing.warm_up = Duration::from_secs(1);
    outcome.measured_seconds = (INTERVALS - 1) as f64;
    outcome.generators = generators.iter().map(|index| named_generator(*index)).collect();
    outcome.connections.attempted = (CONNECTIONS * number) as u64;
    outcome.connections.ready = (CONNECTIONS * number) as u64;
    outcome.latency = synthetic::empty_latency();
    outcome.intervals = (0..INTERVALS).map(|index| empty_interval(index, number)).collect();
    let counts = &mut outcome.messages;
    for message in messages.iter().filter(|message| generators.contains(&message.generator)) {
        let interval = &mut outcome.intervals[message.interval];
        counts.sent += 1;
        counts.expected += 1;
        interval.sent += 1;
        interval.lag_max_ns = interval.lag_max_ns.max(message.lag_ns);
        outcome.latency.send_lag.record(message.lag_ns);
        // As if each came on a connection of its own.
        outcome.latency.handshake.record(message.lag_ns);
        let agreed = if message.lost { "TLS 1.3, full" } else { "TLS 1.3, resumed" };
        *outcome.handshakes.entry(agreed.to_owned()).or_default() += 1;
        if let Some(kind) = message.error {
            *outcome.errors.entry(kind.to_owned()).or_default() += 1;
            interval.errors += 1;
        }
        if message.lost {
            counts.lost += 1;
            continue;
        }
        counts.received += 1;
        counts.measured += u64::from(interval.measured);
        interval.received += 1;
        interval.from_intended.record(message.latency_ns);
        outcome.latency.from_intended.record(message.latency_ns);
    }
    // All generators look at the same process.
    let server = outcome.server.as_mut().unwrap();
    server.cpu_us_per_message =
        (counts.measured > 0).then(|| server.cpu_us / counts.measured as f64);
    server.bytes_per_connection = Some((1 << 20) as f64 / (CONNECTIONS * number) as f64);
    outcome.judgement.verdict = Verdict::Invalid;
    outcome.judgement.reasons = vec!["The merged result has not been judged.".to_owned()];
    outcome
}

fn named_generator(index: usize) -> GeneratorUse {
    let involuntary_switches = index as u64;
    GeneratorUse { involuntary_switches, ..synthetic::generator() }
}

fn empty_interval(index: usize, generators: usize) -> Interval {
    Interval {
        from_seconds: index as f64,
        seconds: 1.0,
        sent: 0,
        received: 0,
        errors: 0,
        ready: (CONNECTIONS * generators) as u64,
        measured: index > 0,
        from_intended: Series::new(),
        lag_max_ns: 0,
    }
}

fn as_json(outcome: &Outcome) -> String {
    serde_json::to_string(outcome).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_parts_make_the_whole_in_any_order(
        messages in messages(),
        order in Just(vec![0, 1, 2]).prop_shuffle(),
    ) {
        let parts = order.iter().map(|index| found(&messages, &[*index])).collect();
        let whole = found(&messages, &[0, 1, 2]);
        let merged = merge(parts).unwrap();
        prop_assert_eq!(as_json(&merged), as_json(&whole));
    }

    #[test]
    fn merging_in_steps_gives_the_same(messages in messages()) {
        let part = |index| found(&messages, &[index]);
        let pair = merge(vec![part(1), part(0)]).unwrap();
        let in_steps = merge(vec![part(2), pair]).unwrap();
        let at_once = merge(vec![part(0), part(1), part(2)]).unwrap();
        prop_assert_eq!(as_json(&in_steps), as_json(&at_once));
    }
}

fn two() -> (Outcome, Outcome) {
    (found(&[], &[0]), found(&[], &[1]))
}

#[test]
fn nothing_to_merge_is_an_error() {
    assert_eq!(merge(Vec::new()).unwrap_err(), MergeError::Nothing);
}

#[test]
fn one_outcome_stays_what_it_is() {
    let (one, _) = two();
    assert_eq!(as_json(&merge(vec![one.clone()]).unwrap()), as_json(&one));
}

type Change = fn(&mut Scenario);

#[test]
fn another_scenario_is_refused_by_the_field() {
    let changes: [(&str, Change); 5] = [
        ("tls.resume", |s| s.tls.resume = true),
        ("payload_bytes", |s| s.payload_bytes += 1),
        ("timing.patience", |s| s.timing.patience *= 2),
        ("arrival.window", |s| s.arrival = Arrival::Poisson { rate: 125.0, window: Some(1) }),
        ("thresholds", |s| {
            s.thresholds.push(Threshold { metric: Metric::Rate, bound: Bound::AtLeast(1.0) });
        }),
    ];
    for (field, change) in changes {
        let (a, mut b) = two();
        change(&mut b.scenario);
        let error = merge(vec![a, b]).unwrap_err();
        assert_eq!(error, MergeError::Scenario { field: field.to_owned() });
    }
}

#[test]
fn what_belongs_to_one_generator_may_differ() {
    let (mut a, mut b) = two();
    a.scenario.connections.sources = vec!["127.0.0.3".parse().unwrap()];
    b.scenario.connections.sources = vec!["127.0.0.2".parse().unwrap()];
    b.scenario.generator.seed = 99;
    b.scenario.generator.cpus = vec![3];
    b.scenario.tls.ca = Some("elsewhere.pem".into());
    b.scenario.arrival = Arrival::Poisson { rate: 75.0, window: None };
    let merged = merge(vec![b, a]).unwrap().scenario;
    assert_eq!(merged.arrival, Arrival::Poisson { rate: 200.0, window: None });
    assert_eq!(merged.connections.sources.len(), 2);
    assert_eq!(merged.generator.seed, 1);
}

#[test]
fn overlapping_senders_are_refused() {
    let (a, mut b) = two();
    b.scenario.generator.first_sender = 9;
    assert!(matches!(merge(vec![b, a]), Err(MergeError::Senders { first: 0, second: 9, .. })));
}

#[test]
fn runs_at_different_times_are_refused() {
    let (a, mut b) = two();
    b.started_unix_ms += 4000;
    assert_eq!(merge(vec![b, a]).unwrap_err(), MergeError::Apart { gap_ms: 1000 });
}

#[test]
fn searches_are_refused() {
    let (mut a, _) = two();
    a.search = synthetic::troubled(1, 10).search;
    assert_eq!(merge(vec![a]).unwrap_err(), MergeError::Search);
}

#[test]
fn a_later_start_moves_intervals_by_the_clock() {
    let (mut a, mut b) = two();
    (a.intervals[3].sent, b.intervals[2].sent) = (5, 7);
    b.started_unix_ms += 1100;
    let merged = merge(vec![a, b]).unwrap();
    assert_eq!(merged.intervals.len(), 5);
    assert_eq!(merged.intervals[3].sent, 12);
    assert!(!merged.intervals[1].measured, "the later one still warms up");
    assert_eq!(merged.measured_seconds, 4.1);
}

#[test]
fn one_server_counts_once_and_two_add_up() {
    let (mut a, mut b) = two();
    for part in [&mut a, &mut b] {
        part.messages.measured = 100;
        part.server.as_mut().unwrap().cpu_us = 1000.0;
        part.server.as_mut().unwrap().cpu_us_per_message = Some(10.0);
    }
    let once = merge(vec![a.clone(), b.clone()]).unwrap().server.unwrap();
    assert_eq!((once.cpu_us, once.cpu_us_per_message), (1000.0, Some(5.0)));
    b.generators[0].host = "load-2".to_owned();
    let twice = merge(vec![a, b]).unwrap().server.unwrap();
    assert_eq!((twice.cpu_us, twice.cpu_us_per_message), (2000.0, Some(10.0)));
    assert_eq!(twice.source, "pid 4242 and pid 4242");
}
