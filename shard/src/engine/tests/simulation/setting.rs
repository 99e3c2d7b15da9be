//! What a run takes place in: sizes small enough that every bound is met, services and roles.

use std::sync::Arc;
use std::time::Duration;

use super::control::identity;
use super::kernel::Kernel;
use super::network::Weather;
use crate::buffers::ReceiveBuffers;
use crate::clock::Now;
use crate::engine::{DoorRules, Engine, EngineOptions, Surroundings};
use crate::id::{EndpointId, ServiceId, SessionId, ShardId};
use crate::identity::{AuthRefusal, Authenticator, Judgement, TokenFingerprint};
use crate::lane::{MeshShape, ShardLanes};
use crate::probe::Probe;
use crate::snapshot::{
    BreakerLimits, ConnectionMode, DoorLimits, Endpoint, Method, Role, Service, SessionLimits,
    Snapshot, Tracing, UpstreamKind,
};
use crate::wire::handshake::HeadLimits;

pub(super) const SHARDS: usize = 2;
pub(super) const SALT: &str = "salt";
pub(super) const HTTP: ServiceId = ServiceId(0);
pub(super) const LINK: ServiceId = ServiceId(1);

/// Numbers of the backends of each service.
pub(super) const HTTP_BACKENDS: [usize; 2] = [0, 1];
pub(super) const LINK_BACKENDS: [usize; 2] = [2, 3];

/// Sizes that differ from run to run.
#[derive(Debug)]
pub(super) struct Setting {
    pub(super) mesh: MeshShape,
    pub(super) weather: Weather,
    connections_max: usize,
    /// Entries of a descriptor table.
    pub(super) descriptors: usize,
    block_pool_bytes: usize,
    drain: Duration,
    session: SessionLimits,
}

impl Setting {
    pub(super) fn draw(rng: &mut fastrand::Rng) -> Self {
        let session = SessionLimits {
            message_bytes_max: 6 << 10,
            message_bytes_hard: 16 << 10,
            messages_per_window: if rng.bool() { 0 } else { rng.u32(10..100) },
            rate_window: Duration::from_secs(10),
            channel_max: 10,
            outbox_messages_max: rng.usize(8..64),
            outbox_bytes_max: 32 << 10,
            write_stall: Duration::from_secs(5),
            calls_running_max: rng.usize(2..6),
            calls_waiting_max: rng.usize(2..10),
            calls_waiting_bytes_max: 16 << 10,
            answers_held_max: rng.usize(1..5),
            answers_held_bytes_max: 8 << 10,
            ping_interval: Duration::from_secs(5),
            pong_timeout: Duration::from_secs(8),
            idle_timeout: Duration::from_secs(90),
            close_timeout: Duration::from_secs(2),
            ..SessionLimits::default()
        };
        Self {
            mesh: MeshShape {
                shards: SHARDS as u8,
                capacity: 1 << rng.u32(2..6),
                control_capacity: 1 << rng.u32(3..6),
                buffers: 1 << rng.u32(3..7),
            },
            weather: Weather {
                window: (300, 1 << rng.u32(9..17)),
                stalls: rng.u32(2..20),
                cuts: rng.u32(2..10),
                refusals: rng.u32(4..20),
            },
            connections_max: rng.usize(5..20),
            descriptors: rng.usize(10..40),
            block_pool_bytes: 1 << rng.u32(19..23),
            drain: Duration::from_millis(rng.u64(..2000)),
            session,
        }
    }

    /// Nothing is scarce, and the weather is fine.
    pub(super) fn roomy() -> Self {
        Self {
            mesh: MeshShape {
                shards: SHARDS as u8,
                capacity: 16,
                control_capacity: 16,
                buffers: 64,
            },
            weather: Weather { window: (1 << 16, 1 << 16), stalls: 0, cuts: 0, refusals: 0 },
            connections_max: 20,
            descriptors: 40,
            block_pool_bytes: 1 << 20,
            drain: Duration::ZERO,
            session: SessionLimits { message_bytes_max: 6 << 10, ..SessionLimits::default() },
        }
    }

    pub(super) fn message_bytes_max(&self) -> usize {
        self.session.message_bytes_max
    }

    pub(super) fn channel_max(&self) -> u16 {
        self.session.channel_max
    }

    /// The configuration with this version; some have fewer endpoints for the players' role, and
    /// other limits.
    pub(super) fn snapshot(&self, version: u64, rng: &mut fastrand::Rng) -> Arc<Snapshot> {
        let endpoint = |(service, path, idempotent): (ServiceId, &str, bool)| {
            let (method, path) = (Method::Post, path.into());
            Endpoint { service, method, path, idempotent }
        };
        let endpoints =
            [(HTTP, "/a", false), (HTTP, "/b", true), (LINK, "/c", false), (LINK, "/d", false)];
        let callable = if version == 1 { 4 } else { rng.u16(1..=4) };
        let mut session = self.session.clone();
        if version > 1 && rng.bool() {
            session.messages_per_window = rng.u32(20..200);
        }
        Arc::new(Snapshot {
            version,
            mode: ConnectionMode::Relayed,
            salt: SALT.into(),
            node: 0,
            services: [
                service("http", UpstreamKind::Http, 2),
                service("link", UpstreamKind::Link { path: "/link".into(), token: None }, 1),
            ]
            .into(),
            endpoints: endpoints.map(endpoint).into(),
            roles: [Role {
                name: "user".into(),
                endpoints: (0..callable).map(EndpointId).collect(),
            }]
            .into(),
            session,
            door: DoorLimits::default(),
            tracing: Tracing::default(),
        })
    }

    pub(super) fn engine(
        &self,
        lanes: ShardLanes,
        snapshot: Arc<Snapshot>,
        control_bell: Box<dyn Fn()>,
        now: Now,
        seed: u64,
    ) -> Engine<Kernel> {
        let shard = lanes.id();
        let options = EngineOptions {
            shard,
            shards: SHARDS,
            node_name: "node-0".into(),
            door: DoorRules { validations_max: 4, ..DoorRules::default() },
            drain_spread: self.drain,
            drain_calls: self.drain,
            listeners: 1,
            tls: None,
            connections_max: self.connections_max,
            upstreams_max: 16,
            block_pool_bytes: self.block_pool_bytes,
            head: HeadLimits::default(),
            head_timeout: Duration::from_secs(5),
            echo_path: None,
            seed,
        };
        let kernel = Kernel::new(usize::from(shard.0), self.descriptors, seed);
        let buffers = ReceiveBuffers::new(self.mesh.buffers, 2048);
        let surroundings = Surroundings {
            lanes,
            authenticator: Box::new(Tokens::default()),
            snapshot,
            probe: Arc::new(Probe::default()),
            control_bell,
            is_sure: None,
        };
        Engine::new(kernel, buffers, options, surroundings, now)
    }
}

fn service(name: &str, kind: UpstreamKind, connections_max: usize) -> Service {
    Service {
        name: name.into(),
        kind,
        host: "backend".into(),
        call_timeout: Duration::from_secs(3),
        connect_timeout: Duration::from_secs(1),
        running_max: 8,
        connections_max,
        pool_idle: Duration::from_secs(2),
        response_head_bytes_max: 1 << 10,
        response_body_bytes_max: 8 << 10,
        breaker: BreakerLimits { failures: 4, open_for: Duration::from_secs(1) },
    }
}

/// Believes what a token says of itself.
#[derive(Debug, Default)]
struct Tokens {
    fresh: u64,
}

impl Authenticator for Tokens {
    fn judge(&mut self, token: &str, _now: Now) -> Judgement {
        self.fresh += 1;
        let session = token
            .split_once('.')
            .and_then(|(kind, session)| Some((kind, session.parse::<SessionId>().ok()?)));
        match session {
            Some(("session", session)) => Judgement::Accepted(identity(session).into()),
            Some(("ask", _)) => Judgement::Ask(TokenFingerprint::of(token)),
            _ => Judgement::Refused(AuthRefusal::BadSignature),
        }
    }

    fn fresh_tokens(&self) -> u64 {
        self.fresh
    }
}

/// The shards by number.
pub(super) fn shard_ids() -> impl Iterator<Item = ShardId> {
    (0..SHARDS as u8).map(ShardId)
}
