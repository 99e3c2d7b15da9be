//! One turn of the control core, without I/O: takes what the shards say, decides, and posts what
//! they are told. Lanes, clock and look-ups are the caller's.

use std::sync::Arc;

use corelane_shard::clock::{Instant, Now};
use corelane_shard::id::{ConnectionKey, SessionId, ShardId};
use corelane_shard::identity::{AuthRefusal, Validated};
use corelane_shard::lane::{DrainPhase, SessionEnded, ToControl, ToShard, UpgradeRefused};
use corelane_shard::snapshot::Snapshot;
use tracing::{debug, info};

use super::directory::{Admission, Directory, Owner, Release};
use super::port::{Outlet, ShardPort};
use super::probe::ControlProbe;
use super::resolve::{AddressBook, ServiceTargets};
use crate::lifecycle::drain::{Drain, DrainPlan};
use crate::lifecycle::{Phase, PhaseCell};

/// The control core's whole state. One per process.
#[derive(Debug)]
pub(super) struct Core<P> {
    outlets: Vec<Outlet<P>>,
    directory: Directory,
    pub(super) book: AddressBook,
    /// For the auth service; bounded by the tokens that each shard may wait for.
    questions: Vec<Question>,
    plan: DrainPlan,
    drain: Option<Drain>,
    phase: Arc<PhaseCell>,
    probe: Arc<ControlProbe>,
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

/// What a request to terminate led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Termination {
    Begun,
    /// It is the second: the operator does not want to wait.
    Insisted,
}

impl<P: ShardPort> Core<P> {
    pub(super) fn new(
        ports: Vec<P>,
        sessions_max: usize,
        plan: DrainPlan,
        phase: Arc<PhaseCell>,
        probe: Arc<ControlProbe>,
    ) -> Self {
        Self {
            outlets: ports.into_iter().map(Outlet::new).collect(),
            directory: Directory::new(sessions_max),
            book: AddressBook::default(),
            questions: Vec::new(),
            plan,
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
        self.advance_drain(now.mono);
        self.post_address_changes();
        for outlet in &mut self.outlets {
            outlet.flush();
        }
        self.probe.sessions.set(self.directory.len() as u64);
        // What was left unread has rung already and will not ring again.
        if behind && !self.is_behind() { Turn::Busy } else { turn }
    }

    fn is_behind(&self) -> bool {
        self.outlets.iter().any(Outlet::is_behind)
    }

    /// A lane was full: the next turn is due soon although nobody rings.
    pub(super) fn has_waiting(&self) -> bool {
        self.outlets.iter().any(Outlet::has_waiting)
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
        self.book.replace(snapshot.version, targets);
        self.tell_all(|| ToShard::Snapshot(Arc::clone(snapshot)));
    }

    pub(super) fn limit(&mut self, sessions_max: usize, plan: DrainPlan) {
        self.directory.limit(sessions_max);
        self.plan = plan;
    }

    pub(super) fn terminate(&mut self, now: Instant) -> Termination {
        if self.drain.is_some() {
            return Termination::Insisted;
        }
        self.drain = Some(Drain::begin(self.plan, self.outlets.len(), now));
        self.enter(DrainPhase::Grace);
        Termination::Begun
    }

    /// When the drain's phase ends; `None` while there is no drain.
    pub(super) fn phase_ends(&self) -> Option<Instant> {
        self.drain.as_ref().map(Drain::phase_ends)
    }

    pub(super) fn is_done(&self) -> bool {
        self.drain.as_ref().is_some_and(|drain| drain.phase() == DrainPhase::Done)
    }

    fn take(&mut self, shard: ShardId, message: ToControl, now: Now) {
        match message {
            ToControl::Claim { key, session } => self.claim(shard, key, session, now.unix_ms),
            ToControl::Validate { key, token } => {
                self.questions.push(Question { shard, key, token });
            }
            ToControl::Release { key, session, epoch } => {
                match self.directory.release(session, Owner { shard, key, epoch }) {
                    Release::Removed => self.probe.releases.increment(),
                    Release::Ignored => self.probe.releases_outdated.increment(),
                }
            }
            ToControl::SessionEnded(ended) => log_session(shard, &ended),
            ToControl::UpgradeRefused(refused) => log_refusal(&refused),
            ToControl::DrainReached { phase, connections } => {
                info!(shard = shard.0, ?phase, connections, "shard drains");
                if let Some(drain) = &mut self.drain {
                    drain.reached(shard, phase);
                }
            }
        }
    }

    fn claim(&mut self, shard: ShardId, key: ConnectionKey, session: SessionId, unix_ms: u64) {
        let outcome = self.directory.claim(shard, key, session, unix_ms);
        if let Some((target, evict)) = outcome.evict {
            self.probe.evictions.increment();
            self.post(target, evict);
        }
        match outcome.answer {
            ToShard::Refused { why, .. } => self.probe.refused(why),
            _ => self.probe.granted.increment(),
        }
        self.post(shard, outcome.answer);
    }

    fn advance_drain(&mut self, now: Instant) {
        while let Some(phase) = self.drain.as_mut().and_then(|drain| drain.advance(now)) {
            self.enter(phase);
        }
    }

    fn enter(&mut self, phase: DrainPhase) {
        info!(?phase, sessions = self.directory.len(), "drain");
        self.phase.store(Phase::Draining(phase));
        // While grace lasts, whoever still comes is let in.
        if phase >= DrainPhase::Closing {
            self.directory.admit(Admission::Draining);
        }
        self.tell_all(|| ToShard::Drain(phase));
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

    fn tell_all(&mut self, message: impl Fn() -> ToShard) {
        for outlet in &mut self.outlets {
            outlet.post(message());
        }
    }

    fn post(&mut self, shard: ShardId, message: ToShard) {
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
