//! Windows without and with something that may disturb, in turn, until enough pairs of them say
//! something of the gateway.

use std::io;
use std::time::Duration;

use clap::Args;

use crate::statistics::median;

#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct PairArguments {
    /// Pairs of an undisturbed window and a disturbed one
    #[arg(long, default_value_t = 5)]
    pub(crate) rounds: usize,
    /// Pairs that say nothing, because the clients were late themselves, and are made again
    #[arg(long, default_value_t = 5)]
    pub(crate) repeats: usize,
    /// Seconds of each window
    #[arg(long, default_value_t = 10.0)]
    pub(crate) seconds: f64,
    /// One pair of two seconds, whose times are not judged
    #[arg(long)]
    pub(crate) quick: bool,
    /// Processor of the gateway
    #[arg(long, default_value_t = 0)]
    pub(crate) server_cpu: usize,
    /// Processor of all else
    #[arg(long, default_value_t = 1)]
    pub(crate) load_cpu: usize,
}

impl PairArguments {
    pub(crate) fn window(&self) -> Duration {
        Duration::from_secs_f64(if self.quick { 2.0 } else { self.seconds })
    }

    /// Of the gateway, and of all else.
    pub(crate) fn processors(&self) -> (usize, usize) {
        (self.server_cpu, self.load_cpu)
    }
}

/// What an undisturbed window and a disturbed one say when they are held against each other.
pub(crate) trait Pair {
    /// How late the clients themselves sent while nothing disturbed them, 99th percentile.
    fn usual_lag_us(&self) -> f64;

    /// Why its times say nothing of the gateway, if clients may be so late.
    fn void(&self, lag_max_us: f64) -> Option<String>;

    /// Of the table.
    fn line(&self, number: usize, void: Option<&str>) -> String;
}

/// The pairs so far.
#[derive(Debug)]
pub(crate) struct Pairs<P> {
    rounds: usize,
    repeats: usize,
    judges_times: bool,
    /// How late the clients were in each undisturbed window.
    lags_us: Vec<f64>,
    valid: Vec<P>,
    void: Vec<P>,
}

impl<P: Pair> Pairs<P> {
    pub(crate) fn new(arguments: &PairArguments) -> Self {
        let (rounds, repeats) = match arguments.quick {
            true => (1, 0),
            false => (arguments.rounds, arguments.repeats),
        };
        let judges_times = !arguments.quick;
        Self {
            rounds,
            repeats,
            judges_times,
            lags_us: Vec::new(),
            valid: Vec::new(),
            void: Vec::new(),
        }
    }

    /// Whether another pair is needed, and those that may be void are not used up.
    pub(crate) fn want_more(&self) -> bool {
        self.valid.len() < self.rounds && self.void.len() <= self.repeats
    }

    /// Takes a pair, and returns its line of the table.
    pub(crate) fn add(&mut self, pair: P) -> String {
        self.lags_us.push(pair.usual_lag_us());
        let lag_max_us = LAG_US.max(2.0 * median(self.lags_us.iter().copied()));
        let void = pair.void(lag_max_us).filter(|_| self.judges_times);
        let line = pair.line(self.lags_us.len(), void.as_deref());
        let alike = if void.is_some() { &mut self.void } else { &mut self.valid };
        alike.push(pair);
        line.trim_end().to_owned()
    }

    pub(crate) fn judges_times(&self) -> bool {
        self.judges_times
    }

    /// Those whose times count.
    pub(crate) fn valid(&self) -> impl Iterator<Item = &P> {
        self.valid.iter()
    }

    /// Failures count in every pair.
    pub(crate) fn all(&self) -> impl Iterator<Item = &P> {
        self.valid.iter().chain(&self.void)
    }

    /// If there are too few that say anything.
    pub(crate) fn fault(&self) -> Option<String> {
        let (valid, rounds) = (self.valid.len(), self.rounds);
        (valid < rounds)
            .then(|| format!("only {valid} of {rounds} pairs say anything: use a quiet machine"))
    }

    /// Says that all is well, in the words for a quick look or for judged times, unless there are
    /// `faults`.
    pub(crate) fn conclude(
        &self,
        faults: &[String],
        (quick, judged): (&str, &str),
        tell: &mut dyn FnMut(&str),
    ) -> io::Result<()> {
        if !faults.is_empty() {
            return Err(io::Error::other(faults.join("; ")));
        }
        tell(if self.judges_times { judged } else { quick });
        Ok(())
    }
}

/// Clients that send later than this, and later than twice what is usual, tell nothing.
pub(crate) const LAG_US: f64 = 300.0;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Three pairs, and three more.
    pub(crate) const THREE: PairArguments = PairArguments {
        rounds: 3,
        repeats: 3,
        seconds: 10.0,
        quick: false,
        server_cpu: 0,
        load_cpu: 1,
    };

    /// As many pairs as are wanted.
    pub(crate) fn made<P: Pair>(
        arguments: PairArguments,
        all: impl IntoIterator<Item = P>,
    ) -> Pairs<P> {
        let mut pairs = Pairs::new(&arguments);
        for pair in all {
            assert!(pairs.want_more());
            pairs.add(pair);
        }
        assert!(!pairs.want_more());
        pairs
    }

    /// How late the clients were, undisturbed and disturbed.
    #[derive(Debug)]
    struct Lags(f64, f64);

    impl Pair for Lags {
        fn usual_lag_us(&self) -> f64 {
            self.0
        }

        fn void(&self, lag_max_us: f64) -> Option<String> {
            (self.1 > lag_max_us).then(|| format!("more than {lag_max_us}"))
        }

        fn line(&self, number: usize, void: Option<&str>) -> String {
            format!("{number} {} ", void.unwrap_or_default())
        }
    }

    #[test]
    fn pairs_of_late_clients_are_made_again_and_not_for_ever() {
        let good = || Lags(50.0, LAG_US);
        let late = || Lags(50.0, LAG_US + 1.0);
        let pairs = made(THREE, [good(), late(), good(), good()]);
        assert_eq!((pairs.valid().count(), pairs.all().count(), pairs.fault()), (3, 4, None));
        let pairs = made(THREE, [late(), late(), late(), late()]);
        assert!(pairs.fault().is_some_and(|fault| fault.starts_with("only 0 of 3")));
    }

    #[test]
    fn who_is_late_undisturbed_may_be_twice_as_late_disturbed() {
        let mut pairs = Pairs::new(&THREE);
        assert_eq!(pairs.add(Lags(400.0, 800.0)), "1");
        assert_eq!(pairs.add(Lags(400.0, 801.0)), "2 more than 800");
    }

    #[test]
    fn a_quick_look_is_one_pair_that_is_never_void() {
        let quick = PairArguments { quick: true, ..THREE };
        let pairs = made(quick, [Lags(50.0, 1e6)]);
        assert_eq!((pairs.valid().count(), pairs.fault()), (1, None));
        assert_eq!((quick.window().as_secs(), THREE.window().as_secs()), (2, 10));
    }

    #[test]
    fn the_last_word_is_of_what_was_judged() {
        for (quick, words) in [(true, "looked"), (false, "judged")] {
            let pairs = Pairs::<Lags>::new(&PairArguments { quick, ..THREE });
            let mut said = Vec::new();
            let mut tell = |text: &str| said.push(text.to_owned());
            let failed = pairs.conclude(&["a".into(), "b".into()], ("looked", "judged"), &mut tell);
            assert_eq!(failed.expect_err("there are faults").to_string(), "a; b");
            assert!(pairs.conclude(&[], ("looked", "judged"), &mut tell).is_ok());
            assert_eq!(said, [words]);
        }
    }
}
