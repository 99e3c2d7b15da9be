//! The one who publishes events for the connections' sessions, on a thread of its own: at planned
//! times, or all at once while the server stands still. What of it arrives the sending threads see.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};

use super::driver::{Found, prepare_thread};
use super::intervals::Intervals;
use super::plan::{Plan, Word};
use super::tally::{Measured, Part, Tally};
use super::{RunError, clock};
use crate::scenario::{Arrival, EventTopic};
use crate::schedule::Schedule;
use crate::stamp::Stamp;
use crate::wire::event;

/// What stands before the session id in a record's key.
const SESSION_KEY: &str = "CONNECT_SESSION_";

/// Whom is published for, and how much so far.
#[derive(Debug)]
pub(crate) struct Published {
    /// By place of the whole.
    addressees: Vec<Addressee>,
    complete: AtomicBool,
}

#[derive(Debug, Default)]
struct Addressee {
    /// Once its connection is ready.
    session: OnceLock<Box<str>>,
    records: AtomicU64,
}

impl Published {
    pub(crate) fn new(places: usize) -> Self {
        let addressees = (0..places).map(|_| Addressee::default()).collect();
        Self { addressees, complete: AtomicBool::new(false) }
    }

    /// No more will be published.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    /// The session of a connection is known.
    pub(crate) fn introduce(&self, place: usize, session: &str) {
        // A place whose connection is opened again keeps its token and so its session.
        let _known = self.addressees[place].session.set(session.into());
    }

    /// Records for the session at `place` so far.
    #[inline]
    pub(crate) fn records(&self, place: usize) -> u64 {
        self.addressees[place].records.load(Ordering::Acquire)
    }
}

/// Counts records that the brokers did not get.
#[derive(Debug, Default)]
struct Deliveries {
    failed: AtomicU64,
    first: OnceLock<KafkaError>,
}

impl rdkafka::ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            self.failed.fetch_add(1, Ordering::Relaxed);
            let _later_ones = self.first.set(error.clone());
        }
    }
}

pub(crate) struct Publisher<'a> {
    plan: &'a Plan<'a>,
    published: &'a Published,
    topic: &'a EventTopic,
    producer: BaseProducer<Deliveries>,
    /// Of the thread, behind the sending ones.
    number: usize,
    tally: Tally,
    busy: f64,
}

impl<'a> Publisher<'a> {
    /// On the thread that publishes: those of librdkafka stay on its processor.
    pub(crate) fn new(
        plan: &'a Plan<'a>,
        published: &'a Published,
        topic: &'a EventTopic,
        number: usize,
    ) -> Result<Self, RunError> {
        prepare_thread(plan, number)?;
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &topic.brokers)
            // As Java's clients choose partitions, and the gateway unless it is told otherwise.
            .set("partitioner", "murmur2_random")
            .set("enable.idempotence", "true")
            .set("linger.ms", "1")
            .set("socket.nagle.disable", "true")
            .set("queue.buffering.max.messages", "1000000")
            .set("message.timeout.ms", "30000");
        let producer = BaseProducer::from_config_and_context(&config, Deliveries::default());
        let producer = producer.map_err(|error| publishing(&error))?;
        // Who cannot publish says so before anybody waits for it.
        let found = producer.client().fetch_metadata(Some(&topic.topic), METADATA_WITHIN);
        let found = found.map_err(|error| publishing(&error))?;
        let is_there = |it: &rdkafka::metadata::MetadataTopic| {
            it.error().is_none() && !it.partitions().is_empty()
        };
        if !found.topics().iter().any(is_there) {
            let cause = format!("{} has no topic {}", topic.brokers, topic.topic);
            return Err(RunError::Publishing { cause });
        }
        let tally = Tally { open_loop: plan.scenario.is_open_loop(), ..Tally::default() };
        Ok(Self { plan, published, topic, producer, number, tally, busy: 0.0 })
    }

    /// The whole run of this thread.
    pub(crate) fn run(mut self) -> Result<Found, RunError> {
        let id = rustix::thread::gettid().as_raw_nonzero().get() as u32;
        self.tell(Word::Begun { thread: self.number, id });
        if let Arrival::Backlog { events } = self.plan.scenario.arrival
            && self.await_word(|| self.plan.progress.is_filling())
        {
            self.fill(events)?;
            self.tell(Word::Filled);
        }
        if self.await_word(|| self.plan.progress.start().is_some()) {
            self.publish(self.plan.progress.start().unwrap_or(0))?;
        }
        self.settle();
        while !self.plan.progress.is_sampled() {
            thread::sleep(LOOK);
        }
        let Self { tally, busy, .. } = self;
        Ok(Found { tally, first_failure: None, busy })
    }

    fn tell(&self, word: Word) {
        // Without a main thread there is nobody to tell, and the run is over anyway.
        drop(self.plan.to_main.send(word));
    }

    /// Says whether the word came before the run was given up.
    fn await_word(&self, has_come: impl Fn() -> bool) -> bool {
        while !has_come() {
            if self.plan.progress.is_abandoned() {
                return false;
            }
            thread::sleep(LOOK);
        }
        true
    }

    /// Keys of those that can be published for, by place.
    fn keys(&self) -> Vec<(usize, String)> {
        let known = self.published.addressees.iter().enumerate();
        known
            .filter_map(|(place, addressee)| {
                Some((place, format!("{SESSION_KEY}{}", addressee.session.get()?)))
            })
            .collect()
    }

    /// All at once, to each session in turn; done when the brokers have everything.
    fn fill(&mut self, events: u64) -> Result<(), RunError> {
        let keys = self.keys();
        for (_, (place, key)) in (0..events).zip(keys.iter().cycle()) {
            self.send(*place, key, clock::now())?;
        }
        self.producer.flush(FLUSH_WITHIN).map_err(|error| publishing(&error))
    }

    /// As planned, to each session in turn.
    fn publish(&mut self, start: u64) -> Result<(), RunError> {
        let timing = &self.plan.scenario.timing;
        let horizon = timing.warm_up + timing.duration;
        let measured_from = start + clock::nanoseconds(timing.warm_up);
        let end = start + clock::nanoseconds(horizon);
        self.tally.measured = Measured { from: measured_from, until: end };
        let mut intervals = Intervals::new(start, timing);
        let scenario = self.plan.scenario;
        let plan = Schedule::new(&scenario.arrival, horizon, scenario.generator.seed);
        let keys = self.keys();
        let mut plan = plan.map(|offset| start + offset).zip(keys.iter().cycle()).peekable();
        let mut usage = None;
        loop {
            let now = clock::now();
            while now >= intervals.next() {
                let next = Part { index: intervals.advance(), ..Part::default() };
                let part = std::mem::replace(&mut self.tally.part, next);
                self.tell(Word::Part(part));
            }
            if usage.is_none() && now >= measured_from {
                usage = Some((now, clock::on_cpu()));
            }
            if now >= end || self.plan.progress.is_abandoned() {
                break;
            }
            while let Some((intended, (place, key))) = plan.next_if(|(due, _)| *due <= now) {
                self.tally.messages.planned += u64::from(self.tally.measured.contains(intended));
                self.send(*place, key, intended)?;
            }
            self.producer.poll(Duration::ZERO);
            let next = plan.peek().map_or(u64::MAX, |(due, _)| *due).max(now + PACE_NS);
            let wake_at = next.min(intervals.next()).min(end);
            thread::sleep(Duration::from_nanos(wake_at.saturating_sub(clock::now())));
        }
        if let Some((since, on_cpu)) = usage {
            let elapsed = clock::now().saturating_sub(since).max(1);
            self.busy = (clock::on_cpu() - on_cpu) as f64 / elapsed as f64;
        }
        // Everything planned has been due by now.
        for (intended, (place, key)) in plan {
            self.tally.messages.planned += u64::from(self.tally.measured.contains(intended));
            self.send(*place, key, intended)?;
        }
        self.published.complete.store(true, Ordering::Release);
        self.producer.flush(FLUSH_WITHIN).map_err(|error| publishing(&error))?;
        let rest = std::mem::take(&mut self.tally.part);
        if !rest.is_nothing() {
            self.tell(Word::Part(Part { index: intervals.last(), ..rest }));
        }
        Ok(())
    }

    fn send(&mut self, place: usize, key: &str, intended: u64) -> Result<(), RunError> {
        let addressee = &self.published.addressees[place];
        let sequence = addressee.records.load(Ordering::Relaxed);
        let delay = clock::now().saturating_sub(intended);
        self.tally.lagged(intended, delay);
        let sender = self.plan.scenario.generator.first_sender.wrapping_add(place as u32);
        let stamp = Stamp { sender, sequence, intended, delay };
        let mut value = Vec::with_capacity(self.plan.scenario.payload_bytes);
        event::put(&stamp, self.plan.scenario.payload_bytes, &mut value);
        // Whoever receives it must know that it was sent.
        addressee.records.store(sequence + 1, Ordering::Release);
        let mut record = BaseRecord::to(&self.topic.topic).key(key).payload(&value);
        while let Err((error, refused)) = self.producer.send(record) {
            if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                return Err(publishing(&error));
            }
            self.producer.poll(Duration::from_millis(1));
            record = refused;
        }
        self.tally.messages.sent += 1;
        self.tally.messages.bytes_sent += (key.len() + value.len()) as u64;
        self.tally.part.sent += 1;
        Ok(())
    }

    /// What the brokers did not get cannot have arrived.
    fn settle(&mut self) {
        let deliveries = self.producer.context();
        let failed = deliveries.failed.load(Ordering::Relaxed);
        if let (Some(error), 1..) = (deliveries.first.get(), failed) {
            let kind = format!("kafka: {error}");
            self.tally.errors.insert(kind, failed);
        }
    }
}

fn publishing(error: &KafkaError) -> RunError {
    RunError::Publishing { cause: error.to_string() }
}

/// While nothing is due, the thread looks this often whether the run goes on.
const LOOK: Duration = Duration::from_millis(5);
/// Records that become due within this time go together: a wake-up for each would cost more than
/// the record. It is part of the send lag.
const PACE_NS: u64 = 250_000;
const METADATA_WITHIN: Duration = Duration::from_secs(10);
const FLUSH_WITHIN: Duration = Duration::from_secs(60);
