//! What one thread counts: messages, times, errors, and the part of the interval that is going on.

use std::collections::BTreeMap;

use super::buckets::Buckets;
use crate::outcome::{ConnectionCounts, MessageCounts};

/// One thread's part of one interval.
#[derive(Debug, Default)]
pub(crate) struct Part {
    /// Which interval.
    pub(crate) index: usize,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) errors: u64,
    pub(crate) ready: u64,
    pub(crate) lag_max: u64,
    pub(crate) from_intended: Buckets,
}

impl Part {
    pub(crate) fn is_nothing(&self) -> bool {
        self.sent + self.received + self.errors + self.ready == 0
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.received += other.received;
        self.errors += other.errors;
        self.ready += other.ready;
        self.lag_max = self.lag_max.max(other.lag_max);
        self.from_intended.add(&other.from_intended);
    }
}

/// The measurement's place in time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Measured {
    pub(crate) from: u64,
    pub(crate) until: u64,
}

impl Measured {
    #[inline]
    pub(crate) fn contains(self, time: u64) -> bool {
        self.from <= time && time < self.until
    }
}

#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) measured: Measured,
    pub(crate) open_loop: bool,
    pub(crate) messages: MessageCounts,
    pub(crate) connections: ConnectionCounts,
    pub(crate) errors: BTreeMap<String, u64>,
    /// TLS, by what was agreed.
    pub(crate) handshakes: BTreeMap<String, u64>,
    pub(crate) from_intended: Buckets,
    /// Not recorded in a closed loop, where it is the same.
    pub(crate) from_send: Buckets,
    pub(crate) send_lag: Buckets,
    pub(crate) connect: Buckets,
    pub(crate) handshake: Buckets,
    pub(crate) upgrade: Buckets,
    pub(crate) first_message: Buckets,
    pub(crate) part: Part,
    /// Messages of senders that other generators drive.
    pub(crate) foreign: u64,
}

impl Tally {
    /// Something that was to happen at `intended`, and began `delay` later, has ended at `now`.
    #[inline]
    pub(crate) fn completed(&mut self, intended: u64, delay: u64, now: u64) {
        let from_intended = now.saturating_sub(intended);
        self.part.received += 1;
        self.part.from_intended.record(from_intended);
        self.messages.measured += u64::from(self.measured.contains(now));
        if self.measured.contains(intended) {
            self.from_intended.record(from_intended);
            if self.open_loop {
                self.from_send.record(from_intended.saturating_sub(delay));
            }
        }
    }

    /// A message was handed over `delay` after its time without being held back.
    #[inline]
    pub(crate) fn lagged(&mut self, intended: u64, delay: u64) {
        self.part.lag_max = self.part.lag_max.max(delay);
        if self.measured.contains(intended) {
            self.send_lag.record(delay);
        }
    }

    #[cold]
    pub(crate) fn error(&mut self, kind: &str) {
        self.part.errors += 1;
        match self.errors.get_mut(kind) {
            Some(count) => *count += 1,
            None => {
                self.errors.insert(kind.to_owned(), 1);
            }
        }
    }
}
