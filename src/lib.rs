//! The corelane gateway: configuration, command line, and the composition of everything that is
//! not one core's world (that is `corelane-shard`).

pub mod auth;
pub mod certificates;
pub mod cli;
pub mod config;
pub mod continuity;
pub mod control;
pub mod dev;
pub mod events;
mod file_stamp;
pub mod gateway;
pub mod host;
pub mod lifecycle;
pub mod logging;
pub mod placement;
