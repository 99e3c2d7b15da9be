//! What one run of each side can say: how much its own figures waver over time, by drawing its
//! intervals again and again, in blocks because neighbours are alike.

use std::collections::BTreeMap;

use super::{LEVEL, Method, MetricComparison, RatioInterval};
use crate::outcome::{Interval, Outcome};
use crate::scenario::Metric;

/// Fewer intervals do not show how a run wavers.
const INTERVALS_MIN: usize = 10;
const DRAWS: usize = 500;

/// Gives the metrics that the time series has their intervals.
pub(super) fn add_intervals(metrics: &mut [MetricComparison], a: &Outcome, b: &Outcome) {
    let (Some(a), Some(b)) = (Timeline::of(a), Timeline::of(b)) else { return };
    // The same draw for the same two runs: a result that changes by asking again is none.
    let mut rng = fastrand::Rng::with_seed(1);
    let draws: Vec<(Drawn, Drawn)> =
        (0..DRAWS).map(|_| (a.draw(&mut rng), b.draw(&mut rng))).collect();
    for metric in metrics {
        let ratios = draws
            .iter()
            .filter_map(|(a, b)| Some(a.value(metric.metric)? / b.value(metric.metric)?));
        let mut ratios: Vec<f64> = ratios.filter(|ratio| ratio.is_finite()).collect();
        ratios.sort_by(f64::total_cmp);
        if ratios.len() < DRAWS {
            continue;
        }
        let beyond = (DRAWS as f64 * (1.0 - LEVEL) / 2.0).floor() as usize;
        metric.interval = Some(RatioInterval {
            low: ratios[beyond],
            high: ratios[DRAWS - 1 - beyond],
            level: LEVEL,
            method: Method::BlockBootstrap,
        });
    }
}

/// The measured intervals of one run, with all recorded values in one order.
struct Timeline {
    values: Vec<u64>,
    steps: Vec<Step>,
}

struct Step {
    /// Index into the values, and how often.
    counts: Vec<(usize, u64)>,
    received: u64,
    seconds: f64,
}

struct Drawn {
    p50: u64,
    p99: u64,
    p999: u64,
    rate: f64,
}

impl Drawn {
    fn value(&self, metric: Metric) -> Option<f64> {
        let value = match metric {
            Metric::P50Us => self.p50 as f64,
            Metric::P99Us => self.p99 as f64,
            Metric::P999Us => self.p999 as f64,
            Metric::Rate => self.rate,
            _ => return None,
        };
        (value > 0.0).then_some(value)
    }
}

impl Timeline {
    fn of(outcome: &Outcome) -> Option<Self> {
        let measured: Vec<&Interval> =
            outcome.intervals.iter().filter(|interval| interval.measured).collect();
        if measured.len() < INTERVALS_MIN {
            return None;
        }
        let recorded = |interval: &Interval| -> Vec<(u64, u64)> {
            let steps = interval.from_intended.0.iter_recorded();
            steps.map(|step| (step.value_iterated_to(), step.count_at_value())).collect()
        };
        let recorded: Vec<Vec<(u64, u64)>> = measured.iter().map(|i| recorded(i)).collect();
        let mut places: BTreeMap<u64, usize> =
            recorded.iter().flatten().map(|&(value, _)| (value, 0)).collect();
        for (place, index) in places.values_mut().zip(0..) {
            *place = index;
        }
        let steps = measured
            .iter()
            .zip(recorded)
            .map(|(interval, recorded)| Step {
                counts: recorded.into_iter().map(|(value, n)| (places[&value], n)).collect(),
                received: interval.received,
                seconds: interval.seconds,
            })
            .collect();
        Some(Self { values: places.into_keys().collect(), steps })
    }

    /// As many intervals as there are, in blocks from random places; the end joins the beginning.
    fn draw(&self, rng: &mut fastrand::Rng) -> Drawn {
        let length = self.steps.len();
        let block = (length as f64).cbrt().ceil() as usize;
        let mut counts = vec![0; self.values.len()];
        let (mut received, mut seconds, mut taken) = (0, 0.0, 0);
        while taken < length {
            let from = rng.usize(..length);
            for offset in 0..block.min(length - taken) {
                let step = &self.steps[(from + offset) % length];
                for &(place, number) in &step.counts {
                    counts[place] += number;
                }
                received += step.received;
                seconds += step.seconds;
                taken += 1;
            }
        }
        let total: u64 = counts.iter().sum();
        let quantile = |share: f64| {
            let wanted = ((total as f64 * share).ceil() as u64).max(1);
            let mut below = 0;
            let reached = counts.iter().position(|number| {
                below += number;
                below >= wanted
            });
            reached.map_or(0, |place| self.values[place])
        };
        Drawn {
            p50: quantile(0.5),
            p99: quantile(0.99),
            p999: quantile(0.999),
            rate: received as f64 / seconds,
        }
    }
}
