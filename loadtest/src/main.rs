//! `corelane-loadtest`: puts load on WebSocket servers and says what they did with it.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line program")]

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
