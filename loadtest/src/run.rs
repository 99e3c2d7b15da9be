//! One run of one scenario: opens the connections, drives the load on the sending threads, watches
//! the server, and puts the outcome together. The judgement is made in `judge`.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::outcome::{Interval, Outcome};
use crate::scenario::Scenario;

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
    #[error("{url:?} is not of the form ws://HOST:PORT/PATH")]
    Url { url: String },
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
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
}

/// Runs `scenario` to its end.
pub fn run(
    _scenario: &Scenario,
    _surroundings: &Surroundings,
    _watcher: &mut dyn Watcher,
) -> Result<Outcome, RunError> {
    todo!()
}
