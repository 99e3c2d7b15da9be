//! Connections as the load: storms, holding, coming back.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use corelane_loadtest::run::RunError;
use corelane_loadtest::scenario::{Arrival, CloseBy, Protocol, Ready, Traffic};

use support::{CLOSE, PING, PONG, Peer, error_of, frame, outcome_of, scenario, serve};

/// Upgrades, says nothing, and answers close frames; how many it has upgraded.
fn door() -> (std::net::SocketAddr, Arc<AtomicU64>) {
    let upgraded = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&upgraded);
    let address = serve(move |mut peer| {
        if peer.upgrade().is_some() {
            count.fetch_add(1, Ordering::Relaxed);
            until_closed(&mut peer);
        }
    });
    (address, upgraded)
}

fn until_closed(peer: &mut Peer) -> Option<()> {
    loop {
        for (first, payload) in peer.read_messages()? {
            if first == CLOSE {
                return peer.send(&frame(CLOSE, &payload));
            }
        }
    }
}

fn storm(close: CloseBy, arrival: Arrival) {
    let (address, upgraded) = door();
    let mut scenario = scenario(address);
    scenario.traffic = Traffic::Connect { ready: Ready::Upgraded, close };
    scenario.arrival = arrival;
    scenario.connections.count = 50;
    scenario.generator.threads = 2;
    let outcome = outcome_of(&scenario);
    let connections = &outcome.connections;
    assert!(connections.ready > 50, "{connections:?}");
    assert_eq!((connections.failed, connections.lost), (0, 0), "{:?}", outcome.errors);
    assert_eq!(connections.attempted, connections.ready);
    assert_eq!(connections.ready, upgraded.load(Ordering::Relaxed));
    assert!(outcome.messages.measured > 0 && outcome.messages.measured < connections.ready);
    assert!(outcome.latency.upgrade.0.len() < connections.ready, "the warm-up is not timed");
    if outcome.messages.planned > 0 {
        assert_eq!(outcome.messages.planned, outcome.latency.from_intended.0.len());
    }
}

#[test]
fn an_open_storm_opens_what_was_planned() {
    storm(CloseBy::Reset, Arrival::Poisson { rate: 300.0, window: None });
    storm(CloseBy::CloseFrame, Arrival::Constant { rate: 300.0, window: None });
}

#[test]
fn a_closed_storm_opens_the_next_when_one_is_ready() {
    storm(CloseBy::Reset, Arrival::Closed { in_flight: 4 });
    storm(CloseBy::CloseFrame, Arrival::Closed { in_flight: 4 });
}

#[test]
fn all_come_back_after_a_reset() {
    let (address, upgraded) = door();
    let mut scenario = scenario(address);
    scenario.traffic = Traffic::Reconnect { ready: Ready::Upgraded, times: 1 };
    scenario.connections.count = 30;
    scenario.generator.threads = 2;
    for arrival in
        [Arrival::Constant { rate: 200.0, window: None }, Arrival::Closed { in_flight: 5 }]
    {
        scenario.arrival = arrival;
        let before = upgraded.load(Ordering::Relaxed);
        let outcome = outcome_of(&scenario);
        assert_eq!(outcome.connections.ready, 60, "{:?}", outcome.errors);
        assert_eq!((outcome.connections.failed, outcome.connections.lost), (0, 0));
        assert_eq!(upgraded.load(Ordering::Relaxed) - before, 60);
        assert_eq!(outcome.latency.from_intended.0.len(), 30);
    }
}

#[test]
fn all_are_reset_and_come_back_as_often_as_wanted() {
    let (address, upgraded) = door();
    let mut scenario = scenario(address);
    scenario.traffic = Traffic::Reconnect { ready: Ready::Upgraded, times: 3 };
    scenario.connections.count = 20;
    scenario.connections.sources = ["127.0.0.1", "127.0.0.2"].map(|ip| ip.parse().unwrap()).into();
    scenario.generator.threads = 2;
    // Half a second for all to come back, three times, in the second half.
    scenario.arrival = Arrival::Constant { rate: 40.0, window: None };
    scenario.timing.duration = Duration::from_millis(3300);
    let outcome = outcome_of(&scenario);
    let (connections, messages) = (&outcome.connections, &outcome.messages);
    assert_eq!((connections.ready, connections.failed), (4 * 20, 0), "{:?}", outcome.errors);
    assert_eq!(upgraded.load(Ordering::Relaxed), 4 * 20);
    assert_eq!((messages.planned, messages.unsent), (3 * 20, 0));
    assert_eq!(outcome.latency.from_intended.0.len(), 3 * 20);
}

#[test]
fn those_that_are_not_back_when_all_are_reset_again_are_counted() {
    let served = Arc::new(AtomicU64::new(0));
    let address = serve(move |mut peer| {
        if peer.read_request().is_none() {
            return;
        }
        // The first ten are let in; nobody else ever hears of his request.
        if served.fetch_add(1, Ordering::Relaxed) < 10 {
            peer.send(support::ACCEPTED.as_bytes());
        }
        until_closed(&mut peer);
    });
    let mut scenario = scenario(address);
    scenario.traffic = Traffic::Reconnect { ready: Ready::Upgraded, times: 2 };
    scenario.connections.count = 10;
    scenario.arrival = Arrival::Constant { rate: 100.0, window: None };
    let outcome = outcome_of(&scenario);
    assert_eq!(outcome.connections.attempted, 10 + 10, "{:?}", outcome.errors);
    assert_eq!(outcome.messages.unsent, 10);
}

#[test]
fn held_connections_answer_pings_and_losses_are_seen() {
    let (pongs, order) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let heard = Arc::clone(&pongs);
    let address = serve(move |mut peer| {
        let _ = (|| {
            peer.upgrade()?;
            if order.fetch_add(1, Ordering::Relaxed) == 0 {
                return Some(()); // gone without a word
            }
            peer.send(&frame(PING, b"alive?"))?;
            loop {
                for (first, payload) in peer.read_messages()? {
                    match first {
                        PONG => heard.fetch_add(1, Ordering::Relaxed),
                        _ => return peer.send(&frame(first, &payload)),
                    };
                }
            }
        })();
    });
    let mut scenario = scenario(address);
    scenario.traffic = Traffic::Hold;
    scenario.connections.count = 20;
    let outcome = outcome_of(&scenario);
    assert_eq!((outcome.connections.ready, outcome.connections.lost), (20, 1));
    assert_eq!(outcome.errors.get("ended without a close frame"), Some(&1));
    assert_eq!(pongs.load(Ordering::Relaxed), 19);
}

#[test]
fn connections_come_from_the_sources_and_not_faster_than_wanted() {
    let (others, address) = (Arc::new(AtomicU64::new(0)), "127.0.0.9");
    let foreign = Arc::clone(&others);
    let server = serve(move |mut peer| {
        let from = peer.stream.peer_addr().unwrap().ip().to_string();
        foreign.fetch_add(u64::from(from != address), Ordering::Relaxed);
        if peer.upgrade().is_some() {
            until_closed(&mut peer);
        }
    });
    let mut scenario = scenario(server);
    scenario.traffic = Traffic::Hold;
    scenario.connections.count = 40;
    scenario.connections.per_second = 200.0;
    scenario.connections.sources = vec![address.parse().unwrap()];
    scenario.timing.warm_up = Duration::ZERO;
    scenario.timing.duration = Duration::from_millis(50);
    let begun = std::time::Instant::now();
    let outcome = outcome_of(&scenario);
    assert!(begun.elapsed() > Duration::from_millis(39 * 5 + 50), "{:?}", begun.elapsed());
    assert_eq!(outcome.connections.ready, 40);
    assert_eq!(others.load(Ordering::Relaxed), 0);
}

#[test]
fn what_cannot_be_run_is_said_before() {
    let (address, _) = door();
    let mut scenario = scenario(address);
    scenario.target.protocol = Protocol::Corelane;
    scenario.traffic = Traffic::Hold;
    assert!(matches!(error_of(&scenario), RunError::Tokens { needed: 4, given: 0 }));
    scenario.target.protocol = Protocol::Echo;
    scenario.connections.count = 100_000_000;
    assert!(matches!(error_of(&scenario), RunError::OpenFiles { .. }));
    scenario.connections.count = 4;
    scenario.target.url = "http://127.0.0.1:1/".to_owned();
    assert!(matches!(error_of(&scenario), RunError::Url { .. }));
    scenario.traffic = Traffic::Broadcast { members: 2 };
    assert!(matches!(error_of(&scenario), RunError::Traffic { .. }));
}
