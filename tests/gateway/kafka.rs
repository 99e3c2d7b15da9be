//! Kafka as the bus of several gateways. The brokers run in the test's own process and fail when they
//! are told to; they are ordinary ones on the wire.

use std::fs;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Message as _, OwnedMessage};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::gateway_process::http::{self, Answer};
use crate::gateway_process::token::Claims;
use crate::gateway_process::{SOON, pause};
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::raw::exchange;

const TOKEN: &str = "of-the-publishing-services";
const PARTITIONS: i32 = 4;

pub(crate) struct Kafka {
    cluster: MockCluster<'static, DefaultProducerContext>,
}

impl Kafka {
    pub(crate) const PARTITIONS: u64 = PARTITIONS as u64;

    pub(crate) fn start() -> Self {
        let cluster = MockCluster::new(1).expect("brokers start");
        for topic in [
            "bannou-client-events",
            "session.connected",
            "session.disconnected",
            "session.invalidated",
            "service.error",
            "bannou.full-service-mappings",
        ] {
            cluster.create_topic(topic, PARTITIONS, 1).expect("the name is new");
        }
        Self { cluster }
    }

    pub(crate) fn brokers(&self) -> String {
        self.cluster.bootstrap_servers()
    }

    /// No broker answers any more.
    pub(crate) fn goes(&self) {
        self.cluster.broker_down(-1).expect("brokers");
    }

    fn gateway(&self, node: u16) -> Gateway {
        let gateway = Setup::new("")
            .set("listen.internal.address", "127.0.0.1:0")
            .set("listen.internal.service_token", TOKEN)
            .set("control.node", &node.to_string())
            .set("kafka.brokers", &self.brokers())
            .set("kafka.refresh", "1s")
            .start();
        gateway.await_metric("corelane_kafka_event_partitions", "", Self::PARTITIONS);
        gateway
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", self.cluster.bootstrap_servers())
            .set("group.id", "services")
            .set("partitioner", "murmur2_random");
        config
    }

    /// A service publishes an event for a session.
    pub(crate) fn publish(&self, session: Uuid, event: &Value) {
        let mut config = self.config();
        let producer: BaseProducer = config.remove("group.id").create().expect("a producer");
        let (key, event) = (format!("CONNECT_SESSION_{session}"), event.to_string());
        let record = BaseRecord::to("bannou-client-events").key(&key).payload(&event);
        producer.send(record).map_err(|(error, _)| error).expect("there is room");
        producer.flush(SOON).expect("the brokers answer");
    }

    /// The first record of a topic.
    fn heard(&self, topic: &str) -> OwnedMessage {
        let consumer: BaseConsumer = self.config().create().expect("a consumer");
        let mut list = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            list.add_partition_offset(topic, partition, Offset::Beginning).expect("an offset");
        }
        consumer.assign(&list).expect("partitions");
        let until = Instant::now() + SOON;
        while Instant::now() < until {
            if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
                return message.detach();
            }
        }
        panic!("nothing in {topic}")
    }
}

fn post(gateway: &Gateway, path: &str, body: &Value) -> Answer {
    let (to, body) = (gateway.internal(), body.to_string());
    let length = body.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\nX-Service-Token: {TOKEN}\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    );
    exchange(to, request.as_bytes())
}

fn notification(number: u32) -> Value {
    json!({ "eventName": "system.notification", "number": number })
}

#[test]
fn what_one_gateway_or_a_service_publishes_reaches_the_session_wherever_it_is() {
    let kafka = Kafka::start();
    let (one, other) = (kafka.gateway(1), kafka.gateway(2));
    let session = Uuid::new_v4();
    let mut client = one.client_of(&Claims::default().session(session));
    kafka.publish(session, &notification(1));
    assert_eq!(client.event()["number"], 1);
    let path = format!("/bus/bannou-client-events?session={session}");
    assert_eq!(post(&other, &path, &notification(2)).status, 202);
    assert_eq!(client.event()["number"], 2);
    let over = json!({
        "eventName": "session.invalidated", "sessionIds": [session.to_string()], "reason": "Logout",
    });
    assert_eq!(post(&other, "/bus/session.invalidated", &over).status, 202);
    assert_eq!(client.close_reason(), (4001, "Session invalidated: Logout".to_owned()));
}

#[test]
fn services_hear_of_sessions_even_of_those_that_end_with_their_gateway() {
    let kafka = Kafka::start();
    let mut gateway = kafka.gateway(1);
    let session = Uuid::new_v4();
    let mut client = gateway.client_of(&Claims::default().session(session));
    let connected = kafka.heard("session.connected");
    assert_eq!(connected.key(), Some(session.to_string().as_bytes()));
    // Acknowledged late: the process has to wait for it.
    let slow = Duration::from_millis(500);
    kafka.cluster.broker_round_trip_time(-1, slow).expect("a delay");
    gateway.signal(rustix::process::Signal::TERM);
    assert_eq!(client.close_reason().0, 1001);
    assert!(gateway.wait_for_end(SOON).success());
    kafka.cluster.broker_round_trip_time(-1, Duration::ZERO).expect("no delay");
    let disconnected = kafka.heard("session.disconnected");
    let json: Value = serde_json::from_slice(disconnected.payload().expect("JSON")).expect("JSON");
    assert_eq!(json["sessionId"], session.to_string());
}

#[test]
fn an_outage_of_the_brokers_is_said_and_open_sessions_go_on() {
    let kafka = Kafka::start();
    let gateway = kafka.gateway(1);
    let session = Uuid::new_v4();
    let mut client = gateway.client_of(&Claims::default().session(session));
    let ready = || http::request(gateway.admin(), "GET", "/readyz").expect("an answer");
    assert_eq!(ready().body, r#"{"status":"ready"}"#);
    kafka.goes();
    gateway.await_metric("corelane_kafka_up", "", 0);
    let answer = ready();
    assert_eq!(answer.status, 200);
    assert!(answer.body.contains("no broker of Kafka answers"), "{answer:?}");
    client.expect_no_reply();
    kafka.cluster.broker_up(-1).expect("brokers");
    kafka.publish(session, &notification(7));
    assert_eq!(client.event()["number"], 7);
    gateway.await_metric("corelane_kafka_up", "", 1);
}

#[test]
fn threads_of_librdkafka_stay_on_the_control_core() {
    let kafka = Kafka::start();
    let gateway = kafka.gateway(1);
    let tasks = format!("/proc/{}/task", gateway.pid());
    let field = |task: &fs::DirEntry, name: &str| {
        let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(name).map(str::trim));
        line.map(str::to_owned).unwrap_or_default()
    };
    let own = fs::read_to_string(format!("/proc/{}/status", gateway.pid())).expect("it runs");
    let control = own.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let control = control.expect("Linux says so").trim();
    let tasks = || fs::read_dir(&tasks).expect("it runs").map(|task| task.expect("a task"));
    let until = Instant::now() + SOON;
    loop {
        let of_kafka: Vec<_> = tasks()
            .filter(|task| {
                let name = field(task, "Name:");
                name.starts_with("rdk:") || name.starts_with("corelane-kafka")
            })
            .collect();
        for task in &of_kafka {
            assert_eq!(field(task, "Cpus_allowed_list:"), control, "{}", field(task, "Name:"));
        }
        // Three clients with a main thread each, and those of brokers.
        if of_kafka.len() > 6 {
            return;
        }
        assert!(Instant::now() < until, "{} threads", of_kafka.len());
        pause();
    }
}

#[test]
fn brokers_that_take_their_time_cost_no_processor() {
    let kafka = Kafka::start();
    let gateway = kafka.gateway(1);
    let session = Uuid::new_v4();
    let path = format!("/bus/bannou-client-events?session={session}");
    let published = |number| assert_eq!(post(&gateway, &path, &notification(number)).status, 202);
    // The brokers know the publisher.
    published(0);
    gateway.await_metric("corelane_kafka_spool_records", "", 0);
    kafka.cluster.broker_round_trip_time(-1, Duration::from_secs(2)).expect("a delay");
    let (begun, before) = (Instant::now(), librdkafka_time(&gateway));
    (1..=100).for_each(published);
    assert!(gateway.metric("corelane_kafka_spool_records", "") > 0, "they are on their way");
    gateway.await_metric("corelane_kafka_spool_records", "", 0);
    let (took, used) = (begun.elapsed(), librdkafka_time(&gateway) - before);
    assert!(took > Duration::from_secs(2), "{took:?}");
    assert!(used < took / 5, "{used:?} of processor time in {took:?}");
}

/// Processor time of all threads of librdkafka.
fn librdkafka_time(gateway: &Gateway) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{}/task", gateway.pid())).expect("it runs");
    let of = |stat: String| {
        let (name, fields) = stat.split_once(") ").expect("a name in parentheses");
        let ticks = |at: usize| fields.split(' ').nth(at)?.parse::<u64>().ok();
        // utime and stime, the 14th and 15th of all.
        let used = ticks(11).zip(ticks(12)).map_or(0, |(user, system)| user + system);
        if name.contains("(rdk:") { used } else { 0 }
    };
    let stats = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("stat")).ok());
    Duration::from_secs(stats.map(of).sum()) / rustix::param::clock_ticks_per_second() as u32
}
