//! From the configuration to what the parts are built with, at the start and at every reload.

use std::sync::Arc;
use std::time::Duration;

use corelane_shard::engine::{
    CredentialRoutes, DoorRules, EngineOptions, InternalAccess, ServiceToken,
};
use corelane_shard::id::ShardId;
use corelane_shard::snapshot::{BreakerLimits, Snapshot};
use corelane_shard::wire::handshake::HeadLimits;

use super::UPSTREAM_SOCKETS;
use crate::auth::{JwksSpec, KeyRules, KeySpec};
use crate::config::{
    Config, ConfigSource, ConnectionMode, InternalAuthMode, LoadError, Session, Upstream,
};
use crate::continuity::continue_from;
use crate::control::{
    Host, ReloadHook, Reloaded, ServiceTargets, Settings, Target, ValidationRules,
};
use crate::lifecycle::drain::DrainPlan;
use crate::lifecycle::systemd;

/// Time between two look-ups of one backend's name.
const RESOLVE_REFRESH: Duration = Duration::from_secs(5);

pub(super) fn engine_options(config: &Config, index: usize, shards: usize) -> EngineOptions {
    EngineOptions {
        shard: ShardId(index as u8),
        shards,
        node_name: format!("node-{}", config.control.node).into(),
        door: door_rules(config),
        drain_spread: config.drain.spread,
        drain_calls: config.drain.calls,
        listeners: config.listen_public.address.len() as u8,
        connections_max: config.shards.connections_max,
        upstreams_max: UPSTREAM_SOCKETS,
        block_pool_bytes: config.shards.block_pool_bytes,
        head: HeadLimits::default(),
        head_timeout: config.limits.head_timeout,
        echo_path: config.echo.enabled.then(|| config.echo.path.as_str().into()),
        seed: fastrand::u64(..),
    }
}

fn door_rules(config: &Config) -> DoorRules {
    let auth = &config.auth;
    DoorRules {
        routes: CredentialRoutes {
            header: auth.header,
            subprotocol: auth.subprotocol,
            query: auth.query,
            cookie: auth.cookie.as_deref().map(Into::into),
        },
        origins: auth.origins.iter().map(|origin| origin.as_str().into()).collect(),
        internal: internal_access(&config.session),
        validations_max: config.auth_validate.waiting_max,
    }
}

fn internal_access(session: &Session) -> InternalAccess {
    match (session.connection_mode, session.internal_auth_mode) {
        (ConnectionMode::External | ConnectionMode::Relayed, _) => InternalAccess::Nobody,
        (ConnectionMode::Internal, InternalAuthMode::NetworkTrust) => InternalAccess::Network,
        (ConnectionMode::Internal, InternalAuthMode::ServiceToken) => {
            match &session.internal_service_token {
                Some(token) => InternalAccess::ServiceToken(ServiceToken::new(token.reveal())),
                None => InternalAccess::Nobody,
            }
        }
    }
}

pub(super) fn drain_plan(config: &Config) -> DrainPlan {
    let drain = &config.drain;
    DrainPlan {
        grace: drain.grace,
        spread: drain.spread,
        calls: drain.calls,
        deadline: drain.deadline,
    }
}

pub(super) fn settings(config: &Config, drain: DrainPlan) -> Settings {
    Settings {
        sessions_max: config.session.max_concurrent_connections as usize,
        drain,
        resolve_refresh: RESOLVE_REFRESH,
        unknown_key_interval: config.auth.unknown_key_interval,
    }
}

/// `None` while no auth service is configured.
pub(super) fn validation_rules(config: &Config) -> Option<ValidationRules> {
    let validate = &config.auth_validate;
    Some(ValidationRules {
        url: validate.url.clone()?.to_string(),
        timeout: validate.timeout,
        breaker: BreakerLimits {
            failures: validate.breaker_failures,
            open_for: validate.breaker_open_for,
        },
    })
}

pub(super) fn key_rules(config: &Config) -> KeyRules {
    KeyRules {
        keys: config
            .auth_keys
            .iter()
            .map(|key| KeySpec {
                id: key.id.clone(),
                algorithm: key.algorithm,
                file: key.file.clone(),
                issuer: key.issuer.clone(),
                audience: key.audience.clone(),
                native: key.native,
            })
            .collect(),
        jwks: config
            .auth_jwks
            .iter()
            .map(|set| JwksSpec {
                url: set.url.to_string(),
                issuer: set.issuer.clone(),
                audience: set.audience.clone(),
                native: set.native,
                refresh: set.refresh,
            })
            .collect(),
        session_claims: config.auth.session_claim.clone(),
    }
}

pub(super) fn targets(config: &Config) -> Vec<ServiceTargets> {
    config
        .upstreams()
        .map(|(service, upstreams)| ServiceTargets {
            service,
            targets: upstreams
                .into_iter()
                .map(|upstream| match upstream {
                    Upstream::Name { host, port } => Target::Host(Host { name: host, port }),
                    Upstream::Socket(address) => Target::Socket(address),
                    Upstream::Unix(path) => Target::Unix(path),
                })
                .collect(),
        })
        .collect()
}

/// Reads the configuration again; what cannot change while running is refused by name.
pub(super) fn reload_hook(
    current: Config,
    source: ConfigSource,
    snapshot: Arc<Snapshot>,
) -> ReloadHook {
    let (mut current, mut snapshot) = (current, snapshot);
    Box::new(move || {
        let next = source.load().map_err(one_line)?;
        let fixed = current.restart_changes(&next);
        if !fixed.is_empty() {
            return Err(format!("these keys need a restart: {}", fixed.join(", ")).into());
        }
        let drain = drain_plan(&next);
        drain.check(systemd::stop_timeout())?;
        let continued =
            continue_from(&snapshot, next.snapshot(snapshot.version + 1), targets(&next))?;
        snapshot = Arc::new(continued.snapshot);
        let reloaded = Reloaded {
            snapshot: Arc::clone(&snapshot),
            targets: continued.targets,
            keys: key_rules(&next),
            settings: settings(&next, drain),
        };
        current = next;
        Ok(reloaded)
    })
}

/// Every problem with its place: a log line has no room for excerpts of the file.
pub(super) fn one_line(error: LoadError) -> String {
    match error {
        LoadError::Refused(refused) => refused.lines().collect::<Vec<_>>().join("; "),
        unreadable @ LoadError::Unreadable { .. } => unreadable.to_string(),
    }
}
