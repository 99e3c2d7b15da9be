//! What a shard and the control core say to each other; neither knows the other's code.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use super::crossing::Acknowledge;
use crate::id::{ConnectionKey, EndpointId, Epoch, Place, ServiceId, SessionId, ShardId};
use crate::identity::{AuthRefusal, Identity, Validated};
use crate::session::shortcuts::Shortcut;
use crate::snapshot::{Address, Snapshot};
use crate::wire::code::ResponseCode;
use crate::wire::guid::Guid;
use crate::wire::header::{Priority, ReplyTo};
use crate::wire::meta::MetaKind;
use crate::wire::reconnect_token::Seal;

/// From a shard to the control core. Every message names the shard's own lane implicitly.
#[derive(Debug)]
pub enum ToControl {
    /// Somebody with a good credential wants a session for the connection `key`. Answered
    /// [`ToShard::Granted`] or [`ToShard::Refused`]; the shard reserves the answer's place before
    /// it asks.
    Claim {
        key: ConnectionKey,
        claim: Box<Claim>,
    },
    /// The session of this claim can receive: whatever waits for it may come.
    Opened {
        key: ConnectionKey,
        session: SessionId,
        epoch: Epoch,
    },
    /// The auth service is to judge a token. Answered [`ToShard::Validated`], whose place is reserved
    /// like that of a claim's answer.
    Validate {
        key: ConnectionKey,
        token: Box<str>,
    },
    /// The connection of this claim has ended. Ignored unless `epoch` still owns the session.
    Release {
        key: ConnectionKey,
        session: SessionId,
        epoch: Epoch,
        end: End,
    },
    /// The client has everything up to and including this place of what waited for it.
    Received {
        session: SessionId,
        epoch: Epoch,
        place: Place,
    },
    /// The client has the reconnect token of this claim: the one before it is void.
    TokenReceived {
        session: SessionId,
        epoch: Epoch,
    },
    /// The client's answer to an RPC of the control core, or that there will be none.
    RpcEnded(Box<RpcEnded>),
    /// The answer to [`ToShard::Describe`].
    Described {
        ticket: u64,
        session: Option<Box<SessionDescription>>,
    },
    /// One line of the operators' log, already rate-limited by the shard.
    SessionEnded(Box<SessionEnded>),
    UpgradeRefused(Box<UpgradeRefused>),
    /// A traced call has ended. Takes at most half of the lane, so that claims find room.
    Span(Box<Span>),
    /// A message for a session of another node. Takes at most a quarter of the lane, together
    /// with the next.
    Abroad(Box<Abroad>),
    /// A message, its 31-byte header included, for all sessions of all other nodes.
    BroadcastAbroad {
        message: Box<[u8]>,
        priority: Priority,
    },
    /// A [`ToShard::FromAbroad`] comes back, once: it was queued for its target, or refused.
    Arrived {
        letter: Box<FromAbroad>,
        delivered: bool,
    },
    /// This shard has reached `phase` of the drain: its sockets and calls are gone when `Done`.
    DrainReached {
        phase: DrainPhase,
        connections: u32,
    },
}

impl ToControl {
    /// Nobody waits for it.
    pub(super) fn is_news(&self) -> bool {
        match self {
            Self::Opened { .. }
            | Self::Release { .. }
            | Self::Received { .. }
            | Self::TokenReceived { .. }
            | Self::RpcEnded(_)
            | Self::SessionEnded(_)
            | Self::UpgradeRefused(_)
            | Self::Span(_) => true,
            Self::Claim { .. }
            | Self::Validate { .. }
            | Self::Described { .. }
            | Self::Abroad(_)
            | Self::BroadcastAbroad { .. }
            | Self::Arrived { .. }
            | Self::DrainReached { .. } => false,
        }
    }
}

/// A client's message to a session of another node. Its GUID was found to be genuine.
#[derive(Debug)]
pub struct Abroad {
    /// Answers go there.
    pub from: ConnectionKey,
    pub node: u16,
    /// With its 31-byte header.
    pub message: Box<[u8]>,
    pub priority: Priority,
    pub acknowledge: Acknowledge,
}

/// A message of another node's session.
#[derive(Debug)]
pub struct FromAbroad {
    pub target: ConnectionKey,
    /// With its 31-byte header.
    pub message: Box<[u8]>,
    pub priority: Priority,
    pub back: WayBack,
}

/// Where the answer to a [`FromAbroad`] goes; the control core's own business.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WayBack {
    pub link: u64,
    pub number: u32,
    pub sender: u64,
}

/// What became of an [`Abroad`] that is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnswerFromAbroad {
    pub to: ConnectionKey,
    pub reply: ReplyTo,
    /// Of the target, as the message named it.
    pub guid: [u8; 16],
    pub delivered: bool,
}

/// Who wants which session.
#[derive(Debug)]
pub struct Claim {
    pub credential: Credential,
    pub peer: Option<IpAddr>,
}

impl Claim {
    #[must_use]
    pub fn session(&self) -> SessionId {
        match &self.credential {
            Credential::Token(identity) => identity.session,
            Credential::Reconnect { session, .. } => *session,
        }
    }
}

#[derive(Debug)]
pub enum Credential {
    /// A verified token says who it is, of which session.
    Token(Arc<Identity>),
    /// A reconnect token: the session's record says who it is, if the seal is of its claim.
    Reconnect { session: SessionId, seal: Seal },
}

/// Whether a session may be taken up again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Resumable,
    Final,
}

/// How an RPC of the control core ended.
#[derive(Debug)]
pub struct RpcEnded {
    pub session: SessionId,
    pub message_id: u64,
    pub outcome: RpcOutcome,
}

#[derive(Debug)]
pub enum RpcOutcome {
    Answered {
        code: u8,
        payload: Box<[u8]>,
    },
    /// It could not be sent: too many wait for this client, or it does not read.
    Unsent,
}

/// What a shard knows of one session, for operators and backends.
#[derive(Debug, Clone)]
pub struct SessionDescription {
    pub endpoints: Box<[EndpointId]>,
    pub shortcuts: Box<[Shortcut]>,
    pub peer: Option<SocketAddr>,
    pub peer_guid: Guid,
    pub open_ms: u64,
    pub messages_in: u64,
    pub messages_out: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

/// From the control core to one shard. [`Self::Granted`] and [`Self::Refused`] answer a claim,
/// [`Self::Validated`] answers a validation; they travel apart from the rest, on a ring where the
/// question has reserved their place.
#[derive(Debug)]
pub enum ToShard {
    Granted {
        key: ConnectionKey,
        session: SessionId,
        epoch: Epoch,
        resumed: Resumed,
    },
    Refused {
        key: ConnectionKey,
        why: ClaimRefusal,
    },
    /// What the auth service said of the token of `key`.
    Validated {
        key: ConnectionKey,
        told: Result<Box<Validated>, AuthRefusal>,
    },
    /// Close the connection `key` in whatever state if its epoch is at most `epoch` (4002).
    Evict {
        key: ConnectionKey,
        epoch: Epoch,
    },
    /// Close the session of this claim for good (4001).
    EndSession {
        key: ConnectionKey,
        epoch: Epoch,
        reason: Box<str>,
    },
    /// Close the session of this claim: this process is no longer the node that it was (4005).
    Disown {
        key: ConnectionKey,
        epoch: Epoch,
    },
    /// Something for the session of this claim. Dropped if it has gone.
    Deliver(Delivery),
    /// Asks for [`ToControl::Described`].
    Describe {
        key: ConnectionKey,
        ticket: u64,
    },
    /// A new configuration; replaces the old one as a whole. What the old one knew keeps its
    /// indices.
    Snapshot(Arc<Snapshot>),
    /// The configuration with endpoints added at the end; nobody's manifest changes by that.
    MoreEndpoints(Arc<Snapshot>),
    /// Where a service's backends are now; replaces the service's earlier list.
    Addresses {
        version: u64,
        service: ServiceId,
        addresses: Arc<[Address]>,
    },
    Drain(DrainPhase),
    /// For one session; comes back as [`ToControl::Arrived`].
    FromAbroad(Box<FromAbroad>),
    /// A whole server frame for all sessions of the shard, from one of another node.
    BroadcastFromAbroad {
        frame: Arc<[u8]>,
        priority: Priority,
    },
    AbroadAnswered(Box<AnswerFromAbroad>),
}

/// What a granted claim takes up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resumed {
    /// A session that was not there.
    Nothing,
    /// A session that was: its earlier reconnect token is good until the client has the new one.
    /// Says who the player is if the credential did not.
    Session(Option<Arc<Identity>>),
}

/// Something for one session, in the order in which it is to come.
#[derive(Debug)]
pub struct Delivery {
    pub key: ConnectionKey,
    pub epoch: Epoch,
    /// Of what is kept until the client has it; `None` comes once or never.
    pub place: Option<Place>,
    pub content: Content,
}

#[derive(Debug)]
pub enum Content {
    /// The JSON of an event; the shard makes the frame.
    Event(Arc<[u8]>),
    /// A whole message with its 31-byte header.
    Message(Box<[u8]>),
    Rpc(Box<Rpc>),
    Capabilities(Box<Granting>),
    Publish(Box<Shortcut>),
    RevokeRoute(Guid),
    /// All shortcuts of this source service.
    RevokeService(Box<str>),
}

/// A message that is to be answered; the answer comes back as [`ToControl::RpcEnded`].
#[derive(Debug)]
pub struct Rpc {
    /// With its 31-byte header.
    pub message: Box<[u8]>,
    pub timeout: Duration,
}

/// Replaces what the session may call.
#[derive(Debug)]
pub struct Granting {
    pub endpoints: Arc<[EndpointId]>,
    /// For the manifest.
    pub reason: Box<str>,
}

const _: () = assert!(size_of::<ToShard>() <= 64, "what a place on the lane pays for a message");

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimRefusal {
    /// `MaxConcurrentConnections` reached: 503.
    Full,
    /// The process is draining: 503.
    Draining,
    /// The store cannot be asked: 503.
    Unavailable,
    /// As many sessions of this address or account as there may be: 429.
    TooMany,
    /// The reconnect token is of no claim that can be taken up: 401.
    Unknown,
    /// The session was ended for good after the token was made: 401.
    Revoked,
    /// The session's record names another account or tenant: 401.
    Mismatch,
}

/// Phases of a shutdown, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DrainPhase {
    /// Still accepting; readiness says 503.
    Grace,
    /// No new connections; sessions are closed at jittered moments within `drain.spread`.
    Closing,
    /// Whatever is left is cut.
    Cutting,
    Done,
}

/// Why and how a session ended; one log line.
#[derive(Debug, Clone)]
pub struct SessionEnded {
    pub session: SessionId,
    pub peer: Option<SocketAddr>,
    pub close_code: u16,
    pub cause: &'static str,
    pub duration_ms: u64,
    pub messages_in: u64,
    pub messages_out: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

/// One refused upgrade; one log line.
#[derive(Debug, Clone)]
pub struct UpgradeRefused {
    pub shard: ShardId,
    pub peer: Option<SocketAddr>,
    pub status: u16,
    pub reason: &'static str,
}

/// One traced call, from the moment when it was handed to its backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    pub trace: u128,
    pub span: u64,
    /// The client's own span, where the trace is the client's.
    pub parent: Option<NonZeroU64>,
    pub endpoint: EndpointId,
    /// `None` for a call.
    pub meta: Option<MetaKind>,
    pub began_unix_ns: u64,
    pub ended_unix_ns: u64,
    /// `None` when the client left before there was an answer.
    pub code: Option<ResponseCode>,
}
