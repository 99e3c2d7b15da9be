//! Certificates are renewed while a thousand clients are connected and others come without a pause.

#[expect(dead_code, reason = "each test takes the part of the harness that it needs")]
mod gateway_process;
#[expect(dead_code, reason = "of this harness it needs the authority and its clients")]
#[path = "gateway/harness/mod.rs"]
mod harness;

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use corelane_loadtest::outcome::{Interval, Outcome};
use corelane_loadtest::run::{self, Surroundings, Watcher};
use corelane_loadtest::scenario;
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use rustls::version::{TLS12, TLS13};

use gateway_process::memory::raise_open_files;
use gateway_process::{Gateway, Launch};
use harness::PATIENCE;
use harness::tls::{Authority, shown};

/// Sessions that stay, in pairs that write to each other.
const LIVE: usize = 1000;

/// To shake a thousand hands on a machine that is busy with other tests.
const OPEN_WITHIN: Duration = Duration::from_secs(120);

/// Renewals by new files, and as many by a reload that names others.
const RENEWALS: usize = 4;

/// Who is shown a certificate, and by which name he knows it.
const NAME: &str = "game.example";

fn tables(authority: &Authority, certificate: &str) -> String {
    let listener = authority.listener(&[certificate], "");
    format!("{listener}\n[shards]\ncount = 1\n[session]\nconnection_mode = \"Relayed\"\n")
}

struct Blind;

impl Watcher for Blind {
    fn opening(&mut self, _ready: u64, _wanted: u64) {}
    fn interval(&mut self, _interval: &Interval) {}
}

/// Runs a built-in scenario over TLS that trusts `authority` alone.
fn load(
    name: &str,
    settings: &[&str],
    clients: usize,
    gateway: &Gateway,
    authority: &Authority,
) -> JoinHandle<Outcome> {
    let own = [
        format!("target.url=wss://{}/connect", gateway.tls()),
        format!("tls.ca={}", authority.roots().display()),
        format!("tls.server_name={NAME}"),
        format!("connections.count={clients}"),
    ];
    let settings: Vec<String> = settings.iter().map(|&s| s.to_owned()).chain(own).collect();
    let scenario = scenario::load(name, &settings).expect("a built-in scenario takes its keys");
    let tokens = (0..clients.max(8)).map(|_| gateway.token()).collect();
    let surroundings = Surroundings { tokens, server: None };
    thread::spawn(move || {
        run::run(&scenario, &surroundings, &mut Blind).expect("the run has an outcome")
    })
}

fn assert_unharmed(outcome: &Outcome, what: &str) {
    let connections = &outcome.connections;
    assert!(outcome.errors.is_empty(), "{what}: {:?}", outcome.errors);
    assert_eq!((connections.failed, connections.lost), (0, 0), "{what}: {connections:?}");
    assert_eq!(outcome.messages.faults(), 0, "{what}: {:?}", outcome.messages);
}

fn await_shown(gateway: &Gateway, client: &Arc<ClientConfig>, wanted: &CertificateDer<'static>) {
    gateway.wait_until("the new certificate to be shown", PATIENCE, || {
        shown(gateway.tls(), NAME, client) == *wanted
    });
}

#[test]
fn renewals_close_none_of_a_thousand_connections_and_fail_no_handshake_of_a_storm() {
    raise_open_files();
    let authority = Authority::new();
    authority.write("even", &[NAME]);
    authority.write("odd", &[NAME]);
    let mut gateway = Launch::new(tables(&authority, "even")).start();

    let during = "timing.duration=25s";
    let steady = ["arrival.mode=constant", "arrival.rate=500", "timing.patience=20s", during];
    let live = load("peers", &steady, LIVE, &gateway, &authority);
    gateway.wait_for_metrics("a thousand are connected", OPEN_WITHIN, |metrics| {
        metrics.sum("corelane_sessions") >= LIVE as f64
    });
    let storm = load("handshake-storm", &["arrival.in_flight=4", during], 4, &gateway, &authority);
    let full = |gateway: &Gateway| {
        gateway.metrics().sum_of("corelane_tls_handshakes_total", "outcome=\"full\"")
    };
    gateway.wait_until("the storm to begin", PATIENCE, || full(&gateway) > (LIVE + 50) as f64);

    // Some of those who look speak the older version.
    let clients = [&TLS13, &TLS12].map(|version| {
        let mut client = ClientConfig::clone(&authority.client(&[version], None));
        // Who takes an earlier session up is not shown the certificate again.
        client.resumption = Resumption::disabled();
        Arc::new(client)
    });
    let mut names = ["even", "odd"];
    for client in clients.iter().cycle().take(RENEWALS) {
        let watched = authority.write(names[0], &[NAME]);
        await_shown(&gateway, client, &watched);
        names.reverse();
        let named = authority.write(names[0], &[NAME]);
        gateway.reload(tables(&authority, names[0]));
        await_shown(&gateway, client, &named);
    }
    let replaced = gateway.metrics().sum("corelane_certificates_replaced_total");
    assert!(replaced >= (2 * RENEWALS) as f64, "{replaced} renewals were taken");

    // Each of the thousand is heard of once more, and the storm goes on.
    let heard = |gateway: &Gateway| gateway.metrics().sum("corelane_messages_received_total");
    let (heard_before, full_before) = (heard(&gateway), full(&gateway));
    gateway.wait_until("each session to be heard of again", PATIENCE, || {
        heard(&gateway) >= heard_before + (2 * LIVE) as f64
    });
    gateway.wait_until("further handshakes", PATIENCE, || full(&gateway) > full_before + 10.0);
    assert!(!live.is_finished() && !storm.is_finished(), "all of it was under load");

    let live = live.join().expect("the load does not panic");
    assert_eq!(live.connections.ready, LIVE as u64);
    assert_unharmed(&live, "those that stay");
    let storm = storm.join().expect("the load does not panic");
    assert_unharmed(&storm, "those that come");
    let failed = gateway.metrics().sum_of("corelane_tls_handshakes_total", "outcome=\"failed\"");
    assert_eq!(failed, 0.0, "handshakes failed");
    println!(
        "{replaced} renewals beside {LIVE} connections and {} handshakes",
        storm.connections.ready
    );
    gateway.wait_until_empty();
    gateway.stop();
}
