//! The loop of the control core: a turn, then a wait for whatever is due next.

mod clock;
mod farewell;
mod start;
mod waits;

use std::error::Error;
use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use corelane_shard::identity::AuthRefusal;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Interval;
use tracing::{error, info, warn};

use self::clock::Clock;
use self::waits::{answered, due, registered, rung, told};
use super::ask::Ask;
use super::bus::EventBus;
use super::certificates::Watch;
use super::internal::Holder;
use super::jwks::{self, KeyFetches};
use super::nodes::{self, LinkNews, Origin, Response};
use super::operators::ShownConfig;
use super::port::{Bell, ShardPort};
use super::probe::{ControlProbe, FetchOutcome};
use super::registry::{self, Registry};
use super::resolve::{self, Lookups};
use super::spans::Exporter;
use super::store::SessionStore;
use super::turn::{Core, Question, Termination, Turn};
use super::validation::{self, Asked, Validations};
use super::web::WebClient;
use super::{Exit, ReloadHook, Settings};
use crate::auth::KeyRing;
use crate::lifecycle::{Request, Signals, systemd};

pub use self::start::run;

struct Loop<P, B, S, E> {
    core: Core<P, S, E>,
    bell: B,
    wake: AsyncFd<OwnedFd>,
    clock: Clock,
    signals: Signals,
    lookups: Lookups,
    exporter: Option<Exporter>,
    keys: KeyRing,
    certificates: Watch,
    web: WebClient,
    fetches: KeyFetches,
    validations: Option<Validations>,
    /// What the links to other nodes tell.
    links: Option<mpsc::Receiver<LinkNews>>,
    registry: Option<Registry>,
    holder: Holder,
    /// Requests of other nodes' services, while they are answered.
    answering: JoinSet<(Origin, Response)>,
    settings: Settings,
    reload: ReloadHook,
    asks: mpsc::Receiver<Ask>,
    shown: ShownConfig,
    probe: Arc<ControlProbe>,
    key_poll: Interval,
    watchdog: Option<Interval>,
}

/// Why a wait ended.
enum Woken {
    Rung,
    Asked(Request),
    Answer(Ask),
    Resolved(resolve::Answer),
    Fetched(jwks::Fetched),
    Validated(validation::Answer),
    Linked(LinkNews),
    Registered(registry::News),
    Responded(Origin, Response),
    KeysDue,
    WatchdogDue,
    TimeUp,
}

impl<P: ShardPort, B: Bell, S: SessionStore, E: EventBus> Loop<P, B, S, E> {
    async fn run(mut self) -> Exit {
        loop {
            let mut turn = Turn::Busy;
            // Mostly the second finds nothing: cheaper than to wait and be told so.
            for _ in 0..TURNS_IN_A_ROW {
                turn = self.core.turn(self.clock.now());
                self.dial_nodes();
                if self.core.is_done() {
                    self.say_good_bye().await;
                    return Exit::Drained;
                }
                self.ask_auth_service();
                if turn == Turn::Idle {
                    break;
                }
            }
            if turn == Turn::Idle {
                self.bell.announce_sleep();
                turn = self.core.turn(self.clock.now());
            }
            if self.core.store.is_dethroned() && !self.core.is_draining() {
                error!(
                    "another process runs as this node; this one ends. Give each its own \
                     control.instance, or its own public address"
                );
                // What stands there is the other's.
                self.registry = None;
                self.core.terminate(self.clock.now().mono);
                systemd::notify_stopping("draining");
            }
            if self.core.take_hosts_changed() {
                self.lookups =
                    Lookups::start(self.core.book.hosts(), self.settings.resolve_refresh);
            }
            let woken = self.wait(turn).await;
            self.bell.awake();
            match woken {
                Woken::Rung | Woken::TimeUp => {}
                Woken::Answer(ask) => self.core.answer(ask, self.clock.now()),
                Woken::Resolved(answer) => self.learn(answer),
                Woken::Fetched(fetched) => self.learn_keys(fetched),
                Woken::Validated(answer) => self.answer_token(answer),
                Woken::Linked(news) => self.hear_links(news),
                Woken::Registered(news) => self.hear_registry(news),
                Woken::Responded(origin, response) => self.core.respond_abroad(origin, response),
                Woken::KeysDue => {
                    self.probe.keys_replaced.add(self.keys.poll() as u64);
                    self.certificates.look(self.clock.now());
                    let interval = self.settings.unknown_key_interval;
                    self.fetches.look_for_unknown_keys(self.clock.now().mono, interval);
                }
                Woken::WatchdogDue => systemd::notify_watchdog(),
                Woken::Asked(Request::Reload) => self.reload(),
                Woken::Asked(Request::Terminate) => {
                    match self.core.terminate(self.clock.now().mono) {
                        Termination::Begun => systemd::notify_stopping("draining"),
                        Termination::Insisted => return Exit::AtOnce,
                    }
                }
            }
        }
    }

    /// Until something is due; after busy turns only until the other tasks had theirs. Order:
    /// signals first, so that a flood of messages cannot hold off the exit.
    async fn wait(&mut self, turn: Turn) -> Woken {
        let busy = turn == Turn::Busy;
        let pause = self.pause();
        tokio::select! {
            biased;
            request = self.signals.next() => Woken::Asked(request),
            () = due(self.watchdog.as_mut()) => Woken::WatchdogDue,
            _ = self.key_poll.tick() => Woken::KeysDue,
            Some(answer) = self.lookups.next() => Woken::Resolved(answer),
            Some(ask) = self.asks.recv() => Woken::Answer(ask),
            Some(fetched) = self.fetches.next() => Woken::Fetched(fetched),
            answer = answered(self.validations.as_mut()) => Woken::Validated(answer),
            // Whoever sends to a node that does not keep up waits, or is refused there.
            news = told(self.links.as_mut()), if !self.core.is_behind() => Woken::Linked(news),
            news = registered(self.registry.as_mut()) => Woken::Registered(news),
            Some(Ok((origin, response))) = self.answering.join_next() => {
                Woken::Responded(origin, response)
            }
            () = rung(&self.wake) => Woken::Rung,
            () = poll_fn(|context| self.core.poll_outside(context)) => Woken::Rung,
            () = tokio::time::sleep(pause) => Woken::TimeUp,
            () = tokio::task::yield_now(), if busy => Woken::TimeUp,
        }
    }

    /// The longest sleep: until the drain's next phase, or a moment while a lane is full.
    fn pause(&self) -> Duration {
        let now = self.clock.now();
        let due = self.core.due().map_or(LONGEST_SLEEP, |due| due.since(now.mono));
        let lanes = if self.core.has_waiting(now) { FULL_LANE_RETRY } else { LONGEST_SLEEP };
        due.min(lanes)
    }

    /// Dials those nodes whose time has come, and has the registry looked at where one of those that
    /// it names was lost.
    fn dial_nodes(&mut self) {
        let now = self.clock.now().mono;
        let Some(nodes) = &mut self.core.nodes else { return };
        while let Some(dial) = nodes.next_dial(now) {
            tokio::spawn(nodes::dial(dial));
        }
        if let (true, Some(registry)) = (nodes.take_lost_found(), &self.registry) {
            registry.hurry();
        }
    }

    fn hear_links(&mut self, first: LinkNews) {
        let now = self.clock.now();
        self.core.hear_link(first, now);
        for _ in 1..NEWS_IN_A_ROW {
            let Some(Ok(news)) = self.links.as_mut().map(mpsc::Receiver::try_recv) else { break };
            self.core.hear_link(news, now);
        }
        for (origin, request) in self.core.take_requests_abroad() {
            let holder = self.holder.clone();
            self.answering.spawn(async move { (origin, holder.answer(request).await) });
        }
    }

    fn hear_registry(&mut self, news: registry::News) {
        let now = self.clock.now();
        match news {
            registry::News::Nodes(records) => {
                if let Some(nodes) = &mut self.core.nodes {
                    nodes.found(&records, now.mono);
                }
            }
            registry::News::NumberTaken { by } => {
                if self.core.is_draining() {
                    return;
                }
                error!(
                    by = %by,
                    "the number of this node was given to another; this one ends, and has another \
                     number when it is started again. Was it cut off from Redis for a day, or has \
                     Redis lost its data?"
                );
                self.core.give_up_identity(now);
                systemd::notify_stopping("draining");
            }
        }
    }

    fn learn(&mut self, answer: resolve::Answer) {
        match answer.found {
            Ok(addresses) => self.core.book.learn(answer.host, addresses),
            Err(_) => self.probe.resolve_failures.increment(),
        }
    }

    fn learn_keys(&mut self, fetched: jwks::Fetched) {
        let outcome =
            if fetched.keys.is_some() { FetchOutcome::Fetched } else { FetchOutcome::Failed };
        self.probe.fetched(outcome);
        self.keys.learn(&fetched.spec, fetched.keys);
        self.fetches.settle(fetched.asked);
    }

    /// Passes on what shards want to know of the auth service.
    fn ask_auth_service(&mut self) {
        let questions = self.core.take_questions();
        if questions.is_empty() {
            return;
        }
        let now = self.clock.now();
        for question in questions {
            let Question { shard, key, .. } = question;
            let asked = self.validations.as_mut().map(|service| service.ask(question, now.mono));
            if asked != Some(Asked::Waits) {
                self.core.validated(shard, key, Err(AuthRefusal::Unavailable));
            }
        }
    }

    fn answer_token(&mut self, answer: validation::Answer) {
        let now = self.clock.now();
        if let Some(service) = &mut self.validations {
            let (shard, key) = (answer.shard, answer.key);
            let told = service.conclude(answer, now);
            self.core.validated(shard, key, told);
        }
    }

    fn reload(&mut self) {
        if self.core.is_draining() {
            warn!("configuration not read again: the process is draining");
            return;
        }
        systemd::notify_reloading();
        match self.take_configuration() {
            Ok(version) => {
                self.probe.reloads.increment();
                info!(version, "configuration taken");
            }
            Err(reason) => {
                self.probe.reloads_refused.increment();
                error!(%reason, "configuration refused, the old one stays");
            }
        }
        systemd::notify_ready();
    }

    /// Nothing is changed before certificates and keys, which are the last that can be refused.
    fn take_configuration(&mut self) -> Result<u64, Box<dyn Error + Send + Sync>> {
        let new = (self.reload)(self.core.snapshot())?;
        self.web.expect_https(new.keys.jwks.iter().any(|set| set.url.starts_with("https:")))?;
        let certificates = self.certificates.read(new.tls)?;
        self.keys.reload(&new.keys)?;
        self.certificates.take(certificates);
        self.shown.store(Arc::new(new.shown));
        self.fetches = KeyFetches::start(&self.web, &self.keys);
        self.core.settle(new.settings.clone());
        self.settings = new.settings;
        self.core.publish(&new.snapshot, new.targets);
        self.lookups = Lookups::start(self.core.book.hosts(), self.settings.resolve_refresh);
        Ok(new.snapshot.version)
    }
}

/// Busy turns before the other tasks of the control core have theirs.
const TURNS_IN_A_ROW: usize = 4;
/// Told by links, before shards are heard again.
const NEWS_IN_A_ROW: usize = 64;
const FULL_LANE_RETRY: Duration = Duration::from_millis(1);
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);
