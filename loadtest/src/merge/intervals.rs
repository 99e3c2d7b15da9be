//! Time series of several generators on one time axis: by the clock of the wall, not by the number
//! of the interval, because generators do not begin at the same moment.

use std::collections::BTreeMap;

use crate::outcome::{Interval, Outcome};

/// What all generators did in one stretch of time.
struct Slot {
    sum: Interval,
    /// Seconds of each part, so that two short intervals of one generator count as longer.
    seconds: BTreeMap<usize, f64>,
}

/// Each interval goes whole to the nearest stretch of the axis that begins with the earliest first
/// send; nothing is split, so nothing is estimated.
pub(super) fn aligned(parts: &[Outcome]) -> Vec<Interval> {
    let start = parts.iter().map(first_send_ms).min().unwrap_or(0);
    let mut slots: BTreeMap<u64, Slot> = BTreeMap::new();
    for (index, part) in parts.iter().enumerate() {
        let offset = (first_send_ms(part) - start) as f64 / 1e3;
        let length = part.scenario.timing.interval.as_secs_f64();
        for interval in &part.intervals {
            let from_seconds = offset + interval.from_seconds;
            let number = (from_seconds / length).round() as u64;
            match slots.get_mut(&number) {
                Some(slot) => slot.add(index, from_seconds, interval),
                None => {
                    let sum = Interval { from_seconds, ..interval.clone() };
                    let seconds = BTreeMap::from([(index, interval.seconds)]);
                    slots.insert(number, Slot { sum, seconds });
                }
            }
        }
    }
    slots.into_values().map(Slot::into_interval).collect()
}

impl Slot {
    fn add(&mut self, part: usize, from_seconds: f64, interval: &Interval) {
        let sum = &mut self.sum;
        sum.from_seconds = sum.from_seconds.min(from_seconds);
        sum.sent += interval.sent;
        sum.received += interval.received;
        sum.errors += interval.errors;
        sum.ready += interval.ready;
        // While one generator still warms up, the load is not yet the one that was asked for.
        sum.measured &= interval.measured;
        sum.from_intended.add(&interval.from_intended);
        sum.lag_max_ns = sum.lag_max_ns.max(interval.lag_max_ns);
        *self.seconds.entry(part).or_default() += interval.seconds;
    }

    fn into_interval(self) -> Interval {
        let seconds = self.seconds.into_values().fold(0.0, f64::max);
        Interval { seconds, ..self.sum }
    }
}

/// The measurement begins when the warm-up ends.
fn first_send_ms(outcome: &Outcome) -> i64 {
    let warm_up = outcome.scenario.timing.warm_up.as_millis();
    outcome.started_unix_ms as i64 - warm_up as i64
}
