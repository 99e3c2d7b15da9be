//! The whole gateway as its neighbours see it: the real binary between real sockets, with clients
//! and backends that the tests script. Clients of other make are in `tests/clients`, the sample
//! backends in `tests/backends`.

#[expect(dead_code, reason = "each test takes the part of the harness that it needs")]
#[path = "../gateway_process/mod.rs"]
mod gateway_process;

#[expect(dead_code, reason = "each test takes the part of the services that it needs")]
#[path = "../services/mod.rs"]
mod services;

mod auth_services;
mod compression;
mod door;
mod elsewhere;
mod events;
mod framing_rules;
mod handovers;
mod handshake_rules;
mod harness;
mod http_backends;
mod internal;
mod kafka;
mod kafka_records;
mod ledger;
mod lifecycle;
mod limits;
mod link_backends;
mod messages;
mod modes;
mod nodes;
mod peers;
mod registry;
mod resume;
mod several_nodes;
mod tls;
mod tracing;
