//! The sum of everything bounded: what the process may take when every bound is reached.

use std::fmt;

use corelane_shard::lane::ABROAD_SHARE;

use super::Config;
use super::quantity::show_size;
use crate::control::bus::EmbeddedBus;
use crate::control::nodes::LINKS_BYTES_MAX;
use crate::control::{CONTROL_LANE, HANDLING_BYTES_MAX};

/// One summand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryTerm {
    pub name: &'static str,
    /// How the bytes come about, for people.
    pub sum: String,
    pub bytes: u64,
}

/// Term by term. Code, stacks, the allocator's slack and the kernel's socket buffers are not ours
/// to bound and stand outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryBudget {
    pub terms: Vec<MemoryTerm>,
}

/// A slot with everything that an idle session keeps, and the allocator's share of it.
/// `tests/idle_memory.rs` measures it together with the directory entry.
const CONNECTION_BYTES: u64 = 512;
/// Slots beside those of clients: sockets towards backends, and spare ones.
const OTHER_CONNECTIONS: u64 = 2048 + 64;
/// GUID tables and the token cache of one shard.
const LOOK_UP_BYTES: u64 = 8 << 20;
/// A session's record, with its share of the tables' spare room.
const RECORD_BYTES: u64 = 160;
/// What is kept of a session for Redis beside its record: its turn of the heartbeats, where its client is,
/// and what could not be written while Redis was away.
const SHARED_SESSION_BYTES: u64 = 256;
/// A command to Redis and its answer.
const COMMAND_BYTES: u64 = 1 << 10;
/// Those that wait.
const COMMANDS: u64 = 4096;
/// The longest document, and what becomes of it while it is read.
const KEY_SET_BYTES: u64 = 4 << 20;
/// A token and its copy in the request, the longest answer, and a connection.
const VALIDATION_BYTES: u64 = 128 << 10;
const SUBMISSION_BYTES: u64 = 64;
/// In the kernel's queue, and two places in the shard's own.
const COMPLETION_BYTES: u64 = 16 + 2 * 40;
const COMPLETIONS_PER_SUBMISSION: u64 = 4;
const LANE_SLOT_BYTES: u64 = 64;
/// Requests and answers.
const LANES_PER_PAIR: u64 = 2;
/// A peer's entry in the provided-buffer ring.
const BUFFER_ENTRY_BYTES: u64 = 16;
/// Connections to the internal listener, and what each reads and writes through.
const SERVICE_CONNECTIONS: u64 = 256;
const SERVICE_CONNECTION_BYTES: u64 = 64 << 10;
/// Requests to it whose body is in memory: as it came, and as what it becomes.
const REQUESTS_AT_WORK: u64 = 32;
const REQUEST_BYTES: u64 = 2 << 20;
/// Calls of services through it, with the backend's answer: as it came, as text, as JSON.
const PROXIED_CALLS: u64 = 16;
const ANSWER_COPIES: u64 = 3;
/// A span, wherever it waits.
const SPAN_BYTES: u64 = 256;
/// Spans in the control core's queue and in the batch that is being sent.
const SPANS_QUEUED: u64 = 4096 + 512;
/// Spans on the lane of one shard.
const SPANS_ON_LANE: u64 = 2048;
/// An address and its count, with its share of the table's spare room.
const COUNTED_ADDRESS_BYTES: u64 = 64;
/// What a client has brought to its upgrade.
const BROUGHT_TRACE_BYTES: u64 = 128;
/// A TLS handshake: its state, what it has received, and what it is about to send.
const HANDSHAKE_BYTES: u64 = 32 << 10;
/// The keys of a connection in both directions, and what those that follow are derived from.
const TLS_CONNECTION_BYTES: u64 = 2 << 10;

/// A record in the spool, besides key and value.
const SPOOLED_RECORD_BYTES: u64 = 512;
/// Of what comes, and of what is read again.
const KAFKA_READERS: u64 = 2;

impl MemoryBudget {
    #[must_use]
    pub fn of(config: &Config, shards: usize) -> Self {
        let shards = shards as u64;
        let cores = shards + 1;
        let [buffers, buffer, submissions, pool, lane, connections] = [
            config.shards.receive_buffers,
            config.shards.receive_buffer_bytes,
            config.shards.submission_entries,
            config.shards.block_pool_bytes,
            config.shards.lane_capacity,
            config.shards.connections_max,
        ]
        .map(|value| value as u64);
        let compression = config.compression_rules().memory_bytes_max() as u64;
        let completions = submissions * COMPLETIONS_PER_SUBMISSION;
        let pairs = cores * (cores - 1);
        let term = |name, sum, bytes| MemoryTerm { name, sum, bytes };
        let mut terms = vec![
            term(
                "receive buffers",
                format!("shards {shards} x {buffers} x {}", show_size(buffer)),
                shards * buffers * (buffer + BUFFER_ENTRY_BYTES),
            ),
            term(
                "rings",
                format!("shards {shards} x {submissions} submissions, {completions} completions"),
                shards * (submissions * SUBMISSION_BYTES + completions * COMPLETION_BYTES),
            ),
            term("block pools", format!("shards {shards} x {}", show_size(pool)), shards * pool),
            term(
                "connection tables",
                format!(
                    "shards {shards} x ({connections} + {OTHER_CONNECTIONS}) x {CONNECTION_BYTES}B"
                ),
                shards * (connections + OTHER_CONNECTIONS) * CONNECTION_BYTES,
            ),
            term(
                "compression",
                format!("shards {shards} x {}", show_size(compression)),
                shards * compression,
            ),
            term(
                "look-up tables",
                format!("shards {shards} x {}", show_size(LOOK_UP_BYTES)),
                shards * LOOK_UP_BYTES,
            ),
            term(
                "lanes",
                format!("{pairs} pairs x {LANES_PER_PAIR} x {lane} x {LANE_SLOT_BYTES}B"),
                pairs * LANES_PER_PAIR * lane * LANE_SLOT_BYTES,
            ),
        ];
        terms.extend(session_terms(config));
        terms.extend(shared_sessions(config));
        terms.extend(door_terms(config, shards));
        terms.extend(tls_term(config, shards));
        terms.extend(internal_listener(config));
        terms.extend(links_term(config, shards));
        if config.tracing.otlp_endpoint.is_some() {
            let running = config.services.iter().map(|service| service.settings.running_max as u64);
            let open = running.sum::<u64>() + SPANS_ON_LANE;
            terms.push(term(
                "spans",
                format!("(shards {shards} x {open} + {SPANS_QUEUED}) x {SPAN_BYTES}B"),
                (shards * open + SPANS_QUEUED) * SPAN_BYTES,
            ));
        }
        if config.tracing.accept_from_clients {
            terms.push(term(
                "traces of clients",
                format!("shards {shards} x {connections} x {BROUGHT_TRACE_BYTES}B"),
                shards * connections * BROUGHT_TRACE_BYTES,
            ));
        }
        let sets = config.auth_jwks.len() as u64;
        if sets > 0 {
            let sum = format!("{sets} x {}", show_size(KEY_SET_BYTES));
            terms.push(term("published key sets", sum, sets * KEY_SET_BYTES));
        }
        if config.auth_validate.url.is_some() {
            let waiting = config.auth_validate.waiting_max as u64;
            let sum = format!("shards {shards} x {waiting} x {}", show_size(VALIDATION_BYTES));
            terms.push(term("tokens being judged", sum, shards * waiting * VALIDATION_BYTES));
        }
        Self { terms }
    }

    #[must_use]
    pub fn total(&self) -> u64 {
        self.terms.iter().map(|term| term.bytes).sum()
    }

    /// `Err` says in one sentence what does not fit. `physical` counts when `limits.memory_max`
    /// is "auto".
    pub fn fits(&self, config: &Config, physical: u64) -> Result<(), String> {
        let max = config.limits.memory_max;
        let max = max.unwrap_or_else(|| usize::try_from(physical).unwrap_or(usize::MAX)) as u64;
        let total = self.total();
        if total <= max {
            return Ok(());
        }
        let mebibytes = |bytes: u64| bytes.div_ceil(1 << 20);
        Err(format!(
            "the limits add up to {} MiB, more than limits.memory_max ({} MiB)",
            mebibytes(total),
            mebibytes(max)
        ))
    }
}

/// Sessions on the control core, and what waits for them.
fn session_terms(config: &Config) -> [MemoryTerm; 3] {
    let sessions = u64::from(config.session.max_concurrent_connections);
    let term = |name, sum, bytes| MemoryTerm { name, sum, bytes };
    [
        term(
            "session records",
            format!("2 x {sessions} x {RECORD_BYTES}B, for those that wait as well"),
            2 * sessions * RECORD_BYTES,
        ),
        bus_term(config),
        term(
            "events that wait",
            show_size(config.events.memory_max as u64).to_string(),
            config.events.memory_max as u64,
        ),
    ]
}

/// Kafka's spool and what is fetched ahead, or the gateway's own channel.
fn bus_term(config: &Config) -> MemoryTerm {
    let kafka = &config.kafka;
    if kafka.brokers.is_empty() {
        return MemoryTerm {
            name: "event bus",
            sum: format!("{} x {}B", EmbeddedBus::CAPACITY, EmbeddedBus::RECORD_BYTES_MAX),
            bytes: (EmbeddedBus::CAPACITY * EmbeddedBus::RECORD_BYTES_MAX) as u64,
        };
    }
    let [records, spool, prefetch] =
        [kafka.spool_records, kafka.spool_bytes, kafka.prefetch_bytes].map(|value| value as u64);
    MemoryTerm {
        name: "event bus",
        sum: format!(
            "{} + {records} x {SPOOLED_RECORD_BYTES}B + {KAFKA_READERS} x {}",
            show_size(spool),
            show_size(prefetch)
        ),
        bytes: spool + records * SPOOLED_RECORD_BYTES + KAFKA_READERS * prefetch,
    }
}

/// Nothing while a node is by itself.
fn shared_sessions(config: &Config) -> Option<MemoryTerm> {
    config.redis.url.as_ref()?;
    let sessions = 2 * u64::from(config.session.max_concurrent_connections);
    Some(MemoryTerm {
        name: "redis",
        sum: format!(
            "{sessions} x {SHARED_SESSION_BYTES}B + {COMMANDS} x {}",
            show_size(COMMAND_BYTES)
        ),
        bytes: sessions * SHARED_SESSION_BYTES + COMMANDS * COMMAND_BYTES,
    })
}

/// Who is kept out, and who waits from where; nothing when nobody asks.
fn door_terms(config: &Config, shards: u64) -> Vec<MemoryTerm> {
    let mut terms = Vec::new();
    let denied = config.denied.memory_bytes() as u64;
    if denied > 0 {
        let sum = format!("2 x {denied}B, the next one too while it is read");
        terms.push(MemoryTerm { name: "deny list", sum, bytes: 2 * denied });
    }
    if config.limits.unauthenticated_per_address.is_some() {
        let waiting = config.limits.unauthenticated_max as u64;
        let sum = format!("shards {shards} x {waiting} x {COUNTED_ADDRESS_BYTES}B");
        let bytes = shards * waiting * COUNTED_ADDRESS_BYTES;
        terms.push(MemoryTerm { name: "addresses at the door", sum, bytes });
    }
    terms
}

/// Nothing where no listener speaks TLS.
fn tls_term(config: &Config, shards: u64) -> Option<MemoryTerm> {
    config.listen_tls.address.first()?;
    let handshakes = config.listen_tls.handshakes_max as u64;
    let connections = config.shards.connections_max as u64;
    let [handshake, connection] = [HANDSHAKE_BYTES, TLS_CONNECTION_BYTES];
    Some(MemoryTerm {
        name: "TLS",
        sum: format!(
            "shards {shards} x ({handshakes} x {} + {connections} x {})",
            show_size(handshake),
            show_size(connection)
        ),
        bytes: shards * (handshakes * handshake + connections * connection),
    })
}

/// Nothing when it is off.
fn internal_listener(config: &Config) -> Option<MemoryTerm> {
    config.listen_internal.address?;
    let answers = config.services.iter().map(|service| service.settings.response_body_bytes_max);
    let answer = ANSWER_COPIES * answers.max().unwrap_or(0) as u64;
    Some(MemoryTerm {
        name: "internal listener",
        sum: format!(
            "{SERVICE_CONNECTIONS} x {} + {REQUESTS_AT_WORK} x {} + {PROXIED_CALLS} x {}",
            show_size(SERVICE_CONNECTION_BYTES),
            show_size(REQUEST_BYTES),
            show_size(answer),
        ),
        bytes: SERVICE_CONNECTIONS * SERVICE_CONNECTION_BYTES
            + REQUESTS_AT_WORK * REQUEST_BYTES
            + PROXIED_CALLS * answer,
    })
}

/// Nothing where the node is alone.
fn links_term(config: &Config, shards: u64) -> Option<MemoryTerm> {
    config.nodes.internal_url.as_ref()?;
    let leaving = (CONTROL_LANE / ABROAD_SHARE * config.session.buffer_size) as u64;
    let [arriving, links] = [HANDLING_BYTES_MAX, LINKS_BYTES_MAX].map(|bytes| bytes as u64);
    Some(MemoryTerm {
        name: "other nodes",
        sum: format!(
            "shards {shards} x ({} + {}) + {}",
            show_size(leaving),
            show_size(arriving),
            show_size(links)
        ),
        bytes: shards * (leaving + arriving) + links,
    })
}

impl fmt::Display for MemoryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mebibytes = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
        for term in &self.terms {
            writeln!(f, "  {:<18} {:>12}  {}", term.name, mebibytes(term.bytes), term.sum)?;
        }
        write!(f, "  {:<18} {:>12}", "together", mebibytes(self.total()))
    }
}

/// The machine's memory in bytes.
#[must_use]
pub fn physical_memory() -> u64 {
    let machine = rustix::system::sysinfo();
    u64::from(machine.mem_unit) * machine.totalram
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Auto, RedisServers};

    #[test]
    fn the_sum_grows_with_every_pool_and_with_every_shard() {
        let base = Config::default();
        let total = MemoryBudget::of(&base, 1).total();
        assert!(MemoryBudget::of(&base, 2).total() > total);
        let grown: [fn(&mut Config); 11] = [
            |config| config.shards.receive_buffers *= 2,
            |config| config.shards.receive_buffer_bytes *= 2,
            |config| config.shards.submission_entries *= 2,
            |config| config.shards.block_pool_bytes *= 2,
            |config| config.shards.connections_max *= 2,
            |config| config.shards.lane_capacity *= 2,
            |config| config.compression.enabled = true,
            |config| config.compression.inflate_inbound = true,
            |config| config.tracing.accept_from_clients = true,
            |config| config.listen_tls.address = config.listen_public.address.clone(),
            |config| {
                let servers = Vec::new();
                config.redis.url = Some(RedisServers { tls: false, database: 0, servers });
            },
        ];
        for grow in grown {
            let mut config = base.clone();
            grow(&mut config);
            assert!(MemoryBudget::of(&config, 1).total() > total);
        }
    }

    #[test]
    fn a_sum_above_the_bound_does_not_fit() {
        let mut config = Config::default();
        let budget = MemoryBudget::of(&config, 1);
        assert_eq!(budget.fits(&config, budget.total()), Ok(()));
        assert!(budget.fits(&config, budget.total() - 1).is_err());
        config.limits.memory_max = Auto::Fixed(1 << 24);
        assert!(budget.fits(&config, u64::MAX).unwrap_err().contains("(16 MiB)"));
    }
}
