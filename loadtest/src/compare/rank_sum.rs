//! The shift between two samples by the rank-sum test: the median of all pairwise differences, and
//! the interval of shifts that the test does not refuse. It assumes nothing of the distribution but
//! that the values of a sample are independent and that both samples have one shape.

/// Of the values of A against those of B.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Shift {
    pub(super) median: f64,
    /// Nothing if there are too few values for the level.
    pub(super) interval: Option<Interval>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Interval {
    pub(super) low: f64,
    pub(super) high: f64,
    /// Ranks come in steps, so this is the level asked for or more.
    pub(super) level: f64,
}

/// Both samples have at least one value.
pub(super) fn shift(a: &[f64], b: &[f64], level: f64) -> Shift {
    let mut differences: Vec<f64> = a.iter().flat_map(|a| b.iter().map(move |b| a - b)).collect();
    differences.sort_by(f64::total_cmp);
    let tail = tail(a.len(), b.len(), (1.0 - level) / 2.0);
    let interval = tail.map(|tail| Interval {
        low: differences[tail.refused - 1],
        high: differences[differences.len() - tail.refused],
        level: 1.0 - 2.0 * tail.chance,
    });
    Shift { median: super::median(&differences), interval }
}

/// How far into each end of the ordered differences the interval reaches.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Tail {
    /// The interval ends at the difference with this number, from 1.
    refused: usize,
    /// That the true shift lies beyond one end.
    chance: f64,
}

/// Samples up to this size have their distribution counted out.
const COUNTED_SIZE: usize = 40;

fn tail(n: usize, m: usize, chance_max: f64) -> Option<Tail> {
    if n.max(m) > COUNTED_SIZE {
        return approximate_tail(n, m, chance_max);
    }
    let mut below = 0.0;
    let mut tail = None;
    // With u pairs in the wrong order, the end moves to the difference with number u + 1.
    for (u, chance) in distribution(n, m).into_iter().enumerate() {
        below += chance;
        if below > chance_max {
            break;
        }
        tail = Some(Tail { refused: u + 1, chance: below });
    }
    tail
}

/// The chance of each number of pairs in which A's value is above B's, if both are alike.
fn distribution(n: usize, m: usize) -> Vec<f64> {
    let most = n * m;
    // ways[j][u] for i values of A and j of B: the largest of all is either A's, and above all j, or
    // B's, and above none.
    let mut ways = vec![vec![0.0; most + 1]; m + 1];
    for row in &mut ways {
        row[0] = 1.0;
    }
    for i in 1..=n {
        let mut next = vec![vec![0.0; most + 1]; m + 1];
        next[0][0] = 1.0;
        for j in 1..=m {
            for u in 0..=i * j {
                let from_a = if u >= j { ways[j][u - j] } else { 0.0 };
                next[j][u] = from_a + next[j - 1][u];
            }
        }
        ways = next;
    }
    let ways = ways.swap_remove(m);
    let all: f64 = ways.iter().sum();
    ways.into_iter().map(|number| number / all).collect()
}

/// By the normal distribution, which is exact enough for so many values.
fn approximate_tail(n: usize, m: usize, chance_max: f64) -> Option<Tail> {
    let (n, m) = (n as f64, m as f64);
    let deviation = (n * m * (n + m + 1.0) / 12.0).sqrt();
    let refused = (n * m / 2.0 - normal_quantile(chance_max) * deviation).floor();
    (refused >= 1.0).then_some(Tail { refused: refused as usize, chance: chance_max })
}

/// How many deviations above the mean a value is with `chance` beyond it; by bisection of the tail.
fn normal_quantile(chance: f64) -> f64 {
    let (mut low, mut high) = (0.0, 10.0);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if upper_tail(middle) > chance { low = middle } else { high = middle }
    }
    low
}

/// Abramowitz and Stegun 26.2.17; its error is below 1e-7.
fn upper_tail(z: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.231_641_9 * z);
    let coefficients =
        [0.319_381_530, -0.356_563_782, 1.781_477_937, -1.821_255_978, 1.330_274_429];
    let series = coefficients.iter().rev().fold(0.0, |sum, coefficient| (sum + coefficient) * t);
    series * (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the printed tables of the test, two-sided at 5 %: the largest sum that is refused.
    #[test]
    fn the_ends_are_those_of_the_tables() {
        for (n, m, largest) in
            [(4, 4, 0), (5, 5, 2), (8, 8, 13), (10, 10, 23), (5, 10, 8), (20, 20, 127)]
        {
            let tail = tail(n, m, 0.025).unwrap();
            assert_eq!(tail.refused - 1, largest, "{n} and {m}");
            assert!(tail.chance <= 0.025);
        }
    }

    #[test]
    fn three_and_three_are_too_few() {
        assert_eq!(tail(3, 3, 0.025), None);
        assert_eq!(tail(1, 1, 0.025), None);
        assert_eq!(tail(1, 38, 0.025), None);
        assert!(tail(1, 39, 0.025).is_some());
    }

    #[test]
    fn the_approximation_continues_the_counted_distribution() {
        let counted = tail(40, 40, 0.025).unwrap().refused;
        let approximate = approximate_tail(40, 40, 0.025).unwrap().refused;
        assert!(counted.abs_diff(approximate) <= 1, "{counted} and {approximate}");
    }

    #[test]
    fn a_shift_is_the_median_of_all_differences() {
        let a = [11.0, 12.0, 13.0, 14.0];
        let b = [1.0, 2.0, 3.0, 4.0];
        let shift = shift(&a, &b, 0.95);
        assert_eq!(shift.median, 10.0);
        let interval = shift.interval.unwrap();
        assert_eq!((interval.low, interval.high), (7.0, 13.0));
        assert!((interval.level - (1.0 - 2.0 / 70.0)).abs() < 1e-12);
    }
}
