//! Kafka as the bus: what the gateway publishes goes out through a spool, what services publish for
//! sessions is read from all partitions by every node, and what a session from elsewhere may lack is
//! read again.
//!
//! No group, no commits: the positions are this process's own. Brokers that do not answer are waited
//! for, and nothing is lost by it but what the spool does not hold. librdkafka's threads are made by
//! the control core and stay where it is.

mod bell;
mod contact;
mod counts;
mod headers;
mod partitioner;
mod positions;
mod publisher;
mod reader;
mod scans;
mod settings;
mod surveyor;
mod topics;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use ahash::AHashMap;
use corelane_shard::id::SessionId;
use futures_util::task::AtomicWaker;
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message as _};
use thiserror::Error;
use tokio::time::{Interval, MissedTickBehavior};
use tracing::{info, warn};

use self::bell::{Bell, listen};
use self::contact::Contact;
use self::counts::Fault;
use self::partitioner::SessionKey;
use self::positions::{Assign, Positions, Taken};
use self::publisher::{Bounds, Publisher};
use self::reader::{Read, Reader};
use self::scans::{Ended, Finished, Live, Scans};
use self::settings::Role;
use self::surveyor::{Answer, Creation, Found, Question, Surveyor};
use self::topics::{Inbound, RPC_RESPONSES, Topics};
use super::{Arrival, EventBus, Position, Record, Replay};
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

/// The looks for topics.
#[derive(Debug, Default)]
struct Survey {
    asked: Option<Instant>,
    under_way: bool,
    /// Something was not there at the last one.
    incomplete: bool,
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
        let publisher = Publisher::new(publisher_config, contact.sibling(), bounds)?;
        let reader = |role| {
            let config = settings.client(role);
            Reader::new(&config, contact.sibling(), Bell::new(&waker))
        };
        let (live, replay) = (reader(Role::LiveReader)?, reader(Role::ReplayReader)?);
        let surveyor =
            Surveyor::start(replay.consumer(), topics.clone(), creation, Bell::new(&waker))?;
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        info!(brokers = settings.brokers.join(","), "the event bus is Kafka");
        let mut this = Self {
            settings,
            topics,
            probe: Arc::clone(probe),
            publisher,
            live,
            replay,
            surveyor,
            contact,
            waker,
            positions: Default::default(),
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

    fn look_for_topics(&mut self) {
        self.positions.iter_mut().for_each(Positions::ask);
        self.survey.asked = Some(Instant::now());
        self.survey.under_way = true;
        self.surveyor.ask(Question::Topics);
    }

    /// About once a second.
    fn tend(&mut self) {
        self.publisher.tend();
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
        self.live.bell().keep();
        self.replay.bell().keep();
    }

    fn take_answers(&mut self) {
        while let Some(answer) = self.surveyor.next() {
            match answer {
                Answer::Topic(topic, found) => self.learn(topic, &found),
                Answer::Ends(partition, Some(marks)) => {
                    if let Some(from) = self.scans.surveyed(partition, marks) {
                        self.end_reading(partition);
                        self.reading.push(partition);
                        let topic = self.topics.on_brokers(Inbound::ClientEvents);
                        self.replay.assign(topic, &[(partition, from)]);
                    }
                }
                // Asked again at the next tick.
                Answer::Ends(_, None) => {}
                Answer::Done(up) => {
                    self.contact.reached(up);
                    self.survey.under_way = false;
                    let known = |positions: &Positions| {
                        positions.is_ready() && positions.partitions().is_some()
                    };
                    self.survey.incomplete = !up || !self.positions.iter().all(known);
                }
            }
            self.due.scans = true;
        }
    }

    fn learn(&mut self, topic: Inbound, found: &Found) {
        let positions = &mut self.positions[topic as usize];
        let before = positions.partitions();
        let marks = match found {
            Found::Missing => {
                positions.missing();
                &[][..]
            }
            Found::Partitions(marks) => marks,
        };
        let assigned = if marks.is_empty() { Vec::new() } else { positions.surveyed(marks) };
        self.probe.kafka.lags(topic, positions.behind(marks));
        if positions.partitions() != before {
            let partitions = positions.partitions().unwrap_or(0);
            info!(topic = topic.name(), partitions, "topic found");
        }
        let name = self.topics.on_brokers(topic);
        let mut begun = Vec::with_capacity(assigned.len());
        for Assign { partition, from, again } in assigned {
            if again {
                warn!(
                    topic = topic.name(),
                    partition, from, "a partition has lost its end; read anew"
                );
                self.live.unassign(name, partition);
                if let (Inbound::ClientEvents, Some(Some(marks))) =
                    (topic, marks.get(partition as usize))
                {
                    self.scans.shortened(partition, marks.high);
                }
            }
            begun.push((partition, from));
        }
        if !begun.is_empty() {
            self.live.assign(name, &begun);
        }
        if topic == Inbound::ClientEvents {
            let events = &self.positions[topic as usize];
            self.probe.kafka.partitions.set(u64::from(events.partitions().unwrap_or(0)));
            if events.is_ready() {
                self.publisher.release();
            }
        }
        self.finish_scans();
    }

    fn begin_scans(&mut self) {
        let events = &self.positions[Inbound::ClientEvents as usize];
        let asked = self.scans.begin(|partition| match events.next(partition) {
            Some(next) => Live::At(next),
            None if events.lacks(partition) => Live::Gone,
            None => Live::Unknown,
        });
        for partition in asked {
            self.surveyor.ask(Question::Ends(partition));
        }
        for Replay { session, from, .. } in self.scans.take_ahead() {
            self.ahead.insert(session, from);
        }
        self.probe.kafka.scans.set(self.scans.running() as u64);
    }

    fn finish_scans(&mut self) {
        for Finished { partition, length } in self.scans.take_finished() {
            self.probe.kafka.scan_length.observe(length as f64);
            self.end_reading(partition);
            self.due.scans = true;
        }
    }

    fn end_reading(&mut self, partition: u32) {
        if let Some(at) = self.reading.iter().position(|reading| *reading == partition) {
            self.reading.swap_remove(at);
            self.replay.unassign(self.topics.on_brokers(Inbound::ClientEvents), partition);
        }
    }

    fn read_live(&mut self, wanted: &mut dyn FnMut(SessionId) -> bool) -> Option<Arrival> {
        let Self { live, topics, positions, probe, budget, settings, ahead, .. } = self;
        let counts = &probe.kafka;
        while *budget > 0 {
            let Read::Record(message) = live.next()? else { continue };
            *budget -= 1;
            counts.read.add(1);
            let (partition, offset) = place(&message);
            let Some(topic) = topics.find(message.topic()) else { continue };
            match positions[topic as usize].take(partition, offset) {
                Taken::Next { missed: 0 } => {}
                Taken::Next { missed } => {
                    counts.missed.add(missed);
                    let topic = topic.name();
                    warn!(topic, partition, missed, "records were gone before they were read");
                }
                Taken::Duplicate => {
                    counts.fault(Fault::Duplicate);
                    continue;
                }
            }
            if topic != Inbound::ClientEvents {
                let record = taken(&message, topics.shared(topic), settings, probe);
                let Some(record) = record else { continue };
                return Some(Arrival::Record(record));
            }
            let key = message.key().unwrap_or_default();
            let Some(session) = SessionKey::session(key) else {
                counts.fault(Fault::Key);
                continue;
            };
            if !wanted(session) {
                continue;
            }
            let has = |at: &Position| at.partition == partition && offset < at.offset;
            if !ahead.is_empty() && ahead.get(&session).is_some_and(has) {
                counts.fault(Fault::Ahead);
                continue;
            }
            let of = positions[topic as usize].partitions().unwrap_or(0);
            if settings.partitioner.partition(key, of) != Some(partition) {
                counts.fault(Fault::Misplaced);
                if !std::mem::replace(&mut self.misplaced_said, true) {
                    warn!(
                        partition,
                        offset,
                        "an event is in another partition than kafka.partitioner says: what is \
                         published before a session changes nodes may not be found again; set it to \
                         what publishers use"
                    );
                }
            }
            let record = taken(&message, topics.shared(topic), settings, probe);
            if let Some(record) = record {
                return Some(Arrival::ForSession { session, record });
            }
        }
        None
    }

    fn read_replay(&mut self, wanted: &mut dyn FnMut(SessionId) -> bool) -> Option<Arrival> {
        while self.budget > 0 {
            let Self { replay, topics, scans, probe, settings, surveyor, budget, .. } = &mut *self;
            let arrival = match replay.next()? {
                Read::Error => None,
                Read::End(partition) => {
                    if scans.reached_end(partition) {
                        surveyor.ask(Question::Ends(partition));
                    }
                    None
                }
                Read::Record(message) => {
                    *budget -= 1;
                    probe.kafka.scan_records.add(1);
                    let (partition, offset) = place(&message);
                    let session = message.key().and_then(SessionKey::session);
                    let epoch = scans.offer(partition, offset, session);
                    session.zip(epoch).filter(|(session, _)| wanted(*session)).and_then(
                        |(session, epoch)| {
                            let topic = topics.shared(Inbound::ClientEvents);
                            let record = taken(&message, topic, settings, probe)?;
                            Some(Arrival::Replayed { session, epoch, record })
                        },
                    )
                }
            };
            self.finish_scans();
            if arrival.is_some() {
                return arrival;
            }
            // Whoever has everything is told before others have more.
            if self.scans.has_ended() {
                return self.ended();
            }
        }
        None
    }

    fn ended(&mut self) -> Option<Arrival> {
        let Ended { session, epoch, missing } = self.scans.next_ended()?;
        Some(Arrival::ReplayEnded { session, epoch, missing })
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
        self.publisher.flushed().register(context.waker());
        if self.publisher.is_flushed() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn live(&self, session: SessionId) -> Option<Position> {
        let events = &self.positions[Inbound::ClientEvents as usize];
        let key = SessionKey::of(session);
        let partition = self.settings.partitioner.partition(key.bytes(), events.partitions()?)?;
        Some(Position { partition, offset: events.next(partition)? })
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
        self.take_answers();
        if std::mem::take(&mut self.due.scans) && self.scans.has_waiting() {
            self.begin_scans();
        }
        if self.scans.has_ended() {
            return self.ended();
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
        let bells = [self.live.bell(), self.replay.bell(), self.surveyor.bell()];
        let due = tick || more || waits || self.scans.has_ended();
        if due || bells.into_iter().any(Bell::has_rung) { Poll::Ready(()) } else { Poll::Pending }
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

fn place(message: &BorrowedMessage<'_>) -> (u32, u64) {
    let partition = u32::try_from(message.partition()).unwrap_or(u32::MAX);
    (partition, u64::try_from(message.offset()).unwrap_or(0))
}

/// The record of a message; odd ones are counted.
fn taken(
    message: &BorrowedMessage<'_>,
    topic: Arc<str>,
    settings: &KafkaSettings,
    probe: &ControlProbe,
) -> Option<Record> {
    let Some(value) = message.payload().filter(|value| !value.is_empty()) else {
        probe.kafka.fault(Fault::Empty);
        return None;
    };
    if value.len() > settings.record_bytes_max {
        probe.kafka.fault(Fault::TooLong);
        return None;
    }
    let (partition, offset) = place(message);
    Some(Record {
        topic,
        key: Box::default(),
        value: value.into(),
        expires_at_ms: message.headers().and_then(headers::expiry),
        position: Some(Position { partition, offset }),
        trail: None,
    })
}

/// Between two looks at what goes by itself.
const TICK: Duration = Duration::from_secs(1);
/// Records that one turn of the control core looks at, wanted or not.
const BUDGET: u32 = 4096;

#[cfg(test)]
mod tests;
