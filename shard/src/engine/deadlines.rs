//! Time: one deadline per connection in the wheel, the earliest of all that wait for it.

use super::connection::{Connection, Phase, Sending};
use super::{Engine, Role};
use crate::clock::Instant;
use crate::id::{ConnectionKey, Slot};
use crate::probe::Shed;
use crate::sockets::Sockets;
use crate::wire::close::CloseCode;

impl<S: Sockets> Engine<S> {
    /// Makes sure that the wheel wakes `key` for its earliest deadline.
    pub(super) fn set_deadline(&mut self, key: ConnectionKey) {
        let Some(connection) = self.table.get_mut(key) else { return };
        let Some(at) = earliest(connection, self.limits.session.write_stall) else { return };
        if connection.wakes_at.is_none_or(|known| at < known) {
            connection.wakes_at = Some(at);
            self.timers.set(key.slot.0, at);
        }
    }

    pub(super) fn act_on_deadlines(&mut self) {
        while let Some(slot) = self.timers.pop_expired(self.now.mono) {
            let Some(key) = self.table.key_at(Slot(slot)) else { continue };
            if let Some(connection) = self.table.get_mut(key) {
                connection.wakes_at = None;
            }
            self.deadline_passed(key);
            self.set_deadline(key);
        }
    }

    fn deadline_passed(&mut self, key: ConnectionKey) {
        let now = self.now.mono;
        if self.is_stalled(key) {
            self.probe.shed(Shed::SlowConsumer);
            return self.lost(key, "slow consumer");
        }
        let Some(connection) = self.table.get_mut(key) else { return };
        match connection.phase {
            Phase::Leaving { until, .. } | Phase::Lingering { until } if now >= until => {
                self.close(key);
            }
            Phase::Leaving { .. } | Phase::Lingering { .. } => {}
            Phase::Closing | Phase::Closed => {}
            Phase::Open => match &connection.role {
                Role::Head(head) if now >= head.until() => self.head_timed_out(key),
                Role::Head(_) | Role::Echo | Role::Gone => {}
            },
        }
    }

    /// For callers that end a connection for a reason of time.
    pub(super) fn leave_idle(&mut self, key: ConnectionKey) {
        self.leave(key, CloseCode::Idle, "idle");
    }
}

fn earliest(connection: &Connection<Role>, write_stall: std::time::Duration) -> Option<Instant> {
    // What is still with the kernel ends by itself; a stall that was acted on is no deadline again.
    if matches!(connection.phase, Phase::Closing | Phase::Closed) {
        return None;
    }
    let stall = (connection.sending == Sending::Waiting)
        .then_some(connection.stalled_since + write_stall);
    let own = match connection.phase {
        Phase::Leaving { until, .. } | Phase::Lingering { until } => Some(until),
        Phase::Closing | Phase::Closed => None,
        Phase::Open => match &connection.role {
            Role::Head(head) => Some(head.until()),
            Role::Echo | Role::Gone => None,
        },
    };
    [stall, own].into_iter().flatten().min()
}
