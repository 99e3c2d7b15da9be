//! The process itself: its shards, its end, and what it tells.

use std::time::Duration;

use super::{GIB, HOUR, KIB, LogFormat, LogLevel, MIB, MS, ZERO};
use crate::config::collector::{Collector, CollectorUrl};
use crate::config::key::table;
use crate::config::scalar::{Choice, Count, Flag, PowerOfTwo, Ratio, Share, Size, Span, UrlPath};
use crate::config::shape::{Auto, AutoOr, OffOr};

table! {
    /// The cores that carry connections, and the memory that each of them owns.
    ["shards"] Once Shards {
        /// Number of shards. "auto" gives core 0 to the control core and a shard to every other.
        count: Auto<usize> = r#""auto""#, Restart => AutoOr(Count(1, 64));
        /// Client connections per shard; one beyond it gets a 503. Backends have sockets of their own.
        connections_max: usize = "16384", Restart => Count(64, 1 << 20);
        /// Receive buffers per shard, shared by all its connections.
        receive_buffers: usize = "4096", Restart => PowerOfTwo(64, 32_768);
        /// Bytes of one receive buffer. A message that fits is forwarded without a copy.
        receive_buffer_bytes: usize = r#""4KiB""#, Restart => Size(KIB, 64 * KIB);
        /// Submission queue entries of the shard's ring; the completion queue has four times as many.
        submission_entries: usize = "4096", Restart => PowerOfTwo(64, 32_768);
        /// Memory per shard for what must outlive a turn: long messages, queued output, calls.
        block_pool_bytes: usize = r#""64MiB""#, Restart => Size(MIB, 64 * GIB);
        /// Messages that one core may have under way to one other core.
        lane_capacity: usize = "4096", Restart => PowerOfTwo(64, 65_536);
        /// Waits this long for more arrivals before a turn: less CPU per message for more latency.
        batch_window: Option<Duration> = r#""off""#, Restart
            => OffOr(Span(Duration::from_micros(10), MS));
        /// Polls without sleeping: half the latency for a whole core per shard.
        spin: bool = "false", Restart => Flag;
    }
}

table! {
    /// A WebSocket echo without authentication, for conformance tests and measurements.
    ["echo"] Once Echo {
        /// Serve it.
        enabled: bool = "false", Restart => Flag;
        /// Where.
        path: String = r#""/echo""#, Restart => UrlPath;
    }
}

table! {
    /// Shutdown on SIGTERM, phase by phase. The unit's TimeoutStopSec must exceed `deadline`.
    ["drain"] Once Drain {
        /// Not ready, but still accepting: time for a load balancer to notice.
        grace: Duration = r#""3s""#, Live => Span(ZERO, HOUR);
        /// Sessions are told to go at random moments within this time, once grace is over.
        spread: Duration = r#""20s""#, Restart => Span(ZERO, HOUR);
        /// Time beyond `spread` for the running calls of sessions that are told to go.
        calls: Duration = r#""10s""#, Restart => Span(ZERO, HOUR);
        /// From the signal: what is left is cut. At least grace, spread and calls together.
        deadline: Duration = r#""45s""#, Live => Span(ZERO, 4 * HOUR);
    }
}

table! {
    /// Logs go to standard error.
    ["log"] Once Log {
        /// "human" or "json", one event a line.
        format: LogFormat = r#""human""#, Restart => Choice(&[
            ("human", LogFormat::Human),
            ("json", LogFormat::Json),
        ]);
        /// Least severity that is written.
        level: LogLevel = r#""info""#, Restart => Choice(&[
            ("error", LogLevel::Error),
            ("warn", LogLevel::Warn),
            ("info", LogLevel::Info),
            ("debug", LogLevel::Debug),
        ]);
    }
}

table! {
    /// Distributed tracing: which calls to backends are traced, and where their spans go.
    ["tracing"] Once Tracing {
        /// Share of the calls that are traced. 0 switches tracing off, whatever clients bring.
        sample: Share = "0", Live => Ratio;
        /// Collector for the spans, OTLP over HTTP. "off" sends none; backends get the contexts.
        otlp_endpoint: Option<Collector> = r#""off""#, Restart => OffOr(CollectorUrl);
        /// Send HTTP backends an `X-Correlation-Id`: the trace id of a traced call, else a fresh
        /// number of the same form.
        correlation_id: bool = "false", Live => Flag;
        /// A session whose upgrade brings a sampled `traceparent` has all its calls in that trace,
        /// whatever `sample` says unless it is 0. For clients that you trust with it.
        accept_from_clients: bool = "false", Live => Flag;
    }
}
