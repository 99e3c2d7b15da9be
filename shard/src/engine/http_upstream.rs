//! HTTP/1.1 calls: a pool of kept connections per address, one call at a time on each.

use super::calling::CallRef;
use super::connection::{Connection, Phase, Receiving};
use super::services::BackendId;
use super::{Arrived, Engine, Role, Source};
use crate::block::Block;
use crate::buffers::Received;
use crate::clock::Instant;
use crate::id::{ConnectionKey, ServiceId};
use crate::probe::Shed;
use crate::sockets::{Socket, Sockets};
use crate::upstream::breaker::Pass;
use crate::upstream::http::{Body, Eof, HttpError, Progress, ResponseReader, Reuse};
use crate::upstream::placement::least_in_flight;
use crate::wire::code::{ResponseCode, SessionRefusal};
use crate::wire::header::Priority;

/// Connections tried for one call: the first, and once more where a retry is allowed.
const ATTEMPTS_MAX: u8 = 2;

/// One call on its way through a connection, or waiting for one.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) call: CallRef,
    pub(super) service: ServiceId,
    /// The whole request. Kept only while it may still be sent (again).
    pub(super) request: Option<Block>,
    pub(super) idempotent: bool,
    pub(super) deadline: Instant,
    pub(super) attempts: u8,
}

/// One connection to an HTTP backend.
#[derive(Debug)]
pub(super) struct HttpConnection {
    backend: BackendId,
    service: ServiceId,
    reader: ResponseReader,
    state: HttpState,
    /// When what it is doing must be over: connecting, the call, or being idle.
    until: Instant,
}

#[derive(Debug)]
enum HttpState {
    Connecting { job: Job, pass: Pass },
    Busy { job: Job, pass: Pass, used_before: UsedBefore },
    Idle,
}

/// Whether a connection has carried a call before: only then may its end be a race with the
/// backend's idle time-out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UsedBefore {
    No,
    Yes,
}

impl HttpConnection {
    pub(super) fn until(&self) -> Instant {
        self.until
    }
}

impl<S: Sockets> Engine<S> {
    /// Finds a connection for a call, or makes one, or lets it wait for one.
    pub(super) fn place_job(&mut self, job: Job) -> Placed {
        let now = self.now.mono;
        if now >= job.deadline {
            return self.refuse_job(job, SessionRefusal::CallTimedOut);
        }
        if self.drain.is_ending() {
            return self.refuse_job(job, SessionRefusal::Departing);
        }
        let Some(config) = self.snapshot.services.get(usize::from(job.service.0)) else {
            return self.refuse_job(job, SessionRefusal::BackendUnreachable);
        };
        let (breaker_limits, connections_max) = (&config.breaker, config.connections_max);
        let upstreams = &mut self.upstreams;
        let state = &mut upstreams.services[usize::from(job.service.0)];
        if state.backends.is_empty() {
            return self.refuse_job(job, SessionRefusal::BackendUnreachable);
        }
        let full = state.connections >= connections_max;
        let loads = state.backends.iter().map(|id| {
            let backend = &upstreams.backends[id.0];
            let open = backend.breaker.admits(now, breaker_limits);
            let reachable = !full || !backend.idle.is_empty();
            (open && reachable).then_some(backend.in_flight)
        });
        let Some(at) = least_in_flight(loads, state.turn) else {
            let any_open = state
                .backends
                .iter()
                .any(|id| upstreams.backends[id.0].breaker.admits(now, breaker_limits));
            if any_open {
                state.queue.push_back(job);
                return Placed::Yes;
            }
            return self.refuse_job(job, SessionRefusal::BreakerOpen);
        };
        state.turn = at + 1;
        let id = state.backends[at];
        let backend = &mut upstreams.backends[id.0];
        let Some(pass) = backend.breaker.admit(now, breaker_limits) else {
            return self.refuse_job(job, SessionRefusal::BreakerOpen);
        };
        backend.in_flight += 1;
        match backend.idle.pop() {
            Some(key) => {
                self.start_job(key, job, pass, UsedBefore::Yes);
                Placed::Yes
            }
            None => self.dial_http(id, job, pass),
        }
    }

    fn refuse_job(&mut self, job: Job, refusal: SessionRefusal) -> Placed {
        self.job_failed(job, refusal);
        Placed::No
    }

    fn dial_http(&mut self, id: BackendId, job: Job, pass: Pass) -> Placed {
        let service = job.service;
        let config = &self.snapshot.services[usize::from(service.0)];
        let until = (self.now.mono + config.connect_timeout).min(job.deadline);
        let http = HttpConnection {
            backend: id,
            service,
            reader: ResponseReader::new(),
            state: HttpState::Connecting { job, pass },
            until,
        };
        let connection = Connection::new(None, Role::Http(Box::new(http)), self.now.mono);
        let address = self.upstreams.backends[id.0].address.clone();
        match self.table.insert(connection, self.now.mono) {
            Ok(key) => {
                self.upstreams.backends[id.0].connections += 1;
                self.upstreams.services[usize::from(service.0)].connections += 1;
                self.count_upstreams();
                self.sockets.open(key, &address);
                self.set_deadline(key);
                Placed::Yes
            }
            Err(connection) => {
                let Role::Http(http) = connection.role else {
                    return Placed::No;
                };
                if let HttpState::Connecting { job, pass } = http.state {
                    self.end_pass(id, pass, Health::Unknown);
                    self.job_failed(job, SessionRefusal::ServiceBusy);
                }
                Placed::No
            }
        }
    }

    /// The socket of a dialled connection exists, or could not be made.
    pub(super) fn http_opened(&mut self, key: ConnectionKey, socket: Option<Socket>) {
        let Some(socket) = socket else {
            return self.lost(key, "no socket");
        };
        let Some(connection) = self.table.get_mut(key) else {
            return;
        };
        let Role::Http(http) = &connection.role else {
            return;
        };
        let address = self.upstreams.backends[http.backend.0].address.clone();
        connection.socket = Some(socket);
        self.sockets.connect(socket, key, &address);
    }

    pub(super) fn http_connected(&mut self, key: ConnectionKey, outcome: Result<(), i32>) {
        if outcome.is_err() {
            return self.lost(key, "connect failed");
        }
        let Some(connection) = self.table.get_mut(key) else {
            return;
        };
        let (Role::Http(http), Some(socket)) = (&mut connection.role, connection.socket) else {
            return;
        };
        connection.receiving = Receiving::Armed;
        self.sockets.receive(socket, key);
        if let HttpState::Connecting { job, pass } =
            std::mem::replace(&mut http.state, HttpState::Idle)
        {
            self.start_job(key, job, pass, UsedBefore::No);
        }
    }

    /// Sends a call's request on a free connection.
    fn start_job(&mut self, key: ConnectionKey, mut job: Job, pass: Pass, used_before: UsedBefore) {
        let Some(request) = job.request.take() else {
            return;
        };
        let again =
            job.idempotent && used_before == UsedBefore::Yes && job.attempts + 1 < ATTEMPTS_MAX;
        if again && let Some(mut copy) = self.blocks.take(request.len()) {
            copy.append(request.as_slice());
            self.copies += 1;
            job.request = Some(copy);
        }
        let deadline = job.deadline;
        if let Some(Role::Http(http)) = self.table.get_mut(key).map(|c| &mut c.role) {
            http.state = HttpState::Busy { job, pass, used_before };
            http.until = deadline;
        }
        if self.queue_block(key, request, Priority::Normal).is_err() {
            return self.lost(key, "request could not be queued");
        }
        self.set_deadline(key);
    }

    /// Bytes from an HTTP backend.
    pub(super) fn read_response(&mut self, key: ConnectionKey, received: &mut Received) {
        let Some(connection) = self.table.get_mut(key) else {
            return;
        };
        let Role::Http(http) = &mut connection.role else {
            return;
        };
        if !matches!(http.state, HttpState::Busy { .. }) {
            return self.lost(key, "backend spoke without being asked");
        }
        let limits = &self.upstreams.services[usize::from(http.service.0)].response;
        match http.reader.next(received.from(0), limits, &mut self.blocks) {
            Ok((_, Progress::NeedMore)) => {}
            Ok((_, Progress::Complete { status, body, reuse })) => {
                self.responded(key, status, body, reuse, received);
            }
            Err(error) => {
                match error {
                    HttpError::BodyTooLong => self.probe.shed(Shed::BackendBodyTooLong),
                    HttpError::NoBlock => self.probe.shed(Shed::BlocksExhausted),
                    _ => self.probe.parse_errors.increment(),
                }
                self.lost(key, "backend response refused");
            }
        }
    }

    fn responded(
        &mut self,
        key: ConnectionKey,
        status: u16,
        body: Body,
        reuse: Reuse,
        received: &mut Received,
    ) {
        let Some((job, pass, backend)) = self.take_job(key) else {
            return;
        };
        let health = if matches!(status, 502..=504) { Health::Bad } else { Health::Good };
        self.end_pass(backend, pass, health);
        match reuse {
            Reuse::Keep => self.park_connection(key, backend),
            Reuse::Close | Reuse::Surplus => self.lost(key, "backend connection not kept"),
        }
        let arrived = match body {
            Body::Empty => Arrived { source: Source::Bytes(&mut []), payload: 0..0 },
            Body::InPlace(payload) => Arrived { source: Source::Buffer(received), payload },
            Body::Assembled(block) => {
                let payload = 0..block.len();
                Arrived { source: Source::Block(block), payload }
            }
        };
        let code = ResponseCode::from_http_status(status);
        self.job_done(job, code, arrived);
    }

    /// Makes a connection free for the next call, waiting ones first.
    fn park_connection(&mut self, key: ConnectionKey, backend: BackendId) {
        let Some(entry) = self.upstreams.backend(backend) else {
            return;
        };
        if !entry.listed {
            return self.lost(key, "address dropped");
        }
        let service = entry.service;
        entry.idle.push(key);
        let pool_idle = self.snapshot.services[usize::from(service.0)].pool_idle;
        if let Some(Role::Http(http)) = self.table.get_mut(key).map(|c| &mut c.role) {
            http.until = self.now.mono + pool_idle;
        }
        self.set_deadline(key);
        self.place_waiting(service);
    }

    /// A connection is free or gone: the next call may have its place. One that fails instead, for
    /// it has waited too long, leaves the place to those behind it.
    fn place_waiting(&mut self, service: ServiceId) {
        while let Some(state) = self.upstreams.service(service)
            && let Some(job) = state.queue.pop_front()
        {
            if self.place_job(job) == Placed::Yes {
                return;
            }
        }
    }

    /// Takes the call off a connection and frees its backend's counters.
    fn take_job(&mut self, key: ConnectionKey) -> Option<(Job, Pass, BackendId)> {
        let Role::Http(http) = &mut self.table.get_mut(key)?.role else {
            return None;
        };
        let backend = http.backend;
        match std::mem::replace(&mut http.state, HttpState::Idle) {
            HttpState::Connecting { job, pass } | HttpState::Busy { job, pass, .. } => {
                Some((job, pass, backend))
            }
            HttpState::Idle => None,
        }
    }

    fn end_pass(&mut self, id: BackendId, pass: Pass, health: Health) {
        let now = self.now.mono;
        let Some(backend) = self.upstreams.backend(id) else {
            return;
        };
        backend.in_flight -= 1;
        let service = usize::from(backend.service.0);
        match health {
            Health::Good => backend.breaker.succeeded(pass),
            Health::Bad => {
                backend.breaker.failed(pass, now, &self.snapshot.services[service].breaker);
            }
            Health::Unknown => backend.breaker.abandoned(pass, now),
        }
    }

    /// The backend has closed its side: the end of a body, or of the connection.
    pub(super) fn http_finished(&mut self, key: ConnectionKey) {
        let Some(connection) = self.table.get_mut(key) else {
            return;
        };
        let Role::Http(http) = &mut connection.role else {
            return;
        };
        if let Eof::Complete { status, body } = http.reader.on_eof(&mut self.blocks)
            && let Some((job, pass, backend)) = self.take_job(key)
        {
            self.end_pass(backend, pass, Health::Good);
            let arrived = match body {
                Body::Assembled(block) => {
                    let payload = 0..block.len();
                    Arrived { source: Source::Block(block), payload }
                }
                Body::Empty | Body::InPlace(_) => {
                    Arrived { source: Source::Bytes(&mut []), payload: 0..0 }
                }
            };
            self.job_done(job, ResponseCode::from_http_status(status), arrived);
        }
        self.lost(key, "backend closed the connection");
    }

    /// The connection is over; what becomes of the call on it depends on how far it had come.
    /// `unsent` is the request when not one byte of it has left.
    pub(super) fn http_over(
        &mut self,
        mut http: HttpConnection,
        key: ConnectionKey,
        unsent: Option<Block>,
    ) {
        let now = self.now.mono;
        let Some(backend) = self.upstreams.backend(http.backend) else {
            return;
        };
        backend.connections -= 1;
        backend.idle.retain(|idle| *idle != key);
        let service = http.service;
        self.upstreams.services[usize::from(service.0)].connections -= 1;
        let answered = !http.reader.is_untouched();
        http.reader.abandon(&mut self.blocks);
        let (mut job, pass, again) = match http.state {
            HttpState::Idle => {
                self.blocks_back(unsent);
                self.count_upstreams();
                return self.place_waiting(service);
            }
            HttpState::Connecting { job, pass } => (job, pass, true),
            HttpState::Busy { mut job, pass, used_before } => {
                let raced = used_before == UsedBefore::Yes && !answered;
                let again = match unsent {
                    Some(request) => {
                        self.blocks_back(job.request.replace(request));
                        true
                    }
                    None => raced && job.request.is_some(),
                };
                (job, pass, again)
            }
        };
        let late = now >= job.deadline;
        self.end_pass(http.backend, pass, Health::Bad);
        self.count_upstreams();
        job.attempts += 1;
        if again && !late && job.attempts < ATTEMPTS_MAX && job.request.is_some() {
            self.place_job(job);
        } else {
            let refusal = if late {
                SessionRefusal::CallTimedOut
            } else {
                SessionRefusal::BackendUnreachable
            };
            self.job_failed(job, refusal);
        }
        self.place_waiting(service);
    }

    fn job_done(&mut self, mut job: Job, code: ResponseCode, arrived: Arrived<'_>) {
        self.blocks_back(job.request.take());
        self.service_freed(job.service);
        self.answer_call(job.call, code, arrived);
    }

    fn job_failed(&mut self, mut job: Job, refusal: SessionRefusal) {
        self.blocks_back(job.request.take());
        self.service_freed(job.service);
        self.fail_call(job.call, refusal);
    }

    pub(super) fn http_deadline(&mut self, key: ConnectionKey) {
        let now = self.now.mono;
        let Some(connection) = self.table.get(key) else {
            return;
        };
        let Role::Http(http) = &connection.role else {
            return;
        };
        if connection.phase == Phase::Open && now >= http.until {
            self.lost(key, "backend connection timed out");
        }
    }

    pub(super) fn count_upstreams(&self) {
        let connections: usize = self.upstreams.backends.iter().map(|b| b.connections).sum();
        self.probe.upstream_connections.set(connections as u64);
    }
}

/// Whether a call has got a connection, or a place among those that wait for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Placed {
    Yes,
    /// It has failed.
    No,
}

/// What a call has shown of its backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Good,
    Bad,
    Unknown,
}
