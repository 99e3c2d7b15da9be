//! The embedded bus over HTTP: services publish records one by one, and follow topics as
//! Server-Sent Events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use corelane_shard::id::SessionId;
use futures_util::stream::{Stream, unfold};
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::Shared;
use crate::control::ask::{Ask, Unpublished};
use crate::control::asker::Asker;
use crate::control::bus::{Record, SESSION_KEY, topic};
use crate::control::problem::{Problem, with_status};
use crate::control::query::{Query, parse};

/// Publishes the body as one record. 202 says how many records it became: with `account` one for
/// each of the account's sessions.
pub(super) async fn publish(
    State(inside): State<Shared>,
    Path(topic): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    check_topic("topic", &topic)?;
    let query = Query::read(query.as_deref(), &[KEY, EXPIRES, "session", "account"])?;
    let expires_at_ms = match either(&query, &headers, EXPIRES)? {
        Some(text) => Some(parse(EXPIRES, text)?),
        None => None,
    };
    let key = either(&query, &headers, KEY)?;
    let (session, account) = (query.parsed::<SessionId>("session")?, query.one("account")?);
    let named = [key.is_some(), session.is_some(), account.is_some()];
    if named.into_iter().filter(|named| *named).count() > 1 {
        return Err(Problem::bad_request("key, session and account exclude each other"));
    }
    if (session.is_some() || account.is_some()) && topic != topic::CLIENT_EVENTS {
        let only = topic::CLIENT_EVENTS;
        return Err(Problem::bad_request(format!("session and account are for {only} alone")));
    }
    let keys = match (session, account) {
        (Some(session), _) => vec![session_key(session)],
        (None, Some(account)) => of_account(&inside.asker, account).await?,
        (None, None) => vec![key.unwrap_or_default().into()],
    };
    if serde_json::from_slice::<serde::de::IgnoredAny>(&body).is_err() {
        return Err(unusable("the record is not JSON"));
    }
    let value: Arc<[u8]> = Arc::from(&*body);
    let mut published = 0_u32;
    for key in keys {
        let value = Arc::clone(&value);
        let record =
            Record { topic: topic.as_str().into(), key, value, expires_at_ms, position: None };
        match inside.asker.ask(|answer| Ask::Publish { record, answer }).await? {
            Ok(()) => published += 1,
            // One of several that ended meanwhile.
            Err(Unpublished::NoSession) if account.is_some() => {}
            Err(why) => return Err(why.into()),
        }
    }
    if published == 0 {
        return Err(Unpublished::NoSession.into());
    }
    Ok(with_status(StatusCode::ACCEPTED, &json!({ "published": published })))
}

async fn of_account(asker: &Asker, account: &str) -> Result<Vec<Box<str>>, Problem> {
    let name = account.into();
    let found = asker.ask(|answer| Ask::OfAccount { account: name, answer }).await?;
    if found.is_empty() {
        let detail = format!("account {account:?} has no session that is open or can be taken up");
        return Err(Problem::new(StatusCode::NOT_FOUND, detail, NEXT_NO_SESSION));
    }
    Ok(found.into_iter().map(|listed| session_key(listed.identity.session)).collect())
}

fn session_key(session: SessionId) -> Box<str> {
    format!("{SESSION_KEY}{session}").into()
}

/// A parameter of the query, or the header of that name.
fn either<'a>(
    query: &'a Query,
    headers: &'a HeaderMap,
    name: &str,
) -> Result<Option<&'a str>, Problem> {
    if let Some(text) = query.one(name)? {
        return Ok(Some(text));
    }
    let Some(value) = headers.get(name) else { return Ok(None) };
    let text = value.to_str().map_err(|_| Problem::bad_request(format!("{name} is no text")))?;
    Ok(Some(text))
}

/// As every broker can name it.
pub(super) fn check_topic(name: &str, topic: &str) -> Result<(), Problem> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let named = !topic.is_empty() && topic.len() <= TOPIC_BYTES_MAX && topic.bytes().all(legal);
    if named && !matches!(topic, "." | "..") {
        return Ok(());
    }
    Err(Problem::bad_request(format!(
        "{name} is 1 to {TOPIC_BYTES_MAX} letters, digits, \".\", \"_\" and \"-\""
    )))
}

impl From<Unpublished> for Problem {
    fn from(why: Unpublished) -> Self {
        let detail = why.to_string();
        match why {
            Unpublished::BadKey | Unpublished::Unusable { .. } => unusable(detail),
            Unpublished::NoSession => Self::new(StatusCode::NOT_FOUND, detail, NEXT_NO_SESSION),
            Unpublished::TooLong => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, detail, "send less in one event")
            }
        }
    }
}

fn unusable(detail: impl Into<String>) -> Problem {
    let next = "correct the record; nobody has got it";
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail, next)
}

/// Records from now on, of the topics that the query names or of all.
pub(super) async fn subscribe(
    State(inside): State<Shared>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let query = Query::read(query.as_deref(), &["topic"])?;
    let topics: Box<[Box<str>]> = query.all("topic").map(Box::from).collect();
    for topic in &topics {
        check_topic("topic", topic)?;
    }
    let place = Arc::clone(&inside.subscribers).try_acquire_owned().map_err(|_| {
        Problem::overloaded(format!("{SUBSCRIBERS_MAX} subscribers follow the bus already"))
    })?;
    let records = inside.asker.ask(|answer| Ask::Subscribe { answer }).await?;
    let records = records.ok_or_else(|| {
        let next = "subscribe to its topics there";
        Problem::new(StatusCode::NOT_FOUND, "the bus is Kafka, not this gateway", next)
    })?;
    let subscription = Subscription { records, topics, sent: 0, _place: place };
    let alive = KeepAlive::new().interval(KEEP_ALIVE);
    Ok(Sse::new(subscription.into_events()).keep_alive(alive).into_response())
}

/// What one subscriber gets.
struct Subscription {
    records: Receiver<Arc<Record>>,
    /// None means all.
    topics: Box<[Box<str>]>,
    sent: u64,
    _place: OwnedSemaphorePermit,
}

impl Subscription {
    fn into_events(self) -> impl Stream<Item = Result<Event, Infallible>> {
        unfold(self, async |mut this| {
            let event = this.next().await?;
            Some((Ok(event), this))
        })
    }

    /// `None` when the control core has gone.
    async fn next(&mut self) -> Option<Event> {
        loop {
            match self.records.recv().await {
                Ok(record) if self.wants(&record) => {
                    self.sent += 1;
                    return Some(written(&record, self.sent));
                }
                Ok(_) => {}
                Err(RecvError::Lagged(missed)) => {
                    return Some(Event::default().event(LAGGED).data(missed.to_string()));
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }

    fn wants(&self, record: &Record) -> bool {
        self.topics.is_empty() || self.topics.contains(&record.topic)
    }
}

fn written(record: &Record, id: u64) -> Event {
    // A line end in a name would begin another field.
    let topic: String = record.topic.chars().filter(|letter| !letter.is_control()).collect();
    let json = String::from_utf8_lossy(&record.value);
    Event::default().event(topic).id(id.to_string()).data(json)
}

/// More are answered 503.
pub(super) const SUBSCRIBERS_MAX: usize = 64;
const KEY: &str = "key";
const EXPIRES: &str = "expires-at-ms";
const LAGGED: &str = "lagged";
const NEXT_NO_SESSION: &str = "an event for nobody is not kept; the player has to connect first";
const TOPIC_BYTES_MAX: usize = 249;
const KEEP_ALIVE: Duration = Duration::from_secs(15);
