//! A gateway that is killed or drained and started again while the auth service is away: its sessions
//! come back with nothing but their reconnect tokens, and find the events that came meanwhile.

#[expect(dead_code, reason = "each test takes the part of the ledger that it needs")]
#[path = "../event_ledger/mod.rs"]
mod event_ledger;
#[expect(dead_code, reason = "each test takes the part of the harness that it needs")]
#[path = "../gateway_process/mod.rs"]
mod gateway_process;
#[expect(dead_code, reason = "each test takes the part of the services that it needs")]
#[path = "../services/mod.rs"]
mod services;

mod auth_service;

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustix::process::Signal;
use serde_json::{Value, json};
use uuid::Uuid;

use auth_service::AuthService;
use event_ledger::player::EVENT_NAME;
use event_ledger::publisher::{OverKafka, Publisher as _, TOPIC, event};
use gateway_process::client::{
    BINARY, CLOSE, Client, Frame, masked, resume_request, upgrade_request,
};
use gateway_process::memory::raise_open_files;
use gateway_process::{Gateway, Launch, SOON};
use services::{Kafka, Redis};

const SESSIONS: usize = 1000;

/// Logins at one time: fewer than may wait for the auth service.
const AT_ONCE: usize = 200;

/// Of the topic of events.
const PARTITIONS: u8 = 16;

/// From when the new process is ready until the last session has its manifest. The code of a debug
/// build is several times as slow, and the machine has other tests to run.
const BACK_WITHIN: Duration = Duration::from_secs(if cfg!(debug_assertions) { 6 } else { 2 });

const HEADER: usize = 31;

/// How the gateway ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Killed,
    Drained,
}

/// A session whose client holds a reconnect token.
struct Player {
    session: Uuid,
    token: String,
    client: Client,
}

/// A JWT of an issuer that the gateway does not know, so that it has to ask.
fn foreign_token() -> String {
    let part = |json: Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let header = part(json!({ "alg": "ES256", "typ": "JWT", "kid": "of-somebody-else" }));
    let claims = part(json!({ "jti": Uuid::new_v4().to_string(), "exp": 4_000_000_000_u64 }));
    format!("{header}.{claims}.{}", URL_SAFE_NO_PAD.encode([7; 64]))
}

/// The JSON of an event.
fn event_of(frame: &Frame) -> Option<Value> {
    let body = frame.payload.get(HEADER..).filter(|_| frame.opcode == BINARY)?;
    Some(serde_json::from_slice(body).expect("an event is JSON"))
}

fn named(frame: &Frame, name: &str) -> Option<Value> {
    event_of(frame).filter(|event| event["eventName"] == name)
}

fn manifest_of(client: &mut Client) -> Value {
    client.find("the manifest", SOON, |frame| named(frame, "connect.capability-manifest"))
}

fn session_in(manifest: &Value) -> Uuid {
    let id = manifest["sessionId"].as_str().expect("a manifest names its session");
    Uuid::parse_str(id).expect("a session is a UUID")
}

/// Asks for a session on a connection of its own, and does not wait for the answer.
fn ask(door: SocketAddr, request: &str) -> Client {
    let mut client = Client::connect(door);
    client.send(request.as_bytes());
    client
}

/// Logs in, so many at a time.
fn log_in(door: SocketAddr) -> Vec<Player> {
    let mut players = Vec::new();
    while players.len() < SESSIONS {
        let asked = AT_ONCE.min(SESSIONS - players.len());
        let asked: Vec<_> =
            (0..asked).map(|_| ask(door, &upgrade_request(&foreign_token()))).collect();
        for mut client in asked {
            client.accepted(SOON);
            let session = session_in(&manifest_of(&mut client));
            let token = client
                .find("a reconnect token", SOON, |frame| named(frame, "connect.session-token"));
            let token = token["token"].as_str().expect("a token is text").to_owned();
            players.push(Player { session, token, client });
        }
    }
    players
}

/// Ends the gateway; the clients do what is left to do for them.
fn end(mut gateway: Gateway, players: &mut [Player], how: End) {
    match how {
        End::Killed => drop(gateway),
        End::Drained => {
            gateway.signal(Signal::TERM);
            for Player { token, client, .. } in players {
                let told = client.find("a good-bye", SOON, |frame| {
                    named(frame, "connect.disconnect-notification")
                });
                assert_eq!(told["reconnectionToken"], token.as_str());
                let code = client.find("the close", SOON, Frame::close_code);
                assert_eq!(code, 1001);
                client.send(&masked(CLOSE, &code.to_be_bytes()));
            }
            let status = gateway.wait_for_end(SOON);
            assert!(status.success(), "{status}; log:\n{}", gateway.log().tail());
        }
    }
}

/// Before the gateway has found the sessions' events it could not say from where one lacks them.
fn await_topic(gateway: &Gateway) {
    gateway.wait_for_metrics("the topic is found", SOON, |metrics| {
        metrics.sum("corelane_kafka_event_partitions") == f64::from(PARTITIONS)
    });
}

#[expect(clippy::print_stdout, reason = "the times are what a reader of the test wants to know")]
fn come_back(how: End) {
    // What is timed has the machine to itself, as far as this program goes.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    raise_open_files();
    let (redis, kafka) = (Redis::start(), Kafka::shared());
    let auth = AuthService::start();
    // Nobody listens where the backend should be.
    let config = format!(
        "[shards]\ncount = 1\n[auth.validate]\nurl = \"{}\"\n[redis]\nurl = \"{}\"\n\
         [kafka]\nbrokers = [\"{}\"]\ntopic_prefix = \"{how:?}.\"\ncreate_topics = true\npartitions = {PARTITIONS}\n\
         [[service]]\nname = \"demo\"\naddresses = [\"http://127.0.0.1:9\"]\n\
         endpoints = [{{ path = \"/demo/echo\" }}]\n\
         [[role]]\nname = \"user\"\nendpoints = [\"demo:*\"]\n",
        auth.url(),
        redis.url(),
        kafka.brokers()
    );
    let launch = Launch::new(config);
    let gateway = launch.clone().start();
    await_topic(&gateway);
    let mut players = log_in(gateway.public());
    gateway.wait_for_metrics("the store has what it was told", SOON, |metrics| {
        metrics.sum("corelane_redis_commands_waiting") == 0.0
    });

    auth.stop();
    end(gateway, &mut players, how);
    let mut publisher = OverKafka::new(kafka, &format!("{how:?}.{TOPIC}"));
    for (number, Player { session, .. }) in players.iter().enumerate() {
        publisher.publish(*session, &event(*session, number, 0));
    }
    publisher.settle();

    let started = Instant::now();
    let gateway = launch.start();
    let ready = Instant::now();
    let door = gateway.public();
    for Player { token, client, .. } in &mut players {
        *client = ask(door, &resume_request(token));
    }
    for Player { session, client, .. } in &mut players {
        client.accepted(SOON);
        let manifest = manifest_of(client);
        assert_eq!(session_in(&manifest), *session);
        assert_eq!(manifest["availableApis"][0]["endpoint"], "/demo/echo");
    }
    let (since_ready, since_start) = (ready.elapsed(), started.elapsed());
    for (number, Player { client, .. }) in players.iter_mut().enumerate() {
        let missed = client.find("what it missed", SOON, |frame| named(frame, EVENT_NAME));
        assert_eq!(missed["owner"], number);
    }
    println!(
        "{how:?}: {SESSIONS} sessions are back {} ms after the gateway was ready, {} ms after its start, \
         and have what they missed after {} ms",
        since_ready.as_millis(),
        since_start.as_millis(),
        ready.elapsed().as_millis()
    );
    assert!(since_ready <= BACK_WITHIN, "{since_ready:?}");
    assert_eq!(gateway.metrics().sum("corelane_sessions_resumed_total"), SESSIONS as f64);
    // Whoever has no reconnect token needs the auth service.
    let stranger = ask(door, &upgrade_request(&foreign_token())).head(SOON);
    assert!(stranger.starts_with("HTTP/1.1 503 "), "{stranger}");
}

#[test]
fn a_thousand_sessions_of_a_killed_gateway_come_back_without_the_auth_service() {
    come_back(End::Killed);
}

#[test]
fn a_thousand_sessions_of_a_drained_gateway_come_back_without_the_auth_service() {
    come_back(End::Drained);
}
