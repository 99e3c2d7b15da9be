//! What windows without and with bad clients say when they are held against each other.

use crate::paired_windows::{self, Pairs};
use crate::statistics::median;

/// What the good clients saw of one window.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Window {
    /// From when a message was to be sent until it came, 99th percentile.
    pub(super) p99_us: f64,
    /// How late the good clients themselves sent, 99th percentile.
    pub(super) lag_p99_us: f64,
    /// The most that the gateway had, proportional set size.
    pub(super) memory_bytes: u64,
    /// What else went wrong, such as messages that were lost.
    pub(super) problem: Option<String>,
}

/// What became of the bad ones meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Bad {
    AsDocumented,
    /// They had gone before the window was over.
    Gone,
    /// What is not as documented.
    Otherwise(String),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Pair {
    pub(super) off: Window,
    pub(super) on: Window,
    pub(super) bad: Bad,
}

/// Of the table.
pub(super) const HEAD: &str = "pair  p99 alone   beside  at most  lag alone   beside   memory  \
                               bad clients (times in µs, memory in MiB)";

/// A little more than nothing is noticed by nobody.
const SLACK_US: f64 = 300.0;
const MEMORY_GROWTH_MAX: f64 = 32.0;
const MIB: f64 = (1 << 20) as f64;

impl Pair {
    /// The greatest p99 that does not count as noticed.
    fn p99_max_us(&self) -> f64 {
        (1.5 * self.off.p99_us).max(self.off.p99_us + SLACK_US)
    }

    /// Of what it may be: above 1 is too much.
    fn share(&self) -> f64 {
        self.on.p99_us / self.p99_max_us()
    }

    /// MiB that the gateway took for the bad ones.
    fn growth(&self) -> f64 {
        (self.on.memory_bytes as f64 - self.off.memory_bytes as f64) / MIB
    }
}

impl paired_windows::Pair for Pair {
    fn usual_lag_us(&self) -> f64 {
        self.off.lag_p99_us
    }

    fn void(&self, lag_max_us: f64) -> Option<String> {
        if self.on.lag_p99_us > lag_max_us {
            return Some(format!(
                "void: the good clients sent late, at most {lag_max_us:.0} µs are fine"
            ));
        }
        (self.bad == Bad::Gone).then(|| "void: the bad ones had gone before the end".to_owned())
    }

    fn line(&self, number: usize, void: Option<&str>) -> String {
        let ended = match (void, &self.bad) {
            (Some(why), _) => why,
            (None, Bad::Otherwise(_)) => "OTHERWISE",
            (None, Bad::AsDocumented | Bad::Gone) => "as documented",
        };
        format!(
            "{number:4}{:11.0}{:9.0}{:9.0}{:11.0}{:9.0}{:+9.1}  {ended}",
            self.off.p99_us,
            self.on.p99_us,
            self.p99_max_us(),
            self.off.lag_p99_us,
            self.on.lag_p99_us,
            self.growth(),
        )
    }
}

/// What is more than allowed; nothing if the bad ones are not noticed. Times of void pairs do not count,
/// all else of them does.
pub(super) fn faults(pairs: &Pairs<Pair>) -> Vec<String> {
    let mut faults = Vec::from_iter(pairs.fault());
    let share = median(pairs.valid().map(Pair::share));
    if pairs.judges_times() && share > 1.0 {
        faults.push(format!(
            "the good clients notice the bad ones: their p99 is {share:.2} of what it may be, in the \
             median"
        ));
    }
    let growth = pairs.all().map(Pair::growth).fold(0.0, f64::max);
    if growth > MEMORY_GROWTH_MAX {
        faults.push(format!(
            "memory grows by {growth:.1} MiB, and at most {MEMORY_GROWTH_MAX} are fine"
        ));
    }
    faults.extend(pairs.all().filter_map(|pair| match &pair.bad {
        Bad::Otherwise(what) => Some(format!("bad clients: {what}")),
        Bad::AsDocumented | Bad::Gone => None,
    }));
    let problems = pairs.all().flat_map(|pair| [&pair.off, &pair.on]);
    let problems = problems.filter_map(|window| window.problem.as_ref());
    faults.extend(problems.map(|problem| format!("good clients: {problem}")));
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paired_windows::tests::{THREE, made};
    use crate::paired_windows::{Pair as _, PairArguments};

    fn window(p99_us: f64, lag_p99_us: f64, mib: u64) -> Window {
        Window { p99_us, lag_p99_us, memory_bytes: mib << 20, problem: None }
    }

    fn pair(alone_us: f64, beside_us: f64) -> Pair {
        let (off, on) = (window(alone_us, 50.0, 60), window(beside_us, 80.0, 80));
        Pair { off, on, bad: Bad::AsDocumented }
    }

    fn found(pairs: impl IntoIterator<Item = Pair>) -> Vec<String> {
        faults(&made(THREE, pairs))
    }

    fn only_fault(pairs: impl IntoIterator<Item = Pair>) -> String {
        let mut faults = found(pairs);
        assert_eq!(faults.len(), 1, "{faults:?}");
        faults.remove(0)
    }

    #[test]
    fn what_is_short_may_take_a_little_longer_and_what_is_long_half_as_long_again() {
        assert_eq!(pair(100.0, 0.0).p99_max_us(), 400.0);
        assert_eq!(pair(600.0, 0.0).p99_max_us(), 900.0);
        assert_eq!(pair(1000.0, 0.0).p99_max_us(), 1500.0);
    }

    #[test]
    fn the_median_pair_decides() {
        let (good, bad) = (pair(100.0, 400.0), pair(100.0, 401.0));
        assert!(found([good.clone(), bad.clone(), good.clone()]).is_empty());
        assert!(only_fault([bad.clone(), good, bad]).contains("notice"));
    }

    #[test]
    fn only_lateness_beside_bad_clients_voids_a_pair() {
        let mut late = pair(100.0, 200.0);
        (late.off.lag_p99_us, late.on.lag_p99_us) = (900.0, 800.0);
        assert_eq!((late.usual_lag_us(), late.void(800.0)), (900.0, None));
        assert!(late.void(799.0).is_some());
    }

    #[test]
    fn a_window_that_the_bad_ones_left_early_is_void() {
        let gone = Pair { bad: Bad::Gone, ..pair(100.0, 100.0) };
        assert!(gone.void(50.0).is_some());
    }

    #[test]
    fn memory_and_ends_count_in_every_pair() {
        let mut grown = pair(100.0, 100.0);
        grown.on.memory_bytes = 93 << 20;
        let good = pair(100.0, 100.0);
        assert!(only_fault([good.clone(), grown, good.clone()]).contains("33.0 MiB"));
        let mut unkind = pair(100.0, 100.0);
        unkind.on.lag_p99_us = 1e6;
        unkind.bad = Bad::Otherwise("flooder: 1 were ended by no word".to_owned());
        let fault = only_fault([unkind, good.clone(), good.clone(), good.clone()]);
        assert!(fault.contains("flooder"), "{fault}");
        let mut lossy = good.clone();
        lossy.on.problem = Some("3 messages were lost".to_owned());
        assert!(only_fault([good.clone(), lossy, good]).contains("lost"));
    }

    #[test]
    fn a_quick_look_judges_no_times() {
        let mut slow = pair(100.0, 1e6);
        slow.on.lag_p99_us = 1e6;
        let faults = faults(&made(PairArguments { quick: true, ..THREE }, [slow]));
        assert!(faults.is_empty(), "{faults:?}");
    }
}
