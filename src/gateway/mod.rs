//! Composition: threads, rings, lanes and the control core, wired from one [`Config`].

mod code;
mod instance;
mod listeners;
mod node_number;
mod ports;
mod settings;
mod shards;
mod tokens;

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::channel;

use corelane_shard::engine::SPARE_SLOTS;
use corelane_shard::lane::{EventBell, Mesh, MeshShape, mesh};
use corelane_shard::probe::Probe;
use corelane_shard::pump::Pace;
use corelane_shard::ring::{RingDirectory, RingSizes, locked_bytes, try_operations};
use thiserror::Error;
use tracing::{error, info, warn};

use self::listeners::HttpListeners;
pub use self::node_number::NumberError;
use self::ports::{LaneBell, ports};
use self::settings::{
    drain_plan, engine_options, in_redis, kafka, key_rules, node_rules, reload_hook, settings,
    span_export, targets, tls_rules, validation_rules,
};
use self::shards::{Bound, Join, ShardPart, await_starts, bind_public, start_shard};
use crate::auth::{KeyError, KeyRing};
use crate::certificates::{CertificateError, Certificates};
use crate::config::{Config, ConfigSource, MemoryBudget, physical_memory};
use crate::control::admin::AdminError;
use crate::control::internal::InternalError;
use crate::control::{self, CONTROL_LANE, ControlError, ControlProbe, ControlSpec, Exit, InRedis};
use crate::host::{Facts, Needs, Severity, raise_open_files, shortfalls};
use crate::lifecycle::drain::PlanError;
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

/// What is running, once it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// Where clients connect; ports that were 0 are the real ones.
    pub public: Vec<SocketAddr>,
    /// Where they connect over TLS.
    pub tls: Vec<SocketAddr>,
    pub admin: SocketAddr,
    /// Where services reach the gateway, if they do.
    pub internal: Option<SocketAddr>,
    /// Where players' tokens get descriptions of endpoints, if they do.
    pub endpoint_meta: Option<SocketAddr>,
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
    Certificates(#[from] CertificateError),
    #[error(transparent)]
    Number(#[from] NumberError),
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error(transparent)]
    Internal(#[from] InternalError),
    #[error("cannot listen on {address}: {source}; choose another {key}")]
    Listen { key: &'static str, address: SocketAddr, source: io::Error },
    #[error(
        "shard {shard} cannot start: {source}; if memory is short, raise LimitMEMLOCK= or start \
         again: the kernel gives back the rings of a predecessor late"
    )]
    Shard { shard: usize, source: io::Error },
    #[error("cannot tell the address of the {0} listener: {1}")]
    OwnAddress(&'static str, #[source] io::Error),
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

    let keys = KeyRing::open(&key_rules(&config))?;
    let certificates = tls_rules(&config).map(Certificates::open).transpose()?;
    let phase = Arc::new(PhaseCell::default());
    let control_probe = Arc::new(ControlProbe::default());
    let probes: Vec<Arc<Probe>> = (0..shards).map(|_| Arc::default()).collect();
    let http = HttpListeners::open(&config, &probes, &control_probe, &phase, keys.published())?;
    let Bound { listeners, public, tls } = bind_public(&config, shards)?;
    let lessee = instance::of(&config, public.iter().chain(&tls));
    let node = node_number::of(&config, lessee)?;
    let redis = in_redis(&config, node, lessee);
    let authority = redis.as_ref().and_then(InRedis::authority);
    let snapshot = Arc::new(config.snapshot(1, node));
    let control_bell = bell()?;
    let bells: Vec<_> = (0..shards).map(|_| bell()).collect::<Result<_, _>>()?;
    let Mesh { shards: shard_lanes, control: control_lanes } = mesh(mesh_shape(&config, shards));

    let directory = RingDirectory::new(shards);
    let (started, starts) = channel();
    let mut joins = Vec::with_capacity(shards);
    for (lanes, listeners) in shard_lanes.into_iter().zip(listeners) {
        let index = usize::from(lanes.id().0);
        let part = ShardPart {
            lanes,
            listeners,
            options: engine_options(&config, node, index, shards, certificates.as_ref()),
            sizes: ring_sizes(&config),
            buffers: (config.shards.receive_buffers as u16, config.shards.receive_buffer_bytes),
            batch_window: config.shards.batch_window,
            keys: keys.published(),
            asks_auth_service: config.auth_validate.url.is_some(),
            snapshot: Arc::clone(&snapshot),
            probe: Arc::clone(&probes[index]),
            wake: duplicate(&bells[index])?,
            control_bell: control_bell.clone(),
            authority: authority.clone(),
            directory: directory.clone(),
        };
        let pace = Pace { cpu: placement.shards[index], spin: config.shards.spin };
        joins.push(start_shard(index, pace, part, started.clone())?);
    }
    drop(started);
    code::bring_in();
    let joins = await_starts(&starts, joins)?;

    ready(&Ready {
        public,
        tls,
        admin: http.admin_address,
        internal: http.internal_address,
        endpoint_meta: http.endpoint_meta_address,
        shards,
    });
    phase.serve();
    systemd::notify_ready();
    let lanes = Rc::new(RefCell::new(control_lanes));
    let exit = control::run(ControlSpec {
        core: placement.control,
        ports: ports(&lanes, &bells),
        bell: LaneBell(lanes),
        wake: duplicate(&control_bell)?,
        phase,
        probe: control_probe,
        admin: Some(http.admin),
        internal: http.internal,
        shown: http.shown,
        keys,
        certificates,
        validation: validation_rules(&config),
        settings: settings(&config, drain),
        nodes: node_rules(&config, node),
        instance: lessee.instance,
        redis,
        holder: http.holder,
        spans: span_export(&config, node),
        kafka: kafka(&config, node),
        targets: targets(&config),
        reload: reload_hook(config, source),
        snapshot,
        asks: http.asks,
        seed: fastrand::u64(..),
    })?;
    if exit == Exit::Drained {
        await_ends(joins);
    }
    Ok(exit)
}

fn mesh_shape(config: &Config, shards: usize) -> MeshShape {
    MeshShape {
        shards: shards as u8,
        capacity: config.shards.lane_capacity,
        control_capacity: CONTROL_LANE,
        buffers: config.shards.receive_buffers as u16,
    }
}

fn await_ends(joins: Vec<Join>) {
    for join in joins {
        if let Err(reason) = join() {
            error!(%reason, "a shard's executor failed");
        }
    }
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

fn bell() -> Result<EventBell, StartError> {
    EventBell::new().map_err(StartError::Bell)
}

fn duplicate(bell: &EventBell) -> Result<OwnedFd, StartError> {
    bell.as_fd().try_clone_to_owned().map_err(StartError::Bell)
}
