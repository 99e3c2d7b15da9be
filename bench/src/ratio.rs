//! The comparison that the gateway's echo route is judged by: the same load against two servers
//! on the same processor in turn, interleaved, and the median of the per-pair ratios of the
//! processor time per message.

use std::io;
use std::time::Duration;

use corelane_bench::cpu_time;

use crate::drive::{self, Load, Measurement};
use crate::exchange::Target;
use crate::machine::{machine, today};
use crate::server_process::ServerProcess;
use crate::statistics::median;

/// One of the two servers.
#[derive(Clone, Debug)]
pub(crate) struct Contender {
    pub(crate) command_line: String,
    pub(crate) target: Target,
    /// Part of the name of the thread that is measured; without it, the busiest thread.
    pub(crate) thread: Option<String>,
}

#[derive(Clone, Debug)]
pub(crate) struct Comparison {
    pub(crate) bare: Contender,
    pub(crate) server: Contender,
    pub(crate) pairs: usize,
    pub(crate) connections: Vec<usize>,
    pub(crate) in_flight: u32,
    pub(crate) payload_bytes: usize,
    pub(crate) warm_up: Duration,
    pub(crate) duration: Duration,
    pub(crate) driver_cpu: usize,
}

/// One run of one contender.
#[derive(Clone, Copy, Debug)]
struct Run {
    micros_per_message: f64,
    messages_per_second: f64,
    driver_share: f64,
    /// Processors' worth of work that belongs to neither side, and time the hypervisor kept.
    disturbance: f64,
}

#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    connections: usize,
    pairs: Vec<(Run, Run)>,
}

impl Outcome {
    /// The median of the per-pair ratios.
    pub(crate) fn ratio(&self) -> f64 {
        median(
            self.pairs
                .iter()
                .map(|(bare, server)| server.micros_per_message / bare.micros_per_message),
        )
    }
}

impl Outcome {
    fn summary(&self) -> String {
        let column = |of: fn(&(Run, Run)) -> f64| median(self.pairs.iter().map(of));
        format!(
            "| {} | **{:.3}** | {:.2} | {:.2} | {:.0} | {:.0} |",
            self.connections,
            self.ratio(),
            column(|(bare, _)| bare.micros_per_message),
            column(|(_, server)| server.micros_per_message),
            column(|(bare, _)| bare.messages_per_second),
            column(|(_, server)| server.messages_per_second),
        )
    }

    fn details(&self) -> impl Iterator<Item = String> {
        self.pairs.iter().zip(1..).map(|((bare, server), pair)| {
            format!(
                "| {} | {pair} | {:.3} | {:.2}, {:.2} | {:.2}, {:.2} |",
                self.connections,
                server.micros_per_message / bare.micros_per_message,
                bare.driver_share,
                server.driver_share,
                bare.disturbance,
                server.disturbance,
            )
        })
    }
}

impl Comparison {
    /// All pairs at one number of connections; every second pair runs in the opposite order.
    pub(crate) fn run(&self, connections: usize) -> io::Result<Outcome> {
        let mut pairs = Vec::with_capacity(self.pairs);
        for pair in 0..self.pairs {
            let (bare, server) = if pair % 2 == 0 {
                let bare = self.measure(&self.bare, connections)?;
                (bare, self.measure(&self.server, connections)?)
            } else {
                let server = self.measure(&self.server, connections)?;
                (self.measure(&self.bare, connections)?, server)
            };
            pairs.push((bare, server));
        }
        Ok(Outcome { connections, pairs })
    }

    fn measure(&self, contender: &Contender, connections: usize) -> io::Result<Run> {
        let process = ServerProcess::start(&contender.command_line, &contender.target.authority)?;
        let load = Load {
            target: contender.target.clone(),
            connections,
            in_flight: self.in_flight,
            payload_bytes: self.payload_bytes,
            warm_up: self.warm_up,
            duration: self.duration,
        };
        // The driver pins itself in a thread of its own, or the next server would inherit that.
        let measured = std::thread::scope(|scope| {
            let driver = scope.spawn(|| {
                cpu_time::pin_to(self.driver_cpu)?;
                drive::run(&load, Some(process.pid()))
            });
            driver.join().map_err(|_| io::Error::other("the driver panicked"))?
        })?;
        Run::of(&measured, contender.thread.as_deref())
    }

    /// A section of Markdown with the median ratios and every single run.
    pub(crate) fn report(&self, outcomes: &[Outcome]) -> String {
        let (in_flight, payload) = (self.in_flight, self.payload_bytes);
        let (seconds, pairs) = (self.duration.as_secs_f64(), self.pairs);
        let mut lines = vec![
            format!("## Echo against the bare loop, {}", today()),
            String::new(),
            format!("* Machine: {}", machine()),
            format!("* Bare: `{}`", self.bare.command_line),
            format!("* Server: `{}` at `{}`", self.server.command_line, self.server.target),
            format!(
                "* Load: closed loop, {in_flight} in flight, {payload} bytes, {pairs} interleaved \
                 pairs of {seconds} s. A ratio is the median of the pairs' ratios of processor \
                 time per message of the measured thread."
            ),
            String::new(),
            "| connections | ratio | bare µs/msg | server µs/msg | bare msg/s | server msg/s |"
                .into(),
            "| --- | --- | --- | --- | --- | --- |".into(),
        ];
        lines.extend(outcomes.iter().map(Outcome::summary));
        lines.extend([
            String::new(),
            "Both sides of every pair, bare and server:".into(),
            String::new(),
            "| connections | pair | ratio | driver's processor | foreign and stolen processors |"
                .into(),
            "| --- | --- | --- | --- | --- |".into(),
        ]);
        lines.extend(outcomes.iter().flat_map(Outcome::details));
        lines.push(String::new());
        lines.join("\n")
    }
}

impl Run {
    fn of(measured: &Measurement, thread: Option<&str>) -> io::Result<Self> {
        let thread = measured.server_thread(thread).ok_or_else(|| {
            io::Error::other(format!(
                "the server has no thread named {thread:?}; it has {:?}",
                measured.server.iter().map(|t| &t.name).collect::<Vec<_>>()
            ))
        })?;
        if measured.messages == 0 {
            return Err(io::Error::other("no message came back"));
        }
        Ok(Self {
            micros_per_message: measured.micros_per_message(thread.on_cpu),
            messages_per_second: measured.messages_per_second(),
            driver_share: measured.share(measured.driver),
            disturbance: measured.share(measured.foreign() + measured.machine.stolen),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_takes_the_median_of_the_ratios() {
        let run = |micros_per_message| Run {
            micros_per_message,
            messages_per_second: 1e6 / micros_per_message,
            driver_share: 0.5,
            disturbance: 0.0,
        };
        // The ratio of the medians would be 2.
        let pairs = vec![(run(1.0), run(1.1)), (run(2.0), run(4.0)), (run(5.0), run(5.0))];
        let outcome = Outcome { connections: 64, pairs };
        assert_eq!(outcome.summary(), "| 64 | **1.100** | 2.00 | 4.00 | 500000 | 250000 |");
        assert_eq!(outcome.details().count(), 3);
    }
}
