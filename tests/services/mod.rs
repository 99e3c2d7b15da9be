//! Real Redis and Kafka for tests: private instances, each with ports and a folder of its own, that a
//! test may freeze, kill and start again.
//!
//! Nothing outlives its test. A service that is dropped is killed and its folder removed; one whose
//! test is killed dies with it, because the kernel was told so, and a keeper removes the folder.
//!
//! What is missing is never skipped: the panic says to run `scripts/dev-up --install`. This module
//! needs no other of the tests, so any of them may include it by its path.

mod folder;
pub(crate) mod kafka;
pub(crate) mod port;
pub(crate) mod process;
pub(crate) mod redis;
pub(crate) mod sentinel;

pub(crate) use self::kafka::Kafka;
pub(crate) use self::redis::Redis;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;
use std::{env, thread};

use self::process::{Failed, Process};

/// Time for a start, an end, and everything else that should be quick.
const SOON: Duration = Duration::from_secs(60);

/// Starts that may fail because somebody else took the port in between.
const ATTEMPTS: usize = 5;

/// Where a service listens, and what it is started through.
#[derive(Debug, Clone)]
struct Place {
    host: Ipv4Addr,
    through: Vec<PathBuf>,
}

impl Default for Place {
    fn default() -> Self {
        Self { host: Ipv4Addr::LOCALHOST, through: Vec::new() }
    }
}

impl Place {
    /// `through` is a program with its arguments that becomes the service by exec.
    fn new(host: Ipv4Addr, through: &[&str]) -> Self {
        let through = through.iter().enumerate();
        let through = through.map(|(at, word)| if at == 0 { program(word) } else { word.into() });
        Self { host, through: through.collect() }
    }

    fn command(&self, words: impl IntoIterator<Item = PathBuf>) -> Vec<PathBuf> {
        self.through.iter().cloned().chain(words).collect()
    }
}

/// Where a program is.
pub(crate) fn program(name: &str) -> PathBuf {
    let folders = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&folders).map(|folder| folder.join(name)).find(|it| it.is_file());
    found.unwrap_or_else(|| panic!("{name} is not in PATH: run scripts/dev-up --install"))
}

/// Starts something on new ports until nobody else had them.
fn on_free_ports<T>(mut start: impl FnMut() -> Result<T, Failed>) -> T {
    for _ in 1..ATTEMPTS {
        match start() {
            Err(failed) if failed.port_was_taken() => {}
            other => return other.unwrap_or_else(|failed| panic!("{failed}")),
        }
    }
    start().unwrap_or_else(|failed| panic!("{failed}"))
}

/// What runs of a service, for its switches.
fn running(process: &mut Option<Process>) -> &mut Process {
    process.as_mut().expect("it was stopped or killed and not started again")
}

/// Between two looks at something that is polled.
fn pause() {
    thread::sleep(Duration::from_millis(5));
}
