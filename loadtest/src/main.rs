//! `corelane-loadtest`: puts load on WebSocket servers and says what they did with it.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line program")]

mod cli;

use std::process::{ExitCode, abort};

fn main() -> ExitCode {
    abort_on_panic();
    cli::run()
}

/// As the gateway: the release profile does by itself, the dev profile unwinds, as tests must. No
/// thread waits for one that is gone.
fn abort_on_panic() {
    if cfg!(panic = "unwind") {
        let say = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            say(panic);
            abort();
        }));
    }
}
