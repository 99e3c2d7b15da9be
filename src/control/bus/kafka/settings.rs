//! What librdkafka is told: by the gateway's own keys, and by settings that are passed on as they are.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;

use super::partitioner::Partitioner;

/// Where the brokers are, and the bounds of the talk with them.
#[derive(Debug, Clone)]
pub struct KafkaSettings {
    /// `host:port`; not empty.
    pub brokers: Vec<String>,
    /// This process among its like.
    pub instance: String,
    pub topic_prefix: String,
    pub partitioner: Partitioner,
    /// Partitions of the topics that are made where they are missing; `None` makes none.
    pub create_partitions: Option<u32>,
    /// Answers to RPCs share one topic, keyed by the channel that the RPC names.
    pub shared_rpc_topic: bool,
    pub spool_records: usize,
    pub spool_bytes: usize,
    /// A record that the brokers have not got after this time is given up.
    pub delivery_timeout: Duration,
    /// Bytes that each of the two readers fetches before they are wanted.
    pub prefetch_bytes: usize,
    /// Longest value that is taken.
    pub record_bytes_max: usize,
    /// Time between two looks for topics and partitions.
    pub refresh: Duration,
    /// Names and values of settings that are passed on.
    pub passed_on: Vec<(String, String)>,
}

/// What a client of the brokers is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Publisher,
    LiveReader,
    ReplayReader,
}

/// Settings that the gateway itself makes, or whose change would break what it promises.
pub const RESERVED: [&str; 26] = [
    "acks",
    "allow.auto.create.topics",
    "auto.commit.enable",
    "auto.commit.interval.ms",
    "auto.offset.reset",
    "bootstrap.servers",
    "delivery.report.only.error",
    "delivery.timeout.ms",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    "group.instance.id",
    "group.protocol",
    "log.queue",
    "message.timeout.ms",
    "metadata.broker.list",
    "partitioner",
    "queue.buffering.max.kbytes",
    "queue.buffering.max.messages",
    "queued.max.messages.kbytes",
    "request.required.acks",
    "statistics.interval.ms",
    "test.mock.num.brokers",
    "transactional.id",
];

/// Whether librdkafka knows the setting and takes the value.
pub fn takes(name: &str, value: &str) -> bool {
    let mut config = ClientConfig::new();
    config.set(name, value);
    !matches!(config.create_native_config(), Err(KafkaError::ClientConfig(..) | KafkaError::Nul(_)))
}

impl KafkaSettings {
    pub(super) fn client(&self, role: Role) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set_log_level(RDKafkaLogLevel::Info);
        // What may be said otherwise.
        for (name, value) in [
            ("client.id", self.instance.as_str()),
            ("socket.keepalive.enable", "true"),
            ("socket.nagle.disable", "true"),
            // After an outage nobody waits much longer than the brokers need.
            ("reconnect.backoff.max.ms", "2000"),
            // After one of the network the kernel is slow to try again: a connection on which nobody
            // answers is made anew before that, and so is one that is long in the making.
            ("socket.timeout.ms", "10000"),
            ("socket.connection.setup.timeout.ms", "5000"),
        ] {
            config.set(name, value);
        }
        let names = |name: &str| self.passed_on.iter().any(|(passed, _)| passed == name);
        if names("security.protocol") && !names("ssl.ca.location") && !names("ssl.ca.pem") {
            // The roots of the system, wherever it keeps them.
            config.set("ssl.ca.location", "probe");
        }
        match role {
            Role::Publisher => config.set("linger.ms", "2"),
            Role::LiveReader => config.set("fetch.queue.backoff.ms", "10"),
            Role::ReplayReader => config
                .set("fetch.queue.backoff.ms", "5")
                // A scan that begins waits for the fetch before it.
                .set("fetch.wait.max.ms", "20"),
        };
        for (name, value) in &self.passed_on {
            config.set(name, value);
        }
        config
            .set("bootstrap.servers", self.bootstrap_servers())
            // They tell whether a client has forgotten its brokers.
            .set("statistics.interval.ms", STATISTICS_INTERVAL.as_millis().to_string());
        match role {
            Role::Publisher => self.publisher(&mut config),
            Role::LiveReader => self.reader(&mut config, "live"),
            Role::ReplayReader => {
                self.reader(&mut config, "replay");
                config.set("enable.partition.eof", "true");
            }
        }
        config
    }

    /// All brokers that are configured, as librdkafka wants them.
    pub(super) fn bootstrap_servers(&self) -> String {
        self.brokers.join(",")
    }

    fn publisher(&self, config: &mut ClientConfig) {
        config
            .set("enable.idempotence", "true")
            .set("partitioner", self.partitioner.setting())
            .set("queue.buffering.max.messages", self.spool_records.to_string())
            .set("queue.buffering.max.kbytes", kibibytes(self.spool_bytes))
            .set("message.timeout.ms", self.delivery_timeout.as_millis().to_string());
    }

    /// The group exists by name alone: nothing is committed to it, and nobody else is in it.
    fn reader(&self, config: &mut ClientConfig, what: &str) {
        config
            .set("group.id", format!("corelane.{}.{what}", self.instance))
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // Whoever reads is told that records are gone, and says himself where to go on.
            .set("auto.offset.reset", "error")
            .set("allow.auto.create.topics", "false")
            .set("queued.max.messages.kbytes", kibibytes(self.prefetch_bytes));
    }
}

/// They name every partition, and take memory and time in proportion.
const STATISTICS_INTERVAL: Duration = Duration::from_secs(10);

fn kibibytes(bytes: usize) -> String {
    (bytes >> 10).max(1).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn librdkafka_is_asked_what_it_takes() {
        assert!(takes("security.protocol", "sasl_ssl"));
        assert!(takes("sasl.mechanisms", "SCRAM-SHA-512"));
        assert!(takes("sasl.password", "any thing"));
        assert!(takes("ssl.key.password", "x"));
        assert!(!takes("security.protocol", "sasl_tls"));
        assert!(!takes("no.such.setting", "1"));
        assert!(!takes("linger.ms", "soon"));
        assert!(!takes("client.id", "a\0b"));
    }

    #[test]
    fn what_is_reserved_is_known_to_librdkafka_by_that_name() {
        for name in RESERVED {
            let mut config = ClientConfig::new();
            config.set(name, "1");
            let error = config.create_native_config().err().map(|error| error.to_string());
            let unknown = error.is_some_and(|error| error.contains("No such configuration"));
            assert!(!unknown, "{name}");
        }
    }

    #[test]
    fn what_is_passed_on_overrides_advice_but_no_promise() {
        let settings = KafkaSettings {
            passed_on: vec![
                ("linger.ms".into(), "77".into()),
                ("socket.timeout.ms".into(), "30000".into()),
                ("enable.idempotence".into(), "false".into()),
                ("security.protocol".into(), "ssl".into()),
            ],
            ..super::super::tests::settings("127.0.0.1:1")
        };
        let config = settings.client(Role::Publisher);
        assert_eq!(config.get("linger.ms"), Some("77"));
        assert_eq!(config.get("socket.timeout.ms"), Some("30000"));
        assert_eq!(config.get("enable.idempotence"), Some("true"));
        assert_eq!(config.get("ssl.ca.location"), Some("probe"));
        assert_eq!(config.get("partitioner"), Some("murmur2_random"));
        let reader = settings.client(Role::ReplayReader);
        assert_eq!(reader.get("enable.partition.eof"), Some("true"));
        assert_eq!(reader.get("enable.auto.commit"), Some("false"));
    }

    #[test]
    fn every_bound_reaches_librdkafka_in_its_units() {
        let settings = KafkaSettings {
            partitioner: Partitioner::Crc32,
            spool_records: 77,
            spool_bytes: 3 << 20,
            delivery_timeout: Duration::from_secs(5),
            prefetch_bytes: 2 << 20,
            ..super::super::tests::settings("a:1")
        };
        let publisher = settings.client(Role::Publisher);
        for (name, value) in [
            ("partitioner", "consistent_random"),
            ("queue.buffering.max.messages", "77"),
            ("queue.buffering.max.kbytes", "3072"),
            ("message.timeout.ms", "5000"),
        ] {
            assert_eq!(publisher.get(name), Some(value), "{name}");
        }
        for role in [Role::LiveReader, Role::ReplayReader] {
            let reader = settings.client(role);
            assert_eq!(reader.get("queued.max.messages.kbytes"), Some("2048"));
            assert_eq!(reader.get("bootstrap.servers"), Some("a:1"));
        }
    }
}
