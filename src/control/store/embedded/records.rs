//! The records of one node's sessions, found by session and by account.

use std::sync::Arc;

use ahash::RandomState;
use corelane_shard::clock::Instant;
use corelane_shard::id::{ConnectionKey, Epoch, Generation, SessionId, ShardId, Slot};
use corelane_shard::identity::{Account, Identity};
use hashbrown::HashTable;

use super::super::{Known, Owner};

/// One session, with a connection or waiting to be taken up.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) identity: Arc<Identity>,
    /// Of the newest claim. Its token is current.
    pub(super) epoch: Epoch,
    pub(super) state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Live {
        place: Place,
        open: Open,
    },
    /// Its tokens are good until then.
    Waiting {
        until: Instant,
    },
}

/// How far a live session has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Open {
    /// Granted to somebody with a token of a new session.
    Fresh,
    /// Granted to somebody with a token of a session that was there.
    Returned,
    /// Granted for a reconnect token.
    Reconnected,
    Opened,
    /// Its connection is being closed for good.
    Ending,
}

/// A connection in 8 bytes: shard, slot and generation, 8, 24 and 32 bits wide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place(u64);

impl Place {
    pub(super) fn of(shard: ShardId, key: ConnectionKey) -> Self {
        let (slot, generation) = (u64::from(key.slot.0), u64::from(key.generation.0));
        Self(u64::from(shard.0) << 56 | slot << 32 | generation)
    }

    pub(super) fn owner(self, epoch: Epoch) -> Owner {
        let Self(place) = self;
        let slot = Slot((place >> 32) as u32 & 0x00FF_FFFF);
        let key = ConnectionKey { slot, generation: Generation(place as u32) };
        Owner { shard: ShardId((place >> 56) as u8), key, epoch }
    }
}

const _: () = assert!(size_of::<Option<Record>>() <= 32, "what a session pays here");

impl Record {
    pub(super) fn owner(&self) -> Option<Owner> {
        match self.state {
            State::Live { place, .. } => Some(place.owner(self.epoch)),
            State::Waiting { .. } => None,
        }
    }

    pub(super) fn is_of(&self, owner: Owner) -> bool {
        self.owner() == Some(owner)
    }

    pub(super) fn known(&self) -> Known<'_> {
        Known {
            identity: &self.identity,
            owner: self.owner(),
            open: matches!(self.state, State::Live { open: Open::Opened, .. }),
        }
    }
}

/// All records and their two indices.
#[derive(Debug, Clone)]
pub(super) struct Records {
    records: Vec<Option<Record>>,
    free: Vec<u32>,
    /// Indices of `records` by session.
    sessions: HashTable<u32>,
    /// Indices of `records` by account.
    accounts: HashTable<u32>,
    hasher: RandomState,
}

impl Records {
    /// The indices have room for `sessions_max` at once: a table that grows moves every entry while
    /// claims wait.
    pub(super) fn new(sessions_max: usize) -> Self {
        Self {
            records: Vec::new(),
            free: Vec::new(),
            sessions: HashTable::with_capacity(sessions_max),
            accounts: HashTable::with_capacity(sessions_max),
            hasher: RandomState::new(),
        }
    }

    pub(super) fn get(&self, session: SessionId) -> Option<&Record> {
        record_at(&self.records, self.index(session)?)
    }

    pub(super) fn get_mut(&mut self, session: SessionId) -> Option<&mut Record> {
        let at = self.index(session)?;
        self.records.get_mut(at as usize)?.as_mut()
    }

    /// The session has no record.
    pub(super) fn insert(&mut self, record: Record) {
        let identity = Arc::clone(&record.identity);
        let at = self.free.pop().unwrap_or_else(|| {
            self.records.push(None);
            (self.records.len() - 1) as u32
        });
        self.records[at as usize] = Some(record);
        let Self { records, hasher, .. } = self;
        self.sessions.insert_unique(hasher.hash_one(Some(identity.session)), at, |at| {
            hasher.hash_one(session_at(records, *at))
        });
        if identity.account.is_some() {
            self.accounts.insert_unique(hasher.hash_one(identity.account.as_ref()), at, |at| {
                hasher.hash_one(account_at(records, *at))
            });
        }
    }

    pub(super) fn remove(&mut self, session: SessionId) -> Option<Record> {
        let at = self.index(session)?;
        let record = self.records[at as usize].take()?;
        self.free.push(at);
        unlink(&mut self.sessions, self.hasher.hash_one(Some(session)), at);
        if let account @ Some(_) = record.identity.account.as_ref() {
            unlink(&mut self.accounts, self.hasher.hash_one(account), at);
        }
        Some(record)
    }

    pub(super) fn of_account(&self, account: &Account) -> impl Iterator<Item = &Record> {
        let found = self.accounts.iter_hash(self.hasher.hash_one(Some(account)));
        found
            .filter_map(|at| record_at(&self.records, *at))
            .filter(move |record| record.identity.account.as_ref() == Some(account))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Record> {
        self.records.iter().flatten()
    }

    /// Live sessions from place `from` on, `most` of them and none twice, and the place of those that
    /// come after. Behind the last place is the first.
    pub(super) fn live_from(&self, from: usize, most: usize) -> (Vec<(SessionId, Epoch)>, usize) {
        let places = self.records.len();
        let mut found = Vec::with_capacity(most.min(places));
        let mut at = from;
        for _ in 0..places {
            if found.len() == most {
                break;
            }
            at = if at < places { at } else { 0 };
            let record = record_at(&self.records, at as u32);
            if let Some(Owner { epoch, .. }) = record.and_then(Record::owner) {
                found.extend(session_at(&self.records, at as u32).map(|session| (session, epoch)));
            }
            at += 1;
        }
        (found, at)
    }

    fn index(&self, session: SessionId) -> Option<u32> {
        let hash = self.hasher.hash_one(Some(session));
        self.sessions.find(hash, |at| session_at(&self.records, *at) == Some(session)).copied()
    }
}

fn unlink(index: &mut HashTable<u32>, hash: u64, at: u32) {
    if let Ok(entry) = index.find_entry(hash, |found| *found == at) {
        entry.remove();
    }
}

fn record_at(records: &[Option<Record>], at: u32) -> Option<&Record> {
    records.get(at as usize)?.as_ref()
}

fn session_at(records: &[Option<Record>], at: u32) -> Option<SessionId> {
    Some(record_at(records, at)?.identity.session)
}

fn account_at(records: &[Option<Record>], at: u32) -> Option<&Account> {
    record_at(records, at)?.identity.account.as_ref()
}
