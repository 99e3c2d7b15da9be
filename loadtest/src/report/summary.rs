//! The end of a run as text for a terminal or a log: the verdict first, then the figures.

use std::fmt::Write;

use super::facts::{self, Table};
use crate::outcome::{Outcome, Verdict};

/// Ends with a line break.
pub fn summary(outcome: &Outcome) -> String {
    let mut text = verdict(outcome);
    let tables = [
        Some(facts::latency(outcome)),
        Some(facts::counts(outcome)),
        facts::errors(outcome),
        Some(facts::efficiency(outcome)),
        facts::opening(outcome),
        facts::handshakes(outcome),
        facts::thresholds(outcome),
        facts::rates(outcome),
    ];
    for table in tables.into_iter().flatten() {
        text.push('\n');
        text.push_str(&aligned(&table));
    }
    if let Some(found) = facts::search_result(outcome) {
        text.push_str(&found);
        text.push('\n');
    }
    text
}

fn verdict(outcome: &Outcome) -> String {
    let judgement = &outcome.judgement;
    let mut text = match judgement.verdict {
        Verdict::Passed => format!("PASSED  {}\n", outcome.scenario.name),
        Verdict::Failed => format!("FAILED  {}\n", outcome.scenario.name),
        Verdict::Invalid => format!(
            "INVALID  {}: these figures do not describe the server\n",
            outcome.scenario.name
        ),
    };
    for reason in &judgement.reasons {
        line(&mut text, format_args!("  * {reason}\n"));
    }
    for note in &judgement.notes {
        line(&mut text, format_args!("  note: {note}\n"));
    }
    text
}

/// The first column to the left, figures to the right.
fn aligned(table: &Table) -> String {
    let mut text = format!("{}\n", table.title);
    let head: Vec<String> = table.head.iter().map(|&title| title.to_owned()).collect();
    let width = |column: usize| {
        let cells = std::iter::once(&head).chain(&table.rows).filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    for row in table.has_head().then_some(&head).into_iter().chain(&table.rows) {
        let mut written = String::from(" ");
        for (index, (cell, width)) in row.iter().zip(&widths).enumerate() {
            if index == 0 {
                line(&mut written, format_args!(" {cell:<width$}"));
            } else {
                line(&mut written, format_args!("  {cell:>width$}"));
            }
        }
        text.push_str(written.trim_end());
        text.push('\n');
    }
    text
}

fn line(text: &mut String, content: std::fmt::Arguments<'_>) {
    text.write_fmt(content).expect("a String takes all that is written");
}
