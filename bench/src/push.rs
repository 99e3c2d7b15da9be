//! Events from Kafka to their clients: what one costs the gateway, and how long it takes. Each run
//! has a gateway of its own.
//!
//! ```text
//! Kafka ─► gateway and load harness, case by case ─► runs ─► medians against the goals
//! ```

use std::fs;
use std::io;
use std::path::PathBuf;

use clap::Args;

mod stage;
mod table;

use stage::{Case, Load, Stage};
use table::Runs;

#[derive(Args)]
pub(crate) struct PushArguments {
    /// Runs of each case
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Cases to run, by name; default is all
    #[arg(long, value_delimiter = ',')]
    cases: Vec<String>,
    /// Another gateway program, which has every run, too, in turn with ours
    #[arg(long)]
    against: Option<PathBuf>,
    /// Fail if a goal is missed
    #[arg(long)]
    gate: bool,
    /// The gateway's configuration
    #[arg(long, default_value = "bench/push.toml")]
    config: PathBuf,
    /// Folder for keys, tokens, results, messages and Kafka's data
    #[arg(long, default_value = "target/push")]
    scratch: PathBuf,
    /// Port of Kafka; the one behind it is taken, too
    #[arg(long, default_value_t = 9184)]
    kafka_port: u16,
    /// Processors of the gateway where a backlog waits for it
    #[arg(long, value_delimiter = ',', default_values_t = [0])]
    server_cpus: Vec<usize>,
    /// Processor of all clients then
    #[arg(long, default_value_t = 1)]
    load_cpu: usize,
}

/// What is measured. One partition: of several, the records of a few sessions would come together, and
/// a publisher by librdkafka would wait for each of them by itself.
const CASES: [Case; 3] = [
    Case {
        name: "backlog-1000",
        connections: 1000,
        partitions: 1,
        load: Load::Backlog { events: 800_000 },
        goal: 4.1,
    },
    Case {
        name: "backlog-64",
        connections: 64,
        partitions: 1,
        load: Load::Backlog { events: 800_000 },
        goal: 2.5,
    },
    Case {
        name: "live",
        connections: 1000,
        partitions: 1,
        load: Load::Live { per_second: 20_000 },
        goal: 10_000.0,
    },
];

/// Runs the cases, prints what was seen by `tell`, and fails if something went wrong.
pub(crate) fn run(arguments: &PushArguments, tell: &mut dyn FnMut(&str)) -> io::Result<()> {
    let scratch = std::path::absolute(&arguments.scratch)?;
    fs::create_dir_all(&scratch)?;
    let processors = (arguments.server_cpus.clone(), arguments.load_cpu);
    let stage = Stage::set(&arguments.config, scratch, processors, arguments.kafka_port)?;
    let mut gateways = vec![("", stage.own_gateway())];
    gateways.extend(arguments.against.clone().map(|path| (" (against)", path)));
    let wanted = |case: &&Case| {
        arguments.cases.is_empty() || arguments.cases.iter().any(|name| name == case.name)
    };
    let mut missed = Vec::new();
    for case in CASES.iter().filter(wanted) {
        tell(&table::head(case));
        let mut runs: Vec<Runs> = gateways.iter().map(|_| Runs::default()).collect();
        for round in 0..arguments.rounds {
            // In turn: the first of a round finds other caches than the second.
            let mut order: Vec<usize> = (0..gateways.len()).collect();
            order.rotate_left(round % gateways.len());
            for at in order {
                let (suffix, gateway) = &gateways[at];
                let run = stage.run(case, gateway)?;
                tell(&table::line(case, &format!("{}{suffix}", round + 1), &run));
                runs[at].add(run);
            }
        }
        for ((suffix, _), runs) in gateways.iter().zip(&runs) {
            tell(&runs.median_line(case, &format!("median{suffix}")));
        }
        tell(&runs[0].threads_line());
        missed.extend(runs[0].faults(case));
    }
    let gates = arguments.gate;
    match missed.iter().find(|fault| gates || fault.is_grave) {
        None => Ok(()),
        Some(_) => {
            let texts: Vec<_> = missed.into_iter().map(|fault| fault.text).collect();
            Err(io::Error::other(texts.join("; ")))
        }
    }
}
