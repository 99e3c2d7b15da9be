//! Events: what services publish for sessions, and what the gateway publishes about them.
//!
//! Lives here, sans-IO: JSON of the event bus in, typed orders out ([`inbound`], [`notices`]), and
//! typed facts in, JSON out ([`outbound`] for services, [`gap`] for clients). Does not live here:
//! the bus, cursors and delivery (the control core), frames and headers (`corelane_shard`). Time
//! and event ids are arguments.
//!
//! Records come from services, which are trusted to speak for themselves but not to be correct:
//! whatever cannot be read is a small error with a metric label, and changes nothing. What is read
//! is never larger than the record, so whoever bounds the records bounds this.

mod capabilities;
pub mod gap;
pub mod inbound;
pub mod names;
pub mod notices;
pub mod order;
pub mod outbound;
mod shortcut;
mod text;
mod timestamp;

pub use corelane_shard::snapshot::NameDialect;
pub use inbound::read;
pub use names::ClientEventNames;
pub use order::{SessionOrder, Unusable};
pub use timestamp::Timestamp;

/// A fresh id (version 4) for an event that is about to be written.
#[must_use]
pub fn event_id(random: &mut fastrand::Rng) -> uuid::Uuid {
    uuid::Builder::from_random_bytes(random.u128(..).to_be_bytes()).into_uuid()
}
