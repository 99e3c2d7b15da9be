//! The shards' threads: what each is given, and how their start is awaited.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;

use arc_swap::ArcSwap;
use corelane_shard::buffers::ReceiveBuffers;
use corelane_shard::engine::{Engine, EngineOptions, Surroundings};
use corelane_shard::lane::{EventBell, ShardLanes};
use corelane_shard::probe::Probe;
use corelane_shard::pump::{self, Pace};
use corelane_shard::ring::{ListenOptions, RingDirectory, RingSizes, Uring, listen};
use corelane_shard::snapshot::Snapshot;
use tracing::error;

use super::StartError;
use crate::auth::{JwtAuthenticator, KeySet};
use crate::config::Config;
use crate::control::Authority;

const KEEPALIVE: Duration = Duration::from_secs(60);
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// Everything that moves to a shard's thread.
pub(super) struct ShardPart {
    pub(super) lanes: ShardLanes,
    pub(super) listeners: Vec<OwnedFd>,
    pub(super) options: EngineOptions,
    pub(super) sizes: RingSizes,
    pub(super) buffers: (u16, usize),
    pub(super) batch_window: Option<Duration>,
    pub(super) keys: Arc<ArcSwap<KeySet>>,
    pub(super) asks_auth_service: bool,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) probe: Arc<Probe>,
    pub(super) wake: OwnedFd,
    pub(super) control_bell: EventBell,
    pub(super) directory: RingDirectory,
    /// Of a node among others.
    pub(super) authority: Option<Arc<Authority>>,
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
        let authenticator = JwtAuthenticator::new(self.keys);
        let authenticator =
            if self.asks_auth_service { authenticator.asking() } else { authenticator };
        let bell = self.control_bell;
        let surroundings = Surroundings {
            lanes: self.lanes,
            authenticator: Box::new(authenticator),
            snapshot: self.snapshot,
            probe: self.probe,
            is_sure: self.authority.map(asking),
            control_bell: Box::new(move || {
                if let Err(reason) = bell.ring() {
                    error!(%reason, "the control core cannot be woken");
                }
            }),
        };
        Ok(Engine::new(ring, buffers, self.options, surroundings, pump::sample_clocks()))
    }
}

fn asking(authority: Arc<Authority>) -> Box<dyn Fn() -> bool> {
    Box::new(move || authority.is_sure())
}

pub(super) type Started = (usize, io::Result<()>);

/// Waits for the end of a shard's thread.
pub(super) type Join = Box<dyn FnOnce() -> io::Result<()>>;

pub(super) fn start_shard(
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
pub(super) fn await_starts(
    starts: &Receiver<Started>,
    mut joins: Vec<Join>,
) -> Result<Vec<Join>, StartError> {
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

/// The listeners of clients, and where they are.
pub(super) struct Bound {
    /// By shard; those that speak TLS stand behind the others.
    pub(super) listeners: Vec<Vec<OwnedFd>>,
    pub(super) public: Vec<SocketAddr>,
    pub(super) tls: Vec<SocketAddr>,
}

/// One listener per shard and address. The first shard's tells the real port where it was 0.
pub(super) fn bind_public(config: &Config, shards: usize) -> Result<Bound, StartError> {
    let options = ListenOptions {
        backlog: config.listen_public.backlog as i32,
        keepalive: KEEPALIVE,
        user_timeout: USER_TIMEOUT,
        send_buffer: None,
        receive_buffer: None,
    };
    let mut listeners: Vec<Vec<OwnedFd>> = (0..shards).map(|_| Vec::new()).collect();
    let mut bind = |key, addresses: &[SocketAddr]| {
        let mut found = Vec::with_capacity(addresses.len());
        for &wanted in addresses {
            let mut address = wanted;
            for own in &mut listeners {
                let failed = |source| StartError::Listen { key, address, source };
                let socket = listen(address, &options).map_err(failed)?;
                let bound = socket2::SockRef::from(&socket).local_addr().map_err(failed)?;
                address = bound.as_socket().unwrap_or(address);
                own.push(socket);
            }
            found.push(address);
        }
        Ok::<_, StartError>(found)
    };
    let public = bind("listen.public.address", &config.listen_public.address)?;
    let tls = bind("listen.tls.address", &config.listen_tls.address)?;
    Ok(Bound { listeners, public, tls })
}
