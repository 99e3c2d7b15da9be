//! Kafka as the bus: what the gateway publishes goes out through a spool, what services publish for
//! sessions is read from all partitions by every node, and what a session from elsewhere may lack is
//! read again.
//!
//! No group, no commits: the positions are this process's own. Brokers that do not answer are waited
//! for, and nothing is lost by it but what the spool does not hold. librdkafka's threads are made by
//! the control core and stay where it is.

mod bell;
mod brokers;
mod contact;
mod counts;
mod fetched;
mod groups;
mod headers;
mod learning;
mod partitioner;
mod positions;
mod publisher;
mod reader;
mod scans;
mod settings;
mod surveyor;
mod taking;
mod topics;

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use ahash::AHashMap;
use corelane_shard::id::SessionId;
use futures_util::task::AtomicWaker;
use rdkafka::error::KafkaError;
use thiserror::Error;
use tokio::time::{Interval, MissedTickBehavior};
use tracing::info;

use self::bell::{Bell, listen};
use self::contact::Contact;
use self::learning::Survey;
use self::partitioner::SessionKey;
use self::positions::Positions;
use self::publisher::{Bounds, Publisher};
use self::reader::Reader;
use self::scans::Scans;
use self::settings::Role;
use self::surveyor::{Creation, Question, Surveyor};
use self::topics::{Inbound, RPC_RESPONSES, Topics};
use super::{Arrival, EventBus, Missing, Position, Record, Replay};
use crate::control::probe::ControlProbe;

pub use self::counts::KafkaCounts;
pub use self::partitioner::Partitioner;
pub use self::settings::{KafkaSettings, RESERVED, takes};

/// Why there is no talk with Kafka.
#[derive(Debug, Error)]
pub enum KafkaStartError {
    #[error("librdkafka cannot be set up: {0}; correct [kafka] and [kafka.librdkafka]")]
    Client(#[from] KafkaError),
    #[error("cannot start the thread that looks for topics: {0}; check the limit of tasks")]
    Thread(#[from] io::Error),
}

/// The bus of nodes that share brokers. Made on the control core, within its runtime.
pub struct KafkaBus {
    settings: KafkaSettings,
    /// Those of the configuration, as librdkafka wants them.
    brokers: CString,
    topics: Topics,
    probe: Arc<ControlProbe>,
    publisher: Publisher,
    live: Reader,
    replay: Reader,
    surveyor: Surveyor,
    contact: Contact,
    waker: Arc<AtomicWaker>,
    /// By [`Inbound`].
    positions: [Positions; Inbound::ALL.len()],
    /// Of the events for sessions, by partition: what was gone before it was read.
    missed: BTreeMap<u32, Missing>,
    scans: Scans,
    /// Partitions that the replay reader is assigned.
    reading: Vec<u32>,
    /// Up to where clients have what the live reading has yet to come to.
    ahead: AHashMap<SessionId, Position>,
    ticks: Interval,
    due: Due,
    survey: Survey,
    /// Records that may still be looked at before others have their turn.
    budget: u32,
    replay_first: bool,
    misplaced_said: bool,
}

/// What the next call of `next` has to see to.
#[derive(Debug, Default)]
struct Due {
    tick: bool,
    scans: bool,
    /// The budget was used up.
    more: bool,
}

impl KafkaBus {
    /// The brokers need not be there.
    pub fn start(
        settings: KafkaSettings,
        probe: &Arc<ControlProbe>,
    ) -> Result<Self, KafkaStartError> {
        let waker = Arc::<AtomicWaker>::default();
        let contact = Contact::new(probe);
        let topics = Topics::new(&settings.topic_prefix);
        probe.kafka.begin();
        let bounds = Bounds {
            records: settings.spool_records as u64,
            bytes: settings.spool_bytes as u64,
            timeout: settings.delivery_timeout,
        };
        let publisher_config = settings.client(Role::Publisher);
        let creation = settings
            .create_partitions
            .map(|partitions| Creation { config: publisher_config.clone(), partitions });
        let bell = Bell::new(&waker);
        let publisher = Publisher::new(publisher_config, contact.sibling(), bounds, bell)?;
        let reader = |role| {
            let config = settings.client(role);
            Reader::new(&config, contact.sibling(), &waker)
        };
        let (live, replay) = (reader(Role::LiveReader)?, reader(Role::ReplayReader)?);
        let surveyor =
            Surveyor::start(replay.consumer(), topics.clone(), creation, Bell::new(&waker))?;
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let brokers = settings.bootstrap_servers();
        info!(brokers, "the event bus is Kafka");
        let brokers = CString::new(brokers).unwrap_or_default();
        let mut this = Self {
            settings,
            brokers,
            topics,
            probe: Arc::clone(probe),
            publisher,
            live,
            replay,
            surveyor,
            contact,
            waker,
            positions: Default::default(),
            missed: BTreeMap::new(),
            scans: Scans::default(),
            reading: Vec::new(),
            ahead: AHashMap::new(),
            ticks,
            due: Due::default(),
            survey: Survey::default(),
            budget: BUDGET,
            replay_first: false,
            misplaced_said: false,
        };
        this.look_for_topics();
        Ok(this)
    }

    /// About once a second.
    fn tend(&mut self) {
        self.publisher.tend(&self.brokers);
        self.live.find_brokers(&self.brokers);
        self.replay.find_brokers(&self.brokers);
        let since = self.survey.asked.map_or(Duration::MAX, |asked| asked.elapsed());
        if !self.survey.under_way && (self.survey.incomplete || since >= self.settings.refresh) {
            self.look_for_topics();
        }
        for partition in self.scans.asking().collect::<Vec<_>>() {
            self.surveyor.ask(Question::Ends(partition));
        }
        let events = &self.positions[Inbound::ClientEvents as usize];
        self.ahead.retain(|_, at| events.next(at.partition).is_some_and(|next| next < at.offset));
        self.due.scans = true;
        // Should a ring ever be lost, it costs a second.
        self.live.look_again();
        self.replay.look_again();
    }
}

impl EventBus for KafkaBus {
    fn wants(&self, _topic: &str) -> bool {
        true
    }

    fn publish(&mut self, record: Record) {
        self.publisher.publish(self.topics.prefixed(&record.topic), record);
    }

    fn publish_answer(&mut self, record: Record) {
        if self.settings.shared_rpc_topic {
            let key = record.topic.to_string().into();
            self.publish(Record { topic: RPC_RESPONSES.into(), key, ..record });
        } else {
            self.publish(record);
        }
    }

    fn gives_back(&self) -> bool {
        true
    }

    fn poll_flushed(&mut self, context: &mut Context<'_>) -> Poll<()> {
        // Whether services can be heard does not matter any more.
        self.publisher.release();
        while self.ticks.poll_tick(context).is_ready() {
            self.publisher.tend(&self.brokers);
        }
        listen(&self.waker, context);
        self.publisher.flushed().register(context.waker());
        if self.publisher.bell().take() {
            self.publisher.send_waiting();
        }
        if self.publisher.is_flushed() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn live(&self, session: SessionId) -> Option<Position> {
        let events = &self.positions[Inbound::ClientEvents as usize];
        let key = SessionKey::of(session);
        let partition = self.settings.partitioner.partition(key.bytes(), events.partitions()?)?;
        let offset = events.next(partition)?;
        // What is passed over here its client has.
        let ahead = self.ahead.get(&session).filter(|at| at.partition == partition);
        let offset = ahead.map_or(offset, |at| at.offset.max(offset));
        Some(Position { partition, offset })
    }

    fn replay(&mut self, replay: Replay) {
        self.ahead.remove(&replay.session);
        self.scans.wish(replay);
        self.due.scans = true;
    }

    fn next(&mut self, wanted: &mut dyn FnMut(SessionId) -> bool) -> Option<Arrival> {
        if std::mem::take(&mut self.due.tick) {
            self.tend();
        }
        if self.publisher.bell().take() {
            self.publisher.send_waiting();
        }
        self.take_answers();
        if !self.missed.is_empty() {
            return Some(Arrival::Missed(std::mem::take(&mut self.missed)));
        }
        if std::mem::take(&mut self.due.scans) && self.scans.has_waiting() {
            self.begin_scans();
        }
        if self.scans.has_told() {
            return self.told();
        }
        // Neither starves the other.
        self.replay_first = !self.replay_first;
        let arrival = if self.replay_first {
            let replayed = self.read_replay(wanted);
            if replayed.is_some() { replayed } else { self.read_live(wanted) }
        } else {
            let live = self.read_live(wanted);
            if live.is_some() { live } else { self.read_replay(wanted) }
        };
        if arrival.is_none() {
            self.due.more = self.budget == 0;
            self.budget = BUDGET;
        }
        arrival
    }

    fn poll_arrival(&mut self, context: &mut Context<'_>) -> Poll<()> {
        listen(&self.waker, context);
        while self.ticks.poll_tick(context).is_ready() {
            self.due.tick = true;
        }
        let Due { tick, scans, more } = self.due;
        let waits = scans && self.scans.has_waiting();
        let due = tick || more || waits || self.scans.has_told();
        let rung = self.live.has_rung()
            || self.replay.has_rung()
            || self.surveyor.bell().has_rung()
            || self.publisher.bell().has_rung();
        if due || rung { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl fmt::Debug for KafkaBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaBus")
            .field("positions", &self.positions)
            .field("scans", &self.scans)
            .finish_non_exhaustive()
    }
}

/// Between two looks at what goes by itself.
const TICK: Duration = Duration::from_secs(1);
/// Records that one turn of the control core looks at, wanted or not.
const BUDGET: u32 = 4096;

#[cfg(test)]
mod tests;
