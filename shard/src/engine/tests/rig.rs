//! An engine with the echo route on a real ring, turned by the test's own thread.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant as Moment};

use rustix::event::{EventfdFlags, eventfd};
use socket2::SockRef;

use super::super::{DoorRules, Engine, EngineOptions, Surroundings, TlsOptions};
use super::client::PATIENCE;
use crate::buffers::ReceiveBuffers;
use crate::clock::Now;
use crate::id::{ConnectionKey, Epoch, SessionId, ShardId};
use crate::identity::{AuthRefusal, Authenticator, Judgement};
use crate::lane::{ControlLanes, MeshShape, Resumed, ToControl, ToShard, mesh};
use crate::outbox::Outbox;
use crate::probe::Probe;
use crate::pump::sample_clocks;
use crate::ring::{ListenOptions, RingDirectory, RingSizes, Uring, listen};
use crate::snapshot::{ConnectionMode, DoorLimits, ResumeRules, SessionLimits, Snapshot, Tracing};
use crate::sockets::Wait;
use crate::wire::handshake::HeadLimits;

pub(super) struct Shape {
    pub(super) connections_max: usize,
    pub(super) buffers: u16,
    /// Small, so that sends are taken in part.
    pub(super) send_buffer: Option<usize>,
    pub(super) receive_buffer: Option<usize>,
    pub(super) session: SessionLimits,
    pub(super) limits: DoorLimits,
    pub(super) mode: ConnectionMode,
    pub(super) door: DoorRules,
    pub(super) tls: Option<TlsOptions>,
    pub(super) authenticator: Box<dyn Authenticator>,
    pub(super) is_sure: Option<Box<dyn Fn() -> bool>>,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            connections_max: 1000,
            buffers: 512,
            send_buffer: Some(16 << 10),
            receive_buffer: None,
            session: SessionLimits {
                message_bytes_max: 256 << 10,
                // Whoever tests them asks for them.
                resume: ResumeRules {
                    early_token: false,
                    notice_event: false,
                    notice_text: false,
                    ..ResumeRules::default()
                },
                ..SessionLimits::default()
            },
            limits: DoorLimits::default(),
            mode: ConnectionMode::External,
            door: DoorRules::default(),
            tls: None,
            authenticator: Box::new(Nobody::default()),
            is_sure: None,
        }
    }
}

/// The echo route asks for no credential, and no other opens.
#[derive(Default)]
struct Nobody {
    fresh_tokens: u64,
}

impl Authenticator for Nobody {
    fn judge(&mut self, _token: &str, _now: Now) -> Judgement {
        self.fresh_tokens += 1;
        Judgement::Refused(AuthRefusal::BadSignature)
    }

    fn fresh_tokens(&self) -> u64 {
        self.fresh_tokens
    }
}

pub(super) struct Rig {
    pub(super) engine: Engine<Uring>,
    pub(super) address: SocketAddr,
    /// How far the engine's clocks are ahead.
    pub(super) ahead: Duration,
    control: ControlLanes,
    epoch: u64,
    /// Tokens that the engine wants judged.
    pub(super) asked: Vec<(ConnectionKey, Box<str>)>,
    /// Claims are kept here instead of granted, if somebody looks after them.
    pub(super) claims: Option<Vec<(ConnectionKey, SessionId)>>,
}

impl Shape {
    /// The one place where an engine is built.
    pub(super) fn build(self) -> Rig {
        let options = ListenOptions {
            backlog: 4096,
            keepalive: Duration::from_secs(60),
            user_timeout: Duration::from_secs(30),
            send_buffer: self.send_buffer,
            receive_buffer: self.receive_buffer,
        };
        let listener = listen(([127, 0, 0, 1], 0).into(), &options).unwrap();
        let address = SockRef::from(&listener).local_addr().unwrap();
        let wake = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let buffers = ReceiveBuffers::new(self.buffers, 2048);
        let sizes = RingSizes { entries: 1024, sockets: self.connections_max as u32 + 128 };
        let directory = RingDirectory::new(1);
        let listeners = vec![listener];
        let ring = Uring::new(ShardId(0), sizes, &buffers, listeners, wake, directory).unwrap();
        let options = EngineOptions {
            shard: ShardId(0),
            shards: 1,
            node_name: "node-0".into(),
            door: self.door,
            drain_spread: Duration::ZERO,
            drain_calls: Duration::ZERO,
            listeners: 1,
            tls: self.tls,
            connections_max: self.connections_max,
            upstreams_max: 0,
            block_pool_bytes: 64 << 20,
            head: HeadLimits::default(),
            head_timeout: Duration::from_secs(10),
            echo_path: Some("/echo".into()),
            seed: 1,
        };
        let shape =
            MeshShape { shards: 1, capacity: 16, control_capacity: 16, buffers: self.buffers };
        let mut mesh = mesh(shape);
        let surroundings = Surroundings {
            lanes: mesh.shards.remove(0),
            authenticator: self.authenticator,
            snapshot: Arc::new(Snapshot {
                version: 1,
                mode: self.mode,
                salt: "salt".into(),
                node: 0,
                services: Box::default(),
                endpoints: Box::default(),
                roles: Box::default(),
                session: self.session,
                door: self.limits,
                tracing: Tracing::default(),
            }),
            probe: Arc::new(Probe::default()),
            control_bell: Box::new(|| {}),
            is_sure: self.is_sure,
        };
        let now = sample_clocks();
        let engine = Engine::new(ring, buffers, options, surroundings, now);
        Rig {
            engine,
            address: address.as_socket().unwrap(),
            ahead: Duration::ZERO,
            control: mesh.control,
            epoch: 0,
            asked: Vec::new(),
            claims: None,
        }
    }
}

impl Rig {
    /// One turn, and the exchange behind it. The heartbeat bounds how long it sleeps.
    pub(super) fn turn(&mut self) {
        let mut now = sample_clocks();
        now.mono = now.mono + self.ahead;
        now.unix_ms += self.ahead.as_millis() as u64;
        self.hear_engine();
        self.engine.turn(now);
        self.engine.sockets().heartbeat(Some(Duration::from_millis(5)));
        let wait = if self.engine.has_work() { Wait::No } else { Wait::ForOne };
        self.engine.exchange(wait).unwrap();
    }

    /// Grants every claim, unless they are kept, and keeps what else is asked.
    fn hear_engine(&mut self) {
        while let Some(message) = self.control.hear(ShardId(0)) {
            match message {
                ToControl::Claim { key, claim } => match &mut self.claims {
                    Some(kept) => kept.push((key, claim.session())),
                    None => {
                        self.epoch += 1;
                        let (session, epoch) = (claim.session(), Epoch(self.epoch));
                        let resumed = Resumed::Nothing;
                        self.tell(ToShard::Granted { key, session, epoch, resumed });
                    }
                },
                ToControl::Validate { key, token } => self.asked.push((key, token)),
                _ => {}
            }
        }
    }

    pub(super) fn tell(&mut self, message: ToShard) {
        self.control.tell(ShardId(0), message).unwrap();
    }

    pub(super) fn until(&mut self, what: &str, mut done: impl FnMut(&Engine<Uring>) -> bool) {
        let give_up = Moment::now() + PATIENCE;
        while !done(&self.engine) {
            assert!(Moment::now() < give_up, "{what}: {}", self.state());
            self.turn();
        }
    }

    /// Turns until the clients' thread has ended; `watch` looks at the engine behind each turn.
    pub(super) fn run_watched<T>(
        &mut self,
        clients: JoinHandle<T>,
        mut watch: impl FnMut(&Engine<Uring>),
    ) -> T {
        let give_up = Moment::now() + 3 * PATIENCE;
        while !clients.is_finished() {
            assert!(Moment::now() < give_up, "the clients wait: {}", self.state());
            self.turn();
            watch(&self.engine);
        }
        clients.join().unwrap()
    }

    pub(super) fn run<T>(&mut self, clients: JoinHandle<T>) -> T {
        self.run_watched(clients, |_| ())
    }

    /// All clients are gone: so must be everything that was held for them.
    pub(super) fn until_nothing_is_left(&mut self) {
        self.until("connections are left", |engine| engine.table.is_empty());
        self.until("news are left", |engine| engine.lanes.news_due().is_none());
        // What was sent last is settled by the turn that follows.
        self.turn();
        let engine = &mut self.engine;
        assert_eq!(engine.downstream, 0);
        assert_eq!(engine.handshaking, 0);
        assert!(engine.crowd.is_gone());
        assert!(engine.traces.is_empty());
        assert_eq!(engine.blocks.in_use(), 0);
        assert_eq!(engine.buffers.out(), 0);
        assert!(engine.buffers.returned().is_empty(), "the kernel has all");
        assert!(engine.next_deadline().is_none(), "nothing is timed");
        assert!(engine.outboxes.iter().all(|outbox| Outbox::is_empty(outbox)));
        assert!(!engine.has_work());
    }

    fn state(&self) -> String {
        let engine = &self.engine;
        // Those that came last: they are the ones that the test is about.
        let skipped = engine.table.len().saturating_sub(5);
        let connections = engine.table.iter().skip(skipped);
        let connections: Vec<_> =
            connections.map(|(_, c)| (c.phase, c.receiving, c.sending, c.tally.bytes_in)).collect();
        format!(
            "{} connections, {} buffers out, {} block bytes, {} to arm again; {connections:?}",
            engine.table.len(),
            engine.buffers.out(),
            engine.blocks.in_use(),
            engine.rearm.len(),
        )
    }
}
