//! The store of a node by itself, in memory. Sans-IO: time is an argument.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use ahash::{AHashMap, RandomState};
use corelane_shard::clock::{Instant, Now};
use corelane_shard::id::{ConnectionKey, Epoch, Generation, SessionId, ShardId, Slot};
use corelane_shard::identity::{Account, Standing, UnixSeconds};
use corelane_shard::lane::{Claim, ClaimRefusal, Claimant, Credential, End, Resumed, ToShard};
use corelane_shard::wire::reconnect_token::{ReconnectKeys, Seal};
use hashbrown::HashTable;
use uuid::fmt::Hyphenated;

use super::{
    Admission, Claimed, Decision, Ended, Known, Opened, Owner, Released, SessionStore, StoreRules,
    counted_as,
};

/// One record a session, live or waiting, each at most [`StoreRules::sessions_max`].
#[derive(Debug)]
pub struct EmbeddedStore {
    rules: StoreRules,
    admission: Admission,
    keys: ReconnectKeys,
    records: Vec<Option<Record>>,
    free: Vec<u32>,
    /// Indices of `records` by session.
    sessions: HashTable<u32>,
    /// Indices of `records` by account.
    accounts: HashTable<u32>,
    hasher: RandomState,
    live: usize,
    waiting: usize,
    /// When which record is to be forgotten, in the order in which they began to wait.
    ends: VecDeque<(Instant, SessionId, Epoch)>,
    /// The epoch of the claim before, for those whose earlier token is good yet.
    previous: AHashMap<SessionId, Epoch>,
    /// Live sessions by address; empty while nobody asks for a bound.
    addresses: AHashMap<IpAddr, u32>,
    /// Where each of them is counted.
    counted: AHashMap<SessionId, IpAddr>,
    /// Unix seconds at which sessions were ended for good.
    revoked: AHashMap<SessionId, u64>,
    revocations: VecDeque<(Instant, SessionId)>,
    decided: VecDeque<Decision>,
    /// The greatest epoch that left with its record: a session that comes back gets a greater one
    /// even if the clock stood still or went back.
    retired: Epoch,
}

#[derive(Debug, Clone)]
struct Record {
    session: SessionId,
    account: Option<Account>,
    standing: Arc<Standing>,
    expires_at: Option<UnixSeconds>,
    /// Of the newest claim. Its token is current.
    epoch: Epoch,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
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
enum Open {
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
struct Place(u64);

impl Place {
    fn of(shard: ShardId, key: ConnectionKey) -> Self {
        let (slot, generation) = (u64::from(key.slot.0), u64::from(key.generation.0));
        Self(u64::from(shard.0) << 56 | slot << 32 | generation)
    }

    fn owner(self, epoch: Epoch) -> Owner {
        let Self(place) = self;
        let slot = Slot((place >> 32) as u32 & 0x00FF_FFFF);
        let key = ConnectionKey { slot, generation: Generation(place as u32) };
        Owner { shard: ShardId((place >> 56) as u8), key, epoch }
    }
}

const _: () = assert!(size_of::<Option<Record>>() <= 80, "what a session pays here");

impl Record {
    fn owner(&self) -> Option<Owner> {
        match self.state {
            State::Live { place, .. } => Some(place.owner(self.epoch)),
            State::Waiting { .. } => None,
        }
    }

    fn is_of(&self, owner: Owner) -> bool {
        self.owner() == Some(owner)
    }

    fn known(&self) -> Known<'_> {
        Known {
            session: self.session,
            owner: self.owner(),
            account: self.account.as_ref(),
            standing: &self.standing,
            expires_at: self.expires_at,
        }
    }
}

/// What a claim finds and leaves.
struct Granted {
    claimant: Claimant,
    /// The epoch whose token stays good until the new one is there.
    previous: Option<Epoch>,
    open: Open,
}

impl EmbeddedStore {
    #[must_use]
    pub fn new(server_salt: &str, rules: StoreRules) -> Self {
        Self {
            admission: Admission::Open,
            keys: ReconnectKeys::from_salt(server_salt),
            records: Vec::new(),
            free: Vec::new(),
            // At once: a table that grows moves every entry while claims wait.
            sessions: HashTable::with_capacity(rules.sessions_max),
            accounts: HashTable::with_capacity(rules.sessions_max),
            hasher: RandomState::new(),
            live: 0,
            waiting: 0,
            ends: VecDeque::new(),
            previous: AHashMap::new(),
            addresses: AHashMap::new(),
            counted: AHashMap::new(),
            revoked: AHashMap::new(),
            revocations: VecDeque::new(),
            decided: VecDeque::new(),
            retired: Epoch(0),
            rules,
        }
    }

    fn index(&self, session: SessionId) -> Option<u32> {
        let hash = self.hasher.hash_one(Some(session));
        self.sessions.find(hash, |at| session_at(&self.records, *at) == Some(session)).copied()
    }

    fn record(&self, session: SessionId) -> Option<&Record> {
        self.records.get(self.index(session)? as usize)?.as_ref()
    }

    fn record_mut(&mut self, session: SessionId) -> Option<&mut Record> {
        let at = self.index(session)?;
        self.records.get_mut(at as usize)?.as_mut()
    }

    fn insert(&mut self, record: Record) {
        let (session, account) = (record.session, account_text(record.account.as_ref()));
        let at = self.free.pop().unwrap_or_else(|| {
            self.records.push(None);
            (self.records.len() - 1) as u32
        });
        self.records[at as usize] = Some(record);
        let (records, hasher) = (&self.records, &self.hasher);
        let hash = hasher.hash_one(Some(session));
        self.sessions.insert_unique(hash, at, |at| hasher.hash_one(session_at(records, *at)));
        if let Some(account) = account {
            let hash = hasher.hash_one(Some(account));
            self.accounts.insert_unique(hash, at, |at| hasher.hash_one(account_at(records, *at)));
        }
    }

    fn remove(&mut self, session: SessionId) -> Option<Record> {
        let at = self.index(session)?;
        let hash = self.hasher.hash_one(Some(session));
        if let Ok(entry) = self.sessions.find_entry(hash, |found| *found == at) {
            entry.remove();
        }
        if let Some(account) = account_at(&self.records, at) {
            let hash = self.hasher.hash_one(Some(account));
            if let Ok(entry) = self.accounts.find_entry(hash, |found| *found == at) {
                entry.remove();
            }
        }
        let record = self.records[at as usize].take()?;
        self.free.push(at);
        match record.state {
            State::Live { .. } => self.live -= 1,
            State::Waiting { .. } => self.waiting -= 1,
        }
        self.forget_address(session);
        self.previous.remove(&session);
        self.retired = self.retired.max(record.epoch);
        Some(record)
    }

    /// Says why not before anything has changed.
    fn judge(&self, claim: &Claim, now: Now) -> Result<Granted, ClaimRefusal> {
        if self.admission == Admission::Draining {
            return Err(ClaimRefusal::Draining);
        }
        let record = self.record(claim.session);
        let granted = match &claim.credential {
            Credential::Token(claimant) => self.judge_token(claim.session, claimant, record)?,
            Credential::Reconnect(seal) => self.judge_reconnect(*seal, record, now)?,
        };
        let takes_over = record.is_some_and(|record| record.owner().is_some());
        if !takes_over {
            if self.live >= self.rules.sessions_max {
                return Err(ClaimRefusal::Full);
            }
            self.count(claim, &granted.claimant)?;
        }
        Ok(granted)
    }

    fn judge_token(
        &self,
        session: SessionId,
        claimant: &Claimant,
        record: Option<&Record>,
    ) -> Result<Granted, ClaimRefusal> {
        // By the second: one of the very second in which the session was ended is refused.
        if self
            .revoked
            .get(&session)
            .is_some_and(|ended| claimant.issued_at.map_or(0, UnixSeconds::get) <= *ended)
        {
            return Err(ClaimRefusal::Revoked);
        }
        let Some(record) = record else {
            return Ok(Granted { claimant: claimant.clone(), previous: None, open: Open::Fresh });
        };
        let same = record.account == claimant.account
            && record.standing.tenant == claimant.standing.tenant;
        if !same {
            return Err(ClaimRefusal::Mismatch);
        }
        // The one that its client surely has.
        let previous = self.previous.get(&session).copied().or(Some(record.epoch));
        Ok(Granted { claimant: claimant.clone(), previous, open: Open::Returned })
    }

    fn judge_reconnect(
        &self,
        seal: Seal,
        record: Option<&Record>,
        now: Now,
    ) -> Result<Granted, ClaimRefusal> {
        let record = record.ok_or(ClaimRefusal::Unknown)?;
        let over = match record.state {
            State::Live { open, .. } => open == Open::Ending,
            State::Waiting { until } => until <= now.mono,
        };
        let previous = self.previous.get(&record.session).copied();
        let used = [Some(record.epoch), previous].into_iter().flatten();
        let used = { used }.find(|epoch| self.keys.is_of(seal, record.session, *epoch));
        let used = used.filter(|_| !over).ok_or(ClaimRefusal::Unknown)?;
        let claimant = Claimant {
            account: record.account.clone(),
            standing: Arc::clone(&record.standing),
            expires_at: record.expires_at,
            issued_at: None,
        };
        Ok(Granted { claimant, previous: Some(used), open: Open::Reconnected })
    }

    fn count(&self, claim: &Claim, claimant: &Claimant) -> Result<(), ClaimRefusal> {
        if let (Some(max), Some(peer)) = (self.rules.per_address_max, claim.peer)
            && self.addresses.get(&counted_as(peer)).is_some_and(|count| *count >= max)
        {
            return Err(ClaimRefusal::TooMany);
        }
        if let (Some(max), Some(account)) =
            (self.rules.per_account_max, account_text(claimant.account.as_ref()))
        {
            let mut live = 0;
            self.of_account(&account, &mut |known| live += u32::from(known.owner.is_some()));
            if live >= max {
                return Err(ClaimRefusal::TooMany);
            }
        }
        Ok(())
    }

    fn grant(&mut self, claimed: &Claimed, granted: Granted, unix_ms: u64) -> Decision {
        let Claimed { shard, key, claim } = claimed;
        let (shard, key, session) = (*shard, *key, claim.session);
        let old = self.remove(session);
        let stored = old.as_ref().map_or(self.retired, |record| record.epoch);
        let epoch = Epoch(unix_ms.max(stored.0.saturating_add(1)));
        let evicted = old.as_ref().and_then(Record::owner);
        let other = evicted.filter(|owner| (owner.shard, owner.key) != (shard, key));
        let counted = claim.peer.filter(|_| self.rules.per_address_max.is_some()).map(counted_as);
        if let Some(address) = counted {
            *self.addresses.entry(address).or_default() += 1;
            self.counted.insert(session, address);
        }
        if let Some(previous) = granted.previous {
            self.previous.insert(session, previous);
        }
        let resumed = match (&old, granted.open) {
            (None, _) => Resumed::Nothing,
            (Some(_), Open::Reconnected) => {
                Resumed::Session(Some(Box::new(granted.claimant.clone())))
            }
            (Some(_), _) => Resumed::Session(None),
        };
        let Claimant { account, standing, expires_at, .. } = granted.claimant;
        self.insert(Record {
            session,
            account,
            standing,
            expires_at,
            epoch,
            state: State::Live { place: Place::of(shard, key), open: granted.open },
        });
        self.live += 1;
        Decision {
            // The old epoch, not the new one: it can reach nobody but the old owner.
            evict: other.map(|o| (o.shard, ToShard::Evict { key: o.key, epoch: o.epoch })),
            shard,
            answer: ToShard::Granted { key, session, epoch, resumed },
        }
    }

    /// The connection is gone; what is left of the session waits.
    fn wait(&mut self, session: SessionId, now: Now) {
        let until = now.mono + self.rules.window;
        let ends = until + self.rules.extension;
        let Some(record) = self.record_mut(session) else { return };
        record.state = State::Waiting { until };
        let epoch = record.epoch;
        self.forget_address(session);
        self.ends.push_back((ends, session, epoch));
        self.live -= 1;
        self.waiting += 1;
    }

    fn forget_address(&mut self, session: SessionId) {
        let Some(address) = self.counted.remove(&session) else { return };
        if let Some(count) = self.addresses.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.addresses.remove(&address);
            }
        }
    }

    fn is_waiting(&self, session: SessionId, epoch: Epoch) -> bool {
        self.record(session).is_some_and(|record| {
            record.epoch == epoch && matches!(record.state, State::Waiting { .. })
        })
    }

    fn remember_end(&mut self, session: SessionId, now: Now) {
        if self.revocations.len() >= REVOCATIONS_MAX
            && let Some((_, oldest)) = self.revocations.pop_front()
        {
            self.revoked.remove(&oldest);
        }
        self.revoked.insert(session, now.unix_ms / 1000);
        self.revocations.push_back((now.mono + self.rules.revocation_life, session));
    }
}

impl SessionStore for EmbeddedStore {
    fn claim(&mut self, claimed: Claimed, now: Now) {
        let decision = match self.judge(&claimed.claim, now) {
            Ok(granted) => self.grant(&claimed, granted, now.unix_ms),
            Err(why) => {
                let Claimed { shard, key, .. } = claimed;
                Decision { evict: None, shard, answer: ToShard::Refused { key, why } }
            }
        };
        self.decided.push_back(decision);
    }

    fn decided(&mut self) -> Option<Decision> {
        self.decided.pop_front()
    }

    fn opened(&mut self, session: SessionId, owner: Owner) -> Opened {
        let Some(record) = self.record_mut(session).filter(|record| record.is_of(owner)) else {
            return Opened::Ignored;
        };
        let State::Live { open, .. } = &mut record.state else { return Opened::Ignored };
        match open {
            Open::Fresh | Open::Returned => {
                *open = Open::Opened;
                Opened::ByToken
            }
            Open::Reconnected => {
                *open = Open::Opened;
                Opened::ByReconnect
            }
            Open::Opened | Open::Ending => Opened::Ignored,
        }
    }

    fn token_received(&mut self, session: SessionId, epoch: Epoch) {
        if self.record(session).is_some_and(|record| record.epoch == epoch) {
            self.previous.remove(&session);
        }
    }

    fn release(&mut self, session: SessionId, owner: Owner, end: End, now: Now) -> Released {
        let Some(record) = self.record(session).filter(|record| record.is_of(owner)) else {
            return Released::Ignored;
        };
        let State::Live { open, .. } = record.state else { return Released::Ignored };
        match (open, end) {
            (Open::Fresh, _) => {
                self.remove(session);
                Released::Unopened
            }
            (Open::Returned | Open::Reconnected, _) => {
                self.wait(session, now);
                Released::Unopened
            }
            (Open::Opened, End::Resumable) => {
                self.wait(session, now);
                Released::Waits
            }
            (Open::Opened, End::Final) | (Open::Ending, _) => {
                self.remove(session);
                Released::Over
            }
        }
    }

    fn end(&mut self, session: SessionId, now: Now) -> Ended {
        self.remember_end(session, now);
        let Some(record) = self.record_mut(session) else { return Ended::Unknown };
        match &mut record.state {
            State::Live { open: Open::Ending, .. } => Ended::Unknown,
            State::Live { place, open } => {
                *open = Open::Ending;
                Ended::Live(place.owner(record.epoch))
            }
            State::Waiting { .. } => {
                self.remove(session);
                Ended::Waiting
            }
        }
    }

    fn known(&self, session: SessionId) -> Option<Known<'_>> {
        self.record(session).map(Record::known)
    }

    fn of_account(&self, account: &str, each: &mut dyn FnMut(Known<'_>)) {
        let named = Some(Box::from(account));
        let hash = self.hasher.hash_one(&named);
        for at in self.accounts.iter_hash(hash) {
            if account_at(&self.records, *at) == named
                && let Some(Some(record)) = self.records.get(*at as usize)
            {
                each(record.known());
            }
        }
    }

    fn each(&self, each: &mut dyn FnMut(Known<'_>)) {
        self.records.iter().flatten().for_each(|record| each(record.known()));
    }

    fn expire(&mut self, now: Now, forgotten: &mut dyn FnMut(SessionId)) {
        // More may not wait than may be open: then the oldest go before their time.
        while let Some(&(ends, session, epoch)) = self.ends.front()
            && (ends <= now.mono || self.waiting > self.rules.sessions_max)
        {
            self.ends.pop_front();
            if self.is_waiting(session, epoch) {
                self.remove(session);
                forgotten(session);
            }
        }
        while let Some(&(until, session)) = self.revocations.front()
            && until <= now.mono
        {
            self.revocations.pop_front();
            // One that was ended again since has a later entry of its own.
            if !self.revocations.iter().any(|(_, other)| *other == session) {
                self.revoked.remove(&session);
            }
        }
    }

    fn rule(&mut self, rules: StoreRules) {
        self.rules = rules;
    }

    fn admit(&mut self, admission: Admission) {
        self.admission = admission;
    }

    fn due(&self) -> Option<Instant> {
        let ends = self.ends.front().map(|(ends, ..)| *ends);
        let revocation = self.revocations.front().map(|(until, _)| *until);
        [ends, revocation].into_iter().flatten().min()
    }

    fn live(&self) -> usize {
        self.live
    }

    fn waiting(&self) -> usize {
        self.waiting
    }
}

fn session_at(records: &[Option<Record>], at: u32) -> Option<SessionId> {
    Some(records.get(at as usize)?.as_ref()?.session)
}

fn account_at(records: &[Option<Record>], at: u32) -> Option<Box<str>> {
    account_text(records.get(at as usize)?.as_ref()?.account.as_ref())
}

fn account_text(account: Option<&Account>) -> Option<Box<str>> {
    account.map(|account| account.text(&mut [0; Hyphenated::LENGTH]).into())
}

/// Sessions ended for good that are remembered; beyond it the oldest is forgotten.
const REVOCATIONS_MAX: usize = 1 << 16;

#[cfg(test)]
mod tests;
