//! The turn: completions → wire → session → verdict → submissions.
//!
//! [`Engine`] owns everything of one shard's connections and is driven by values alone: time, the
//! completions of its [`Sockets`], and the lanes. One call of [`Engine::turn`] does, in this order:
//!
//! 1. settle the last turn's sends, failed and partial ones first of all, so that what they were
//!    sent from may be reused;
//! 2. take what other cores put on the lanes;
//! 3. take completions, a bounded number: bytes become messages, messages verdicts, verdicts end
//!    up in outboxes;
//! 4. act on deadlines that have passed;
//! 5. send: one submission for each connection with something to say;
//! 6. let in new connections, after those inside.
//!
//! What a message means is decided in `session`, how bytes reach the kernel in `ring`.

mod accepting;
mod connection;
mod deadlines;
mod ending;
mod receiving;
mod sending;
#[cfg(test)]
#[cfg(feature = "runtime")]
mod tests;
mod upgrade;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::block::{Block, BlockPool};
use crate::buffers::{Received, ReceiveBuffers};
use crate::clock::{Instant, Now};
use crate::id::{ConnectionKey, Generation, Slot};
use crate::outbox::{Outbox, OutboxLimits};
use crate::probe::Probe;
use crate::snapshot::SessionLimits;
use crate::sockets::{Completion, ListenerId, Socket, Sockets};
use crate::table::Table;
use crate::timer::Timers;
use crate::wire::frame::Role as FrameRole;
use crate::wire::handshake::HeadLimits;
use crate::wire::inbound::InboundLimits;

use connection::Connection;
use upgrade::Head;

/// Completions looked at in one turn; the rest waits in the ring's local queue.
const COMPLETIONS_PER_TURN: usize = 1024;

/// New sockets let in per turn.
const ACCEPTS_PER_TURN: usize = 128;

/// Free bytes in front of an assembled message: a link's frame header and prefix, or a client's
/// frame header.
const BLOCK_HEADROOM: usize = 64;

/// Receive buffers that one connection may fill in one turn before it is paused.
const BUFFERS_PER_TURN: u32 = 32;

/// Slots beyond `connections_max`, so that the one too many is told 503 instead of left waiting.
pub const SPARE_SLOTS: usize = 64;

/// Names no connection: for sockets that never got a slot.
const NOBODY: ConnectionKey =
    ConnectionKey { slot: Slot((1 << 20) - 1), generation: Generation(0) };

/// What one shard is built with, besides its configuration snapshot.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    pub listeners: u8,
    pub connections_max: usize,
    pub block_pool_bytes: usize,
    pub head: HeadLimits,
    pub head_timeout: Duration,
    /// Path of the echo route, if it is on.
    pub echo_path: Option<Box<str>>,
    pub seed: u64,
}

/// What is behind a connection.
#[derive(Debug)]
enum Role {
    /// A client whose request head is still being read or judged.
    Head(Box<Head>),
    /// A WebSocket whose messages go back as they came.
    Echo,
    /// Nothing any more: its last bytes are on their way out.
    Gone,
}

/// Limits in the form in which the layers below take them.
#[derive(Debug)]
struct Limits {
    inbound: InboundLimits,
    outbox: OutboxLimits,
    session: SessionLimits,
}

impl Limits {
    fn new(session: &SessionLimits) -> Self {
        Self {
            inbound: InboundLimits {
                role: FrameRole::Server,
                message_bytes_max: session.message_bytes_max,
                message_bytes_hard: session.message_bytes_hard,
                fragments_max: session.fragments_max,
                empty_fragments_max: session.fragments_max,
                control_frames_per_second: session.control_frames_per_second,
                block_headroom: BLOCK_HEADROOM,
            },
            outbox: OutboxLimits {
                messages_max: session.outbox_messages_max,
                bytes_max: session.outbox_bytes_max,
            },
            session: session.clone(),
        }
    }
}

/// A message and where its payload lies.
struct Arrived<'a> {
    source: Source<'a>,
    payload: Range<usize>,
}

/// The memory that a message arrived in.
enum Source<'a> {
    /// A receive buffer: can be lent.
    Buffer(&'a mut Received),
    /// Bytes kept aside: must be copied.
    Bytes(&'a mut [u8]),
    /// A block of its own: can change hands.
    Block(Block),
}

impl Arrived<'_> {
    fn bytes(&mut self) -> &mut [u8] {
        match &mut self.source {
            Source::Buffer(received) => &mut received.bytes()[self.payload.clone()],
            Source::Bytes(bytes) => &mut bytes[self.payload.clone()],
            Source::Block(block) => &mut block.as_mut_slice()[self.payload.clone()],
        }
    }
}

/// One shard.
pub struct Engine<S> {
    sockets: S,
    options: EngineOptions,
    limits: Limits,
    now: Now,
    turn: u32,
    table: Table<Connection<Role>>,
    timers: Timers,
    buffers: ReceiveBuffers,
    blocks: BlockPool,
    /// Outboxes that no connection needs at the moment.
    outboxes: Vec<Box<Outbox>>,
    /// Connections with something to send.
    dirty: Vec<ConnectionKey>,
    /// Storage of `dirty` while it is being walked.
    flushing: Vec<ConnectionKey>,
    /// Connections whose receive is to be armed again, first come first served.
    rearm: VecDeque<ConnectionKey>,
    accepted: VecDeque<(ListenerId, Socket)>,
    /// Listeners whose accept has ended because the descriptor table was full.
    accept_again: Vec<ListenerId>,
    downstream: usize,
    copies: u64,
    random: fastrand::Rng,
    probe: Arc<Probe>,
}

impl<S: Sockets> Engine<S> {
    pub fn new(
        sockets: S,
        buffers: ReceiveBuffers,
        options: EngineOptions,
        session: &SessionLimits,
        probe: Arc<Probe>,
        now: Now,
    ) -> Self {
        let mut this = Self {
            table: Table::new(options.connections_max + SPARE_SLOTS, options.seed),
            timers: Timers::new(now.mono),
            limits: Limits::new(session),
            now,
            turn: 0,
            blocks: BlockPool::new(options.block_pool_bytes),
            outboxes: Vec::new(),
            dirty: Vec::with_capacity(1024),
            flushing: Vec::with_capacity(1024),
            rearm: VecDeque::with_capacity(64),
            accepted: VecDeque::new(),
            accept_again: Vec::new(),
            downstream: 0,
            copies: 0,
            random: fastrand::Rng::with_seed(options.seed),
            sockets,
            buffers,
            options,
            probe,
        };
        this.sockets.provide(this.buffers.returned());
        for listener in 0..this.options.listeners {
            this.sockets.accept(ListenerId(listener));
        }
        this
    }

    /// What moves this shard's bytes; the pump exchanges with it between turns.
    pub fn sockets(&mut self) -> &mut S {
        &mut self.sockets
    }

    /// One turn of the loop. Says whether anything happened.
    pub fn turn(&mut self, now: Now) -> bool {
        self.now = now;
        let backlog = self.sockets.backlog();
        self.turn = self.turn.wrapping_add(1);
        self.settle_sends();
        self.take_completions();
        self.act_on_deadlines();
        self.rearm_receives();
        self.flush();
        self.let_in();
        self.sockets.provide(self.buffers.returned());
        self.count();
        backlog > 0 || !self.dirty.is_empty()
    }

    /// Whether the shard's work is over: everything was drained.
    #[must_use]
    pub fn is_done(&self) -> bool {
        false
    }

    /// Announces that this shard is going to sleep. False when something has come meanwhile.
    pub fn prepare_to_park(&mut self) -> bool {
        self.probe.parks.increment();
        true
    }

    /// The shard is awake again.
    pub fn woken(&mut self) {}

    /// Whether the next exchange must not sleep: something is left to do.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.sockets.backlog() > 0
            || !self.dirty.is_empty()
            || !self.accepted.is_empty()
            || (!self.rearm.is_empty() && !self.buffers_are_scarce())
    }

    /// When the shard must turn again although nothing has happened.
    pub fn next_deadline(&mut self) -> Option<Instant> {
        self.timers.next_deadline()
    }

    fn take_completions(&mut self) {
        for _ in 0..COMPLETIONS_PER_TURN {
            let Some(completion) = self.sockets.completion() else { return };
            match completion {
                Completion::Received { key, buffer, len } => self.received(key, buffer, len),
                Completion::ReceiveEnded { key, cause } => self.receive_ended(key, cause),
                Completion::Accepted { listener, socket } => {
                    self.accepted.push_back((listener, socket));
                }
                Completion::AcceptEnded { listener, cause } => self.accept_ended(listener, cause),
                Completion::PeerName { key, peer } => {
                    if let Some(connection) = self.table.get_mut(key) {
                        connection.peer = peer;
                    }
                }
                Completion::Closed { key } => self.closed(key),
                Completion::Opened { .. } | Completion::Connected { .. } => {}
                Completion::Doorbell => {}
            }
        }
    }

    fn count(&mut self) {
        self.probe.turns.increment();
        if self.copies > 0 {
            self.probe.payload_copies.add(std::mem::take(&mut self.copies));
        }
        self.probe.blocks_in_use_bytes.set(self.blocks.in_use() as u64);
        self.probe.connections.set(self.downstream as u64);
    }
}

#[cfg(feature = "runtime")]
impl Engine<crate::ring::Uring> {
    /// Hands this turn's operations to the kernel and fetches what it has done.
    pub fn exchange(&mut self, wait: crate::sockets::Wait) -> std::io::Result<()> {
        self.sockets.exchange(wait)?;
        self.probe.ring_enters.set(self.sockets.enters());
        Ok(())
    }
}
