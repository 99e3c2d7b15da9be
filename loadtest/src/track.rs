//! Bookkeeping of one sender's sequence numbers at one receiver: what came for the first time,
//! again, late, or never. Exact for any order; the memory it needs grows with what is missing, not
//! with what came.

use std::collections::BTreeMap;

/// How one arrival stands to those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// For the first time, and later than none of a higher number.
    InOrder,
    /// For the first time, after one of a higher number: RFC 4737, section 3.
    Late,
    Again,
}

/// Numbers in the window: a power of two.
const WINDOW: u64 = 1024;
const WORDS: usize = (WINDOW / 64) as usize;

/// The numbers of one sender that one receiver has seen.
#[derive(Clone, Debug)]
pub(crate) struct Track {
    /// One above the highest number seen.
    next: u64,
    distinct: u64,
    /// Bits of the numbers from `next - WINDOW` to `next`, at their number modulo `WINDOW`. Not
    /// there as long as everything came in order.
    window: Option<Box<[u64; WORDS]>>,
    /// Missing numbers older than the window: first to last.
    holes: BTreeMap<u64, u64>,
}

impl Default for Track {
    fn default() -> Self {
        Self::new()
    }
}

impl Track {
    pub(crate) fn new() -> Self {
        Self { next: 0, distinct: 0, window: None, holes: BTreeMap::new() }
    }

    #[inline]
    pub(crate) fn arrive(&mut self, number: u64) -> Seen {
        if number == self.next && self.window.is_none() {
            self.next += 1;
            self.distinct += 1;
            return Seen::InOrder;
        }
        self.arrive_with_gaps(number)
    }

    /// One above the highest number seen.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// How many different numbers have come.
    pub(crate) fn distinct(&self) -> u64 {
        self.distinct
    }

    /// How many numbers below `end` have not come.
    pub(crate) fn missing_below(&self, end: u64) -> u64 {
        let beyond = end.saturating_sub(self.next);
        let Some(window) = &self.window else {
            return beyond;
        };
        let old = self.holes.range(..end).map(|(&first, &last)| last.min(end - 1) - first + 1);
        let recent = (self.next.saturating_sub(WINDOW)..self.next.min(end))
            .filter(|&number| !is_set(window, number));
        beyond + old.sum::<u64>() + recent.count() as u64
    }

    fn arrive_with_gaps(&mut self, number: u64) -> Seen {
        if number >= self.next {
            self.advance(number);
            self.distinct += 1;
            return Seen::InOrder;
        }
        let first_time = if number + WINDOW >= self.next {
            // Without a window everything below `next` has come.
            self.window.as_mut().is_some_and(|window| !set(window, number))
        } else {
            self.fill_hole(number)
        };
        if !first_time {
            return Seen::Again;
        }
        self.distinct += 1;
        if self.distinct == self.next {
            self.window = None; // nothing is missing any more
        }
        Seen::Late
    }

    /// Moves the window so that `number` is its newest.
    fn advance(&mut self, number: u64) {
        let window = self.window.get_or_insert_with(|| Box::new([u64::MAX; WORDS]));
        let end = number + 1;
        let slide = (end - self.next).min(WINDOW);
        // Of what leaves the window, the missing become holes. Before the first WINDOW numbers
        // there are none: their bits were set from the start.
        for leaving in (self.next..self.next + slide).map(|entering| entering.checked_sub(WINDOW)) {
            if let Some(leaving) = leaving
                && !is_set(window, leaving)
            {
                add_hole(&mut self.holes, leaving, leaving);
            }
        }
        // A jump over more than the window leaves a hole that was never in it.
        if end - self.next > WINDOW {
            add_hole(&mut self.holes, self.next, end - WINDOW - 1);
        }
        for entering in end - slide..number {
            clear(window, entering);
        }
        set(window, number);
        self.next = end;
    }

    fn fill_hole(&mut self, number: u64) -> bool {
        let Some((&first, &last)) = self.holes.range(..=number).next_back() else {
            return false;
        };
        if last < number {
            return false;
        }
        self.holes.remove(&first);
        if first < number {
            self.holes.insert(first, number - 1);
        }
        if number < last {
            self.holes.insert(number + 1, last);
        }
        true
    }
}

/// `first` is above every number in `holes`.
fn add_hole(holes: &mut BTreeMap<u64, u64>, first: u64, last: u64) {
    if let Some(mut newest) = holes.last_entry()
        && *newest.get() + 1 == first
    {
        *newest.get_mut() = last;
        return;
    }
    holes.insert(first, last);
}

fn is_set(window: &[u64; WORDS], number: u64) -> bool {
    window[(number % WINDOW / 64) as usize] >> (number % 64) & 1 == 1
}

/// Says whether it was set before.
fn set(window: &mut [u64; WORDS], number: u64) -> bool {
    let word = &mut window[(number % WINDOW / 64) as usize];
    let before = *word >> (number % 64) & 1 == 1;
    *word |= 1 << (number % 64);
    before
}

fn clear(window: &mut [u64; WORDS], number: u64) {
    window[(number % WINDOW / 64) as usize] &= !(1 << (number % 64));
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[derive(Default)]
    struct Naive(BTreeSet<u64>);

    impl Naive {
        fn arrive(&mut self, number: u64) -> Seen {
            let highest = self.0.last().copied();
            if !self.0.insert(number) {
                Seen::Again
            } else if highest.is_some_and(|highest| number < highest) {
                Seen::Late
            } else {
                Seen::InOrder
            }
        }

        fn missing_below(&self, end: u64) -> u64 {
            end - self.0.range(..end).count() as u64
        }
    }

    /// Mostly forward, with repetitions, steps back and jumps of every size.
    fn arrivals() -> impl Strategy<Value = Vec<u64>> {
        let step = prop_oneof![
            20 => Just(1_i64),
            2 => -8..8_i64,
            1 => -3000..3000_i64,
            1 => 900..1200_i64,
        ];
        prop::collection::vec(step, 1..2000).prop_map(|steps| {
            let mut at = -1_i64;
            steps
                .iter()
                .map(|step| {
                    at = (at + step).max(0);
                    at as u64
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn it_counts_as_a_plain_set_does(numbers in arrivals(), ends in prop::collection::vec(0..4000_u64, 3)) {
            let (mut track, mut naive) = (Track::new(), Naive::default());
            for number in numbers {
                prop_assert_eq!(track.arrive(number), naive.arrive(number), "{}", number);
                prop_assert_eq!(track.distinct(), naive.0.len() as u64);
            }
            for end in ends {
                prop_assert_eq!(track.missing_below(end), naive.missing_below(end), "{}", end);
            }
        }

        #[test]
        fn any_order_of_all_numbers_leaves_nothing_missing(
            numbers in Just((0..3000_u64).collect::<Vec<_>>()).prop_shuffle()
        ) {
            let mut track = Track::new();
            for &number in &numbers {
                prop_assert_ne!(track.arrive(number), Seen::Again);
            }
            prop_assert_eq!((track.distinct(), track.missing_below(3000)), (3000, 0));
            prop_assert!(track.holes.is_empty() && track.window.is_none());
        }
    }

    #[test]
    fn a_jump_of_a_billion_costs_one_hole() {
        let mut track = Track::new();
        track.arrive(0);
        track.arrive(1_000_000_000);
        assert_eq!(track.missing_below(1_000_000_001), 999_999_999);
        assert_eq!(track.holes.len(), 1);
    }
}
