//! A histogram that costs two instructions to find the bucket and one to count. Its buckets are
//! those of [`Series`], so nothing is lost when a finished one is turned into a series.

use crate::outcome::Series;

/// Values up to here have a bucket each; above, 1024 buckets share each power of two: what three
/// significant digits need.
const EXACT: u64 = 2048;
const HALF: u64 = EXACT / 2;
/// Values of 2⁴² ns (an hour and more) and above count in the last bucket.
const BITS: u32 = 42;
const COUNT: usize = (EXACT + (BITS as u64 - 11) * HALF) as usize;

#[derive(Clone, Debug)]
pub(crate) struct Buckets {
    counts: Box<[u64]>,
}

impl Default for Buckets {
    fn default() -> Self {
        Self { counts: vec![0; COUNT].into_boxed_slice() }
    }
}

impl Buckets {
    #[inline]
    pub(crate) fn record(&mut self, nanoseconds: u64) {
        let value = nanoseconds.min((1 << BITS) - 1);
        let shift = (53 - (value | HALF).leading_zeros()) as u64;
        self.counts[(shift * HALF + (value >> shift)) as usize] += 1;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
    }

    pub(crate) fn add_to(&self, series: &mut Series) {
        for (index, &count) in self.counts.iter().enumerate() {
            if count > 0 {
                // The bounds of a series contain every bucket but the last few, which saturate.
                let value = lowest(index as u64).min(series.0.high());
                series.0.record_n(value, count).expect("a value within the bounds");
            }
        }
    }

    pub(crate) fn series(&self) -> Series {
        let mut series = Series::new();
        self.add_to(&mut series);
        series
    }
}

/// The lowest value of a bucket.
fn lowest(index: u64) -> u64 {
    match (index / HALF).checked_sub(1) {
        None | Some(0) => index,
        Some(shift) => (index - shift * HALF) << shift,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_series_is_the_one_that_recording_into_it_makes(
            values in prop::collection::vec((0..42_u32, any::<u64>()), 1..200)
        ) {
            let mut buckets = Buckets::default();
            let mut series = Series::new();
            for (bits, value) in values {
                let value = (value & ((1 << bits) - 1)).min(series.0.high());
                buckets.record(value);
                series.record(value);
            }
            let found = buckets.series();
            prop_assert_eq!(&found.0, &series.0);
        }
    }

    #[test]
    fn what_is_longer_than_everything_counts_in_the_last_bucket() {
        let mut buckets = Buckets::default();
        buckets.record(u64::MAX);
        assert_eq!(buckets.series().0.len(), 1);
    }
}
