//! Clients that know no broker any more. They forget all of them in a race of librdkafka's own threads,
//! which no test can bring about at will; so here their statistics are made to say so.

use std::ffi::CString;
use std::sync::Mutex;

use rdkafka::ClientContext;
use rdkafka::consumer::ConsumerContext;

use super::*;
use crate::control::bus::kafka::brokers::are_forgotten;

/// Its clients know of nobody who answers, and the configuration of brokers that do.
fn node_without(brokers: &Brokers) -> Node {
    let mut node = Node::new(settings("127.0.0.1:1"));
    node.bus.brokers = CString::new(brokers.address()).unwrap();
    node
}

fn forget(contact: &Contact) {
    ClientContext::stats_raw(contact, br#"{"brokers":{}}"#);
}

#[test]
fn every_client_that_has_forgotten_its_brokers_is_told_them_again() {
    let brokers = Brokers::with_all_topics();
    let mut node = node_without(&brokers);
    let KafkaBus { publisher, live, replay, .. } = &node.bus;
    forget(publisher.contact());
    forget(live.consumer().context());
    forget(replay.consumer().context());
    node.until("the partitions", |node| {
        node.arrivals_now(&mut Vec::new());
        node.bus.positions.iter().all(Positions::is_ready).then_some(())
    });
    brokers.event(SessionId(1), "1");
    assert_eq!(node.events(1), [(SessionId(1), "1".into())]);
    brokers.cluster.create_topic(topic::SESSION_CONNECTED, PARTITIONS, 1).unwrap();
    node.bus.publish(published(topic::SESSION_CONNECTED, "k", "{}"));
    node.until("the record's delivery", |node| {
        node.arrivals_now(&mut Vec::new());
        node.bus.publisher.is_flushed().then_some(())
    });
    assert_eq!(brokers.heard(topic::SESSION_CONNECTED, 1)[0].payload(), Some(&b"{}"[..]));
}

#[test]
fn a_publisher_is_told_its_brokers_while_only_the_last_records_are_waited_for() {
    let brokers = Brokers::new(&[topic::SESSION_DISCONNECTED]);
    let mut node = node_without(&brokers);
    node.bus.publish(published(topic::SESSION_DISCONNECTED, "k", "{}"));
    forget(node.bus.publisher.contact());
    node.flushed();
    assert_eq!(brokers.heard(topic::SESSION_DISCONNECTED, 1)[0].payload(), Some(&b"{}"[..]));
}

#[derive(Default)]
struct LastStatistics(Mutex<Option<Vec<u8>>>);

impl ClientContext for LastStatistics {
    fn stats_raw(&self, statistics: &[u8]) {
        *self.0.lock().unwrap() = Some(statistics.to_vec());
    }
}

impl ConsumerContext for LastStatistics {}

/// What librdkafka says of a client with this list of brokers.
fn statistics(brokers: &str) -> Vec<u8> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("statistics.interval.ms", "10");
    let client: BaseConsumer<LastStatistics> =
        config.create_with_context(LastStatistics::default()).unwrap();
    let until = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < until, "no statistics");
        let _no_record = client.poll(Duration::from_millis(10));
        if let Some(statistics) = client.context().0.lock().unwrap().take() {
            return statistics;
        }
    }
}

#[test]
fn real_statistics_tell_whether_there_is_a_broker() {
    for (brokers, forgotten) in [("127.0.0.1:1", false), ("", true)] {
        let statistics = statistics(brokers);
        let text = String::from_utf8_lossy(&statistics);
        assert_eq!(are_forgotten(&statistics), forgotten, "{brokers:?}: {text}");
    }
}
