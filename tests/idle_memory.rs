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

/// Those of them that come first where the clients of Redis and Kafka work for the others: what their
/// heaps take once is taken then.
const FIRST: usize = 2_000;

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
    let before = pss_bytes(gateway.pid());
    let after = hold_idle_sessions(&gateway, &mut Vec::new(), SESSIONS, |_| true);
    let each = each(before, after, SESSIONS);
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
    let at_rest = |metrics: &Metrics| {
        metrics.sum("corelane_redis_commands_waiting") == 0.0
            && metrics.sum("corelane_kafka_spool_records") == 0.0
    };
    let mut clients = Vec::with_capacity(SESSIONS);
    let before = pss_bytes(gateway.pid());
    let first = hold_idle_sessions(&gateway, &mut clients, FIRST, at_rest);
    let after = hold_idle_sessions(&gateway, &mut clients, SESSIONS, at_rest);
    let each = each(first, after, SESSIONS - FIRST);
    assert!(each <= BOUND, "{each} bytes of memory per idle session, {BOUND} are allowed");
    let (grown, allowed) = (after - before, BOUND * SESSIONS as u64 + CLIENTS_BOUND);
    assert!(grown <= allowed, "{grown} bytes for {SESSIONS} idle sessions, {allowed} are allowed");
    gateway.stop();
}

/// Opens sessions until there are so many; the gateway's memory once what they brought about is `over`.
fn hold_idle_sessions(
    gateway: &Gateway,
    clients: &mut Vec<Client>,
    count: usize,
    over: fn(&Metrics) -> bool,
) -> u64 {
    while clients.len() < count {
        open_wave(gateway, clients);
    }
    let sessions = count as f64;
    gateway.wait_for_metrics("every session has its manifest", SOON, |metrics| {
        metrics.sum("corelane_sessions") == sessions
            && metrics.sum("corelane_messages_sent_total") >= sessions
            && metrics.sum("corelane_blocks_in_use_bytes") == 0.0
            && over(metrics)
    });
    pss_bytes(gateway.pid())
}

/// Bytes for each of so many sessions.
#[expect(clippy::print_stdout, reason = "the figure is what a reader of the test wants to know")]
fn each(before: u64, after: u64, sessions: usize) -> u64 {
    let each = after.saturating_sub(before) / sessions as u64;
    println!("{sessions} idle sessions: {each} bytes each (PSS {before} before, {after} after)");
    each
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
