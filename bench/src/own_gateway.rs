//! Our own gateway under measurement: started from a configuration file, with a key and tokens in a
//! scratch folder, and loaded by runs of our own harness.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::server_process::{Launch, ServerProcess, spawn_on};

/// What is to be started.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    /// The configuration file; a copy of it is used.
    pub(crate) config: &'a Path,
    /// Stands behind its text in the copy.
    pub(crate) more: &'a str,
    /// `host:port` where the configuration says that it listens.
    pub(crate) authority: &'static str,
    /// Folder for key, tokens, results and messages.
    pub(crate) scratch: PathBuf,
    /// Files of tokens, and how many are in each.
    pub(crate) tokens: &'a [(&'a str, usize)],
    pub(crate) server_cpu: usize,
    pub(crate) load_cpu: usize,
}

#[derive(Debug)]
pub(crate) struct OwnGateway {
    process: ServerProcess,
    authority: &'static str,
    scratch: PathBuf,
    load_cpu: usize,
}

impl OwnGateway {
    pub(crate) fn start(plan: Plan<'_>) -> io::Result<Self> {
        let Plan { config, more, authority, scratch, tokens, server_cpu, load_cpu } = plan;
        let corelane = own_program("corelane")?;
        let text = fs::read_to_string(config)
            .map_err(|e| io::Error::other(format!("{}: {e}", config.display())))?;
        let config = scratch.join("corelane.toml");
        fs::write(&config, text + more)?;
        // A gateway that strangers can reach has a secret one.
        fs::write(scratch.join("token.key"), "0123456789abcdef0123456789abcdef")?;
        for (name, count) in tokens {
            let mut command = Command::new(&corelane);
            command.args(["token", "mint", "--ttl", "12h", "--count", &count.to_string(), "-c"]);
            let made = command.arg(&config).output()?;
            if !made.status.success() {
                let said = in_a_line(&String::from_utf8_lossy(&made.stderr));
                return Err(io::Error::other(format!("no tokens: {said}")));
            }
            fs::write(scratch.join(name), made.stdout)?;
        }
        let words =
            [&*corelane.display().to_string(), "serve", "-c", &config.display().to_string()]
                .map(str::to_owned);
        let launch = Launch {
            words: words.into(),
            cpus: vec![server_cpu],
            messages: Some(fs::File::create(scratch.join("corelane.log"))?),
            ..Launch::default()
        };
        let process = ServerProcess::launch(launch, authority)?;
        Ok(Self { process, authority, scratch, load_cpu })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub(crate) fn scratch(&self) -> &Path {
        &self.scratch
    }

    pub(crate) fn load_cpu(&self) -> usize {
        self.load_cpu
    }

    /// Where clients connect.
    pub(crate) fn url(&self) -> String {
        format!("ws://{}/connect", self.authority)
    }

    /// Begins a run of the load harness with the tokens of the file `tokens`.
    pub(crate) fn begin(&self, name: &str, scenario: &str, tokens: &str) -> io::Result<Run> {
        self.begin_as(Class::Fair, name, scenario, tokens)
    }

    /// As [`Self::begin`], with its place among the processes of its processor.
    pub(crate) fn begin_as(
        &self,
        class: Class,
        name: &str,
        scenario: &str,
        tokens: &str,
    ) -> io::Result<Run> {
        let file = |ending| self.scratch.join(format!("{name}.{ending}"));
        fs::write(file("toml"), scenario)?;
        let (out, messages) = (self.scratch.join(name), file("log"));
        match fs::remove_dir_all(&out) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut command = class.command(&own_program("corelane-loadtest")?);
        command.arg("run").arg(file("toml")).args(["--url", &self.url()]).arg("--out").arg(&out);
        command.args(["--server-pid", &self.pid().to_string()]);
        command.arg("--tokens").arg(self.scratch.join(tokens));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&messages)?);
        let child = spawn_on(&[self.load_cpu], command)?;
        Ok(Run { name: name.to_owned(), child, out, messages })
    }
}

/// When a process gets its processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// In its turn. Even one that is niced down keeps another waiting for a millisecond or more.
    Fair,
    /// Before all that are fair.
    First,
}

impl Class {
    /// The best that this user may ask for.
    pub(crate) fn best() -> Self {
        let asked = Self::First.command(Path::new("true")).stderr(Stdio::null()).status();
        if asked.is_ok_and(|status| status.success()) { Self::First } else { Self::Fair }
    }

    fn command(self, program: &Path) -> Command {
        match self {
            Self::Fair => Command::new(program),
            Self::First => {
                let mut command = Command::new("chrt");
                command.args(["--fifo", "1"]).arg(program);
                command
            }
        }
    }
}

/// A run of the load harness.
#[derive(Debug)]
pub(crate) struct Run {
    name: String,
    child: Child,
    out: PathBuf,
    messages: PathBuf,
}

impl Run {
    /// Waits for its end, and returns its result.
    pub(crate) fn result(mut self) -> io::Result<Value> {
        let status = self.child.wait()?;
        let Ok(text) = fs::read_to_string(self.out.join("result.json")) else {
            let (name, said) = (&self.name, in_a_line(&fs::read_to_string(&self.messages)?));
            return Err(io::Error::other(format!(
                "no result of the run {name} ({status}): {said}"
            )));
        };
        serde_json::from_str(&text).map_err(io::Error::other)
    }
}

/// One that was begun and is not wanted any more.
impl Drop for Run {
    fn drop(&mut self) {
        // Fails when it has ended, which is just as well.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A program of this workspace, which stands beside this one.
pub(crate) fn own_program(name: &str) -> io::Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name(name))
}

/// A number of a run's result.
pub(crate) fn number(outcome: &Value, place: &str) -> io::Result<f64> {
    let found = outcome.pointer(place).and_then(Value::as_f64);
    found.ok_or_else(|| io::Error::other(format!("the result has no {place}")))
}

/// Why a run did not pass.
pub(crate) fn problem(outcome: &Value) -> Option<String> {
    let passed = outcome.pointer("/judgement/verdict").and_then(Value::as_str) == Some("passed");
    let reason = outcome.pointer("/judgement/reasons/0").and_then(Value::as_str);
    (!passed).then(|| reason.unwrap_or("no verdict").to_owned())
}

pub(crate) fn in_a_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_run_that_did_not_pass_says_why() {
        let outcome = |verdict: &str, reasons: &[&str]| json!({ "judgement": { "verdict": verdict, "reasons": reasons } });
        assert_eq!(problem(&outcome("passed", &[])), None);
        let lost = "3 messages were lost.";
        assert_eq!(problem(&outcome("failed", &[lost])).as_deref(), Some(lost));
        assert_eq!(problem(&json!({})).as_deref(), Some("no verdict"));
    }

    #[test]
    fn a_number_that_is_missing_is_named() {
        assert_eq!(number(&json!({ "a": { "b": 7 } }), "/a/b").unwrap(), 7.0);
        let missing = number(&json!({}), "/a/b").unwrap_err();
        assert!(missing.to_string().contains("/a/b"), "{missing}");
    }
}
