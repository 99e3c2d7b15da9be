//! One load, fully specified: whom it goes to, what is sent, when, and what counts as good. These
//! are the checked values; the TOML file that people write, and its mistakes, are in `file`, `check` and `source`.

mod builtin;
mod check;
mod file;
mod schema;
mod source;

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use builtin::Builtin;
pub use schema::schema;
pub use source::{Mistake, Refused, load};

/// Everything that decides a run except where the results go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scenario {
    pub name: String,
    pub description: String,
    pub target: Target,
    #[serde(default)]
    pub tls: Tls,
    pub traffic: Traffic,
    /// Bytes of one message's payload, without any header. At least [`crate::stamp::LEN`].
    pub payload_bytes: usize,
    pub connections: Connections,
    pub arrival: Arrival,
    pub timing: Timing,
    pub generator: Generator,
    pub validity: Validity,
    pub thresholds: Vec<Threshold>,
    pub search: Option<Search>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// `ws://HOST:PORT/PATH` or `wss://HOST:PORT/PATH`
    pub url: String,
    pub protocol: Protocol,
    /// The gateway's admin listener, `http://HOST:PORT`: only for traffic that must know on which
    /// shard a session lives.
    pub admin_url: Option<String>,
    /// Where pushes are published, if this generator publishes them.
    #[serde(default)]
    pub kafka: Option<EventTopic>,
}

/// The topic of the events for sessions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventTopic {
    /// `HOST:PORT`, several with commas.
    pub brokers: String,
    pub topic: String,
}

/// How `wss://` is spoken; nothing of it matters to `ws://`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tls {
    /// PEM file of the authorities that are trusted; those of the system, if it is not given.
    pub ca: Option<PathBuf>,
    /// Whether the certificate must be signed by one of them and be for the host.
    pub verify: bool,
    /// Whom the certificate must be for, if not the host of the URL; also asked for by SNI.
    pub server_name: Option<String>,
    /// The only one that is offered; else both.
    pub version: Option<TlsVersion>,
    /// The only one that is offered, of TLS 1.3 then.
    pub suite: Option<TlsSuite>,
    /// Whether connections take up sessions that others have left; else all handshakes are full.
    pub resume: bool,
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            ca: None,
            verify: true,
            server_name: None,
            version: None,
            suite: None,
            resume: false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TlsVersion {
    #[serde(rename = "1.2")]
    V12,
    #[serde(rename = "1.3")]
    V13,
}

/// The suites of TLS 1.3 that browsers offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TlsSuite {
    #[serde(rename = "TLS_AES_128_GCM_SHA256")]
    Aes128Gcm,
    #[serde(rename = "TLS_AES_256_GCM_SHA384")]
    Aes256Gcm,
    #[serde(rename = "TLS_CHACHA20_POLY1305_SHA256")]
    ChaCha20Poly1305,
}

/// What is spoken inside the WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// Any server that sends each binary message back as it came.
    Echo,
    /// The gateway's: token, manifest, 31- and 16-byte headers.
    Corelane,
    /// NATS over WebSocket: subjects are rooms.
    Nats,
    /// nchan's `nchan_pubsub`: a path is a room, or a call where it forwards to an upstream.
    Nchan,
    /// Centrifugo's JSON protocol: RPC calls.
    Centrifugo,
}

/// What connections do once they are open.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Traffic {
    /// Each message comes back as it was.
    Echo,
    /// Each message is a call of one of `endpoints`, taken in turn. The reply carries the request's
    /// payload, unless `reply` says that it is the backend's own and is only counted. The gateway's
    /// calls go on `channels` of its ordering channels in turn; other protocols have none.
    Call { endpoints: Vec<String>, reply: Reply, channels: u16 },
    /// Connections in pairs; each sends to the other.
    Peer { placement: Placement },
    /// Rooms of `members` connections; the first of each room sends, all others receive. For the
    /// gateway, whose broadcast reaches every session, there is one room.
    Broadcast { members: usize },
    /// Connections are opened at the arrival's times, counted when they are ready, and closed.
    Connect { ready: Ready, close: CloseBy },
    /// Connections are opened and left alone for the whole time; Pings are answered.
    Hold,
    /// Half of the time like `Hold`; then, so many times, all connections are reset at once and
    /// opened again one after the other, at the arrival's times.
    Reconnect {
        ready: Ready,
        #[serde(default = "once")]
        times: u32,
    },
    /// The server sends stamped messages by itself, or what is published for its sessions; they are
    /// counted and timed.
    Push,
}

/// Results from before `times` have none.
fn once() -> u32 {
    1
}

/// What a reply's payload must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    Echo,
    Any,
}

/// On which shards the two of a pair must live. `Any` needs no admin listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Placement {
    Any,
    SameShard,
    CrossShard,
}

/// When a connection counts as ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Ready {
    /// At the 101.
    Upgraded,
    /// At the first message of the server: the manifest.
    FirstMessage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CloseBy {
    /// RST; no state stays behind on either side.
    Reset,
    /// Close frame, answer, FIN.
    CloseFrame,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Connections {
    pub count: usize,
    /// Opened per second before the warm-up; 0 is as fast as the server answers.
    pub per_second: f64,
    /// Connections that are being opened at one time.
    pub opening: usize,
    /// Local addresses, taken in turn; empty leaves the choice to the kernel.
    pub sources: Vec<std::net::IpAddr>,
}

/// When messages (or connections, for `Connect` and `Reconnect`) are sent. All modes but `Closed`
/// and `Backlog` are open: the plan is made before the run and does not know what the server does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "mode")]
pub enum Arrival {
    /// The next is sent when one has been answered.
    Closed {
        in_flight: u32,
    },
    /// Evenly spaced; rates are of all connections together, in events per second.
    Constant {
        rate: f64,
        window: Option<u32>,
    },
    Poisson {
        rate: f64,
        window: Option<u32>,
    },
    /// `size` at once, and so many bursts that `rate` holds on average.
    Burst {
        rate: f64,
        size: u32,
        window: Option<u32>,
    },
    /// From one rate to the other, linearly over warm-up and measurement together.
    Ramp {
        from: f64,
        to: f64,
        window: Option<u32>,
    },
    /// Offsets in nanoseconds, ascending, as recorded; `file` is where they came from.
    Replay {
        file: String,
        offsets: Vec<u64>,
        window: Option<u32>,
    },
    /// So many are published while the server's process stands still; the load is that it goes on.
    Backlog {
        events: u64,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// Load before the measurement begins; counted for loss, not for latency.
    #[serde(with = "humantime_serde")]
    pub warm_up: Duration,
    #[serde(with = "humantime_serde")]
    pub duration: Duration,
    /// How long after the last send an answer may come before its message counts as lost.
    #[serde(with = "humantime_serde")]
    pub patience: Duration,
    /// Of the time series.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Generator {
    /// Threads that send; connections are dealt to them in turn.
    pub threads: usize,
    /// The processors of the threads in turn; empty leaves them free.
    pub cpus: Vec<usize>,
    /// Of the plan and of the masks: the same seed makes the same load.
    pub seed: u64,
    /// Added to each connection's number in its messages, so that several generators differ.
    pub first_sender: u32,
}

/// Beyond these the generator itself was the limit, and an open-loop run says nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Validity {
    /// Of the generator's own send lag.
    #[serde(with = "humantime_serde")]
    pub lag_p99_max: Duration,
    /// Share of a processor that the busiest sending thread may use, 0 to 1.
    pub busy_max: f64,
}

/// One condition on the results; any that does not hold decides the exit code.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Threshold {
    pub metric: Metric,
    pub bound: Bound,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

/// What a threshold looks at. Times are in microseconds, of latency from the intended send.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    P50Us,
    P90Us,
    P99Us,
    P999Us,
    MaxUs,
    ReadyP99Us,
    /// Messages answered (or delivered, or connections made ready) per second.
    Rate,
    /// Lost, duplicated, reordered and corrupted together.
    Faults,
    /// Refused, reset, timed out, answered with an error code.
    Errors,
    /// Connections that became neither ready nor were refused with a status.
    Unanswered,
    ServerCpuUsPerMessage,
    ServerBytesPerConnection,
    /// Memory at the end of the measurement beyond that with all connections before it.
    ServerBytesGrown,
}

/// What `search` looks for: the highest rate at which everything below holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Search {
    pub from: f64,
    pub to: f64,
    #[serde(with = "humantime_serde")]
    pub p999_max: Duration,
    /// Of each rate that is tried.
    #[serde(with = "humantime_serde")]
    pub step_duration: Duration,
    /// Stop when the bounds are this close, as a share of the rate.
    pub precision: f64,
    /// Rates of the rate-latency curve, evenly spaced up to the one found.
    pub curve_points: usize,
}

impl Scenario {
    pub fn is_open_loop(&self) -> bool {
        !matches!(self.arrival, Arrival::Closed { .. } | Arrival::Backlog { .. })
    }
}
