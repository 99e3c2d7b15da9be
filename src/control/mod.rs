//! The control core: one pinned thread with a tokio runtime, which owns the session directory,
//! the services' addresses, all keys and certificates, the talk with the auth service, the admin
//! listener and the shutdown.
//!
//! It reaches the shards through [`ShardPort`]s and knows nothing else of them. It never touches a
//! client's bytes.

use std::error::Error;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use corelane_shard::snapshot::Snapshot;
use rustix::event::EventfdFlags;
use thiserror::Error;
use tokio::sync::mpsc;
use uuid::Uuid;

use self::admin::AdminListener;
use self::ask::Ask;
use self::bus::kafka::{KafkaSettings, KafkaStartError};
use self::internal::{Holder, InternalListener};
use self::mailboxes::MailboxRules;
use self::nodes::NodeRules;
use self::operators::ShownConfig;
use self::redis::RedisRules;
use self::registry::RegistryRules;
use self::store::{SharedRules, StoreRules};
use crate::auth::{KeyRing, KeyRules};
use crate::certificates::{Certificates, TlsRules};
use crate::config::Shown;
use crate::events::{ClientEventNames, NameDialect};
use crate::lifecycle::PhaseCell;
use crate::lifecycle::drain::DrainPlan;

mod abroad;
pub mod admin;
mod answering;
pub mod ask;
mod asker;
mod authority;
pub mod bus;
mod certificates;
mod endpoints;
#[cfg(test)]
mod fixtures;
mod hyphenated;
pub mod internal;
mod jwks;
pub mod mailboxes;
mod main_loop;
mod metrics;
pub mod nodes;
pub mod operators;
pub mod port;
mod probe;
mod problem;
mod process;
mod query;
mod records;
pub mod redis;
pub mod registry;
mod replays;
mod resolve;
mod resumes;
mod rpcs;
mod sessions;
mod spans;
pub mod store;
mod turn;
mod validation;
mod visits;
mod web;

pub use self::abroad::HANDLING_BYTES_MAX;
pub use self::authority::Authority;
pub use self::main_loop::run;
pub use self::port::{AlwaysRung, Bell, ShardPort};
pub use self::probe::ControlProbe;
pub use self::records::APP;
pub use self::resolve::{Host, ServiceTargets, Target};
pub use self::spans::SpanExport;
pub use self::validation::ValidationRules;

/// Everything the control core starts with.
pub struct ControlSpec<P, B> {
    /// The core to be pinned to.
    pub core: Option<usize>,
    /// By shard id.
    pub ports: Vec<P>,
    pub bell: B,
    /// What rings the control core; see [`doorbell`].
    pub wake: OwnedFd,
    pub phase: Arc<PhaseCell>,
    pub probe: Arc<ControlProbe>,
    pub admin: Option<AdminListener>,
    pub internal: Vec<InternalListener>,
    /// What the admin listener shows of the configuration.
    pub shown: ShownConfig,
    pub keys: KeyRing,
    /// Of the listeners that speak TLS, if any does.
    pub certificates: Option<Certificates>,
    /// Of the auth service, if there is one.
    pub validation: Option<ValidationRules>,
    pub settings: Settings,
    /// What this node is to others, if there are any.
    pub nodes: Option<NodeRules>,
    /// Of this node, in what it publishes and towards other nodes.
    pub instance: Uuid,
    /// What nodes keep together, if they do.
    pub redis: Option<InRedis>,
    /// Answers services that ask another node of a session of this one.
    pub holder: Holder,
    /// Where spans go, if they are wanted.
    pub spans: Option<SpanExport>,
    /// The event bus, if it is not the gateway itself.
    pub kafka: Option<KafkaSettings>,
    /// The snapshot that the shards started with, and its services.
    pub snapshot: Arc<Snapshot>,
    pub targets: Vec<ServiceTargets>,
    /// Called at SIGHUP, on the control core.
    pub reload: ReloadHook,
    /// What the HTTP listeners ask.
    pub asks: mpsc::Receiver<Ask>,
    pub seed: u64,
}

/// What nodes keep together in Redis.
#[derive(Debug, Clone)]
pub struct InRedis {
    pub rules: RedisRules,
    pub sessions: Option<SharedSessions>,
    /// Where they find each other.
    pub registry: Option<RegistryRules>,
}

impl InRedis {
    /// What shards ask whether this node surely owns its sessions; `None` if they are its own alone.
    #[must_use]
    pub fn authority(&self) -> Option<Arc<Authority>> {
        self.sessions.as_ref().map(|sessions| Arc::clone(&sessions.authority))
    }
}

/// Sessions that several nodes keep together.
#[derive(Debug, Clone)]
pub struct SharedSessions {
    /// What the shards go by.
    pub authority: Arc<Authority>,
    pub rules: SharedRules,
}

/// Settings of the control core that a reload may change.
#[derive(Debug, Clone)]
pub struct Settings {
    pub rules: CoreRules,
    pub drain: DrainPlan,
    /// Time between two look-ups of one host name.
    pub resolve_refresh: Duration,
    /// Time between two fetches of the published key sets for the sake of an unknown key.
    pub unknown_key_interval: Duration,
}

/// By what the control core decides.
#[derive(Debug, Clone)]
pub struct CoreRules {
    pub store: StoreRules,
    pub mailboxes: MailboxRules,
    /// Which events reach clients.
    pub names: Arc<ClientEventNames>,
    pub dialect: NameDialect,
    /// For RPCs that name no time.
    pub rpc_timeout: Duration,
    /// Where an application is, with [`APP`] for its id; `None` ignores the mappings.
    pub mapped_address: Option<Box<str>>,
}

/// Reads the configuration again, which is to continue the given one. An error leaves everything as
/// it was and is logged.
pub type ReloadHook = Box<dyn FnMut(&Snapshot) -> Result<Reloaded, Box<dyn Error + Send + Sync>>>;

/// A configuration that was read again and found good.
#[derive(Debug)]
pub struct Reloaded {
    pub snapshot: Arc<Snapshot>,
    pub targets: Vec<ServiceTargets>,
    pub keys: KeyRules,
    pub tls: Option<TlsRules>,
    pub settings: Settings,
    pub shown: Shown,
}

/// Messages between a shard and the control core.
pub const CONTROL_LANE: usize = 4096;

/// How the control core ended, with the exit code that belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Drained,
    /// A second signal: end the process without waiting for the shards.
    AtOnce,
}

impl Exit {
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Drained => 0,
            Self::AtOnce => 1,
        }
    }
}

/// Why the control core cannot run.
#[derive(Debug, Error)]
pub enum ControlError {
    #[error("cannot pin the control core to core {core}: choose one that this process may use")]
    Pin { core: usize },
    #[error(
        "cannot start the control core's runtime: {0}; check the limits of open files and tasks"
    )]
    Runtime(#[source] io::Error),
    #[error("cannot take over {what}: {source}")]
    Setup { what: &'static str, source: io::Error },
    #[error(transparent)]
    Kafka(#[from] KafkaStartError),
    #[error(
        "cannot trust any https server: {0}; install the system's certificates, or name a file in \
         SSL_CERT_FILE"
    )]
    Roots(#[source] io::Error),
}

/// An eventfd as [`ControlSpec::wake`] wants it.
pub fn doorbell() -> io::Result<OwnedFd> {
    Ok(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

#[cfg(test)]
mod tests;
