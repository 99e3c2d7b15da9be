//! A run while it goes on: one block that is refreshed on a terminal, one line for each interval
//! elsewhere. The only module that writes to a stream by itself; the end of a run is in `summary`.

use std::io::{IsTerminal, Write, stderr};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::outcome::Interval;
use crate::quantity::{count, microseconds, per_second, seconds};
use crate::run::Watcher;
use crate::scenario::Scenario;

/// Shows a run of one scenario; its block is removed when it is dropped.
pub struct Progress {
    name: String,
    /// Of warm-up and measurement together.
    length: Duration,
    lag_p99_max: Duration,
    errors: u64,
    /// Tenths of the connections that have been told.
    tenths_told: u64,
    display: Display,
}

enum Display {
    Block(ProgressBar),
    Lines(Box<dyn Write>),
}

impl Progress {
    /// On the standard error stream, in the way that suits it.
    pub fn on_stderr(scenario: &Scenario) -> Self {
        if !stderr().is_terminal() {
            return Self::in_lines(scenario, stderr());
        }
        let block = ProgressBar::new_spinner().with_style(block_style());
        Self::new(scenario, Display::Block(block))
    }

    /// For streams that are no terminal.
    pub fn in_lines(scenario: &Scenario, stream: impl Write + 'static) -> Self {
        Self::new(scenario, Display::Lines(Box::new(stream)))
    }

    fn new(scenario: &Scenario, display: Display) -> Self {
        Self {
            name: scenario.name.clone(),
            length: scenario.timing.warm_up + scenario.timing.duration,
            lag_p99_max: scenario.validity.lag_p99_max,
            errors: 0,
            tenths_told: 0,
            display,
        }
    }

    /// Three lines and a bar.
    fn block_text(&self, interval: &Interval) -> String {
        let now = Now::of(interval);
        let end = interval.from_seconds + interval.seconds;
        let length = self.length.as_secs_f64();
        let late = if u128::from(interval.lag_max_ns) > self.lag_p99_max.as_nanos() {
            " (late)"
        } else {
            ""
        };
        format!(
            "{}  {}  {} {} of {}\n\
             sent {}  received {}  ready {}\n\
             latency p50 {}  p99 {}  longest {}\n\
             send lag up to {}{late}  errors {} now, {} in all",
            self.name,
            now.phase,
            bar(end / length),
            seconds(end),
            seconds(length),
            now.sent,
            now.received,
            count(interval.ready),
            now.p50,
            now.p99,
            now.longest,
            now.lag,
            count(interval.errors),
            count(self.errors),
        )
    }
}

fn block_style() -> ProgressStyle {
    ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_spinner())
}

/// One interval in words.
struct Now {
    phase: &'static str,
    sent: String,
    received: String,
    p50: String,
    p99: String,
    longest: String,
    lag: String,
}

impl Now {
    fn of(interval: &Interval) -> Self {
        let rate = |number: u64| {
            if interval.seconds > 0.0 {
                per_second(number as f64 / interval.seconds)
            } else {
                "–".to_owned()
            }
        };
        let latency = |quantile| {
            if interval.from_intended.0.is_empty() {
                "–".to_owned()
            } else {
                microseconds(interval.from_intended.quantile_us(quantile))
            }
        };
        Self {
            phase: if interval.measured { "measuring" } else { "warm-up" },
            sent: rate(interval.sent),
            received: rate(interval.received),
            p50: latency(0.5),
            p99: latency(0.99),
            longest: latency(1.0),
            lag: microseconds(interval.lag_max_ns as f64 / 1e3),
        }
    }
}

impl Watcher for Progress {
    fn opening(&mut self, ready: u64, wanted: u64) {
        let words =
            format!("{}  {} of {} connections ready", self.name, count(ready), count(wanted));
        match &mut self.display {
            Display::Block(block) => block.set_message(words),
            Display::Lines(stream) => {
                let tenths = (ready * 10).checked_div(wanted).unwrap_or(10);
                if tenths > self.tenths_told {
                    self.tenths_told = tenths;
                    tell(stream, &words);
                }
            }
        }
    }

    fn interval(&mut self, interval: &Interval) {
        self.errors += interval.errors;
        let block_text = self.block_text(interval);
        match &mut self.display {
            Display::Block(block) => block.set_message(block_text),
            Display::Lines(stream) => tell(stream, &line_text(interval)),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Display::Block(block) = &self.display {
            block.finish_and_clear();
        }
    }
}

fn line_text(interval: &Interval) -> String {
    let now = Now::of(interval);
    format!(
        "{:>8} {:<9}  sent {:>9}  received {:>9}  p50 {:>7}  p99 {:>7}  longest {:>7}  lag {:>7}  \
         errors {}",
        seconds(interval.from_seconds + interval.seconds),
        now.phase,
        now.sent,
        now.received,
        now.p50,
        now.p99,
        now.longest,
        now.lag,
        count(interval.errors),
    )
}

/// A reader that went away is no reason to end a run.
fn tell(stream: &mut dyn Write, words: &str) {
    writeln!(stream, "{words}").and_then(|()| stream.flush()).ok();
}

const BAR_WIDTH: usize = 24;

fn bar(share: f64) -> String {
    let full = (share.clamp(0.0, 1.0) * BAR_WIDTH as f64).round() as usize;
    format!("[{}{}]", "#".repeat(full), "·".repeat(BAR_WIDTH - full))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::io;
    use std::rc::Rc;

    use super::*;
    use crate::outcome::synthetic;

    #[derive(Clone, Default)]
    struct Stream(Rc<RefCell<Vec<u8>>>);

    impl Write for Stream {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Stream {
        fn lines(&self) -> Vec<String> {
            let text = String::from_utf8(self.0.borrow().clone()).unwrap();
            text.lines().map(str::to_owned).collect()
        }
    }

    #[test]
    fn each_interval_is_one_line() {
        let outcome = synthetic::outcome(1, 3, 500, 1.0);
        let stream = Stream::default();
        let mut progress = Progress::in_lines(&outcome.scenario, stream.clone());
        for interval in &outcome.intervals {
            progress.interval(interval);
        }
        let lines = stream.lines();
        assert_eq!(lines.len(), 5);
        assert!(lines[0].starts_with("  1.00 s warm-up "), "{}", lines[0]);
        assert!(lines[4].contains("measuring  sent     500/s  received     500/s  p50  1"));
    }

    #[test]
    fn opening_is_told_ten_times_at_most() {
        let outcome = synthetic::outcome(1, 1, 10, 1.0);
        let stream = Stream::default();
        let mut progress = Progress::in_lines(&outcome.scenario, stream.clone());
        for ready in 0..=1000 {
            progress.opening(ready, 1000);
        }
        let lines = stream.lines();
        assert_eq!(lines.len(), 10);
        assert_eq!(lines[9], "echo  1\u{202f}000 of 1\u{202f}000 connections ready");
    }

    #[test]
    fn the_block_tells_of_a_late_generator_and_sums_errors() {
        let mut outcome = synthetic::outcome(1, 1, 500, 1.0);
        let interval = &mut outcome.intervals[2];
        (interval.errors, interval.lag_max_ns) = (3, 2_000_000);
        let mut progress = Progress::in_lines(&outcome.scenario, io::sink());
        progress.interval(interval);
        progress.interval(interval);
        let block = progress.block_text(interval);
        assert!(block.contains("2.00 ms (late)  errors 3 now, 6 in all"), "{block}");
        assert!(block.contains("[########################]"), "{block}");
    }

    #[test]
    fn an_interval_without_messages_has_no_latency() {
        let mut outcome = synthetic::outcome(1, 1, 0, 1.0);
        outcome.intervals[0].seconds = 0.0;
        assert!(line_text(&outcome.intervals[0]).contains("p50       –"));
    }
}
