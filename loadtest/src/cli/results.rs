//! `report`, `merge` and `compare`: what is done with results that are there already.

use std::fs;
use std::path::{Path, PathBuf};

use corelane_loadtest::compare;
use corelane_loadtest::judge::{Exit, judge};
use corelane_loadtest::merge;
use corelane_loadtest::outcome::Outcome;
use corelane_loadtest::report;
use miette::{Context, IntoDiagnostic, miette};

use super::{CommandError, one_run};

pub(super) fn report(result: &Path, out: &Path) -> Result<Exit, CommandError> {
    one_run::show(&read(result)?, Some(out))
}

pub(super) fn merge(results: &[PathBuf], out: &Path) -> Result<Exit, CommandError> {
    let outcomes = results.iter().map(|path| read(path)).collect::<Result<_, _>>()?;
    let mut outcome = merge::merge(outcomes).into_diagnostic()?;
    judge(&mut outcome);
    one_run::show(&outcome, Some(out))
}

pub(super) fn compare(a: &Path, b: &Path) -> Result<Exit, CommandError> {
    let (a, b) = (read_all(a)?, read_all(b)?);
    print!("{}", compare::compare(&a, &b));
    Ok(Exit::Passed)
}

/// As `report::write_all` names it.
const RESULT_FILE: &str = "result.json";

/// The result at `path`, or in the folder `path`.
fn read(path: &Path) -> Result<Outcome, CommandError> {
    let file = if path.is_dir() { path.join(RESULT_FILE) } else { path.to_owned() };
    report::read(&file).into_diagnostic()
}

/// The result at `path`; or in the folder, or in each of the folder's folders.
fn read_all(path: &Path) -> Result<Vec<Outcome>, CommandError> {
    if !path.is_dir() || path.join(RESULT_FILE).exists() {
        return Ok(vec![read(path)?]);
    }
    let mut files = Vec::new();
    let entries =
        fs::read_dir(path).into_diagnostic().wrap_err_with(|| path.display().to_string())?;
    for entry in entries {
        let entry = entry.into_diagnostic()?.path();
        let nested = entry.join(RESULT_FILE);
        if nested.exists() {
            files.push(nested);
        } else if entry.extension().is_some_and(|extension| extension == "json") {
            files.push(entry);
        }
    }
    if files.is_empty() {
        let name = path.display();
        return Err(miette!("{name} has no {} and no folders with one", RESULT_FILE));
    }
    files.sort();
    files.iter().map(|file| read(file)).collect()
}
