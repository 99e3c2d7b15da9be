//! `corelane.toml` and what overrides it, read once into typed, checked values.
//!
//! `tables` and `rows` declare every key; all else follows from them. Nothing here opens sockets
//! or resolves names; files named by keys are read while loading, so that a missing one is found
//! by `corelane check`.

mod check;
mod collector;
mod document;
mod key;
mod load;
mod memory;
mod nearest;
mod network;
mod node_url;
mod passed_on;
mod problem;
mod profile;
mod quantity;
mod reader;
mod redis;
mod rows;
mod scalar;
mod secret;
mod shape;
mod shown;
mod snapshot;
mod tables;
#[cfg(test)]
mod tests;
mod unknown;
mod unsupported;
mod upstream;

use std::sync::Arc;

use corelane_shard::network::Networks;

use key::Section;

pub use collector::Collector;
pub use document::{defaults_file, reload_table};
pub use key::{Key, Occurs, Reload, Table};
pub use load::{ConfigSource, LoadError, SourceFile, Sources};
pub use memory::{MemoryBudget, MemoryTerm, physical_memory};
pub use node_url::NodeUrl;
pub use passed_on::PassedOn;
pub use problem::{Origin, Problem, Refused};
pub use quantity::{parse_duration, parse_size, show_duration, show_size};
pub use reader::Overrides;
pub use redis::RedisServers;
pub use rows::{
    Algorithm, AuthJwks, AuthKey, CertificateFiles, EndpointSettings, RoleSettings, ServiceSettings,
};
pub use scalar::Share;
pub use secret::Secret;
pub use shape::Auto;
pub use shown::Shown;
pub use tables::{
    Auth, CapabilitySource, CertificateDemand, CloseCodes, Compat, Compression, ConnectionMode,
    Control, Drain, Echo, Events, InternalAuthMode, Kafka, Limits, ListenAdmin, ListenInternal,
    ListenPublic, ListenTls, Log, LogFormat, LogLevel, Nodes, OnExpiry, Priority, Profile, Redis,
    RpcTopic, Session, Shards, Tracing, Validate, WELL_KNOWN_SALT, WhenUnreachable,
};
pub use upstream::{HttpUrl, LINK_PATH, Scheme, ServiceAddress, Upstream};

/// Every table, in the order of the defaults file.
pub const TABLES: &[Table] = &[
    ListenPublic::TABLE,
    ListenTls::TABLE,
    CertificateFiles::TABLE,
    ListenInternal::TABLE,
    ListenAdmin::TABLE,
    Shards::TABLE,
    Auth::TABLE,
    Validate::TABLE,
    AuthKey::TABLE,
    AuthJwks::TABLE,
    Session::TABLE,
    Limits::TABLE,
    Compression::TABLE,
    Compat::TABLE,
    Priority::TABLE,
    Events::TABLE,
    Kafka::TABLE,
    Control::TABLE,
    Nodes::TABLE,
    Redis::TABLE,
    Echo::TABLE,
    Drain::TABLE,
    Log::TABLE,
    Tracing::TABLE,
    ServiceSettings::TABLE,
    EndpointSettings::TABLE,
    RoleSettings::TABLE,
];

/// One backend service as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    pub settings: ServiceSettings,
    pub endpoints: Vec<EndpointSettings>,
    /// The text of `token_file`.
    pub token: Option<Secret>,
}

/// The whole configuration; checked, so that nobody validates again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub listen_public: ListenPublic,
    pub listen_tls: ListenTls,
    pub certificates: Vec<CertificateFiles>,
    /// `limits.deny` and the networks of `limits.deny_file`.
    pub denied: Arc<Networks>,
    pub listen_internal: ListenInternal,
    pub listen_admin: ListenAdmin,
    pub shards: Shards,
    pub auth: Auth,
    pub auth_validate: Validate,
    pub auth_keys: Vec<AuthKey>,
    pub auth_jwks: Vec<AuthJwks>,
    pub session: Session,
    pub limits: Limits,
    pub compression: Compression,
    pub compat: Compat,
    pub priority: Priority,
    pub control: Control,
    pub nodes: Nodes,
    pub redis: Redis,
    pub events: Events,
    pub kafka: Kafka,
    pub echo: Echo,
    pub drain: Drain,
    pub log: Log,
    pub tracing: Tracing,
    pub services: Vec<Service>,
    pub roles: Vec<RoleSettings>,
    /// All of the above as it was written.
    pub shown: Shown,
}

impl Config {
    /// Paths of the keys that differ in `next` and cannot change in a running process. A reload
    /// that finds any is refused as a whole.
    #[must_use]
    pub fn restart_changes(&self, next: &Self) -> Vec<String> {
        let mut found = Vec::new();
        self.listen_public.restart_changes(&next.listen_public, &mut found);
        self.listen_tls.restart_changes(&next.listen_tls, &mut found);
        self.listen_internal.restart_changes(&next.listen_internal, &mut found);
        self.listen_admin.restart_changes(&next.listen_admin, &mut found);
        self.shards.restart_changes(&next.shards, &mut found);
        self.auth.restart_changes(&next.auth, &mut found);
        self.auth_validate.restart_changes(&next.auth_validate, &mut found);
        self.session.restart_changes(&next.session, &mut found);
        self.limits.restart_changes(&next.limits, &mut found);
        self.compression.restart_changes(&next.compression, &mut found);
        self.compat.restart_changes(&next.compat, &mut found);
        self.priority.restart_changes(&next.priority, &mut found);
        self.control.restart_changes(&next.control, &mut found);
        self.nodes.restart_changes(&next.nodes, &mut found);
        self.redis.restart_changes(&next.redis, &mut found);
        self.events.restart_changes(&next.events, &mut found);
        self.kafka.restart_changes(&next.kafka, &mut found);
        self.echo.restart_changes(&next.echo, &mut found);
        self.drain.restart_changes(&next.drain, &mut found);
        self.log.restart_changes(&next.log, &mut found);
        self.tracing.restart_changes(&next.tracing, &mut found);
        found
    }

    /// Shards to start on a machine of `cores` usable cores.
    #[must_use]
    pub fn shard_count(&self, cores: usize) -> usize {
        self.shards.count.unwrap_or_else(|| cores.saturating_sub(1).clamp(1, 64))
    }
}

impl Default for Config {
    /// What an empty file gives, before the cross-checks: with the public salt.
    fn default() -> Self {
        load::defaults()
    }
}
