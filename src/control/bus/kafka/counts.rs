//! What the bus counts: records that go out, records that come in, and readings again. Written by the
//! control core and by the thread that hears of deliveries.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Unit;

use super::topics::Inbound;

/// Why a record did not get to the brokers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    SpoolFull,
    TimedOut,
    TooLong,
    UnknownTopic,
    /// The brokers do not let this gateway write there.
    Denied,
    /// The process ended before.
    GivenUp,
    Other,
}

impl Failure {
    pub(super) const ALL: [(Self, &'static str); 7] = [
        (Self::SpoolFull, "spool_full"),
        (Self::TimedOut, "timed_out"),
        (Self::TooLong, "too_long"),
        (Self::UnknownTopic, "unknown_topic"),
        (Self::Denied, "denied"),
        (Self::GivenUp, "given_up"),
        (Self::Other, "other"),
    ];
}

/// What is wrong with a record that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// An event whose key names no session.
    Key,
    /// It has no value.
    Empty,
    TooLong,
    /// A header cannot be read, or its name is no UTF-8.
    Headers,
    /// It was read before.
    Duplicate,
    /// In another partition than its key belongs to; taken all the same.
    Misplaced,
    /// Its session has come from a node that had read further.
    Ahead,
}

impl Fault {
    const ALL: [(Self, &'static str); 7] = [
        (Self::Key, "key"),
        (Self::Empty, "empty"),
        (Self::TooLong, "too_long"),
        (Self::Headers, "headers"),
        (Self::Duplicate, "duplicate"),
        (Self::Misplaced, "misplaced"),
        (Self::Ahead, "ahead"),
    ];
}

/// A number with any number of writers.
#[derive(Debug, Default)]
pub(super) struct Tally(AtomicU64);

impl Tally {
    pub(super) fn add(&self, by: u64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    pub(super) fn sub(&self, by: u64) {
        self.0.fetch_sub(by, Ordering::Relaxed);
    }

    pub(super) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// All of it; lives for the whole process.
#[derive(Debug)]
pub struct KafkaCounts {
    in_use: AtomicBool,
    down: AtomicBool,
    pub(super) spooled: Tally,
    pub(super) spooled_bytes: Tally,
    pub(super) acknowledged: Tally,
    /// By [`Failure`].
    failed: [Tally; Failure::ALL.len()],
    /// From the moment of publishing until brokers have it.
    pub(super) latency: Histogram,
    /// Records read, whoever they are for.
    pub(super) read: Tally,
    /// By [`Fault`].
    faults: [Tally; Fault::ALL.len()],
    pub(super) missed: Tally,
    pub(super) read_errors: Tally,
    /// By [`Inbound`].
    lag: [Tally; Inbound::ALL.len()],
    pub(super) partitions: Tally,
    pub(super) scans: Tally,
    pub(super) scan_records: Tally,
    pub(super) scan_length: Histogram,
}

impl Default for KafkaCounts {
    fn default() -> Self {
        Self {
            in_use: AtomicBool::default(),
            down: AtomicBool::default(),
            spooled: Tally::default(),
            spooled_bytes: Tally::default(),
            acknowledged: Tally::default(),
            failed: Default::default(),
            latency: Histogram::new(LATENCY_SECONDS),
            read: Tally::default(),
            faults: Default::default(),
            missed: Tally::default(),
            read_errors: Tally::default(),
            lag: Default::default(),
            partitions: Tally::default(),
            scans: Tally::default(),
            scan_records: Tally::default(),
            scan_length: Histogram::new(SCAN_RECORDS),
        }
    }
}

impl KafkaCounts {
    pub(super) fn begin(&self) {
        self.in_use.store(true, Ordering::Relaxed);
        // Until the brokers have answered for the first time.
        self.down.store(true, Ordering::Relaxed);
    }

    /// Says whether that is news.
    pub(super) fn set_down(&self, down: bool) -> bool {
        self.down.swap(down, Ordering::Relaxed) != down
    }

    /// Whether the brokers do not answer.
    pub fn is_down(&self) -> bool {
        self.down.load(Ordering::Relaxed)
    }

    pub(super) fn failed(&self, why: Failure) {
        self.failed[why as usize].add(1);
    }

    pub(super) fn failures(&self) -> [u64; Failure::ALL.len()] {
        self.failed.each_ref().map(Tally::read)
    }

    pub(super) fn fault(&self, what: Fault) {
        self.faults[what as usize].add(1);
    }

    #[cfg(test)]
    pub(super) fn faults(&self, what: Fault) -> u64 {
        self.faults[what as usize].read()
    }

    pub(super) fn lags(&self, topic: Inbound, records: u64) {
        self.lag[topic as usize].set(records);
    }

    /// Nothing where there is no Kafka.
    pub(in crate::control) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        if !self.in_use.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.encode_gauges(encoder)?;
        self.encode_counters(encoder)?;
        let help = "Time from publishing a record until the brokers have it.";
        let unit = Some(&Unit::Seconds);
        let kind = MetricType::Histogram;
        let metric = encoder.encode_descriptor("corelane_kafka_produce", help, unit, kind)?;
        self.latency.encode(metric)?;
        let help = "Records that one reading again of a partition went through.";
        let metric = encoder.encode_descriptor("corelane_kafka_scan_records", help, None, kind)?;
        self.scan_length.encode(metric)
    }

    fn encode_gauges(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let kind = MetricType::Gauge;
        let up = u64::from(!self.is_down());
        let gauges = [
            ("corelane_kafka_up", None, "Whether the brokers answer.", up),
            (
                "corelane_kafka_spool_records",
                None,
                "Records on their way to the brokers.",
                self.spooled.read(),
            ),
            (
                "corelane_kafka_spool",
                Some(&Unit::Bytes),
                "Bytes on their way to the brokers.",
                self.spooled_bytes.read(),
            ),
            (
                "corelane_kafka_event_partitions",
                None,
                "Partitions of the events for sessions.",
                self.partitions.read(),
            ),
            (
                "corelane_kafka_scans_running",
                None,
                "Partitions that are read again.",
                self.scans.read(),
            ),
        ];
        for (name, unit, help, value) in gauges {
            let metric = encoder.encode_descriptor(name, help, unit, kind)?;
            ConstGauge::new(value).encode(metric)?;
        }
        let help = "Records that are there and have not been taken yet, by topic.";
        let mut metric =
            encoder.encode_descriptor("corelane_kafka_lag_records", help, None, kind)?;
        for (topic, lag) in Inbound::ALL.iter().zip(&self.lag) {
            let labels = [("topic", topic.name())];
            ConstGauge::new(lag.read()).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn encode_counters(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let kind = MetricType::Counter;
        let counters = [
            (
                "corelane_kafka_records_acknowledged",
                "Published records that the brokers have.",
                &self.acknowledged,
            ),
            ("corelane_kafka_records_read", "Records read, whoever they are for.", &self.read),
            (
                "corelane_kafka_records_missed",
                "Records that were gone before they were read.",
                &self.missed,
            ),
            ("corelane_kafka_read_errors", "Errors of reading.", &self.read_errors),
            (
                "corelane_kafka_records_read_again",
                "Records read again for sessions from elsewhere.",
                &self.scan_records,
            ),
        ];
        for (name, help, tally) in counters {
            let metric = encoder.encode_descriptor(name, help, None, kind)?;
            ConstCounter::new(tally.read()).encode(metric)?;
        }
        let help = "Records that the brokers did not get, by reason.";
        let mut metric =
            encoder.encode_descriptor("corelane_kafka_records_failed", help, None, kind)?;
        for ((_, reason), tally) in Failure::ALL.iter().zip(&self.failed) {
            let labels = [("reason", *reason)];
            ConstCounter::new(tally.read()).encode(metric.encode_family(&labels)?)?;
        }
        let help = "Odd records that were read, by fault.";
        let mut metric =
            encoder.encode_descriptor("corelane_kafka_record_faults", help, None, kind)?;
        for ((_, fault), tally) in Fault::ALL.iter().zip(&self.faults) {
            let labels = [("fault", *fault)];
            ConstCounter::new(tally.read()).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

const LATENCY_SECONDS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0];
const SCAN_RECORDS: [f64; 7] = [10.0, 100.0, 1e3, 1e4, 1e5, 1e6, 1e7];
