//! Turns of the control core with lanes made of queues.

use std::time::Duration;

use corelane_shard::id::{
    ConnectionKey, EndpointId, Epoch, Generation, ServiceId, SessionId, Slot,
};
use corelane_shard::identity::{Identity, Standing};
use corelane_shard::lane::{
    Claim, ClaimRefusal, Content, Credential, Delivery, DrainPhase, End, Granting, Resumed,
    RpcEnded, RpcOutcome,
};
use corelane_shard::wire::guid::Guid;
use corelane_shard::wire::reconnect_token::ReconnectKeys;

use super::*;
use crate::control::ask::{Rpc, RpcRefused, Unpublished};
use crate::control::bus::{EmbeddedBus, Record, topic};
use crate::control::fixtures::{self, Lane};
use crate::control::resolve::Target;
use crate::control::store::EmbeddedStore;
use crate::lifecycle::Phase;

fn heard_phases(lane: &Lane) -> Vec<DrainPhase> {
    let phase = |message| match message {
        ToShard::Drain(phase) => Some(phase),
        _ => None,
    };
    lane.heard().into_iter().filter_map(phase).collect()
}

const PLAN: DrainPlan = DrainPlan {
    grace: Duration::from_secs(1),
    spread: Duration::from_secs(2),
    calls: Duration::from_secs(2),
    deadline: Duration::from_secs(5),
};
const ALICE: SessionId = SessionId(1);

struct Bench {
    core: Core<Lane, EmbeddedStore, EmbeddedBus>,
    lanes: [Lane; 2],
    phase: Arc<PhaseCell>,
    probe: Arc<ControlProbe>,
}

impl Bench {
    fn new() -> Self {
        let lanes = [Lane::default(), Lane::default()];
        let (phase, probe) = (Arc::<PhaseCell>::default(), Arc::<ControlProbe>::default());
        let rules = fixtures::rules(1000);
        let core = Core::new(CoreParts {
            ports: lanes.to_vec(),
            store: EmbeddedStore::new("salt", rules.store),
            bus: EmbeddedBus::default(),
            snapshot: fixtures::snapshot_of(&[("demo", "/demo/echo"), ("account", "/account/get")]),
            targets: Vec::new(),
            settings: Settings {
                rules,
                drain: PLAN,
                resolve_refresh: Duration::from_secs(5),
                unknown_key_interval: Duration::from_secs(30),
            },
            phase: Arc::clone(&phase),
            probe: Arc::clone(&probe),
            seed: 1,
        });
        Self { core, lanes, phase, probe }
    }

    /// Opens a session on shard 0 and forgets what was said about it.
    fn open(&mut self, slot: u32, session: SessionId, second: u64) -> Epoch {
        self.lanes[0].says(claim(slot, session));
        self.turn(second);
        let heard = self.lanes[0].heard();
        let Some(ToShard::Granted { epoch, .. }) = heard.last() else { panic!("{heard:?}") };
        let epoch = *epoch;
        self.lanes[0].says(ToControl::Opened { key: key(slot), session, epoch });
        self.turn(second);
        epoch
    }

    fn publish(&mut self, topic: &str, key: &str, json: &str) -> Result<(), Unpublished> {
        let value = json.as_bytes().into();
        let record = Record {
            topic: topic.into(),
            key: key.into(),
            value,
            expires_at_ms: None,
            position: None,
            trail: None,
        };
        self.core.take_record(record, at(20))
    }

    fn publish_for(&mut self, session: SessionId, json: &str) -> Result<(), Unpublished> {
        self.publish(topic::CLIENT_EVENTS, &format!("CONNECT_SESSION_{session}"), json)
    }

    /// What shard 0 was told to deliver since it was last asked.
    fn delivered(&mut self, second: u64) -> Vec<Delivery> {
        self.turn(second);
        let heard = self.lanes[0].heard().into_iter();
        heard
            .filter_map(|message| match message {
                ToShard::Deliver(delivery) => Some(delivery),
                _ => None,
            })
            .collect()
    }

    fn turn(&mut self, second: u64) -> Turn {
        self.core.turn(at(second))
    }
}

fn at(second: u64) -> Now {
    Now { mono: Instant(second * 1_000_000_000), unix_ms: second * 1000 }
}

fn key(slot: u32) -> ConnectionKey {
    ConnectionKey { slot: Slot(slot), generation: Generation(3) }
}

fn claim(slot: u32, session: SessionId) -> ToControl {
    ToControl::Claim { key: key(slot), claim: fixtures::token_claim(session) }
}

#[test]
fn a_takeover_tells_both_shards_in_one_turn() {
    let mut bench = Bench::new();
    bench.lanes[0].says(claim(1, ALICE));
    assert_eq!(bench.turn(1), Turn::Busy);
    let heard = bench.lanes[0].heard();
    assert!(matches!(heard[..], [ToShard::Granted { epoch: Epoch(1000), .. }]), "{heard:?}");
    bench.lanes[1].says(claim(9, ALICE));
    bench.turn(2);
    let (old, new) = (bench.lanes[0].heard(), bench.lanes[1].heard());
    assert!(
        matches!(old[..], [ToShard::Evict { key: evicted, epoch: Epoch(1000) }] if evicted == key(1)),
        "{old:?}"
    );
    assert!(matches!(new[..], [ToShard::Granted { epoch: Epoch(2000), .. }]), "{new:?}");
    assert_eq!((bench.probe.granted.read(), bench.probe.evictions.read()), (2, 1));
    bench.lanes[0].says(ToControl::Release {
        key: key(1),
        session: ALICE,
        epoch: Epoch(1000),
        end: End::Resumable,
    });
    bench.lanes[1].says(ToControl::Release {
        key: key(9),
        session: ALICE,
        epoch: Epoch(2000),
        end: End::Resumable,
    });
    bench.turn(3);
    assert_eq!((bench.probe.releases.read(), bench.probe.releases_outdated.read()), (1, 1));
    assert_eq!(bench.probe.sessions.read(), 0);
    assert_eq!(bench.turn(3), Turn::Idle);
}

#[test]
fn one_shards_flood_leaves_the_other_its_share_of_every_turn() {
    let mut bench = Bench::new();
    for slot in 0..600 {
        bench.lanes[0].says(claim(slot, SessionId(u128::from(slot) + 10)));
    }
    bench.lanes[1].says(claim(1, ALICE));
    bench.turn(1);
    assert_eq!(bench.lanes[0].heard().len(), MESSAGES_PER_TURN);
    assert_eq!(bench.lanes[1].heard().len(), 1);
}

#[test]
fn while_a_shard_does_not_read_no_claims_are_taken_and_none_is_lost() {
    let mut bench = Bench::new();
    bench.lanes[0].is_stuck(true);
    let asked = 20 * MESSAGES_PER_TURN;
    for slot in 0..asked {
        bench.lanes[0].says(claim(slot as u32, ALICE));
    }
    for _ in 0..100 {
        bench.turn(1);
    }
    assert!(bench.probe.turns_behind.read() > 0);
    let left = bench.lanes[0].unheard();
    assert!(left > asked / 2, "{left} of {asked} claims were left on the lane");
    assert!(bench.core.has_waiting(at(1)));
    bench.lanes[0].is_stuck(false);
    while bench.turn(1) == Turn::Busy || bench.core.has_waiting(at(1)) {}
    let granted = bench.lanes[0].heard().into_iter();
    let granted = granted.filter(|message| matches!(message, ToShard::Granted { .. })).count();
    assert_eq!(granted, asked);
}

#[test]
fn the_drain_admits_in_grace_refuses_from_closing_and_ends_when_all_are_done() {
    let mut bench = Bench::new();
    bench.lanes[0].says(claim(1, ALICE));
    bench.turn(10);
    bench.lanes[0].heard();
    assert_eq!(bench.core.terminate(at(10).mono), Termination::Begun);
    assert_eq!(bench.phase.load(), Phase::Draining(DrainPhase::Grace));
    bench.lanes[0].says(claim(2, SessionId(2)));
    bench.turn(10);
    assert_eq!(bench.probe.granted.read(), 2);
    assert_eq!(heard_phases(&bench.lanes[1]), [DrainPhase::Grace]);

    bench.turn(11);
    assert_eq!(heard_phases(&bench.lanes[1]), [DrainPhase::Closing]);
    bench.lanes[1].says(claim(3, SessionId(3)));
    bench.turn(11);
    let heard = bench.lanes[1].heard();
    assert!(
        matches!(heard[..], [ToShard::Refused { why: ClaimRefusal::Draining, .. }]),
        "{heard:?}"
    );

    for lane in &bench.lanes {
        lane.says(ToControl::DrainReached { phase: DrainPhase::Done, connections: 0 });
    }
    bench.turn(12);
    assert!(bench.core.is_done());
    assert_eq!(heard_phases(&bench.lanes[1]), [DrainPhase::Done]);
    assert_eq!(bench.phase.load(), Phase::Draining(DrainPhase::Done));
}

#[test]
fn a_second_request_to_terminate_insists() {
    let mut bench = Bench::new();
    assert_eq!(bench.core.terminate(at(1).mono), Termination::Begun);
    assert_eq!(bench.core.terminate(at(1).mono), Termination::Insisted);
}

#[test]
fn addresses_reach_every_shard_once_per_change() {
    let mut bench = Bench::new();
    let socket = std::net::SocketAddr::from(([127, 0, 0, 1], 80));
    let targets = vec![Target::Socket(socket)];
    bench.core.book.replace(7, vec![ServiceTargets { service: ServiceId(4), targets }]);
    bench.turn(1);
    for lane in &bench.lanes {
        let heard = lane.heard();
        let [ToShard::Addresses { version: 7, service: ServiceId(4), addresses }] = &heard[..]
        else {
            panic!("{heard:?}");
        };
        assert_eq!(addresses.len(), 1);
    }
    bench.turn(1);
    assert!(bench.lanes[0].heard().is_empty());
}

fn event_json(n: u32) -> String {
    format!(r#"{{"eventName":"system.notification","n":{n}}}"#)
}

fn json_of(delivery: &Delivery) -> serde_json::Value {
    let Content::Event(json) = &delivery.content else { panic!("{delivery:?}") };
    serde_json::from_slice(json).unwrap()
}

#[test]
fn events_wait_for_a_session_and_come_again_until_they_are_confirmed() {
    let mut bench = Bench::new();
    assert_eq!(bench.publish_for(ALICE, &event_json(0)), Err(Unpublished::NoSession));
    let epoch = bench.open(1, ALICE, 10);
    for n in 0..3 {
        bench.publish_for(ALICE, &event_json(n)).unwrap();
    }
    let first = bench.delivered(11);
    assert_eq!(first.iter().map(|d| json_of(d)["n"].clone()).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(first.iter().all(|delivery| (delivery.key, delivery.epoch) == (key(1), epoch)));
    let place = first[0].place.unwrap();
    bench.lanes[0].says(ToControl::Received { session: ALICE, epoch, place });
    let end = End::Resumable;
    bench.lanes[0].says(ToControl::Release { key: key(1), session: ALICE, epoch, end });
    bench.turn(12);
    bench.publish_for(ALICE, &event_json(3)).unwrap();
    assert!(bench.delivered(12).is_empty(), "nobody is there");

    bench.lanes[0].says(claim(2, ALICE));
    bench.turn(13);
    let heard = bench.lanes[0].heard();
    let [ToShard::Granted { epoch, resumed: Resumed::Session(None), .. }] = &heard[..] else {
        panic!("nothing before it is open: {heard:?}")
    };
    bench.lanes[0].says(ToControl::Opened { key: key(2), session: ALICE, epoch: *epoch });
    let again = bench.delivered(13);
    assert_eq!(again.iter().map(|d| json_of(d)["n"].clone()).collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn an_event_is_delivered_under_the_name_that_clients_know() {
    let mut bench = Bench::new();
    bench.open(1, ALICE, 10);
    for name in ["System_Notification", "voice.peer_joined", "asset_ready"] {
        bench.publish_for(ALICE, &format!(r#"{{"eventName":"{name}"}}"#)).unwrap();
    }
    let enveloped = r#"{"message":{"eventName":"asset.ready"}}"#;
    bench.publish_for(ALICE, enveloped).unwrap();
    let delivered = bench.delivered(11);
    let events: Vec<_> = delivered.iter().map(json_of).collect();
    let expected = ["system.notification", "voice.peer.joined", "asset.ready", "asset.ready"];
    assert_eq!(events, expected.map(|name| serde_json::json!({ "eventName": name })));
}

#[test]
fn a_gap_is_told_before_what_follows_it() {
    let mut bench = Bench::new();
    bench.core.mailboxes.rule(crate::control::mailboxes::MailboxRules {
        items_max: 2,
        ..fixtures::rules(1).mailboxes
    });
    let epoch = bench.open(1, ALICE, 10);
    let end = End::Resumable;
    bench.lanes[0].says(ToControl::Release { key: key(1), session: ALICE, epoch, end });
    bench.turn(11);
    for n in 0..5 {
        bench.publish_for(ALICE, &event_json(n)).unwrap();
    }
    bench.lanes[0].says(claim(2, ALICE));
    bench.turn(12);
    let heard = bench.lanes[0].heard();
    let Some(&ToShard::Granted { epoch, .. }) = heard.last() else { panic!("{heard:?}") };
    bench.lanes[0].says(ToControl::Opened { key: key(2), session: ALICE, epoch });
    let delivered: Vec<_> = bench.delivered(12).iter().map(json_of).collect();
    assert_eq!(delivered[0]["eventName"], "connect.event-gap");
    assert_eq!(delivered[0]["reason"], "overflow");
    assert_eq!(delivered[0]["missedAtLeast"], 3);
    assert_eq!(delivered[1..].iter().map(|e| e["n"].clone()).collect::<Vec<_>>(), [3, 4]);
}

#[test]
fn while_a_shard_does_not_read_events_wait() {
    let mut bench = Bench::new();
    bench.open(1, ALICE, 10);
    bench.lanes[0].is_stuck(true);
    bench.publish_for(ALICE, &event_json(1)).unwrap();
    bench.turn(11);
    assert!(bench.core.has_waiting(at(11)));
    bench.lanes[0].is_stuck(false);
    assert_eq!(bench.delivered(12).len(), 1);
    assert!(!bench.core.has_waiting(at(12)));
}

#[test]
fn capabilities_name_endpoints_and_new_ones_are_learned_before_they_are_granted() {
    let mut bench = Bench::new();
    bench.open(1, ALICE, 10);
    bench.lanes[0].heard();
    bench
        .publish_for(
            ALICE,
            r#"{"eventName":"permission.session-capabilities","permissions":{
                "demo":["/demo/echo","GET:/demo/new"],"nobody":["/x"]},"reason":"role_changed"}"#,
        )
        .unwrap();
    bench.turn(11);
    let heard = bench.lanes[0].heard();
    let [ToShard::MoreEndpoints(snapshot), ToShard::Deliver(delivery)] = &heard[..] else {
        panic!("{heard:?}")
    };
    assert_eq!(&*snapshot.endpoints[2].path, "/demo/new");
    let Content::Capabilities(granting) = &delivery.content else { panic!() };
    let Granting { endpoints, reason } = &**granting;
    assert_eq!((&**endpoints, &**reason), (&[EndpointId(0), EndpointId(2)][..], "role_changed"));
    assert_eq!(bench.probe.grants_without_service.read(), 1);
    let other = bench.lanes[1].heard();
    assert!(matches!(other[..], [ToShard::MoreEndpoints(_)]), "every shard has them: {other:?}");
}

#[test]
fn an_invalidated_session_is_closed_for_good() {
    let mut bench = Bench::new();
    let epoch = bench.open(1, ALICE, 10);
    bench.lanes[0].heard();
    let notice = |clients: bool| {
        format!(
            r#"{{"eventName":"session.invalidated","sessionIds":["{ALICE}"],"reason":"Logout",
                "disconnectClients":{clients}}}"#
        )
    };
    bench.publish(topic::SESSION_INVALIDATED, "", &notice(true)).unwrap();
    bench.turn(11);
    let heard = bench.lanes[0].heard();
    let [ToShard::EndSession { key: ended, epoch: of, reason }] = &heard[..] else {
        panic!("{heard:?}")
    };
    assert_eq!((*ended, *of, &**reason), (key(1), epoch, "Session invalidated: Logout"));
    let mut records = bench.core.bus.subscribe().unwrap();
    let end = End::Final;
    bench.lanes[0].says(ToControl::Release { key: key(1), session: ALICE, epoch, end });
    bench.turn(12);
    let record = records.try_recv().unwrap();
    assert_eq!(&*record.topic, topic::SESSION_DISCONNECTED);
    let json: serde_json::Value = serde_json::from_slice(&record.value).unwrap();
    assert_eq!(json["reconnectable"], false);
    assert_eq!(json["reason"], "forced_disconnect");
    bench.lanes[0].says(claim(2, ALICE));
    bench.turn(13);
    let heard = bench.lanes[0].heard();
    assert!(
        matches!(heard[..], [ToShard::Refused { why: ClaimRefusal::Revoked, .. }]),
        "{heard:?}"
    );
}

#[test]
fn an_invalidated_session_whose_client_may_stay_does_not_come_back() {
    let mut bench = Bench::new();
    let epoch = bench.open(1, ALICE, 10);
    bench.lanes[0].heard();
    let notice = format!(
        r#"{{"eventName":"session.invalidated","sessionIds":["{ALICE}"],"disconnectClients":false}}"#
    );
    bench.publish(topic::SESSION_INVALIDATED, "", &notice).unwrap();
    bench.turn(11);
    assert!(bench.lanes[0].heard().is_empty());
    let end = End::Resumable;
    bench.lanes[0].says(ToControl::Release { key: key(1), session: ALICE, epoch, end });
    bench.lanes[0].says(claim(2, ALICE));
    bench.turn(12);
    let heard = bench.lanes[0].heard();
    assert!(
        matches!(heard[..], [ToShard::Refused { why: ClaimRefusal::Revoked, .. }]),
        "{heard:?}"
    );
}

#[test]
fn a_session_that_comes_back_may_call_what_events_granted_it() {
    let mut bench = Bench::new();
    let epoch = bench.open(1, ALICE, 10);
    let event =
        r#"{"eventName":"permission.session-capabilities","permissions":{"demo":["/demo/echo"]}}"#;
    bench.publish_for(ALICE, event).unwrap();
    let place = bench.delivered(11)[0].place.unwrap();
    bench.lanes[0].says(ToControl::Received { session: ALICE, epoch, place });
    let end = End::Resumable;
    bench.lanes[0].says(ToControl::Release { key: key(1), session: ALICE, epoch, end });
    bench.turn(12);
    assert!(bench.core.mailboxes.is_empty(), "the event itself is through");
    bench.open(2, ALICE, 13);
    let heard = bench.lanes[0].heard();
    let [ToShard::Deliver(delivery)] = &heard[..] else { panic!("{heard:?}") };
    let Content::Capabilities(granting) = &delivery.content else { panic!() };
    let Granting { endpoints, reason } = &**granting;
    assert_eq!((&**endpoints, &**reason), (&[EndpointId(0)][..], "session_reconnected"));
    assert_eq!(delivery.place, None);
}

#[test]
fn what_is_published_of_a_session_follows_its_life() {
    let mut bench = Bench::new();
    let mut records = bench.core.bus.subscribe().unwrap();
    let mut published = || {
        let mut topics = Vec::new();
        while let Ok(record) = records.try_recv() {
            assert_eq!(*record.key, ALICE.to_string());
            topics.push(record.topic.to_string());
        }
        topics
    };
    bench.lanes[0].says(claim(1, ALICE));
    bench.turn(10);
    assert!(published().is_empty(), "it cannot receive yet");
    let first = bench.open(1, ALICE, 10);
    assert_eq!(published(), ["session.connected"]);
    // A takeover is no end.
    let second = bench.open(2, ALICE, 11);
    let release = |slot, epoch| ToControl::Release {
        key: key(slot),
        session: ALICE,
        epoch,
        end: End::Resumable,
    };
    bench.lanes[0].says(release(1, first));
    bench.turn(11);
    assert_eq!(published(), ["session.connected"]);
    bench.lanes[0].says(release(2, second));
    bench.turn(12);
    assert_eq!(published(), ["session.disconnected"]);
}

#[test]
fn coming_back_with_a_token_is_published_twice_and_with_a_jwt_once() {
    let mut bench = Bench::new();
    let first = bench.open(1, ALICE, 10);
    let release = |slot, epoch| ToControl::Release {
        key: key(slot),
        session: ALICE,
        epoch,
        end: End::Resumable,
    };
    bench.lanes[0].says(release(1, first));
    bench.turn(11);
    let mut records = bench.core.bus.subscribe().unwrap();
    let mut published = || {
        std::iter::from_fn(|| records.try_recv().ok())
            .map(|record| record.topic.to_string())
            .collect::<Vec<_>>()
    };
    let keys = ReconnectKeys::from_salt("salt");
    let token = keys.token(ALICE, first);
    let (_, seal) = keys.read(str::from_utf8(&token).unwrap()).unwrap();
    let credential = Credential::Reconnect { session: ALICE, seal };
    let claim = Claim { credential, peer: None };
    bench.lanes[0].says(ToControl::Claim { key: key(2), claim: Box::new(claim) });
    bench.turn(12);
    let heard = bench.lanes[0].heard();
    let Some(&ToShard::Granted { epoch: second, .. }) = heard.last() else { panic!("{heard:?}") };
    bench.lanes[0].says(ToControl::Opened { key: key(2), session: ALICE, epoch: second });
    bench.turn(12);
    assert_eq!(published(), ["session.connected", "session.reconnected"]);
    bench.lanes[0].says(release(2, second));
    bench.turn(13);
    assert_eq!(published(), ["session.disconnected"]);
    bench.open(3, ALICE, 14);
    assert_eq!(published(), ["session.connected"]);
}

fn rpc(session: SessionId, message_id: u64) -> Rpc {
    Rpc {
        session,
        service: "game".into(),
        service_guid: Guid([7; 16]),
        channel: 3,
        message_id,
        payload: b"ask"[..].into(),
        response_topic: "game.answers".into(),
        timeout: Some(Duration::from_secs(5)),
    }
}

#[test]
fn an_rpc_is_answered_once_whatever_becomes_of_it() {
    let mut bench = Bench::new();
    let mut records = bench.core.bus.subscribe().unwrap();
    assert!(matches!(bench.core.send_rpc(rpc(ALICE, 1), at(10)), Err(RpcRefused::NoSession(_))));
    let epoch = bench.open(1, ALICE, 10);
    while records.try_recv().is_ok() {}
    for id in 1..=4 {
        bench.core.send_rpc(rpc(ALICE, id), at(10)).unwrap();
    }
    let sent = bench.delivered(10);
    assert_eq!(sent.len(), 4);
    let Content::Rpc(asked) = &sent[0].content else { panic!("{:?}", sent[0]) };
    assert_eq!((asked.message[0], &asked.message[31..]), (0x01, &b"ask"[..]));
    let ended = |message_id, outcome| {
        ToControl::RpcEnded(Box::new(RpcEnded { session: ALICE, message_id, outcome }))
    };
    let answered = RpcOutcome::Answered { code: 0, payload: b"yes"[..].into() };
    bench.lanes[0].says(ended(1, answered));
    bench.lanes[0].says(ended(2, RpcOutcome::Unsent));
    bench.lanes[0].says(ended(2, RpcOutcome::Unsent));
    bench.turn(11);
    assert_eq!(bench.core.due(), Some(at(15).mono));
    bench.turn(15);
    bench.core.send_rpc(rpc(ALICE, 5), at(15)).unwrap();
    let end = End::Resumable;
    bench.lanes[0].says(ToControl::Release { key: key(1), session: ALICE, epoch, end });
    bench.turn(16);
    let mut answers = Vec::new();
    while let Ok(record) = records.try_recv() {
        if &*record.topic == "game.answers" {
            let json: serde_json::Value = serde_json::from_slice(&record.value).unwrap();
            answers.push((
                json["messageId"].as_u64().unwrap(),
                json["responseCode"].as_u64().unwrap(),
            ));
        }
    }
    answers.sort_unstable();
    assert_eq!(answers, [(1, 0), (2, 12), (3, 60), (4, 60), (5, 31)]);
}

#[test]
fn errors_reach_administrators_only() {
    let mut bench = Bench::new();
    bench.open(1, ALICE, 10);
    let mut admin = fixtures::token_claim(SessionId(9));
    if let Credential::Token(identity) = &mut admin.credential {
        let standing =
            Standing { roles: [Box::from("Admin")].into(), ..Standing::clone(&identity.standing) };
        *identity =
            Arc::new(Identity { standing: Arc::new(standing), ..Identity::clone(identity) });
    }
    bench.lanes[0].says(ToControl::Claim { key: key(2), claim: admin });
    bench.turn(10);
    let heard = bench.lanes[0].heard();
    let Some(&ToShard::Granted { epoch, .. }) = heard.last() else { panic!("{heard:?}") };
    bench.lanes[0].says(ToControl::Opened { key: key(2), session: SessionId(9), epoch });
    bench.turn(10);
    bench.lanes[0].heard();
    bench.core.report_error("Test", "broken", "it broke", None, at(11));
    let heard = bench.delivered(11);
    let [delivery] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!(delivery.key, key(2));
    let Content::Message(message) = &delivery.content else { panic!("{delivery:?}") };
    let json: serde_json::Value = serde_json::from_slice(&message[31..]).unwrap();
    assert_eq!(
        (json["eventName"].as_str(), json["message"].as_str()),
        (Some("service_error"), Some("it broke"))
    );
}

#[test]
fn a_node_without_its_number_tells_its_sessions_to_go_and_lets_nobody_in() {
    let mut bench = Bench::new();
    let epoch = bench.open(4, ALICE, 1);
    bench.lanes[0].heard();
    bench.core.give_up_identity(at(2));
    bench.lanes[1].says(claim(5, SessionId(2)));
    bench.turn(2);
    let heard = bench.lanes[0].heard();
    let disowned = |message: &ToShard| matches!(message, ToShard::Disown { key: k, epoch: e } if (*k, *e) == (key(4), epoch));
    assert!(heard.iter().any(disowned), "{heard:?}");
    let heard = bench.lanes[1].heard();
    let why = ClaimRefusal::Draining;
    let refused =
        |message: &ToShard| matches!(message, ToShard::Refused { why: w, .. } if *w == why);
    assert!(heard.iter().any(refused), "{heard:?}");
    assert!(bench.core.is_draining());
    // The session can be taken up elsewhere.
    let end = End::Resumable;
    bench.lanes[0].says(ToControl::Release { key: key(4), session: ALICE, epoch, end });
    bench.turn(2);
    assert_eq!(bench.core.store.waiting(), 1);
}
