//! One picture for each workload: a bar for each contender, with a mark from its least to its
//! greatest run.

use std::error::Error;
use std::path::Path;

use plotters::prelude::{
    Color, IntoDrawingArea, PathElement, RGBColor, Rectangle, SVGBackend, Text, WHITE,
};
use plotters::style::IntoFont;

use super::pairs::CellOutcome;
use super::workload::{Measure, Workload};
use crate::statistics::{extremes, median};

#[derive(Clone, Debug, PartialEq)]
struct Bar {
    label: String,
    ours: bool,
    /// Least, median and greatest; nothing if there was no run.
    span: Option<[f64; 3]>,
}

const WIDTH: i32 = 900;
const BAR: i32 = 22;
const GAP: i32 = 8;
const TOP: i32 = 64;
const BOTTOM: i32 = 28;
const LEFT: i32 = 380;
const RIGHT: i32 = 90;
const OURS: RGBColor = RGBColor(0x1f, 0x6f, 0xb5);
const THEIRS: RGBColor = RGBColor(0x9a, 0xa5, 0xb1);
const INK: RGBColor = RGBColor(0x22, 0x2b, 0x33);

/// Draws what the outcomes say into `path`.
pub(super) fn draw(
    path: &Path,
    workload: &Workload,
    outcomes: &[CellOutcome<'_>],
    footer: &str,
) -> Result<(), Box<dyn Error>> {
    let bars: Vec<_> = outcomes.iter().flat_map(|outcome| bars(workload, outcome)).collect();
    let longest = bars.iter().filter_map(|bar| bar.span).map(|[.., most]| most).fold(0.0, f64::max);
    let height = TOP + bars.len() as i32 * (BAR + GAP) + BOTTOM;
    let area = SVGBackend::new(path, (WIDTH as u32, height as u32)).into_drawing_area();
    area.fill(&WHITE)?;
    let font = |size: i32| ("sans-serif", size).into_font().color(&INK);
    area.draw(&Text::new(workload.title, (16, 14), font(20)))?;
    area.draw(&Text::new(axis(workload), (16, 40), font(13)))?;
    area.draw(&Text::new(footer.to_owned(), (16, height - 20), font(11)))?;
    for (bar, row) in bars.iter().zip(0..) {
        let y = TOP + row * (BAR + GAP);
        area.draw(&Text::new(bar.label.clone(), (16, y + 4), font(13)))?;
        let Some([least, middle, most]) = bar.span else {
            area.draw(&Text::new("no run", (LEFT, y + 4), font(13)))?;
            continue;
        };
        let x = |value: f64| LEFT + length(value, longest);
        let color = if bar.ours { OURS } else { THEIRS };
        area.draw(&Rectangle::new([(LEFT, y), (x(middle), y + BAR)], color.filled()))?;
        let mark = y + BAR / 2;
        area.draw(&PathElement::new(vec![(x(least), mark), (x(most), mark)], INK.stroke_width(2)))?;
        area.draw(&Text::new(label(middle), (x(most) + 8, y + 4), font(13)))?;
    }
    area.present()?;
    Ok(())
}

fn axis(workload: &Workload) -> String {
    let operation = workload.operation;
    match workload.measure {
        Measure::Cost => format!("processor time per {operation} in µs; shorter is better"),
        Measure::Idle { .. } => "bytes of memory per connection; shorter is better".to_owned(),
        Measure::Latency => "median round trip in µs; shorter is better".to_owned(),
    }
}

fn bars(workload: &Workload, outcome: &CellOutcome<'_>) -> Vec<Bar> {
    let contenders = outcome.cell.contenders().enumerate();
    contenders
        .map(|(index, contender)| {
            let values: Vec<f64> = outcome
                .rounds
                .usable(index)
                .map(|run| match workload.measure {
                    Measure::Cost => run.cost_us,
                    Measure::Idle { .. } => {
                        run.idle.map_or(f64::NAN, |idle| idle.bytes_per_connection)
                    }
                    Measure::Latency => run.p50_us,
                })
                .filter(|value| value.is_finite())
                .collect();
            let (least, most) = extremes(values.iter().copied());
            let middle = median(values.iter().copied());
            Bar {
                label: format!("{}: {}", outcome.cell.name, contender.label),
                ours: index == 0,
                span: (!values.is_empty()).then_some([least, middle, most]),
            }
        })
        .collect()
}

/// Pixels of a bar; the longest reaches the right margin.
fn length(value: f64, longest: f64) -> i32 {
    if longest <= 0.0 {
        return 0;
    }
    (value.max(0.0) / longest * f64::from(WIDTH - LEFT - RIGHT)).round() as i32
}

fn label(value: f64) -> String {
    if value.abs() < 100.0 { format!("{value:.2}") } else { format!("{value:.0}") }
}

#[cfg(test)]
mod tests {
    use super::super::measurement::NoRun;
    use super::super::pairs::tests::{rounds, run};
    use super::super::workload::workloads;
    use super::*;

    #[test]
    fn a_bar_spans_all_runs_and_who_never_ran_has_none() {
        let all = workloads();
        let workload = all.iter().find(|workload| workload.name == "routed-16").unwrap();
        let cell = &workload.cells[0];
        let mut rounds = rounds(&[run(4.0, 1.0), run(5.0, 1.0), run(9.0, 1.0)], &[]);
        rounds.runs[1] = vec![Err(NoRun::NotStarted("absent".to_owned()))];
        let outcome = CellOutcome { cell, rounds, at_rates: Vec::new() };
        let bars = bars(workload, &outcome);
        assert_eq!(bars[0].span, Some([4.0, 5.0, 9.0]));
        assert_eq!(bars[1].span, None);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("chart.svg");
        draw(&file, workload, &[outcome], "here and now").unwrap();
        let svg = std::fs::read_to_string(&file).unwrap();
        for part in ["<svg", "no run", "here and now", "corelane", "5.00"] {
            assert!(svg.contains(part), "{part}");
        }
    }

    #[test]
    fn the_longest_bar_reaches_the_margin() {
        assert_eq!(length(10.0, 10.0), WIDTH - LEFT - RIGHT);
        assert_eq!(length(-1.0, 10.0), 0);
        assert_eq!(length(1.0, 0.0), 0);
    }
}
