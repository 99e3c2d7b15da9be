//! What the control core says to this shard, and what this shard owes it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::connection::Fin;
use super::options::Limits;
use super::players::callable_by;
use super::{Engine, Role, pressure_of};
use crate::clock::Instant;
use crate::id::{ConnectionKey, Epoch};
use crate::lane::{DrainPhase, ToControl, ToShard};
use crate::session::capability::{Capabilities, CapabilitySet};
use crate::session::manifest::ManifestCause;
use crate::session::rate::RateLimits;
use crate::session::routing::{GrantedBy, Session};
use crate::snapshot::Snapshot;
use crate::sockets::{ListenerId, Sockets};
use crate::wire::close::CloseCode;
use crate::wire::handshake::Health;

/// How often a session that drains is looked at.
const DRAIN_LOOK: Duration = Duration::from_millis(20);

/// Where this shard stands on its way out.
#[derive(Debug, Default)]
pub(super) struct Drain {
    pub(super) phase: Option<DrainPhase>,
    /// Moments at which sessions are told to go, for those that are still here.
    pub(super) closes_at: Vec<(Instant, ConnectionKey)>,
    pub(super) reported: Option<DrainPhase>,
}

impl Drain {
    pub(super) fn refuses_sessions(&self) -> bool {
        self.phase.is_some_and(|phase| phase >= DrainPhase::Closing)
    }

    /// Nothing new is begun any more, towards backends either.
    pub(super) fn is_ending(&self) -> bool {
        self.phase.is_some_and(|phase| phase >= DrainPhase::Cutting)
    }

    pub(super) fn is_over(&self) -> bool {
        self.phase == Some(DrainPhase::Done)
    }

    pub(super) fn health(&self) -> Health {
        if self.phase.is_some() { Health::Unavailable } else { Health::Ready }
    }
}

/// Log lines that a shard may still send in the present second.
#[derive(Debug, Default)]
pub(super) struct LogLines {
    second: u64,
    sent: u32,
}

impl LogLines {
    const PER_SECOND: u32 = 100;

    pub(super) fn tick(&mut self, unix_ms: u64) {
        let second = unix_ms / 1000;
        if second != self.second {
            *self = Self { second, sent: 0 };
        }
    }

    /// Whether one more may be sent.
    pub(super) fn take(&mut self) -> bool {
        self.sent += 1;
        self.sent <= Self::PER_SECOND
    }
}

/// What a session may call under `snapshot`, the one that `capabilities` was made from.
fn set_of(
    capabilities: &mut Capabilities,
    snapshot: &Snapshot,
    session: &Session,
) -> Rc<CapabilitySet> {
    match session.granted_by() {
        GrantedBy::Roles => {
            capabilities.of_roles(snapshot, callable_by(snapshot.mode, session.identity()))
        }
        GrantedBy::Event => capabilities.of_endpoints(snapshot, session.capabilities().endpoints()),
        GrantedBy::Nobody => capabilities.of_endpoints(snapshot, &[]),
    }
}

impl<S: Sockets> Engine<S> {
    /// Says whether there was anything.
    pub(super) fn hear_control(&mut self) -> bool {
        let mut heard = false;
        self.log_lines.tick(self.now.unix_ms);
        self.deliver_withheld();
        while let Some(message) = self.lanes.hear_control() {
            heard = true;
            match message {
                ToShard::Granted { key, session, epoch, resumed } => {
                    self.granted(key, session, epoch, resumed);
                }
                ToShard::Refused { key, why } => self.claim_refused(key, why),
                ToShard::Validated { key, told } => self.validated(key, told),
                ToShard::Evict { key, epoch } => self.evict(key, epoch),
                ToShard::EndSession { key, epoch, reason } => {
                    self.end_session(key, epoch, &reason);
                }
                ToShard::Disown { key, epoch } => self.disown(key, epoch),
                ToShard::Deliver(delivery) => self.deliver_if_sure(delivery),
                ToShard::Describe { key, ticket } => self.describe(key, ticket),
                ToShard::Snapshot(snapshot) => self.adopt_snapshot(snapshot),
                ToShard::MoreEndpoints(snapshot) => self.adopt_more_endpoints(snapshot),
                ToShard::Addresses { version, service, addresses } => {
                    if version == self.snapshot.version {
                        self.set_addresses(service, &addresses);
                    }
                }
                ToShard::Drain(phase) => self.start_drain(phase),
                ToShard::FromAbroad(letter) => self.take_from_abroad(letter),
                ToShard::BroadcastFromAbroad { frame, priority } => {
                    self.broadcast_from_abroad(&frame, priority);
                }
                ToShard::AbroadAnswered(answer) => self.abroad_answered(&answer),
            }
        }
        self.drain_sessions();
        heard
    }

    fn evict(&mut self, key: ConnectionKey, epoch: Epoch) {
        if self.player(key).is_some_and(|player| player.epoch <= epoch) {
            self.leave(key, CloseCode::Replaced, "replaced by a newer connection");
        } else {
            self.claim_overtaken(key, epoch);
        }
    }

    /// Ends a session for good, if it is still the one of that claim.
    fn end_session(&mut self, key: ConnectionKey, epoch: Epoch, reason: &str) {
        if self.player(key).is_some_and(|player| player.epoch == epoch) {
            self.leave_because(key, CloseCode::SessionEnded, reason, "session invalidated");
        }
    }

    fn disown(&mut self, key: ConnectionKey, epoch: Epoch) {
        if self.player(key).is_some_and(|player| player.epoch == epoch) {
            self.leave(key, CloseCode::IdentityLost, "node lost its identity");
        }
    }

    /// Swaps the configuration as a whole; every session gets the manifest that follows from it.
    fn adopt_snapshot(&mut self, snapshot: Arc<Snapshot>) {
        self.limits = Limits::new(&snapshot.session);
        self.rates = RateLimits::new(&snapshot.session);
        self.crowd.adopt(&snapshot.door);
        self.pressure = pressure_of(&snapshot.door, self.options.block_pool_bytes);
        self.adopt_endpoints(snapshot);
        self.review_brought_traces();
        for slot in self.slots() {
            let Some(key) = self.session_in(slot) else { continue };
            let Some(connection) = self.table.get_mut(key) else { continue };
            let Role::Session(player) = &mut connection.role else { continue };
            let set = set_of(&mut self.capabilities, &self.snapshot, &player.session);
            player.session.adopt(set, &self.snapshot, &mut self.tables);
            self.send_manifest(key, ManifestCause::Reloaded);
            // A session may have a new deadline.
            self.set_deadline(key);
        }
    }

    /// A configuration that only has more endpoints: nothing changes for those who are here.
    fn adopt_more_endpoints(&mut self, snapshot: Arc<Snapshot>) {
        self.adopt_endpoints(snapshot);
        for slot in self.slots() {
            let Some(key) = self.session_in(slot) else { continue };
            let Some(connection) = self.table.get_mut(key) else { continue };
            let Role::Session(player) = &mut connection.role else { continue };
            let set = set_of(&mut self.capabilities, &self.snapshot, &player.session);
            player.session.replace_capabilities(set, &mut self.tables);
        }
    }

    fn adopt_endpoints(&mut self, snapshot: Arc<Snapshot>) {
        self.capabilities = Capabilities::new(&snapshot);
        self.upstreams.adopt(&snapshot);
        self.snapshot = snapshot;
        self.announce_endpoints();
    }

    fn start_drain(&mut self, phase: DrainPhase) {
        self.drain.phase = Some(phase);
        match phase {
            DrainPhase::Grace => {}
            DrainPhase::Closing => {
                for listener in 0..self.options.listeners {
                    self.sockets.stop_accepting(ListenerId(listener));
                }
                self.schedule_goodbyes();
            }
            // When all clients are gone, connections to backends are cut as well.
            DrainPhase::Cutting | DrainPhase::Done => {
                let keys: Vec<_> = self.table.iter().map(|(key, _)| key).collect();
                for key in keys {
                    self.lost(key, "drain deadline");
                }
            }
        }
    }

    fn schedule_goodbyes(&mut self) {
        let spread = self.options.drain_spread.max(Duration::from_millis(1));
        let now = self.now.mono;
        let keys = self.table.iter().filter(|(_, connection)| !connection.role.is_upstream());
        let mut moments: Vec<_> = keys.map(|(key, _)| (now, key)).collect();
        for (moment, _) in &mut moments {
            *moment = now + Duration::from_nanos(self.random.u64(0..spread.as_nanos() as u64));
        }
        // Popped from the back: the earliest last.
        moments.sort_unstable_by_key(|(moment, _)| std::cmp::Reverse(*moment));
        self.drain.closes_at = moments;
    }

    /// Sends away whose moment has come, and reports when a phase is complete.
    fn drain_sessions(&mut self) {
        let Some(phase) = self.drain.phase else {
            return;
        };
        while let Some(&(moment, key)) = self.drain.closes_at.last() {
            if moment > self.now.mono {
                break;
            }
            self.drain.closes_at.pop();
            self.go_away(key);
        }
        let gone = phase >= DrainPhase::Closing
            && self.drain.closes_at.is_empty()
            && self.downstream_is_gone();
        let reached = if gone { DrainPhase::Done } else { phase };
        if self.drain.reported != Some(reached) {
            let connections = self.table.len() as u32;
            let report = ToControl::DrainReached { phase: reached, connections };
            if self.lanes.tell_control(report, self.now.mono).is_ok() {
                self.drain.reported = Some(reached);
            }
        }
    }

    fn go_away(&mut self, key: ConnectionKey) {
        let Some(connection) = self.table.get(key) else {
            return;
        };
        match connection.role {
            Role::Proxied(_) | Role::Head(_) => {
                self.refuse(key, crate::wire::handshake::Refusal::Draining)
            }
            Role::Echo(_) => self.leave(key, CloseCode::GoingAway, "drain"),
            Role::Session(_) => self.drain_player(key),
            Role::Gone => self.start_leaving(key, Fin::Flushed),
            Role::Http(_) | Role::Link(_) => {}
        }
    }

    /// From its moment on a session takes no new call; those that run get the drain's patience,
    /// then 60; then it is told to go.
    fn drain_player(&mut self, key: ConnectionKey) {
        let now = self.now.mono;
        let patience = self.options.drain_calls;
        let Some(player) = self.player(key) else {
            return;
        };
        player.leaves_at = player.leaves_at.min(now + patience);
        let until = player.leaves_at;
        if player.calls.is_some() && now < until {
            self.drain.closes_at.push((now + DRAIN_LOOK, key));
            self.drain.closes_at.sort_unstable_by_key(|(moment, _)| std::cmp::Reverse(*moment));
            return;
        }
        self.give_up_calls(key);
        self.leave(key, CloseCode::GoingAway, "drain");
    }

    pub(super) fn next_goodbye(&self) -> Option<Instant> {
        self.drain.closes_at.last().map(|(moment, _)| *moment)
    }

    fn downstream_is_gone(&self) -> bool {
        self.table.iter().all(|(_, connection)| connection.role.is_upstream())
    }
}
