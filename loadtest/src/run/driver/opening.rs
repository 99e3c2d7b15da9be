//! Connections are made: TCP, TLS, upgrade, sign-in, each step timed; so many at a time, so many per
//! second, and none for ever.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::atomic::Ordering;

use rustix::event::epoll;
use rustix::net::sockopt::socket_error;

use super::super::line::{Ended, Line, Phase};
use super::super::plan::Plan;
use super::super::socket::{self, kind_of};
use super::receiving::key;
use super::{Driver, clock};
use crate::protocol::Dialect;
use crate::scenario::{CloseBy, Traffic};
use crate::wire::frame::{self, Opcode};
use crate::wire::{handshake, tls};

/// From the first packet to ready, or from our close frame to the end.
const DEADLINE_NS: u64 = 10_000_000_000;

/// Which connections are to be opened, and how fast.
#[derive(Debug)]
pub(super) struct Opener {
    /// Places, and when each was to be opened; now, if no plan says.
    pub(super) waiting: VecDeque<(usize, Option<u64>)>,
    /// Connections that come and go: when each was to be opened, and whether no place was free.
    pub(super) comers: VecDeque<(u64, bool)>,
    /// Places that comers may take; unused where connections stay.
    pub(super) free: Option<Vec<usize>>,
    /// In a closed loop the next comes as soon as one may.
    pub(super) endless: bool,
    /// Connections that the plan has called back since the last time that all were reset.
    pub(super) returned: usize,
    /// How many more times all are reset once they were called back.
    pub(super) breaks_left: u32,
    pub(super) under_way: usize,
    pub(super) most: usize,
    /// Nanoseconds between two openings.
    step: u64,
    next_at: u64,
    /// Ascending: when each connection that is being opened or closed is given up.
    deadlines: VecDeque<(u64, usize, u32)>,
    pub(super) first_failure: Option<String>,
    sources: Vec<IpAddr>,
    next_source: usize,
}

impl Opener {
    pub(super) fn new(plan: &Plan<'_>, thread: usize) -> Self {
        let connections = &plan.scenario.connections;
        let rate = connections.per_second / plan.layout.threads as f64;
        Self {
            waiting: VecDeque::new(),
            comers: VecDeque::new(),
            free: None,
            endless: false,
            returned: 0,
            breaks_left: 0,
            under_way: 0,
            most: plan.layout.part(connections.opening, thread),
            step: if rate > 0.0 { (1e9 / rate) as u64 } else { 0 },
            next_at: 0,
            deadlines: VecDeque::new(),
            first_failure: None,
            sources: connections.sources.clone(),
            next_source: thread,
        }
    }

    /// Opens as fast as the plan or the loop says: no pace of its own.
    pub(super) fn without_pace(&mut self, most: usize) {
        self.step = 0;
        self.most = most;
    }

    pub(super) fn is_idle(&self) -> bool {
        self.under_way == 0 && self.waiting.is_empty() && self.comers.is_empty()
    }

    pub(super) fn vacated(&mut self, at: usize) {
        if let Some(free) = &mut self.free {
            free.push(at);
        }
    }

    /// Comers that find no place wait for one, not for the generator.
    pub(super) fn hold_comers(&mut self) {
        if self.free.as_ref().is_some_and(Vec::is_empty) {
            for comer in self.comers.iter_mut().rev().take_while(|comer| !comer.1) {
                comer.1 = true;
            }
        }
    }

    /// The next connection that may be opened now: its place, when it was to be, and whether the
    /// plan said so and nothing but this thread made it wait.
    fn next(&mut self, now: u64) -> Option<(usize, u64, bool)> {
        if self.under_way >= self.most || now < self.next_at {
            return None;
        }
        if let Some((at, intended)) = self.waiting.pop_front() {
            return Some((at, intended.unwrap_or(now), intended.is_some()));
        }
        let free = self.free.as_mut()?;
        if !self.endless && self.comers.is_empty() {
            return None;
        }
        let at = free.pop()?;
        let (intended, timely) =
            self.comers.pop_front().map_or((now, false), |(intended, held)| (intended, !held));
        Some((at, intended, timely))
    }

    fn next_source(&mut self) -> Option<IpAddr> {
        let source = self.sources.get(self.next_source % self.sources.len().max(1)).copied();
        self.next_source += 1;
        source
    }
}

impl<D: Dialect> Driver<'_, D> {
    /// Opens what may be opened, gives up what has taken too long; says when to look again.
    pub(super) fn open_more(&mut self, now: u64) -> u64 {
        while let Some(&(deadline, at, generation)) = self.opener.deadlines.front() {
            let phase = self.lines[at].as_ref().map(|line| line.phase);
            let settled =
                self.generations[at] != generation || phase.is_none_or(|p| p == Phase::Ready);
            if !settled && deadline > now {
                break;
            }
            self.opener.deadlines.pop_front();
            if !settled {
                let what = match phase {
                    Some(Phase::Connecting) => "timed out connecting",
                    Some(Phase::Securing) => "timed out in the TLS handshake",
                    Some(Phase::Upgrading) => "timed out before the 101",
                    _ => "timed out before the first message",
                };
                self.end(at, &what.into());
            }
        }
        while let Some((at, intended, timely)) = self.opener.next(now) {
            self.open(at, intended, timely);
        }
        let paced = !self.opener.waiting.is_empty() && self.opener.under_way < self.opener.most;
        let next_open = if paced { self.opener.next_at } else { u64::MAX };
        let next_deadline = self.opener.deadlines.front().map_or(u64::MAX, |first| first.0);
        next_open.min(next_deadline)
    }

    fn open(&mut self, at: usize, intended: u64, timely: bool) {
        match self.lines[at].as_ref().map(|line| line.phase) {
            // It is still on its way back from the time before: the server does not keep up.
            Some(phase) if phase.is_opening() => return self.tally.messages.unsent += 1,
            Some(_) => self.reset(at),
            None => {}
        }
        let now = clock::now();
        if timely {
            self.tally.lagged(intended, now.saturating_sub(intended));
        }
        self.tally.connections.attempted += 1;
        self.tally.part.sent += 1;
        self.opener.next_at = self.opener.next_at.max(now.saturating_sub(self.opener.step));
        self.opener.next_at += self.opener.step;
        let source = self.opener.next_source();
        let (socket, connected) = match socket::connect(self.plan.address.socket, source) {
            Ok(made) => made,
            Err(error) => {
                let kind = kind_of(&error);
                self.tally.connections.failed += 1;
                self.tally.error(&kind);
                self.opener.first_failure.get_or_insert(kind);
                self.opener.vacated(at);
                return;
            }
        };
        self.opener.under_way += 1;
        let generation = self.generations[at];
        self.opener.deadlines.push_back((now + DEADLINE_NS, at, generation));
        let dialect = D::new(&self.seats[at]);
        let data = self.event_data(at);
        let added = epoll::add(&self.epoll, &socket, data, epoll::EventFlags::OUT);
        self.lines[at] = Some(Line::new(socket, dialect, intended, now));
        let begun = added.map_err(Ended::from).and_then(|()| match connected {
            true => self.connected(at),
            false => Ok(()),
        });
        if let Err(ended) = begun {
            self.end(at, &ended);
        }
    }

    /// The socket at `at` is connected, or has failed to.
    pub(super) fn connected(&mut self, at: usize) -> Result<(), Ended> {
        let Some(line) = &mut self.lines[at] else {
            return Ok(());
        };
        socket_error(&line.socket)??;
        line.connected = clock::now();
        if self.plan.times_openings(line.intended, self.tally.measured) {
            self.tally.connect.record(line.connected - line.started);
        }
        let data = self.event_data(at);
        self.watch(at, data, epoll::EventFlags::IN)?;
        match &self.plan.tls {
            Some(client) => self.secure(at, client),
            None => self.ask(at),
        }
    }

    fn secure(&mut self, at: usize, client: &tls::Client) -> Result<(), Ended> {
        let Some(line) = &mut self.lines[at] else {
            return Ok(());
        };
        line.phase = Phase::Securing;
        self.tally.messages.bytes_sent += line.secure(client, &mut self.records)? as u64;
        if line.is_clear() { Ok(()) } else { self.await_room(at) }
    }

    /// TLS has received something; if it has shaken hands, the upgrade is next.
    pub(super) fn secured(&mut self, at: usize, now: u64) -> Result<(), Ended> {
        let Some(line) = &mut self.lines[at] else {
            return Ok(());
        };
        let Some(agreed) = line.agreed() else {
            return Ok(());
        };
        line.secured = now;
        if self.plan.times_openings(line.intended, self.tally.measured) {
            self.tally.handshake.record(now.saturating_sub(line.connected));
            *self.tally.handshakes.entry(agreed).or_default() += 1;
        }
        self.ask(at)
    }

    /// Asks for the upgrade.
    fn ask(&mut self, at: usize) -> Result<(), Ended> {
        let Some(line) = &mut self.lines[at] else {
            return Ok(());
        };
        let address = &self.plan.address;
        let upgrade = line.dialect.upgrade(&address.path, &self.seats[at]);
        let request = handshake::request(&address.authority, &upgrade.path, &upgrade.fields);
        line.phase = Phase::Upgrading;
        self.tally.messages.bytes_sent += line.send(&request, &mut self.records)? as u64;
        if line.is_clear() { Ok(()) } else { self.await_room(at) }
    }

    /// The answer to the upgrade is at the start of `bytes`: says how long it is.
    pub(super) fn take_answer(
        &mut self,
        at: usize,
        bytes: &[u8],
        now: u64,
    ) -> Result<Option<usize>, Ended> {
        let answer = handshake::check_answer(bytes).map_err(|refusal| refusal.to_string())?;
        let (Some(answer), Some(line)) = (answer, &mut self.lines[at]) else {
            return Ok(None);
        };
        line.upgraded = now;
        if self.plan.times_openings(line.intended, self.tally.measured) {
            self.tally.upgrade.record(now.saturating_sub(line.connected.max(line.secured)));
        }
        line.phase = Phase::Greeting;
        let mut greeting = Vec::new();
        let ready = line.dialect.greet(&self.seats[at], &mut greeting);
        if !greeting.is_empty() {
            frame::encode(D::OPCODE, &greeting, key(self.masks.next()), &mut self.out);
        }
        if ready || self.plan.ready_at_upgrade() {
            self.became_ready(at, now);
        }
        Ok(Some(answer))
    }

    /// The protocol says that the connection is signed in.
    pub(super) fn signed_in(&mut self, at: usize, now: u64) {
        let Some(line) = &self.lines[at] else {
            return;
        };
        if self.plan.times_openings(line.intended, self.tally.measured) {
            self.tally.first_message.record(now.saturating_sub(line.upgraded));
        }
        if line.phase == Phase::Greeting {
            self.became_ready(at, now);
        }
    }

    fn became_ready(&mut self, at: usize, now: u64) {
        let place = self.place(at);
        let Some(line) = &mut self.lines[at] else {
            return;
        };
        if let (Some(published), Some(session)) = (&self.plan.published, line.dialect.own_session())
        {
            published.introduce(place, session);
        }
        line.phase = Phase::Ready;
        let (intended, delay) = (line.intended, line.started.saturating_sub(line.intended));
        self.opener.under_way -= 1;
        self.tally.connections.ready += 1;
        self.tally.part.ready += 1;
        self.plan.progress.ready.fetch_add(1, Ordering::Relaxed);
        if self.sending_until == 0 {
            return; // before the load
        }
        match self.plan.scenario.traffic {
            Traffic::Connect { close, .. } => {
                self.tally.completed(intended, delay, now);
                match close {
                    CloseBy::Reset => self.reset(at),
                    CloseBy::CloseFrame => self.say_goodbye(at),
                }
            }
            Traffic::Reconnect { .. } => self.tally.completed(intended, delay, now),
            _ => {}
        }
    }

    /// Sends a close frame; the server answers it and ends the connection.
    pub(super) fn say_goodbye(&mut self, at: usize) {
        const NORMAL_CLOSURE: [u8; 2] = 1000_u16.to_be_bytes();
        let Some(line) = &mut self.lines[at] else {
            return;
        };
        line.phase = Phase::Closing;
        self.flows[at].alive = false;
        let generation = self.generations[at];
        self.opener.deadlines.push_back((clock::now() + DEADLINE_NS, at, generation));
        let mut close = Vec::new();
        frame::encode(Opcode::Close, &NORMAL_CLOSURE, key(self.masks.next()), &mut close);
        let sent = line.send(&close, &mut self.records);
        if let Err(ended) = sent {
            self.end(at, &ended);
        }
    }
}
