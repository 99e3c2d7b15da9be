//! What passes over links: calls and their answers, pushes, RPCs, and the ends of sessions.

use std::time::Duration;

use crate::engine::calling::{CallEnd, CallRef, Question};
use crate::engine::sending::NotQueued;
use crate::engine::services::{Backend, LinkPlace};
use crate::engine::{Arrived, Engine, Role};
use crate::id::{ConnectionKey, SessionId};
use crate::probe::Shed;
use crate::session::calls::{Reply, Request};
use crate::session::rpc::{PendingRpc, RpcSender};
use crate::sockets::Sockets;
use crate::upstream::link::{Data, Dropped, Inbound as LinkInbound, NO_ENDPOINT, NotSent, Push};
use crate::upstream::trace::Trace;
use crate::wire::code::{ResponseCode, SessionRefusal};
use crate::wire::frame::{ControlPayload, OpCode};
use crate::wire::header::{Flags, Priority, RequestHeader, ResponseHeader};

/// How long a client may take to answer an RPC of a backend.
const RPC_TIMEOUT: Duration = Duration::from_secs(30);

impl<S: Sockets> Engine<S> {
    pub(in crate::engine) fn dispatch_link(
        &mut self,
        call: CallRef,
        link: Option<ConnectionKey>,
        request: &Request,
        what: Question,
        trace: Option<Trace>,
        message: &[u8],
    ) {
        if self.player(call.client).is_none() {
            self.end_span(call, None);
            return self.service_freed(request.service);
        }
        let sent = link.and_then(|key| {
            self.with_link_for(key, call.client, |link, client, out| {
                let endpoint = link.endpoint(what.endpoint).unwrap_or(NO_ENDPOINT);
                let data = Data { endpoint, trace, frame: [message, &[]] };
                match request.reply {
                    Reply::Wanted => link.call(client, data, call, request.deadline, out),
                    Reply::None => link.post(client, data, out),
                }
            })
        });
        self.copies += 1;
        match sent {
            Some(Ok(())) if request.reply == Reply::Wanted => {
                if let Some(key) = link {
                    self.wake_by(key, request.deadline);
                }
            }
            Some(Ok(())) => {
                // Nobody will answer: its place in the line is free again.
                self.service_freed(request.service);
                let _its_client_is_here = self.end_call(call, ResponseCode::Ok);
            }
            Some(Err(why)) => {
                self.service_freed(request.service);
                self.fail_call(
                    call,
                    match why {
                        NotSent::NotOpen | NotSent::GoingAway => SessionRefusal::BackendUnreachable,
                        NotSent::NoCredit => SessionRefusal::CallLineFull,
                        NotSent::NoTag | NotSent::NoRoom => SessionRefusal::ServiceBusy,
                    },
                );
            }
            None => {
                self.service_freed(request.service);
                self.fail_call(call, SessionRefusal::BackendUnreachable);
            }
        }
    }

    /// One whole message from a backend.
    pub(in crate::engine) fn link_message(&mut self, key: ConnectionKey, mut arrived: Arrived<'_>) {
        let Some(connection) = self.table.get_mut(key) else {
            return self.discard(arrived);
        };
        let Role::Link(link) = &mut connection.role else {
            return self.discard(arrived);
        };
        let service = link.service;
        let start = arrived.payload.start;
        match link.link.receive(arrived.bytes()) {
            Ok(LinkInbound::Answer { call, code, frame }) => {
                self.service_freed(service);
                // The header is made anew from the request: a backend cannot misaddress it.
                arrived.payload = start + frame.start + ResponseHeader::LEN..start + frame.end;
                let code = ResponseCode::from_value(code).unwrap_or(ResponseCode::BackendError);
                self.answer_call(call, code, arrived);
            }
            Ok(LinkInbound::BadAnswer { call }) => {
                self.service_freed(service);
                self.discard(arrived);
                if self.end_call(call, ResponseCode::BackendError) == CallEnd::Late {
                    self.probe.shed(Shed::LateAnswer);
                }
            }
            Ok(LinkInbound::Push { owner, session, kind, frame }) => {
                arrived.payload = start + frame.start..start + frame.end;
                self.push(key, owner, session, kind, arrived);
            }
            Ok(LinkInbound::Ready) => {
                self.discard(arrived);
                self.link_ready(key);
            }
            Ok(LinkInbound::Credit { owner }) => {
                self.discard(arrived);
                self.dispatch_waiting(owner);
            }
            Ok(LinkInbound::Forgotten { .. }) => self.discard(arrived),
            Ok(LinkInbound::GoAway { .. }) => {
                self.discard(arrived);
                self.replace_link(key);
            }
            Ok(LinkInbound::Dropped(why)) => {
                self.discard(arrived);
                self.probe.shed(match why {
                    Dropped::UnknownTag => Shed::UnknownTag,
                    Dropped::UnknownSession
                    | Dropped::PushWithoutCredit
                    | Dropped::MalformedPush
                    | Dropped::Closed => Shed::PushWithoutSession,
                });
            }
            Err(error) => {
                self.discard(arrived);
                self.link_broken(key, error);
            }
        }
    }

    /// Something a backend sends to a client unasked.
    fn push(
        &mut self,
        key: ConnectionKey,
        owner: ConnectionKey,
        session: SessionId,
        kind: Push,
        mut arrived: Arrived<'_>,
    ) {
        let bytes = arrived.payload.len();
        let header = RequestHeader::parse(arrived.bytes());
        let urgent = header.is_ok_and(|header| header.flags.contains(Flags::PRIORITY));
        let priority = if urgent { Priority::Urgent } else { Priority::Normal };
        let now = self.now.mono;
        let expected = match (kind, header) {
            (Push::Rpc, Ok(header)) => {
                let expires = now + RPC_TIMEOUT;
                let sender = RpcSender::Link(key);
                let rpc = PendingRpc { message_id: header.message_id, sender, expires };
                self.register_rpc(owner, rpc)
            }
            (Push::Event, Ok(_)) => true,
            (_, Err(_)) => false,
        };
        if !expected {
            self.discard(arrived);
            self.probe.shed(Shed::PushWithoutSession);
        } else {
            match self.forward(owner, OpCode::Binary, arrived, priority) {
                Ok(()) => {}
                Err(NotQueued::Gone) => self.probe.shed(Shed::PushWithoutSession),
                Err(NotQueued::Full) => self.overflowed(owner),
            }
        }
        self.with_link(key, |link, out| link.handled(session, bytes, out));
    }

    /// A client has answered an RPC of the backend at `link`: passed on, if the link still stands.
    pub(in crate::engine) fn answer_link_rpc(
        &mut self,
        client: ConnectionKey,
        link: ConnectionKey,
        mut arrived: Arrived<'_>,
    ) {
        let frame: &[u8] = arrived.bytes();
        self.post_rpc_answer(client, link, frame);
        self.copies += 1;
        self.discard(arrived);
    }

    /// No answer will come to an RPC of the backend at `link`: it is told so with 60.
    pub(in crate::engine) fn link_rpc_failed(
        &mut self,
        client: ConnectionKey,
        link: ConnectionKey,
        message_id: u64,
    ) {
        let code = ResponseCode::BackendError.value();
        let answer =
            ResponseHeader { flags: Flags::RESPONSE, channel: 0, sequence: 0, message_id, code };
        self.post_rpc_answer(client, link, &answer.to_bytes());
    }

    fn post_rpc_answer(&mut self, client: ConnectionKey, link: ConnectionKey, frame: &[u8]) {
        if self.player(client).is_none() {
            return;
        }
        let data = Data { endpoint: NO_ENDPOINT, trace: None, frame: [frame, &[]] };
        let sent =
            self.with_link_for(link, client, |link, client, out| link.post(client, data, out));
        if !matches!(sent, Some(Ok(()))) {
            self.probe.shed(Shed::UnmatchedAnswer);
        }
    }

    pub(in crate::engine) fn link_ping(&mut self, key: ConnectionKey, payload: &ControlPayload) {
        // A backend that pings faster than it reads gets no answer: it is then found silent.
        let _answered = self.with_link(key, |link, out| link.pong(payload.as_slice(), out));
    }

    /// Tells the backends that a client has gone.
    pub(in crate::engine) fn end_on_links(&mut self, session: SessionId, owner: ConnectionKey) {
        for backend in 0..self.upstreams.backends.len() {
            for at in 0.. {
                let Backend { links, retired, .. } = &self.upstreams.backends[backend];
                let key = match links.get(at) {
                    Some(LinkPlace { key: Some(key), .. }) => *key,
                    Some(LinkPlace { key: None, .. }) => continue,
                    None => match retired.get(at - links.len()) {
                        Some(key) => *key,
                        None => break,
                    },
                };
                // Without room the backend learns of it when its next push is refused.
                let _told = self.with_link(key, |link, out| {
                    link.end_session(session, owner, "client gone", out)
                });
            }
        }
    }
}
