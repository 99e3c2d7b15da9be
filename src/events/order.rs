//! What an event means for its session.

use std::borrow::Cow;

use corelane_shard::snapshot::Method;
use corelane_shard::wire::guid::Guid;
use thiserror::Error;

use super::Timestamp;

/// What has to happen to the session that an event was published for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionOrder<'a> {
    /// Send this JSON to the client as an event. Borrowed, byte for byte what was published,
    /// unless the event's name had to be respelled.
    Forward {
        body: Cow<'a, [u8]>,
    },
    /// Replace everything that the session may call, then send a manifest.
    Capabilities(Capabilities),
    /// Boxed: it is rare and four times the size of the others.
    PublishShortcut(Box<PublishedShortcut>),
    RevokeShortcut(Revocation),
}

/// All that a session may call from now on; shortcuts stay as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// Services in order of their names, each once.
    pub permissions: Vec<(Box<str>, Vec<Grant>)>,
    /// For the manifest, at most [`Self::REASON_BYTES_MAX`] long.
    pub reason: Option<Box<str>>,
}

impl Capabilities {
    /// What the manifest says when the event gives no reason.
    pub const REASON_DEFAULT: &'static str = "capabilities_updated";
    pub const REASON_BYTES_MAX: usize = 64;
}

/// One endpoint of a service as it was granted: `/path` for a POST, or `METHOD:/path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant(pub(super) Box<str>);

impl Grant {
    /// As it was written; behind `{service}:` it is the endpoint's key.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A word before the colon that is no method is part of the path.
    #[must_use]
    pub fn route(&self) -> (Method, &str) {
        let split = self.0.split_once(':');
        let named = split.and_then(|(word, path)| Some((method(word)?, path)));
        named.unwrap_or((Method::Post, &self.0))
    }
}

/// A method's name in any case.
pub(super) fn method(word: &str) -> Option<Method> {
    let methods = [Method::Get, Method::Post, Method::Put, Method::Delete, Method::Patch];
    methods.into_iter().find(|method| method.as_str().eq_ignore_ascii_case(word))
}

/// What a shortcut calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShortcutTarget {
    pub service: Box<str>,
    pub method: Method,
    pub path: Box<str>,
}

/// A shortcut that a service has made for one session. Publishing a route again replaces it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedShortcut {
    /// What the client puts into its header.
    pub route: Guid,
    /// Takes the route's place in the call.
    pub target_guid: Guid,
    pub target: ShortcutTarget,
    /// Takes the client's payload's place.
    pub payload: Box<[u8]>,
    pub expires: Option<Timestamp>,
    /// The manifest shows the route's text when there is none.
    pub name: Option<Box<str>>,
    /// The manifest shows `Shortcut to {name}` when there is none.
    pub description: Option<Box<str>>,
    /// Whom [`Revocation::ByService`] compares with.
    pub source_service: Option<Box<str>>,
}

impl PublishedShortcut {
    /// Bytes of each text: they stay in memory as long as the session.
    pub const TEXT_BYTES_MAX: usize = 1024;
}

/// Which shortcuts of the session end. A manifest follows only if there were any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Revocation {
    ByRoute(Guid),
    /// All whose source this service is.
    ByService(Box<str>),
}

/// Why a record became no order. It is acknowledged and counted all the same.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Unusable {
    #[error("the record is not a JSON object in UTF-8")]
    NotJson,
    #[error("the event has no eventName that is a text")]
    NoEventName,
    /// With the name, cut to [`Self::NAME_BYTES_MAX`].
    #[error("clients get no events named {0:?}; events.client_event_names can allow it")]
    NotWhitelisted(Box<str>),
    #[error("the capabilities event has no permissions")]
    NoPermissions,
    #[error("the permissions are not lists of paths by service")]
    BadCapabilities,
    #[error("the shortcut is unusable: {0}")]
    BadShortcut(ShortcutFault),
    /// The publisher is told with a `service.error`.
    #[error("the shortcut has no {0}")]
    NoShortcutTarget(TargetField),
    #[error("the revocation names neither a route GUID nor a service")]
    BadRevocation,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ShortcutFault {
    #[error("it is not an object with the fields of a shortcut")]
    Form,
    #[error("routeGuid is no GUID")]
    RouteGuid,
    #[error("targetGuid is no GUID")]
    TargetGuid,
    #[error("targetMethod is not GET, POST, PUT, DELETE or PATCH")]
    Method,
    #[error("targetEndpoint is not a path of printable ASCII that starts with \"/\"")]
    Endpoint,
    #[error("expiresAt is no ISO 8601 time")]
    Expiry,
    #[error("a text of it or its bound payload is too long")]
    TooLong,
}

/// A field without which a shortcut leads nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TargetField {
    #[error("targetService")]
    Service,
    #[error("targetMethod")]
    Method,
    #[error("targetEndpoint")]
    Endpoint,
}

impl Unusable {
    pub const NAME_BYTES_MAX: usize = 128;

    /// Every metric label.
    pub const LABELS: [&'static str; 8] = [
        "not_json",
        "no_event_name",
        "not_whitelisted",
        "no_permissions",
        "bad_capabilities",
        "bad_shortcut",
        "no_shortcut_target",
        "bad_revocation",
    ];

    /// Place of [`Self::label`] in [`Self::LABELS`].
    #[must_use]
    pub fn index(&self) -> usize {
        match self {
            Self::NotJson => 0,
            Self::NoEventName => 1,
            Self::NotWhitelisted(_) => 2,
            Self::NoPermissions => 3,
            Self::BadCapabilities => 4,
            Self::BadShortcut(_) => 5,
            Self::NoShortcutTarget(_) => 6,
            Self::BadRevocation => 7,
        }
    }

    /// Metric label.
    #[must_use]
    pub fn label(&self) -> &'static str {
        Self::LABELS[self.index()]
    }
}
