//! Deadlines of slots: a hierarchical timing wheel with at most one deadline per slot.
//!
//! What a deadline means is kept by its owner. Setting, moving and cancelling cost the same few
//! stores however many deadlines there are; time may jump by hours without a walk over the ticks
//! in between.

use std::time::Duration;

use crate::clock::Instant;

/// Resolution. A deadline expires at the first whole tick that is not before it.
pub const TICK: Duration = Duration::from_millis(4);

const TICK_NS: u64 = TICK.as_nanos() as u64;

/// Each level splits one bucket of the level above in 64; eight of them span all of `u64`
/// nanoseconds.
const LEVEL_BITS: u32 = 6;
const LEVELS: usize = 8;
const BUCKETS: usize = LEVELS << LEVEL_BITS;

/// Links per chunk of the side array.
const CHUNK: usize = 256;

const NONE: u32 = u32::MAX;

/// One shard's deadlines. 16 bytes for each slot up to the highest one in use.
///
/// A deadline at tick `t` is kept on the level of the highest 6-bit digit in which `t` differs
/// from `current`, in the bucket of that digit. Therefore every deadline of one level is earlier
/// than any of the next, within a level buckets are in order, and nothing wraps.
#[derive(Debug)]
pub struct Timers {
    /// No deadline is earlier than this tick.
    current: u64,
    /// Tick of the last [`Self::pop_expired`]; `current <= polled`.
    polled: u64,
    /// Bit `l` is set when level `l` has a deadline.
    levels: u8,
    /// Bit `b` of entry `l` is set when that bucket has a deadline.
    occupied: [u64; LEVELS],
    buckets: Box<[Bucket; BUCKETS]>,
    links: Vec<Box<[Link; CHUNK]>>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    first: u32,
    /// Earliest tick in the list; `None` when that one was cancelled and the list must be read.
    earliest: Option<u64>,
}

/// A slot's place in its bucket's doubly linked list.
#[derive(Debug, Clone, Copy)]
struct Link {
    previous: u32,
    next: u32,
    place: Place,
}

/// Tick and bucket in 8 bytes: a tick has at most 43 bits, a bucket 9.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place(u64);

impl Place {
    const UNSET: Self = Self(u64::MAX);

    fn new(tick: u64, bucket: usize) -> Self {
        Self(tick << 9 | bucket as u64)
    }

    fn tick(self) -> u64 {
        self.0 >> 9
    }

    fn bucket(self) -> usize {
        (self.0 & 0x1FF) as usize
    }
}

const _: () = assert!(size_of::<Link>() == 16, "what a slot pays for its deadline");
const _: () = assert!(BUCKETS == 1 << 9, "Place has 9 bits for the bucket");

impl Timers {
    #[must_use]
    pub fn new(now: Instant) -> Self {
        let tick = now.0 / TICK_NS;
        Self {
            current: tick,
            polled: tick,
            levels: 0,
            occupied: [0; LEVELS],
            buckets: Box::new([Bucket { first: NONE, earliest: None }; BUCKETS]),
            links: Vec::new(),
        }
    }

    /// Makes sure that `slot` has a deadline at `at` or earlier.
    pub fn set_by(&mut self, slot: u32, at: Instant) {
        if self.place(slot).is_none_or(|place| self.tick_of(at) < place.tick()) {
            self.set(slot, at);
        }
    }

    /// Sets or moves the deadline of `slot`. One that has passed expires at the next tick, so
    /// that a loop over [`Self::pop_expired`] ends even if each round sets a deadline in the past.
    pub fn set(&mut self, slot: u32, at: Instant) {
        self.cancel(slot);
        while self.links.len() <= slot as usize / CHUNK {
            let unset = Link { previous: NONE, next: NONE, place: Place::UNSET };
            self.links.push(Box::new([unset; CHUNK]));
        }
        self.insert(slot, self.tick_of(at));
    }

    /// Forgets the deadline of `slot`, if it has one.
    pub fn cancel(&mut self, slot: u32) {
        if self.is_set(slot) {
            self.unlink(slot);
        }
    }

    #[must_use]
    pub fn is_set(&self, slot: u32) -> bool {
        self.place(slot).is_some()
    }

    /// Takes one slot whose deadline has passed; `None` when there is none left. In order of
    /// ticks, in any order within a tick.
    pub fn pop_expired(&mut self, now: Instant) -> Option<u32> {
        self.polled = self.polled.max(now.0 / TICK_NS);
        loop {
            let next = self.first_bucket().filter(|&(_, start)| start <= self.polled);
            let Some((bucket, start)) = next else {
                // Every bucket starts later than this, so each deadline still differs from the new
                // `current` in the digit of its level.
                self.current = self.polled;
                return None;
            };
            self.current = start;
            if bucket < 1 << LEVEL_BITS {
                let slot = self.buckets[bucket].first;
                self.unlink(slot);
                return Some(slot);
            }
            self.spread(bucket);
        }
    }

    /// The moment from which [`Self::pop_expired`] yields a slot: never before the earliest
    /// deadline, less than one [`TICK`] after it.
    #[must_use]
    pub fn next_deadline(&mut self) -> Option<Instant> {
        let (bucket, start) = self.first_bucket()?;
        let tick = if bucket < 1 << LEVEL_BITS { start } else { self.earliest_in(bucket) };
        Some(Instant(tick.saturating_mul(TICK_NS)))
    }

    /// The earliest bucket that has a deadline, and the first tick that belongs to it.
    fn first_bucket(&self) -> Option<(usize, u64)> {
        if self.levels == 0 {
            return None;
        }
        let level = self.levels.trailing_zeros();
        let digit = self.occupied[level as usize].trailing_zeros();
        let shift = level * LEVEL_BITS;
        let above = self.current >> (shift + LEVEL_BITS) << (shift + LEVEL_BITS);
        Some(((level << LEVEL_BITS | digit) as usize, above | u64::from(digit) << shift))
    }

    /// Moves the deadlines of a bucket that `current` has entered to lower levels.
    fn spread(&mut self, bucket: usize) {
        let mut slot = self.buckets[bucket].first;
        self.clear(bucket);
        while slot != NONE {
            let link = *self.link(slot);
            self.insert(slot, link.place.tick());
            slot = link.next;
        }
    }

    fn earliest_in(&mut self, bucket: usize) -> u64 {
        if let Some(tick) = self.buckets[bucket].earliest {
            return tick;
        }
        let mut slot = self.buckets[bucket].first;
        let mut earliest = u64::MAX;
        while slot != NONE {
            let link = self.link(slot);
            earliest = earliest.min(link.place.tick());
            slot = link.next;
        }
        self.buckets[bucket].earliest = Some(earliest);
        earliest
    }

    fn insert(&mut self, slot: u32, tick: u64) {
        let bucket = self.bucket_of(tick);
        let next = self.buckets[bucket].first;
        *self.link(slot) = Link { previous: NONE, next, place: Place::new(tick, bucket) };
        let earliest = if next == NONE {
            self.occupied[bucket >> LEVEL_BITS] |= 1 << (bucket & 63);
            self.levels |= 1 << (bucket >> LEVEL_BITS);
            Some(tick)
        } else {
            self.link(next).previous = slot;
            self.buckets[bucket].earliest.map(|earliest| earliest.min(tick))
        };
        self.buckets[bucket] = Bucket { first: slot, earliest };
    }

    fn unlink(&mut self, slot: u32) {
        let Link { previous, next, place } = *self.link(slot);
        self.link(slot).place = Place::UNSET;
        if next != NONE {
            self.link(next).previous = previous;
        }
        let bucket = &mut self.buckets[place.bucket()];
        if bucket.earliest == Some(place.tick()) {
            bucket.earliest = None;
        }
        if previous != NONE {
            self.link(previous).next = next;
        } else if next != NONE {
            bucket.first = next;
        } else {
            self.clear(place.bucket());
        }
    }

    fn clear(&mut self, bucket: usize) {
        self.buckets[bucket] = Bucket { first: NONE, earliest: None };
        let level = bucket >> LEVEL_BITS;
        self.occupied[level] &= !(1 << (bucket & 63));
        if self.occupied[level] == 0 {
            self.levels &= !(1 << level);
        }
    }

    /// Where the deadline of `slot` is kept, if it has one.
    fn place(&self, slot: u32) -> Option<Place> {
        let chunk = self.links.get(slot as usize / CHUNK)?;
        Some(chunk[slot as usize % CHUNK].place).filter(|place| *place != Place::UNSET)
    }

    /// When a deadline at `at` expires: never at a tick that was polled.
    fn tick_of(&self, at: Instant) -> u64 {
        at.0.div_ceil(TICK_NS).max(self.polled + 1)
    }

    fn bucket_of(&self, tick: u64) -> usize {
        let differs = (tick ^ self.current) | 1;
        let level = (63 - differs.leading_zeros()) / LEVEL_BITS;
        let digit = tick >> (level * LEVEL_BITS) & 63;
        (level << LEVEL_BITS) as usize | digit as usize
    }

    fn link(&mut self, slot: u32) -> &mut Link {
        &mut self.links[slot as usize / CHUNK][slot as usize % CHUNK]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Set { slot: u32, after: u64 },
        SetBy { slot: u32, after: u64 },
        SetInThePast { slot: u32, before: u64 },
        Cancel { slot: u32 },
        Wait { by: u64 },
        WaitForNext,
    }

    /// From within a tick to weeks, and right at the edges between levels.
    fn span() -> impl Strategy<Value = u64> {
        let edge =
            (0u32..6, 0u64..3).prop_map(|(level, off)| (64u64.pow(level) + off - 1) * TICK_NS);
        prop_oneof![
            3 => 0..3 * TICK_NS,
            3 => 0..500 * TICK_NS,
            2 => 0..2_000_000 * TICK_NS,
            2 => edge,
        ]
    }

    fn step() -> impl Strategy<Value = Step> {
        let slot = || prop_oneof![4 => 0u32..6, 1 => 250u32..600];
        prop_oneof![
            5 => (slot(), span()).prop_map(|(slot, after)| Step::Set { slot, after }),
            2 => (slot(), span()).prop_map(|(slot, after)| Step::SetBy { slot, after }),
            1 => (slot(), span()).prop_map(|(slot, before)| Step::SetInThePast { slot, before }),
            2 => slot().prop_map(|slot| Step::Cancel { slot }),
            2 => span().prop_map(|by| Step::Wait { by }),
            2 => Just(Step::WaitForNext),
        ]
    }

    /// The wheel beside what it promises.
    struct Pair {
        timers: Timers,
        now: Instant,
        deadlines: BTreeMap<u32, Instant>,
    }

    impl Pair {
        fn apply(&mut self, step: &Step) {
            match *step {
                Step::Set { slot, after } => self.set(slot, Instant(self.now.0 + after)),
                Step::SetBy { slot, after } => {
                    let at = Instant(self.now.0 + after);
                    self.timers.set_by(slot, at);
                    let known = self.deadlines.entry(slot).or_insert(at);
                    *known = at.min(*known);
                }
                Step::SetInThePast { slot, before } => {
                    self.set(slot, Instant(self.now.0.saturating_sub(before)));
                }
                Step::Cancel { slot } => {
                    self.timers.cancel(slot);
                    self.deadlines.remove(&slot);
                }
                Step::Wait { by } => {
                    self.now.0 += by;
                    self.expire();
                }
                Step::WaitForNext => {
                    if let Some(next) = self.timers.next_deadline() {
                        self.now = self.now.max(Instant(next.0 - 1));
                        assert_eq!(self.expire(), 0, "nothing expires before the next deadline");
                        self.now = next;
                        assert!(self.expire() > 0, "something expires at the next deadline");
                    }
                }
            }
            self.check_next();
        }

        fn set(&mut self, slot: u32, at: Instant) {
            self.timers.set(slot, at);
            self.deadlines.insert(slot, at.max(self.now));
        }

        fn expire(&mut self) -> usize {
            let mut count = 0;
            while let Some(slot) = self.timers.pop_expired(self.now) {
                let deadline = self.deadlines.remove(&slot).expect("only what is set expires");
                assert!(deadline <= self.now, "slot {slot} expired early");
                count += 1;
            }
            let late = self.deadlines.values().find(|at| **at + TICK <= self.now);
            assert_eq!(late, None, "a deadline was missed by a whole tick");
            count
        }

        fn check_next(&mut self) {
            let next = self.timers.next_deadline();
            let earliest = self.deadlines.values().min().copied();
            assert_eq!(next.is_some(), earliest.is_some());
            if let (Some(next), Some(earliest)) = (next, earliest) {
                assert!(next >= earliest && next - earliest <= TICK, "{next:?} for {earliest:?}");
            }
            for slot in 0..600 {
                assert_eq!(self.timers.is_set(slot), self.deadlines.contains_key(&slot));
            }
        }
    }

    proptest! {
        #[test]
        fn deadlines_expire_never_early_and_less_than_a_tick_late(
            start in span(),
            steps in proptest::collection::vec(step(), 1..120),
        ) {
            let now = Instant(start);
            let mut pair = Pair { timers: Timers::new(now), now, deadlines: BTreeMap::new() };
            for step in &steps {
                pair.apply(step);
            }
        }
    }

    #[test]
    fn a_loop_that_sets_deadlines_in_the_past_ends() {
        let mut timers = Timers::new(Instant(0));
        let now = Instant::default() + Duration::from_secs(3600);
        timers.set(0, Instant(1));
        let mut rounds = 0;
        while let Some(slot) = timers.pop_expired(now) {
            timers.set(slot, Instant(1));
            rounds += 1;
        }
        assert_eq!(rounds, 1);
        assert_eq!(timers.pop_expired(now + TICK), Some(0));
    }

    #[test]
    fn a_deadline_at_the_end_of_time_is_kept_and_holds_nothing_up() {
        let mut timers = Timers::new(Instant(0));
        timers.set(0, Instant(u64::MAX));
        timers.set(1, Instant(5));
        assert_eq!(timers.pop_expired(Instant(u64::MAX / 2)), Some(1));
        assert_eq!(timers.pop_expired(Instant(u64::MAX / 2)), None);
        assert!(timers.is_set(0));
        assert_eq!(timers.next_deadline(), Some(Instant(u64::MAX)));
    }

    #[test]
    fn a_clock_that_steps_back_expires_nothing_twice() {
        let mut timers = Timers::new(Instant(0));
        let late = Instant(100 * TICK_NS);
        timers.set(3, Instant(50 * TICK_NS));
        assert_eq!(timers.pop_expired(late), Some(3));
        timers.set(3, Instant(60 * TICK_NS));
        assert_eq!(timers.pop_expired(Instant(70 * TICK_NS)), None);
        assert_eq!(timers.pop_expired(late + TICK), Some(3));
    }
}
