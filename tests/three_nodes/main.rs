//! Three gateways, each in a network namespace of its own, with one Redis and one Kafka: what their
//! players say to each other, what a node does that is cut off, and a restart of all of them in turn.

#[path = "../event_ledger/mod.rs"]
#[expect(dead_code, reason = "each test takes the part of the ledger that it needs")]
mod event_ledger;
#[expect(dead_code, reason = "each test takes the part of the harness that it needs")]
#[path = "../gateway_process/mod.rs"]
mod gateway_process;
#[expect(dead_code, reason = "of this harness it needs the clients")]
#[path = "../gateway/harness/mod.rs"]
mod harness;
#[expect(dead_code, reason = "each test takes the part of the services that it needs")]
#[path = "../services/mod.rs"]
mod services;

mod account;
mod cluster;
mod network;
mod talk;

use std::thread;
use std::time::{Duration, Instant};

use tungstenite::Message;
use uuid::Uuid;

use account::Balance;
use cluster::{Cluster, door};
use event_ledger::book::Entries;
use event_ledger::crowd::Crowd;
use event_ledger::publisher::{OverKafka, Publisher, TOPIC, event};
use gateway_process::token::Claims;
use harness::client::Client;
use harness::frames::{CLIENT, Guid, Request};
use network::{Network, within};
use talk::Talk;

const NODES: usize = 3;

/// Sessions say nothing by themselves but their manifest.
const QUIET: &[(&str, &str)] = &[
    ("session.early_token", "false"),
    ("session.disconnect_event", "false"),
    ("session.disconnect_text", "false"),
];

/// Plays in the hub of a network with all nodes up. Prints what they said last if it fails.
fn play(settings: &[(&str, &str)], play: impl FnOnce(&mut Cluster<'_>) + Send) {
    let Some(network) = Network::new(NODES) else { return };
    within(network.hub(), || {
        let mut cluster = LastWords(Cluster::start(&network, NODES, settings));
        play(&mut cluster.0);
    });
}

struct LastWords<'a>(Cluster<'a>);

impl Drop for LastWords<'_> {
    #[expect(clippy::print_stdout, reason = "the test runner keeps it for those that fail")]
    fn drop(&mut self) {
        if thread::panicking() {
            println!("{}", self.0.last_words());
        }
    }
}

/// Two players of each node talk for as long as `meanwhile` takes.
fn talk(broadcasts: bool, meanwhile: impl FnOnce()) -> Balance {
    let players = talk::players((0..2 * NODES).map(|player| door(player % NODES)));
    let guids: Vec<Guid> = players.iter().map(Client::peer).collect();
    let talk = Talk::new(broadcasts);
    let told: Vec<_> = thread::scope(|scope| {
        let players = talk.begin(scope, players, &guids);
        let ends = EndsWhenDropped(&talk);
        meanwhile();
        drop(ends);
        let told = players.into_iter().map(|player| player.join());
        told.map(|told| told.unwrap_or_else(|it| std::panic::resume_unwind(it))).collect()
    });
    account::balance(&told)
}

/// Also when whatever was to be done meanwhile fails: nobody waits for players that go on.
struct EndsWhenDropped<'a>(&'a Talk);

impl Drop for EndsWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

#[test]
fn players_of_three_nodes_hear_all_that_is_said_once_and_in_order() {
    play(QUIET, |cluster| {
        let balance = talk(true, || {
            cluster.await_metrics(0, "much was said", |metrics| {
                metrics.sum("corelane_node_messages_sent_total") >= 2000.0
            });
        });
        println!("{balance}");
        let Balance { letters, copies, .. } = balance;
        assert!(letters > 6000 && copies > 1000, "{balance}");
        let expected = Balance {
            letters,
            delivered: letters,
            copies,
            copies_heard: copies,
            ..Balance::default()
        };
        assert_eq!(balance, expected);
    });
}

/// The node that is cut off, and one that is not.
const LONELY: usize = 2;
const OTHER: usize = 0;

/// From when the network is whole again until the node reads events.
const BACK_WITHIN: Duration = Duration::from_secs(10);

/// Each session has an account of the same number.
fn claims(session: u128) -> Claims {
    let session = Uuid::from_u128(session);
    Claims::default().session(session).with("sub", session.to_string().into())
}

fn session_at(node: usize, session: u128) -> Client {
    Client::connect(door(node), &claims(session).sign())
}

/// Whether a message of one player to the other is acknowledged, else the code.
fn said(from: &mut Client, to: Guid) -> u8 {
    from.call(&Request::to(to).flags(CLIENT)).code
}

fn hears(player: &mut Client, number: u64) {
    assert_eq!(player.event()["n"], number);
}

fn publish(publisher: &mut OverKafka, session: u128, number: u64) {
    let session = Uuid::from_u128(session);
    publisher.publish(session, &event(session, 0, number));
    publisher.settle();
}

/// It is closed because a newer connection has its session, and hears nothing before.
fn is_replaced(player: &mut Client) {
    let close = loop {
        match player.socket.read() {
            Ok(Message::Ping(_) | Message::Pong(_)) => {}
            Ok(Message::Close(close)) => break close.expect("a close says why"),
            other => panic!("waited for the close, got {other:?}"),
        }
    };
    assert_eq!((u16::from(close.code), &*close.reason), (4002, "New connection established"));
}

const STAYS: u128 = 0x5a;
const MOVES: u128 = 0x5b;
const MOVES_LATER: u128 = 0x5c;

#[test]
fn a_node_that_is_cut_off_keeps_its_clients_withholds_events_and_yields_to_newer_owners() {
    play(QUIET, |cluster| {
        let mut publisher = OverKafka::new(&cluster.kafka, TOPIC);
        let (mut here, mut stays) = (session_at(OTHER, 1), session_at(LONELY, STAYS));
        let (mut moves, mut moves_later) =
            (session_at(LONELY, MOVES), session_at(LONELY, MOVES_LATER));
        // Broadcasts are not repeated, and would be heard by all sessions.
        let balance = talk(false, || {
            cut_off_from_redis(cluster, &mut publisher, &mut here, &mut stays, &mut moves);
            cut_off_from_all(cluster, &mut publisher, &mut here, &mut stays, &mut moves_later);
        });
        println!("{balance}");
        let Balance { lost, doubled, swapped, foreign, answered_badly, .. } = balance;
        assert_eq!((lost, doubled, swapped, foreign, answered_badly), (0, 0, 0, 0, 0), "{balance}");
        assert!(balance.delivered > 1000 && balance.refused > 0, "{balance}");
    });
}

/// Events of a session come to the node and are not delivered, for it may be another's; all else
/// goes on.
fn cut_off_from_redis(
    cluster: &Cluster<'_>,
    publisher: &mut OverKafka,
    here: &mut Client,
    stays: &mut Client,
    moves: &mut Client,
) {
    cluster.network.cut_from_redis(LONELY);
    cluster.await_metric(LONELY, "corelane_redis_lease_held", "", 0.0);
    for session in [STAYS, MOVES] {
        publish(publisher, session, 0);
    }
    cluster.await_metric(LONELY, "corelane_mailboxes", "", 2.0);
    assert_eq!(Client::try_connect(door(LONELY), &claims(2).sign()).err(), Some(503));
    let mut moved = session_at(OTHER, MOVES);
    assert_eq!(moved.manifest["reason"], "session_reconnected");
    hears(&mut moved, 0);
    // What Redis cannot tell the node, the other one does.
    is_replaced(moves);
    stays.expect_no_reply();
    assert_eq!(said(here, stays.peer()), 0);
    assert_eq!(said(stays, here.peer()), 0);
    stays.request();
    here.request();
    cluster.network.heal_to_redis(LONELY);
    hears(stays, 0);
    cluster.await_metric(LONELY, "corelane_redis_lease_held", "", 1.0);
}

/// From Redis, from Kafka and from the other nodes, long enough that all of them notice.
#[expect(clippy::print_stdout, reason = "the times are what a reader of the test wants to know")]
fn cut_off_from_all(
    cluster: &Cluster<'_>,
    publisher: &mut OverKafka,
    here: &mut Client,
    stays: &mut Client,
    moves: &mut Client,
) {
    cluster.network.cut(LONELY);
    cluster.await_metric(LONELY, "corelane_redis_lease_held", "", 0.0);
    for session in [STAYS, MOVES_LATER] {
        publish(publisher, session, 1);
    }
    let mut moved = session_at(OTHER, MOVES_LATER);
    hears(&mut moved, 1);
    assert_eq!(said(stays, moves.peer()), 0, "it has its own players");
    moves.request();
    cluster.await_links_of(LONELY, 0);
    (0..NODES).filter(|node| *node != LONELY).for_each(|node| cluster.await_links_of(node, 1));
    assert_eq!((said(here, stays.peer()), said(stays, here.peer())), (31, 31));
    assert_eq!(said(here, moved.peer()), 0);
    here.expect_no_reply();

    let healed = Instant::now();
    cluster.network.heal(LONELY);
    is_replaced(moves);
    let yields = healed.elapsed();
    hears(stays, 1);
    let back = healed.elapsed();
    assert!(back < BACK_WITHIN, "it reads events again {back:?} after the network is whole");
    cluster.await_links();
    let linked = healed.elapsed();
    println!(
        "it yields after {yields:?}, reads events after {back:?} and is linked after {linked:?}"
    );
    assert_eq!((said(here, stays.peer()), said(stays, here.peer())), (0, 0));
    stays.request();
    here.request();
}

const SESSIONS: usize = 60;

/// Published to all sessions in turn; then the next node is restarted.
const EVENTS_PER_RESTART: u64 = 2000;

/// Events that a session is behind at most before more are published to it.
const BEHIND: u64 = 200;

#[test]
fn a_restart_of_all_nodes_in_turn_under_load_loses_no_event() {
    let drain = [("drain.spread", "1s"), ("drain.deadline", "10s")];
    play(&drain, |cluster| {
        let publisher = Box::new(OverKafka::new(&cluster.kafka, TOPIC));
        let mut crowd = Crowd::new(SESSIONS, NODES, publisher);
        wait(&mut crowd, cluster, "every session is open", |crowd, _| crowd.is_known());
        for node in 0..NODES {
            publish_to_all(&mut crowd, cluster, EVENTS_PER_RESTART / 2);
            cluster.drain(node);
            wait(&mut crowd, cluster, "the drain is over", |crowd, cluster| {
                publish_what_is_read(crowd);
                cluster.is_drained(node)
            });
            publish_to_all(&mut crowd, cluster, EVENTS_PER_RESTART / 2);
            cluster.start_node(node);
        }
        crowd.publish_last();
        wait(&mut crowd, cluster, "the last event", |crowd, _| crowd.book.is_complete());
        let (entries, tally) = (crowd.book.balance(), crowd.tally());
        println!("{entries}\n{tally:?}");
        let Entries { published, delivered, lost, duplicated, reordered, .. } = entries;
        assert_eq!((delivered, lost, duplicated, reordered), (published, 0, 0, 0));
        assert_eq!((entries.silent_gaps, entries.told_gaps, entries.foreign), (0, 0, 0));
        assert!(published > EVENTS_PER_RESTART * NODES as u64);
        assert!(tally.by_token > SESSIONS as u64 / 4, "{tally:?}");
        cluster.await_links();
    });
}

fn publish_to_all(crowd: &mut Crowd, cluster: &mut Cluster<'_>, events: u64) {
    let until = crowd.published + events;
    wait(crowd, cluster, "events are read", |crowd, _| {
        publish_what_is_read(crowd);
        crowd.published >= until
    });
}

/// One event for each session that keeps up.
fn publish_what_is_read(crowd: &mut Crowd) {
    for session in 0..SESSIONS {
        if crowd.book.outstanding(session) < BEHIND {
            crowd.publish(session);
        }
    }
}

fn wait(
    crowd: &mut Crowd,
    cluster: &mut Cluster<'_>,
    what: &str,
    mut holds: impl FnMut(&mut Crowd, &mut Cluster<'_>) -> bool,
) {
    crowd.begin_wait();
    while !holds(crowd, cluster) {
        crowd.pump(Duration::from_millis(5), || cluster.doors());
        assert!(!crowd.is_stuck(), "nothing moves before {what}: {}", crowd.book.balance());
    }
}
