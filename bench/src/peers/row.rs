//! The tables of the report: one line for each contender of a cell.

use super::measurement::{NoRun, Run};
use super::pairs::{CellOutcome, Rounds};
use super::workload::{Arrival, Contender, Goal, Measure, Rival, Workload};
use crate::statistics::{extremes, median};

/// The head of a workload's main table.
pub(super) fn head(workload: &Workload) -> [String; 2] {
    let operation = workload.operation;
    let line = match workload.measure {
        Measure::Cost => format!(
            "| load | server | µs per {operation} | ratio (of all pairs) | goal | per second | \
             server's and load's core | remark |"
        ),
        Measure::Idle { .. } => {
            "| load | server | bytes per connection | µs/s per connection | ms/s with \
                          none | goal | remark |"
                .to_owned()
        }
        Measure::Latency => "| load | server | p50 µs | added p50 µs | p99 µs | p99.9 µs | \
                             server's and load's core | goal | remark |"
            .to_owned(),
    };
    let columns = line.matches('|').count() - 1;
    [line, format!("|{}", " --- |".repeat(columns))]
}

/// The lines of one cell.
pub(super) fn lines(what: Measure, outcome: &CellOutcome<'_>) -> Vec<String> {
    let cell = outcome.cell;
    let direct = cell.rivals.len();
    let line = |index: usize, contender: &Contender| {
        let rounds = &outcome.rounds;
        let rival = index.checked_sub(1).map(|rival| &cell.rivals[rival]);
        let found = if rounds.usable(index).next().is_none() {
            let columns = match what {
                Measure::Cost => 5,
                Measure::Idle { .. } => 4,
                Measure::Latency => 6,
            };
            format!("{}{}", "– | ".repeat(columns), remark(rounds, index, what))
        } else {
            match what {
                Measure::Cost => cost(rounds, index, rival),
                what @ Measure::Idle { bytes_max, time_judged } => {
                    let bound = IdleBound { bytes_max, time_judged };
                    idle(rounds, index, bound, what)
                }
                Measure::Latency => latency(rounds, index, direct),
            }
        };
        let load = match (what, rounds.arrival) {
            (Measure::Latency, Arrival::Constant(rate)) => {
                format!("{}, {rate:.0} a second", cell.name)
            }
            _ => cell.name.clone(),
        };
        format!("| {load} | {} | {found} |", contender.label)
    };
    cell.contenders().enumerate().map(|(index, contender)| line(index, contender)).collect()
}

fn cost(rounds: &Rounds, index: usize, rival: Option<&Rival>) -> String {
    let cost = rounds.median(index, |run| run.cost_us);
    let threads = rounds.median(index, |run| run.message_threads_us.unwrap_or(f64::NAN));
    let of_threads =
        if threads.is_nan() { String::new() } else { format!(" (shards {})", figure(threads)) };
    let (ratio, goal) = match rival {
        None => ("–".to_owned(), "–".to_owned()),
        Some(rival) => (ratio(rounds, index), goal(rounds, index, rival)),
    };
    format!(
        "{}{of_threads} | {ratio} | {goal} | {:.0} | {} | {}",
        figure(cost),
        rounds.median(index, |run| run.per_second),
        cores(rounds, index),
        remark(rounds, index, Measure::Cost),
    )
}

fn cores(rounds: &Rounds, index: usize) -> String {
    let [server, load] =
        [rounds.median(index, |run| run.server_core), rounds.median(index, |run| run.load_core)];
    if server.is_nan() { "–".to_owned() } else { format!("{server:.2}, {load:.2}") }
}

fn ratio(rounds: &Rounds, index: usize) -> String {
    let ratios = rounds.ratios(index);
    let middle = median(ratios.clone());
    if middle.is_nan() {
        return "–".to_owned();
    }
    let all: Vec<_> = ratios.map(|ratio| format!("{ratio:.2}")).collect();
    format!("**{middle:.2}** ({})", all.join(", "))
}

fn goal(rounds: &Rounds, index: usize, rival: &Rival) -> String {
    let judged = match rounds.reaches(index, rival) {
        Some(true) => "reached",
        Some(false) => "**missed**",
        None => "not judged",
    };
    match rival.goal {
        None => "–".to_owned(),
        Some(Goal::RatioAtLeast(goal)) => format!("≥ {goal}: {judged}"),
        Some(Goal::ExcessAtMost(goal)) => {
            let excess = median(rounds.paired(index, |ours, other| ours.cost_us - other.cost_us));
            let nanos = |us: f64| format!("{:+.0} ns", us * 1e3);
            format!("{} of at most {}: {judged}", nanos(excess), nanos(goal))
        }
        Some(Goal::TimesAtMost(goal)) => {
            let times = median(rounds.times(index));
            format!("{times:.2} times of at most {goal}: {judged}")
        }
    }
}

/// What an idle connection may cost us beside its memory.
const MICROS_PER_SECOND_MAX: f64 = 0.3;
const BASE_MS_MAX: f64 = 4.0;

struct IdleBound {
    bytes_max: u32,
    time_judged: bool,
}

fn idle(rounds: &Rounds, index: usize, bound: IdleBound, measure: Measure) -> String {
    let IdleBound { bytes_max, time_judged } = bound;
    let of = |what: fn(&super::measurement::Idle) -> f64| {
        rounds.median(index, |run| run.idle.as_ref().map_or(f64::NAN, what))
    };
    let bytes = of(|idle| idle.bytes_per_connection);
    let micros = of(|idle| idle.us_per_second);
    let base = of(|idle| idle.base_ms_per_second);
    let in_time = micros <= MICROS_PER_SECOND_MAX && base <= BASE_MS_MAX;
    let reached = bytes <= f64::from(bytes_max) && (in_time || !time_judged);
    let of_time = if time_judged { ", 0.3 µs/s, 4 ms/s" } else { "" };
    let judged = if reached { "reached" } else { "**missed**" };
    let goal = match index {
        0 => format!("≤ {bytes_max} B{of_time}: {judged}"),
        _ => "–".to_owned(),
    };
    format!("{bytes:.0} | {micros:.2} | {base:.2} | {goal} | {}", remark(rounds, index, measure))
}

/// What the gateway may add to a direct round trip, and its own 99.9th percentile.
const ADDED_P50_MAX_US: f64 = 60.0;
const P999_MAX_US: f64 = 1000.0;

fn latency(rounds: &Rounds, index: usize, direct: usize) -> String {
    let added = if index == direct { f64::NAN } else { added_p50(rounds, index, direct) };
    let p999 = rounds.median(index, |run| run.p999_us);
    let goal = match (index, added <= ADDED_P50_MAX_US && p999 <= P999_MAX_US) {
        (0, _) if added.is_nan() => "not judged",
        (0, true) => "≤ 60 µs, p99.9 ≤ 1 ms: reached",
        (0, false) => "≤ 60 µs, p99.9 ≤ 1 ms: **missed**",
        _ => "–",
    };
    let added = if added.is_nan() { "–".to_owned() } else { format!("**{added:.0}**") };
    format!(
        "{:.0} | {added} | {:.0} | {p999:.0} | {} | {goal} | {}",
        rounds.median(index, |run| run.p50_us),
        rounds.median(index, |run| run.p99_us),
        cores(rounds, index),
        remark(rounds, index, Measure::Latency),
    )
}

fn added_p50(rounds: &Rounds, index: usize, direct: usize) -> f64 {
    let runs = rounds.runs[index].iter().zip(&rounds.runs[direct]);
    median(runs.filter_map(|pair| match pair {
        (Ok(through), Ok(direct)) => Some(through.p50_us - direct.p50_us),
        _ => None,
    }))
}

/// What keeps the figures from being the whole truth.
fn remark(rounds: &Rounds, index: usize, what: Measure) -> String {
    let runs = &rounds.runs[index];
    let mut remarks = Vec::new();
    let failed: Vec<&str> = runs
        .iter()
        .filter_map(|run| run.as_ref().err())
        .map(|(NoRun::NotStarted(why) | NoRun::Unusable(why))| why.as_str())
        .collect();
    if let Some(why) = failed.last() {
        match failed.len() == runs.len() {
            true => remarks.push(one_line(why)),
            false => remarks.push(format!(
                "{} of {} runs unusable: {}",
                failed.len(),
                runs.len(),
                one_line(why)
            )),
        }
    }
    let closed = matches!(rounds.arrival, Arrival::Closed(_));
    if closed && what == Measure::Cost && rounds.is_saturated(index) == Some(false) {
        let share = rounds.median(index, |run: &Run| run.server_share);
        remarks.push(format!("not saturated: {:.0} % of its core", share * 100.0));
    }
    let (_, most) = extremes(rounds.usable(index).map(|run| run.disturbance));
    if most > DISTURBED {
        remarks.push(format!("disturbed: others used {most:.2} processors"));
    }
    remarks.join("; ")
}

/// Processors' worth of other work that makes a run doubtful.
const DISTURBED: f64 = 0.1;

/// As a cell of a table.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "/")
}

/// The table of ours and the first rival at fixed rates; empty if there was no need.
pub(super) fn rate_table(workload: &Workload, outcomes: &[CellOutcome<'_>]) -> Vec<String> {
    if outcomes.iter().all(|outcome| outcome.at_rates.is_empty()) {
        return Vec::new();
    }
    let mut lines = vec![
        "At equal rates, open loop, where not both sides were saturated:".to_owned(),
        String::new(),
        format!(
            "| load | sent per second | server | µs per {} | ratio | p50 µs | p99 µs | server's \
             and load's core | remark |",
            workload.operation
        ),
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |".to_owned(),
    ];
    for outcome in outcomes {
        for rounds in &outcome.at_rates {
            for (index, contender) in outcome.cell.contenders().take(2).enumerate() {
                lines.push(rate_line(outcome, rounds, index, contender));
            }
        }
    }
    lines.push(String::new());
    lines
}

fn rate_line(
    outcome: &CellOutcome<'_>,
    rounds: &Rounds,
    index: usize,
    contender: &Contender,
) -> String {
    let rate = match rounds.arrival {
        Arrival::Constant(rate) => format!("{rate:.0}"),
        Arrival::Closed(_) => "–".to_owned(),
    };
    let median = |of: fn(&Run) -> f64| rounds.median(index, of);
    format!(
        "| {} | {rate} | {} | {} | {} | {} | {} | {} | {} |",
        outcome.cell.name,
        contender.label,
        figure(median(|run| run.cost_us)),
        if index == 0 { "–".to_owned() } else { ratio(rounds, index) },
        whole(median(|run| run.p50_us)),
        whole(median(|run| run.p99_us)),
        cores(rounds, index),
        remark(rounds, index, Measure::Cost),
    )
}

fn whole(value: f64) -> String {
    if value.is_nan() { "–".to_owned() } else { format!("{value:.0}") }
}

/// Three digits that say something.
fn figure(value: f64) -> String {
    match value {
        v if v.is_nan() => "–".to_owned(),
        v if v.abs() < 1.0 => format!("{v:.3}"),
        v if v.abs() < 100.0 => format!("{v:.2}"),
        v => format!("{v:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::measurement::Idle;
    use super::super::pairs::tests::{rounds, run};
    use super::super::workload::workloads;
    use super::*;

    fn cell_lines(workload: &str, rounds: Rounds) -> Vec<String> {
        let all = workloads();
        let workload = all.iter().find(|w| w.name == workload).unwrap();
        let mut cell = workload.cells[0].clone();
        cell.rivals.truncate(rounds.runs.len() - 1);
        let outcome = CellOutcome { cell: &cell, rounds, at_rates: Vec::new() };
        let [head, rule] = head(workload);
        let lines = lines(workload.measure, &outcome);
        let columns = head.matches('|').count();
        assert_eq!(rule.matches('|').count(), columns);
        for line in &lines {
            assert_eq!(line.matches('|').count(), columns, "{line}");
        }
        lines
    }

    #[test]
    fn a_line_says_ratio_goal_and_saturation() {
        let mut ours = run(5.0, 0.8);
        ours.message_threads_us = Some(4.9);
        let theirs = Run { disturbance: 0.3, ..run(10.0, 1.0) };
        let lines = cell_lines("routed-16", rounds(&[ours], &[theirs]));
        assert_eq!(
            lines,
            [
                "| 64 connections, 16 in flight | corelane | 5.00 (shards 4.90) | – | – | 160000 | \
                 0.80, 1.00 | not saturated: 80 % of its core |",
                "| 64 connections, 16 in flight | nginx | 10.00 | **2.00** (2.00) | ≥ 1.4: reached \
                 | 100000 | 1.00, 1.00 | disturbed: others used 0.30 processors |",
            ]
        );
    }

    #[test]
    fn an_absent_rival_has_a_line_that_says_so() {
        let mut rounds = rounds(&[run(5.0, 1.0)], &[run(1.0, 1.0)]);
        rounds.runs[1] = vec![Err(NoRun::NotStarted("absent: x | y\nis not".to_owned()))];
        let lines = cell_lines("routed-16", rounds);
        assert!(lines[1].ends_with("| – | – | – | – | – | absent: x / y is not |"), "{lines:?}");
    }

    #[test]
    fn a_goal_in_nanoseconds_is_a_difference() {
        let lines = cell_lines("endpoints", rounds(&[run(0.55, 1.0)], &[run(0.5, 1.0)]));
        assert!(lines[1].contains("+50 ns of at most +60 ns: reached"), "{lines:?}");
    }

    #[test]
    fn a_goal_in_times_is_our_cost_by_theirs() {
        let rounds = rounds(&[run(5.5, 1.0)], &[run(5.0, 1.0)]);
        let rival = Rival {
            goal: Some(Goal::TimesAtMost(1.12)),
            ..workloads()[0].cells[0].rivals[0].clone()
        };
        assert_eq!(goal(&rounds, 1, &rival), "1.10 times of at most 1.12: reached");
    }

    #[test]
    fn idle_connections_are_judged_by_three_bounds() {
        let idle = |bytes| Idle {
            bytes_per_connection: bytes,
            us_per_second: 0.2,
            base_ms_per_second: 3.0,
        };
        let with = |bytes| Run { idle: Some(idle(bytes)), ..Run::default() };
        let lines = cell_lines("idle", rounds(&[with(400.0)], &[with(18_300.0)]));
        assert!(lines[0].contains("| 400 | 0.20 | 3.00 | ≤ 512 B, 0.3 µs/s, 4 ms/s: reached |"));
        assert!(lines[1].contains("| 18300 | 0.20 | 3.00 | – |"), "{lines:?}");
        let lines = cell_lines("idle", rounds(&[with(600.0)], &[with(1.0)]));
        assert!(lines[0].contains("**missed**"), "{lines:?}");
    }

    #[test]
    fn added_latency_is_the_median_of_differences_to_the_direct_way() {
        let with = |p50_us| Run { p50_us, p999_us: 500.0, ..Run::default() };
        let lines =
            cell_lines("latency", rounds(&[with(90.0), with(100.0)], &[with(50.0), with(55.0)]));
        assert!(lines[0].contains("| 95 | **42** |") && lines[0].contains("reached"), "{lines:?}");
        assert!(lines[1].contains("| 52 | – |"), "{lines:?}");
    }
}
