//! What nodes share: who they are, Redis, Kafka, and each other.

use std::path::PathBuf;
use std::time::Duration;

use uuid::Uuid;

use super::{GIB, HOUR, KIB, MIB, MS, RpcTopic, SECOND, WhenUnreachable};
use crate::config::key::table;
use crate::config::node_url::{NodeAddress, NodeAddressOrNone, NodeUrl};
use crate::config::passed_on::{Address, PassedOn, Prefix, Settings};
use crate::config::redis::{RedisServers, RedisUrls};
use crate::config::scalar::{
    Choice, Count, File, Flag, HiddenOrNone, Id, Name, Size, Span, Text, seconds,
};
use crate::config::secret::Secret;
use crate::config::shape::{Auto, AutoOr, OffOr, list};
use crate::control::bus::kafka::Partitioner;
use crate::control::nodes::BroadcastMode;

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
        /// A published record that the brokers do not have after this time is given up; one that has to
        /// wait for an answer to others first, after at most twice this time.
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
