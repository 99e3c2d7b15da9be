//! What is published leaves in groups: the next one of a topic follows when the brokers have answered
//! the one before. An idempotent client of librdkafka does much the same by itself, but while records
//! wait behind five that are under way its thread turns without a pause: brokers that do not answer
//! would cost a processor.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Instant;

use crate::control::bus::Record;

/// The records of one topic that wait, oldest first.
#[derive(Debug, Default)]
pub(super) struct Line {
    gate: Arc<Gate>,
    waiting: VecDeque<Published>,
}

#[derive(Debug)]
pub(super) struct Published {
    pub(super) record: Record,
    pub(super) at: Instant,
}

impl Published {
    pub(super) fn bytes(&self) -> u64 {
        (self.record.value.len() + self.record.key.len()) as u64
    }
}

impl Line {
    pub(super) fn push(&mut self, published: Published) {
        self.waiting.push_back(published);
    }

    /// Takes out the oldest record if it is one of those `late`.
    pub(super) fn pop_late(&mut self, late: impl Fn(&Published) -> bool) -> Option<Published> {
        self.waiting.pop_front_if(|published| late(published))
    }

    /// Hands groups to `send` until one is under way or nothing waits. `send` has the pass of every
    /// record [settled](Pass::settled) once.
    pub(super) fn leave(&mut self, mut send: impl FnMut(Published, Pass)) {
        while !self.waiting.is_empty() && self.gate.opens() {
            let mut bytes = 0;
            for _ in 0..GROUP_RECORDS {
                let Some(published) = self.waiting.pop_front() else { break };
                bytes += published.bytes();
                send(published, Pass::new(&self.gate));
                if bytes >= GROUP_BYTES {
                    break;
                }
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.gate.under_way.load(Ordering::Relaxed) == 0
    }

    /// Whoever has passes of earlier groups does not hold up the next.
    pub(super) fn forget_what_is_under_way(&mut self) {
        self.gate = Arc::default();
    }
}

/// Closed while a group is under way.
#[derive(Debug, Default)]
struct Gate {
    under_way: AtomicU32,
    /// The next group has found it closed.
    waits: AtomicBool,
}

impl Gate {
    /// Says whether it is open; if not, the last pass says that somebody waits.
    fn opens(&self) -> bool {
        if self.under_way.load(Ordering::SeqCst) == 0 {
            return true;
        }
        self.waits.store(true, Ordering::SeqCst);
        // The last may have been settled before it could know.
        self.under_way.load(Ordering::SeqCst) == 0
    }
}

/// Of one record that is under way.
#[derive(Debug)]
pub(super) struct Pass(Arc<Gate>);

impl Pass {
    fn new(gate: &Arc<Gate>) -> Self {
        gate.under_way.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(gate))
    }

    /// The record is under way no more. Says whether a group waits that may leave now. From any thread.
    pub(super) fn settled(self) -> bool {
        let last = self.0.under_way.fetch_sub(1, Ordering::SeqCst) == 1;
        last && self.0.waits.swap(false, Ordering::SeqCst)
    }
}

/// Few enough that librdkafka has them all before it sends the first, and that one request to a
/// partition carries them.
const GROUP_RECORDS: usize = 256;
const GROUP_BYTES: u64 = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn published(number: usize, bytes: usize) -> Published {
        let mut value = number.to_string();
        value.push_str(&" ".repeat(bytes.saturating_sub(value.len())));
        let record = Record {
            topic: "t".into(),
            key: "".into(),
            value: value.into_bytes().into(),
            expires_at_ms: None,
            position: None,
            trail: None,
        };
        Published { record, at: Instant::now() }
    }

    /// What leaves now: numbers and passes.
    fn leaving(line: &mut Line) -> (Vec<usize>, Vec<Pass>) {
        let mut left = (Vec::new(), Vec::new());
        line.leave(|published, pass| {
            let text = std::str::from_utf8(&published.record.value).unwrap();
            left.0.push(text.trim().parse().unwrap());
            left.1.push(pass);
        });
        left
    }

    #[test]
    fn the_next_group_leaves_when_all_of_the_one_before_is_settled() {
        let mut line = Line::default();
        line.push(published(0, 1));
        let (numbers, first) = leaving(&mut line);
        assert_eq!(numbers, [0]);
        for number in 1..=GROUP_RECORDS + 2 {
            line.push(published(number, 1));
            assert!(leaving(&mut line).0.is_empty());
        }
        assert!(first.into_iter().all(Pass::settled), "somebody waits");
        let (numbers, second) = leaving(&mut line);
        assert_eq!(numbers, Vec::from_iter(1..=GROUP_RECORDS));
        let told: Vec<bool> = second.into_iter().map(Pass::settled).collect();
        assert_eq!(told.iter().position(|told| *told), Some(GROUP_RECORDS - 1), "the last one");
        let (numbers, third) = leaving(&mut line);
        assert_eq!(numbers, [GROUP_RECORDS + 1, GROUP_RECORDS + 2]);
        assert!(!line.is_empty(), "they are under way");
        assert!(!third.into_iter().any(Pass::settled), "nobody waits");
        assert!(line.is_empty());
    }

    #[test]
    fn a_group_is_bounded_by_its_bytes_too() {
        let mut line = Line::default();
        let half = GROUP_BYTES as usize / 2;
        (0..3).for_each(|number| line.push(published(number, half)));
        let (numbers, _passes) = leaving(&mut line);
        assert_eq!(numbers, [0, 1]);
    }

    #[test]
    fn what_cannot_be_sent_at_all_holds_up_nobody() {
        let mut line = Line::default();
        let all = 3 * GROUP_RECORDS;
        (0..all).for_each(|number| line.push(published(number, 1)));
        let mut refused = 0;
        line.leave(|_, pass| {
            refused += 1;
            pass.settled();
        });
        assert_eq!(refused, all);
        assert!(line.is_empty());
    }

    #[test]
    fn passes_of_a_broken_client_hold_up_nobody() {
        let mut line = Line::default();
        line.push(published(0, 1));
        let (_, stuck) = leaving(&mut line);
        line.push(published(1, 1));
        line.forget_what_is_under_way();
        let (numbers, _passes) = leaving(&mut line);
        assert_eq!(numbers, [1]);
        assert!(!stuck.into_iter().any(Pass::settled));
    }
}
