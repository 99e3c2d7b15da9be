//! Composition: threads, rings, lanes and the control core, wired from one [`Config`].

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use corelane_shard::buffers::ReceiveBuffers;
use corelane_shard::engine::{CredentialRoutes, Engine, EngineOptions, SPARE_SLOTS, Surroundings};
use corelane_shard::id::ShardId;
use corelane_shard::lane::{
    ControlLanes, EventBell, Mesh, MeshShape, ShardLanes, ToControl, ToShard, mesh,
};
use corelane_shard::probe::Probe;
use corelane_shard::pump::{self, Pace};
use corelane_shard::ring::{
    ListenOptions, RingDirectory, RingSizes, Uring, listen, locked_bytes, try_operations,
};
use corelane_shard::snapshot::Snapshot;
use corelane_shard::wire::handshake::HeadLimits;
use thiserror::Error;
use tracing::{error, info, warn};

use crate::auth::{JwtAuthenticator, KeyError, KeyFiles, KeyRules, KeySet, KeySpec};
use crate::config::{Config, ConfigSource, LoadError, MemoryBudget, Upstream, physical_memory};
use crate::control::admin::{AdminError, AdminListener};
use crate::control::{
    self, Bell, ControlError, ControlProbe, ControlSpec, Exit, Host, Reloaded, ServiceTargets,
    Settings, ShardPort, Target,
};
use crate::host::{Facts, Needs, Severity, raise_open_files, shortfalls};
use crate::lifecycle::drain::{DrainPlan, PlanError};
use crate::lifecycle::{PhaseCell, systemd};
use crate::placement::Placement;

/// Sockets towards backends, per shard.
const UPSTREAM_SOCKETS: usize = 2048;

/// glommio's three rings of 128 entries each and its registered memory, which counts once for each
/// of them: 252 KiB measured.
const GLOMMIO_LOCKED: usize = 288 << 10;

/// The ring on which operations are tried; the kernel lets go of it a while after it is closed.
const SCRATCH_LOCKED: usize = 64 << 10;

/// glommio refuses to start below this limit, whoever runs it.
const EXECUTOR_LOCKED_LIMIT: u64 = 512 << 10;

/// Messages between a shard and the control core.
const CONTROL_LANE: usize = 4096;

/// Time between two look-ups of one backend's name.
const RESOLVE_REFRESH: Duration = Duration::from_secs(5);

const KEEPALIVE: Duration = Duration::from_secs(60);
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// What is running, once it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// Where clients connect; ports that were 0 are the real ones.
    pub public: Vec<SocketAddr>,
    pub admin: SocketAddr,
    pub shards: usize,
}

/// Why the gateway does not start.
#[derive(Debug, Error)]
pub enum StartError {
    #[error("this host lacks something: {0}")]
    Host(String),
    #[error(transparent)]
    Ring(#[from] corelane_shard::ring::RingUnsupported),
    #[error("memory: {0}; lower the limits or set limits.memory_max")]
    Memory(String),
    #[error(transparent)]
    Drain(#[from] PlanError),
    #[error(transparent)]
    Keys(#[from] KeyError),
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error("cannot listen on {address}: {source}; choose another listen.public.address")]
    Listen { address: SocketAddr, source: io::Error },
    #[error(
        "shard {shard} cannot start: {source}; if memory is short, raise LimitMEMLOCK= or start \
         again: the kernel gives back the rings of a predecessor late"
    )]
    Shard { shard: usize, source: io::Error },
    #[error("cannot make an eventfd: {0}; raise the limit of open files")]
    Bell(#[source] io::Error),
    #[error(transparent)]
    Control(#[from] ControlError),
}

/// Runs the gateway until it has drained; `ready` is called once when it serves. The calling
/// thread becomes the control core.
pub fn run(
    config: Config,
    source: ConfigSource,
    ready: impl FnOnce(&Ready),
) -> Result<Exit, StartError> {
    let placement = Placement::of(&config);
    let shards = placement.shards.len();
    check_host(&config, shards)?;
    let drain = drain_plan(&config);
    drain.check(systemd::stop_timeout())?;
    info!(%placement, "threads");

    let keys = KeyFiles::open(&key_rules(&config))?;
    let snapshot = Arc::new(config.snapshot(1));
    let phase = Arc::new(PhaseCell::default());
    let control_probe = Arc::new(ControlProbe::default());
    let probes: Vec<Arc<Probe>> = (0..shards).map(|_| Arc::default()).collect();
    let admin = AdminListener::bind(
        config.listen_admin.address,
        (0_u8..).map(ShardId).zip(probes.iter().map(Arc::clone)).collect(),
        Arc::clone(&control_probe),
        Arc::clone(&phase),
    )?;
    let admin_address = admin.local_address().map_err(StartError::Bell)?;
    let (listeners, public) = bind_public(&config, shards)?;
    let control_bell = EventBell::new().map_err(StartError::Bell)?;
    let bells = (0..shards)
        .map(|_| EventBell::new())
        .collect::<io::Result<Vec<_>>>()
        .map_err(StartError::Bell)?;
    let Mesh { shards: shard_lanes, control: control_lanes } = mesh(MeshShape {
        shards: shards as u8,
        capacity: config.shards.lane_capacity,
        control_capacity: CONTROL_LANE,
        buffers: config.shards.receive_buffers as u16,
    });

    let directory = RingDirectory::new(shards);
    let (started, starts) = channel();
    let mut joins = Vec::with_capacity(shards);
    for (lanes, listeners) in shard_lanes.into_iter().zip(listeners) {
        let index = usize::from(lanes.id().0);
        let part = ShardPart {
            lanes,
            listeners,
            options: engine_options(&config, index, shards),
            sizes: ring_sizes(&config),
            buffers: (config.shards.receive_buffers as u16, config.shards.receive_buffer_bytes),
            batch_window: config.shards.batch_window,
            keys: keys.published(),
            snapshot: Arc::clone(&snapshot),
            probe: Arc::clone(&probes[index]),
            wake: duplicate(&bells[index])?,
            control_bell: control_bell.clone(),
            directory: directory.clone(),
        };
        let pace = Pace { cpu: placement.shards[index], spin: config.shards.spin };
        joins.push(start_shard(index, pace, part, started.clone())?);
    }
    drop(started);
    let joins = await_starts(&starts, joins)?;

    ready(&Ready { public, admin: admin_address, shards });
    phase.serve();
    systemd::notify_ready();
    let lanes = Rc::new(RefCell::new(control_lanes));
    let ports = bells
        .iter()
        .enumerate()
        .map(|(index, bell)| Port {
            shard: ShardId(index as u8),
            lanes: Rc::clone(&lanes),
            bell: bell.clone(),
        })
        .collect();
    let exit = control::run(ControlSpec {
        core: placement.control,
        ports,
        bell: LaneBell(lanes),
        wake: duplicate(&control_bell)?,
        phase,
        probe: control_probe,
        admin: Some(admin),
        keys,
        settings: settings(&config, drain),
        targets: targets(&config),
        reload: reload_hook(config, source, Arc::clone(&snapshot)),
        snapshot,
    })?;
    if exit == Exit::Drained {
        for join in joins {
            if let Err(reason) = join() {
                error!(%reason, "a shard's executor failed");
            }
        }
    }
    Ok(exit)
}

/// Everything that moves to a shard's thread.
struct ShardPart {
    lanes: ShardLanes,
    listeners: Vec<OwnedFd>,
    options: EngineOptions,
    sizes: RingSizes,
    buffers: (u16, usize),
    batch_window: Option<Duration>,
    keys: Arc<arc_swap::ArcSwap<KeySet>>,
    snapshot: Arc<Snapshot>,
    probe: Arc<Probe>,
    wake: OwnedFd,
    control_bell: EventBell,
    directory: RingDirectory,
}

impl ShardPart {
    /// On the shard's own thread: the ring belongs to the thread that makes it.
    fn build(self) -> io::Result<Engine<Uring>> {
        let (count, size) = self.buffers;
        let buffers = ReceiveBuffers::new(count, size);
        let mut ring = Uring::new(
            self.options.shard,
            self.sizes,
            &buffers,
            self.listeners,
            self.wake,
            self.directory,
        )?;
        ring.set_batch_window(self.batch_window);
        let bell = self.control_bell;
        let surroundings = Surroundings {
            lanes: self.lanes,
            authenticator: Box::new(JwtAuthenticator::new(self.keys)),
            snapshot: self.snapshot,
            probe: self.probe,
            control_bell: Box::new(move || {
                if let Err(reason) = bell.ring() {
                    error!(%reason, "the control core cannot be woken");
                }
            }),
        };
        Ok(Engine::new(ring, buffers, self.options, surroundings, pump::sample_clocks()))
    }
}

type Started = (usize, io::Result<()>);

/// Waits for the end of a shard's thread.
type Join = Box<dyn FnOnce() -> io::Result<()>>;

fn start_shard(
    index: usize,
    pace: Pace,
    part: ShardPart,
    started: Sender<Started>,
) -> Result<Join, StartError> {
    let build = move || {
        let engine = part.build();
        let report = engine
            .as_ref()
            .map(drop)
            .map_err(|error| io::Error::new(error.kind(), error.to_string()));
        // Nobody listens any more when another shard has failed already.
        drop(started.send((index, report)));
        engine
    };
    let broken = move |reason: &io::Error| {
        // A shard without its ring serves nobody, and its lanes would fill: restart fast.
        error!(shard = index, %reason, "the shard's ring is broken");
        std::process::abort();
    };
    let join = pump::spawn(&format!("shard-{index}"), pace, build, broken)
        .map_err(|source| StartError::Shard { shard: index, source })?;
    Ok(Box::new(join))
}

/// Every shard reports once, unless its executor could not even begin: then its end of the channel
/// closes, and joining its thread tells why.
fn await_starts(starts: &Receiver<Started>, mut joins: Vec<Join>) -> Result<Vec<Join>, StartError> {
    let mut silent: Vec<bool> = joins.iter().map(|_| true).collect();
    for (shard, outcome) in starts.iter().take(joins.len()) {
        outcome.map_err(|source| StartError::Shard { shard, source })?;
        silent[shard] = false;
    }
    let Some(shard) = silent.iter().position(|silent| *silent) else {
        return Ok(joins);
    };
    let join = joins.swap_remove(shard);
    let ended = || io::Error::other("its thread ended as it began");
    Err(StartError::Shard { shard, source: join().err().unwrap_or_else(ended) })
}

/// One listener per shard and address. The first shard's tells the real port where it was 0.
fn bind_public(
    config: &Config,
    shards: usize,
) -> Result<(Vec<Vec<OwnedFd>>, Vec<SocketAddr>), StartError> {
    let options = ListenOptions {
        backlog: config.listen_public.backlog as i32,
        keepalive: KEEPALIVE,
        user_timeout: USER_TIMEOUT,
        send_buffer: None,
        receive_buffer: None,
    };
    let mut listeners: Vec<Vec<OwnedFd>> = (0..shards).map(|_| Vec::new()).collect();
    let mut public = Vec::new();
    for &wanted in &config.listen_public.address {
        let mut address = wanted;
        for own in &mut listeners {
            let failed = |source| StartError::Listen { address, source };
            let socket = listen(address, &options).map_err(failed)?;
            let bound = socket2::SockRef::from(&socket).local_addr().map_err(failed)?;
            address = bound.as_socket().unwrap_or(address);
            own.push(socket);
        }
        public.push(address);
    }
    Ok((listeners, public))
}

fn check_host(config: &Config, shards: usize) -> Result<(), StartError> {
    let budget = MemoryBudget::of(config, shards);
    info!(total_mib = budget.total() >> 20, "memory bound");
    budget.fits(config, physical_memory()).map_err(StartError::Memory)?;
    let sizes = ring_sizes(config);
    let own = locked_bytes(sizes, config.shards.receive_buffers);
    let locked = shards * (own + GLOMMIO_LOCKED) + SCRATCH_LOCKED;
    let needs = Needs {
        open_files: u64::from(sizes.sockets),
        locked_bytes: locked as u64,
        locked_limit: EXECUTOR_LOCKED_LIMIT,
        listen_backlog: config.listen_public.backlog,
        memory_bytes: budget.total(),
    };
    if let Err(reason) = raise_open_files(needs.open_files) {
        warn!(%reason, "the soft limit of open files stays as it is");
    }
    for shortfall in shortfalls(&Facts::collect(), &needs) {
        match shortfall.severity() {
            Severity::Warn => warn!("{shortfall}"),
            Severity::Refuse => return Err(StartError::Host(shortfall.to_string())),
        }
    }
    Ok(try_operations()?)
}

fn ring_sizes(config: &Config) -> RingSizes {
    let sockets = config.shards.connections_max + UPSTREAM_SOCKETS + SPARE_SLOTS;
    RingSizes { entries: config.shards.submission_entries as u32, sockets: sockets as u32 }
}

fn engine_options(config: &Config, index: usize, shards: usize) -> EngineOptions {
    EngineOptions {
        shard: ShardId(index as u8),
        shards,
        node_name: format!("node-{}", config.control.node).into(),
        credentials: CredentialRoutes { header: config.auth.header, query: config.auth.query },
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

fn drain_plan(config: &Config) -> DrainPlan {
    let drain = &config.drain;
    DrainPlan {
        grace: drain.grace,
        spread: drain.spread,
        calls: drain.calls,
        deadline: drain.deadline,
    }
}

fn settings(config: &Config, drain: DrainPlan) -> Settings {
    Settings {
        sessions_max: config.session.max_concurrent_connections as usize,
        drain,
        resolve_refresh: RESOLVE_REFRESH,
    }
}

fn key_rules(config: &Config) -> KeyRules {
    KeyRules {
        keys: config
            .auth_keys
            .iter()
            .map(|key| KeySpec {
                id: key.id.clone(),
                algorithm: algorithm(key.algorithm),
                file: key.file.clone(),
                issuer: key.issuer.clone(),
                audience: key.audience.clone(),
                native: key.native,
            })
            .collect(),
        session_claims: config.auth.session_claim.clone(),
    }
}

fn algorithm(configured: crate::config::Algorithm) -> crate::auth::Algorithm {
    use crate::auth::Algorithm as Verified;
    use crate::config::Algorithm as Configured;
    match configured {
        Configured::Hs256 => Verified::Hs256,
        Configured::Rs256 => Verified::Rs256,
        Configured::Es256 => Verified::Es256,
        Configured::EdDsa => Verified::EdDsa,
    }
}

fn targets(config: &Config) -> Vec<ServiceTargets> {
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
fn reload_hook(
    current: Config,
    source: ConfigSource,
    snapshot: Arc<Snapshot>,
) -> control::ReloadHook {
    let (mut current, mut snapshot) = (current, snapshot);
    Box::new(move || {
        let next = source.load().map_err(one_line)?;
        let fixed = current.restart_changes(&next);
        if !fixed.is_empty() {
            return Err(format!("these keys need a restart: {}", fixed.join(", ")).into());
        }
        let drain = drain_plan(&next);
        drain.check(systemd::stop_timeout())?;
        let continued = crate::continuity::continue_from(
            &snapshot,
            next.snapshot(snapshot.version + 1),
            targets(&next),
        )?;
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
fn one_line(error: LoadError) -> String {
    match error {
        LoadError::Refused(refused) => refused.lines().collect::<Vec<_>>().join("; "),
        unreadable @ LoadError::Unreadable { .. } => unreadable.to_string(),
    }
}

fn duplicate(bell: &EventBell) -> Result<OwnedFd, StartError> {
    bell.as_fd().try_clone_to_owned().map_err(StartError::Bell)
}

/// One shard as the control core reaches it.
struct Port {
    shard: ShardId,
    lanes: Rc<RefCell<ControlLanes>>,
    bell: EventBell,
}

impl ShardPort for Port {
    fn receive(&mut self) -> Option<ToControl> {
        self.lanes.borrow_mut().hear(self.shard)
    }

    fn send(&mut self, message: ToShard) -> Result<(), ToShard> {
        self.lanes.borrow_mut().tell(self.shard, message)
    }

    fn ring(&mut self) {
        let bell = &self.bell;
        self.lanes.borrow_mut().wake_sleeper(self.shard, || {
            if let Err(reason) = bell.ring() {
                error!(%reason, "a shard cannot be woken");
            }
        });
    }
}

struct LaneBell(Rc<RefCell<ControlLanes>>);

impl Bell for LaneBell {
    fn announce_sleep(&self) {
        // The caller looks at every lane once more after this, as the protocol wants.
        let _either_way = self.0.borrow_mut().prepare_park();
    }

    fn awake(&self) {
        self.0.borrow_mut().awake();
    }
}
