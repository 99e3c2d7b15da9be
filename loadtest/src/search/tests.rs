use std::cell::Cell;

use super::*;
use crate::outcome::synthetic;
use crate::scenario::Search;

fn scenario() -> Scenario {
    let mut scenario = synthetic::scenario();
    scenario.arrival = Arrival::Constant { rate: 1.0, window: None };
    scenario.search = Some(Search {
        from: 100.0,
        to: 100_000.0,
        p999_max: std::time::Duration::from_secs(60),
        step_duration: std::time::Duration::from_secs(1),
        precision: 0.05,
        curve_points: 4,
    });
    scenario
}

/// A server that answers at most `capacity` messages a second.
fn served(step: &Scenario, capacity: f64) -> Outcome {
    let rate = rate_of(step).unwrap();
    let mut outcome = synthetic::outcome(1, 1, 100, 1.0);
    outcome.measured_seconds = 1.0;
    outcome.messages.planned = rate as u64;
    outcome.messages.expected = outcome.messages.sent;
    outcome.messages.measured = rate.min(capacity) as u64;
    outcome.judgement.verdict = Verdict::Passed;
    outcome
}

#[test]
fn the_capacity_is_found_within_the_precision() {
    for capacity in [100.0, 137.0, 5_000.0, 77_777.0] {
        let outcome =
            search::<NotSearchable>(&scenario(), |step| Ok(served(step, capacity))).unwrap();
        let found = outcome.search.unwrap();
        let highest = found.highest.unwrap();
        // A server passes while it answers 99 % of the rate.
        let most = capacity / ANSWERED_SHARE;
        assert!(highest <= most && most <= highest * 1.06, "{capacity}: {highest}");
        assert!(found.limit.contains("were answered"), "{}", found.limit);
        assert!(found.points.is_sorted_by(|a, b| a.rate < b.rate));
    }
}

#[test]
fn a_server_without_a_limit_ends_the_search_at_its_highest_rate() {
    let outcome = search::<NotSearchable>(&scenario(), |step| Ok(served(step, 1e9))).unwrap();
    let found = outcome.search.unwrap();
    assert_eq!(found.highest, Some(100_000.0));
    assert!(found.limit.contains("still held"), "{}", found.limit);
}

#[test]
fn a_rate_is_kept_when_all_that_chance_planned_is_answered_by_every_receiver() {
    let outcome = search::<NotSearchable>(&scenario(), |step| {
        let mut outcome = served(step, 1e9);
        outcome.messages.planned = outcome.messages.planned * 9 / 10;
        outcome.messages.expected = outcome.messages.sent * 7;
        outcome.messages.measured = outcome.messages.planned * 7;
        Ok(outcome)
    });
    assert_eq!(outcome.unwrap().search.unwrap().highest, Some(100_000.0));
}

#[test]
fn a_disturbed_rate_on_the_curve_is_not_the_limit() {
    let outcome = search::<NotSearchable>(&scenario(), |step| {
        let rate = rate_of(step).unwrap();
        Ok(served(step, if rate == 75_000.0 { 1.0 } else { 1e9 }))
    });
    let found = outcome.unwrap().search.unwrap();
    assert_eq!(found.highest, Some(100_000.0));
    assert_eq!(found.points.iter().filter(|point| point.verdict != Verdict::Passed).count(), 1);
    assert!(found.limit.contains("still held"), "{}", found.limit);
}

#[test]
fn a_server_that_never_holds_has_no_highest_rate() {
    let outcome = search::<NotSearchable>(&scenario(), |step| Ok(served(step, 3.0))).unwrap();
    let found = outcome.search.unwrap();
    assert_eq!((found.highest, found.points.len()), (None, 1));
}

#[test]
fn one_disturbance_does_not_end_the_search() {
    let runs = Cell::new(0);
    let outcome = search::<NotSearchable>(&scenario(), |step| {
        runs.set(runs.get() + 1);
        Ok(served(step, if runs.get() == 2 { 1.0 } else { 1e9 }))
    });
    assert_eq!(outcome.unwrap().search.unwrap().highest, Some(100_000.0));
}

#[test]
fn a_generator_at_its_end_is_not_taken_for_the_server() {
    let outcome = search::<NotSearchable>(&scenario(), |step| {
        let mut outcome = served(step, 1e9);
        if rate_of(step).unwrap() > 1000.0 {
            outcome.judgement.verdict = Verdict::Invalid;
            outcome.judgement.reasons = vec!["the generator was late".to_owned()];
        }
        Ok(outcome)
    });
    let found = outcome.unwrap().search.unwrap();
    assert!(found.limit.contains("the generator was late"), "{}", found.limit);
    let last = found.points.last().unwrap();
    assert_eq!(last.verdict, Verdict::Invalid);
}

#[test]
fn the_curve_has_points_up_to_the_highest_rate() {
    let outcome = search::<NotSearchable>(&scenario(), |step| Ok(served(step, 1e9))).unwrap();
    let rates: Vec<f64> = outcome.search.unwrap().points.iter().map(|p| p.rate).collect();
    for wanted in [25_000.0, 50_000.0, 75_000.0, 100_000.0] {
        assert!(rates.iter().any(|r| (r / wanted - 1.0).abs() < 0.05), "{wanted}: {rates:?}");
    }
}

#[test]
fn what_has_no_rate_cannot_be_searched() {
    let mut closed = scenario();
    closed.arrival = Arrival::Closed { in_flight: 1 };
    let refused = search::<NotSearchable>(&closed, |_| unreachable!());
    assert_eq!(refused.unwrap_err(), NotSearchable::NoRate);
    let mut bare = scenario();
    bare.search = None;
    let refused = search::<NotSearchable>(&bare, |_| unreachable!());
    assert_eq!(refused.unwrap_err(), NotSearchable::NoSearch);
}
