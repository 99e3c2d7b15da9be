//! The TOML file that people write: its tables and keys, as serde and the JSON schema see them.
//! What the values mean together is checked in `check`; where the text comes from is in `source`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use super::{CloseBy, Metric, Placement, Protocol, Ready, Reply, TlsSuite, TlsVersion};

/// A load scenario of corelane-loadtest
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    /// Name of the scenario, as reports show it
    pub(super) name: String,
    /// What it measures, in a sentence
    #[serde(default)]
    pub(super) description: String,
    pub(super) target: TargetTable,
    #[schemars(with = "Option<TlsTable>")]
    pub(super) tls: Option<Spanned<TlsTable>>,
    pub(super) traffic: TrafficTable,
    #[serde(default)]
    pub(super) connections: ConnectionsTable,
    pub(super) arrival: ArrivalTable,
    #[serde(default)]
    pub(super) timing: TimingTable,
    #[serde(default)]
    pub(super) generator: GeneratorTable,
    #[serde(default)]
    pub(super) validity: ValidityTable,
    /// Conditions on the results; each key is a metric, and one that does not hold fails the run
    #[serde(default)]
    #[schemars(with = "BTreeMap<Metric, BoundTable>")]
    pub(super) thresholds: BTreeMap<Metric, Spanned<BoundTable>>,
    /// Where `search` looks for the highest rate
    pub(super) search: Option<SearchTable>,
}

/// Whom the load goes to
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TargetTable {
    /// ws://HOST:PORT/PATH or wss://HOST:PORT/PATH; also given by --url
    #[serde(default)]
    pub(super) url: String,
    pub(super) protocol: Protocol,
    /// http://HOST:PORT of the gateway's admin listener, for traffic with a placement
    pub(super) admin_url: Option<String>,
    /// Pushes of the gateway: HOST:PORT of a Kafka where they are published, several with commas;
    /// also given by --kafka. Without it, somebody else publishes
    #[schemars(with = "Option<String>")]
    pub(super) kafka: Option<Spanned<String>>,
    /// Where they are published; default is bannou-client-events
    #[schemars(with = "Option<String>")]
    pub(super) topic: Option<Spanned<String>>,
}

/// How wss:// is spoken
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TlsTable {
    /// PEM file of the authorities that are trusted, beside the scenario file; also given by --ca.
    /// Without it, those that the system trusts
    #[schemars(with = "Option<PathBuf>")]
    pub(super) ca: Option<Spanned<PathBuf>>,
    /// false takes every certificate, for servers with one that nobody can check; default true
    #[schemars(with = "Option<bool>")]
    pub(super) verify: Option<Spanned<bool>>,
    /// Whom the certificate must be for, if not the host of the URL
    pub(super) server_name: Option<String>,
    /// The only version that is offered; default is both
    pub(super) version: Option<Version>,
    /// The only suite that is offered, of TLS 1.3 then
    #[schemars(with = "Option<TlsSuite>")]
    pub(super) suite: Option<Spanned<TlsSuite>>,
    /// Connections take up the sessions that others have left; default is a full handshake for each
    pub(super) resume: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    Echo,
    Call,
    Peer,
    Broadcast,
    Connect,
    Hold,
    Reconnect,
    Push,
}

/// What connections do once they are open
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TrafficTable {
    #[schemars(with = "Kind")]
    pub(super) kind: Spanned<Kind>,
    /// Bytes of a message's payload
    #[serde(default = "payload_bytes")]
    #[schemars(with = "usize")]
    pub(super) payload_bytes: Spanned<usize>,
    /// Calls: the paths to call, taken in turn, as the manifest spells them
    #[schemars(with = "Option<Vec<String>>")]
    pub(super) endpoints: Option<Spanned<Vec<String>>>,
    /// Calls: instead of naming endpoints, PATH with {} where the numbers from 0 to `endpoint_count` - 1 go
    #[schemars(with = "Option<String>")]
    pub(super) endpoint_pattern: Option<Spanned<String>>,
    #[schemars(with = "Option<NonZeroUsize>")]
    pub(super) endpoint_count: Option<Spanned<NonZeroUsize>>,
    /// Calls: whether the reply must be the request's payload
    #[schemars(with = "Option<Reply>")]
    pub(super) reply: Option<Spanned<Reply>>,
    /// Calls of the gateway: ordering channels of each connection, taken in turn
    #[schemars(with = "Option<NonZeroU16>")]
    pub(super) channels: Option<Spanned<NonZeroU16>>,
    /// Peers: on which shards the two of a pair live
    #[schemars(with = "Option<Placement>")]
    pub(super) placement: Option<Spanned<Placement>>,
    /// Broadcast: connections of a room, the sender among them
    #[schemars(with = "Option<usize>")]
    pub(super) members: Option<Spanned<usize>>,
    /// Connect and reconnect: when a connection counts as ready
    #[schemars(with = "Option<Ready>")]
    pub(super) ready: Option<Spanned<Ready>>,
    /// Reconnect: how many times all are reset at once and come back; 1 if it is not said
    #[schemars(with = "Option<NonZeroU32>")]
    pub(super) times: Option<Spanned<NonZeroU32>>,
    /// Connect: how a ready connection is ended
    #[schemars(with = "Option<CloseBy>")]
    pub(super) close: Option<Spanned<CloseBy>>,
}

fn payload_bytes() -> Spanned<usize> {
    Spanned::new(0..0, 200)
}

/// How many connections, and how they are opened
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ConnectionsTable {
    pub(super) count: NonZeroUsize,
    /// Opened per second; 0 is as fast as the server answers
    pub(super) per_second: NotNegative,
    /// Being opened at one time, at most
    pub(super) opening: NonZeroUsize,
    /// Local addresses taken in turn: each has some 28 000 ports
    pub(super) sources: Vec<IpAddr>,
}

impl Default for ConnectionsTable {
    fn default() -> Self {
        Self {
            count: NonZeroUsize::MIN.saturating_add(63),
            per_second: NotNegative(0.0),
            opening: NonZeroUsize::MIN.saturating_add(63),
            sources: Vec::new(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Mode {
    Closed,
    Constant,
    Poisson,
    Burst,
    Ramp,
    Replay,
    Backlog,
}

/// When messages are sent; all modes but `closed` are planned before the run
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ArrivalTable {
    #[schemars(with = "Mode")]
    pub(super) mode: Spanned<Mode>,
    /// Closed: unanswered messages of each connection
    #[schemars(with = "Option<NonZeroU32>")]
    pub(super) in_flight: Option<Spanned<NonZeroU32>>,
    /// Constant, poisson, burst: events per second of all connections together
    #[schemars(with = "Option<f64>")]
    pub(super) rate: Option<Spanned<Rate>>,
    /// Burst: events at once
    #[schemars(with = "Option<NonZeroU32>")]
    pub(super) size: Option<Spanned<NonZeroU32>>,
    /// Backlog: events that are published while the server's process stands still
    #[schemars(with = "Option<NonZeroU32>")]
    pub(super) events: Option<Spanned<NonZeroU32>>,
    /// Ramp: events per second at the first send
    #[schemars(with = "Option<f64>")]
    pub(super) from: Option<Spanned<NotNegative>>,
    /// Ramp: events per second at the end
    #[schemars(with = "Option<f64>")]
    pub(super) to: Option<Spanned<Rate>>,
    /// Replay: file with an offset in nanoseconds a line, ascending; beside the scenario file
    #[schemars(with = "Option<String>")]
    pub(super) file: Option<Spanned<String>>,
    /// Open loop: most unanswered messages of a connection; what is held back keeps its intended
    /// time. Without it, nothing is held back
    #[schemars(with = "Option<NonZeroU32>")]
    pub(super) window: Option<Spanned<NonZeroU32>>,
}

/// How long things take; times are written like "1s", "250ms", "2m"
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TimingTable {
    /// Load before the measurement begins
    pub(super) warm_up: Time,
    /// Length of the measurement
    pub(super) duration: Time,
    /// How long after the last send an answer may come
    pub(super) patience: Time,
    /// Of the time series
    pub(super) interval: Time,
}

impl Default for TimingTable {
    fn default() -> Self {
        let seconds = |s| Time(Duration::from_secs(s));
        Self {
            warm_up: seconds(1),
            duration: seconds(10),
            patience: seconds(2),
            interval: seconds(1),
        }
    }
}

/// The sending side
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct GeneratorTable {
    /// Threads that send
    pub(super) threads: NonZeroUsize,
    /// Processors of the threads in turn; empty leaves them free
    pub(super) cpus: Vec<usize>,
    /// The same seed makes the same load
    pub(super) seed: u64,
    /// Number of the first connection in its messages; differs between generators of one run
    pub(super) first_sender: u32,
}

impl Default for GeneratorTable {
    fn default() -> Self {
        Self { threads: NonZeroUsize::MIN, cpus: Vec::new(), seed: 1, first_sender: 0 }
    }
}

/// Beyond these an open-loop run declares itself invalid
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ValidityTable {
    /// 99th percentile of the generator's own send lag
    pub(super) lag_p99_max: Time,
    /// Share of a processor that a sending thread may use
    pub(super) busy_max: Share,
}

impl Default for ValidityTable {
    fn default() -> Self {
        Self { lag_p99_max: Time(Duration::from_millis(1)), busy_max: Share(0.85) }
    }
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BoundTable {
    pub(super) at_most: Option<f64>,
    pub(super) at_least: Option<f64>,
}

/// Where `search` looks for the highest rate that holds
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SearchTable {
    /// Lowest rate, events per second
    pub(super) from: Rate,
    /// Highest rate
    #[schemars(with = "f64")]
    pub(super) to: Spanned<Rate>,
    /// Latency from the intended send that the rate must keep
    pub(super) p999_max: Time,
    /// Length of each try
    #[serde(default = "step_duration")]
    pub(super) step_duration: Time,
    /// Stop when the bounds are this close, as a share of the rate
    #[serde(default = "precision")]
    pub(super) precision: Share,
    /// Points of the rate-latency curve
    #[serde(default = "curve_points")]
    pub(super) curve_points: usize,
}

fn step_duration() -> Time {
    Time(Duration::from_secs(5))
}

fn precision() -> Share {
    Share(0.05)
}

fn curve_points() -> usize {
    10
}

/// A length of time, written like "250ms".
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(with = "String")]
pub(super) struct Time(pub(super) Duration);

impl TryFrom<String> for Time {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match humantime::parse_duration(&text) {
            Ok(duration) => Ok(Self(duration)),
            Err(_) => {
                Err(format!("{text:?} is not a length of time: write it like \"250ms\" or \"10s\""))
            }
        }
    }
}

/// Of TLS. A number too, because that is what `--set tls.version=1.3` says.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(try_from = "Numeral")]
#[schemars(with = "TlsVersion")]
pub(super) struct Version(pub(super) TlsVersion);

#[derive(Deserialize)]
#[serde(untagged)]
enum Numeral {
    Text(String),
    Number(f64),
}

impl TryFrom<Numeral> for Version {
    type Error = String;

    fn try_from(numeral: Numeral) -> Result<Self, String> {
        let text = match numeral {
            Numeral::Text(text) => text,
            Numeral::Number(number) => number.to_string(),
        };
        match text.as_str() {
            "1.2" => Ok(Self(TlsVersion::V12)),
            "1.3" => Ok(Self(TlsVersion::V13)),
            _ => Err(format!("{text:?} is not a version of TLS: \"1.2\" or \"1.3\"")),
        }
    }
}

/// Events per second, more than none.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(try_from = "f64")]
#[schemars(with = "f64")]
pub(super) struct Rate(pub(super) f64);

impl TryFrom<f64> for Rate {
    type Error = String;

    fn try_from(value: f64) -> Result<Self, String> {
        if value.is_finite() && value > 0.0 && value <= 1e9 {
            return Ok(Self(value));
        }
        Err(format!("{value} is not a rate: more than 0 and at most 1000000000 per second"))
    }
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(try_from = "f64")]
#[schemars(with = "f64")]
pub(super) struct NotNegative(pub(super) f64);

impl TryFrom<f64> for NotNegative {
    type Error = String;

    fn try_from(value: f64) -> Result<Self, String> {
        if (0.0..=1e9).contains(&value) {
            return Ok(Self(value));
        }
        Err(format!("{value} is not a rate: 0 to 1000000000 per second"))
    }
}

/// A part of the whole, more than 0 and at most 1.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(try_from = "f64")]
#[schemars(with = "f64")]
pub(super) struct Share(pub(super) f64);

impl TryFrom<f64> for Share {
    type Error = String;

    fn try_from(value: f64) -> Result<Self, String> {
        if value > 0.0 && value <= 1.0 {
            return Ok(Self(value));
        }
        Err(format!("{value} is not a share: more than 0 and at most 1"))
    }
}
