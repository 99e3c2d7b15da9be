//! What the HTTP listeners ask of the control core. Each question carries the way back for its
//! answer; who has stopped waiting for it is not missed.

use std::sync::Arc;
use std::time::Duration;

use corelane_shard::id::{ServiceId, SessionId};
use corelane_shard::identity::Identity;
use corelane_shard::lane::SessionDescription;
use corelane_shard::snapshot::{Address, Snapshot};
use corelane_shard::wire::guid::Guid;
use thiserror::Error;
use tokio::sync::{broadcast, mpsc, oneshot};
use uuid::Uuid;

use super::bus::Record;
use super::nodes::{NoResponse, Request, Response, Seat};
use super::store::Known;

/// A way to the control core; one for each listener.
pub type Asking = mpsc::Sender<Ask>;

/// Questions that wait for the control core; beyond it the listener answers 503.
pub const ASKS_MAX: usize = 1024;

#[derive(Debug)]
pub enum Ask {
    /// Takes a record as if it had come from the bus.
    Publish { record: Record, answer: oneshot::Sender<Result<(), Unpublished>> },
    /// All records from now on; `None` where the gateway itself is not the bus.
    Subscribe { answer: oneshot::Sender<Option<broadcast::Receiver<Arc<Record>>>> },
    /// Sends a whole message, 31-byte header included, to a session.
    Push { session: SessionId, message: Box<[u8]>, answer: oneshot::Sender<Result<(), NoSession>> },
    /// Sends an RPC to a session; the answer goes to a topic.
    Rpc { rpc: Box<Rpc>, answer: oneshot::Sender<Result<(), RpcRefused>> },
    /// The sessions of an account, live ones and those that wait to be taken up.
    OfAccount { account: Box<str>, answer: oneshot::Sender<Vec<ListedSession>> },
    /// Sessions in the order of their ids, those after `after`.
    List { after: Option<SessionId>, limit: usize, answer: oneshot::Sender<Vec<ListedSession>> },
    /// All that is known of one live session.
    Describe { session: SessionId, answer: oneshot::Sender<Result<Box<Described>, NoSession>> },
    /// Where the backends of a service of the present snapshot are; none if nothing is known yet.
    Addresses { service: ServiceId, answer: oneshot::Sender<Arc<[Address]>> },
    /// Another node wants a link.
    Link { instance: Uuid, answer: oneshot::Sender<Result<Seat, NoLinks>> },
    /// Ends a session for good, on whatever node; tells whether there was one.
    End { session: SessionId, reason: Box<str>, answer: oneshot::Sender<Result<(), NotEnded>> },
    /// Which node has a session that is not here.
    Whereabouts { session: SessionId, answer: oneshot::Sender<Whereabouts> },
    /// What that node answers to the same request. It does so in time, or there is a reason.
    Node { node: Uuid, request: Request, answer: oneshot::Sender<Result<Response, NoResponse>> },
}

/// Where a session is that is not here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whereabouts {
    /// It is open nowhere.
    Nowhere,
    /// On the node of this instance.
    Node(Uuid),
    /// The session store cannot be asked.
    Unknown,
}

/// An RPC of a service to a client.
#[derive(Debug, Clone)]
pub struct Rpc {
    pub session: SessionId,
    pub service: Box<str>,
    pub service_guid: Guid,
    pub channel: u16,
    pub message_id: u64,
    pub payload: Box<[u8]>,
    /// Where the client's answer is published.
    pub response_topic: Box<str>,
    /// `None` takes the configured one.
    pub timeout: Option<Duration>,
}

#[derive(Debug, Clone)]
pub struct ListedSession {
    pub identity: Arc<Identity>,
    /// It has a connection.
    pub live: bool,
}

impl From<&Known<'_>> for ListedSession {
    fn from(known: &Known<'_>) -> Self {
        Self { identity: Arc::clone(known.identity), live: known.owner.is_some() }
    }
}

#[derive(Debug)]
pub struct Described {
    pub listed: ListedSession,
    pub description: SessionDescription,
    /// What the indices of the description mean.
    pub snapshot: Arc<Snapshot>,
}

/// Why another node gets no link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoLinks {
    /// This node has nothing to do with others.
    Alone,
    TooMany,
}

/// Why a record was not taken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Unpublished {
    #[error("the key of {topic} is CONNECT_SESSION_ and a session id", topic = super::bus::topic::CLIENT_EVENTS)]
    BadKey,
    /// Text and metric label of the fault.
    #[error("{text}")]
    Unusable { text: Box<str>, label: &'static str },
    #[error("no session of that id is open or can be taken up")]
    NoSession,
    #[error("the event is longer than what may wait for a session")]
    TooLong,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("no session of that id is open here")]
pub struct NoSession;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NotEnded {
    #[error("no session of that id is open or can be taken up")]
    NoSession,
    #[error(
        "the session is not here, and Redis cannot be asked whether it is elsewhere; it is ended there when \
         Redis is back"
    )]
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RpcRefused {
    #[error(transparent)]
    NoSession(#[from] NoSession),
    #[error("too many RPCs wait for an answer")]
    TooMany,
}
