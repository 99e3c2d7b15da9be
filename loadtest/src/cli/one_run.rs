//! `run` and `search`: one scenario against a server that somebody else started.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use corelane_loadtest::judge::{Exit, judge};
use corelane_loadtest::outcome::Outcome;
use corelane_loadtest::report;
use corelane_loadtest::report::console::Progress;
use corelane_loadtest::run::{self, ServerAt, Surroundings};
use corelane_loadtest::scenario::{self, Scenario};
use corelane_loadtest::search;
use miette::{Context, IntoDiagnostic, miette};

use super::{CommandError, RunArguments};

pub(super) fn run(arguments: &RunArguments) -> Result<Exit, CommandError> {
    let scenario = load(arguments)?;
    let surroundings = surroundings(arguments)?;
    let outcome = judged(&scenario, &surroundings)?;
    show(&outcome, arguments.out.as_deref())
}

pub(super) fn search(arguments: &RunArguments) -> Result<Exit, CommandError> {
    let scenario = load(arguments)?;
    let surroundings = surroundings(arguments)?;
    let outcome = search::search(&scenario, |step| {
        eprintln!("{}: {:.0} per second", scenario.name, search::rate_of(step).unwrap_or(0.0));
        judged(step, &surroundings)
    })?;
    show(&outcome, arguments.out.as_deref())
}

/// Runs `scenario` with progress on the terminal, and judges it.
pub(super) fn judged(
    scenario: &Scenario,
    surroundings: &Surroundings,
) -> Result<Outcome, CommandError> {
    let mut progress = Progress::on_stderr(scenario);
    let mut outcome = run::run(scenario, surroundings, &mut progress).into_diagnostic()?;
    drop(progress);
    judge(&mut outcome);
    Ok(outcome)
}

/// Prints the summary and writes the reports.
pub(super) fn show(outcome: &Outcome, out: Option<&Path>) -> Result<Exit, CommandError> {
    print!("{}", report::summary(outcome));
    if let Some(folder) = out {
        let written = report::write_all(outcome, folder).into_diagnostic()?;
        println!("report: {}", written.page.display());
    }
    Ok(outcome.judgement.verdict.into())
}

fn load(arguments: &RunArguments) -> Result<Scenario, CommandError> {
    let mut settings = arguments.scenario.settings.clone();
    if let Some(url) = &arguments.url {
        settings.push(format!("target.url={url}"));
    }
    if let Some(kafka) = &arguments.kafka {
        settings.push(format!("target.kafka={kafka}"));
    }
    if let Some(ca) = &arguments.ca {
        let ca = std::path::absolute(ca).into_diagnostic()?;
        settings.push(format!("tls.ca={}", ca.display()));
    }
    let scenario = scenario::load(&arguments.scenario.scenario, &settings)?;
    if scenario.target.url.is_empty() {
        return Err(miette!(
            help = "add --url ws://HOST:PORT/PATH or wss://HOST:PORT/PATH",
            "the scenario does not say whom the load goes to"
        ));
    }
    Ok(scenario)
}

fn surroundings(arguments: &RunArguments) -> Result<Surroundings, CommandError> {
    let tokens = match &arguments.tokens {
        Some(path) => read_tokens(path)?,
        None => Vec::new(),
    };
    let pid = arguments.server_pid.map(ServerAt::Pid);
    let server = pid.or_else(|| arguments.server_cgroup.clone().map(ServerAt::Cgroup));
    Ok(Surroundings { tokens, server })
}

pub(super) fn read_tokens(path: &Path) -> Result<Vec<String>, CommandError> {
    let mut text = String::new();
    if path.as_os_str() == "-" {
        io::stdin().read_to_string(&mut text).into_diagnostic().wrap_err("the standard input")?;
    } else {
        text = fs::read_to_string(path)
            .into_diagnostic()
            .wrap_err_with(|| path.display().to_string())?;
    }
    let lines = text.lines().map(str::trim);
    Ok(lines.filter(|line| !line.is_empty()).map(str::to_owned).collect())
}
