//! The search for the highest rate that a server keeps: doubling until a rate fails, then halving
//! the gap, then the points of the rate-latency curve that are missing. Sans-IO: the caller runs
//! and judges each rate.

use thiserror::Error;

use crate::outcome::{Outcome, RatePoint, SearchFound, Verdict};
use crate::scenario::{Arrival, Scenario, Search};

/// The scenario cannot be searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error, miette::Diagnostic)]
pub enum NotSearchable {
    #[error("the scenario has no table `search`")]
    NoSearch,
    #[error("only the arrival modes constant, poisson and burst have one rate to search for")]
    NoRate,
}

/// A rate is kept if so much of what was planned was answered in time.
const ANSWERED_SHARE: f64 = 0.99;

/// The outcome at the highest rate that holds (at the lowest one if none does), with all tried
/// rates in its `search`. `run` gets the scenario at each rate and returns its judged outcome.
pub fn search<E: From<NotSearchable>>(
    scenario: &Scenario,
    mut run: impl FnMut(&Scenario) -> Result<Outcome, E>,
) -> Result<Outcome, E> {
    let bounds = scenario.search.as_ref().ok_or(NotSearchable::NoSearch)?;
    rate_of(scenario).ok_or(NotSearchable::NoRate)?;
    let mut tried = Tried::default();
    let mut probe = |tried: &mut Tried, rate: f64| -> Result<bool, E> {
        let step = at_rate(scenario, bounds, rate);
        let mut outcome = run(&step)?;
        if broken(&outcome, bounds, rate).is_some() {
            outcome = run(&step)?; // a disturbance from outside rarely comes twice
        }
        Ok(tried.add(outcome, bounds, rate))
    };

    let mut holds = None;
    let mut fails = None;
    let mut rate = bounds.from;
    while fails.is_none() {
        if probe(&mut tried, rate)? {
            holds = Some(rate);
            if rate >= bounds.to {
                break;
            }
            rate = (rate * 2.0).min(bounds.to);
        } else {
            fails = Some(rate);
        }
    }
    while let (Some(low), Some(high)) = (holds, fails)
        && high > low * (1.0 + bounds.precision)
    {
        let middle = (low * high).sqrt();
        *(if probe(&mut tried, middle)? { &mut holds } else { &mut fails }) = Some(middle);
    }
    if let Some(highest) = holds {
        for point in 1..bounds.curve_points {
            let rate = highest * point as f64 / bounds.curve_points as f64;
            if !tried.has_near(rate, bounds.precision) {
                probe(&mut tried, rate)?;
            }
        }
    }
    Ok(tried.finish(holds))
}

/// Events per second of an arrival that has one rate.
pub fn rate_of(scenario: &Scenario) -> Option<f64> {
    match scenario.arrival {
        Arrival::Constant { rate, .. }
        | Arrival::Poisson { rate, .. }
        | Arrival::Burst { rate, .. } => Some(rate),
        Arrival::Closed { .. }
        | Arrival::Ramp { .. }
        | Arrival::Replay { .. }
        | Arrival::Backlog { .. } => None,
    }
}

fn at_rate(scenario: &Scenario, bounds: &Search, wanted: f64) -> Scenario {
    let mut step = scenario.clone();
    step.timing.duration = bounds.step_duration;
    match &mut step.arrival {
        Arrival::Constant { rate, .. }
        | Arrival::Poisson { rate, .. }
        | Arrival::Burst { rate, .. } => *rate = wanted,
        Arrival::Closed { .. }
        | Arrival::Ramp { .. }
        | Arrival::Replay { .. }
        | Arrival::Backlog { .. } => {}
    }
    step
}

/// Why a rate does not hold.
fn broken(outcome: &Outcome, bounds: &Search, rate: f64) -> Option<String> {
    if outcome.judgement.verdict != Verdict::Passed {
        let reason = outcome.judgement.reasons.first().map_or("it did not pass", String::as_str);
        return Some(format!("at {rate:.0}/s: {reason}"));
    }
    let p999_us = outcome.latency.from_intended.quantile_us(0.999);
    let most_us = bounds.p999_max.as_secs_f64() * 1e6;
    if p999_us > most_us {
        return Some(format!(
            "at {rate:.0}/s p99.9 is {p999_us:.0} µs, {most_us:.0} µs are allowed"
        ));
    }
    let share = answered_share(outcome);
    if share < ANSWERED_SHARE {
        return Some(format!("of {rate:.0}/s only {:.0}/s were answered", rate * share));
    }
    None
}

/// Of what was planned: chance plans a little more or less than the rate. Each event has as many
/// answers as receivers.
fn answered_share(outcome: &Outcome) -> f64 {
    let messages = &outcome.messages;
    let receivers = messages.expected as f64 / messages.sent as f64;
    messages.measured as f64 / (messages.planned as f64 * receivers)
}

fn achieved(outcome: &Outcome) -> f64 {
    outcome.messages.measured as f64 / outcome.measured_seconds
}

#[derive(Default)]
struct Tried {
    points: Vec<RatePoint>,
    outcomes: Vec<Outcome>,
    /// Rates that did not hold, and why.
    broken: Vec<(f64, String)>,
}

impl Tried {
    fn add(&mut self, outcome: Outcome, bounds: &Search, rate: f64) -> bool {
        let broken = broken(&outcome, bounds, rate);
        let latency = &outcome.latency.from_intended;
        let faults = &outcome.messages;
        let verdict = match (&broken, outcome.judgement.verdict) {
            (None, verdict) => verdict,
            (Some(_), Verdict::Invalid) => Verdict::Invalid,
            (Some(_), _) => Verdict::Failed,
        };
        self.points.push(RatePoint {
            rate,
            achieved: achieved(&outcome),
            verdict,
            p50_us: latency.quantile_us(0.5),
            p99_us: latency.quantile_us(0.99),
            p999_us: latency.quantile_us(0.999),
            faults: faults.lost + faults.duplicated + faults.reordered + faults.corrupted,
        });
        self.outcomes.push(outcome);
        let holds = broken.is_none();
        self.broken.extend(broken.map(|reason| (rate, reason)));
        holds
    }

    fn has_near(&self, rate: f64, precision: f64) -> bool {
        self.points.iter().any(|point| (point.rate / rate - 1.0).abs() < precision)
    }

    fn finish(mut self, highest: Option<f64>) -> Outcome {
        let shown = match highest {
            Some(highest) => self.points.iter().position(|point| point.rate == highest),
            None => None,
        };
        let mut outcome = self.outcomes.swap_remove(shown.unwrap_or(0));
        self.points.sort_by(|a, b| a.rate.total_cmp(&b.rate));
        // A rate below the highest may have been disturbed: it is no limit.
        let beyond = self.broken.into_iter().filter(|(rate, _)| highest.is_none_or(|h| *rate > h));
        let limit = match beyond.min_by(|a, b| a.0.total_cmp(&b.0)) {
            Some((_, reason)) => reason,
            None => "the search ended at its highest rate, which still held".to_owned(),
        };
        outcome.search = Some(SearchFound { highest, limit, points: self.points });
        outcome
    }
}

#[cfg(test)]
mod tests;
