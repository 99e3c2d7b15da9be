//! The demo service's other half, also to be read as an example of one: what a backend does beside
//! answering calls. It hears of sessions, pushes events to them, gives each a shortcut and asks its
//! client a question.
//!
//! It is a client of the internal listener and of nothing else: `docs/BACKENDS.md` says how another
//! program does the same.

mod internal;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tracing::{debug, error, info, warn};
use uuid::Uuid;

use self::internal::{Internal, InternalError, Records};
use super::configuration::SERVICE;
use super::{demo_http, wall_clock};

/// The event that every session gets now and then.
pub(super) const TICK: &str = "demo.tick";
/// By it clients look the shortcut up.
pub(super) const SHORTCUT: &str = "demo_time";

/// Where clients' answers are published.
const ANSWERS: &str = "demo.answers";
/// By it a client knows whose question it is.
const GUID: &str = "de300000-0000-4000-8000-000000000001";

/// How often the demo does what.
#[derive(Debug, Clone, Copy)]
struct Rhythm {
    tick: Duration,
    /// From the connection of a session to the question to its client.
    question_after: Duration,
    retry: Duration,
}

const RHYTHM: Rhythm = Rhythm {
    tick: Duration::from_secs(5),
    question_after: Duration::from_secs(3),
    retry: Duration::from_secs(1),
};

/// Tells the thread where the internal listener is.
pub(super) type Address = oneshot::Sender<SocketAddr>;

/// Waits for the address on a thread of its own, and works until the process ends.
pub(super) fn spawn(token: &str) -> io::Result<Address> {
    let (address, told) = oneshot::channel();
    let token = token.to_owned();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("demo-bus".to_owned()).spawn(move || {
        runtime.block_on(async {
            // Without an address the gateway has not started.
            let Ok(address) = told.await else { return };
            run(Internal::new(address, &token), RHYTHM).await;
        });
    })?;
    Ok(address)
}

async fn run(gateway: Internal, rhythm: Rhythm) {
    loop {
        match gateway.follow(&["session.connected", "session.disconnected", ANSWERS]).await {
            // What was published meanwhile is missed: sessions that it does not know it leaves alone.
            Ok(records) => Demo::new(&gateway, rhythm).work(records).await,
            Err(InternalError::Refused { status, detail }) => {
                return error!(%status, detail, "the internal listener refuses the demo service");
            }
            Err(reason) => debug!(%reason, "the demo service cannot follow the bus"),
        }
        sleep(rhythm.retry).await;
    }
}

struct Demo<'a> {
    gateway: &'a Internal,
    rhythm: Rhythm,
    /// When the client is to be asked; `None` once it was.
    sessions: BTreeMap<String, Option<Instant>>,
    ticks: u64,
}

impl<'a> Demo<'a> {
    fn new(gateway: &'a Internal, rhythm: Rhythm) -> Self {
        Self { gateway, rhythm, sessions: BTreeMap::new(), ticks: 0 }
    }

    /// Until the records end.
    async fn work(mut self, mut records: Records) {
        let mut tick = interval(self.rhythm.tick);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let question = self.sessions.values().flatten().min().copied();
            let done = tokio::select! {
                record = records.next() => match record {
                    Some((topic, record)) => self.hear(&topic, &record).await,
                    None => return,
                },
                _ = tick.tick() => self.tick().await,
                () = until(question) => self.ask_who_is_due().await,
            };
            if let Err(reason) = done {
                warn!(%reason, "the demo service was not heard");
            }
        }
    }

    async fn hear(&mut self, topic: &str, record: &Value) -> Result<(), InternalError> {
        let session = record["sessionId"].as_str().unwrap_or_default();
        match topic {
            "session.connected" => {
                let question = Instant::now() + self.rhythm.question_after;
                self.sessions.insert(session.to_owned(), Some(question));
                return self.publish(session, &shortcut()).await;
            }
            "session.disconnected" => {
                self.sessions.remove(session);
            }
            ANSWERS => hear_answer(record),
            _ => debug!(topic, %record, "a record that the demo did not ask for"),
        }
        Ok(())
    }

    async fn tick(&mut self) -> Result<(), InternalError> {
        self.ticks += 1;
        for session in self.sessions.keys() {
            let event = event(TICK, json!({ "n": self.ticks, "sessions": self.sessions.len() }));
            self.publish(session, &event).await?;
        }
        Ok(())
    }

    async fn ask_who_is_due(&mut self) -> Result<(), InternalError> {
        let now = Instant::now();
        let due = self.sessions.iter_mut().find(|(_, at)| at.is_some_and(|at| at <= now));
        let Some((session, at)) = due else { return Ok(()) };
        *at = None;
        let question = json!({
            "clientId": session,
            "serviceName": SERVICE,
            "serviceGuid": GUID,
            "messageId": self.ticks << 32 | u64::from(fastrand::u32(..)),
            "payload": STANDARD.encode(json!({ "question": "who are you?" }).to_string()),
            "responseChannel": ANSWERS,
        });
        gone_is_fine(self.gateway.post("/events/client-rpc", &question).await)
    }

    async fn publish(&self, session: &str, event: &Value) -> Result<(), InternalError> {
        let path = format!("/bus/bannou-client-events?session={session}");
        gone_is_fine(self.gateway.post(&path, event).await)
    }
}

/// Most clients do not answer, and the gateway then answers for them.
fn hear_answer(record: &Value) {
    let session = record["clientId"].as_str().unwrap_or_default();
    let payload = STANDARD.decode(record["payload"].as_str().unwrap_or_default());
    let answer = String::from_utf8_lossy(&payload.unwrap_or_default()).into_owned();
    match record["responseCode"].as_u64() {
        Some(0) => info!(session, ?answer, "a client has answered the demo's question"),
        code => debug!(session, code, "a client has not answered the demo's question"),
    }
}

/// The session may have ended since it was heard of.
fn gone_is_fine(done: Result<(), InternalError>) -> Result<(), InternalError> {
    match done {
        Err(InternalError::Refused { status, .. }) if status == 404 => Ok(()),
        done => done,
    }
}

/// `/demo/time` with a bound payload.
fn shortcut() -> Value {
    let shortcut = json!({
        "routeGuid": Uuid::new_v4().to_string(),
        "targetGuid": GUID,
        "boundPayload": "{}",
        "metadata": {
            "name": SHORTCUT,
            "description": "What time is it?",
            "sourceService": SERVICE,
            "targetService": SERVICE,
            "targetMethod": "POST",
            "targetEndpoint": demo_http::TIME,
        },
    });
    event("session.shortcut-published", json!({ "shortcut": shortcut }))
}

/// With the fields that every event has.
fn event(name: &str, mut fields: Value) -> Value {
    fields["eventName"] = name.into();
    fields["eventId"] = Uuid::new_v4().to_string().into();
    fields["timestamp"] = wall_clock::iso(wall_clock::unix_ms()).into();
    fields
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
