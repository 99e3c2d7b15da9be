//! The registry in Redis: a node says there that it can be reached, finds the others, and keeps the
//! lease of its number. One task does it, beat by beat; a beat that fails is made up for by the next.

mod number;
mod record;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redis::{FromRedisValue as _, Value};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tracing::{debug, warn};

pub use self::number::{Lessee, NumberError, lease};
pub use self::record::NodeRecord;
use super::probe::ControlProbe;
use super::redis::{Batch, Fault, Redis, Reply, Status, Watch, script};

script! {
    static BEAT = "beat", include_str!("registry/lua/beat.lua");
}
script! {
    static LEAVE = "leave", include_str!("registry/lua/leave.lua");
}

/// What this node keeps there, and how often it says so.
#[derive(Debug, Clone)]
pub struct RegistryRules {
    pub lessee: Lessee,
    /// `None` for a node that others do not reach.
    pub record: Option<NodeRecord>,
    /// `None` for one whose number is configured.
    pub number: Option<u16>,
    /// Between two beats.
    pub interval: Duration,
    /// Without a beat for so long a node counts as gone.
    pub stale_after: Duration,
}

/// What a beat has told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum News {
    /// The other nodes, the newest first.
    Nodes(Vec<NodeRecord>),
    /// The number of this node is another instance's.
    NumberTaken { by: Box<str> },
}

#[derive(Debug)]
pub(super) struct Registry {
    keeper: Keeper,
    news: mpsc::Receiver<News>,
    hurry: Arc<Notify>,
    task: JoinHandle<()>,
}

#[derive(Debug, Clone)]
struct Keeper {
    redis: Redis,
    rules: RegistryRules,
    probe: Arc<ControlProbe>,
}

impl Registry {
    /// To be called within the control core's runtime.
    pub(super) fn start(redis: Redis, rules: RegistryRules, probe: Arc<ControlProbe>) -> Self {
        let (tell, news) = mpsc::channel(NEWS_MAX);
        let hurry = Arc::<Notify>::default();
        let keeper = Keeper { redis, rules, probe };
        let task = tokio::spawn(keeper.clone().beat_on(tell, Arc::clone(&hurry)));
        Self { keeper, news, hurry, task }
    }

    pub(super) async fn next(&mut self) -> News {
        match self.news.recv().await {
            Some(news) => news,
            None => std::future::pending().await,
        }
    }

    /// The next beat is due.
    pub(super) fn hurry(&self) {
        self.hurry.notify_one();
    }

    /// This node is not there any more; said so as far as Redis answers.
    pub(super) async fn leave(self) {
        self.task.abort();
        if timeout(LEAVE_MAX, self.keeper.leave()).await.is_err() {
            self.keeper.probe.nodes.registry_failures.increment();
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Keeper {
    async fn beat_on(self, tell: mpsc::Sender<News>, hurry: Arc<Notify>) {
        let mut watch = self.redis.watch();
        // The first connection takes a moment; without it the first beat fails.
        let _in_time = timeout(self.rules.interval, connection(&mut watch)).await;
        let mut beats = interval(self.rules.interval);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = tokio::select! {
                _ = beats.tick() => true,
                () = hurry.notified() => true,
                // Whatever happened meanwhile, Redis may have forgotten this node.
                () = watch.changed() => matches!(watch.status(), Status::Up(_)),
            };
            if !due {
                continue;
            }
            match self.beat().await {
                Ok(all) => {
                    for news in all {
                        if tell.send(news).await.is_err() {
                            return;
                        }
                    }
                }
                Err(fault) => {
                    debug!(reason = %fault, "the registry of nodes was not reached");
                    self.probe.nodes.registry_failures.increment();
                }
            }
            sleep(PAUSE_MIN).await;
        }
    }

    async fn beat(&self) -> Result<Vec<News>, Fault> {
        let Self { redis, rules, .. } = self;
        let mut batch = Batch::default();
        if let Some(record) = &rules.record {
            batch.script(
                &BEAT,
                [
                    key_prefix(redis),
                    now_ms().to_string(),
                    record.to_json(),
                    rules.lessee.instance.to_string(),
                    rules.stale_after.as_secs().to_string(),
                    NODES_MAX.to_string(),
                ],
            );
        }
        if let Some(number) = rules.number {
            number::keep(&mut batch, redis, rules.lessee, number, number::LEASE_LIFE);
        }
        let mut replies = redis.run(&batch).await?.into_iter();
        let mut news = Vec::new();
        if rules.record.is_some()
            && let Some(reply) = replies.next()
        {
            news.push(News::Nodes(others(reply)?));
        }
        if rules.number.is_some()
            && let Some(reply) = replies.next()
            && let Some(by) = number::kept(reply)?
        {
            news.push(News::NumberTaken { by });
        }
        Ok(news)
    }

    async fn leave(&self) {
        let Self { redis, rules, probe } = self;
        let mut batch = Batch::default();
        if let Some(record) = &rules.record {
            batch.script(&LEAVE, [key_prefix(redis), record.to_json()]);
        }
        if let Some(number) = rules.number {
            number::keep(&mut batch, redis, rules.lessee, number, number::LEFT_LIFE);
        }
        let outcome = redis.run(&batch).await;
        let fault = match &outcome {
            Ok(replies) => replies.iter().find_map(|reply| reply.as_ref().err()),
            Err(fault) => Some(fault),
        };
        if let Some(fault) = fault {
            warn!(reason = %fault, "this node stays in the registry until it counts as gone");
            probe.nodes.registry_failures.increment();
        }
    }
}

async fn connection(watch: &mut Watch) {
    while watch.status() == Status::Down {
        watch.changed().await;
    }
}

fn others(reply: Reply) -> Result<Vec<NodeRecord>, Fault> {
    let Value::Array(texts) = reply? else {
        return Err(Fault::Server("a reply that means nothing".into()));
    };
    let record = |value| {
        let text = String::from_redis_value(value).ok()?;
        let record = NodeRecord::read(&text);
        if record.is_none() {
            debug!(text, "a node in the registry cannot be dialled from here");
        }
        record
    };
    Ok(texts.into_iter().filter_map(record).collect())
}

/// Before every key.
fn key_prefix(redis: &Redis) -> String {
    format!("{}connect:", redis.prefix())
}

fn now_ms() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()
}

/// Nodes of the registry that are looked at.
const NODES_MAX: usize = 256;
/// Told and not heard.
const NEWS_MAX: usize = 4;
/// Between two beats, whatever hurries.
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// For the last word at the end of the process.
const LEAVE_MAX: Duration = Duration::from_secs(1);
