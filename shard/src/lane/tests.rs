//! Lanes and mesh: bounds, room kept for answers, loans that come back, sleepers that are woken.

mod threads;

use std::ptr::NonNull;

use proptest::prelude::*;

use super::*;
use crate::block::BlockPool;
use crate::buffers::BufferId;
use crate::clock::Instant;
use crate::id::{ConnectionKey, EndpointId, Epoch, Generation, SessionId, ShardId, Slot};
use crate::wire::header::Priority;
use crate::wire::header::{Flags, ReplyTo};
use crate::wire::reconnect_token::ReconnectKeys;

const KEY: ConnectionKey = ConnectionKey { slot: Slot(3), generation: Generation(9) };

fn shape(shards: u8) -> MeshShape {
    MeshShape { shards, capacity: 4, control_capacity: 2, buffers: 8 }
}

/// An owned frame that says `text`.
fn owned(pool: &mut BlockPool, text: &str) -> Payload {
    let mut block = pool.take(text.len()).unwrap();
    block.append(text.as_bytes());
    Payload::Owned(block)
}

fn deliver(frame: Payload) -> Crossing {
    Crossing::Deliver(Deliver {
        target: KEY,
        from: KEY,
        frame,
        header_len: 2,
        priority: Priority::Normal,
        acknowledge: Acknowledge::Always,
    })
}

fn answer(message_id: u64) -> Answer {
    let reply = ReplyTo { flags: Flags(0x40), channel: 1, sequence: 2, message_id };
    Answer { to: KEY, reply, guid: [7; 16], code: 0 }
}

static BYTES: [u8; 4] = *b"lent";

#[expect(unsafe_code, reason = "a loan of a static")]
fn lent(buffer: u16) -> Payload {
    // SAFETY: a static is never freed nor changed.
    let loan = unsafe { Loan::new(NonNull::from(&BYTES).cast(), 4, BufferId(buffer)) };
    Payload::Borrowed(loan)
}

fn refusal(result: Result<(), Refused>) -> Refusal {
    result.expect_err("refused").why
}

#[test]
fn a_full_lane_hands_the_request_back() {
    let (mut sender, mut receiver) = lane(2);
    let mut pool = BlockPool::new(1 << 20);
    let mut lending = Lending::new(0);
    for text in ["one", "two"] {
        sender.try_request(deliver(owned(&mut pool, text)), &mut lending).unwrap();
    }
    let refused = sender.try_request(deliver(owned(&mut pool, "three")), &mut lending);
    let Refused { why, crossing } = refused.expect_err("the lane holds two");
    assert_eq!(why, Refusal::Full);
    let Payload::Owned(block) = crossing.payload() else { panic!("the same block") };
    assert_eq!(block.as_slice(), b"three");

    let Some(Arrival::Deliver(first)) = receiver.next_arrival() else { panic!("the oldest") };
    assert_eq!((&*first.frame, first.target), (&b"one"[..], KEY));
    assert!(sender.try_request(crossing, &mut lending).is_err(), "reading alone makes no room");
}

#[test]
fn what_a_slot_keeps_alive_returns_only_when_the_index_has_passed_it() {
    let (mut sender, mut receiver) = lane(4);
    let mut pool = BlockPool::new(1 << 20);
    let mut lending = Lending::new(8);
    sender.try_request(deliver(lent(5)), &mut lending).unwrap();
    sender.try_request(deliver(owned(&mut pool, "block")), &mut lending).unwrap();
    sender.try_request(deliver(lent(5)), &mut lending).unwrap();

    for _ in 0..2 {
        receiver.next_arrival().unwrap();
    }
    let mut returned = Vec::new();
    sender.reclaim(&mut lending, |one| returned.push(one));
    assert_eq!(returned, [], "read but not released");

    receiver.release();
    sender.reclaim(&mut lending, |one| returned.push(one));
    assert_eq!(returned, [Returned::Buffer(BufferId(5)), Returned::Block { bytes: 2048 }]);
    assert_eq!(lending.lent(), 1, "the second loan of the buffer is still out");

    assert!(receiver.next_arrival().is_some());
    receiver.release();
    sender.reclaim(&mut lending, |one| returned.push(one));
    assert_eq!(returned[2..], [Returned::Buffer(BufferId(5))]);
    assert_eq!(lending.lent(), 0);
}

#[test]
fn a_quarter_of_the_buffers_may_be_lent_and_the_rest_is_copied() {
    let mut shards = mesh(shape(3)).shards;
    let mut pool = BlockPool::new(1 << 20);
    let (a, b) = (ShardId(1), ShardId(2));
    shards[0].try_request(a, deliver(lent(0))).unwrap();
    shards[0].try_request(b, deliver(lent(1))).unwrap();
    assert_eq!(refusal(shards[0].try_request(a, deliver(lent(2)))), Refusal::LendLimit);
    shards[0].try_request(b, deliver(lent(0))).unwrap();
    shards[0].try_request(a, deliver(owned(&mut pool, "copy"))).unwrap();
    assert_eq!(shards[0].lent(), 2);

    while shards[1].next_arrival(ShardId(0)).is_some() {}
    while shards[2].next_arrival(ShardId(0)).is_some() {}
    shards[1].release();
    shards[2].release();
    shards[0].reclaim(|_| ());
    assert_eq!(shards[0].lent(), 0);
    shards[0].try_request(a, deliver(lent(2))).unwrap();
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Request,
    ReadAndAnswer,
    ReadInSilence,
    Release,
    TakeAnswer,
}

proptest! {
    /// `answer` panics where it finds no place, so this is the reservation's whole promise.
    #[test]
    fn an_answer_always_finds_its_place_and_room_comes_back(
        capacity in 1usize..6,
        steps in proptest::collection::vec(
            prop_oneof![
                4 => Just(Step::Request),
                3 => Just(Step::ReadAndAnswer),
                1 => Just(Step::ReadInSilence),
                2 => Just(Step::Release),
                1 => Just(Step::TakeAnswer),
            ],
            0..200,
        ),
    ) {
        let (mut sender, mut receiver) = lane(capacity);
        let mut lending = Lending::new(8);
        let (mut answered, mut taken) = (0, 0);
        for step in steps {
            match step {
                Step::Request => {
                    let _refused = sender.try_request(deliver(lent(0)), &mut lending);
                }
                Step::ReadAndAnswer if receiver.next_arrival().is_some() => {
                    receiver.answer(answer(answered));
                    answered += 1;
                }
                Step::ReadInSilence => {
                    receiver.next_arrival();
                }
                Step::Release => receiver.release(),
                Step::TakeAnswer => if let Some(one) = sender.next_answer() {
                    prop_assert_eq!(one, answer(taken));
                    taken += 1;
                },
                Step::ReadAndAnswer => {}
            }
        }
        while receiver.next_arrival().is_some() {}
        receiver.release();
        while sender.next_answer().is_some() {
            taken += 1;
        }
        prop_assert_eq!(answered, taken);
        sender.reclaim(&mut lending, |_| ());
        prop_assert_eq!(lending.lent(), 0);
        for _ in 0..capacity {
            prop_assert!(sender.try_request(deliver(lent(0)), &mut lending).is_ok());
        }
    }
}

#[test]
#[should_panic(expected = "one answer for each delivery")]
fn a_second_answer_to_one_delivery_is_a_bug() {
    let (mut sender, mut receiver) = lane(4);
    sender.try_request(deliver(lent(0)), &mut Lending::new(8)).unwrap();
    assert!(receiver.next_arrival().is_some());
    receiver.answer(answer(0));
    receiver.answer(answer(1));
}

#[test]
fn every_pair_of_shards_has_its_own_lanes() {
    let mut shards = mesh(shape(3)).shards;
    let mut pool = BlockPool::new(1 << 20);
    for (from, lanes) in shards.iter_mut().enumerate() {
        let peers: Vec<_> = lanes.peers().collect();
        assert_eq!(peers.len(), 2);
        for to in peers {
            let frame = owned(&mut pool, &format!("{from} to {}", to.0));
            lanes.try_request(to, deliver(frame)).unwrap();
        }
    }
    for to in 0..3u8 {
        for from in shards[usize::from(to)].peers().collect::<Vec<_>>() {
            let lanes = &mut shards[usize::from(to)];
            let Some(Arrival::Deliver(deliver)) = lanes.next_arrival(from) else {
                panic!("one message from {from:?} to {to}");
            };
            assert_eq!(&*deliver.frame, format!("{} to {to}", from.0).as_bytes());
            assert!(lanes.next_arrival(from).is_none());
            lanes.answer(from, answer(u64::from(to)));
            let answers = &mut shards[usize::from(from.0)];
            assert_eq!(answers.next_answer(ShardId(to)), Some(answer(u64::from(to))));
        }
    }
}

const NOW: Instant = Instant(0);

fn woken(shard: &mut ShardLanes) -> Vec<Wake> {
    woken_at(shard, NOW)
}

fn woken_at(shard: &mut ShardLanes, now: Instant) -> Vec<Wake> {
    let mut woken = Vec::new();
    shard.wake_sleepers(now, |who| woken.push(who));
    woken
}

#[test]
fn only_a_core_that_sleeps_and_was_sent_something_is_woken_and_only_once() {
    let Mesh { mut shards, mut control } = mesh(shape(3));
    for shard in &mut shards[1..] {
        assert_eq!(shard.prepare_park(), Park::Now);
    }
    shards[0].try_request(ShardId(1), deliver(lent(0))).unwrap();
    assert_eq!(woken(&mut shards[0]), [Wake::Shard(ShardId(1))]);
    shards[0].try_request(ShardId(1), deliver(lent(0))).unwrap();
    assert_eq!(woken(&mut shards[0]), [], "its doorbell rings already");

    shards[1].awake();
    assert!(shards[1].next_arrival(ShardId(0)).is_some());
    assert_eq!(shards[0].prepare_park(), Park::Now);
    shards[1].answer(ShardId(0), answer(0));
    assert_eq!(woken(&mut shards[1]), [Wake::Shard(ShardId(0))]);

    assert_eq!(control.prepare_park(), Park::Now);
    shards[0].tell_control(claim(), NOW).unwrap();
    assert_eq!(woken(&mut shards[0]), [Wake::Control]);
}

#[test]
fn news_wait_for_company_but_not_for_long() {
    let Mesh { mut shards, mut control } = mesh(shape(1));
    let [shard] = &mut shards[..] else { panic!("one shard") };
    let release = |epoch| ToControl::Release {
        key: KEY,
        session: SessionId(1),
        epoch: Epoch(epoch),
        end: End::Resumable,
    };
    assert_eq!(control.prepare_park(), Park::Now);
    shard.tell_control(release(1), NOW).unwrap();
    let due = shard.news_due().unwrap();
    shard.tell_control(release(2), due).unwrap();
    assert_eq!(shard.news_due(), Some(due), "the oldest counts");
    assert_eq!(woken_at(shard, NOW), []);
    assert_eq!(woken_at(shard, due), [Wake::Control]);
    assert_eq!(shard.news_due(), None);

    while control.hear(ShardId(0)).is_some() {}
    assert_eq!(control.prepare_park(), Park::Now);
    shard.tell_control(release(3), NOW).unwrap();
    shard.tell_control(claim(), NOW).unwrap();
    assert_eq!(woken(shard), [Wake::Control], "a claim is company");
    assert_eq!(shard.news_due(), None);
}

#[test]
fn a_full_lane_is_urgent() {
    let Mesh { mut shards, mut control } = mesh(shape(1));
    let [shard] = &mut shards[..] else { panic!("one shard") };
    let release = || ToControl::Release {
        key: KEY,
        session: SessionId(1),
        epoch: Epoch(1),
        end: End::Resumable,
    };
    assert_eq!(control.prepare_park(), Park::Now);
    while shard.tell_control(release(), NOW).is_ok() {}
    assert_eq!(woken(shard), [Wake::Control]);
}

#[test]
fn a_core_with_something_to_read_does_not_park() {
    let Mesh { mut shards, mut control } = mesh(shape(2));
    let peer = ShardId(0);
    shards[0].try_request(ShardId(1), deliver(lent(0))).unwrap();
    assert_eq!(shards[1].prepare_park(), Park::NotYet);
    assert_eq!(woken(&mut shards[0]), [], "it did not go to sleep");
    assert!(shards[1].next_arrival(peer).is_some());
    shards[1].answer(peer, answer(0));
    assert_eq!(shards[1].prepare_park(), Park::Now, "read, though not released");
    assert_eq!(shards[0].prepare_park(), Park::NotYet, "an answer");
    shards[0].tell_control(claim(), NOW).unwrap();
    assert_eq!(control.prepare_park(), Park::NotYet);
    shards[1].awake();
    control.tell(ShardId(1), ToShard::Drain(DrainPhase::Grace)).unwrap();
    assert_eq!(shards[1].prepare_park(), Park::NotYet);
}

fn claim() -> ToControl {
    let keys = ReconnectKeys::from_salt("salt");
    let token = keys.token(SessionId(1), Epoch(1));
    let (session, seal) = keys.read(str::from_utf8(&token).unwrap()).unwrap();
    let claim = Claim { credential: Credential::Reconnect { session, seal }, peer: None };
    ToControl::Claim { key: KEY, claim: Box::new(claim) }
}

#[test]
fn a_claim_is_taken_only_with_room_for_its_answer() {
    let Mesh { mut shards, mut control } = mesh(shape(1));
    let shard = ShardId(0);
    for _ in 0..2 {
        shards[0].tell_control(claim(), NOW).unwrap();
        assert!(control.hear(shard).is_some());
    }
    assert!(shards[0].tell_control(claim(), NOW).is_err(), "two answers are awaited, two fit");
    let release = ToControl::DrainReached { phase: DrainPhase::Done, connections: 0 };
    shards[0].tell_control(release, NOW).unwrap();

    while control.tell(shard, ToShard::Drain(DrainPhase::Grace)).is_ok() {}
    for _ in 0..2 {
        let refused = ToShard::Refused { key: KEY, why: ClaimRefusal::Full };
        control.tell(shard, refused).expect("orders do not take an answer's place");
    }
    let mut sleepers = Vec::new();
    assert_eq!(shards[0].prepare_park(), Park::NotYet);
    control.wake_sleepers(|shard| sleepers.push(shard));
    assert_eq!(sleepers, []);
    assert!(matches!(shards[0].hear_control(), Some(ToShard::Refused { .. })), "answers first");
    shards[0].tell_control(claim(), NOW).unwrap();
}

#[test]
fn spans_leave_half_of_the_lane_to_others() {
    let Mesh { mut shards, mut control } = mesh(MeshShape { control_capacity: 8, ..shape(1) });
    let span = || {
        ToControl::Span(Box::new(Span {
            trace: 1,
            span: 2,
            parent: None,
            endpoint: EndpointId(0),
            meta: None,
            began_unix_ns: 3,
            ended_unix_ns: 4,
            code: None,
        }))
    };
    let mut spans = 0;
    while shards[0].tell_control(span(), NOW).is_ok() {
        spans += 1;
    }
    assert_eq!(spans, 4);
    for _ in 0..4 {
        shards[0].tell_control(claim(), NOW).expect("the other half is free");
    }
    for _ in 0..5 {
        assert!(control.hear(ShardId(0)).is_some());
    }
    shards[0].tell_control(span(), NOW).expect("less than half is taken");
}

#[test]
fn a_block_changes_pools_with_its_bytes() {
    let (mut ours, mut theirs) = (BlockPool::new(1 << 20), BlockPool::new(4096));
    let block = ours.take(4096).unwrap();
    let block = theirs.adopt(block).unwrap();
    ours.disown(block.capacity());
    assert_eq!((ours.allocated(), ours.in_use()), (0, 0));
    assert_eq!((theirs.allocated(), theirs.in_use()), (4096, 4096));
    assert!(theirs.adopt(ours.take(1).unwrap()).is_err(), "beyond the bound");
    theirs.give_back(block);
    let adopted = theirs.adopt(ours.take(1).unwrap()).expect("an idle block makes room");
    theirs.give_back(adopted);
    assert_eq!((theirs.allocated(), theirs.in_use()), (2048, 0));
}
