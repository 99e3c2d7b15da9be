//! The store of several nodes together, in Redis. Sans-IO: time is an argument, and what is sent and
//! answered goes through a [`Courier`].
//!
//! What this node knows of its own sessions is kept as the node by itself keeps it, in an
//! [`EmbeddedStore`]; Redis decides who owns a session, which tokens are good, and what else outlives
//! a connection. Whatever changes there is one script (`lua/`) that compares the epoch: a node that
//! was away cannot undo what a newer owner has done.

mod answers;
mod command;
mod keeping;
mod lease;
mod post;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use ahash::AHashMap;
use corelane_shard::clock::{Instant, Now};
use corelane_shard::id::{Epoch, SessionId};
use corelane_shard::identity::Identity;
use corelane_shard::lane::{ClaimRefusal, Credential, End, ToShard};
use tokio::sync::oneshot;
use uuid::Uuid;

use self::command::{Claiming, Command, Ending, News, Release};
use self::keeping::SWEEPS_SENT_MAX;
use self::lease::Lease;
use super::embedded::EmbeddedStore;
use super::{
    Admission, Begin, Claimed, Decision, Ended, Known, Loss, Lost, Opened, Owner, Position,
    Released, SessionStore, StoreRules,
};
use crate::control::Authority;
use crate::control::ask::{ListedSession, NotEnded, Whereabouts};
use crate::control::redis::RedisProbe;

pub use self::post::Post;

/// Takes commands to Redis and brings back what came of them.
pub trait Courier {
    /// Gives the command back if too many are under way.
    fn send(&mut self, command: Command) -> Result<(), Command>;

    fn news(&mut self) -> Option<News>;

    /// Ready when there may be news.
    fn poll_news(&mut self, context: &mut Context<'_>) -> Poll<()>;
}

/// Who this node is, and the times of what it keeps in Redis.
#[derive(Debug, Clone)]
pub struct SharedRules {
    pub instance: Uuid,
    /// Of this process: another one of the same instance has another.
    pub run: Uuid,
    pub session_ttl: Duration,
    pub heartbeat_ttl: Duration,
    pub heartbeat_interval: Duration,
    pub poll_interval: Duration,
    /// Those with a token of their own are let in while Redis cannot be reached.
    pub admit_when_unreachable: bool,
}

#[derive(Debug)]
pub struct RedisStore<C> {
    courier: C,
    /// This node's sessions.
    local: EmbeddedStore,
    rules: StoreRules,
    shared: SharedRules,
    probe: Arc<RedisProbe>,
    link: Link,
    lease: Lease,
    /// Another process is this node.
    dethroned: bool,
    /// When the store was born, as Redis told last.
    born: Option<u64>,
    /// Claims under way.
    claims: usize,
    /// Commands under way.
    sent: usize,
    /// What could not be written of a claim, or, as the last of all claims, of the session as a whole.
    unsent: AHashMap<(SessionId, Epoch), Command>,
    next_unsent: Instant,
    /// How far clients have come, as far as Redis does not know it.
    cursors: AHashMap<SessionId, (Epoch, Position)>,
    /// When those were sent that are under way.
    cursors_sent: Option<Instant>,
    /// Since when Redis has known less of them.
    cursors_behind: Option<Instant>,
    /// Where the round of heartbeats through the live sessions is.
    round: usize,
    next_beat: Instant,
    /// Less than one, between two steps of the round.
    beats_due: f64,
    /// Sessions that are to be compared, for Redis or this node may have missed something.
    sweep: VecDeque<(SessionId, Epoch)>,
    next_sweep: Instant,
    sweeps_sent: usize,
    decided: VecDeque<Decision>,
    lost: VecDeque<Lost>,
    /// Whom the shards ask.
    authority: Arc<Authority>,
    /// Of the present turn.
    now: Now,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    /// Nobody knows yet.
    Starting,
    Up,
    Down,
}

impl<C: Courier> RedisStore<C> {
    pub fn new(
        courier: C,
        server_salt: &str,
        rules: StoreRules,
        shared: SharedRules,
        probe: Arc<RedisProbe>,
    ) -> Self {
        Self {
            courier,
            local: EmbeddedStore::new(server_salt, rules),
            rules,
            shared,
            probe,
            link: Link::Starting,
            lease: Lease::default(),
            dethroned: false,
            born: None,
            claims: 0,
            sent: 0,
            unsent: AHashMap::new(),
            next_unsent: Instant(0),
            cursors: AHashMap::new(),
            cursors_sent: None,
            cursors_behind: None,
            round: 0,
            next_beat: Instant(0),
            beats_due: 0.0,
            sweep: VecDeque::new(),
            next_sweep: Instant(0),
            sweeps_sent: 0,
            decided: VecDeque::new(),
            lost: VecDeque::new(),
            authority: Arc::default(),
            now: Now { mono: Instant(0), unix_ms: 0 },
        }
    }

    /// Keeps it to what the lease says.
    #[must_use]
    pub fn telling(self, authority: Arc<Authority>) -> Self {
        Self { authority, ..self }
    }

    fn refuse(&mut self, claimed: &Claimed, why: ClaimRefusal) {
        let Claimed { shard, key, .. } = *claimed;
        let answer = ToShard::Refused { key, why };
        let (evict, begin, before) = (None, Begin::Here, None);
        self.decided.push_back(Decision { evict, shard, answer, begin, before });
    }

    /// Greater than every epoch that this node knows of the session.
    fn next_epoch(&self, session: SessionId) -> Epoch {
        let known = self.local.epoch(session).map_or(0, |epoch| epoch.0.saturating_add(1));
        Epoch(self.now.unix_ms.max(known))
    }

    /// Redis cannot be asked. If it was, with the epoch `asked`, it may have granted that.
    fn claim_alone(&mut self, claimed: Claimed, asked: Epoch) {
        let admits = self.shared.admit_when_unreachable && !self.dethroned;
        if !admits || !matches!(claimed.claim.credential, Credential::Token(_)) {
            return self.refuse(&claimed, ClaimRefusal::Unavailable);
        }
        let session = claimed.claim.session();
        let known = self.local.epoch(session).is_some();
        let unix_ms = self.now.unix_ms.max(asked.0.saturating_add(1));
        self.local.claim(claimed, None, Now { unix_ms, ..self.now });
        while let Some(mut decision) = self.local.decided() {
            if let ToShard::Granted { session, epoch, .. } = decision.answer {
                self.sweep.push_back((session, epoch));
                if !known {
                    decision.begin = Begin::Unknown { since: None };
                }
            }
            self.decided.push_back(decision);
        }
    }

    fn submit(&mut self, claiming: Box<Claiming>) {
        self.claims += 1;
        if let Err(Command::Claim(claiming)) = self.send(Command::Claim(claiming)) {
            self.claims -= 1;
            self.refuse(&claiming.claimed, ClaimRefusal::Unavailable);
        }
    }

    fn send(&mut self, command: Command) -> Result<(), Command> {
        if self.link == Link::Down || self.dethroned {
            return Err(command);
        }
        self.courier.send(command)?;
        self.sent += 1;
        Ok(())
    }

    /// Sends it, or keeps it until it can be sent.
    fn send_or_keep(&mut self, command: Command) {
        if let Err(command) = self.send(command) {
            self.keep_unsent(command);
        }
    }

    /// The session is another's.
    fn lose(&mut self, session: SessionId, why: Loss) {
        self.cursors.remove(&session);
        if let Some(owner) = self.local.abandon(session) {
            self.lost.push_back(Lost { session, owner, why });
        }
    }

    fn local_of_account(&self, account: &str) -> Vec<ListedSession> {
        let mut found = Vec::new();
        self.local.of_account(account, &mut |known| found.push(ListedSession::from(&known)));
        found
    }
}

impl<C: Courier> SessionStore for RedisStore<C> {
    fn claim(&mut self, claimed: Claimed, start: Option<Position>, now: Now) {
        self.now = now;
        let identity: Option<&Identity> = match &claimed.claim.credential {
            Credential::Token(identity) => Some(identity),
            Credential::Reconnect { .. } => None,
        };
        if let Err(why) = self.local.has_room(&claimed.claim, identity, self.claims) {
            return self.refuse(&claimed, why);
        }
        if self.link == Link::Down || self.dethroned {
            return self.claim_alone(claimed, Epoch(0));
        }
        let session = claimed.claim.session();
        let (epoch, rules, at) = (self.next_epoch(session), self.rules, now.unix_ms);
        self.submit(Box::new(Claiming { claimed, session, epoch, start, retries: 0, rules, at }));
    }

    fn decided(&mut self) -> Option<Decision> {
        self.take_news();
        self.decided.pop_front()
    }

    fn opened(&mut self, session: SessionId, owner: Owner) -> Opened {
        self.local.opened(session, owner)
    }

    fn token_received(&mut self, session: SessionId, epoch: Epoch) {
        self.local.token_received(session, epoch);
        if self.local.epoch(session) == Some(epoch) {
            // One that is lost leaves the token before good for as long as the session waits.
            let _lost = self.send(Command::Confirm { session, epoch, at: self.now.unix_ms });
        }
    }

    fn release(
        &mut self,
        session: SessionId,
        owner: Owner,
        end: End,
        reached: Option<Position>,
        now: Now,
    ) -> Released {
        self.now = now;
        let identity = self.local.known(session).map(|known| Arc::clone(known.identity));
        let released = self.local.release(session, owner, end, reached, now);
        if released == Released::Ignored {
            return released;
        }
        let (epoch, at) = (owner.epoch, now.unix_ms);
        let noted = self.cursors.remove(&session).filter(|(of, _)| *of == epoch);
        let cursor = reached.or(noted.map(|(_, position)| position));
        let waits = self.local.epoch(session) == Some(epoch);
        self.send_or_keep(match waits {
            true => Command::Release(Box::new(Release {
                session,
                epoch,
                identity,
                ended: at,
                cursor: cursor.filter(|_| self.may_deliver(now)),
                rules: self.rules,
                at,
            })),
            false => Command::Remove { session, epoch, at },
        });
        released
    }

    fn end(&mut self, session: SessionId, reason: Option<&str>, now: Now) -> Ended {
        self.now = now;
        let ended = self.local.end(session, reason, now);
        let (reason, rules, at) = (reason.map(Box::from), self.rules, now.unix_ms);
        let ending = Ending { session, reason, rules, answer: None, at };
        self.send_or_keep(Command::End(Box::new(ending)));
        ended
    }

    fn end_elsewhere(
        &mut self,
        session: SessionId,
        reason: &str,
        answer: oneshot::Sender<Result<(), NotEnded>>,
        now: Now,
    ) {
        self.now = now;
        self.local.end(session, Some(reason), now);
        let (reason, answer) = (Some(reason.into()), Some(answer));
        let (rules, at) = (self.rules, now.unix_ms);
        let ending = Ending { session, reason, rules, answer, at };
        self.send_or_keep(Command::End(Box::new(ending)));
    }

    fn find(&mut self, session: SessionId, answer: oneshot::Sender<Whereabouts>) {
        let command = Command::Find { session, answer, at: self.now.unix_ms };
        if let Err(Command::Find { answer, .. }) = self.send(command) {
            let _unheard = answer.send(Whereabouts::Unknown);
        }
    }

    fn reached(&mut self, session: SessionId, epoch: Epoch, position: Position) {
        if self.local.epoch(session) == Some(epoch) {
            self.cursors.insert(session, (epoch, position));
            self.cursors_behind.get_or_insert(self.now.mono);
        }
    }

    fn renew(&mut self, reached: &mut dyn FnMut(SessionId) -> Option<Position>, now: Now) {
        self.now = now;
        self.take_news();
        if self.link != Link::Down && !self.dethroned {
            self.keep_up(reached);
        }
        if self.cursors.is_empty() && self.cursors_sent.is_none() {
            // Those that were waited for may have left with their sessions.
            self.cursors_behind = None;
        }
        self.show();
    }

    fn superseded(&mut self, session: SessionId, before: Epoch) -> bool {
        let known = self.local.epoch(session) == Some(before);
        if known {
            self.lose(session, Loss::Replaced);
        }
        known
    }

    fn lost(&mut self) -> Option<Lost> {
        self.lost.pop_front()
    }

    fn may_deliver(&self, now: Now) -> bool {
        !self.dethroned && self.lease.is_sure(now.mono)
    }

    fn is_dethroned(&self) -> bool {
        self.dethroned
    }

    fn is_unsettled(&self) -> bool {
        let down = self.link == Link::Down || self.dethroned;
        !down && (self.sent > 0 || !self.unsent.is_empty())
    }

    fn known(&self, session: SessionId) -> Option<Known<'_>> {
        self.local.known(session)
    }

    fn of_account(&self, account: &str, each: &mut dyn FnMut(Known<'_>)) {
        self.local.of_account(account, each);
    }

    fn find_account(&mut self, account: &str, answer: oneshot::Sender<Vec<ListedSession>>) {
        let command = Command::OfAccount { account: account.into(), answer, at: self.now.unix_ms };
        if let Err(Command::OfAccount { answer, .. }) = self.send(command) {
            let _unheard = answer.send(self.local_of_account(account));
        }
    }

    fn each(&self, each: &mut dyn FnMut(Known<'_>)) {
        self.local.each(each);
    }

    fn expire(&mut self, now: Now, forgotten: &mut dyn FnMut(SessionId)) {
        self.local.expire(now, forgotten);
    }

    fn rule(&mut self, rules: StoreRules) {
        self.rules = rules;
        self.local.rule(rules);
    }

    fn admit(&mut self, admission: Admission) {
        self.local.admit(admission);
    }

    fn due(&self) -> Option<Instant> {
        if self.link == Link::Down || self.dethroned {
            // Whoever looks sees the lease age.
            let shown = self.now.mono + SHOW_PAUSE;
            return Some(self.local.due().map_or(shown, |due| due.min(shown)));
        }
        let beat = (self.local.live() > 0).then_some(self.next_beat);
        let unsent = (!self.unsent.is_empty()).then_some(self.next_unsent);
        let compares = !self.sweep.is_empty() && self.sweeps_sent < SWEEPS_SENT_MAX;
        let sweep = compares.then_some(self.next_sweep);
        [self.local.due(), self.lease.due(), beat, unsent, sweep].into_iter().flatten().min()
    }

    fn live(&self) -> usize {
        self.local.live()
    }

    fn waiting(&self) -> usize {
        self.local.waiting()
    }

    fn poll_news(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.courier.poll_news(context)
    }
}

/// Between two looks at the lease while there is nothing else to do.
const SHOW_PAUSE: Duration = Duration::from_secs(1);
