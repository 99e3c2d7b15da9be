//! The report: one section of Markdown for each workload, and its place in the file of results.

use std::collections::BTreeSet;

use super::generator::Timing;
use super::pairs::{CellOutcome, Plan};
use super::place::Place;
use super::row;
use super::workload::Workload;
use crate::machine::{machine, today};

/// Where and how a section's figures were got.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    pub(super) date: String,
    pub(super) machine: String,
    pub(super) versions: BTreeSet<String>,
    pub(super) plan: String,
}

impl Origin {
    pub(super) fn of(workload: &Workload, plan: &Plan, place: &Place) -> Self {
        let contenders = workload.cells.iter().flat_map(|cell| cell.contenders());
        let versions = contenders.flat_map(|c| c.server.versions(place)).collect();
        let Timing { warm_up, duration, .. } = plan.timing;
        let (rounds, rate_rounds) = (plan.rounds, plan.rate_rounds);
        let [server, load] = [place.server_cpu, place.load_cpu];
        let again = if rate_rounds == 0 {
            String::new()
        } else {
            format!("; {rate_rounds} at each fixed rate")
        };
        Self {
            date: today(),
            machine: machine(),
            versions,
            plan: format!(
                "{rounds} interleaved rounds of {duration:?} after {warm_up:?}, in alternating \
                 order{again}; server on processor {server}, load and backend on processor {load}, \
                 loopback"
            ),
        }
    }

    pub(super) fn footer(&self) -> String {
        format!("{}, {}; loopback", self.date, self.machine)
    }
}

/// The section of one workload.
pub(super) fn section(
    workload: &Workload,
    outcomes: &[CellOutcome<'_>],
    origin: &Origin,
    chart: &str,
) -> String {
    let versions: Vec<_> = origin.versions.iter().map(String::as_str).collect();
    let mut lines = vec![
        format!("{}, {}", heading(workload), origin.date),
        String::new(),
        workload.about.to_owned(),
        String::new(),
        format!("* Machine: {}", origin.machine),
        format!("* Versions: {}", versions.join("; ")),
        format!("* Runs: {}", origin.plan),
    ];
    let mut notes: Vec<_> =
        outcomes.iter().map(|outcome| outcome.cell.note).filter(|note| !note.is_empty()).collect();
    notes.dedup();
    lines.extend(notes.iter().map(|note| format!("* {note}")));
    lines.push(format!("* Again: `bench/peers/run {}`", workload.name));
    lines.push(String::new());
    lines.extend(row::head(workload));
    lines.extend(outcomes.iter().flat_map(|outcome| row::lines(workload.measure, outcome)));
    lines.push(String::new());
    lines.extend(row::rate_table(workload, outcomes));
    if !workload.published.is_empty() {
        lines.push("Not run here, measured or published elsewhere:".to_owned());
        lines.push(String::new());
        lines.extend(workload.published.iter().map(|p| format!("* {}: {}", p.who, p.figure)));
        lines.push(String::new());
    }
    lines.push(format!("![{}]({chart})", workload.title));
    lines.push(String::new());
    lines.join("\n")
}

fn heading(workload: &Workload) -> String {
    format!("## {}", workload.title)
}

/// `text` with the workload's section in the place of its earlier one, or at the end.
pub(super) fn replace(text: &str, workload: &Workload, section: &str) -> String {
    let begins = format!("{}, ", heading(workload));
    let mut kept = Vec::new();
    let (mut inside, mut placed) = (false, false);
    for line in text.lines() {
        if line.starts_with("## ") {
            inside = line.starts_with(&begins);
            if inside && !placed {
                kept.push(section.trim_end());
                kept.push("");
                placed = true;
            }
        }
        if !inside {
            kept.push(line);
        }
    }
    if !placed {
        if kept.last().is_some_and(|line| !line.is_empty()) {
            kept.push("");
        }
        kept.push(section.trim_end());
    }
    let mut all = kept.join("\n").trim_end().to_owned();
    all.push('\n');
    all
}

/// What is to be known of a cell at a glance, for the terminal.
pub(super) fn is_usable(outcome: &CellOutcome<'_>) -> bool {
    outcome.rounds.usable(0).next().is_some()
        && (1..outcome.rounds.runs.len()).any(|index| outcome.rounds.usable(index).next().is_some())
}

/// Goals that were judged and missed, as lines.
pub(super) fn missed(outcomes: &[CellOutcome<'_>]) -> Vec<String> {
    let mut missed = Vec::new();
    for outcome in outcomes {
        for (rival, index) in outcome.cell.rivals.iter().zip(1..) {
            if outcome.rounds.reaches(index, rival) == Some(false) {
                missed.push(format!("{} beside {}", outcome.cell.name, rival.contender.label));
            }
        }
    }
    missed
}

#[cfg(test)]
mod tests {
    use super::super::pairs::tests::{rounds, run};
    use super::super::workload::workloads;
    use super::*;

    fn origin() -> Origin {
        Origin {
            date: "2026-11-21".to_owned(),
            machine: "a machine".to_owned(),
            versions: BTreeSet::from(["nginx 1.22".to_owned()]),
            plan: "5 rounds".to_owned(),
        }
    }

    #[test]
    fn a_section_has_table_versions_and_picture() {
        let all = workloads();
        let workload = &all[1];
        let outcome = CellOutcome {
            cell: &workload.cells[0],
            rounds: rounds(&[run(5.0, 0.7)], &[run(10.0, 1.0)]),
            at_rates: vec![rounds(&[run(6.0, 0.2)], &[run(12.0, 0.4)])],
        };
        let text = section(workload, &[outcome], &origin(), "results/routed-16.svg");
        for part in [
            "## Routed calls, 16 in flight, 2026-11-21\n",
            "* Versions: nginx 1.22\n",
            "* Again: `bench/peers/run routed-16`\n",
            "**2.00** (2.00)",
            "At equal rates, open loop",
            "![Routed calls, 16 in flight](results/routed-16.svg)\n",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn a_section_takes_the_place_of_its_earlier_one() {
        let all = workloads();
        let (workload, other) = (&all[0], all[1].title);
        let own = workload.title;
        let text =
            format!("# Measured\n\n## {own}, 2026-01-01\nold\n\n## {other}, 2026-01-01\nkept\n");
        let new = format!("## {own}, 2026-11-21\nnew\n");
        let replaced = replace(&text, workload, &new);
        assert_eq!(
            replaced,
            format!("# Measured\n\n## {own}, 2026-11-21\nnew\n\n## {other}, 2026-01-01\nkept\n")
        );
        assert_eq!(replace(&replaced, workload, &new), replaced);
        assert_eq!(replace("# Measured\n", workload, &new), format!("# Measured\n\n{new}"));
    }
}
