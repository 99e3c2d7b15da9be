use super::*;
use crate::outcome::synthetic;

/// Near enough to normal: mean 0, deviation 1.
fn normal(rng: &mut fastrand::Rng) -> f64 {
    (0..12).map(|_| rng.f64()).sum::<f64>() - 6.0
}

/// One value for each run, around `mean`; runs of one kind differ by `deviation`, as a share.
fn runs(rng: &mut fastrand::Rng, number: usize, mean: f64, deviation: f64) -> Vec<f64> {
    (0..number).map(|_| mean * (deviation * normal(rng)).exp()).collect()
}

/// How often a difference is claimed, over many comparisons with `number` runs of each side.
fn claimed(number: usize, shift: f64, comparisons: u64) -> f64 {
    let claims = (0..comparisons).filter(|&seed| {
        let mut rng = fastrand::Rng::with_seed(seed);
        let a = runs(&mut rng, number, 100.0, 0.1);
        let b = runs(&mut rng, number, 100.0 * shift, 0.1);
        let finding = compare_values(Metric::P99Us, &a, &b).unwrap().finding;
        matches!(finding, Finding::ABetter | Finding::BBetter)
    });
    claims.count() as f64 / comparisons as f64
}

/// The chances are those of the exact distribution. Of 4000 comparisons the share scatters with a
/// deviation of at most 0.0035; three deviations are allowed.
#[test]
fn equal_sides_are_called_different_as_often_as_the_level_says() {
    for (number, chance) in [(4, 0.0286), (5, 0.0317), (10, 0.0433), (20, 0.0491)] {
        let claimed = claimed(number, 1.0, 4000);
        assert!((claimed - chance).abs() < 0.0105, "{number} runs: {claimed}");
    }
}

#[test]
fn a_fifth_more_is_found_with_ten_runs() {
    let found = claimed(10, 1.2, 1000);
    assert!(found > 0.9, "{found}");
}

#[test]
fn an_interval_holds_the_true_ratio_as_often_as_it_says() {
    let held = (0..2000).filter(|&seed| {
        let mut rng = fastrand::Rng::with_seed(seed);
        let a = runs(&mut rng, 8, 80.0, 0.2);
        let b = runs(&mut rng, 8, 100.0, 0.2);
        let interval = compare_values(Metric::P50Us, &a, &b).unwrap().interval.unwrap();
        interval.low <= 0.8 && 0.8 <= interval.high
    });
    let share = held.count() as f64 / 2000.0;
    // The exact level is 0.950; three deviations of 2000 trials are 0.015.
    assert!((0.935..0.965).contains(&share), "{share}");
}

#[test]
fn three_runs_of_each_side_say_nothing_however_far_apart() {
    let found = compare_values(Metric::P50Us, &[1.0, 1.1, 1.2], &[100.0, 110.0, 120.0]).unwrap();
    assert_eq!((found.finding, found.interval), (Finding::TooFewRuns, None));
}

#[test]
fn the_faster_side_has_lower_times_and_a_higher_rate() {
    let (low, high) = ([1.0, 1.1, 1.2, 1.3], [2.0, 2.1, 2.2, 2.3]);
    let finding = |metric, a: &[f64], b: &[f64]| compare_values(metric, a, b).unwrap().finding;
    assert_eq!(finding(Metric::P99Us, &low, &high), Finding::ABetter);
    assert_eq!(finding(Metric::P99Us, &high, &low), Finding::BBetter);
    assert_eq!(finding(Metric::Rate, &high, &low), Finding::ABetter);
    assert_eq!(finding(Metric::Rate, &low, &high), Finding::BBetter);
}

#[test]
fn equal_values_show_no_difference() {
    let found = compare_values(Metric::Rate, &[5.0; 10], &[5.0; 10]).unwrap();
    assert_eq!((found.finding, found.ratio), (Finding::NoDifferenceShown, 1.0));
}

fn some_runs(number: u64, first_seed: u64, slowness: f64) -> Vec<Outcome> {
    (0..number)
        .map(|index| {
            let mut outcome = synthetic::outcome(first_seed + index, 2, 2000, slowness);
            outcome.started_unix_ms += index * 10_000 + first_seed;
            outcome
        })
        .collect()
}

#[test]
fn outcomes_are_compared_by_their_metrics() {
    let comparison = compare(&some_runs(5, 0, 1.0), &some_runs(5, 100, 1.5));
    let of = |metric| comparison.metrics.iter().find(|m| m.metric == metric).unwrap();
    assert_eq!(of(Metric::P50Us).finding, Finding::ABetter);
    let ratio = of(Metric::P50Us).ratio;
    assert!((0.66..0.70).contains(&ratio), "{ratio}");
    assert_eq!(of(Metric::ServerCpuUsPerMessage).finding, Finding::NoDifferenceShown);
    assert_eq!(comparison.metrics.len(), 5);
    let text = comparison.to_string();
    for part in ["Runs of A: 5, runs of B: 5", "Rank-sum", "A is faster", "96.8 %"] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
}

#[test]
fn one_run_each_gives_intervals_but_no_finding() {
    let a = synthetic::outcome(1, 30, 500, 1.0);
    let b = synthetic::outcome(2, 30, 500, 2.0);
    let comparison = compare(&[a], &[b]);
    let p50 = &comparison.metrics[0];
    let interval = p50.interval.unwrap();
    assert_eq!((p50.finding, interval.method), (Finding::TooFewRuns, Method::BlockBootstrap));
    assert!(interval.low < p50.ratio && p50.ratio < interval.high, "{p50:?}");
    assert!((0.45..0.6).contains(&interval.low) && interval.high < 0.6, "{interval:?}");
    assert!(comparison.warnings[0].starts_with("One run of each side"));
    let text = comparison.to_string();
    assert!(text.contains("too few runs to say") && !text.contains("faster"), "{text}");
}

/// Of 40 pairs two are expected outside, and eight or more are one chance in a thousand.
#[test]
fn the_intervals_of_two_equal_runs_hold_equality() {
    let held = (0..40).filter(|&seed| {
        let a = synthetic::outcome(seed, 30, 200, 1.0);
        let b = synthetic::outcome(1000 + seed, 30, 200, 1.0);
        let interval = compare(&[a], &[b]).metrics[0].interval.unwrap();
        interval.low <= 1.0 && 1.0 <= interval.high
    });
    let held = held.count();
    assert!(held > 32, "{held}");
}

#[test]
fn invalid_runs_are_left_out_and_told() {
    let mut a = some_runs(5, 0, 1.0);
    a[3].judgement.verdict = Verdict::Invalid;
    a[4].judgement.verdict = Verdict::Failed;
    let comparison = compare(&a, &[]);
    assert_eq!((comparison.runs_a, comparison.runs_b), (4, 0));
    assert!(comparison.metrics.is_empty());
    let told = ["Invalid runs of A, left out: 1", "Failed runs of A: 1", "no run of B"];
    for (warning, part) in comparison.warnings.iter().zip(told) {
        assert!(warning.contains(part), "{warning}");
    }
    assert_eq!(comparison.warnings.len(), told.len());
}

#[test]
fn unlike_loads_and_runs_without_turns_are_told() {
    let a = some_runs(2, 0, 1.0);
    let mut b = some_runs(2, 100_000, 1.0);
    b[1].scenario.payload_bytes = 7;
    b[1].scenario.target.url = "ws://other:1/".to_owned();
    let warnings = compare(&a, &b).warnings.join("\n");
    assert!(warnings.contains("same load: payload_bytes differ"), "{warnings}");
    assert!(warnings.contains("Take turns"), "{warnings}");
    let turns = compare(&a, &some_runs(2, 5, 1.0)).warnings.join("\n");
    assert!(!turns.contains("Take turns") && !turns.contains("same load"), "{turns}");
}
