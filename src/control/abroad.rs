//! What comes from other nodes and goes there: messages of sessions, between the shards and the links,
//! and requests of services.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use corelane_shard::clock::Now;
use corelane_shard::id::{ConnectionKey, ShardId};
use corelane_shard::lane::{Abroad, FromAbroad, ToShard, WayBack};
use corelane_shard::wire::frame::{OpCode, server_header_len, write_server_header};
use corelane_shard::wire::guid::PeerRoute;
use corelane_shard::wire::header::Priority;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::bus::EventBus;
use super::nodes::{
    Heard, LinkNews, NoResponse, NotBroadcast, NotRelayed, Origin, Request, Response, Waiting,
    refused,
};
use super::port::ShardPort;
use super::store::SessionStore;
use super::turn::Core;

/// Messages of other nodes that one shard has and has not handed back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Handling {
    messages: usize,
    bytes: usize,
}

impl<P: ShardPort, S: SessionStore, B: EventBus> Core<P, S, B> {
    /// A session's message to another node.
    pub(super) fn send_abroad(&mut self, shard: ShardId, abroad: &Abroad) {
        let sent = match &mut self.nodes {
            Some(nodes) => nodes.send(shard, abroad),
            None => Err(NotRelayed::NoLink),
        };
        if let Err(why) = sent {
            self.probe.nodes.not_relayed(why);
            self.tell_senders(refused(shard, abroad.from, &abroad.message));
        }
    }

    pub(super) fn broadcast_abroad(&mut self, message: Box<[u8]>, priority: Priority) {
        if let Some(nodes) = &mut self.nodes {
            nodes.broadcast(message, priority);
        }
    }

    /// A shard has delivered or refused what came from another node.
    pub(super) fn handled_from_abroad(
        &mut self,
        shard: ShardId,
        letter: &FromAbroad,
        delivered: bool,
        now: Now,
    ) {
        if let Some(handling) = self.handling.get_mut(usize::from(shard.0)) {
            handling.messages -= 1;
            handling.bytes -= letter.message.len();
        }
        if !delivered {
            self.probe.nodes.not_relayed(NotRelayed::Undelivered);
        }
        self.answer_abroad(letter.back, &letter.message, delivered, now);
    }

    fn answer_abroad(&mut self, back: WayBack, message: &[u8], delivered: bool, now: Now) {
        if let Some(nodes) = &mut self.nodes {
            let ended = nodes.answer(back, message, delivered, now.mono);
            self.tell_senders(ended);
        }
    }

    /// Takes what a link tells.
    pub(super) fn hear_link(&mut self, news: LinkNews, now: Now) {
        let Some(nodes) = &mut self.nodes else { return };
        match nodes.hear(news, now.mono) {
            Heard::Nothing => {}
            Heard::Letter { route, message, priority, back } => {
                self.letter_from_abroad(route, &message, priority, back, now);
            }
            Heard::Broadcast { message, priority } => {
                self.broadcast_from_abroad(&message, priority);
            }
            Heard::Answers(waiting) => self.tell_senders(waiting),
            Heard::Request(origin, request) => self.requests_abroad.push((origin, request)),
            Heard::TakenUp(link, taken) => self.taken_up(link, taken),
            Heard::HandedOver { session, epoch, left } => {
                self.handed_over(session, epoch, left, now);
            }
        }
    }

    /// What services have asked other nodes of sessions of this one; each is answered by
    /// [`Self::respond_abroad`], once. Bounded by the links.
    pub(super) fn take_requests_abroad(&mut self) -> Vec<(Origin, Request)> {
        std::mem::take(&mut self.requests_abroad)
    }

    pub(super) fn respond_abroad(&mut self, origin: Origin, response: Response) {
        if let Some(nodes) = &mut self.nodes {
            nodes.respond(origin, response);
        }
    }

    /// Asks the node that has a session what a service wants of it.
    pub(super) fn ask_node(
        &mut self,
        node: Uuid,
        request: Request,
        answer: oneshot::Sender<Result<Response, NoResponse>>,
        now: Now,
    ) {
        let Some(nodes) = &mut self.nodes else {
            self.probe.nodes.no_response(NoResponse::NoLink);
            let _unheard = answer.send(Err(NoResponse::NoLink));
            return;
        };
        let mut within = REQUEST_MAX;
        if request.route.calls_backend() {
            let services = self.endpoints.snapshot().services.iter();
            within += services.map(|service| service.call_timeout).max().unwrap_or_default();
        }
        nodes.request(node, request, within, answer, now.mono);
    }

    fn letter_from_abroad(
        &mut self,
        route: PeerRoute,
        message: &Bytes,
        priority: Priority,
        back: WayBack,
        now: Now,
    ) {
        let index = usize::from(route.shard.0);
        let (Some(outlet), Some(handling)) =
            (self.outlets.get_mut(index), self.handling.get_mut(index))
        else {
            self.probe.nodes.not_relayed(NotRelayed::NotHere);
            return self.answer_abroad(back, message, false, now);
        };
        let fits = handling.messages < HANDLING_MAX
            && handling.bytes + message.len() <= HANDLING_BYTES_MAX
            && outlet.takes_orders();
        let target = ConnectionKey { slot: route.slot, generation: route.generation };
        let letter = FromAbroad { target, message: (**message).into(), priority, back };
        if fits && outlet.try_send(ToShard::FromAbroad(Box::new(letter))).is_ok() {
            handling.messages += 1;
            handling.bytes += message.len();
            return;
        }
        self.probe.nodes.not_relayed(NotRelayed::LaneFull);
        self.answer_abroad(back, message, false, now);
    }

    fn broadcast_from_abroad(&mut self, message: &Bytes, priority: Priority) {
        let header = server_header_len(message.len());
        let mut frame = vec![0; header + message.len()];
        write_server_header(&mut frame[..header], OpCode::Binary, message.len());
        frame[header..].copy_from_slice(message);
        let frame: Arc<[u8]> = frame.into();
        for outlet in &mut self.outlets {
            let frame = Arc::clone(&frame);
            if outlet.try_send(ToShard::BroadcastFromAbroad { frame, priority }).is_err() {
                self.probe.nodes.not_broadcast(NotBroadcast::LaneFull);
            }
        }
    }

    /// At once where there is room: what waits for the end of the turn keeps letters out.
    fn tell_senders(&mut self, waiting: impl IntoIterator<Item = Waiting>) {
        for Waiting { shard, answer } in waiting {
            let Some(outlet) = self.outlets.get_mut(usize::from(shard.0)) else { continue };
            if let Err(answer) = outlet.try_send(ToShard::AbroadAnswered(Box::new(answer))) {
                outlet.post(answer);
            }
        }
    }
}

/// Messages of other nodes under way to one shard; further ones are refused.
const HANDLING_MAX: usize = 1024;
/// Their bytes.
pub const HANDLING_BYTES_MAX: usize = 8 << 20;
/// For another node's answer about a session, besides the time that its backend may take.
const REQUEST_MAX: Duration = Duration::from_secs(10);
