//! `list`, `show`, `schema` and `plan`: what scenarios there are, and what one of them plans.

use std::io::{self, BufWriter, Write};

use corelane_loadtest::judge::Exit;
use corelane_loadtest::scenario::{self, Builtin};
use corelane_loadtest::schedule::Schedule;
use miette::{IntoDiagnostic, miette};

use super::{CommandError, ScenarioArguments};

pub(super) fn list() -> Exit {
    for builtin in Builtin::all() {
        println!("{:20} {}", builtin.name, builtin.description());
    }
    Exit::Passed
}

pub(super) fn show(name: &str) -> Result<Exit, CommandError> {
    let builtin = Builtin::find(name).ok_or_else(|| {
        miette!(
            help = "`corelane-loadtest list` shows them",
            "there is no built-in scenario {name}"
        )
    })?;
    print!("{}", builtin.text);
    Ok(Exit::Passed)
}

pub(super) fn schema() -> Exit {
    println!("{}", scenario::schema());
    Exit::Passed
}

pub(super) fn plan(arguments: &ScenarioArguments) -> Result<Exit, CommandError> {
    let scenario = scenario::load(&arguments.scenario, &arguments.settings)?;
    if !scenario.is_open_loop() {
        return Err(miette!("a closed loop has no plan: it sends when it is answered"));
    }
    let mut out = BufWriter::new(io::stdout().lock());
    let horizon = scenario.timing.warm_up + scenario.timing.duration;
    for offset in Schedule::new(&scenario.arrival, horizon, scenario.generator.seed) {
        writeln!(out, "{offset}").into_diagnostic()?;
    }
    out.flush().into_diagnostic()?;
    Ok(Exit::Passed)
}
