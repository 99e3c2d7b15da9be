//! What librdkafka says besides records: its log, and whether it reaches the brokers.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tracing::{debug, info, warn};

use super::brokers;
use super::counts::KafkaCounts;
use crate::control::probe::ControlProbe;

/// Of one client of the brokers.
#[derive(Debug, Clone)]
pub(super) struct Contact {
    probe: Arc<ControlProbe>,
    lines: Arc<Lines>,
    /// Something was taken from the queue that is no record.
    served: Arc<AtomicBool>,
    /// The client knows no broker any more.
    forgotten: Arc<AtomicBool>,
}

/// Lines of the log that repeat in an outage, at most one a second.
#[derive(Debug, Default)]
struct Lines {
    last: Mutex<Option<Instant>>,
    held_back: AtomicU64,
}

const LINES_INTERVAL: Duration = Duration::from_secs(1);

impl Lines {
    /// Says how many were held back before this one, or that it is to be held back.
    fn next(&self) -> Option<u64> {
        let now = Instant::now();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| now.duration_since(last) < LINES_INTERVAL) {
            self.held_back.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        *last = Some(now);
        Some(self.held_back.swap(0, Ordering::Relaxed))
    }
}

impl Contact {
    pub(super) fn new(probe: &Arc<ControlProbe>) -> Self {
        Self {
            probe: Arc::clone(probe),
            lines: Arc::default(),
            served: Arc::default(),
            forgotten: Arc::default(),
        }
    }

    /// Of another client of the same brokers.
    pub(super) fn sibling(&self) -> Self {
        Self { served: Arc::default(), forgotten: Arc::default(), ..self.clone() }
    }

    /// Whether something that is no record was taken since the last call.
    pub(super) fn take_served(&self) -> bool {
        self.served.swap(false, Ordering::Relaxed)
    }

    /// Whether the client has forgotten all brokers, as of its last statistics; told once for each.
    pub(super) fn take_forgotten(&self) -> bool {
        self.forgotten.swap(false, Ordering::Relaxed)
    }

    pub(super) fn counts(&self) -> &KafkaCounts {
        &self.probe.kafka
    }

    /// The brokers answer, or do not.
    pub(super) fn reached(&self, up: bool) {
        if self.counts().set_down(!up) {
            if up {
                info!("the brokers of Kafka answer");
            } else {
                warn!("no broker of Kafka answers; what is published waits for one");
            }
        }
    }
}

impl ClientContext for Contact {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.served.store(true, Ordering::Relaxed);
        let grave = matches!(
            level,
            RDKafkaLogLevel::Emerg
                | RDKafkaLogLevel::Alert
                | RDKafkaLogLevel::Critical
                | RDKafkaLogLevel::Error
                | RDKafkaLogLevel::Warning
        );
        // A setting that is for another kind of client is no news.
        if !grave || facility == "CONFWARN" {
            debug!(facility, line, "librdkafka");
        } else if let Some(held_back) = self.lines.next() {
            warn!(facility, line, held_back, "librdkafka");
        }
    }

    fn stats_raw(&self, statistics: &[u8]) {
        self.served.store(true, Ordering::Relaxed);
        self.forgotten.store(brokers::are_forgotten(statistics), Ordering::Relaxed);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.served.store(true, Ordering::Relaxed);
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            self.reached(false);
        } else if error.rdkafka_error_code() != Some(RDKafkaErrorCode::PartitionEOF)
            && let Some(held_back) = self.lines.next()
        {
            warn!(%error, reason, held_back, "Kafka");
        }
    }
}

impl ConsumerContext for Contact {}
