//! Redis and Kafka that stand still beside sessions that are open: windows without and with such an
//! outage in turn, and what calls and messages between players notice of it.
//!
//! ```text
//! gateway, backend, Redis, Kafka ─► windows (calls and peer messages) ─► pairs ─► verdict
//! ```

use std::fs;
use std::io;
use std::path::PathBuf;

use clap::Args;

mod outage;
mod pair;
mod window;

use pair::Pair;
use window::{Field, Load};

use crate::paired_windows::{PairArguments, Pairs};

#[derive(Args)]
pub(crate) struct IsolationArguments {
    #[command(flatten)]
    pairs: PairArguments,
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
}

/// Runs the pairs, says what was seen by `tell`, and fails if that is more than allowed.
pub(crate) fn run(arguments: &IsolationArguments, tell: &mut dyn FnMut(&str)) -> io::Result<()> {
    let scratch = std::path::absolute(&arguments.scratch)?;
    fs::create_dir_all(&scratch)?;
    let load = Load { clients: arguments.clients, per_second: arguments.per_second };
    let processors = arguments.pairs.processors();
    let field = Field::start(&arguments.config, scratch, &arguments.services, load, processors)?;
    let window = arguments.pairs.window();
    tell(pair::HEAD);
    let mut pairs = Pairs::new(&arguments.pairs);
    while pairs.want_more() {
        let with = field.with_services(window)?;
        let without = field.without_services(window)?;
        tell(&pairs.add(Pair { with, without }));
    }
    let words = (
        "No call and no message fails without Redis and Kafka; times were not judged.",
        "Open sessions do not notice that Redis and Kafka stand still.",
    );
    pairs.conclude(&pair::faults(&pairs), words, tell)
}
