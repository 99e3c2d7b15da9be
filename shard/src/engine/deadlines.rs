//! Time: one deadline per connection in the wheel, the earliest of all that wait for it.

use std::time::Duration;

use super::connection::{Connection, Phase, Sending};
use super::players::Player;
use super::{Engine, Role};
use crate::clock::{Instant, Now};
use crate::id::{ConnectionKey, Slot};
use crate::probe::Shed;
use crate::snapshot::SessionLimits;
use crate::sockets::Sockets;
use crate::wire::close::CloseCode;

/// The protocol's words for a session whose token has expired.
const EXPIRED: &str = "Session invalidated: SessionExpired";

/// How far ahead the end of a token is looked at.
const LOOK_AHEAD_MS: u64 = 3_600_000;

impl<S: Sockets> Engine<S> {
    /// Makes sure that the wheel wakes `key` for its earliest deadline. The wheel's own is only ever
    /// moved closer; one that comes too early is set again.
    pub(super) fn set_deadline(&mut self, key: ConnectionKey) {
        let Some(connection) = self.table.get(key) else {
            return;
        };
        let Some(at) = earliest(connection, &self.limits.session, self.now) else {
            return;
        };
        self.timers.set_by(key.slot.0, at);
    }

    pub(super) fn act_on_deadlines(&mut self) {
        while let Some(slot) = self.timers.pop_expired(self.now.mono) {
            let Some(key) = self.table.key_at(Slot(slot)) else {
                continue;
            };
            self.deadline_passed(key);
            self.set_deadline(key);
        }
    }

    fn deadline_passed(&mut self, key: ConnectionKey) {
        let now = self.now.mono;
        if self.is_stalled(key) {
            self.probe.shed(Shed::SlowConsumer);
            // A close frame could not be read either.
            self.end_role(key, CloseCode::TryAgainLater.code(), "slow consumer");
            return self.close(key);
        }
        let Some(connection) = self.table.get_mut(key) else {
            return;
        };
        match connection.phase {
            Phase::Leaving(_) | Phase::Lingering if now >= connection.closes_at => {
                self.close(key);
            }
            Phase::Leaving(_) | Phase::Lingering => {}
            Phase::Closing | Phase::Closed => {}
            Phase::Open => match &connection.role {
                Role::Proxied(head) | Role::Head(head) if now >= head.until() => {
                    self.head_timed_out(key);
                }
                Role::Session(player)
                    if expires_at(player, &self.limits.session, self.now) <= now =>
                {
                    self.leave_because(key, CloseCode::SessionEnded, EXPIRED, "token expired");
                }
                Role::Session(_) => {
                    self.expire_calls(key);
                    self.expire_rpcs(key);
                    self.follow_with_ping(key);
                    self.liveness_deadline(key);
                }
                Role::Echo(_) => self.liveness_deadline(key),
                Role::Http(_) => self.http_deadline(key),
                Role::Link(_) => self.link_deadline(key),
                Role::Proxied(_) | Role::Head(_) | Role::Gone => {}
            },
        }
    }

    /// Makes sure that the wheel wakes `key` at `at` or earlier.
    pub(super) fn wake_by(&mut self, key: ConnectionKey, at: Instant) {
        let closing = |connection: &Connection<Role>| {
            matches!(connection.phase, Phase::Closing | Phase::Closed)
        };
        if self.table.get(key).is_some_and(|connection| !closing(connection)) {
            self.timers.set_by(key.slot.0, at);
        }
    }
}

/// When the session ends with its token; [`Instant::NEVER`] when it outlives it. Reckoned anew each
/// time, so that it costs a session nothing, and so that the wall clock may be set.
fn expires_at(player: &Player, limits: &SessionLimits, now: Now) -> Instant {
    if !limits.close_on_expiry {
        return Instant::NEVER;
    }
    let Some(expiry) = player.session.identity().expires_at else {
        return Instant::NEVER;
    };
    let left = expiry.get().saturating_mul(1000).saturating_sub(now.unix_ms);
    // No timer is set further ahead.
    now.mono + Duration::from_millis(left.min(LOOK_AHEAD_MS))
}

fn earliest(connection: &Connection<Role>, limits: &SessionLimits, now: Now) -> Option<Instant> {
    // What is still with the kernel ends by itself; a stall that was acted on is no deadline again.
    if matches!(connection.phase, Phase::Closing | Phase::Closed) {
        return None;
    }
    let stall = (connection.sending == Sending::Waiting)
        .then_some(connection.stalled_since + limits.write_stall);
    let own = match connection.phase {
        Phase::Leaving(_) | Phase::Lingering => Some(connection.closes_at),
        Phase::Closing | Phase::Closed => None,
        Phase::Open => match &connection.role {
            Role::Proxied(head) | Role::Head(head) => Some(head.until()),
            Role::Session(player) => {
                let calls = player.calls.as_ref().and_then(|calls| calls.earliest_deadline());
                let alive = player.liveness.next_deadline(limits);
                let own = alive.min(player.session.rpcs().next_expiry()).min(player.ping_due());
                let soonest = calls.map_or(own, |calls| calls.min(own));
                Some(soonest.min(expires_at(player, limits, now)))
            }
            Role::Http(http) => Some(http.until()),
            Role::Link(link) => link.until(),
            Role::Echo(liveness) => Some(liveness.next_deadline(limits)),
            Role::Gone => None,
        },
    };
    [stall, own].into_iter().flatten().min()
}
