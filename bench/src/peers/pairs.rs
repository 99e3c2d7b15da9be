//! Interleaved rounds: every contender of a cell once, in alternating order, again and again; and
//! what the rounds say together. A ratio is the median of the rounds' ratios, since both sides of
//! one round met the same machine.

use super::generator::{Order, Timing};
use super::measurement::{NoRun, Run, measure};
use super::place::Place;
use super::workload::{Arrival, Cell, Goal, Measure, Rival, Traffic};
use crate::statistics::median;

/// Whoever used this share of its processor was the limit.
const SATURATED: f64 = 0.95;
/// Shares of the slower side's greatest rate at which unsaturated sides are compared again.
const RATES: [f64; 3] = [0.25, 0.5, 0.75];

/// The runs of all contenders of a cell at one arrival; ours is the first.
#[derive(Clone, Debug)]
pub(super) struct Rounds {
    pub(super) arrival: Arrival,
    /// By contender, then by round.
    pub(super) runs: Vec<Vec<Result<Run, NoRun>>>,
}

/// What came of one cell.
#[derive(Debug)]
pub(super) struct CellOutcome<'a> {
    pub(super) cell: &'a Cell,
    pub(super) rounds: Rounds,
    /// Ours and the first rival at fixed rates, if one of them was not saturated.
    pub(super) at_rates: Vec<Rounds>,
}

/// How often and how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) rounds: usize,
    /// Of rounds at fixed rates; 0 leaves them out.
    pub(super) rate_rounds: usize,
    pub(super) timing: Timing,
}

/// One cell on its way.
struct Bout<'a, 't> {
    cell: &'a Cell,
    what: Measure,
    plan: &'t Plan,
    place: &'t Place,
    tell: &'t mut dyn FnMut(&str),
}

/// Runs one cell.
pub(super) fn run_cell<'a>(
    cell: &'a Cell,
    what: Measure,
    plan: &Plan,
    place: &Place,
    tell: &mut dyn FnMut(&str),
) -> CellOutcome<'a> {
    let all = cell.rivals.len() + 1;
    let mut bout = Bout { cell, what, plan, place, tell };
    let arrival = match what {
        Measure::Latency => bout.latency_arrival(),
        Measure::Cost | Measure::Idle { .. } => Some(cell.arrival),
    };
    let Some(arrival) = arrival else {
        let none = NoRun::Unusable("no rate: the closed loop before it did not work".to_owned());
        let runs = vec![vec![Err(none)]; all];
        let rounds = Rounds { arrival: cell.arrival, runs };
        return CellOutcome { cell, rounds, at_rates: Vec::new() };
    };
    let rounds = bout.rounds(all, arrival, plan.rounds);
    let closed = matches!(arrival, Arrival::Closed(_)) && what == Measure::Cost;
    let rates = rounds.rates(fan_out(cell)).filter(|_| closed && plan.rate_rounds > 0);
    let at_rates = rates
        .into_iter()
        .flatten()
        .map(|rate| bout.rounds(2, Arrival::Constant(rate), plan.rate_rounds))
        .collect();
    CellOutcome { cell, rounds, at_rates }
}

impl Bout<'_, '_> {
    /// 70 % of what the slower of ours and the first rival does in a closed loop.
    fn latency_arrival(&mut self) -> Option<Arrival> {
        const SHARE: f64 = 0.7;
        self.what = Measure::Cost;
        let found = self.rounds(2, self.cell.arrival, 1);
        self.what = Measure::Latency;
        Some(Arrival::Constant((found.slower_rate()? * SHARE).round()))
    }

    /// The first contenders, so many rounds.
    fn rounds(&mut self, contenders: usize, arrival: Arrival, rounds: usize) -> Rounds {
        let chosen: Vec<_> = self.cell.contenders().take(contenders).collect();
        let mut runs = vec![Vec::new(); chosen.len()];
        for round in 0..rounds {
            let mut order: Vec<usize> = (0..chosen.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for index in order {
                // Who could not be started once is not tried again.
                if matches!(runs[index].last(), Some(Err(NoRun::NotStarted(_)))) {
                    continue;
                }
                let contender = chosen[index];
                let (connections, timing) = (self.cell.connections, self.plan.timing);
                let order = Order { contender, connections, arrival, timing };
                let run = measure(&order, self.place, self.what);
                (self.tell)(&describe(self.cell, contender.label, round, arrival, &run));
                runs[index].push(run);
            }
        }
        Rounds { arrival, runs }
    }
}

/// Deliveries of one sent message.
fn fan_out(cell: &Cell) -> f64 {
    match &cell.ours.traffic {
        Traffic::Room { members, .. } => (members - 1) as f64,
        _ => 1.0,
    }
}

fn describe(
    cell: &Cell,
    label: &str,
    round: usize,
    arrival: Arrival,
    run: &Result<Run, NoRun>,
) -> String {
    let at = match arrival {
        Arrival::Closed(_) => String::new(),
        Arrival::Constant(rate) => format!(" at {rate:.0}/s"),
    };
    let found = match run {
        Ok(Run { idle: Some(idle), .. }) => format!(
            "{:.0} B, {:.2} µs/s a connection",
            idle.bytes_per_connection, idle.us_per_second
        ),
        Ok(run) => format!(
            "{:.3} µs, {:.0}/s, p50 {:.0} µs, cores {:.2} {:.2}, others {:.2}",
            run.cost_us,
            run.per_second,
            run.p50_us,
            run.server_core,
            run.load_core,
            run.disturbance
        ),
        Err(NoRun::NotStarted(why) | NoRun::Unusable(why)) => why.clone(),
    };
    format!("{}{at}, round {}, {label}: {found}", cell.name, round + 1)
}

impl Rounds {
    /// The runs of one contender that say something.
    pub(super) fn usable(&self, contender: usize) -> impl Iterator<Item = &Run> + Clone {
        self.runs[contender].iter().flatten()
    }

    pub(super) fn median(&self, contender: usize, of: impl Fn(&Run) -> f64) -> f64 {
        median(self.usable(contender).map(of))
    }

    /// What `of` says of ours and of one contender, for each round in which both ran.
    pub(super) fn paired<'a>(
        &'a self,
        contender: usize,
        of: impl Fn(&Run, &Run) -> f64 + Clone + 'a,
    ) -> impl Iterator<Item = f64> + Clone + 'a {
        self.runs[0].iter().zip(&self.runs[contender]).filter_map(move |pair| match pair {
            (Ok(ours), Ok(other)) => Some(of(ours, other)),
            _ => None,
        })
    }

    /// A contender's cost divided by ours, for each round.
    pub(super) fn ratios(&self, contender: usize) -> impl Iterator<Item = f64> + Clone + '_ {
        self.paired(contender, |ours, other| other.cost_us / ours.cost_us)
    }

    /// Our cost divided by a contender's, for each round.
    pub(super) fn times(&self, contender: usize) -> impl Iterator<Item = f64> + Clone + '_ {
        self.paired(contender, |ours, other| ours.cost_us / other.cost_us)
    }

    /// Nothing if it never ran.
    pub(super) fn is_saturated(&self, contender: usize) -> Option<bool> {
        let share = self.median(contender, |run| run.server_share);
        (!share.is_nan()).then_some(share >= SATURATED)
    }

    /// The lesser of the two greatest rates, of ours and the first rival.
    fn slower_rate(&self) -> Option<f64> {
        let [ours, rival] = [0, 1].map(|index| self.median(index, |run| run.per_second));
        // NaN, of one that never ran, must not be outvoted.
        (ours.is_finite() && rival.is_finite()).then(|| ours.min(rival))
    }

    /// The rates for another comparison, in sent messages; nothing if both sides were saturated or
    /// one never ran.
    fn rates(&self, fan_out: f64) -> Option<[f64; 3]> {
        if self.is_saturated(0)? && self.is_saturated(1)? {
            return None;
        }
        let slower = self.slower_rate()?;
        Some(RATES.map(|share| (slower * share / fan_out).max(1.0).round()))
    }

    /// Whether a goal is reached; nothing if it cannot be told.
    pub(super) fn reaches(&self, contender: usize, rival: &Rival) -> Option<bool> {
        let (value, holds): (f64, fn(f64, f64) -> bool) = match rival.goal? {
            Goal::RatioAtLeast(_) => (median(self.ratios(contender)), |value, goal| value >= goal),
            Goal::ExcessAtMost(_) => (
                median(self.paired(contender, |ours, other| ours.cost_us - other.cost_us)),
                |value, goal| value <= goal,
            ),
            Goal::TimesAtMost(_) => (median(self.times(contender)), |value, goal| value <= goal),
        };
        let (Goal::RatioAtLeast(goal) | Goal::ExcessAtMost(goal) | Goal::TimesAtMost(goal)) =
            rival.goal?;
        (!value.is_nan()).then(|| holds(value, goal))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn run(cost_us: f64, server_share: f64) -> Run {
        Run {
            cost_us,
            per_second: server_share * 1e6 / cost_us,
            server_share,
            server_core: server_share,
            load_core: 1.0,
            generator_busy: 0.6,
            ..Run::default()
        }
    }

    pub(in super::super) fn rounds(ours: &[Run], other: &[Run]) -> Rounds {
        let runs = [ours, other].map(|runs| runs.iter().cloned().map(Ok).collect());
        Rounds { arrival: Arrival::Closed(1), runs: runs.into() }
    }

    #[test]
    fn a_ratio_is_the_median_of_the_rounds_ratios() {
        // The ratio of the medians would be 3.
        let ours = [run(1.0, 1.0), run(2.0, 1.0), run(4.0, 1.0)];
        let other = [run(1.5, 1.0), run(6.0, 1.0), run(8.0, 1.0)];
        let rounds = rounds(&ours, &other);
        assert_eq!(median(rounds.ratios(1)), 2.0);
        assert_eq!(rounds.ratios(1).collect::<Vec<_>>(), [1.5, 3.0, 2.0]);
    }

    #[test]
    fn a_round_with_one_side_is_no_pair() {
        let mut rounds = rounds(&[run(1.0, 1.0), run(1.0, 1.0)], &[run(2.0, 1.0), run(9.0, 1.0)]);
        rounds.runs[1][1] = Err(NoRun::Unusable("lost messages".to_owned()));
        assert_eq!(median(rounds.ratios(1)), 2.0);
        rounds.runs[1] = vec![Err(NoRun::NotStarted("absent".to_owned()))];
        assert!(median(rounds.ratios(1)).is_nan());
        assert_eq!(rounds.is_saturated(1), None);
        assert_eq!(rounds.rates(1.0), None);
    }

    #[test]
    fn sides_below_95_percent_are_compared_again_at_three_rates() {
        let saturated = rounds(&[run(5.0, 0.96)], &[run(10.0, 0.99)]);
        assert_eq!(saturated.rates(1.0), None);
        // Ours did 160 000 a second with 80 % of its processor, the other 100 000 with all of it.
        let unsaturated = rounds(&[run(5.0, 0.8)], &[run(10.0, 1.0)]);
        assert_eq!(unsaturated.is_saturated(0), Some(false));
        assert_eq!(unsaturated.rates(1.0), Some([25_000.0, 50_000.0, 75_000.0]));
        assert_eq!(unsaturated.rates(100.0), Some([250.0, 500.0, 750.0]), "sends, not deliveries");
    }

    #[test]
    fn goals_are_judged_by_the_median() {
        let rounds = rounds(&[run(5.0, 1.0)], &[run(9.0, 1.0)]);
        let all = super::super::workload::workloads();
        let rival = |goal| Rival { goal: Some(goal), ..all[0].cells[0].rivals[0].clone() };
        assert_eq!(rounds.reaches(1, &rival(Goal::RatioAtLeast(1.8))), Some(true));
        assert_eq!(rounds.reaches(1, &rival(Goal::RatioAtLeast(1.9))), Some(false));
        assert_eq!(rounds.reaches(1, &rival(Goal::ExcessAtMost(-4.0))), Some(true));
        assert_eq!(rounds.reaches(1, &rival(Goal::TimesAtMost(0.56))), Some(true));
        assert_eq!(rounds.reaches(1, &rival(Goal::TimesAtMost(0.55))), Some(false));
        let none = Rival { goal: None, ..rival(Goal::RatioAtLeast(1.0)) };
        assert_eq!(rounds.reaches(1, &none), None);
    }
}
