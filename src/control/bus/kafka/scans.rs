//! What is read again, and for whom. Sans-IO.
//!
//! All sessions of one partition that wait are served by one pass over it, from the earliest offset
//! that one of them wants; who comes later joins if the pass has not got beyond its beginning. A few
//! partitions are scanned at a time, the others wait.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use ahash::AHashMap;
use corelane_shard::id::{Epoch, SessionId};

use super::positions::Watermarks;
use crate::control::bus::{Missing, Replay};

/// Partitions that are scanned at one time.
pub(super) const RUNNING_MAX: usize = 4;

/// All wishes and the scans that serve them. Bounded by the sessions of the node.
#[derive(Debug, Default)]
pub(super) struct Scans {
    /// By partition.
    waiting: BTreeMap<u32, Vec<Replay>>,
    running: BTreeMap<u32, Scan>,
    /// The newest wish of each session, and its partition.
    wishes: AHashMap<SessionId, (Epoch, u32)>,
    told: VecDeque<Told>,
    finished: Vec<Finished>,
    /// Wishes that begin beyond the live reading.
    ahead: Vec<Replay>,
}

/// One pass over one partition.
#[derive(Debug)]
struct Scan {
    /// Everything before has been read.
    next: u64,
    wishes: AHashMap<SessionId, Wish>,
    /// By where they end.
    ends: BinaryHeap<Reverse<(u64, SessionId, Epoch)>>,
    state: State,
    /// Records that were read.
    length: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Waits for the partition's ends.
    Asking,
    Reading,
    /// The reader says that there is no more, though there should be: the ends will tell.
    Doubting,
    /// There is more by the ends. If the reader reaches the end again, the rest are no records.
    Rereading,
    /// The partition has no records any more where it was to be read next: the ends will tell.
    Overtaken,
}

#[derive(Debug, Clone, Copy)]
struct Wish {
    epoch: Epoch,
    from: u64,
    until: u64,
}

/// A pass that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Finished {
    pub(super) partition: u32,
    /// Records that it went through.
    pub(super) length: u64,
}

/// What a session's replay has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// These come no more.
    Missing { session: SessionId, epoch: Epoch, missing: Missing },
    /// Everything that is there has come.
    Ended { session: SessionId, epoch: Epoch },
}

/// Where the live reading of a partition is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Live {
    At(u64),
    /// It is not known yet.
    Unknown,
    /// There is no such partition.
    Gone,
}

impl Scans {
    /// Takes the place of an earlier wish of the same session.
    pub(super) fn wish(&mut self, replay: Replay) {
        let Replay { session, epoch, from } = replay;
        if let Some((_, partition)) = self.wishes.insert(session, (epoch, from.partition)) {
            if let Some(waiting) = self.waiting.get_mut(&partition) {
                waiting.retain(|other| other.session != session);
            }
            if let Some(scan) = self.running.get_mut(&partition) {
                scan.wishes.remove(&session);
            }
        }
        self.waiting.entry(from.partition).or_default().push(replay);
    }

    pub(super) fn running(&self) -> usize {
        self.running.len()
    }

    /// Lets wishes join the scans that run, and begins others. Hands over each partition whose ends
    /// are to be asked for. `live` is called once for each partition with wishes.
    pub(super) fn begin(&mut self, mut live: impl FnMut(u32) -> Live) -> Vec<u32> {
        let mut asked = Vec::new();
        for partition in self.waiting.keys().copied().collect::<Vec<_>>() {
            let until = match live(partition) {
                Live::Unknown => continue,
                Live::At(until) => Some(until),
                Live::Gone => None,
            };
            let waiting = self.waiting.remove(&partition).unwrap_or_default();
            for replay in waiting {
                if let Some(replay) = self.admit(replay, until, &mut asked) {
                    self.waiting.entry(partition).or_default().push(replay);
                }
            }
        }
        asked
    }

    /// Gives the wish back if it has to wait.
    fn admit(
        &mut self,
        replay: Replay,
        until: Option<u64>,
        asked: &mut Vec<u32>,
    ) -> Option<Replay> {
        let Replay { session, epoch, from } = replay;
        let offset = from.offset;
        let Some(until) = until else {
            let missing = Missing { from: offset, to: offset };
            self.told.push_back(Told::Missing { session, epoch, missing });
            self.end(session, epoch);
            return None;
        };
        if offset >= until {
            if offset > until {
                self.ahead.push(replay);
            }
            self.end(session, epoch);
            return None;
        }
        let wish = Wish { epoch, from: offset, until };
        if let Some(scan) = self.running.get_mut(&from.partition) {
            if scan.state == State::Asking {
                scan.next = scan.next.min(offset);
            } else if offset < scan.next {
                return Some(replay);
            }
            scan.add(session, wish);
            return None;
        }
        if self.running.len() >= RUNNING_MAX {
            return Some(replay);
        }
        let mut scan = Scan {
            next: offset,
            wishes: AHashMap::new(),
            ends: BinaryHeap::new(),
            state: State::Asking,
            length: 0,
        };
        scan.add(session, wish);
        self.running.insert(from.partition, scan);
        asked.push(from.partition);
        None
    }

    /// Sessions whose client has records already that the live reading has yet to come to.
    pub(super) fn take_ahead(&mut self) -> Vec<Replay> {
        std::mem::take(&mut self.ahead)
    }

    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Partitions whose ends somebody waits for.
    pub(super) fn asking(&self) -> impl Iterator<Item = u32> {
        let asking = |state| matches!(state, State::Asking | State::Doubting | State::Overtaken);
        self.running
            .iter()
            .filter(move |(_, scan)| asking(scan.state))
            .map(|(partition, _)| *partition)
    }

    /// The ends of a partition. Says from where it is to be read now, if it is.
    pub(super) fn surveyed(&mut self, partition: u32, marks: Watermarks) -> Option<u64> {
        let scan = self.running.get_mut(&partition)?;
        match scan.state {
            // Whoever reads the partition live will find that it has lost its end.
            State::Overtaken if marks.high < scan.next => return None,
            State::Asking | State::Overtaken => {
                for (&session, wish) in &mut scan.wishes {
                    let from = wish.from.max(scan.next);
                    wish.from = from.max(marks.low);
                    if from < marks.low {
                        let (epoch, missing) = (wish.epoch, Missing { from, to: marks.low });
                        self.told.push_back(Told::Missing { session, epoch, missing });
                    }
                }
                scan.next = scan.wishes.values().map(|wish| wish.from).min().unwrap_or(scan.next);
                scan.state = State::Reading;
            }
            // What lies before the end may still come: the leader is new and does not know it yet.
            State::Doubting if marks.high < scan.until() => return None,
            State::Doubting => scan.state = State::Rereading,
            State::Reading | State::Rereading => return None,
        }
        let next = scan.next;
        self.settle(partition);
        self.running.contains_key(&partition).then_some(next)
    }

    /// A record was read, with the session that its key names. Says whom it is for.
    pub(super) fn offer(
        &mut self,
        partition: u32,
        offset: u64,
        session: Option<SessionId>,
    ) -> Option<Epoch> {
        let scan = self.running.get_mut(&partition).filter(|scan| offset >= scan.next)?;
        scan.next = offset + 1;
        scan.length += 1;
        if scan.state == State::Rereading {
            scan.state = State::Reading;
        }
        let wish = session.and_then(|session| scan.wishes.get(&session));
        let wish = wish.filter(|wish| wish.from <= offset && offset < wish.until);
        let epoch = wish.map(|wish| wish.epoch);
        self.settle(partition);
        epoch
    }

    /// The reader says that the partition has nothing more. Says whether its ends are to be asked for.
    pub(super) fn reached_end(&mut self, partition: u32) -> bool {
        let Some(scan) = self.running.get_mut(&partition) else { return false };
        match scan.state {
            State::Asking | State::Doubting | State::Overtaken => false,
            State::Reading => {
                scan.state = State::Doubting;
                true
            }
            State::Rereading => {
                scan.next = scan.next.max(scan.until());
                self.settle(partition);
                false
            }
        }
    }

    /// The reader has found nothing where it was to read next, and has stopped. Says whether the
    /// partition's ends are to be asked for.
    pub(super) fn out_of_range(&mut self, partition: u32) -> bool {
        let scan = self.running.get_mut(&partition).filter(|scan| scan.state != State::Asking);
        scan.is_some_and(|scan| {
            std::mem::replace(&mut scan.state, State::Overtaken) != State::Overtaken
        })
    }

    /// The partition has less than it had: nothing beyond `high` will come.
    pub(super) fn shortened(&mut self, partition: u32, high: u64) {
        let Some(scan) = self.running.get_mut(&partition) else { return };
        scan.ends.clear();
        for (session, wish) in &mut scan.wishes {
            wish.until = wish.until.min(high);
            scan.ends.push(Reverse((wish.until, *session, wish.epoch)));
        }
        self.settle(partition);
    }

    /// Partitions that nobody waits for any more.
    pub(super) fn take_finished(&mut self) -> Vec<Finished> {
        std::mem::take(&mut self.finished)
    }

    pub(super) fn has_told(&self) -> bool {
        !self.told.is_empty()
    }

    pub(super) fn next_told(&mut self) -> Option<Told> {
        self.told.pop_front()
    }

    /// Ends what the scan has got beyond, and the scan when nobody is left.
    fn settle(&mut self, partition: u32) {
        let Some(scan) = self.running.get_mut(&partition) else { return };
        let mut ended = Vec::new();
        while let Some(&Reverse((until, session, epoch))) = scan.ends.peek()
            && until <= scan.next
        {
            scan.ends.pop();
            // A wish that another has replaced leaves its end behind.
            let same = |wish: &&Wish| wish.epoch == epoch && wish.until == until;
            if scan.wishes.get(&session).filter(same).is_some() {
                scan.wishes.remove(&session);
                ended.push((session, epoch));
            }
        }
        if scan.wishes.is_empty() && scan.state != State::Asking {
            self.finished.push(Finished { partition, length: scan.length });
            self.running.remove(&partition);
        }
        for (session, epoch) in ended {
            self.end(session, epoch);
        }
    }

    fn end(&mut self, session: SessionId, epoch: Epoch) {
        if self.wishes.get(&session).is_some_and(|(newest, _)| *newest == epoch) {
            self.wishes.remove(&session);
        }
        self.told.push_back(Told::Ended { session, epoch });
    }
}

impl Scan {
    fn add(&mut self, session: SessionId, wish: Wish) {
        self.ends.push(Reverse((wish.until, session, wish.epoch)));
        self.wishes.insert(session, wish);
    }

    /// Where the last of its wishes ends.
    fn until(&self) -> u64 {
        self.wishes.values().map(|wish| wish.until).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
