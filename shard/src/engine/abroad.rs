//! Messages to and from sessions of other nodes. They leave and arrive through the control core,
//! which holds the links; to a session they mean the same as messages across shards.

use super::peers::Letter;
use super::sending::NotQueued;
use super::{Arrived, Engine};
use crate::id::ConnectionKey;
use crate::lane::{Abroad, Acknowledge, AnswerFromAbroad, FromAbroad, ToControl};
use crate::probe::Shed;
use crate::sockets::Sockets;
use crate::wire::code::{ResponseCode, SessionRefusal};
use crate::wire::frame::OpCode;
use crate::wire::guid::Guid;
use crate::wire::header::{Priority, ReplyTo, WantsReply};

/// What leaves for other nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Relaying {
    /// Messages to sessions of other nodes; without it they are answered 31 here.
    pub messages: bool,
    /// Broadcasts of this node's sessions.
    pub broadcasts: bool,
}

impl<S: Sockets> Engine<S> {
    /// Sends a peer message to another node, whose number its GUID names.
    pub(super) fn send_abroad(
        &mut self,
        from: ConnectionKey,
        reply_to: ReplyTo,
        letter: Letter,
        mut arrived: Arrived<'_>,
    ) {
        let message = arrived.bytes().into();
        self.copies += 1;
        self.discard(arrived);
        let acknowledge = match letter.acknowledge {
            WantsReply::Yes => Acknowledge::Always,
            WantsReply::No => Acknowledge::OnRefusal,
        };
        let abroad = Abroad {
            from,
            node: letter.route.node,
            message,
            priority: letter.priority,
            acknowledge,
        };
        let told = self.lanes.tell_control(ToControl::Abroad(Box::new(abroad)), self.now.mono);
        if told.is_err() {
            self.refuse_message(from, &reply_to, SessionRefusal::LaneFull);
        }
    }

    /// Sends a broadcast to the other nodes, once for all of them.
    pub(super) fn broadcast_abroad(&mut self, arrived: &mut Arrived<'_>, priority: Priority) {
        let message = arrived.bytes().into();
        self.copies += 1;
        let broadcast = ToControl::BroadcastAbroad { message, priority };
        if self.lanes.tell_control(broadcast, self.now.mono).is_err() {
            self.probe.shed(Shed::BroadcastLaneFull);
        }
    }

    /// Delivers a message of another node's session, and hands it back: the control core knows who
    /// waits for an answer.
    pub(super) fn take_from_abroad(&mut self, letter: Box<FromAbroad>) {
        let FromAbroad { target, priority, .. } = *letter;
        let queued = match self.player(target) {
            Some(_) => self.queue_frame(target, OpCode::Binary, &letter.message, priority),
            None => Err(NotQueued::Gone),
        };
        self.copies += 1;
        let delivered = queued.is_ok();
        match queued {
            Ok(()) => {}
            Err(NotQueued::Gone) => self.probe.shed(Shed::PeerGone),
            Err(NotQueued::Full) => self.probe.shed(Shed::PeerOutboxFull),
        }
        self.news.push(ToControl::Arrived { letter, delivered });
    }

    /// To every session of this shard. `frame` is a whole server frame.
    pub(super) fn broadcast_from_abroad(&mut self, frame: &[u8], priority: Priority) {
        self.copy_to_all(frame, None, priority);
    }

    /// The other node has delivered or refused, or will not answer any more.
    pub(super) fn abroad_answered(&mut self, answer: &AnswerFromAbroad) {
        let AnswerFromAbroad { to, reply, guid, delivered } = answer;
        if *delivered {
            self.acknowledge(*to, reply, Guid(*guid));
        } else {
            self.reply(*to, reply, ResponseCode::ClientNotFound);
        }
    }
}
