//! The admin listener over real sockets on loopback.

use std::io::{Read, Write};
use std::net::TcpStream as StdStream;
use std::sync::mpsc;
use std::thread;

use corelane_shard::probe::Shed;

use super::*;

/// A listener on a free port of loopback, served by a thread that ends with the process.
struct Served {
    address: SocketAddr,
    phase: Arc<PhaseCell>,
    probes: [Arc<Probe>; 2],
}

/// Without a control core behind them.
fn operators() -> Operators {
    Operators::new(tokio::sync::mpsc::channel(1).0, Arc::default())
}

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn served() -> Served {
    let phase = Arc::<PhaseCell>::default();
    let probes = [Arc::<Probe>::default(), Arc::<Probe>::default()];
    let shards = vec![(ShardId(0), Arc::clone(&probes[0])), (ShardId(1), Arc::clone(&probes[1]))];
    let control = Arc::<ControlProbe>::default();
    let listener =
        AdminListener::bind(any_port(), shards, control, Arc::clone(&phase), operators()).unwrap();
    let address = listener.local_address().unwrap();
    let (ready, is_ready) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            listener.serve().unwrap();
            ready.send(()).unwrap();
            std::future::pending::<()>().await;
        });
    });
    is_ready.recv().unwrap();
    Served { address, phase, probes }
}

impl Served {
    /// The whole answer; the server closes behind it.
    fn ask(&self, request: &str) -> String {
        let mut stream = StdStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        write!(stream, "{request} HTTP/1.1\r\nHost: admin\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

#[test]
fn readiness_follows_the_phase_and_says_why_not() {
    let served = served();
    assert!(served.ask("GET /livez").starts_with("HTTP/1.1 200 OK"));
    let starting = served.ask("GET /readyz");
    assert!(starting.starts_with("HTTP/1.1 503 "), "{starting}");
    assert!(starting.contains(r#""phase":"starting","reason":"the shards"#), "{starting}");
    served.phase.store(Phase::Running);
    assert!(served.ask("GET /readyz").starts_with("HTTP/1.1 200 OK"));
    served.phase.store(Phase::Draining(DrainPhase::Grace));
    let draining = served.ask("GET /readyz");
    assert!(draining.starts_with("HTTP/1.1 503 "), "{draining}");
    assert!(draining.contains("shutting down"), "{draining}");
    assert!(served.ask("GET /livez").starts_with("HTTP/1.1 200 OK"));
}

#[test]
fn a_visit_is_one_request_whatever_it_asks() {
    let served = served();
    for request in ["GET /config", "GET /sessions", "GET /sessions/x", "DELETE /sessions"] {
        let answer = served.ask(request);
        assert!(answer.contains("connection: close"), "{request}: {answer}");
    }
    assert!(served.ask("GET /sessions").starts_with("HTTP/1.1 503 "));
    assert!(served.ask("POST /config").starts_with("HTTP/1.1 405 "));
}

#[test]
fn everything_else_is_answered_in_json() {
    let served = served();
    let lost = served.ask("GET /metrics/extra");
    assert!(lost.starts_with("HTTP/1.1 404 "), "{lost}");
    assert!(lost.contains("content-type: application/json"), "{lost}");
    assert!(lost.ends_with(r#"{"error":"not_found"}"#), "{lost}");
    let wrong = served.ask("POST /metrics");
    assert!(wrong.starts_with("HTTP/1.1 405 "), "{wrong}");
    assert!(wrong.contains("allow: GET,HEAD"), "{wrong}");
}

#[test]
fn the_scrape_shows_every_probe_by_shard_in_the_text_format() {
    let served = served();
    served.probes[0].bytes_in.add(7);
    served.probes[1].bytes_in.add(8);
    served.probes[1].shed(Shed::RateLimited);
    served.phase.store(Phase::Running);
    let answer = served.ask("GET /metrics");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
    for line in [
        "# HELP corelane_received_bytes Bytes received on all sockets.",
        "# TYPE corelane_received_bytes counter",
        "# UNIT corelane_received_bytes bytes",
        "corelane_received_bytes_total{shard=\"0\"} 7",
        "corelane_received_bytes_total{shard=\"1\"} 8",
        "corelane_shed_total{shard=\"1\",reason=\"rate_limited\"} 1",
        "corelane_sessions{shard=\"0\"} 0",
        "corelane_claims_total{outcome=\"granted\"} 0",
        "corelane_evictions_total 0",
        "corelane_resolve_failures_total 0",
        "corelane_phase{phase=\"running\"} 1",
        "corelane_phase{phase=\"starting\"} 0",
        concat!("corelane_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        "# UNIT process_resident_memory_bytes bytes",
        "# TYPE process_cpu_seconds counter",
    ] {
        assert!(body.lines().any(|found| found == line), "no {line:?} in\n{body}");
    }
    for prefix in
        ["process_start_time_seconds ", "process_resident_memory_bytes ", "process_open_fds "]
    {
        let line = body.lines().find_map(|line| line.strip_prefix(prefix)).unwrap();
        assert!(line.parse::<f64>().unwrap() > 0.0, "{prefix}{line}");
    }
    assert!(body.ends_with("# EOF\n"));
}

#[test]
fn a_family_stands_in_one_place_and_every_sample_once() {
    let answer = served().ask("GET /metrics");
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    let described: Vec<&str> = body.lines().filter(|line| line.starts_with("# TYPE ")).collect();
    let mut samples: Vec<&str> = body
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.rsplit_once(' ').unwrap().0)
        .collect();
    for lines in [&mut described.clone(), &mut samples] {
        let all = lines.len();
        lines.sort_unstable();
        lines.dedup();
        assert_eq!(lines.len(), all);
    }
    assert!(described.iter().any(|line| line.ends_with("corelane_upgrades counter")));
}

#[test]
fn an_address_that_is_taken_or_public_is_named_with_the_next_step() {
    let served = served();
    let bind = |address| {
        let control = Arc::<ControlProbe>::default();
        AdminListener::bind(address, Vec::new(), control, Arc::default(), operators())
            .unwrap_err()
            .to_string()
    };
    let taken = bind(served.address);
    assert!(taken.contains(&served.address.to_string()) && taken.contains("ss -ltnp"), "{taken}");
    let public = bind(SocketAddr::from(([0, 0, 0, 0], 0)));
    assert!(public.contains("0.0.0.0:0") && public.contains("127.0.0.1"), "{public}");
}
