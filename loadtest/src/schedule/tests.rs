use proptest::prelude::*;

use super::*;

const TEN_SECONDS: Duration = Duration::from_secs(10);

fn offsets(arrival: &Arrival, seed: u64) -> Vec<u64> {
    Schedule::new(arrival, TEN_SECONDS, seed).collect()
}

#[test]
fn constant_events_are_evenly_spaced_without_drift() {
    let plan = offsets(&Arrival::Constant { rate: 3.0, window: None }, 1);
    assert_eq!(plan.len(), 30);
    assert_eq!(plan[..4], [0, 333_333_333, 666_666_666, 1_000_000_000]);
    assert_eq!(plan[27], 9_000_000_000);
    for rate in [450_u32, 7, 999, 123_457] {
        let arrival = Arrival::Constant { rate: f64::from(rate), window: None };
        assert_eq!(offsets(&arrival, 1).len(), 10 * rate as usize, "none at the horizon itself");
    }
}

#[test]
fn poisson_has_its_rate_and_the_gaps_of_an_exponential() {
    let plan = offsets(&Arrival::Poisson { rate: 10_000.0, window: None }, 1);
    // Four standard deviations of a Poisson count of 100 000.
    assert!(plan.len().abs_diff(100_000) < 1265, "{}", plan.len());
    let gaps: Vec<f64> = plan.windows(2).map(|pair| (pair[1] - pair[0]) as f64).collect();
    let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
    let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
    assert!((variance.sqrt() / mean - 1.0).abs() < 0.03, "{}", variance.sqrt() / mean);
}

#[test]
fn bursts_come_together_and_hold_the_rate_on_average() {
    let plan = offsets(&Arrival::Burst { rate: 100.0, size: 50, window: None }, 1);
    assert_eq!(plan.len(), 1000);
    assert!(plan.chunks(50).enumerate().all(|(burst, together)| {
        together.iter().all(|&offset| offset == burst as u64 * 500_000_000)
    }));
}

#[test]
fn a_ramp_is_the_integral_of_its_rate() {
    for (from, to) in [(0.0, 1000.0), (1000.0, 0.0), (200.0, 200.0), (100.0, 900.0)] {
        let plan = offsets(&Arrival::Ramp { from, to, window: None }, 1);
        let whole = (from + to) / 2.0 * 10.0;
        assert!((plan.len() as f64 - whole).abs() <= 1.0, "{from} to {to}: {}", plan.len());
        for seconds in 1..10 {
            let t = f64::from(seconds);
            let expected = from * t + (to - from) / 10.0 * t * t / 2.0;
            let so_far = plan.partition_point(|&offset| offset < seconds as u64 * 1_000_000_000);
            assert!((so_far as f64 - expected).abs() <= 1.0, "{from} to {to} at {t} s: {so_far}");
        }
    }
}

#[test]
fn a_replay_is_what_was_recorded_up_to_the_end() {
    let recorded = vec![5, 5, 900, 9_999_999_999, 10_000_000_000];
    let arrival = Arrival::Replay { file: String::new(), offsets: recorded.clone(), window: None };
    assert_eq!(offsets(&arrival, 1), recorded[..4]);
}

#[test]
fn closed_loops_and_rates_of_nothing_plan_nothing() {
    assert!(offsets(&Arrival::Closed { in_flight: 1 }, 1).is_empty());
    assert!(offsets(&Arrival::Poisson { rate: 0.0, window: None }, 1).is_empty());
    assert!(offsets(&Arrival::Ramp { from: 0.0, to: 0.0, window: None }, 1).is_empty());
}

#[test]
fn a_seed_decides_the_plan() {
    let arrival = Arrival::Poisson { rate: 100.0, window: None };
    assert_eq!(offsets(&arrival, 7), offsets(&arrival, 7));
    assert_ne!(offsets(&arrival, 7), offsets(&arrival, 8));
}

fn arrivals() -> impl Strategy<Value = Arrival> {
    let rate = 1.0..500.0_f64;
    prop_oneof![
        rate.clone().prop_map(|rate| Arrival::Constant { rate, window: None }),
        rate.clone().prop_map(|rate| Arrival::Poisson { rate, window: None }),
        (rate.clone(), 1..20_u32).prop_map(|(rate, size)| Arrival::Burst {
            rate,
            size,
            window: None
        }),
        (rate.clone(), rate).prop_map(|(from, to)| Arrival::Ramp { from, to, window: None }),
    ]
}

proptest! {
    #[test]
    fn the_shares_of_all_threads_are_the_plan(
        arrival in arrivals(),
        seed: u64,
        groups in 1..20_usize,
        group in 1..3_usize,
        threads in 1..6_usize,
    ) {
        let deal = Deal { senders: groups * group, group, threads };
        let whole = Schedule::new(&arrival, TEN_SECONDS, seed);
        let mut expected: Vec<(u64, usize, usize)> = Vec::new();
        for (number, offset) in whole.clone().enumerate() {
            let (thread, sender) = deal.place(number % deal.senders);
            expected.push((offset, thread, sender));
        }
        let mut united = Vec::new();
        for thread in 0..threads {
            let share: Vec<Due> = Share::new(whole.clone(), deal, thread).collect();
            prop_assert!(share.is_sorted_by_key(|due| due.offset));
            prop_assert!(share.iter().all(|due| due.sender < deal.senders_of(thread)));
            united.extend(share.iter().map(|due| (due.offset, thread, due.sender)));
        }
        expected.sort_unstable();
        united.sort_unstable();
        prop_assert_eq!(united, expected);
    }

    #[test]
    fn every_sender_has_a_place_of_its_own(
        groups in 1..50_usize,
        group in 1..3_usize,
        threads in 1..6_usize,
    ) {
        let deal = Deal { senders: groups * group, group, threads };
        let mut places: Vec<_> = (0..deal.senders).map(|sender| deal.place(sender)).collect();
        places.sort_unstable();
        places.dedup();
        prop_assert_eq!(places.len(), deal.senders);
    }
}
