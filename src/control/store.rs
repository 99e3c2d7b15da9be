//! Who owns which session, and what is left of sessions that may be taken up again.
//!
//! [`SessionStore`] is what the control core needs of it. A claim is decided when the store has
//! decided it, which may be later; everything else is known here and now, and what another node
//! has to learn of it is the store's business. [`EmbeddedStore`] serves a node by itself,
//! [`RedisStore`] several together.

mod embedded;
mod redis;

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use corelane_shard::clock::{Instant, Now};
use corelane_shard::id::{ConnectionKey, Epoch, SessionId, ShardId};
use corelane_shard::identity::Identity;
use corelane_shard::lane::{Claim, End, ToShard};
pub use corelane_shard::network::counted_as;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::ask::{ListedSession, NotEnded, Whereabouts};
use super::bus::Position;

pub use embedded::EmbeddedStore;
pub use redis::{Courier, Post, RedisStore, SharedRules};

/// Who owns a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    pub shard: ShardId,
    pub key: ConnectionKey,
    pub epoch: Epoch,
}

/// A claim of one connection.
#[derive(Debug)]
pub struct Claimed {
    pub shard: ShardId,
    pub key: ConnectionKey,
    pub claim: Box<Claim>,
}

/// What one claim sends, and to whom. The eviction goes first.
#[derive(Debug)]
pub struct Decision {
    pub evict: Option<(ShardId, ToShard)>,
    /// The shard that claimed, and what it is told.
    pub shard: ShardId,
    pub answer: ToShard,
    pub begin: Begin,
    /// Who had the session before, if that was another node.
    pub before: Option<Before>,
}

/// The claim before, on another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Before {
    pub node: Uuid,
    pub epoch: Epoch,
}

/// Where the events of a granted session begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// With what this node keeps for it.
    Here,
    /// The session was on another node, or this one has been started since: its client may lack
    /// what the bus has from there on.
    From(Position),
    /// The session was there, and nobody knows what its client has of the time before `since`; of
    /// none at all without. It is to be told so.
    Unknown { since: Option<Position> },
}

/// A session that is this node's no longer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    pub session: SessionId,
    /// Its connection here, if it had one.
    pub owner: Option<Owner>,
    pub why: Loss,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loss {
    /// Another node has it.
    Replaced,
    /// It was ended for good on another node.
    Ended { reason: Option<Box<str>> },
    /// Another process is this node now.
    Identity,
}

/// What is known of one session.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    pub identity: &'a Arc<Identity>,
    /// `None` while it waits to be taken up again.
    pub owner: Option<Owner>,
    /// The owner has had its first messages: what waits for the session may come.
    pub open: bool,
}

/// How a session was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    ByToken,
    /// With a reconnect token.
    ByReconnect,
    /// It is not that owner's any more.
    Ignored,
}

/// What became of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Released {
    /// It can be taken up for a while.
    Waits,
    /// It is over.
    Over,
    /// Nobody had been told that it was open.
    Unopened,
    /// The session has a newer owner, or none.
    Ignored,
}

/// What became of a session that is to end for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Its connection is to be closed.
    Live(Owner),
    /// What was left of it is gone.
    Waiting,
    Unknown,
}

/// Whether claims are still granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    Open,
    Draining,
}

/// Bounds and times of the store; a reload replaces them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreRules {
    /// Sessions with a connection; as many more may wait to be taken up.
    pub sessions_max: usize,
    /// How long after its end a reconnect token is good.
    pub window: Duration,
    /// How much longer the rest is kept for those who come back with their token.
    pub extension: Duration,
    /// How long a session's end for good is remembered: as long as any token lives.
    pub revocation_life: Duration,
    /// Sessions with a connection from one address; `None` is no bound.
    pub per_address_max: Option<u32>,
    /// Sessions with a connection of one account; `None` is no bound.
    pub per_account_max: Option<u32>,
}

/// Where sessions are recorded.
pub trait SessionStore {
    /// Begins a claim; [`Self::decided`] tells how it ends. A session that was not there has
    /// everything before `start`.
    fn claim(&mut self, claimed: Claimed, start: Option<Position>, now: Now);

    fn decided(&mut self) -> Option<Decision>;

    /// The owner can receive.
    fn opened(&mut self, session: SessionId, owner: Owner) -> Opened;

    /// The client has the token of this claim: the one before it is void.
    fn token_received(&mut self, session: SessionId, epoch: Epoch);

    /// `reached` is as in [`Self::reached`].
    fn release(
        &mut self,
        session: SessionId,
        owner: Owner,
        end: End,
        reached: Option<Position>,
        now: Now,
    ) -> Released;

    /// Ends a session for good, on whatever node: no token made before now opens it again. If it is
    /// another node's, that one closes its connection when there is a `reason`.
    fn end(&mut self, session: SessionId, reason: Option<&str>, now: Now) -> Ended;

    /// Ends a session for good that is not here; answered when it is known whether there was one.
    fn end_elsewhere(
        &mut self,
        session: SessionId,
        reason: &str,
        answer: oneshot::Sender<Result<(), NotEnded>>,
        now: Now,
    ) {
        self.end(session, Some(reason), now);
        let _unheard = answer.send(Err(NotEnded::NoSession));
    }

    /// Which node has a session that is not open here; answered when it is known.
    fn find(&mut self, _session: SessionId, answer: oneshot::Sender<Whereabouts>) {
        let _unheard = answer.send(Whereabouts::Nowhere);
    }

    /// The client of this claim has everything that the bus has before this position.
    fn reached(&mut self, _session: SessionId, _epoch: Epoch, _position: Position) {}

    /// Keeps what other nodes know of this one's sessions from ageing, as far as it is time for it.
    /// `reached` tells how far the client of a session has come.
    fn renew(&mut self, _reached: &mut dyn FnMut(SessionId) -> Option<Position>, _now: Now) {}

    /// Another node says that it has the session now, after the claim `before`. If that is the newest
    /// that this node knows, it has lost the session, and says so.
    fn superseded(&mut self, _session: SessionId, _before: Epoch) -> bool {
        false
    }

    /// The next session that this node has lost; it is not [`Self::known`] any more.
    fn lost(&mut self) -> Option<Lost> {
        None
    }

    /// Whether this node is surely the owner of its sessions: without, no event leaves.
    fn may_deliver(&self, _now: Now) -> bool {
        true
    }

    /// Another process is this node now: this one is to end.
    fn is_dethroned(&self) -> bool {
        false
    }

    /// Something is still being written.
    fn is_unsettled(&self) -> bool {
        false
    }

    fn known(&self, session: SessionId) -> Option<Known<'_>>;

    /// As [`Self::of_account`], with those of other nodes; answered when it is known.
    fn find_account(&mut self, account: &str, answer: oneshot::Sender<Vec<ListedSession>>) {
        let mut found = Vec::new();
        self.of_account(account, &mut |known| found.push(ListedSession::from(&known)));
        let _unheard = answer.send(found);
    }

    /// Those of an account that are live or wait here.
    fn of_account(&self, account: &str, each: &mut dyn FnMut(Known<'_>));

    fn each(&self, each: &mut dyn FnMut(Known<'_>));

    /// Forgets what has waited too long; names it.
    fn expire(&mut self, now: Now, forgotten: &mut dyn FnMut(SessionId));

    fn rule(&mut self, rules: StoreRules);

    fn admit(&mut self, admission: Admission);

    /// When [`Self::expire`] has something to do.
    fn due(&self) -> Option<Instant>;

    /// Sessions with a connection.
    fn live(&self) -> usize;

    /// Sessions that wait to be taken up.
    fn waiting(&self) -> usize;

    /// Ready when there may be something new that was decided or lost.
    fn poll_news(&mut self, _context: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}
