//! One turn of the control core, without I/O: takes what the shards say, decides, and posts what
//! they are told. Lanes, clock and look-ups are the caller's.
//!
//! What the turn is about is next door: sessions that come and go ([`super::sessions`]), records of
//! the bus ([`super::records`]), RPCs ([`super::rpcs`]), questions of the listeners
//! ([`super::answering`]). The end of the process is in [`draining`].

mod draining;

use std::sync::Arc;
use std::task::{Context, Poll};

use ahash::AHashMap;
use corelane_shard::clock::{Instant, Now};
use corelane_shard::id::{ConnectionKey, EndpointId, SessionId, ShardId};
use corelane_shard::identity::{AuthRefusal, Validated};
use corelane_shard::lane::{SessionEnded, ToControl, ToShard, UpgradeRefused};
use corelane_shard::snapshot::Snapshot;
use corelane_shard::wire::guid::PeerKeys;
use tracing::{debug, info};
use uuid::Uuid;

use super::abroad::Handling;
use super::answering::Described;
use super::bus::EventBus;
use super::endpoints::EndpointIndex;
use super::mailboxes::Mailboxes;
use super::nodes::{Nodes, Origin, Request};
use super::port::{Outlet, ShardPort};
use super::probe::ControlProbe;
use super::records::ServiceAddresses;
use super::replays::Replays;
use super::resolve::{AddressBook, ServiceTargets};
use super::rpcs::Rpcs;
use super::spans::SpanQueue;
use super::store::{Claimed, SessionStore};
use super::{CoreRules, Settings};
use crate::events::notices::AdminNotices;
use crate::lifecycle::PhaseCell;
use crate::lifecycle::drain::{Drain, DrainPlan};

pub(super) use self::draining::Termination;

/// The control core's whole state. One per process.
#[derive(Debug)]
pub(super) struct Core<P, S, B> {
    pub(super) outlets: Vec<Outlet<P>>,
    pub(super) store: S,
    pub(super) bus: B,
    pub(super) mailboxes: Mailboxes,
    pub(super) replays: Replays,
    /// It is known where the bus is.
    pub(super) bus_found: bool,
    /// What events have said that sessions may call: a session that is taken up again may, too.
    pub(super) granted: AHashMap<SessionId, Arc<[EndpointId]>>,
    pub(super) rpcs: Rpcs,
    pub(super) described: Described,
    pub(super) rules: CoreRules,
    pub(super) endpoints: EndpointIndex,
    pub(super) service_addresses: ServiceAddresses,
    pub(super) peer_keys: PeerKeys,
    pub(super) admins: AdminNotices,
    /// Of this process, in what it publishes.
    pub(super) instance: Uuid,
    pub(super) random: fastrand::Rng,
    pub(super) book: AddressBook,
    /// `None` while no collector wants spans.
    pub(super) spans: Option<SpanQueue>,
    /// `None` where this node is alone.
    pub(super) nodes: Option<Nodes>,
    /// By shard.
    pub(super) handling: Vec<Handling>,
    /// Of services that have asked another node.
    pub(super) requests_abroad: Vec<(Origin, Request)>,
    /// Other names are to be looked up.
    pub(super) hosts_changed: bool,
    /// For the auth service; bounded by the tokens that each shard may wait for.
    questions: Vec<Question>,
    plan: DrainPlan,
    drain: Option<Drain>,
    phase: Arc<PhaseCell>,
    pub(super) probe: Arc<ControlProbe>,
}

/// What a [`Core`] is made of.
pub(super) struct CoreParts<P, S, B> {
    pub(super) ports: Vec<P>,
    pub(super) store: S,
    pub(super) bus: B,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) targets: Vec<ServiceTargets>,
    pub(super) settings: Settings,
    pub(super) phase: Arc<PhaseCell>,
    pub(super) probe: Arc<ControlProbe>,
    pub(super) seed: u64,
}

/// A token that the auth service is to judge.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) shard: ShardId,
    pub(super) key: ConnectionKey,
    pub(super) token: Box<str>,
}

/// Whether a turn found something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Busy,
    Idle,
}

impl<P: ShardPort, S: SessionStore, B: EventBus> Core<P, S, B> {
    pub(super) fn new(parts: CoreParts<P, S, B>) -> Self {
        let CoreParts { ports, store, bus, snapshot, targets, settings, phase, probe, seed } =
            parts;
        let mut random = fastrand::Rng::with_seed(seed);
        let mut book = AddressBook::default();
        book.replace(snapshot.version, targets.clone());
        Self {
            nodes: None,
            handling: vec![Handling::default(); ports.len()],
            requests_abroad: Vec::new(),
            outlets: ports.into_iter().map(Outlet::new).collect(),
            store,
            bus,
            mailboxes: Mailboxes::new(settings.rules.mailboxes),
            replays: Replays::default(),
            bus_found: false,
            granted: AHashMap::new(),
            rpcs: Rpcs::default(),
            described: Described::default(),
            rules: settings.rules,
            peer_keys: PeerKeys::from_salt(&snapshot.salt),
            admins: AdminNotices::new(&snapshot.salt),
            endpoints: EndpointIndex::new(snapshot),
            service_addresses: ServiceAddresses::new(targets),
            instance: crate::events::event_id(&mut random),
            random,
            book,
            spans: None,
            questions: Vec::new(),
            hosts_changed: false,
            plan: settings.drain,
            drain: None,
            phase,
            probe,
        }
    }

    /// Takes at most [`MESSAGES_PER_TURN`] messages of each shard, then sends what is posted.
    pub(super) fn turn(&mut self, now: Now) -> Turn {
        self.probe.turns.increment();
        let mut turn = Turn::Idle;
        let behind = self.is_behind();
        if behind {
            self.probe.turns_behind.increment();
        } else {
            for index in 0..self.outlets.len() {
                for _ in 0..MESSAGES_PER_TURN {
                    let Some(message) = self.outlets[index].receive() else {
                        break;
                    };
                    turn = Turn::Busy;
                    self.take(ShardId(index as u8), message, now);
                }
            }
        }
        self.announce_decisions(now);
        if !behind && self.take_arrivals(now) {
            turn = Turn::Busy;
        }
        self.look_for_bus();
        self.keep_sessions(now);
        self.forget_expired(now);
        self.give_up_handovers(now);
        self.give_up_rpcs(now);
        self.advance_drain(now.mono);
        if let Some(nodes) = &mut self.nodes {
            nodes.tick(now.mono);
        }
        self.post_address_changes();
        // First what deliveries may speak of.
        self.outlets.iter_mut().for_each(Outlet::send_waiting);
        self.hand_out(now);
        for outlet in &mut self.outlets {
            outlet.flush();
        }
        self.probe.sessions.set(self.store.live() as u64);
        self.probe.sessions_waiting.set(self.store.waiting() as u64);
        self.probe.mailbox_bytes.set(self.mailboxes.bytes() as u64);
        self.probe.mailboxes.set(self.mailboxes.len() as u64);
        self.probe.replaying.set(self.replays.len() as u64);
        // What was left unread has rung already and will not ring again.
        if behind && !self.is_behind() { Turn::Busy } else { turn }
    }

    /// A shard does not read: nothing is taken that would have to be told on.
    pub(super) fn is_behind(&self) -> bool {
        self.outlets.iter().any(Outlet::is_behind)
    }

    /// A lane was full: the next turn is due soon although nobody rings. Events that may not be delivered
    /// wait for news of the store.
    pub(super) fn has_waiting(&self, now: Now) -> bool {
        let ready = self.mailboxes.has_ready() && self.store.may_deliver(now);
        ready || self.outlets.iter().any(Outlet::has_waiting)
    }

    /// When a turn is due although nothing happens.
    pub(super) fn due(&self) -> Option<Instant> {
        let phase = self.drain.as_ref().map(Drain::phase_ends);
        let nodes = self.nodes.as_ref().and_then(Nodes::due);
        let (rpcs, handovers) = (self.rpcs.next_deadline(), self.replays.due());
        [phase, rpcs, handovers, self.store.due(), nodes].into_iter().flatten().min()
    }

    /// Ready when store or bus may have something for the next turn.
    pub(super) fn poll_outside(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let store = self.store.poll_news(context);
        // What a turn would not take is not waited for.
        let bus = if self.is_behind() { Poll::Pending } else { self.bus.poll_arrival(context) };
        if store.is_ready() { store } else { bus }
    }

    /// What the auth service is to be asked; each is answered by [`Self::validated`], once.
    pub(super) fn take_questions(&mut self) -> Vec<Question> {
        std::mem::take(&mut self.questions)
    }

    /// The answer leaves with the next turn.
    pub(super) fn validated(
        &mut self,
        shard: ShardId,
        key: ConnectionKey,
        told: Result<Box<Validated>, AuthRefusal>,
    ) {
        self.post(shard, ToShard::Validated { key, told });
    }

    /// A new configuration for all shards.
    pub(super) fn publish(&mut self, snapshot: &Arc<Snapshot>, targets: Vec<ServiceTargets>) {
        self.book.replace(snapshot.version, targets.clone());
        self.service_addresses.configured(targets);
        self.endpoints = EndpointIndex::new(Arc::clone(snapshot));
        self.remap_services();
        self.tell_all(|| ToShard::Snapshot(Arc::clone(snapshot)));
    }

    /// What the shards have, learned endpoints included.
    pub(super) fn snapshot(&self) -> &Arc<Snapshot> {
        self.endpoints.snapshot()
    }

    pub(super) fn settle(&mut self, settings: Settings) {
        self.store.rule(settings.rules.store);
        self.mailboxes.rule(settings.rules.mailboxes);
        self.plan = settings.drain;
        self.rules = settings.rules;
    }

    /// Whether other names are to be looked up since the last call.
    pub(super) fn take_hosts_changed(&mut self) -> bool {
        std::mem::take(&mut self.hosts_changed)
    }

    fn take(&mut self, shard: ShardId, message: ToControl, now: Now) {
        match message {
            ToControl::Claim { key, claim } => {
                let start = self.bus.live(claim.session());
                self.store.claim(Claimed { shard, key, claim }, start, now);
                self.announce_decisions(now);
            }
            ToControl::Validate { key, token } => {
                self.questions.push(Question { shard, key, token });
            }
            ToControl::Opened { key, session, epoch } => {
                self.opened(shard, key, session, epoch, now);
            }
            ToControl::Release { key, session, epoch, end } => {
                self.released(shard, key, session, epoch, end, now);
            }
            ToControl::Received { session, epoch, place } => {
                if self.mailboxes.confirm(session, place)
                    && let Some(position) = self.reached(session)
                {
                    self.store.reached(session, epoch, position);
                }
            }
            ToControl::TokenReceived { session, epoch } => {
                self.store.token_received(session, epoch);
            }
            ToControl::RpcEnded(ended) => self.rpc_ended(*ended, now),
            ToControl::Described { ticket, session } => self.session_described(ticket, session),
            ToControl::SessionEnded(ended) => log_session(shard, &ended),
            ToControl::UpgradeRefused(refused) => log_refusal(&refused),
            ToControl::Span(span) => {
                if let Some(spans) = &self.spans {
                    spans.put(shard, span, self.endpoints.snapshot());
                }
            }
            ToControl::Abroad(abroad) => self.send_abroad(shard, &abroad),
            ToControl::BroadcastAbroad { message, priority } => {
                self.broadcast_abroad(message, priority);
            }
            ToControl::Arrived { letter, delivered } => {
                self.handled_from_abroad(shard, &letter, delivered, now);
            }
            ToControl::DrainReached { phase, connections } => {
                info!(shard = shard.0, ?phase, connections, "shard drains");
                if let Some(drain) = &mut self.drain {
                    drain.reached(shard, phase);
                }
            }
        }
    }

    fn post_address_changes(&mut self) {
        for change in self.book.changes() {
            self.probe.address_changes.increment();
            self.tell_all(|| ToShard::Addresses {
                version: change.version,
                service: change.service,
                addresses: Arc::clone(&change.addresses),
            });
        }
    }

    pub(super) fn tell_all(&mut self, message: impl Fn() -> ToShard) {
        for outlet in &mut self.outlets {
            outlet.post(message());
        }
    }

    pub(super) fn post(&mut self, shard: ShardId, message: ToShard) {
        if let Some(outlet) = self.outlets.get_mut(usize::from(shard.0)) {
            outlet.post(message);
        }
    }
}

fn log_session(shard: ShardId, ended: &SessionEnded) {
    info!(
        shard = shard.0,
        session = %ended.session,
        close_code = ended.close_code,
        cause = ended.cause,
        duration_ms = ended.duration_ms,
        messages_in = ended.messages_in,
        messages_out = ended.messages_out,
        bytes_in = ended.bytes_in,
        bytes_out = ended.bytes_out,
        "session ended"
    );
    if let Some(peer) = ended.peer {
        debug!(session = %ended.session, %peer, "peer of the ended session");
    }
}

fn log_refusal(refused: &UpgradeRefused) {
    let UpgradeRefused { shard, status, reason, .. } = refused;
    info!(shard = shard.0, status, reason, "upgrade refused");
    if let Some(peer) = refused.peer {
        debug!(shard = shard.0, %peer, "peer of the refused upgrade");
    }
}

/// Messages taken from one shard before the next shard's turn.
const MESSAGES_PER_TURN: usize = 256;

#[cfg(test)]
mod tests;
