//! The other nodes: one link to each, over which messages and broadcasts of their sessions come and
//! those of this node's sessions leave, and over which services reach the sessions of another node.
//! Decides without I/O; the sockets are in `socket.rs`, one task each.
//!
//! Both nodes of a pair may dial. The one with the lesser instance id says which link is used, and
//! closes the others; so there is one at a time, and what a sender says stays in order.

mod broadcasts;
mod counts;
mod handovers;
mod handshake;
mod letters;
mod link;
mod opening;
mod requests;
mod said;
mod socket;
mod targets;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use ahash::AHashMap;
use bytes::Bytes;
use corelane_shard::clock::Instant;
use corelane_shard::id::{Epoch, SessionId};
use corelane_shard::lane::WayBack;
use corelane_shard::wire::guid::{PeerKeys, PeerRoute};
use corelane_shard::wire::header::Priority;
use tokio::sync::mpsc;
use tracing::{info, warn};
use uuid::Uuid;

pub use self::broadcasts::BroadcastMode;
use self::counts::LinkEnded;
pub(super) use self::counts::{Handover, NotBroadcast, NotRelayed};
pub use self::counts::{NoResponse, NodeCounts};
pub(super) use self::handovers::{LeftBehind, TakenUp};
pub(super) use self::handshake::{accept, dial, serve_accepted};
pub(super) use self::letters::refused;
use self::link::{Dialect, Link, LinkEnd, Phase, What};
pub use self::link::{LinkId, Seat};
pub(super) use self::link::{LinkNews, Waiting};
use self::opening::{LINKS_MAX, linked};
pub use self::requests::{ANSWERING_MAX, Origin, Request, Response, Route};
use self::said::{Malformed, Said};
use self::targets::Targets;
use super::probe::ControlProbe;
use crate::config::{NodeUrl, Secret};

/// What this node is to others.
#[derive(Debug, Clone)]
pub struct NodeRules {
    /// In the GUIDs of its sessions.
    pub number: u16,
    pub broadcast: BroadcastMode,
    /// Where others reach it.
    pub url: NodeUrl,
    pub peers: Vec<NodeUrl>,
    /// Presented to the nodes that are dialled.
    pub token: Option<Secret>,
}

/// What the control core has to do about something that came from a link.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Nothing,
    /// For a session of this node.
    Letter {
        route: PeerRoute,
        message: Bytes,
        priority: Priority,
        back: WayBack,
    },
    /// For all sessions of this node.
    Broadcast {
        message: Bytes,
        priority: Priority,
    },
    /// These hear what became of their messages.
    Answers(Vec<Waiting>),
    /// To be answered by [`Nodes::respond`], once.
    Request(Origin, Request),
    /// To be answered by [`Nodes::hand_over`], once.
    TakenUp(LinkId, TakenUp),
    /// The answer to [`Nodes::take_up`]; `None` if nothing can be told.
    HandedOver {
        session: SessionId,
        epoch: Epoch,
        left: Option<LeftBehind>,
    },
}

impl Heard {
    fn answers(waiting: Vec<Waiting>) -> Self {
        if waiting.is_empty() { Self::Nothing } else { Self::Answers(waiting) }
    }
}

#[derive(Debug)]
pub(super) struct Nodes {
    rules: NodeRules,
    instance: Uuid,
    keys: PeerKeys,
    links: AHashMap<LinkId, Link>,
    /// Open links, by the node's number.
    by_node: AHashMap<u16, LinkId>,
    targets: Targets,
    /// Bytes in all queues.
    held: Arc<AtomicUsize>,
    next_link: u64,
    numbers: Numbers,
    /// Requests of other nodes that have no response yet.
    answering: usize,
    /// A node of the registry was lost.
    lost_found: bool,
    news: mpsc::Sender<LinkNews>,
    shut: bool,
    probe: Arc<ControlProbe>,
}

impl Nodes {
    /// The receiver is what [`Self::hear`] is to be fed from.
    pub(super) fn new(
        rules: NodeRules,
        instance: Uuid,
        keys: PeerKeys,
        seed: u64,
        probe: Arc<ControlProbe>,
    ) -> (Self, mpsc::Receiver<LinkNews>) {
        let (news, heard) = mpsc::channel(NEWS_MAX);
        let random = fastrand::Rng::with_seed(seed);
        let targets = Targets::new(rules.url.clone(), &rules.peers, random);
        let this = Self {
            rules,
            instance,
            keys,
            links: AHashMap::new(),
            by_node: AHashMap::new(),
            targets,
            held: Arc::default(),
            next_link: 0,
            numbers: Numbers::default(),
            answering: 0,
            lost_found: false,
            news,
            shut: false,
            probe,
        };
        (this, heard)
    }

    /// When [`Self::tick`] or [`Self::next_dial`] has something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        let opening = self.links.values().filter(|link| link.phase != Phase::Open);
        let opening = opening.map(|link| link.opens_by).min();
        let dial = if self.shut || self.links.len() >= LINKS_MAX {
            None
        } else {
            self.targets.due(linked(&self.links))
        };
        let late = self.links.values().filter_map(Link::next_late).min();
        [opening, dial, late].into_iter().flatten().min()
    }

    /// Takes what the task of a link tells.
    pub(super) fn hear(&mut self, news: LinkNews, now: Instant) -> Heard {
        let LinkNews { link: id, what } = news;
        if !self.links.contains_key(&id) {
            return Heard::Nothing;
        }
        match what {
            What::Connected(dialect) => self.connected(id, dialect, now),
            What::Said(bytes) => match self.hear_said(id, &bytes, now) {
                Ok(heard) => heard,
                Err(reason) => {
                    warn!(%reason, "a link to another node is closed");
                    self.end(id, LinkEnded::Malformed, 1002, "a frame that no node sends", now)
                }
            },
            What::Ended(end) => {
                let how = match end {
                    LinkEnd::Unreachable(reason) => {
                        info!(%reason, "another node cannot be reached");
                        LinkEnded::Unreachable
                    }
                    LinkEnd::Closed => LinkEnded::Closed,
                    LinkEnd::Lost => LinkEnded::Lost,
                    LinkEnd::Silent => LinkEnded::Silent,
                    LinkEnd::Malformed => LinkEnded::Malformed,
                };
                self.end(id, how, 1000, "", now)
            }
        }
    }

    fn hear_said(&mut self, id: LinkId, bytes: &Bytes, now: Instant) -> Result<Heard, Malformed> {
        let Some(link) = self.links.get_mut(&id) else { return Ok(Heard::Nothing) };
        if link.dialect == Dialect::Broadcasts {
            let (message, priority) = (said::broadcast(bytes)?, Priority::Normal);
            return Ok(self.hear_broadcast(message, priority));
        }
        match Said::decode(bytes)? {
            Said::Hello(_) if link.hello.is_some() => Err(Malformed::Hello),
            Said::Hello(hello) => Ok(self.hear_hello(id, hello, now)),
            _ if link.hello.is_none() => Err(Malformed::Hello),
            Said::Use => Ok(self.use_link(id, now)),
            Said::Broadcast { message, priority } => Ok(self.hear_broadcast(message, priority)),
            Said::Letter { message, priority, ticket } => {
                Ok(self.hear_letter(id, message, priority, ticket, now))
            }
            Said::Answer { header, delivered, ticket } => {
                Ok(self.hear_answer(id, &header, delivered, ticket))
            }
            Said::Request { number, request } => Ok(self.hear_request(id, number, request)),
            Said::Response { number, response } => {
                self.hear_response(id, number, response);
                Ok(Heard::Nothing)
            }
            Said::TakenUp(taken) => Ok(Heard::TakenUp(id, taken)),
            Said::HandedOver { session, epoch, left } => {
                Ok(Heard::HandedOver { session, epoch, left })
            }
        }
    }
}

/// Numbers of what is sent, without 0.
#[derive(Debug, Default)]
struct Numbers(u32);

impl Numbers {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(1).max(1);
        self.0
    }
}

/// All that links hold: what waits for them, what they have told, what their sockets buffer, and
/// requests that are being answered.
pub const LINKS_BYTES_MAX: usize = link::ALL_BYTES_MAX
    + NEWS_MAX * said::LINK_MESSAGE_BYTES_MAX
    + LINKS_MAX * 2 * socket::SOCKET_BUFFER_BYTES
    + 2 * ANSWERING_MAX * said::LINK_MESSAGE_BYTES_MAX;

/// What links have told and the control core has not heard.
const NEWS_MAX: usize = 32;
