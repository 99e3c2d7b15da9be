//! When a connection is pinged, given up, or closed for doing nothing. Four clocks in one small
//! struct: silence, idleness, a message that does not end, and what phase the connection is in.
//!
//! The engine tells it what happened and arms its timer for [`Liveness::next_deadline`]. There is
//! one Ping mechanism: whoever pings for another reason goes through [`Liveness::begin_ping`].

use std::time::Duration;

use thiserror::Error;

use crate::clock::Instant;
use crate::snapshot::SessionLimits;

/// Per connection, from the 101 to the end of its socket.
#[derive(Debug)]
pub struct Liveness {
    phase: Phase,
    /// Last byte of any kind from the peer, or the Ping that went out since: what it must answer
    /// to in time.
    heard: Instant,
    /// Last data message in either direction; control frames do not count.
    active: Instant,
    /// When the message that is still incomplete began; [`NEVER`] when there is none.
    message_began: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// After the 101 the first manifest waits until then.
    Held {
        until: Instant,
    },
    /// No Ping is outstanding.
    Open,
    /// A Ping waits in the outbox; its peer cannot be late yet.
    PingQueued {
        payload: u64,
    },
    PingSent {
        payload: u64,
    },
    /// Our close frame is sent; the peer's is awaited.
    Closing {
        until: Instant,
    },
}

/// What is due. Asked for again until it says `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LivenessAction {
    None,
    /// The held first frames may leave.
    ReleaseFirstFrame,
    /// Queue a Ping and call [`Liveness::begin_ping`].
    Ping,
    /// Close with 4004.
    CloseIdle,
    /// Close with 1008: a message was begun and not finished.
    CloseStalledMessage,
    /// End the connection without a close handshake.
    Drop(DropCause),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropCause {
    PongTimeout,
    CloseTimeout,
}

/// What a received Pong was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pong {
    /// The answer to the outstanding Ping with this payload.
    Expected {
        payload: u64,
    },
    Unsolicited,
}

/// There may be one Ping at a time, since a peer may answer only the latest, and none before the
/// first frame or after the close frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a Ping may not be sent now")]
pub struct PingRefused;

impl Liveness {
    /// At the moment the 101 was queued.
    #[must_use]
    pub fn new(limits: &SessionLimits, now: Instant) -> Self {
        Self {
            phase: Phase::Held { until: now + limits.first_frame_delay },
            heard: now,
            active: now,
            message_began: NEVER,
        }
    }

    /// Any bytes from the peer.
    pub fn on_bytes(&mut self, now: Instant) {
        self.heard = now;
    }

    /// A data message was received or sent.
    pub fn on_data(&mut self, now: Instant) {
        self.active = now;
    }

    /// The first bytes of a message arrived and the last ones did not.
    pub fn on_message_incomplete(&mut self, now: Instant) {
        self.message_began = self.message_began.min(now);
    }

    /// No message is under way any more.
    pub fn on_message_complete(&mut self) {
        self.message_began = NEVER;
    }

    /// Whether [`Self::begin_ping`] would be allowed.
    #[must_use]
    pub fn may_ping(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Takes the one Ping for a payload of the caller's choice. Its deadline starts only with
    /// [`Self::on_ping_sent`].
    pub fn begin_ping(&mut self, payload: u64) -> Result<(), PingRefused> {
        match self.phase {
            Phase::Open => {
                self.phase = Phase::PingQueued { payload };
                Ok(())
            }
            Phase::Held { .. }
            | Phase::PingQueued { .. }
            | Phase::PingSent { .. }
            | Phase::Closing { .. } => Err(PingRefused),
        }
    }

    /// The Ping has left the outbox.
    pub fn on_ping_sent(&mut self, now: Instant) {
        if let Phase::PingQueued { payload } = self.phase {
            self.phase = Phase::PingSent { payload };
            self.heard = now;
        }
    }

    pub fn on_pong(&mut self, body: &[u8]) -> Pong {
        match self.phase {
            Phase::PingSent { payload } if body == payload.to_be_bytes() => {
                self.phase = Phase::Open;
                Pong::Expected { payload }
            }
            _ => Pong::Unsolicited,
        }
    }

    /// Our close frame was queued; only the peer's close frame is awaited from here on.
    pub fn on_closing(&mut self, limits: &SessionLimits, now: Instant) {
        if !matches!(self.phase, Phase::Closing { .. }) {
            self.phase = Phase::Closing { until: now + limits.close_timeout };
        }
    }

    /// Whether frames to the client must still wait.
    #[must_use]
    pub fn holds_first_frame(&self) -> bool {
        matches!(self.phase, Phase::Held { .. })
    }

    /// When [`Self::on_deadline`] has something to say next, if nothing happens before.
    #[must_use]
    pub fn next_deadline(&self, limits: &SessionLimits) -> Instant {
        match self.phase {
            Phase::Closing { until } => until,
            Phase::Held { .. }
            | Phase::Open
            | Phase::PingQueued { .. }
            | Phase::PingSent { .. } => {
                let by_phase = self.phase_deadline(limits);
                by_phase.min(self.stalled_at()).min(after(self.active, limits.idle_timeout))
            }
        }
    }

    /// What is due at `now`, the gravest first.
    pub fn on_deadline(&mut self, limits: &SessionLimits, now: Instant) -> LivenessAction {
        if let Phase::Closing { until } = self.phase {
            return if until <= now {
                LivenessAction::Drop(DropCause::CloseTimeout)
            } else {
                LivenessAction::None
            };
        }
        let phase_is_due = self.phase_deadline(limits) <= now;
        if phase_is_due && matches!(self.phase, Phase::PingSent { .. }) {
            return LivenessAction::Drop(DropCause::PongTimeout);
        }
        if self.stalled_at() <= now {
            return LivenessAction::CloseStalledMessage;
        }
        if after(self.active, limits.idle_timeout) <= now {
            return LivenessAction::CloseIdle;
        }
        match self.phase {
            Phase::Held { .. } if phase_is_due => {
                self.phase = Phase::Open;
                LivenessAction::ReleaseFirstFrame
            }
            Phase::Open if phase_is_due => LivenessAction::Ping,
            _ => LivenessAction::None,
        }
    }

    /// Of the phase alone; [`NEVER`] when only an event can end it.
    fn phase_deadline(&self, limits: &SessionLimits) -> Instant {
        match self.phase {
            Phase::Held { until } | Phase::Closing { until } => until,
            Phase::Open => after(self.heard, limits.ping_interval),
            Phase::PingQueued { .. } => NEVER,
            Phase::PingSent { .. } => after(self.heard, limits.pong_timeout),
        }
    }

    fn stalled_at(&self) -> Instant {
        self.message_began + MESSAGE_TIMEOUT
    }
}

/// A time-out of zero is none.
fn after(start: Instant, timeout: Duration) -> Instant {
    if timeout.is_zero() { NEVER } else { start + timeout }
}

const NEVER: Instant = Instant::NEVER;

const _: () = assert!(size_of::<Liveness>() == 40, "what a session pays for its clocks");

/// From the first to the last byte of one message. Long enough for the longest message on a slow
/// mobile link; a client that trickles bytes holds a pooled block no longer than this.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests;
