//! Faults that a server makes on purpose are counted one by one.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use corelane_loadtest::outcome::Outcome;
use corelane_loadtest::run::RunError;
use corelane_loadtest::scenario::{Arrival, Protocol, Traffic};

use support::{BINARY, CLOSE, PING, PONG, Peer, error_of, frame, outcome_of, scenario, serve};

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    Drop,
    Duplicate,
    Swap,
    Flip,
}

/// An echo server that does something wrong with one message in `one_in`; how often it has.
fn faulty(fault: Fault, one_in: u64) -> (std::net::SocketAddr, Arc<AtomicU64>) {
    let count = Arc::new(AtomicU64::new(0));
    let faults = Arc::clone(&count);
    let messages = Arc::new(AtomicU64::new(0));
    let address = serve(move |mut peer| {
        let mut held: Option<Vec<u8>> = None;
        let _ = serve_faulty(&mut peer, fault, one_in, &messages, &faults, &mut held);
    });
    (address, count)
}

fn serve_faulty(
    peer: &mut Peer,
    fault: Fault,
    one_in: u64,
    messages: &AtomicU64,
    faults: &AtomicU64,
    held: &mut Option<Vec<u8>>,
) -> Option<()> {
    peer.upgrade()?;
    loop {
        let mut out = Vec::new();
        for (first, mut payload) in peer.read_messages()? {
            if first != BINARY {
                return peer.send(&frame(first, &payload));
            }
            let number = messages.fetch_add(1, Ordering::Relaxed);
            let wrong = number % one_in == one_in - 1 && held.is_none();
            if !wrong {
                out.extend(frame(BINARY, &payload));
                // Behind the next: the fault is made when it is sent.
                if let Some(late) = held.take() {
                    faults.fetch_add(1, Ordering::Relaxed);
                    out.extend(late);
                }
                continue;
            }
            match fault {
                Fault::Drop => {}
                Fault::Duplicate => out.extend(frame(BINARY, &payload).repeat(2)),
                Fault::Swap => *held = Some(frame(BINARY, &payload)),
                Fault::Flip => {
                    let at = (number / one_in) as usize % payload.len();
                    payload[at] ^= 0x04;
                    out.extend(frame(BINARY, &payload));
                }
            }
            if fault != Fault::Swap {
                faults.fetch_add(1, Ordering::Relaxed);
            }
        }
        peer.send(&out)?;
    }
}

/// Lost, duplicated, reordered, corrupted.
fn faults_of(outcome: &Outcome) -> [u64; 4] {
    let messages = &outcome.messages;
    [messages.lost, messages.duplicated, messages.reordered, messages.corrupted]
}

fn run_against(fault: Fault, one_in: u64) -> (Outcome, u64) {
    let (address, count) = faulty(fault, one_in);
    let outcome = outcome_of(&scenario(address));
    (outcome, count.load(Ordering::Relaxed))
}

#[test]
fn one_dropped_frame_in_ten_thousand_is_one_lost_message() {
    let (outcome, dropped) = run_against(Fault::Drop, 10_000);
    assert!(dropped > 0, "{} messages are too few", outcome.messages.sent);
    assert_eq!(faults_of(&outcome), [dropped, 0, 0, 0]);
    assert_eq!(outcome.messages.received + dropped, outcome.messages.sent);
}

#[test]
fn many_dropped_frames_do_not_stop_a_closed_loop() {
    let (outcome, dropped) = run_against(Fault::Drop, 50);
    // 64 places in all windows: without giving lost ones back it would end there.
    assert!(dropped > 64, "{dropped}");
    assert_eq!(faults_of(&outcome), [dropped, 0, 0, 0]);
}

#[test]
fn a_frame_that_comes_twice_is_duplicated() {
    let (outcome, doubled) = run_against(Fault::Duplicate, 100);
    assert!(doubled > 0);
    assert_eq!(faults_of(&outcome), [0, doubled, 0, 0]);
    assert_eq!(outcome.messages.received, outcome.messages.sent);
}

#[test]
fn two_frames_that_change_places_are_one_reordering() {
    let (outcome, swapped) = run_against(Fault::Swap, 100);
    assert!(swapped > 0);
    let [lost, duplicated, reordered, corrupted] = faults_of(&outcome);
    assert_eq!((duplicated, reordered, corrupted), (0, swapped, 0));
    // One that is held back when the load ends has no successor.
    assert!(lost <= 4, "{lost}");
}

#[test]
fn a_flipped_bit_anywhere_is_one_corrupted_message() {
    let (outcome, flipped) = run_against(Fault::Flip, 97);
    assert!(flipped > 0);
    assert_eq!(faults_of(&outcome), [0, 0, 0, flipped]);
    assert_eq!(outcome.messages.received + flipped, outcome.messages.sent);
}

#[test]
fn a_connection_that_dies_takes_its_unanswered_messages_with_it() {
    let (served, dying) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let answered = Arc::clone(&served);
    let address = serve(move |mut peer| {
        let mine = dying.fetch_add(1, Ordering::Relaxed);
        let _ = (|| {
            peer.upgrade()?;
            let mut left = if mine == 0 { 100 } else { u64::MAX };
            loop {
                for (first, payload) in peer.read_messages()? {
                    if left == 0 {
                        return peer.send(&frame(CLOSE, &[0x0f, 0xa3]));
                    }
                    left -= 1;
                    answered.fetch_add(u64::from(first == BINARY), Ordering::Relaxed);
                    peer.send(&frame(first, &payload))?;
                }
            }
        })();
    });
    let outcome = outcome_of(&scenario(address));
    assert_eq!(outcome.connections.lost, 1);
    assert_eq!(outcome.errors.get("closed: 4003"), Some(&1));
    assert_eq!(outcome.messages.received, served.load(Ordering::Relaxed));
    assert_eq!(outcome.messages.lost, outcome.messages.sent - outcome.messages.received);
    assert!((1..=16).contains(&outcome.messages.lost), "{}", outcome.messages.lost);
}

#[test]
fn pings_are_answered_and_fragments_joined() {
    let pongs = Arc::new(AtomicU64::new(0));
    let heard = Arc::clone(&pongs);
    let address = serve(move |mut peer| {
        let _ = (|| {
            peer.upgrade()?;
            loop {
                for (first, payload) in peer.read_messages()? {
                    match first {
                        PONG => {
                            assert_eq!(payload, b"12345678");
                            heard.fetch_add(1, Ordering::Relaxed);
                        }
                        BINARY => {
                            peer.send(&frame(0x02, &payload[..60]))?;
                            peer.send(&frame(PING, b"12345678"))?;
                            peer.send(&frame(0x80, &payload[60..]))?;
                        }
                        _ => return peer.send(&frame(first, &payload)),
                    }
                }
            }
        })();
    });
    let outcome = outcome_of(&scenario(address));
    assert_eq!(faults_of(&outcome), [0; 4]);
    assert!(outcome.messages.received > 100);
    assert!(pongs.load(Ordering::Relaxed) >= outcome.messages.received - 64);
}

#[test]
fn broken_frames_end_the_connection_with_their_kind() {
    for (bytes, kind) in [
        (&[0x82, 0x80, 0, 0, 0, 0][..], "frame: a frame from the server is masked"),
        (&[0xc2, 0x00], "frame: a reserved bit is set"),
        (&[0x82, 126, 0, 5], "frame: a length is not in its shortest form"),
        (&[0x80, 0x00], "frame: fragments do not follow each other as they must"),
    ] {
        let address = serve(move |mut peer| {
            let _ = (|| {
                peer.upgrade()?;
                peer.read_messages()?;
                peer.send(bytes)?;
                while peer.read_messages().is_some() {}
                Some(())
            })();
        });
        let mut scenario = scenario(address);
        scenario.connections.count = 1;
        scenario.timing.duration = Duration::from_millis(100);
        let outcome = outcome_of(&scenario);
        assert_eq!(outcome.errors.get(kind), Some(&1), "{:?}", outcome.errors);
        assert_eq!(outcome.connections.lost, 1);
    }
}

#[test]
fn refused_upgrades_are_named() {
    let address = serve(|mut peer| {
        let _ = peer.read_request();
        let _ = peer.send(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
    });
    match error_of(&scenario(address)) {
        RunError::NoConnection { attempted: 4, cause } => assert_eq!(cause, "refused: 503"),
        other => panic!("{other}"),
    }
}

/// nchan's rooms: what a member sends goes to all of its path, itself included. One delivery in
/// `one_in` is dropped; deliveries to the sender itself are not.
fn rooms(one_in: u64) -> (std::net::SocketAddr, Arc<AtomicU64>) {
    let members: Arc<Mutex<Vec<(String, std::net::TcpStream)>>> = Arc::default();
    let dropped = Arc::new(AtomicU64::new(0));
    let (count, deliveries) = (Arc::clone(&dropped), Arc::new(AtomicU64::new(0)));
    let address = serve(move |mut peer| {
        let _ = (|| {
            peer.upgrade()?;
            let me = peer.stream.local_addr().ok()?;
            let mine = peer.stream.peer_addr().ok()?;
            members.lock().unwrap().push((peer.path.clone(), peer.stream.try_clone().ok()?));
            loop {
                for (first, payload) in peer.read_messages()? {
                    if first != BINARY {
                        return peer.send(&frame(first, &payload));
                    }
                    let members = members.lock().unwrap();
                    for (path, stream) in members.iter().filter(|(path, _)| *path == peer.path) {
                        assert_eq!(stream.local_addr().ok()?, me, "{path}");
                        let own = stream.peer_addr().ok() == Some(mine);
                        let number = deliveries.fetch_add(u64::from(!own), Ordering::Relaxed);
                        if !own && number % one_in == one_in - 1 {
                            count.fetch_add(1, Ordering::Relaxed);
                        } else {
                            std::io::Write::write_all(&mut &*stream, &frame(BINARY, &payload))
                                .ok()?;
                        }
                    }
                }
            }
        })();
    });
    (address, dropped)
}

#[test]
fn every_delivery_of_a_room_is_accounted_for() {
    let (address, dropped) = rooms(100);
    let mut scenario = scenario(address);
    scenario.target.protocol = Protocol::Nchan;
    scenario.traffic = Traffic::Broadcast { members: 4 };
    scenario.connections.count = 12;
    scenario.generator.threads = 2;
    scenario.arrival = Arrival::Closed { in_flight: 2 };
    let outcome = outcome_of(&scenario);
    let dropped = dropped.load(Ordering::Relaxed);
    assert!(dropped > 0 && outcome.messages.sent > 10);
    assert_eq!(outcome.messages.expected, outcome.messages.sent * 3);
    assert_eq!(faults_of(&outcome), [dropped, 0, 0, 0]);
    assert_eq!(outcome.messages.received + dropped, outcome.messages.expected);
}

#[test]
fn pairs_of_a_room_hear_each_other() {
    let (address, _) = rooms(u64::MAX);
    let mut scenario = scenario(address);
    scenario.target.protocol = Protocol::Nchan;
    scenario.traffic = Traffic::Peer { placement: corelane_loadtest::scenario::Placement::Any };
    scenario.connections.count = 6;
    scenario.arrival = Arrival::Poisson { rate: 500.0, window: None };
    let outcome = outcome_of(&scenario);
    assert_eq!(faults_of(&outcome), [0; 4]);
    assert_eq!(outcome.messages.received, outcome.messages.sent);
    assert!(outcome.messages.planned > 300);
}
