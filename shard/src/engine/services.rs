//! The backends of this shard's services: where they are, how they are, and who is connected.

use std::collections::VecDeque;
use std::time::Duration;

use super::Engine;
use super::http_upstream::Job;
use crate::clock::Instant;
use crate::id::{ConnectionKey, EndpointId, ServiceId, SessionId};
use crate::snapshot::{Address, Endpoint, Service, Snapshot, UpstreamKind};
use crate::sockets::Sockets;
use crate::upstream::breaker::Breaker;
use crate::upstream::http::{RequestHead, ResponseLimits};
use crate::upstream::placement::Rendezvous;
use crate::wire::header::ResponseHeader;

/// What a body needs in front of it to leave from where it lies: the longest frame header and the
/// protocol's own. Any head that a body can follow is longer.
const ANSWER_HEADROOM: usize = 10 + ResponseHeader::LEN;

/// Pause before a lost link is dialled again; doubles up to the maximum.
const REDIAL_MIN: Duration = Duration::from_millis(100);
const REDIAL_MAX: Duration = Duration::from_secs(5);

/// One address of one service, by position in the shard's list; the position outlives the address
/// being dropped from the service until nothing uses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BackendId(pub(super) usize);

/// One address of one service, as this shard knows it.
#[derive(Debug)]
pub(super) struct Backend {
    pub(super) service: ServiceId,
    pub(super) address: Address,
    /// Still among the service's addresses.
    pub(super) listed: bool,
    pub(super) breaker: Breaker,
    /// HTTP calls under way.
    pub(super) in_flight: usize,
    /// Open or opening connections, idle ones included.
    pub(super) connections: usize,
    /// Idle HTTP connections, the most recently used last.
    pub(super) idle: Vec<ConnectionKey>,
    pub(super) links: Vec<LinkPlace>,
    /// Links that were replaced and finish what runs on them.
    pub(super) retired: Vec<ConnectionKey>,
}

/// One of the links that this shard keeps to a backend.
#[derive(Debug, Default)]
pub(super) struct LinkPlace {
    pub(super) key: Option<ConnectionKey>,
    /// A fresh link that takes over from `key` when it is ready, after a goaway.
    pub(super) successor: Option<ConnectionKey>,
    pub(super) failures: u32,
    pub(super) dial_at: Option<Instant>,
}

/// One service of the configuration, as this shard serves it.
#[derive(Debug)]
pub(super) struct ServiceState {
    pub(super) backends: Vec<BackendId>,
    pub(super) rendezvous: Rendezvous,
    /// Calls handed to backends and not answered. `running <= running_max`
    pub(super) running: usize,
    pub(super) connections: usize,
    pub(super) turn: usize,
    /// HTTP calls that wait for a connection; part of `running`.
    pub(super) queue: VecDeque<Job>,
    pub(super) response: ResponseLimits,
}

/// Everything upstream of one shard.
#[derive(Debug)]
pub(super) struct Upstreams {
    pub(super) services: Vec<ServiceState>,
    pub(super) backends: Vec<Backend>,
    /// By endpoint; `None` for those that are not called over HTTP.
    pub(super) heads: Vec<Option<RequestHead>>,
    /// Links that wait to be dialled exist.
    pub(super) redials: usize,
}

impl Upstreams {
    pub(super) fn new(snapshot: &Snapshot) -> Self {
        let services = snapshot.services.iter().map(ServiceState::new).collect();
        Self { services, backends: Vec::new(), heads: heads(snapshot), redials: 0 }
    }

    /// Takes over a newer configuration, which has appended to the one before.
    pub(super) fn adopt(&mut self, snapshot: &Snapshot) {
        let known = self.services.len();
        for (state, service) in self.services.iter_mut().zip(&snapshot.services) {
            state.response = ResponseLimits::of(service, ANSWER_HEADROOM);
        }
        self.services.extend(snapshot.services.iter().skip(known).map(ServiceState::new));
        self.heads = heads(snapshot);
    }

    pub(super) fn service(&mut self, id: ServiceId) -> Option<&mut ServiceState> {
        self.services.get_mut(usize::from(id.0))
    }

    pub(super) fn head(&self, endpoint: EndpointId) -> Option<&RequestHead> {
        self.heads.get(usize::from(endpoint.0))?.as_ref()
    }

    pub(super) fn backend(&mut self, id: BackendId) -> Option<&mut Backend> {
        self.backends.get_mut(id.0)
    }

    /// A place for a new address, reusing one that nothing refers to any more.
    fn add_backend(&mut self, backend: Backend) -> BackendId {
        let free = self.backends.iter().position(Backend::is_unused);
        match free {
            Some(at) => {
                self.backends[at] = backend;
                BackendId(at)
            }
            None => {
                self.backends.push(backend);
                BackendId(self.backends.len() - 1)
            }
        }
    }
}

fn heads(snapshot: &Snapshot) -> Vec<Option<RequestHead>> {
    let head = |endpoint: &Endpoint| {
        let service = snapshot.services.get(usize::from(endpoint.service.0))?;
        match service.kind {
            UpstreamKind::Http => {
                RequestHead::new(endpoint.method, &service.host, &endpoint.path).ok()
            }
            UpstreamKind::Link { .. } => None,
        }
    };
    snapshot.endpoints.iter().map(head).collect()
}

impl ServiceState {
    fn new(service: &Service) -> Self {
        Self {
            backends: Vec::new(),
            rendezvous: Rendezvous::new(&[]),
            running: 0,
            connections: 0,
            turn: 0,
            queue: VecDeque::new(),
            response: ResponseLimits::of(service, ANSWER_HEADROOM),
        }
    }
}

impl Backend {
    fn new(service: ServiceId, address: Address, links: usize) -> Self {
        Self {
            service,
            address,
            listed: true,
            breaker: Breaker::new(),
            in_flight: 0,
            connections: 0,
            idle: Vec::new(),
            links: (0..links).map(|_| LinkPlace::default()).collect(),
            retired: Vec::new(),
        }
    }

    fn is_unused(&self) -> bool {
        let idle = self.connections == 0 && self.in_flight == 0;
        !self.listed && idle && self.links.iter().all(|place| place.dial_at.is_none())
    }
}

impl<S: Sockets> Engine<S> {
    /// The control core has resolved a service's addresses.
    pub(super) fn set_addresses(&mut self, id: ServiceId, addresses: &[Address]) {
        let Some(service) = self.snapshot.services.get(usize::from(id.0)) else {
            return;
        };
        let links = match service.kind {
            UpstreamKind::Http => 0,
            UpstreamKind::Link { .. } => service.connections_max.max(1),
        };
        let mut listed = Vec::with_capacity(addresses.len());
        for address in addresses {
            let known = (0..self.upstreams.backends.len()).map(BackendId).find(|at| {
                let backend = &self.upstreams.backends[at.0];
                backend.service == id && &backend.address == address && !backend.is_unused()
            });
            listed.push(known.unwrap_or_else(|| {
                self.upstreams.add_backend(Backend::new(id, address.clone(), links))
            }));
        }
        for at in 0..self.upstreams.backends.len() {
            if self.upstreams.backends[at].service == id {
                self.upstreams.backends[at].listed = listed.contains(&BackendId(at));
            }
        }
        if let Some(state) = self.upstreams.service(id) {
            state.rendezvous = Rendezvous::new(addresses);
            state.backends.clone_from(&listed);
        }
        self.drop_unlisted(id);
        if links > 0 {
            for backend in listed {
                self.dial_missing_links(backend);
            }
        }
    }

    /// Idle connections to addresses that are gone; busy ones end by themselves.
    fn drop_unlisted(&mut self, id: ServiceId) {
        for at in 0..self.upstreams.backends.len() {
            let backend = &mut self.upstreams.backends[at];
            if backend.service != id || backend.listed {
                continue;
            }
            let idle = std::mem::take(&mut backend.idle);
            let links: Vec<_> = backend.links.iter().filter_map(|place| place.key).collect();
            for key in idle {
                self.lost(key, "address dropped");
            }
            for key in links {
                self.retire_link(key);
            }
        }
    }

    fn dial_missing_links(&mut self, id: BackendId) {
        let Some(backend) = self.upstreams.backend(id) else {
            return;
        };
        for place in 0..backend.links.len() {
            let at = &self.upstreams.backends[id.0].links[place];
            if at.key.is_none() && at.dial_at.is_none() {
                self.dial_link(id, place);
            }
        }
    }

    /// Notes that a link is missing and when to try again.
    pub(super) fn redial_later(&mut self, id: BackendId, place: usize) {
        let now = self.now.mono;
        let jitter = self.random.f64();
        let Some(backend) = self.upstreams.backend(id) else {
            return;
        };
        let listed = backend.listed;
        let Some(place) = backend.links.get_mut(place) else {
            return;
        };
        if !listed || place.dial_at.is_some() || self.drain.is_ending() {
            return;
        }
        let pause = REDIAL_MIN.saturating_mul(1 << place.failures.min(8)).min(REDIAL_MAX);
        place.failures += 1;
        place.dial_at = Some(now + pause.mul_f64(0.5 + jitter / 2.0));
        self.upstreams.redials += 1;
    }

    /// Dials links whose pause is over, if they are still wanted. Cheap when none waits.
    pub(super) fn dial_due_links(&mut self) {
        if self.upstreams.redials == 0 {
            return;
        }
        let now = self.now.mono;
        for at in 0..self.upstreams.backends.len() {
            for place in 0..self.upstreams.backends[at].links.len() {
                let backend = &mut self.upstreams.backends[at];
                let wanted = backend.listed && !self.drain.is_ending();
                let link = &mut backend.links[place];
                if link.dial_at.is_some_and(|due| due <= now) {
                    link.dial_at = None;
                    self.upstreams.redials -= 1;
                    if wanted {
                        self.dial_link(BackendId(at), place);
                    }
                }
            }
        }
    }

    /// When the next link is to be dialled.
    pub(super) fn next_redial(&self) -> Option<Instant> {
        if self.upstreams.redials == 0 {
            return None;
        }
        let places = self.upstreams.backends.iter().flat_map(|backend| &backend.links);
        places.filter_map(|place| place.dial_at).min()
    }

    /// The link that carries `session` for `service`: where the session lives among the backends
    /// that are reachable, always the same one while that does not change.
    pub(super) fn link_of(&self, service: ServiceId, session: SessionId) -> Option<ConnectionKey> {
        let state = self.upstreams.services.get(usize::from(service.0))?;
        state.rendezvous.place(session, |at| self.usable_link(state.backends[at], session))
    }

    fn usable_link(&self, backend: BackendId, session: SessionId) -> Option<ConnectionKey> {
        let links = &self.upstreams.backends[backend.0].links;
        let spread = session.0 as usize;
        let key = links.get(spread % links.len().max(1))?.key?;
        self.link_is_usable(key, session).then_some(key)
    }
}
