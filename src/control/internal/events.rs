//! Messages of services to clients, and the auth service's notices (protocol §9.8).

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use corelane_shard::id::SessionId;
use corelane_shard::wire::guid::Guid;
use corelane_shard::wire::header::{Flags, RequestHeader};
use serde::{Deserialize, Deserializer};
use tracing::info;

use super::{Shared, read_json};
use crate::control::ask::{Ask, Rpc, RpcRefused};
use crate::control::asker::no_session;
use crate::control::nodes::Route;
use crate::control::problem::Problem;
use crate::control::query::parse;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AuthEvent {
    session_id: String,
    event_type: AuthEventType,
}

#[derive(Debug, Deserialize)]
enum AuthEventType {
    Login,
    Logout,
    TokenRefresh,
    PermissionChange,
}

/// Only logged: what a logout means for a session comes as `session.invalidated`.
pub(super) async fn auth_event(body: Bytes) -> Result<Response, Problem> {
    let event: AuthEvent = read_json(&body)?;
    let session: SessionId = parse("sessionId", &event.session_id)?;
    info!(%session, event = ?event.event_type, "the auth service tells of a session");
    Ok(StatusCode::OK.into_response())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClientMessage {
    client_id: String,
    #[serde(default)]
    service_name: String,
    service_guid: String,
    #[serde(deserialize_with = "bits_of_64")]
    message_id: u64,
    /// Base64.
    #[serde(default)]
    payload: String,
    #[serde(default)]
    flags: u8,
    #[serde(default)]
    channel: u16,
}

impl ClientMessage {
    fn session(&self) -> Result<SessionId, Problem> {
        parse("clientId", &self.client_id)
    }

    fn guid(&self) -> Result<Guid, Problem> {
        parse("serviceGuid", &self.service_guid)
    }

    fn payload(&self) -> Result<Vec<u8>, Problem> {
        STANDARD
            .decode(&self.payload)
            .map_err(|reason| Problem::bad_request(format!("payload is not base64: {reason}")))
    }
}

/// Sends the message to the session's client, on whatever node. A session that is nowhere is no error.
pub(super) async fn client_message(
    State(inside): State<Shared>,
    body: Bytes,
) -> Result<Response, Problem> {
    let message: ClientMessage = read_json(&body)?;
    let (session, payload) = (message.session()?, message.payload()?);
    let header = RequestHeader {
        flags: Flags(message.flags).union(Flags::EVENT).union(Flags::BINARY),
        channel: message.channel,
        sequence: 0,
        guid: message.guid()?,
        message_id: message.message_id,
    };
    let message = [&header.to_bytes()[..], &payload].concat().into();
    let pushed = inside.asker.ask(|answer| Ask::Push { session, message, answer }).await?;
    if pushed.is_err()
        && let Some(elsewhere) = inside.at_holder(session, Route::Message, &body).await?
    {
        return Ok(elsewhere);
    }
    Ok(StatusCode::OK.into_response())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClientRpc {
    #[serde(flatten)]
    message: ClientMessage,
    response_channel: String,
    #[serde(default)]
    timeout_seconds: i64,
}

/// Sends an RPC to the session's client, on whatever node. Unlike a message, one to nobody is refused: its sender
/// would wait for the answer.
pub(super) async fn client_rpc(
    State(inside): State<Shared>,
    body: Bytes,
) -> Result<Response, Problem> {
    let request: ClientRpc = read_json(&body)?;
    let ClientRpc { message, response_channel, timeout_seconds } = request;
    super::bus::check_topic("responseChannel", &response_channel)?;
    let seconds = u64::try_from(timeout_seconds).unwrap_or(0).min(RPC_SECONDS_MAX);
    let session = message.session()?;
    let rpc = Box::new(Rpc {
        session,
        service_guid: message.guid()?,
        channel: message.channel,
        message_id: message.message_id,
        payload: message.payload()?.into(),
        service: message.service_name.into(),
        response_topic: response_channel.into(),
        timeout: (seconds > 0).then(|| Duration::from_secs(seconds)),
    });
    let sent = inside.asker.ask(|answer| Ask::Rpc { rpc, answer }).await?;
    match sent {
        Ok(()) => Ok(StatusCode::OK.into_response()),
        Err(RpcRefused::NoSession(_)) => {
            let elsewhere = inside.at_holder(session, Route::Rpc, &body).await?;
            elsewhere.ok_or_else(|| no_session(session))
        }
        Err(refused @ RpcRefused::TooMany) => Err(Problem::overloaded(refused.to_string())),
    }
}

/// Services write message ids as signed numbers; on the wire they have no sign.
fn bits_of_64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Number {
        Unsigned(u64),
        Signed(i64),
    }
    Ok(match Number::deserialize(deserializer)? {
        Number::Unsigned(id) => id,
        Number::Signed(id) => id.cast_unsigned(),
    })
}

const RPC_SECONDS_MAX: u64 = 300;
