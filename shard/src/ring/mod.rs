//! The shard's private io_uring: the only code that knows submission and completion entries.
//!
//! Rules that hold here (each has its test in `tests.rs`):
//! * the whole completion queue is moved into a local queue before anything else happens, and
//!   failed and partial sends are known before any buffer that was sent from is released;
//! * a full submission queue is submitted, never dropped; an enter that consumed less than was
//!   queued is repeated;
//! * a send runs inline at the enter that submits it; its success posts no completion;
//! * no wait carries a time-out: one multishot heartbeat while busy, one absolute deadline before
//!   the shard goes to sleep.

#![expect(unsafe_code, reason = "submission entries carry addresses to the kernel")]

mod completions;
mod listen;
mod operations;
mod peer_name;
mod provided;
mod support;
mod tag;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use ahash::AHashMap;
use io_uring::types::{Fd, SubmitArgs, TimeoutFlags, Timespec};
use io_uring::{IoUring, opcode, squeue};
use socket2::{SockAddr, SockRef};

use crate::buffers::ReceiveBuffers;
use crate::clock::Instant;
use crate::id::{ConnectionKey, ShardId};
use crate::sockets::{Completion, Outgoing, Pending, Sent, Socket, Wait};

pub use listen::{ListenOptions, listen};
pub use support::{RingUnsupported, locked_bytes, try_operations};

use peer_name::PeerNames;
use provided::ProvidedRing;
use tag::{Operation, Tag};

/// Sizes of one shard's ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingSizes {
    /// Submission entries; the completion queue has four times as many.
    pub entries: u32,
    /// Entries of the descriptor table: sockets of this shard, upstream ones included.
    pub sockets: u32,
}

/// File descriptors of all shards' rings, so that one can ring another's doorbell; -1 until the
/// shard has started.
#[derive(Debug, Clone)]
pub struct RingDirectory(Arc<[AtomicI32]>);

impl RingDirectory {
    #[must_use]
    pub fn new(shards: usize) -> Self {
        Self((0..shards).map(|_| AtomicI32::new(-1)).collect())
    }

    fn publish(&self, shard: ShardId, ring: RawFd) {
        self.0[usize::from(shard.0)].store(ring, Ordering::Release);
    }

    fn ring_of(&self, shard: ShardId) -> Option<RawFd> {
        let ring = self.0.get(usize::from(shard.0))?.load(Ordering::Acquire);
        (ring >= 0).then_some(ring)
    }
}

const GETEVENTS: u32 = 1;

/// Completions that end a batch window early.
const BATCH: usize = 32;

struct Listener {
    socket: OwnedFd,
    /// Bytes of a peer's address.
    address_len: u32,
}

impl Listener {
    fn new(socket: OwnedFd) -> io::Result<Self> {
        let address_len = SockRef::from(&socket).local_addr()?.len();
        Ok(Self { socket, address_len })
    }
}

struct InFlight {
    key: ConnectionKey,
    bytes: Outgoing,
    outcome: Sent,
}

/// One shard's ring. Made on the shard's own thread and never leaves it.
pub struct Uring {
    // Dropped first: afterwards the kernel touches none of the memory below.
    ring: IoUring,
    provided: ProvidedRing,
    /// By [`ListenerId`](crate::sockets::ListenerId); `None` once closed.
    listeners: Vec<Option<Listener>>,
    wake: OwnedFd,
    wake_value: Box<u64>,
    directory: RingDirectory,
    queue: VecDeque<Completion>,
    /// Sends of this turn, in submission order; their position is the completion's index.
    prepared: Vec<InFlight>,
    /// Waiting sends that have ended since the last exchange.
    ended: Vec<InFlight>,
    /// Sends whose outcome is known, to be taken by the engine.
    settled: Vec<InFlight>,
    /// Sends that wait for their peers, by index.
    waiting: Vec<Option<(ConnectionKey, Outgoing)>>,
    waiting_free: Vec<u32>,
    /// Shutdowns under way, with the socket whose close waits for its own. The kernel runs a
    /// shutdown on a worker thread, which looks the descriptor up only there: closed before that,
    /// the descriptor would be the next client's, and that one's stream would be ended.
    finishing: AHashMap<ConnectionKey, Option<(Socket, Pending)>>,
    peer_names: PeerNames,
    /// Addresses of connects not yet submitted.
    #[expect(clippy::vec_box, reason = "the kernel reads them where they are")]
    addresses: Vec<Box<SockAddr>>,
    heartbeat: Box<Timespec>,
    heartbeat_armed: bool,
    deadline: Box<Timespec>,
    /// The deadline that is armed.
    deadline_at: Option<Instant>,
    /// Waits this long for more once something is expected soon; `None` = never.
    batch_window: Option<Duration>,
    enters: u64,
}

impl Uring {
    /// Makes the ring of `shard` on the calling thread and offers it all of `buffers`, which must
    /// outlive it. `wake` is an eventfd that threads without a ring write to.
    pub fn new(
        shard: ShardId,
        sizes: RingSizes,
        buffers: &ReceiveBuffers,
        listeners: Vec<OwnedFd>,
        wake: OwnedFd,
        directory: RingDirectory,
    ) -> io::Result<Self> {
        let ring = support::build(sizes.entries)?;
        ring.submitter().register_files_sparse(sizes.sockets)?;
        let provided = ProvidedRing::register(&ring, buffers)?;
        directory.publish(shard, ring.as_raw_fd());
        let listeners = listeners
            .into_iter()
            .map(|socket| Listener::new(socket).map(Some))
            .collect::<io::Result<_>>()?;
        let completions = ring.params().cq_entries() as usize;
        let mut this = Self {
            ring,
            provided,
            listeners,
            wake,
            wake_value: Box::new(0),
            directory,
            queue: VecDeque::with_capacity(completions * 2),
            prepared: Vec::with_capacity(sizes.entries as usize),
            ended: Vec::new(),
            settled: Vec::with_capacity(sizes.entries as usize),
            waiting: Vec::new(),
            waiting_free: Vec::new(),
            finishing: AHashMap::new(),
            peer_names: PeerNames::new(256),
            addresses: Vec::new(),
            heartbeat: Box::new(Timespec::new()),
            heartbeat_armed: false,
            deadline: Box::new(Timespec::new()),
            deadline_at: None,
            batch_window: None,
            enters: 0,
        };
        this.arm_wake();
        Ok(this)
    }

    /// Submits what was queued, sleeps as `wait` says, and moves every completion into the local
    /// queue. Afterwards [`settled`](crate::sockets::Sockets::settled) yields each send submitted here.
    pub fn exchange(&mut self, wait: Wait) -> io::Result<()> {
        if self.queue.is_empty() {
            // Begins at its front again: what is seldom full stays within a few cache lines.
            self.queue.clear();
        }
        match (wait, self.batch_window) {
            (Wait::ForOne, Some(window)) if self.queue.is_empty() && !self.prepared.is_empty() => {
                self.enter_for_batch(window)?;
            }
            (Wait::ForOne, _) if self.queue.is_empty() => self.enter(1)?,
            (Wait::ForOne | Wait::No, _) => self.enter(0)?,
        }
        // Every send must have been seen by the kernel before its outcome can be told.
        while !self.ring.submission().is_empty() {
            self.drain();
            self.enter(0)?;
        }
        self.drain();
        // What overflowed is flushed before anything is released.
        while self.ring.submission().cq_overflow() {
            self.enter(0)?;
            self.drain();
        }
        self.addresses.clear();
        self.settled.append(&mut self.prepared);
        self.settled.append(&mut self.ended);
        Ok(())
    }

    /// Trades latency for processor time: a wait that begins while traffic flows lasts at least
    /// this long, so that one turn serves more (`IORING_FEAT_MIN_TIMEOUT`, Linux 6.12).
    pub fn set_batch_window(&mut self, window: Option<Duration>) {
        self.batch_window = window.filter(|_| self.ring.params().is_feature_min_timeout());
    }

    /// Sends whose outcome is known wait to be taken.
    #[must_use]
    pub fn has_settled(&self) -> bool {
        !self.settled.is_empty()
    }

    /// Number of `io_uring_enter` calls so far.
    #[must_use]
    pub fn enters(&self) -> u64 {
        self.enters
    }

    /// Whether the kernel holds deferred work or completions that were not taken yet.
    pub fn has_pending(&mut self) -> bool {
        self.has_unseen() || !self.queue.is_empty()
    }

    /// Whether the kernel holds deferred work or completions that no exchange has fetched, or
    /// operations that none has submitted.
    pub fn has_unseen(&mut self) -> bool {
        let submission = self.ring.submission();
        let deferred = submission.taskrun() || submission.cq_overflow() || !submission.is_empty();
        drop(submission);
        deferred || !self.ring.completion().is_empty()
    }

    /// Starts or stops the heartbeat that bounds the lateness of timers while the shard is busy.
    pub fn heartbeat(&mut self, every: Option<Duration>) {
        match (every, self.heartbeat_armed) {
            (Some(every), false) => {
                *self.heartbeat = timespec(every);
                let entry = opcode::Timeout::new(&raw const *self.heartbeat)
                    .flags(TimeoutFlags::MULTISHOT)
                    .build();
                self.push(entry, Tag::own(Operation::Heartbeat));
                self.heartbeat_armed = true;
            }
            (None, true) => {
                let target = Tag::own(Operation::Heartbeat).pack();
                let entry = opcode::TimeoutRemove::new(target).build();
                self.push(entry, Tag::own(Operation::Ignored));
                self.heartbeat_armed = false;
            }
            (Some(_), true) | (None, false) => {}
        }
    }

    /// Arms one absolute deadline (`CLOCK_MONOTONIC`), replacing an earlier one.
    pub fn deadline(&mut self, at: Option<Instant>) {
        if at == self.deadline_at {
            return;
        }
        if self.deadline_at.is_some() {
            let target = Tag::own(Operation::Deadline).pack();
            let entry = opcode::TimeoutRemove::new(target).build();
            self.push(entry, Tag::own(Operation::Ignored));
        }
        self.deadline_at = at;
        if let Some(at) = at {
            *self.deadline = timespec(Duration::from_nanos(at.0));
            let entry =
                opcode::Timeout::new(&raw const *self.deadline).flags(TimeoutFlags::ABS).build();
            self.push(entry, Tag::own(Operation::Deadline));
        }
    }

    /// Whether a deadline is armed that has not come, as far as the last exchange knew.
    #[must_use]
    pub fn has_deadline(&self) -> bool {
        self.deadline_at.is_some()
    }

    /// Submits and waits for a batch, at least for `window`. Only called by a turn that has sent
    /// something: a quiet ring would pay for the timer and gain nothing.
    fn enter_for_batch(&mut self, window: Duration) -> io::Result<()> {
        self.enters += 1;
        let window = u32::try_from(window.as_micros()).unwrap_or(u32::MAX);
        let arguments = SubmitArgs::new().min_wait_usec(window);
        match self.ring.submitter().submit_with_args(BATCH, &arguments) {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR | libc::EAGAIN | libc::EBUSY | libc::ETIME) => Ok(()),
                _ => Err(error),
            },
        }
    }

    fn enter(&mut self, want: u32) -> io::Result<()> {
        let queued = self.ring.submission().len() as u32;
        self.enters += 1;
        // SAFETY: no argument is passed; every queued entry points to memory that outlives this
        // call or is owned by this value until its completion.
        let entered =
            unsafe { self.ring.submitter().enter::<libc::sigset_t>(queued, want, GETEVENTS, None) };
        match entered {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                // Interrupted, or the kernel wants completions to be taken first: the caller
                // drains and comes back.
                Some(libc::EINTR | libc::EAGAIN | libc::EBUSY) => Ok(()),
                _ => Err(error),
            },
        }
    }

    fn arm_wake(&mut self) {
        let target = (&raw mut *self.wake_value).cast::<u8>();
        let entry = opcode::Read::new(Fd(self.wake.as_raw_fd()), target, 8).build();
        self.push(entry, Tag::own(Operation::Wake));
    }

    fn push(&mut self, entry: squeue::Entry, tag: Tag) {
        let entry = entry.user_data(tag.pack());
        loop {
            // SAFETY: every address in `entry` is owned by this value, or is static, until the
            // operation has completed.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return;
            }
            // A ring that cannot be entered is fatal and reported by the next exchange.
            if self.enter(0).is_err() {
                return;
            }
            self.drain();
        }
    }

    fn push_quiet(&mut self, entry: squeue::Entry, tag: Tag) {
        self.push(entry.flags(squeue::Flags::SKIP_SUCCESS), tag);
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec::new().sec(duration.as_secs()).nsec(duration.subsec_nanos())
}
