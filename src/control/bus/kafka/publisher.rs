//! What leaves for the brokers. The spool is librdkafka's queue; what does not fit, and what the brokers
//! have not got in time, is counted and said.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;
use rdkafka::ClientConfig;
use rdkafka::ClientContext;
use rdkafka::config::{FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseRecord, ProducerContext, ThreadedProducer};
use tracing::{error, warn};

use super::contact::Contact;
use super::counts::Failure;
use super::headers;
use crate::control::bus::Record;

/// Takes records and never waits.
pub(super) struct Publisher {
    producer: ThreadedProducer<Deliveries>,
    config: ClientConfig,
    deliveries: Deliveries,
    /// What was published before the events that it may call forth can be read.
    held: Option<VecDeque<Held>>,
    bounds: Bounds,
    /// Failures that have been said.
    said: [u64; Failure::ALL.len()],
    /// The producer cannot go on: the brokers have lost what they had confirmed.
    broken: bool,
}

#[derive(Debug)]
struct Held {
    topic: String,
    record: Record,
    at: Instant,
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
}

impl Publisher {
    pub(super) fn new(config: ClientConfig, contact: Contact, bounds: Bounds) -> KafkaResult<Self> {
        let deliveries = Deliveries { contact, started: Instant::now(), flushed: Arc::default() };
        let producer = ThreadedProducer::from_config_and_context(&config, deliveries.clone())?;
        Ok(Self {
            producer,
            config,
            deliveries,
            held: Some(VecDeque::new()),
            bounds,
            said: [0; Failure::ALL.len()],
            broken: false,
        })
    }

    pub(super) fn publish(&mut self, topic: String, record: Record) {
        let counts = self.deliveries.contact.counts();
        let bytes = size(&record);
        if let Some(held) = &mut self.held {
            let full = held.len() as u64 >= self.bounds.records
                || counts.spooled_bytes.read() + bytes > self.bounds.bytes;
            if full {
                counts.failed(Failure::SpoolFull);
                return;
            }
            counts.spooled.add(1);
            counts.spooled_bytes.add(bytes);
            held.push_back(Held { topic, record, at: Instant::now() });
            return;
        }
        counts.spooled.add(1);
        counts.spooled_bytes.add(bytes);
        self.send(&topic, &record, Instant::now());
    }

    /// Events that services publish can be read: they may be told what makes them publish.
    pub(super) fn release(&mut self) {
        for Held { topic, record, at } in self.held.take().into_iter().flatten() {
            self.send(&topic, &record, at);
        }
    }

    fn send(&mut self, topic: &str, record: &Record, at: Instant) {
        let since = at.saturating_duration_since(self.deliveries.started).as_micros() as usize;
        let mut message = BaseRecord::with_opaque_to(topic, since)
            .payload(&*record.value)
            .headers(headers::write(record));
        if !record.key.is_empty() {
            message = message.key(record.key.as_bytes());
        }
        let Err((error, _)) = self.producer.send(message) else { return };
        self.broken |= error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal);
        self.deliveries.settled(size(record), Some(&error));
    }

    /// What is due about once a second: to give up what is held too long, and to say what failed.
    pub(super) fn tend(&mut self) {
        let now = Instant::now();
        let late = |held: &Held| now.duration_since(held.at) > self.bounds.timeout;
        while let Some(held) = &mut self.held
            && let Some(late) = held.pop_front_if(|held| late(held))
        {
            let timed_out = KafkaError::MessageProduction(RDKafkaErrorCode::MessageTimedOut);
            self.deliveries.settled(size(&late.record), Some(&timed_out));
        }
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
                // It waits for its own threads.
                thread::spawn(move || drop(broken));
            }
            Err(error) => {
                warn!(%error, "publishing cannot begin anew, tried again soon");
                self.broken = true;
            }
        }
    }

    /// Whether nothing is on its way.
    pub(super) fn is_flushed(&self) -> bool {
        self.deliveries.contact.counts().spooled.read() == 0
    }

    pub(super) fn flushed(&self) -> &AtomicWaker {
        &self.deliveries.flushed
    }
}

fn size(record: &Record) -> u64 {
    (record.value.len() + record.key.len()) as u64
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
    /// When the record was published, in microseconds since the start.
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, published: usize) {
        let (message, error) = match result {
            Ok(message) => (message, None),
            Err((error, message)) => (message, Some(error)),
        };
        if error.is_none() {
            let now = self.started.elapsed().as_micros() as usize;
            let micros = now.saturating_sub(published) as f64;
            self.contact.counts().latency.observe(micros / 1e6);
        }
        let bytes = message.payload().map_or(0, <[u8]>::len) + message.key().map_or(0, <[u8]>::len);
        self.settled(bytes as u64, error);
    }
}
