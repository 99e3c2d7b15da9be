//! The number of this node in the GUIDs of its sessions. It is in everything that shards are given, so
//! it is leased before there are any.

use std::io;
use std::sync::Arc;

use thiserror::Error;
use tracing::info;

use super::settings::redis_rules;
use crate::config::{Auto, Config};
use crate::control::redis::{Redis, RedisProbe, RedisRules};
use crate::control::registry::{self, Lessee};

/// Why there is no number.
#[derive(Debug, Error)]
pub enum NumberError {
    #[error(
        "control.node is \"auto\", and no number can be leased: {0}. Or give every node a number of its own"
    )]
    Lease(#[from] registry::NumberError),
    #[error("cannot start a runtime to lease a number for this node: {0}")]
    Runtime(#[from] io::Error),
}

/// As configured, or leased in Redis.
pub(super) fn of(config: &Config, lessee: Lessee) -> Result<u16, NumberError> {
    let number = match (config.control.node, redis_rules(config)) {
        (Auto::Fixed(number), _) => return Ok(number),
        (Auto::Auto, Some(redis)) => leased(redis, lessee)?,
        // It was refused with the configuration.
        (Auto::Auto, None) => return Err(registry::NumberError::NoRedis.into()),
    };
    info!(number, "this node has leased its number");
    Ok(number)
}

fn leased(redis: RedisRules, lessee: Lessee) -> Result<u16, NumberError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let number = runtime.block_on(async {
        let redis = Redis::start(redis, Arc::<RedisProbe>::default());
        registry::lease(&redis, lessee).await
    });
    // A look-up of the server's name that hangs does not hold up the start.
    runtime.shutdown_background();
    Ok(number?)
}
