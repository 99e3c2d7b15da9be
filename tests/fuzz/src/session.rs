//! One session against models of what it keeps: whatever its client, its services and the clock do,
//! a verdict is one that the session's own capabilities allow, and every bound holds.

mod clocks;
mod routing;

use arbitrary::{Arbitrary, Result, Unstructured};

/// The bytes are a sequence of what may happen to a session.
pub fn session(input: &[u8]) {
    let mut routing = routing::Run::new();
    let mut clocks = clocks::Run::new();
    let _input_is_used_up = run(&mut routing, &mut clocks, &mut Unstructured::new(input));
}

#[derive(Debug, Arbitrary)]
enum Step<'a> {
    Routing(routing::Step<'a>),
    Clock(clocks::Step),
}

fn run(
    routing: &mut routing::Run,
    clocks: &mut clocks::Run,
    input: &mut Unstructured<'_>,
) -> Result<()> {
    while !input.is_empty() {
        match Step::arbitrary(input)? {
            Step::Routing(step) => routing.step(&step),
            Step::Clock(step) => clocks.step(&step),
        }
    }
    Ok(())
}
