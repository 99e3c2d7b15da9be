//! A small shard: bounds that few bytes reach.

use std::time::Duration;

use arbitrary::Arbitrary;
use corelane_shard::compression::CompressionRules;
use corelane_shard::engine::{DoorRules, EngineOptions, InternalAccess, Relaying};
use corelane_shard::id::{EndpointId, ServiceId, ShardId};
use corelane_shard::snapshot::{
    BreakerLimits, ConnectionMode, DoorLimits, Endpoint, Method, Role, Service, SessionLimits,
    Snapshot, Tracing, UpstreamKind,
};
use corelane_shard::wire::handshake::HeadLimits;

pub(super) const SALT: &str = "salt";
pub(super) const CONNECTIONS: usize = 6;
pub(super) const UPSTREAMS: usize = 8;

/// What differs from run to run.
#[derive(Debug, Arbitrary)]
pub(super) struct Setting {
    mode: u8,
    pub(super) small_pool: bool,
    compression: bool,
    traced: bool,
    seed: u8,
}

pub(super) fn options(setting: &Setting, block_pool_bytes: usize) -> EngineOptions {
    EngineOptions {
        shard: ShardId(0),
        shards: 1,
        node_name: "node-0".into(),
        door: DoorRules {
            internal: InternalAccess::Network,
            validations_max: 3,
            ..DoorRules::default()
        },
        drain_spread: Duration::from_secs(1),
        drain_calls: Duration::from_secs(2),
        listeners: 1,
        tls: None,
        connections_max: CONNECTIONS,
        upstreams_max: UPSTREAMS,
        block_pool_bytes,
        head: HeadLimits::default(),
        head_timeout: Duration::from_secs(10),
        relaying: Relaying::default(),
        echo_path: Some("/echo".into()),
        seed: setting.seed.into(),
    }
}

pub(super) fn snapshot(setting: &Setting) -> Snapshot {
    let endpoint = |service, method, path: &str| Endpoint {
        service: ServiceId(service),
        method,
        path: path.into(),
        idempotent: method == Method::Get,
    };
    Snapshot {
        version: 1,
        mode: match setting.mode % 4 {
            0 | 1 => ConnectionMode::Relayed,
            2 => ConnectionMode::External,
            _ => ConnectionMode::Internal,
        },
        salt: SALT.into(),
        node: 0,
        services: [
            service("web", UpstreamKind::Http),
            service("room", UpstreamKind::Link { path: "/link".into(), token: None }),
        ]
        .into(),
        endpoints: [
            endpoint(0, Method::Post, "/web/post"),
            endpoint(0, Method::Get, "/web/get"),
            endpoint(1, Method::Post, "/room/join"),
            endpoint(1, Method::Post, "/room/{id}"),
        ]
        .into(),
        roles: [Role { name: "user".into(), endpoints: (0..4).map(EndpointId).collect() }].into(),
        session: limits(setting),
        door: DoorLimits::default(),
        tracing: Tracing {
            sampled_per_million: if setting.traced { 1_000_000 } else { 0 },
            export: setting.traced,
            accept_from_clients: setting.traced,
            correlation_id: setting.traced,
        },
    }
}

fn limits(setting: &Setting) -> SessionLimits {
    SessionLimits {
        message_bytes_max: 3000,
        message_bytes_hard: 4500,
        fragments_max: 8,
        messages_per_window: 200,
        outbox_messages_max: 12,
        outbox_bytes_max: 12 << 10,
        write_stall: Duration::from_secs(2),
        calls_running_max: 3,
        calls_waiting_max: 4,
        calls_waiting_bytes_max: 8 << 10,
        answers_held_max: 2,
        answers_held_bytes_max: 6 << 10,
        idle_timeout: Duration::from_secs(60),
        priority_roles: ["user".into()].into(),
        compression: CompressionRules {
            enabled: setting.compression,
            threshold_bytes: 64,
            ..CompressionRules::default()
        },
        ..SessionLimits::default()
    }
}

fn service(name: &str, kind: UpstreamKind) -> Service {
    Service {
        name: name.into(),
        kind,
        host: "backend".into(),
        call_timeout: Duration::from_secs(5),
        connect_timeout: Duration::from_secs(2),
        running_max: 6,
        connections_max: 2,
        pool_idle: Duration::from_secs(4),
        response_head_bytes_max: 1 << 10,
        response_body_bytes_max: 4 << 10,
        breaker: BreakerLimits { failures: 3, open_for: Duration::from_secs(1) },
    }
}
