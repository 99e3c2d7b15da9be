//! The load harness as a program: the scenario it is given, and what of its result is used here.

use std::fs;
use std::io;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use thiserror::Error;

use super::contender::{Running, admin_url};
use super::place::Place;
use super::workload::{Arrival, Contender, Tls, Traffic};
use crate::server_process::spawn_on;

/// How long a run takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    pub(super) warm_up: Duration,
    pub(super) duration: Duration,
    pub(super) patience: Duration,
    /// A load that is sent later than this at its 99th percentile says nothing of the server.
    pub(super) lag_max: Duration,
}

/// One load on one server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order<'a> {
    pub(super) contender: &'a Contender,
    pub(super) connections: usize,
    pub(super) arrival: Arrival,
    pub(super) timing: Timing,
}

#[derive(Debug, Error)]
pub(super) enum LoadError {
    #[error("the load harness: {0}")]
    Io(#[from] io::Error),
    #[error("the load harness gave no result: {said}")]
    NoResult { said: String },
    #[error("the load harness's result has no {member}")]
    Unreadable { member: &'static str },
}

/// What the harness found.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Finding {
    pub(super) started_unix_ms: u64,
    pub(super) seconds: f64,
    /// Operations that were finished within the measurement.
    pub(super) operations: f64,
    /// Of the server, all threads, within the measurement.
    pub(super) server_cpu_us: Option<f64>,
    /// Of the busiest sending thread.
    pub(super) generator_busy: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    pub(super) p999_us: f64,
    /// Why the figures cannot be used, if they cannot.
    pub(super) problem: Option<String>,
}

impl Order<'_> {
    /// The scenario's file.
    fn scenario(&self, load_cpu: usize) -> String {
        let Self { contender, timing, .. } = self;
        let (protocol, traffic) = traffic_table(&contender.traffic);
        let arrival = match self.arrival {
            Arrival::Closed(in_flight) => format!("mode = \"closed\"\nin_flight = {in_flight}"),
            Arrival::Constant(rate) => {
                format!("mode = \"constant\"\nrate = {:.1}", rate * contender.scale as f64)
            }
        };
        let count = self.connections * contender.scale;
        let sources = if count > 4000 {
            "\nsources = [\"127.0.0.2\", \"127.0.0.3\", \"127.0.0.4\", \"127.0.0.5\"]"
        } else {
            ""
        };
        let admin = match &contender.traffic {
            Traffic::Pairs { placement, .. } if *placement != "any" => {
                format!("\nadmin_url = \"{}\"", admin_url())
            }
            _ => String::new(),
        };
        let tls = contender.tls.map_or(String::new(), tls_table);
        let [warm_up, duration, patience, lag_max] =
            [timing.warm_up, timing.duration, timing.patience, timing.lag_max]
                .map(|time| time.as_millis());
        format!(
            "name = \"peers\"\ndescription = \"{}\"\n\n\
             [target]\nprotocol = \"{protocol}\"{admin}\n\n{tls}\
             [traffic]\npayload_bytes = 200\n{traffic}\n\n\
             [connections]\ncount = {count}\nopening = 64{sources}\n\n\
             [arrival]\n{arrival}\n\n\
             [timing]\nwarm_up = \"{warm_up}ms\"\nduration = \"{duration}ms\"\n\
             patience = \"{patience}ms\"\n\n\
             [generator]\ncpus = [{load_cpu}]\n\n\
             [validity]\nlag_p99_max = \"{lag_max}ms\"\nbusy_max = 1.0\n",
            contender.label
        )
    }

    /// Puts the load on `running` and waits for its end.
    pub(super) fn run(&self, running: &Running, place: &Place) -> Result<Finding, LoadError> {
        let scenario = place.scratch.join("scenario.toml");
        fs::write(&scenario, self.scenario(place.load_cpu))?;
        let out = place.scratch.join("outcome");
        match fs::remove_dir_all(&out) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let mut command = Command::new(place.own("corelane-loadtest"));
        command.arg("run").arg(&scenario).args(["--url", &running.url]);
        command.args(["--server-pid", &running.server.pid().to_string()]);
        command.arg("--out").arg(&out);
        if let Some(tokens) = &running.tokens {
            command.arg("--tokens").arg(tokens);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(place.messages("loadtest")?);
        let status = spawn_on(&[place.load_cpu], command)?.wait()?;
        let Ok(text) = fs::read_to_string(out.join("result.json")) else {
            let said = place.last_message("loadtest").unwrap_or_else(|| status.to_string());
            return Err(LoadError::NoResult { said });
        };
        let outcome: Value = serde_json::from_str(&text).map_err(io::Error::other)?;
        let mut finding = Finding::of(&outcome)?;
        if let (None, Some(tls)) = (&finding.problem, self.contender.tls) {
            finding.problem = other_tls(&outcome, tls);
        }
        Ok(finding)
    }
}

/// The one suite that all servers are asked for.
const SUITE: &str = "TLS_AES_128_GCM_SHA256";

fn tls_table(tls: Tls) -> String {
    let resume = tls == Tls::Resumed;
    format!("[tls]\nverify = false\nsuite = \"{SUITE}\"\nresume = {resume}\n\n")
}

/// What was agreed, where it is not what is to be compared.
fn other_tls(outcome: &Value, tls: Tls) -> Option<String> {
    /// Of resumed handshakes: the first of a run have nothing to take up.
    const FULL_MAX: f64 = 0.05;
    let agreed = outcome.pointer("/handshakes").and_then(Value::as_object);
    let number = |kind: &str| {
        let number = agreed.and_then(|agreed| agreed.get(&format!("TLS 1.3, {SUITE}, {kind}")));
        number.and_then(Value::as_f64).unwrap_or(0.0)
    };
    let all: f64 = agreed.into_iter().flatten().filter_map(|(_, number)| number.as_f64()).sum();
    let (full, resumed) = (number("full"), number("resumed"));
    let as_wanted = match tls {
        Tls::Full => full == all,
        Tls::Resumed => full + resumed == all && full <= all * FULL_MAX,
    };
    let found = || agreed.map_or("none".to_owned(), in_words);
    (!as_wanted || all == 0.0).then(|| format!("other handshakes than wanted: {}", found()))
}

fn in_words(agreed: &serde_json::Map<String, Value>) -> String {
    let each = agreed.iter().map(|(what, number)| format!("{number} × {what}"));
    each.collect::<Vec<_>>().join("; ")
}

fn traffic_table(traffic: &Traffic) -> (&str, String) {
    match traffic {
        Traffic::Echo => ("echo", "kind = \"echo\"".to_owned()),
        Traffic::Calls { protocol, endpoints, reply } => {
            (protocol, format!("kind = \"call\"\nendpoints = {endpoints:?}\nreply = \"{reply}\""))
        }
        Traffic::Pairs { protocol, placement } => {
            (protocol, format!("kind = \"peer\"\nplacement = \"{placement}\""))
        }
        Traffic::Room { protocol, members } => {
            (protocol, format!("kind = \"broadcast\"\nmembers = {members}"))
        }
        Traffic::Connect { protocol, ready } => {
            (protocol, format!("kind = \"connect\"\nready = \"{ready}\"\nclose = \"reset\""))
        }
        Traffic::Hold { protocol } => (protocol, "kind = \"hold\"".to_owned()),
    }
}

impl Finding {
    /// Reads the JSON result of one run.
    fn of(outcome: &Value) -> Result<Self, LoadError> {
        let number = |path: &str, member| {
            outcome.pointer(path).and_then(Value::as_f64).ok_or(LoadError::Unreadable { member })
        };
        let latency = |member: &str| {
            let path = format!("/latency/from_intended/{member}");
            outcome.pointer(&path).and_then(Value::as_f64).unwrap_or(f64::NAN)
        };
        let threads = outcome.pointer("/generators/0/threads").and_then(Value::as_array);
        let busy = threads.into_iter().flatten().filter_map(|thread| thread["busy"].as_f64());
        Ok(Self {
            started_unix_ms: number("/started_unix_ms", "started_unix_ms")? as u64,
            seconds: number("/measured_seconds", "measured_seconds")?,
            operations: number("/messages/measured", "messages.measured")?,
            server_cpu_us: outcome.pointer("/server/cpu_us").and_then(Value::as_f64),
            generator_busy: busy.fold(0.0, f64::max),
            p50_us: latency("p50_us"),
            p99_us: latency("p99_us"),
            p999_us: latency("p999_us"),
            problem: problem(outcome),
        })
    }
}

/// The harness's own judgement; it sets no thresholds here, so `failed` means lost, doubled or
/// changed messages.
fn problem(outcome: &Value) -> Option<String> {
    let verdict = outcome.pointer("/judgement/verdict").and_then(Value::as_str).unwrap_or("none");
    if verdict == "passed" {
        return None;
    }
    let reason = outcome.pointer("/judgement/reasons/0").and_then(Value::as_str);
    // Behind the semicolon is what to do about it, which a row has no room for.
    let what = reason.and_then(|reason| reason.split(';').next());
    Some(format!("{verdict}: {}", what.unwrap_or("no reason given")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::workload::workloads;
    use super::*;

    fn outcome() -> Value {
        json!({
            "started_unix_ms": 1000, "measured_seconds": 4.0,
            "messages": { "measured": 400_000 },
            "server": { "cpu_us": 2e6 },
            "generators": [{ "threads": [{ "busy": 0.5 }, { "busy": 0.7 }] }],
            "latency": { "from_intended": { "p50_us": 50.0, "p99_us": 90.0, "p999_us": 120.5 } },
            "judgement": { "verdict": "passed", "reasons": [] },
        })
    }

    #[test]
    fn a_result_is_read() {
        let finding = Finding::of(&outcome()).unwrap();
        assert_eq!((finding.seconds, finding.operations), (4.0, 400_000.0));
        assert_eq!((finding.server_cpu_us, finding.generator_busy), (Some(2e6), 0.7));
        assert_eq!((finding.p999_us, finding.problem), (120.5, None));
    }

    #[test]
    fn a_run_that_was_not_passed_says_why() {
        let mut outcome = outcome();
        outcome["judgement"] =
            json!({ "verdict": "invalid", "reasons": ["the generator lagged; use more"] });
        let problem = Finding::of(&outcome).unwrap().problem;
        assert_eq!(problem.as_deref(), Some("invalid: the generator lagged"));
        outcome.as_object_mut().unwrap().remove("messages");
        assert!(Finding::of(&outcome).is_err());
    }

    #[test]
    fn other_handshakes_than_wanted_are_a_problem() {
        let with = |handshakes: Value| json!({ "handshakes": handshakes });
        let full = with(json!({ "TLS 1.3, TLS_AES_128_GCM_SHA256, full": 64 }));
        assert_eq!(other_tls(&full, Tls::Full), None);
        assert!(other_tls(&full, Tls::Resumed).is_some());
        let resumed = with(json!({
            "TLS 1.3, TLS_AES_128_GCM_SHA256, full": 4,
            "TLS 1.3, TLS_AES_128_GCM_SHA256, resumed": 96,
        }));
        assert_eq!(other_tls(&resumed, Tls::Resumed), None);
        let problem = other_tls(&resumed, Tls::Full).unwrap();
        assert!(problem.contains("96 × TLS 1.3, TLS_AES_128_GCM_SHA256, resumed"), "{problem}");
        let retried = with(json!({ "TLS 1.3, TLS_AES_128_GCM_SHA256, full after a retry": 64 }));
        for outcome in [retried, with(json!({})), json!({})] {
            assert!(other_tls(&outcome, Tls::Full).is_some(), "{outcome}");
        }
    }

    #[test]
    fn a_scenario_says_what_the_cell_says() {
        let all = workloads();
        let scaling = all.iter().find(|workload| workload.name == "scaling").unwrap();
        let cell = &scaling.cells[0];
        let ms = Duration::from_millis;
        let timing =
            Timing { warm_up: ms(1000), duration: ms(4000), patience: ms(500), lag_max: ms(5) };
        let order = |contender| Order {
            contender,
            connections: cell.connections,
            arrival: cell.arrival,
            timing,
        };
        let two = order(&cell.ours).scenario(1);
        assert!(two.contains("count = 128\n") && two.contains("rate = 30000.0\n"), "{two}");
        let one = order(&cell.rivals[0].contender).scenario(1);
        assert!(one.contains("count = 64\n") && one.contains("rate = 15000.0\n"), "{one}");
        assert!(one.contains("endpoints = [\"/bench/echo-0\"]\nreply = \"echo\""), "{one}");
        assert!(!one.contains("[tls]"), "{one}");
        let secure = Contender { tls: Some(Tls::Resumed), ..cell.ours.clone() };
        let secure = order(&secure).scenario(1);
        assert!(secure.contains("\n[tls]\nverify = false\n"), "{secure}");
        assert!(secure.contains("\nresume = true\n\n[traffic]\n"), "{secure}");
        assert!(one.contains("warm_up = \"1000ms\"") && one.contains("cpus = [1]"), "{one}");
    }
}
