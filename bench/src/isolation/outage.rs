//! A Redis and a Kafka of our own that can be made to stand still: connections stay, nobody answers.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::own_gateway::in_a_line;
use crate::server_process::spawn_on;

/// Beside the gateway of `bench/isolation.toml`; Kafka takes the port behind its own, too.
const REDIS_PORT: &str = "9184";
const KAFKA_PORT: &str = "9185";

/// Stopped, with all data, when they are dropped.
#[derive(Debug)]
pub(super) struct Services {
    folder: PathBuf,
    /// The program that ends them.
    down: PathBuf,
    pids: [Pid; 2],
    /// For the configuration of a gateway.
    tables: String,
}

impl Services {
    /// `up` is `scripts/dev-up`.
    pub(super) fn start(up: &Path, folder: PathBuf, cpu: usize) -> io::Result<Self> {
        let mut command = Command::new(up);
        command.args(["--json", "--redis-port", REDIS_PORT, "--kafka-port", KAFKA_PORT]);
        command.arg("--folder").arg(&folder);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let output = spawn_on(&[cpu], command)?.wait_with_output()?;
        if !output.status.success() {
            let said = in_a_line(&String::from_utf8_lossy(&output.stderr));
            return Err(io::Error::other(format!("no Redis and Kafka: {said}")));
        }
        let started: Value = serde_json::from_slice(&output.stdout).map_err(io::Error::other)?;
        let strange = || io::Error::other(format!("{} says {started}", up.display()));
        let pid = |name: &str| {
            let pid = started.pointer(&format!("/{name}/pid")).and_then(Value::as_i64);
            pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)).ok_or_else(strange)
        };
        let text = |place| started.pointer(place).and_then(Value::as_str).ok_or_else(strange);
        let tables = format!(
            "\n[redis]\nurl = \"{}\"\n\n[kafka]\nbrokers = [\"{}\"]\ncreate_topics = true\n\
             refresh = \"1s\"\n",
            text("/redis/url")?,
            text("/kafka/brokers/0")?
        );
        let pids = [pid("redis")?, pid("kafka")?];
        Ok(Self { folder, down: up.with_file_name("dev-down"), pids, tables })
    }

    pub(super) fn tables(&self) -> &str {
        &self.tables
    }

    /// Both stand still until what is returned is dropped.
    pub(super) fn stop(&self) -> io::Result<Outage<'_>> {
        let outage = Outage(self);
        self.signal(Signal::STOP)?;
        Ok(outage)
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        self.pids.iter().try_for_each(|pid| Ok(kill_process(*pid, signal)?))
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        // Whatever it says is on standard error.
        drop(Command::new(&self.down).arg("--folder").arg(&self.folder).status());
    }
}

#[derive(Debug)]
pub(super) struct Outage<'a>(&'a Services);

impl Drop for Outage<'_> {
    fn drop(&mut self) {
        // One that has ended does not go on, and the gateway will not hold its lease again.
        drop(self.0.signal(Signal::CONT));
    }
}
