//! The scrape: every probe in the OpenMetrics text format.
//!
//! Names are `corelane_` plus the probe's; a name that ends in a unit says so in `# UNIT`, and
//! counters end in `_total`. What the kernel says about the process keeps the names that every
//! dashboard knows (`process_resident_memory_bytes`).

use std::fmt;
use std::sync::Arc;

use corelane_shard::id::ShardId;
use corelane_shard::probe::{Kind, Probe, Sample};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::probe::ControlProbe;
use super::process::ProcessSample;
use crate::lifecycle::{Phase, PhaseCell};

/// Where the values come from; lives for the whole process.
#[derive(Debug)]
pub(super) struct Sources {
    pub(super) shards: Vec<(ShardId, Arc<Probe>)>,
    pub(super) control: Arc<ControlProbe>,
    pub(super) phase: Arc<PhaseCell>,
    pub(super) started_unix_seconds: f64,
}

pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The registry that the scrape is encoded from.
pub(super) fn registry(sources: Sources) -> Registry {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(sources));
    registry
}

pub(super) fn render(registry: &Registry) -> Result<String, fmt::Error> {
    let mut text = String::with_capacity(SCRAPE_BYTES_USUAL);
    encode(&mut text, registry)?;
    Ok(text)
}

impl Collector for Sources {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families::default();
        for (shard, probe) in &self.shards {
            let shard = shard.0.to_string();
            probe.visit(&mut |sample| families.add(&sample, Some(&shard)));
        }
        self.control.visit(&mut |sample| families.add(&sample, None));
        for family in &families.0 {
            family.encode(&mut encoder)?;
        }
        self.control.certificates.encode(&mut encoder)?;
        self.control.internal.encode(&mut encoder)?;
        self.control.redis.encode(&mut encoder)?;
        self.encode_build(&mut encoder)?;
        self.encode_phase(&mut encoder)?;
        self.encode_process(&mut encoder)
    }
}

impl Sources {
    fn encode_build(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Version of the running binary.";
        let mut metric =
            encoder.encode_descriptor("corelane_build", help, None, MetricType::Info)?;
        metric.encode_info(&[("version", env!("CARGO_PKG_VERSION"))])
    }

    /// One row per phase, 1 for the present one.
    fn encode_phase(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let now = self.phase.load();
        let help = "Phase of the process, 1 for the present one.";
        let mut metric =
            encoder.encode_descriptor("corelane_phase", help, None, MetricType::Gauge)?;
        for phase in Phase::ALL {
            let labels = [("phase", phase.label())];
            encode_value(u64::from(phase == now), Kind::Gauge, metric.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn encode_process(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let sample = ProcessSample::take();
        let started = Some(self.started_unix_seconds);
        let gauges = [
            ("process_start_time", Some(Unit::Seconds), "Start, Unix time.", started),
            (
                "process_resident_memory",
                Some(Unit::Bytes),
                "Resident memory.",
                sample.resident_bytes.map(|n| n as f64),
            ),
            (
                "process_virtual_memory",
                Some(Unit::Bytes),
                "Virtual memory.",
                sample.virtual_bytes.map(|n| n as f64),
            ),
            ("process_threads", None, "Threads.", sample.threads.map(|n| n as f64)),
            (
                "process_open_fds",
                None,
                "Open file descriptors.",
                sample.open_files.map(|n| n as f64),
            ),
            (
                "process_max_fds",
                None,
                "Limit of open file descriptors.",
                sample.open_files_max.map(|n| n as f64),
            ),
        ];
        for (name, unit, help, value) in gauges {
            let Some(value) = value else { continue };
            let metric = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
            ConstGauge::new(value).encode(metric)?;
        }
        let Some(seconds) = sample.cpu_seconds else {
            return Ok(());
        };
        let help = "User and system time spent.";
        let unit = Some(&Unit::Seconds);
        let metric = encoder.encode_descriptor("process_cpu", help, unit, MetricType::Counter)?;
        ConstCounter::new(seconds).encode(metric)
    }
}

/// All samples of a scrape by family: the text format wants a family's rows in one place, the
/// probes are visited shard by shard.
#[derive(Default)]
struct Families(Vec<Family>);

struct Family {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    rows: Vec<Row>,
}

struct Row {
    labels: Vec<(&'static str, String)>,
    value: u64,
}

impl Families {
    fn add(&mut self, sample: &Sample, shard: Option<&str>) {
        let Sample { name, help, kind, label, value } = *sample;
        let mut labels = Vec::with_capacity(2);
        labels.extend(shard.map(|shard| ("shard", shard.to_owned())));
        labels.extend(label.map(|(key, value)| (key, value.to_owned())));
        let row = Row { labels, value };
        match self.0.iter_mut().find(|family| family.name == name) {
            Some(family) => family.rows.push(row),
            None => self.0.push(Family { name, help, kind, rows: vec![row] }),
        }
    }
}

impl Family {
    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let (stem, unit) = split_unit(self.name);
        let name = format!("corelane_{stem}");
        let help = format!("{}.", self.help);
        let kind = match self.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
        };
        let mut metric = encoder.encode_descriptor(&name, &help, unit.as_ref(), kind)?;
        for row in &self.rows {
            if row.labels.is_empty() {
                // A family of one row without labels.
                return encode_value(row.value, self.kind, metric);
            }
            encode_value(row.value, self.kind, metric.encode_family(&row.labels)?)?;
        }
        Ok(())
    }
}

fn encode_value(value: u64, kind: Kind, metric: MetricEncoder<'_>) -> fmt::Result {
    match kind {
        Kind::Counter => ConstCounter::new(value).encode(metric),
        Kind::Gauge => ConstGauge::new(value).encode(metric),
    }
}

/// The encoder appends the unit itself.
fn split_unit(name: &'static str) -> (&'static str, Option<Unit>) {
    let units = [("_bytes", Unit::Bytes), ("_seconds", Unit::Seconds)];
    for (suffix, unit) in units {
        if let Some(stem) = name.strip_suffix(suffix) {
            return (stem, Some(unit));
        }
    }
    (name, None)
}

/// One shard's scrape is about 8 KiB.
const SCRAPE_BYTES_USUAL: usize = 16 << 10;
