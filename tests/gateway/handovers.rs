//! What a session leaves behind on one gateway, and another that takes it up gets from there.

use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::gateway_process::token::Claims;
use crate::harness::client::Client;
use crate::harness::gateway::{Gateway, Setup};
use crate::internal::post;
use crate::kafka::Kafka;
use crate::registry::{await_links, node};
use crate::services::Redis;

const OUTCOMES: &str = "corelane_node_handovers_total";

/// Two that are linked.
fn pair(redis: &Redis, with: impl Fn(Setup) -> Setup) -> [Gateway; 2] {
    let nodes = [(); 2].map(|()| with(node(redis, Uuid::new_v4())).start());
    nodes.iter().for_each(|gateway| await_links(gateway, 1));
    nodes
}

fn pair_with(redis: &Redis, kafka: &Kafka) -> [Gateway; 2] {
    let nodes = pair(redis, |setup| {
        setup.set("kafka.brokers", &kafka.brokers()).set("kafka.refresh", "1s")
    });
    for gateway in &nodes {
        gateway.await_metric("corelane_kafka_event_partitions", "", Kafka::PARTITIONS);
    }
    nodes
}

fn notification(number: u32) -> Value {
    json!({ "eventName": "system.notification", "number": number })
}

/// The numbers of the next notifications; there is no word of a gap before or between.
fn numbers<const N: usize>(client: &mut Client) -> [u64; N] {
    std::array::from_fn(|_| {
        loop {
            let event = client.event();
            assert_ne!(event["eventName"], "connect.event-gap", "{event}");
            if let Some(number) = event["number"].as_u64() {
                return number;
            }
        }
    })
}

/// A session whose client has gone without a word, in its window on the first gateway.
fn left(gateway: &Gateway) -> (Uuid, Claims) {
    let session = Uuid::new_v4();
    let claims = Claims::default().session(session);
    drop(gateway.client_of(&claims));
    gateway.await_session_end(&session.to_string());
    (session, claims)
}

#[test]
fn without_brokers_events_wait_on_the_node_that_had_the_session() {
    let redis = Redis::start();
    let [one, other] = pair(&redis, |setup| setup);
    let (session, claims) = left(&one);
    for number in [1, 2] {
        let path = format!("/bus/bannou-client-events?session={session}");
        assert_eq!(post(&one, &path, &notification(number)).status, 202);
    }
    let mut client = other.client_of(&claims);
    assert_eq!(numbers(&mut client), [1, 2]);
    other.await_metric(OUTCOMES, "outcome=\"taken\"", 1);
    one.await_metric("corelane_mailboxes", "", 0);
}

#[test]
fn events_come_from_the_node_that_had_them_while_no_broker_answers() {
    let (redis, kafka) = (Redis::start(), Kafka::start());
    let [one, other] = pair_with(&redis, &kafka);
    let (session, claims) = left(&one);
    kafka.publish(session, &notification(1));
    kafka.publish(session, &notification(2));
    one.await_metric("corelane_records_received_total", "", 2);
    kafka.goes();
    other.await_metric("corelane_kafka_up", "", 0);
    let mut client = other.client_of(&claims);
    assert_eq!(numbers(&mut client), [1, 2]);
    assert_eq!(other.metric(OUTCOMES, "outcome=\"taken\""), 1);
    assert_eq!(other.metric("corelane_records_replayed_total", ""), 0);
}

#[test]
fn a_node_that_stands_still_is_not_waited_for_long() {
    let (redis, kafka) = (Redis::start(), Kafka::start());
    let [one, other] = pair_with(&redis, &kafka);
    let (session, claims) = left(&one);
    one.signal(rustix::process::Signal::STOP);
    kafka.publish(session, &notification(1));
    let begun = std::time::Instant::now();
    let mut client = other.client_of(&claims);
    assert_eq!(numbers(&mut client), [1]);
    assert!(begun.elapsed() < Duration::from_secs(5), "the brokers have it");
    assert_eq!(other.metric(OUTCOMES, "outcome=\"late\""), 1);
    one.signal(rustix::process::Signal::CONT);
}
