//! Links: one WebSocket connection to a backend that carries many sessions (docs/LINK.md). The
//! gateway's side, sans-IO: it dials, masks what it sends, and keeps tags and credit.
//!
//! Assembling WebSocket messages from received bytes, and answering a Close, is the work of `wire`.
//! What a message means is decided here; its body is named by a range and never copied.

mod body;
mod credit;
mod endpoints;
mod error;
mod frame;
mod handshake;
mod json;
mod prefix;
mod receive;
mod send;
mod sessions;
mod tags;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::time::Duration;

pub use body::Gateway;
pub use credit::Window;
pub use endpoints::Announcement;
pub use error::{LinkError, NotSent};
pub use frame::SendBuffer;
pub use handshake::{
    RESPONSE_BYTES_MAX, SUBPROTOCOL, parse_upgrade_response, write_upgrade_request,
};
pub use prefix::{Kind, NO_ENDPOINT, PREFIX_LEN, Prefix};
pub use receive::{Dropped, Inbound, Push};
pub use send::Data;

use crate::clock::Instant;
use crate::id::{ConnectionKey, ServiceId};
use crate::identity::Identity;
use crate::snapshot::Snapshot;
use crate::upstream::trace::TRACE_LEN;
use endpoints::Endpoints;
use frame::OpCode;
use sessions::{Opening, Sessions};
use tags::Tags;

/// Time from the upgrade to the backend's hello.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// Path that is dialled when the configuration names none.
pub const DEFAULT_PATH: &str = "/corelane-link";

/// Longest link message that a backend may send for a service whose largest client payload is
/// `payload_max`: prefix, trace context, 31-byte header, payload.
#[must_use]
pub const fn message_bytes_max(payload_max: usize) -> usize {
    PREFIX_LEN + TRACE_LEN + 31 + payload_max
}

/// Bounds and times of one link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkLimits {
    /// From the first SYN to the upgrade response.
    pub dial_timeout: Duration,
    pub ping_interval: Duration,
    pub pong_timeout: Duration,
    /// What a backend may push to each session before it gets credit back.
    pub window: Window,
    /// Calls outstanding on this link.
    pub calls_max: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    Dialling,
    Upgrading,
    /// Upgraded; the backend's hello is awaited.
    Hello,
    Open,
    /// No new sessions; what is open or running goes on.
    GoingAway,
    Closed,
}

/// A client as its backend gets to know it.
#[derive(Debug, Clone, Copy)]
pub struct Client<'a> {
    pub owner: ConnectionKey,
    pub identity: &'a Identity,
    pub peer: Option<SocketAddr>,
}

/// One link of one shard to one address. `C` names a call for whoever waits for its answer.
///
/// Bounds: calls `<= calls_max`, sessions `<=` connections of the shard, and per session and
/// direction one window of messages and bytes.
#[derive(Debug)]
pub struct Link<C> {
    state: LinkState,
    limits: LinkLimits,
    endpoints: Endpoints,
    sessions: Sessions,
    tags: Tags<Pending<C>>,
    /// From the backend's hello.
    backend_window: Window,
    liveness: Liveness,
    masks: fastrand::Rng,
    /// JSON on its way into a frame.
    json: Vec<u8>,
}

#[derive(Debug)]
struct Pending<C> {
    call: C,
    session: crate::id::SessionId,
    opening: Opening,
    bytes: u32,
}

#[derive(Debug)]
struct Liveness {
    /// While the link is being established: when that must be done.
    deadline: Instant,
    pinged: Instant,
    /// Nothing was received since `pinged`.
    awaiting: bool,
}

impl<C> Link<C> {
    /// A link whose socket is being connected. `seed` feeds the masks.
    #[must_use]
    pub fn new(limits: LinkLimits, seed: u64, now: Instant) -> Self {
        let deadline = now + limits.dial_timeout;
        Self {
            state: LinkState::Dialling,
            limits,
            endpoints: Endpoints::default(),
            sessions: Sessions::new(seed),
            tags: Tags::new(limits.calls_max),
            backend_window: Window { messages: 0, bytes: 0 },
            liveness: Liveness { deadline, pinged: now, awaiting: false },
            masks: fastrand::Rng::with_seed(seed),
            json: Vec::with_capacity(256),
        }
    }

    #[must_use]
    pub fn state(&self) -> LinkState {
        self.state
    }

    /// Sessions open on this link.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Whether a session is open here, so that its next message needs no opening.
    #[must_use]
    pub fn carries(&self, session: crate::id::SessionId) -> bool {
        self.sessions.find(session).is_some()
    }

    /// Calls without an answer.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.tags.outstanding()
    }

    /// The socket is connected and the upgrade request is on its way.
    pub fn connected(&mut self) {
        if self.state == LinkState::Dialling {
            self.state = LinkState::Upgrading;
        }
    }

    /// The upgrade was accepted; [`Self::write_hello`] comes next.
    pub fn upgraded(&mut self, now: Instant) {
        if self.state == LinkState::Upgrading {
            self.state = LinkState::Hello;
            self.liveness.deadline = now + HELLO_TIMEOUT;
        }
    }

    /// Takes over the endpoints of `service` from a new snapshot. Must precede the first hello.
    pub fn adopt(&mut self, snapshot: &Snapshot, service: ServiceId) -> Announcement {
        self.endpoints.adopt(snapshot, service)
    }

    /// The endpoint's index on the wire, if it belongs to this link's service.
    #[must_use]
    pub fn endpoint(&self, endpoint: crate::id::EndpointId) -> Option<u16> {
        self.endpoints.index(endpoint)
    }

    /// Any bytes have come from the backend.
    pub fn heard(&mut self) {
        self.liveness.awaiting = false;
    }

    /// When [`Self::on_timer`] or [`Self::expire`] has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let own = match self.state {
            LinkState::Dialling | LinkState::Upgrading | LinkState::Hello => self.liveness.deadline,
            LinkState::Open | LinkState::GoingAway => self.liveness_deadline(),
            LinkState::Closed => return None,
        };
        Some(self.tags.earliest_deadline().map_or(own, |call| call.min(own)))
    }

    /// Gives up on a backend that is late, and sends a Ping when one is due.
    pub fn on_timer(&mut self, now: Instant, out: &mut impl SendBuffer) -> Result<(), LinkError> {
        match self.state {
            LinkState::Dialling | LinkState::Upgrading if now >= self.liveness.deadline => {
                Err(LinkError::DialTimeout)
            }
            LinkState::Hello if now >= self.liveness.deadline => Err(LinkError::HelloTimeout),
            LinkState::Open | LinkState::GoingAway if now >= self.liveness_deadline() => {
                if self.liveness.awaiting {
                    return Err(LinkError::Silent);
                }
                // Without room the backend is not reading: it is then as silent as without Ping.
                let _unsent = self.write_control(out, OpCode::Ping, &[]).is_err();
                self.liveness.pinged = now;
                self.liveness.awaiting = true;
                Ok(())
            }
            LinkState::Dialling
            | LinkState::Upgrading
            | LinkState::Hello
            | LinkState::Open
            | LinkState::GoingAway
            | LinkState::Closed => Ok(()),
        }
    }

    /// The oldest call whose deadline has passed; to be answered 60. Its credit is given back, and
    /// a late answer is dropped.
    pub fn expire(&mut self, now: Instant) -> Option<C> {
        let pending = self.tags.expire(now)?;
        Some(self.settle(pending))
    }

    /// After the connection was lost or closed: one call after the other, to be answered 60, and
    /// all sessions forgotten.
    pub fn pop_lost(&mut self) -> Option<C> {
        self.state = LinkState::Closed;
        self.sessions.clear();
        self.tags.pop().map(|pending| pending.call)
    }

    /// Gives the call's credit back to the session it was sent under.
    fn settle(&mut self, pending: Pending<C>) -> C {
        if let Some(open) = self.sessions.at(pending.opening) {
            open.sent.give_back(1, pending.bytes);
        }
        pending.call
    }

    fn liveness_deadline(&self) -> Instant {
        let Liveness { pinged, awaiting, .. } = self.liveness;
        pinged + if awaiting { self.limits.pong_timeout } else { self.limits.ping_interval }
    }

    fn mask(&mut self) -> [u8; 4] {
        self.masks.u32(..).to_ne_bytes()
    }
}
