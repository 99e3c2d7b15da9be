//! The processes of a window: the gateway, its good clients, and the bad ones beside them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::pair::{Bad, Window};
use crate::peers::memory_of;
use crate::server_process::{Launch, ServerProcess, spawn_on};

/// Where `bench/hostile.toml` listens.
const AUTHORITY: &str = "127.0.0.1:9180";

/// The bad ones begin so long before the good ones, who then need some time to open and warm up.
const LEAD: Duration = Duration::from_secs(3);
const WARM_UP: Duration = Duration::from_secs(2);
const OPENING: Duration = Duration::from_secs(3);

/// Between two looks at the gateway's memory, which is a walk over its pages.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Good clients and bad ones.
#[derive(Clone, Copy, Debug)]
pub(super) struct Crowd {
    pub(super) good: usize,
    pub(super) good_per_second: f64,
    pub(super) each: usize,
    pub(super) bad_per_second: u32,
}

/// A running gateway with tokens for everybody.
#[derive(Debug)]
pub(super) struct Field {
    gateway: ServerProcess,
    crowd: Crowd,
    scratch: PathBuf,
    /// The folder of our own programs.
    programs: PathBuf,
    load_cpu: usize,
}

impl Field {
    pub(super) fn start(
        config: &Path,
        scratch: PathBuf,
        crowd: Crowd,
        (server_cpu, load_cpu): (usize, usize),
    ) -> io::Result<Self> {
        /// Kinds of bad clients, each of which has a session of its own.
        const KINDS: usize = 4;
        let own = std::env::current_exe()?;
        let programs = own.parent().map(PathBuf::from).unwrap_or_default();
        let corelane = programs.join("corelane");
        let text = fs::read_to_string(config)
            .map_err(|e| io::Error::other(format!("{}: {e}", config.display())))?;
        let config = scratch.join("corelane.toml");
        fs::write(&config, text)?;
        // A gateway that strangers can reach has a secret one.
        fs::write(scratch.join("token.key"), "0123456789abcdef0123456789abcdef")?;
        let mint = |name: &str, count: usize| -> io::Result<()> {
            let mut command = Command::new(&corelane);
            command.args(["token", "mint", "--ttl", "12h", "--count", &count.to_string(), "-c"]);
            let made = command.arg(&config).output()?;
            if !made.status.success() {
                let said = String::from_utf8_lossy(&made.stderr).trim().replace('\n', " ");
                return Err(io::Error::other(format!("no tokens: {said}")));
            }
            fs::write(scratch.join(name), made.stdout)
        };
        mint("good.tokens", crowd.good)?;
        mint("bad.tokens", KINDS * crowd.each)?;
        let words =
            [&*corelane.display().to_string(), "serve", "-c", &config.display().to_string()]
                .map(str::to_owned);
        let launch = Launch {
            words: words.into(),
            cpus: vec![server_cpu],
            messages: Some(fs::File::create(scratch.join("corelane.log"))?),
            ..Launch::default()
        };
        let gateway = ServerProcess::launch(launch, AUTHORITY)?;
        Ok(Self { gateway, crowd, scratch, programs, load_cpu })
    }

    /// A window of the good clients alone.
    pub(super) fn alone(&self, length: Duration) -> io::Result<Window> {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let memory = scope.spawn(|| self.most_memory(&done));
            let found = self.run_good_ones(length);
            done.store(true, Ordering::Relaxed);
            let memory = memory.join().map_err(|_| io::Error::other("the look-out panicked"))?;
            window_of(&found?, memory)
        })
    }

    /// A window of the good clients while bad ones come, are ended and come back.
    pub(super) fn beside_bad_ones(&self, length: Duration) -> io::Result<(Window, Bad)> {
        let duration = LEAD + OPENING + WARM_UP + length;
        let begun = Instant::now();
        let mut bad = self.start_bad_ones(duration)?;
        thread::sleep(LEAD);
        let window = self.alone(length);
        let covered = begun.elapsed() < duration;
        let status = bad.wait()?;
        let said = fs::read_to_string(self.scratch.join("bad.log"))?;
        let ended = match (status.success(), covered) {
            (false, _) => Bad::Otherwise(in_a_line(&said)),
            (true, false) => Bad::Gone,
            (true, true) => Bad::AsDocumented,
        };
        Ok((window?, ended))
    }

    /// How the bad ones of the last window were ended.
    pub(super) fn last_table(&self) -> io::Result<String> {
        let table = fs::read_to_string(self.scratch.join("bad.table"))?;
        Ok(format!("\nBad clients of the last pair:\n{}", table.trim_end()))
    }

    /// Until `done`.
    fn most_memory(&self, done: &AtomicBool) -> u64 {
        let mut most = 0;
        while !done.load(Ordering::Relaxed) {
            most = most.max(memory_of(self.gateway.pid()).unwrap_or(0));
            thread::sleep(LOOK_EVERY);
        }
        most
    }

    /// The result of the load harness.
    fn run_good_ones(&self, length: Duration) -> io::Result<Value> {
        let scenario = self.scratch.join("good.toml");
        fs::write(&scenario, self.scenario(length))?;
        let out = self.scratch.join("good");
        match fs::remove_dir_all(&out) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut command = Command::new(self.programs.join("corelane-loadtest"));
        command.arg("run").arg(&scenario).args(["--url", &url()]).arg("--out").arg(&out);
        command.arg("--tokens").arg(self.scratch.join("good.tokens"));
        let messages = self.scratch.join("good.log");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&messages)?);
        let status = spawn_on(&[self.load_cpu], command)?.wait()?;
        let Ok(text) = fs::read_to_string(out.join("result.json")) else {
            let said = in_a_line(&fs::read_to_string(&messages)?);
            return Err(io::Error::other(format!(
                "no result of the good clients ({status}): {said}"
            )));
        };
        serde_json::from_str(&text).map_err(io::Error::other)
    }

    /// Messages from one good client to another, at times that were planned before.
    fn scenario(&self, length: Duration) -> String {
        let Crowd { good, good_per_second, .. } = self.crowd;
        let (warm_up, length, cpu) = (WARM_UP.as_millis(), length.as_millis(), self.load_cpu);
        format!(
            "name = \"good\"\n\
             [target]\nprotocol = \"corelane\"\n\
             [traffic]\nkind = \"peer\"\n\
             [connections]\ncount = {good}\n\
             [arrival]\nmode = \"poisson\"\nrate = {good_per_second:.1}\n\
             [timing]\nwarm_up = \"{warm_up}ms\"\nduration = \"{length}ms\"\n\
             [generator]\ncpus = [{cpu}]\n\
             # How late they are is judged by the pair.\n\
             [validity]\nlag_p99_max = \"1h\"\nbusy_max = 1.0\n\
             [thresholds]\nfaults = {{ at_most = 0 }}\nerrors = {{ at_most = 0 }}\n"
        )
    }

    fn start_bad_ones(&self, duration: Duration) -> io::Result<Child> {
        let Crowd { each, bad_per_second, .. } = self.crowd;
        let mut command = Command::new("nice");
        command.args(["-n", "19"]).arg(self.programs.join("corelane-loadtest"));
        command.args(["misbehave", "--url", &url(), "--each", &each.to_string()]);
        command.args(["--per-second", &bad_per_second.to_string()]);
        command.args(["--for", &format!("{}ms", duration.as_millis())]);
        command.arg("--tokens").arg(self.scratch.join("bad.tokens"));
        let file = |name| fs::File::create(self.scratch.join(name));
        command.stdin(Stdio::null()).stdout(file("bad.table")?).stderr(file("bad.log")?);
        spawn_on(&[self.load_cpu], command)
    }
}

fn url() -> String {
    format!("ws://{AUTHORITY}/connect")
}

fn in_a_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What is used here of a result.
fn window_of(outcome: &Value, memory_bytes: u64) -> io::Result<Window> {
    let p99 = |series: &str| {
        let found = outcome.pointer(&format!("/latency/{series}/p99_us")).and_then(Value::as_f64);
        found.ok_or_else(|| io::Error::other(format!("the result has no p99 of {series}")))
    };
    let passed = outcome.pointer("/judgement/verdict").and_then(Value::as_str) == Some("passed");
    let reason = outcome.pointer("/judgement/reasons/0").and_then(Value::as_str);
    Ok(Window {
        p99_us: p99("from_intended")?,
        lag_p99_us: p99("send_lag")?,
        memory_bytes,
        problem: (!passed).then(|| reason.unwrap_or("no verdict").to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn outcome(verdict: &str) -> Value {
        json!({
            "latency": { "from_intended": { "p99_us": 90.5 }, "send_lag": { "p99_us": 12.0 } },
            "judgement": { "verdict": verdict, "reasons": ["3 messages were lost."] },
        })
    }

    #[test]
    fn a_result_is_read() {
        let window = window_of(&outcome("passed"), 7).unwrap();
        let expected = Window { p99_us: 90.5, lag_p99_us: 12.0, memory_bytes: 7, problem: None };
        assert_eq!(window, expected);
    }

    #[test]
    fn a_run_that_did_not_pass_says_why() {
        let window = window_of(&outcome("failed"), 7).unwrap();
        assert_eq!(window.problem.as_deref(), Some("3 messages were lost."));
        assert!(window_of(&json!({}), 7).is_err());
    }
}
