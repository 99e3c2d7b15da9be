//! Claims, takeovers and releases; `model` tries their interleavings.

use super::*;

mod model;

const ALICE: SessionId = SessionId(1);
const BOB: SessionId = SessionId(2);

pub(super) fn key(slot: u32) -> ConnectionKey {
    ConnectionKey { slot: Slot(slot), generation: Generation(7) }
}

fn granted(outcome: &ClaimOutcome) -> Epoch {
    match outcome.answer {
        ToShard::Granted { epoch, .. } => epoch,
        ref other => panic!("not granted: {other:?}"),
    }
}

fn refusal(outcome: &ClaimOutcome) -> Option<ClaimRefusal> {
    match outcome.answer {
        ToShard::Refused { why, .. } => Some(why),
        _ => None,
    }
}

#[test]
fn the_newest_claim_wins_and_the_old_owner_is_told() {
    let mut directory = Directory::new(10);
    let first = granted(&directory.claim(ShardId(0), key(1), ALICE, 1000));
    let second = directory.claim(ShardId(1), key(2), ALICE, 2000);
    let Some((ShardId(0), ToShard::Evict { key: evicted, epoch })) = second.evict else {
        panic!("no eviction: {:?}", second.evict);
    };
    assert_eq!((evicted, epoch), (key(1), first));
    let owner = Owner { shard: ShardId(1), key: key(2), epoch: granted(&second) };
    assert_eq!(directory.owner(ALICE), Some(owner));
}

#[test]
fn epochs_grow_when_the_clock_stands_still_or_goes_back() {
    let mut directory = Directory::new(10);
    let first = granted(&directory.claim(ShardId(0), key(1), ALICE, 1000));
    let second = granted(&directory.claim(ShardId(0), key(2), ALICE, 1000));
    let third = granted(&directory.claim(ShardId(0), key(3), ALICE, 10));
    assert_eq!((first, second, third), (Epoch(1000), Epoch(1001), Epoch(1002)));
    let owner = Owner { shard: ShardId(0), key: key(3), epoch: third };
    assert_eq!(directory.release(ALICE, owner), Release::Removed);
    assert_eq!(granted(&directory.claim(ShardId(0), key(4), ALICE, 10)), Epoch(1003));
}

#[test]
fn a_release_of_an_older_epoch_changes_nothing() {
    let mut directory = Directory::new(10);
    let first = granted(&directory.claim(ShardId(0), key(1), ALICE, 1000));
    let second = granted(&directory.claim(ShardId(1), key(2), ALICE, 1000));
    let old = Owner { shard: ShardId(0), key: key(1), epoch: first };
    assert_eq!(directory.release(ALICE, old), Release::Ignored);
    let owner = Owner { shard: ShardId(1), key: key(2), epoch: second };
    assert_eq!(directory.owner(ALICE), Some(owner));
    assert_eq!(directory.release(ALICE, owner), Release::Removed);
    assert!(directory.is_empty());
    assert_eq!(directory.release(ALICE, owner), Release::Ignored);
}

#[test]
fn a_full_directory_refuses_newcomers_and_lets_takeovers_pass() {
    let mut directory = Directory::new(1);
    granted(&directory.claim(ShardId(0), key(1), ALICE, 1000));
    let bob = directory.claim(ShardId(0), key(2), BOB, 1000);
    assert_eq!(refusal(&bob), Some(ClaimRefusal::Full));
    assert!(bob.evict.is_none());
    granted(&directory.claim(ShardId(1), key(3), ALICE, 1000));
    assert_eq!(directory.len(), 1);
}

#[test]
fn a_draining_directory_refuses_everyone_and_evicts_nobody() {
    let mut directory = Directory::new(10);
    granted(&directory.claim(ShardId(0), key(1), ALICE, 1000));
    directory.admit(Admission::Draining);
    for session in [ALICE, BOB] {
        let outcome = directory.claim(ShardId(1), key(2), session, 1000);
        assert_eq!(refusal(&outcome), Some(ClaimRefusal::Draining));
        assert!(outcome.evict.is_none());
    }
    assert_eq!(directory.owner(ALICE).map(|owner| owner.key), Some(key(1)));
}

#[test]
fn a_connection_that_claims_twice_does_not_evict_itself() {
    let mut directory = Directory::new(10);
    granted(&directory.claim(ShardId(0), key(1), ALICE, 1000));
    assert!(directory.claim(ShardId(0), key(1), ALICE, 1000).evict.is_none());
}
