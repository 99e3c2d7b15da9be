//! The connection to Redis: one for all that the control core keeps there.
//!
//! A [`Redis`] is a handle that can be cloned. Behind it one task keeps one connection: it dials the
//! primary, and dials again, after a pause that grows, when a call finds that the connection is of
//! no use any more. Nobody waits for that: while there is no connection, a call fails at once.

mod batch;
mod counts;
mod dialing;
mod fault;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub(in crate::control) use self::batch::script;
pub use self::batch::{Batch, Reply, Script};
pub use self::counts::RedisProbe;
pub use self::fault::Fault;
use crate::config::Secret;

/// Where Redis is and how it is spoken to.
#[derive(Debug, Clone)]
pub struct RedisRules {
    /// Hosts and ports, tried in this order; with [`Self::sentinel`], of the Sentinels.
    pub servers: Vec<(Box<str>, u16)>,
    pub tls: bool,
    pub database: u32,
    /// What the Sentinels call the primary.
    pub sentinel: Option<Box<str>>,
    /// `None` is Redis' own `default`.
    pub user: Option<Box<str>>,
    pub password: Password,
    /// Stands in front of every key, `connect:` included.
    pub prefix: Box<str>,
    /// For an answer.
    pub timeout: Duration,
    /// For a connection, greeting and password included.
    pub connect_timeout: Duration,
}

#[derive(Debug, Clone)]
pub enum Password {
    Unneeded,
    Given(Secret),
    /// Read for every connection, so that a new one is taken without a restart.
    File(PathBuf),
}

/// A way to Redis. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Redis(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    prefix: Box<str>,
    link: watch::Receiver<Option<Link>>,
    /// The newest connection that was found to be of no use.
    broken: watch::Sender<u64>,
    probe: Arc<RedisProbe>,
    keeper: JoinHandle<()>,
}

/// One connection to one server.
#[derive(Debug, Clone)]
struct Link {
    connection: MultiplexedConnection,
    /// Counts the connections of this process.
    number: u64,
}

/// Whether there is a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Down,
    /// The number differs from that of every earlier connection.
    Up(u64),
}

/// Tells of connections that come and go.
#[derive(Debug)]
pub struct Watch(watch::Receiver<Option<Link>>);

impl Redis {
    /// Begins to dial. To be called within the control core's runtime.
    #[must_use]
    pub fn start(rules: RedisRules, probe: Arc<RedisProbe>) -> Self {
        let prefix = rules.prefix.clone();
        let (found, link) = watch::channel(None);
        let (broken, watched) = watch::channel(0);
        let keeper = tokio::spawn(dialing::keep(rules, found, watched, Arc::clone(&probe)));
        Self(Arc::new(Inner { prefix, link, broken, probe, keeper }))
    }

    /// Stands in front of every key.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.0.prefix
    }

    #[must_use]
    pub fn watch(&self) -> Watch {
        Watch(self.0.link.clone())
    }

    /// Sends everything at once; there is one reply for each call, in order. An error means that
    /// nobody knows what of it was done.
    pub async fn run(&self, batch: &Batch) -> Result<Vec<Reply>, Fault> {
        let outcome = self.run_on_link(batch).await;
        match &outcome {
            Ok(replies) => {
                for fault in replies.iter().filter_map(|reply| reply.as_ref().err()) {
                    self.0.probe.failed(fault);
                }
            }
            Err(fault) => self.0.probe.failed(fault),
        }
        outcome
    }

    async fn run_on_link(&self, batch: &Batch) -> Result<Vec<Reply>, Fault> {
        let link = self.0.link.borrow().clone();
        let Some(Link { mut connection, number, .. }) = link else {
            return Err(Fault::Unreachable);
        };
        let begun = Instant::now();
        let outcome = batch.run(&mut connection).await;
        let took = begun.elapsed();
        batch.kinds().for_each(|kind| self.0.probe.took(kind, took));
        let fault = match &outcome {
            Ok(replies) => replies.iter().find_map(|reply| reply.as_ref().err()),
            Err(fault) => Some(fault),
        };
        if fault.is_some_and(Fault::is_of_the_link) {
            self.0.broken.send_if_modified(|broken| {
                let newer = *broken < number;
                *broken = (*broken).max(number);
                newer
            });
        }
        outcome
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Watch {
    #[must_use]
    pub fn status(&mut self) -> Status {
        match &*self.0.borrow_and_update() {
            None => Status::Down,
            Some(Link { number, .. }) => Status::Up(*number),
        }
    }

    /// Waits until it differs, or may differ, from the last [`Self::status`].
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            // Nobody dials any more: the process ends.
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests;
