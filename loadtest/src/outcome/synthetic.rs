//! Outcomes of runs that never were, for tests: a long-tailed latency, a time series, no faults.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::scenario::*;

pub(crate) const WARM_UP_INTERVALS: usize = 2;

pub(crate) fn scenario() -> Scenario {
    Scenario {
        name: "echo".to_owned(),
        description: "Echo through the gateway".to_owned(),
        target: Target {
            url: "ws://203.0.113.7:8080/connect".to_owned(),
            protocol: Protocol::Corelane,
            admin_url: None,
            kafka: None,
        },
        tls: Tls::default(),
        traffic: Traffic::Call {
            endpoints: vec!["/demo/echo".to_owned()],
            reply: Reply::Echo,
            channels: 1,
        },
        payload_bytes: 200,
        connections: Connections { count: 100, per_second: 0.0, opening: 32, sources: Vec::new() },
        arrival: Arrival::Poisson { rate: 20_000.0, window: None },
        timing: Timing {
            warm_up: Duration::from_secs(WARM_UP_INTERVALS as u64),
            duration: Duration::from_secs(10),
            patience: Duration::from_secs(5),
            interval: Duration::from_secs(1),
        },
        generator: Generator { threads: 2, cpus: Vec::new(), seed: 1, first_sender: 0 },
        validity: Validity { lag_p99_max: Duration::from_millis(1), busy_max: 0.9 },
        thresholds: Vec::new(),
        search: None,
    }
}

/// `measured` intervals of one second with `per_interval` messages each, after the warm-up's.
/// All times are multiplied by `slowness`.
pub(crate) fn outcome(seed: u64, measured: usize, per_interval: u64, slowness: f64) -> Outcome {
    let mut scenario = scenario();
    scenario.arrival = Arrival::Poisson { rate: per_interval as f64, window: None };
    scenario.timing.duration = Duration::from_secs(measured as u64);
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut latency = empty_latency();
    let mut intervals = Vec::new();
    for index in 0..WARM_UP_INTERVALS + measured {
        let in_measurement = index >= WARM_UP_INTERVALS;
        let mut series = Series::new();
        let mut lag_max_ns = 0;
        for _ in 0..per_interval {
            let from_send = (long_tailed(&mut rng, 120_000.0) * slowness) as u64;
            let lag = long_tailed(&mut rng, 6_000.0) as u64;
            series.record(from_send + lag);
            lag_max_ns = lag_max_ns.max(lag);
            if in_measurement {
                latency.from_send.record(from_send);
                latency.send_lag.record(lag);
            }
        }
        if in_measurement {
            latency.from_intended.add(&series);
        }
        intervals.push(Interval {
            from_seconds: index as f64,
            seconds: 1.0,
            sent: per_interval,
            received: per_interval,
            errors: 0,
            ready: 100,
            measured: in_measurement,
            from_intended: series,
            lag_max_ns,
        });
    }
    for _ in 0..100 {
        latency.connect.record(long_tailed(&mut rng, 90_000.0) as u64);
        latency.upgrade.record(long_tailed(&mut rng, 250_000.0) as u64);
        latency.first_message.record(long_tailed(&mut rng, 400_000.0) as u64);
    }
    let all = per_interval * (WARM_UP_INTERVALS + measured) as u64;
    let counted = per_interval * measured as u64;
    Outcome {
        format: FORMAT,
        scenario,
        started_unix_ms: 1_790_000_000_000,
        measured_seconds: measured as f64,
        generators: vec![generator()],
        connections: ConnectionCounts { attempted: 100, ready: 100, failed: 0, lost: 0 },
        messages: MessageCounts {
            planned: counted,
            sent: all,
            expected: all,
            received: all,
            measured: counted,
            bytes_sent: all * 239,
            bytes_received: all * 220,
            ..MessageCounts::default()
        },
        errors: BTreeMap::new(),
        handshakes: BTreeMap::new(),
        latency,
        intervals,
        server: Some(server(counted)),
        judgement: Judgement {
            verdict: Verdict::Passed,
            reasons: Vec::new(),
            notes: Vec::new(),
            thresholds: Vec::new(),
        },
        search: None,
    }
}

pub(crate) fn empty_latency() -> Latency {
    Latency {
        from_intended: Series::new(),
        from_send: Series::new(),
        send_lag: Series::new(),
        connect: Series::new(),
        handshake: Series::new(),
        upgrade: Series::new(),
        first_message: Series::new(),
    }
}

pub(crate) fn generator() -> GeneratorUse {
    let thread = |busy: f64| ThreadUse {
        user_us: (busy * 4e6) as u64,
        system_us: (busy * 6e6) as u64,
        busy,
    };
    GeneratorUse {
        host: "load-1".to_owned(),
        version: "0.1.0".to_owned(),
        threads: vec![thread(0.5), thread(0.375)],
        voluntary_switches: 12_000,
        involuntary_switches: 40,
    }
}

fn server(messages: u64) -> ServerUse {
    ServerUse {
        source: "pid 4242".to_owned(),
        user_us: messages * 2,
        system_us: messages * 5,
        cpu_us: messages as f64 * 7.25,
        busiest_thread: Some(("shard-1".to_owned(), 0.62)),
        threads: vec![("shard-1".to_owned(), 0.62e6)],
        cpu_us_per_message: Some(7.25),
        voluntary_switches: Some(31_000),
        involuntary_switches: Some(12),
        bytes_before: Some(48 << 20),
        bytes_with_connections: Some(49 << 20),
        bytes_after: Some(50 << 20),
        bytes_per_connection: Some((1 << 20) as f64 / 100.0),
    }
}

/// Around `median` nanoseconds; one in a thousand is up to two hundred times as long.
fn long_tailed(rng: &mut fastrand::Rng, median: f64) -> f64 {
    // The sum of four uniform numbers is near enough to a normal one.
    let normal: f64 = (0..4).map(|_| rng.f64() - 0.5).sum::<f64>() * 1.7;
    let common = median * (0.3 * normal).exp();
    if rng.f64() < 1e-3 { common * (1.0 / (1.0 - rng.f64())).min(200.0) } else { common }
}

/// A run in which nearly everything went wrong that can: errors of two kinds, faults, thresholds
/// that hold and that do not, a search. Not judged.
pub(crate) fn troubled(measured: usize, per_interval: u64) -> Outcome {
    let mut outcome = outcome(7, measured, per_interval, 1.0);
    outcome.errors = BTreeMap::from([("code 60".to_owned(), 2), ("refused: 503".to_owned(), 4)]);
    let late = outcome.intervals.len() * 2 / 3;
    outcome.intervals[late].errors = 6;
    outcome.intervals[late].received -= per_interval / 4;
    outcome.messages.lost = 3;
    outcome.messages.received -= 3;
    outcome.scenario.thresholds = [
        (Metric::P99Us, Bound::AtMost(5_000.0)),
        (Metric::P999Us, Bound::AtMost(900.0)),
        (Metric::Rate, Bound::AtLeast(per_interval as f64 * 0.9)),
        (Metric::ServerBytesPerConnection, Bound::AtMost(16_384.0)),
        (Metric::ReadyP99Us, Bound::AtMost(1_000.0)),
    ]
    .into_iter()
    .map(|(metric, bound)| Threshold { metric, bound })
    .collect();
    outcome.scenario.search = Some(Search {
        from: 5_000.0,
        to: 80_000.0,
        p999_max: Duration::from_millis(5),
        step_duration: Duration::from_secs(10),
        precision: 0.02,
        curve_points: 8,
    });
    let point = |rate: f64| {
        let load = rate / 52_000.0;
        let stretch = 1.0 / (1.0 - load.min(0.995));
        RatePoint {
            rate,
            achieved: rate.min(50_500.0),
            verdict: if rate > 48_000.0 { Verdict::Failed } else { Verdict::Passed },
            p50_us: (90.0 + 30.0 * stretch).round(),
            p99_us: (180.0 + 120.0 * stretch).round(),
            p999_us: (400.0 + 330.0 * stretch).round(),
            faults: if rate > 50_000.0 { 812 } else { 0 },
        }
    };
    let rates = [5e3, 11e3, 17e3, 24e3, 30e3, 36e3, 42e3, 47_600.0, 49e3, 52e3];
    outcome.search = Some(SearchFound {
        highest: Some(47_600.0),
        limit: "at 49000 per second the p99.9 was 6.1 ms".to_owned(),
        points: rates.map(point).into(),
    });
    outcome
}
