//! Two shards, their lanes, the control core, players and backends in one thread, on a clock of
//! their own, by a seed: the engine against everything that can happen to it, in an order that can
//! be repeated.
//!
//! `SIMULATION_SEED=n` replays one run and tells what happens; `SIMULATION_SEEDS=n` makes as many.

mod abroad;
mod clients;
mod clock;
mod control;
mod frames;
mod full_lane;
mod http_backend;
mod invariants;
mod kernel;
mod link_backend;
mod network;
mod run;
mod scenes;
mod sealed;
mod setting;
mod stamp;
mod talk;
mod trace;

use run::{Counts, run};

const SEEDS: u64 = 1000;

/// Says which run has failed and how it is repeated.
struct Announcement(u64);

impl Drop for Announcement {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self(seed) = self;
            println!(
                "again with: SIMULATION_SEED={seed} cargo test --package corelane-shard --lib \
                 simulation::seeds"
            );
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn seeds_of_simulated_hours_keep_every_invariant() {
    if let Some(seed) = number("SIMULATION_SEED") {
        let _announcement = Announcement(seed);
        run(seed, true);
        return;
    }
    let mut total = Counts::new();
    let seeds = number("SIMULATION_SEEDS").unwrap_or(SEEDS);
    for seed in 0..seeds {
        let _announcement = Announcement(seed);
        for (name, count) in run(seed, false).counts {
            *total.entry(name).or_default() += count;
        }
    }
    println!("{total:?}");
    // Runs that meet with nothing would prove nothing.
    let met = |name: &&&str| total.get(**name).is_some_and(|count| *count > 0);
    let missing: Vec<_> = MET.iter().filter(|name| !met(name)).collect();
    assert!(seeds < SEEDS || missing.is_empty(), "never met with: {missing:?}");
}

/// Counters that a thousand runs leave above zero.
const MET: [&str; 52] = [
    "sends_partial ",
    "receive_buffers_exhausted ",
    "lane_crossings_received ",
    "events_delivered ",
    "doorbells ",
    "connections_closed 1000",
    "connections_closed 1001",
    "connections_closed 1002",
    "connections_closed 1006",
    "connections_closed 1008",
    "connections_closed 1013",
    "connections_closed 4001",
    "connections_closed 4002",
    "messages_routed broadcast",
    "messages_routed meta",
    "responses 0",
    "responses 13",
    "responses 14",
    "responses 30",
    "responses 31",
    "responses 50",
    "responses 60",
    "shed blocks_exhausted",
    "shed breaker_open",
    "shed broadcast_lane_full",
    "shed call_line_full",
    "shed call_timed_out",
    "shed departing",
    "shed held_answer_full",
    "shed lane_full",
    "shed late_answer",
    "shed message_too_long",
    "shed own_outbox_full",
    "shed peer_outbox_full",
    "shed push_without_session",
    "shed rate_limited",
    "shed rpc_timeout",
    "shed service_busy",
    "shed slow_consumer",
    "shed unknown_tag",
    "shed unmatched_answer",
    "tls_handshakes client_gone",
    "tls_handshakes crowded",
    "tls_handshakes failed",
    "tls_handshakes full",
    "tls_handshakes not_tls",
    "tls_handshakes resumed",
    "tls_handshakes timed_out",
    "upgrades draining",
    "upgrades full",
    "upgrades head_timeout",
    "upgrades replaced",
];

#[test]
fn a_seed_replays_its_run_exactly() {
    for seed in 0..20 {
        let _announcement = Announcement(seed);
        assert_eq!(run(seed, false), run(seed, false));
    }
    assert_ne!(run(1, false).hash, run(2, false).hash);
}
