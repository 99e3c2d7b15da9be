//! The end of the process: its phases, told to the shards.

use corelane_shard::clock::{Instant, Now};
use corelane_shard::lane::{DrainPhase, ToShard};
use tracing::info;

use super::Core;
use crate::control::bus::EventBus;
use crate::control::port::ShardPort;
use crate::control::store::{Admission, Owner, SessionStore};
use crate::lifecycle::Phase;
use crate::lifecycle::drain::Drain;

/// What a request to terminate led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::control) enum Termination {
    Begun,
    /// It is the second: the operator does not want to wait.
    Insisted,
}

impl<P: ShardPort, S: SessionStore, B: EventBus> Core<P, S, B> {
    pub(in crate::control) fn terminate(&mut self, now: Instant) -> Termination {
        if self.drain.is_some() {
            return Termination::Insisted;
        }
        self.drain = Some(Drain::begin(self.plan, self.outlets.len(), now));
        self.enter(DrainPhase::Grace);
        Termination::Begun
    }

    /// This node's number is another's: no GUID of its sessions means them any more. They are told to come
    /// back elsewhere, and nobody is let in.
    pub(in crate::control) fn give_up_identity(&mut self, now: Now) {
        self.store.admit(Admission::Draining);
        let mut live: Vec<Owner> = Vec::new();
        self.store.each(&mut |known| live.extend(known.owner));
        for Owner { shard, key, epoch } in live {
            self.post(shard, ToShard::Disown { key, epoch });
        }
        if self.drain.is_none() {
            self.terminate(now.mono);
        }
    }

    pub(in crate::control) fn is_draining(&self) -> bool {
        self.drain.is_some()
    }

    /// When the process must have ended; `None` while there is no drain.
    pub(in crate::control) fn ends_by(&self) -> Option<Instant> {
        self.drain.as_ref().map(Drain::ends_by)
    }

    pub(in crate::control) fn is_done(&self) -> bool {
        self.drain.as_ref().is_some_and(|drain| drain.phase() == DrainPhase::Done)
    }

    pub(super) fn advance_drain(&mut self, now: Instant) {
        while let Some(phase) = self.drain.as_mut().and_then(|drain| drain.advance(now)) {
            self.enter(phase);
        }
    }

    fn enter(&mut self, phase: DrainPhase) {
        info!(?phase, sessions = self.store.live(), "drain");
        self.phase.store(Phase::Draining(phase));
        // While grace lasts, whoever still comes is let in.
        if phase >= DrainPhase::Closing {
            self.store.admit(Admission::Draining);
        }
        self.tell_all(|| ToShard::Drain(phase));
    }
}
