//! Sessions that are taken up: what their clients may lack is had from the node that had them last,
//! else read again from the bus, else told as a gap. And this node's part when another takes one up.

use std::collections::BTreeMap;
use std::time::Duration;

use corelane_shard::clock::Now;
use corelane_shard::id::{Epoch, SessionId};
use tracing::debug;

use super::bus::{EventBus, Missing, Position, Record, Replay};
use super::mailboxes::{Item, Left, Origin, Reached};
use super::nodes::{Handover, LeftBehind, LinkId, TakenUp};
use super::port::ShardPort;
use super::probe::Resume;
use super::replays::{Parked, Then};
use super::store::{Before, Begin, SessionStore};
use super::turn::Core;
use crate::events::gap::{EventGap, GapReason};

impl<P: ShardPort, S: SessionStore, B: EventBus> Core<P, S, B> {
    /// A session is back for which this node keeps what its client lacks.
    pub(super) fn begin_here(&mut self, session: SessionId, epoch: Epoch, now: Now) {
        if let Some((_, begin, parked)) = self.replays.stop_asking(session) {
            self.without_handover(session, epoch, begin, parked, now);
        } else if let Some(begin) = self.replays.begins(session) {
            // What a replay that still runs has brought is not whole.
            self.mailboxes.forget(session);
            self.begin_from_bus(session, epoch, begin, now);
        } else {
            self.probe.took_up(Resume::Kept);
        }
    }

    /// A session was granted for which it does not.
    pub(super) fn begin_elsewhere(
        &mut self,
        session: SessionId,
        epoch: Epoch,
        begin: Begin,
        before: Option<Before>,
        now: Now,
    ) {
        self.mailboxes.forget(session);
        if before.is_some_and(|before| self.ask_before(session, epoch, before)) {
            self.replays.ask(session, epoch, begin, now.mono + HANDOVER_MAX);
        } else {
            self.begin_from_bus(session, epoch, begin, now);
        }
    }

    /// Without another node's help.
    fn begin_from_bus(&mut self, session: SessionId, epoch: Epoch, begin: Begin, now: Now) {
        self.replays.forget(session);
        let from = match begin {
            Begin::Here => None,
            Begin::From(from) => {
                self.probe.took_up(Resume::ReadAgain);
                Some(from)
            }
            Begin::Unknown { since } => {
                self.probe.took_up(Resume::Gap);
                self.tell_gap(session, GapReason::NoCursor, None, false, now);
                since
            }
        };
        if let Some(from) = from {
            self.replays.begin(session, epoch, begin);
            self.replay(Replay { session, epoch, from });
        }
    }

    fn replay(&mut self, replay: Replay) {
        self.probe.replays.increment();
        self.bus.replay(replay);
    }

    /// Records of a session that is being replayed are no more.
    pub(super) fn replay_lacks(
        &mut self,
        session: SessionId,
        epoch: Epoch,
        missing: Missing,
        now: Now,
    ) {
        if self.replays.is_of(session, epoch) {
            debug!(%session, epoch = epoch.0, ?missing, "events of a replay are gone");
            let reached = match self.replays.begins(session) {
                Some(Begin::From(from)) => Some(from),
                _ => None,
            };
            self.tell_gap(session, GapReason::Retention, reached, false, now);
        }
    }

    /// Live records of these partitions are no more: all their sessions may lack some.
    pub(super) fn live_lacks(&mut self, missed: &BTreeMap<u32, Missing>, now: Now) {
        let Self { store, bus, .. } = self;
        let mut lacking = Vec::new();
        store.each(&mut |known| {
            if let Some(Position { partition, offset }) = bus.live(known.identity.session)
                && let Some(missing) = missed.get(&partition)
                // Else its client has had them elsewhere.
                && offset <= missing.to
            {
                let from = Position { partition, offset: missing.from };
                lacking.push((known.identity.session, known.open, from));
            }
        });
        for (session, open, from) in lacking {
            if self.replays.live_lacks(session, from) {
                continue;
            }
            let reached = match self.mailboxes.reached(session) {
                Reached::All => Some(from),
                Reached::At(earlier) => Some(earlier),
                Reached::Unknown => None,
            };
            self.tell_gap(session, GapReason::Retention, reached, open, now);
        }
    }

    pub(super) fn replay_ended(&mut self, session: SessionId, epoch: Epoch, now: Now) {
        let Some(then) = self.replays.end(session, epoch) else { return };
        debug!(%session, epoch = epoch.0, "session replayed");
        match then {
            Then::Again(replay) => self.replay(replay),
            Then::Live(records) => self.go_live(session, records, now),
        }
    }

    /// What was parked comes first.
    fn go_live(&mut self, session: SessionId, parked: Vec<Record>, now: Now) {
        for record in parked {
            // What cannot be used has been counted.
            let _taken = self.take_client_event(session, &record, now);
        }
        if self.store.known(session).is_some_and(|known| known.open) {
            self.mailboxes.attach(session);
        }
    }

    /// Puts the word of a gap before what comes from now on. Until the client has it, it has what is
    /// before `reached`. `attached` says whether the session has a connection that can receive.
    fn tell_gap(
        &mut self,
        session: SessionId,
        reason: GapReason,
        reached: Option<Position>,
        attached: bool,
        now: Now,
    ) {
        self.probe.gaps.increment();
        let gap = EventGap { reason, missed_at_least: None, from: None, to: None };
        for json in gap.events(self.rules.dialect, self.stamp(now)) {
            let item = Item::Event(json.into());
            let put = self.mailboxes.put_gap(session, item, reached, attached);
            self.probe.events_lost.add(put.lost + u64::from(put.refused));
        }
    }

    /// Asks the node that had the session what is left of it there. Says whether it may answer.
    fn ask_before(&self, session: SessionId, epoch: Epoch, before: Before) -> bool {
        let Some(nodes) = &self.nodes else { return false };
        let taken = TakenUp { session, epoch, before: before.epoch };
        let asked = nodes.take_up(before.node, taken);
        if !asked {
            self.probe.nodes.handed_over(Handover::NoLink);
        }
        asked
    }

    /// Another node has taken up a session that may have been here, and wants to know what its client
    /// may lack.
    pub(super) fn taken_up(&mut self, link: LinkId, taken: TakenUp) {
        let TakenUp { session, epoch, before } = taken;
        // What is replayed here is not whole.
        let whole = !self.replays.has(session);
        let left = whole.then(|| self.left_behind(session)).flatten();
        // Of an earlier stay nobody needs anything.
        let left = left.filter(|_| self.store.superseded(session, before));
        debug!(%session, epoch = epoch.0, known = left.is_some(), "session taken up elsewhere");
        if let Some(nodes) = &self.nodes {
            nodes.hand_over(link, session, epoch, left);
        }
    }

    fn left_behind(&self, session: SessionId) -> Option<LeftBehind> {
        self.store.known(session)?;
        let (events, rest) = self.mailboxes.left(session, LEFT_BYTES_MAX)?;
        Some(LeftBehind { events, next: rest.or_else(|| self.bus.live(session)) })
    }

    /// The node that had the session has answered.
    pub(super) fn handed_over(
        &mut self,
        session: SessionId,
        epoch: Epoch,
        left: Option<LeftBehind>,
        now: Now,
    ) {
        let Some((begin, parked)) = self.replays.answered(session, epoch) else { return };
        let Some(LeftBehind { events, next }) =
            left.filter(|left| self.is_usable(left, begin, session))
        else {
            self.probe.nodes.handed_over(Handover::Nothing);
            return self.without_handover(session, epoch, begin, parked, now);
        };
        self.probe.nodes.handed_over(Handover::Taken);
        self.probe.took_up(Resume::HandedOver);
        let first = events.first().map_or(next, |first| first.position);
        for Left { json, expires_unix_ms, position } in events {
            let origin = Origin { expires_unix_ms, position };
            let put = self.mailboxes.put(session, Item::Event(json), origin, false);
            self.probe.events_lost.add(put.lost + u64::from(put.refused));
        }
        match (first, next) {
            (Some(first), Some(from)) => {
                self.replays.begin(session, epoch, Begin::From(first));
                self.replay(Replay { session, epoch, from });
            }
            _ => self.go_live(session, of_no_bus(parked), now),
        }
    }

    /// Whether it is all that the client may lack.
    fn is_usable(&self, left: &LeftBehind, begin: Begin, session: SessionId) -> bool {
        let first = left.events.first().map_or(left.next, |first| first.position);
        match (begin, first, left.next) {
            (Begin::From(from), Some(first), Some(_)) => {
                first.partition == from.partition && first.offset >= from.offset
            }
            (Begin::Unknown { .. }, Some(_), Some(_)) => true,
            // Neither node has a bus that keeps its records.
            (Begin::Unknown { .. }, None, None) => self.bus.live(session).is_none(),
            _ => false,
        }
    }

    fn without_handover(
        &mut self,
        session: SessionId,
        epoch: Epoch,
        begin: Begin,
        parked: Parked,
        now: Now,
    ) {
        // What the bus keeps is read again; of what it was not known to keep, no more than this is lost.
        let begin = match (begin, &parked) {
            (Begin::Unknown { since: None }, Parked::From(first)) => {
                Begin::Unknown { since: Some(*first) }
            }
            (Begin::Unknown { since: None }, Parked::Records(records)) => {
                Begin::Unknown { since: records.first().and_then(|first| first.position) }
            }
            _ => begin,
        };
        self.begin_from_bus(session, epoch, begin, now);
        if !self.replays.has(session) {
            self.go_live(session, of_no_bus(parked), now);
        }
    }

    /// Nobody waits for an answer for ever.
    pub(super) fn give_up_handovers(&mut self, now: Now) {
        while let Some(session) = self.replays.next_unanswered(now.mono) {
            self.give_up_handover(session, now);
        }
    }

    pub(super) fn give_up_handover(&mut self, session: SessionId, now: Now) {
        if let Some((epoch, begin, parked)) = self.replays.stop_asking(session) {
            self.probe.nodes.handed_over(Handover::Late);
            self.without_handover(session, epoch, begin, parked, now);
        }
    }
}

/// What no replay will bring.
fn of_no_bus(parked: Parked) -> Vec<Record> {
    match parked {
        Parked::Records(records) => records,
        Parked::From(_) => Vec::new(),
    }
}

/// For the answer of a node that may be gone and has not been missed yet.
const HANDOVER_MAX: Duration = Duration::from_millis(250);
/// Of events that one session leaves to its next node; the rest is read from the bus.
const LEFT_BYTES_MAX: usize = 64 << 10;
