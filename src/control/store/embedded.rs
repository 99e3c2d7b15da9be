//! The store of a node by itself, in memory. Sans-IO: time is an argument.

use std::collections::VecDeque;
use std::sync::Arc;

use ahash::AHashMap;
use corelane_shard::clock::{Instant, Now};
use corelane_shard::id::{Epoch, SessionId, ShardId};
use corelane_shard::identity::{Account, Identity};
use corelane_shard::lane::{Claim, ClaimRefusal, Credential, End, Resumed, ToShard};
use corelane_shard::wire::reconnect_token::{ReconnectKeys, Seal};

use self::addresses::AddressCounts;
use self::records::{Open, Place, Record, Records, State};
use self::revocations::Revocations;
use super::{
    Admission, Begin, Claimed, Decision, Ended, Known, Opened, Owner, Position, Released,
    SessionStore, StoreRules, counted_as,
};

mod addresses;
mod records;
mod revocations;

/// One record a session, live or waiting, each at most [`StoreRules::sessions_max`].
#[derive(Debug)]
pub struct EmbeddedStore {
    rules: StoreRules,
    admission: Admission,
    keys: ReconnectKeys,
    records: Records,
    live: usize,
    waiting: usize,
    /// When which record is to be forgotten, in the order in which they began to wait.
    ends: VecDeque<(Instant, SessionId, Epoch)>,
    /// The epoch of the claim before, for those whose earlier token is good yet.
    previous: AHashMap<SessionId, Epoch>,
    addresses: AddressCounts,
    revocations: Revocations,
    decided: VecDeque<Decision>,
    /// The greatest epoch that left with its record: a session that comes back gets a greater one
    /// even if the clock stood still or went back.
    retired: Epoch,
}

/// What a claim finds and leaves.
struct Granted {
    identity: Arc<Identity>,
    /// The epoch whose token stays good until the new one is there.
    previous: Option<Epoch>,
    open: Open,
}

/// How a session was come by that another store has granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    Fresh,
    Returned,
    Reconnected,
}

impl EmbeddedStore {
    #[must_use]
    pub fn new(server_salt: &str, rules: StoreRules) -> Self {
        Self {
            admission: Admission::Open,
            keys: ReconnectKeys::from_salt(server_salt),
            records: Records::new(rules.sessions_max),
            live: 0,
            waiting: 0,
            ends: VecDeque::new(),
            previous: AHashMap::new(),
            addresses: AddressCounts::default(),
            revocations: Revocations::default(),
            decided: VecDeque::new(),
            retired: Epoch(0),
            rules,
        }
    }

    fn remove(&mut self, session: SessionId) -> Option<Record> {
        let record = self.records.remove(session)?;
        match record.state {
            State::Live { .. } => self.live -= 1,
            State::Waiting { .. } => self.waiting -= 1,
        }
        self.addresses.forget(session);
        self.previous.remove(&session);
        self.retired = self.retired.max(record.epoch);
        Some(record)
    }

    /// Says why not before anything has changed.
    fn judge(&self, claim: &Claim, now: Now) -> Result<Granted, ClaimRefusal> {
        if self.admission == Admission::Draining {
            return Err(ClaimRefusal::Draining);
        }
        let record = self.records.get(claim.session());
        let granted = match &claim.credential {
            Credential::Token(identity) => self.judge_token(identity, record)?,
            Credential::Reconnect { seal, .. } => self.judge_reconnect(*seal, record, now)?,
        };
        self.has_room(claim, Some(&granted.identity), 0)?;
        Ok(granted)
    }

    /// Whether one more session may have a connection, besides those that are `claimed` and not
    /// decided. `identity` is who claims, as far as it is known.
    pub(super) fn has_room(
        &self,
        claim: &Claim,
        identity: Option<&Identity>,
        claimed: usize,
    ) -> Result<(), ClaimRefusal> {
        if self.admission == Admission::Draining {
            return Err(ClaimRefusal::Draining);
        }
        if self.records.get(claim.session()).is_some_and(|record| record.owner().is_some()) {
            return Ok(());
        }
        if self.live + claimed >= self.rules.sessions_max {
            return Err(ClaimRefusal::Full);
        }
        self.keep_bounds(claim, identity)
    }

    fn judge_token(
        &self,
        identity: &Arc<Identity>,
        record: Option<&Record>,
    ) -> Result<Granted, ClaimRefusal> {
        if self.revocations.refuse(identity) {
            return Err(ClaimRefusal::Revoked);
        }
        let identity = Arc::clone(identity);
        let Some(record) = record else {
            return Ok(Granted { identity, previous: None, open: Open::Fresh });
        };
        let same = record.identity.account == identity.account
            && record.identity.standing.tenant == identity.standing.tenant;
        if !same {
            return Err(ClaimRefusal::Mismatch);
        }
        // The one that its client surely has.
        let previous = self.previous.get(&identity.session).copied().or(Some(record.epoch));
        Ok(Granted { identity, previous, open: Open::Returned })
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
        let session = record.identity.session;
        let previous = self.previous.get(&session).copied();
        let used = [Some(record.epoch), previous].into_iter().flatten();
        let used = { used }.find(|epoch| self.keys.is_of(seal, session, *epoch));
        let used = used.filter(|_| !over).ok_or(ClaimRefusal::Unknown)?;
        let identity = Arc::clone(&record.identity);
        Ok(Granted { identity, previous: Some(used), open: Open::Reconnected })
    }

    /// Of sessions for each address and each account.
    fn keep_bounds(&self, claim: &Claim, identity: Option<&Identity>) -> Result<(), ClaimRefusal> {
        let StoreRules { per_address_max, per_account_max, .. } = self.rules;
        if let (Some(max), Some(peer)) = (per_address_max, claim.peer)
            && self.addresses.of(counted_as(peer)) >= max
        {
            return Err(ClaimRefusal::TooMany);
        }
        let account = identity.and_then(|identity| identity.account.as_ref());
        if let (Some(max), Some(account)) = (per_account_max, account) {
            let records = self.records.of_account(account);
            if records.filter(|record| record.owner().is_some()).count() >= max as usize {
                return Err(ClaimRefusal::TooMany);
            }
        }
        Ok(())
    }

    fn grant(&mut self, claimed: &Claimed, granted: Granted, unix_ms: u64) -> Decision {
        let Claimed { shard, key, claim } = claimed;
        let (shard, key, session) = (*shard, *key, claim.session());
        let old = self.records.get(session).map(|record| record.epoch);
        let stored = old.unwrap_or(self.retired);
        let epoch = Epoch(unix_ms.max(stored.0.saturating_add(1)));
        let resumed = match (old, granted.open) {
            (None, _) => Resumed::Nothing,
            (Some(_), Open::Reconnected) => Resumed::Session(Some(Arc::clone(&granted.identity))),
            (Some(_), _) => Resumed::Session(None),
        };
        Decision {
            evict: self.install(claimed, granted, epoch),
            shard,
            answer: ToShard::Granted { key, session, epoch, resumed },
            begin: Begin::Here,
            before: None,
        }
    }

    /// Makes the one who claimed the owner, and says whom to evict for it.
    fn install(
        &mut self,
        claimed: &Claimed,
        granted: Granted,
        epoch: Epoch,
    ) -> Option<(ShardId, ToShard)> {
        let Claimed { shard, key, claim } = claimed;
        let Granted { identity, previous, open } = granted;
        let session = identity.session;
        let old = self.remove(session);
        if let Some(peer) = claim.peer.filter(|_| self.rules.per_address_max.is_some()) {
            self.addresses.count(session, counted_as(peer));
        }
        if let Some(previous) = previous {
            self.previous.insert(session, previous);
        }
        let state = State::Live { place: Place::of(*shard, *key), open };
        self.records.insert(Record { identity, epoch, state });
        self.live += 1;
        let evicted = old.as_ref().and_then(Record::owner);
        let other = evicted.filter(|owner| (owner.shard, owner.key) != (*shard, *key));
        // The old epoch, not the new one: it can reach nobody but the old owner.
        other.map(|o| (o.shard, ToShard::Evict { key: o.key, epoch: o.epoch }))
    }

    /// As [`SessionStore::claim`], decided elsewhere. Says whom to evict for it.
    pub(super) fn adopt(
        &mut self,
        claimed: &Claimed,
        identity: Arc<Identity>,
        epoch: Epoch,
        taken: Taken,
    ) -> Option<(ShardId, ToShard)> {
        let open = match taken {
            Taken::Fresh => Open::Fresh,
            Taken::Returned => Open::Returned,
            Taken::Reconnected => Open::Reconnected,
        };
        // Which tokens are good is decided elsewhere, too.
        self.install(claimed, Granted { identity, previous: None, open }, epoch)
    }

    /// The session is another's: nothing of it is kept. Says whose it was if it was here.
    pub(super) fn abandon(&mut self, session: SessionId) -> Option<Option<Owner>> {
        self.remove(session).map(|record| record.owner())
    }

    /// Whether the session was ended here after this token was made.
    pub(super) fn has_ended(&self, token: &Identity) -> bool {
        self.revocations.refuse(token)
    }

    /// The next of a round through the live sessions, [`Records::live_from`].
    pub(super) fn live_from(&self, from: usize, most: usize) -> (Vec<(SessionId, Epoch)>, usize) {
        self.records.live_from(from, most)
    }

    /// Of the newest claim that was granted here.
    pub(super) fn epoch(&self, session: SessionId) -> Option<Epoch> {
        self.records.get(session).map(|record| record.epoch)
    }

    /// The connection is gone; what is left of the session waits.
    fn wait(&mut self, session: SessionId, now: Now) {
        let until = now.mono + self.rules.window;
        let ends = until + self.rules.extension;
        let Some(record) = self.records.get_mut(session) else { return };
        record.state = State::Waiting { until };
        self.ends.push_back((ends, session, record.epoch));
        self.addresses.forget(session);
        self.live -= 1;
        self.waiting += 1;
    }

    fn is_waiting(&self, session: SessionId, epoch: Epoch) -> bool {
        self.records.get(session).is_some_and(|record| {
            record.epoch == epoch && matches!(record.state, State::Waiting { .. })
        })
    }
}

impl SessionStore for EmbeddedStore {
    fn claim(&mut self, claimed: Claimed, _start: Option<Position>, now: Now) {
        let decision = match self.judge(&claimed.claim, now) {
            Ok(granted) => self.grant(&claimed, granted, now.unix_ms),
            Err(why) => {
                let Claimed { shard, key, .. } = claimed;
                let answer = ToShard::Refused { key, why };
                Decision { evict: None, shard, answer, begin: Begin::Here, before: None }
            }
        };
        self.decided.push_back(decision);
    }

    fn decided(&mut self) -> Option<Decision> {
        self.decided.pop_front()
    }

    fn opened(&mut self, session: SessionId, owner: Owner) -> Opened {
        let Some(record) = self.records.get_mut(session).filter(|record| record.is_of(owner))
        else {
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
        if self.records.get(session).is_some_and(|record| record.epoch == epoch) {
            self.previous.remove(&session);
        }
    }

    fn release(
        &mut self,
        session: SessionId,
        owner: Owner,
        end: End,
        _reached: Option<Position>,
        now: Now,
    ) -> Released {
        let Some(record) = self.records.get(session).filter(|record| record.is_of(owner)) else {
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

    fn end(&mut self, session: SessionId, _reason: Option<&str>, now: Now) -> Ended {
        self.revocations.revoke(session, now, self.rules.revocation_life);
        let Some(record) = self.records.get_mut(session) else { return Ended::Unknown };
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
        self.records.get(session).map(Record::known)
    }

    fn of_account(&self, account: &str, each: &mut dyn FnMut(Known<'_>)) {
        let account = Account::from(account);
        self.records.of_account(&account).for_each(|record| each(record.known()));
    }

    fn each(&self, each: &mut dyn FnMut(Known<'_>)) {
        self.records.iter().for_each(|record| each(record.known()));
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
        self.revocations.expire(now.mono);
    }

    fn rule(&mut self, rules: StoreRules) {
        self.rules = rules;
    }

    fn admit(&mut self, admission: Admission) {
        self.admission = admission;
    }

    fn due(&self) -> Option<Instant> {
        let ends = self.ends.front().map(|(ends, ..)| *ends);
        [ends, self.revocations.due()].into_iter().flatten().min()
    }

    fn live(&self) -> usize {
        self.live
    }

    fn waiting(&self) -> usize {
        self.waiting
    }
}

#[cfg(test)]
mod tests;
