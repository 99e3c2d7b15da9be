//! The turn with the echo route on a real ring, against clients that behave badly.

mod client;
mod door;
mod draining;
mod early;
mod rig;
mod sealed;
mod simulation;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant as Moment};

use super::connection::{Phase, Receiving, Sending};
use crate::probe::Shed;
use crate::snapshot::SessionLimits;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::SockRef;

use client::{BINARY, CLOSE, Client, HEAD, PATIENCE, TEXT, frame, whole};
use rig::Shape;

/// What a good client must not wait longer for, on a busy machine and without optimization.
const SOON: Duration = Duration::from_secs(2);

fn noise(random: &mut fastrand::Rng, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    random.fill(&mut bytes);
    bytes
}

fn prose(random: &mut fastrand::Rng, len: usize) -> Vec<u8> {
    let letters = ['a', 'z', '\n', 'ß', '€', '𝄞'];
    let mut text = String::new();
    while text.len() < len {
        text.push(letters[random.usize(..letters.len())]);
    }
    text.into_bytes()
}

/// Writes several messages without reading, then reads their echoes, again and again.
fn echo_in_bursts(address: SocketAddr, seed: u64) {
    let random = &mut fastrand::Rng::with_seed(seed);
    let mut client = Client::open_narrow(address);
    for burst in 0..4 {
        let mut sent = Vec::new();
        let mut bytes = 0;
        while bytes < 400 << 10 {
            let len_max = if random.bool() { 4 << 10 } else { 200 << 10 };
            let len = if bytes == 0 { 0 } else { random.usize(..len_max) };
            let (opcode, payload) = match random.u8(..3) {
                0 => (TEXT, prose(random, len)),
                _ => (BINARY, noise(random, len)),
            };
            bytes += len + 1;
            if random.u8(..4) == 0 && len > 0 {
                client.send_in_pieces(opcode, &payload, random.usize(1..20));
            } else {
                client.send(opcode, &payload);
            }
            sent.push((opcode, payload));
        }
        for (at, expected) in sent.iter().enumerate() {
            let echo = client.message();
            assert_eq!((echo.0, echo.1.len()), (expected.0, expected.1.len()), "{burst}/{at}");
            assert!(echo == *expected, "every byte of message {at} of burst {burst}");
        }
    }
}

/// Small echoes on `count` connections at once, from `start` until told to stop; returns the
/// rounds.
fn chatter(address: SocketAddr, count: usize, start: &Barrier, stop: &AtomicBool) -> usize {
    let mut clients: Vec<_> = (0..count).map(|_| Client::open(address)).collect();
    let mut rounds = 0;
    start.wait();
    while !stop.load(Ordering::Relaxed) {
        for (at, client) in clients.iter_mut().enumerate() {
            client.send(BINARY, &at.to_be_bytes());
        }
        for (at, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.message().1, at.to_be_bytes());
        }
        rounds += 1;
    }
    rounds
}

#[test]
fn every_echo_comes_back_equal_to_readers_that_pause() {
    let mut rig = Shape::default().build();
    let address = rig.address;
    let clients = thread::spawn(move || {
        let (start, stop) = (Barrier::new(2), AtomicBool::new(false));
        thread::scope(|scope| {
            let others = scope.spawn(|| chatter(address, 300, &start, &stop));
            start.wait();
            let bursts: Vec<_> =
                (0..3).map(|seed| scope.spawn(move || echo_in_bursts(address, seed))).collect();
            for burst in bursts {
                burst.join().unwrap();
            }
            stop.store(true, Ordering::Relaxed);
            assert!(others.join().unwrap() > 0);
        });
    });
    rig.run(clients);
    let partial = rig.engine.probe.sends_partial.read();
    assert!(partial > 20, "readers paused, {partial} times");
    rig.until_nothing_is_left();
}

/// Clients that have begun a frame and leave it at that.
fn half_frames(address: SocketAddr, count: usize) -> Vec<Client> {
    let begun = whole(BINARY, &[7; 1200]);
    let mut clients = Vec::new();
    while clients.len() < count {
        let mut hundred: Vec<_> = (0..100).map(|_| Client::connect(address)).collect();
        for (at, client) in hundred.iter_mut().enumerate() {
            client.ask(&begun[..[1, 3, 8, 700][at % 4]]);
        }
        hundred.iter_mut().for_each(Client::read_answer);
        clients.append(&mut hundred);
    }
    clients
}

/// `count` clients that write as fast as they are read, each one message without end.
fn flood(address: SocketAddr, count: usize, stop: &AtomicBool) {
    let endless = [0x82, 0xFF, 0, 0, 0, 0xFF, 0, 0, 0, 0, 1, 2, 3, 4];
    let mut flooders: Vec<_> = (0..count).map(|_| Client::open(address)).collect();
    for flooder in &mut flooders {
        flooder.write(&endless);
        flooder.stream.set_nonblocking(true).unwrap();
        // What is under way at the end is read to the end.
        SockRef::from(&flooder.stream).set_send_buffer_size(64 << 10).unwrap();
    }
    let water = vec![0x55; 256 << 10];
    let patience = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
    while !stop.load(Ordering::Relaxed) {
        let mut ready: Vec<_> =
            flooders.iter().map(|flooder| PollFd::new(&flooder.stream, PollFlags::OUT)).collect();
        poll(&mut ready, Some(&patience)).unwrap();
        let ready: Vec<_> = ready.iter().map(|fd| !fd.revents().is_empty()).collect();
        for (flooder, _) in flooders.iter_mut().zip(ready).filter(|(_, ready)| *ready) {
            match flooder.stream.write(&water) {
                Err(error) if error.kind() != ErrorKind::WouldBlock => panic!("{error}"),
                _ => {}
            }
        }
    }
}

#[test]
fn neither_half_frames_nor_floods_keep_a_good_client_from_its_answers() {
    const HALF_FRAMES: usize = 5000;
    const FLOODERS: usize = 200;
    let session = SessionLimits { message_bytes_hard: 1 << 40, ..SessionLimits::default() };
    let shape = Shape {
        connections_max: 6000,
        buffers: 2048,
        send_buffer: None,
        receive_buffer: Some(128 << 10),
        session,
        ..Shape::default()
    };
    let mut rig = shape.build();
    let address = rig.address;

    let idle = thread::spawn(move || half_frames(address, HALF_FRAMES));
    let idle = rig.run(idle);
    rig.until("half a frame holds a receive buffer", |engine| engine.buffers.out() == 0);
    // The last 101 is settled.
    rig.turn();
    assert_eq!(rig.engine.table.len(), HALF_FRAMES);
    let held = rig.engine.blocks.in_use();
    assert!(held <= HALF_FRAMES * 2048, "{held} bytes for half frames");

    let stop = Arc::new(AtomicBool::new(false));
    let flooding = {
        let stop = Arc::clone(&stop);
        thread::spawn(move || flood(address, FLOODERS, &stop))
    };
    rig.until("all flood", |engine| {
        let soaked = |bytes: u64| bytes > 100 << 10;
        engine.table.iter().filter(|(_, c)| soaked(c.tally.bytes_in)).count() == FLOODERS
    });
    let good = thread::spawn(move || {
        let mut client = Client::open(address);
        let echo = |_| {
            let began = Moment::now();
            client.echo(b"are you there?");
            began.elapsed()
        };
        (0..20).map(echo).max()
    });
    let mut paused = None;
    let latency = rig.run_watched(good, |engine| {
        paused = paused.or_else(|| {
            let mut connections = engine.table.iter();
            connections.find_map(|(key, connection)| {
                let pausing = connection.receiving == Receiving::Pausing;
                pausing.then_some((key, connection.tally.bytes_in))
            })
        });
    });
    assert!(latency.unwrap() < SOON, "a good client waited {latency:?}");
    let (key, before) = paused.expect("a flooder is paused");
    rig.until("a paused flooder is heard again", |engine| {
        engine.table.get(key).is_some_and(|c| c.tally.bytes_in > before + (1 << 20))
    });

    stop.store(true, Ordering::Relaxed);
    rig.run(flooding);
    rig.until("the flooders are gone", |engine| engine.table.len() == HALF_FRAMES);
    assert_eq!(rig.engine.buffers.out(), 0);
    assert_eq!(rig.engine.blocks.in_use(), held);
    let going = thread::spawn(move || drop(idle));
    rig.run(going);
    rig.until_nothing_is_left();
}

/// One life of a connection, of the kind that `turn` picks.
fn live_and_leave(address: SocketAddr, turn: usize, random: &mut fastrand::Rng) {
    let half_frame = &whole(BINARY, &[7; 3000])[..random.usize(1..2900)];
    let half_head = &HEAD[..random.usize(1..HEAD.len())];
    match turn % 10 {
        0 => Client::open(address).echo(b"hello"),
        1 => {
            let mut client = Client::open(address);
            client.write(half_frame);
            client.reset();
        }
        2 => Client::open(address).write(half_frame),
        3 => {
            let mut client = Client::connect(address);
            client.write(half_head);
            client.reset();
        }
        4 => Client::connect(address).write(half_head),
        5 => Client::connect(address).reset(),
        6 => {
            // Leaves in the midst of an echo.
            let mut client = Client::open_narrow(address);
            client.send(BINARY, &[9; 100_000]);
            client.stream.read_exact(&mut [0; 100]).unwrap();
            client.reset();
        }
        7 => {
            let mut client = Client::open(address);
            client.write(&frame(TEXT, b"begun, and not"));
            client.stream.shutdown(Shutdown::Write).unwrap();
            client.rest().ok();
        }
        8 => {
            let mut client = Client::open(address);
            client.send(CLOSE, &1000u16.to_be_bytes());
            assert_eq!(client.next().unwrap(), (CLOSE, 1000u16.to_be_bytes().to_vec()));
            assert!(client.rest().unwrap().is_empty());
        }
        _ => {
            let mut client = Client::connect(address);
            client.write(b"GET /nowhere HTTP/1.1\r\nHost: test\r\n\r\n");
            assert!(client.rest().unwrap().starts_with(b"HTTP/1.1 404 "));
        }
    }
}

#[test]
fn two_thousand_lives_leave_nothing_behind() {
    let mut rig = Shape { buffers: 64, ..Shape::default() }.build();
    let address = rig.address;
    let clients = thread::spawn(move || {
        thread::scope(|scope| {
            for seed in 0..4 {
                scope.spawn(move || {
                    let random = &mut fastrand::Rng::with_seed(seed);
                    (0..500).for_each(|turn| live_and_leave(address, turn, random));
                });
            }
        });
    });
    rig.run(clients);
    rig.until_nothing_is_left();
    assert_eq!(rig.engine.probe.accepted.read(), 2000);
    let pooled = rig.engine.outboxes.len();
    assert_eq!(pooled, super::OUTBOXES, "a few connections at a time need none beyond the stock");

    // As good as new: far more bytes than there are buffers.
    let clients = thread::spawn(move || Client::open(address).echo(&[5; 200_000]));
    rig.run(clients);
    rig.until_nothing_is_left();
    assert_eq!(rig.engine.outboxes.len(), pooled);
}

/// Echoes now and then until told to stop; returns the longest wait.
fn steady(address: SocketAddr, stop: &AtomicBool) -> Duration {
    let mut client = Client::open(address);
    let mut longest = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        let began = Moment::now();
        client.echo(&[1; 300]);
        longest = longest.max(began.elapsed());
    }
    longest
}

#[test]
fn a_reader_that_lets_its_outbox_overflow_is_told_and_let_go() {
    const SLOW: usize = 40;
    const BOUND: usize = 64 << 10;
    let session = SessionLimits { outbox_bytes_max: BOUND, ..SessionLimits::default() };
    let mut rig = Shape { session, ..Shape::default() }.build();
    let address = rig.address;
    let clients = thread::spawn(move || {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let good = scope.spawn(|| steady(address, &stop));
            let mut slow: Vec<_> = (0..SLOW).map(|_| Client::open_narrow(address)).collect();
            for client in &mut slow {
                (0..60).for_each(|n| client.send(BINARY, &[n; 4096]));
            }
            for client in &mut slow {
                let mut expected = (0..60).map(|n| (BINARY, vec![n; 4096]));
                let last = loop {
                    let frame = client.next().unwrap();
                    if frame.0 == CLOSE {
                        break frame.1;
                    }
                    assert!(Some(frame) == expected.next(), "in order and whole");
                };
                assert_eq!(last[..2], 1013u16.to_be_bytes());
                client.send(CLOSE, &last);
                assert!(client.rest().unwrap().is_empty());
            }
            stop.store(true, Ordering::Relaxed);
            good.join().unwrap()
        })
    });
    let mut held = 0;
    let latency = rig.run_watched(clients, |engine| held = held.max(engine.blocks.in_use()));
    assert!(latency < SOON, "the others waited {latency:?}");
    assert!(held > SLOW * BOUND / 2, "{held} bytes: they did not overflow");
    assert!(held < SLOW * 2 * BOUND, "{held} bytes for {SLOW} readers");
    assert_eq!(rig.engine.probe.shed_count(Shed::OwnOutboxFull), SLOW as u64);
    rig.until_nothing_is_left();
}

#[test]
fn readers_that_take_nothing_are_dropped_when_the_write_stalls() {
    const STALLED: usize = 150;
    // The smallest that the kernel grants.
    let send_buffer = Some(1);
    let mut rig = Shape { send_buffer, ..Shape::default() }.build();
    let address = rig.address;
    let stop = Arc::new(AtomicBool::new(false));
    let good = {
        let stop = Arc::clone(&stop);
        thread::spawn(move || steady(address, &stop))
    };
    let stalled = thread::spawn(move || {
        let mut clients: Vec<_> = (0..STALLED).map(|_| Client::open_narrow(address)).collect();
        for client in &mut clients {
            // One at a time, until nothing of the last one is taken at all.
            (0..100).for_each(|_| client.send(BINARY, &[3; 1000]));
        }
        clients
    });
    let stalled = rig.run(stalled);
    rig.until("their writes stall", |engine| {
        let connections = engine.table.iter();
        connections.filter(|(_, c)| c.sending == Sending::Waiting).count() == STALLED
    });
    assert_eq!(rig.engine.probe.shed_count(Shed::SlowConsumer), 0);
    // All at once, so that their ends reach the engine in many exchanges and in any order; again
    // for those of which the kernel still took a little.
    for _ in 0..20 {
        rig.ahead += SessionLimits::default().write_stall;
        for _ in 0..50 {
            rig.turn();
            let mut closing = rig.engine.table.iter().filter(|(_, c)| c.phase == Phase::Closing);
            let timed = |slot: crate::id::Slot| rig.engine.timers.is_set(slot.0);
            assert!(closing.all(|(key, _)| !timed(key.slot)), "timed although it is closed");
        }
    }
    rig.until("those that take nothing are kept", |engine| engine.table.len() <= 1);
    assert_eq!(rig.engine.probe.shed_count(Shed::SlowConsumer), STALLED as u64);
    stop.store(true, Ordering::Relaxed);
    let latency = rig.run(good);
    assert!(latency < SOON, "the others waited {latency:?}");
    rig.until_nothing_is_left();
    drop(stalled);
}

#[test]
fn a_refusal_is_read_whole_by_a_client_that_keeps_sending() {
    let mut rig = Shape::default().build();
    let address = rig.address;
    let nowhere = b"GET /nowhere HTTP/1.1\r\nHost: test\r\n\r\n".to_vec();
    let malformed = b"this is not HTTP\r\n\r\n".to_vec();
    let endless = [b"GET /echo HTTP/1.1\r\nA: ".to_vec(), vec![b'a'; 20 << 10]].concat();
    let plain = b"GET /echo HTTP/1.1\r\nHost: test\r\n\r\n".to_vec();
    let heads = [(nowhere, "404"), (malformed, "400"), (endless, "431"), (plain, "426")];
    let clients = thread::spawn(move || {
        for (head, status) in heads {
            let mut client = Client::connect(address);
            client.write(&head);
            // The server has said its last word by the time that this is through.
            (0..40).for_each(|_| client.write(&[0x81; 16 << 10]));
            let answer = String::from_utf8(client.rest().unwrap()).unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            let length = head.lines().find_map(|line| {
                line.to_lowercase().strip_prefix("content-length: ")?.parse().ok()
            });
            assert_eq!(length.unwrap_or(0), body.len(), "{answer}");
            // It may go on sending after it has read the answer.
            client.write(&[0x81; 16 << 10]);
        }
    });
    rig.run(clients);
    rig.until_nothing_is_left();
}

#[test]
fn a_close_is_answered_with_its_code_and_the_peer_hangs_up_first() {
    let mut rig = Shape::default().build();
    let address = rig.address;
    for code in [Some(1000u16), Some(1001), Some(4321), None] {
        let payload = code.map_or(Vec::new(), |code| code.to_be_bytes().to_vec());
        let client = thread::spawn(move || {
            let mut client = Client::open(address);
            let said = [payload.clone(), b"bye".to_vec()].concat();
            client.send(CLOSE, if payload.is_empty() { &payload } else { &said });
            assert_eq!(client.next().unwrap(), (CLOSE, payload));
            assert!(client.rest().unwrap().is_empty(), "FIN behind the close frame");
            client
        });
        let client = rig.run(client);
        for _ in 0..20 {
            rig.turn();
        }
        let phases: Vec<_> = rig.engine.table.iter().map(|(_, c)| c.phase).collect();
        assert!(matches!(phases[..], [Phase::Lingering]), "{phases:?}");
        drop(client);
        rig.until_nothing_is_left();
    }
}

#[test]
fn whoever_breaks_the_framing_is_hung_up_on_and_not_waited_for() {
    // Nothing of this test waits for it.
    let close_timeout = 3 * PATIENCE;
    let session = SessionLimits { close_timeout, ..Shape::default().session };
    let mut rig = Shape { session, ..Shape::default() }.build();
    let address = rig.address;
    let cases = [(b"\x82\x01\0".to_vec(), 1002_u16), (whole(TEXT, b"\xff"), 1007)];
    for (broken, code) in cases {
        let client = thread::spawn(move || {
            let mut client = Client::open(address);
            // What stands behind it is not looked at.
            client.write(&[broken, whole(BINARY, b"behind")].concat());
            let (opcode, payload) = client.next().unwrap();
            assert_eq!((opcode, &payload[..2]), (CLOSE, &code.to_be_bytes()[..]));
            assert!(client.rest().unwrap().is_empty(), "FIN behind the close frame");
            // A client that is still sending meets no reset.
            client.write(&whole(BINARY, &[0; 64 << 10]));
            client.send(CLOSE, &code.to_be_bytes());
        });
        rig.run(client);
        rig.until_nothing_is_left();
    }
}

#[test]
fn what_was_asked_before_the_close_is_answered_before_it() {
    let mut rig = Shape::default().build();
    let address = rig.address;
    let client = thread::spawn(move || {
        let mut client = Client::open_narrow(address);
        client.send(BINARY, &[8; 150_000]);
        client.send(CLOSE, &1000u16.to_be_bytes());
        assert!(client.next().unwrap() == (BINARY, vec![8; 150_000]));
        assert_eq!(client.next().unwrap(), (CLOSE, 1000u16.to_be_bytes().to_vec()));
        assert!(client.rest().unwrap().is_empty());
    });
    rig.run(client);
    rig.until_nothing_is_left();
}

#[test]
fn peers_that_never_hang_up_are_closed_in_time() {
    let close_timeout = Duration::from_millis(200);
    let session = SessionLimits { close_timeout, ..SessionLimits::default() };
    let mut rig = Shape { session, ..Shape::default() }.build();
    let address = rig.address;
    let clients = thread::spawn(move || {
        let began = Moment::now();
        // Never answers our close frame.
        let mut unmasked = Client::open(address);
        unmasked.write(&[0x82, 1, 0]);
        // Its handshake is complete, but it does not hang up.
        let mut closing = Client::open(address);
        closing.send(CLOSE, &1000u16.to_be_bytes());
        // Refused, and does not hang up either.
        let mut refused = Client::connect(address);
        refused.write(b"GET / HTTP/1.1\r\n\r\n");
        let (opcode, payload) = unmasked.next().unwrap();
        assert_eq!((opcode, &payload[..2]), (CLOSE, &1002u16.to_be_bytes()[..]));
        (began, [unmasked, closing, refused])
    });
    let (began, clients) = rig.run(clients);
    rig.until_nothing_is_left();
    let took = began.elapsed();
    assert!(close_timeout <= took && took < PATIENCE / 4, "{took:?}");
    drop(clients);
}

#[test]
fn a_turn_judges_few_fresh_tokens_and_everybody_is_answered() {
    const CLIENTS: u64 = 50;
    let mut rig = Shape::default().build();
    let request = b"GET /connect HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\n\
        Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Bearer x.y.z\r\n\r\n";
    // They wait in the backlog, so that all heads are there at once.
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| Client::connect(rig.address)).collect();
    for client in &mut clients {
        client.write(request);
    }
    let (mut checked, mut most) = (0, 0);
    rig.until("every token", |engine| {
        let now = engine.authenticator.fresh_tokens();
        most = most.max(now - checked);
        checked = now;
        checked == CLIENTS
    });
    assert_eq!(most, 8);
    rig.turn();
    for mut client in clients {
        let mut status = [0; 12];
        client.stream.read_exact(&mut status).unwrap();
        assert_eq!(&status, b"HTTP/1.1 401");
    }
    rig.until_nothing_is_left();
}
