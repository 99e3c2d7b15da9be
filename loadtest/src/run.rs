//! One run of one scenario: opens the connections, drives the load on the sending threads, watches
//! the server, and puts the outcome together. The judgement is made in `judge`.

mod buckets;
mod clock;
mod conduct;
mod driver;
mod ear;
mod flow;
mod gathering;
mod intervals;
mod line;
mod placement;
mod plan;
mod publishing;
mod socket;
mod standstill;
mod tally;

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::outcome::{Interval, Outcome};
use crate::protocol::{centrifugo, corelane, echo, nats, nchan};
use crate::scenario::{Protocol, Scenario, Traffic};
use crate::wire::tls::Unusable;

/// What a run needs beside the scenario.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// One for each connection of a protocol that signs in.
    pub tokens: Vec<String>,
    pub server: Option<ServerAt>,
}

/// The process, or group of processes, whose use of processor and memory is reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerAt {
    Pid(u32),
    Cgroup(PathBuf),
}

/// Watches a run while it goes on; called on the thread that called `run`.
pub trait Watcher {
    /// Connections are being opened.
    fn opening(&mut self, ready: u64, wanted: u64);
    fn interval(&mut self, interval: &Interval);
}

/// Why there is no outcome at all. What goes wrong during a run is in the outcome instead.
#[derive(Debug, Error)]
pub enum RunError {
    #[error("{url:?} is not of the form ws://HOST:PORT/PATH or wss://HOST:PORT/PATH")]
    Url { url: String },
    #[error(transparent)]
    Tls(#[from] Unusable),
    #[error(
        "{needed} connections need as many tokens and there are {given}: a second connection with \
         one token would replace the first; mint more with `corelane token mint --count {needed}`"
    )]
    Tokens { needed: usize, given: usize },
    #[error(
        "{needed} connections need as many open files and the limit is {limit}: raise it with ulimit -n, or use several generators"
    )]
    OpenFiles { needed: u64, limit: u64 },
    #[error("none of {attempted} connections became ready: {cause}")]
    NoConnection { attempted: u64, cause: String },
    #[error("connections cannot be placed on shards: {cause}")]
    Placement { cause: String },
    #[error("events cannot be published: {cause}")]
    Publishing { cause: String },
    #[error("a backlog needs --server-pid: that process stands still while it is published")]
    WhoStandsStill,
    #[error("{protocol} does not know this traffic: {traffic}")]
    Traffic { protocol: &'static str, traffic: &'static str },
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
}

/// Runs `scenario` to its end.
pub fn run(
    scenario: &Scenario,
    surroundings: &Surroundings,
    watcher: &mut dyn Watcher,
) -> Result<Outcome, RunError> {
    check_traffic(scenario)?;
    match scenario.target.protocol {
        Protocol::Echo => conduct::run::<echo::Echo>(scenario, surroundings, watcher),
        Protocol::Corelane => conduct::run::<corelane::Corelane>(scenario, surroundings, watcher),
        Protocol::Nats => conduct::run::<nats::Nats>(scenario, surroundings, watcher),
        Protocol::Nchan => conduct::run::<nchan::Nchan>(scenario, surroundings, watcher),
        Protocol::Centrifugo => {
            conduct::run::<centrifugo::Centrifugo>(scenario, surroundings, watcher)
        }
    }
}

/// Not every protocol has every kind of traffic.
fn check_traffic(scenario: &Scenario) -> Result<(), RunError> {
    let (protocol, known): (_, fn(&Traffic) -> bool) = match scenario.target.protocol {
        Protocol::Echo => ("echo", |traffic| matches!(traffic, Traffic::Echo | Traffic::Push)),
        Protocol::Corelane => ("corelane", |traffic| !matches!(traffic, Traffic::Echo)),
        Protocol::Nats => ("nats", |traffic| {
            matches!(traffic, Traffic::Echo | Traffic::Peer { .. } | Traffic::Broadcast { .. })
        }),
        Protocol::Nchan => ("nchan", |traffic| !matches!(traffic, Traffic::Push | Traffic::Echo)),
        Protocol::Centrifugo => {
            ("centrifugo", |traffic| matches!(traffic, Traffic::Call { .. } | Traffic::Push))
        }
    };
    let traffic = match scenario.traffic {
        // Connections are connections everywhere.
        Traffic::Connect { .. } | Traffic::Hold | Traffic::Reconnect { .. } => return Ok(()),
        Traffic::Echo => "echo",
        Traffic::Call { .. } => "call",
        Traffic::Peer { .. } => "peer",
        Traffic::Broadcast { .. } => "broadcast",
        Traffic::Push => "push",
    };
    if known(&scenario.traffic) { Ok(()) } else { Err(RunError::Traffic { protocol, traffic }) }
}
