//! How connections end: the close handshake, lingering so that the last bytes arrive, and the slot
//! that is freed only when the kernel holds nothing of it.

use super::connection::{Fin, Hold, Phase, Receiving, Sending};
use super::players::Player;
use super::{Engine, Role};
use crate::block::Block;
use crate::id::ConnectionKey;
use crate::lane::{End, SessionEnded, ToControl};
use crate::probe::{TlsOutcome, Upgrade};
use crate::session::notices::Disconnect;
use crate::snapshot::ConnectionMode;
use crate::sockets::Sockets;
use crate::wire::close::CloseCode;
use crate::wire::frame::{ControlKind, ControlPayload, OpCode};
use crate::wire::header::Priority;

/// Counted for an end without a close frame.
pub(super) const ABNORMAL: u16 = 1006;

/// Whether a session survives an end with this close code.
fn end_of(code: u16) -> End {
    if code == CloseCode::SessionEnded.code() { End::Final } else { End::Resumable }
}

/// Counted for a close frame without a code.
const NO_STATUS: u16 = 1005;

impl<S: Sockets> Engine<S> {
    /// We end the connection: close frame, then the peer's answer or a time-out, then FIN.
    pub(super) fn leave(&mut self, key: ConnectionKey, code: CloseCode, cause: &'static str) {
        self.leave_because(key, code, code.reason(), cause);
    }

    /// As [`Self::leave`], with a reason text of the situation's own.
    pub(super) fn leave_because(
        &mut self,
        key: ConnectionKey,
        code: CloseCode,
        reason: &str,
        cause: &'static str,
    ) {
        let payload = self.close_payload(code, reason);
        self.say_goodbye(key, &payload, Fin::Answered, code.code(), cause);
    }

    /// As [`Self::leave`], when nothing that the client sends can be read any more: an answer is not
    /// waited for.
    pub(super) fn hang_up(&mut self, key: ConnectionKey, code: CloseCode, cause: &'static str) {
        let payload = self.close_payload(code, code.reason());
        self.say_goodbye(key, &payload, Fin::Flushed, code.code(), cause);
    }

    fn close_payload(&self, code: CloseCode, reason: &str) -> ControlPayload {
        let upstream = self.limits.session.upstream_close_codes;
        ControlPayload::close(if upstream { code.as_upstream() } else { code.code() }, reason)
    }

    /// The peer has sent a close frame.
    pub(super) fn peer_closes(&mut self, key: ConnectionKey, code: Option<u16>) {
        let Some(connection) = self.table.get_mut(key) else {
            return;
        };
        if let Phase::Leaving(fin) = &mut connection.phase {
            *fin = Fin::Flushed;
            return self.finish_if_flushed(key);
        }
        if matches!(connection.role, Role::Link(_)) {
            return self.link_closed(key, code);
        }
        let session = matches!(connection.role, Role::Session(_));
        if session && self.snapshot.mode == ConnectionMode::Internal {
            // No close frame answers a server's.
            self.end_role(key, code.unwrap_or(NO_STATUS), "closed by client");
            return self.start_leaving(key, Fin::Flushed);
        }
        let payload = code.map_or(ControlPayload::EMPTY, |code| ControlPayload::close(code, ""));
        let counted = code.unwrap_or(NO_STATUS);
        self.say_goodbye(key, &payload, Fin::Flushed, counted, "closed by client");
    }

    fn say_goodbye(
        &mut self,
        key: ConnectionKey,
        payload: &ControlPayload,
        fin: Fin,
        counted: u16,
        cause: &'static str,
    ) {
        let Some(connection) = self.table.get(key) else {
            return;
        };
        if connection.phase != Phase::Open {
            return;
        }
        let survives = end_of(counted) == End::Resumable
            && counted != CloseCode::Replaced.code()
            && self.snapshot.mode != ConnectionMode::Internal;
        if survives {
            self.notify_disconnect(key);
        }
        self.end_role(key, counted, cause);
        let kind = ControlKind::Close;
        let write = |this: &mut Self| this.queue_control(key, kind, payload, Priority::Normal);
        if write(self).is_err() {
            // Nothing that waits could be read in time: the close frame takes its place.
            self.clear_outbox(key);
            if write(self).is_err() {
                return self.close(key);
            }
        }
        self.start_leaving(key, fin);
    }

    /// Takes no more work; what is queued still goes out, then FIN.
    pub(super) fn start_leaving(&mut self, key: ConnectionKey, fin: Fin) {
        let until = self.now.mono + self.limits.session.close_timeout;
        let Some(connection) = self.table.get_mut(key) else {
            return;
        };
        // Whoever has said its last word goes on to its end: the socket may be another's by now.
        if !matches!(connection.phase, Phase::Open | Phase::Leaving(_)) {
            return;
        }
        connection.phase = Phase::Leaving(fin);
        connection.closes_at = until;
        connection.hold = Hold::Off;
        if connection.receiving == Receiving::Ended {
            connection.phase = Phase::Leaving(Fin::Flushed);
        }
        self.mark_dirty(key);
        self.set_deadline(key);
        self.finish_if_flushed(key);
    }

    /// Sends FIN if all was said.
    pub(super) fn finish_if_flushed(&mut self, key: ConnectionKey) {
        let until = self.now.mono + self.limits.session.close_timeout;
        let Some(connection) = self.table.get_mut(key) else {
            return;
        };
        if connection.phase != Phase::Leaving(Fin::Flushed) {
            return;
        }
        if !connection.has_nothing_to_send() {
            return;
        }
        if connection.tls.as_ref().is_some_and(|tls| tls.owes_goodbye()) {
            // The flush that says it comes back here.
            return self.mark_dirty(key);
        }
        let Some(socket) = connection.socket else {
            return self.close(key);
        };
        if connection.receiving == Receiving::Ended {
            return self.close(key);
        }
        connection.phase = Phase::Lingering;
        connection.closes_at = until;
        self.sockets.finish(socket, key);
        self.set_deadline(key);
    }

    /// The peer sent FIN without a close frame. What a client asked for is not answered any more.
    pub(super) fn peer_finished(&mut self, key: ConnectionKey) {
        if let Some(Role::Http(_)) = self.table.get(key).map(|connection| &connection.role) {
            return self.http_finished(key);
        }
        self.lost(key, "connection ended without a close frame");
    }

    pub(super) fn peer_finished_while_leaving(&mut self, key: ConnectionKey) {
        if let Some(connection) = self.table.get_mut(key)
            && let Phase::Leaving(fin) = &mut connection.phase
        {
            *fin = Fin::Flushed;
        }
        self.finish_if_flushed(key);
    }

    /// The connection is broken: no goodbye.
    pub(super) fn lost(&mut self, key: ConnectionKey, cause: &'static str) {
        let role = self.table.get(key).map(|connection| &connection.role);
        match role {
            Some(Role::Head(_)) if self.is_handshaking(key) => {
                self.probe.door.tls(TlsOutcome::ClientGone);
            }
            Some(Role::Proxied(_) | Role::Head(_)) => self.probe.upgrade(Upgrade::ClientGone),
            _ => {}
        }
        self.cut(key, cause);
    }

    /// Ends a connection that cannot even be told so.
    pub(super) fn cut(&mut self, key: ConnectionKey, cause: &'static str) {
        self.end_role(key, ABNORMAL, cause);
        self.close(key);
    }

    /// Closes the socket now, whatever waits.
    pub(super) fn close(&mut self, key: ConnectionKey) {
        self.clear_outbox(key);
        self.unseal(key);
        let Some(connection) = self.table.get_mut(key) else {
            return;
        };
        if matches!(connection.phase, Phase::Closing | Phase::Closed) {
            return;
        }
        connection.inbound.release(&mut self.blocks);
        self.timers.cancel(key.slot.0);
        match connection.socket {
            Some(socket) => {
                connection.phase = Phase::Closing;
                let pending = connection.pending();
                self.sockets.close(socket, key, pending);
            }
            None => {
                connection.phase = Phase::Closed;
                self.free_if_over(key);
            }
        }
    }

    pub(super) fn closed(&mut self, key: ConnectionKey) {
        self.accept_again_now();
        if let Some(connection) = self.table.get_mut(key) {
            connection.phase = Phase::Closed;
            self.free_if_over(key);
        }
    }

    pub(super) fn free_if_over(&mut self, key: ConnectionKey) {
        if self.table.get(key).is_some_and(super::connection::Connection::is_over) {
            self.table.remove(key, self.now.mono);
        }
    }

    pub(super) fn clear_outbox(&mut self, key: ConnectionKey) {
        let Some(connection) = self.table.get_mut(key) else {
            return;
        };
        let Some(mut outbox) = connection.outbox.take() else {
            return;
        };
        while let Some(outgoing) = outbox.take() {
            self.recycle(outgoing);
        }
        self.outboxes.push(outbox);
    }

    /// As [`Self::lost`], when nothing of an HTTP request has left.
    pub(super) fn lost_unsent(&mut self, key: ConnectionKey, request: Block) {
        let role = self.table.get_mut(key).map(|c| std::mem::replace(&mut c.role, Role::Gone));
        match role {
            Some(Role::Http(http)) => self.http_over(*http, key, Some(request)),
            _ => self.blocks.give_back(request),
        }
        self.close(key);
    }

    /// Ends what is behind a connection, once, whatever ends it.
    pub(super) fn end_role(&mut self, key: ConnectionKey, counted: u16, cause: &'static str) {
        let Some(connection) = self.table.get_mut(key) else {
            return;
        };
        let role = std::mem::replace(&mut connection.role, Role::Gone);
        let peer = connection.peer;
        self.left_the_door(&role, peer);
        self.forget_brought_trace(key);
        match role {
            Role::Gone => {}
            Role::Proxied(head) | Role::Head(head) => {
                self.downstream -= 1;
                self.release_head(*head);
            }
            Role::Echo(_) => {
                self.downstream -= 1;
                self.probe.close(counted);
            }
            Role::Session(player) => {
                self.downstream -= 1;
                self.probe.close(counted);
                self.report_end(key, &player, counted, cause);
                self.end_player(key, *player, end_of(counted));
            }
            Role::Http(http) => self.http_over(*http, key, None),
            Role::Link(link) => self.link_over(*link, key),
        }
    }

    /// Tells a client with what it can take its session up again. One that reads too slowly goes
    /// without.
    fn notify_disconnect(&mut self, key: ConnectionKey) {
        let (now, resume) = (self.now, self.limits.session.resume);
        let Some(player) = self.player(key) else { return };
        let (session, epoch) = (player.session.id(), player.epoch);
        let token = self.reconnect_keys.token(session, epoch);
        let notice = Disconnect { token: &token, window: resume.window, now };
        for &spelling in self.limits.session.dialect.spellings() {
            let mut message = std::mem::take(&mut self.notice);
            if resume.notice_event
                && let Some(player) = self.player(key)
            {
                let message_id = player.session.next_message_id(now);
                message.clear();
                notice.event(spelling, message_id, &mut self.random, &mut message);
                let _slow_clients_miss_it = self.queue_notice(key, &message, Priority::Normal);
            }
            if resume.notice_text {
                message.clear();
                notice.text(spelling, &mut message);
                let _slow_clients_miss_it =
                    self.queue_frame(key, OpCode::Text, &message, Priority::Normal);
            }
            self.notice = message;
        }
    }

    fn end_player(&mut self, key: ConnectionKey, mut player: Player, end: End) {
        if let Some(mut receipts) = player.receipts.take() {
            let confirmed = receipts.take_confirmed();
            self.news.push_confirmed(player.session.id(), player.epoch, confirmed);
        }
        self.forget_player(&mut player);
        if let Some(calls) = player.calls.take() {
            self.abandon_calls(key, calls);
        }
        let session = player.session.id();
        self.end_on_links(session, key);
        self.news.push(ToControl::Release { key, session, epoch: player.epoch, end });
    }

    /// One line for the operators; lost when the lane is full, the counters are not.
    fn report_end(
        &mut self,
        key: ConnectionKey,
        player: &Player,
        close_code: u16,
        cause: &'static str,
    ) {
        let Some(connection) = self.table.get(key) else {
            return;
        };
        let line = SessionEnded {
            session: player.session.id(),
            peer: connection.peer_address(),
            close_code,
            cause,
            duration_ms: self.now.mono.since(connection.opened).as_millis() as u64,
            messages_in: connection.tally.messages().0,
            messages_out: connection.tally.messages().1,
            bytes_in: connection.tally.bytes_in,
            bytes_out: connection.tally.bytes_out,
        };
        if self.log_lines.take() {
            drop(self.lanes.tell_control(ToControl::SessionEnded(Box::new(line)), self.now.mono));
        }
    }

    /// Whether a partial send has waited too long for its peer.
    pub(super) fn is_stalled(&self, key: ConnectionKey) -> bool {
        self.table.get(key).is_some_and(|connection| {
            connection.sending == Sending::Waiting
                && self.now.mono >= connection.stalled_since + self.limits.session.write_stall
        })
    }
}
