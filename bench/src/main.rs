//! `corelane-bench`: measures what an echoed message costs a server. `drive` puts one load on a
//! running server; `echo-ratio` compares a server with the bare loop of `bare_echo`; `peers`
//! compares the gateway with other servers; `hostile` puts bad clients beside good ones; `push` measures
//! events from Kafka; `isolation` stops Redis and Kafka. The work is in the modules; here is the
//! command line.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line program")]

mod drive;
mod exchange;
mod hostile;
mod isolation;
mod machine;
mod own_gateway;
mod paired_windows;
mod peers;
mod push;
mod ratio;
mod server_process;
mod statistics;

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use corelane_bench::cpu_time;

use drive::Load;
use exchange::Target;
use ratio::{Comparison, Contender};

/// Measures echo servers: processor time per message, in a closed loop.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Drive a running server and print what a message costs it
    Drive(DriveArguments),
    /// Run a server and the bare loop in turn and print the ratio of their costs
    EchoRatio(RatioArguments),
    /// Compare the gateway with other servers under the same loads
    Peers(peers::PeersArguments),
    /// Say what good clients notice of bad ones beside them, and fail if it is much
    Hostile(hostile::HostileArguments),
    /// Say what an event from Kafka costs the gateway, and how long it takes to its client
    Push(push::PushArguments),
    /// Say what open sessions notice when Redis and Kafka stand still, and fail if it is much
    Isolation(isolation::IsolationArguments),
}

#[derive(Args)]
struct LoadArguments {
    /// Messages in flight on each connection
    #[arg(long, default_value_t = 1)]
    in_flight: u32,
    /// Bytes of a payload
    #[arg(long, default_value_t = 200)]
    payload: usize,
    /// Seconds before the measurement begins
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// Seconds of the measurement
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Processor that the driver runs on
    #[arg(long, default_value_t = 0)]
    driver_cpu: usize,
}

#[derive(Args)]
struct DriveArguments {
    /// tcp://HOST:PORT for raw bytes, ws://HOST:PORT/PATH for WebSocket messages
    #[arg(long)]
    url: Target,
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Process id of the server, to read its processor time
    #[arg(long)]
    pid: Option<u32>,
    /// Part of the name of the server thread to report; default is the busiest
    #[arg(long)]
    thread: Option<String>,
    #[command(flatten)]
    load: LoadArguments,
}

#[derive(Args)]
struct RatioArguments {
    /// Command line that starts the server, split at white space
    #[arg(long)]
    server: String,
    /// Where the server answers
    #[arg(long)]
    url: Target,
    /// Part of the name of the server thread to measure; default is the busiest
    #[arg(long)]
    thread: Option<String>,
    /// The bare loop's program; default stands beside this one
    #[arg(long)]
    bare: Option<PathBuf>,
    /// TCP port for the bare loop
    #[arg(long, default_value_t = 9177)]
    bare_port: u16,
    /// Processor for the bare loop; the server must pin its thread to the same one
    #[arg(long, default_value_t = 1)]
    server_cpu: usize,
    #[arg(long, value_delimiter = ',', default_values_t = [64, 1000])]
    connections: Vec<usize>,
    /// Interleaved pairs for each number of connections
    #[arg(long, default_value_t = 5)]
    pairs: usize,
    /// Append the Markdown report to this file
    #[arg(long)]
    output: Option<PathBuf>,
    /// Exit with an error if a median ratio is above this
    #[arg(long)]
    at_most: Option<f64>,
    #[command(flatten)]
    load: LoadArguments,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Drive(arguments) => drive_once(&arguments),
        Command::EchoRatio(arguments) => echo_ratio(&arguments),
        Command::Peers(arguments) => peers::run(&arguments, &mut |line| println!("{line}")),
        Command::Hostile(arguments) => hostile::run(&arguments, &mut |line| println!("{line}")),
        Command::Push(arguments) => push::run(&arguments, &mut |line| println!("{line}")),
        Command::Isolation(arguments) => isolation::run(&arguments, &mut |line| println!("{line}")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn drive_once(arguments: &DriveArguments) -> io::Result<()> {
    cpu_time::pin_to(arguments.load.driver_cpu)?;
    let load = Load {
        target: arguments.url.clone(),
        connections: arguments.connections,
        in_flight: arguments.load.in_flight,
        payload_bytes: arguments.load.payload,
        warm_up: Duration::from_secs_f64(arguments.load.warm_up),
        duration: Duration::from_secs_f64(arguments.load.seconds),
    };
    let measured = drive::run(&load, arguments.pid)?;
    println!("messages      {} ({:.0}/s)", measured.messages, measured.messages_per_second());
    println!("driver        {:.2} of a processor", measured.share(measured.driver));
    if arguments.pid.is_some() {
        let line = |what: &str, time| {
            let (micros, share) = (measured.micros_per_message(time), measured.share(time));
            println!("{what:13} {micros:.3} µs per message, {share:.2} of a processor");
        };
        line("server", measured.server_total());
        if let Some(thread) = measured.server_thread(arguments.thread.as_deref()) {
            line(&thread.name, thread.on_cpu);
        }
    }
    let (foreign, stolen) = (measured.foreign(), measured.machine.stolen);
    let (foreign, stolen) = (measured.share(foreign), measured.share(stolen));
    println!("others        {foreign:.2} of a processor, {stolen:.2} stolen by the hypervisor");
    Ok(())
}

fn echo_ratio(arguments: &RatioArguments) -> io::Result<()> {
    let bare = match &arguments.bare {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("bare_echo"),
    };
    let (port, cpu) = (arguments.bare_port, arguments.server_cpu);
    let comparison = Comparison {
        bare: Contender {
            command_line: format!("{} --port {port} --cpu {cpu}", bare.display()),
            target: format!("tcp://127.0.0.1:{port}").parse().map_err(io::Error::other)?,
            thread: None,
        },
        server: Contender {
            command_line: arguments.server.clone(),
            target: arguments.url.clone(),
            thread: arguments.thread.clone(),
        },
        pairs: arguments.pairs,
        connections: arguments.connections.clone(),
        in_flight: arguments.load.in_flight,
        payload_bytes: arguments.load.payload,
        warm_up: Duration::from_secs_f64(arguments.load.warm_up),
        duration: Duration::from_secs_f64(arguments.load.seconds),
        driver_cpu: arguments.load.driver_cpu,
    };
    let counts = comparison.connections.iter();
    let outcomes: Vec<_> = counts.map(|&n| comparison.run(n)).collect::<io::Result<_>>()?;
    let report = comparison.report(&outcomes);
    print!("{report}");
    if let Some(path) = &arguments.output {
        let earlier = fs::read_to_string(path).unwrap_or_default();
        let gap = if earlier.is_empty() { "" } else { "\n" };
        fs::write(path, format!("{earlier}{gap}{report}"))?;
    }
    match arguments.at_most {
        Some(limit) if outcomes.iter().any(|o| o.ratio() > limit) => {
            Err(io::Error::other(format!("a ratio is above {limit}")))
        }
        _ => Ok(()),
    }
}
