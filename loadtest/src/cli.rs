//! The command line: what the commands and their flags are, and what their exit codes mean. What
//! the commands do is in one module for each.

mod list;
mod misbehave;
mod one_run;
mod quick;
mod results;

use std::num::NonZeroU16;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use corelane_loadtest::judge::Exit;

/// Puts load on WebSocket servers: open loop, checked message by message
///
/// Exit codes: 0 passed, 1 failed, 2 the call or the scenario was wrong, 3 the run is invalid
/// because the generator was the limit.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a gateway, put a little load on it and show the report
    Quick(QuickArguments),
    /// Run one scenario
    Run(RunArguments),
    /// Find the highest rate that keeps the scenario's bounds, and its rate-latency curve
    Search(RunArguments),
    /// Be four kinds of bad clients, to be run beside good ones; fails if the gateway ends one of
    /// them otherwise than it documents
    Misbehave(MisbehaveArguments),
    /// List the built-in scenarios
    List,
    /// Print a built-in scenario, to start one's own from
    Show { name: String },
    /// Print the JSON schema of scenario files
    Schema,
    /// Print the intended send times of a scenario in nanoseconds, for replay
    Plan(ScenarioArguments),
    /// Write the reports of a result again
    Report {
        /// result.json
        result: PathBuf,
        /// Folder for the reports
        #[arg(long)]
        out: PathBuf,
    },
    /// Join the results of generators that ran at the same time
    Merge {
        /// Each a result.json or the folder that it is in
        #[arg(required = true, num_args = 2..)]
        results: Vec<PathBuf>,
        /// Folder for the joined result and its reports
        #[arg(long)]
        out: PathBuf,
    },
    /// Say whether B differs from A, and how sure that is
    Compare {
        /// A result.json, or a folder with one or several results in it
        a: PathBuf,
        b: PathBuf,
    },
}

#[derive(Args)]
struct ScenarioArguments {
    /// A TOML file, or the name of a built-in scenario
    scenario: String,
    /// Override a key of the scenario, for instance connections.count=1000
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

#[derive(Args)]
struct RunArguments {
    #[command(flatten)]
    scenario: ScenarioArguments,
    /// ws://HOST:PORT/PATH or wss://HOST:PORT/PATH instead of the scenario's own
    #[arg(long)]
    url: Option<String>,
    /// HOST:PORT of the Kafka where a scenario of pushes publishes, instead of the scenario's own
    #[arg(long, value_name = "HOST:PORT")]
    kafka: Option<String>,
    /// PEM file of the authorities that may have signed the certificate of a wss:// server; default
    /// is what the system trusts. tls.verify=false by --set takes any certificate
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// File with a token a line, one for each connection; - is the standard input
    #[arg(long)]
    tokens: Option<PathBuf>,
    /// Server process whose processor time and memory are reported
    #[arg(long, conflicts_with = "server_cgroup")]
    server_pid: Option<u32>,
    /// Control group (version 2) of the server, for instance /sys/fs/cgroup/system.slice/x.service
    #[arg(long)]
    server_cgroup: Option<PathBuf>,
    /// Folder for result.json, report.html and the histograms
    #[arg(long)]
    out: Option<PathBuf>,
}

#[derive(Args)]
struct MisbehaveArguments {
    /// ws://HOST:PORT/connect of a gateway in the mode Relayed, with the limits that it documents
    #[arg(long)]
    url: String,
    /// File with a token a line, four times as many as --each; - is the standard input
    #[arg(long)]
    tokens: PathBuf,
    /// Clients of each kind
    #[arg(long, default_value = "50")]
    each: NonZeroU16,
    /// Messages, or pieces of them, a second that all of them together may send
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..))]
    per_second: u32,
    /// How long they come back for; the last are waited for
    #[arg(long = "for", value_name = "TIME", default_value = "20s")]
    duration: humantime::Duration,
}

#[derive(Args)]
struct QuickArguments {
    /// Folder for the report
    #[arg(long, default_value = "corelane-report")]
    out: PathBuf,
    /// The gateway's program; default is the one beside this program, else the one on PATH
    #[arg(long)]
    corelane: Option<PathBuf>,
}

/// Why a command could not do its work; shown as a report.
type CommandError = miette::Report;

pub(crate) fn run() -> ExitCode {
    let arguments = Arguments::parse(); // ends with code 2 by itself
    let done = match arguments.command {
        Command::Quick(arguments) => quick::run(&arguments),
        Command::Run(arguments) => one_run::run(&arguments),
        Command::Search(arguments) => one_run::search(&arguments),
        Command::Misbehave(arguments) => misbehave::run(&arguments),
        Command::List => Ok(list::list()),
        Command::Show { name } => list::show(&name),
        Command::Schema => Ok(list::schema()),
        Command::Plan(arguments) => list::plan(&arguments),
        Command::Report { result, out } => results::report(&result, &out),
        Command::Merge { results, out } => results::merge(&results, &out),
        Command::Compare { a, b } => results::compare(&a, &b),
    };
    match done {
        Ok(exit) => exit.into(),
        Err(error) => {
            eprintln!("{error:?}");
            Exit::Usage.into()
        }
    }
}
