//! What runs of one case say together.

use std::collections::BTreeMap;
use std::io;

use serde_json::Value;

use super::stage::{Case, Load};
use crate::statistics::median;

/// What one run has found.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Run {
    /// Processor time of the gateway for a delivery, all its threads, and of each kind of thread.
    us_each: f64,
    threads: BTreeMap<String, f64>,
    per_second: f64,
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    lag_p99_us: f64,
    /// What was lost, came twice or in another order, or went wrong otherwise.
    problem: Option<String>,
}

impl Run {
    pub(super) fn of(outcome: &Value) -> io::Result<Self> {
        let number = |pointer: &str| {
            let found = outcome.pointer(pointer).and_then(Value::as_f64);
            found.ok_or_else(|| io::Error::other(format!("the result has no {pointer}")))
        };
        let latency = |what: &str| number(&format!("/latency/{what}")).unwrap_or(f64::NAN);
        let delivered = number("/messages/measured")?;
        let mut threads = BTreeMap::new();
        let used = outcome.pointer("/server/threads").and_then(Value::as_array);
        for thread in used.into_iter().flatten() {
            let name = thread.pointer("/0").and_then(Value::as_str).unwrap_or_default();
            let us = thread.pointer("/1").and_then(Value::as_f64).unwrap_or_default();
            *threads.entry(kind(name).to_owned()).or_default() += us / delivered;
        }
        let passed =
            outcome.pointer("/judgement/verdict").and_then(Value::as_str) == Some("passed");
        let reason = outcome.pointer("/judgement/reasons/0").and_then(Value::as_str);
        Ok(Self {
            us_each: number("/server/cpu_us_per_message")?,
            threads,
            per_second: delivered / number("/measured_seconds")?,
            p50_us: latency("from_intended/p50_us"),
            p99_us: latency("from_intended/p99_us"),
            p999_us: latency("from_intended/p999_us"),
            lag_p99_us: latency("send_lag/p99_us"),
            problem: (!passed).then(|| reason.unwrap_or("no verdict").to_owned()),
        })
    }

    /// What the case is about.
    fn judged(&self, case: &Case) -> f64 {
        match case.load {
            Load::Backlog { .. } => self.us_each,
            Load::Live { .. } => self.p99_us,
        }
    }
}

/// Which of the gateway's parts a thread belongs to.
fn kind(thread: &str) -> &str {
    match thread {
        name if name.starts_with("rdk") || name.starts_with("corelane-kafka") => "librdkafka",
        name if name.starts_with("shard") => "shard",
        _ => "control core",
    }
}

/// The runs of one gateway.
#[derive(Debug, Default)]
pub(super) struct Runs(Vec<Run>);

/// What is not as it should be.
#[derive(Debug, PartialEq)]
pub(super) struct Fault {
    pub(super) text: String,
    /// Not only slower than wanted.
    pub(super) is_grave: bool,
}

impl Runs {
    pub(super) fn add(&mut self, run: Run) {
        self.0.push(run);
    }

    fn median(&self, of: impl Fn(&Run) -> f64) -> f64 {
        median(self.0.iter().map(of))
    }

    pub(super) fn median_line(&self, case: &Case, name: &str) -> String {
        let run = Run {
            us_each: self.median(|run| run.us_each),
            per_second: self.median(|run| run.per_second),
            p50_us: self.median(|run| run.p50_us),
            p99_us: self.median(|run| run.p99_us),
            p999_us: self.median(|run| run.p999_us),
            lag_p99_us: self.median(|run| run.lag_p99_us),
            ..Run::default()
        };
        line(case, name, &run)
    }

    /// Medians by part of the gateway.
    pub(super) fn threads_line(&self) -> String {
        let kinds: std::collections::BTreeSet<_> =
            self.0.iter().flat_map(|run| run.threads.keys()).collect();
        let parts = kinds.into_iter().map(|kind| {
            let us = self.median(|run| run.threads.get(kind).copied().unwrap_or(0.0));
            format!("{kind} {us:.2}")
        });
        format!("µs of a delivery by part: {}\n", parts.collect::<Vec<_>>().join(", "))
    }

    pub(super) fn faults(&self, case: &Case) -> Vec<Fault> {
        let problems = self.0.iter().filter_map(|run| run.problem.as_ref());
        let mut faults: Vec<Fault> = problems
            .map(|problem| Fault { text: format!("{}: {problem}", case.name), is_grave: true })
            .collect();
        let judged = self.median(|run| run.judged(case));
        if judged > case.goal {
            let text = format!("{}: {judged:.2} µs, the goal is {}", case.name, case.goal);
            faults.push(Fault { text, is_grave: false });
        }
        faults
    }
}

/// Above the lines of a case.
pub(super) fn head(case: &Case) -> String {
    let what = match case.load {
        Load::Backlog { events } => format!("{events} events published before"),
        Load::Live { per_second } => format!("{per_second} events a second"),
    };
    let of = match case.load {
        Load::Backlog { .. } => "µs of processor time for a delivery",
        Load::Live { .. } => "µs until 99 % are delivered",
    };
    let times = match case.load {
        Load::Backlog { .. } => "",
        Load::Live { .. } => "  per second   p50 µs   p99 µs p99.9 µs  lag p99",
    };
    format!(
        "{}: {} sessions, {} partition(s), {what}; goal: {} {of}\n\
         run              µs each{times}",
        case.name, case.connections, case.partitions, case.goal
    )
}

/// One run. Times of a backlog would be those of the wait in it, and its rate that of what was published.
pub(super) fn line(case: &Case, name: &str, run: &Run) -> String {
    let mut line = format!("{name:16} {:8.2}", run.us_each);
    if let Load::Live { .. } = case.load {
        line += &format!(" {:11.0}", run.per_second);
        for us in [run.p50_us, run.p99_us, run.p999_us, run.lag_p99_us] {
            line += &format!(" {us:8.0}");
        }
    }
    if let Some(problem) = &run.problem {
        line += &format!("  {problem}");
    }
    line
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const CASE: Case = Case {
        name: "backlog",
        connections: 64,
        partitions: 1,
        load: Load::Backlog { events: 9 },
        goal: 2.0,
    };

    fn outcome(us_each: f64, verdict: &str) -> Value {
        json!({
            "measured_seconds": 2.0,
            "messages": { "measured": 100 },
            "server": {
                "cpu_us_per_message": us_each,
                "threads": [["shard-0", 100.0], ["rdk:broker1", 30.0], ["rdk:main", 20.0]],
            },
            "latency": {
                "from_intended": { "p50_us": 1.0, "p99_us": 2.0, "p999_us": 3.0 },
                "send_lag": { "p99_us": 4.0 },
            },
            "judgement": { "verdict": verdict, "reasons": ["3 messages were lost."] },
        })
    }

    fn runs(of: &[(f64, &str)]) -> Runs {
        Runs(of.iter().map(|&(us, verdict)| Run::of(&outcome(us, verdict)).unwrap()).collect())
    }

    #[test]
    fn a_result_is_read_and_its_threads_are_added_up_by_part() {
        let run = Run::of(&outcome(1.5, "passed")).unwrap();
        assert_eq!((run.us_each, run.per_second, run.problem), (1.5, 50.0, None));
        let threads = [("librdkafka", 0.5), ("shard", 1.0)].map(|(name, us)| (name.into(), us));
        assert_eq!(run.threads, threads.into());
        assert!(Run::of(&json!({})).is_err());
    }

    #[test]
    fn a_median_beyond_the_goal_is_a_fault_and_a_lost_message_a_grave_one() {
        let good = runs(&[(1.0, "passed"), (2.0, "passed"), (9.0, "passed")]);
        assert_eq!(good.faults(&CASE), []);
        let slow = runs(&[(1.0, "passed"), (2.1, "passed"), (9.0, "passed")]);
        assert_eq!(slow.faults(&CASE).len(), 1);
        assert!(!slow.faults(&CASE)[0].is_grave);
        let lossy = runs(&[(1.0, "passed"), (1.0, "failed")]);
        assert!(lossy.faults(&CASE)[0].is_grave);
        assert!(lossy.faults(&CASE)[0].text.contains("3 messages were lost"));
    }
}
