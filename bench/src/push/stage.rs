//! The processes of a run: Kafka for all of them, a gateway and the load harness for each.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::table::Run;
use crate::server_process::{Launch, ServerProcess, spawn_on};

/// Where `bench/push.toml` listens.
const AUTHORITY: &str = "127.0.0.1:9182";
const ADMIN: &str = "127.0.0.1:9183";

const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);
const KAFKA_HEAP_MIB: &str = "1024";
/// In which Kafka starts, stops and is looked for.
const DEV_UP: &str = "scripts/dev-up";
const DEV_DOWN: &str = "scripts/dev-down";

/// One kind of run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) connections: usize,
    pub(super) partitions: u32,
    pub(super) load: Load,
    /// At most: µs of processor time for a delivery, or µs of the 99th percentile.
    pub(super) goal: f64,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Load {
    /// Published while the gateway stands still.
    Backlog { events: u32 },
    /// Published at a fixed rate.
    Live { per_second: u32 },
}

/// A running Kafka, and what a gateway beside it needs.
#[derive(Debug)]
pub(super) struct Stage {
    config: String,
    scratch: PathBuf,
    /// The folder of our own programs.
    programs: PathBuf,
    server_cpus: Vec<usize>,
    load_cpu: usize,
    kafka_port: u16,
}

impl Stage {
    pub(super) fn set(
        config: &Path,
        scratch: PathBuf,
        (server_cpus, load_cpu): (Vec<usize>, usize),
        kafka_port: u16,
    ) -> io::Result<Self> {
        let own = std::env::current_exe()?;
        let programs = own.parent().map(PathBuf::from).unwrap_or_default();
        let config = fs::read_to_string(config)
            .map_err(|e| io::Error::other(format!("{}: {e}", config.display())))?;
        fs::write(scratch.join("token.key"), "0123456789abcdef0123456789abcdef")?;
        let stage = Self { config, scratch, programs, server_cpus, load_cpu, kafka_port };
        let mut up = stage.services(DEV_UP);
        up.args(["--kafka-port", &kafka_port.to_string(), "--json"]).stdout(Stdio::null());
        // Else one event in a hundred would wait for Kafka to collect its garbage.
        up.args(["--kafka-heap", KAFKA_HEAP_MIB]);
        let status = up.status()?;
        if !status.success() {
            return Err(io::Error::other(format!("{DEV_UP} kafka: {status}")));
        }
        Ok(stage)
    }

    fn services(&self, script: &str) -> Command {
        let mut command = Command::new(script);
        command.args(["kafka", "--folder"]).arg(self.scratch.join("services"));
        command
    }

    pub(super) fn own_gateway(&self) -> PathBuf {
        self.programs.join("corelane")
    }

    /// One run of a case with a gateway that begins with it.
    pub(super) fn run(&self, case: &Case, gateway: &Path) -> io::Result<Run> {
        let config = self.scratch.join("corelane.toml");
        let brokers = format!("127.0.0.1:{}", self.kafka_port);
        let Case { name, connections, partitions, .. } = case;
        fs::write(
            &config,
            format!(
                "{}\n[kafka]\nbrokers = [\"{brokers}\"]\ntopic_prefix = \"{name}.\"\n\
                 create_topics = true\npartitions = {partitions}\n",
                self.config
            ),
        )?;
        let tokens = self.scratch.join("tokens");
        fs::write(&tokens, self.mint(&config, *connections)?)?;
        let words = [&*gateway.display().to_string(), "serve", "-c", &config.display().to_string()]
            .map(str::to_owned);
        let launch = Launch {
            words: words.into(),
            cpus: self.processors(case).0,
            messages: Some(fs::File::create(self.scratch.join("corelane.log"))?),
            ..Launch::default()
        };
        let server = ServerProcess::launch(launch, AUTHORITY)?;
        await_partitions(*partitions)?;
        let outcome = self.drive(case, &brokers, &tokens, server.pid())?;
        Run::of(&outcome)
    }

    /// Of the gateway and of the clients. Live everybody may have any, as on a machine of one's own:
    /// on one processor brokers, publisher and clients would wait for each other.
    fn processors(&self, case: &Case) -> (Vec<usize>, Vec<usize>) {
        match case.load {
            Load::Backlog { .. } => (self.server_cpus.clone(), vec![self.load_cpu]),
            Load::Live { .. } => (Vec::new(), Vec::new()),
        }
    }

    fn mint(&self, config: &Path, count: usize) -> io::Result<Vec<u8>> {
        let mut command = Command::new(self.own_gateway());
        command.args(["token", "mint", "--ttl", "12h", "--count", &count.to_string(), "-c"]);
        let made = command.arg(config).output()?;
        if made.status.success() {
            return Ok(made.stdout);
        }
        let said = String::from_utf8_lossy(&made.stderr).trim().replace('\n', " ");
        Err(io::Error::other(format!("no tokens: {said}")))
    }

    /// The result of the load harness.
    fn drive(&self, case: &Case, brokers: &str, tokens: &Path, pid: u32) -> io::Result<Value> {
        let scenario = self.scratch.join("push.toml");
        fs::write(&scenario, self.scenario(case))?;
        let out = self.scratch.join("found");
        match fs::remove_dir_all(&out) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut command = Command::new(self.programs.join("corelane-loadtest"));
        command.arg("run").arg(&scenario).args(["--url", &format!("ws://{AUTHORITY}/connect")]);
        command.args(["--kafka", brokers, "--server-pid", &pid.to_string()]);
        command.arg("--tokens").arg(tokens).arg("--out").arg(&out);
        let messages = self.scratch.join("harness.log");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&messages)?);
        let status = spawn_on(&self.processors(case).1, command)?.wait()?;
        let Ok(text) = fs::read_to_string(out.join("result.json")) else {
            let said = fs::read_to_string(&messages)?;
            let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
            return Err(io::Error::other(format!("no result of {} ({status}): {said}", case.name)));
        };
        serde_json::from_str(&text).map_err(io::Error::other)
    }

    fn scenario(&self, case: &Case) -> String {
        let Case { name, connections, .. } = case;
        let arrival = match case.load {
            Load::Backlog { events } => {
                format!(
                    "mode = \"backlog\"\nevents = {events}\n\
                     [timing]\nwarm_up = \"300ms\"\nduration = \"3s\"\npatience = \"60s\"\n"
                )
            }
            Load::Live { per_second } => format!(
                "mode = \"constant\"\nrate = {per_second}\n\
                 [timing]\nwarm_up = \"3s\"\nduration = \"10s\"\npatience = \"10s\"\n"
            ),
        };
        format!(
            "name = \"{name}\"\n\
             [target]\nprotocol = \"corelane\"\ntopic = \"{name}.bannou-client-events\"\n\
             [traffic]\nkind = \"push\"\npayload_bytes = 200\n\
             [connections]\ncount = {connections}\n\
             [arrival]\n{arrival}\
             [generator]\ncpus = {:?}\n\
             # How late it is is in the table.\n\
             [validity]\nlag_p99_max = \"5ms\"\nbusy_max = 1.0\n\
             [thresholds]\nfaults = {{ at_most = 0 }}\nerrors = {{ at_most = 0 }}\n",
            self.processors(case).1
        )
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Its data goes with it. What it says of an end that failed is on the terminal.
        let _ended = self.services(DEV_DOWN).status();
    }
}

/// Until the gateway reads the events' partitions: it begins at their end.
fn await_partitions(wanted: u32) -> io::Result<()> {
    let line = format!("corelane_kafka_event_partitions {wanted}\n");
    let until = Instant::now() + PATIENCE;
    while !metrics().is_ok_and(|text| text.contains(&line)) {
        if Instant::now() > until {
            return Err(io::Error::other(format!("the gateway does not read {wanted} partitions")));
        }
        thread::sleep(POLL);
    }
    Ok(())
}

fn metrics() -> io::Result<String> {
    let mut stream = TcpStream::connect(ADMIN)?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}
