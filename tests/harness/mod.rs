//! A gateway inside the test: real shards over loopback, a control loop that grants every claim,
//! backends in threads, and a driver that plays any number of clients. No tokens, no
//! configuration files: a session's token is its number.

pub(crate) mod backend;
pub(crate) mod client;
pub(crate) mod drive;
pub(crate) mod gateway;
pub(crate) mod poll;
