//! The gateway as one call: shards and control core, from a checked configuration to the drain.

use std::net::SocketAddr;

use thiserror::Error;

use crate::config::{Config, ConfigSource};
use crate::control::Exit;

/// What a gateway that serves can tell about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    pub public: Vec<SocketAddr>,
    pub admin: SocketAddr,
    pub shards: usize,
}

/// Why the gateway cannot run.
#[derive(Debug, Error)]
pub enum StartError {
    #[error("this build contains no gateway")]
    Absent,
}

/// Runs the gateway on this and new threads until it has drained; `ready` is called once when it
/// serves.
pub fn run(
    config: Config,
    source: ConfigSource,
    ready: impl FnOnce(&Ready),
) -> Result<Exit, StartError> {
    drop((config, source, ready));
    Err(StartError::Absent)
}
