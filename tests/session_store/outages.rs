//! Redis that falters: sessions that are open stay so, and what is written afterwards is right.

use std::fs;
use std::time::{Duration, Instant};

use corelane::config::Secret;
use corelane::control::redis::Password;
use corelane::control::store::{Begin, Loss, SessionStore as _};
use corelane_shard::clock::Now;
use corelane_shard::lane::ClaimRefusal;

use crate::deaf::Deaf;
use crate::node::{ACCOUNT, ALICE, BOB, Node, SID, Setup, at, jwt, jwt_of, named, token, unix_ms};
use crate::services::Redis;

/// Somebody else is told to come later.
fn refused(node: &mut Node) {
    let refused = node.claim(jwt_of(BOB, ACCOUNT, unix_ms() / 1000)).err();
    assert_eq!(refused, Some(ClaimRefusal::Unavailable));
}

/// Until claims are granted again.
fn recovers(node: &mut Node) {
    node.until("claims are granted", |node| node.claim(jwt(ACCOUNT, unix_ms() / 1000)).is_ok());
}

fn later(node: &Node, by: Duration) -> Now {
    let now = node.now();
    Now { mono: now.mono + by, unix_ms: now.unix_ms + by.as_millis() as u64 }
}

fn stored(server: &Redis, field: &str) -> String {
    server.cli(&["HGET", &format!("connect:owner:{SID}"), field])
}

#[test]
fn scripts_that_redis_has_forgotten_are_loaded_again() {
    let server = Redis::start();
    let mut node = Node::of(&server);
    for _ in 0..3 {
        server.cli(&["SCRIPT", "FLUSH"]);
        let live = node.login();
        assert_eq!(stored(&server, "epoch"), live.epoch.0.to_string());
    }
    assert!(node.lost.is_empty());
}

#[test]
fn events_wait_three_seconds_after_the_last_renewal_until_the_sessions_were_compared() {
    let mut server = Redis::start();
    let mut node = Node::of(&server);
    let live = node.login();
    node.turn();
    assert!(node.store.may_deliver(node.now()));
    server.pause();
    assert!(!node.store.may_deliver(later(&node, Duration::from_secs(4))));
    assert!(node.store.known(ALICE).is_some(), "the session stays");
    refused(&mut node);
    server.resume();
    node.until("the lease is held again", |node| node.store.may_deliver(node.now()));
    node.settle();
    assert!(node.lost.is_empty());
    assert_eq!(node.store.known(ALICE).and_then(|known| known.owner), Some(live));
}

#[test]
fn what_ended_while_redis_was_away_is_written_when_it_is_back() {
    let mut server = Redis::start();
    let mut node = Node::of(&server);
    let live = node.login();
    server.pause();
    refused(&mut node);
    node.store.release(ALICE, live, corelane_shard::lane::End::Resumable, None, node.now());
    node.turn();
    server.resume();
    node.until("it waits", |_| stored(&server, "state") == "waiting");
    assert!(Node::of(&server).reconnect(&token(live.epoch)).is_ok());
}

#[test]
fn a_claim_that_nobody_answered_leaves_a_session_that_waits() {
    let mut server = Redis::start();
    let mut setup = Setup::new(&server);
    // Nothing that is under way already holds the claim back.
    setup.shared.poll_interval = Duration::from_secs(3600);
    let mut node = setup.start();
    // So that Redis knows the script.
    assert!(node.claim(jwt_of(BOB, ACCOUNT, unix_ms() / 1000)).is_ok());
    node.settle();
    server.pause();
    let refused = node.claim(jwt(ACCOUNT, unix_ms() / 1000)).err();
    assert_eq!(refused, Some(ClaimRefusal::Unavailable));
    server.resume();
    // Redis reads what it was sent before it sees that nobody listens.
    node.until("it waits", |_| stored(&server, "state") == "waiting");
    let granted = node.login();
    assert_eq!(stored(&server, "epoch"), granted.epoch.0.to_string());
}

#[test]
fn an_owner_that_was_away_gives_its_session_up_to_the_newer_one() {
    let server = Redis::start();
    let mut a = Node::of(&server);
    let first = a.login();
    // It is not asked for a turn while the other takes the session and its note gets lost.
    let mut b = Node::of(&server);
    let second = b.login();
    let keys = server.cli(&["KEYS", "connect:evicted:*"]);
    server.cli(&["DEL", &keys]);
    server.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
    a.until("it hears of it", |node| !node.lost.is_empty());
    assert_eq!((a.lost[0].owner, &a.lost[0].why), (Some(first), &Loss::Replaced));
    b.until("it is back", |node| node.store.may_deliver(node.now()));
    b.settle();
    assert!(b.lost.is_empty());
    assert_eq!(stored(&server, "epoch"), second.epoch.0.to_string());
}

#[test]
fn a_primary_that_became_a_replica_takes_no_claims_until_it_is_primary_again() {
    let server = Redis::start();
    let mut node = Node::of(&server);
    let live = node.login();
    server.cli(&["REPLICAOF", "127.0.0.1", "1"]);
    let others = || jwt_of(BOB, ACCOUNT, unix_ms() / 1000);
    node.until("it is noticed", |node| {
        node.claim(others()).err() == Some(ClaimRefusal::Unavailable)
    });
    assert_eq!(node.store.known(ALICE).and_then(|known| known.owner), Some(live));
    server.cli(&["REPLICAOF", "NO", "ONE"]);
    node.until("claims are granted", |node| node.claim(others()).is_ok());
    assert!(node.lost.is_empty());
}

#[test]
fn without_memory_for_more_nothing_is_changed_and_the_lease_is_held() {
    let server = Redis::start();
    let (mut a, mut b) = (Node::of(&server), Node::of(&server));
    let first = a.login();
    server.cli(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    server.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    let refused = b.claim(jwt(ACCOUNT, unix_ms() / 1000)).err();
    assert_eq!(refused, Some(ClaimRefusal::Unavailable));
    assert_eq!(stored(&server, "epoch"), first.epoch.0.to_string());
    a.turn();
    a.turn();
    assert!(a.lost.is_empty(), "nobody was evicted for a claim that was not granted");
    let confirmed = a.now();
    a.until("the lease is renewed", |node| {
        node.now().mono.since(confirmed.mono) > Duration::from_secs(4)
            || node.store.may_deliver(later(node, Duration::from_millis(2900)))
    });
    assert!(a.store.may_deliver(a.now()));
    server.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    recovers(&mut b);
}

#[test]
fn a_password_is_taken_from_its_file_whenever_a_connection_is_made() {
    let server = Redis::setup().password("hush").start();
    let folder = tempfile::tempdir().expect("the system has a place for files");
    let file = folder.path().join("password");
    fs::write(&file, "wrong\n").expect("a file");
    let mut setup = Setup::new(&server);
    setup.redis.password = Password::File(file.clone());
    let mut node = setup.start_alone();
    refused(&mut node);
    fs::write(&file, "hush\n").expect("a file");
    recovers(&mut node);

    let mut setup = Setup::new(&server);
    setup.redis.user = Some("default".into());
    setup.redis.password = Password::Given(Secret::new("hush"));
    setup.start().login();
}

#[test]
fn live_sessions_are_written_again_when_redis_has_lost_them() {
    let mut server = Redis::start();
    let mut node = Node::of(&server);
    node.cursor = Some(at(7));
    let live = node.login();
    server.kill();
    node.until("it is noticed", |node| !node.store.is_unsettled());
    server.restart();
    node.until("the session is written", |_| stored(&server, "epoch") == live.epoch.0.to_string());
    for key in ["ws-session", "heartbeat", "client-cursor"] {
        let key = format!("connect:{key}:{SID}");
        node.until(&key, |_| server.cli(&["EXISTS", &key]) == "1");
    }
    assert!(node.lost.is_empty());
    // Also when Redis forgets all without an end.
    server.cli(&["FLUSHALL"]);
    node.until("the session is written", |_| stored(&server, "epoch") == live.epoch.0.to_string());
    let mut other = Node::of(&server);
    let granted = other.reconnect(&token(live.epoch)).unwrap_or_else(|why| panic!("{why:?}"));
    assert_eq!(granted.begin, Begin::From(at(7)));
}

#[test]
fn a_token_older_than_the_store_belongs_to_a_session_of_which_nobody_knows() {
    let server = Redis::start();
    let mut node = Node::of(&server);
    node.cursor = Some(at(7));
    let granted = node.claim(jwt(ACCOUNT, unix_ms() / 1000 - 100)).expect("granted");
    assert_eq!(granted.begin, Begin::Unknown { since: Some(at(7)) });
    let mut node = Node::of(&server);
    server.cli(&["DEL", &format!("connect:ws-session:{SID}"), &format!("connect:owner:{SID}")]);
    let granted = node.claim(jwt(ACCOUNT, unix_ms() / 1000)).expect("granted");
    assert_eq!(granted.begin, Begin::Here);
}

#[test]
fn a_store_that_has_lost_its_birth_with_its_data_is_younger_than_any_token() {
    let server = Redis::start();
    let mut node = Node::of(&server);
    server.cli(&["FLUSHALL"]);
    let granted = node.claim(jwt(ACCOUNT, unix_ms() / 1000 - 1)).expect("granted");
    assert_eq!(granted.begin, Begin::Unknown { since: None });
}

#[test]
fn where_an_older_owner_has_written_a_session_again_its_cursor_does_not_outlive_it() {
    let server = Redis::start();
    let (mut a, mut b) = (Node::of(&server), Node::of(&server));
    a.cursor = Some(at(7));
    let first = a.login();
    // Only the second one hears of the second login: its client has yet to hear of a gap.
    let second = b.login();
    server.cli(&["FLUSHALL"]);
    let cursor = format!("connect:client-cursor:{SID}");
    a.until("it is written", |_| stored(&server, "epoch") == first.epoch.0.to_string());
    assert_eq!(server.cli(&["GET", &cursor]), "3:7");
    b.until("it is written again", |_| stored(&server, "epoch") == second.epoch.0.to_string());
    assert_eq!(server.cli(&["EXISTS", &cursor]), "0");
}

#[test]
fn sessions_in_their_window_survive_a_restart_of_a_redis_that_keeps_its_data() {
    let mut server = Redis::setup().persistent().start();
    let mut node = Node::of(&server);
    let live = node.login();
    node.leave(live);
    server.kill();
    server.restart();
    node.until("it can be taken up", |node| node.reconnect(&token(live.epoch)).is_ok());
}

#[test]
fn who_is_let_in_without_redis_is_reconciled_when_it_is_back() {
    let mut server = Redis::start();
    let admitting = |server: &Redis| {
        let mut setup = Setup::new(server);
        setup.shared.admit_when_unreachable = true;
        setup.start()
    };
    let (mut a, mut b) = (admitting(&server), admitting(&server));
    server.kill();
    for node in [&mut a, &mut b] {
        node.until("it is noticed", |node| !node.store.may_deliver(node.now()));
    }
    let first = a.claim(jwt(ACCOUNT, unix_ms() / 1000)).expect("let in");
    assert_eq!(first.begin, Begin::Unknown { since: None });
    let before = unix_ms();
    a.until("the clock goes on", |_| unix_ms() > before + 5);
    let second = b.claim(jwt(ACCOUNT, unix_ms() / 1000)).expect("let in");
    assert_eq!(a.reconnect(&token(first.owner.epoch)).err(), Some(ClaimRefusal::Unavailable));
    server.restart();
    a.until("the newer one has it", |node| {
        b.turn();
        !node.lost.is_empty()
    });
    assert_eq!(a.lost[0].why, Loss::Replaced);
    assert_eq!(stored(&server, "epoch"), second.owner.epoch.0.to_string());
    assert!(b.store.known(ALICE).is_some());
}

#[test]
fn a_server_that_takes_no_connection_is_passed_over_after_its_time() {
    let deaf = Deaf::new();
    let server = Redis::start();
    let mut setup = Setup::new(&server);
    setup.redis.connect_timeout = Duration::from_millis(200);
    setup.redis.servers.insert(0, named(deaf.address));
    let began = Instant::now();
    let mut node = setup.start();
    let took = began.elapsed();
    assert!((200..3000).contains(&took.as_millis()), "{took:?}");
    node.login();
}
