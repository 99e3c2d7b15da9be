//! Links: long-lived connections to backends that carry the calls of many sessions. The protocol
//! is `upstream::link`; here it meets sockets and sessions.

use super::calling::{CallEnd, CallRef, Question};
use super::connection::{Connection, Fin, Phase, Receiving};
use super::sending::NotQueued;
use super::services::{Backend, BackendId, LinkPlace};
use super::{Arrived, Engine, Role};
use crate::block::Block;
use crate::buffers::Received;
use crate::clock::Instant;
use crate::id::{ConnectionKey, ServiceId, SessionId};
use crate::outbox::{Memory, Outbox, OutboxLimits};
use crate::probe::Shed;
use crate::session::calls::{Reply, Request};
use crate::session::rpc::RpcTicket;
use crate::snapshot::UpstreamKind;
use crate::sockets::{Socket, Sockets};
use crate::upstream::link::{
    Announcement, Client, Data, Dropped, Gateway, Inbound as LinkInbound, Link, LinkError,
    LinkLimits, LinkState, NO_ENDPOINT, NotSent, Push, RESPONSE_BYTES_MAX, SendBuffer, Window,
    parse_upgrade_response, write_upgrade_request,
};
use crate::wire::close::CloseCode;
use crate::wire::code::{ResponseCode, SessionRefusal};
use crate::wire::frame::{ControlPayload, OpCode};
use crate::wire::header::{Flags, Priority, RequestHeader, ResponseHeader};

/// What a backend may push to one session before it gets credit back.
const PUSH_WINDOW: Window = Window { messages: 32, bytes: 64 << 10 };

/// How long a client may take to answer an RPC of a backend.
const RPC_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);

/// One link of this shard.
#[derive(Debug)]
pub(super) struct LinkConnection {
    backend: BackendId,
    /// Which of the backend's links this is.
    place: usize,
    service: ServiceId,
    nonce: [u8; 16],
    stage: Stage,
    link: Link<CallRef>,
}

#[derive(Debug)]
enum Stage {
    /// The upgrade response, as far as it has come.
    Upgrading {
        carry: Option<Block>,
    },
    Frames,
}

impl LinkConnection {
    pub(super) fn until(&self) -> Option<Instant> {
        self.link.next_deadline()
    }
}

/// Where a link's frames are written: straight into its connection's outbox.
struct OutboxBuffer<'a> {
    outbox: &'a mut Outbox,
    limits: OutboxLimits,
    memory: Memory<'a>,
}

impl SendBuffer for OutboxBuffer<'_> {
    fn room(&self) -> usize {
        let own = self.limits.bytes_max.saturating_sub(self.outbox.bytes());
        own.min(self.memory.blocks.certain())
    }

    fn reserve(&mut self, len: usize) -> &mut [u8] {
        self.outbox
            .reserve(len, Priority::Normal, self.limits, &mut self.memory)
            .expect("no more is reserved than there was room for")
    }
}

impl<S: Sockets> Engine<S> {
    pub(super) fn dial_link(&mut self, backend: BackendId, place: usize) {
        let Some(entry) = self.upstreams.backend(backend) else {
            return;
        };
        let service = entry.service;
        let config = &self.snapshot.services[usize::from(service.0)];
        let limits = LinkLimits {
            dial_timeout: config.connect_timeout,
            ping_interval: self.limits.session.ping_interval,
            pong_timeout: self.limits.session.pong_timeout,
            window: PUSH_WINDOW,
            calls_max: config.running_max,
        };
        let mut link = Link::new(limits, self.random.u64(..), self.now.mono);
        link.adopt(&self.snapshot, service);
        let nonce = self.random.u128(..).to_be_bytes();
        let stage = Stage::Upgrading { carry: None };
        let role = LinkConnection { backend, place, service, nonce, stage, link };
        let connection = Connection::new(None, Role::Link(Box::new(role)), self.now.mono);
        let Ok(key) = self.table.insert(connection, self.now.mono) else {
            return self.redial_later(backend, place);
        };
        let entry = &mut self.upstreams.backends[backend.0];
        entry.connections += 1;
        match &mut entry.links[place] {
            // The old link goes on until this one is ready.
            at if at.key.is_some() => at.successor = Some(key),
            at => at.key = Some(key),
        }
        let address = entry.address.clone();
        self.count_upstreams();
        self.sockets.open(key, &address);
        self.set_deadline(key);
    }

    pub(super) fn link_opened(&mut self, key: ConnectionKey, socket: Option<Socket>) {
        let Some(socket) = socket else {
            return self.lost(key, "no socket");
        };
        let Some(connection) = self.table.get_mut(key) else {
            return;
        };
        let Role::Link(link) = &connection.role else {
            return;
        };
        connection.socket = Some(socket);
        let address = self.upstreams.backends[link.backend.0].address.clone();
        self.sockets.connect(socket, key, &address);
    }

    pub(super) fn link_connected(&mut self, key: ConnectionKey, outcome: Result<(), i32>) {
        if outcome.is_err() {
            return self.lost(key, "connect failed");
        }
        let Some(connection) = self.table.get_mut(key) else {
            return;
        };
        let (Role::Link(link), Some(socket)) = (&mut connection.role, connection.socket) else {
            return;
        };
        connection.receiving = Receiving::Armed;
        self.sockets.receive(socket, key);
        link.link.connected();
        let config = &self.snapshot.services[usize::from(link.service.0)];
        let UpstreamKind::Link { path, token } = &config.kind else {
            return;
        };
        let mut request = Vec::with_capacity(UPGRADE_BYTES_MAX);
        write_upgrade_request(&config.host, path, token.as_deref(), link.nonce, &mut request);
        if self.queue_raw(key, &request).is_err() {
            self.lost(key, "upgrade request could not be sent");
        }
    }

    /// Bytes from a link before its frames: the answer to the upgrade. Returns where the first
    /// frame may begin.
    pub(super) fn read_upgrade(
        &mut self,
        key: ConnectionKey,
        received: &mut Received,
    ) -> Option<usize> {
        let now = self.now.mono;
        let connection = self.table.get_mut(key)?;
        let Role::Link(link) = &mut connection.role else {
            return None;
        };
        link.link.heard();
        let Stage::Upgrading { carry } = &mut link.stage else {
            return Some(0);
        };
        let bytes = received.from(0);
        let mut block = match carry.take() {
            Some(block) => block,
            None => self.blocks.take(RESPONSE_BYTES_MAX + bytes.len())?,
        };
        // One buffer more than the longest response always fits: longer ones are refused first.
        let before = block.len();
        let fits = block.room() >= bytes.len();
        if fits {
            block.append(bytes);
        }
        match parse_upgrade_response(block.as_slice(), link.nonce) {
            Ok(Some(len)) if fits => {
                self.blocks.give_back(block);
                link.stage = Stage::Frames;
                link.link.upgraded(now);
                self.say_hello(key);
                Some(len.saturating_sub(before))
            }
            Ok(None) if fits => {
                *carry = Some(block);
                None
            }
            Ok(_) | Err(_) => {
                self.blocks.give_back(block);
                self.probe.parse_errors.increment();
                self.lost(key, "upgrade refused by the backend");
                None
            }
        }
    }

    fn say_hello(&mut self, key: ConnectionKey) {
        let node = self.options.node_name.clone();
        let shard = self.options.shard;
        let service = match self.table.get(key).map(|connection| &connection.role) {
            Some(Role::Link(link)) => link.service,
            _ => return,
        };
        let name = self.snapshot.services[usize::from(service.0)].name.clone();
        let gateway = Gateway { service: &name, node: &node, shard };
        let said = self.with_link(key, |link, out| link.write_hello(gateway, out));
        if said.is_none_or(|said| said.is_err()) {
            self.lost(key, "hello could not be sent");
        }
        self.set_deadline(key);
    }

    /// The configuration has changed: links whose list of endpoints has grown say hello again.
    pub(super) fn announce_endpoints(&mut self) {
        let keys: Vec<_> = self
            .upstreams
            .backends
            .iter()
            .flat_map(|backend| backend.links.iter().filter_map(|place| place.key))
            .collect();
        for key in keys {
            let Some(connection) = self.table.get_mut(key) else { continue };
            let Role::Link(link) = &mut connection.role else { continue };
            let grown = link.link.adopt(&self.snapshot, link.service) == Announcement::Needed;
            if grown && matches!(link.stage, Stage::Frames) {
                self.say_hello(key);
            }
        }
    }

    /// Runs `act` on a link and its outbox, and sends what it wrote.
    fn with_link<T>(
        &mut self,
        key: ConnectionKey,
        act: impl FnOnce(&mut Link<CallRef>, &mut OutboxBuffer<'_>) -> T,
    ) -> Option<T> {
        let connection = self.table.get_mut(key)?;
        if connection.phase != Phase::Open {
            return None;
        }
        let Role::Link(link) = &mut connection.role else {
            return None;
        };
        let outbox =
            connection.outbox.get_or_insert_with(|| self.outboxes.pop().unwrap_or_default());
        let memory = Memory {
            blocks: &mut self.blocks,
            buffers: &mut self.buffers,
            copies: &mut self.copies,
        };
        let mut out = OutboxBuffer { outbox, limits: self.limits.link_outbox, memory };
        let outcome = act(&mut link.link, &mut out);
        if !connection.dirty {
            connection.dirty = true;
            self.dirty.push(key);
        }
        Some(outcome)
    }

    /// Takes calls of `session`: is open, or goes away and has that session open still.
    pub(super) fn link_is_usable(&self, key: ConnectionKey, session: SessionId) -> bool {
        let Some(connection) = self.table.get(key) else {
            return false;
        };
        let Role::Link(link) = &connection.role else {
            return false;
        };
        connection.phase == Phase::Open
            && match link.link.state() {
                LinkState::Open => true,
                LinkState::GoingAway => link.link.carries(session),
                _ => false,
            }
    }

    pub(super) fn link_has_credit(&self, client: ConnectionKey, request: &Request) -> bool {
        let Some(Role::Session(player)) = self.table.get(client).map(|c| &c.role) else {
            return true;
        };
        let session = player.session.id();
        // Without a link nothing waits: the call is sent on its way and answered 60.
        let Some(key) = self.link_of(request.service, session) else {
            return true;
        };
        match self.table.get(key).map(|connection| &connection.role) {
            Some(Role::Link(link)) => link.link.has_credit(session, client, request.bytes),
            _ => true,
        }
    }

    pub(super) fn dispatch_link(
        &mut self,
        call: CallRef,
        request: &Request,
        what: Question,
        message: &[u8],
    ) {
        let client = self.table.get(call.client).and_then(|connection| match &connection.role {
            Role::Session(player) => {
                Some((std::rc::Rc::clone(player.session.identity()), connection.peer))
            }
            _ => None,
        });
        let Some((identity, peer)) = client else {
            return self.service_freed(request.service);
        };
        let link = self.link_of(request.service, identity.session);
        let sent = link.and_then(|key| {
            let client = Client { owner: call.client, identity: &identity, peer };
            self.with_link(key, |link, out| {
                let endpoint = link.endpoint(what.endpoint).unwrap_or(NO_ENDPOINT);
                let data = Data { endpoint, trace: None, frame: [message, &[]] };
                match request.reply {
                    Reply::Wanted => link.call(&client, data, call, request.deadline, out),
                    Reply::None => link.post(&client, data, out),
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
    pub(super) fn link_message(&mut self, key: ConnectionKey, mut arrived: Arrived<'_>) {
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

    /// Both hellos were said: sessions that waited for this service may call.
    fn link_ready(&mut self, key: ConnectionKey) {
        if let Some(Role::Link(link)) = self.table.get(key).map(|c| &c.role) {
            let backend = &mut self.upstreams.backends[link.backend.0];
            let at = &mut backend.links[link.place];
            at.failures = 0;
            if at.successor == Some(key) {
                at.successor = None;
                backend.retired.extend(at.key.replace(key));
            }
        }
        for index in 0..self.players.len() {
            let client = self.players[index];
            self.dispatch_waiting(client);
        }
        self.set_deadline(key);
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
            (Push::Rpc, Ok(header)) => self.player(owner).is_some_and(|player| {
                let ticket = rpc_ticket(key);
                let rpcs = player.session.rpcs_mut();
                rpcs.register(header.message_id, ticket, now + RPC_TIMEOUT, now).is_ok()
            }),
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

    /// A client has answered an RPC of a backend: passed on, if the link still stands.
    pub(super) fn answer_rpc(
        &mut self,
        client: ConnectionKey,
        ticket: RpcTicket,
        mut arrived: Arrived<'_>,
    ) {
        let key = rpc_link(ticket);
        if let Some(connection) = self.table.get(client)
            && let Role::Session(player) = &connection.role
        {
            let identity = std::rc::Rc::clone(player.session.identity());
            let peer = connection.peer;
            let client = Client { owner: client, identity: &identity, peer };
            let frame: &[u8] = arrived.bytes();
            let data = Data { endpoint: NO_ENDPOINT, trace: None, frame: [frame, &[]] };
            let sent = self.with_link(key, |link, out| link.post(&client, data, out));
            self.copies += 1;
            if !matches!(sent, Some(Ok(()))) {
                self.probe.shed(Shed::UnmatchedAnswer);
            }
        }
        self.discard(arrived);
    }

    pub(super) fn link_ping(&mut self, key: ConnectionKey, payload: &ControlPayload) {
        // A backend that pings faster than it reads gets no answer: it is then found silent.
        let _answered = self.with_link(key, |link, out| link.pong(payload.as_slice(), out));
    }

    pub(super) fn link_deadline(&mut self, key: ConnectionKey) {
        let now = self.now.mono;
        while let Some(Role::Link(link)) = self.table.get_mut(key).map(|c| &mut c.role) {
            let service = link.service;
            let Some(call) = link.link.expire(now) else {
                break;
            };
            self.service_freed(service);
            self.fail_call(call, SessionRefusal::CallTimedOut);
        }
        if let Some(Err(error)) = self.with_link(key, |link, out| link.on_timer(now, out)) {
            self.link_broken(key, error);
        }
    }

    fn link_broken(&mut self, key: ConnectionKey, error: LinkError) {
        self.probe.parse_errors.increment();
        if let Some(code) = error.close_code() {
            let _said = self.with_link(key, |link, out| link.close(code, "protocol error", out));
            self.end_role(key, code, "link protocol error");
            self.start_leaving(key, Fin::Flushed);
        } else {
            self.lost(key, "link failed");
        }
    }

    /// The backend's frames break RFC 6455, or one is too long.
    pub(super) fn link_misframed(&mut self, key: ConnectionKey, code: CloseCode) {
        let reason = code.reason();
        let _said = self.with_link(key, |link, out| link.close(code.code(), reason, out));
        self.end_role(key, code.code(), "link frames broken");
        self.start_leaving(key, Fin::Flushed);
    }

    /// The backend takes no new sessions here: a fresh link is dialled and takes this one's place
    /// once it is ready. What runs here goes on until the backend closes.
    fn replace_link(&mut self, key: ConnectionKey) {
        let Some(Role::Link(link)) = self.table.get(key).map(|c| &c.role) else {
            return;
        };
        let (backend, place) = (link.backend, link.place);
        let at = &self.upstreams.backends[backend.0].links[place];
        if at.key == Some(key) && at.successor.is_none() && at.dial_at.is_none() {
            self.dial_link(backend, place);
        }
    }

    /// The address of a link is gone from the configuration.
    pub(super) fn retire_link(&mut self, key: ConnectionKey) {
        let within = self.limits.session.close_timeout;
        let _said = self.with_link(key, |link, out| link.go_away(within, out));
        self.end_role(key, 1001, "address dropped");
        self.start_leaving(key, Fin::Flushed);
    }

    /// The link is over: its calls are answered 60, its sessions open elsewhere.
    pub(super) fn link_over(&mut self, mut link: LinkConnection, key: ConnectionKey) {
        if let Stage::Upgrading { carry } = &mut link.stage {
            let carry = carry.take();
            self.blocks_back(carry);
        }
        let entry = &mut self.upstreams.backends[link.backend.0];
        entry.connections -= 1;
        entry.retired.retain(|retired| *retired != key);
        let at = &mut entry.links[link.place];
        if at.successor == Some(key) {
            // Tried again while the old link lasts, and after it.
            at.successor = None;
            self.redial_later(link.backend, link.place);
        } else if at.key == Some(key) {
            at.key = at.successor.take();
            if at.key.is_none() {
                self.redial_later(link.backend, link.place);
            }
        }
        self.count_upstreams();
        while let Some(call) = link.link.pop_lost() {
            self.service_freed(link.service);
            self.fail_call(call, SessionRefusal::BackendUnreachable);
        }
    }

    /// Tells the backends that a client has gone.
    pub(super) fn end_on_links(&mut self, session: SessionId, owner: ConnectionKey) {
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

/// Room for an upgrade request with the longest host, path and token that the configuration takes.
const UPGRADE_BYTES_MAX: usize = 16 << 10;

fn rpc_ticket(link: ConnectionKey) -> RpcTicket {
    RpcTicket(u64::from(link.slot.0) << 32 | u64::from(link.generation.0))
}

fn rpc_link(ticket: RpcTicket) -> ConnectionKey {
    ConnectionKey {
        slot: crate::id::Slot((ticket.0 >> 32) as u32),
        generation: crate::id::Generation(ticket.0 as u32),
    }
}
