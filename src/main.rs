//! The `corelane` binary; all of it is in the library.

use std::process::{ExitCode, abort};

fn main() -> ExitCode {
    abort_on_panic();
    corelane::cli::main()
}

/// The release profile aborts by itself. The dev profile unwinds, as the harness of tests must: else
/// cargo would build every library twice.
fn abort_on_panic() {
    if cfg!(panic = "unwind") {
        let say = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            say(panic);
            abort();
        }));
    }
}
