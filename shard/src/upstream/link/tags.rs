//! Tags of outstanding calls: unique, consecutive, and found again in one step.

use crate::clock::Instant;

/// The outstanding calls of one link, oldest first. `outstanding <= max`.
///
/// Tags are consecutive and skip those whose place (`tag & mask`) is taken, so one number names a
/// place and a tag comes back only after some 2³¹ others: far beyond the 60 s in which it must
/// not. At most half of the places are taken, so a skip costs less than one step per call.
#[derive(Debug)]
pub(super) struct Tags<T> {
    places: Vec<Option<Place<T>>>,
    next_tag: u32,
    oldest: u32,
    newest: u32,
    outstanding: usize,
    max: usize,
}

#[derive(Debug)]
struct Place<T> {
    tag: u32,
    /// Places of the calls issued just before and after.
    before: u32,
    after: u32,
    deadline: Instant,
    call: T,
}

const NONE: u32 = u32::MAX;
const PLACES_MIN: usize = 64;

impl<T> Tags<T> {
    pub(super) fn new(max: usize) -> Self {
        Self {
            places: std::iter::repeat_with(|| None).take(PLACES_MIN).collect(),
            next_tag: 1,
            oldest: NONE,
            newest: NONE,
            outstanding: 0,
            max: max.min(1 << 24),
        }
    }

    pub(super) fn outstanding(&self) -> usize {
        self.outstanding
    }

    pub(super) fn is_full(&self) -> bool {
        self.outstanding >= self.max
    }

    /// A tag for the call. Calls are expected to be issued in the order of their deadlines. The
    /// caller has checked [`Self::is_full`].
    pub(super) fn issue(&mut self, call: T, deadline: Instant) -> u32 {
        debug_assert!(!self.is_full(), "the bound is the caller's to keep");
        if (self.outstanding + 1) * 2 > self.places.len() {
            self.grow();
        }
        while self.next_tag == 0 || self.places[self.place_of(self.next_tag)].is_some() {
            self.next_tag = self.next_tag.wrapping_add(1);
        }
        let tag = self.next_tag;
        self.next_tag = self.next_tag.wrapping_add(1);
        self.insert(Place { tag, before: NONE, after: NONE, deadline, call });
        tag
    }

    /// Ends the call of this tag, if one is outstanding.
    pub(super) fn redeem(&mut self, tag: u32) -> Option<T> {
        let at = self.place_of(tag);
        if self.places[at].as_ref()?.tag != tag {
            return None;
        }
        self.remove(at)
    }

    pub(super) fn peek(&self, tag: u32) -> Option<&T> {
        let place = self.places[self.place_of(tag)].as_ref()?;
        (place.tag == tag).then_some(&place.call)
    }

    pub(super) fn earliest_deadline(&self) -> Option<Instant> {
        Some(self.places.get(self.oldest as usize)?.as_ref()?.deadline)
    }

    /// Ends the oldest call if its deadline has passed.
    pub(super) fn expire(&mut self, now: Instant) -> Option<T> {
        let due = self.earliest_deadline()? <= now;
        if due { self.remove(self.oldest as usize) } else { None }
    }

    /// Ends the oldest call.
    pub(super) fn pop(&mut self) -> Option<T> {
        if self.oldest == NONE { None } else { self.remove(self.oldest as usize) }
    }

    fn place_of(&self, tag: u32) -> usize {
        tag as usize & (self.places.len() - 1)
    }

    fn insert(&mut self, mut place: Place<T>) {
        let at = self.place_of(place.tag);
        place.before = self.newest;
        match self.link(self.newest) {
            Some(newest) => newest.after = at as u32,
            None => self.oldest = at as u32,
        }
        self.newest = at as u32;
        self.places[at] = Some(place);
        self.outstanding += 1;
    }

    fn remove(&mut self, at: usize) -> Option<T> {
        let Place { before, after, call, .. } = self.places.get_mut(at)?.take()?;
        match self.link(before) {
            Some(place) => place.after = after,
            None => self.oldest = after,
        }
        match self.link(after) {
            Some(place) => place.before = before,
            None => self.newest = before,
        }
        self.outstanding -= 1;
        Some(call)
    }

    fn link(&mut self, at: u32) -> Option<&mut Place<T>> {
        self.places.get_mut(at as usize)?.as_mut()
    }

    /// Doubles the places. Two tags in different places stay in different ones.
    fn grow(&mut self) {
        let more = self.places.len() * 2;
        let mut old = std::mem::take(&mut self.places);
        self.places.resize_with(more, || None);
        let mut at = std::mem::replace(&mut self.oldest, NONE);
        self.newest = NONE;
        self.outstanding = 0;
        while let Some(place) = old.get_mut(at as usize).and_then(Option::take) {
            at = place.after;
            self.insert(Place { before: NONE, after: NONE, ..place });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tag_zero_is_never_issued() {
        let mut tags = Tags::new(10);
        tags.next_tag = u32::MAX;
        assert_eq!(tags.issue('a', Instant(0)), u32::MAX);
        assert_eq!(tags.issue('b', Instant(0)), 1);
        assert_eq!(tags.redeem(0), None);
        assert_eq!(tags.redeem(u32::MAX), Some('a'));
    }

    #[test]
    fn a_tag_is_not_reused_while_its_call_hangs_nor_soon_after() {
        let mut tags = Tags::new(10);
        let hanging = tags.issue(0, Instant(0));
        for call in 1..100_000 {
            let tag = tags.issue(call, Instant(0));
            assert!(tag > hanging);
            assert_eq!(tags.redeem(tag), Some(call));
        }
        assert_eq!(tags.redeem(hanging), Some(0));
        assert_eq!(tags.redeem(hanging), None);
        assert!(tags.issue(0, Instant(0)) > 100_000);
    }

    #[derive(Debug, Clone)]
    enum Op {
        Issue,
        Redeem(usize),
        Expire(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            6 => Just(Op::Issue),
            3 => any::<usize>().prop_map(Op::Redeem),
            1 => (0..20u64).prop_map(Op::Expire),
        ]
    }

    proptest! {
        #[test]
        fn tags_name_their_calls_and_expire_oldest_first(
            start in prop_oneof![Just(1), Just(u32::MAX - 50), any::<u32>()],
            ops in prop::collection::vec(op(), 1..600),
        ) {
            let mut tags = Tags::new(300);
            tags.next_tag = start;
            let mut model: VecDeque<(u32, u64)> = VecDeque::new();
            for (time, op) in (0u64..).zip(ops) {
                match op {
                    Op::Issue if tags.is_full() => prop_assert_eq!(model.len(), 300),
                    Op::Issue => {
                        let tag = tags.issue(time, Instant(time + 10));
                        prop_assert!(tag != 0 && model.iter().all(|&(known, _)| known != tag));
                        model.push_back((tag, time));
                    }
                    Op::Redeem(pick) if !model.is_empty() => {
                        let (tag, call) = model.remove(pick % model.len()).expect("in range");
                        prop_assert_eq!(tags.peek(tag), Some(&call));
                        prop_assert_eq!(tags.redeem(tag), Some(call));
                        prop_assert_eq!(tags.redeem(tag), None);
                    }
                    Op::Redeem(_) => prop_assert_eq!(tags.pop(), None),
                    Op::Expire(after) => {
                        let now = time + after;
                        while let Some(call) = tags.expire(Instant(now)) {
                            prop_assert_eq!(model.pop_front().map(|(_, c)| c), Some(call));
                        }
                        prop_assert!(model.front().is_none_or(|&(_, c)| c + 10 > now));
                    }
                }
                prop_assert_eq!(tags.outstanding(), model.len());
            }
            while let Some(call) = tags.pop() {
                prop_assert_eq!(model.pop_front().map(|(_, c)| c), Some(call));
            }
            prop_assert!(model.is_empty());
        }
    }
}
