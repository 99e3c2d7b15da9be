//! What an idle session costs the gateway, from the first client of a process on, all pools and
//! tables included: (PSS with the sessions − PSS of a gateway that is ready and has never had a
//! client) / sessions.

#[expect(dead_code, reason = "each test takes the part of the harness that it needs")]
mod gateway_process;
#[expect(dead_code, reason = "of these services it needs some that run")]
mod services;

use std::time::Duration;

use gateway_process::client::{Client, upgrade_request};
use gateway_process::memory::{pss_bytes, raise_open_files};
use gateway_process::metrics::Metrics;
use gateway_process::{Gateway, Launch, SOON};
use services::{Kafka, Redis};

const SESSIONS: usize = 10_000;

/// Sessions that are begun together.
const WAVE: usize = 250;

/// Bytes for each, the record with which it can be taken up again among them.
const BOUND: u64 = 512;

/// Bytes that the clients of Redis and Kafka keep of what a crowd of newcomers has them send, however
/// many sessions stay: their threads have heaps of their own, which give little back.
const CLIENTS_BOUND: u64 = 6 << 20;

const CONFIG: &str = "
[shards]
count = 1

[session]
max_concurrent_connections = 12000
";

#[test]
fn ten_thousand_idle_sessions_stay_within_their_bound() {
    raise_open_files();
    let gateway = Launch::new(CONFIG).start();
    let grown = hold_idle_sessions(&gateway, |_| true);
    let each = grown / SESSIONS as u64;
    assert!(each <= BOUND, "{each} bytes of memory per idle session, {BOUND} are allowed");
    gateway.stop();
}

/// With what several nodes keep of a session to find it again, and all that was published of it.
#[test]
fn ten_thousand_idle_sessions_stay_within_their_bound_with_redis_and_kafka() {
    raise_open_files();
    let (redis, kafka) = (Redis::start(), Kafka::start());
    kafka.create_topic("bannou-client-events", 64, &[]);
    kafka.create_topic("session.connected", 4, &[]);
    kafka.create_topic("session.disconnected", 4, &[]);
    let config = format!(
        "{CONFIG}\n[redis]\nurl = \"{}\"\n[kafka]\nbrokers = [\"{}\"]\n",
        redis.url(),
        kafka.brokers()
    );
    let gateway = Launch::new(config).start();
    gateway.wait_for_metrics("Redis and the events' partitions", SOON, |metrics| {
        metrics.sum("corelane_redis_up") == 1.0
            && metrics.sum("corelane_kafka_event_partitions") == 64.0
    });
    let grown = hold_idle_sessions(&gateway, |metrics| {
        metrics.sum("corelane_redis_commands_waiting") == 0.0
            && metrics.sum("corelane_kafka_spool_records") == 0.0
    });
    let allowed = BOUND * SESSIONS as u64 + CLIENTS_BOUND;
    assert!(grown <= allowed, "{grown} bytes for {SESSIONS} idle sessions, {allowed} are allowed");
    gateway.stop();
}

/// Bytes that they take together once what they brought about is `over`.
#[expect(clippy::print_stdout, reason = "the figure is what a reader of the test wants to know")]
fn hold_idle_sessions(gateway: &Gateway, over: fn(&Metrics) -> bool) -> u64 {
    let before = pss_bytes(gateway.pid());
    let mut clients = Vec::with_capacity(SESSIONS);
    while clients.len() < SESSIONS {
        open_wave(gateway, &mut clients);
    }
    let sessions = SESSIONS as f64;
    gateway.wait_for_metrics("every session has its manifest", SOON, |metrics| {
        metrics.sum("corelane_sessions") == sessions
            && metrics.sum("corelane_messages_sent_total") >= sessions
            && metrics.sum("corelane_blocks_in_use_bytes") == 0.0
            && over(metrics)
    });
    let after = pss_bytes(gateway.pid());
    let grown = after.saturating_sub(before);
    let each = grown / SESSIONS as u64;
    println!("{SESSIONS} idle sessions: {each} bytes each (PSS {before} before, {after} after)");
    grown
}

fn open_wave(gateway: &Gateway, clients: &mut Vec<Client>) {
    let from = clients.len();
    for _ in 0..WAVE {
        let mut client = Client::connect(gateway.public());
        client.send(upgrade_request(&gateway.token()).as_bytes());
        clients.push(client);
    }
    for client in &mut clients[from..] {
        client.accepted(Duration::from_secs(20));
    }
}
