//! `misbehave`: bad clients, until their time is up and the last of them is ended.

use corelane_loadtest::hostile::{self, Plan};
use corelane_loadtest::judge::Exit;
use miette::IntoDiagnostic;

use super::{CommandError, MisbehaveArguments, one_run};

pub(super) fn run(arguments: &MisbehaveArguments) -> Result<Exit, CommandError> {
    let plan = Plan {
        url: arguments.url.clone(),
        tokens: one_run::read_tokens(&arguments.tokens)?,
        each: arguments.each.into(),
        per_second: f64::from(arguments.per_second),
        duration: arguments.duration.into(),
    };
    let tally = hostile::run(&plan).into_diagnostic()?;
    print!("{tally}");
    let faults = tally.faults();
    for fault in &faults {
        eprintln!("{fault}");
    }
    Ok(if faults.is_empty() { Exit::Passed } else { Exit::Failed })
}
