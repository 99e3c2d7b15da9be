//! Events that the harness publishes itself: a small gateway takes them from brokers inside this
//! process and passes them on, and what it does to some of them must be in the counts.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::HashMap;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use corelane_loadtest::judge::judge;
use corelane_loadtest::outcome::{Outcome, Verdict};
use corelane_loadtest::run::{RunError, ServerAt, Surroundings, run};
use corelane_loadtest::scenario::{Arrival, EventTopic, Protocol, Scenario, Traffic};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use support::{BINARY, Blind, frame, scenario, serve};

const TOPIC: &str = "bannou-client-events";
const PARTITIONS: i32 = 4;

type Clients = Arc<Mutex<HashMap<String, TcpStream>>>;

/// What the gateway sends instead of the event with this number, given it and the one held back.
type Conduct = fn(number: u64, event: &[u8], held: &mut Option<Vec<u8>>) -> Vec<Vec<u8>>;

fn faithful(_: u64, event: &[u8], _: &mut Option<Vec<u8>>) -> Vec<Vec<u8>> {
    vec![event.to_vec()]
}

/// Of every hundred events one is lost and one comes twice.
fn careless(number: u64, event: &[u8], _: &mut Option<Vec<u8>>) -> Vec<Vec<u8>> {
    match number % 100 {
        30 => vec![],
        60 => vec![event.to_vec(); 2],
        _ => vec![event.to_vec()],
    }
}

/// Of every hundred events one comes behind its next.
fn swapping(number: u64, event: &[u8], held: &mut Option<Vec<u8>>) -> Vec<Vec<u8>> {
    if number % 100 == 30 {
        *held = Some(event.to_vec());
        return vec![];
    }
    std::iter::once(event.to_vec()).chain(held.take()).collect()
}

fn message(json: &[u8]) -> Vec<u8> {
    let mut message = vec![0; 31];
    message[0] = 0x10;
    message.extend_from_slice(json);
    frame(BINARY, &message)
}

struct Stage {
    cluster: MockCluster<'static, DefaultProducerContext>,
    address: SocketAddr,
}

impl Stage {
    /// A session's token is its name.
    fn new(conduct: Conduct) -> Self {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic(TOPIC, PARTITIONS, 1).unwrap();
        let clients = Clients::default();
        let known = Arc::clone(&clients);
        let address = serve(move |mut peer| {
            let Some(head) = peer.read_request() else { return };
            let bearer = head.lines().find_map(|it| it.strip_prefix("Authorization: Bearer "));
            let session = bearer.unwrap().to_owned();
            let manifest = format!(
                "{{\"eventName\":\"connect.capability-manifest\",\"sessionId\":\"{session}\"}}"
            );
            known.lock().unwrap().insert(session, peer.stream.try_clone().unwrap());
            peer.send(support::ACCEPTED.as_bytes());
            peer.send(&message(manifest.as_bytes()));
            while let Some(messages) = peer.read_messages() {
                for (first, payload) in messages {
                    peer.send(&frame(first, &payload));
                }
            }
        });
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", cluster.bootstrap_servers()).set("group.id", "gateway");
        let reader: BaseConsumer = config.create().unwrap();
        let mut list = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            list.add_partition_offset(TOPIC, partition, Offset::Beginning).unwrap();
        }
        reader.assign(&list).unwrap();
        thread::spawn(move || {
            let mut counts = HashMap::<String, (u64, Option<Vec<u8>>)>::new();
            loop {
                let Some(Ok(event)) = reader.poll(Duration::from_millis(100)) else { continue };
                let key = String::from_utf8(event.key().unwrap().to_vec()).unwrap();
                let session = key.strip_prefix("CONNECT_SESSION_").unwrap();
                let (number, held) = counts.entry(session.to_owned()).or_default();
                let frames = conduct(*number, event.payload().unwrap(), held);
                *number += 1;
                let clients = clients.lock().unwrap();
                for json in frames {
                    // One that has left needs no more.
                    let _sent = (&clients[session]).write_all(&message(&json));
                }
            }
        });
        Self { cluster, address }
    }

    fn scenario(&self, rate: f64) -> Scenario {
        let mut scenario = scenario(self.address);
        scenario.target.protocol = Protocol::Corelane;
        scenario.target.kafka =
            Some(EventTopic { brokers: self.cluster.bootstrap_servers(), topic: TOPIC.into() });
        scenario.traffic = Traffic::Push;
        scenario.arrival = Arrival::Constant { rate, window: None };
        scenario.timing.patience = Duration::from_secs(2);
        // Other tests run beside this one.
        scenario.validity.lag_p99_max = Duration::from_secs(60);
        scenario.validity.busy_max = 1.0;
        scenario
    }
}

fn sessions(scenario: &Scenario) -> Surroundings {
    let tokens = (0..scenario.connections.count).map(|number| format!("session-{number}"));
    Surroundings { tokens: tokens.collect(), server: None }
}

fn outcome(conduct: Conduct) -> Outcome {
    let stage = Stage::new(conduct);
    let scenario = stage.scenario(4000.0);
    let mut outcome = run(&scenario, &sessions(&scenario), &mut Blind).unwrap();
    judge(&mut outcome);
    outcome
}

#[test]
fn every_published_event_is_accounted_for() {
    let outcome = outcome(faithful);
    let messages = &outcome.messages;
    // A second at 4 000.
    assert_eq!((messages.sent, messages.planned), (4000, 3600), "{messages:?}");
    assert_eq!((messages.expected, messages.received), (4000, 4000), "{messages:?}");
    assert_eq!(outcome.judgement.verdict, Verdict::Passed, "{:?}", outcome.judgement);
    assert!(!outcome.latency.from_intended.0.is_empty());
    assert_eq!(outcome.latency.send_lag.0.len(), 3600);
}

#[test]
fn lost_and_doubled_events_are_counted_and_fail_the_run() {
    let outcome = outcome(careless);
    let messages = &outcome.messages;
    // Of the thousand of each of four sessions.
    assert_eq!((messages.lost, messages.duplicated, messages.reordered), (40, 40, 0));
    assert_eq!(outcome.judgement.verdict, Verdict::Failed);
}

#[test]
fn events_that_change_places_are_counted_and_fail_the_run() {
    let outcome = outcome(swapping);
    let messages = &outcome.messages;
    assert_eq!((messages.lost, messages.duplicated, messages.reordered), (0, 0, 40));
    assert_eq!(outcome.judgement.verdict, Verdict::Failed);
}

#[test]
fn a_backlog_wants_to_know_who_stands_still() {
    let stage = Stage::new(faithful);
    let mut scenario = stage.scenario(1.0);
    scenario.arrival = Arrival::Backlog { events: 100 };
    let refused = run(&scenario, &sessions(&scenario), &mut Blind).unwrap_err();
    assert!(matches!(refused, RunError::WhoStandsStill), "{refused}");
}

#[test]
fn a_backlog_is_delivered_when_the_server_goes_on() {
    let stage = Stage::new(faithful);
    let mut scenario = stage.scenario(1.0);
    scenario.arrival = Arrival::Backlog { events: 4000 };
    // The gateway of this test is this process, which cannot stand still: another one does.
    let mut other = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    let server = Some(ServerAt::Pid(other.id()));
    let surroundings = Surroundings { server, ..sessions(&scenario) };
    let outcome = run(&scenario, &surroundings, &mut Blind).unwrap();
    other.kill().unwrap();
    other.wait().unwrap();
    let messages = &outcome.messages;
    assert_eq!((messages.expected, messages.received, messages.lost), (4000, 4000, 0));
}

#[test]
fn brokers_that_do_not_answer_are_said() {
    let stage = Stage::new(faithful);
    let mut scenario = stage.scenario(1.0);
    scenario.target.kafka = Some(EventTopic { brokers: "127.0.0.1:1".into(), topic: TOPIC.into() });
    let refused = run(&scenario, &sessions(&scenario), &mut Blind).unwrap_err();
    assert!(matches!(refused, RunError::Publishing { .. }), "{refused}");
}
