//! One core's world: the sockets, sessions and forwarding loop of one shard.
//!
//! Bytes move one way: `ring` → `wire` → `session` → `engine` → `outbox` → `ring`. Everything but
//! `ring` and `pump` is sans-IO: time and randomness are arguments, and it builds on any kernel
//! (`--no-default-features`). Nothing here names Redis, Kafka or tokio; the outside is reached
//! through [`lane`] as typed messages.

pub mod block;
pub mod buffers;
pub mod clock;
pub mod compression;
pub mod engine;
pub mod id;
pub mod identity;
pub mod lane;
pub mod network;
pub mod outbox;
pub mod probe;
#[cfg(feature = "runtime")]
pub mod pump;
#[cfg(feature = "runtime")]
pub mod ring;
pub mod session;
pub mod snapshot;
pub mod sockets;
pub mod table;
pub mod timer;
pub mod tls;
pub mod upstream;
pub mod wire;
