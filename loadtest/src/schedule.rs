//! When each event of an open-loop run is to happen: offsets in nanoseconds from the start of the
//! load, ascending, decided by the arrival and the seed alone. Reads no clock and sees no reply.

use std::slice;
use std::time::Duration;

use crate::scenario::Arrival;

/// SplitMix64: the same numbers for the same seed in every version of this program.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    #[inline]
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// Above 0, at most 1.
    fn unit(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }
}

/// The offsets of a whole run. A closed loop has none.
#[derive(Clone, Debug)]
pub struct Schedule<'a> {
    kind: Kind<'a>,
    /// Exclusive.
    horizon: u64,
    number: u64,
}

#[derive(Clone, Debug)]
enum Kind<'a> {
    Nothing,
    Constant { rate: f64 },
    Poisson { mean_gap: f64, at: f64, random: Random },
    Burst { period: f64, size: u64 },
    Ramp { from: f64, gain: f64 },
    Replay(slice::Iter<'a, u64>),
}

const NS: f64 = 1e9;

impl<'a> Schedule<'a> {
    /// Everything that `arrival` plans within `horizon`.
    pub fn new(arrival: &'a Arrival, horizon: Duration, seed: u64) -> Self {
        let kind = match *arrival {
            Arrival::Closed { .. } | Arrival::Backlog { .. } => Kind::Nothing,
            Arrival::Constant { rate, .. } if rate > 0.0 => Kind::Constant { rate },
            Arrival::Poisson { rate, .. } if rate > 0.0 => {
                Kind::Poisson { mean_gap: NS / rate, at: 0.0, random: Random::new(seed) }
            }
            Arrival::Burst { rate, size, .. } if rate > 0.0 && size > 0 => {
                Kind::Burst { period: NS * f64::from(size) / rate, size: u64::from(size) }
            }
            Arrival::Ramp { from, to, .. } if from > 0.0 || to > 0.0 => {
                Kind::Ramp { from, gain: (to - from) / horizon.as_secs_f64() }
            }
            Arrival::Replay { ref offsets, .. } => Kind::Replay(offsets.iter()),
            _ => Kind::Nothing,
        };
        Self { kind, horizon: horizon.as_nanos() as u64, number: 0 }
    }

    /// Ends at `horizon` instead, without changing when anything happens before it.
    pub(crate) fn cut_at(mut self, horizon: u64) -> Self {
        self.horizon = self.horizon.min(horizon);
        self
    }
}

impl Iterator for Schedule<'_> {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let number = self.number as f64;
        let offset = match &mut self.kind {
            Kind::Nothing => return None,
            Kind::Constant { rate } => (number * NS / *rate) as u64,
            Kind::Poisson { mean_gap, at, random } => {
                *at -= random.unit().ln() * *mean_gap;
                *at as u64
            }
            Kind::Burst { period, size } => ((self.number / *size) as f64 * *period) as u64,
            Kind::Ramp { from, gain } => {
                // `from·t + gain·t²/2 = number`, in the form that loses no digits.
                let inside = *from * *from + 2.0 * *gain * number;
                if inside < 0.0 {
                    return None;
                }
                let below = *from + inside.sqrt();
                if number == 0.0 { 0 } else { (2.0 * number / below * NS) as u64 }
            }
            Kind::Replay(offsets) => *offsets.next()?,
        };
        self.number += 1;
        (offset < self.horizon).then_some(offset)
    }
}

/// Which thread has which sender: groups of `group` senders are dealt to the threads in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deal {
    pub senders: usize,
    /// Senders that must stay together: 2 of a pair, otherwise 1.
    pub group: usize,
    pub threads: usize,
}

impl Deal {
    /// The thread of `sender`, and its place among that thread's senders.
    #[inline]
    pub fn place(self, sender: usize) -> (usize, usize) {
        let group = sender / self.group;
        (group % self.threads, group / self.threads * self.group + sender % self.group)
    }

    /// How many senders `thread` has.
    pub fn senders_of(self, thread: usize) -> usize {
        (0..self.senders).filter(|&sender| self.place(sender).0 == thread).count()
    }
}

/// One thread's part of the plan: event number `i` of the whole belongs to sender `i` modulo their
/// number, and so to that sender's thread.
#[derive(Clone, Debug)]
pub struct Share<'a> {
    whole: Schedule<'a>,
    deal: Deal,
    thread: usize,
    next_sender: usize,
}

/// One event of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// Nanoseconds from the start of the load.
    pub offset: u64,
    /// Of this thread's senders.
    pub sender: usize,
}

impl<'a> Share<'a> {
    pub fn new(whole: Schedule<'a>, deal: Deal, thread: usize) -> Self {
        Self { whole, deal, thread, next_sender: 0 }
    }
}

impl Iterator for Share<'_> {
    type Item = Due;

    fn next(&mut self) -> Option<Due> {
        if self.deal.senders == 0 {
            return None;
        }
        loop {
            let offset = self.whole.next()?;
            let (thread, sender) = self.deal.place(self.next_sender);
            self.next_sender += 1;
            if self.next_sender == self.deal.senders {
                self.next_sender = 0;
            }
            if thread == self.thread {
                return Some(Due { offset, sender });
            }
        }
    }
}

#[cfg(test)]
mod tests;
