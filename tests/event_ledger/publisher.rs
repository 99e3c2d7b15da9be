//! The service that publishes the events, through Kafka or through a gateway's internal listener.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::error::KafkaError;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode;
use uuid::Uuid;

use super::player::EVENT_NAME;
use crate::services::Kafka;

pub(crate) const TOPIC: &str = "bannou-client-events";

/// Everything that is down is up again within that.
const PATIENCE: Duration = Duration::from_secs(120);

/// Longer than Kafka takes to acknowledge anything, if not longer than it is away.
const A_WHILE: Duration = Duration::from_secs(5);
const A_MOMENT: Duration = Duration::from_secs(1);

pub(crate) trait Publisher {
    /// In the order of the calls, each once.
    fn publish(&mut self, session: Uuid, event: &str);

    /// Does what is due meanwhile.
    fn tend(&mut self);

    /// Waits until every event is where it is kept.
    fn settle(&mut self);
}

/// The event with this number of the session with that one.
pub(crate) fn event(session: Uuid, owner: usize, n: u64) -> String {
    format!(r#"{{"eventName":"{EVENT_NAME}","eventId":"{session}/{n}","owner":{owner},"n":{n}}}"#)
}

pub(crate) struct OverKafka {
    producer: ThreadedProducer<Acknowledged>,
    brokers: String,
    topic: String,
    sent: u64,
    acknowledged: Arc<AtomicU64>,
    /// When it was last seen how many were acknowledged.
    progress: (Instant, u64),
}

/// Counts what the broker has acknowledged.
struct Acknowledged(Arc<AtomicU64>);

impl ClientContext for Acknowledged {}

impl ProducerContext for Acknowledged {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if result.is_ok() {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl OverKafka {
    pub(crate) fn new(kafka: &Kafka, topic: &str) -> Self {
        let acknowledged = Arc::new(AtomicU64::new(0));
        // Idempotent, so that a broker that comes and goes neither loses, repeats nor swaps any.
        let producer = kafka
            .client_config()
            .set("enable.idempotence", "true")
            .set("partitioner", "murmur2_random")
            .set("linger.ms", "2")
            .set("message.timeout.ms", PATIENCE.as_millis().to_string())
            .create_with_context(Acknowledged(Arc::clone(&acknowledged)))
            .expect("a legal configuration");
        let (brokers, topic) = (kafka.brokers(), topic.to_owned());
        Self { producer, brokers, topic, sent: 0, acknowledged, progress: (Instant::now(), 0) }
    }
}

impl Publisher for OverKafka {
    fn publish(&mut self, session: Uuid, event: &str) {
        let key = format!("CONNECT_SESSION_{session}");
        let until = Instant::now() + PATIENCE;
        let mut record = BaseRecord::to(&self.topic).key(&key).payload(event);
        loop {
            match self.producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    assert!(Instant::now() < until, "Kafka takes nothing for {PATIENCE:?}");
                    record = back;
                    self.producer.poll(Duration::from_millis(5));
                }
                Err((error, _)) => panic!("{session}: {error}"),
            }
        }
        self.sent += 1;
    }

    fn tend(&mut self) {
        let acknowledged = self.acknowledged.load(Ordering::Relaxed);
        if acknowledged > self.progress.1 || acknowledged == self.sent {
            self.progress = (Instant::now(), acknowledged);
        } else if self.progress.0.elapsed() >= A_WHILE {
            self.progress.0 = Instant::now();
            Kafka::tell_brokers(self.producer.client(), &self.brokers);
        }
    }

    fn settle(&mut self) {
        let until = Instant::now() + PATIENCE;
        while self.producer.flush(A_MOMENT).is_err() {
            assert!(Instant::now() < until, "Kafka does not take what is left");
            self.tend();
        }
        let acknowledged = self.acknowledged.load(Ordering::Relaxed);
        assert_eq!(acknowledged, self.sent, "Kafka has acknowledged every event");
    }
}

/// One connection to the internal listener.
pub(crate) struct OverHttp {
    stream: BufReader<TcpStream>,
    service_token: &'static str,
}

impl OverHttp {
    pub(crate) fn new(internal: SocketAddr, service_token: &'static str) -> Self {
        let stream = TcpStream::connect_timeout(&internal, PATIENCE).expect("the gateway listens");
        stream.set_nodelay(true).expect("it is a TCP socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("a legal time-out");
        Self { stream: BufReader::new(stream), service_token }
    }
}

impl Publisher for OverHttp {
    fn publish(&mut self, session: Uuid, event: &str) {
        let request = format!(
            "POST /bus/{TOPIC}?session={session} HTTP/1.1\r\nHost: x\r\n\
             X-Service-Token: {}\r\nContent-Length: {}\r\n\r\n{event}",
            self.service_token,
            event.len()
        );
        self.stream.get_mut().write_all(request.as_bytes()).expect("the listener stays");
        let mut length = 0;
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("an answer");
        assert!(line.starts_with("HTTP/1.1 202 "), "{session}: {line}");
        while line != "\r\n" {
            line.clear();
            self.stream.read_line(&mut line).expect("a whole head");
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
        }
        self.stream.read_exact(&mut vec![0; length]).expect("a whole body");
    }

    fn tend(&mut self) {}

    /// Each was answered.
    fn settle(&mut self) {}
}
