//! What an idle session costs the gateway, all of its pools and tables included.

#[expect(dead_code, reason = "each test takes the part of the harness that it needs")]
mod gateway_process;

use std::time::Duration;

use gateway_process::client::{BINARY, Client, masked, request, upgrade_request};
use gateway_process::memory::{pss_bytes, raise_open_files};
use gateway_process::{Gateway, Launch, SOON};

const SESSIONS: usize = 10_000;

/// Sessions that are begun together.
const WAVE: usize = 250;

/// Bytes of all receive buffers of a shard, as they are by default.
const RECEIVE_MEMORY: usize = 4096 * 2048;

/// Places in each lane between a shard and the control core; as many tokens are remembered.
const PLACES_OF_LANES: usize = 4096;

/// Payload of a message that takes many receive buffers.
const LONG_MESSAGE: usize = 60 << 10;

/// Bytes for each.
const BOUND: u64 = 1024;

const CONFIG: &str = "
[shards]
count = 1

[session]
max_concurrent_connections = 12000
";

#[test]
fn ten_thousand_idle_sessions_take_at_most_a_kibibyte_each() {
    raise_open_files();
    let gateway = Launch::new(CONFIG).start();
    let cold = pss_bytes(gateway.pid());
    warm_up(&gateway);
    let before = pss_bytes(gateway.pid());

    let mut clients = Vec::with_capacity(SESSIONS);
    while clients.len() < SESSIONS {
        open_wave(&gateway, &mut clients);
    }
    let sessions = SESSIONS as f64;
    gateway.wait_for_metrics("every session has its manifest", SOON, |metrics| {
        metrics.sum("corelane_sessions") == sessions
            && metrics.sum("corelane_messages_sent_total") >= sessions
            && metrics.sum("corelane_blocks_in_use_bytes") == 0.0
    });
    let after = pss_bytes(gateway.pid());
    let each = after.saturating_sub(before) / SESSIONS as u64;
    println!(
        "{SESSIONS} idle sessions: {each} bytes each (PSS {before} before, {after} after; {} bytes \
         each with all that the first clients of a process bring into memory)",
        after.saturating_sub(cold) / SESSIONS as u64
    );
    assert!(each <= BOUND, "{each} bytes of memory per idle session, {BOUND} are allowed");
    drop(clients);
    gateway.stop();
}

/// Brings into memory what does not depend on the number of sessions: the code that they run
/// through, the lanes and the cache of tokens, whose places are taken in turn, and each of the
/// shard's receive buffers.
fn warm_up(gateway: &Gateway) {
    let mut clients = Vec::new();
    for _ in 0..=PLACES_OF_LANES / WAVE {
        clients.clear();
        open_wave(gateway, &mut clients);
    }
    let message = masked(BINARY, &request([0; 16], 1, &[0; LONG_MESSAGE]));
    for _ in 0..=RECEIVE_MEMORY / LONG_MESSAGE {
        clients[0].send(&message);
    }
    gateway.wait_for_metrics("the receive buffers were used", SOON, |metrics| {
        metrics.sum("corelane_received_bytes_total") > RECEIVE_MEMORY as f64
    });
    drop(clients);
    gateway.wait_for_metrics("the first sessions have ended", SOON, |metrics| {
        metrics.sum("corelane_slots_in_use") == 0.0
    });
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
