//! How links begin and end: whom this node dials and lets in, who says hello, and which of several
//! links of a pair is used.

use std::time::Duration;

use ahash::AHashMap;
use corelane_shard::clock::Instant;
use corelane_shard::id::{Generation, ShardId, Slot};
use corelane_shard::wire::guid::{Guid, PeerRoute};
use tracing::{error, info, warn};
use uuid::Uuid;

use super::counts::{LinkEnded, NoResponse, NotRelayed};
use super::handshake::Dial;
use super::link::{Dialect, Link, LinkId, Phase, Seat};
use super::requests::Asking;
use super::said::{Hello, Said};
use super::{BroadcastMode, Heard, Nodes};
use crate::control::registry::NodeRecord;

impl Nodes {
    /// A node that is to be dialled now, if there is one.
    pub(in crate::control) fn next_dial(&mut self, now: Instant) -> Option<Dial> {
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
    pub(in crate::control) fn accept(&mut self, instance: Uuid, now: Instant) -> Option<Seat> {
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

    /// Gives up links on which nobody says who he is, and requests that nobody answers.
    pub(in crate::control) fn tick(&mut self, now: Instant) {
        let late = |link: &Link| link.phase != Phase::Open && link.opens_by <= now;
        let late: Vec<_> =
            self.links.iter().filter(|(_, link)| late(link)).map(|(id, _)| *id).collect();
        for id in late {
            self.end(id, LinkEnded::Silent, 1008, "no hello", now);
        }
        self.give_up_requests(now);
    }

    /// Who is in the registry at present: they are dialled like configured ones, and those who are
    /// there no longer, unless they are configured, are not dialled again.
    pub(in crate::control) fn found(&mut self, records: &[NodeRecord], now: Instant) {
        let others = records.iter().filter(|record| record.instance != self.instance);
        self.targets.found(others.map(|record| (record.instance, &record.url)), now);
        self.probe.nodes.found.set(self.targets.found_now() as u64);
    }

    /// Whether somebody whom the registry named was lost since the last call: it may have gone from
    /// there, too.
    pub(in crate::control) fn take_lost_found(&mut self) -> bool {
        std::mem::take(&mut self.lost_found)
    }

    pub(super) fn connected(&mut self, id: LinkId, dialect: Dialect, now: Instant) -> Heard {
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
                    requests: true,
                    handovers: true,
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
                // It says no hello; the registry may have said who it is.
                let instance = link.instance.or_else(|| self.targets.instance_of(id));
                link.instance = instance;
                for (other, link) in &mut self.links {
                    link.superseded |= *other != id
                        && link.phase == Phase::Open
                        && link.dialect == Dialect::Broadcasts
                        && instance.is_some()
                        && link.instance == instance;
                }
                self.opened(id);
                Heard::Nothing
            }
        }
    }

    /// The other node says who it is.
    pub(super) fn hear_hello(&mut self, id: LinkId, hello: Hello, now: Instant) -> Heard {
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
    pub(super) fn use_link(&mut self, id: LinkId, now: Instant) -> Heard {
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
    pub(super) fn end(
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
        let found = self.targets.ended(id, link.instance, now);
        self.lost_found |= found && !link.instance.is_some_and(linked(&self.links));
        let (waiting, asking) = link.close(code, reason);
        for _ in &waiting {
            self.probe.nodes.not_relayed(NotRelayed::LinkLost);
        }
        for Asking { answer, .. } in asking {
            self.probe.nodes.no_response(NoResponse::LinkLost);
            let _unheard = answer.send(Err(NoResponse::LinkLost));
        }
        self.count();
        Heard::answers(waiting)
    }

    /// The process ends: every link is closed, and none begun.
    pub(in crate::control) fn shut_down(&mut self, now: Instant) {
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
pub(super) fn linked(links: &AHashMap<LinkId, Link>) -> impl Fn(Uuid) -> bool {
    |instance| {
        links.values().any(|link| link.phase == Phase::Open && link.instance == Some(instance))
    }
}

/// Links at one time, those that open included.
pub(super) const LINKS_MAX: usize = 64;
/// For the handshake and both hellos.
pub(super) const OPENING_MAX: Duration = Duration::from_secs(10);
