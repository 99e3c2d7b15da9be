//! What operators ask and order on the admin listener: sessions, the configuration, the log.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use bytes::Bytes;
use corelane_shard::id::SessionId;
use corelane_shard::identity::Identity;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tracing::{info, warn};

use super::ask::{Ask, Asking, Described, ListedSession, NotEnded};
use super::asker::Asker;
use super::problem::{Problem, json_text, ok};
use super::query::{Query, parse};
use crate::config::Shown;
use crate::logging::{self, LevelError};

/// The configuration that holds; a reload replaces it.
pub type ShownConfig = Arc<ArcSwap<Shown>>;

/// What the calls work with. Cheap to clone.
#[derive(Clone)]
pub struct Operators {
    asker: Asker,
    config: ShownConfig,
}

impl Operators {
    #[must_use]
    pub fn new(asking: Asking, config: ShownConfig) -> Self {
        Self { asker: Asker::new(asking), config }
    }

    pub(super) fn router(self) -> Router {
        Router::new()
            .route("/sessions", get(list).delete(end_account))
            .route("/sessions/{session}", get(one).delete(end_one))
            .route("/config", get(config))
            .route("/log-level", get(log_level).put(set_log_level))
            .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
            .with_state(self)
    }
}

impl fmt::Debug for Operators {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operators").finish_non_exhaustive()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SessionShown<'a> {
    session_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    account_id: Option<String>,
    tenant: &'a str,
    roles: &'a [Box<str>],
    authorizations: &'a [Box<str>],
    live: bool,
}

impl<'a> SessionShown<'a> {
    fn new(listed: &'a ListedSession) -> Self {
        let Identity { session, account, standing, .. } = &*listed.identity;
        let spelled = account.as_ref().map(|account| account.text(&mut [0; 36]).to_owned());
        Self {
            session_id: session.to_string(),
            account_id: spelled,
            tenant: &standing.tenant,
            roles: &standing.roles,
            authorizations: &standing.authorizations,
            live: listed.live,
        }
    }
}

#[derive(Serialize)]
struct Page<'a> {
    sessions: Vec<SessionShown<'a>>,
    /// What `after` has to be for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// Sessions in the order of their ids, with `account` only those of one account.
async fn list(
    State(operators): State<Operators>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let query = Query::read(query.as_deref(), &["account", "after", "limit"])?;
    let after = query.parsed::<SessionId>("after")?;
    let limit = query.parsed("limit")?.unwrap_or(PAGE);
    if !(1..=PAGE_MAX).contains(&limit) {
        let detail = format!("limit = {limit}: expected a number from 1 to {PAGE_MAX}");
        return Err(Problem::bad_request(detail));
    }
    // One more tells whether there is a next page.
    let mut found = match query.one("account")? {
        Some(account) => {
            let mut found = operators.of_account(account).await?;
            found.retain(|listed| after.is_none_or(|after| listed.identity.session > after));
            found.sort_unstable_by_key(|listed| listed.identity.session);
            found
        }
        None => operators.asker.ask(|answer| Ask::List { after, limit: limit + 1, answer }).await?,
    };
    let is_last = found.len() <= limit;
    found.truncate(limit);
    let last = found.last().filter(|_| !is_last);
    Ok(ok(&Page {
        next: last.map(|listed| listed.identity.session.to_string()),
        sessions: found.iter().map(SessionShown::new).collect(),
    }))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Details<'a> {
    #[serde(flatten)]
    session: SessionShown<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<String>,
    peer_guid: String,
    open_seconds: u64,
    messages_received: u64,
    messages_sent: u64,
    bytes_received: u64,
    bytes_sent: u64,
    /// `METHOD service:/path`.
    endpoints: Vec<String>,
    /// Names, or routes of those without.
    shortcuts: Vec<String>,
}

async fn one(
    State(operators): State<Operators>,
    Path(session): Path<String>,
) -> Result<Response, Problem> {
    let session = parse("session", &session)?;
    let described = operators.asker.describe(session).await?;
    let Described { listed, description, snapshot } = &*described;
    let endpoints = description.endpoints.iter().filter_map(|id| {
        let endpoint = snapshot.endpoints.get(usize::from(id.0))?;
        let service = snapshot.services.get(usize::from(endpoint.service.0))?;
        Some(format!("{} {}:{}", endpoint.method.as_str(), service.name, endpoint.path))
    });
    let shortcuts = description.shortcuts.iter().map(|shortcut| {
        shortcut.name.as_deref().map_or_else(|| shortcut.route.to_string(), str::to_owned)
    });
    Ok(ok(&Details {
        session: SessionShown::new(listed),
        peer: description.peer.map(|peer| peer.to_string()),
        peer_guid: description.peer_guid.to_string(),
        open_seconds: description.open_ms / 1000,
        messages_received: description.messages_in,
        messages_sent: description.messages_out,
        bytes_received: description.bytes_in,
        bytes_sent: description.bytes_out,
        endpoints: endpoints.collect(),
        shortcuts: shortcuts.collect(),
    }))
}

async fn end_one(
    State(operators): State<Operators>,
    Path(session): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let session = parse("session", &session)?;
    let query = Query::read(query.as_deref(), &["reason"])?;
    let reason = reason(&query)?;
    let ended = operators.end(session, reason).await?;
    ended.map_err(|why| match why {
        NotEnded::NoSession => {
            let detail = format!("session {session}: {why}");
            Problem::new(StatusCode::NOT_FOUND, detail, "list the sessions with GET /sessions")
        }
        NotEnded::Unknown => Problem::overloaded(format!("session {session}: {why}")),
    })?;
    Ok(ok(&json!({ "ended": 1 })))
}

/// All sessions of the account, those that wait to be taken up too.
async fn end_account(
    State(operators): State<Operators>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let query = Query::read(query.as_deref(), &["account", "reason"])?;
    let account = query.one("account")?.filter(|account| !account.is_empty());
    let account = account.ok_or_else(|| Problem::bad_request("account is missing"))?;
    let reason = reason(&query)?;
    let mut ended = 0_u32;
    for listed in operators.of_account(account).await? {
        // Those that ended meanwhile do not count.
        ended += u32::from(operators.end(listed.identity.session, reason).await?.is_ok());
    }
    if ended == 0 {
        let detail = format!("account {account:?} has no session that is open or can be taken up");
        let next = "list the sessions with GET /sessions";
        return Err(Problem::new(StatusCode::NOT_FOUND, detail, next));
    }
    Ok(ok(&json!({ "ended": ended })))
}

/// What the client is told; it has to fit a close frame.
fn reason(query: &Query) -> Result<&str, Problem> {
    let reason = query.one("reason")?.unwrap_or(REASON);
    if reason.is_empty() || reason.len() > REASON_BYTES_MAX || reason.contains(char::is_control) {
        let detail =
            format!("reason = {reason:?}: expected 1 to {REASON_BYTES_MAX} bytes of one line");
        return Err(Problem::bad_request(detail));
    }
    Ok(reason)
}

impl Operators {
    async fn of_account(&self, account: &str) -> Result<Vec<ListedSession>, Problem> {
        let account = account.into();
        Ok(self.asker.ask(|answer| Ask::OfAccount { account, answer }).await?)
    }

    async fn end(&self, session: SessionId, reason: &str) -> Result<Result<(), NotEnded>, Problem> {
        let told = reason.into();
        let ended = self.asker.ask(|answer| Ask::End { session, reason: told, answer }).await?;
        if ended.is_ok() {
            info!(%session, reason, "an operator has ended a session");
        }
        Ok(ended)
    }
}

async fn config(State(operators): State<Operators>) -> Response {
    json_text(StatusCode::OK, operators.config.load().json().to_string())
}

async fn log_level() -> Result<Response, Problem> {
    let level = logging::level().ok_or_else(|| Problem::from(LevelError::NotInstalled))?;
    Ok(ok(&json!({ "level": logging::word(level) })))
}

#[derive(Deserialize)]
struct LevelRequest {
    level: String,
}

/// Until the process ends, or the next order; the configuration stays as it is.
async fn set_log_level(body: Bytes) -> Result<Response, Problem> {
    let request: LevelRequest = serde_json::from_slice(&body).map_err(|reason| {
        Problem::bad_request(format!("expected {{\"level\":\"debug\"}}: {reason}"))
    })?;
    let level = logging::by_word(&request.level).ok_or_else(|| {
        let words = logging::LEVELS.map(logging::word).join(", ");
        Problem::bad_request(format!("level = {:?}: expected one of {words}", request.level))
    })?;
    logging::set_level(level)?;
    warn!(level = logging::word(level), "an operator has set the log's level");
    log_level().await
}

impl From<LevelError> for Problem {
    fn from(why: LevelError) -> Self {
        Self::overloaded(why.to_string())
    }
}

const PAGE: usize = 100;
const PAGE_MAX: usize = 1000;
const REASON: &str = "AdminAction";
const REASON_BYTES_MAX: usize = 64;
const BODY_BYTES_MAX: usize = 4 << 10;

#[cfg(test)]
mod tests;
