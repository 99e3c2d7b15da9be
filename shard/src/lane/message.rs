//! What a shard and the control core say to each other; neither knows the other's code.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::id::{ConnectionKey, Epoch, ServiceId, SessionId, ShardId};
use crate::identity::{AuthRefusal, Validated};
use crate::snapshot::{Address, Snapshot};

/// From a shard to the control core. Every message names the shard's own lane implicitly.
#[derive(Debug)]
pub enum ToControl {
    /// A verified token wants `session` for the connection `key`. Answered [`ToShard::Granted`] or
    /// [`ToShard::Refused`]; the shard reserves the answer's place before it asks.
    Claim {
        key: ConnectionKey,
        session: SessionId,
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
    },
    /// One line of the operators' log, already rate-limited by the shard.
    SessionEnded(Box<SessionEnded>),
    UpgradeRefused(Box<UpgradeRefused>),
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
            Self::Release { .. } | Self::SessionEnded(_) | Self::UpgradeRefused(_) => true,
            Self::Claim { .. } | Self::Validate { .. } | Self::DrainReached { .. } => false,
        }
    }
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
    /// A new configuration; replaces the old one as a whole. What the old one knew keeps its
    /// indices.
    Snapshot(Arc<Snapshot>),
    /// Where a service's backends are now; replaces the service's earlier list.
    Addresses {
        version: u64,
        service: ServiceId,
        addresses: Arc<[Address]>,
    },
    Drain(DrainPhase),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimRefusal {
    /// `MaxConcurrentConnections` reached: 503.
    Full,
    /// The process is draining: 503.
    Draining,
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
