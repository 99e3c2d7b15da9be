//! What sessions may do, and how they are spoken to.

use std::path::PathBuf;
use std::time::Duration;

use corelane_shard::compression::CompressionRules;
use ipnet::IpNet;

use super::{
    CapabilitySource, CloseCodes, ConnectionMode, GIB, HOUR, InternalAuthMode, KIB, MIB, Profile,
    ZERO,
};
use crate::config::key::table;
use crate::config::network::Network;
use crate::config::scalar::{
    Choice, Count, File, Flag, Hidden, Name, Ratio, Share, Size, Span, Text, minutes, seconds,
};
use crate::config::secret::Secret;
use crate::config::shape::{Auto, AutoOr, OffOr, list};
use crate::events::NameDialect;

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
