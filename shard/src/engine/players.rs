//! Authenticated sessions: opening one, executing what its messages are judged to mean, answering.

use std::sync::Arc;

use super::calling::{OpenCalls, Question};
use super::connection::Phase;
use super::{Arrived, Engine, Role, Source};
use crate::clock::Instant;
use crate::id::{ConnectionKey, Epoch, Slot};
use crate::identity::Identity;
use crate::probe::{Route, Shed};
use crate::session::liveness::Liveness;
use crate::session::receipts::Receipts;
use crate::session::routing::{RoutingContext, Session};
use crate::session::verdict::{CloseReason, TextVerdict, Verdict};
use crate::snapshot::{CapabilitySource, ConnectionMode};
use crate::sockets::Sockets;
use crate::wire::close::CloseCode;
use crate::wire::code::{ResponseCode, SessionRefusal};
use crate::wire::frame::{OpCode, server_header_len, write_server_header};
use crate::wire::guid::{Guid, PeerRoute};
use crate::wire::header::{Priority, ReplyTo, ResponseHeader, WantsReply};
use crate::wire::inbound::DataKind;

/// One session on its connection.
#[derive(Debug)]
pub(super) struct Player {
    pub(super) session: Session,
    pub(super) liveness: Liveness,
    pub(super) epoch: Epoch,
    /// Attached only while calls are open.
    pub(super) calls: Option<Box<OpenCalls>>,
    /// Once the session is being sent away: it takes no new calls, and those that run have until
    /// then.
    pub(super) leaves_at: Instant,
    /// What the client is still to confirm.
    pub(super) receipts: Option<Box<Receipts>>,
    pub(super) resumed: Resumption,
}

impl Player {
    /// When a Ping is to follow what the client has not confirmed. While one is under way its Pong
    /// comes first.
    pub(super) fn ping_due(&self) -> Instant {
        match &self.receipts {
            Some(receipts) if self.liveness.may_ping() => receipts.ping_due(),
            _ => Instant::NEVER,
        }
    }
}

/// Whether a session was there before its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resumption {
    Fresh,
    /// Taken up again: the token before this claim's is good until the client has this one's.
    TakenUp,
}

const _: () = assert!(size_of::<Player>() <= 168, "what a session pays for its rules");

impl<S: Sockets> Engine<S> {
    /// Turns the granted claim of `key` into a session. The 101 has been queued.
    pub(super) fn open_session(
        &mut self,
        key: ConnectionKey,
        identity: Arc<Identity>,
        epoch: Epoch,
        resumed: Resumption,
        accepts_brotli: bool,
    ) {
        let capabilities = match self.limits.session.capabilities {
            CapabilitySource::Roles => {
                let roles = callable_by(self.snapshot.mode, &identity);
                self.capabilities.of_roles(&self.snapshot, roles)
            }
            CapabilitySource::Events => self.capabilities.of_endpoints(&self.snapshot, &[]),
        };
        let seed = self.random.u64(..);
        let session = Session::new(identity, capabilities, &self.snapshot, seed);
        let liveness = Liveness::new(&self.limits.session, self.now.mono);
        let leaves_at = Instant::NEVER;
        let player =
            Player { session, liveness, epoch, calls: None, leaves_at, receipts: None, resumed };
        let Some(connection) = self.table.get_mut(key) else {
            return;
        };
        let opened = std::mem::replace(&mut connection.role, Role::Session(Box::new(player)));
        connection.accepts_brotli = accepts_brotli;
        let peer = connection.peer;
        self.left_the_door(&opened, peer);
        self.sessions += 1;
        self.probe.sessions.set(self.sessions as u64);
        self.set_deadline(key);
    }

    /// Forgets a session that has ended, except for its calls.
    pub(super) fn forget_player(&mut self, player: &mut Player) {
        player.session.end(&mut self.tables);
        self.sessions -= 1;
        self.probe.sessions.set(self.sessions as u64);
    }

    /// Every slot that may be a session's, so that all of them can be visited while they change.
    pub(super) fn slots(&self) -> impl Iterator<Item = Slot> + use<S> {
        self.table.slots()
    }

    pub(super) fn session_in(&self, slot: Slot) -> Option<ConnectionKey> {
        let session = matches!(self.table.at(slot)?.role, Role::Session(_));
        self.table.key_at(slot).filter(|_| session)
    }

    pub(super) fn player(&mut self, key: ConnectionKey) -> Option<&mut Player> {
        match &mut self.table.get_mut(key)?.role {
            Role::Session(player) => Some(player),
            _ => None,
        }
    }

    pub(super) fn player_message(
        &mut self,
        key: ConnectionKey,
        kind: DataKind,
        mut arrived: Arrived<'_>,
    ) {
        let Some(connection) = self.table.get_mut(key) else {
            return self.discard(arrived);
        };
        let Role::Session(player) = &mut connection.role else {
            return self.discard(arrived);
        };
        player.liveness.on_data(self.now.mono);
        player.liveness.on_message_complete();
        match kind {
            DataKind::Text => {
                let verdict = player.session.on_text(self.snapshot.mode, &self.rates, self.now);
                self.discard(arrived);
                self.refuse_text(key, verdict);
            }
            DataKind::Binary => {
                let mut context = RoutingContext {
                    snapshot: &self.snapshot,
                    rates: &self.rates,
                    peer_keys: &self.peer_keys,
                    tables: &mut self.tables,
                    now: self.now,
                };
                let (reply_to, verdict) = player.session.on_binary(arrived.bytes(), &mut context);
                self.execute(key, reply_to, verdict, arrived);
            }
        }
    }

    pub(super) fn player_message_too_long(
        &mut self,
        key: ConnectionKey,
        kind: DataKind,
        head: &[u8],
    ) {
        let Some(connection) = self.table.get_mut(key) else {
            return;
        };
        let Role::Session(player) = &mut connection.role else {
            return;
        };
        player.liveness.on_data(self.now.mono);
        match kind {
            DataKind::Text => {
                let verdict = player.session.on_text(self.snapshot.mode, &self.rates, self.now);
                self.refuse_text(key, verdict);
            }
            DataKind::Binary => {
                let context = RoutingContext {
                    snapshot: &self.snapshot,
                    rates: &self.rates,
                    peer_keys: &self.peer_keys,
                    tables: &mut self.tables,
                    now: self.now,
                };
                let (reply_to, verdict) = player.session.on_too_long(head, &context);
                let nothing = Arrived { source: Source::Bytes(&mut []), payload: 0..0 };
                self.execute(key, reply_to, verdict, nothing);
            }
        }
    }

    fn refuse_text(&mut self, key: ConnectionKey, verdict: TextVerdict) {
        self.probe.route(Route::Refused);
        match verdict {
            TextVerdict::Refuse(frame) => {
                self.probe.response(frame[ResponseHeader::LEN - 1]);
                self.queue_or_shed(key, &frame);
            }
            TextVerdict::Ignore => self.probe.shed(Shed::TextIgnored),
            TextVerdict::Close(reason) => self.leave_for(key, reason),
        }
    }

    fn execute(
        &mut self,
        key: ConnectionKey,
        reply_to: Option<ReplyTo>,
        verdict: Verdict,
        arrived: Arrived<'_>,
    ) {
        let Some(reply_to) = reply_to else {
            self.probe.route(Route::Refused);
            self.discard(arrived);
            match verdict {
                Verdict::Close(reason) => self.leave_for(key, reason),
                _ => self.probe.shed(Shed::ShortFrame),
            }
            return;
        };
        match verdict {
            Verdict::Peer { route, guid, acknowledge, priority } => {
                self.probe.route(Route::Peer);
                self.send_to_peer(
                    key,
                    reply_to,
                    super::peers::Letter { route, guid, acknowledge, priority },
                    arrived,
                );
            }
            Verdict::Call { endpoint, wants_reply } => {
                self.probe.route(Route::Call);
                let what = Question { endpoint, meta: None };
                match self.inflate_for_backend(arrived) {
                    Ok(arrived) => self.call(key, reply_to, what, wants_reply, arrived),
                    Err(refusal) => self.refuse_message(key, &reply_to, refusal),
                }
            }
            Verdict::Meta { endpoint, kind } => {
                self.probe.route(Route::Meta);
                let what = Question { endpoint, meta: Some(kind) };
                match self.inflate_for_backend(arrived) {
                    Ok(arrived) => self.call(key, reply_to, what, WantsReply::Yes, arrived),
                    Err(refusal) => self.refuse_message(key, &reply_to, refusal),
                }
            }
            Verdict::Broadcast { priority } => {
                self.probe.route(Route::Broadcast);
                self.broadcast(key, arrived, priority);
            }
            Verdict::Reply(code) => {
                self.probe.route(Route::Refused);
                self.discard(arrived);
                self.reply(key, &reply_to, code);
            }
            Verdict::Refuse(refusal) => {
                self.probe.route(Route::Refused);
                self.discard(arrived);
                self.refuse_message(key, &reply_to, refusal);
            }
            Verdict::RpcAnswer { rpc, code } => {
                self.probe.route(Route::Call);
                match self.inflate_for_backend(arrived) {
                    Ok(arrived) => self.rpc_answered(key, rpc, code, arrived),
                    Err(refusal) => self.refuse_message(key, &reply_to, refusal),
                }
            }
            Verdict::Shortcut { shortcut, wants_reply } => {
                self.probe.route(Route::Call);
                self.call_shortcut(key, reply_to, shortcut, wants_reply, arrived);
            }
            Verdict::Acknowledged { sequence } => {
                self.discard(arrived);
                self.client_acknowledged(key, sequence);
            }
            Verdict::Ignore => self.discard(arrived),
            Verdict::Close(reason) => {
                self.discard(arrived);
                self.leave_for(key, reason);
            }
        }
    }

    pub(super) fn leave_for(&mut self, key: ConnectionKey, reason: CloseReason) {
        let (code, cause) = match reason {
            CloseReason::ShortFrames => (CloseCode::ProtocolError, "too many short frames"),
            CloseReason::RateAbuse => (CloseCode::RateAbuse, "message rate abuse"),
            CloseReason::MessageTooLong => (CloseCode::MessageTooLong, "message too long"),
        };
        self.leave(key, code, cause);
    }

    /// Answers a message with a code and no payload.
    pub(super) fn reply(&mut self, key: ConnectionKey, reply_to: &ReplyTo, code: ResponseCode) {
        self.probe.response(code.value());
        let header = reply_to.header(code).to_bytes();
        self.queue_or_shed(key, &header);
    }

    /// Counts a refusal and answers it.
    pub(super) fn refuse_message(
        &mut self,
        key: ConnectionKey,
        reply_to: &ReplyTo,
        refusal: SessionRefusal,
    ) {
        if let Some(shed) = refusal.shed() {
            self.probe.shed(shed);
        }
        self.reply(key, reply_to, refusal.code());
    }

    /// Queues a binary message of the gateway's own for a client; one that reads too slowly even
    /// for that is let go.
    pub(super) fn queue_or_shed(&mut self, key: ConnectionKey, message: &[u8]) {
        if self.queue_frame(key, OpCode::Binary, message, Priority::Normal).is_err() {
            self.overflowed(key);
        }
    }

    /// The client's own outbox cannot take its answer.
    pub(super) fn overflowed(&mut self, key: ConnectionKey) {
        self.probe.shed(Shed::OwnOutboxFull);
        if self.table.get(key).is_some_and(|c| c.phase == Phase::Open) {
            self.probe.shed(Shed::SlowConsumer);
            self.leave(key, CloseCode::TryAgainLater, "slow consumer");
        }
    }

    /// An answer with a payload that is written straight into the outbox.
    pub(super) fn reply_with(&mut self, key: ConnectionKey, reply_to: &ReplyTo, payload: &[u8]) {
        self.probe.response(ResponseCode::Ok.value());
        let len = ResponseHeader::LEN + payload.len();
        let header_len = server_header_len(len);
        let header = reply_to.header(ResponseCode::Ok).to_bytes();
        let queued = self.queue_with(key, header_len + len, Priority::Normal, |room| {
            let (frame, message) = room.split_at_mut(header_len);
            write_server_header(frame, OpCode::Binary, len);
            message[..ResponseHeader::LEN].copy_from_slice(&header);
            message[ResponseHeader::LEN..].copy_from_slice(payload);
        });
        if queued.is_err() {
            self.overflowed(key);
        }
    }

    /// The peer GUID of a connection of this shard.
    pub(super) fn peer_guid(&self, key: ConnectionKey) -> Guid {
        self.peer_keys.encode(PeerRoute {
            node: self.snapshot.node,
            shard: self.options.shard,
            slot: key.slot,
            generation: key.generation,
        })
    }
}

/// The roles whose endpoints a session may call. Servers of the Internal mode may call none, whatever
/// a role of that name says.
pub(super) fn callable_by(mode: ConnectionMode, identity: &Identity) -> &[Box<str>] {
    match mode {
        ConnectionMode::External | ConnectionMode::Relayed => &identity.standing.roles,
        ConnectionMode::Internal => &[],
    }
}
