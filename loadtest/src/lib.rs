//! A load harness for WebSocket servers with a client codec of its own. It shares no code with the
//! gateway, so a mistake of the gateway's codec shows here.
//!
//! A [`scenario::Scenario`] goes in, an [`outcome::Outcome`] comes out:
//!
//! ```text
//! scenario ─► schedule ─► sending threads ─► outcome ─► judge ─► report
//! ```
//!
//! Outcomes of generators that ran together make one by [`merge`], and outcomes of repeated runs of
//! two servers are held against each other by [`compare`].

pub mod compare;
mod generator_use;
pub mod hostile;
pub mod judge;
pub mod merge;
pub mod outcome;
mod protocol;
mod quantity;
pub mod report;
pub mod run;
pub mod scenario;
mod scenario_difference;
pub mod schedule;
pub mod search;
mod server_use;
pub mod stamp;
mod track;
mod wire;
