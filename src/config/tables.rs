//! The tables that stand once in `corelane.toml`: every key with its default, its bounds, its
//! variable, what a reload may do to it, and the text that `corelane config defaults` prints.

mod auth;
mod cluster;
mod listen;
mod process;
mod session;

use std::time::Duration;

pub use self::auth::{Auth, Validate};
pub use self::cluster::{Control, Kafka, Nodes, Redis};
pub use self::listen::{ListenAdmin, ListenInternal, ListenPublic, ListenTls};
pub use self::process::{Drain, Echo, Log, Shards, Tracing};
pub use self::session::{Compat, Compression, Events, Limits, Priority, Session};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;
const ZERO: Duration = Duration::ZERO;
const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// The default of `session.server_salt`: published with the protocol, so no secret at all.
pub const WELL_KNOWN_SALT: &str = "bannou-dev-connect-salt-change-in-production";

pub use corelane_shard::snapshot::CapabilitySource;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionMode {
    External,
    Relayed,
    Internal,
}

/// Whether clients of `listen.tls` prove themselves by a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateDemand {
    Off,
    /// One that is shown must be good.
    Optional,
    Required,
}

/// How clients of the Internal mode prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InternalAuthMode {
    ServiceToken,
    NetworkTrust,
}

/// What becomes of a session whose token has expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExpiry {
    Keep,
    Close,
}

/// A named set of limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// The limits as they are written.
    Production,
    /// Size, fragment, rate and control-frame limits raised for a conformance suite.
    Conformance,
}

/// Where answers to RPCs are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RpcTopic {
    /// In the topic that the RPC names.
    Named,
    /// In one topic, keyed by what the RPC names.
    Shared,
}

/// Which codes close frames carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseCodes {
    Own,
    Upstream,
}

/// What becomes of claims while the session store cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenUnreachable {
    Refuse,
    /// Those with a token of their own are granted, and reconciled later.
    Admit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Human,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
}
