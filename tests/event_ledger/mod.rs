//! A ledger of events: clients that are killed and come back elsewhere, the service that publishes to
//! them, and the book that says of every event what became of it. Who includes this has
//! `gateway_process` and `services`, too.

pub(crate) mod book;
pub(crate) mod crowd;
pub(crate) mod player;
pub(crate) mod publisher;
