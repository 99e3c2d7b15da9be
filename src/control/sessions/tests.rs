//! Sessions that come from other nodes and go there: a store and a bus that say what the test wants.

use corelane_shard::clock::Instant;
use corelane_shard::id::{Generation, Slot};
use corelane_shard::lane::ToControl;

use super::*;
use crate::control::bus::{Arrival, Missing, Replay};
use crate::control::fixtures::elsewhere::{
    self, KeptBus, SESSION, SharedStore, at, event_name, record,
};
use crate::control::fixtures::{self, Lane};
use crate::control::store::Begin;

const KEY: ConnectionKey = ConnectionKey { slot: Slot(4), generation: Generation(3) };

struct Bench {
    core: Core<Lane, SharedStore, KeptBus>,
    lane: Lane,
    second: u64,
}

impl Bench {
    fn new() -> Self {
        let lane = Lane::default();
        let core = elsewhere::core(&lane);
        Self { core, lane, second: 0 }
    }

    fn turn(&mut self) -> Vec<ToShard> {
        self.second += 1;
        self.core.turn(self.now());
        self.lane.heard()
    }

    fn now(&self) -> Now {
        Now { mono: Instant(self.second * 1_000_000_000), unix_ms: self.second * 1000 }
    }

    fn says(&self, message: ToControl) {
        self.lane.says(message);
    }

    /// The client claims its session; its events begin as said.
    fn claim(&mut self, begin: Begin) -> Epoch {
        self.core.store.begin = begin;
        self.says(ToControl::Claim { key: KEY, claim: fixtures::token_claim(SESSION) });
        let told = self.turn();
        let Some(ToShard::Granted { epoch, .. }) = told.last() else { panic!("{told:?}") };
        *epoch
    }

    fn opened(&mut self, epoch: Epoch) -> Vec<(Option<Place>, String)> {
        self.says(ToControl::Opened { key: KEY, session: SESSION, epoch });
        self.delivered()
    }

    /// What the shard is given for the client in one turn.
    fn delivered(&mut self) -> Vec<(Option<Place>, String)> {
        let told = self.turn().into_iter();
        let deliveries = told.filter_map(|message| match message {
            ToShard::Deliver(delivery) => Some(delivery),
            _ => None,
        });
        deliveries
            .map(|Delivery { place, content, .. }| {
                let Content::Event(json) = content else { panic!("{content:?}") };
                (place, event_name(&json))
            })
            .collect()
    }

    fn arrives(&mut self, offset: u64) {
        self.core.bus.arrivals.push_back(Arrival::Record(record(offset)));
    }

    fn replayed(&mut self, epoch: Epoch, offset: u64) {
        let replayed = Arrival::Replayed { session: SESSION, epoch, record: record(offset) };
        self.core.bus.arrivals.push_back(replayed);
    }

    /// Records from there to there are gone that should have been replayed.
    fn replay_lacks(&mut self, epoch: Epoch, from: u64, to: u64) {
        let missing = Missing { from, to };
        let lacks = Arrival::ReplayMissing { session: SESSION, epoch, missing };
        self.core.bus.arrivals.push_back(lacks);
    }

    fn replay_ends(&mut self, epoch: Epoch) {
        self.core.bus.arrivals.push_back(Arrival::ReplayEnded { session: SESSION, epoch });
    }

    /// Records from there to there are gone that should have come live.
    fn live_lacks(&mut self, from: u64, to: u64) {
        self.core.bus.live = self.core.bus.live.max(to);
        let missed = [(at(from).partition, Missing { from, to })].into();
        self.core.bus.arrivals.push_back(Arrival::Missed(missed));
    }

    fn confirms(&mut self, epoch: Epoch, place: Option<Place>) {
        let place = place.unwrap();
        self.says(ToControl::Received { session: SESSION, epoch, place });
        self.turn();
    }
}

fn names(delivered: &[(Option<Place>, String)]) -> Vec<&str> {
    delivered.iter().map(|(_, name)| name.as_str()).collect()
}

#[test]
fn sessions_that_are_taken_up_are_counted_by_where_their_events_come_from() {
    let mut bench = Bench::new();
    let first = bench.claim(Begin::Here);
    bench.opened(first);
    assert_eq!(bench.core.probe.resumes(), [0; 4], "it is new");
    bench.claim(Begin::Here);
    bench.claim(Begin::From(at(40)));
    bench.claim(Begin::Unknown { since: None });
    assert_eq!(bench.core.probe.resumes(), [1, 0, 1, 1]);
}

#[test]
fn a_session_from_elsewhere_gets_what_it_may_lack_and_then_what_came_meanwhile() {
    let mut bench = Bench::new();
    let epoch = bench.claim(Begin::From(at(40)));
    assert_eq!(bench.core.bus.replays, [Replay { session: SESSION, epoch, from: at(40) }]);
    bench.arrives(50);
    assert_eq!(names(&bench.opened(epoch)), [""; 0], "the live event waits for the earlier ones");
    bench.replayed(epoch, 41);
    bench.arrives(51);
    bench.replayed(epoch, 43);
    assert_eq!(names(&bench.delivered()), [""; 0]);
    bench.replay_ends(epoch);
    bench.arrives(52);
    assert_eq!(names(&bench.delivered()), ["41", "43", "50", "51", "52"]);
}

#[test]
fn events_replayed_before_the_session_is_open_wait_for_it() {
    let mut bench = Bench::new();
    let epoch = bench.claim(Begin::From(at(40)));
    bench.replayed(epoch, 41);
    bench.replay_ends(epoch);
    assert_eq!(names(&bench.delivered()), [""; 0]);
    assert_eq!(names(&bench.opened(epoch)), ["41"]);
}

#[test]
fn a_replay_for_an_earlier_claim_reaches_nobody() {
    let mut bench = Bench::new();
    let first = bench.claim(Begin::From(at(40)));
    bench.replayed(first, 41);
    bench.turn();
    let second = bench.claim(Begin::Here);
    let from = at(40);
    assert_eq!(bench.core.bus.replays[1], Replay { session: SESSION, epoch: second, from });
    bench.replayed(first, 43);
    bench.replay_ends(first);
    bench.opened(second);
    bench.replayed(second, 41);
    bench.replayed(second, 43);
    bench.replay_ends(second);
    assert_eq!(names(&bench.delivered()), ["41", "43"]);
}

#[test]
fn what_the_bus_has_no_more_is_a_gap_that_the_client_hears_of() {
    let mut bench = Bench::new();
    let epoch = bench.claim(Begin::From(at(40)));
    bench.replay_lacks(epoch, 40, 45);
    bench.replayed(epoch, 47);
    bench.replay_lacks(Epoch(999), 40, 45);
    bench.replay_ends(epoch);
    assert_eq!(names(&bench.opened(epoch)), ["connect.event-gap", "47"]);
    assert_eq!(bench.core.probe.gaps.read(), 1);
}

#[test]
fn live_events_that_are_gone_are_a_gap_that_everybody_of_their_partition_hears_of() {
    let mut bench = Bench::new();
    let epoch = bench.claim(Begin::Here);
    bench.opened(epoch);
    bench.arrives(50);
    bench.live_lacks(51, 60);
    bench.arrives(60);
    let told = bench.delivered();
    bench.core.bus.live = 61;
    assert_eq!(names(&told), ["50", "connect.event-gap", "60"]);
    assert_eq!(bench.core.store.renewed_at, Some(at(50)));
    bench.confirms(epoch, told[0].0);
    assert_eq!(bench.core.store.renewed_at, Some(at(50)), "until the client knows of it");
    bench.confirms(epoch, told[1].0);
    assert_eq!(bench.core.store.renewed_at, Some(at(51)));
    bench.confirms(epoch, told[2].0);
    assert_eq!(bench.core.store.renewed_at, Some(at(61)));
    let elsewhere = [(at(0).partition + 1, Missing { from: 0, to: 99 })].into();
    bench.core.bus.arrivals.push_back(Arrival::Missed(elsewhere));
    assert_eq!(names(&bench.delivered()), [""; 0]);
}

#[test]
fn a_session_with_nothing_in_its_mailbox_hears_at_once_that_live_events_are_gone() {
    let mut bench = Bench::new();
    let epoch = bench.claim(Begin::Here);
    bench.opened(epoch);
    bench.live_lacks(50, 60);
    let told = bench.delivered();
    assert_eq!(names(&told), ["connect.event-gap"]);
    assert_eq!(bench.core.store.renewed_at, Some(at(50)));
    bench.confirms(epoch, told[0].0);
    assert_eq!(bench.core.store.renewed_at, Some(at(60)));
}

#[test]
fn a_session_that_has_had_elsewhere_what_is_gone_here_lacks_nothing() {
    let mut bench = Bench::new();
    let epoch = bench.claim(Begin::Here);
    bench.opened(epoch);
    bench.core.bus.live = 70;
    bench.live_lacks(50, 60);
    assert_eq!(names(&bench.delivered()), [""; 0]);
}

#[test]
fn what_is_gone_of_the_live_events_shows_behind_the_replay_that_goes_on() {
    let mut bench = Bench::new();
    let epoch = bench.claim(Begin::From(at(40)));
    bench.arrives(50);
    bench.live_lacks(51, 60);
    bench.arrives(60);
    bench.replayed(epoch, 41);
    bench.replay_ends(epoch);
    assert_eq!(names(&bench.opened(epoch)), [""; 0]);
    let again = Replay { session: SESSION, epoch, from: at(50) };
    assert_eq!(bench.core.bus.replays.last(), Some(&again), "with what was parked");
    bench.replayed(epoch, 50);
    bench.replay_lacks(epoch, 51, 60);
    bench.replayed(epoch, 60);
    bench.replay_ends(epoch);
    assert_eq!(names(&bench.delivered()), ["41", "50", "connect.event-gap", "60"]);
}

#[test]
fn a_session_without_a_cursor_is_told_of_a_gap_before_its_live_events() {
    let mut bench = Bench::new();
    let epoch = bench.claim(Begin::Unknown { since: None });
    bench.arrives(50);
    assert_eq!(names(&bench.opened(epoch)), ["connect.event-gap", "50"]);
}

#[test]
fn behind_a_gap_that_is_told_again_comes_everything_that_came_behind_it_elsewhere() {
    let mut bench = Bench::new();
    let epoch = bench.claim(Begin::Unknown { since: Some(at(40)) });
    assert_eq!(bench.core.bus.replays, [Replay { session: SESSION, epoch, from: at(40) }]);
    assert_eq!(bench.core.store.renewed_at, None, "the client has yet to hear of the gap");
    bench.arrives(50);
    bench.replayed(epoch, 41);
    bench.replay_ends(epoch);
    let told = bench.opened(epoch);
    assert_eq!(names(&told), ["connect.event-gap", "41", "50"]);
    bench.confirms(epoch, told[1].0);
    assert_eq!(bench.core.store.renewed_at, Some(at(42)));
}

#[test]
fn what_is_kept_here_of_an_earlier_stay_gives_way_to_the_replay() {
    let mut bench = Bench::new();
    let first = bench.claim(Begin::Here);
    bench.arrives(50);
    bench.opened(first);
    let second = bench.claim(Begin::From(at(50)));
    bench.replayed(second, 50);
    bench.replay_ends(second);
    assert_eq!(names(&bench.opened(second)), ["50"]);
}

#[test]
fn the_cursor_follows_what_the_client_has_confirmed() {
    let mut bench = Bench::new();
    let epoch = bench.claim(Begin::Here);
    bench.opened(epoch);
    assert_eq!(bench.core.store.renewed_at, Some(at(50)), "nothing waits: all of it has arrived");
    bench.arrives(50);
    bench.arrives(57);
    bench.core.bus.live = 60;
    let sent = bench.delivered();
    assert_eq!(names(&sent), ["50", "57"]);
    assert_eq!(bench.core.store.renewed_at, Some(at(50)));
    bench.confirms(epoch, sent[0].0);
    assert_eq!(bench.core.store.renewed_at, Some(at(51)));
    bench.confirms(epoch, sent[1].0);
    assert_eq!(bench.core.store.renewed_at, Some(at(60)));
    // When the bus was found, when the session opened, and then.
    assert_eq!(bench.core.store.reached, [at(50), at(50), at(51), at(60)]);
}

#[test]
fn sessions_that_came_before_the_bus_have_a_cursor_when_it_is_found() {
    let mut bench = Bench::new();
    bench.core.bus.away = true;
    let epoch = bench.claim(Begin::Here);
    bench.opened(epoch);
    assert_eq!(bench.core.store.reached, []);
    bench.core.bus.away = false;
    bench.turn();
    assert_eq!(bench.core.store.reached, [at(50)]);
    bench.turn();
    assert_eq!(bench.core.store.reached.len(), 1, "once");
}

#[test]
fn a_gap_that_the_client_has_not_confirmed_is_told_again_elsewhere() {
    let mut bench = Bench::new();
    let epoch = bench.claim(Begin::Unknown { since: None });
    let told = bench.opened(epoch);
    assert_eq!(names(&told), ["connect.event-gap"]);
    bench.arrives(50);
    bench.core.bus.live = 51;
    let event = bench.delivered();
    assert_eq!(bench.core.store.renewed_at, None, "the next node is to say so again");
    bench.confirms(epoch, told[0].0);
    assert_eq!(bench.core.store.renewed_at, Some(at(50)));
    bench.confirms(epoch, event[0].0);
    assert_eq!(bench.core.store.renewed_at, Some(at(51)));
}

#[test]
fn a_cursor_stays_before_what_is_missing_until_the_client_knows() {
    let mut bench = Bench::new();
    let epoch = bench.claim(Begin::From(at(40)));
    bench.replayed(epoch, 41);
    bench.replay_lacks(epoch, 42, 45);
    bench.replayed(epoch, 47);
    let event = bench.opened(epoch);
    assert_eq!(names(&event), [""; 0]);
    bench.replay_ends(epoch);
    let told = bench.delivered();
    assert_eq!(names(&told), ["41", "connect.event-gap", "47"]);
    bench.confirms(epoch, told[0].0);
    assert_eq!(bench.core.store.renewed_at, Some(at(40)));
    bench.confirms(epoch, told[1].0);
    assert_eq!(bench.core.store.renewed_at, Some(at(42)));
    bench.confirms(epoch, told[2].0);
    assert_eq!(bench.core.store.renewed_at, Some(at(50)));
}

#[test]
fn what_a_full_mailbox_has_lost_is_not_behind_the_cursor_before_the_client_knows() {
    let mut bench = Bench::new();
    let epoch = bench.claim(Begin::Here);
    let most = bench.core.rules.mailboxes.items_max as u64;
    for offset in 50..50 + most + 3 {
        bench.arrives(offset);
    }
    let told = bench.opened(epoch);
    assert_eq!(told[0].1, "connect.event-gap");
    assert_eq!(bench.core.store.renewed_at, Some(at(50)), "elsewhere they can be read again");
    bench.confirms(epoch, told[1].0);
    assert_eq!(bench.core.store.renewed_at, Some(at(54)));
}

#[test]
fn a_released_session_leaves_with_the_place_of_its_first_unconfirmed_event() {
    let mut bench = Bench::new();
    let epoch = bench.claim(Begin::From(at(40)));
    bench.replayed(epoch, 41);
    bench.replay_ends(epoch);
    bench.opened(epoch);
    bench.says(ToControl::Release { key: KEY, session: SESSION, epoch, end: End::Resumable });
    bench.turn();
    assert_eq!(bench.core.store.released_at, [Some(at(41))]);
}

#[test]
fn a_replay_that_has_brought_nothing_yet_leaves_the_cursor_where_it_was() {
    let mut bench = Bench::new();
    bench.claim(Begin::From(at(40)));
    bench.turn();
    assert_eq!(bench.core.store.renewed_at, Some(at(40)));
}

#[test]
fn a_node_that_is_not_sure_of_its_sessions_keeps_their_events_back() {
    let mut bench = Bench::new();
    let epoch = bench.claim(Begin::Here);
    bench.opened(epoch);
    bench.core.store.sure = false;
    bench.arrives(50);
    assert_eq!(names(&bench.delivered()), [""; 0]);
    assert!(!bench.core.has_waiting(bench.now()), "until the store has news");
    bench.core.store.sure = true;
    assert!(bench.core.has_waiting(bench.now()));
    assert_eq!(names(&bench.delivered()), ["50"]);
}

#[test]
fn a_session_that_is_back_keeps_what_it_has_when_the_loss_of_its_earlier_stay_is_heard() {
    let mut bench = Bench::new();
    let lost = Lost { session: SESSION, owner: None, why: Loss::Replaced };
    bench.core.store.lost.push_back(lost);
    let epoch = bench.claim(Begin::From(at(40)));
    bench.replayed(epoch, 41);
    bench.replay_ends(epoch);
    assert_eq!(names(&bench.opened(epoch)), ["41"]);
}

#[test]
fn a_session_that_another_node_has_is_closed_here_and_forgotten() {
    let mut bench = Bench::new();
    let epoch = bench.claim(Begin::Here);
    bench.arrives(50);
    bench.opened(epoch);
    let owner = Some(Owner { shard: ShardId(0), key: KEY, epoch });
    let lose = |why| Lost { session: SESSION, owner, why };
    bench.core.store.lost.extend([
        lose(Loss::Replaced),
        lose(Loss::Ended { reason: Some("banned".into()) }),
        lose(Loss::Ended { reason: None }),
        lose(Loss::Identity),
    ]);
    bench.core.store.forget = true;
    let told = bench.turn();
    let expected = |message: &ToShard| match message {
        ToShard::Evict { key, epoch: of } => *key == KEY && *of == epoch,
        ToShard::EndSession { reason, .. } => &**reason == "Session invalidated: banned",
        ToShard::Disown { key, epoch: of } => *key == KEY && *of == epoch,
        _ => false,
    };
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(told.iter().all(expected), "{told:?}");
    assert_eq!(bench.core.mailboxes.len(), 0);
    assert_eq!(bench.core.probe.sessions_lost.read(), 4);
}
