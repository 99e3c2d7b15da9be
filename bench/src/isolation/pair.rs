//! What windows with and without Redis and Kafka say when they are held against each other.

use crate::paired_windows::{self, Pairs};
use crate::statistics::median;

/// What the clients saw of one window.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Window {
    /// Messages between players, and calls.
    pub(super) peers: Seen,
    pub(super) calls: Seen,
    /// Processor time that a message of either kind cost the gateway, all its threads.
    pub(super) cpu_us: f64,
}

/// Of one kind of message.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Seen {
    /// From when a message was to be sent until it, or its answer, came, 99th percentile.
    pub(super) p99_us: f64,
    /// How late the clients themselves sent, 99th percentile.
    pub(super) lag_p99_us: f64,
    /// What went wrong, such as calls that failed.
    pub(super) problem: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Pair {
    pub(super) with: Window,
    pub(super) without: Window,
}

/// Of the table.
pub(super) const HEAD: &str = "pair  peers p99  stopped  ratio  calls p99  stopped  ratio  CPU each  \
                               stopped  ratio  (times in µs)";

const P99_RATIO_MAX: f64 = 1.3;
const CPU_RATIO_MAX: f64 = 1.05;

impl Window {
    fn lag_p99_us(&self) -> f64 {
        self.peers.lag_p99_us.max(self.calls.lag_p99_us)
    }
}

impl Pair {
    fn ratio(&self, of: impl Fn(&Window) -> f64) -> f64 {
        of(&self.without) / of(&self.with)
    }

    /// The times of its messages, and what one costs, without against with.
    fn ratios(&self) -> [f64; 3] {
        [
            self.ratio(|window| window.peers.p99_us),
            self.ratio(|window| window.calls.p99_us),
            self.ratio(|window| window.cpu_us),
        ]
    }
}

impl paired_windows::Pair for Pair {
    fn usual_lag_us(&self) -> f64 {
        self.with.lag_p99_us()
    }

    fn void(&self, lag_max_us: f64) -> Option<String> {
        let lag = self.with.lag_p99_us().max(self.without.lag_p99_us());
        let words =
            || format!("void: clients sent {lag:.0} µs late, at most {lag_max_us:.0} are fine");
        (lag > lag_max_us).then(words)
    }

    fn line(&self, number: usize, void: Option<&str>) -> String {
        let Self { with, without } = self;
        let [peers, calls, cpu] = self.ratios();
        format!(
            "{number:4}{:11.0}{:9.0}{peers:7.2}{:11.0}{:9.0}{calls:7.2}{:10.2}{:9.2}{cpu:7.3}  {}",
            with.peers.p99_us,
            without.peers.p99_us,
            with.calls.p99_us,
            without.calls.p99_us,
            with.cpu_us,
            without.cpu_us,
            void.unwrap_or_default(),
        )
    }
}

/// What is more than allowed; nothing if the outage is not noticed. Times of void pairs do not count,
/// failures of them do.
pub(super) fn faults(pairs: &Pairs<Pair>) -> Vec<String> {
    let mut faults = Vec::from_iter(pairs.fault());
    let bounds = [
        ("the p99 of messages between players", P99_RATIO_MAX),
        ("the p99 of calls", P99_RATIO_MAX),
        ("the processor time of a message", CPU_RATIO_MAX),
    ];
    for (at, (what, most)) in bounds.into_iter().enumerate() {
        let ratio = median(pairs.valid().map(|pair| pair.ratios()[at]));
        if pairs.judges_times() && ratio > most {
            faults.push(format!(
                "without Redis and Kafka {what} is {ratio:.3} of what it is with them, in the \
                 median; at most {most} is fine"
            ));
        }
    }
    for Pair { with, without } in pairs.all() {
        for (when, window) in [("with", with), ("without", without)] {
            for (kind, seen) in [("messages", &window.peers), ("calls", &window.calls)] {
                let problem = seen.problem.iter();
                faults.extend(problem.map(|it| format!("{kind} {when} Redis and Kafka: {it}")));
            }
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paired_windows::tests::{THREE, made};
    use crate::paired_windows::{Pair as _, PairArguments};

    fn window(p99_us: f64, cpu_us: f64) -> Window {
        let seen = Seen { p99_us, lag_p99_us: 50.0, problem: None };
        Window { peers: seen.clone(), calls: seen, cpu_us }
    }

    /// Against 100 µs and 10 µs of processor time.
    fn pair(p99_us: f64, cpu_us: f64) -> Pair {
        Pair { with: window(100.0, 10.0), without: window(p99_us, cpu_us) }
    }

    fn faults(pairs: impl IntoIterator<Item = Pair>) -> Vec<String> {
        super::faults(&made(THREE, pairs))
    }

    #[test]
    fn the_median_pair_decides_each_bound_by_itself() {
        let (good, slow, dear) = (pair(130.0, 10.5), pair(131.0, 10.0), pair(100.0, 10.6));
        assert!(faults([good.clone(), slow.clone(), dear.clone()]).is_empty());
        let found = faults([slow.clone(), slow, good.clone()]);
        assert!(found.len() == 2 && found.iter().all(|it| it.contains("p99")), "{found:?}");
        let found = faults([dear.clone(), dear, good]);
        assert!(found.len() == 1 && found[0].contains("processor time"), "{found:?}");
    }

    #[test]
    fn a_failure_counts_in_every_pair_void_or_not() {
        let mut failed = pair(100.0, 10.0);
        failed.without.calls.problem = Some("3 errors".to_owned());
        failed.without.calls.lag_p99_us = 5000.0;
        let good = || pair(100.0, 10.0);
        let found = faults([good(), failed, good(), good()]);
        assert_eq!(found, ["calls without Redis and Kafka: 3 errors"]);
    }

    #[test]
    fn clients_of_either_kind_may_be_late_in_either_window() {
        let good = pair(100.0, 10.0);
        assert_eq!(good.void(50.0), None);
        let mut late = [good.clone(), good.clone(), good.clone(), good];
        late[0].with.peers.lag_p99_us = 51.0;
        late[1].with.calls.lag_p99_us = 51.0;
        late[2].without.peers.lag_p99_us = 51.0;
        late[3].without.calls.lag_p99_us = 51.0;
        assert!(late.iter().all(|pair| pair.void(50.0).is_some()));
    }

    #[test]
    fn a_quick_look_judges_no_times() {
        let quick = PairArguments { quick: true, ..THREE };
        assert!(super::faults(&made(quick, [pair(1e6, 1e6)])).is_empty());
    }
}
