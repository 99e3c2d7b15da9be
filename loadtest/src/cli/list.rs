//! `list`, `show`, `schema` and `plan`: what scenarios there are, and what one of them plans.

use std::io::{self, BufWriter, Write};

use corelane_loadtest::outcome::Verdict;
use corelane_loadtest::scenario::{self, Builtin};
use corelane_loadtest::schedule;
use miette::{IntoDiagnostic, miette};

use super::{CommandError, DONE, ScenarioArguments};

pub(super) fn list() -> Verdict {
    for builtin in Builtin::all() {
        println!("{:20} {}", builtin.name, builtin.description());
    }
    DONE
}

pub(super) fn show(name: &str) -> Result<Verdict, CommandError> {
    let builtin = Builtin::find(name).ok_or_else(|| {
        miette!(help = "`corelane-loadtest list` shows them", "there is no built-in scenario {name}")
    })?;
    print!("{}", builtin.text);
    Ok(DONE)
}

pub(super) fn schema() -> Verdict {
    println!("{}", scenario::schema());
    DONE
}

pub(super) fn plan(arguments: &ScenarioArguments) -> Result<Verdict, CommandError> {
    let scenario = scenario::load(&arguments.scenario, &arguments.settings)?;
    if !scenario.is_open_loop() {
        return Err(miette!("a closed loop has no plan: it sends when it is answered"));
    }
    let mut out = BufWriter::new(io::stdout().lock());
    for offset in schedule::plan(&scenario) {
        writeln!(out, "{offset}").into_diagnostic()?;
    }
    out.flush().into_diagnostic()?;
    Ok(DONE)
}
