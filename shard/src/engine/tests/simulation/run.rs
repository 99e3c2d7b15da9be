//! One run: everybody acts in an order that the seed decides, and after each turn of a shard the
//! invariants are looked at. Then all calm down and everything that is owed must come; then the
//! shards drain, and nothing may be left.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;

use super::clients::{Around, Client, Persona, Stage};
use super::clock::Clock;
use super::control::Control;
use super::http_backend::HttpBackend;
use super::invariants;
use super::kernel::Kernel;
use super::link_backend::LinkBackend;
use super::network::{Network, address_of};
use super::setting::{HTTP, HTTP_BACKENDS, LINK, LINK_BACKENDS, SALT, SHARDS, Setting, shard_ids};
use super::trace::Trace;
use crate::clock::Instant;
use crate::engine::Engine;
use crate::engine::connection::{Phase, Sending};
use crate::id::{ConnectionKey, SessionId, ShardId};
use crate::lane::{DrainPhase, Park, ToShard, mesh};
use crate::probe::Shed;
use crate::snapshot::Address;
use crate::wire::guid::Guid;

/// Steps of the first part.
const STEPS: usize = 400;

/// How long everything that is owed may take to come: more than any call, any late answer, any
/// time-out of somebody who has vanished.
const SETTLES_WITHIN: Duration = Duration::from_secs(60);

const CLIENTS: usize = 12;

/// Fewer sessions than clients, so that some are fought over.
const SESSIONS: u128 = 8;

/// However idle a thread is, it turns this often.
const TURNS_WITHIN: Duration = Duration::from_secs(1);

/// What a run has met with, summed up by counter.
pub(super) type Counts = BTreeMap<String, u64>;

pub(super) struct Run {
    rng: fastrand::Rng,
    clock: Clock,
    trace: Trace,
    setting: Setting,
    network: Network,
    shards: Vec<Engine<Kernel>>,
    /// When each shard has turned last, and whether it sleeps.
    turned: Vec<(Instant, Park)>,
    control: Control,
    control_bell: Rc<Cell<bool>>,
    control_sleeps: bool,
    clients: Vec<Client>,
    /// TLS of the clients.
    tls: Arc<ClientConfig>,
    http: Vec<HttpBackend>,
    links: Vec<LinkBackend>,
    serials: u32,
    version: u64,
    calm: bool,
    /// GUIDs that endpoints have, by whom they were told.
    endpoints: Vec<(SessionId, Guid)>,
}

/// What a run comes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) hash: u64,
    pub(super) counts: Counts,
}

/// Runs `seed` to its end.
pub(super) fn run(seed: u64, prints: bool) -> Outcome {
    let mut run = Run::new(seed, prints);
    for _ in 0..STEPS {
        run.step();
    }
    // Some are drained in the midst of it all.
    if run.rng.u8(..4) > 0 {
        run.settle();
    }
    run.drain();
    run.outcome()
}

impl Run {
    fn new(seed: u64, prints: bool) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let setting = Setting::draw(&mut rng);
        let clock = Clock::new();
        let snapshot = setting.snapshot(1, &mut rng);
        let lanes = mesh(setting.mesh);
        let control_bell = Rc::new(Cell::new(false));
        let engine = |lanes| {
            let bell = Rc::clone(&control_bell);
            let bell = Box::new(move || bell.set(true));
            setting.engine(lanes, Arc::clone(&snapshot), bell, clock.now(), rng.u64(..))
        };
        let shards: Vec<_> = lanes.shards.into_iter().map(engine).collect();
        let client = |_| {
            let session = SessionId(0x51 << 120 | rng.u128(..SESSIONS));
            let persona = if rng.bool() { Some(Persona::Honest) } else { rng.choice(Persona::ALL) };
            Client::new(session, persona.unwrap_or(Persona::Honest))
        };
        let clients = (0..CLIENTS).map(client).collect();
        let mut run = Self {
            clock,
            trace: Trace::new(prints),
            network: Network::new(SHARDS, setting.weather),
            turned: vec![(Instant(0), Park::NotYet); SHARDS],
            control: Control::new(lanes.control, SALT, rng.u64(..)),
            control_bell,
            control_sleeps: false,
            clients,
            tls: setting.suite.of_players(),
            http: HTTP_BACKENDS.map(|_| HttpBackend::default()).into(),
            links: LINK_BACKENDS.map(|_| LinkBackend::default()).into(),
            serials: 0,
            version: 1,
            calm: false,
            endpoints: Vec::new(),
            shards,
            setting,
            rng,
        };
        run.publish_addresses();
        run
    }

    fn publish_addresses(&mut self) {
        for (service, backends) in [(HTTP, HTTP_BACKENDS), (LINK, LINK_BACKENDS)] {
            // Now and then one is gone.
            let gone = if self.rng.u8(..4) == 0 { self.rng.choice(backends) } else { None };
            let here = backends.into_iter().filter(|at| Some(*at) != gone);
            let addresses: Arc<[Address]> = here.map(address_of).collect();
            let version = self.version;
            self.control.order_all(|| ToShard::Addresses {
                version,
                service,
                addresses: Arc::clone(&addresses),
            });
        }
    }

    /// Everybody acts, once at most.
    fn step(&mut self) {
        let millis = match self.rng.u8(..60) {
            0 => self.rng.u64(..3000),
            1..5 => self.rng.u64(..200),
            _ => self.rng.u64(..4),
        };
        self.advance(Duration::from_millis(millis));
        match self.rng.u16(..400) {
            0..2 => self.reload(),
            2..4 => self.publish_addresses(),
            4..12 => {
                if let Some(client) = self.rng.choice(&self.clients) {
                    client.is_cut(&mut self.network);
                }
            }
            12..14 => {
                let wire = self.rng.choice(self.network.wires().collect::<Vec<_>>());
                if let Some(wire) = wire {
                    self.network.wire(wire).reset();
                }
            }
            _ => {}
        }
        self.everybody_acts();
    }

    fn advance(&mut self, by: Duration) {
        self.clock.advance(by);
        self.trace.number(self.clock.now().mono.0);
    }

    fn everybody_acts(&mut self) {
        self.clients_act();
        self.backends_act();
        self.control_acts();
        let mut order: Vec<usize> = (0..SHARDS).collect();
        self.rng.shuffle(&mut order);
        for shard in order {
            self.shard_acts(shard);
        }
    }

    fn clients_act(&mut self) {
        let peers: Vec<Guid> = self.clients.iter().filter_map(|client| client.talk.guid).collect();
        let (draining, control) = (self.control.draining, &mut self.control);
        for client in &mut self.clients {
            if !self.calm && self.rng.u8(..4) == 0 {
                continue;
            }
            client.act(&mut Around {
                network: &mut self.network,
                rng: &mut self.rng,
                trace: &mut self.trace,
                tls: &self.tls,
                shards: SHARDS,
                peers: &peers,
                endpoints: &self.endpoints,
                message_bytes_max: self.setting.message_bytes_max(),
                channel_max: self.setting.channel_max(),
                serials: &mut self.serials,
                seen: &mut |session, number| control.saw(session, number),
                calm: self.calm,
                draining,
            });
        }
        let told = |client: &Client| {
            let session = client.session;
            client.talk.endpoints.iter().map(move |guid| (session, *guid)).collect::<Vec<_>>()
        };
        self.endpoints = self.clients.iter().flat_map(told).collect();
    }

    fn backends_act(&mut self) {
        for (backend, wire) in std::mem::take(&mut self.network.dialled) {
            match backend.checked_sub(self.http.len()) {
                None => self.http[backend].take(wire),
                Some(link) => self.links[link].take(wire),
            }
        }
        let now = self.clock.now().mono;
        for backend in &mut self.http {
            backend.act(now, self.calm, &mut self.network, &mut self.rng);
        }
        for backend in &mut self.links {
            backend.act(now, self.calm, &mut self.network, &mut self.rng);
        }
    }

    /// The control core wakes for its bell, for what is due, and, while all goes on, for no reason.
    fn control_acts(&mut self) {
        let now = self.clock.now().mono;
        let due = self.control.due().is_some_and(|at| at <= now) || !self.control.has_told_all();
        let rung = self.control_bell.replace(false);
        let busy = !self.calm && self.rng.u8(..6) > 0;
        if self.control_sleeps && !rung && !due && !busy {
            return;
        }
        self.control.wakes();
        let shards = &mut self.shards;
        let ring = |shard: ShardId| shards[usize::from(shard.0)].sockets.ring();
        self.control.act(now, self.calm, &self.trace, ring);
        self.control_sleeps = self.control.sleeps();
    }

    fn shard_acts(&mut self, at: usize) {
        let now = self.clock.now();
        let shard = &mut self.shards[at];
        let Engine { sockets, buffers, .. } = shard;
        sockets.progress(&mut self.network, buffers);
        let (turned, park) = self.turned[at];
        let due = shard.next_deadline().is_some_and(|deadline| deadline <= now.mono);
        let long_ago = now.mono.since(turned) >= TURNS_WITHIN;
        let wakes = shard.sockets.has_news() || due || long_ago || park == Park::NotYet;
        if !shard.sockets.has_news() && park == Park::Now {
            assert_eq!(shard.announce_sleep(), park, "shard {at} sleeps, and its lanes hold news");
        }
        // A core that has much to do comes late.
        if !wakes || (!self.calm && self.rng.u8(..6) == 0) {
            return;
        }
        self.turn(at);
    }

    fn turn(&mut self, at: usize) {
        let now = self.clock.now();
        let shard = &mut self.shards[at];
        for completion in shard.sockets.backlog_of_completions() {
            self.trace.event(format_args!("shard {at}: {completion:?}"));
        }
        shard.woken();
        shard.turn(now);
        shard.sockets.submit(&mut self.network);
        for bell in std::mem::take(&mut shard.sockets.bells) {
            self.shards[usize::from(bell.0)].sockets.ring();
        }
        let shard = &mut self.shards[at];
        let park = if shard.has_work() { Park::NotYet } else { shard.announce_sleep() };
        self.turned[at] = (now.mono, park);
        invariants::check(shard);
        invariants::sessions_live_once(&self.shards, at, &mut self.control);
    }

    /// Turns a shard without letting anything new in, until all it has is done.
    fn exhaust(&mut self, at: usize) {
        for _ in 0..50 {
            self.turn(at);
            if !self.shards[at].sockets.has_news() && !self.shards[at].has_work() {
                return;
            }
        }
    }

    /// A new configuration. Nobody who could take its manifest loses his connection by it.
    fn reload(&mut self) {
        self.version += 1;
        let snapshot = self.setting.snapshot(self.version, &mut self.rng);
        self.trace.event(format_args!("configuration {}", self.version));
        for (at, shard) in shard_ids().enumerate() {
            self.exhaust(at);
            let before = self.open_connections(at);
            // It may not be overtaken by an older one that waits.
            let order = || ToShard::Snapshot(Arc::clone(&snapshot));
            if !self.control.has_told_all() || !self.control.tell_now(shard, order()) {
                self.control.order(shard, order());
                continue;
            }
            self.turn(at);
            let after = self.open_connections(at);
            let closed = before.iter().find(|key| !after.contains(key));
            assert_eq!(closed, None, "closed by a reload");
        }
        self.publish_addresses();
    }

    /// Those that are open and read what they are sent.
    fn open_connections(&self, at: usize) -> Vec<ConnectionKey> {
        let shard = &self.shards[at];
        let open = shard.table.iter().filter(|(_, connection)| {
            connection.phase == Phase::Open && connection.sending == Sending::Free
        });
        open.map(|(key, _)| key).collect()
    }

    /// Nobody begins anything more, and everybody does what he can.
    fn settle(&mut self) {
        self.calm = true;
        self.network.weather.stalls = 0;
        self.network.weather.refusals = 0;
        self.trace.event("all calm down");
        let until = self.clock.now().mono + SETTLES_WITHIN;
        while let Some(owed) = self.owed() {
            assert!(self.clock.now().mono < until, "never came: {owed}");
            self.calm_step();
        }
    }

    /// As time passes when nothing happens between the moments at which something is due.
    fn calm_step(&mut self) {
        let now = self.clock.now().mono;
        let busy = self.shards.iter().any(|shard| shard.sockets.has_news())
            || self.turned.iter().any(|(_, park)| *park == Park::NotYet)
            || self.rng.u8(..8) > 0;
        let next = self.shards.iter_mut().filter_map(Engine::next_deadline);
        let next = next.chain(self.control.due());
        let next = next.chain(self.http.iter().filter_map(HttpBackend::due));
        let next = next.chain(self.links.iter().filter_map(LinkBackend::due)).min();
        let wait = next.unwrap_or(now).since(now).min(Duration::from_millis(500));
        let wait = if busy { Duration::from_millis(1) } else { wait };
        self.advance(wait.max(Duration::from_millis(1)));
        self.everybody_acts();
    }

    /// Something that somebody still waits for.
    fn owed(&self) -> Option<String> {
        if !self.control.has_told_all() {
            return Some("what the control core has to say".into());
        }
        for client in &self.clients {
            let talk = &client.talk;
            if client.stage == Stage::Door || client.stage == Stage::Leaving {
                return Some(format!("{} is {:?}", talk.serial, client.stage));
            }
            if !client.keeps_its_side() {
                continue;
            }
            if let Some(unanswered) = talk.unanswered() {
                return Some(format!("{} awaits {unanswered}", talk.serial));
            }
            let newest = self.control.newest_event_for(client.session);
            if newest.is_some_and(|newest| newest > talk.newest_event) {
                return Some(format!("{} has {} of {newest:?}", talk.serial, talk.newest_event));
            }
        }
        self.undelivered()
    }

    /// A peer message that was acknowledged and has not come to its target, who is here.
    fn undelivered(&self) -> Option<String> {
        for sender in &self.clients {
            let serial = sender.talk.serial;
            for (number, guid) in sender.talk.delivered() {
                let target = self.clients.iter().find(|target| target.talk.guid == Some(guid));
                let Some(target) = target.filter(|target| target.keeps_its_side()) else {
                    continue;
                };
                if !target.talk.has_received(serial, number) {
                    return Some(format!("{serial}/{number} to {}", target.talk.serial));
                }
            }
        }
        None
    }

    fn drain(&mut self) {
        self.trace.event("all drain");
        self.control.draining = true;
        for phase in [DrainPhase::Grace, DrainPhase::Closing, DrainPhase::Cutting, DrainPhase::Done]
        {
            self.control.order_all(|| ToShard::Drain(phase));
            let patience = match phase {
                DrainPhase::Grace => Duration::from_millis(20),
                DrainPhase::Closing => Duration::from_secs(self.rng.u64(..8)),
                DrainPhase::Cutting | DrainPhase::Done => SETTLES_WITHIN,
            };
            self.calm |= phase >= DrainPhase::Cutting;
            let until = self.clock.now().mono + patience;
            while self.clock.now().mono < until && !self.has_reached(phase) {
                if self.calm { self.calm_step() } else { self.step() }
            }
        }
        // What a shard has let go of is taken back by a turn that follows, and news wait a little.
        for _ in 0..3 {
            self.advance(Duration::from_millis(10));
            (0..SHARDS).for_each(|at| self.turn(at));
            self.control_acts();
        }
        self.shards.iter_mut().for_each(invariants::nothing_is_left);
        assert_eq!(self.control.unreleased(), 0, "claims that were not released");
    }

    fn has_reached(&self, phase: DrainPhase) -> bool {
        match phase {
            DrainPhase::Grace | DrainPhase::Closing => false,
            DrainPhase::Cutting => {
                self.control.reached.iter().all(|at| *at == Some(DrainPhase::Done))
            }
            // Answers that come late meet nobody.
            DrainPhase::Done => {
                self.shards.iter().all(Engine::is_done) && self.control.has_told_all()
            }
        }
    }

    /// What clients were refused, the shards have counted.
    fn outcome(mut self) -> Outcome {
        let shed = |whats: &[Shed]| -> u64 {
            let probes = self.shards.iter().map(|shard| &shard.probe);
            probes.flat_map(|probe| whats.iter().map(|what| probe.shed_count(*what))).sum()
        };
        let refused = |code: u8| self.clients.iter().map(|c| c.answers(code)).sum::<u64>();
        let peers = shed(&[Shed::PeerGone, Shed::PeerOutboxFull, Shed::LaneFull]);
        assert!(refused(31) <= peers, "{} refused, {peers} counted", refused(31));
        let busy = shed(&[
            Shed::RateLimited,
            Shed::CallLineFull,
            Shed::ServiceBusy,
            Shed::BlocksExhausted,
        ]);
        assert!(refused(12) <= busy, "{} refused, {busy} counted", refused(12));
        let too_long = shed(&[Shed::MessageTooLong]);
        assert!(refused(11) <= too_long, "{} refused, {too_long} counted", refused(11));
        let mut counts = Counts::new();
        for shard in &self.shards {
            shard.probe.visit(&mut |sample| {
                let label = sample.label.map_or("", |(_, label)| label);
                *counts.entry(format!("{} {label}", sample.name)).or_default() += sample.value;
            });
        }
        for (name, count) in &counts {
            self.trace.bytes(name.as_bytes());
            self.trace.number(*count);
        }
        Outcome { hash: self.trace.hash(), counts }
    }
}
