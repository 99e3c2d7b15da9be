use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::control::bus::Position;

const ENDS: Watermarks = Watermarks { low: 0, high: 1000 };

fn replay(session: u128, epoch: u64, partition: u32, offset: u64) -> Replay {
    let from = Position { partition, offset };
    Replay { session: SessionId(session), epoch: Epoch(epoch), from }
}

fn ended(session: u128, epoch: u64) -> Told {
    Told::Ended { session: SessionId(session), epoch: Epoch(epoch) }
}

fn missing(session: u128, epoch: u64, offsets: std::ops::Range<u64>) -> Told {
    let missing = Missing { from: offsets.start, to: offsets.end };
    Told::Missing { session: SessionId(session), epoch: Epoch(epoch), missing }
}

/// The live reading is at 100 everywhere.
fn live(_: u32) -> Live {
    Live::At(100)
}

fn all_told(scans: &mut Scans) -> Vec<Told> {
    std::iter::from_fn(|| scans.next_told()).collect()
}

/// Reads `range` of partition 0, in which every record is of the session of that number modulo 3.
fn read(scans: &mut Scans, range: std::ops::Range<u64>) -> Vec<(u128, u64)> {
    let of = |offset: u64| u128::from(offset % 3);
    range
        .filter(|&offset| scans.offer(0, offset, Some(SessionId(of(offset)))).is_some())
        .map(|offset| (of(offset), offset))
        .collect()
}

#[test]
fn one_pass_serves_all_sessions_of_a_partition_each_from_its_own_offset() {
    let mut scans = Scans::default();
    scans.wish(replay(0, 7, 0, 90));
    scans.wish(replay(1, 7, 0, 95));
    assert_eq!(scans.begin(live), [0]);
    assert_eq!(scans.surveyed(0, ENDS), Some(90));
    let given = read(&mut scans, 90..100);
    assert_eq!(given, [(0, 90), (0, 93), (0, 96), (1, 97), (0, 99)]);
    assert_eq!(all_told(&mut scans), [ended(0, 7), ended(1, 7)]);
    assert_eq!(scans.take_finished(), [Finished { partition: 0, length: 10 }]);
    assert_eq!((scans.wishes.len(), scans.running()), (0, 0));
}

#[test]
fn who_comes_later_joins_or_waits_for_the_next_pass() {
    let mut scans = Scans::default();
    scans.wish(replay(0, 7, 0, 50));
    scans.begin(live);
    scans.surveyed(0, ENDS);
    read(&mut scans, 50..60);
    scans.wish(replay(1, 7, 0, 70));
    scans.wish(replay(2, 7, 0, 55));
    assert_eq!(scans.begin(live), [0; 0]);
    assert!(scans.has_waiting());
    let given = read(&mut scans, 60..100);
    assert!(given.contains(&(1, 70)) && given.iter().all(|(session, _)| *session != 2));
    assert_eq!(all_told(&mut scans), [ended(0, 7), ended(1, 7)]);
    assert_eq!(scans.begin(live), [0]);
    assert_eq!(scans.surveyed(0, ENDS), Some(55));
}

#[test]
fn a_session_that_lacks_nothing_has_no_pass() {
    let mut scans = Scans::default();
    scans.wish(replay(0, 7, 0, 100));
    scans.wish(replay(1, 7, 0, 120));
    assert_eq!(scans.begin(live), [0; 0]);
    assert_eq!(all_told(&mut scans), [ended(0, 7), ended(1, 7)]);
    assert_eq!(scans.take_ahead(), [replay(1, 7, 0, 120)]);
}

#[test]
fn a_wish_waits_until_the_live_reading_is_somewhere() {
    let mut scans = Scans::default();
    scans.wish(replay(0, 7, 0, 90));
    assert_eq!(scans.begin(|_| Live::Unknown), [0; 0]);
    assert_eq!(all_told(&mut scans), []);
    assert_eq!(scans.begin(live), [0]);
}

#[test]
fn what_the_bus_has_no_more_is_named_and_the_rest_follows() {
    let mut scans = Scans::default();
    scans.wish(replay(0, 7, 0, 90));
    scans.wish(replay(1, 7, 0, 97));
    scans.begin(live);
    assert_eq!(scans.surveyed(0, Watermarks { low: 95, high: 100 }), Some(95));
    assert_eq!(all_told(&mut scans), [missing(0, 7, 90..95)], "before what follows it");
    assert_eq!(read(&mut scans, 95..100), [(0, 96), (1, 97), (0, 99)]);
    assert_eq!(all_told(&mut scans), [ended(0, 7), ended(1, 7)]);
}

#[test]
fn what_goes_while_it_is_read_is_named_where_it_stood() {
    let mut scans = Scans::default();
    scans.wish(replay(0, 7, 0, 50));
    scans.wish(replay(1, 7, 0, 80));
    scans.begin(live);
    scans.surveyed(0, ENDS);
    read(&mut scans, 50..60);
    assert!(scans.out_of_range(0));
    assert!(!scans.out_of_range(0), "it is being asked for");
    assert_eq!(scans.asking().collect::<Vec<_>>(), [0]);
    scans.wish(replay(2, 7, 0, 55));
    assert_eq!(scans.begin(live), [0; 0]);
    assert!(scans.has_waiting(), "the pass goes on, it does not go back");
    assert_eq!(scans.surveyed(0, Watermarks { low: 70, high: 1000 }), Some(70));
    assert_eq!(all_told(&mut scans), [missing(0, 7, 60..70)]);
    assert_eq!(read(&mut scans, 70..82), [(0, 72), (0, 75), (0, 78), (0, 81)]);
    assert!(scans.out_of_range(0));
    assert_eq!(scans.surveyed(0, Watermarks { low: 200, high: 1000 }), None, "all of it is gone");
    let mut told = all_told(&mut scans);
    told.sort_by_key(|told| format!("{told:?}"));
    let gone = [missing(0, 7, 82..200), missing(1, 7, 82..200)];
    let all = [ended(0, 7), ended(1, 7)].into_iter().chain(gone).collect::<Vec<_>>();
    assert_eq!(told, all);
}

#[test]
fn a_reader_that_has_stopped_for_nothing_goes_on_where_it_was() {
    let mut scans = Scans::default();
    scans.wish(replay(0, 7, 0, 50));
    scans.begin(live);
    scans.surveyed(0, ENDS);
    read(&mut scans, 50..60);
    scans.out_of_range(0);
    assert!(!scans.reached_end(0));
    assert_eq!(scans.surveyed(0, Watermarks { low: 0, high: 59 }), None, "it has lost its end");
    assert_eq!(scans.surveyed(0, ENDS), Some(60));
    assert_eq!(all_told(&mut scans), []);
}

#[test]
fn when_all_of_it_is_gone_the_replay_ends_at_once() {
    let mut scans = Scans::default();
    scans.wish(replay(0, 7, 0, 90));
    scans.begin(live);
    assert_eq!(scans.surveyed(0, Watermarks { low: 100, high: 100 }), None);
    assert_eq!(all_told(&mut scans), [missing(0, 7, 90..100), ended(0, 7)]);
    scans.wish(replay(1, 8, 3, 5));
    scans.begin(|_| Live::Gone);
    assert_eq!(all_told(&mut scans), [missing(1, 8, 5..5), ended(1, 8)]);
}

#[test]
fn a_later_wish_takes_the_place_of_an_earlier_one() {
    let mut scans = Scans::default();
    scans.wish(replay(0, 7, 0, 50));
    scans.begin(live);
    scans.surveyed(0, ENDS);
    assert_eq!(scans.offer(0, 51, Some(SessionId(0))), Some(Epoch(7)));
    scans.wish(replay(0, 8, 0, 52));
    scans.begin(|_| Live::At(110));
    assert_eq!(scans.offer(0, 54, Some(SessionId(0))), Some(Epoch(8)));
    read(&mut scans, 55..100);
    assert_eq!(all_told(&mut scans), [], "it ends where the later one does");
    read(&mut scans, 100..110);
    assert_eq!(all_told(&mut scans), [ended(0, 8)]);
}

#[test]
fn the_same_claim_may_wish_again() {
    let mut scans = Scans::default();
    scans.wish(replay(0, 7, 0, 50));
    scans.begin(live);
    scans.surveyed(0, ENDS);
    scans.wish(replay(0, 7, 0, 60));
    scans.begin(|_| Live::At(110));
    read(&mut scans, 50..105);
    assert_eq!(all_told(&mut scans), []);
    read(&mut scans, 105..110);
    assert_eq!(all_told(&mut scans), [ended(0, 7)]);
}

#[test]
fn an_end_that_comes_too_early_is_doubted_until_it_is_certain() {
    let mut scans = Scans::default();
    scans.wish(replay(0, 7, 0, 90));
    scans.begin(live);
    scans.surveyed(0, ENDS);
    read(&mut scans, 90..95);
    assert!(scans.reached_end(0));
    assert_eq!(scans.asking().collect::<Vec<_>>(), [0]);
    // A new leader that does not know the end yet.
    assert_eq!(scans.surveyed(0, Watermarks { low: 0, high: 95 }), None);
    assert_eq!(all_told(&mut scans), []);
    assert_eq!(scans.surveyed(0, Watermarks { low: 0, high: 100 }), Some(95));
    read(&mut scans, 95..97);
    // What follows are no records but the ends of transactions.
    assert!(scans.reached_end(0));
    assert_eq!(scans.surveyed(0, Watermarks { low: 0, high: 100 }), Some(97));
    assert!(!scans.reached_end(0));
    assert_eq!(all_told(&mut scans), [ended(0, 7)]);
    assert_eq!(scans.running(), 0);
}

#[test]
fn a_partition_that_has_lost_its_end_keeps_nobody_waiting() {
    let mut scans = Scans::default();
    scans.wish(replay(0, 7, 0, 40));
    scans.wish(replay(1, 7, 0, 90));
    scans.begin(live);
    scans.surveyed(0, ENDS);
    read(&mut scans, 40..50);
    scans.shortened(0, 50);
    assert_eq!(all_told(&mut scans).len(), 2);
}

#[test]
fn a_few_partitions_are_scanned_at_a_time() {
    let mut scans = Scans::default();
    for partition in 0..RUNNING_MAX as u32 + 2 {
        scans.wish(replay(u128::from(partition), 7, partition, 99));
    }
    assert_eq!(scans.begin(live).len(), RUNNING_MAX);
    scans.surveyed(0, ENDS);
    scans.offer(0, 99, None);
    assert_eq!(scans.take_finished(), [Finished { partition: 0, length: 1 }]);
    assert_eq!(scans.begin(live), [RUNNING_MAX as u32]);
}

#[test]
fn records_of_partitions_that_nobody_waits_for_are_for_nobody() {
    let mut scans = Scans::default();
    assert_eq!(scans.offer(0, 5, Some(SessionId(0))), None);
    assert!(!scans.reached_end(0));
    assert_eq!(scans.surveyed(0, ENDS), None);
}

proptest! {
    /// Whatever order wishes, records, ends of reading and retention come in: a session gets every
    /// record of its own between its offset and where the live reading was, once, in order, or is
    /// told that it is gone before anything later, and one end after all of it.
    #[test]
    fn every_session_gets_exactly_what_it_lacks(
        wishes in proptest::collection::vec((0..6_u128, 0..60_u64, 0..40_u64), 1..12),
        ends in proptest::collection::vec(any::<bool>(), 0..200),
        retention in proptest::collection::vec((0..80_u64, 1..20_u64, any::<bool>()), 0..6),
    ) {
        const LIVE: u64 = 60;
        let mut scans = Scans::default();
        let mut wishes: VecDeque<_> = wishes.into_iter().zip(1..).collect();
        let mut newest = AHashMap::new();
        // Each offset that a session has got, or that it was told not to get.
        let mut given: Vec<(u128, Epoch, u64)> = Vec::new();
        let mut gone: Vec<(u128, Epoch, u64)> = Vec::new();
        let mut low = 0;
        let mut over = BTreeSet::new();
        let mut reader: Option<u64> = None;
        let mut ends = ends.into_iter();
        // The ends were just told by whoever is asked for records.
        let mut sure = false;
        for step in 0..2000 {
            while let Some(&((session, from, at), epoch)) = wishes.front()
                && at <= step
            {
                wishes.pop_front();
                newest.insert(session, (Epoch(epoch), from));
                scans.wish(replay(session, epoch, 0, from));
            }
            let mut late = false;
            for &(_, records, noticed_late) in retention.iter().filter(|(at, ..)| *at == step) {
                low = (low + records).min(LIVE);
                late |= noticed_late;
            }
            scans.begin(|_| Live::At(LIVE));
            if scans.asking().next().is_some()
                && let Some(from) = scans.surveyed(0, Watermarks { low, high: LIVE })
            {
                reader = Some(from);
                sure = true;
            }
            if !scans.take_finished().is_empty() {
                reader = None;
            }
            match reader {
                // Whatever there is to tell is told first.
                Some(_) if scans.has_told() => {}
                // Some of what is gone has been fetched before.
                Some(at) if at < low && !late => {
                    scans.out_of_range(0);
                    reader = None;
                }
                Some(LIVE) => drop(scans.reached_end(0)),
                // A leader that does not know the end.
                Some(_) if !sure && ends.next() == Some(true) => drop(scans.reached_end(0)),
                Some(at) => {
                    let session = u128::from(at % 6);
                    if let Some(epoch) = scans.offer(0, at, Some(SessionId(session))) {
                        given.push((session, epoch, at));
                    }
                    reader = Some(at + 1);
                    sure = false;
                }
                None => {}
            }
            if !scans.take_finished().is_empty() {
                reader = None;
            }
            while let Some(told) = scans.next_told() {
                let (session, epoch) = match told {
                    Told::Missing { session, epoch, missing: Missing { from, to } } => {
                        gone.extend((from..to).map(|offset| (session.0, epoch, offset)));
                        let mut given = given.iter().filter(|(of, at, _)| (*of, *at) == (session.0, epoch));
                        prop_assert!(given.all(|(_, _, offset)| *offset < from), "told too late");
                        continue;
                    }
                    Told::Ended { session, epoch } => (session, epoch),
                };
                prop_assert!(over.insert((session, epoch)), "{session:?} ended twice");
                let id = session.0;
                if newest.get(&id).is_some_and(|(newest, _)| *newest == epoch) {
                    let (_, from) = newest[&id];
                    let of = |all: &[(u128, Epoch, u64)]| -> Vec<u64> {
                        let own = all.iter().filter(|(of, at, _)| (*of, *at) == (id, epoch));
                        own.map(|(_, _, offset)| *offset).collect()
                    };
                    let gone = of(&gone);
                    prop_assert!(gone.iter().all(|offset| *offset < low));
                    let lacked = (from..LIVE).filter(|at| u128::from(at % 6) == id);
                    let lacked: Vec<_> = lacked.filter(|at| !gone.contains(at)).collect();
                    prop_assert_eq!(of(&given), lacked);
                }
            }
        }
        for (session, (epoch, _)) in newest {
            prop_assert!(over.contains(&(SessionId(session), epoch)), "{session} waits for ever");
        }
        prop_assert_eq!((scans.wishes.len(), scans.running()), (0, 0));
    }
}
