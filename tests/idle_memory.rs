//! What an idle session costs the gateway, from the first client of a process on, all pools and
//! tables included: (PSS with the sessions − PSS of a gateway that is ready and has never had a
//! client) / sessions.

#[expect(dead_code, reason = "each test takes the part of the harness that it needs")]
mod gateway_process;

use std::time::Duration;

use gateway_process::client::{Client, upgrade_request};
use gateway_process::memory::{pss_bytes, raise_open_files};
use gateway_process::{Gateway, Launch, SOON};

const SESSIONS: usize = 10_000;

/// Sessions that are begun together.
const WAVE: usize = 250;

/// Bytes for each, the record with which it can be taken up again among them.
const BOUND: u64 = 512;

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
    println!("{SESSIONS} idle sessions: {each} bytes each (PSS {before} before, {after} after)");
    assert!(each <= BOUND, "{each} bytes of memory per idle session, {BOUND} are allowed");
    drop(clients);
    gateway.stop();
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
