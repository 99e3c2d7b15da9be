//! A load harness for WebSocket servers with a client codec of its own. It shares no code with the
//! gateway, so a mistake of the gateway's codec shows here.
//!
//! A [`scenario::Scenario`] goes in, an [`outcome::Outcome`] comes out:
//!
//! ```text
//! scenario ─► schedule ─► sending threads ─► outcome ─► judge ─► report
//! ```

mod generator_use;
pub mod outcome;
mod protocol;
pub mod run;
pub mod scenario;
pub mod schedule;
mod server_use;
pub mod stamp;
mod track;
mod wire;
