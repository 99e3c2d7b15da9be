//! The shard and everything around it.

use std::sync::Arc;
use std::time::Duration;

use corelane_shard::buffers::ReceiveBuffers;
use corelane_shard::clock::{Instant, Now};
use corelane_shard::engine::{Engine, SPARE_SLOTS, Surroundings};
use corelane_shard::id::{EndpointId, Epoch, SessionId, ShardId};
use corelane_shard::identity::{
    AuthRefusal, Authenticator, Identity, Judgement, Standing, TokenFingerprint,
};
use corelane_shard::lane::{DrainPhase, MeshShape, mesh};
use corelane_shard::probe::Probe;
use corelane_shard::wire::guid::{Guid, PeerKeys, PeerRoute, ServiceGuids, SessionText};
use corelane_shard::wire::reconnect_token::ReconnectKeys;

use super::acting::{answer, say};
use super::control::Control;
use super::peer::{Client, Peer};
use super::ring::{Dialling, Ring};
use super::setting::{CONNECTIONS, SALT, Setting, UPSTREAMS, options, snapshot};
use super::step::{Backend as BackendStep, Client as ClientStep, Step, To};

const BUFFERS: u16 = 24;
const BUFFER_BYTES: usize = 512;

pub(super) struct World {
    engine: Engine<Ring>,
    control: Control,
    probe: Arc<Probe>,
    now: Now,
    pool_bytes: u64,
    peer_keys: PeerKeys,
    reconnect_keys: ReconnectKeys,
}

impl World {
    pub(super) fn new(setting: &Setting) -> Self {
        let buffers = ReceiveBuffers::new(BUFFERS, BUFFER_BYTES);
        let ring = Ring::new(&buffers);
        let pool_bytes = if setting.small_pool { 64 << 10 } else { 1 << 20 };
        let snapshot = Arc::new(snapshot(setting));
        let shape = MeshShape { shards: 1, capacity: 4, control_capacity: 8, buffers: BUFFERS };
        let mut mesh = mesh(shape);
        let probe: Arc<Probe> = Arc::default();
        let surroundings = Surroundings {
            lanes: mesh.shards.remove(0),
            authenticator: Box::new(Players::default()),
            snapshot: Arc::clone(&snapshot),
            probe: Arc::clone(&probe),
            control_bell: Box::new(|| {}),
            is_sure: None,
        };
        let now = Now { mono: Instant(1_000_000_000), unix_ms: 1_772_463_381_000 };
        Self {
            engine: Engine::new(ring, buffers, options(setting, pool_bytes), surroundings, now),
            control: Control::new(mesh.control, snapshot),
            probe,
            now,
            pool_bytes: pool_bytes as u64,
            peer_keys: PeerKeys::from_salt(SALT),
            reconnect_keys: ReconnectKeys::from_salt(SALT),
        }
    }

    pub(super) fn step(&mut self, step: &Step<'_>) {
        match step {
            Step::Turn => self.turn(),
            Step::Later { ms } => self.later(Duration::from_millis((*ms).into())),
            Step::Connect => self.engine.sockets().connect_client(Peer::Client(Client::default())),
            Step::Client { who, does } => self.client(*who, does),
            Step::Backend { which, does } => self.backend(*which, does),
            Step::Control(step) => self.control.step(step),
        }
    }

    fn later(&mut self, by: Duration) {
        self.now.mono = self.now.mono + by;
        self.now.unix_ms += by.as_millis() as u64;
    }

    fn turn(&mut self) {
        self.control.turn();
        self.engine.turn(self.now);
        let _parks = (self.engine.has_work(), self.engine.next_deadline());
        let ring = self.engine.sockets();
        ring.exchange();
        let probe = &self.probe;
        let out = probe.receive_buffers_out.read() as usize;
        assert_eq!(ring.buffers() + out, usize::from(BUFFERS), "every buffer is somewhere");
        assert!(probe.blocks_in_use_bytes.read() <= self.pool_bytes);
        assert!(probe.slots_in_use.read() as usize <= CONNECTIONS + UPSTREAMS + SPARE_SLOTS);
        assert!(probe.sessions.read() <= probe.connections.read());
    }

    fn client(&mut self, who: u8, does: &ClientStep<'_>) {
        let endpoints = ServiceGuids::new(&self.control.snapshot);
        let peers = self.peer_guids();
        let resumption = |player, epoch: u8| {
            let token = self.reconnect_keys.token(session_of(player), Epoch(epoch.into()));
            String::from_utf8_lossy(&token).into_owned()
        };
        let wires = self.engine.sockets().wires.iter_mut().flatten();
        let mut wires: Vec<_> = wires.filter(|wire| matches!(wire.peer, Peer::Client(_))).collect();
        let count = wires.len().max(1);
        let Some(wire) = wires.get_mut(usize::from(who) % count) else { return };
        let guid = |session: Option<SessionId>, to: &To| match *to {
            To::Endpoint(at) => {
                let text = SessionText::new(session.unwrap_or(SessionId(0)));
                endpoints.derive(&text, EndpointId(u16::from(at % 12))).unwrap_or(Guid::NULL)
            }
            To::Shortcut(route) => Guid([route; 16]),
            To::Peer(at) => {
                peers.get(usize::from(at) % peers.len().max(1)).copied().unwrap_or(Guid::NULL)
            }
            To::Everybody => Guid::BROADCAST,
            To::Nobody => Guid::NULL,
        };
        say(wire, does, guid, resumption);
    }

    /// Of everybody who is here, whatever they are.
    fn peer_guids(&mut self) -> Vec<Guid> {
        let wires = self.engine.sockets().wires.iter().flatten();
        let keys = wires.filter_map(|wire| wire.key);
        let guids = keys.map(|key| {
            self.peer_keys.encode(PeerRoute {
                node: 0,
                shard: ShardId(0),
                slot: key.slot,
                generation: key.generation,
            })
        });
        guids.collect()
    }

    fn backend(&mut self, which: u8, does: &BackendStep<'_>) {
        if let BackendStep::Dialling(dialling) = does {
            self.engine.sockets().dialling = *dialling;
            return;
        }
        let wires = self.engine.sockets().wires.iter_mut().flatten();
        let mut wires: Vec<_> =
            wires.filter(|wire| !matches!(wire.peer, Peer::Client(_))).collect();
        let count = wires.len().max(1);
        if let Some(wire) = wires.get_mut(usize::from(which) % count) {
            answer(wire, does);
        }
    }

    /// Everybody reads and answers, then all are sent away; nothing may be left of them.
    pub(super) fn end(mut self) {
        self.control.hold(false);
        self.control.drain(DrainPhase::Closing);
        for round in 0.. {
            assert!(round < 300, "what was begun comes to an end");
            self.engine.sockets().dialling = Dialling::Refused;
            for wire in self.engine.sockets().wires.iter_mut().flatten() {
                wire.takes = None;
                wire.piece = usize::MAX;
                answer(wire, &BackendStep::Answers { status: 200, len: 9, chunked: false });
            }
            if round == 100 {
                self.control.drain(DrainPhase::Cutting);
            }
            self.later(Duration::from_millis(200));
            self.turn();
            if round > 110 && self.probe.slots_in_use.read() == 0 {
                break;
            }
        }
        // What was sent last is settled by the turn that follows.
        self.later(Duration::from_millis(200));
        self.turn();
        let probe = &self.probe;
        assert_eq!(probe.receive_buffers_out.read(), 0, "every buffer comes back");
        assert_eq!(probe.blocks_in_use_bytes.read(), 0, "every block comes back");
        assert_eq!(probe.connections.read() + probe.sessions.read(), 0);
        assert_eq!(probe.calls_running.read(), 0, "every call has ended");
        assert_eq!(probe.upstream_connections.read(), 0);
        assert_eq!(probe.door.validating.read(), 0, "every question is answered");
    }
}

pub(super) fn player(who: u8) -> u8 {
    who % 4
}

pub(super) fn session_of(player: u8) -> SessionId {
    SessionId(0x3f25_04e0_4f89_41d3_9a0c_0305_e82c_3300 + u128::from(player))
}

pub(super) fn standing() -> Standing {
    Standing {
        tenant: "default".into(),
        roles: ["user".into()].into(),
        authorizations: Box::default(),
    }
}

/// Knows players by their numbers.
#[derive(Default)]
struct Players {
    fresh_tokens: u64,
}

impl Authenticator for Players {
    fn judge(&mut self, token: &str, _now: Now) -> Judgement {
        self.fresh_tokens += 1;
        if token.starts_with("ask-") {
            return Judgement::Ask(TokenFingerprint::of(token));
        }
        let known = token.strip_prefix("p-").and_then(|number| number.parse().ok());
        let Some(player) = known else { return Judgement::Refused(AuthRefusal::BadSignature) };
        let identity = Identity {
            session: session_of(player),
            account: Some("anna".into()),
            standing: Arc::new(standing()),
            expires_at: None,
            issued_at: None,
        };
        Judgement::Accepted(identity.into())
    }

    fn fresh_tokens(&self) -> u64 {
        self.fresh_tokens
    }
}
