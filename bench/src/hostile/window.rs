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
use crate::own_gateway::{Class, OwnGateway, Plan, in_a_line, number, own_program, problem};
use crate::peers::memory_of;
use crate::server_process::spawn_on;

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
    gateway: OwnGateway,
    crowd: Crowd,
    /// Of the good ones: they share a processor with the bad ones and have to be on time.
    class: Class,
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
        let tokens = &[("good.tokens", crowd.good), ("bad.tokens", KINDS * crowd.each)];
        let authority = AUTHORITY;
        let more = "";
        let plan = Plan { config, more, authority, scratch, tokens, server_cpu, load_cpu };
        Ok(Self { gateway: OwnGateway::start(plan)?, crowd, class: Class::best() })
    }

    /// Whether the good clients come before the bad ones where both want the processor.
    pub(super) fn is_in_time(&self) -> bool {
        self.class == Class::First
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
        let said = fs::read_to_string(self.gateway.scratch().join("bad.log"))?;
        let ended = match (status.success(), covered) {
            (false, _) => Bad::Otherwise(in_a_line(&said)),
            (true, false) => Bad::Gone,
            (true, true) => Bad::AsDocumented,
        };
        Ok((window?, ended))
    }

    /// How the bad ones of the last window were ended.
    pub(super) fn last_table(&self) -> io::Result<String> {
        let table = fs::read_to_string(self.gateway.scratch().join("bad.table"))?;
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
        let scenario = self.scenario(length);
        self.gateway.begin_as(self.class, "good", &scenario, "good.tokens")?.result()
    }

    /// Messages from one good client to another, at times that were planned before.
    fn scenario(&self, length: Duration) -> String {
        let Crowd { good, good_per_second, .. } = self.crowd;
        let (warm_up, length, cpu) =
            (WARM_UP.as_millis(), length.as_millis(), self.gateway.load_cpu());
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
        command.args(["-n", "19"]).arg(own_program("corelane-loadtest")?);
        command.args(["misbehave", "--url", &self.gateway.url(), "--each", &each.to_string()]);
        command.args(["--per-second", &bad_per_second.to_string()]);
        command.args(["--for", &format!("{}ms", duration.as_millis())]);
        let file = |name| self.gateway.scratch().join(name);
        command.arg("--tokens").arg(file("bad.tokens"));
        let (table, log) =
            (fs::File::create(file("bad.table"))?, fs::File::create(file("bad.log"))?);
        command.stdin(Stdio::null()).stdout(table).stderr(log);
        spawn_on(&[self.gateway.load_cpu()], command)
    }
}

/// What is used here of a result.
fn window_of(outcome: &Value, memory_bytes: u64) -> io::Result<Window> {
    Ok(Window {
        p99_us: number(outcome, "/latency/from_intended/p99_us")?,
        lag_p99_us: number(outcome, "/latency/send_lag/p99_us")?,
        memory_bytes,
        problem: problem(outcome),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_result_is_read() {
        let outcome = json!({
            "latency": { "from_intended": { "p99_us": 90.5 }, "send_lag": { "p99_us": 12.0 } },
            "judgement": { "verdict": "passed", "reasons": [] },
        });
        let window = window_of(&outcome, 7).unwrap();
        let expected = Window { p99_us: 90.5, lag_p99_us: 12.0, memory_bytes: 7, problem: None };
        assert_eq!(window, expected);
        assert!(window_of(&json!({}), 7).is_err());
    }
}
