//! One link as the control core sees it: a bounded queue towards the task that owns the socket, and
//! who waits for answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ahash::AHashMap;
use bytes::Bytes;
use corelane_shard::clock::Instant;
use corelane_shard::id::ShardId;
use corelane_shard::lane::AnswerFromAbroad;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::requests::Asking;
use super::said::Hello;

/// One link of this process; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub(super) u64);

/// What a link carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::control) enum Dialect {
    /// Broadcasts alone, verbatim: the other node did not ask for more, or does not know more.
    Broadcasts,
    /// All of [`super::said`].
    Node,
}

/// How far a link has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// No socket yet, or nobody has said who he is.
    Opening,
    /// It is for the other node to say that this link is used.
    Offered,
    Open,
}

/// What the task of a link is to send.
#[derive(Debug)]
pub(super) enum Outgoing {
    /// With its part of the bytes that may wait.
    Message(Bytes, Held),
    Close(u16, &'static str),
}

/// What a link's task is given.
#[derive(Debug)]
pub struct Seat {
    pub(super) link: LinkId,
    pub(super) queue: mpsc::Receiver<Outgoing>,
    pub(super) news: mpsc::Sender<LinkNews>,
}

/// What a link's task tells.
#[derive(Debug)]
pub(in crate::control) struct LinkNews {
    pub(super) link: LinkId,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    /// The handshake is over.
    Connected(Dialect),
    Said(Bytes),
    Ended(LinkEnd),
}

/// How a link ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum LinkEnd {
    /// There never was one.
    Unreachable(String),
    /// By the other node.
    Closed,
    /// Without a word.
    Lost,
    /// The other node says nothing any more, or takes nothing.
    Silent,
    Malformed,
}

/// Bytes in a queue; given back when this goes.
#[derive(Debug)]
pub(super) struct Held {
    bytes: usize,
    of_link: Arc<AtomicUsize>,
    of_all: Arc<AtomicUsize>,
}

impl Held {
    /// `reserve` bytes are left for others.
    fn take(
        bytes: usize,
        reserve: usize,
        of_link: &Arc<AtomicUsize>,
        of_all: &Arc<AtomicUsize>,
    ) -> Option<Self> {
        let fits = |held: &AtomicUsize, max| held.load(Ordering::Relaxed) + bytes + reserve <= max;
        if !fits(of_link, LINK_BYTES_MAX) || !fits(of_all, ALL_BYTES_MAX) {
            return None;
        }
        of_link.fetch_add(bytes, Ordering::Relaxed);
        of_all.fetch_add(bytes, Ordering::Relaxed);
        Some(Self { bytes, of_link: Arc::clone(of_link), of_all: Arc::clone(of_all) })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.of_link.fetch_sub(self.bytes, Ordering::Relaxed);
        self.of_all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Somebody who is told what becomes of his message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::control) struct Waiting {
    pub(in crate::control) shard: ShardId,
    /// Says "refused" until the other node says otherwise.
    pub(in crate::control) answer: AnswerFromAbroad,
}

/// The queue has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

#[derive(Debug)]
pub(super) struct Link {
    pub(super) phase: Phase,
    pub(super) dialect: Dialect,
    /// When it must be open.
    pub(super) opens_by: Instant,
    /// Of the other node, once it is known.
    pub(super) instance: Option<Uuid>,
    pub(super) hello: Option<Hello>,
    /// A newer link of the same node takes the broadcasts.
    pub(super) superseded: bool,
    /// By number, without 0.
    pub(super) waiting: AHashMap<u32, Waiting>,
    /// Requests without a response, by number.
    pub(super) asking: AHashMap<u32, Asking>,
    queue: mpsc::Sender<Outgoing>,
    held: Arc<AtomicUsize>,
}

impl Link {
    pub(super) fn new(
        link: LinkId,
        opens_by: Instant,
        instance: Option<Uuid>,
        news: &mpsc::Sender<LinkNews>,
    ) -> (Self, Seat) {
        let (sender, queue) = mpsc::channel(QUEUE_MAX);
        let this = Self {
            phase: Phase::Opening,
            dialect: Dialect::Broadcasts,
            opens_by,
            instance,
            hello: None,
            superseded: false,
            waiting: AHashMap::new(),
            asking: AHashMap::new(),
            queue: sender,
            held: Arc::default(),
        };
        (this, Seat { link, queue, news: news.clone() })
    }

    /// Queues a client's message; some room is left for answers.
    pub(super) fn put(&self, bytes: Bytes, of_all: &Arc<AtomicUsize>) -> Result<(), Full> {
        if self.queue.capacity() <= ANSWERS_RESERVED {
            return Err(Full);
        }
        self.queue_up(bytes, ANSWER_BYTES_RESERVED, of_all)
    }

    /// Queues what must not be lost. The link is to be closed when it is.
    pub(super) fn put_answer(&self, bytes: Bytes, of_all: &Arc<AtomicUsize>) -> Result<(), Full> {
        self.queue_up(bytes, 0, of_all)
    }

    fn queue_up(
        &self,
        bytes: Bytes,
        reserve: usize,
        of_all: &Arc<AtomicUsize>,
    ) -> Result<(), Full> {
        let held = Held::take(bytes.len(), reserve, &self.held, of_all).ok_or(Full)?;
        self.queue.try_send(Outgoing::Message(bytes, held)).map_err(|_| Full)
    }

    /// When a request is to be given up.
    pub(super) fn next_late(&self) -> Option<Instant> {
        self.asking.values().map(|asking| asking.until).min()
    }

    /// Ends the link behind what is queued; without room for that, at once. Returns who waits.
    pub(super) fn close(self, code: u16, reason: &'static str) -> (Vec<Waiting>, Vec<Asking>) {
        let _ends_all_the_same = self.queue.try_send(Outgoing::Close(code, reason));
        (self.waiting.into_values().collect(), self.asking.into_values().collect())
    }
}

/// Messages that wait for one link.
pub(super) const QUEUE_MAX: usize = 4096;
/// Of these, only for answers.
pub(super) const ANSWERS_RESERVED: usize = 1024;
/// Bytes of what waits for a link, or for all, that only answers take.
const ANSWER_BYTES_RESERVED: usize = 1 << 20;
/// Bytes of what waits for one link.
const LINK_BYTES_MAX: usize = 8 << 20;
/// Bytes of what waits for all links.
pub(super) const ALL_BYTES_MAX: usize = 32 << 20;
