//! A link from dialling to its end: upgrade, hello, time-outs, replacement.

use super::{LinkConnection, Stage};
use crate::buffers::Received;
use crate::engine::connection::{Connection, Fin, Receiving};
use crate::engine::services::BackendId;
use crate::engine::{Engine, Role};
use crate::id::ConnectionKey;
use crate::snapshot::UpstreamKind;
use crate::sockets::{Socket, Sockets};
use crate::upstream::link::{
    Announcement, Gateway, Link, LinkError, LinkLimits, RESPONSE_BYTES_MAX, Window,
    parse_upgrade_response, write_upgrade_request,
};
use crate::wire::close::CloseCode;
use crate::wire::code::SessionRefusal;

/// What a backend may push to one session before it gets credit back.
const PUSH_WINDOW: Window = Window { messages: 32, bytes: 64 << 10 };

/// Room for an upgrade request with the longest host, path and token that the configuration takes.
const UPGRADE_BYTES_MAX: usize = 16 << 10;

impl<S: Sockets> Engine<S> {
    pub(in crate::engine) fn dial_link(&mut self, backend: BackendId, place: usize) {
        // One that was to be tried again comes due whatever the shard is about to do.
        if self.drain.is_ending() {
            return;
        }
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

    pub(in crate::engine) fn link_opened(&mut self, key: ConnectionKey, socket: Option<Socket>) {
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

    pub(in crate::engine) fn link_connected(
        &mut self,
        key: ConnectionKey,
        outcome: Result<(), i32>,
    ) {
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
    pub(in crate::engine) fn read_upgrade(
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
    pub(in crate::engine) fn announce_endpoints(&mut self) {
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

    /// Both hellos were said: sessions that waited for this service may call.
    pub(super) fn link_ready(&mut self, key: ConnectionKey) {
        if let Some(Role::Link(link)) = self.table.get(key).map(|c| &c.role) {
            let backend = &mut self.upstreams.backends[link.backend.0];
            let at = &mut backend.links[link.place];
            at.failures = 0;
            if at.successor == Some(key) {
                at.successor = None;
                backend.retired.extend(at.key.replace(key));
            }
        }
        for slot in self.slots() {
            let Some(client) = self.session_in(slot) else { continue };
            self.dispatch_waiting(client);
        }
        self.set_deadline(key);
    }

    pub(in crate::engine) fn link_deadline(&mut self, key: ConnectionKey) {
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

    pub(super) fn link_broken(&mut self, key: ConnectionKey, error: LinkError) {
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
    pub(in crate::engine) fn link_misframed(&mut self, key: ConnectionKey, code: CloseCode) {
        let reason = code.reason();
        let _said = self.with_link(key, |link, out| link.close(code.code(), reason, out));
        self.end_role(key, code.code(), "link frames broken");
        self.start_leaving(key, Fin::Flushed);
    }

    /// The backend has sent a close frame: it is answered as a client answers, masked.
    pub(in crate::engine) fn link_closed(&mut self, key: ConnectionKey, code: Option<u16>) {
        let code = code.unwrap_or(1000);
        let _said = self.with_link(key, |link, out| link.close(code, "", out));
        self.end_role(key, code, "closed by backend");
        self.start_leaving(key, Fin::Flushed);
    }

    /// The backend takes no new sessions here: a fresh link is dialled and takes this one's place
    /// once it is ready. What runs here goes on until the backend closes.
    pub(super) fn replace_link(&mut self, key: ConnectionKey) {
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
    pub(in crate::engine) fn retire_link(&mut self, key: ConnectionKey) {
        let within = self.limits.session.close_timeout;
        let _said = self.with_link(key, |link, out| link.go_away(within, out));
        self.end_role(key, 1001, "address dropped");
        self.start_leaving(key, Fin::Flushed);
    }

    /// The link is over: its calls are answered 60, its sessions open elsewhere.
    pub(in crate::engine) fn link_over(&mut self, mut link: LinkConnection, key: ConnectionKey) {
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
}
