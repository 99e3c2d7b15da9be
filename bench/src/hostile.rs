//! Bad clients beside good ones: windows without and with them in turn, and what the good ones
//! notice. The bad ones are `corelane-loadtest misbehave`, which fails if the gateway ends one of
//! them otherwise than documented.
//!
//! ```text
//! gateway ─► windows (good clients; bad ones beside them) ─► pairs ─► verdict
//! ```

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

mod pair;
mod window;

use pair::Pair;
use window::{Crowd, Field};

use crate::paired_windows::{PairArguments, Pairs};

#[derive(Args)]
pub(crate) struct HostileArguments {
    #[command(flatten)]
    pairs: PairArguments,
    /// Good clients
    #[arg(long, default_value_t = 500)]
    good: usize,
    /// Messages a second of all good clients together
    #[arg(long, default_value_t = 5000.0)]
    good_per_second: f64,
    /// Bad clients of each kind
    #[arg(long, default_value_t = 50)]
    each: usize,
    /// Messages, or pieces of them, a second of all bad clients together
    #[arg(long, default_value_t = 20_000)]
    bad_per_second: u32,
    /// The gateway's configuration
    #[arg(long, default_value = "bench/hostile.toml")]
    config: PathBuf,
    /// Folder for its key, tokens, results and messages
    #[arg(long, default_value = "target/hostile")]
    scratch: PathBuf,
}

/// Before the windows that count: what is opened and allocated once.
const WARM_UP: Duration = Duration::from_secs(2);

/// Runs the pairs, says what was seen by `tell`, and fails if that is more than allowed.
pub(crate) fn run(arguments: &HostileArguments, tell: &mut dyn FnMut(&str)) -> io::Result<()> {
    let scratch = std::path::absolute(&arguments.scratch)?;
    fs::create_dir_all(&scratch)?;
    let crowd = Crowd {
        good: arguments.good,
        good_per_second: arguments.good_per_second,
        each: arguments.each,
        bad_per_second: arguments.bad_per_second,
    };
    let processors = arguments.pairs.processors();
    let field = Field::start(&arguments.config, scratch, crowd, processors)?;
    let window = arguments.pairs.window();
    if !field.is_in_time() {
        tell("Good clients share a processor with bad ones, and this user may not put them first");
        tell("(`chrt --fifo 1`): they may be late, and pairs void.");
    }
    field.alone(WARM_UP)?;
    tell(pair::HEAD);
    let mut pairs = Pairs::new(&arguments.pairs);
    while pairs.want_more() {
        let off = field.alone(window)?;
        let (on, bad) = field.beside_bad_ones(window)?;
        tell(&pairs.add(Pair { off, on, bad }));
    }
    tell(&field.last_table()?);
    let words = (
        "Bad clients are ended as documented; times were not judged.",
        "The good clients do not notice the bad ones.",
    );
    pairs.conclude(&pair::faults(&pairs), words, tell)
}
