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
mod authority;
mod calling;
mod claiming;
mod compressing;
mod connection;
mod control;
mod crossings;
mod crowd;
mod deadlines;
mod delivering;
mod door;
mod ending;
mod greeting;
mod http_upstream;
mod link_upstream;
mod news;
mod options;
mod peers;
mod pinging;
mod players;
mod pressure;
mod proxies;
mod receiving;
mod refusing;
mod sealing;
mod sending;
mod services;
#[cfg(test)]
#[cfg(feature = "runtime")]
mod tests;
mod tracing;
mod upgrade;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use crate::block::{BLOCK_MIN, Block, BlockPool};
use crate::buffers::{ReceiveBuffers, Received};
use crate::clock::{Instant, Now};
use crate::compression::{Inflater, Shrinker};
use crate::id::{ConnectionKey, Generation, Slot};
use crate::identity::{Authenticator, Standing};
use crate::lane::{Park, ShardLanes, Wake};
use crate::outbox::Outbox;
use crate::probe::Probe;
use crate::session::capability::Capabilities;
use crate::session::fingerprints::FingerprintTables;
use crate::session::liveness::Liveness;
use crate::session::rate::RateLimits;
use crate::snapshot::{DoorLimits, Snapshot};
use crate::sockets::{Completion, ListenerId, Pending, Socket, Sockets};
use crate::table::Table;
use crate::timer::Timers;
use crate::wire::guid::PeerKeys;
use crate::wire::reconnect_token::ReconnectKeys;

use authority::Withheld;
use calling::OpenCalls;
use connection::Connection;
use control::{Drain, LogLines};
use crowd::Crowd;
pub use door::{CredentialRoutes, DoorRules, InternalAccess, ServiceToken};
use http_upstream::HttpConnection;
use link_upstream::LinkConnection;
use news::News;
pub use options::{EngineOptions, Surroundings, TlsOptions};
use options::{LINK_BATCH_BYTES, Limits, PLAYER_BATCH_BYTES};
use players::Player;
use pressure::Pressure;
pub use proxies::Proxies;
use services::Upstreams;
use tracing::Traces;
use upgrade::Head;

/// Completions looked at in one turn; the rest waits in the ring's local queue.
const COMPLETIONS_PER_TURN: usize = 1024;

/// New sockets let in per turn.
const ACCEPTS_PER_TURN: usize = 128;

/// Free bytes in front of an assembled message: a link's frame header and prefix, or a client's
/// frame header.
const BLOCK_HEADROOM: usize = 64;

/// Receive buffers that one connection may fill in one turn before it is paused.
const BUFFERS_PER_TURN: u16 = 32;

/// Slots beyond `connections_max`, so that the one too many is told 503 instead of left waiting.
pub const SPARE_SLOTS: usize = 64;

/// Names no connection: for sockets that never got a slot.
const NOBODY: ConnectionKey =
    ConnectionKey { slot: Slot((1 << 20) - 1), generation: Generation(0) };

/// Full tables of GUIDs, for sessions that call many endpoints in turn, bytes.
const FINGERPRINT_TABLES: usize = 4 << 20;

/// Outboxes that a shard begins with. One that sends to more connections at once makes more, and
/// keeps them.
const OUTBOXES: usize = 512;

/// Blocks that a shard begins with: (bytes, how many). What traffic needs beyond is made when it
/// is first needed and kept.
const BLOCKS: [(usize, usize); 3] =
    [(BLOCK_MIN, 512), (PLAYER_BATCH_BYTES, 128), (LINK_BATCH_BYTES, 4)];

/// What is behind a connection.
#[derive(Debug)]
enum Role {
    /// A client whose proxy has yet to say who it is; its own bytes come behind that.
    Proxied(Box<Head>),
    /// A client whose request head is still being read or judged.
    Head(Box<Head>),
    /// A WebSocket whose messages go back as they came.
    Echo(Box<Liveness>),
    Session(Box<Player>),
    Http(Box<HttpConnection>),
    Link(Box<LinkConnection>),
    /// Nothing any more: its last bytes are on their way out.
    Gone,
}

impl Role {
    /// Of a client with an open WebSocket.
    fn liveness(&mut self) -> Option<&mut Liveness> {
        match self {
            Self::Echo(liveness) => Some(liveness),
            Self::Session(player) => Some(&mut player.liveness),
            Self::Proxied(_) | Self::Head(_) | Self::Http(_) | Self::Link(_) | Self::Gone => None,
        }
    }

    fn is_upstream(&self) -> bool {
        matches!(self, Self::Http(_) | Self::Link(_))
    }
}

const _: () = assert!(size_of::<Connection<Role>>() <= 152, "what a slot pays for its connection");

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
            Source::Buffer(received) => received.range(self.payload.clone()),
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
    #[expect(clippy::vec_box, reason = "attaching one to a connection moves a pointer")]
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
    accept_again_at: Option<Instant>,
    downstream: usize,
    crowd: Crowd,
    /// Of these connections, those whose TLS handshake is under way.
    handshaking: usize,
    pressure: Pressure,
    copies: u64,
    /// Sessions of this shard.
    sessions: usize,
    /// Heads that wait for a turn that may judge them.
    authenticating: VecDeque<ConnectionKey>,
    fresh_before_turn: u64,
    /// For the control core.
    news: News,
    /// Tokens that the control core has been asked about and has not answered.
    validating: usize,
    internal_standing: Arc<Standing>,
    /// Lines of calls that no session needs at the moment.
    #[expect(clippy::vec_box, reason = "attaching one to a session moves a pointer")]
    spare_calls: Vec<Box<OpenCalls>>,
    running: usize,
    upstreams: Upstreams,
    traces: Traces,
    snapshot: Arc<Snapshot>,
    capabilities: Capabilities,
    rates: RateLimits,
    peer_keys: PeerKeys,
    reconnect_keys: ReconnectKeys,
    tables: FingerprintTables,
    lanes: ShardLanes,
    authenticator: Box<dyn Authenticator>,
    control_bell: Box<dyn Fn()>,
    withheld: Withheld,
    drain: Drain,
    log_lines: LogLines,
    shrinker: Shrinker,
    inflater: Inflater,
    /// A manifest or a notice on its way into an outbox.
    notice: Vec<u8>,
    random: fastrand::Rng,
    probe: Arc<Probe>,
}

impl<S: Sockets> Engine<S> {
    pub fn new(
        sockets: S,
        buffers: ReceiveBuffers,
        options: EngineOptions,
        surroundings: Surroundings,
        now: Now,
    ) -> Self {
        let Surroundings { lanes, authenticator, snapshot, probe, control_bell, is_sure } =
            surroundings;
        let slots = options.connections_max + options.upstreams_max + SPARE_SLOTS;
        let mut blocks = BlockPool::new(options.block_pool_bytes);
        for (bytes, count) in BLOCKS {
            blocks.lay_in(bytes, count);
        }
        let mut this = Self {
            table: Table::new(slots, options.seed),
            timers: Timers::new(now.mono),
            limits: Limits::new(&snapshot.session),
            now,
            turn: 0,
            blocks,
            outboxes: std::iter::repeat_with(Box::default).take(OUTBOXES).collect(),
            dirty: Vec::with_capacity(1024),
            flushing: Vec::with_capacity(1024),
            rearm: VecDeque::with_capacity(64),
            accepted: VecDeque::new(),
            accept_again: Vec::new(),
            accept_again_at: None,
            downstream: 0,
            handshaking: 0,
            crowd: Crowd::new(&snapshot.door),
            pressure: pressure_of(&snapshot.door, options.block_pool_bytes),
            copies: 0,
            sessions: 0,
            authenticating: VecDeque::new(),
            fresh_before_turn: 0,
            news: News::default(),
            validating: 0,
            internal_standing: door::internal_standing(),
            spare_calls: Vec::new(),
            running: 0,
            upstreams: Upstreams::new(&snapshot),
            traces: Traces::default(),
            capabilities: Capabilities::new(&snapshot),
            rates: RateLimits::new(&snapshot.session),
            peer_keys: PeerKeys::from_salt(&snapshot.salt),
            reconnect_keys: ReconnectKeys::from_salt(&snapshot.salt),
            tables: FingerprintTables::new(FINGERPRINT_TABLES),
            snapshot,
            lanes,
            authenticator,
            control_bell,
            withheld: Withheld::new(is_sure),
            drain: Drain::default(),
            log_lines: LogLines::default(),
            shrinker: Shrinker::default(),
            inflater: Inflater::default(),
            notice: Vec::new(),
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
        self.settle_lanes();
        self.pressure.observe(self.blocks.in_use());
        let heard = self.take_lanes();
        self.authenticate_waiting();
        self.take_completions();
        self.act_on_deadlines();
        self.dial_due_links();
        self.accept_after_pause();
        self.rearm_receives();
        self.flush();
        self.let_in();
        self.send_news();
        self.ring_doorbells();
        self.sockets.provide(self.buffers.returned());
        self.count();
        backlog > 0 || heard || !self.dirty.is_empty()
    }

    /// Whether the shard's work is over: everything was drained.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.drain.is_over() && self.table.is_empty()
    }

    /// Announces that this shard is going to sleep, in its ring or for longer. Producers ring its
    /// doorbell from then on, until [`Self::woken`].
    pub fn announce_sleep(&mut self) -> Park {
        self.lanes.prepare_park()
    }

    /// The thread goes to sleep for as long as nothing happens.
    pub fn parks(&self) {
        self.probe.parks.increment();
    }

    /// The shard is awake again.
    pub fn woken(&mut self) {
        self.lanes.awake();
    }

    /// Whether the next exchange must not sleep: something is left to do.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.sockets.backlog() > 0
            || !self.dirty.is_empty()
            || !self.accepted.is_empty()
            || !self.authenticating.is_empty()
            || (!self.rearm.is_empty() && !self.buffers_are_scarce())
    }

    /// When the shard must turn again although nothing has happened.
    pub fn next_deadline(&mut self) -> Option<Instant> {
        let own = [
            self.next_redial(),
            self.next_goodbye(),
            self.accept_again_at,
            self.lanes.news_due(),
            self.news_retry(),
            self.withheld.next_look(),
            self.timers.next_deadline(),
        ];
        own.into_iter().flatten().min()
    }

    fn take_completions(&mut self) {
        for _ in 0..COMPLETIONS_PER_TURN {
            let Some(completion) = self.sockets.completion() else {
                return;
            };
            match completion {
                Completion::Received { key, buffer, len } => self.received(key, buffer, len),
                Completion::ReceiveEnded { key, cause } => self.receive_ended(key, cause),
                Completion::Accepted { listener, socket } => {
                    self.accepted.push_back((listener, socket));
                }
                Completion::AcceptEnded { listener, cause } => self.accept_ended(listener, cause),
                Completion::PeerName { key, peer } => {
                    self.peer_named(key, peer);
                }
                Completion::Closed { key } => self.closed(key),
                Completion::Opened { key, socket } => self.opened(key, socket),
                Completion::Connected { key, outcome } => self.connected(key, outcome),
                Completion::Doorbell => {}
            }
        }
    }

    fn opened(&mut self, key: ConnectionKey, socket: Option<Socket>) {
        match self.table.get(key).map(|connection| &connection.role) {
            Some(Role::Http(_)) => self.http_opened(key, socket),
            Some(Role::Link(_)) => self.link_opened(key, socket),
            // Given up while it was being made.
            _ => {
                if let Some(socket) = socket {
                    self.sockets.close(socket, key, Pending::Nothing);
                }
            }
        }
    }

    fn connected(&mut self, key: ConnectionKey, outcome: Result<(), i32>) {
        match self.table.get(key).map(|connection| &connection.role) {
            Some(Role::Http(_)) => self.http_connected(key, outcome),
            Some(Role::Link(_)) => self.link_connected(key, outcome),
            _ => {}
        }
    }

    /// Wakes those whose lanes this turn has put something on.
    fn ring_doorbells(&mut self) {
        let (sockets, bell, probe) = (&mut self.sockets, &self.control_bell, &self.probe);
        self.lanes.wake_sleepers(self.now.mono, |wake| {
            probe.doorbells.increment();
            match wake {
                Wake::Shard(shard) => sockets.ring_doorbell(shard),
                Wake::Control => bell(),
            }
        });
    }

    fn count(&mut self) {
        self.probe.calls_running.set(self.running as u64);
        self.probe.turns.increment();
        if self.copies > 0 {
            self.probe.payload_copies.add(std::mem::take(&mut self.copies));
        }
        self.pressure.observe(self.blocks.in_use());
        self.probe.memory_stage.set(self.pressure.stage() as u64);
        self.probe.blocks_in_use_bytes.set(self.blocks.in_use() as u64);
        self.probe.receive_buffers_out.set(self.buffers.out() as u64);
        self.probe.slots_in_use.set(self.table.len() as u64);
        self.probe.connections.set(self.downstream as u64);
        self.probe.door.validating.set(self.validating as u64);
        self.probe.door.waiting.set(self.crowd.waiting() as u64);
        self.probe.door.handshaking.set(self.handshaking as u64);
    }
}

fn pressure_of(limits: &DoorLimits, pool: usize) -> Pressure {
    Pressure::new(limits, pool, PLAYER_BATCH_BYTES)
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
