//! What is read again, and what retention has taken meanwhile.

use super::*;

/// What a replay brought each session, in the order of the sessions' ends, and what it said to be
/// missing before it brought anything.
fn replays(node: &mut Node, sessions: usize) -> Vec<(SessionId, Vec<String>, Option<Missing>)> {
    let mut given: AHashMap<SessionId, Vec<String>> = AHashMap::new();
    let mut lacking: AHashMap<SessionId, Missing> = AHashMap::new();
    let mut over = Vec::new();
    let mut arrivals = Vec::new();
    node.until("the ends of the replays", |node| {
        node.arrivals_now(&mut arrivals);
        for arrival in arrivals.drain(..) {
            match arrival {
                Arrival::Replayed { session, record, .. } => {
                    given.entry(session).or_default().push(text(&record));
                }
                Arrival::ReplayMissing { session, missing, .. } => {
                    assert!(!given.contains_key(&session), "told after what follows");
                    assert_eq!(lacking.insert(session, missing), None);
                }
                Arrival::ReplayEnded { session, .. } => {
                    let given = given.remove(&session).unwrap_or_default();
                    over.push((session, given, lacking.remove(&session)));
                }
                other => panic!("{other:?}"),
            }
        }
        (over.len() >= sessions).then_some(())
    });
    assert!(given.is_empty(), "after the end: {given:?}");
    over
}

fn replay(session: SessionId, from: Position) -> Replay {
    Replay { session, epoch: Epoch(7), from }
}

#[test]
fn sessions_of_one_partition_share_one_reading_again() {
    let brokers = Brokers::with_all_topics();
    // Sessions of one partition.
    let first = Node::ready(settings(&brokers.address()));
    let home = first.bus.live(SessionId(1)).unwrap();
    let here = |id: &SessionId| first.bus.live(*id).unwrap().partition == home.partition;
    let sessions: Vec<_> = (1..100).map(SessionId).filter(here).take(5).collect();
    for round in 0..20 {
        for session in &sessions {
            brokers.event(*session, &round.to_string());
        }
    }
    let mut node = Node::ready(settings(&brokers.address()));
    let end = node.bus.live(SessionId(1)).unwrap().offset;
    assert_eq!(end, home.offset + 100);
    for (at, session) in (0..).zip(&sessions) {
        let from = Position { offset: home.offset + at * 10, ..home };
        node.bus.replay(replay(*session, from));
    }
    let over = replays(&mut node, sessions.len());
    for (at, session) in sessions.iter().enumerate() {
        let (_, given, missing) = over.iter().find(|(of, ..)| of == session).unwrap();
        let rounds: Vec<_> = (at * 2..20).map(|round| round.to_string()).collect();
        assert_eq!((given, missing), (&rounds, &None), "{session}");
    }
    assert_eq!(node.probe.kafka.scan_records.read(), 100, "one pass for all");
    assert_eq!(node.bus.scans.running(), 0);
    // A second time for one of them, and the live reading goes on.
    node.bus.replay(replay(sessions[0], Position { offset: end - 5, ..home }));
    assert_eq!(replays(&mut node, 1), [(sessions[0], vec!["19".into()], None)]);
    brokers.event(sessions[0], "live");
    assert_eq!(node.events(1), [(sessions[0], "live".into())]);
}

#[test]
fn a_replay_waits_for_the_brokers_and_for_the_live_reading() {
    let brokers = Brokers::with_all_topics();
    let first = Node::ready(settings(&brokers.address()));
    let from = first.bus.live(SessionId(1)).unwrap();
    drop(first);
    brokers.event(SessionId(1), "1");
    brokers.event(SessionId(1), "2");
    brokers.cluster.broker_down(-1).unwrap();
    let mut node = Node::new(settings(&brokers.address()));
    node.bus.replay(replay(SessionId(1), from));
    node.until("the outage", |node| {
        let mut arrivals = Vec::new();
        node.arrivals_now(&mut arrivals);
        assert_eq!(arrivals, []);
        node.bus.survey.incomplete.then_some(())
    });
    brokers.cluster.broker_up(-1).unwrap();
    let both = vec!["1".to_owned(), "2".to_owned()];
    assert_eq!(replays(&mut node, 1), [(SessionId(1), both, None)]);
}

#[test]
fn a_replay_that_an_outage_interrupts_goes_on_after_it() {
    let brokers = Brokers::with_all_topics();
    let first = Node::ready(settings(&brokers.address()));
    let from = first.bus.live(SessionId(1)).unwrap();
    drop(first);
    // More than one fetch brings.
    let filler = "x".repeat(100 << 10);
    for _ in 0..30 {
        brokers.event(SessionId(1), &filler);
    }
    let mut node = Node::ready(settings(&brokers.address()));
    node.bus.replay(replay(SessionId(1), from));
    let mut given = 0;
    node.until("the first record", |node| {
        node.bus.next(&mut |_| true).map(|arrival| {
            given += 1;
            assert!(matches!(arrival, Arrival::Replayed { .. }), "{arrival:?}");
        })
    });
    brokers.cluster.broker_down(-1).unwrap();
    node.until("the outage", |node| {
        let mut arrivals = Vec::new();
        node.arrivals_now(&mut arrivals);
        given += arrivals.len();
        node.probe.kafka.is_down().then_some(())
    });
    assert!(given < 30, "the outage came too late to interrupt anything");
    brokers.cluster.broker_up(-1).unwrap();
    let (_, rest, missing) = replays(&mut node, 1).remove(0);
    assert_eq!((given + rest.len(), missing), (30, None));
}

#[test]
fn what_retention_has_taken_is_named() {
    let brokers = Brokers::with_all_topics();
    let first = Node::ready(settings(&brokers.address()));
    let from = first.bus.live(SessionId(1)).unwrap();
    drop(first);
    // These brokers keep 5 MiB of a partition.
    let filler = "x".repeat(100 << 10);
    for _ in 0..70 {
        brokers.event(SessionId(1), &filler);
    }
    let mut node = Node::ready(settings(&brokers.address()));
    node.bus.replay(replay(SessionId(1), from));
    let (_, given, missing) = replays(&mut node, 1).remove(0);
    let Missing { from: asked, to } = missing.unwrap();
    assert_eq!(asked, from.offset);
    assert!(to > from.offset, "{to}");
    assert_eq!(given.len() as u64, from.offset + 70 - to);
}

/// More than these brokers keep of a partition, and than a reader fetches before it is wanted.
fn overrun(brokers: &Brokers) {
    let filler = format!("\"{}\"", "x".repeat(100 << 10));
    for _ in 0..150 {
        brokers.event(SessionId(1), &filler);
    }
}

fn offset(record: &Record) -> u64 {
    record.position.unwrap().offset
}

#[test]
fn live_records_that_are_gone_before_they_are_read_are_named_where_they_stood() {
    let brokers = Brokers::with_all_topics();
    let mut node = Node::ready(settings(&brokers.address()));
    let live = node.bus.live(SessionId(1)).unwrap();
    // It does not look at what comes.
    overrun(&brokers);
    let (mut next, mut told) = (live.offset, Vec::new());
    node.until("the last record", |node| {
        while let Some(arrival) = node.bus.next(&mut |_| true) {
            match arrival {
                Arrival::ForSession { record, .. } => {
                    assert_eq!(offset(&record), next);
                    next += 1;
                }
                Arrival::Missed(missed) => {
                    let missing = missed[&live.partition];
                    assert_eq!((missed.len(), missing.from), (1, next));
                    next = missing.to;
                    assert_eq!(
                        node.bus.live(SessionId(1)),
                        Some(Position { offset: next, ..live })
                    );
                    told.push(missing.to - missing.from);
                }
                other => panic!("{other:?}"),
            }
        }
        (next == live.offset + 150).then_some(())
    });
    assert_eq!(told.len(), 1);
    assert_eq!(node.probe.kafka.missed.read(), told[0]);
    assert!(told[0] > 50, "{told:?}");
    assert!(!node.bus.positions.iter().any(Positions::has_stopped));
}

#[test]
fn records_that_go_while_they_are_read_again_are_named_where_they_stood() {
    let brokers = Brokers::with_all_topics();
    let first = Node::ready(settings(&brokers.address()));
    let from = first.bus.live(SessionId(1)).unwrap();
    drop(first);
    for _ in 0..40 {
        brokers.event(SessionId(1), &format!("\"{}\"", "x".repeat(100 << 10)));
    }
    let mut node = Node::ready(settings(&brokers.address()));
    node.bus.replay(replay(SessionId(1), from));
    let mut next = from.offset;
    let mut replayed = |arrival| match arrival {
        Arrival::Replayed { record, .. } => {
            assert_eq!(offset(&record), next);
            next += 1;
            false
        }
        Arrival::ReplayMissing { missing, .. } => {
            assert_eq!(missing.from, next);
            assert!(missing.to > next);
            next = missing.to;
            false
        }
        Arrival::ReplayEnded { .. } => true,
        Arrival::ForSession { .. } | Arrival::Missed(_) => false,
        Arrival::Record(_) => panic!("{arrival:?}"),
    };
    node.until("the first record", |node| node.bus.next(&mut |_| true).map(&mut replayed));
    overrun(&brokers);
    node.until("the end", |node| {
        std::iter::from_fn(|| node.bus.next(&mut |_| true)).any(&mut replayed).then_some(())
    });
    assert!(next > from.offset + 40, "nothing was gone");
}

#[test]
fn what_a_session_has_had_elsewhere_before_this_node_reads_it_does_not_come_again() {
    let brokers = Brokers::with_all_topics();
    let mut node = Node::ready(settings(&brokers.address()));
    let live = node.bus.live(SessionId(1)).unwrap();
    for json in ["1", "2", "3"] {
        brokers.event(SessionId(1), json);
    }
    let reached = Position { offset: live.offset + 2, ..live };
    node.bus.replay(replay(SessionId(1), reached));
    let mut arrivals = Vec::new();
    node.until("the end of the replay", |node| {
        arrivals.extend(node.bus.next(&mut |_| true));
        (!arrivals.is_empty()).then_some(())
    });
    assert_eq!(node.bus.live(SessionId(1)), Some(reached), "wherever it goes next");
    arrivals.extend(node.arrivals(1));
    let [Arrival::ReplayEnded { .. }, Arrival::ForSession { record, .. }] = &arrivals[..] else {
        panic!("{arrivals:?}")
    };
    assert_eq!(text(record), "3");
    assert_eq!(node.probe.kafka.faults(Fault::Ahead), 2);
}

#[test]
fn a_session_that_is_forgotten_meanwhile_gets_nothing_and_its_replay_ends() {
    let brokers = Brokers::with_all_topics();
    let first = Node::ready(settings(&brokers.address()));
    let from = first.bus.live(SessionId(500)).unwrap();
    drop(first);
    brokers.event(SessionId(500), "1");
    let mut node = Node::ready(settings(&brokers.address()));
    node.bus.replay(replay(SessionId(500), from));
    assert_eq!(replays(&mut node, 1), [(SessionId(500), Vec::new(), None)]);
}
