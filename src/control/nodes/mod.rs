//! The other nodes: one link to each, over which messages and broadcasts of their sessions come and
//! those of this node's sessions leave. Decides without I/O; the sockets are in `socket.rs`, one
//! task each.
//!
//! Both nodes of a pair may dial. The one with the lesser instance id says which link is used, and
//! closes the others; so there is one at a time, and what a sender says stays in order.

mod counts;
mod handshake;
mod link;
mod said;
mod socket;
mod targets;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use ahash::AHashMap;
use bytes::Bytes;
use corelane_shard::clock::Instant;
use corelane_shard::id::{ConnectionKey, Generation, ShardId, Slot};
use corelane_shard::lane::{Abroad, Acknowledge, AnswerFromAbroad, WayBack};
use corelane_shard::wire::guid::{Guid, PeerKeys, PeerRoute};
use corelane_shard::wire::header::{Priority, RequestHeader};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tracing::{error, info, warn};
use uuid::Uuid;

use self::counts::LinkEnded;
pub use self::counts::NodeCounts;
pub(super) use self::counts::{NotBroadcast, NotRelayed};
pub(super) use self::handshake::{Dial, accept, dial, serve_accepted};
pub use self::link::Seat;
pub(super) use self::link::{Dialect, LinkId, LinkNews, Waiting};
use self::link::{Link, LinkEnd, Phase, What};
use self::said::{Hello, Malformed, Said, Ticket};
use self::targets::Targets;
use super::probe::ControlProbe;
use crate::config::{NodeUrl, Secret};

/// Which broadcasts cross nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BroadcastMode {
    None,
    Send,
    Receive,
    Both,
}

impl BroadcastMode {
    #[must_use]
    pub fn sends(self) -> bool {
        matches!(self, Self::Send | Self::Both)
    }

    #[must_use]
    pub fn receives(self) -> bool {
        matches!(self, Self::Receive | Self::Both)
    }
}

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
    next_number: u32,
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
            next_number: 0,
            news,
            shut: false,
            probe,
        };
        (this, heard)
    }

    /// A node that is to be dialled now, if there is one.
    pub(super) fn next_dial(&mut self, now: Instant) -> Option<Dial> {
        if self.shut || self.links.len() >= LINKS_MAX {
            return None;
        }
        let link = LinkId(self.next_link + 1);
        let linked = linked(&self.links);
        let url = self.targets.dial(now, linked, link)?;
        self.probe.nodes.dials.increment();
        let seat = self.begin(now, None);
        Some(Dial { url, own: self.instance, token: self.rules.token.clone(), seat })
    }

    /// A place for a link that another node has dialled; `None` when there are too many.
    pub(super) fn accept(&mut self, instance: Uuid, now: Instant) -> Option<Seat> {
        if self.shut || self.links.len() >= LINKS_MAX {
            return None;
        }
        Some(self.begin(now, Some(instance)))
    }

    fn begin(&mut self, now: Instant, instance: Option<Uuid>) -> Seat {
        self.next_link += 1;
        let id = LinkId(self.next_link);
        let (link, seat) = Link::new(id, now + OPENING_MAX, instance, &self.news);
        self.links.insert(id, link);
        self.count();
        seat
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
        [opening, dial].into_iter().flatten().min()
    }

    /// Gives up links on which nobody says who he is.
    pub(super) fn tick(&mut self, now: Instant) {
        let late = |link: &Link| link.phase != Phase::Open && link.opens_by <= now;
        let late: Vec<_> =
            self.links.iter().filter(|(_, link)| late(link)).map(|(id, _)| *id).collect();
        for id in late {
            self.end(id, LinkEnded::Silent, 1008, "no hello", now);
        }
    }

    /// Sends a session's message to its node. Whoever wants to hear of it is kept in mind.
    pub(super) fn send(&mut self, shard: ShardId, abroad: &Abroad) -> Result<(), NotRelayed> {
        let Self { links, by_node, held, next_number, probe, .. } = self;
        let link = by_node.get(&abroad.node).and_then(|id| links.get_mut(id));
        let link = link.ok_or(NotRelayed::NoLink)?;
        let mut number = 0;
        if abroad.acknowledge == Acknowledge::Always {
            if link.waiting.len() >= WAITING_MAX {
                return Err(NotRelayed::AnswersFull);
            }
            *next_number = next_number.wrapping_add(1).max(1);
            number = *next_number;
        }
        let ticket = Ticket { number, sender: packed(shard, abroad.from) };
        let bytes = said::letter(&abroad.message, abroad.priority, ticket);
        link.put(bytes, held).map_err(|_| NotRelayed::QueueFull)?;
        probe.nodes.messages_out.increment();
        if number != 0
            && let Some(waiting) = refused(shard, abroad.from, &abroad.message)
        {
            link.waiting.insert(number, waiting);
        }
        Ok(())
    }

    /// Sends a session's broadcast to every node that receives any.
    pub(super) fn broadcast(&self, message: Box<[u8]>, priority: Priority) {
        let bare = Bytes::from(message);
        let mut prefixed = None;
        for link in self.links.values() {
            if link.phase != Phase::Open || link.superseded {
                continue;
            }
            let bytes = match (&link.dialect, &link.hello) {
                (Dialect::Broadcasts, _) => bare.clone(),
                (Dialect::Node, Some(hello)) if hello.broadcast.receives() => prefixed
                    .get_or_insert_with(|| {
                        Said::Broadcast { message: bare.clone(), priority }.encode()
                    })
                    .clone(),
                (Dialect::Node, _) => continue,
            };
            match link.put(bytes, &self.held) {
                Ok(()) => self.probe.nodes.broadcasts_out.increment(),
                Err(_) => self.probe.nodes.not_broadcast(NotBroadcast::QueueFull),
            }
        }
    }

    /// Tells another node what became of its session's message, where that is wanted. Without room
    /// for it the link ends: who waits there must not wait for ever. Then those who wait here are
    /// returned, who are to be told.
    #[must_use]
    pub(super) fn answer(
        &mut self,
        back: WayBack,
        message: &[u8],
        delivered: bool,
        now: Instant,
    ) -> Vec<Waiting> {
        let id = LinkId(back.link);
        if delivered && back.number == 0 {
            return Vec::new();
        }
        let (Some(link), Ok(header)) = (self.links.get(&id), RequestHeader::parse(message)) else {
            return Vec::new();
        };
        let ticket = Ticket { number: back.number, sender: back.sender };
        let answer = Said::Answer { header, delivered, ticket }.encode();
        if link.put_answer(answer, &self.held).is_ok() {
            return Vec::new();
        }
        match self.end(id, LinkEnded::Overrun, 1013, "answers find no room", now) {
            Heard::Answers(waiting) => waiting,
            _ => Vec::new(),
        }
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

    fn connected(&mut self, id: LinkId, dialect: Dialect, now: Instant) -> Heard {
        let Some(link) = self.links.get_mut(&id) else { return Heard::Nothing };
        link.dialect = dialect;
        match dialect {
            Dialect::Node => {
                let route = PeerRoute {
                    node: self.rules.number,
                    shard: ShardId(0),
                    slot: Slot(0),
                    generation: Generation(0),
                };
                let hello = Said::Hello(Hello {
                    instance: self.instance,
                    node: self.rules.number,
                    broadcast: self.rules.broadcast,
                    proof: self.keys.encode(route).to_string().into(),
                });
                if link.put(hello.encode(), &self.held).is_err() {
                    return self.end(id, LinkEnded::Overrun, 1013, "no room for a hello", now);
                }
                Heard::Nothing
            }
            Dialect::Broadcasts if self.rules.broadcast == BroadcastMode::None => {
                self.end(id, LinkEnded::Refused, 1000, "no broadcasts here", now)
            }
            Dialect::Broadcasts => {
                link.phase = Phase::Open;
                let instance = link.instance;
                for (other, link) in &mut self.links {
                    link.superseded |= *other != id
                        && link.dialect == Dialect::Broadcasts
                        && instance.is_some()
                        && link.instance == instance;
                }
                self.opened(id);
                Heard::Nothing
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
                self.probe.nodes.messages_in.increment();
                let Ticket { number, sender } = ticket;
                let back = WayBack { link: id.0, number, sender };
                let guid = RequestHeader::parse(&message).map(|header| header.guid);
                let route = guid.ok().and_then(|guid| self.keys.decode(guid));
                match route.filter(|route| route.node == self.rules.number) {
                    Some(route) => Ok(Heard::Letter { route, message, priority, back }),
                    None => {
                        self.probe.nodes.not_relayed(NotRelayed::NotHere);
                        Ok(Heard::answers(self.answer(back, &message, false, now)))
                    }
                }
            }
            Said::Answer { header, delivered, ticket } => {
                let waiting = if ticket.number == 0 {
                    let (shard, from) = unpacked(ticket.sender);
                    refused(shard, from, &header.to_bytes())
                } else {
                    link.waiting.remove(&ticket.number)
                };
                let answered = waiting.map(|mut waiting| {
                    waiting.answer.delivered = delivered;
                    waiting
                });
                Ok(Heard::answers(answered.into_iter().collect()))
            }
        }
    }

    fn hear_broadcast(&self, message: Bytes, priority: Priority) -> Heard {
        if !self.rules.broadcast.receives() {
            self.probe.nodes.not_broadcast(NotBroadcast::NotReceiving);
            return Heard::Nothing;
        }
        self.probe.nodes.broadcasts_in.increment();
        Heard::Broadcast { message, priority }
    }

    /// The other node says who it is.
    fn hear_hello(&mut self, id: LinkId, hello: Hello, now: Instant) -> Heard {
        let there = hello.instance;
        let own = there == self.instance;
        self.targets.is_of(id, there, own);
        if own {
            return self.end(id, LinkEnded::Surplus, 1000, "a link to oneself", now);
        }
        let proof: Option<Guid> = hello.proof.parse().ok();
        let route = proof.and_then(|proof| self.keys.decode(proof));
        if route.is_none_or(|route| route.node != hello.node) {
            error!(
                node = hello.node,
                instance = %there,
                "another node has another salt: set session.server_salt to the same on every node"
            );
            return self.end(id, LinkEnded::Refused, 1008, "another salt", now);
        }
        if hello.node == self.rules.number {
            error!(
                node = hello.node,
                instance = %there,
                "another node has this node's number: give each its own control.node"
            );
            return self.end(id, LinkEnded::Refused, 1008, "the node number is taken", now);
        }
        let Some(link) = self.links.get_mut(&id) else { return Heard::Nothing };
        if link.instance.is_some_and(|instance| instance != there) {
            return self.end(id, LinkEnded::Refused, 1008, "another instance than it said", now);
        }
        link.instance = Some(there);
        link.hello = Some(hello);
        if self.instance > there {
            link.phase = Phase::Offered;
            self.count();
            return Heard::Nothing;
        }
        if linked(&self.links)(there) {
            return self.end(id, LinkEnded::Surplus, 1000, "another link is used", now);
        }
        let Some(link) = self.links.get(&id) else { return Heard::Nothing };
        if link.put(Said::Use.encode(), &self.held).is_err() {
            return self.end(id, LinkEnded::Overrun, 1013, "no room", now);
        }
        self.use_link(id, now)
    }

    /// From here on the link carries what there is for its node. One that did so before belongs to a
    /// process that has ended, or is forgotten there.
    fn use_link(&mut self, id: LinkId, now: Instant) -> Heard {
        let Some(link) = self.links.get_mut(&id) else { return Heard::Nothing };
        if link.phase == Phase::Open {
            return Heard::Nothing;
        }
        let (Some(hello), Some(instance)) = (&link.hello, link.instance) else {
            return Heard::Nothing;
        };
        link.phase = Phase::Open;
        let node = hello.node;
        let older = self.by_node.insert(node, id);
        info!(node, %instance, "linked to another node");
        self.opened(id);
        match older {
            Some(older) => {
                let other = self.links.get(&older).and_then(|link| link.instance);
                if other.is_some_and(|other| other != instance) {
                    warn!(node, "the node number has a new owner; if both run, give each its own");
                }
                self.end(older, LinkEnded::Surplus, 1000, "a newer link is used", now)
            }
            None => Heard::Nothing,
        }
    }

    fn opened(&mut self, id: LinkId) {
        let instance = self.links.get(&id).and_then(|link| link.instance);
        self.targets.opened(id, instance);
        self.count();
    }

    /// Whoever waits for an answer over this link hears that there is none.
    fn end(
        &mut self,
        id: LinkId,
        how: LinkEnded,
        code: u16,
        reason: &'static str,
        now: Instant,
    ) -> Heard {
        let Some(link) = self.links.remove(&id) else { return Heard::Nothing };
        self.probe.nodes.ended(how);
        if let Some(hello) = &link.hello
            && self.by_node.get(&hello.node) == Some(&id)
        {
            self.by_node.remove(&hello.node);
            info!(node = hello.node, ?how, "the link to another node has ended");
        }
        self.targets.ended(id, link.instance, now);
        let waiting = link.close(code, reason);
        for _ in &waiting {
            self.probe.nodes.not_relayed(NotRelayed::LinkLost);
        }
        self.count();
        Heard::answers(waiting)
    }

    /// The process ends: every link is closed, and none begun.
    pub(super) fn shut_down(&mut self, now: Instant) {
        self.shut = true;
        let all: Vec<_> = self.links.keys().copied().collect();
        for id in all {
            self.end(id, LinkEnded::Shutdown, 1000, "shutdown", now);
        }
    }

    fn count(&self) {
        let open = self.links.values().filter(|link| link.phase == Phase::Open).count();
        self.probe.nodes.open.set(open as u64);
        self.probe.nodes.opening.set((self.links.len() - open) as u64);
    }
}

/// Whether an instance has a link that is open.
fn linked(links: &AHashMap<LinkId, Link>) -> impl Fn(Uuid) -> bool {
    |instance| {
        links.values().any(|link| link.phase == Phase::Open && link.instance == Some(instance))
    }
}

/// Who is to hear what becomes of a message: as yet, that it was refused.
pub(super) fn refused(shard: ShardId, to: ConnectionKey, message: &[u8]) -> Option<Waiting> {
    let header = RequestHeader::parse(message).ok()?;
    let (reply, guid) = (header.reply_to(), header.guid.0);
    Some(Waiting { shard, answer: AnswerFromAbroad { to, reply, guid, delivered: false } })
}

/// Shard, slot and generation in one number, for the way there and back.
fn packed(shard: ShardId, key: ConnectionKey) -> u64 {
    u64::from(shard.0) << 52 | u64::from(key.slot.0) << 32 | u64::from(key.generation.0)
}

fn unpacked(sender: u64) -> (ShardId, ConnectionKey) {
    let slot = Slot((sender >> 32 & 0xF_FFFF) as u32);
    let generation = Generation(sender as u32 & ((1 << Generation::BITS) - 1));
    (ShardId((sender >> 52) as u8), ConnectionKey { slot, generation })
}

/// All that links hold: what waits for them, what they have told, and what their sockets buffer.
pub const LINKS_BYTES_MAX: usize = link::ALL_BYTES_MAX
    + NEWS_MAX * said::LINK_MESSAGE_BYTES_MAX
    + LINKS_MAX * 2 * socket::SOCKET_BUFFER_BYTES;

/// Links at one time, those that open included.
const LINKS_MAX: usize = 64;
/// Senders that wait for an answer over one link.
const WAITING_MAX: usize = link::ANSWERS_RESERVED;
/// For the handshake and both hellos.
const OPENING_MAX: Duration = Duration::from_secs(10);
/// What links have told and the control core has not heard.
const NEWS_MAX: usize = 32;
