//! Shards with everything that a process gives them, and the control loop that they talk to.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use corelane_shard::buffers::ReceiveBuffers;
use corelane_shard::clock::Now;
use corelane_shard::engine::{DoorRules, Engine, EngineOptions, SPARE_SLOTS, Surroundings};
use corelane_shard::id::{EndpointId, Epoch, ServiceId, SessionId, ShardId};
use corelane_shard::identity::{AuthRefusal, Authenticator, Identity, Judgement, Standing};
use corelane_shard::lane::{
    ControlLanes, DrainPhase, EventBell, Mesh, MeshShape, Resumed, ShardLanes, ToControl, ToShard,
    mesh,
};
use corelane_shard::probe::Probe;
use corelane_shard::pump::{self, Pace, TurnObserver};
use corelane_shard::ring::{ListenOptions, RingDirectory, RingSizes, Uring, listen};
use corelane_shard::snapshot::{
    Address, BreakerLimits, ConnectionMode, DoorLimits, Endpoint, Method, ResumeRules, Role,
    Service, SessionLimits, Snapshot, Tracing, UpstreamKind,
};
use corelane_shard::wire::handshake::HeadLimits;

pub(crate) const HTTP_PATH: &str = "/echo/http";
pub(crate) const LINK_PATH: &str = "/echo/link";

pub(crate) const RECEIVE_BUFFERS: u16 = 1024;
pub(crate) const RECEIVE_BUFFER_BYTES: usize = 2048;
const CONNECTIONS_MAX: usize = 2048;
const UPSTREAMS_MAX: usize = 1024;
const ROLE: &str = "user";

/// Makes what watches one shard's turns, given the shard's counters.
pub(crate) type Watch = Box<dyn FnOnce(Arc<Probe>) -> Box<dyn TurnObserver + Send>>;

/// Where the two services of [`snapshot`] listen; a service without an address answers 60.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Backends {
    pub(crate) http: Option<SocketAddr>,
    pub(crate) link: Option<SocketAddr>,
}

/// Shards that serve until this is dropped.
pub(crate) struct Gateway {
    pub(crate) address: SocketAddr,
    pub(crate) probes: Vec<Arc<Probe>>,
    over: Arc<AtomicBool>,
    threads: Vec<Box<dyn FnOnce() -> io::Result<()>>>,
    control: Option<JoinHandle<()>>,
}

impl Gateway {
    /// One shard for each of `watches`; `None` is watched by nobody. `batch_window` is the option
    /// `shards.batch_window`.
    pub(crate) fn start(
        watches: Vec<Option<Watch>>,
        backends: Backends,
        batch_window: Option<Duration>,
    ) -> Self {
        let shards = watches.len();
        let snapshot = Arc::new(snapshot());
        let directory = RingDirectory::new(shards);
        let bells: Vec<_> = (0..shards).map(|_| EventBell::new().expect("an eventfd")).collect();
        let Mesh { shards: lanes, control } = mesh(MeshShape {
            shards: shards as u8,
            capacity: 1024,
            control_capacity: 4096,
            buffers: RECEIVE_BUFFERS,
        });
        let mut address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut probes = Vec::new();
        let mut threads: Vec<Box<dyn FnOnce() -> io::Result<()>>> = Vec::new();
        for ((lanes, watch), bell) in lanes.into_iter().zip(watches).zip(&bells) {
            let socket = listen(address, &listen_options()).expect("loopback listens");
            let bound = socket2::SockRef::from(&socket).local_addr().expect("it is bound");
            address = bound.as_socket().expect("an internet address");
            let probe = Arc::new(Probe::default());
            probes.push(Arc::clone(&probe));
            let wake = bell.as_fd().try_clone_to_owned().expect("a descriptor to spare");
            let observer = watch.map(|watch| watch(Arc::clone(&probe)));
            let (snapshot, directory) = (Arc::clone(&snapshot), directory.clone());
            let shard = lanes.id();
            let build = move || {
                let buffers = ReceiveBuffers::new(RECEIVE_BUFFERS, RECEIVE_BUFFER_BYTES);
                let mut ring =
                    Uring::new(shard, ring_sizes(), &buffers, vec![socket], wake, directory)?;
                ring.set_batch_window(batch_window);
                let surroundings = surroundings(lanes, snapshot, probe);
                let options = options(shard, shards);
                Ok(Engine::new(ring, buffers, options, surroundings, pump::sample_clocks()))
            };
            threads.push(spawn(shard, observer, build));
        }
        let over = Arc::new(AtomicBool::new(false));
        let control = std::thread::spawn({
            let over = Arc::clone(&over);
            move || control_loop(control, &bells, backends, &over)
        });
        Self { address, probes, over, threads, control: Some(control) }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            thread().expect("the shard has ended well");
        }
        // A panic in the control loop has failed the test already.
        drop(self.control.take().map(JoinHandle::join));
    }
}

fn spawn(
    shard: ShardId,
    observer: Option<Box<dyn TurnObserver + Send>>,
    build: impl FnOnce() -> io::Result<Engine<Uring>> + Send + 'static,
) -> Box<dyn FnOnce() -> io::Result<()>> {
    let name = format!("shard-{}", shard.0);
    let broken = |error: &io::Error| panic!("the shard's ring is broken: {error}");
    let pace = Pace::default();
    match observer {
        Some(observer) => {
            Box::new(pump::spawn_observed(&name, pace, observer, build, broken).expect("a thread"))
        }
        None => Box::new(pump::spawn(&name, pace, build, broken).expect("a thread")),
    }
}

/// What a shard is given, with a control bell that nobody needs: the control loop polls.
pub(crate) fn surroundings(
    lanes: ShardLanes,
    snapshot: Arc<Snapshot>,
    probe: Arc<Probe>,
) -> Surroundings {
    let authenticator = Box::new(NumberedSessions);
    Surroundings {
        lanes,
        authenticator,
        snapshot,
        probe,
        control_bell: Box::new(|| {}),
        is_sure: None,
    }
}

pub(crate) fn options(shard: ShardId, shards: usize) -> EngineOptions {
    EngineOptions {
        shard,
        shards,
        node_name: "node-0".into(),
        door: DoorRules::default(),
        drain_spread: Duration::from_millis(1),
        drain_calls: Duration::from_millis(1),
        listeners: 1,
        tls: None,
        connections_max: CONNECTIONS_MAX,
        upstreams_max: UPSTREAMS_MAX,
        block_pool_bytes: 64 << 20,
        head: HeadLimits::default(),
        head_timeout: Duration::from_secs(5),
        echo_path: Some("/echo".into()),
        seed: 7,
    }
}

pub(crate) fn ring_sizes() -> RingSizes {
    let sockets = (CONNECTIONS_MAX + UPSTREAMS_MAX + SPARE_SLOTS) as u32;
    RingSizes { entries: 1024, sockets }
}

pub(crate) fn listen_options() -> ListenOptions {
    ListenOptions {
        backlog: 1024,
        keepalive: Duration::from_secs(60),
        user_timeout: Duration::from_secs(30),
        send_buffer: None,
        receive_buffer: None,
    }
}

/// Two services with one endpoint each, [`HTTP_PATH`] and [`LINK_PATH`], that every session may
/// call; no rate limit, and room for 32 calls at once.
pub(crate) fn snapshot() -> Snapshot {
    let link = UpstreamKind::Link { path: "/corelane-link".into(), token: None };
    let endpoint = |service, path: &str| Endpoint {
        service: ServiceId(service),
        method: Method::Post,
        path: path.into(),
        idempotent: false,
    };
    Snapshot {
        version: 1,
        mode: ConnectionMode::Relayed,
        salt: "harness".into(),
        node: 0,
        services: [service("http", UpstreamKind::Http), service("link", link)].into(),
        endpoints: [endpoint(0, HTTP_PATH), endpoint(1, LINK_PATH)].into(),
        roles: [Role { name: ROLE.into(), endpoints: [EndpointId(0), EndpointId(1)].into() }]
            .into(),
        session: SessionLimits {
            messages_per_window: 0,
            // Clients are told nothing that they have not asked for.
            resume: ResumeRules {
                early_token: false,
                notice_event: false,
                notice_text: false,
                ..ResumeRules::default()
            },
            ..SessionLimits::default()
        },
        door: DoorLimits::default(),
        tracing: Tracing::default(),
    }
}

fn service(name: &str, kind: UpstreamKind) -> Service {
    let connections_max = if kind == UpstreamKind::Http { 256 } else { 1 };
    Service {
        name: name.into(),
        kind,
        host: "backend.test".into(),
        call_timeout: Duration::from_secs(25),
        connect_timeout: Duration::from_secs(2),
        running_max: 4096,
        connections_max,
        pool_idle: Duration::from_secs(60),
        response_head_bytes_max: 8 << 10,
        response_body_bytes_max: 1 << 20,
        breaker: BreakerLimits { failures: 0, open_for: Duration::from_secs(1) },
    }
}

/// Every number is a session that may do everything.
struct NumberedSessions;

impl Authenticator for NumberedSessions {
    fn judge(&mut self, token: &str, _: Now) -> Judgement {
        let Ok(session) = token.parse().map(SessionId) else {
            return Judgement::Refused(AuthRefusal::Malformed);
        };
        let standing = Standing {
            tenant: "default".into(),
            roles: [ROLE.into()].into(),
            authorizations: [].into(),
        };
        let standing = Arc::new(standing);
        let identity =
            Identity { session, account: None, standing, expires_at: None, issued_at: None };
        Judgement::Accepted(Arc::new(identity))
    }

    fn fresh_tokens(&self) -> u64 {
        0
    }
}

/// Tells every shard where the backends are, grants every claim, and ends the shards when it is
/// over.
pub(crate) fn control_loop(
    mut lanes: ControlLanes,
    bells: &[EventBell],
    backends: Backends,
    over: &AtomicBool,
) {
    let shards: Vec<_> = (0..lanes.shards()).map(|index| ShardId(index as u8)).collect();
    for &shard in &shards {
        for (service, address) in [(0, backends.http), (1, backends.link)] {
            let addresses = address.map(Address::Tcp).into_iter().collect();
            let service = ServiceId(service);
            let message = ToShard::Addresses { version: 1, service, addresses };
            lanes.tell(shard, message).expect("an empty lane");
        }
    }
    let mut epoch = 0;
    loop {
        for &shard in &shards {
            while let Some(message) = lanes.hear(shard) {
                if let ToControl::Claim { key, claim } = message {
                    let session = claim.session();
                    epoch += 1;
                    let (epoch, resumed) = (Epoch(epoch), Resumed::Nothing);
                    let granted = ToShard::Granted { key, session, epoch, resumed };
                    lanes.tell(shard, granted).expect("a claim reserves its answer's place");
                }
            }
        }
        let ends = over.load(Ordering::Acquire);
        if ends {
            for &shard in &shards {
                lanes.tell(shard, ToShard::Drain(DrainPhase::Done)).expect("room for the end");
            }
        }
        lanes.wake_sleepers(|shard| bells[usize::from(shard.0)].ring().expect("an eventfd"));
        if ends {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
