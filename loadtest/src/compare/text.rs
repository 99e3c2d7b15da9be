//! A comparison as text: what was compared, how, what follows, and what does not.

use std::fmt;

use super::{Comparison, Finding, Method, MetricComparison, RatioInterval};
use crate::quantity::{in_dimension, share};
use crate::scenario::Metric;

impl Finding {
    /// `A is faster`, and so on.
    pub fn words(self, metric: Metric) -> &'static str {
        match (self, metric) {
            (Self::ABetter, Metric::ServerCpuUsPerMessage) => "A needs less",
            (Self::BBetter, Metric::ServerCpuUsPerMessage) => "B needs less",
            (Self::ABetter, _) => "A is faster",
            (Self::BBetter, _) => "B is faster",
            (Self::NoDifferenceShown, _) => "no difference that these runs can show",
            (Self::TooFewRuns, _) => "too few runs to say",
        }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Runs of A: {}, runs of B: {}", self.runs_a, self.runs_b)?;
        writeln!(f, "{}", self.method())?;
        if !self.metrics.is_empty() {
            writeln!(f)?;
            writeln!(
                f,
                "  {:<33} {:>10} {:>10} {:>7}  {:<17} finding",
                "metric", "A", "B", "A / B", "interval"
            )?;
        }
        for compared in &self.metrics {
            let MetricComparison { metric, a, b, ratio, interval, finding } = compared;
            let value = |value: f64| in_dimension(value, metric.dimension());
            writeln!(
                f,
                "  {:<33} {:>10} {:>10} {ratio:>7.3}  {:<17} {}",
                metric.title(),
                value(*a),
                value(*b),
                interval.map_or("–".to_owned(), range),
                finding.words(*metric),
            )?;
        }
        for warning in &self.warnings {
            writeln!(f, "\nnote: {warning}")?;
        }
        Ok(())
    }
}

fn range(interval: RatioInterval) -> String {
    format!("{:.3} to {:.3}", interval.low, interval.high)
}

impl Comparison {
    fn method(&self) -> String {
        let nominal = share(self.level);
        let intervals = self.metrics.iter().filter_map(|metric| metric.interval);
        match intervals.min_by(|a, b| a.level.total_cmp(&b.level)) {
            Some(interval) if interval.method == Method::RankSum => format!(
                "Rank-sum test (Mann and Whitney), two-sided, {} intervals (at least {nominal} \
                 asked for). Each of the {} metrics is tested by itself: of two equal sides, each \
                 shows a difference in {} of all comparisons.",
                share(interval.level),
                self.metrics.len(),
                share(1.0 - interval.level),
            ),
            Some(_) => format!(
                "One run each: {nominal} intervals by a block bootstrap over the intervals within \
                 the runs. No finding follows from them."
            ),
            None => format!(
                "Too few runs for the rank-sum test at {nominal}: four of each side are the least \
                 that can show a difference, and ten show smaller ones."
            ),
        }
    }
}
