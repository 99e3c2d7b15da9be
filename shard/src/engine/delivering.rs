//! What the control core has for a session: events and other messages for its client, what it may
//! call, shortcuts. And what comes back: which events the client has, answers to RPCs.

use super::connection::Hold;
use super::{Arrived, Engine, Role, Source};
use crate::clock::Instant;
use crate::id::{ConnectionKey, EndpointId};
use crate::lane::{Content, Delivery, RpcEnded, RpcOutcome, SessionDescription, ToControl};
use crate::probe::Shed;
use crate::session::manifest::ManifestCause;
use crate::session::receipts::{Item, Receipts};
use crate::session::routing::GrantedBy;
use crate::session::rpc::{PendingRpc, RpcSender};
use crate::session::shortcuts::{Shortcut, ShortcutIndex};
use crate::sockets::Sockets;
use crate::wire::frame::{OpCode, server_header_len, write_server_header};
use crate::wire::header::{Flags, Priority, ReplyTo, RequestHeader, WantsReply};

use super::calling::Question;
use crate::id::Place;
use crate::wire::code::ResponseCode;

impl<S: Sockets> Engine<S> {
    /// Of a session that has gone nothing is dropped that it will not get when it comes back.
    pub(super) fn take_delivery(&mut self, delivery: Delivery) {
        let Delivery { key, epoch, place, content } = delivery;
        if self.player(key).is_none_or(|player| player.epoch != epoch) {
            if let Content::Rpc(rpc) = content {
                self.rpc_unsent(key, &rpc.message);
            }
            return;
        }
        match content {
            Content::Event(body) => return self.deliver_event(key, place, &body),
            Content::Message(message) => self.deliver_message(key, &message),
            Content::Rpc(rpc) => {
                self.deliver_rpc(key, &rpc.message, self.now.mono + rpc.timeout);
            }
            Content::Capabilities(granting) => {
                self.grant(key, &granting.endpoints);
                self.send_manifest(key, ManifestCause::Given(&granting.reason));
            }
            Content::Publish(shortcut) => {
                let published = self
                    .player(key)
                    .map(|player| player.session.shortcuts_mut().publish(*shortcut));
                if published.is_some_and(|published| published.is_err()) {
                    self.probe.shed(Shed::ShortcutRefused);
                } else {
                    self.send_manifest(key, ManifestCause::Shortcuts);
                }
            }
            Content::RevokeRoute(route) => {
                let revoked = self
                    .player(key)
                    .is_some_and(|player| player.session.shortcuts_mut().revoke(route).is_some());
                if revoked {
                    self.send_manifest(key, ManifestCause::Shortcuts);
                }
            }
            Content::RevokeService(service) => {
                let revoked = self
                    .player(key)
                    .is_some_and(|player| player.session.shortcuts_mut().revoke_service(&service));
                if revoked {
                    self.send_manifest(key, ManifestCause::Shortcuts);
                }
            }
        }
        if let Some(place) = place
            && let Some(player) = self.player(key)
        {
            player.receipts.get_or_insert_default().applied(place);
            self.news.has_received(key);
        }
    }

    fn deliver_event(&mut self, key: ConnectionKey, place: Option<Place>, body: &[u8]) {
        let now = self.now;
        let Some(player) = self.player(key) else { return };
        let message_id = player.session.next_message_id(now);
        let header = RequestHeader::event(message_id).to_bytes();
        let len = header.len() + body.len();
        let frame = server_header_len(len);
        let queued = self.queue_with(key, frame + len, Priority::Normal, |room| {
            write_server_header(&mut room[..frame], OpCode::Binary, len);
            room[frame..frame + header.len()].copy_from_slice(&header);
            room[frame + header.len()..].copy_from_slice(body);
        });
        if queued.is_err() {
            // The place does not move: the event comes again with the session.
            return self.overflowed(key);
        }
        self.probe.events_delivered.increment();
        if let Some(place) = place {
            self.expect_receipt(key, message_id, Item::Event(place));
        }
    }

    fn deliver_message(&mut self, key: ConnectionKey, message: &[u8]) {
        let urgent = message.first().is_some_and(|byte| Flags(*byte).contains(Flags::PRIORITY));
        let priority = if urgent { Priority::Urgent } else { Priority::Normal };
        if self.queue_frame(key, OpCode::Binary, message, priority).is_err() {
            self.overflowed(key);
        }
    }

    fn deliver_rpc(&mut self, key: ConnectionKey, message: &[u8], expires: Instant) {
        let Ok(header) = RequestHeader::parse(message) else { return };
        let rpc = PendingRpc { message_id: header.message_id, sender: RpcSender::Control, expires };
        if self.register_rpc(key, rpc) {
            self.deliver_message(key, message);
        } else {
            self.rpc_unsent(key, message);
        }
    }

    /// Says whether the session takes one more. One that waited under the same id is over.
    pub(super) fn register_rpc(&mut self, key: ConnectionKey, rpc: PendingRpc) -> bool {
        let Some(player) = self.player(key) else { return false };
        match player.session.rpcs_mut().register(rpc) {
            Ok(replaced) => {
                if let Some(replaced) = replaced {
                    self.rpc_failed(key, replaced);
                }
                self.wake_by(key, rpc.expires);
                true
            }
            Err(_) => false,
        }
    }

    fn rpc_unsent(&mut self, key: ConnectionKey, message: &[u8]) {
        let Ok(header) = RequestHeader::parse(message) else { return };
        let Some(session) = self.player(key).map(|player| player.session.id()) else { return };
        let ended =
            RpcEnded { session, message_id: header.message_id, outcome: RpcOutcome::Unsent };
        self.news.push(ToControl::RpcEnded(Box::new(ended)));
    }

    /// There will be no answer. The control core finds that out by itself.
    pub(super) fn rpc_failed(&mut self, key: ConnectionKey, rpc: PendingRpc) {
        match rpc.sender {
            RpcSender::Link(link) => self.link_rpc_failed(key, link, rpc.message_id),
            RpcSender::Control => {}
        }
    }

    pub(super) fn expire_rpcs(&mut self, key: ConnectionKey) {
        let now = self.now.mono;
        while let Some(player) = self.player(key)
            && let Some(rpc) = player.session.rpcs_mut().take_expired(now)
        {
            self.probe.shed(Shed::RpcTimeout);
            self.rpc_failed(key, rpc);
        }
    }

    /// The client has answered an RPC.
    pub(super) fn rpc_answered(
        &mut self,
        key: ConnectionKey,
        rpc: PendingRpc,
        code: u8,
        mut arrived: Arrived<'_>,
    ) {
        match rpc.sender {
            RpcSender::Link(link) => self.answer_link_rpc(key, link, arrived),
            RpcSender::Control => {
                let payload = arrived.bytes().get(crate::wire::header::ResponseHeader::LEN..);
                let payload = payload.unwrap_or_default().into();
                self.discard(arrived);
                let Some(player) = self.player(key) else { return };
                let ended = RpcEnded {
                    session: player.session.id(),
                    message_id: rpc.message_id,
                    outcome: RpcOutcome::Answered { code, payload },
                };
                self.news.push(ToControl::RpcEnded(Box::new(ended)));
            }
        }
    }

    /// Remembers that the client is to confirm a message, and has a Ping follow it.
    pub(super) fn expect_receipt(&mut self, key: ConnectionKey, message_id: u64, what: Item) {
        let now = self.now.mono;
        let Some(player) = self.player(key) else { return };
        let receipts = player.receipts.get_or_insert_with(Box::<Receipts>::default);
        receipts.sent(message_id, what, now);
        let due = receipts.ping_due();
        if due <= now {
            self.follow_with_ping(key);
        } else {
            self.wake_by(key, due);
        }
    }

    /// A Ping behind what waits to be confirmed, if its time has come and none is under way.
    pub(super) fn follow_with_ping(&mut self, key: ConnectionKey) {
        let now = self.now.mono;
        let Some(player) = self.player(key) else { return };
        let due = player.receipts.as_ref().is_some_and(|receipts| receipts.ping_due() <= now);
        if due && player.liveness.may_ping() {
            self.ping(key);
        }
    }

    /// `connect.ack`.
    pub(super) fn client_acknowledged(&mut self, key: ConnectionKey, sequence: u64) {
        let Some(player) = self.player(key) else { return };
        let newest = player.session.newest_message_id();
        player.receipts.get_or_insert_default().on_ack(sequence, newest);
        self.news.has_received(key);
    }

    fn grant(&mut self, key: ConnectionKey, endpoints: &[EndpointId]) {
        let set = self.capabilities.of_endpoints(&self.snapshot, endpoints);
        if let Some(Role::Session(player)) = self.table.get_mut(key).map(|c| &mut c.role) {
            player.session.grant(set, &mut self.tables);
        }
    }

    /// Calls a shortcut's target with its payload in the place of the client's.
    pub(super) fn call_shortcut(
        &mut self,
        key: ConnectionKey,
        reply_to: ReplyTo,
        index: ShortcutIndex,
        wants_reply: WantsReply,
        mut arrived: Arrived<'_>,
    ) {
        let header = RequestHeader::parse(arrived.bytes());
        self.discard(arrived);
        let Some(player) = self.player(key) else { return };
        let Some(shortcut) = player.session.shortcut(index) else { return };
        let (Some(endpoint), Ok(header)) = (shortcut.target, header) else {
            return self.reply(key, &reply_to, ResponseCode::ShortcutTargetNotFound);
        };
        // What is called is the shortcut's payload, which nobody has compressed.
        let flags = header.flags.without(Flags::COMPRESSED);
        let header = RequestHeader { flags, guid: shortcut.target_guid, ..header }.to_bytes();
        let payload = shortcut.payload.clone();
        let len = header.len() + payload.len();
        let Some(mut message) = self.blocks.take(len) else {
            return self.refuse_message(
                key,
                &reply_to,
                crate::wire::code::SessionRefusal::ServiceBusy,
            );
        };
        message.append(&header);
        message.append(&payload);
        let arrived = Arrived { source: Source::Block(message), payload: 0..len };
        self.call(key, reply_to, Question { endpoint, meta: None }, wants_reply, arrived);
    }

    /// What operators and backends may know of a session.
    pub(super) fn describe(&mut self, key: ConnectionKey, ticket: u64) {
        let peer_guid = self.peer_guid(key);
        let now = self.now;
        let described = self.table.get(key).and_then(|connection| {
            let Role::Session(player) = &connection.role else { return None };
            let stands =
                |shortcut: &&Shortcut| shortcut.expires_unix_ms.is_none_or(|at| at > now.unix_ms);
            Some(Box::new(SessionDescription {
                endpoints: player.session.capabilities().endpoints().into(),
                shortcuts: player.session.shortcuts().iter().filter(stands).cloned().collect(),
                peer: connection.peer_address(),
                peer_guid,
                open_ms: now.mono.since(connection.opened).as_millis() as u64,
                messages_in: connection.tally.messages().0,
                messages_out: connection.tally.messages().1,
                bytes_in: connection.tally.bytes_in,
                bytes_out: connection.tally.bytes_out,
            }))
        });
        let answer = ToControl::Described { ticket, session: described };
        self.news.push(answer);
    }

    /// Whether a manifest may leave now: not before the first frame's time, and not before anybody
    /// has said what the session may call.
    pub(super) fn may_have_manifest(&self, key: ConnectionKey) -> bool {
        self.table.get(key).is_some_and(|connection| match &connection.role {
            Role::Session(player) => {
                connection.hold == Hold::Off && player.session.granted_by() != GrantedBy::Nobody
            }
            _ => false,
        })
    }
}
