//! What leaves for the brokers. What does not fit into the spool, and what the brokers have not got in
//! time, is counted and said.

use std::ffi::CStr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use ahash::AHashMap;
use futures_util::task::AtomicWaker;
use rdkafka::ClientConfig;
use rdkafka::ClientContext;
use rdkafka::config::{FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use tracing::{error, warn};

use super::bell::Bell;
use super::brokers;
use super::contact::Contact;
use super::counts::Failure;
use super::groups::{Line, Pass, Published};
use super::headers;
use crate::control::bus::Record;

/// Takes records and never waits.
pub(super) struct Publisher {
    producer: ThreadedProducer<Deliveries>,
    config: ClientConfig,
    deliveries: Deliveries,
    /// By topic.
    lines: AHashMap<String, Line>,
    /// Whether the events can be read that what is published may call forth.
    released: bool,
    bounds: Bounds,
    /// Failures that have been said.
    said: [u64; Failure::ALL.len()],
    /// The producer cannot go on: the brokers have lost what they had confirmed.
    broken: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) records: u64,
    pub(super) bytes: u64,
    pub(super) timeout: Duration,
}

/// Hears what became of records, on a thread of librdkafka's wrapper.
#[derive(Debug, Clone)]
struct Deliveries {
    contact: Contact,
    started: Instant,
    /// Of whoever waits for the spool to be empty.
    flushed: Arc<AtomicWaker>,
    /// The next group of a topic may leave.
    bell: Arc<Bell>,
}

/// What librdkafka keeps with a record for [`Deliveries`].
#[derive(Debug)]
pub(super) struct Slip {
    /// When the record was published, in microseconds since the start.
    since: u64,
    pass: Pass,
}

impl Publisher {
    pub(super) fn new(
        config: ClientConfig,
        contact: Contact,
        bounds: Bounds,
        bell: Arc<Bell>,
    ) -> KafkaResult<Self> {
        let deliveries =
            Deliveries { contact, started: Instant::now(), flushed: Arc::default(), bell };
        let producer = ThreadedProducer::from_config_and_context(&config, deliveries.clone())?;
        Ok(Self {
            producer,
            config,
            deliveries,
            lines: AHashMap::new(),
            released: false,
            bounds,
            said: [0; Failure::ALL.len()],
            broken: false,
        })
    }

    pub(super) fn publish(&mut self, topic: String, record: Record) {
        let counts = self.deliveries.contact.counts();
        let published = Published { record, at: Instant::now() };
        let bytes = published.bytes();
        let full = counts.spooled.read() >= self.bounds.records
            || counts.spooled_bytes.read() + bytes > self.bounds.bytes;
        if full {
            counts.failed(Failure::SpoolFull);
            return;
        }
        counts.spooled.add(1);
        counts.spooled_bytes.add(bytes);
        let Self { producer, deliveries, lines, broken, .. } = self;
        let line = lines.entry(topic.clone()).or_default();
        line.push(published);
        if self.released {
            line.leave(|published, pass| {
                *broken |= send(producer, deliveries, &topic, &published, pass);
            });
        }
    }

    /// Events that services publish can be read: they may be told what makes them publish.
    pub(super) fn release(&mut self) {
        self.released = true;
        self.send_waiting();
    }

    /// Rings when [`Self::send_waiting`] has something to do.
    pub(super) fn bell(&self) -> &Bell {
        &self.deliveries.bell
    }

    /// Sends what waited for the brokers' answer to what was before it.
    pub(super) fn send_waiting(&mut self) {
        if !self.released {
            return;
        }
        let Self { producer, deliveries, lines, broken, .. } = self;
        for (topic, line) in lines {
            line.leave(|published, pass| {
                *broken |= send(producer, deliveries, topic, &published, pass);
            });
        }
    }

    /// What is due about once a second: to give up what is held too long, to say what failed, and to
    /// have `brokers` dialled again if librdkafka has forgotten them.
    pub(super) fn tend(&mut self, brokers: &CStr) {
        brokers::find_again(self.producer.client(), &self.deliveries.contact, brokers);
        let now = Instant::now();
        let Self { lines, deliveries, bounds, .. } = self;
        lines.retain(|_, line| {
            let late = |published: &Published| now.duration_since(published.at) > bounds.timeout;
            while let Some(late) = line.pop_late(late) {
                let timed_out = KafkaError::MessageProduction(RDKafkaErrorCode::MessageTimedOut);
                deliveries.settled(late.bytes(), Some(&timed_out));
            }
            !line.is_empty()
        });
        self.send_waiting();
        let failures = self.deliveries.contact.counts().failures();
        for ((_, reason), (failed, said)) in Failure::ALL.iter().zip(failures.iter().zip(self.said))
        {
            if *failed > said {
                warn!(reason, records = failed - said, "Kafka did not get what was published");
            }
        }
        self.said = failures;
        if std::mem::take(&mut self.broken) {
            self.begin_anew();
        }
    }

    fn begin_anew(&mut self) {
        let deliveries = self.deliveries.clone();
        match ThreadedProducer::from_config_and_context(&self.config, deliveries) {
            Ok(producer) => {
                error!("the brokers have lost what they had confirmed; publishing begins anew");
                let broken = std::mem::replace(&mut self.producer, producer);
                self.lines.values_mut().for_each(Line::forget_what_is_under_way);
                // It waits for its own threads.
                thread::spawn(move || drop(broken));
            }
            Err(error) => {
                warn!(%error, "publishing cannot begin anew, tried again soon");
                self.broken = true;
            }
        }
    }

    #[cfg(test)]
    pub(super) fn contact(&self) -> &Contact {
        &self.deliveries.contact
    }

    /// Records that librdkafka has and the brokers have not answered for.
    #[cfg(test)]
    pub(super) fn handed_over(&self) -> usize {
        self.producer.in_flight_count() as usize
    }

    /// Whether nothing is on its way.
    pub(super) fn is_flushed(&self) -> bool {
        self.deliveries.contact.counts().spooled.read() == 0
    }

    pub(super) fn flushed(&self) -> &AtomicWaker {
        &self.deliveries.flushed
    }
}

/// Says whether the producer cannot go on.
fn send(
    producer: &ThreadedProducer<Deliveries>,
    deliveries: &Deliveries,
    topic: &str,
    published: &Published,
    pass: Pass,
) -> bool {
    let since = published.at.saturating_duration_since(deliveries.started).as_micros() as u64;
    let record = &published.record;
    let mut message = BaseRecord::with_opaque_to(topic, Box::new(Slip { since, pass }))
        .payload(&*record.value)
        .headers(headers::write(record));
    if !record.key.is_empty() {
        message = message.key(record.key.as_bytes());
    }
    let Err((error, message)) = producer.send(message) else { return false };
    message.delivery_opaque.pass.settled();
    deliveries.settled(published.bytes(), Some(&error));
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal)
}

impl Deliveries {
    /// A record is on its way no more.
    fn settled(&self, bytes: u64, error: Option<&KafkaError>) {
        let counts = self.contact.counts();
        counts.spooled_bytes.sub(bytes);
        counts.spooled.sub(1);
        match error {
            None => counts.acknowledged.add(1),
            Some(error) => counts.failed(failure(error)),
        }
        if counts.spooled.read() == 0 {
            self.flushed.wake();
        }
    }
}

fn failure(error: &KafkaError) -> Failure {
    use RDKafkaErrorCode as Code;
    match error.rdkafka_error_code() {
        Some(Code::QueueFull) => Failure::SpoolFull,
        Some(Code::MessageTimedOut | Code::OperationTimedOut) => Failure::TimedOut,
        Some(Code::MessageSizeTooLarge | Code::MessageBatchTooLarge) => Failure::TooLong,
        Some(
            Code::UnknownTopic
            | Code::UnknownTopicOrPartition
            | Code::UnknownPartition
            | Code::InvalidTopic,
        ) => Failure::UnknownTopic,
        Some(
            Code::TopicAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed,
        ) => Failure::Denied,
        Some(Code::PurgeQueue | Code::PurgeInflight) => Failure::GivenUp,
        _ => Failure::Other,
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.contact.log(level, facility, line);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        self.contact.stats_raw(statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.contact.error(error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<Slip>;

    fn delivery(&self, result: &DeliveryResult<'_>, slip: Box<Slip>) {
        let (message, error) = match result {
            Ok(message) => (message, None),
            Err((error, message)) => (message, Some(error)),
        };
        if error.is_none() {
            let now = self.started.elapsed().as_micros() as u64;
            let micros = now.saturating_sub(slip.since) as f64;
            self.contact.counts().latency.observe(micros / 1e6);
        }
        let bytes = message.payload().map_or(0, <[u8]>::len) + message.key().map_or(0, <[u8]>::len);
        if slip.pass.settled() {
            self.bell.ring();
        }
        self.settled(bytes as u64, error);
    }
}
