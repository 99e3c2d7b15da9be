//! The page for people: what is on it and in which order. Its looks are in `templates/report.html`,
//! which escapes every text; the pictures come from `figure` and hold no text of the outcome.

use askama::Template;
use serde_json::Value;

use super::WriteError;
use super::facts::{self, Table};
use super::figure::{self, Figure, Key};
use crate::outcome::{Outcome, Verdict};
use crate::quantity::{bytes, count, microseconds, per_second, seconds};
use crate::scenario::Metric;

#[derive(Template)]
#[template(path = "report.html")]
struct Page<'a> {
    outcome: &'a Outcome,
    verdict: &'static str,
    headline: &'static str,
    facts: Vec<Fact>,
    figures: Vec<Figure>,
    tables: Vec<Table>,
    /// Path within the scenario, and value.
    scenario: Vec<(String, String)>,
    started: String,
    measured: String,
}

/// A figure that everybody looks for first.
struct Fact {
    name: &'static str,
    value: String,
    detail: String,
}

/// One HTML file that needs nothing else, not even a network.
pub fn page(outcome: &Outcome) -> Result<String, WriteError> {
    let refused = |cause: String| WriteError::Form { what: "the page", cause };
    let scenario =
        serde_json::to_value(&outcome.scenario).map_err(|error| refused(error.to_string()))?;
    let mut settings = Vec::new();
    flatten("", &scenario, &mut settings);
    let tables = [
        facts::thresholds(outcome),
        Some(facts::latency(outcome)),
        facts::errors(outcome),
        Some(facts::counts(outcome)),
        Some(facts::efficiency(outcome)),
        facts::opening(outcome),
        facts::handshakes(outcome),
        facts::rates(outcome),
        Some(facts::generators(outcome)),
    ];
    let page = Page {
        outcome,
        verdict: facts::verdict_word(outcome.judgement.verdict),
        headline: match outcome.judgement.verdict {
            Verdict::Passed => "Passed",
            Verdict::Failed => "Failed",
            Verdict::Invalid => "Invalid: these figures do not describe the server",
        },
        facts: key_facts(outcome),
        figures: figure::figures(outcome),
        tables: tables.into_iter().flatten().collect(),
        scenario: settings,
        started: facts::start_time(outcome),
        measured: seconds(outcome.measured_seconds),
    };
    page.render().map_err(|error| refused(error.to_string()))
}

fn key_facts(outcome: &Outcome) -> Vec<Fact> {
    let time = |metric, name, detail: &str| {
        outcome.value_of(metric).map(|value| Fact {
            name,
            value: microseconds(value),
            detail: detail.to_owned(),
        })
    };
    let sent = outcome.sent_rate().map(|rate| format!("{} sent", per_second(rate)));
    let facts = [
        outcome.value_of(Metric::Rate).map(|rate| Fact {
            name: "Rate received",
            value: per_second(rate),
            detail: sent.unwrap_or_default(),
        }),
        time(Metric::P50Us, "Latency p50", "from the intended send"),
        time(Metric::P99Us, "Latency p99", "from the intended send"),
        time(Metric::P999Us, "Latency p99.9", "from the intended send"),
        Some(Fact {
            name: "Faults",
            value: count(outcome.messages.faults()),
            detail: format!("{} errors", count(outcome.error_count())),
        }),
        time(Metric::ServerCpuUsPerMessage, "Server processor time", "per message"),
        outcome.value_of(Metric::ServerBytesPerConnection).map(|value| Fact {
            name: "Server memory",
            value: bytes(value),
            detail: "per connection".to_owned(),
        }),
    ];
    facts.into_iter().flatten().collect()
}

/// Beyond this many values a list says only how many there are: a recorded plan has millions.
const LISTED_VALUES: usize = 16;

/// One row for each value; what is not set is left out.
fn flatten(path: &str, value: &Value, rows: &mut Vec<(String, String)>) {
    match value {
        Value::Null => {}
        Value::Object(fields) => {
            for (name, field) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                flatten(&path, field, rows);
            }
        }
        Value::Array(values) if values.is_empty() => {}
        Value::Array(values) if values.len() > LISTED_VALUES => {
            rows.push((path.to_owned(), format!("{} values", values.len())));
        }
        Value::Array(values) if values.iter().any(Value::is_object) => {
            for (index, value) in values.iter().enumerate() {
                flatten(&format!("{path}[{index}]"), value, rows);
            }
        }
        Value::Array(values) => {
            let texts: Vec<String> = values.iter().map(plain).collect();
            rows.push((path.to_owned(), texts.join(", ")));
        }
        value => rows.push((path.to_owned(), plain(value))),
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

impl Key {
    /// Shown as a shape rather than as a piece of line.
    fn shape(&self) -> Option<&'static str> {
        match self.class {
            "notice" => Some("M12 10l-5 -8h10z"),
            "shade" => Some("M2 0h20v12h-20z"),
            "hollow-key" => Some("M12 2a4 4 0 1 0 .01 0z"),
            _ => None,
        }
    }
}
