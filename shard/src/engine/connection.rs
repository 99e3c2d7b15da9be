//! One socket of the shard, whoever is behind it, and where it stands between accept and close.

use std::net::{IpAddr, SocketAddr};

use super::sealing::Tls;
use crate::clock::Instant;
use crate::outbox::Outbox;
use crate::sockets::{Pending, Socket};
use crate::wire::inbound::Inbound;

/// One entry of the shard's table. Lives from accept (or dial) until the kernel has confirmed that
/// nothing of it is left.
#[derive(Debug)]
pub(super) struct Connection<R> {
    pub(super) socket: Option<Socket>,
    pub(super) role: R,
    pub(super) phase: Phase,
    /// Means something while the phase is `Leaving` or `Lingering`.
    pub(super) closes_at: Instant,
    pub(super) receiving: Receiving,
    pub(super) sending: Sending,
    /// On the list of connections to be flushed at the end of the turn.
    pub(super) dirty: bool,
    pub(super) hold: Hold,
    pub(super) tls: Option<Box<Tls>>,
    /// The client has asked for compressed messages.
    pub(super) accepts_brotli: bool,
    pub(super) inbound: Inbound,
    /// Attached only while something waits to be sent.
    pub(super) outbox: Option<Box<Outbox>>,
    pub(super) quota: Quota,
    /// Without what else an IPv6 address may carry: for logs and backends.
    pub(super) peer: Option<(IpAddr, u16)>,
    pub(super) opened: Instant,
    /// Since when the peer takes nothing, while `sending` is `Waiting`.
    pub(super) stalled_since: Instant,
    pub(super) tally: Tally,
}

/// Where a connection stands. Only ever moves down this list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    /// The last bytes are queued; no new work is accepted. Ends at `closes_at` at the latest.
    Leaving(Fin),
    /// FIN is sent; what still arrives is thrown away, so that no reset overtakes the last bytes.
    /// Ends at `closes_at` at the latest.
    Lingering,
    /// Closed by us; waiting for the kernel to confirm.
    Closing,
    /// Confirmed; the slot is freed when no operation of it is left.
    Closed,
}

/// When a leaving connection sends its FIN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fin {
    /// As soon as the last byte has gone.
    Flushed,
    /// When the peer has answered the close frame.
    Answered,
}

/// The multishot receive of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Receiving {
    Off,
    Armed,
    /// Cancelled by us for taking more than its share; to be armed again.
    Pausing,
    /// On the list of those to be armed again.
    Queued,
    /// The peer has sent its last byte.
    Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sending {
    /// Nothing is with the kernel but what this turn's enter settles.
    Free,
    /// The rest of a partial send waits for the peer; nothing overtakes it.
    Waiting,
}

/// Whether what is queued waits: between the 101 and the first frame (a client library loses its
/// manifest when both come in one packet).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    Off,
    /// The 101 leaves with this turn's send; what is queued behind it waits.
    BehindThis,
    On,
}

/// Receive buffers taken in one turn. Turns are told apart by their lower half: whoever comes back
/// after exactly 65 536 of them finds its old count, and is paused a little early.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Quota {
    turn: u16,
    taken: u16,
}

impl Quota {
    /// Counts one buffer and returns how many it took in this turn.
    pub(super) fn take(&mut self, turn: u32) -> u16 {
        let turn = turn as u16;
        if self.turn != turn {
            *self = Self { turn, taken: 0 };
        }
        self.taken = self.taken.saturating_add(1);
        self.taken
    }
}

/// What passed over one connection, for its log line. Messages are counted up to four thousand million.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    messages_in: u32,
    messages_out: u32,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
}

impl Tally {
    pub(super) fn message_in(&mut self) {
        self.messages_in = self.messages_in.saturating_add(1);
    }

    pub(super) fn message_out(&mut self) {
        self.messages_out = self.messages_out.saturating_add(1);
    }

    /// Received and sent.
    pub(super) fn messages(&self) -> (u64, u64) {
        (self.messages_in.into(), self.messages_out.into())
    }
}

impl<R> Connection<R> {
    pub(super) fn new(socket: Option<Socket>, role: R, now: Instant) -> Self {
        Self {
            socket,
            role,
            phase: Phase::Open,
            closes_at: Instant::NEVER,
            receiving: Receiving::Off,
            sending: Sending::Free,
            dirty: false,
            hold: Hold::Off,
            tls: None,
            accepts_brotli: false,
            inbound: Inbound::new(),
            outbox: None,
            quota: Quota::default(),
            peer: None,
            opened: now,
            stalled_since: now,
            tally: Tally::default(),
        }
    }

    /// Nothing of it is with the kernel any more.
    pub(super) fn is_over(&self) -> bool {
        self.phase == Phase::Closed
            && !matches!(self.receiving, Receiving::Armed | Receiving::Pausing)
            && self.sending == Sending::Free
    }

    /// What the kernel is still asked to do for it, besides this turn's submissions.
    pub(super) fn pending(&self) -> Pending {
        match (self.sending, self.receiving) {
            (Sending::Free, Receiving::Queued | Receiving::Ended) => Pending::Nothing,
            (Sending::Free, Receiving::Armed | Receiving::Pausing) => Pending::Receive,
            // A receive that was never armed: the connect may be under way.
            (Sending::Free, Receiving::Off) | (Sending::Waiting, _) => Pending::Unknown,
        }
    }

    pub(super) fn peer_address(&self) -> Option<SocketAddr> {
        self.peer.map(SocketAddr::from)
    }

    pub(super) fn has_nothing_to_send(&self) -> bool {
        self.outbox.is_none() && self.sending == Sending::Free && !self.has_tls_to_send()
    }
}
