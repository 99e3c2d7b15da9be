//! Every event that crosses Kafka, both ways, by brokers as they are: topic, key, headers, value.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Header, Headers as _, Message as _, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::{Value, json};
use tungstenite::Message;
use uuid::Uuid;

use crate::gateway_process::SOON;
use crate::gateway_process::http::Answer;
use crate::gateway_process::token::Claims;
use crate::harness::client::Client;
use crate::harness::frames::{EVENT, Request};
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::http_backend::{self, HttpBackend};
use crate::harness::raw::exchange;
use crate::services::Kafka;

const TOKEN: &str = "of-the-publishing-services";

/// Before every topic of these tests: the brokers are others' too.
const PREFIX: &str = "records.";

/// Of the sessions' events; other topics have one.
const PARTITIONS: u64 = 3;

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A gateway on real brokers, and a service that listens to everything and publishes.
struct Stage {
    gateway: Gateway,
    service: BaseProducer,
}

impl Stage {
    fn start(tables: &str, more: &[(&str, &str)]) -> Self {
        let kafka = Kafka::shared();
        let setup = Setup::new(tables)
            .set("listen.internal.address", "127.0.0.1:0")
            .set("listen.internal.service_token", TOKEN)
            .set("kafka.brokers", &kafka.brokers())
            .set("kafka.topic_prefix", PREFIX)
            .set("kafka.create_topics", "true")
            .set("kafka.partitions", &PARTITIONS.to_string())
            .set("kafka.refresh", "1s");
        let setup = more.iter().fold(setup, |setup, (key, value)| setup.set(key, value));
        let gateway = setup.with_notices().start();
        gateway.await_metric("corelane_kafka_event_partitions", "", PARTITIONS);
        let mut config = kafka.client_config();
        let service = config.set("partitioner", "murmur2_random").create();
        Self { gateway, service: service.expect("a legal configuration") }
    }

    fn publish(&self, topic: &str, key: &str, headers: &[(&str, &str)], value: &Value) {
        let insert = |all: OwnedHeaders, (key, value): &(&str, &str)| {
            all.insert(Header { key, value: Some(*value) })
        };
        let headers = headers.iter().fold(OwnedHeaders::new(), insert);
        let (topic, value) = (format!("{PREFIX}{topic}"), value.to_string());
        let record = BaseRecord::to(&topic).key(key).payload(&value).headers(headers);
        self.service.send(record).map_err(|(error, _)| error).expect("there is room");
        self.service.flush(SOON).expect("the brokers answer");
    }

    /// A service publishes an event for a session.
    fn event(&self, session: Uuid, headers: &[(&str, &str)], event: &Value) {
        let key = format!("CONNECT_SESSION_{session}");
        self.publish("bannou-client-events", &key, headers, event);
    }

    fn post(&self, path: &str, fields: &str, body: &Value) -> Answer {
        let (to, body) = (self.gateway.internal(), body.to_string());
        let length = body.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\nX-Service-Token: {TOKEN}\r\n\
             {fields}Content-Length: {length}\r\n\r\n{body}"
        );
        exchange(to, request.as_bytes())
    }

    /// The first record of a topic, from its beginning on, that concerns this session.
    fn heard(topic: &str, session: Uuid) -> Heard {
        let id = session.to_string();
        Self::find(topic, |it| it.key.contains(&id) || it.value.to_string().contains(&id))
    }

    fn find(topic: &str, wanted: impl Fn(&Heard) -> bool) -> Heard {
        let mut config = Kafka::shared().client_config();
        let consumer: BaseConsumer =
            config.set("group.id", "listeners").create().expect("a legal configuration");
        let topic = format!("{PREFIX}{topic}");
        let until = Instant::now() + SOON;
        let count = loop {
            let found = consumer.fetch_metadata(Some(&topic), SOON).expect("the brokers answer");
            let partitions = found.topics().first().map_or(0, |it| it.partitions().len());
            if partitions > 0 {
                break partitions as i32;
            }
            assert!(Instant::now() < until, "there is no topic {topic}");
        };
        let mut list = TopicPartitionList::new();
        for partition in 0..count {
            list.add_partition_offset(&topic, partition, Offset::Beginning).expect("an offset");
        }
        consumer.assign(&list).expect("the partitions are there");
        while Instant::now() < until {
            if let Some(Ok(message)) = consumer.poll(Duration::from_millis(50)) {
                let heard = Heard::of(&message.detach());
                if wanted(&heard) {
                    return heard;
                }
            }
        }
        panic!("what is wanted of {topic} is not there")
    }
}

/// A record as a service reads it.
#[derive(Debug)]
struct Heard {
    key: String,
    headers: Vec<(String, String)>,
    value: Value,
}

impl Heard {
    fn of(message: &OwnedMessage) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
        let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
        let headers =
            headers.map(|it| (it.key.to_owned(), text(it.value.expect("headers have values"))));
        let value = message.payload().expect("records have values");
        Self {
            key: text(message.key().expect("records have keys")),
            headers: headers.collect(),
            value: serde_json::from_slice(value).expect("JSON"),
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// As the gateway publishes by itself: the key is `key`, and the id of the event goes along.
    fn assert_is(&self, key: &str, name: &str) {
        assert_eq!((self.key.as_str(), &self.value["eventName"]), (key, &json!(name)), "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/json"));
        assert_eq!(self.header("message-id"), self.value["eventId"].as_str(), "{self:?}");
    }
}

fn notification(number: u32) -> Value {
    json!({ "eventName": "system.notification", "number": number })
}

/// The reconnect token that follows the manifest.
fn early_token(client: &mut Client) -> String {
    let event = client.event();
    assert_eq!(event["eventName"], "connect.session-token", "{event}");
    event["token"].as_str().expect("a token is text").to_owned()
}

#[test]
fn the_life_of_a_session_is_published_under_its_id() {
    let stage = Stage::start("", &[]);
    let session = Uuid::new_v4();
    let id = session.to_string();
    let mut client = stage.gateway.client_of(&Claims::default().session(session));
    let token = early_token(&mut client);
    let connected = Stage::heard("session.connected", session);
    connected.assert_is(&id, "session.connected");
    assert_eq!(connected.value["roles"], json!(["user"]));
    client.leave();
    let disconnected = Stage::heard("session.disconnected", session);
    disconnected.assert_is(&id, "session.disconnected");
    assert_eq!(disconnected.value["reconnectable"], true);
    let mut back = Client::try_resume(stage.gateway.public(), &token).expect("it is in time");
    early_token(&mut back);
    Stage::heard("session.reconnected", session).assert_is(&id, "session.reconnected");
}

#[test]
fn what_services_publish_for_a_session_reaches_it_until_it_is_worth_nothing() {
    let stage = Stage::start("", &[]);
    let session = Uuid::new_v4();
    let mut client = stage.gateway.client_of(&Claims::default().session(session));
    early_token(&mut client);
    stage.event(session, &[("expires-at-ms", "1")], &notification(1));
    let headers = [("message-id", "7"), ("content-type", "application/json"), ("odd", "")];
    stage.event(session, &headers, &notification(2));
    assert_eq!(client.event()["number"], 2);
    stage.gateway.await_metric("corelane_events_expired_total", "", 1);
    // Those of nobody here are passed over.
    stage.event(Uuid::new_v4(), &[], &notification(3));

    let fields =
        format!("traceparent: {TRACEPARENT}\r\ncorrelation-id: c-1\r\nmessage-id: m-1\r\n");
    let path = format!("/bus/bannou-client-events?session={session}&expires-at-ms=4000000000000");
    assert_eq!(stage.post(&path, &fields, &notification(4)).status, 202);
    assert_eq!(client.event()["number"], 4);
    let of_bus = Stage::find("bannou-client-events", |it| it.header("message-id") == Some("m-1"));
    assert_eq!(of_bus.key, format!("CONNECT_SESSION_{session}"));
    for (name, value) in [
        ("content-type", "application/json"),
        ("message-id", "m-1"),
        ("correlation-id", "c-1"),
        ("traceparent", TRACEPARENT),
        ("expires-at-ms", "4000000000000"),
    ] {
        assert_eq!(of_bus.header(name), Some(value), "{of_bus:?}");
    }
}

#[test]
fn a_session_is_ended_by_what_services_publish_and_its_end_is_published() {
    let stage = Stage::start("", &[]);
    let session = Uuid::new_v4();
    let mut client = stage.gateway.client_of(&Claims::default().session(session));
    early_token(&mut client);
    let over = json!({
        "eventName": "session.invalidated", "sessionIds": [session.to_string()], "reason": "Logout",
    });
    stage.publish("session.invalidated", &Uuid::new_v4().to_string(), &[], &over);
    assert_eq!(client.close_reason(), (4001, "Session invalidated: Logout".to_owned()));
    let disconnected = Stage::heard("session.disconnected", session);
    disconnected.assert_is(&session.to_string(), "session.disconnected");
    assert_eq!(disconnected.value["reason"], "forced_disconnect");
    assert_eq!(disconnected.value["reconnectable"], false);
}

#[test]
fn errors_go_out_under_the_services_name_and_come_in_for_administrators() {
    let stage = Stage::start("", &[]);
    let mut admin = stage.gateway.client_of(&Claims::default().with("roles", json!(["admin"])));
    early_token(&mut admin);
    let notice_of = |admin: &mut Client, what: &str| {
        let notice = admin.request();
        assert_eq!((notice.flags, &notice.json()["eventName"]), (EVENT, &json!("service_error")));
        assert!(notice.json().to_string().contains(what), "{}", notice.json());
    };
    let broken = Uuid::new_v4().to_string();
    let error = json!({
        "eventName": "service.error", "eventId": Uuid::new_v4().to_string(),
        "timestamp": "2026-03-02T14:56:21.1234567+00:00", "serviceId": Uuid::new_v4().to_string(),
        "serviceName": "lobby", "appId": "game", "operation": "Join", "errorType": "unexpected",
        "message": broken, "severity": "Error", "cpuUsage": 0, "memoryUsage": 0,
    });
    stage.publish("service.error", "lobby", &[], &error);
    notice_of(&mut admin, &broken);

    // A shortcut that leads nowhere is an error of the gateway's own.
    let session = Uuid::new_v4();
    let mut player = stage.gateway.client_of(&Claims::default().session(session));
    early_token(&mut player);
    let shortcut = json!({ "eventName": "session.shortcut-published", "shortcut": {
        "routeGuid": Uuid::new_v4().to_string(), "targetGuid": Uuid::new_v4().to_string(),
        "metadata": { "name": broken, "sourceService": "lobby", "targetService": "",
            "targetMethod": "POST", "targetEndpoint": "/join" },
    }});
    stage.event(session, &[], &shortcut);
    notice_of(&mut admin, "the shortcut has no targetService");
    let own = Stage::find("service.error", |it| it.key == "connect");
    own.assert_is("connect", "service.error");
    player.expect_no_reply();
}

/// The RPC that a service asks for at the internal listener, and its answer by the client.
fn rpc(stage: &Stage, client: &mut Client, session: Uuid) {
    let rpc = json!({
        "clientId": session.to_string(), "serviceName": "game",
        "serviceGuid": Uuid::new_v4().to_string(), "messageId": 7, "payload": "e30=", "flags": 0,
        "channel": 5, "responseChannel": "game.answers",
    });
    assert_eq!(stage.post("/events/client-rpc", "", &rpc).status, 200);
    let asked = client.request();
    client.send_message(Message::binary(asked.answer(0, "{}").encode()));
}

#[test]
fn answers_to_rpcs_go_to_the_topic_of_their_name_or_to_one_for_all() {
    Kafka::shared().create_topic(&format!("{PREFIX}game.answers"), 1, &[]);
    for (setting, topic) in [("named", "game.answers"), ("shared", "connect.rpc-responses")] {
        let stage = Stage::start("", &[("kafka.rpc_responses", setting)]);
        let session = Uuid::new_v4();
        let mut client = stage.gateway.client_of(&Claims::default().session(session));
        early_token(&mut client);
        rpc(&stage, &mut client, session);
        let answer = Stage::heard(topic, session);
        let key = if setting == "named" { session.to_string() } else { "game.answers".to_owned() };
        assert_eq!(answer.key, key);
        assert_eq!(answer.value["messageId"], 7);
        assert!(answer.header("message-id").is_some_and(|id| id.parse::<Uuid>().is_ok()));
    }
}

#[test]
fn services_are_called_where_their_mappings_say() {
    let [first, second] = [1, 2].map(|number| {
        HttpBackend::start(move |_| http_backend::Answer::ok(format!("{{\"from\":{number}}}")))
    });
    let mapped = second.url.replace("http://127.0.0.1", "{app}");
    let settings = [("events.mapped_address", mapped.as_str())];
    let stage = Stage::start(&first.service("/demo/echo", ""), &settings);
    let mut client = stage.gateway.client();
    early_token(&mut client);
    let echo = Request::to(client.service("/demo/echo"));
    assert_eq!(client.call(&echo), echo.answer(0, "{\"from\":1}"));
    let mappings = json!({
        "eventName": "orchestrator.full_service_mappings", "eventId": Uuid::new_v4().to_string(),
        "timestamp": "2026-03-02T14:56:21.1234567+00:00", "mappings": { "demo": "127.0.0.1" },
        "defaultAppId": "game", "version": 42, "sourceInstanceId": Uuid::new_v4().to_string(),
        "totalServices": 1,
    });
    stage.publish("bannou.full-service-mappings", "game", &[], &mappings);
    stage.gateway.wait_until("the service is called elsewhere", SOON, || {
        client.call(&echo).payload == b"{\"from\":2}"
    });
}
