//! Sessions that come from other nodes and go there: a store and a bus that say what the test wants.

use std::collections::VecDeque;
use std::time::Duration;

use corelane_shard::clock::Instant;
use corelane_shard::id::{Generation, Slot};
use corelane_shard::lane::ToControl;

use super::*;
use crate::control::Settings;
use crate::control::bus::{Arrival, SESSION_KEY};
use crate::control::fixtures::{self, Lane};
use crate::control::probe::ControlProbe;
use crate::control::store::{Admission, Claimed, EmbeddedStore, Known, StoreRules};
use crate::control::turn::CoreParts;
use crate::lifecycle::drain::DrainPlan;

const SESSION: SessionId = SessionId(1);
const KEY: ConnectionKey = ConnectionKey { slot: Slot(4), generation: Generation(3) };

/// A store that another node shares.
struct SharedStore {
    own: EmbeddedStore,
    /// Of the next claim that is granted.
    begin: Begin,
    lost: VecDeque<Lost>,
    sure: bool,
    /// Nothing is known of any session.
    forget: bool,
    reached: Vec<Position>,
    released_at: Vec<Option<Position>>,
    renewed_at: Option<Position>,
}

impl SessionStore for SharedStore {
    fn claim(&mut self, claimed: Claimed, start: Option<Position>, now: Now) {
        self.own.claim(claimed, start, now);
    }

    fn decided(&mut self) -> Option<Decision> {
        let begin = self.begin;
        self.own.decided().map(|decision| Decision { begin, ..decision })
    }

    fn opened(&mut self, session: SessionId, owner: Owner) -> Opened {
        self.own.opened(session, owner)
    }

    fn token_received(&mut self, session: SessionId, epoch: Epoch) {
        self.own.token_received(session, epoch);
    }

    fn release(
        &mut self,
        session: SessionId,
        owner: Owner,
        end: End,
        reached: Option<Position>,
        now: Now,
    ) -> Released {
        self.released_at.push(reached);
        self.own.release(session, owner, end, reached, now)
    }

    fn end(&mut self, session: SessionId, reason: Option<&str>, now: Now) -> Ended {
        self.own.end(session, reason, now)
    }

    fn reached(&mut self, _session: SessionId, _epoch: Epoch, position: Position) {
        self.reached.push(position);
    }

    fn renew(&mut self, reached: &mut dyn FnMut(SessionId) -> Option<Position>, _now: Now) {
        self.renewed_at = reached(SESSION);
    }

    fn lost(&mut self) -> Option<Lost> {
        self.lost.pop_front()
    }

    fn may_deliver(&self, _now: Now) -> bool {
        self.sure
    }

    fn known(&self, session: SessionId) -> Option<Known<'_>> {
        self.own.known(session).filter(|_| !self.forget)
    }

    fn of_account(&self, account: &str, each: &mut dyn FnMut(Known<'_>)) {
        self.own.of_account(account, each);
    }

    fn each(&self, each: &mut dyn FnMut(Known<'_>)) {
        self.own.each(each);
    }

    fn expire(&mut self, now: Now, forgotten: &mut dyn FnMut(SessionId)) {
        self.own.expire(now, forgotten);
    }

    fn rule(&mut self, rules: StoreRules) {
        self.own.rule(rules);
    }

    fn admit(&mut self, admission: Admission) {
        self.own.admit(admission);
    }

    fn due(&self) -> Option<Instant> {
        self.own.due()
    }

    fn live(&self) -> usize {
        self.own.live()
    }

    fn waiting(&self) -> usize {
        self.own.waiting()
    }
}

/// A bus that keeps its records, all in one partition.
#[derive(Default)]
struct KeptBus {
    arrivals: VecDeque<Arrival>,
    replays: Vec<Replay>,
    live: u64,
    /// Nobody knows where it is.
    away: bool,
}

impl EventBus for KeptBus {
    fn wants(&self, _topic: &str) -> bool {
        false
    }

    fn publish(&mut self, _record: Record) {}

    fn live(&self, _session: SessionId) -> Option<Position> {
        (!self.away).then(|| at(self.live))
    }

    fn replay(&mut self, replay: Replay) {
        self.replays.push(replay);
    }

    fn next(&mut self, wanted: &mut dyn FnMut(SessionId) -> bool) -> Option<Arrival> {
        assert!(!wanted(SessionId(99)), "a session that nobody has claimed");
        self.arrivals.pop_front()
    }
}

struct Bench {
    core: Core<Lane, SharedStore, KeptBus>,
    lane: Lane,
    second: u64,
}

impl Bench {
    fn new() -> Self {
        let lane = Lane::default();
        let rules = fixtures::rules(10);
        let store = SharedStore {
            own: EmbeddedStore::new("salt", rules.store),
            begin: Begin::Here,
            lost: VecDeque::new(),
            sure: true,
            forget: false,
            reached: Vec::new(),
            released_at: Vec::new(),
            renewed_at: None,
        };
        let core = Core::new(CoreParts {
            ports: vec![lane.clone()],
            store,
            bus: KeptBus { live: 50, ..KeptBus::default() },
            snapshot: fixtures::snapshot_of(&[]),
            targets: Vec::new(),
            settings: Settings {
                rules,
                drain: DrainPlan {
                    grace: Duration::from_secs(1),
                    spread: Duration::from_secs(2),
                    calls: Duration::from_secs(2),
                    deadline: Duration::from_secs(5),
                },
                resolve_refresh: Duration::from_secs(5),
                unknown_key_interval: Duration::from_secs(30),
            },
            phase: Arc::default(),
            probe: Arc::<ControlProbe>::default(),
            seed: 1,
        });
        Self { core, lane, second: 0 }
    }

    fn turn(&mut self) -> Vec<ToShard> {
        self.second += 1;
        let mono = Instant(self.second * 1_000_000_000);
        self.core.turn(Now { mono, unix_ms: self.second * 1000 });
        self.lane.heard()
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

    fn replay_ends(&mut self, epoch: Epoch, missing: Option<Missing>) {
        let ended = Arrival::ReplayEnded { session: SESSION, epoch, missing };
        self.core.bus.arrivals.push_back(ended);
    }

    fn confirms(&mut self, epoch: Epoch, place: Option<Place>) {
        let place = place.unwrap();
        self.says(ToControl::Received { session: SESSION, epoch, place });
        self.turn();
    }
}

fn at(offset: u64) -> Position {
    Position { partition: 0, offset }
}

/// Its number stands where a client would see it.
fn record(offset: u64) -> Record {
    let json = format!(r#"{{"eventName":"system.notification","number":{offset}}}"#);
    Record {
        topic: topic::CLIENT_EVENTS.into(),
        key: format!("{SESSION_KEY}{SESSION}").into(),
        value: json.into_bytes().into(),
        expires_at_ms: None,
        position: Some(at(offset)),
        trail: None,
    }
}

/// The number of an event of [`record`], or its name.
fn event_name(json: &[u8]) -> String {
    let json: serde_json::Value = serde_json::from_slice(json).unwrap();
    let name = json["eventName"].as_str().unwrap().to_owned();
    json.get("number").map_or(name, ToString::to_string)
}

fn names(delivered: &[(Option<Place>, String)]) -> Vec<&str> {
    delivered.iter().map(|(_, name)| name.as_str()).collect()
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
    bench.replay_ends(epoch, None);
    bench.arrives(52);
    assert_eq!(names(&bench.delivered()), ["41", "43", "50", "51", "52"]);
}

#[test]
fn events_replayed_before_the_session_is_open_wait_for_it() {
    let mut bench = Bench::new();
    let epoch = bench.claim(Begin::From(at(40)));
    bench.replayed(epoch, 41);
    bench.replay_ends(epoch, None);
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
    bench.replay_ends(first, None);
    bench.opened(second);
    bench.replayed(second, 41);
    bench.replayed(second, 43);
    bench.replay_ends(second, None);
    assert_eq!(names(&bench.delivered()), ["41", "43"]);
}

#[test]
fn what_the_bus_has_no_more_is_a_gap_that_the_client_hears_of() {
    let mut bench = Bench::new();
    let epoch = bench.claim(Begin::From(at(40)));
    bench.replayed(epoch, 47);
    bench.replay_ends(epoch, Some(Missing { from: 40, to: 45 }));
    let told = bench.opened(epoch);
    assert!(names(&told).contains(&"connect.event-gap"), "{told:?}");
    assert_eq!(bench.core.probe.gaps.read(), 1);
}

#[test]
fn a_session_without_a_cursor_is_told_of_a_gap_before_its_live_events() {
    let mut bench = Bench::new();
    let epoch = bench.claim(Begin::Unknown);
    bench.arrives(50);
    assert_eq!(names(&bench.opened(epoch)), ["connect.event-gap", "50"]);
}

#[test]
fn what_is_kept_here_of_an_earlier_stay_gives_way_to_the_replay() {
    let mut bench = Bench::new();
    let first = bench.claim(Begin::Here);
    bench.arrives(50);
    bench.opened(first);
    let second = bench.claim(Begin::From(at(50)));
    bench.replayed(second, 50);
    bench.replay_ends(second, None);
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
    let epoch = bench.claim(Begin::Unknown);
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
    bench.replayed(epoch, 47);
    let event = bench.opened(epoch);
    assert_eq!(names(&event), [""; 0]);
    bench.replay_ends(epoch, Some(Missing { from: 40, to: 45 }));
    let told = bench.delivered();
    assert_eq!(names(&told), ["47", "connect.event-gap"]);
    bench.confirms(epoch, told[0].0);
    assert_eq!(bench.core.store.renewed_at, Some(at(40)));
    bench.confirms(epoch, told[1].0);
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
    bench.replay_ends(epoch, None);
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
    bench.core.store.sure = true;
    assert_eq!(names(&bench.delivered()), ["50"]);
}

#[test]
fn a_session_that_is_back_keeps_what_it_has_when_the_loss_of_its_earlier_stay_is_heard() {
    let mut bench = Bench::new();
    let lost = Lost { session: SESSION, owner: None, why: Loss::Replaced };
    bench.core.store.lost.push_back(lost);
    let epoch = bench.claim(Begin::From(at(40)));
    bench.replayed(epoch, 41);
    bench.replay_ends(epoch, None);
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
