//! What the loop is made of.

use std::sync::Arc;
use std::time::Duration;

use corelane_shard::wire::guid::PeerKeys;
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior};

use super::Loop;
use super::clock::Clock;
use super::waits::watch;
use crate::control::bus::kafka::KafkaSettings;
use crate::control::bus::{EmbeddedBus, EventBus, KafkaBus};
use crate::control::certificates::Watch;
use crate::control::jwks::KeyFetches;
use crate::control::nodes::Nodes;
use crate::control::port::{Bell, ShardPort};
use crate::control::probe::ControlProbe;
use crate::control::redis::Redis;
use crate::control::registry::Registry;
use crate::control::resolve::Lookups;
use crate::control::spans::Exporter;
use crate::control::store::{EmbeddedStore, Post, RedisStore, SessionStore};
use crate::control::turn::{Core, CoreParts};
use crate::control::validation::{ValidationRules, Validations};
use crate::control::web::WebClient;
use crate::control::{ControlError, ControlSpec, Exit, InRedis, SharedSessions};
use crate::lifecycle::{Signals, systemd};

/// Runs the control core on the calling thread until the drain has ended, or a second signal came.
pub fn run<P: ShardPort, B: Bell>(spec: ControlSpec<P, B>) -> Result<Exit, ControlError> {
    if let Some(core) = spec.core
        && !core_affinity::set_for_current(core_affinity::CoreId { id: core })
    {
        return Err(ControlError::Pin { core });
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_name("corelane-lookup")
        .build()
        .map_err(ControlError::Runtime)?;
    let exit = runtime.block_on(async {
        let bus = event_bus(spec.kafka.clone(), &spec.probe)?;
        let redis = spec.redis.as_ref().map(|redis| {
            spec.probe.redis.configured();
            Redis::start(redis.rules.clone(), Arc::clone(&spec.probe.redis))
        });
        let store = redis.as_ref().and_then(|redis| shared_store(redis, &spec));
        Ok(match store {
            None => {
                let store = EmbeddedStore::new(&spec.snapshot.salt, spec.settings.rules.store);
                Loop::set_up(spec, store, bus, redis)?.run().await
            }
            Some(store) => Loop::set_up(spec, store, bus, redis)?.run().await,
        })
    });
    // A look-up that hangs does not hold up the exit.
    runtime.shutdown_background();
    exit
}

/// The sessions of several nodes, if they keep them together.
fn shared_store<P, B>(redis: &Redis, spec: &ControlSpec<P, B>) -> Option<RedisStore<Post>> {
    let InRedis { rules, sessions, .. } = spec.redis.as_ref()?;
    let SharedSessions { rules: shared, authority } = sessions.clone()?;
    let (salt, store) = (&spec.snapshot.salt, spec.settings.rules.store);
    let (probe, patience) = (Arc::clone(&spec.probe.redis), rules.connect_timeout);
    let post = Post::start(redis.clone(), salt, shared.clone(), patience);
    Some(RedisStore::new(post, salt, store, shared, probe).telling(authority))
}

/// Its threads are made here, so that they stay on the control core.
fn event_bus(
    kafka: Option<KafkaSettings>,
    probe: &Arc<ControlProbe>,
) -> Result<Box<dyn EventBus>, ControlError> {
    Ok(match kafka {
        Some(settings) => Box::new(KafkaBus::start(settings, probe)?),
        None => Box::new(EmbeddedBus::default()),
    })
}

impl<P: ShardPort, B: Bell, S: SessionStore, E: EventBus> Loop<P, B, S, E> {
    fn set_up(
        spec: ControlSpec<P, B>,
        store: S,
        bus: E,
        redis: Option<Redis>,
    ) -> Result<Self, ControlError> {
        let setup = |what| move |source| ControlError::Setup { what, source };
        let settings = spec.settings;
        let probe = spec.probe;
        let phase = Arc::clone(&spec.phase);
        let mut core = Core::new(CoreParts {
            ports: spec.ports,
            store,
            bus,
            snapshot: spec.snapshot,
            targets: spec.targets,
            settings: settings.clone(),
            phase,
            probe: Arc::clone(&probe),
            seed: spec.seed,
        });
        core.instance = spec.instance;
        let exporter = spec.spans.map(|export| {
            let (queue, exporter) = Exporter::start(&export, Arc::clone(&probe));
            core.spans = Some(queue);
            exporter
        });
        let links = spec.nodes.map(|rules| {
            let keys = PeerKeys::from_salt(&core.snapshot().salt);
            let seed = core.random.u64(..);
            let (nodes, links) = Nodes::new(rules, core.instance, keys, seed, Arc::clone(&probe));
            core.nodes = Some(nodes);
            links
        });
        if let Some(admin) = spec.admin {
            admin.serve().map_err(setup("the admin listener"))?;
        }
        for listener in spec.internal {
            listener.serve().map_err(setup("the internal listener"))?;
        }
        // Whoever reads it there may dial at once.
        let registry = redis.zip(spec.redis.and_then(|redis| redis.registry));
        let registry =
            registry.map(|(redis, rules)| Registry::start(redis, rules, Arc::clone(&probe)));
        let https = spec.keys.jwks().any(|set| set.url.starts_with("https:"))
            || spec.validation.as_ref().is_some_and(ValidationRules::is_https);
        let web = WebClient::new(https).map_err(ControlError::Roots)?;
        let fetches = KeyFetches::start(&web, &spec.keys);
        let ask = |rules| Validations::new(rules, web.clone(), Arc::clone(&probe));
        Ok(Self {
            fetches,
            validations: spec.validation.map(ask),
            web,
            lookups: Lookups::start(core.book.hosts(), settings.resolve_refresh),
            links,
            registry,
            holder: spec.holder,
            answering: JoinSet::new(),
            exporter,
            core,
            bell: spec.bell,
            wake: watch(spec.wake).map_err(setup("the doorbell"))?,
            clock: Clock::start(),
            signals: Signals::listen().map_err(setup("the signals"))?,
            keys: spec.keys,
            certificates: Watch::new(spec.certificates, Arc::clone(&probe)),
            settings,
            reload: spec.reload,
            asks: spec.asks,
            shown: spec.shown,
            probe,
            key_poll: every(KEY_POLL),
            watchdog: systemd::watchdog_interval().map(every),
        })
    }
}

fn every(period: Duration) -> Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Between two looks at the files of keys and certificates.
const KEY_POLL: Duration = Duration::from_secs(1);
/// Look-ups at one time; the rest wait for theirs.
const BLOCKING_THREADS_MAX: usize = 8;
