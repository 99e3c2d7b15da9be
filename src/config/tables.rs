//! The tables that stand once in `corelane.toml`: every key with its default, its bounds, its
//! variable, what a reload may do to it, and the text that `corelane config defaults` prints.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use corelane_shard::compression::CompressionRules;
use corelane_shard::wire::forwarded::ForwardedField;
use corelane_shard::wire::proxy_protocol::Versions;
use ipnet::IpNet;
use uuid::Uuid;

use super::collector::{Collector, CollectorUrl};
use super::key::table;
use super::network::Network;
use super::node_url::{NodeAddress, NodeAddressOrNone, NodeUrl};
use super::passed_on::{Address, PassedOn, Prefix, Settings};
use super::redis::{RedisServers, RedisUrls};
use super::scalar::{
    Choice, Count, File, Flag, Hidden, HiddenOrNone, Id, Name, Origin, PowerOfTwo, Ratio, Share,
    Size, Socket, Span, Text, UrlPath, minutes, seconds,
};
use super::secret::Secret;
use super::shape::{Auto, AutoOr, OffOr, list, some};
use super::upstream::{HttpUrl, WebAddress};
use crate::certificates::TlsVersion;
use crate::control::bus::kafka::Partitioner;
use crate::control::nodes::BroadcastMode;
use crate::events::NameDialect;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;
const ZERO: Duration = Duration::ZERO;
const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// The default of `session.server_salt`: published with the protocol, so no secret at all.
pub const WELL_KNOWN_SALT: &str = "bannou-dev-connect-salt-change-in-production";

pub use corelane_shard::snapshot::CapabilitySource;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionMode {
    External,
    Relayed,
    Internal,
}

/// Whether clients of `listen.tls` prove themselves by a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateDemand {
    Off,
    /// One that is shown must be good.
    Optional,
    Required,
}

/// How clients of the Internal mode prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InternalAuthMode {
    ServiceToken,
    NetworkTrust,
}

/// What becomes of a session whose token has expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExpiry {
    Keep,
    Close,
}

/// A named set of limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// The limits as they are written.
    Production,
    /// Size, fragment, rate and control-frame limits raised for a conformance suite.
    Conformance,
}

/// Where answers to RPCs are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RpcTopic {
    /// In the topic that the RPC names.
    Named,
    /// In one topic, keyed by what the RPC names.
    Shared,
}

/// Which codes close frames carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseCodes {
    Own,
    Upstream,
}

/// What becomes of claims while the session store cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenUnreachable {
    Refuse,
    /// Those with a token of their own are granted, and reconciled later.
    Admit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Human,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
}

table! {
    /// Where game clients connect: `GET /connect` and `GET /health`.
    ["listen.public"] Once ListenPublic {
        /// Addresses to listen on, IPv4 or IPv6; empty where all clients come over TLS. Every shard
        /// listens on each of them.
        address: Vec<SocketAddr> = r#"["127.0.0.1:8080"]"#, Restart => list(Socket);
        /// Connections that the kernel holds until a shard takes them, per shard and address.
        backlog: u32 = "4096", Restart => Count(16, 65_535);
        /// Networks of the proxies in front that may say for whom they come, by what the next two keys
        /// name. The address that they give is the client's to limits, logs and backends.
        trusted_proxies: Vec<IpNet> = "[]", Restart => list(Network);
        /// Version of the PROXY protocol that connections from `trusted_proxies` begin with: without
        /// its header they are answered 400. Others are answered 403 if they send one.
        proxy_protocol: Option<Versions> = r#""off""#, Restart => Choice(&[
            ("off", None),
            ("v1", Some(Versions::V1)),
            ("v2", Some(Versions::V2)),
            ("any", Some(Versions::Any)),
        ]);
        /// The field in which `trusted_proxies` name the client of a request. The rightmost address in
        /// it that is no trusted proxy counts. Choose the one that your proxy writes: the other comes
        /// from the client.
        forwarded: Option<ForwardedField> = r#""off""#, Restart => Choice(&[
            ("off", None),
            ("Forwarded", Some(ForwardedField::Forwarded)),
            ("X-Forwarded-For", Some(ForwardedField::XForwardedFor)),
        ]);
    }
}

table! {
    /// Where game clients connect over TLS (`wss://`), to the same as at `listen.public`, whose other keys
    /// hold here too. The certificates are `[[listen.tls.certificate]]`.
    ["listen.tls"] Once ListenTls {
        /// Addresses to listen on, IPv4 or IPv6; empty: no TLS. Every shard listens on each of them.
        address: Vec<SocketAddr> = "[]", Restart => list(Socket);
        /// A client whose TLS handshake is not over in this time is dropped.
        handshake_timeout: Duration = r#""5s""#, Restart
            => Span(Duration::from_millis(100), 60 * SECOND);
        /// TLS handshakes per shard at one time; one more is closed.
        handshakes_max: usize = "1024", Restart => Count(1, 65_536);
        /// Oldest version of TLS that is spoken; the newest is 1.3.
        oldest_version: TlsVersion = r#""1.2""#, Live => Choice(&[
            ("1.2", TlsVersion::Tls12),
            ("1.3", TlsVersion::Tls13),
        ]);
        /// Whether clients prove themselves by a certificate, besides their token: "optional" refuses bad
        /// ones, "required" missing ones too.
        client_certificates: CertificateDemand = r#""off""#, Live => Choice(&[
            ("off", CertificateDemand::Off),
            ("optional", CertificateDemand::Optional),
            ("required", CertificateDemand::Required),
        ]);
        /// PEM file with the roots that client certificates must lead to. Watched as certificates are.
        client_roots: Option<PathBuf> = r#""off""#, Live => OffOr(File);
    }
}

table! {
    /// Where services reach the gateway: the protocol's internal endpoints and the bus. Plain HTTP, for
    /// a private network.
    ["listen.internal"] Once ListenInternal {
        /// Address of the internal server, or "off". It needs `service_token`.
        address: Option<SocketAddr> = r#""off""#, Restart => OffOr(Socket);
        /// Secret that services present as `X-Service-Token` with every request; servers too, at the public
        /// port, when `session.connection_mode` is "Internal" and `session.internal_auth_mode` "ServiceToken".
        service_token: Option<Secret> = r#""""#, Restart, "CONNECT_INTERNAL_SERVICE_TOKEN"
            => HiddenOrNone;
        /// Address of a server that answers `POST /connect/get-endpoint-meta` alone, or "off". It asks for
        /// the player's own token instead of the service token, so it may be public.
        endpoint_meta_address: Option<SocketAddr> = r#""off""#, Restart => OffOr(Socket);
    }
}

table! {
    /// Where operators look and act: `/livez`, `/readyz`, `/metrics`, `/sessions`, `/config`,
    /// `/log-level`. Loopback only.
    ["listen.admin"] Once ListenAdmin {
        /// Address of the admin server.
        address: SocketAddr = r#""127.0.0.1:9100""#, Restart => Socket;
    }
}

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
    /// How clients prove who they are. The keys themselves are `[[auth.key]]`.
    ["auth"] Once Auth {
        /// Accept the token in `Authorization: Bearer`.
        header: bool = "true", Restart => Flag;
        /// Accept the token as the subprotocol `bearer.<token>`, offered beside `corelane`: for browsers,
        /// which cannot set headers. Never logged.
        subprotocol: bool = "false", Restart => Flag;
        /// Accept the token as `?token=`, for browsers too. Never logged here, but proxies log paths; and
        /// a link on another page may bring a foreign token into a player's browser.
        query: bool = "true", Restart => Flag;
        /// Name of a cookie whose value is accepted as the token. A browser sends it along whichever page
        /// asks, so that any page may connect as its visitor: set `origins` too.
        cookie: Option<String> = r#""off""#, Restart => OffOr(Name);
        /// Origins of the pages that may connect, as browsers send them in `Origin`; empty: all. Others
        /// are answered 403. Clients that send no `Origin` are no pages and are not asked for one.
        origins: Vec<String> = "[]", Restart => list(Origin);
        /// Claims that may name the session; the first one present wins. With "random" as the last of
        /// them a token that has none opens a new session with each connection; without, it is refused.
        session_claim: Vec<String> = r#"["session_key", "sid", "jti"]"#, Live => some(Text);
        /// A token with an unknown key id has the sets of `[[auth.jwks]]` fetched, at most once in this time.
        unknown_key_interval: Duration = r#""30s""#, Live => Span(SECOND, HOUR);
        /// "close" ends a session with 4001 when the token that opened it expires; "keep" lets it live.
        on_expiry: OnExpiry = r#""keep""#, Live
            => Choice(&[("keep", OnExpiry::Keep), ("close", OnExpiry::Close)]);
        /// Longest life of a token that `corelane token mint` makes. The gateway itself takes any `exp`.
        max_token_life: Duration = r#""24h""#, Live
            => Span(Duration::from_secs(60), Duration::from_secs(30 * 86_400));
    }
}

table! {
    /// The auth service, which judges tokens that no configured key can have signed. It is asked by
    /// `POST` with the token in `Authorization: Bearer`, and what it accepts is remembered for a minute.
    ["auth.validate"] Once Validate {
        /// Where it is asked: `http://host:port/auth/validate`, or https.
        url: Option<HttpUrl> = r#""off""#, Restart => OffOr(WebAddress);
        /// Time for an answer; then 503.
        timeout: Duration = r#""5s""#, Restart => Span(Duration::from_millis(10), 60 * SECOND);
        /// Clients per shard that may wait for an answer; one more is answered 503.
        waiting_max: usize = "256", Restart => Count(1, 2048);
        /// Failures in a row (unreachable, time-out, 5xx) after which it is not asked for a while; clients
        /// are answered 503. 0 switches that off.
        breaker_failures: u32 = "5", Restart => Count(0, 1_000_000);
        /// How long it is not asked.
        breaker_open_for: Duration = r#""5s""#, Restart => Span(MS, HOUR);
    }
}

table! {
    /// Sessions: the protocol's own keys, with the protocol's variables and units.
    ["session"] Once Session {
        /// "External" keeps players apart; "Relayed" lets them address each other and broadcast;
        /// "Internal" is for servers, which reach each other and no service.
        connection_mode: ConnectionMode = r#""External""#, Restart, "CONNECT_CONNECTION_MODE"
            => Choice(&[
                ("External", ConnectionMode::External),
                ("Relayed", ConnectionMode::Relayed),
                ("Internal", ConnectionMode::Internal),
            ]);
        /// Who is let in when the mode is Internal: who presents `listen.internal.service_token`, or
        /// everybody who reaches the port.
        internal_auth_mode: InternalAuthMode = r#""ServiceToken""#, Restart,
            "CONNECT_INTERNAL_AUTH_MODE" => Choice(&[
                ("ServiceToken", InternalAuthMode::ServiceToken),
                ("NetworkTrust", InternalAuthMode::NetworkTrust),
                ("service-token", InternalAuthMode::ServiceToken),
                ("network-trust", InternalAuthMode::NetworkTrust),
            ]);
        /// Client connections of this process, all shards together.
        max_concurrent_connections: u32 = "10000", Live, "CONNECT_MAX_CONCURRENT_CONNECTIONS"
            => Count(1, 1_000_000);
        /// Longest message from a client in bytes, its 31-byte header included.
        buffer_size: usize = "65536", Live, "CONNECT_BUFFER_SIZE" => Size(KIB, MIB);
        /// Highest channel number.
        max_channel_number: u16 = "1000", Live, "CONNECT_MAX_CHANNEL_NUMBER" => Count(1, 65_535);
        /// Whether a client may send to another client. Off answers 40.
        enable_client_to_client_routing: bool = "true", Live,
            "CONNECT_ENABLE_CLIENT_TO_CLIENT_ROUTING" => Flag;
        /// Secret from which the GUIDs of services and peers follow; the same on every node.
        /// Set your own: the default is public and refused.
        server_salt: Secret = r#""bannou-dev-connect-salt-change-in-production""#, Restart,
            "CONNECT_SERVER_SALT" => Hidden;
        /// Accept the public default salt. For development only.
        allow_well_known_salt: bool = "false", Restart => Flag;
        /// A client that sends and receives nothing for so many minutes is closed with 4004.
        inactive_connection_timeout_minutes: Duration = "30", Live,
            "CONNECT_INACTIVE_CONNECTION_TIMEOUT_MINUTES" => minutes(1, 1440);
        /// "roles": a session may call what its roles are configured to, until an event says otherwise.
        /// "events": nothing, and it gets no manifest, until a capabilities event.
        capabilities: CapabilitySource = r#""roles""#, Live => Choice(&[
            ("roles", CapabilitySource::Roles),
            ("events", CapabilitySource::Events),
        ]);
        /// Seconds after the end of its connection in which a session can be taken up with its
        /// reconnect token.
        reconnection_window_seconds: Duration = "300", Live,
            "CONNECT_RECONNECTION_WINDOW_SECONDS" => seconds(10, 3600);
        /// Minutes for which the rest of it, events that wait among it, is kept beyond that, for clients
        /// that come back with their token.
        reconnection_window_extension_minutes: Duration = "1", Live,
            "CONNECT_RECONNECTION_WINDOW_EXTENSION_MINUTES" => minutes(1, 60);
        /// Seconds for which Redis keeps the record of a session whose node has vanished.
        session_ttl_seconds: Duration = "86400", Restart, "CONNECT_SESSION_TTL_SECONDS"
            => seconds(60, 604_800);
        /// Seconds after which Redis holds a session for gone whose node does not say otherwise.
        heartbeat_ttl_seconds: Duration = "300", Restart, "CONNECT_HEARTBEAT_TTL_SECONDS"
            => seconds(10, 3600);
        /// Seconds in which a node says of each of its sessions that it is there.
        heartbeat_interval_seconds: Duration = "30", Restart, "CONNECT_HEARTBEAT_INTERVAL_SECONDS"
            => seconds(1, 300);
        /// Send each client its reconnect token right after the manifest, as an event. One whose network
        /// fails has it then.
        early_token: bool = "true", Live => Flag;
        /// Announce a close that the session survives, with its reconnect token, as an event.
        disconnect_event: bool = "true", Live => Flag;
        /// The same as a text frame, as older gateways did.
        disconnect_text: bool = "true", Live => Flag;
        /// Seconds that a client has for its answer to an RPC that names no time.
        default_rpc_timeout_seconds: Duration = "30", Live,
            "CONNECT_DEFAULT_RPC_TIMEOUT_SECONDS" => seconds(1, 300);
        /// How long a client may take to answer a close, in seconds.
        connection_shutdown_timeout_seconds: Duration = "5", Live,
            "CONNECT_CONNECTION_SHUTDOWN_TIMEOUT_SECONDS" => seconds(1, 60);
        /// Deadline of a call to a backend in seconds, retries included. Clients give up at 30.
        http_client_timeout_seconds: Duration = "25", Live,
            "CONNECT_HTTP_CLIENT_TIMEOUT_SECONDS" => seconds(1, 300);
        /// Seconds between Pings to a quiet client.
        websocket_keep_alive_interval_seconds: Duration = "25", Live,
            "CONNECT_WEBSOCKET_KEEP_ALIVE_INTERVAL_SECONDS" => seconds(1, 3600);
        /// A client that sends nothing for so long after a Ping is dropped.
        pong_timeout: Duration = r#""20s""#, Live => Span(Duration::from_secs(1), HOUR);
        /// Pause between the 101 and the first frame; client libraries lose an earlier one.
        first_frame_delay: Duration = r#""20ms""#, Live => Span(ZERO, Duration::from_secs(5));
    }
}

table! {
    /// Bounds of one session unless it says otherwise; everything beyond them is refused and counted.
    ["limits"] Once Limits {
        /// "conformance" raises size, fragment, rate and control-frame limits for a test suite.
        profile: Profile = r#""production""#, Restart => Choice(&[
            ("production", Profile::Production),
            ("conformance", Profile::Conformance),
        ]);
        /// Messages per rate window; a burst of as many passes at once. 0 switches the limit off.
        messages_per_window: u32 = "1000", Live, "CONNECT_MAX_MESSAGES_PER_MINUTE"
            => Count(0, 100_000);
        /// Length of the rate window in minutes.
        rate_limit_window_minutes: Duration = "1", Live, "CONNECT_RATE_LIMIT_WINDOW_MINUTES"
            => minutes(1, 60);
        /// A message longer than `session.buffer_size` but not than this is discarded and answered
        /// 11; a longer one closes the connection with 1009.
        message_bytes_hard: usize = r#""1MiB""#, Live => Size(KIB, 32 * MIB);
        /// WebSocket frames of one message.
        fragments_max: u32 = "64", Live => Count(1, 1_000_000);
        /// Pings, Pongs and Closes per second.
        control_frames_per_second: u32 = "20", Live => Count(1, 1_000_000);
        /// Messages that wait for a slow client.
        outbox_messages_max: usize = "1024", Live => Count(1, 1 << 20);
        /// Bytes that wait for a slow client.
        outbox_bytes_max: usize = r#""1MiB""#, Live => Size(4 * KIB, GIB);
        /// A client that takes nothing of what was sent for so long is dropped without a close frame,
        /// which could not reach it.
        write_stall: Duration = r#""10s""#, Live => Span(Duration::from_millis(100), HOUR);
        /// Calls that run at a time.
        calls_running_max: usize = "32", Live => Count(1, 4096);
        /// Calls that wait for their turn; one more is answered 12.
        calls_waiting_max: usize = "256", Live => Count(0, 65_536);
        /// Bytes of waiting calls.
        calls_waiting_bytes_max: usize = r#""256KiB""#, Live => Size(0, GIB);
        /// Answers held back until an earlier one of their channel is there.
        answers_held_max: usize = "32", Live => Count(0, 4096);
        /// Bytes of answers held back.
        answers_held_bytes_max: usize = r#""256KiB""#, Live => Size(0, GIB);
        /// Connections of sessions from one address, or one IPv6 network of 64 bits; one more is told 429.
        /// Players behind one router share an address.
        connections_per_address: Option<u32> = r#""off""#, Restart => OffOr(Count(1, 1_000_000));
        /// Connections of sessions of one account; one more is told 429.
        connections_per_account: Option<u32> = r#""off""#, Live => OffOr(Count(1, 1_000_000));
        /// Networks whose clients are answered 403.
        deny: Vec<IpNet> = "[]", Live => list(Network);
        /// File with more of them, one a line; what follows a `#` is passed over. "off" is none.
        deny_file: Option<PathBuf> = r#""off""#, Live => OffOr(File);
        /// Clients per shard that are not let in yet: their requests are being read or judged. 64 more
        /// are told 503, further ones closed.
        unauthenticated_max: usize = "8192", Live => Count(16, 1 << 20);
        /// Of these, from one address, or one IPv6 network of 64 bits; one more is told 429.
        unauthenticated_per_address: Option<u32> = r#""off""#, Live => OffOr(Count(1, 1_000_000));
        /// New connections a second and shard, as many of them at once; further ones are told 503.
        handshakes_per_second: Option<u32> = r#""off""#, Live => OffOr(Count(1, 1_000_000));
        /// Share of `shards.block_pool_bytes` in use from which new connections are told 503. 1 is off.
        shed_connections_at: Share = "0.8", Live => Ratio;
        /// Share from which new calls of sessions are answered 12 as well. 1 is off.
        shed_calls_at: Share = "0.9", Live => Ratio;
        /// Time for a complete request head; then 408.
        head_timeout: Duration = r#""10s""#, Restart => Span(Duration::from_millis(100), HOUR);
        /// The sum of all pools and tables may not exceed this. "auto" is the machine's memory.
        memory_max: Auto<usize> = r#""auto""#, Restart => AutoOr(Size(16 * MIB, 1 << 50));
    }
}

table! {
    /// Brotli on the payloads of binary messages (flag 0x04).
    ["compression"] Once Compression {
        /// Compress what the gateway sends to clients: answers, events, manifests, peer messages and
        /// broadcasts.
        enabled: bool = "false", Live, "CONNECT_COMPRESSION_ENABLED" => Flag;
        /// Only to clients that asked for it at their upgrade, with `?compress=br` or
        /// `X-Connect-Compress: br`. Off: to all.
        negotiate: bool = "true", Live => Flag;
        /// Shortest payload that is compressed, in bytes. One above 256 KiB never is.
        threshold_bytes: usize = "1024", Live, "CONNECT_COMPRESSION_THRESHOLD_BYTES"
            => Size(64, MIB);
        /// From the fastest to the smallest. One turn of a shard compresses for 5 ms at most, and
        /// what goes beyond leaves as it is: at 11 that is all but payloads up to 1.6 KB.
        quality: u8 = "1", Live, "CONNECT_COMPRESSION_QUALITY"
            => Count(0, CompressionRules::QUALITY_MAX);
        /// Inflate what clients send to backends with flag 0x04, and clear the flag. Off: it is
        /// passed on as it came. Does not depend on `enabled`.
        inflate_inbound: bool = "false", Live => Flag;
    }
}

table! {
    /// For clients of other gateways.
    ["compat"] Once Compat {
        /// "own": close codes tell clients whether and when to come back. "upstream": 1000 in the place of
        /// 1001 and of all from 4001 on, with the same reasons, for clients that know no others.
        close_codes: CloseCodes = r#""own""#, Live => Choice(&[
            ("own", CloseCodes::Own),
            ("upstream", CloseCodes::Upstream),
        ]);
    }
}

table! {
    /// Who may overtake.
    ["priority"] Once Priority {
        /// Roles whose high-priority flag (0x08) counts on messages from clients.
        roles: Vec<String> = "[]", Live => list(Name);
    }
}

table! {
    /// Events that services publish for sessions, and those that the gateway writes itself.
    ["events"] Once Events {
        /// Names of events that services may send to clients, besides those of the protocol. Other
        /// spellings of a name (case, dots, hyphens, underscores) become the one given here.
        client_event_names: Vec<String> = "[]", Live => list(Name);
        /// Spelling of event names: "hyphen" for today's clients, "underscore" for older ones, "both"
        /// to write the gateway's own events in each and to leave those of services as they are.
        name_dialect: NameDialect = r#""hyphen""#, Live => Choice(&[
            ("hyphen", NameDialect::Hyphen),
            ("underscore", NameDialect::Underscore),
            ("both", NameDialect::Both),
        ]);
        /// Events that wait for one session until its client has confirmed them. The oldest go when there
        /// are more, and the client is told of the gap.
        waiting_max: usize = "1024", Live => Count(1, 1 << 20);
        /// Bytes of what waits for one session.
        waiting_bytes_max: usize = r#""256KiB""#, Live => Size(KIB, GIB);
        /// Bytes of what waits for all sessions.
        memory_max: usize = r#""64MiB""#, Live => Size(64 * KIB, 64 * GIB);
        /// Where an application of the service mappings (`bannou.full-service-mappings`) listens, with
        /// "{app}" for its id, such as "{app}:80". "off" leaves services where they are configured.
        mapped_address: Option<String> = r#""off""#, Live => OffOr(Text);
    }
}

table! {
    /// Kafka as the event bus, for nodes that serve the same sessions. Without brokers the gateway is its
    /// own bus.
    ["kafka"] Once Kafka {
        /// Where brokers are asked for the rest of them: `host:port`; empty: no Kafka.
        brokers: Vec<String> = "[]", Restart => list(Address);
        /// Stands before the name of every topic. Letters, digits, ".", "_" and "-".
        topic_prefix: String = r#""""#, Restart => Prefix;
        /// How those who publish events for sessions choose the partition of a key: "murmur2" is the Java
        /// client's way and that of most others, "crc32" that of librdkafka unless it is told otherwise.
        /// The gateway publishes in the same way.
        partitioner: Partitioner = r#""murmur2""#, Restart => Choice(&[
            ("murmur2", Partitioner::Murmur2),
            ("crc32", Partitioner::Crc32),
        ]);
        /// Make topics that are missing, for development. Off: they are waited for.
        create_topics: bool = "false", Restart => Flag;
        /// Partitions of `bannou-client-events` when it is made; other topics get one.
        partitions: u32 = "64", Restart => Count(1, 10_000);
        /// Where answers to RPCs go: "named" is the topic that the RPC names, "shared" the topic
        /// `connect.rpc-responses`, keyed by that name, where topics cannot be made freely.
        rpc_responses: RpcTopic = r#""named""#, Restart => Choice(&[
            ("named", RpcTopic::Named),
            ("shared", RpcTopic::Shared),
        ]);
        /// Published records that may wait for the brokers; further ones are lost and counted.
        spool_records: usize = "65536", Restart => Count(16, 10_000_000);
        /// Bytes of them.
        spool_bytes: usize = r#""32MiB""#, Restart => Size(64 * KIB, 2 * GIB - MIB);
        /// A published record that the brokers do not have after this time is given up.
        delivery_timeout: Duration = r#""2m""#, Restart => Span(SECOND, HOUR);
        /// Bytes that are fetched before they are wanted, for each of the two readers: of what comes, and
        /// of what sessions from elsewhere may lack.
        prefetch_bytes: usize = r#""16MiB""#, Restart => Size(MIB, GIB);
        /// Longest value of a record; longer ones are passed over.
        record_bytes_max: usize = r#""256KiB""#, Restart => Size(KIB, 16 * MIB);
        /// Time between two looks for new topics and partitions, and for how far reading is behind.
        refresh: Duration = r#""10s""#, Restart => Span(SECOND, HOUR);
        /// Settings that librdkafka is given as they are, in a table of its names: `security.protocol`,
        /// `sasl.*`, `ssl.*` and others. Those that the gateway sets itself are refused. In the variable
        /// they are `name=value`, separated by commas.
        librdkafka: PassedOn = "{}", Restart => Settings;
    }
}

table! {
    /// The control core: session directory, name resolution, admin server.
    ["control"] Once Control {
        /// Who this node is to the others, and again after a restart: a UUID. "auto" makes one of the
        /// host's name and the public addresses.
        instance: Auto<Uuid> = r#""auto""#, Restart => AutoOr(Id);
        /// CPU of the control core. "auto" is the first that the process may use.
        cpu: Auto<usize> = r#""auto""#, Restart => AutoOr(Count(0, 1023));
        /// Number of this node, different on every node that shares a salt. "auto" leases one in Redis, which
        /// the node has again after a restart; then all nodes do so.
        node: Auto<u16> = "0", Restart => AutoOr(Count(0, 4095));
    }
}

table! {
    /// Several nodes as one: messages and broadcasts of their sessions cross between them.
    ["nodes"] Once Nodes {
        /// Where other nodes reach this one's internal listener. "off": this node is alone.
        internal_url: Option<NodeUrl> = r#""off""#, Restart, "CONNECT_BROADCAST_INTERNAL_URL"
            => NodeAddressOrNone;
        /// Other nodes, each where it says in its own `internal_url`. The list may be the same on every
        /// node: a node passes itself over. One of two nodes has to name the other, unless `redis.url` is
        /// set: then nodes find each other in the registry that they keep in Redis.
        peers: Vec<NodeUrl> = "[]", Restart => list(NodeAddress);
        /// Seconds between two signs of life of this node in the registry; each is a look at it, too.
        heartbeat_interval_seconds: Duration = "30", Restart,
            "CONNECT_BROADCAST_HEARTBEAT_INTERVAL_SECONDS" => seconds(5, 300);
        /// Seconds without a sign of life after which a node is taken out of the registry and not dialled any
        /// more. More than `heartbeat_interval_seconds`.
        stale_threshold_seconds: Duration = "90", Restart,
            "CONNECT_BROADCAST_STALE_THRESHOLD_SECONDS" => seconds(15, 600);
        /// Which broadcasts cross: those of this node's sessions to others ("Send"), those of others to
        /// this node's sessions ("Receive"), or both. Messages to one session cross whatever it says.
        broadcast: BroadcastMode = r#""None""#, Restart, "CONNECT_MULTINODE_BROADCAST_MODE"
            => Choice(&[
                ("None", BroadcastMode::None),
                ("Send", BroadcastMode::Send),
                ("Receive", BroadcastMode::Receive),
                ("Both", BroadcastMode::Both),
            ]);
    }
}

table! {
    /// Redis, in which several nodes keep their sessions together; a client may come back to any of them.
    /// Without it a node is by itself. Redis 6.2 or newer, one primary; not a Redis Cluster.
    ["redis"] Once Redis {
        /// Where it is: `redis://host:port`, or `rediss://` for TLS with the system's roots; "off" is none.
        /// Of several the first that is a primary is taken.
        url: Option<RedisServers> = r#""off""#, Restart => RedisUrls;
        /// What Sentinels call the primary; then `url` names the Sentinels. "off" is none.
        sentinel: Option<String> = r#""off""#, Restart => OffOr(Name);
        /// User of its access control list; "off" is the one that it calls "default".
        user: Option<String> = r#""off""#, Restart => OffOr(Name);
        /// Password. The variable or `password_file` keeps it out of the file.
        password: Option<Secret> = r#""""#, Restart => HiddenOrNone;
        /// File with the password, read for every new connection; "off" is none.
        password_file: Option<PathBuf> = r#""off""#, Restart => OffOr(File);
        /// Stands before `connect:` in the names of all keys, for several games in one Redis; "off" is
        /// nothing.
        key_prefix: Option<String> = r#""off""#, Restart => OffOr(Text);
        /// Time for an answer; then the connection is made anew.
        timeout: Duration = r#""1s""#, Restart => Span(Duration::from_millis(10), 60 * SECOND);
        /// Time for a connection to one server; then the next one is tried.
        connect_timeout: Duration = r#""2s""#, Restart => Span(Duration::from_millis(10), 60 * SECOND);
        /// How often a node asks whether its sessions went elsewhere, and renews its lease. A node that
        /// could not for three seconds holds back events until it can.
        poll_interval: Duration = r#""300ms""#, Restart => Span(50 * MS, SECOND);
        /// What clients are told that come while Redis cannot be reached: "refuse" answers 503. "admit" lets
        /// in those with a token, and reconciles their sessions afterwards: until then one may be open
        /// twice. Open sessions live on either way.
        when_unreachable: WhenUnreachable = r#""refuse""#, Restart => Choice(&[
            ("refuse", WhenUnreachable::Refuse),
            ("admit", WhenUnreachable::Admit),
        ]);
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
