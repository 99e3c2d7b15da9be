//! Gateways that find each other in Redis, and lease their numbers there.

use std::time::{SystemTime, UNIX_EPOCH};

use rustix::process::Signal;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::PATIENCE;
use crate::harness::frames::{CLIENT, Guid, Request};
use crate::harness::gateway::{Gateway, Setup};
use crate::services::Redis;
use crate::services::port;

const REGISTRY: &str = "connect:zset:broadcast-registry";

/// A node that others reach at a port of its own, and that knows nobody.
pub(crate) fn node(redis: &Redis, instance: Uuid) -> Setup {
    let address = format!("127.0.0.1:{}", port::free());
    Setup::new("")
        .set("session.connection_mode", "Relayed")
        .set("listen.internal.address", &address)
        .set("listen.internal.service_token", crate::internal::TOKEN)
        .set("redis.url", &redis.url())
        .set("control.instance", &instance.to_string())
        .set("control.node", "auto")
        .set("nodes.internal_url", &format!("ws://{address}"))
        .set("nodes.broadcast", "Both")
        .set("nodes.heartbeat_interval_seconds", "5")
        .set("nodes.stale_threshold_seconds", "15")
}

pub(crate) fn await_links(gateway: &Gateway, wanted: u64) {
    gateway.await_metric("corelane_node_links", "state=\"open\"", wanted);
}

/// By what others know it: the lower 12 bits are the number that it would have.
fn instance(id: u128) -> Uuid {
    Uuid::from_u128(0x9000_8000 << 64 | id)
}

fn letter(to: Guid) -> Request {
    Request::to(to).flags(CLIENT)
}

fn assert_players_reach_each_other(from: &Gateway, to: &Gateway) {
    let (mut alice, mut bob) = (from.client(), to.client());
    let message = letter(bob.peer());
    assert_eq!(alice.call(&message).code, 0);
    assert_eq!(bob.request(), message);
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// The number that a node has leased.
fn number(gateway: &Gateway) -> u64 {
    let line = gateway.await_log("has leased its number");
    let line: Value = serde_json::from_str(&line).expect("the log is JSON");
    line["number"].as_u64().expect("a number")
}

#[test]
fn nodes_find_each_other_and_let_go_of_one_that_stops() {
    let redis = Redis::start();
    let mut nodes: Vec<Gateway> = Vec::new();
    for id in [1, 2, 3] {
        nodes.push(node(&redis, instance(id)).start());
        nodes.iter().for_each(|gateway| await_links(gateway, nodes.len() as u64 - 1));
    }
    assert_players_reach_each_other(&nodes[0], &nodes[2]);
    let there = redis.cli(&["ZRANGE", REGISTRY, "0", "-1", "WITHSCORES"]);
    let lines: Vec<&str> = there.lines().collect();
    assert_eq!(lines.len(), 6, "{there}");
    for (gateway, id) in nodes.iter().zip([1, 2, 3]) {
        let url = format!("ws://{}/connect/broadcast", gateway.internal());
        let instance = instance(id);
        let record = format!(
            "{{\"InstanceId\":\"{instance}\",\"InternalUrl\":\"{url}\",\"BroadcastMode\":\"Both\"}}"
        );
        let at = lines.iter().position(|line| *line == record);
        let at = at.unwrap_or_else(|| panic!("{record} is not in {there}"));
        let beat: u64 = lines[at + 1].parse().expect("a score is a number");
        assert!(beat.abs_diff(unix_seconds()) < 15, "{beat}");
    }

    let mut last = nodes.pop().expect("three");
    last.signal(Signal::TERM);
    assert!(last.wait_for_end(PATIENCE).success());
    assert_eq!(redis.cli(&["ZCARD", REGISTRY]), "2");
    for gateway in &nodes {
        gateway.await_metric("corelane_node_registry_nodes", "", 1);
        await_links(gateway, 1);
    }
    assert_players_reach_each_other(&nodes[1], &nodes[0]);
}

#[test]
fn a_record_that_is_stale_is_taken_out_and_nobody_dials_there() {
    let redis = Redis::start();
    let seconds = unix_seconds();
    let nobody = |id: u128, port: u16| {
        json!({
            "InstanceId": instance(id).to_string(), "InternalUrl": format!("ws://127.0.0.1:{port}/x"),
            "BroadcastMode": "Both",
        })
    };
    let fields = |value: Value| value.to_string();
    let (stale, fresh) = (fields(nobody(7, port::free())), fields(nobody(8, port::free())));
    redis.cli(&["ZADD", REGISTRY, &(seconds - 60).to_string(), &stale]);
    redis.cli(&["ZADD", REGISTRY, &seconds.to_string(), &fresh, &seconds.to_string(), "nonsense"]);
    let gateway = node(&redis, instance(1)).start();
    gateway.await_metric("corelane_node_registry_nodes", "", 1);
    assert_eq!(redis.cli(&["ZSCORE", REGISTRY, &stale]), "");
    let ended = "corelane_node_links_ended_total";
    gateway.wait_for_metrics("dials", PATIENCE, |metrics| {
        metrics.sum_of(ended, "reason=\"unreachable\"") as u64 >= 2
    });
    // It does not come back; then it counts as gone, and is left alone.
    redis.cli(&["ZADD", REGISTRY, &(seconds - 60).to_string(), &fresh]);
    gateway.await_metric("corelane_node_registry_nodes", "", 0);
}

#[test]
fn links_stand_while_redis_is_away_and_its_failures_are_counted() {
    let mut redis = Redis::start();
    let [first, second] = [1, 2].map(|id| node(&redis, instance(id)).start());
    await_links(&first, 1);
    let (mut alice, mut bob) = (first.client(), second.client());
    redis.kill();
    for gateway in [&first, &second] {
        gateway.wait_for_metrics("a failure", PATIENCE, |metrics| {
            metrics.sum_of("corelane_node_registry_failures_total", "") > 0.0
        });
        await_links(gateway, 1);
    }
    let message = letter(bob.peer());
    assert_eq!(alice.call(&message).code, 0);
    assert_eq!(bob.request(), message);
    redis.restart();
    // It has forgotten everything, and is told again.
    first.wait_until("both are there again", PATIENCE, || redis.cli(&["ZCARD", REGISTRY]) == "2");
    await_links(&first, 1);
}

#[test]
fn nodes_have_different_numbers_and_the_same_again_after_a_restart() {
    let redis = Redis::start();
    // Both would have the same one.
    let (one, other) = (instance(0x1_0005), instance(0x2_0005));
    let first = node(&redis, one).start();
    let second = node(&redis, other).start();
    assert_eq!([number(&first), number(&second)], [5, 6]);
    await_links(&first, 1);
    drop(first);
    // Its old one would be free.
    drop(second);
    redis.cli(&["DEL", "connect:node-number:5"]);
    let second = node(&redis, other).start();
    let first = node(&redis, one).start();
    assert_eq!([number(&first), number(&second)], [5, 6]);
    await_links(&second, 1);
    assert_players_reach_each_other(&first, &second);
}

#[test]
fn a_node_whose_number_is_anothers_tells_its_players_to_go_and_ends() {
    let redis = Redis::start();
    let mut gateway = node(&redis, instance(5)).start();
    assert_eq!(number(&gateway), 5);
    let mut alice = gateway.client();
    redis.cli(&["SET", "connect:node-number:5", &format!("{} another", instance(6))]);
    assert_eq!(alice.close_reason().0, 4005);
    let line = gateway.await_log("was given to another");
    assert!(line.contains(&instance(6).to_string()), "{line}");
    assert!(gateway.wait_for_end(PATIENCE).success());
    let holder = redis.cli(&["GET", "connect:node-number:5"]);
    assert!(holder.ends_with("another"), "{holder}");
}
