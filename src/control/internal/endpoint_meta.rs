//! What an endpoint of a service is, for the player whose token comes along (protocol §9.6).

use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use corelane_shard::id::SessionId;
use corelane_shard::identity::AuthRefusal;
use corelane_shard::snapshot::Endpoint;
use serde::{Deserialize, Serialize};
use serde_json::{Value, to_vec};

use super::backend::{self, Call, CallError};
use super::description::Kind;
use super::{Shared, read_json};
use crate::control::ask::Described;
use crate::control::nodes::Route;
use crate::control::problem::{Problem, ok};
use crate::control::query::parse;

#[derive(Deserialize)]
struct MetaRequest {
    /// The endpoint's path, `/meta/` and the kind.
    path: String,
}

/// What of a backend's answer is passed on.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct MetaAnswer {
    meta_type: String,
    service_name: String,
    method: String,
    path: String,
    data: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    schema_version: Option<String>,
}

pub(super) async fn endpoint_meta(
    State(inside): State<Shared>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let token = bearer(&headers).ok_or_else(|| unauthorized("the request has no Bearer token"))?;
    let session = inside.tokens.check(token).await.map_err(refused)?;
    let MetaRequest { path } = read_json(&body)?;
    let Some(described) = inside.asker.find(session).await? else {
        let wanted = to_vec(&Wanted { session_id: session.to_string(), path });
        let wanted = wanted.expect("texts are JSON").into();
        let elsewhere = inside.at_holder(session, Route::Meta, &wanted).await?;
        return elsewhere.ok_or_else(not_connected);
    };
    describe(&inside, &described, session, &path).await
}

/// What a node that has checked a player's token asks the one that has the session.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Wanted {
    session_id: String,
    path: String,
}

pub(super) async fn for_another_node(
    State(inside): State<Shared>,
    body: Bytes,
) -> Result<Response, Problem> {
    let Wanted { session_id, path } = read_json(&body)?;
    let session = parse("sessionId", &session_id)?;
    let described = inside.asker.find(session).await?.ok_or_else(not_connected)?;
    describe(&inside, &described, session, &path).await
}

async fn describe(
    inside: &Shared,
    described: &Described,
    session: SessionId,
    path: &str,
) -> Result<Response, Problem> {
    let (path, kind) = path.rsplit_once("/meta/").ok_or_else(|| no_meta(path))?;
    let kind = Kind::of(kind).ok_or_else(|| no_meta(kind))?;
    let endpoint = granted(described, path).ok_or_else(|| {
        let next = "grant it to one of the session's roles, or by a capabilities event";
        let detail = format!("the session may not call {path}");
        Problem::new(StatusCode::FORBIDDEN, detail, next)
    })?;
    let answer = ask_backend(inside, described, session, endpoint, kind).await?;
    let answer: MetaAnswer = serde_json::from_slice(&answer).map_err(|reason| {
        let detail = format!("the backend's description of {path} cannot be read: {reason}");
        let next = "correct what the backend answers";
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail, next)
    })?;
    Ok(ok(&answer))
}

/// Of several endpoints with this path, rather that of the service named like the path's beginning.
fn granted<'a>(described: &'a Described, path: &str) -> Option<&'a Endpoint> {
    let snapshot = &described.snapshot;
    let may_call = described.description.endpoints.iter();
    let found = may_call
        .filter_map(|id| snapshot.endpoints.get(usize::from(id.0)))
        .filter(|endpoint| *endpoint.path == *path);
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    found.min_by_key(|endpoint| {
        let service = snapshot.services.get(usize::from(endpoint.service.0));
        service.is_none_or(|service| *service.name != *first)
    })
}

async fn ask_backend(
    inside: &Shared,
    described: &Described,
    session: SessionId,
    endpoint: &Endpoint,
    kind: Kind,
) -> Result<Bytes, Problem> {
    let service = &described.snapshot.services[usize::from(endpoint.service.0)];
    backend::check_http(service)?;
    let path = endpoint.path.replace('{', "%7B").replace('}', "%7D");
    let target = format!("{path}/meta/{}", kind.suffix());
    let target = target.parse().map_err(|_| no_meta(&endpoint.path))?;
    let call = Call { session, method: Method::GET, target, body: None };
    let described_by = |why: String| {
        let detail = format!("{} does not describe {}: {why}", service.name, endpoint.path);
        let next = "the backend has to serve the endpoint's path with /meta/ and a kind";
        Problem::new(StatusCode::NOT_FOUND, detail, next)
    };
    let answer = backend::call(inside, endpoint.service, service, call).await;
    let answer = answer.map_err(|reason| match reason {
        CallError::TooMany | CallError::Core(_) => Problem::overloaded(reason.to_string()),
        _ => described_by(reason.to_string()),
    })?;
    match answer.status.is_success() {
        true => Ok(answer.body),
        false => Err(described_by(format!("it answers {}", answer.status))),
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("Bearer") && !token.is_empty()).then_some(token)
}

/// As at the door.
fn refused(why: AuthRefusal) -> Problem {
    match why {
        AuthRefusal::Unavailable => Problem::overloaded(why.to_string()),
        _ => unauthorized(why.to_string()),
    }
}

fn not_connected() -> Problem {
    unauthorized("the token's session has no connection")
}

fn unauthorized(detail: impl Into<String>) -> Problem {
    let next = "send the token of a player who is connected, as Authorization: Bearer";
    Problem::new(StatusCode::UNAUTHORIZED, detail, next)
}

fn no_meta(found: &str) -> Problem {
    let detail = format!("{found:?} does not end in /meta/ and one of {}", Kind::words());
    let next = "ask for the path of an endpoint with such an end";
    Problem::new(StatusCode::NOT_FOUND, detail, next)
}
