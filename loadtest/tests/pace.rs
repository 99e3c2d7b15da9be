//! Open loops keep to their plan, and a generator that cannot says so itself.

mod support;

use std::time::Duration;

use corelane_loadtest::outcome::Outcome;
use corelane_loadtest::scenario::{Arrival, Protocol, Reply, Scenario, Traffic};
use corelane_loadtest::stamp::Stamp;

use support::{BINARY, CLOSE, Peer, frame, outcome_of, scenario, serve};

fn echo() -> std::net::SocketAddr {
    serve(|mut peer| {
        echo_all(&mut peer);
    })
}

fn echo_all(peer: &mut Peer) -> Option<()> {
    peer.upgrade()?;
    loop {
        let mut out = Vec::new();
        let messages = peer.read_messages()?;
        for (first, payload) in &messages {
            out.extend(frame(*first, payload));
        }
        peer.send(&out)?;
        if messages.iter().any(|(first, _)| *first == CLOSE) {
            return None;
        }
    }
}

fn open(scenario: &Scenario, arrival: Arrival) -> Outcome {
    let mut scenario = scenario.clone();
    scenario.arrival = arrival;
    outcome_of(&scenario)
}

#[test]
fn everything_planned_is_sent_once_whatever_the_threads() {
    let mut scenario = scenario(echo());
    scenario.connections.count = 7;
    for threads in [1, 3] {
        scenario.generator.threads = threads;
        for arrival in [
            Arrival::Constant { rate: 1000.0, window: None },
            Arrival::Poisson { rate: 1000.0, window: Some(2) },
            Arrival::Burst { rate: 1000.0, size: 100, window: Some(1) },
            Arrival::Ramp { from: 0.0, to: 2000.0, window: None },
        ] {
            let outcome = open(&scenario, arrival.clone());
            let messages = &outcome.messages;
            let whole = corelane_loadtest::schedule::Schedule::new(
                &arrival,
                Duration::from_secs(1),
                scenario.generator.seed,
            );
            let (warm_up, measured): (Vec<u64>, Vec<u64>) =
                whole.partition(|&offset| offset < 100_000_000);
            assert_eq!(messages.planned, measured.len() as u64, "{arrival:?}");
            assert_eq!(messages.sent, (warm_up.len() + measured.len()) as u64);
            assert_eq!((messages.received, messages.unsent), (messages.sent, 0));
            assert_eq!(outcome.latency.from_intended.0.len(), messages.planned);
            let in_intervals: u64 = outcome.intervals.iter().map(|i| i.received).sum();
            assert_eq!(in_intervals, messages.received);
        }
    }
}

#[test]
fn a_rate_that_the_generator_cannot_hold_shows_in_its_lag() {
    let mut scenario = scenario(echo());
    scenario.connections.count = 64;
    scenario.timing.warm_up = Duration::ZERO;
    scenario.timing.duration = Duration::from_millis(200);
    let outcome = open(&scenario, Arrival::Constant { rate: 20e6, window: None });
    let lag = outcome.latency.send_lag.quantile_us(0.99);
    let limit = scenario.validity.lag_p99_max.as_secs_f64() * 1e6;
    assert!(lag > limit, "{lag} µs");
}

#[test]
fn a_window_that_is_never_opened_leaves_its_messages_unsent() {
    let mute = serve(|mut peer| {
        let _ = peer.upgrade();
        while peer.read_messages().is_some() {}
    });
    let mut scenario = scenario(mute);
    scenario.timing.patience = Duration::from_secs(2);
    scenario.timing.warm_up = Duration::ZERO;
    scenario.timing.duration = Duration::from_millis(500);
    let outcome = open(&scenario, Arrival::Constant { rate: 200.0, window: Some(1) });
    let messages = &outcome.messages;
    // Once in its time, and once more for each that the patience gave up.
    assert_eq!(messages.sent + messages.unsent, 100);
    assert_eq!((messages.lost, messages.received), (messages.sent, 0));
    assert!(messages.unsent >= 80, "{messages:?}");
}

/// Answers of a backend's own, without any stamp, matched by their order.
#[test]
fn answers_without_a_stamp_are_counted_and_timed() {
    let upstream = serve(|mut peer| {
        let _ = (|| {
            peer.upgrade()?;
            loop {
                for (first, payload) in peer.read_messages()? {
                    match first {
                        BINARY => {
                            assert!(Stamp::read(&payload).is_ok());
                            peer.send(&frame(0x81, b"{}"))?;
                        }
                        _ => return peer.send(&frame(first, &payload)),
                    }
                }
            }
        })();
    });
    let mut scenario = scenario(upstream);
    scenario.target.protocol = Protocol::Nchan;
    scenario.traffic = Traffic::Call { endpoints: Vec::new(), reply: Reply::Any, channels: 1 };
    let outcome = open(&scenario, Arrival::Constant { rate: 1000.0, window: None });
    assert_eq!((outcome.messages.received, outcome.messages.lost), (1000, 0));
    assert_eq!(outcome.latency.from_intended.0.len(), 900);
    assert!(outcome.latency.from_send.0.max() <= outcome.latency.from_intended.0.max());
}

/// A server that stamps messages itself: two senders, one of them with a gap and a repetition.
#[test]
fn pushed_messages_are_tracked_by_their_sender() {
    let pusher = serve(|mut peer| {
        let _ = (|| {
            peer.upgrade()?;
            let mut out = Vec::new();
            for (sender, sequence) in [(9, 0), (9, 1), (8, 0), (9, 3), (9, 3)] {
                let mut payload = Vec::new();
                Stamp { sender, sequence, intended: 1, delay: 0 }.write(100, &mut payload);
                out.extend(frame(BINARY, &payload));
            }
            peer.send(&out)?;
            while peer.read_messages()?.iter().all(|(first, _)| *first != CLOSE) {}
            Some(())
        })();
    });
    let mut scenario = scenario(pusher);
    scenario.traffic = Traffic::Push;
    scenario.connections.count = 3;
    let outcome = outcome_of(&scenario);
    let messages = &outcome.messages;
    assert_eq!((messages.received, messages.expected), (12, 15));
    assert_eq!((messages.lost, messages.duplicated, messages.reordered), (3, 3, 0));
}
