//! What a run is played on: gateways, and the Redis and the Kafka behind them. Breaks them and mends
//! what it broke, one fault at a time.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::event_ledger::publisher::{OverHttp, OverKafka, Publisher, TOPIC};
use crate::gateway_process::{Gateway, Launch};
use crate::script::Fault;
use crate::services::{Kafka, Redis, port};

/// A gateway that could not renew its lease for 3 s delivers nothing until it has asked.
const PAST_THE_LEASE: Duration = Duration::from_secs(4);

/// A gateway that was killed stays away for so long.
const ABSENCE: Duration = Duration::from_millis(500);

const SERVICE_TOKEN: &str = "of-the-publisher";
const PARTITIONS: usize = 8;

/// Small enough that two fit on one machine, and room for every session on each.
const SETTINGS: [(&str, &str); 9] = [
    ("shards.count", "1"),
    ("shards.connections_max", "512"),
    ("shards.receive_buffers", "256"),
    ("shards.submission_entries", "256"),
    ("shards.block_pool_bytes", "32MiB"),
    ("shards.lane_capacity", "1024"),
    ("limits.messages_per_window", "0"),
    ("session.disconnect_event", "false"),
    ("session.disconnect_text", "false"),
];

pub(crate) struct Stage {
    launches: Vec<Launch>,
    /// `None` while one is away.
    gateways: Vec<Option<Gateway>>,
    services: Option<Services>,
    repair: Option<Repair>,
}

/// What the gateways of a cluster share. They are stopped and started beside the run.
struct Services {
    redis: Arc<Mutex<Redis>>,
    kafka: Arc<Mutex<Kafka>>,
}

/// How what is broken now is mended.
enum Repair {
    StartGateway {
        number: usize,
        at: Instant,
    },
    ThawGateway {
        number: usize,
        at: Instant,
    },
    /// Somebody else is at it.
    Wait(JoinHandle<()>),
}

/// Whether Redis keeps over a restart what it was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Persistence {
    On,
    Off,
}

/// Whether the gateways of a cluster talk with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Links {
    None,
    Full,
}

impl Stage {
    /// One gateway with its own stores.
    pub(crate) fn of_one() -> Self {
        let launch = launch("")
            .set("listen.internal.address", "127.0.0.1:0")
            .set("listen.internal.service_token", SERVICE_TOKEN);
        let gateways = vec![Some(launch.clone().start())];
        Self { launches: vec![launch], gateways, services: None, repair: None }
    }

    /// Gateways that share a Redis and a Kafka.
    pub(crate) fn of_a_cluster(gateways: usize, persistence: Persistence, links: Links) -> Self {
        let kafka = thread::spawn(|| {
            let kafka = Kafka::start();
            kafka.create_topic(TOPIC, PARTITIONS, &[]);
            kafka
        });
        let redis = match persistence {
            Persistence::On => Redis::setup().persistent().start(),
            Persistence::Off => Redis::start(),
        };
        let kafka = kafka.join().expect("Kafka starts");
        let config = format!(
            "[redis]\nurl = \"{}\"\n[kafka]\nbrokers = [\"{}\"]\ncreate_topics = true\n",
            redis.url(),
            kafka.brokers()
        );
        let launches: Vec<Launch> = (0..gateways)
            .map(|number| {
                // One that starts again is the one that it was.
                let instance = uuid::Uuid::from_u128(0x1ed9_e400 + number as u128);
                let launch = launch(&config)
                    .set("control.node", &number.to_string())
                    .set("control.instance", &instance.to_string());
                match links {
                    Links::None => launch,
                    Links::Full => linked(launch),
                }
            })
            .collect();
        let gateways = launches.iter().map(|launch| Some(launch.clone().start())).collect();
        let (redis, kafka) = (Arc::new(Mutex::new(redis)), Arc::new(Mutex::new(kafka)));
        let services = Some(Services { redis, kafka });
        Self { launches, gateways, services, repair: None }
    }

    pub(crate) fn publisher(&self) -> Box<dyn Publisher> {
        match &self.services {
            Some(services) => Box::new(OverKafka::new(&lock(&services.kafka), TOPIC)),
            None => {
                let gateway = self.gateways[0].as_ref().expect("it is not killed");
                Box::new(OverHttp::new(gateway.internal(), SERVICE_TOKEN))
            }
        }
    }

    /// Where clients connect; `None` for a gateway that is away.
    pub(crate) fn doors(&self) -> Vec<Option<SocketAddr>> {
        self.gateways.iter().map(|gateway| gateway.as_ref().map(Gateway::public)).collect()
    }

    /// Whether so many sessions are open in the store. A shared one knows them before their clients.
    pub(crate) fn knows(&self, sessions: usize) -> bool {
        let mut here = self.gateways.iter().flatten();
        let known = |gateway: &Gateway| gateway.metrics().sum("corelane_directory_sessions");
        self.services.is_some() || here.all(|gateway| known(gateway) == sessions as f64)
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.repair.is_none()
    }

    /// Everything must be whole. What concerns clients alone is for those who have them.
    pub(crate) fn apply(&mut self, fault: Fault, gateway: usize) {
        assert!(self.is_whole(), "one fault at a time");
        let at = Instant::now() + PAST_THE_LEASE;
        self.repair = match fault {
            Fault::KillClients => None,
            Fault::KillGateway => {
                drop(self.gateways[gateway].take());
                Some(Repair::StartGateway { number: gateway, at: Instant::now() + ABSENCE })
            }
            Fault::FreezeGateway => {
                self.signal(gateway, Signal::STOP);
                Some(Repair::ThawGateway { number: gateway, at })
            }
            Fault::RestartRedis => Some(self.with_redis(Redis::restart)),
            Fault::KillRedis => Some(self.with_redis(|redis| {
                redis.kill();
                redis.restart();
            })),
            Fault::FreezeRedis => Some(self.with_redis(|redis| {
                redis.pause();
                thread::sleep(PAST_THE_LEASE);
                redis.resume();
            })),
            Fault::RestartKafka => Some(self.with_kafka(Kafka::restart)),
            Fault::KillKafka => Some(self.with_kafka(|kafka| {
                kafka.kill();
                kafka.restart();
            })),
            Fault::FreezeKafka => Some(self.with_kafka(|kafka| {
                kafka.pause();
                thread::sleep(PAST_THE_LEASE);
                kafka.resume();
            })),
        };
    }

    /// Mends what is due.
    pub(crate) fn mend(&mut self) {
        let now = Instant::now();
        match self.repair.take() {
            Some(Repair::StartGateway { number, at }) if now >= at => {
                self.gateways[number] = Some(self.launches[number].clone().start());
            }
            Some(Repair::ThawGateway { number, at }) if now >= at => {
                self.signal(number, Signal::CONT);
            }
            Some(Repair::Wait(work)) if work.is_finished() => {
                work.join().expect("a service comes back");
            }
            not_yet => self.repair = not_yet,
        }
        for (number, gateway) in self.gateways.iter_mut().enumerate() {
            let Some(gateway) = gateway else { continue };
            if let Some(status) = gateway.ended() {
                panic!("gateway {number} has ended ({status}):\n{}", gateway.log().tail());
            }
        }
    }

    /// What the gateways have said last, for a run that fails.
    pub(crate) fn last_words(&self) -> String {
        let words = self.gateways.iter().enumerate().map(|(number, gateway)| {
            let log = gateway.as_ref().map_or("away".to_owned(), |gateway| gateway.log().tail());
            format!("gateway {number}:\n{log}\n")
        });
        words.collect()
    }

    fn signal(&self, gateway: usize, signal: Signal) {
        self.gateways[gateway].as_ref().expect("one fault at a time").signal(signal);
    }

    fn with_redis(&self, work: impl FnOnce(&mut Redis) + Send + 'static) -> Repair {
        let redis = Arc::clone(&self.services().redis);
        Repair::Wait(thread::spawn(move || work(&mut lock(&redis))))
    }

    fn with_kafka(&self, work: impl FnOnce(&mut Kafka) + Send + 'static) -> Repair {
        let kafka = Arc::clone(&self.services().kafka);
        Repair::Wait(thread::spawn(move || work(&mut lock(&kafka))))
    }

    fn services(&self) -> &Services {
        self.services.as_ref().expect("only a cluster has services to break")
    }
}

/// A gateway that ends with this test, whatever ends that.
fn launch(config: &str) -> Launch {
    let launch = Launch::new(config).through(&["setpriv", "--pdeathsig", "KILL", "--"]);
    SETTINGS.iter().fold(launch, |launch, (key, value)| launch.set(key, value))
}

/// The others find it through Redis, also after it was started again.
fn linked(launch: Launch) -> Launch {
    let address = format!("127.0.0.1:{}", port::free());
    launch
        .set("listen.internal.address", &address)
        .set("listen.internal.service_token", SERVICE_TOKEN)
        .set("nodes.internal_url", &format!("ws://{address}"))
        .set("nodes.heartbeat_interval_seconds", "5")
        .set("nodes.stale_threshold_seconds", "15")
}

/// A panic of whoever held it fails the run by itself.
fn lock<T>(what: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}
