//! The crowd at the door: how many clients are not let in yet, from where, and how fast they come.

use std::net::IpAddr;
use std::time::Duration;

use ahash::AHashMap;

use super::SPARE_SLOTS;
use crate::clock::Instant;
use crate::network::counted_as;
use crate::session::rate::{Admission, Bucket, RateLimit};
use crate::snapshot::DoorLimits;
use crate::wire::handshake::Refusal;

/// Clients of one shard whose request is being read or judged.
#[derive(Debug)]
pub(super) struct Crowd {
    waiting: usize,
    /// Of these by address; empty while nobody asks for a bound.
    by_address: AHashMap<IpAddr, u32>,
    rate: RateLimit,
    newcomers: Bucket,
}

/// What becomes of a newcomer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrival {
    Welcome,
    /// Its request is read, and answered with that.
    TurnedAway(Refusal),
    /// There is not even room for an answer.
    Unheard,
}

impl Crowd {
    pub(super) fn new(limits: &DoorLimits) -> Self {
        Self {
            waiting: 0,
            by_address: AHashMap::new(),
            rate: rate(limits),
            newcomers: Bucket::default(),
        }
    }

    pub(super) fn adopt(&mut self, limits: &DoorLimits) {
        self.rate = rate(limits);
    }

    /// Somebody is at the door; [`Self::enters`] when there is a place.
    pub(super) fn judge_arrival(&mut self, limits: &DoorLimits, now: Instant) -> Arrival {
        if self.waiting >= limits.unauthenticated_max.saturating_add(SPARE_SLOTS) {
            return Arrival::Unheard;
        }
        if self.waiting >= limits.unauthenticated_max {
            return Arrival::TurnedAway(Refusal::Crowded);
        }
        match self.newcomers.admit(self.rate, now) {
            Admission::Admitted => Arrival::Welcome,
            Admission::Refused => Arrival::TurnedAway(Refusal::TooFast),
        }
    }

    pub(super) fn enters(&mut self) {
        self.waiting += 1;
    }

    /// Counts one of those who wait by its address, if there is a place for it.
    pub(super) fn count(&mut self, address: IpAddr, max: u32) -> Result<(), Refusal> {
        let waiting = self.by_address.entry(counted_as(address)).or_default();
        if *waiting >= max {
            return Err(Refusal::TooManyWaiting);
        }
        *waiting += 1;
        Ok(())
    }

    /// One of them waits no more. `counted` is the address by which it was counted, if it was.
    pub(super) fn leaves(&mut self, counted: Option<IpAddr>) {
        self.waiting -= 1;
        let Some(address) = counted.map(counted_as) else { return };
        if let Some(waiting) = self.by_address.get_mut(&address) {
            *waiting -= 1;
            if *waiting == 0 {
                self.by_address.remove(&address);
            }
        }
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    #[cfg(test)]
    pub(super) fn is_gone(&self) -> bool {
        self.waiting == 0 && self.by_address.is_empty()
    }
}

fn rate(limits: &DoorLimits) -> RateLimit {
    RateLimit::new(limits.handshakes_per_second.unwrap_or(0), Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Instant = Instant(1_000_000_000);

    fn arrive(crowd: &mut Crowd, limits: &DoorLimits, now: Instant) -> Arrival {
        let arrival = crowd.judge_arrival(limits, now);
        if arrival != Arrival::Unheard {
            crowd.enters();
        }
        arrival
    }

    #[test]
    fn beyond_the_bound_some_are_answered_and_all_others_are_not() {
        let limits = DoorLimits { unauthenticated_max: 3, ..DoorLimits::default() };
        let mut crowd = Crowd::new(&limits);
        let arrivals: Vec<_> =
            (0..3 + SPARE_SLOTS + 2).map(|_| arrive(&mut crowd, &limits, START)).collect();
        let (welcome, rest) = arrivals.split_at(3);
        let (turned_away, unheard) = rest.split_at(SPARE_SLOTS);
        assert!(welcome.iter().all(|arrival| *arrival == Arrival::Welcome));
        assert!(turned_away.iter().all(|it| *it == Arrival::TurnedAway(Refusal::Crowded)));
        assert!(unheard.iter().all(|arrival| *arrival == Arrival::Unheard));
        assert_eq!(crowd.waiting(), 3 + SPARE_SLOTS);
        (0..=SPARE_SLOTS).for_each(|_| crowd.leaves(None));
        assert_eq!(arrive(&mut crowd, &limits, START), Arrival::Welcome);
    }

    #[test]
    fn newcomers_may_come_in_a_burst_of_one_second_and_then_at_their_rate() {
        let limits = DoorLimits { handshakes_per_second: Some(10), ..DoorLimits::default() };
        let mut crowd = Crowd::new(&limits);
        for _ in 0..10 {
            assert_eq!(arrive(&mut crowd, &limits, START), Arrival::Welcome);
        }
        let too_fast = Arrival::TurnedAway(Refusal::TooFast);
        assert_eq!(arrive(&mut crowd, &limits, START), too_fast);
        let later = START + Duration::from_millis(100);
        assert_eq!(arrive(&mut crowd, &limits, later), Arrival::Welcome);
        assert_eq!(arrive(&mut crowd, &limits, later), too_fast);
        crowd.adopt(&DoorLimits::default());
        let off = |_| arrive(&mut crowd, &limits, later) == Arrival::Welcome;
        assert!((0..100).all(off), "switched off by a reload");
    }

    #[test]
    fn an_address_has_its_places_and_leaves_none_behind() {
        let mut crowd = Crowd::new(&DoorLimits::default());
        let [one, neighbour, other] =
            ["2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"].map(|text| text.parse().unwrap());
        (0..4).for_each(|_| crowd.enters());
        assert_eq!(crowd.count(one, 1), Ok(()));
        assert_eq!(crowd.count(neighbour, 1), Err(Refusal::TooManyWaiting), "one network");
        assert_eq!(crowd.count(other, 1), Ok(()));
        // The one that was refused was not counted.
        crowd.leaves(None);
        crowd.leaves(Some(neighbour));
        assert_eq!(crowd.count(one, 1), Ok(()));
        crowd.leaves(Some(other));
        assert!(!crowd.is_gone());
        crowd.leaves(Some(one));
        assert!(crowd.is_gone());
    }
}
