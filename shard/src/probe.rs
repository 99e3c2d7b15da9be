//! What one shard counts. Written by its shard alone (relaxed stores, no read-modify-write), read
//! by the control core, so counting costs a message nothing.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, by: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
    }

    pub fn increment(&self) {
        self.add(1);
    }

    /// For gauges.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    #[must_use]
    pub fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
}

/// One value at the moment of the scrape. `name` is without the `corelane_` prefix and without the
/// `_total` that counters get.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    pub name: &'static str,
    pub help: &'static str,
    pub kind: Kind,
    /// At most one label besides the shard: (key, value from a closed list).
    pub label: Option<(&'static str, &'static str)>,
    pub value: u64,
}

/// A labelled family: one counter for each value of a closed list.
macro_rules! closed_list {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident => $label:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$vdoc])* $variant,)+ }

        impl $name {
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// Metric label.
            #[must_use]
            pub fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ }
            }
        }
    };
}

closed_list! {
    /// Everything that is refused or thrown away, and why; each is also answered where its sender
    /// can be answered.
    Shed {
        LaneFull => "lane_full",
        PeerOutboxFull => "peer_outbox_full",
        PeerGone => "peer_gone",
        BroadcastOutboxFull => "broadcast_outbox_full",
        BroadcastLaneFull => "broadcast_lane_full",
        OwnOutboxFull => "own_outbox_full",
        RateLimited => "rate_limited",
        CallLineFull => "call_line_full",
        HeldAnswerFull => "held_answer_full",
        ServiceBusy => "service_busy",
        BreakerOpen => "breaker_open",
        CallTimedOut => "call_timed_out",
        LateAnswer => "late_answer",
        UnknownTag => "unknown_tag",
        BackendBodyTooLong => "backend_body_too_long",
        MessageTooLong => "message_too_long",
        ShortFrame => "short_frame",
        UnmatchedAnswer => "unmatched_answer",
        CompressedBadly => "compressed_badly",
        InflatingBusy => "inflating_busy",
        BlocksExhausted => "blocks_exhausted",
        /// A new call, because the block pool is nearly full.
        ShortOfMemory => "short_of_memory",
        SlowConsumer => "slow_consumer",
        /// A call of a session that is told to go.
        Departing => "departing",
        PushWithoutSession => "push_without_session",
        /// The span of a traced call, for want of room on the lane to the control core.
        SpanLaneFull => "span_lane_full",
        /// A session holds as many shortcuts as it may, or this one may not be.
        ShortcutRefused => "shortcut_refused",
        /// A client did not answer a backend's RPC in time.
        RpcTimeout => "rpc_timeout",
        /// Text from a client of the Internal mode.
        TextIgnored => "text_ignored",
        /// A new connection, closed because there was not even room for an answer.
        Unheard => "unheard",
    }
}

closed_list! {
    /// How an upgrade ended.
    Upgrade {
        Accepted => "accepted",
        Malformed => "malformed",
        NotFound => "not_found",
        MethodNotAllowed => "method_not_allowed",
        UpgradeRequired => "upgrade_required",
        HeadTooLarge => "head_too_large",
        HeadTimeout => "head_timeout",
        Unauthorized => "unauthorized",
        Forbidden => "forbidden",
        Unavailable => "unavailable",
        Full => "full",
        Replaced => "replaced",
        Draining => "draining",
        TooMany => "too_many",
        Denied => "denied",
        TooManyWaiting => "too_many_waiting",
        Crowded => "crowded",
        TooFast => "too_fast",
        ShortOfMemory => "short_of_memory",
        ProxyHeader => "proxy_header",
        ClientGone => "client_gone",
        Health => "health",
    }
}

closed_list! {
    /// Where a message went.
    Route {
        Call => "call",
        Meta => "meta",
        Peer => "peer",
        Broadcast => "broadcast",
        Echo => "echo",
        Refused => "refused",
    }
}

closed_list! {
    /// What became of an attempt to compress a message to clients, or of one that was not made for
    /// want of time.
    Compression {
        Compressed => "compressed",
        Incompressible => "incompressible",
        NoTime => "no_time",
    }
}
mod door;
pub use door::{CredentialRoute, DoorProbe, TlsOutcome};

/// Counters of one shard; lives for the whole process.
#[derive(Debug)]
pub struct Probe {
    pub turns: Counter,
    pub ring_enters: Counter,
    pub parks: Counter,
    pub doorbells: Counter,
    pub connections: Counter,
    pub sessions: Counter,
    pub accepted: Counter,
    pub messages_in: Counter,
    pub bytes_in: Counter,
    pub messages_out: Counter,
    pub events_delivered: Counter,
    pub bytes_out: Counter,
    pub payload_copies: Counter,
    pub sends: Counter,
    pub sends_partial: Counter,
    pub receive_buffers_exhausted: Counter,
    pub deliveries_withheld: Counter,
    pub lane_crossings_out: Counter,
    pub lane_crossings_in: Counter,
    pub calls_running: Counter,
    pub upstream_connections: Counter,
    pub blocks_in_use_bytes: Counter,
    /// 0 calm, 1 new connections are shed, 2 new calls too, 3 the pool is used up.
    pub memory_stage: Counter,
    pub receive_buffers_out: Counter,
    pub slots_in_use: Counter,
    pub parse_errors: Counter,
    /// Of messages that were compressed, headers included: before and after.
    pub compression_in_bytes: Counter,
    pub compression_out_bytes: Counter,
    pub messages_inflated: Counter,
    pub calls_traced: Counter,
    pub spans_recorded: Counter,
    pub door: DoorProbe,
    shed: [Counter; Shed::ALL.len()],
    upgrades: [Counter; Upgrade::ALL.len()],
    routes: [Counter; Route::ALL.len()],
    compressions: [Counter; Compression::ALL.len()],
    /// By position in [`RESPONSES`].
    responses: [Counter; RESPONSES.len()],
    closes: [Counter; CLOSES.len()],
}

/// Response codes that are counted apart; the last entry takes any other.
const RESPONSES: [(u8, &str); 18] = [
    (0, "0"),
    (10, "10"),
    (11, "11"),
    (12, "12"),
    (13, "13"),
    (14, "14"),
    (20, "20"),
    (30, "30"),
    (31, "31"),
    (40, "40"),
    (50, "50"),
    (51, "51"),
    (52, "52"),
    (53, "53"),
    (60, "60"),
    (70, "70"),
    (71, "71"),
    (255, "other"),
];

/// Close codes that are counted apart; 1006 stands for an end without a close handshake, the last
/// entry takes any other.
const CLOSES: [(u16, &str); 17] = [
    (1000, "1000"),
    (1001, "1001"),
    (1002, "1002"),
    (1003, "1003"),
    (1005, "1005"),
    (1006, "1006"),
    (1007, "1007"),
    (1008, "1008"),
    (1009, "1009"),
    (1011, "1011"),
    (1013, "1013"),
    (4001, "4001"),
    (4002, "4002"),
    (4003, "4003"),
    (4004, "4004"),
    (4005, "4005"),
    (0, "other"),
];

impl Default for Probe {
    fn default() -> Self {
        Self {
            turns: Counter::default(),
            ring_enters: Counter::default(),
            parks: Counter::default(),
            doorbells: Counter::default(),
            connections: Counter::default(),
            sessions: Counter::default(),
            accepted: Counter::default(),
            messages_in: Counter::default(),
            bytes_in: Counter::default(),
            messages_out: Counter::default(),
            events_delivered: Counter::default(),
            bytes_out: Counter::default(),
            payload_copies: Counter::default(),
            sends: Counter::default(),
            sends_partial: Counter::default(),
            receive_buffers_exhausted: Counter::default(),
            deliveries_withheld: Counter::default(),
            lane_crossings_out: Counter::default(),
            lane_crossings_in: Counter::default(),
            calls_running: Counter::default(),
            upstream_connections: Counter::default(),
            blocks_in_use_bytes: Counter::default(),
            memory_stage: Counter::default(),
            receive_buffers_out: Counter::default(),
            slots_in_use: Counter::default(),
            parse_errors: Counter::default(),
            compression_in_bytes: Counter::default(),
            compression_out_bytes: Counter::default(),
            messages_inflated: Counter::default(),
            calls_traced: Counter::default(),
            spans_recorded: Counter::default(),
            door: DoorProbe::default(),
            shed: std::array::from_fn(|_| Counter::default()),
            upgrades: std::array::from_fn(|_| Counter::default()),
            routes: std::array::from_fn(|_| Counter::default()),
            compressions: std::array::from_fn(|_| Counter::default()),
            responses: std::array::from_fn(|_| Counter::default()),
            closes: std::array::from_fn(|_| Counter::default()),
        }
    }
}

impl Probe {
    pub fn shed(&self, what: Shed) {
        self.shed[what as usize].increment();
    }

    #[must_use]
    pub fn shed_count(&self, what: Shed) -> u64 {
        self.shed[what as usize].read()
    }

    pub fn upgrade(&self, how: Upgrade) {
        self.upgrades[how as usize].increment();
    }

    pub fn route(&self, route: Route) {
        self.routes[route as usize].increment();
    }

    pub fn compression(&self, outcome: Compression) {
        self.compressions[outcome as usize].increment();
    }

    #[must_use]
    pub fn route_count(&self, route: Route) -> u64 {
        self.routes[route as usize].read()
    }

    pub fn response(&self, code: u8) {
        let index = RESPONSES.iter().position(|(known, _)| *known == code);
        self.responses[index.unwrap_or(RESPONSES.len() - 1)].increment();
    }

    pub fn close(&self, code: u16) {
        let index = CLOSES.iter().position(|(known, _)| *known == code);
        self.closes[index.unwrap_or(CLOSES.len() - 1)].increment();
    }

    /// Hands every value to `each`, families together.
    pub fn visit(&self, each: &mut dyn FnMut(Sample)) {
        use Kind::{Counter as C, Gauge as G};
        let plain: [(&'static str, &'static str, Kind, &Counter); 27] = [
            ("turns", "Turns of the forwarding loop", C, &self.turns),
            ("ring_enters", "io_uring_enter calls of the data ring", C, &self.ring_enters),
            ("parks", "Times the shard went to sleep", C, &self.parks),
            ("doorbells", "Wake-ups sent to sleeping shards", C, &self.doorbells),
            ("connections", "Open sockets, downstream", G, &self.connections),
            ("sessions", "Authenticated sessions", G, &self.sessions),
            ("connections_accepted", "Sockets accepted", C, &self.accepted),
            (
                "messages_received",
                "WebSocket messages received, from clients and on links",
                C,
                &self.messages_in,
            ),
            ("received_bytes", "Bytes received on all sockets", C, &self.bytes_in),
            ("messages_sent", "Messages queued to clients", C, &self.messages_out),
            (
                "events_delivered",
                "Events of the event buffers queued to clients",
                C,
                &self.events_delivered,
            ),
            ("sent_bytes", "Bytes handed to the kernel on all sockets", C, &self.bytes_out),
            ("payload_copies", "Payloads copied on their way", C, &self.payload_copies),
            ("sends", "SEND submissions", C, &self.sends),
            ("sends_partial", "SENDs the kernel took only in part", C, &self.sends_partial),
            (
                "receive_buffers_exhausted",
                "Receives refused for want of a provided buffer",
                C,
                &self.receive_buffers_exhausted,
            ),
            (
                "lane_crossings_sent",
                "Messages put on lanes to other shards",
                C,
                &self.lane_crossings_out,
            ),
            (
                "lane_crossings_received",
                "Messages taken from lanes of other shards",
                C,
                &self.lane_crossings_in,
            ),
            ("calls_running", "Backend calls in flight", G, &self.calls_running),
            ("upstream_connections", "Open connections to backends", G, &self.upstream_connections),
            ("blocks_in_use_bytes", "Pooled block bytes handed out", G, &self.blocks_in_use_bytes),
            (
                "memory_stage",
                "What is shed for want of blocks: 1 new connections, 2 new calls too, 3 all",
                G,
                &self.memory_stage,
            ),
            (
                "receive_buffers_out",
                "Receive buffers out of the kernel's hands",
                G,
                &self.receive_buffers_out,
            ),
            ("slots_in_use", "Connections of any kind, closing ones too", G, &self.slots_in_use),
            ("parse_errors", "Client bytes that broke the protocol", C, &self.parse_errors),
            ("calls_traced", "Calls sent with a trace context", C, &self.calls_traced),
            ("spans_recorded", "Spans handed to the control core", C, &self.spans_recorded),
        ];
        for (name, help, kind, counter) in plain {
            each(Sample { name, help, kind, label: None, value: counter.read() });
        }
        let mut family =
            |name, help, key, labels: &mut dyn Iterator<Item = (&'static str, &Counter)>| {
                for (label, counter) in labels {
                    let label = Some((key, label));
                    each(Sample { name, help, kind: C, label, value: counter.read() });
                }
            };
        let shed = &mut Shed::ALL.iter().map(|s| s.label()).zip(&self.shed);
        family("shed", "Refused or thrown away", "reason", shed);
        let upgrades = &mut Upgrade::ALL.iter().map(|u| u.label()).zip(&self.upgrades);
        family("upgrades", "Upgrade requests by outcome", "outcome", upgrades);
        let routes = &mut Route::ALL.iter().map(|r| r.label()).zip(&self.routes);
        family("messages_routed", "Client messages by route", "route", routes);
        let responses = &mut RESPONSES.iter().map(|r| r.1).zip(&self.responses);
        family("responses", "Responses by code", "code", responses);
        let closes = &mut CLOSES.iter().map(|c| c.1).zip(&self.closes);
        family("connections_closed", "Connections ended by close code", "code", closes);
        self.visit_towards_clients(each);
        self.door.visit(each);
    }

    fn visit_towards_clients(&self, each: &mut dyn FnMut(Sample)) {
        let kind = Kind::Counter;
        let plain = [
            (
                "deliveries_withheld",
                "Events kept back while the node was not sure of its sessions",
                &self.deliveries_withheld,
            ),
            (
                "compression_in_bytes",
                "Messages to clients before they were compressed",
                &self.compression_in_bytes,
            ),
            (
                "compression_out_bytes",
                "Messages to clients after they were compressed",
                &self.compression_out_bytes,
            ),
            (
                "messages_inflated",
                "Messages of clients inflated for backends",
                &self.messages_inflated,
            ),
        ];
        for (name, help, counter) in plain {
            each(Sample { name, help, kind, label: None, value: counter.read() });
        }
        let (name, help) = ("compressions", "Messages to clients by outcome of compression");
        for (outcome, counter) in Compression::ALL.iter().zip(&self.compressions) {
            let label = Some(("outcome", outcome.label()));
            each(Sample { name, help, kind, label, value: counter.read() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_outside_the_closed_list_are_counted_as_other() {
        let probe = Probe::default();
        probe.close(4999);
        probe.response(60);
        let mut seen = Vec::new();
        probe.visit(&mut |s| {
            if s.value > 0 {
                seen.push((s.name, s.label));
            }
        });
        assert_eq!(
            seen,
            [("responses", Some(("code", "60"))), ("connections_closed", Some(("code", "other")))]
        );
    }
}
