//! Notices of other services that concern the whole node. They are few, so they are read plainly.
//! Field names may have a capital first letter; what else stands in a notice is ignored.

use std::collections::BTreeMap;
use std::fmt;

use corelane_shard::id::SessionId;
use corelane_shard::wire::guid::{self, Guid};
use corelane_shard::wire::header::{Flags, RequestHeader};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::names;
use super::outbound::to_json;
use super::text::Text;

/// Why a notice says nothing. It is dropped and counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NoticeFault {
    #[error("the notice is not a JSON object with the fields of its kind")]
    Form,
    #[error("the event is not the one that belongs to its topic")]
    OtherEvent,
    #[error("none of the notice's session ids is a UUID")]
    NoSession,
}

impl NoticeFault {
    /// Metric label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Form => "bad_notice",
            Self::OtherEvent => "other_event",
            Self::NoSession => "no_session",
        }
    }
}

/// Sessions are over (topic `session.invalidated`): what is stored of them goes in any case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionInvalidated {
    pub sessions: Vec<SessionId>,
    /// Ids in the notice that are no UUIDs: nothing can be done about them but count them.
    pub unreadable: usize,
    pub reason: InvalidationReason,
    /// Whether their connections are to be closed, too.
    pub disconnect_clients: bool,
}

/// Behind `Session invalidated: ` in the close frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidationReason {
    Logout,
    AccountDeleted,
    SecurityRevocation,
    AdminAction,
    SessionExpired,
    /// None, or one that this version does not know: a session is ended all the same.
    Other,
}

impl InvalidationReason {
    pub const ALL: [Self; 6] = [
        Self::Logout,
        Self::AccountDeleted,
        Self::SecurityRevocation,
        Self::AdminAction,
        Self::SessionExpired,
        Self::Other,
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Logout => "Logout",
            Self::AccountDeleted => "AccountDeleted",
            Self::SecurityRevocation => "SecurityRevocation",
            Self::AdminAction => "AdminAction",
            Self::SessionExpired => "SessionExpired",
            Self::Other => "Other",
        }
    }
}

impl fmt::Display for InvalidationReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl SessionInvalidated {
    pub fn read(notice: &[u8]) -> Result<Self, NoticeFault> {
        let written: WrittenInvalidation<'_> = read(notice, "session.invalidated")?;
        let ids = written.session_ids.iter().map(|Text(id)| id.parse::<SessionId>());
        let sessions: Vec<_> = ids.filter_map(Result::ok).collect();
        let unreadable = written.session_ids.len() - sessions.len();
        if sessions.is_empty() && unreadable > 0 {
            return Err(NoticeFault::NoSession);
        }
        let named = written.reason.as_ref().map_or("", |Text(reason)| reason);
        let mut known = InvalidationReason::ALL.into_iter();
        let reason = known.find(|reason| reason.as_str().eq_ignore_ascii_case(named));
        Ok(Self {
            sessions,
            unreadable,
            reason: reason.unwrap_or(InvalidationReason::Other),
            disconnect_clients: written.disconnect_clients.unwrap_or(true),
        })
    }
}

/// Which application serves which service (topic `bannou.full-service-mappings`). Of two, the one
/// with the greater version counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FullServiceMappings {
    pub version: u64,
    /// App ids by service.
    pub mappings: BTreeMap<Box<str>, Box<str>>,
    /// Of services that are not among them.
    pub default_app_id: Option<Box<str>>,
}

impl FullServiceMappings {
    pub fn read(notice: &[u8]) -> Result<Self, NoticeFault> {
        let written: WrittenMappings<'_> = read(notice, "orchestrator.full_service_mappings")?;
        Ok(Self {
            version: written.version,
            mappings: written.mappings,
            default_app_id: written.default_app_id.map(|Text(id)| id.into()),
        })
    }
}

/// Makes the messages that tell administrators about errors of services (topic `service.error`).
#[derive(Debug, Clone, Copy)]
pub struct AdminNotices {
    guid: Guid,
}

impl AdminNotices {
    /// Sessions with this role, in any case, get the notices.
    pub const ROLE: &'static str = "admin";

    #[must_use]
    pub fn new(server_salt: &str) -> Self {
        Self { guid: guid::admin_notice(server_salt) }
    }

    /// Whether a session with these roles gets the notices.
    #[must_use]
    pub fn reach(roles: &[impl AsRef<str>]) -> bool {
        roles.iter().any(|role| role.as_ref().eq_ignore_ascii_case(Self::ROLE))
    }

    /// Unlike other events it has a GUID of its own, and bare milliseconds as its message id.
    #[must_use]
    pub fn header(&self, unix_ms: u64) -> RequestHeader {
        RequestHeader {
            flags: Flags::EVENT,
            channel: 0,
            sequence: 0,
            guid: self.guid,
            message_id: unix_ms,
        }
    }

    /// The notice's JSON, made of the published error.
    pub fn body(error: &[u8]) -> Result<Vec<u8>, NoticeFault> {
        let mut error: WrittenError<'_> = read(error, "service.error")?;
        if let Some(Text(severity)) = &mut error.severity {
            severity.to_mut().make_ascii_lowercase();
        }
        Ok(to_json(&WrittenNotice { event_name: "service_error", error }))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenInvalidation<'a> {
    #[serde(borrow, alias = "SessionIds")]
    session_ids: Vec<Text<'a>>,
    #[serde(borrow, alias = "Reason")]
    reason: Option<Text<'a>>,
    #[serde(alias = "DisconnectClients")]
    disconnect_clients: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenMappings<'a> {
    #[serde(alias = "Version")]
    version: u64,
    #[serde(alias = "Mappings")]
    mappings: BTreeMap<Box<str>, Box<str>>,
    #[serde(borrow, alias = "DefaultAppId")]
    default_app_id: Option<Text<'a>>,
}

/// What administrators see of an error, in this order.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct WrittenError<'a> {
    #[serde(borrow, alias = "EventId", skip_serializing_if = "Option::is_none")]
    event_id: Option<Text<'a>>,
    #[serde(borrow, alias = "Timestamp", skip_serializing_if = "Option::is_none")]
    timestamp: Option<Text<'a>>,
    #[serde(borrow, alias = "ServiceId", skip_serializing_if = "Option::is_none")]
    service_id: Option<Text<'a>>,
    #[serde(borrow, alias = "AppId", skip_serializing_if = "Option::is_none")]
    app_id: Option<Text<'a>>,
    #[serde(borrow, alias = "Operation", skip_serializing_if = "Option::is_none")]
    operation: Option<Text<'a>>,
    #[serde(borrow, alias = "ErrorType", skip_serializing_if = "Option::is_none")]
    error_type: Option<Text<'a>>,
    #[serde(borrow, alias = "Message", skip_serializing_if = "Option::is_none")]
    message: Option<Text<'a>>,
    #[serde(borrow, alias = "Severity", skip_serializing_if = "Option::is_none")]
    severity: Option<Text<'a>>,
    #[serde(borrow, alias = "Dependency", skip_serializing_if = "Option::is_none")]
    dependency: Option<Text<'a>>,
    #[serde(borrow, alias = "Endpoint", skip_serializing_if = "Option::is_none")]
    endpoint: Option<Text<'a>>,
    #[serde(borrow, alias = "CorrelationId", skip_serializing_if = "Option::is_none")]
    correlation_id: Option<Text<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WrittenNotice<'a> {
    event_name: &'static str,
    #[serde(flatten)]
    error: WrittenError<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Named<'a> {
    #[serde(borrow, alias = "EventName")]
    event_name: Option<Text<'a>>,
}

/// The notice of a topic whose events are all named `event`; one without a name passes.
fn read<'a, T: Deserialize<'a>>(notice: &'a [u8], event: &str) -> Result<T, NoticeFault> {
    // An array would pass for an object whose fields stand in order.
    if notice.trim_ascii_start().first() != Some(&b'{') {
        return Err(NoticeFault::Form);
    }
    let Named { event_name } = serde_json::from_slice(notice).map_err(|_| NoticeFault::Form)?;
    if event_name.is_some_and(|Text(name)| !names::same(&name, event)) {
        return Err(NoticeFault::OtherEvent);
    }
    serde_json::from_slice(notice).map_err(|_| NoticeFault::Form)
}

#[cfg(test)]
mod tests;
