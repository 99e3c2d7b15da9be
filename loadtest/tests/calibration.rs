//! Proof that the harness does not omit the delays that a server coordinates: a server that stalls
//! at known moments, whose effect on every planned message can be computed.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use corelane_loadtest::scenario::{Arrival, Scenario};
use corelane_loadtest::schedule::Schedule;
use corelane_loadtest::stamp::Stamp;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::{ClockId, clock_gettime};

use support::{ACCEPTED, BINARY, frame, outcome_of, parse, scenario};

const STALL: Duration = Duration::from_millis(100);
const PERIOD_NS: u64 = 1_000_000_000;
/// Between two messages that are due, so that the log and the plan agree on which one was held up.
const FIRST_STALL_NS: u64 = PERIOD_NS / 2 + (0.5e9 / RATE) as u64;

/// So few that the messages of the 99th percentile are the first of their connections after a stall:
/// how fast the machine works off what has piled up behind them is not the question.
const RATE: f64 = 450.0;
/// The uncorrected percentile sees one message of each in a stall: 2 of 450.
const CONNECTIONS: usize = 2;
/// Whole periods, and few: a long run is seldom left in peace.
const SECONDS: u64 = 2;

/// What the server saw and did, in nanoseconds of the clock of the stamps.
#[derive(Default)]
struct Log {
    /// Earliest intended time: where the plan begins.
    first_intended: Option<u64>,
    stalls: Vec<(u64, u64)>,
}

fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

struct Client {
    stream: TcpStream,
    received: Vec<u8>,
    upgraded: bool,
}

/// Echoes on one thread, so that a stall holds up every connection.
fn stalling_server() -> (std::net::SocketAddr, Arc<Mutex<Log>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let log = Arc::new(Mutex::new(Log::default()));
    let shared = Arc::clone(&log);
    thread::spawn(move || {
        let mut clients: Vec<Client> = Vec::new();
        let mut next_stall = u64::MAX;
        loop {
            let mut watched = vec![PollFd::new(&listener, PollFlags::IN)];
            watched.extend(clients.iter().map(|client| PollFd::new(&client.stream, PollFlags::IN)));
            let wait = next_stall.saturating_sub(now());
            let wait = rustix::event::Timespec {
                tv_sec: (wait / 1_000_000_000).min(3600) as i64,
                tv_nsec: (wait % 1_000_000_000) as i64,
            };
            poll(&mut watched, Some(&wait)).unwrap();
            let ready: Vec<bool> = watched.iter().map(|fd| !fd.revents().is_empty()).collect();
            if now() >= next_stall {
                let begun = now();
                thread::sleep(STALL); // this is the fault that is injected
                shared.lock().unwrap().stalls.push((begun, now()));
                next_stall += PERIOD_NS;
            }
            if ready[0] {
                let (stream, _) = listener.accept().unwrap();
                stream.set_nodelay(true).unwrap();
                clients.push(Client { stream, received: Vec::new(), upgraded: false });
            }
            let mut ready = ready[1..].iter();
            clients.retain_mut(|client| {
                let has_bytes = ready.next().is_some_and(|ready| *ready);
                !has_bytes || answer(client, &shared).is_some()
            });
            let first = shared.lock().unwrap().first_intended;
            if let (Some(first), u64::MAX) = (first, next_stall) {
                next_stall = first + FIRST_STALL_NS;
            }
        }
    });
    (address, log)
}

/// Nothing if the client is gone.
fn answer(client: &mut Client, log: &Mutex<Log>) -> Option<()> {
    let mut chunk = [0; 64 << 10];
    let len = client.stream.read(&mut chunk).ok().filter(|&len| len > 0)?;
    client.received.extend_from_slice(&chunk[..len]);
    let mut out = Vec::new();
    if !client.upgraded {
        if client.received.ends_with(b"\r\n\r\n") {
            client.received.clear();
            client.upgraded = true;
            out.extend_from_slice(ACCEPTED.as_bytes());
        }
    } else {
        while let Some(((first, payload), used)) = parse(&client.received) {
            client.received.drain(..used);
            if first == BINARY {
                let intended = Stamp::read(&payload).unwrap().intended;
                let mut log = log.lock().unwrap();
                log.first_intended = Some(log.first_intended.map_or(intended, |f| f.min(intended)));
            }
            out.extend(frame(first, &payload));
        }
    }
    client.stream.write_all(&out).ok()
}

fn calibrated(address: std::net::SocketAddr) -> Scenario {
    let mut scenario = scenario(address);
    scenario.connections.count = CONNECTIONS;
    scenario.arrival = Arrival::Constant { rate: RATE, window: Some(1) };
    scenario.timing.warm_up = Duration::ZERO;
    scenario.timing.duration = Duration::from_secs(SECONDS);
    scenario.timing.patience = Duration::from_secs(2);
    scenario
}

/// The 99th percentile if nothing but the stalls and the window holds a message up: one that is due
/// in a stall waits for its end; each costs the ordinary round trip, one after the other on its
/// connection.
fn analytic_p99_us(scenario: &Scenario, log: &Log, round_trip: u64) -> f64 {
    let start = log.first_intended.unwrap();
    let plan = Schedule::new(&scenario.arrival, scenario.timing.duration, scenario.generator.seed);
    let mut free_at = [0; CONNECTIONS];
    let mut latencies: Vec<u64> = plan
        .enumerate()
        .map(|(number, offset)| {
            let due = start + offset;
            let sent = due.max(free_at[number % CONNECTIONS]);
            let stall = log.stalls.iter().find(|(begun, ended)| *begun <= sent && sent < *ended);
            free_at[number % CONNECTIONS] = stall.map_or(sent, |(_, ended)| *ended) + round_trip;
            free_at[number % CONNECTIONS] - due
        })
        .collect();
    latencies.sort_unstable();
    let rank = (latencies.len() as f64 * 0.99).ceil() as usize;
    latencies[rank - 1] as f64 / 1e3
}

/// On a crowded machine hardly a run is left in peace, and then the plan of the test is not what was
/// done; an error of the harness is in each.
const PATIENCE: Duration = Duration::from_secs(90);

/// 99th percentiles in microseconds.
struct Calibration {
    /// Of the plan and of what the server did.
    expected: f64,
    reported: f64,
    /// From the send, which a stall puts off.
    uncorrected: f64,
}

impl Calibration {
    fn agrees(&self) -> bool {
        let tolerance = (self.expected * 0.01).max(500.0);
        (self.reported - self.expected).abs() <= tolerance
            && self.uncorrected * 10.0 < self.expected
    }
}

fn calibration() -> Calibration {
    let (address, log) = stalling_server();
    let scenario = calibrated(address);
    let outcome = outcome_of(&scenario);
    let planned = RATE as u64 * SECONDS;
    assert_eq!(outcome.messages.planned, planned);
    assert_eq!((outcome.messages.received, outcome.messages.lost), (planned, 0));
    assert_eq!(outcome.latency.from_intended.0.len(), planned);
    let round_trip = outcome.latency.from_send.0.value_at_quantile(0.5);
    Calibration {
        expected: analytic_p99_us(&scenario, &log.lock().unwrap(), round_trip),
        reported: outcome.latency.from_intended.quantile_us(0.99),
        uncorrected: outcome.latency.from_send.quantile_us(0.99),
    }
}

#[test]
fn a_stall_is_reported_as_long_as_it_was() {
    let begun = Instant::now();
    loop {
        let run = calibration();
        let Calibration { expected, reported, uncorrected } = run;
        println!(
            "p99: analytic {expected:.1} µs, reported {reported:.1}, uncorrected {uncorrected:.1}"
        );
        if run.agrees() {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "no run agrees with the plan; the last is above");
    }
}
