//! What the store wants of Redis, and what it is told.

use std::sync::Arc;

use corelane_shard::clock::Instant;
use corelane_shard::id::{Epoch, SessionId};
use corelane_shard::identity::Identity;
use corelane_shard::lane::ClaimRefusal;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::super::{Claimed, Position, StoreRules};
use crate::control::ask::{ListedSession, NotEnded, Whereabouts};
use crate::control::redis::Fault;

/// One change, whole or not at all; `at` is Unix time in milliseconds.
#[derive(Debug)]
pub enum Command {
    Claim(Box<Claiming>),
    /// Live sessions of this node as they are.
    Keep {
        held: Box<[Held]>,
        why: Keeping,
        at: u64,
    },
    /// How far clients have come.
    Cursors {
        reached: Box<[Reached]>,
        at: u64,
    },
    /// The newest token has arrived.
    Confirm {
        session: SessionId,
        epoch: Epoch,
        at: u64,
    },
    Release(Box<Release>),
    /// The session is over.
    Remove {
        session: SessionId,
        epoch: Epoch,
        at: u64,
    },
    /// The session is over whoever has it.
    End(Box<Ending>),
    /// Which node has it.
    Find {
        session: SessionId,
        answer: oneshot::Sender<Whereabouts>,
        at: u64,
    },
    /// Renews the lease and asks for evictions. `begins` is said until it has been answered once.
    Poll {
        begins: bool,
        sent: Instant,
        at: u64,
    },
    OfAccount {
        account: Box<str>,
        answer: oneshot::Sender<Vec<ListedSession>>,
        at: u64,
    },
}

/// Why sessions are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeping {
    /// It is their turn.
    Beat,
    /// This node was away, or Redis has lost something.
    Comparison,
}

#[derive(Debug)]
pub struct Claiming {
    pub claimed: Claimed,
    /// As far as the credential tells.
    pub session: SessionId,
    pub epoch: Epoch,
    /// What a new session has everything before.
    pub start: Option<Position>,
    /// Times that Redis has asked for another epoch or session.
    pub retries: u32,
    pub rules: StoreRules,
    pub at: u64,
}

#[derive(Debug, Clone)]
pub struct Held {
    pub identity: Arc<Identity>,
    pub epoch: Epoch,
    pub cursor: Option<Position>,
}

#[derive(Debug, Clone, Copy)]
pub struct Reached {
    pub session: SessionId,
    pub epoch: Epoch,
    pub position: Position,
}

#[derive(Debug)]
pub struct Release {
    pub session: SessionId,
    pub epoch: Epoch,
    /// `None` for a claim of which nobody knows whether it was granted.
    pub identity: Option<Arc<Identity>>,
    /// When the connection ended.
    pub ended: u64,
    pub cursor: Option<Position>,
    pub rules: StoreRules,
    pub at: u64,
}

#[derive(Debug)]
pub struct Ending {
    pub session: SessionId,
    pub reason: Option<Box<str>>,
    pub rules: StoreRules,
    /// Who wants to know whether there was one.
    pub answer: Option<oneshot::Sender<Result<(), NotEnded>>>,
    pub at: u64,
}

#[derive(Debug)]
pub enum Answer {
    Refused(ClaimRefusal),
    /// The claim is to be made again with these.
    Retry {
        session: SessionId,
        epoch: Epoch,
    },
    Granted(Box<Found>),
    /// Of each session; `None` if it failed.
    Kept(Vec<Option<Kept>>),
    Written {
        /// What was held back, because the session has another owner.
        fenced: u64,
    },
    /// Another process has the lease.
    Taken,
    Held {
        born: u64,
        evictions: Vec<Eviction>,
    },
    OfAccount(Vec<Identity>),
    /// Whether there was one.
    Ended {
        existed: bool,
    },
    /// The instance of the node, if any has it.
    Found(Option<Uuid>),
}

/// What a claim has found.
#[derive(Debug)]
pub struct Found {
    pub identity: Arc<Identity>,
    /// It was there.
    pub existed: bool,
    pub last: Option<Last>,
    pub cursor: Option<Cursor>,
    /// Its token is older than the store: nobody knows whether it was there.
    pub older: bool,
}

/// Whose it was last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Last {
    pub node: Uuid,
    /// The process.
    pub run: Uuid,
    pub epoch: Epoch,
    /// Of the newest claim that another node than that one had made before; 0 if there was none.
    pub foreign: Epoch,
}

/// What Redis knows of how far a client has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cursor {
    /// It has everything before.
    At(Position),
    /// It has yet to hear that nobody knows what it has of the time before.
    Unknown(Position),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// It was missing or older, or is as it was.
    Ours,
    /// Somebody newer has it.
    Newer,
    /// It was ended for good.
    Ended,
}

/// What another node has done to a session of this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eviction {
    pub session: SessionId,
    /// Of the new owner, or of the one that was ended.
    pub epoch: Epoch,
    pub why: Why,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    Replaced,
    Ended { reason: Option<Box<str>> },
}

/// What comes from the connection.
#[derive(Debug)]
pub enum News {
    Connected,
    Disconnected,
    /// Each command comes back once, in the order in which they were sent.
    Answered(Command, Result<Answer, Fault>),
}
