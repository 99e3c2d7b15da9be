//! What a run found: counts, histograms, time series and judgement. Serialized as the JSON result,
//! with raw histograms inside, so that results of several generators merge without loss.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::scenario::{Scenario, Threshold};

/// Of the JSON result; readers refuse others.
pub const FORMAT: u32 = 1;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    pub format: u32,
    /// As it was run, after all overrides.
    pub scenario: Scenario,
    /// Milliseconds since 1970 at the start of the measurement.
    pub started_unix_ms: u64,
    /// Length of the measurement.
    pub measured_seconds: f64,
    /// One for each generator process whose results are in here.
    pub generators: Vec<GeneratorUse>,
    pub connections: ConnectionCounts,
    pub messages: MessageCounts,
    /// By kind, in words: `refused: 503`, `code 60`, `reset`, …
    pub errors: BTreeMap<String, u64>,
    /// TLS of the timed openings, by what was agreed, in words: `TLS 1.3, TLS_AES_128_GCM_SHA256,
    /// full`, …
    #[serde(default)]
    pub handshakes: BTreeMap<String, u64>,
    pub latency: Latency,
    /// In order of time; of the whole run from the first send on.
    pub intervals: Vec<Interval>,
    pub server: Option<ServerUse>,
    pub judgement: Judgement,
    pub search: Option<SearchFound>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionCounts {
    pub attempted: u64,
    /// As `Ready` of the scenario says.
    pub ready: u64,
    pub failed: u64,
    /// Ended by the server or the network before the run did.
    pub lost: u64,
}

/// Of the measurement, and for loss of the warm-up too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageCounts {
    /// Planned for the measurement; 0 in a closed loop.
    pub planned: u64,
    pub sent: u64,
    /// What should have come back: `sent`, for fan-out × the other members.
    pub expected: u64,
    pub received: u64,
    pub lost: u64,
    pub duplicated: u64,
    pub reordered: u64,
    pub corrupted: u64,
    /// Planned, but never sent, because the window was full until the end.
    pub unsent: u64,
    /// Received within the measurement: what rates are computed from.
    pub measured: u64,
    pub bytes_sent: u64,
    pub bytes_received: u64,
}

/// Nanoseconds, three significant digits.
#[derive(Clone, Debug, PartialEq)]
pub struct Series(pub Histogram<u64>);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// From the intended send; in a closed loop the same as `from_send`.
    pub from_intended: Series,
    /// From the actual send: what a tool that omits coordinated delays would report.
    pub from_send: Series,
    /// How late the generator itself was, where the window did not hold a message back.
    pub send_lag: Series,
    /// TCP connect.
    pub connect: Series,
    /// From connected to the end of the TLS handshake; empty without TLS.
    #[serde(default)]
    pub handshake: Series,
    /// From then on to the 101.
    pub upgrade: Series,
    /// From the 101 to the server's first message, where the protocol has one.
    pub first_message: Series,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Since the first send of the run.
    pub from_seconds: f64,
    pub seconds: f64,
    pub sent: u64,
    pub received: u64,
    pub errors: u64,
    pub ready: u64,
    /// Within the measurement, or still in the warm-up.
    pub measured: bool,
    pub from_intended: Series,
    pub lag_max_ns: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GeneratorUse {
    pub host: String,
    pub version: String,
    pub threads: Vec<ThreadUse>,
    pub voluntary_switches: u64,
    pub involuntary_switches: u64,
}

/// One sending thread during the measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ThreadUse {
    pub user_us: u64,
    pub system_us: u64,
    /// Share of a processor.
    pub busy: f64,
}

/// The measured server during the measurement, from `/proc` or its control group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerUse {
    pub source: String,
    pub user_us: u64,
    pub system_us: u64,
    /// Of all threads, from the scheduler: finer than the two above.
    pub cpu_us: f64,
    /// Of the busiest thread.
    pub busiest_thread: Option<(String, f64)>,
    /// Name and µs of each thread that ran, those of one name together; empty where there are none
    /// to see.
    #[serde(default)]
    pub threads: Vec<(String, f64)>,
    pub cpu_us_per_message: Option<f64>,
    pub voluntary_switches: Option<u64>,
    pub involuntary_switches: Option<u64>,
    /// Memory before the first connection, with all of them, and when the measurement was over.
    pub bytes_before: Option<u64>,
    pub bytes_with_connections: Option<u64>,
    #[serde(default)]
    pub bytes_after: Option<u64>,
    pub bytes_per_connection: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Passed,
    /// A threshold does not hold, or messages were lost, duplicated, reordered or corrupted.
    Failed,
    /// The generator was the limit: the figures do not describe the server.
    Invalid,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    pub verdict: Verdict,
    /// Why it is not `Passed`, most important first.
    pub reasons: Vec<String>,
    /// What a reader must know even of a good run.
    pub notes: Vec<String>,
    pub thresholds: Vec<ThresholdResult>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ThresholdResult {
    pub threshold: Threshold,
    /// Nothing if the run did not measure it, which fails the threshold.
    pub value: Option<f64>,
    pub holds: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SearchFound {
    /// Events per second; nothing if not even the lowest rate held.
    pub highest: Option<f64>,
    /// Why the next higher rate did not hold.
    pub limit: String,
    /// All tried rates, ascending: the rate-latency curve.
    pub points: Vec<RatePoint>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RatePoint {
    pub rate: f64,
    pub achieved: f64,
    pub verdict: Verdict,
    pub p50_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub faults: u64,
}

pub mod metrics;
mod series;
#[cfg(test)]
pub(crate) mod synthetic;
