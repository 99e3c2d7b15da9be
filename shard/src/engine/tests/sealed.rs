//! The echo route behind TLS, on a real ring.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::{ClientConfig, ClientConnection, StreamOwned, SupportedCipherSuite};

use super::super::TlsOptions;
use super::client::{BINARY, CLOSE, Client, HEAD, frame, whole};
use super::rig::{Rig, Shape};
use crate::probe::{Probe, TlsOutcome};
use crate::snapshot::SessionLimits;
use crate::tls::fixtures::{self, SUITES, configs};

const TIMEOUT: Duration = Duration::from_secs(5);
const HANDSHAKES_MAX: usize = 8;

type Sealed = Client<StreamOwned<ClientConnection, TcpStream>>;

fn rig(suite: SupportedCipherSuite) -> (Rig, Arc<ClientConfig>) {
    let (server, client) = configs(suite);
    let tls = TlsOptions {
        first_listener: 0,
        config: Arc::new(ArcSwap::new(server)),
        handshakes_max: HANDSHAKES_MAX,
        handshake_timeout: TIMEOUT,
    };
    let session = SessionLimits { outbox_bytes_max: 4 << 20, ..Shape::default().session };
    (Shape { tls: Some(tls), session, ..Shape::default() }.build(), client)
}

fn sealed(client: Client, config: &Arc<ClientConfig>) -> Sealed {
    Client { stream: StreamOwned::new(fixtures::client(config), client.stream) }
}

fn open(address: SocketAddr, config: &Arc<ClientConfig>) -> Sealed {
    let mut client = sealed(Client::connect(address), config);
    client.upgrade(&[]);
    client
}

fn handshakes(probe: &Probe, outcome: TlsOutcome) -> u64 {
    let mut found = None;
    probe.visit(&mut |sample| {
        if sample.name == "tls_handshakes" && sample.label == Some(("outcome", outcome.label())) {
            found = Some(sample.value);
        }
    });
    found.expect("every outcome is counted")
}

#[test]
fn echoes_of_every_size_come_back_over_every_suite_and_the_end_is_announced() {
    for suite in SUITES {
        let (mut rig, config) = rig(suite);
        let address = rig.address;
        let clients = thread::spawn(move || {
            let mut client = open(address, &config);
            for len in [0, 1, 125, 126, 2000, 4096, 16_384, 16_385, 70_000, 200_000] {
                let payload: Vec<u8> = (0..len).map(|at: usize| (at * 7) as u8).collect();
                client.echo(&payload);
                client.send_in_pieces(BINARY, &payload, 5);
                assert!(client.message() == (BINARY, payload), "{len} bytes in pieces");
            }
            client.send(CLOSE, &1000_u16.to_be_bytes());
            assert_eq!(client.next().unwrap(), (CLOSE, 1000_u16.to_be_bytes().to_vec()));
            // Without a close_notify this were an error.
            assert!(client.rest().unwrap().is_empty());
        });
        rig.run(clients);
        rig.until_nothing_is_left();
        assert_eq!(handshakes(&rig.engine.probe, TlsOutcome::Full), 1, "{suite:?}");
    }
}

#[test]
fn bytes_that_come_one_at_a_time_are_put_together() {
    let (mut rig, config) = rig(SUITES[0]);
    let address = rig.address;
    let clients = thread::spawn(move || {
        let mut client = open(address, &config);
        let mut records = Vec::new();
        let StreamOwned { conn, sock } = &mut client.stream;
        for n in 0..3 {
            conn.writer().write_all(&whole(BINARY, &[n; 60])).unwrap();
            conn.write_tls(&mut records).unwrap();
        }
        for byte in records {
            sock.write_all(&[byte]).unwrap();
        }
        for n in 0..3 {
            assert_eq!(client.message(), (BINARY, vec![n; 60]));
        }
    });
    rig.run(clients);
    rig.until_nothing_is_left();
}

#[test]
fn a_reader_that_pauses_gets_every_byte() {
    let (mut rig, config) = rig(SUITES[0]);
    let address = rig.address;
    let clients = thread::spawn(move || {
        let mut client = sealed(Client::connect_narrow(address), &config);
        client.upgrade(&[]);
        for round in 0..4 {
            (0..60_u8).for_each(|n| client.send(BINARY, &[n ^ round; 5000]));
            for n in 0..60 {
                assert!(client.message() == (BINARY, vec![n ^ round; 5000]), "{round}/{n}");
            }
        }
    });
    rig.run(clients);
    let partial = rig.engine.probe.sends_partial.read();
    assert!(partial > 3, "sends were taken in part {partial} times");
    rig.until_nothing_is_left();
}

#[test]
fn one_that_is_idle_holds_no_memory_of_the_pool() {
    let (mut rig, config) = rig(SUITES[0]);
    let address = rig.address;
    let clients = thread::spawn(move || {
        let mut client = open(address, &config);
        client.echo(&[1; 3000]);
        client
    });
    let mut client = rig.run(clients);
    rig.turn();
    assert_eq!(rig.engine.blocks.in_use(), 0);
    assert_eq!(rig.engine.buffers.out(), 0);
    // Half a record is kept in a block, and no receive buffer.
    let mut record = Vec::new();
    client.stream.conn.writer().write_all(&whole(BINARY, &[2; 100])).unwrap();
    client.stream.conn.write_tls(&mut record).unwrap();
    client.stream.sock.write_all(&record[..50]).unwrap();
    rig.until("half a record is kept", |engine| engine.blocks.in_use() > 0);
    assert_eq!((rig.engine.blocks.in_use(), rig.engine.buffers.out()), (2048, 0));
    drop(client);
    rig.until_nothing_is_left();
}

#[test]
fn one_that_comes_back_resumes() {
    let (mut rig, config) = rig(SUITES[0]);
    let address = rig.address;
    let clients = thread::spawn(move || (0..3).for_each(|_| open(address, &config).echo(b"hello")));
    rig.run(clients);
    rig.until_nothing_is_left();
    let probe = &rig.engine.probe;
    assert_eq!(handshakes(probe, TlsOutcome::Full), 1);
    assert_eq!(handshakes(probe, TlsOutcome::Resumed), 2);
}

#[test]
fn one_that_speaks_plain_http_is_told_so_in_plain_http() {
    let (mut rig, _) = rig(SUITES[0]);
    let address = rig.address;
    let clients = thread::spawn(move || {
        let mut client = Client::connect(address);
        client.write(HEAD);
        String::from_utf8(client.rest().unwrap()).unwrap()
    });
    let answer = rig.run(clients);
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("wss://"), "{answer}");
    rig.until_nothing_is_left();
    assert_eq!(handshakes(&rig.engine.probe, TlsOutcome::NotTls), 1);
}

#[test]
fn a_broken_handshake_and_a_broken_record_are_answered_with_an_alert() {
    let (mut rig, config) = rig(SUITES[0]);
    let address = rig.address;
    let clients = thread::spawn(move || {
        let mut client = Client::connect(address);
        client.write(&[22, 3, 1, 0, 4, 1, 0, 0, 0]);
        let alert = client.rest().unwrap();
        assert!(matches!(alert[..], [21, 3, 3, 0, 2, 2, _]), "{alert:?}");
        let mut client = open(address, &config);
        client.stream.sock.write_all(&[23, 3, 3, 0, 20]).unwrap();
        client.stream.sock.write_all(&[7; 20]).unwrap();
        let ended = client.rest().unwrap_err();
        assert!(ended.to_string().contains("BadRecordMac"), "{ended}");
    });
    rig.run(clients);
    rig.until_nothing_is_left();
    let probe = &rig.engine.probe;
    assert_eq!(handshakes(probe, TlsOutcome::Failed), 1);
    assert_eq!(probe.parse_errors.read(), 1);
}

#[test]
fn whoever_takes_too_long_or_comes_when_many_shake_hands_is_let_go() {
    let (mut rig, config) = rig(SUITES[0]);
    let address = rig.address;
    let clients = thread::spawn(move || {
        // As many as may be under way, silent ones and one that has begun.
        let mut slow: Vec<_> = (0..HANDSHAKES_MAX).map(|_| Client::connect(address)).collect();
        slow[0].write(&[22, 3]);
        slow
    });
    let mut slow = rig.run(clients);
    rig.until("all are at the door", |engine| engine.handshaking == HANDSHAKES_MAX);
    let clients = thread::spawn(move || Client::connect(address).stream.read(&mut [0; 1]));
    let read = rig.run(clients);
    assert!(matches!(read, Ok(0)) || read.is_err_and(|e| e.kind() == ErrorKind::ConnectionReset));
    assert_eq!(handshakes(&rig.engine.probe, TlsOutcome::Crowded), 1);
    rig.ahead = TIMEOUT;
    rig.until("their time is up", |engine| engine.handshaking == 0);
    let clients = thread::spawn(move || {
        for client in &mut slow {
            let nothing_was_said = !matches!(client.stream.read(&mut [0; 1]), Ok(1..));
            assert!(nothing_was_said);
        }
        open(address, &config).echo(b"there is room again");
    });
    rig.run(clients);
    rig.until_nothing_is_left();
    let probe = &rig.engine.probe;
    assert_eq!(handshakes(probe, TlsOutcome::TimedOut), HANDSHAKES_MAX as u64);
}

/// One life of a connection, of the kind that `turn` picks.
fn live_and_leave(
    address: SocketAddr,
    config: &Arc<ClientConfig>,
    turn: usize,
    random: &mut fastrand::Rng,
) {
    match turn % 6 {
        0 => open(address, config).echo(&vec![3; random.usize(..20_000)]),
        1 => {
            // Leaves in the midst of its handshake.
            let mut hello = Vec::new();
            fixtures::client(config).write_tls(&mut hello).unwrap();
            let mut client = Client::connect(address);
            client.write(&hello[..random.usize(1..hello.len())]);
            if random.bool() {
                client.reset();
            }
        }
        2 => {
            // Leaves in the midst of an echo.
            let mut client = open(address, config);
            client.send(BINARY, &[9; 100_000]);
            client.stream.sock.read_exact(&mut [0; 100]).unwrap();
        }
        3 => {
            let mut client = open(address, config);
            client.write(&frame(BINARY, b"begun, and not"));
            client.stream.sock.shutdown(Shutdown::Write).unwrap();
            client.rest().ok();
        }
        4 => {
            // Says that nothing more comes, without a close frame.
            let mut client = open(address, config);
            client.stream.conn.send_close_notify();
            client.stream.flush().unwrap();
            client.rest().ok();
        }
        _ => {
            let mut client = sealed(Client::connect(address), config);
            client.write(b"GET /nowhere HTTP/1.1\r\nHost: test\r\n\r\n");
            assert!(client.rest().unwrap().starts_with(b"HTTP/1.1 404 "));
        }
    }
}

#[test]
fn six_hundred_lives_leave_nothing_behind() {
    let (mut rig, config) = rig(SUITES[0]);
    let address = rig.address;
    let clients = thread::spawn(move || {
        thread::scope(|scope| {
            for seed in 0..3 {
                let config = &config;
                scope.spawn(move || {
                    let random = &mut fastrand::Rng::with_seed(seed);
                    (0..200).for_each(|turn| live_and_leave(address, config, turn, random));
                });
            }
        });
    });
    rig.run(clients);
    rig.until_nothing_is_left();
    assert_eq!(rig.engine.probe.accepted.read(), 600);
}
