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

mod listen;
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
use io_uring::types::{
    CancelBuilder, DestinationSlot, Fd, Fixed, SubmitArgs, TimeoutFlags, Timespec,
};
use io_uring::{IoUring, cqueue, opcode, squeue};
use socket2::{Domain, SockAddr, SockRef};

use crate::buffers::{BufferId, ReceiveBuffers};
use crate::clock::Instant;
use crate::id::{ConnectionKey, ShardId};
use crate::snapshot::Address;
use crate::sockets::{
    AcceptEnd, Completion, ListenerId, Outgoing, ReceiveEnd, Sent, Socket, Sockets, Wait,
};

pub use listen::{ListenOptions, listen};
pub use support::{RingUnsupported, locked_bytes, try_operations};

use peer_name::PeerNames;
use provided::{GROUP, ProvidedRing};
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

const SEND_INLINE: i32 = libc::MSG_DONTWAIT | libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
const SEND_WAITING: i32 = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
const GETEVENTS: u32 = 1;

/// Completions that end a batch window early.
const BATCH: usize = 32;

static ONE: libc::c_int = 1;

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
    listeners: Vec<Listener>,
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
    peer_names: PeerNames,
    /// Shutdowns under way, with the close that waits for one. The kernel looks a shutdown's
    /// socket up when a worker gets to it: by then a place freed early could be another client's.
    finishing: AHashMap<ConnectionKey, Option<Socket>>,
    /// Addresses of connects not yet submitted.
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
        let listeners = listeners.into_iter().map(Listener::new).collect::<io::Result<_>>()?;
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
            peer_names: PeerNames::new(256),
            finishing: AHashMap::new(),
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
    /// queue. Afterwards [`Sockets::settled`] yields each send submitted here.
    pub fn exchange(&mut self, wait: Wait) -> io::Result<()> {
        debug_assert!(self.settled.is_empty(), "the last turn's sends were settled");
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

    /// Whether the kernel holds deferred work or completions that no exchange has fetched.
    pub fn has_unseen(&mut self) -> bool {
        let submission = self.ring.submission();
        let deferred = submission.taskrun() || submission.cq_overflow();
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

    /// While `eventfd` is registered every completion signals it.
    pub fn register_eventfd(&self, eventfd: RawFd) -> io::Result<()> {
        self.ring.submitter().register_eventfd(eventfd)
    }

    pub fn unregister_eventfd(&self) -> io::Result<()> {
        self.ring.submitter().unregister_eventfd()
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

    /// Moves the whole completion queue into the local one.
    fn drain(&mut self) {
        // The queue is borrowed anew for each batch, since completions arm operations again.
        let mut batch: [Option<(u64, i32, u32)>; 64] = [None; 64];
        loop {
            let mut completions = self.ring.completion();
            let mut taken = 0;
            for (place, entry) in batch.iter_mut().zip(&mut completions) {
                *place = Some((entry.user_data(), entry.result(), entry.flags()));
                taken += 1;
            }
            drop(completions);
            if taken == 0 {
                return;
            }
            for (bits, result, flags) in batch[..taken].iter_mut().filter_map(Option::take) {
                self.completed(Tag::unpack(bits), result, flags);
            }
        }
    }

    fn completed(&mut self, tag: Tag, result: i32, flags: u32) {
        let Tag { operation, key, index } = tag;
        let event = match operation {
            Operation::Ignored => return,
            Operation::Receive => return self.received(key, result, flags),
            Operation::Send => return self.send_failed(index, result),
            Operation::SendRest => return self.rest_ended(index, result),
            Operation::Accept => return self.accepted(key, result, flags),
            Operation::PeerName => {
                Completion::PeerName { key, peer: self.peer_names.answer(index, result) }
            }
            Operation::Open => {
                Completion::Opened { key, socket: u32::try_from(result).ok().map(Socket) }
            }
            Operation::Connect => {
                let outcome = if result < 0 { Err(-result) } else { Ok(()) };
                Completion::Connected { key, outcome }
            }
            Operation::Finish => return self.finished(key),
            Operation::Close => Completion::Closed { key },
            Operation::Doorbell => Completion::Doorbell,
            Operation::Wake => {
                self.arm_wake();
                Completion::Doorbell
            }
            // A removed timer is not news.
            Operation::Heartbeat | Operation::Deadline if result != -libc::ETIME => return,
            Operation::Heartbeat => {
                self.heartbeat_armed &= cqueue::more(flags);
                return;
            }
            Operation::Deadline => {
                self.deadline_at = None;
                return;
            }
        };
        self.queue.push_back(event);
    }

    fn received(&mut self, key: ConnectionKey, result: i32, flags: u32) {
        if let (Ok(len @ 1..), Some(id)) = (u32::try_from(result), cqueue::buffer_select(flags)) {
            self.queue.push_back(Completion::Received { key, buffer: BufferId(id), len });
        } else if let Some(id) = cqueue::buffer_select(flags) {
            // A buffer was picked but nothing put into it.
            self.provided.provide(&mut vec![BufferId(id)]);
        }
        if cqueue::more(flags) {
            return;
        }
        let cause = match result {
            0 => ReceiveEnd::Eof,
            1.. => ReceiveEnd::Rearm,
            _ => match -result {
                libc::ENOBUFS => ReceiveEnd::NoBuffers,
                libc::ECANCELED => ReceiveEnd::Cancelled,
                errno => ReceiveEnd::Failed(errno),
            },
        };
        self.queue.push_back(Completion::ReceiveEnded { key, cause });
    }

    /// A completion of an inline send means that not all was taken.
    fn send_failed(&mut self, index: u32, result: i32) {
        if let Some(send) = self.prepared.get_mut(index as usize) {
            send.outcome = match usize::try_from(result) {
                Ok(taken) => Sent::Partial(taken),
                Err(_) if result == -libc::EAGAIN => Sent::Partial(0),
                Err(_) => Sent::Failed,
            };
        }
    }

    fn rest_ended(&mut self, index: u32, result: i32) {
        let Some((key, bytes)) = self.waiting.get_mut(index as usize).and_then(Option::take) else {
            return;
        };
        self.waiting_free.push(index);
        let outcome = match usize::try_from(result) {
            Ok(taken) if taken == bytes.as_slice().len() => Sent::All,
            Ok(taken) => Sent::Partial(taken),
            Err(_) => Sent::Failed,
        };
        self.ended.push(InFlight { key, bytes, outcome });
    }

    fn finished(&mut self, key: ConnectionKey) {
        if let Some(Some(socket)) = self.finishing.remove(&key) {
            self.close_now(socket, key);
            // What was just queued must not wait through a sleep.
            self.queue.push_back(Completion::Doorbell);
        }
    }

    fn close_now(&mut self, socket: Socket, key: ConnectionKey) {
        let everything = CancelBuilder::fd(Fixed(socket.0)).all();
        let entry = opcode::AsyncCancel2::new(everything).build();
        self.push_quiet(entry, Tag::own(Operation::Ignored));
        let entry = opcode::Close::new(Fixed(socket.0)).build();
        self.push(entry, Tag::of(Operation::Close, key));
    }

    fn accepted(&mut self, key: ConnectionKey, result: i32, flags: u32) {
        let listener = ListenerId(key.slot.0 as u8);
        if let Ok(socket) = u32::try_from(result) {
            self.queue.push_back(Completion::Accepted { listener, socket: Socket(socket) });
        }
        if cqueue::more(flags) {
            return;
        }
        let cause = match result {
            0.. => AcceptEnd::Failed(0),
            _ => match -result {
                libc::ENFILE | libc::EMFILE => AcceptEnd::TableFull,
                libc::ECANCELED => AcceptEnd::Cancelled,
                errno => AcceptEnd::Failed(errno),
            },
        };
        self.queue.push_back(Completion::AcceptEnded { listener, cause });
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

    fn listener_tag(listener: ListenerId) -> Tag {
        let key = ConnectionKey {
            slot: crate::id::Slot(u32::from(listener.0)),
            generation: crate::id::Generation(0),
        };
        Tag::of(Operation::Accept, key)
    }
}

impl Sockets for Uring {
    fn accept(&mut self, listener: ListenerId) {
        let Some(Listener { socket, .. }) = self.listeners.get(usize::from(listener.0)) else {
            return;
        };
        let entry =
            opcode::AcceptMulti::new(Fd(socket.as_raw_fd())).allocate_file_index(true).build();
        self.push(entry, Self::listener_tag(listener));
    }

    fn stop_accepting(&mut self, listener: ListenerId) {
        let target = Self::listener_tag(listener).pack();
        let entry = opcode::AsyncCancel2::new(CancelBuilder::user_data(target)).build();
        self.push_quiet(entry, Tag::own(Operation::Ignored));
    }

    fn receive(&mut self, socket: Socket, key: ConnectionKey) {
        let entry = opcode::RecvMulti::new(Fixed(socket.0), GROUP).build();
        self.push(entry, Tag::of(Operation::Receive, key));
    }

    fn stop_receiving(&mut self, key: ConnectionKey) {
        let target = Tag::of(Operation::Receive, key).pack();
        let entry = opcode::AsyncCancel2::new(CancelBuilder::user_data(target)).build();
        self.push_quiet(entry, Tag::own(Operation::Ignored));
    }

    fn send(&mut self, socket: Socket, key: ConnectionKey, bytes: Outgoing) {
        let slice = bytes.as_slice();
        let entry = opcode::Send::new(Fixed(socket.0), slice.as_ptr(), slice.len() as u32)
            .flags(SEND_INLINE)
            .build();
        let tag = Tag::indexed(Operation::Send, key, self.prepared.len());
        // Recorded before it is queued: a full queue is submitted on the way, and a failure that
        // is drained there must find its send.
        self.prepared.push(InFlight { key, bytes, outcome: Sent::All });
        self.push_quiet(entry, tag);
    }

    fn send_rest(&mut self, socket: Socket, key: ConnectionKey, bytes: Outgoing) {
        let slice = bytes.as_slice();
        let entry = opcode::Send::new(Fixed(socket.0), slice.as_ptr(), slice.len() as u32)
            .flags(SEND_WAITING)
            .build();
        let index = self.waiting_free.pop().unwrap_or_else(|| {
            self.waiting.push(None);
            (self.waiting.len() - 1) as u32
        });
        self.waiting[index as usize] = Some((key, bytes));
        self.push(entry, Tag::indexed(Operation::SendRest, key, index as usize));
    }

    fn peer_name(&mut self, listener: ListenerId, socket: Socket, key: ConnectionKey) {
        let len = self.listeners.get(usize::from(listener.0)).map_or(0, |l| l.address_len);
        match self.peer_names.ask(socket, len) {
            Some((entry, place)) => {
                self.push(entry, Tag::indexed(Operation::PeerName, key, place as usize));
            }
            None => self.queue.push_back(Completion::PeerName { key, peer: None }),
        }
    }

    fn open(&mut self, key: ConnectionKey, address: &Address) {
        let domain = match address {
            Address::Tcp(address) => Domain::for_address(*address),
            Address::Unix(_) => Domain::UNIX,
        };
        let entry = opcode::Socket::new(domain.into(), libc::SOCK_STREAM, 0)
            .file_index(Some(DestinationSlot::auto_target()))
            .build();
        self.push(entry, Tag::of(Operation::Open, key));
    }

    fn connect(&mut self, socket: Socket, key: ConnectionKey, address: &Address) {
        let target = match address {
            Address::Tcp(address) => {
                let level = libc::IPPROTO_TCP as u32;
                let option = libc::TCP_NODELAY as u32;
                let value = (&raw const ONE).cast();
                let size = size_of::<libc::c_int>() as u32;
                let entry =
                    opcode::SetSockOpt::new(Fixed(socket.0), level, option, value, size).build();
                self.push_quiet(entry, Tag::own(Operation::Ignored));
                SockAddr::from(*address)
            }
            Address::Unix(path) => match SockAddr::unix(path) {
                Ok(address) => address,
                Err(error) => {
                    let outcome = Err(error.raw_os_error().unwrap_or(libc::EINVAL));
                    self.queue.push_back(Completion::Connected { key, outcome });
                    return;
                }
            },
        };
        let target = Box::new(target);
        let entry =
            opcode::Connect::new(Fixed(socket.0), target.as_ptr().cast(), target.len()).build();
        self.addresses.push(target);
        self.push(entry, Tag::of(Operation::Connect, key));
    }

    fn finish(&mut self, socket: Socket, key: ConnectionKey) {
        let entry = opcode::Shutdown::new(Fixed(socket.0), libc::SHUT_WR).build();
        self.finishing.insert(key, None);
        self.push(entry, Tag::of(Operation::Finish, key));
    }

    fn close(&mut self, socket: Socket, key: ConnectionKey) {
        match self.finishing.get_mut(&key) {
            Some(waiting) => *waiting = Some(socket),
            None => self.close_now(socket, key),
        }
    }

    fn ring_doorbell(&mut self, shard: ShardId) {
        let Some(ring) = self.directory.ring_of(shard) else {
            return;
        };
        let bell = Tag::own(Operation::Doorbell).pack();
        let entry = opcode::MsgRingData::new(Fd(ring), 0, bell, None).build();
        self.push_quiet(entry, Tag::own(Operation::Ignored));
    }

    fn provide(&mut self, buffers: &mut Vec<BufferId>) {
        self.provided.provide(buffers);
    }

    fn settled(&mut self) -> Option<(ConnectionKey, Outgoing, Sent)> {
        self.settled.pop().map(|send| (send.key, send.bytes, send.outcome))
    }

    fn completion(&mut self) -> Option<Completion> {
        self.queue.pop_front()
    }

    fn backlog(&self) -> usize {
        self.queue.len()
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec::new().sec(duration.as_secs()).nsec(duration.subsec_nanos())
}
