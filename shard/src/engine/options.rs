//! What an engine is built with: options, surroundings, and limits in the form in which the layers
//! below take them.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;

use super::BLOCK_HEADROOM;
use super::door::DoorRules;
use crate::id::ShardId;
use crate::identity::Authenticator;
use crate::lane::ShardLanes;
use crate::outbox::OutboxLimits;
use crate::probe::Probe;
use crate::snapshot::{SessionLimits, Snapshot};
use crate::upstream::link::message_bytes_max;
use crate::wire::frame::Role as FrameRole;
use crate::wire::handshake::HeadLimits;
use crate::wire::inbound::InboundLimits;

/// Bytes that may wait for one backend of links.
const LINK_OUTBOX_BYTES: usize = 8 << 20;

/// A link's batches are longer: one connection speaks for many sessions.
pub(super) const LINK_BATCH_BYTES: usize = 256 << 10;

pub(super) const PLAYER_BATCH_BYTES: usize = 16 << 10;

/// What one shard is built with, besides its configuration snapshot.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    pub shard: ShardId,
    /// Shards of this process.
    pub shards: usize,
    /// How this node names itself to backends.
    pub node_name: Box<str>,
    pub door: DoorRules,
    /// Time over which sessions are sent away when the process drains.
    pub drain_spread: Duration,
    /// How long a session's running calls are waited for then.
    pub drain_calls: Duration,
    pub listeners: u8,
    /// `None` where no listener speaks TLS.
    pub tls: Option<TlsOptions>,
    /// Client connections.
    pub connections_max: usize,
    /// Connections to backends.
    pub upstreams_max: usize,
    pub block_pool_bytes: usize,
    pub head: HeadLimits,
    pub head_timeout: Duration,
    /// Path of the echo route, if it is on.
    pub echo_path: Option<Box<str>>,
    pub seed: u64,
}

/// TLS of one shard.
#[derive(Debug, Clone)]
pub struct TlsOptions {
    /// The first of the listeners that speak TLS; all behind it do.
    pub first_listener: u8,
    /// What handshakes begin with, as [`crate::tls`] wants it; replaced while they go on.
    pub config: Arc<ArcSwap<ServerConfig>>,
    /// Clients that may shake hands at one time; one more is closed.
    pub handshakes_max: usize,
    pub handshake_timeout: Duration,
}

/// What a shard is given by the process around it.
pub struct Surroundings {
    pub lanes: ShardLanes,
    pub authenticator: Box<dyn Authenticator>,
    pub snapshot: Arc<Snapshot>,
    pub probe: Arc<Probe>,
    /// Wakes the control core.
    pub control_bell: Box<dyn Fn()>,
    /// Whether this node surely owns its sessions at this moment: without, no event of a session's
    /// buffer is delivered. `None` for a node by itself.
    pub is_sure: Option<Box<dyn Fn() -> bool>>,
}

/// Limits in the form in which the layers below take them.
#[derive(Debug)]
pub(super) struct Limits {
    pub(super) inbound: InboundLimits,
    /// Frames of backends on links.
    pub(super) link_inbound: InboundLimits,
    pub(super) outbox: OutboxLimits,
    pub(super) link_outbox: OutboxLimits,
    pub(super) session: SessionLimits,
}

impl Limits {
    pub(super) fn new(session: &SessionLimits) -> Self {
        let inbound = InboundLimits {
            role: FrameRole::Server,
            message_bytes_max: session.message_bytes_max,
            message_bytes_hard: session.message_bytes_hard,
            fragments_max: session.fragments_max,
            empty_fragments_max: session.fragments_max,
            control_frames_per_second: session.control_frames_per_second,
            block_headroom: BLOCK_HEADROOM,
        };
        let link_message = message_bytes_max(session.message_bytes_max);
        Self {
            inbound,
            link_inbound: InboundLimits {
                role: FrameRole::Client,
                message_bytes_max: link_message,
                message_bytes_hard: link_message,
                control_frames_per_second: u32::MAX,
                ..inbound
            },
            outbox: OutboxLimits {
                messages_max: session.outbox_messages_max,
                bytes_max: session.outbox_bytes_max,
                batch_bytes: PLAYER_BATCH_BYTES,
            },
            link_outbox: OutboxLimits {
                messages_max: usize::MAX,
                bytes_max: LINK_OUTBOX_BYTES,
                batch_bytes: LINK_BATCH_BYTES,
            },
            session: session.clone(),
        }
    }
}
