//! The number of a node, leased: no two nodes that run have the same, and a node that is started again
//! has its own again.

use std::time::Duration;

use redis::{FromRedisValue as _, Value};
use thiserror::Error;
use tokio::time::timeout;
use uuid::Uuid;

use super::key_prefix;
use crate::control::redis::{Batch, Fault, Redis, Reply, Status, script};

script! {
    static LEASE = "number", include_str!("lua/number.lua");
}
script! {
    static KEEP = "number_keep", include_str!("lua/number_keep.lua");
}

/// Who leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lessee {
    pub instance: Uuid,
    /// Of the process: a newer one of the same instance takes the number over.
    pub run: Uuid,
}

/// Why a node gets no number.
#[derive(Debug, Error)]
pub enum NumberError {
    #[error("Redis cannot be reached: see `redis.url`, and the log for why")]
    NoRedis,
    #[error("{0}")]
    Fault(#[from] Fault),
    #[error(
        "all {NUMBERS} are taken; they are free again {LEASE_HOURS} h after their nodes have gone"
    )]
    NoneFree,
}

/// Leases a number, while Redis can be reached within a moment.
pub async fn lease(redis: &Redis, lessee: Lessee) -> Result<u16, NumberError> {
    let mut watch = redis.watch();
    let connected = async {
        while watch.status() == Status::Down {
            watch.changed().await;
        }
    };
    timeout(REDIS_WAIT, connected).await.map_err(|_| NumberError::NoRedis)?;
    let Lessee { instance, run } = lessee;
    // By chance another's only rarely, and the same again even if Redis has forgotten it.
    let first = instance.as_u128() % u128::from(NUMBERS);
    let mut batch = Batch::default();
    batch.script(
        &LEASE,
        [
            key_prefix(redis),
            instance.to_string(),
            run.to_string(),
            LEASE_LIFE.as_millis().to_string(),
            first.to_string(),
            NUMBERS.to_string(),
        ],
    );
    let reply = redis.run(&batch).await?.pop().unwrap_or(Ok(Value::Nil))?;
    let number = i64::from_redis_value(reply).map_err(|_| no_meaning())?;
    u16::try_from(number).map_err(|_| NumberError::NoneFree)
}

/// Adds the renewal for that much longer.
pub(super) fn keep(batch: &mut Batch, redis: &Redis, lessee: Lessee, number: u16, life: Duration) {
    let Lessee { instance, run } = lessee;
    batch.script(
        &KEEP,
        [
            key_prefix(redis),
            instance.to_string(),
            run.to_string(),
            life.as_millis().to_string(),
            number.to_string(),
        ],
    );
}

/// Who has the number instead, if anybody.
pub(super) fn kept(reply: Reply) -> Result<Option<Box<str>>, Fault> {
    let other = String::from_redis_value(reply?).map_err(|_| no_meaning())?;
    Ok((!other.is_empty()).then(|| other.into()))
}

fn no_meaning() -> Fault {
    Fault::Server("a reply that means nothing".into())
}

/// That 12 bits can tell apart.
const NUMBERS: u16 = 4096;
const LEASE_HOURS: u64 = 24;
/// From the last renewal. Long: a node that is cut off from Redis lives on, and its number with it.
pub(super) const LEASE_LIFE: Duration = Duration::from_secs(LEASE_HOURS * 3600);
/// From the end of a node: it may be started again, and players still have GUIDs with its number.
pub(super) const LEFT_LIFE: Duration = Duration::from_secs(600);
/// For the first connection.
const REDIS_WAIT: Duration = Duration::from_secs(10);
