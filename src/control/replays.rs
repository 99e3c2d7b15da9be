//! Sessions that came from elsewhere, while what their clients may lack is read again.
//!
//! What arrives live for such a session is parked until the reading has caught up with it. There is
//! room for a little; when it is exceeded, all of it is given up and read again too: the bus keeps
//! its records, so nothing is lost by it.

use ahash::AHashMap;
use corelane_shard::id::{Epoch, SessionId};

use super::bus::{Position, Record, Replay};

/// Which sessions are being replayed. Bounded by the sessions of the node.
#[derive(Debug, Default)]
pub(super) struct Replays {
    sessions: AHashMap<SessionId, Replaying>,
}

#[derive(Debug)]
struct Replaying {
    epoch: Epoch,
    /// Everything before is in the mailbox, or was.
    at: Position,
    parked: Parked,
}

#[derive(Debug)]
enum Parked {
    Records(Vec<Record>),
    /// There were too many; the first of them stands here.
    From(Position),
}

/// What follows a replay.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// These, and from now on whatever arrives.
    Live(Vec<Record>),
    Again(Replay),
}

impl Replays {
    pub(super) fn begin(&mut self, Replay { session, epoch, from }: Replay) {
        let parked = Parked::Records(Vec::new());
        self.sessions.insert(session, Replaying { epoch, at: from, parked });
    }

    pub(super) fn has(&self, session: SessionId) -> bool {
        self.sessions.contains_key(&session)
    }

    pub(super) fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Up to where a session has been replayed.
    pub(super) fn reached(&self, session: SessionId) -> Option<Position> {
        self.sessions.get(&session).map(|replaying| replaying.at)
    }

    /// Whether the replay of this claim goes on; if so, what stands before `next` has come.
    pub(super) fn advance(&mut self, session: SessionId, epoch: Epoch, next: Position) -> bool {
        let replaying = self.sessions.get_mut(&session);
        let Some(replaying) = replaying.filter(|replaying| replaying.epoch == epoch) else {
            return false;
        };
        replaying.at = next;
        true
    }

    /// Keeps a live record back while its session is replayed; gives it back if it is not, or if
    /// the bus does not keep it.
    pub(super) fn park(&mut self, session: SessionId, record: Record) -> Option<Record> {
        let (Some(replaying), Some(position)) = (self.sessions.get_mut(&session), record.position)
        else {
            return Some(record);
        };
        if let Parked::Records(records) = &mut replaying.parked {
            if records.len() < PARKED_MAX {
                records.push(record);
            } else {
                let first = records.first().and_then(|first| first.position);
                replaying.parked = Parked::From(first.unwrap_or(position));
            }
        }
        None
    }

    /// The replay of this claim is over.
    pub(super) fn end(&mut self, session: SessionId, epoch: Epoch) -> Option<Then> {
        if self.sessions.get(&session)?.epoch != epoch {
            return None;
        }
        Some(match self.sessions.remove(&session)?.parked {
            Parked::Records(records) => Then::Live(records),
            Parked::From(from) => Then::Again(Replay { session, epoch, from }),
        })
    }

    pub(super) fn forget(&mut self, session: SessionId) {
        self.sessions.remove(&session);
    }
}

/// Live records that wait for one session's replay.
const PARKED_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: SessionId = SessionId(7);
    const EPOCH: Epoch = Epoch(9);

    fn at(offset: u64) -> Position {
        Position { partition: 2, offset }
    }

    fn record(offset: u64) -> Record {
        Record {
            topic: "t".into(),
            key: "k".into(),
            value: [].into(),
            expires_at_ms: None,
            position: Some(at(offset)),
        }
    }

    fn replaying() -> Replays {
        let mut replays = Replays::default();
        replays.begin(Replay { session: SESSION, epoch: EPOCH, from: at(3) });
        replays
    }

    #[test]
    fn live_records_wait_for_the_replay_and_follow_it_in_order() {
        let mut replays = replaying();
        assert_eq!(replays.park(SESSION, record(10)), None);
        assert!(replays.advance(SESSION, EPOCH, at(5)));
        assert_eq!(replays.reached(SESSION), Some(at(5)));
        assert_eq!(replays.park(SESSION, record(11)), None);
        assert_eq!(replays.end(SESSION, EPOCH), Some(Then::Live(vec![record(10), record(11)])));
        assert!(!replays.has(SESSION));
        assert_eq!(replays.park(SESSION, record(12)), Some(record(12)));
    }

    #[test]
    fn too_many_live_records_are_read_again_from_the_first_of_them() {
        let mut replays = replaying();
        let many = PARKED_MAX as u64 + 5;
        for offset in 10..10 + many {
            assert_eq!(replays.park(SESSION, record(offset)), None);
        }
        let again = Replay { session: SESSION, epoch: EPOCH, from: at(10) };
        assert_eq!(replays.end(SESSION, EPOCH), Some(Then::Again(again)));
    }

    #[test]
    fn the_replay_of_an_earlier_claim_is_nobodys() {
        let mut replays = replaying();
        assert!(!replays.advance(SESSION, Epoch(8), at(5)));
        assert_eq!(replays.end(SESSION, Epoch(8)), None);
        assert!(replays.has(SESSION));
        replays.forget(SESSION);
        assert_eq!(replays.len(), 0);
    }

    #[test]
    fn a_record_that_the_bus_does_not_keep_is_not_parked() {
        let passing = Record { position: None, ..record(1) };
        assert_eq!(replaying().park(SESSION, passing.clone()), Some(passing));
    }
}
