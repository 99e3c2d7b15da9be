//! Calls to services: from a session's verdict to its backend and back, in the order of channels.

use super::http_upstream::Job;
use super::{Arrived, BLOCK_HEADROOM, Engine, Role, Source};
use crate::block::Block;
use crate::clock::Instant;
use crate::id::{ConnectionKey, EndpointId, ServiceId, SessionId};
use crate::probe::Shed;
use crate::session::calls::{
    Admission, Answered, CallId, Calls, Credit, Failed, Ready, Reply, Request, Returned, Transport,
};
use crate::snapshot::UpstreamKind;
use crate::sockets::Sockets;
use crate::upstream::trace::{CallLines, Trace};
use crate::wire::code::{ResponseCode, SessionRefusal};
use crate::wire::frame::OpCode;
use crate::wire::header::Priority;
use crate::wire::header::{ReplyTo, RequestHeader, WantsReply};
use crate::wire::meta::MetaKind;

/// A request that waits for its turn: the whole message.
#[derive(Debug)]
pub(super) struct Kept {
    what: Question,
    message: Block,
}

/// The open calls of one session.
pub(super) type OpenCalls = Calls<Kept, Block>;

/// What is asked of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) endpoint: EndpointId,
    /// `None` calls it.
    pub(super) meta: Option<MetaKind>,
}

/// What became of an attempt to end a call.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CallEnd {
    Ended,
    /// It had ended before, or its client has left.
    Late,
}

/// Whose call a backend is busy with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct CallRef {
    pub(super) client: ConnectionKey,
    pub(super) id: CallId,
}

impl<S: Sockets> Engine<S> {
    pub(super) fn call(
        &mut self,
        key: ConnectionKey,
        reply_to: ReplyTo,
        what: Question,
        wants_reply: WantsReply,
        mut arrived: Arrived<'_>,
    ) {
        let Some(service) = self.service_of(what.endpoint) else {
            self.discard(arrived);
            return self.refuse_message(key, &reply_to, SessionRefusal::BackendUnreachable);
        };
        if self.pressure.sheds_calls() {
            self.discard(arrived);
            return self.refuse_message(key, &reply_to, SessionRefusal::ShortOfMemory);
        }
        let Some(player) = self.player(key) else {
            return self.discard(arrived);
        };
        let session = player.session.id();
        if player.leaves_at != Instant::NEVER {
            self.discard(arrived);
            return self.refuse_message(key, &reply_to, SessionRefusal::Departing);
        }
        let config = &self.snapshot.services[usize::from(service.0)];
        let transport = match config.kind {
            UpstreamKind::Http => Transport::Http,
            UpstreamKind::Link { .. } => Transport::Link,
        };
        if self.upstreams.services[usize::from(service.0)].running >= config.running_max {
            self.discard(arrived);
            return self.refuse_message(key, &reply_to, SessionRefusal::ServiceBusy);
        }
        let bytes = arrived.payload.len();
        let request = Request {
            reply_to,
            service,
            transport,
            reply: match wants_reply {
                WantsReply::Yes => Reply::Wanted,
                WantsReply::No => Reply::None,
            },
            bytes,
            deadline: self.now.mono + config.call_timeout,
        };
        let link = self.link_for(&request, session);
        let credit = self.credit_on(link, key, session, bytes);
        let Some(connection) = self.table.get_mut(key) else {
            return self.discard(arrived);
        };
        let Role::Session(player) = &mut connection.role else {
            return self.discard(arrived);
        };
        let calls = player.calls.get_or_insert_with(|| self.spare_calls.pop().unwrap_or_default());
        let blocks = &mut self.blocks;
        let admission = calls.admit(request, &self.limits.session, credit, || {
            let mut message = blocks.take(bytes)?;
            message.append(arrived.bytes());
            Some(Kept { what, message })
        });
        match admission {
            Admission::Dispatch(id) => {
                let call = CallRef { client: key, id };
                self.dispatch(call, link, &request, what, arrived.bytes());
                self.discard(arrived);
            }
            Admission::Wait(_) => {
                self.copies += 1;
                self.discard(arrived);
            }
            Admission::Refused => {
                self.discard(arrived);
                self.refuse_message(key, &reply_to, SessionRefusal::CallLineFull);
                return self.put_calls_away(key);
            }
        }
        self.wake_by(key, request.deadline);
    }

    fn service_of(&self, endpoint: EndpointId) -> Option<ServiceId> {
        let service = self.snapshot.endpoints.get(usize::from(endpoint.0))?.service;
        (usize::from(service.0) < self.upstreams.services.len()).then_some(service)
    }

    /// The link that a call of `session` goes over; `None` for HTTP, and while there is none.
    fn link_for(&self, request: &Request, session: SessionId) -> Option<ConnectionKey> {
        match request.transport {
            Transport::Http => None,
            Transport::Link => self.link_of(request.service, session),
        }
    }

    /// Hands a call to its backend. `message` is the whole message of the client.
    fn dispatch(
        &mut self,
        call: CallRef,
        link: Option<ConnectionKey>,
        request: &Request,
        what: Question,
        message: &[u8],
    ) {
        let service = usize::from(request.service.0);
        let running_max = self.snapshot.services[service].running_max;
        let state = &mut self.upstreams.services[service];
        // A call that has waited may find that others have come before it.
        if state.running >= running_max {
            return self.fail_call(call, SessionRefusal::ServiceBusy);
        }
        state.running += 1;
        self.running += 1;
        let trace = self.begin_trace(call, what);
        match request.transport {
            Transport::Http => self.dispatch_http(call, request, what, trace, message),
            Transport::Link => self.dispatch_link(call, link, request, what, trace, message),
        }
    }

    fn dispatch_http(
        &mut self,
        call: CallRef,
        request: &Request,
        what: Question,
        trace: Option<Trace>,
        message: &[u8],
    ) {
        let lines = self.call_lines(trace);
        let lines = lines.as_ref().map_or("", CallLines::as_str);
        let payload = message.get(RequestHeader::LEN..).unwrap_or_default();
        let session = self.player(call.client).map(|player| player.session.id());
        let (Some(session), Some(head)) = (session, self.upstreams.head(what.endpoint)) else {
            self.service_freed(request.service);
            return self.fail_call(call, SessionRefusal::BackendUnreachable);
        };
        let body = if what.meta.is_some() { &[][..] } else { head.body(payload) };
        let head_max = head.bytes_max() + lines.len();
        let Some(mut block) = self.blocks.take(head_max + body.len()) else {
            self.service_freed(request.service);
            return self.fail_call(call, SessionRefusal::BlocksExhausted);
        };
        let room = block.reserve(head_max);
        let head_len = match what.meta {
            None => head.write_call(session, body.len(), lines, room),
            Some(kind) => head.write_meta(kind, session, lines, room),
        };
        block.truncate(head_len);
        block.append(body);
        self.copies += u64::from(!body.is_empty());
        let endpoint = &self.snapshot.endpoints[usize::from(what.endpoint.0)];
        self.place_job(Job {
            call,
            service: request.service,
            request: Some(block),
            idempotent: endpoint.idempotent || what.meta.is_some(),
            deadline: request.deadline,
            attempts: 0,
        });
    }

    /// One call less with a service's backends.
    pub(super) fn service_freed(&mut self, service: ServiceId) {
        if let Some(state) = self.upstreams.service(service) {
            state.running -= 1;
        }
        self.running -= 1;
    }

    /// A backend has answered. The payload goes to the client now, or waits for earlier answers.
    pub(super) fn answer_call(&mut self, call: CallRef, code: ResponseCode, arrived: Arrived<'_>) {
        if code != ResponseCode::Ok {
            if self.end_call(call, code) == CallEnd::Late {
                self.probe.shed(Shed::LateAnswer);
            }
            return self.discard(arrived);
        }
        let mut arrived = arrived;
        let bytes = arrived.payload.len();
        let Some(connection) = self.table.get_mut(call.client) else {
            return self.late(arrived);
        };
        let Role::Session(player) = &mut connection.role else {
            return self.late(arrived);
        };
        let Some(calls) = &mut player.calls else {
            return self.late(arrived);
        };
        let blocks = &mut self.blocks;
        let answered = calls.answered(call.id, bytes, &self.limits.session, || {
            let mut block = blocks.take(BLOCK_HEADROOM + bytes)?;
            block.reset(BLOCK_HEADROOM);
            block.append(arrived.bytes());
            Some(block)
        });
        match answered {
            Answered::Leaves(reply_to) => self.send_answer(call.client, &reply_to, arrived),
            Answered::Held => {
                self.copies += 1;
                self.discard(arrived);
            }
            Answered::Silent => self.discard(arrived),
            Answered::Displaced => {
                self.probe.shed(Shed::HeldAnswerFull);
                self.discard(arrived);
            }
            Answered::Late => return self.late(arrived),
        }
        let displaced = answered == Answered::Displaced;
        let code = if displaced { ResponseCode::BackendError } else { ResponseCode::Ok };
        self.end_span(call, Some(code));
        self.after_call(call.client);
    }

    fn late(&mut self, arrived: Arrived<'_>) {
        self.probe.shed(Shed::LateAnswer);
        self.discard(arrived);
    }

    /// Ends a call for a reason of the gateway's own. Session, connection and link each watch its
    /// deadline: whoever is first ends it and counts.
    pub(super) fn fail_call(&mut self, call: CallRef, refusal: SessionRefusal) {
        if self.end_call(call, refusal.code()) == CallEnd::Ended
            && let Some(shed) = refusal.shed()
        {
            self.probe.shed(shed);
        }
    }

    /// Ends a call with a code and no payload.
    pub(super) fn end_call(&mut self, call: CallRef, code: ResponseCode) -> CallEnd {
        let Some(calls) = self.open_calls(call.client) else {
            return CallEnd::Late;
        };
        let Some(Failed { payload, leaves }) = calls.fail(call.id, code.value()) else {
            return CallEnd::Late;
        };
        self.end_span(call, Some(code));
        if let Some(kept) = payload {
            self.blocks.give_back(kept.message);
        }
        if let Some(reply_to) = leaves {
            self.reply(call.client, &reply_to, code);
        }
        self.after_call(call.client);
        CallEnd::Ended
    }

    fn send_answer(&mut self, client: ConnectionKey, reply_to: &ReplyTo, arrived: Arrived<'_>) {
        self.probe.response(ResponseCode::Ok.value());
        let header = reply_to.header(ResponseCode::Ok).to_bytes();
        let sent = self.forward_under(client, OpCode::Binary, &header, arrived, Priority::Normal);
        if sent.is_err() {
            self.overflowed(client);
        }
    }

    /// After a call of `client` has ended: answers that waited for it, then calls that did.
    pub(super) fn after_call(&mut self, client: ConnectionKey) {
        while let Some(ready) = self.open_calls(client).and_then(Calls::pop_ready) {
            match ready {
                Ready::Answer(reply_to, block) => {
                    let payload = 0..block.len();
                    let arrived = Arrived { source: Source::Block(block), payload };
                    self.send_answer(client, &reply_to, arrived);
                }
                Ready::Failure(reply_to, code) => {
                    let code = ResponseCode::from_value(code).unwrap_or(ResponseCode::BackendError);
                    self.reply(client, &reply_to, code);
                }
            }
        }
        self.dispatch_waiting(client);
        self.put_calls_away(client);
    }

    /// Sends waiting calls that may go now.
    pub(super) fn dispatch_waiting(&mut self, client: ConnectionKey) {
        loop {
            let Some(player) = self.player(client) else { return };
            let session = player.session.id();
            let Some(mut calls) = player.calls.take_if(|calls| calls.waiting() > 0) else {
                return;
            };
            let next = calls.next_to_dispatch(&self.limits.session, |request| {
                let link = self.link_for(request, session);
                self.credit_on(link, client, session, request.bytes) == Credit::Available
            });
            match self.player(client) {
                Some(player) => player.calls = Some(calls),
                None => return,
            }
            let Some(next) = next else { return };
            let call = CallRef { client, id: next.id };
            let link = self.link_for(&next.call, session);
            self.dispatch(
                call,
                link,
                &next.call,
                next.payload.what,
                next.payload.message.as_slice(),
            );
            self.blocks.give_back(next.payload.message);
        }
    }

    fn open_calls(&mut self, client: ConnectionKey) -> Option<&mut OpenCalls> {
        self.player(client)?.calls.as_deref_mut()
    }

    /// Detaches an empty line of calls, so that a quiet session holds none.
    fn put_calls_away(&mut self, client: ConnectionKey) {
        let idle = self.open_calls(client).is_some_and(|calls| calls.is_idle());
        if idle && let Some(calls) = self.player(client).and_then(|player| player.calls.take()) {
            self.spare_calls.push(calls);
        }
    }

    /// Fails the calls of a session whose time is up.
    pub(super) fn expire_calls(&mut self, client: ConnectionKey) {
        let now: Instant = self.now.mono;
        while let Some(id) = self.open_calls(client).and_then(|calls| calls.expired(now)) {
            self.fail_call(CallRef { client, id }, SessionRefusal::CallTimedOut);
        }
    }

    /// Fails all calls of a session that is told to go.
    pub(super) fn give_up_calls(&mut self, client: ConnectionKey) {
        let end = Instant(u64::MAX);
        while let Some(id) = self.open_calls(client).and_then(|calls| calls.expired(end)) {
            self.fail_call(CallRef { client, id }, SessionRefusal::Departing);
        }
    }

    /// A session has ended: whatever its calls kept is given back. Backends finish for nobody.
    pub(super) fn abandon_calls(&mut self, client: ConnectionKey, mut calls: Box<OpenCalls>) {
        let (blocks, traces) = (&mut self.blocks, &mut self.traces);
        calls.drain(|returned| match returned {
            Returned::Request(kept) => blocks.give_back(kept.message),
            Returned::Answer(block) => blocks.give_back(block),
            Returned::Running(id) => traces.abandon(CallRef { client, id }),
        });
        self.end_abandoned_spans();
        self.spare_calls.push(calls);
    }
}
