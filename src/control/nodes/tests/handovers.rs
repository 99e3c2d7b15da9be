//! What sessions leave behind: two control cores with a link, each with a bus that keeps its records.

use corelane_shard::clock::Now;
use corelane_shard::id::{Epoch, SessionId};
use corelane_shard::lane::{Content, ToControl, ToShard};

use super::*;
use crate::control::bus::{Arrival, Record, Replay};
use crate::control::fixtures::elsewhere::{self, KeptBus, SESSION, SharedStore, at, record};
use crate::control::fixtures::{self, Lane};
use crate::control::store::{Before, Begin};
use crate::control::turn::Core;

const A: usize = 0;
const B: usize = 1;

struct Pair {
    cores: [Core<Lane, SharedStore, KeptBus>; 2],
    lanes: [Lane; 2],
    wires: Vec<[End; 2]>,
    now: Now,
}

impl Pair {
    fn linked() -> Self {
        let World { sides, wires, .. } = World::linked(&[Both, Both]);
        let lanes = [Lane::default(), Lane::default()];
        let mut cores = lanes.each_ref().map(elsewhere::core);
        for (core, mut side) in cores.iter_mut().zip(sides) {
            side.nodes.probe = Arc::clone(&core.probe);
            core.nodes = Some(side.nodes);
        }
        Self { cores, lanes, wires, now: Now { mono: Instant(0), unix_ms: 1 } }
    }

    /// A session that is open on the first node, to which these records came.
    fn with_session_at_a(records: impl IntoIterator<Item = Record>) -> (Self, Epoch) {
        let mut pair = Self::linked();
        let epoch = pair.claim(A, Begin::Here, None);
        pair.opened(A, epoch);
        for record in records {
            pair.arrives(A, record);
        }
        (pair, epoch)
    }

    fn turn(&mut self, side: usize) -> Vec<ToShard> {
        self.now.unix_ms += 1;
        self.cores[side].turn(self.now);
        self.lanes[side].heard()
    }

    fn after(&mut self, ms: u64) {
        self.now.mono = self.now.mono + Duration::from_millis(ms);
    }

    fn claim(&mut self, side: usize, begin: Begin, before: Option<Before>) -> Epoch {
        (self.cores[side].store.begin, self.cores[side].store.before) = (begin, before);
        let claim = fixtures::token_claim(SESSION);
        self.lanes[side].says(ToControl::Claim { key: key(4), claim });
        let told = self.turn(side);
        let granted = told.iter().find_map(|it| match it {
            ToShard::Granted { epoch, .. } => Some(*epoch),
            _ => None,
        });
        granted.unwrap_or_else(|| panic!("{told:?}"))
    }

    /// On the second node, from the first.
    fn take_up(&mut self, begin: Begin, before: Epoch) -> Epoch {
        self.claim(B, begin, Some(Before { node: instance(A), epoch: before }))
    }

    fn arrives(&mut self, side: usize, record: Record) {
        let bus = &mut self.cores[side].bus;
        bus.live = record.position.map_or(bus.live, |position| position.offset + 1);
        bus.arrivals.push_back(Arrival::Record(record));
        self.turn(side);
    }

    /// Whatever is under way on the link.
    fn carry(&mut self) {
        for wire in 0..self.wires.len() {
            for from in [A, B] {
                while let Ok(outgoing) = self.wires[wire][from].seat.queue.try_recv() {
                    let Outgoing::Message(bytes, _) = outgoing else { panic!("{outgoing:?}") };
                    let End { side, seat } = &self.wires[wire][1 - from];
                    let news = LinkNews { link: seat.link, what: What::Said(bytes) };
                    self.cores[*side].hear_link(news, self.now);
                }
            }
        }
    }

    /// Until the first node has answered, and the second has heard it.
    fn hand_over(&mut self) {
        self.carry();
        self.carry();
    }

    fn replay_ends(&mut self, epoch: Epoch) {
        let ended = Arrival::ReplayEnded { session: SESSION, epoch };
        self.cores[B].bus.arrivals.push_back(ended);
        self.turn(B);
    }

    fn opened(&mut self, side: usize, epoch: Epoch) -> Vec<String> {
        self.lanes[side].says(ToControl::Opened { key: key(4), session: SESSION, epoch });
        let told = self.turn(side);
        let events = told.into_iter().filter_map(|message| match message {
            ToShard::Deliver(delivery) => match delivery.content {
                Content::Event(json) => Some(json),
                _ => None,
            },
            _ => None,
        });
        events.map(|json| elsewhere::event_name(&json)).collect()
    }

    /// Taken, nothing, late, no link.
    fn outcomes(&self) -> [u64; 4] {
        self.cores[B].probe.nodes.handovers()
    }
}

fn from(offset: u64, epoch: Epoch) -> Replay {
    Replay { session: SESSION, epoch, from: at(offset) }
}

#[test]
fn what_a_client_has_not_confirmed_comes_from_the_node_that_had_it() {
    let (mut pair, before) = Pair::with_session_at_a([record(50), record(51), record(52)]);
    pair.cores[B].bus.live = 53;
    let epoch = pair.take_up(Begin::From(at(50)), before);
    assert_eq!(pair.cores[B].bus.replays, []);
    pair.hand_over();
    // What came to neither of them yet is the bus's.
    assert_eq!(pair.cores[B].bus.replays, [from(53, epoch)]);
    pair.replay_ends(epoch);
    assert_eq!(pair.opened(B, epoch), ["50", "51", "52"]);
    assert_eq!(pair.outcomes(), [1, 0, 0, 0]);
    assert_eq!(pair.cores[B].probe.resumes(), [0, 1, 0, 0]);
}

#[test]
fn the_node_that_had_it_closes_its_connection_and_keeps_nothing() {
    let (mut pair, before) = Pair::with_session_at_a([record(50)]);
    pair.take_up(Begin::From(at(50)), before);
    pair.hand_over();
    let told = pair.turn(A);
    let evicted = |it: &ToShard| matches!(it, ToShard::Evict { epoch, .. } if *epoch == before);
    assert!(told.iter().any(evicted), "{told:?}");
    assert_eq!(pair.cores[A].mailboxes.len(), 0);
}

#[test]
fn what_was_confirmed_there_and_not_yet_written_is_not_sent_again() {
    let (mut pair, before) = Pair::with_session_at_a([record(50), record(51)]);
    // Places count from one.
    let place = corelane_shard::id::Place(1);
    pair.lanes[A].says(ToControl::Received { session: SESSION, epoch: before, place });
    pair.turn(A);
    let epoch = pair.take_up(Begin::From(at(50)), before);
    pair.hand_over();
    assert_eq!(pair.cores[B].bus.replays, [from(52, epoch)]);
    pair.replay_ends(epoch);
    assert_eq!(pair.opened(B, epoch), ["51"]);
}

#[test]
fn a_client_that_lacks_nothing_begins_where_the_other_node_was() {
    let (mut pair, before) = Pair::with_session_at_a([]);
    pair.cores[A].bus.live = 77;
    let epoch = pair.take_up(Begin::From(at(50)), before);
    pair.hand_over();
    assert_eq!(pair.cores[B].bus.replays, [from(77, epoch)]);
    assert_eq!(pair.outcomes(), [1, 0, 0, 0]);
}

#[test]
fn live_events_wait_for_the_other_node_and_come_behind_what_it_has() {
    let (mut pair, before) = Pair::with_session_at_a([record(50)]);
    pair.cores[B].bus.live = 51;
    let epoch = pair.take_up(Begin::From(at(50)), before);
    pair.hand_over();
    pair.arrives(B, record(51));
    pair.replay_ends(epoch);
    assert_eq!(pair.opened(B, epoch), ["50", "51"]);
}

#[test]
fn a_node_that_does_not_answer_is_not_waited_for() {
    let (mut pair, before) = Pair::with_session_at_a([record(50)]);
    let epoch = pair.take_up(Begin::From(at(50)), before);
    pair.arrives(B, record(51));
    pair.after(249);
    pair.turn(B);
    assert_eq!(pair.cores[B].bus.replays, []);
    pair.after(1);
    pair.turn(B);
    // What was live meanwhile is read with it.
    assert_eq!(pair.cores[B].bus.replays, [from(50, epoch)]);
    assert_eq!(pair.outcomes(), [0, 0, 1, 0]);
    pair.hand_over();
    assert_eq!(pair.outcomes(), [0, 0, 1, 0], "it is too late");
    assert_eq!(pair.opened(B, epoch), Vec::<String>::new());
}

#[test]
fn a_node_without_a_link_is_not_asked() {
    let mut pair = Pair::linked();
    let before = Some(Before { node: instance(7), epoch: Epoch(1) });
    let epoch = pair.claim(B, Begin::From(at(50)), before);
    assert_eq!(pair.cores[B].bus.replays, [from(50, epoch)]);
    assert_eq!(pair.outcomes(), [0, 0, 0, 1]);
}

#[test]
fn a_node_that_was_not_the_last_has_nothing_to_tell_and_keeps_what_it_has() {
    let (mut pair, first) = Pair::with_session_at_a([record(50)]);
    let epoch = pair.take_up(Begin::From(at(40)), Epoch(first.0 + 1));
    pair.hand_over();
    assert_eq!(pair.cores[B].bus.replays, [from(40, epoch)]);
    assert_eq!(pair.outcomes(), [0, 1, 0, 0]);
    assert_eq!(pair.cores[A].mailboxes.len(), 1);
}

#[test]
fn a_node_that_lacks_something_itself_tells_nothing() {
    let mut pair = Pair::linked();
    let before = pair.claim(A, Begin::From(at(30)), None);
    let epoch = pair.take_up(Begin::From(at(30)), before);
    pair.hand_over();
    assert_eq!(pair.cores[B].bus.replays, [from(30, epoch)], "the other one still reads");
    let mut pair = Pair::linked();
    let before = pair.claim(A, Begin::Unknown { since: None }, None);
    pair.opened(A, before);
    let epoch = pair.take_up(Begin::Unknown { since: Some(at(45)) }, before);
    pair.hand_over();
    assert_eq!(pair.cores[B].bus.replays, [from(45, epoch)]);
    pair.replay_ends(epoch);
    assert_eq!(pair.opened(B, epoch), ["connect.event-gap"], "its client had not confirmed it");
}

#[test]
fn what_cannot_be_told_over_a_link_is_read_from_the_bus() {
    let mut order = record(51);
    let json = r#"{"eventName":"permission.session-capabilities","permissions":{}}"#;
    order.value = json.as_bytes().into();
    let (mut pair, before) = Pair::with_session_at_a([record(50), order, record(52)]);
    let epoch = pair.take_up(Begin::From(at(50)), before);
    pair.hand_over();
    assert_eq!(pair.cores[B].bus.replays, [from(51, epoch)]);
    pair.replay_ends(epoch);
    assert_eq!(pair.opened(B, epoch), ["50"]);
}

#[test]
fn a_session_whose_cursor_nobody_knows_needs_no_gap_if_the_other_node_is_there() {
    let (mut pair, before) = Pair::with_session_at_a([record(50)]);
    let epoch = pair.take_up(Begin::Unknown { since: Some(at(60)) }, before);
    assert_eq!(pair.cores[B].store.renewed_at, None);
    pair.hand_over();
    assert_eq!(pair.cores[B].bus.replays, [from(51, epoch)]);
    pair.turn(B);
    assert_eq!(pair.cores[B].store.renewed_at, Some(at(50)));
    pair.replay_ends(epoch);
    assert_eq!(pair.opened(B, epoch), ["50"]);
}

/// An event that no bus keeps.
fn passing(number: u64) -> Record {
    Record { position: None, ..record(number) }
}

#[test]
fn without_a_bus_that_keeps_events_they_go_from_node_to_node() {
    let mut pair = Pair::linked();
    pair.cores.iter_mut().for_each(|core| core.bus.away = true);
    let before = pair.claim(A, Begin::Here, None);
    pair.opened(A, before);
    pair.arrives(A, passing(1));
    let epoch = pair.take_up(Begin::Unknown { since: None }, before);
    pair.arrives(B, passing(2));
    pair.hand_over();
    assert_eq!(pair.opened(B, epoch), ["1", "2"]);
    assert_eq!(pair.outcomes(), [1, 0, 0, 0]);
}

#[test]
fn without_a_bus_that_keeps_events_a_node_that_is_gone_leaves_a_gap() {
    let mut pair = Pair::linked();
    pair.cores.iter_mut().for_each(|core| core.bus.away = true);
    let epoch = pair.take_up(Begin::Unknown { since: None }, Epoch(1));
    pair.arrives(B, passing(2));
    pair.after(250);
    pair.turn(B);
    assert_eq!(pair.opened(B, epoch), ["connect.event-gap", "2"]);
}

#[test]
fn a_client_that_comes_back_meanwhile_waits_for_nobody() {
    let (mut pair, before) = Pair::with_session_at_a([record(50)]);
    pair.take_up(Begin::From(at(50)), before);
    let epoch = pair.claim(B, Begin::Here, None);
    assert_eq!(pair.cores[B].bus.replays, [from(50, epoch)]);
    pair.hand_over();
    assert_eq!(pair.cores[B].bus.replays, [from(50, epoch)], "the answer was for another claim");
}

#[test]
fn a_session_that_nobody_knows_is_answered_all_the_same() {
    let mut pair = Pair::linked();
    let session = SessionId(99);
    let nodes = pair.cores[B].nodes.as_ref().unwrap();
    assert!(nodes.take_up(instance(A), TakenUp { session, epoch: Epoch(2), before: Epoch(1) }));
    let link = pair.wires[0][A].seat.link;
    pair.cores[A].taken_up(link, TakenUp { session, epoch: Epoch(2), before: Epoch(1) });
    let Ok(Outgoing::Message(bytes, _)) = pair.wires[0][A].seat.queue.try_recv() else {
        panic!("no answer")
    };
    let expected = Said::HandedOver { session, epoch: Epoch(2), left: None };
    assert_eq!(Said::decode(&bytes), Ok(expected));
}
