//! From the configuration to what the parts are built with, at the start and at every reload.

use std::sync::Arc;
use std::time::Duration;

use corelane_shard::engine::{
    CredentialRoutes, DoorRules, EngineOptions, InternalAccess, Proxies, Relaying, ServiceToken,
    TlsOptions,
};
use corelane_shard::id::ShardId;
use corelane_shard::snapshot::BreakerLimits;
use corelane_shard::wire::handshake::HeadLimits;

use super::UPSTREAM_SOCKETS;
use crate::auth::{JwksSpec, KeyRules, KeySpec};
use crate::certificates::{Certificates, ClientCertificates, TlsRules};
use crate::config::{
    Auto, CertificateDemand, CertificateFiles, Config, ConfigSource, ConnectionMode,
    InternalAuthMode, LoadError, RedisServers, RpcTopic, Upstream, WhenUnreachable,
};
use crate::continuity::continue_from;
use crate::control::bus::kafka::KafkaSettings;
use crate::control::mailboxes::MailboxRules;
use crate::control::nodes::NodeRules;
use crate::control::redis::{Password, RedisRules};
use crate::control::registry::{Lessee, NodeRecord, RegistryRules};
use crate::control::store::{SharedRules, StoreRules};
use crate::control::{
    CoreRules, Host, InRedis, ReloadHook, Reloaded, ServiceTargets, Settings, SharedSessions,
    SpanExport, Target, ValidationRules,
};
use crate::events::ClientEventNames;
use crate::lifecycle::drain::DrainPlan;
use crate::lifecycle::systemd;

/// Time between two look-ups of one backend's name.
const RESOLVE_REFRESH: Duration = Duration::from_secs(5);

pub(super) fn engine_options(
    config: &Config,
    node: u16,
    index: usize,
    shards: usize,
    certificates: Option<&Certificates>,
) -> EngineOptions {
    let [plain, tls] = [&config.listen_public.address, &config.listen_tls.address].map(Vec::len);
    EngineOptions {
        shard: ShardId(index as u8),
        shards,
        node_name: node_name(node).into(),
        door: door_rules(config),
        drain_spread: config.drain.spread,
        drain_calls: config.drain.calls,
        listeners: (plain + tls) as u8,
        tls: certificates.map(|certificates| TlsOptions {
            first_listener: plain as u8,
            config: certificates.published(),
            handshakes_max: config.listen_tls.handshakes_max,
            handshake_timeout: config.listen_tls.handshake_timeout,
        }),
        connections_max: config.shards.connections_max,
        upstreams_max: UPSTREAM_SOCKETS,
        block_pool_bytes: config.shards.block_pool_bytes,
        head: HeadLimits::default(),
        head_timeout: config.limits.head_timeout,
        relaying: relaying(config),
        echo_path: config.echo.enabled.then(|| config.echo.path.as_str().into()),
        seed: fastrand::u64(..),
    }
}

/// Nothing where the node is alone.
fn relaying(config: &Config) -> Relaying {
    let linked = config.nodes.internal_url.is_some();
    Relaying { messages: linked, broadcasts: linked && config.nodes.broadcast.sends() }
}

pub(super) fn node_rules(config: &Config, node: u16) -> Option<NodeRules> {
    let nodes = &config.nodes;
    Some(NodeRules {
        number: node,
        broadcast: nodes.broadcast,
        url: nodes.internal_url.clone()?,
        peers: nodes.peers.clone(),
        token: config.listen_internal.service_token.clone(),
    })
}

/// How this process names itself to backends and collectors.
fn node_name(node: u16) -> String {
    format!("node-{node}")
}

pub(super) fn span_export(config: &Config, node: u16) -> Option<SpanExport> {
    let collector = config.tracing.otlp_endpoint.as_ref()?;
    Some(SpanExport { collector: collector.to_string(), instance: node_name(node) })
}

/// What this node keeps in Redis; `None` while none is configured.
pub(super) fn in_redis(config: &Config, node: u16, lessee: Lessee) -> Option<InRedis> {
    Some(InRedis {
        rules: redis_rules(config)?,
        sessions: shared_sessions(config, lessee),
        registry: registry_rules(config, node, lessee),
    })
}

/// `None` while no Redis is configured.
pub(super) fn redis_rules(config: &Config) -> Option<RedisRules> {
    let redis = &config.redis;
    let RedisServers { tls, database, servers } = redis.url.clone()?;
    let password = match (&redis.password, &redis.password_file) {
        (Some(secret), _) => Password::Given(secret.clone()),
        (None, Some(file)) => Password::File(file.clone()),
        (None, None) => Password::Unneeded,
    };
    let servers = servers.into_iter().filter_map(|server| match server {
        Upstream::Name { host, port } => Some((host.into(), port)),
        Upstream::Socket(address) => Some((address.ip().to_string().into(), address.port())),
        Upstream::Unix(_) => None,
    });
    let boxed = |text: &Option<String>| text.as_deref().map(Box::from);
    Some(RedisRules {
        servers: servers.collect(),
        tls,
        database,
        sentinel: boxed(&redis.sentinel),
        user: boxed(&redis.user),
        password,
        prefix: boxed(&redis.key_prefix).unwrap_or_default(),
        timeout: redis.timeout,
        connect_timeout: redis.connect_timeout,
    })
}

/// `None` for sessions of servers: those live no longer than their connections.
fn shared_sessions(config: &Config, lessee: Lessee) -> Option<SharedSessions> {
    let (redis, session) = (&config.redis, &config.session);
    if session.connection_mode == ConnectionMode::Internal {
        return None;
    }
    Some(SharedSessions {
        authority: Arc::default(),
        rules: SharedRules {
            instance: lessee.instance,
            run: lessee.run,
            session_ttl: session.session_ttl_seconds,
            heartbeat_ttl: session.heartbeat_ttl_seconds,
            heartbeat_interval: session.heartbeat_interval_seconds,
            poll_interval: redis.poll_interval,
            admit_when_unreachable: redis.when_unreachable == WhenUnreachable::Admit,
        },
    })
}

/// `None` for a node that others do not reach and that has not leased its number.
fn registry_rules(config: &Config, node: u16, lessee: Lessee) -> Option<RegistryRules> {
    let nodes = &config.nodes;
    let record = nodes.internal_url.clone().map(|url| NodeRecord {
        instance: lessee.instance,
        url,
        broadcast: nodes.broadcast,
    });
    let number = (config.control.node == Auto::Auto).then_some(node);
    let needed = record.is_some() || number.is_some();
    needed.then_some(RegistryRules {
        lessee,
        record,
        number,
        interval: nodes.heartbeat_interval_seconds,
        stale_after: nodes.stale_threshold_seconds,
    })
}

pub(super) fn kafka(config: &Config, node: u16) -> Option<KafkaSettings> {
    let kafka = &config.kafka;
    if kafka.brokers.is_empty() {
        return None;
    }
    Some(KafkaSettings {
        brokers: kafka.brokers.clone(),
        instance: node_name(node),
        topic_prefix: kafka.topic_prefix.clone(),
        partitioner: kafka.partitioner,
        create_partitions: kafka.create_topics.then_some(kafka.partitions),
        shared_rpc_topic: kafka.rpc_responses == RpcTopic::Shared,
        spool_records: kafka.spool_records,
        spool_bytes: kafka.spool_bytes,
        delivery_timeout: kafka.delivery_timeout,
        prefetch_bytes: kafka.prefetch_bytes,
        record_bytes_max: kafka.record_bytes_max,
        refresh: kafka.refresh,
        passed_on: kafka.librdkafka.settings().to_vec(),
    })
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
        internal: internal_access(config),
        validations_max: config.auth_validate.waiting_max,
        proxies: Proxies {
            trusted: config.listen_public.trusted_proxies.iter().copied().collect(),
            header: config.listen_public.proxy_protocol,
            field: config.listen_public.forwarded,
        },
    }
}

fn internal_access(config: &Config) -> InternalAccess {
    let session = &config.session;
    match (session.connection_mode, session.internal_auth_mode) {
        (ConnectionMode::External | ConnectionMode::Relayed, _) => InternalAccess::Nobody,
        (ConnectionMode::Internal, InternalAuthMode::NetworkTrust) => InternalAccess::Network,
        (ConnectionMode::Internal, InternalAuthMode::ServiceToken) => {
            match &config.listen_internal.service_token {
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
        rules: core_rules(config),
        drain,
        resolve_refresh: RESOLVE_REFRESH,
        unknown_key_interval: config.auth.unknown_key_interval,
    }
}

fn core_rules(config: &Config) -> CoreRules {
    let (session, limits, events) = (&config.session, &config.limits, &config.events);
    let names = ClientEventNames::new(events.name_dialect, &events.client_event_names);
    CoreRules {
        store: StoreRules {
            sessions_max: session.max_concurrent_connections as usize,
            window: session.reconnection_window_seconds,
            extension: session.reconnection_window_extension_minutes,
            revocation_life: config.auth.max_token_life,
            per_address_max: limits.connections_per_address,
            per_account_max: limits.connections_per_account,
        },
        mailboxes: MailboxRules {
            items_max: events.waiting_max,
            bytes_max: events.waiting_bytes_max,
            total_bytes_max: events.memory_max,
        },
        names: Arc::new(names.expect("the configuration was checked")),
        dialect: events.name_dialect,
        rpc_timeout: session.default_rpc_timeout_seconds,
        mapped_address: events.mapped_address.as_deref().map(Box::from),
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

/// `None` while no listener speaks TLS.
pub(super) fn tls_rules(config: &Config) -> Option<TlsRules> {
    let tls = &config.listen_tls;
    tls.address.first()?;
    let clients = match (tls.client_certificates, tls.client_roots.clone()) {
        (CertificateDemand::Optional, Some(roots)) => ClientCertificates::Optional { roots },
        (CertificateDemand::Required, Some(roots)) => ClientCertificates::Required { roots },
        // A demand without roots was refused with the configuration.
        _ => ClientCertificates::Unasked,
    };
    Some(TlsRules {
        certificates: config.certificates.iter().map(CertificateFiles::spec).collect(),
        clients,
        oldest: tls.oldest_version,
    })
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
pub(super) fn reload_hook(current: Config, source: ConfigSource) -> ReloadHook {
    let mut current = current;
    Box::new(move |snapshot| {
        let next = source.load().map_err(one_line)?;
        let fixed = current.restart_changes(&next);
        if !fixed.is_empty() {
            return Err(format!("these keys need a restart: {}", fixed.join(", ")).into());
        }
        let drain = drain_plan(&next);
        drain.check(systemd::stop_timeout())?;
        let continued = continue_from(
            snapshot,
            next.snapshot(snapshot.version + 1, snapshot.node),
            targets(&next),
        )?;
        let reloaded = Reloaded {
            snapshot: Arc::new(continued.snapshot),
            targets: continued.targets,
            keys: key_rules(&next),
            tls: tls_rules(&next),
            settings: settings(&next, drain),
            shown: next.shown.clone(),
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
