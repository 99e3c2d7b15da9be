//! `corelane-loadtest`: a load harness with a client codec of its own. It shares no code with the
//! gateway, so a mistake of the gateway's codec shows here. The work is in the modules; here is the
//! command line.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line program")]

mod client;
mod envelope;
mod frame;
mod ping;

use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use client::Url;

/// Puts load on a corelane gateway as its clients do.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Call one endpoint over and over and print the round trips
    Ping(PingArguments),
}

#[derive(Args)]
struct PingArguments {
    /// The gateway: ws://HOST:PORT/connect
    #[arg(long)]
    url: Url,
    /// Token of a single connection
    #[arg(long, env = "CORELANE_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// File with a token a line, one for each connection; - is the standard input
    #[arg(long, conflicts_with = "token")]
    tokens: Option<PathBuf>,
    /// Path to call, as the manifest spells it
    #[arg(long, default_value = "/demo/echo")]
    endpoint: String,
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Calls of each connection
    #[arg(long, default_value_t = 1000)]
    count: u32,
    /// Bytes of a payload
    #[arg(long, default_value_t = 200)]
    payload: usize,
}

fn main() -> ExitCode {
    let Command::Ping(arguments) = Arguments::parse().command;
    match ping(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn ping(arguments: PingArguments) -> Result<(), Box<dyn std::error::Error>> {
    let tokens = match (arguments.token, &arguments.tokens) {
        (Some(token), _) => vec![token],
        (None, Some(path)) => read_tokens(path)?,
        (None, None) => return Err("a token is needed: --token, --tokens or CORELANE_TOKEN".into()),
    };
    if tokens.len() < arguments.connections {
        let (have, need) = (tokens.len(), arguments.connections);
        return Err(format!(
            "{need} connections need as many tokens, and there are {have}: a session has one \
             connection, and a second one with its token would replace the first"
        )
        .into());
    }
    let plan = ping::Plan {
        url: arguments.url,
        endpoint: arguments.endpoint,
        calls: arguments.count,
        payload_bytes: arguments.payload,
    };
    let report = ping::run(&plan, &tokens[..arguments.connections])?;
    println!("{report}");
    Ok(())
}

fn read_tokens(path: &PathBuf) -> io::Result<Vec<String>> {
    let mut text = String::new();
    if path.as_os_str() == "-" {
        io::stdin().read_to_string(&mut text)?;
    } else {
        text = fs::read_to_string(path)?;
    }
    let lines = text.lines().map(str::trim);
    Ok(lines.filter(|line| !line.is_empty()).map(str::to_owned).collect())
}
