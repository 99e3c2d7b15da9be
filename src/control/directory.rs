//! The session directory: which connection of which shard owns a session. Sans-IO.
//!
//! One per process, on the control core; it alone hands out epochs. What shards do with the
//! answers is theirs: an `Evict` closes its connection in whatever state if the epoch is at most
//! the one named, also when it overtakes the `Granted` of that connection.

use ahash::AHashMap;
use corelane_shard::id::{ConnectionKey, Epoch, Generation, SessionId, ShardId, Slot};
use corelane_shard::lane::{ClaimRefusal, ToShard};

/// Who owns a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    pub shard: ShardId,
    pub key: ConnectionKey,
    pub epoch: Epoch,
}

/// An [`Owner`] in 16 bytes, as the directory keeps it.
#[derive(Debug, Clone, Copy)]
struct Kept {
    /// Shard, slot and generation, 8, 24 and 32 bits wide.
    place: u64,
    epoch: Epoch,
}

const _: () = assert!(size_of::<(SessionId, Kept)>() == 32, "what a session pays here");

impl From<Owner> for Kept {
    fn from(Owner { shard, key, epoch }: Owner) -> Self {
        let (slot, generation) = (u64::from(key.slot.0), u64::from(key.generation.0));
        Self { place: u64::from(shard.0) << 56 | slot << 32 | generation, epoch }
    }
}

impl From<Kept> for Owner {
    fn from(Kept { place, epoch }: Kept) -> Self {
        let slot = Slot((place >> 32) as u32 & 0x00FF_FFFF);
        let key = ConnectionKey { slot, generation: Generation(place as u32) };
        Self { shard: ShardId((place >> 56) as u8), key, epoch }
    }
}

/// Whether claims are still granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    Open,
    Draining,
}

/// At most `sessions_max` entries, one per session with a live or arriving connection.
#[derive(Debug, Clone)]
pub struct Directory {
    sessions_max: usize,
    admission: Admission,
    owners: AHashMap<SessionId, Kept>,
    /// The greatest epoch that left the directory with its entry: a session that comes back gets a
    /// greater one even if the clock stood still or went back.
    retired: Epoch,
}

/// What one claim sends, and to whom. The eviction goes first.
#[derive(Debug)]
pub struct ClaimOutcome {
    pub evict: Option<(ShardId, ToShard)>,
    /// To the shard that claimed.
    pub answer: ToShard,
}

/// Whether a release was by the owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    Removed,
    /// The session has a newer owner, or none.
    Ignored,
}

impl Directory {
    #[must_use]
    pub fn new(sessions_max: usize) -> Self {
        Self {
            sessions_max,
            admission: Admission::Open,
            // At once: a map that grows moves every entry while claims wait.
            owners: AHashMap::with_capacity(sessions_max),
            retired: Epoch(0),
        }
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.owners.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.owners.is_empty()
    }

    #[must_use]
    pub fn owner(&self, session: SessionId) -> Option<Owner> {
        self.owners.get(&session).copied().map(Owner::from)
    }

    /// A smaller bound than before lets entries go by themselves; nobody is put out for it.
    pub fn limit(&mut self, sessions_max: usize) {
        self.sessions_max = sessions_max;
    }

    pub fn admit(&mut self, admission: Admission) {
        self.admission = admission;
    }

    /// The newest claim wins. A takeover replaces an entry, so a full directory does not refuse it.
    pub fn claim(
        &mut self,
        shard: ShardId,
        key: ConnectionKey,
        session: SessionId,
        unix_ms: u64,
    ) -> ClaimOutcome {
        let old = self.owner(session);
        if self.admission == Admission::Draining {
            return ClaimOutcome::refused(key, ClaimRefusal::Draining);
        }
        if old.is_none() && self.owners.len() >= self.sessions_max {
            return ClaimOutcome::refused(key, ClaimRefusal::Full);
        }
        let stored = old.map_or(self.retired, |owner| owner.epoch);
        let epoch = Epoch(unix_ms.max(stored.0.saturating_add(1)));
        self.owners.insert(session, Owner { shard, key, epoch }.into());
        let other = old.filter(|owner| (owner.shard, owner.key) != (shard, key));
        ClaimOutcome {
            // The old epoch, not the new one: it can reach nobody but the old owner.
            evict: other.map(|o| (o.shard, ToShard::Evict { key: o.key, epoch: o.epoch })),
            answer: ToShard::Granted { key, session, epoch },
        }
    }

    pub fn release(&mut self, session: SessionId, leaving: Owner) -> Release {
        if self.owner(session) != Some(leaving) {
            return Release::Ignored;
        }
        self.owners.remove(&session);
        self.retired = self.retired.max(leaving.epoch);
        Release::Removed
    }
}

impl ClaimOutcome {
    fn refused(key: ConnectionKey, why: ClaimRefusal) -> Self {
        Self { evict: None, answer: ToShard::Refused { key, why } }
    }
}

#[cfg(test)]
mod tests;
