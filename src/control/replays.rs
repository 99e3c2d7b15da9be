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
    /// Up to where the client surely had everything when it began. Of what comes after, some may be
    /// gone, which only the end tells: nothing that was read moves it.
    from: Position,
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
        self.sessions.insert(session, Replaying { epoch, from, parked });
    }

    /// Goes on with what could not be parked.
    fn go_on(&mut self, Replay { session, epoch, .. }: Replay, from: Position) {
        let parked = Parked::Records(Vec::new());
        self.sessions.insert(session, Replaying { epoch, from, parked });
    }

    pub(super) fn has(&self, session: SessionId) -> bool {
        self.sessions.contains_key(&session)
    }

    pub(super) fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Up to where the client of a session that is being replayed surely has everything.
    pub(super) fn reached(&self, session: SessionId) -> Option<Position> {
        self.sessions.get(&session).map(|replaying| replaying.from)
    }

    /// Whether the replay of this claim goes on.
    pub(super) fn is_of(&self, session: SessionId, epoch: Epoch) -> bool {
        self.sessions.get(&session).is_some_and(|replaying| replaying.epoch == epoch)
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

    /// The replay of this claim is over, unless it has to go on.
    pub(super) fn end(&mut self, session: SessionId, epoch: Epoch) -> Option<Then> {
        if !self.is_of(session, epoch) {
            return None;
        }
        let Replaying { from: reached, parked, .. } = self.sessions.remove(&session)?;
        Some(match parked {
            Parked::Records(records) => Then::Live(records),
            Parked::From(from) => {
                let again = Replay { session, epoch, from };
                self.go_on(again, reached);
                Then::Again(again)
            }
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
            trail: None,
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
        assert!(replays.is_of(SESSION, EPOCH));
        assert_eq!(replays.reached(SESSION), Some(at(3)));
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
        assert_eq!(replays.reached(SESSION), Some(at(3)), "a gap may have to be told yet");
        assert_eq!(replays.end(SESSION, EPOCH), Some(Then::Live(Vec::new())));
    }

    #[test]
    fn the_replay_of_an_earlier_claim_is_nobodys() {
        let mut replays = replaying();
        assert!(!replays.is_of(SESSION, Epoch(8)));
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
