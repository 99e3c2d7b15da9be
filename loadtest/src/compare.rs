//! Whether the runs of one side, A, differ from those of another, B. A difference is claimed only
//! if it is larger than runs of the same kind differ among themselves, so it takes several runs of
//! each side. How the result reads is in `text`.

mod one_run;
mod rank_sum;
mod text;

use std::collections::BTreeSet;

use serde::Serialize;

use crate::outcome::{Outcome, Verdict};
use crate::scenario::Metric;
use crate::scenario_difference::differing_fields;

/// Chance that the interval of one metric holds the true ratio.
pub const LEVEL: f64 = 0.95;

const METRICS: [Metric; 5] =
    [Metric::P50Us, Metric::P99Us, Metric::P999Us, Metric::Rate, Metric::ServerCpuUsPerMessage];

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Runs that were compared, without invalid ones.
    pub runs_a: usize,
    pub runs_b: usize,
    pub level: f64,
    /// Those that both sides measured.
    pub metrics: Vec<MetricComparison>,
    /// What limits the findings, in words.
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MetricComparison {
    pub metric: Metric,
    /// Median of the runs.
    pub a: f64,
    pub b: f64,
    /// A over B: the median of the ratios of all pairs of runs.
    pub ratio: f64,
    pub interval: Option<RatioInterval>,
    pub finding: Finding,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RatioInterval {
    pub low: f64,
    pub high: f64,
    /// At least the level that was asked for, where few runs leave no finer choice.
    pub level: f64,
    pub method: Method,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Of Mann, Whitney and Wilcoxon, turned into an interval as Hodges and Lehmann did.
    RankSum,
    /// Intervals of the time series drawn again in blocks, within one run of each side. It does not
    /// see how runs differ, so no finding follows from it.
    BlockBootstrap,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finding {
    ABetter,
    BBetter,
    NoDifferenceShown,
    TooFewRuns,
}

/// Compares the runs of both sides metric by metric.
pub fn compare(a: &[Outcome], b: &[Outcome]) -> Comparison {
    let mut warnings = Vec::new();
    let valid_a = valid(a, "A", &mut warnings);
    let valid_b = valid(b, "B", &mut warnings);
    let mut metrics: Vec<MetricComparison> =
        METRICS.iter().filter_map(|&metric| compare_metric(metric, &valid_a, &valid_b)).collect();
    if let ([a], [b]) = (&valid_a[..], &valid_b[..]) {
        one_run::add_intervals(&mut metrics, a, b);
        warnings.push(
            "One run of each side: the intervals show only how much each run wavered in itself. \
             How much runs differ from each other is not seen, and it is often more."
                .to_owned(),
        );
    }
    warn_of_unlike_runs(&valid_a, &valid_b, &mut warnings);
    Comparison { runs_a: valid_a.len(), runs_b: valid_b.len(), level: LEVEL, metrics, warnings }
}

/// Without the runs whose figures do not describe the server.
fn valid<'a>(runs: &'a [Outcome], side: &str, warnings: &mut Vec<String>) -> Vec<&'a Outcome> {
    let with = |verdict| runs.iter().filter(move |run| run.judgement.verdict == verdict).count();
    let (invalid, failed) = (with(Verdict::Invalid), with(Verdict::Failed));
    if invalid > 0 {
        warnings.push(format!("Invalid runs of {side}, left out: {invalid}."));
    }
    if failed > 0 {
        warnings.push(format!(
            "Failed runs of {side}: {failed}. Read their reasons before these figures."
        ));
    }
    let valid: Vec<_> =
        runs.iter().filter(|run| run.judgement.verdict != Verdict::Invalid).collect();
    if valid.is_empty() {
        warnings.push(format!("There is no run of {side} to compare."));
    }
    valid
}

/// Nothing if a side did not measure it.
fn compare_metric(metric: Metric, a: &[&Outcome], b: &[&Outcome]) -> Option<MetricComparison> {
    let values = |runs: &[&Outcome]| -> Vec<f64> {
        let values = runs.iter().filter_map(|run| run.value_of(metric));
        values.filter(|value| *value > 0.0 && value.is_finite()).collect()
    };
    compare_values(metric, &values(a), &values(b))
}

/// One positive value for each run.
fn compare_values(metric: Metric, a: &[f64], b: &[f64]) -> Option<MetricComparison> {
    if a.is_empty() || b.is_empty() {
        return None;
    }
    let shift = rank_sum::shift(&logarithms(a), &logarithms(b), LEVEL);
    let interval = shift.interval.map(|interval| RatioInterval {
        low: interval.low.exp(),
        high: interval.high.exp(),
        level: interval.level,
        method: Method::RankSum,
    });
    let finding = match shift.interval {
        None => Finding::TooFewRuns,
        Some(found) if found.high < 0.0 && is_better_lower(metric) => Finding::ABetter,
        Some(found) if found.low > 0.0 && !is_better_lower(metric) => Finding::ABetter,
        Some(found) if found.high < 0.0 || found.low > 0.0 => Finding::BBetter,
        Some(_) => Finding::NoDifferenceShown,
    };
    Some(MetricComparison {
        metric,
        a: median(a),
        b: median(b),
        ratio: shift.median.exp(),
        interval,
        finding,
    })
}

/// Differences of logarithms are ratios.
fn logarithms(values: &[f64]) -> Vec<f64> {
    values.iter().map(|value| value.ln()).collect()
}

fn is_better_lower(metric: Metric) -> bool {
    metric != Metric::Rate
}

/// Of at least one value.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    f64::midpoint(sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2])
}

/// What a comparison is about, or what says nothing of the load.
const EXPECTED_TO_DIFFER: [&str; 5] =
    ["name", "description", "target.url", "target.admin_url", "generator.seed"];

fn warn_of_unlike_runs(a: &[&Outcome], b: &[&Outcome], warnings: &mut Vec<String>) {
    let (Some(first_a), Some(first_b)) = (a.first(), b.first()) else { return };
    let runs = || a.iter().chain(b);
    let fields: BTreeSet<String> = runs()
        .flat_map(|run| differing_fields(&first_a.scenario, &run.scenario))
        .filter(|field| !EXPECTED_TO_DIFFER.contains(&field.as_str()))
        .collect();
    if !fields.is_empty() {
        let fields: Vec<String> = fields.into_iter().collect();
        warnings.push(format!(
            "The runs are not of the same load: {} differ, and so may the results for that alone.",
            fields.join(", ")
        ));
    }
    let span = |runs: &[&Outcome]| {
        let starts = || runs.iter().map(|run| run.started_unix_ms);
        starts().min().zip(starts().max())
    };
    if let (Some((a_from, a_to)), Some((b_from, b_to))) = (span(a), span(b))
        && (a_to < b_from || b_to < a_from)
    {
        warnings.push(
            "All runs of one side came before those of the other: a machine that changed in \
             between looks the same as a difference. Take turns."
                .to_owned(),
        );
    }
    if first_a.scenario.is_open_loop() && first_b.scenario.is_open_loop() {
        warnings.push(
            "The rate of an open loop is the plan's, so equal rates say nothing of the servers."
                .to_owned(),
        );
    }
}

#[cfg(test)]
mod tests;
