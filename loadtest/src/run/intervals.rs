//! Where the intervals of the time series begin and end: warm-up and measurement are divided each
//! for itself, so that no interval is in both, and what comes after the end is one more.

use crate::scenario::Timing;

use super::clock::nanoseconds;

#[derive(Clone, Debug)]
pub(crate) struct Intervals {
    /// Ends, ascending.
    ends: Vec<u64>,
    at: usize,
}

/// An interval without its contents.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Span {
    pub(crate) from_seconds: f64,
    pub(crate) seconds: f64,
    pub(crate) measured: bool,
}

impl Intervals {
    pub(crate) fn new(start: u64, timing: &Timing) -> Self {
        let ends = ends(timing).into_iter().map(|end| start + end).collect();
        Self { ends, at: 0 }
    }

    /// The end of the one that is going on.
    #[inline]
    pub(crate) fn next(&self) -> u64 {
        self.ends.get(self.at).copied().unwrap_or(u64::MAX)
    }

    /// The number of the next, which begins.
    pub(crate) fn advance(&mut self) -> usize {
        self.at += 1;
        self.at
    }

    /// The number of the one after the end of the measurement.
    pub(crate) fn last(&self) -> usize {
        self.ends.len()
    }
}

/// Interval `index`; the one after the measurement has the length of the patience.
pub(crate) fn span(timing: &Timing, index: usize) -> Span {
    let ends = ends(timing);
    let from = index.checked_sub(1).map_or(0, |before| ends[before]);
    let until = ends.get(index).copied().unwrap_or(from + nanoseconds(timing.patience));
    Span {
        from_seconds: from as f64 / 1e9,
        seconds: (until - from) as f64 / 1e9,
        measured: from >= nanoseconds(timing.warm_up) && index < ends.len(),
    }
}

fn ends(timing: &Timing) -> Vec<u64> {
    let step = nanoseconds(timing.interval).max(1_000_000);
    let warm_up = nanoseconds(timing.warm_up);
    let whole = warm_up + nanoseconds(timing.duration);
    let in_steps = |from: u64, until: u64| {
        (1..=(until - from).div_ceil(step)).map(move |number| (from + number * step).min(until))
    };
    in_steps(0, warm_up).chain(in_steps(warm_up, whole)).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn no_interval_is_in_warm_up_and_measurement() {
        let timing = Timing {
            warm_up: Duration::from_millis(1500),
            duration: Duration::from_millis(2200),
            patience: Duration::from_secs(3),
            interval: Duration::from_secs(1),
        };
        let spans: Vec<_> = (0..6).map(|index| span(&timing, index)).collect();
        let of = |from_seconds, seconds, measured| Span { from_seconds, seconds, measured };
        assert_eq!(
            spans,
            [
                of(0.0, 1.0, false),
                of(1.0, 0.5, false),
                of(1.5, 1.0, true),
                of(2.5, 1.0, true),
                of(3.5, 0.2, true),
                of(3.7, 3.0, false),
            ]
        );
    }
}
