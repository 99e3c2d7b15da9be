//! `quick`: a `corelane dev` gateway of its own, ten seconds of load, one report.

use std::env;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use corelane_loadtest::judge::Exit;
use corelane_loadtest::run::{ServerAt, Surroundings};
use corelane_loadtest::scenario;
use miette::{Context, IntoDiagnostic, miette};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;

use super::{CommandError, QuickArguments, one_run};

pub(super) fn run(arguments: &QuickArguments) -> Result<Exit, CommandError> {
    let program = match &arguments.corelane {
        Some(path) => path.clone(),
        None => find_program()?,
    };
    let mut scenario = scenario::load("quick", &[])?;
    let gateway = DevGateway::start(&program)?;
    scenario.target.url.clone_from(&gateway.ready.url);
    let surroundings = Surroundings {
        tokens: gateway.tokens(&program, scenario.connections.count)?,
        server: Some(ServerAt::Pid(gateway.ready.pid)),
    };
    println!("gateway {} at {}", program.display(), gateway.ready.url);
    let outcome = one_run::judged(&scenario, &surroundings)?;
    one_run::show(&outcome, Some(&arguments.out))
}

/// Beside this program, where a build puts both, or on the search path.
fn find_program() -> Result<PathBuf, CommandError> {
    const NAME: &str = "corelane";
    let beside = env::current_exe().ok().map(|own| own.with_file_name(NAME));
    let searched = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&searched).map(|folder| folder.join(NAME));
    beside.into_iter().chain(on_path).find(|path| path.is_file()).ok_or_else(|| {
        miette!(
            help = "cargo build --release --package corelane",
            "there is no program {NAME} beside this one or on PATH"
        )
    })
}

/// What `corelane dev --json` prints when it is ready.
#[derive(Deserialize)]
struct DevReady {
    url: String,
    tokens: Vec<String>,
    pid: u32,
    config: PathBuf,
}

/// The running gateway; stopped when dropped.
struct DevGateway {
    child: Child,
    /// Held open, so that the gateway can print.
    _printed: BufReader<ChildStdout>,
    ready: DevReady,
}

impl DevGateway {
    fn start(program: &Path) -> Result<Self, CommandError> {
        let name = program.display();
        let mut child = Command::new(program)
            .args(["dev", "--json", "--quiet", "--port", "0"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .into_diagnostic()
            .wrap_err_with(|| format!("cannot start {name}"))?;
        let stdout = child.stdout.take().ok_or_else(|| miette!("{name} has no output"))?;
        let mut printed = BufReader::new(stdout);
        let mut line = String::new();
        let said = printed.read_line(&mut line).is_ok();
        let Some(ready) = said.then(|| serde_json::from_str(&line).ok()).flatten() else {
            let ended = child.kill().and_then(|()| child.wait()).into_diagnostic()?;
            return Err(miette!(
                help = format!("run `{name} dev` to see why"),
                "{name} did not say that it is ready ({ended})"
            ));
        };
        Ok(Self { child, _printed: printed, ready })
    }

    /// As many as the sessions of the test need.
    fn tokens(&self, program: &Path, count: usize) -> Result<Vec<String>, CommandError> {
        let mut tokens = self.ready.tokens.clone();
        let more = count.saturating_sub(tokens.len());
        if more > 0 {
            let minted = Command::new(program)
                .args(["token", "mint", "--count", &more.to_string(), "-c"])
                .arg(&self.ready.config)
                .output()
                .into_diagnostic()?;
            if !minted.status.success() {
                let said = String::from_utf8_lossy(&minted.stderr).into_owned();
                return Err(miette!("{} token mint: {said}", program.display()));
            }
            tokens.extend(String::from_utf8_lossy(&minted.stdout).lines().map(str::to_owned));
        }
        Ok(tokens)
    }
}

impl Drop for DevGateway {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        // One that is gone already needs no stopping.
        let _asked = pid.map(|pid| kill_process(pid, Signal::TERM));
        let _ended = self.child.wait();
    }
}
