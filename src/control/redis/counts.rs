//! What is counted of the talk with Redis. Written by the control core alone.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use corelane_shard::probe::Counter;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Unit;

use super::Fault;

type Label = [(&'static str, &'static str); 1];
type Latencies = Family<Label, Histogram, fn() -> Histogram>;

/// Empty while no Redis is configured.
#[derive(Debug)]
pub struct RedisProbe {
    configured: AtomicBool,
    latency: Latencies,
    /// By position in [`Fault::LABELS`].
    faults: [Counter; Fault::LABELS.len()],
    up: Counter,
    connects: Counter,
    /// Commands of the session store that wait for an answer.
    pub(in crate::control) commands_waiting: Counter,
    /// Sessions whose clients have more than Redis knows.
    pub(in crate::control) cursors_waiting: Counter,
    /// Since when that is so of the one that has waited longest.
    pub(in crate::control) cursor_lag_ms: Counter,
    /// Writes that a newer owner of the session, or a lease that is not sure, held back.
    pub(in crate::control) writes_fenced: Counter,
    /// Whether this node is surely the owner of its sessions.
    pub(in crate::control) lease_held: Counter,
    /// Since the last renewal that Redis has confirmed.
    pub(in crate::control) lease_age_ms: Counter,
}

impl Default for RedisProbe {
    fn default() -> Self {
        Self {
            configured: AtomicBool::new(false),
            latency: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            faults: Default::default(),
            up: Counter::default(),
            connects: Counter::default(),
            commands_waiting: Counter::default(),
            cursors_waiting: Counter::default(),
            cursor_lag_ms: Counter::default(),
            writes_fenced: Counter::default(),
            lease_held: Counter::default(),
            lease_age_ms: Counter::default(),
        }
    }
}

impl RedisProbe {
    /// From now on there is something to show.
    pub fn configured(&self) {
        self.configured.store(true, Ordering::Relaxed);
    }

    pub(super) fn took(&self, kind: &'static str, time: Duration) {
        self.latency.get_or_create(&[("command", kind)]).observe(time.as_secs_f64());
    }

    pub(super) fn failed(&self, fault: &Fault) {
        self.faults[fault.index()].increment();
    }

    pub(super) fn connected(&self) {
        self.up.set(1);
        self.connects.increment();
    }

    pub(super) fn disconnected(&self) {
        self.up.set(0);
    }

    pub(in crate::control) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        if !self.configured.load(Ordering::Relaxed) {
            return Ok(());
        }
        let help = "Time for the answers to commands that left together, by what is among them.";
        let (unit, kind) = (Some(&Unit::Seconds), MetricType::Histogram);
        let metric = encoder.encode_descriptor("corelane_redis_latency", help, unit, kind)?;
        self.latency.encode(metric)?;
        let help = "What went wrong with Redis.";
        let kind = MetricType::Counter;
        let mut metric = encoder.encode_descriptor("corelane_redis_errors", help, None, kind)?;
        for (label, counter) in Fault::LABELS.iter().zip(&self.faults) {
            let label = [("kind", *label)];
            ConstCounter::new(counter.read()).encode(metric.encode_family(&label)?)?;
        }
        let counters = [
            ("corelane_redis_connects", "Connections to Redis made.", &self.connects),
            (
                "corelane_redis_writes_fenced",
                "Writes held back because a newer owner may have the session.",
                &self.writes_fenced,
            ),
        ];
        for (name, help, counter) in counters {
            let metric = encoder.encode_descriptor(name, help, None, kind)?;
            ConstCounter::new(counter.read()).encode(metric)?;
        }
        let gauges = [
            ("corelane_redis_up", "Whether there is a connection to Redis.", &self.up),
            (
                "corelane_redis_commands_waiting",
                "Commands of the session store that wait for Redis.",
                &self.commands_waiting,
            ),
            (
                "corelane_redis_cursors_waiting",
                "Sessions whose clients have confirmed more than Redis knows.",
                &self.cursors_waiting,
            ),
            (
                "corelane_redis_lease_held",
                "Whether this node is surely the owner of its sessions.",
                &self.lease_held,
            ),
        ];
        for (name, help, gauge) in gauges {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(gauge.read()).encode(metric)?;
        }
        let ages = [
            (
                "corelane_redis_cursor_lag",
                "How long Redis has known less than clients have confirmed.",
                &self.cursor_lag_ms,
            ),
            (
                "corelane_redis_lease_age",
                "Time since Redis has confirmed this node's lease.",
                &self.lease_age_ms,
            ),
        ];
        for (name, help, gauge) in ages {
            let unit = Some(&Unit::Seconds);
            let metric = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
            ConstGauge::new(gauge.read() as f64 / 1000.0).encode(metric)?;
        }
        Ok(())
    }
}

/// Seconds.
const BUCKETS: [f64; 12] =
    [0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0];
