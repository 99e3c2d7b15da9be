//! What the gateway publishes for services: facts about sessions, its own errors, the answers of
//! clients to RPCs. Each is a borrowed struct that serde writes; the order of the fields is the
//! order of the protocol's examples, and what is `None` is left out.

use std::collections::BTreeMap;
use std::fmt::Display;

use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use corelane_shard::id::SessionId;
use corelane_shard::identity::Account;
use corelane_shard::wire::guid::Guid;
use serde::{Serialize, Serializer};
use uuid::Uuid;

use super::Timestamp;

/// Each established connection, also a resumed one.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(tag = "eventName", rename = "session.connected", rename_all = "camelCase")]
pub struct SessionConnected<'a> {
    #[serde(serialize_with = "text")]
    pub event_id: Uuid,
    pub timestamp: Timestamp,
    #[serde(serialize_with = "text")]
    pub session_id: SessionId,
    /// A required field: without an account it is the zero UUID.
    #[serde(serialize_with = "account_or_zero")]
    pub account_id: Option<&'a Account>,
    pub roles: &'a [Box<str>],
    pub authorizations: &'a [Box<str>],
    #[serde(serialize_with = "text")]
    pub connect_instance_id: Uuid,
    #[serde(serialize_with = "text")]
    pub peer_guid: Guid,
}

/// The real end of a session's connection; a takeover publishes none.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(tag = "eventName", rename = "session.disconnected", rename_all = "camelCase")]
pub struct SessionDisconnected<'a> {
    #[serde(serialize_with = "text")]
    pub event_id: Uuid,
    pub timestamp: Timestamp,
    #[serde(serialize_with = "text")]
    pub session_id: SessionId,
    #[serde(serialize_with = "account", skip_serializing_if = "Option::is_none")]
    pub account_id: Option<&'a Account>,
    pub reason: DisconnectReason,
    pub reconnectable: bool,
}

/// A resume by token; published after [`SessionConnected`].
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(tag = "eventName", rename = "session.reconnected", rename_all = "camelCase")]
pub struct SessionReconnected<'a> {
    #[serde(serialize_with = "text")]
    pub event_id: Uuid,
    pub timestamp: Timestamp,
    #[serde(serialize_with = "text")]
    pub session_id: SessionId,
    /// A required field: without an account it is the zero UUID.
    #[serde(serialize_with = "account_or_zero")]
    pub account_id: Option<&'a Account>,
    pub roles: &'a [Box<str>],
    pub authorizations: &'a [Box<str>],
    #[serde(serialize_with = "text")]
    pub peer_guid: Guid,
    pub reconnection_context: ReconnectionContext,
}

/// In `snake_case`, unlike everything around it.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ReconnectionContext {
    #[serde(serialize_with = "text")]
    pub connect_instance_id: Uuid,
}

/// Why a session's connection has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DisconnectReason {
    /// Every end that nobody has forced, the loss of the network among them.
    GracefulDisconnect,
    ServerShutdown,
    SessionInvalidated,
    ForcedDisconnect,
}

/// An internal failure. Other nodes and this one read it back for their administrators
/// ([`super::notices`]).
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(tag = "eventName", rename = "service.error", rename_all = "camelCase")]
pub struct ServiceError<'a> {
    #[serde(serialize_with = "text")]
    pub event_id: Uuid,
    pub timestamp: Timestamp,
    /// Of this instance.
    #[serde(serialize_with = "text")]
    pub service_id: Uuid,
    pub service_name: &'a str,
    pub app_id: &'a str,
    pub operation: &'a str,
    pub error_type: &'a str,
    pub message: &'a str,
    pub severity: Severity,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dependency: Option<&'a str>,
    /// `post:/account/get`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<&'a BTreeMap<&'a str, &'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stack: Option<&'a str>,
    #[serde(serialize_with = "option_text", skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<Uuid>,
    pub cpu_usage: u32,
    pub memory_usage: u32,
}

/// Written as its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Severity {
    Warning,
    Error,
}

/// A client's answer to an RPC, for the topic that the RPC named. It has no event name.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RpcResponse<'a> {
    /// The session that answered.
    #[serde(serialize_with = "text")]
    pub client_id: SessionId,
    pub service_name: &'a str,
    #[serde(serialize_with = "text")]
    pub service_guid: Guid,
    /// As on the wire; services write and read it as a signed number.
    #[serde(serialize_with = "signed")]
    pub message_id: u64,
    /// Written as base64.
    #[serde(serialize_with = "base64")]
    pub payload: &'a [u8],
    pub response_code: u8,
    pub timestamp: Timestamp,
}

/// The JSON of one of the above.
#[must_use]
pub fn to_json(event: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(event).expect("keys are texts, and writing to memory cannot fail")
}

pub(super) fn text<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn option_text<S: Serializer>(
    value: &Option<impl Display>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}

fn account<S: Serializer>(account: &Option<&Account>, serializer: S) -> Result<S::Ok, S::Error> {
    match account {
        Some(account) => {
            serializer.serialize_str(account.text(&mut [0; uuid::fmt::Hyphenated::LENGTH]))
        }
        None => serializer.serialize_none(),
    }
}

fn account_or_zero<S: Serializer>(
    given: &Option<&Account>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    account(&Some(given.unwrap_or(&Account::Uuid(Uuid::nil()))), serializer)
}

fn signed<S: Serializer>(message_id: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_i64(message_id.cast_signed())
}

fn base64<S: Serializer>(payload: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&Base64Display::new(payload, &STANDARD))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The protocol's examples have seven digits of a second; the gateway writes milliseconds.
    const AT: Timestamp = Timestamp(1_772_463_381_123);
    const SESSION: SessionId = SessionId(0x3f25_04e0_4f89_41d3_9a0c_0305_e82c_3301);

    fn uuid(text: &str) -> Uuid {
        text.parse().unwrap()
    }

    fn event_id() -> Uuid {
        uuid("5a1d3c1e-0f5f-4c1e-9a3f-4b0d7f2f6a01")
    }

    fn instance() -> Uuid {
        uuid("c0ffee00-1234-4abc-8def-00112233aabb")
    }

    fn peer() -> Guid {
        "9b2f6a10-77aa-4c1e-8d3b-5e0a4a6f9c21".parse().unwrap()
    }

    fn account_id() -> Account {
        Account::from("7f1e0f1c-6f0e-4b53-9d2e-0a1b2c3d4e5f")
    }

    fn json(event: &impl Serialize) -> String {
        String::from_utf8(to_json(event)).unwrap()
    }

    fn connected<'a>(account: Option<&'a Account>, names: &'a [Box<str>]) -> SessionConnected<'a> {
        SessionConnected {
            event_id: event_id(),
            timestamp: AT,
            session_id: SESSION,
            account_id: account,
            roles: &names[..1],
            authorizations: &names[1..],
            connect_instance_id: instance(),
            peer_guid: peer(),
        }
    }

    #[test]
    fn a_connected_session_reads_as_the_protocols_example() {
        let names = ["user".into(), "my-game:authorized".into()];
        assert_eq!(
            json(&connected(Some(&account_id()), &names)),
            r#"{"eventName":"session.connected","eventId":"5a1d3c1e-0f5f-4c1e-9a3f-4b0d7f2f6a01","timestamp":"2026-03-02T14:56:21.123+00:00","sessionId":"3f2504e0-4f89-41d3-9a0c-0305e82c3301","accountId":"7f1e0f1c-6f0e-4b53-9d2e-0a1b2c3d4e5f","roles":["user"],"authorizations":["my-game:authorized"],"connectInstanceId":"c0ffee00-1234-4abc-8def-00112233aabb","peerGuid":"9b2f6a10-77aa-4c1e-8d3b-5e0a4a6f9c21"}"#
        );
    }

    #[test]
    fn a_session_without_an_account_has_the_zero_account() {
        let written = json(&connected(None, &["user".into()]));
        assert!(
            written.contains(r#""accountId":"00000000-0000-0000-0000-000000000000","roles""#),
            "{written}"
        );
        assert!(written.contains(r#""authorizations":[],"#), "{written}");
    }

    #[test]
    fn a_disconnected_session_reads_as_the_protocols_example() {
        let account = account_id();
        let mut event = SessionDisconnected {
            event_id: event_id(),
            timestamp: AT,
            session_id: SESSION,
            account_id: Some(&account),
            reason: DisconnectReason::GracefulDisconnect,
            reconnectable: true,
        };
        assert_eq!(
            json(&event),
            r#"{"eventName":"session.disconnected","eventId":"5a1d3c1e-0f5f-4c1e-9a3f-4b0d7f2f6a01","timestamp":"2026-03-02T14:56:21.123+00:00","sessionId":"3f2504e0-4f89-41d3-9a0c-0305e82c3301","accountId":"7f1e0f1c-6f0e-4b53-9d2e-0a1b2c3d4e5f","reason":"graceful_disconnect","reconnectable":true}"#
        );
        event.account_id = None;
        assert!(json(&event).contains(r#"e82c3301","reason""#));
    }

    #[test]
    fn reasons_are_written_in_the_protocols_words() {
        for (reason, word) in [
            (DisconnectReason::GracefulDisconnect, "graceful_disconnect"),
            (DisconnectReason::ServerShutdown, "server_shutdown"),
            (DisconnectReason::SessionInvalidated, "session_invalidated"),
            (DisconnectReason::ForcedDisconnect, "forced_disconnect"),
        ] {
            assert_eq!(json(&reason), format!("{word:?}"));
        }
    }

    #[test]
    fn a_reconnected_session_reads_as_the_protocols_example() {
        let event = SessionReconnected {
            event_id: event_id(),
            timestamp: AT,
            session_id: SESSION,
            account_id: Some(&account_id()),
            roles: &["user".into()],
            authorizations: &[],
            peer_guid: peer(),
            reconnection_context: ReconnectionContext { connect_instance_id: instance() },
        };
        assert_eq!(
            json(&event),
            r#"{"eventName":"session.reconnected","eventId":"5a1d3c1e-0f5f-4c1e-9a3f-4b0d7f2f6a01","timestamp":"2026-03-02T14:56:21.123+00:00","sessionId":"3f2504e0-4f89-41d3-9a0c-0305e82c3301","accountId":"7f1e0f1c-6f0e-4b53-9d2e-0a1b2c3d4e5f","roles":["user"],"authorizations":[],"peerGuid":"9b2f6a10-77aa-4c1e-8d3b-5e0a4a6f9c21","reconnectionContext":{"connect_instance_id":"c0ffee00-1234-4abc-8def-00112233aabb"}}"#
        );
    }

    fn error<'a>() -> ServiceError<'a> {
        ServiceError {
            event_id: event_id(),
            timestamp: AT,
            service_id: instance(),
            service_name: "connect",
            app_id: "bannou",
            operation: "RouteToService",
            error_type: "transport_error",
            message: "connection refused",
            severity: Severity::Error,
            dependency: None,
            endpoint: None,
            details: None,
            stack: None,
            correlation_id: None,
            cpu_usage: 0,
            memory_usage: 0,
        }
    }

    #[test]
    fn an_error_reads_as_the_protocols_example() {
        let details = BTreeMap::from([("Method", "POST")]);
        let event = ServiceError {
            dependency: Some("account"),
            endpoint: Some("post:/x"),
            details: Some(&details),
            stack: Some("at A.B()"),
            correlation_id: Some(uuid("0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d")),
            ..error()
        };
        assert_eq!(
            json(&event),
            r#"{"eventName":"service.error","eventId":"5a1d3c1e-0f5f-4c1e-9a3f-4b0d7f2f6a01","timestamp":"2026-03-02T14:56:21.123+00:00","serviceId":"c0ffee00-1234-4abc-8def-00112233aabb","serviceName":"connect","appId":"bannou","operation":"RouteToService","errorType":"transport_error","message":"connection refused","severity":"Error","dependency":"account","endpoint":"post:/x","details":{"Method":"POST"},"stack":"at A.B()","correlationId":"0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d","cpuUsage":0,"memoryUsage":0}"#
        );
    }

    #[test]
    fn what_an_error_does_not_have_is_left_out() {
        let written = json(&error());
        assert!(written.ends_with(r#""severity":"Error","cpuUsage":0,"memoryUsage":0}"#));
        assert!(!written.contains("null"), "{written}");
    }

    #[test]
    fn an_rpcs_answer_reads_as_the_protocols_example() {
        let mut response = RpcResponse {
            client_id: SESSION,
            service_name: "game-session",
            service_guid: "cab54425-5941-5c52-bfb2-221b0cea4f17".parse().unwrap(),
            message_id: 81_985_529_216_486_902,
            payload: br#"{"answer":2}"#,
            response_code: 0,
            timestamp: Timestamp(1_772_463_382_000),
        };
        assert_eq!(
            json(&response),
            r#"{"clientId":"3f2504e0-4f89-41d3-9a0c-0305e82c3301","serviceName":"game-session","serviceGuid":"cab54425-5941-5c52-bfb2-221b0cea4f17","messageId":81985529216486902,"payload":"eyJhbnN3ZXIiOjJ9","responseCode":0,"timestamp":"2026-03-02T14:56:22.000+00:00"}"#
        );
        response.message_id = u64::MAX;
        response.payload = b"";
        assert!(json(&response).contains(r#""messageId":-1,"payload":"","responseCode""#));
    }
}
