//! What a session is told before anything else: its manifest and its reconnect token, or the hello of
//! the Internal mode. And manifests that follow later.

use super::connection::Hold;
use super::players::Resumption;
use super::{Engine, Role};
use crate::id::ConnectionKey;
use crate::lane::ToControl;
use crate::session::hello::InternalHello;
use crate::session::manifest::{Manifest, ManifestCause};
use crate::session::notices;
use crate::session::receipts::Item;
use crate::snapshot::{ConnectionMode, Spelling};
use crate::sockets::Sockets;
use crate::wire::frame::OpCode;
use crate::wire::header::Priority;

impl<S: Sockets> Engine<S> {
    /// The manifest goes first, then what was held behind it. In the Internal mode the hello takes
    /// its place.
    pub(super) fn release_first_frame(&mut self, key: ConnectionKey) {
        if let Some(connection) = self.table.get_mut(key) {
            connection.hold = Hold::Off;
        }
        match self.snapshot.mode {
            ConnectionMode::Internal => self.send_hello(key),
            ConnectionMode::External | ConnectionMode::Relayed => self.send_first_manifest(key),
        }
        self.mark_dirty(key);
    }

    fn send_hello(&mut self, key: ConnectionKey) {
        let peer = self.peer_guid(key);
        let Some(session) = self.player(key).map(|player| player.session.id()) else {
            return;
        };
        let hello = InternalHello::new(session, peer);
        if self.queue_frame(key, OpCode::Text, hello.as_bytes(), Priority::Urgent).is_err() {
            self.overflowed(key);
        }
    }

    fn send_first_manifest(&mut self, key: ConnectionKey) {
        let resumed = self.player(key).map(|player| player.resumed);
        self.send_manifest(
            key,
            match resumed {
                Some(Resumption::TakenUp) => ManifestCause::Reconnected,
                Some(Resumption::Fresh) | None => ManifestCause::Connected,
            },
        );
        self.send_token(key);
        // What waits for the session comes behind these, also by its message ids.
        if let Some(player) = self.player(key) {
            let (session, epoch) = (player.session.id(), player.epoch);
            self.news.push(ToControl::Opened { key, session, epoch });
        }
    }

    /// Hands out this claim's reconnect token early: a client whose network fails never sees the
    /// notice before a close.
    fn send_token(&mut self, key: ConnectionKey) {
        let now = self.now;
        let resume = self.limits.session.resume;
        let Some(player) = self.player(key).filter(|_| resume.early_token) else { return };
        let (session, epoch, resumed) = (player.session.id(), player.epoch, player.resumed);
        let token = self.reconnect_keys.token(session, epoch);
        for &spelling in self.limits.session.dialect.spellings() {
            let Some(player) = self.player(key) else { return };
            let message_id = player.session.next_message_id(now);
            let mut message = std::mem::take(&mut self.notice);
            message.clear();
            let (window, random) = (resume.window, &mut self.random);
            notices::session_token(spelling, &token, window, message_id, now, random, &mut message);
            let queued = self.queue_notice(key, &message, Priority::Urgent);
            self.notice = message;
            if queued.is_err() {
                return self.overflowed(key);
            }
            if resumed == Resumption::TakenUp {
                self.expect_receipt(key, message_id, Item::Token);
            }
        }
    }

    /// In the Internal mode there is none.
    pub(super) fn send_manifest(&mut self, key: ConnectionKey, cause: ManifestCause<'_>) {
        if self.snapshot.mode == ConnectionMode::Internal || !self.may_have_manifest(key) {
            return;
        }
        for &spelling in self.limits.session.dialect.spellings() {
            self.send_manifest_spelled(key, cause, spelling);
        }
    }

    fn send_manifest_spelled(
        &mut self,
        key: ConnectionKey,
        cause: ManifestCause<'_>,
        spelling: Spelling,
    ) {
        let (now, peer) = (self.now, self.peer_guid(key));
        let mut message = std::mem::take(&mut self.notice);
        message.clear();
        if let Some(Role::Session(player)) = self.table.get_mut(key).map(|c| &mut c.role) {
            let message_id = player.session.next_message_id(now);
            let manifest = Manifest {
                session: player.session.id(),
                capabilities: player.session.capabilities(),
                shortcuts: player.session.shortcuts(),
                snapshot: &self.snapshot,
                peer,
                cause,
            };
            manifest.write(spelling, message_id, now, &mut self.random, &mut message);
            if self.queue_notice(key, &message, Priority::Urgent).is_err() {
                self.overflowed(key);
            }
        }
        self.notice = message;
    }
}
