//! `misbehave`: bad clients, until their time is up.

use corelane_loadtest::hostile::{self, Plan};
use corelane_loadtest::judge::Exit;
use miette::IntoDiagnostic;

use super::{CommandError, MisbehaveArguments};

pub(super) fn run(arguments: &MisbehaveArguments) -> Result<Exit, CommandError> {
    let plan = Plan {
        url: arguments.url.clone(),
        each: arguments.each.into(),
        per_second: f64::from(arguments.per_second),
        duration: arguments.duration.into(),
    };
    let tally = hostile::run(&plan).into_diagnostic()?;
    print!("{tally}");
    Ok(if tally.is_as_documented() { Exit::Passed } else { Exit::Failed })
}
