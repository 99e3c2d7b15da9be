//! The bus against brokers that run in the test's own process and fail when they are told to.

mod forgotten_brokers;
mod replays;

use std::future::poll_fn;
use std::time::{Duration, Instant};

use corelane_shard::id::Epoch;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Header, Headers as _, Message as _, OwnedHeaders, OwnedMessage};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tokio::runtime::Runtime;

use super::counts::{Failure, Fault};
use super::*;
use crate::control::bus::{Missing, Trail, topic};

const PATIENCE: Duration = Duration::from_secs(60);
const PARTITIONS: i32 = 4;

pub(super) fn settings(brokers: &str) -> KafkaSettings {
    KafkaSettings {
        brokers: vec![brokers.to_owned()],
        instance: "node-7".into(),
        topic_prefix: String::new(),
        partitioner: Partitioner::Murmur2,
        create_partitions: None,
        shared_rpc_topic: false,
        spool_records: 1000,
        spool_bytes: 1 << 20,
        delivery_timeout: Duration::from_secs(60),
        prefetch_bytes: 1 << 20,
        record_bytes_max: 128 << 10,
        refresh: Duration::from_secs(1),
        passed_on: Vec::new(),
    }
}

/// Brokers, and services that publish and listen there.
struct Brokers {
    cluster: MockCluster<'static, DefaultProducerContext>,
    services: BaseProducer,
}

impl Brokers {
    fn new(topics: &[&str]) -> Self {
        let cluster = MockCluster::new(1).unwrap();
        for topic in topics {
            cluster.create_topic(topic, PARTITIONS, 1).unwrap();
        }
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", cluster.bootstrap_servers())
            .set("partitioner", "murmur2_random")
            .set("reconnect.backoff.max.ms", "100");
        Self { services: config.create().unwrap(), cluster }
    }

    fn with_all_topics() -> Self {
        Self::new(&Inbound::ALL.map(Inbound::name))
    }

    fn address(&self) -> String {
        self.cluster.bootstrap_servers()
    }

    /// A service publishes an event for a session.
    fn event(&self, session: SessionId, json: &str) {
        let key = SessionKey::of(session);
        self.record(BaseRecord::to(topic::CLIENT_EVENTS).key(key.bytes()).payload(json));
        self.flush();
    }

    fn record(&self, record: BaseRecord<'_, [u8], str>) {
        self.services.send(record).map_err(|(error, _)| error).unwrap();
    }

    fn flush(&self) {
        self.services.flush(PATIENCE).unwrap();
    }

    /// The first `count` records of a topic, by whoever listens.
    fn heard(&self, topic: &str, count: usize) -> Vec<OwnedMessage> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.address()).set("group.id", "services");
        let listener: BaseConsumer = config.create().unwrap();
        let mut list = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            list.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
        }
        listener.assign(&list).unwrap();
        let until = Instant::now() + PATIENCE;
        let mut heard = Vec::new();
        while heard.len() < count {
            assert!(Instant::now() < until, "{} of {count} records of {topic}", heard.len());
            if let Some(Ok(message)) = listener.poll(Duration::from_millis(50)) {
                heard.push(message.detach());
            }
        }
        heard
    }
}

/// A node's bus and what it has counted.
struct Node {
    runtime: Runtime,
    bus: KafkaBus,
    probe: Arc<ControlProbe>,
}

impl Node {
    fn new(settings: KafkaSettings) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let probe = Arc::<ControlProbe>::default();
        let bus = runtime.block_on(async { KafkaBus::start(settings, &probe) }).unwrap();
        Self { runtime, bus, probe }
    }

    /// It knows where the sessions' events stand.
    fn ready(settings: KafkaSettings) -> Self {
        let mut this = Self::new(settings);
        this.until("the partitions", |node| {
            node.arrivals_now(&mut Vec::new());
            node.bus.positions.iter().all(Positions::is_ready).then_some(())
        });
        this
    }

    /// Turns of the control core: waits as its loop does, so that a ring that is lost is found.
    fn until<T>(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(result) = done(self) {
                return result;
            }
            assert!(Instant::now() < end, "waited in vain for {what}: {:?}", self.bus);
            let Self { runtime, bus, .. } = self;
            let woken = poll_fn(|context| bus.poll_arrival(context));
            let _quiet = runtime
                .block_on(async { tokio::time::timeout(Duration::from_millis(100), woken).await });
        }
    }

    fn arrivals_now(&mut self, into: &mut Vec<Arrival>) {
        while let Some(arrival) = self.bus.next(&mut |session| session.0 < 100) {
            into.push(arrival);
        }
    }

    fn arrivals(&mut self, count: usize) -> Vec<Arrival> {
        let mut arrived = Vec::new();
        self.until(&format!("{count} arrivals"), |node| {
            node.arrivals_now(&mut arrived);
            (arrived.len() >= count).then_some(())
        });
        arrived
    }

    /// JSON and session of so many events.
    fn events(&mut self, count: usize) -> Vec<(SessionId, String)> {
        let arrivals = self.arrivals(count).into_iter();
        arrivals
            .map(|arrival| match arrival {
                Arrival::ForSession { session, record } => (session, text(&record)),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    fn flushed(&mut self) {
        let Self { runtime, bus, .. } = self;
        let flushed = poll_fn(|context| bus.poll_flushed(context));
        runtime.block_on(async { tokio::time::timeout(PATIENCE, flushed).await }).unwrap();
    }
}

fn text(record: &Record) -> String {
    String::from_utf8(record.value.to_vec()).unwrap()
}

fn published(topic: &str, key: &str, json: &str) -> Record {
    let value = json.as_bytes().into();
    Record {
        topic: topic.into(),
        key: key.into(),
        value,
        expires_at_ms: None,
        position: None,
        trail: None,
    }
}

#[test]
fn events_of_sessions_that_are_here_arrive_in_order_and_others_are_passed_over() {
    let brokers = Brokers::with_all_topics();
    brokers.event(SessionId(1), "0");
    let mut node = Node::ready(settings(&brokers.address()));
    let before = node.bus.live(SessionId(1)).unwrap();
    for (session, json) in [(1, "1"), (500, "2"), (2, "3"), (1, "4")] {
        brokers.event(SessionId(session), json);
    }
    let mut events = node.events(3);
    events.sort();
    let expected = [(1, "1"), (1, "4"), (2, "3")].map(|(id, json)| (SessionId(id), json.into()));
    assert_eq!(events, expected);
    node.until("the event that nobody wants", |node| {
        node.arrivals_now(&mut Vec::new());
        (node.probe.kafka.read.read() == 4).then_some(())
    });
    let after = node.bus.live(SessionId(1)).unwrap();
    assert_eq!(after.partition, before.partition);
    assert!(after.offset >= before.offset + 2, "{before:?} {after:?}");
    assert_eq!(node.probe.kafka.faults(Fault::Misplaced), 0);
}

#[test]
fn what_is_fetched_and_not_taken_counts_as_not_read() {
    let brokers = Brokers::with_all_topics();
    let mut node = Node::ready(settings(&brokers.address()));
    let before = node.bus.live(SessionId(1)).unwrap();
    for _ in 0..3 {
        brokers.event(SessionId(1), "{}");
    }
    let first = node.until("an event", |node| node.bus.next(&mut |_| true));
    let Arrival::ForSession { record, .. } = first else { panic!("{first:?}") };
    assert_eq!(record.position, Some(before));
    assert_eq!(node.bus.live(SessionId(1)), Some(before.next()));
}

#[test]
fn the_other_topics_arrive_with_what_they_carry() {
    let brokers = Brokers::with_all_topics();
    let mut node = Node::ready(settings(&brokers.address()));
    let others = [Inbound::Invalidated, Inbound::ServiceError, Inbound::Mappings];
    for other in others {
        let expiry = Header { key: "expires-at-ms", value: Some("77") };
        let headers = OwnedHeaders::new().insert(expiry);
        brokers.record(
            BaseRecord::to(other.name()).key(&b"k"[..]).payload(other.name()).headers(headers),
        );
    }
    brokers.flush();
    for arrival in node.arrivals(3) {
        let Arrival::Record(record) = arrival else { panic!("{arrival:?}") };
        assert_eq!(text(&record), *record.topic);
        assert_eq!(record.expires_at_ms, Some(77));
    }
}

#[test]
fn what_is_published_has_its_topic_its_key_and_its_headers() {
    let brokers = Brokers::new(&["eu.session.connected", "eu.connect.rpc-responses"]);
    let mut node = Node::ready(KafkaSettings {
        topic_prefix: "eu.".into(),
        shared_rpc_topic: true,
        ..settings(&brokers.address())
    });
    let trail = Trail { message_id: Some("id-1".into()), ..Trail::default() };
    node.bus.publish(Record {
        trail: Some(Box::new(trail)),
        expires_at_ms: Some(9),
        ..published(topic::SESSION_CONNECTED, "sid", "{}")
    });
    node.bus.publish_answer(published("demo.answers", "sid", "[]"));
    let heard = brokers.heard("eu.session.connected", 1).remove(0);
    assert_eq!((heard.key(), heard.payload()), (Some(&b"sid"[..]), Some(&b"{}"[..])));
    let headers = heard.headers().unwrap();
    let headers: Vec<_> = headers.iter().map(|it| (it.key, it.value.unwrap())).collect();
    assert_eq!(
        headers,
        [
            ("content-type", &b"application/json"[..]),
            ("message-id", b"id-1"),
            ("expires-at-ms", b"9"),
        ]
    );
    let answer = brokers.heard("eu.connect.rpc-responses", 1).remove(0);
    assert_eq!((answer.key(), answer.payload()), (Some(&b"demo.answers"[..]), Some(&b"[]"[..])));
    node.flushed();
    assert_eq!(node.probe.kafka.acknowledged.read(), 2);
    assert_eq!(node.probe.kafka.spooled_bytes.read(), 0);
}

#[test]
fn answers_go_to_the_topic_that_the_rpc_names() {
    let brokers = Brokers::new(&["demo.answers"]);
    let mut node = Node::ready(settings(&brokers.address()));
    node.bus.publish_answer(published("demo.answers", "sid", "[]"));
    assert_eq!(brokers.heard("demo.answers", 1)[0].key(), Some(&b"sid"[..]));
}

#[test]
fn nothing_is_published_before_its_answers_could_be_read() {
    let brokers = Brokers::with_all_topics();
    brokers.cluster.create_topic(topic::SESSION_CONNECTED, 1, 1).unwrap();
    brokers.cluster.broker_down(-1).unwrap();
    let mut node = Node::new(settings(&brokers.address()));
    node.bus.publish(published(topic::SESSION_CONNECTED, "sid", "{}"));
    assert_eq!(node.probe.kafka.spooled.read(), 1);
    assert_eq!(node.bus.live(SessionId(1)), None);
    brokers.cluster.broker_up(-1).unwrap();
    node.until("the record to be sent", |node| {
        node.arrivals_now(&mut Vec::new());
        let sent = node.probe.kafka.acknowledged.read() == 1;
        assert!(!sent || node.bus.live(SessionId(1)).is_some());
        sent.then_some(())
    });
}

#[test]
fn an_outage_of_the_brokers_loses_nothing_in_either_direction() {
    let brokers = Brokers::with_all_topics();
    brokers.cluster.create_topic(topic::SESSION_DISCONNECTED, PARTITIONS, 1).unwrap();
    let mut node = Node::ready(settings(&brokers.address()));
    brokers.event(SessionId(1), "1");
    assert_eq!(node.events(1), [(SessionId(1), "1".into())]);
    brokers.cluster.broker_down(-1).unwrap();
    node.until("the outage", |node| {
        node.arrivals_now(&mut Vec::new());
        node.probe.kafka.is_down().then_some(())
    });
    for _ in 0..5 {
        node.bus.publish(published(topic::SESSION_DISCONNECTED, "sid", "{}"));
    }
    let key = SessionKey::of(SessionId(1));
    for json in ["2", "3"] {
        brokers.record(BaseRecord::to(topic::CLIENT_EVENTS).key(key.bytes()).payload(json));
    }
    brokers.cluster.broker_up(-1).unwrap();
    brokers.flush();
    assert_eq!(node.events(2), [(SessionId(1), "2".into()), (SessionId(1), "3".into())]);
    node.flushed();
    assert_eq!(brokers.heard(topic::SESSION_DISCONNECTED, 5).len(), 5);
    assert_eq!(node.probe.kafka.failures(), [0; Failure::ALL.len()]);
    node.until("the end of the outage", |node| {
        node.arrivals_now(&mut Vec::new());
        (!node.probe.kafka.is_down()).then_some(())
    });
}

#[test]
fn what_is_published_waits_until_the_brokers_have_answered_for_its_topic() {
    let brokers = Brokers::new(&["busy", "quiet"]);
    let mut node = Node::new(settings(&brokers.address()));
    node.bus.publisher.release();
    brokers.cluster.broker_round_trip_time(-1, Duration::from_millis(500)).unwrap();
    let texts: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    let [first, rest @ ..] = &texts[..] else { panic!("there are some") };
    node.bus.publish(published("busy", "k", first));
    rest.iter().for_each(|text| node.bus.publish(published("busy", "k", text)));
    assert_eq!(node.bus.publisher.handed_over(), 1, "the others wait for its answer");
    node.bus.publish(published("quiet", "k", "0"));
    assert_eq!(node.bus.publisher.handed_over(), 2, "another topic does not");
    node.until("the rest to follow", |node| {
        node.arrivals_now(&mut Vec::new());
        (node.bus.publisher.handed_over() == rest.len()).then_some(())
    });
    brokers.cluster.broker_round_trip_time(-1, Duration::ZERO).unwrap();
    let heard = brokers.heard("busy", texts.len());
    let heard = heard.iter().map(|it| std::str::from_utf8(it.payload().unwrap()).unwrap());
    assert_eq!(heard.collect::<Vec<_>>(), texts);
}

#[test]
fn a_full_spool_loses_what_comes_then_and_counts_it() {
    let brokers = Brokers::with_all_topics();
    let bounded = KafkaSettings { spool_records: 16, ..settings(&brokers.address()) };
    let mut node = Node::ready(bounded);
    brokers.cluster.broker_down(-1).unwrap();
    for _ in 0..40 {
        node.bus.publish(published("any", "k", "{}"));
    }
    let lost = node.probe.kafka.failures()[Failure::SpoolFull as usize];
    assert_eq!((lost, node.probe.kafka.spooled.read()), (24, 16));
}

#[test]
fn the_spool_is_bounded_before_the_brokers_were_ever_there_too() {
    let bounded = KafkaSettings { spool_bytes: 64 << 10, ..settings("127.0.0.1:1") };
    let mut node = Node::new(bounded);
    let long = "x".repeat(10 << 10);
    for _ in 0..10 {
        node.bus.publish(published("any", "k", &long));
    }
    let lost = node.probe.kafka.failures()[Failure::SpoolFull as usize];
    assert_eq!((lost, node.probe.kafka.spooled.read()), (4, 6));
}

#[test]
fn what_the_brokers_do_not_take_in_time_is_given_up_and_counted() {
    let second = Duration::from_secs(1);
    for address in ["127.0.0.1:1".to_owned(), String::new()] {
        let brokers = address.is_empty().then(Brokers::with_all_topics);
        let address = brokers.as_ref().map_or(address, Brokers::address);
        let impatient = KafkaSettings { delivery_timeout: second, ..settings(&address) };
        let mut node = match &brokers {
            Some(brokers) => {
                let node = Node::ready(impatient);
                brokers.cluster.broker_down(-1).unwrap();
                node
            }
            None => Node::new(impatient),
        };
        node.bus.publish(published("any", "k", "{}"));
        node.until("the record to be given up", |node| {
            node.arrivals_now(&mut Vec::new());
            let late = node.probe.kafka.failures()[Failure::TimedOut as usize];
            (late == 1).then_some(())
        });
        assert_eq!(node.probe.kafka.spooled.read(), 0);
    }
}

#[test]
fn odd_records_are_counted_and_block_nobody() {
    let brokers = Brokers::with_all_topics();
    let mut node = Node::ready(settings(&brokers.address()));
    let key = SessionKey::of(SessionId(1));
    let partition = node.bus.live(SessionId(1)).unwrap().partition as i32;
    let elsewhere = (partition + 1) % PARTITIONS;
    let long = "x".repeat(200 << 10);
    let to = || BaseRecord::to(topic::CLIENT_EVENTS).partition(partition);
    brokers.record(to().payload("{}"));
    brokers.record(to().key(&b"CONNECT_SESSION_nobody"[..]).payload("{}"));
    brokers.record(to().key(&b"\xff\xfe"[..]).payload("{}"));
    brokers.record(to().key(key.bytes()));
    brokers.record(to().key(key.bytes()).payload(&*long));
    brokers.record(to().key(key.bytes()).payload("no JSON"));
    brokers.record(to().partition(elsewhere).key(key.bytes()).payload("misplaced"));
    brokers.flush();
    let mut events = node.events(2);
    events.sort();
    let expected = ["misplaced", "no JSON"].map(|json| (SessionId(1), json.to_owned()));
    assert_eq!(events, expected);
    let faults = [Fault::Key, Fault::Empty, Fault::TooLong, Fault::Misplaced];
    assert_eq!(faults.map(|fault| node.probe.kafka.faults(fault)), [3, 1, 1, 1]);
}

#[test]
fn a_topic_that_is_missing_is_waited_for_and_read_from_its_beginning() {
    let brokers = Brokers::new(&[]);
    let mut node = Node::ready(settings(&brokers.address()));
    assert_eq!(node.bus.live(SessionId(1)), None);
    brokers.cluster.create_topic(topic::CLIENT_EVENTS, PARTITIONS, 1).unwrap();
    brokers.event(SessionId(1), "1");
    assert_eq!(node.events(1), [(SessionId(1), "1".into())]);
}
