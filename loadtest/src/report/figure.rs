//! The pictures of an outcome: which lines over which axes, with legend and reading hint. Each is
//! drawn twice, for wide and for narrow screens. How a chart becomes SVG is in `chart`.

use super::chart::{Axis, Chart, Line, Mark, Scale, Size};
use crate::outcome::{Interval, Outcome, RatePoint, SearchFound, Series, Verdict};
use crate::quantity::{count, microseconds};

const WIDE: Size = Size { width: 860.0, height: 340.0 };
const NARROW: Size = Size { width: 360.0, height: 300.0 };

pub(super) struct Figure {
    pub(super) title: &'static str,
    pub(super) hint: String,
    pub(super) legend: Vec<Key>,
    pub(super) wide: String,
    pub(super) narrow: String,
}

pub(super) struct Key {
    pub(super) class: &'static str,
    pub(super) words: &'static str,
}

/// Those for which the outcome has data.
pub(super) fn figures(outcome: &Outcome) -> Vec<Figure> {
    [
        outcome.search.as_ref().and_then(|search| rate_latency(outcome, search)),
        percentile_spectrum(outcome),
        rates_over_time(outcome),
        latency_over_time(outcome),
    ]
    .into_iter()
    .flatten()
    .collect()
}

impl Figure {
    fn new(
        title: &'static str,
        hint: String,
        legend: &[(&'static str, &'static str)],
        chart: &Chart,
    ) -> Self {
        let legend = legend.iter().map(|&(class, words)| Key { class, words }).collect();
        Self {
            title,
            hint,
            legend,
            wide: chart.svg("wide", WIDE),
            narrow: chart.svg("narrow", NARROW),
        }
    }
}

/// 99.999 %, where the x axis of the spectrum ends: five times a tenth.
const LAST_DECADE: f64 = 5.0;
const SPECTRUM_STEPS: u32 = 300;

/// The x axis is the number of nines: 0 %, 90 %, 99 %, … are equally far apart.
fn percentile_spectrum(outcome: &Outcome) -> Option<Figure> {
    let latency = &outcome.latency;
    let series = [
        ("series-a", &latency.from_intended),
        ("series-b", &latency.from_send),
        ("series-c", &latency.send_lag),
    ];
    if latency.from_intended.0.is_empty() {
        return None;
    }
    let lines: Vec<Line> = series
        .into_iter()
        .map(|(class, series)| Line { class, stretches: vec![spectrum(series)] })
        .collect();
    let chart = Chart {
        description: "Latency by percentile".to_owned(),
        x: Axis {
            title: "percentile (%)",
            scale: Scale::Linear { from: 0.0, to: LAST_DECADE },
            label: |nines| format!("{}", 100.0 - 10_f64.powf(2.0 - nines)),
            fixed: Some(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]),
        },
        y: latency_axis(&lines, "latency, log scale"),
        shaded: None,
        lines,
        marks: Vec::new(),
        notices: Vec::new(),
        limit: None,
    };
    Some(Figure::new(
        "Latency by percentile",
        "Each step to the right is ten times rarer. A gap between the first two lines is time that \
         messages waited in front of the generator; the third line says how much of it is the \
         generator's own."
            .to_owned(),
        &[
            ("series-a", "from the intended send"),
            ("series-b", "from the actual send"),
            ("series-c", "send lag of the generator"),
        ],
        &chart,
    ))
}

/// As far as there are samples; in microseconds.
fn spectrum(series: &Series) -> Vec<(f64, f64)> {
    let samples = series.0.len();
    if samples == 0 {
        return Vec::new();
    }
    let last = (samples as f64).log10().min(LAST_DECADE);
    (0..=SPECTRUM_STEPS)
        .map(|step| {
            let nines = last * f64::from(step) / f64::from(SPECTRUM_STEPS);
            (nines, series.quantile_us(1.0 - 10_f64.powf(-nines)))
        })
        .collect()
}

fn rates_over_time(outcome: &Outcome) -> Option<Figure> {
    let intervals = whole_intervals(outcome);
    let time = time_axis(&intervals)?;
    let per_second = |of: fn(&Interval) -> u64| {
        let intervals = intervals.iter().filter(|interval| interval.seconds > 0.0);
        intervals.map(move |i| (time.middle(i), Some(of(i) as f64 / i.seconds)))
    };
    let lines = vec![
        Line::with_gaps("series-b", per_second(|interval| interval.received)),
        Line::with_gaps("series-a", per_second(|interval| interval.sent)),
    ];
    let highest = values(&lines).fold(1.0, f64::max);
    let chart = Chart {
        description: "Messages per second over time".to_owned(),
        x: time.axis(),
        y: Axis {
            title: "messages per second",
            scale: Scale::Linear { from: 0.0, to: highest * 1.1 },
            label: |rate| count(rate.round() as u64),
            fixed: None,
        },
        shaded: time.warm_up(&intervals),
        lines,
        marks: Vec::new(),
        notices: notices(&intervals, &time),
        limit: None,
    };
    Some(Figure::new(
        "Rate over time",
        "Where the two lines part, messages wait in the server or are lost.".to_owned(),
        &over_time(&[("series-a", "sent"), ("series-b", "received")], &chart),
        &chart,
    ))
}

fn latency_over_time(outcome: &Outcome) -> Option<Figure> {
    let intervals = whole_intervals(outcome);
    let time = time_axis(&intervals)?;
    let line = |class, quantile: f64| {
        let points = intervals.iter().map(|i| {
            let some = !i.from_intended.0.is_empty();
            (time.middle(i), some.then(|| i.from_intended.quantile_us(quantile)))
        });
        Line::with_gaps(class, points)
    };
    let lines = vec![line("series-c", 1.0), line("series-b", 0.99), line("series-a", 0.5)];
    values(&lines).next()?;
    let chart = Chart {
        description: "Latency over time".to_owned(),
        x: time.axis(),
        y: latency_axis(&lines, "latency from the intended send, log scale"),
        shaded: time.warm_up(&intervals),
        lines,
        marks: Vec::new(),
        notices: notices(&intervals, &time),
        limit: None,
    };
    let keys = [("series-a", "p50"), ("series-b", "p99"), ("series-c", "longest")];
    Some(Figure::new(
        "Latency over time",
        "Of each interval by itself. A p99 that keeps rising is a server that does not keep up."
            .to_owned(),
        &over_time(&keys, &chart),
        &chart,
    ))
}

fn rate_latency(outcome: &Outcome, search: &SearchFound) -> Option<Figure> {
    let points = &search.points;
    let (first, last) = (points.first()?.rate, points.last()?.rate);
    let line = |class, of: fn(&RatePoint) -> f64| Line {
        class,
        stretches: vec![points.iter().map(|point| (point.rate, of(point))).collect()],
    };
    let lines = vec![
        line("series-c", |point| point.p999_us),
        line("series-b", |point| point.p99_us),
        line("series-a", |point| point.p50_us),
    ];
    let marks = lines
        .iter()
        .flat_map(|line| {
            let at = line.stretches.iter().flatten().zip(points);
            at.map(|(&at, point)| Mark {
                class: line.class,
                at,
                hollow: point.verdict != Verdict::Passed,
            })
        })
        .collect();
    let limit = outcome.scenario.search.as_ref().map(|wanted| wanted.p999_max.as_secs_f64() * 1e6);
    let margin = ((last - first) * 0.03).max(last * 0.01).max(1e-9);
    let mut legend = vec![("series-a", "p50"), ("series-b", "p99"), ("series-c", "p99.9")];
    if limit.is_some() {
        legend.push(("limit", "limit of the p99.9"));
    }
    legend.push(("hollow-key", "did not hold"));
    let chart = Chart {
        description: "Latency by rate".to_owned(),
        x: Axis {
            title: "rate (events per second)",
            scale: Scale::Linear { from: (first - margin).max(0.0), to: last + margin },
            label: |rate| count(rate.round() as u64),
            fixed: None,
        },
        y: latency_axis_over(
            values(&lines).chain(limit),
            "latency from the intended send, log scale",
        ),
        shaded: None,
        lines,
        marks,
        notices: Vec::new(),
        limit,
    };
    let hint = super::facts::search_result(outcome)?;
    Some(Figure::new("Latency by rate", hint, &legend, &chart))
}

/// The last interval may be a sliver, and its rate nonsense.
fn whole_intervals(outcome: &Outcome) -> Vec<&Interval> {
    let least = outcome.scenario.timing.interval.as_secs_f64() / 2.0;
    outcome.intervals.iter().filter(|interval| interval.seconds >= least).collect()
}

#[derive(Clone, Copy)]
struct TimeAxis {
    /// Seconds, or minutes for long runs.
    unit_seconds: f64,
    to: f64,
}

fn time_axis(intervals: &[&Interval]) -> Option<TimeAxis> {
    let last = intervals.last()?;
    let to = last.from_seconds + last.seconds;
    let unit_seconds = if to > 600.0 { 60.0 } else { 1.0 };
    Some(TimeAxis { unit_seconds, to: to / unit_seconds })
}

impl TimeAxis {
    fn axis(&self) -> Axis {
        Axis {
            title: if self.unit_seconds > 1.0 {
                "minutes since the first send"
            } else {
                "seconds since the first send"
            },
            scale: Scale::Linear { from: 0.0, to: self.to },
            label: |time| format!("{}", (time * 1000.0).round() / 1000.0),
            fixed: None,
        }
    }

    fn middle(&self, interval: &Interval) -> f64 {
        (interval.from_seconds + interval.seconds / 2.0) / self.unit_seconds
    }

    fn warm_up(&self, intervals: &[&Interval]) -> Option<f64> {
        let warm_up = intervals.iter().take_while(|interval| !interval.measured);
        let last = warm_up.last()?;
        Some((last.from_seconds + last.seconds) / self.unit_seconds)
    }
}

fn notices(intervals: &[&Interval], time: &TimeAxis) -> Vec<f64> {
    let with_errors = intervals.iter().filter(|interval| interval.errors > 0);
    with_errors.map(|interval| time.middle(interval)).collect()
}

/// The legend of a chart over time.
fn over_time(
    keys: &[(&'static str, &'static str)],
    chart: &Chart,
) -> Vec<(&'static str, &'static str)> {
    let mut keys = keys.to_vec();
    if chart.shaded.is_some() {
        keys.push(("shade", "warm-up"));
    }
    if !chart.notices.is_empty() {
        keys.push(("notice", "interval with errors"));
    }
    keys
}

fn latency_axis(lines: &[Line], title: &'static str) -> Axis {
    latency_axis_over(values(lines), title)
}

/// From the decade below the least value of at least a microsecond; no line touches the upper edge.
fn latency_axis_over(values: impl Iterator<Item = f64>, title: &'static str) -> Axis {
    let (mut least, mut most) = (f64::MAX, 1.0_f64);
    for value in values {
        least = least.min(value.max(1.0));
        most = most.max(value);
    }
    let from = round_down(least.min(most));
    let to = round_up((most * 1.1).max(from * 2.0));
    Axis { title, scale: Scale::Log { from, to }, label: short_time, fixed: None }
}

fn round_down(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    [5.0, 2.0, 1.0].map(|f| f * power).into_iter().find(|r| *r <= value).unwrap_or(power)
}

fn round_up(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0].map(|f| f * power).into_iter().find(|r| *r >= value).unwrap_or(10.0 * power)
}

/// Without the zeros that a round value has: `5 ms`.
fn short_time(us: f64) -> String {
    let written = microseconds(us);
    match written.split_once(' ') {
        Some((number, unit)) if number.contains('.') => {
            format!("{} {unit}", number.trim_end_matches('0').trim_end_matches('.'))
        }
        _ => written,
    }
}

fn values(lines: &[Line]) -> impl Iterator<Item = f64> {
    lines.iter().flat_map(|line| line.stretches.iter().flatten().map(|&(_, y)| y))
}
