//! What is due for a WebSocket by the clock, and the one Ping that serves both liveness and receipts.

use super::{Engine, Role};
use crate::id::ConnectionKey;
use crate::session::liveness::{DropCause, LivenessAction, Pong};
use crate::sockets::Sockets;
use crate::wire::close::CloseCode;
use crate::wire::frame::{ControlKind, ControlPayload};
use crate::wire::header::Priority;

impl<S: Sockets> Engine<S> {
    pub(super) fn liveness_deadline(&mut self, key: ConnectionKey) {
        loop {
            let (now, limits) = (self.now.mono, &self.limits.session);
            let Some(connection) = self.table.get_mut(key) else {
                return;
            };
            let Some(liveness) = connection.role.liveness() else {
                return;
            };
            match liveness.on_deadline(limits, now) {
                LivenessAction::None => return,
                LivenessAction::ReleaseFirstFrame => self.release_first_frame(key),
                LivenessAction::Ping => self.ping(key),
                LivenessAction::CloseIdle => return self.leave(key, CloseCode::Idle, "idle"),
                LivenessAction::CloseStalledMessage => {
                    let cause = "a message was begun and not finished";
                    return self.leave(key, CloseCode::PolicyViolation, cause);
                }
                LivenessAction::Drop(cause) => {
                    let cause = match cause {
                        DropCause::PongTimeout => "no pong in time",
                        DropCause::CloseTimeout => "no close frame in time",
                    };
                    return self.lost(key, cause);
                }
            }
        }
    }

    pub(super) fn ping(&mut self, key: ConnectionKey) {
        let now = self.now;
        let Some(connection) = self.table.get_mut(key) else {
            return;
        };
        let sequence = match &mut connection.role {
            Role::Session(player) => {
                player.session.rest();
                player.session.next_message_id(now)
            }
            _ => now.unix_ms,
        };
        // Greater than the id of everything sent so far: its Pong confirms all that.
        let begun = connection.role.liveness().map(|liveness| liveness.begin_ping(sequence));
        if !matches!(begun, Some(Ok(()))) {
            return;
        }
        let payload = ControlPayload::new(&sequence.to_be_bytes());
        if self.queue_control(key, ControlKind::Ping, &payload, Priority::Normal).is_err() {
            return self.overflowed(key);
        }
        // It leaves with this turn's send, or waits behind what the peer has not taken; then the
        // write stall ends the connection before the pong can be late.
        if let Some(liveness) = self.table.get_mut(key).and_then(|c| c.role.liveness()) {
            liveness.on_ping_sent(now.mono);
        }
        if let Some(receipts) = self.player(key).and_then(|player| player.receipts.as_mut()) {
            receipts.on_ping();
        }
    }

    pub(super) fn pong_arrived(&mut self, key: ConnectionKey, payload: &[u8]) {
        let (now, rates) = (self.now, self.rates);
        let Some(connection) = self.table.get_mut(key) else {
            return;
        };
        let Some(pong) = connection.role.liveness().map(|liveness| liveness.on_pong(payload))
        else {
            return;
        };
        if let Pong::Expected { .. } = pong {
            // Whoever is sent many events is pinged often.
            connection.inbound.uncount_control();
        }
        let Role::Session(player) = &mut connection.role else { return };
        match pong {
            Pong::Expected { payload } => {
                if let Some(receipts) = &mut player.receipts {
                    receipts.on_pong(payload);
                    self.news.has_received(key);
                    self.follow_with_ping(key);
                }
            }
            Pong::Unsolicited => {
                if let Err(reason) = player.session.on_unsolicited_pong(&rates, now) {
                    self.leave_for(key, reason);
                }
            }
        }
    }
}
