//! Sessions that came from elsewhere, while what their clients may lack is fetched: first from the
//! node that had them last, then from the bus.
//!
//! What arrives live for such a session is parked until the rest has caught up with it. There is
//! room for a little; when it is exceeded, all of it is given up and read again too: the bus keeps
//! its records, so nothing is lost by it.

use std::collections::VecDeque;

use ahash::AHashMap;
use corelane_shard::clock::Instant;
use corelane_shard::id::{Epoch, SessionId};

use super::bus::{Position, Record, Replay};
use super::mailboxes::Reached;
use super::store::Begin;

/// Which sessions are being replayed. Bounded by the sessions of the node.
#[derive(Debug, Default)]
pub(super) struct Replays {
    sessions: AHashMap<SessionId, Replaying>,
    /// When which answer of another node is waited for no longer, in the order in which they were
    /// asked for.
    answers_due: VecDeque<(Instant, SessionId, Epoch)>,
}

#[derive(Debug)]
struct Replaying {
    epoch: Epoch,
    /// What the client surely had when it began. Of what comes after, some may be gone, which only
    /// the end tells: nothing that was read moves it.
    begin: Begin,
    source: Source,
    parked: Parked,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// The node that had the session last was asked what is left of it there.
    Node,
    Bus,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parked {
    Records(Vec<Record>),
    /// There were too many; the first of them stands here.
    From(Position),
}

/// What became of a live record.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parking {
    Parked,
    /// Its session is not being replayed.
    NotReplaying(Record),
    /// The bus does not keep it, and there are too many.
    Full(Record),
}

/// What follows a replay.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// These, and from now on whatever arrives.
    Live(Vec<Record>),
    Again(Replay),
}

impl Replays {
    /// The bus is read.
    pub(super) fn begin(&mut self, session: SessionId, epoch: Epoch, begin: Begin) {
        let parked = Parked::Records(Vec::new());
        self.sessions.insert(session, Replaying { epoch, begin, source: Source::Bus, parked });
    }

    /// Another node is asked, which may answer until `due`. These do not go back from one call to the
    /// next.
    pub(super) fn ask(&mut self, session: SessionId, epoch: Epoch, begin: Begin, due: Instant) {
        let parked = Parked::Records(Vec::new());
        self.sessions.insert(session, Replaying { epoch, begin, source: Source::Node, parked });
        self.answers_due.push_back((due, session, epoch));
    }

    /// The other node has answered, or will not: what it was asked for, and what was parked.
    pub(super) fn answered(&mut self, session: SessionId, epoch: Epoch) -> Option<(Begin, Parked)> {
        let asking = self.is_of(session, epoch).then(|| self.stop_asking(session)).flatten();
        asking.map(|(_, begin, parked)| (begin, parked))
    }

    /// As [`Self::answered`], of whichever claim, which is named.
    pub(super) fn stop_asking(&mut self, session: SessionId) -> Option<(Epoch, Begin, Parked)> {
        if self.sessions.get(&session)?.source != Source::Node {
            return None;
        }
        self.sessions.remove(&session).map(|it| (it.epoch, it.begin, it.parked))
    }

    /// The next session for which another node was asked in vain.
    pub(super) fn next_unanswered(&mut self, now: Instant) -> Option<SessionId> {
        while let Some(&(due, session, epoch)) = self.answers_due.front() {
            let waits = self
                .sessions
                .get(&session)
                .is_some_and(|it| it.epoch == epoch && it.source == Source::Node);
            if waits && due > now {
                return None;
            }
            self.answers_due.pop_front();
            if waits {
                return Some(session);
            }
        }
        None
    }

    /// When [`Self::next_unanswered`] has something to say.
    pub(super) fn due(&self) -> Option<Instant> {
        self.answers_due.front().map(|(due, ..)| *due)
    }

    pub(super) fn has(&self, session: SessionId) -> bool {
        self.sessions.contains_key(&session)
    }

    pub(super) fn len(&self) -> usize {
        self.sessions.len()
    }

    /// From where on a session that is being replayed has to begin, whoever takes it up now.
    pub(super) fn begins(&self, session: SessionId) -> Option<Begin> {
        self.sessions.get(&session).map(|replaying| replaying.begin)
    }

    /// Up to where the client of a session that is being replayed surely has everything.
    pub(super) fn reached(&self, session: SessionId) -> Option<Reached> {
        self.begins(session).map(|begin| match begin {
            Begin::From(from) => Reached::At(from),
            Begin::Here | Begin::Unknown { .. } => Reached::Unknown,
        })
    }

    /// Whether the replay of this claim goes on.
    pub(super) fn is_of(&self, session: SessionId, epoch: Epoch) -> bool {
        self.sessions.get(&session).is_some_and(|replaying| replaying.epoch == epoch)
    }

    /// Keeps a live record back while its session is replayed. One that the bus does not keep waits for
    /// the other node only: there is no replay without a bus that keeps.
    pub(super) fn park(&mut self, session: SessionId, record: Record) -> Parking {
        let Some(replaying) = self.sessions.get_mut(&session) else {
            return Parking::NotReplaying(record);
        };
        if record.position.is_none() && replaying.source == Source::Bus {
            return Parking::NotReplaying(record);
        }
        let Parked::Records(records) = &mut replaying.parked else { return Parking::Parked };
        if records.len() < PARKED_MAX {
            records.push(record);
            return Parking::Parked;
        }
        let first = records.first().and_then(|first| first.position);
        match first.or(record.position) {
            Some(from) => {
                replaying.parked = Parked::From(from);
                Parking::Parked
            }
            None => Parking::Full(record),
        }
    }

    /// Live records from there on are no more. Says whether the session is being replayed: then they
    /// are read again after it, with what was parked, and what is lacking shows where it stood.
    pub(super) fn live_lacks(&mut self, session: SessionId, from: Position) -> bool {
        let Some(replaying) = self.sessions.get_mut(&session) else { return false };
        if let Parked::Records(records) = &replaying.parked {
            let first = records.first().and_then(|first| first.position);
            replaying.parked = Parked::From(first.unwrap_or(from));
        }
        true
    }

    /// The replay of this claim is over, unless it has to go on.
    pub(super) fn end(&mut self, session: SessionId, epoch: Epoch) -> Option<Then> {
        if !self.is_of(session, epoch) {
            return None;
        }
        let Replaying { begin, parked, .. } = self.sessions.remove(&session)?;
        Some(match parked {
            Parked::Records(records) => Then::Live(records),
            Parked::From(from) => {
                self.begin(session, epoch, begin);
                Then::Again(Replay { session, epoch, from })
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
        replays.begin(SESSION, EPOCH, Begin::From(at(3)));
        replays
    }

    #[test]
    fn live_records_wait_for_the_replay_and_follow_it_in_order() {
        let mut replays = replaying();
        assert_eq!(replays.park(SESSION, record(10)), Parking::Parked);
        assert!(replays.is_of(SESSION, EPOCH));
        assert_eq!(replays.reached(SESSION), Some(Reached::At(at(3))));
        assert_eq!(replays.park(SESSION, record(11)), Parking::Parked);
        assert_eq!(replays.end(SESSION, EPOCH), Some(Then::Live(vec![record(10), record(11)])));
        assert!(!replays.has(SESSION));
        assert_eq!(replays.park(SESSION, record(12)), Parking::NotReplaying(record(12)));
    }

    #[test]
    fn too_many_live_records_are_read_again_from_the_first_of_them() {
        let mut replays = replaying();
        let many = PARKED_MAX as u64 + 5;
        for offset in 10..10 + many {
            assert_eq!(replays.park(SESSION, record(offset)), Parking::Parked);
        }
        let again = Replay { session: SESSION, epoch: EPOCH, from: at(10) };
        assert_eq!(replays.end(SESSION, EPOCH), Some(Then::Again(again)));
        let reached = replays.reached(SESSION);
        assert_eq!(reached, Some(Reached::At(at(3))), "a gap may have to be told yet");
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
        assert_eq!(replaying().park(SESSION, passing.clone()), Parking::NotReplaying(passing));
    }

    fn asking() -> Replays {
        let mut replays = Replays::default();
        replays.ask(SESSION, EPOCH, Begin::Unknown { since: None }, Instant(250));
        replays
    }

    #[test]
    fn what_waits_for_another_node_is_given_back_with_its_answer() {
        let mut replays = asking();
        assert_eq!(replays.reached(SESSION), Some(Reached::Unknown));
        assert_eq!(replays.park(SESSION, record(10)), Parking::Parked);
        assert_eq!(replays.answered(SESSION, Epoch(8)), None, "of another claim");
        let begin = Begin::Unknown { since: None };
        let parked = Parked::Records(vec![record(10)]);
        assert_eq!(replays.answered(SESSION, EPOCH), Some((begin, parked)));
        assert_eq!(replays.answered(SESSION, EPOCH), None, "once");
        assert_eq!(replays.next_unanswered(Instant(999)), None);
    }

    #[test]
    fn an_answer_is_waited_for_until_it_is_due() {
        let mut replays = asking();
        assert_eq!(replays.due(), Some(Instant(250)));
        assert_eq!(replays.next_unanswered(Instant(249)), None);
        assert_eq!(replays.next_unanswered(Instant(250)), Some(SESSION));
        assert_eq!((replays.due(), replays.next_unanswered(Instant(250))), (None, None));
    }

    #[test]
    fn a_later_claim_is_not_ended_by_the_time_of_an_earlier_one() {
        let mut replays = asking();
        replays.ask(SESSION, Epoch(10), Begin::From(at(3)), Instant(500));
        assert_eq!(replays.next_unanswered(Instant(250)), None);
        assert_eq!(replays.due(), Some(Instant(500)));
        replays.begin(SESSION, Epoch(10), Begin::From(at(3)));
        assert_eq!(replays.next_unanswered(Instant(500)), None, "it is read from the bus");
    }

    #[test]
    fn records_that_no_bus_keeps_wait_for_another_node_as_long_as_there_is_room() {
        let passing = |offset| Record { position: None, ..record(offset) };
        let mut replays = asking();
        for offset in 0..PARKED_MAX as u64 {
            assert_eq!(replays.park(SESSION, passing(offset)), Parking::Parked);
        }
        assert_eq!(replays.park(SESSION, passing(99)), Parking::Full(passing(99)));
        let Some((_, Parked::Records(parked))) = replays.answered(SESSION, EPOCH) else {
            panic!("nothing is given up")
        };
        assert_eq!(parked.len(), PARKED_MAX);
    }
}
