//! The configuration as a shard sees it: one immutable value, swapped whole.
//!
//! Built by the gateway from `corelane.toml`, shared by all shards behind an `Arc`. A newer version
//! only ever appends to the services and endpoints of an older one, so that indices
//! ([`EndpointId`], [`ServiceId`]) keep their meaning for the life of the process.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::compression::CompressionRules;
use crate::id::{EndpointId, ServiceId};
use crate::network::Networks;

/// Who the clients are, and what they may do with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionMode {
    /// Players; none may broadcast.
    External,
    /// Players who may broadcast and are told their peer GUIDs.
    Relayed,
    /// Servers, which reach each other and nothing else.
    Internal,
}

/// Where a session's capabilities come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CapabilitySource {
    /// The roles of its token, as configured, until a capabilities event replaces them.
    Roles,
    /// Capabilities events alone: before the first there is no manifest.
    Events,
}

/// How an event name with two words is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spelling {
    Hyphen,
    /// What clients before the hyphens read.
    Underscore,
}

/// In which spellings the gateway writes its own events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameDialect {
    Hyphen,
    Underscore,
    /// Each event twice; clients pass over names that they do not know.
    Both,
}

impl NameDialect {
    #[must_use]
    pub const fn spellings(self) -> &'static [Spelling] {
        match self {
            Self::Hyphen => &[Spelling::Hyphen],
            Self::Underscore => &[Spelling::Underscore],
            Self::Both => &[Spelling::Hyphen, Spelling::Underscore],
        }
    }
}

/// What a client is told so that it can take its session up again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResumeRules {
    /// How long after its end a session can be taken up.
    pub window: Duration,
    /// Send the token right after the manifest.
    pub early_token: bool,
    /// Before a close, as an event.
    pub notice_event: bool,
    /// Before a close, as a text frame.
    pub notice_text: bool,
}

impl Default for ResumeRules {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(300),
            early_token: true,
            notice_event: true,
            notice_text: true,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    Get,
    Post,
    Put,
    Delete,
    Patch,
}

impl Method {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Patch => "PATCH",
        }
    }
}

/// One callable path of one service. Its key in GUID preimages is `{service}:{path}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub service: ServiceId,
    pub method: Method,
    pub path: Box<str>,
    /// May be sent again when a reused connection ended before any response byte.
    pub idempotent: bool,
}

impl Endpoint {
    /// Templated paths stay out of the manifest but are routable.
    #[must_use]
    pub fn is_templated(&self) -> bool {
        self.path.contains('{')
    }
}

/// Where a backend listens, resolved.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpstreamKind {
    Http,
    /// Long-lived multiplexed connections; `path` is dialled at the backend.
    Link {
        path: Box<str>,
        token: Option<Box<str>>,
    },
}

/// One backend service and every bound that protects the gateway from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    pub name: Box<str>,
    pub kind: UpstreamKind,
    /// `Host` header value: the authority as configured.
    pub host: Box<str>,
    /// Deadline of one call, retries included.
    pub call_timeout: Duration,
    pub connect_timeout: Duration,
    /// Calls in flight per shard.
    pub running_max: usize,
    /// Connections per shard, all addresses together (HTTP), or links per address.
    pub connections_max: usize,
    /// Idle time after which a pooled HTTP connection is closed.
    pub pool_idle: Duration,
    pub response_head_bytes_max: usize,
    pub response_body_bytes_max: usize,
    pub breaker: BreakerLimits,
}

/// When the circuit breaker opens, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakerLimits {
    /// Consecutive failures that open it; 0 switches it off.
    pub failures: u32,
    pub open_for: Duration,
}

/// A role's endpoints, by index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    pub name: Box<str>,
    pub endpoints: Box<[EndpointId]>,
}

/// Rules and limits of one session; what happens beyond each is in docs/PROTOCOL.md.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionLimits {
    /// Longest accepted message, 31-byte header included (`BufferSize`).
    pub message_bytes_max: usize,
    /// Longest message that is answered 11 and discarded; beyond it the connection is closed 1009.
    pub message_bytes_hard: usize,
    pub fragments_max: u32,
    pub control_frames_per_second: u32,
    /// 0 switches the message rate limit off.
    pub messages_per_window: u32,
    pub rate_window: Duration,
    pub channel_max: u16,
    pub peer_routing: bool,
    pub outbox_messages_max: usize,
    pub outbox_bytes_max: usize,
    /// How long a half-sent message may wait for the client before its connection is dropped.
    pub write_stall: Duration,
    pub calls_running_max: usize,
    pub calls_waiting_max: usize,
    pub calls_waiting_bytes_max: usize,
    pub answers_held_max: usize,
    pub answers_held_bytes_max: usize,
    pub ping_interval: Duration,
    pub pong_timeout: Duration,
    pub idle_timeout: Duration,
    /// Delay between the 101 and the first frame.
    pub first_frame_delay: Duration,
    pub close_timeout: Duration,
    /// A session ends with the token that opened it.
    pub close_on_expiry: bool,
    /// Roles whose 0x08 flag is honoured on inbound messages.
    pub priority_roles: Box<[Box<str>]>,
    /// Close frames carry [`crate::wire::close::CloseCode::as_upstream`].
    pub upstream_close_codes: bool,
    pub capabilities: CapabilitySource,
    pub dialect: NameDialect,
    pub resume: ResumeRules,
    pub compression: CompressionRules,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self {
            message_bytes_max: 65_536,
            message_bytes_hard: 1 << 20,
            fragments_max: 64,
            control_frames_per_second: 20,
            messages_per_window: 1000,
            rate_window: Duration::from_secs(60),
            channel_max: 1000,
            peer_routing: true,
            outbox_messages_max: 1024,
            outbox_bytes_max: 1 << 20,
            write_stall: Duration::from_secs(10),
            calls_running_max: 32,
            calls_waiting_max: 256,
            calls_waiting_bytes_max: 256 << 10,
            answers_held_max: 32,
            answers_held_bytes_max: 256 << 10,
            ping_interval: Duration::from_secs(25),
            pong_timeout: Duration::from_secs(20),
            idle_timeout: Duration::from_secs(1800),
            first_frame_delay: Duration::from_millis(20),
            close_timeout: Duration::from_secs(5),
            close_on_expiry: false,
            priority_roles: Box::default(),
            upstream_close_codes: false,
            capabilities: CapabilitySource::Roles,
            dialect: NameDialect::Hyphen,
            resume: ResumeRules::default(),
            compression: CompressionRules::default(),
        }
    }
}

/// What of a call is told beyond client and backend: to which trace it belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tracing {
    /// Calls of a million that are traced; 0 switches tracing off, whatever clients bring.
    pub sampled_per_million: u32,
    /// A collector wants the spans of traced calls.
    pub export: bool,
    /// A session whose upgrade brought a sampled `traceparent` has all its calls in that trace.
    pub accept_from_clients: bool,
    /// HTTP backends are sent an `X-Correlation-Id`, traced or not.
    pub correlation_id: bool,
}

impl Tracing {
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.sampled_per_million == 0
    }
}

/// Bounds of what has no session yet, and what is shed when memory runs short. Of one shard each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DoorLimits {
    /// Who may not connect.
    pub deny: Arc<Networks>,
    /// Clients whose request is being read or judged.
    pub unauthenticated_max: usize,
    /// Of these, from one address.
    pub unauthenticated_per_address: Option<u32>,
    /// Sessions are counted by address: a claim has to say where its client is.
    pub counts_sessions_by_address: bool,
    /// New connections a second.
    pub handshakes_per_second: Option<u32>,
    /// Share of the block pool from which new connections are refused.
    pub shed_connections_per_million: u32,
    /// Share of the block pool from which new calls are refused.
    pub shed_calls_per_million: u32,
}

impl DoorLimits {
    /// Whether it makes a difference where a client is.
    #[must_use]
    pub fn judges_addresses(&self) -> bool {
        !self.deny.is_empty()
            || self.unauthenticated_per_address.is_some()
            || self.counts_sessions_by_address
    }
}

impl Default for DoorLimits {
    fn default() -> Self {
        Self {
            deny: Arc::default(),
            unauthenticated_max: 8192,
            unauthenticated_per_address: None,
            counts_sessions_by_address: false,
            handshakes_per_second: None,
            shed_connections_per_million: 800_000,
            shed_calls_per_million: 900_000,
        }
    }
}

/// One version of everything a shard reads and does not own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    pub version: u64,
    pub mode: ConnectionMode,
    pub salt: Box<str>,
    /// This node's number in peer GUIDs, 12 bits.
    pub node: u16,
    pub services: Box<[Service]>,
    pub endpoints: Box<[Endpoint]>,
    pub roles: Box<[Role]>,
    pub session: SessionLimits,
    pub door: DoorLimits,
    pub tracing: Tracing,
}
