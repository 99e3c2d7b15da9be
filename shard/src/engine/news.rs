//! What the control core must hear of: the beginnings and ends of sessions, and what clients have
//! received. It waits here for room on the lane, so nothing of it is lost; each session owes a few
//! messages at most.

use std::collections::VecDeque;
use std::time::Duration;

use super::Engine;
use crate::clock::Instant;
use crate::id::{ConnectionKey, Epoch, SessionId};
use crate::lane::ToControl;
use crate::session::receipts::Confirmed;
use crate::sockets::Sockets;

/// While the lane is full nobody says when there is room.
const FULL_LANE_RETRY: Duration = Duration::from_millis(1);

/// What was not told yet.
#[derive(Debug, Default)]
pub(super) struct News {
    waiting: VecDeque<ToControl>,
    /// Sessions whose receipts have grown; each is here once.
    received: VecDeque<ConnectionKey>,
}

impl News {
    pub(super) fn push(&mut self, message: ToControl) {
        self.waiting.push_back(message);
    }

    pub(super) fn has_received(&mut self, key: ConnectionKey) {
        self.received.push_back(key);
    }

    pub(super) fn push_confirmed(
        &mut self,
        session: SessionId,
        epoch: Epoch,
        confirmed: Confirmed,
    ) {
        if let Some(place) = confirmed.place {
            self.push(ToControl::Received { session, epoch, place });
        }
        if confirmed.token {
            self.push(ToControl::TokenReceived { session, epoch });
        }
    }

    #[cfg(all(test, feature = "runtime"))]
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.received.is_empty()
    }
}

impl<S: Sockets> Engine<S> {
    /// Tells the control core as much as there is room for.
    pub(super) fn send_news(&mut self) {
        if self.news.is_empty() {
            return;
        }
        while let Some(key) = self.news.received.pop_front() {
            self.report_received(key);
        }
        while let Some(message) = self.news.waiting.pop_front() {
            if let Err(message) = self.lanes.tell_control(message, self.now.mono) {
                self.news.waiting.push_front(message);
                return;
            }
        }
    }

    /// When what is left of the news is to be tried again.
    pub(super) fn news_retry(&self) -> Option<Instant> {
        (!self.news.is_empty()).then_some(self.now.mono + FULL_LANE_RETRY)
    }

    /// Puts what a session has confirmed since the last time among the news.
    fn report_received(&mut self, key: ConnectionKey) {
        let Some(player) = self.player(key) else { return };
        let Some(receipts) = &mut player.receipts else { return };
        let confirmed = receipts.take_confirmed();
        if receipts.is_spent() {
            player.receipts = None;
        }
        let (session, epoch) = (player.session.id(), player.epoch);
        self.news.push_confirmed(session, epoch, confirmed);
    }
}
