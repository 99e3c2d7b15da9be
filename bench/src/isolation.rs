//! Redis and Kafka that stand still beside sessions that are open: windows without and with such an
//! outage in turn, and what calls and messages between players notice of it.
//!
//! ```text
//! gateway, backend, Redis, Kafka ─► windows (calls and peer messages) ─► pairs ─► verdict
//! ```

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

mod outage;
mod pair;
mod window;

use pair::{Pair, Verdict};
use window::{Field, Load};

#[derive(Args)]
pub(crate) struct IsolationArguments {
    /// Pairs of a window with Redis and Kafka and one without them
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Pairs that say nothing, because the clients were late themselves, and are made again
    #[arg(long, default_value_t = 5)]
    repeats: usize,
    /// Seconds of each window
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// One pair of two seconds, whose times are not judged
    #[arg(long)]
    quick: bool,
    /// Clients that write to each other, and as many that call the backend
    #[arg(long, default_value_t = 200)]
    clients: usize,
    /// Messages a second of all clients of one kind together
    #[arg(long, default_value_t = 2500.0)]
    per_second: f64,
    /// The gateway's configuration
    #[arg(long, default_value = "bench/isolation.toml")]
    config: PathBuf,
    /// The program that starts Redis and Kafka; dev-down beside it stops them
    #[arg(long, default_value = "scripts/dev-up")]
    services: PathBuf,
    /// Folder for key, tokens, results, messages, Redis and Kafka
    #[arg(long, default_value = "target/isolation")]
    scratch: PathBuf,
    /// Processor of the gateway
    #[arg(long, default_value_t = 0)]
    server_cpu: usize,
    /// Processor of all else
    #[arg(long, default_value_t = 1)]
    load_cpu: usize,
}

/// Runs the pairs, says what was seen by `tell`, and fails if that is more than allowed.
pub(crate) fn run(arguments: &IsolationArguments, tell: &mut dyn FnMut(&str)) -> io::Result<()> {
    let scratch = std::path::absolute(&arguments.scratch)?;
    fs::create_dir_all(&scratch)?;
    let (rounds, repeats, seconds) = match arguments.quick {
        true => (1, 0, 2.0),
        false => (arguments.rounds, arguments.repeats, arguments.seconds),
    };
    let load = Load { clients: arguments.clients, per_second: arguments.per_second };
    let processors = (arguments.server_cpu, arguments.load_cpu);
    let field = Field::start(&arguments.config, scratch, &arguments.services, load, processors)?;
    let window = Duration::from_secs_f64(seconds);
    tell(pair::HEAD);
    let mut verdict = Verdict::new(rounds, !arguments.quick);
    while verdict.wants_more(repeats) {
        let with = field.with_services(window)?;
        let without = field.without_services(window)?;
        tell(&verdict.add(Pair { with, without }));
    }
    let faults = verdict.faults();
    if faults.is_empty() {
        tell(match arguments.quick {
            true => "No call and no message fails without Redis and Kafka; times were not judged.",
            false => "Open sessions do not notice that Redis and Kafka stand still.",
        });
        return Ok(());
    }
    Err(io::Error::other(faults.join("; ")))
}
