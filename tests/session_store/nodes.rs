//! Sessions between nodes: who owns one, which tokens are good, what the older owner hears.

use std::collections::HashSet;

use corelane::control::ask::ListedSession;
use corelane::control::store::{Begin, Ended, Loss, Lost, Owner, Released, SessionStore as _};
use corelane_shard::id::Epoch;
use corelane_shard::lane::{ClaimRefusal, End, Resumed, ToShard};

use crate::node::{ACCOUNT, ALICE, Node, SID, Setup, at, jwt, token, unix_ms};
use crate::services::Redis;

fn stored_epoch(server: &Redis) -> Epoch {
    let epoch = server.cli(&["HGET", &format!("connect:owner:{SID}"), "epoch"]);
    Epoch(epoch.parse().expect("an epoch"))
}

/// The older owner hears that it is so no longer.
fn hears_of_takeover(node: &mut Node, owner: Owner) {
    node.until("the older owner hears of it", |node| !node.lost.is_empty());
    let lost = Lost { session: ALICE, owner: Some(owner), why: Loss::Replaced };
    assert_eq!(node.lost.pop_front(), Some(lost));
    assert!(node.store.known(ALICE).is_none());
}

#[test]
fn the_newest_claim_owns_the_session_whatever_node_it_came_to() {
    let server = Redis::start();
    let (mut a, mut b) = (Node::of(&server), Node::of(&server));
    let first = a.login();
    let second = b.login();
    assert!(second.epoch > first.epoch);
    hears_of_takeover(&mut a, first);
    assert_eq!(stored_epoch(&server), second.epoch);
    // What the older one still had to say changes nothing.
    let now = a.now();
    assert_eq!(a.store.release(ALICE, first, End::Resumable, None, now), Released::Ignored);
    let third = a.login();
    hears_of_takeover(&mut b, second);
    assert_eq!(stored_epoch(&server), third.epoch);
    a.turn();
    assert!(a.lost.is_empty() && a.store.known(ALICE).is_some());
}

#[test]
fn an_older_owner_that_has_not_heard_cannot_write_over_the_newer() {
    type Write = fn(&mut Node, Owner);
    let writes: [Write; 2] = [
        |node, owner| node.store.reached(ALICE, owner.epoch, at(1)),
        |node, owner| {
            let released =
                node.store.release(ALICE, owner, End::Resumable, Some(at(1)), node.now());
            assert_eq!(released, Released::Waits);
        },
    ];
    for write in writes {
        let server = Redis::start();
        let (mut a, mut b) = (Node::of(&server), Node::of(&server));
        let first = a.login();
        a.settle();
        let second = b.login();
        write(&mut a, first);
        a.settle();
        assert_eq!(stored_epoch(&server), second.epoch);
        assert_eq!(server.cli(&["HGET", &format!("connect:owner:{SID}"), "state"]), "live");
        assert_eq!(server.cli(&["EXISTS", &format!("connect:client-cursor:{SID}")]), "0");
    }
}

#[test]
fn a_session_is_taken_up_on_another_node_where_its_client_left_off() {
    let server = Redis::start();
    let (mut a, mut b) = (Node::of(&server), Node::of(&server));
    a.cursor = Some(at(40));
    let first = a.login();
    a.store.reached(ALICE, first.epoch, at(41));
    a.settle();
    a.cursor = None;
    a.leave(first);
    b.cursor = Some(at(90));
    let granted = b.reconnect(&token(first.epoch)).unwrap_or_else(|why| panic!("{why:?}"));
    assert_eq!(granted.begin, Begin::From(at(41)));
    assert_eq!(granted.before.map(|before| before.epoch), Some(first.epoch));
    let Resumed::Session(Some(identity)) = granted.resumed else { panic!("who is it?") };
    assert_eq!((identity.session, identity.account.clone()), (ALICE, Some(ACCOUNT.into())));
    assert_eq!(identity.expires_at.map(|at| at.get()), Some(4_000_000_000));
    // It waited on the first node, which has no use for it any more.
    a.until("the first node hears of it", |node| !node.lost.is_empty());
    assert_eq!(a.lost[0].owner, None);
}

#[test]
fn a_gap_that_the_client_has_not_heard_of_goes_along_with_where_it_is() {
    let server = Redis::start();
    let (mut a, mut b) = (Node::of(&server), Node::of(&server));
    a.cursor = Some(at(40));
    let older = unix_ms() / 1000 - 100;
    let first = a.claim(jwt(ACCOUNT, older)).expect("granted");
    assert_eq!(first.begin, Begin::Unknown { since: Some(at(40)) });
    a.cursor = None;
    // The other node is not as far with its reading.
    b.cursor = Some(at(30));
    let second = b.claim(jwt(ACCOUNT, older)).expect("granted");
    assert_eq!(second.begin, Begin::Unknown { since: Some(at(40)) });
    b.store.reached(ALICE, second.owner.epoch, at(43));
    b.settle();
    let third = a.claim(jwt(ACCOUNT, older)).expect("granted");
    assert_eq!(third.begin, Begin::From(at(43)), "it has heard of it");
}

/// Redis stood still; then it did what nobody waited for any more.
#[test]
fn a_claim_that_was_granted_unheard_does_not_hide_who_had_the_session_before() {
    let server = Redis::start();
    let shared = Setup::new(&server).shared;
    let same = |server: &Redis| {
        let mut setup = Setup::new(server);
        setup.shared = shared.clone();
        setup.start()
    };
    let mut a = same(&server);
    a.cursor = Some(at(40));
    let first = a.login();
    a.leave(first);
    let mut unheard = same(&server);
    let granted = unheard.claim(jwt(ACCOUNT, unix_ms() / 1000)).expect("granted");
    assert_eq!(granted.begin, Begin::From(at(40)), "it is another process's memory");
    let again = a.claim(jwt(ACCOUNT, unix_ms() / 1000)).expect("granted");
    assert_eq!(again.begin, Begin::Here, "nobody else had it");
    a.leave(again.owner);

    let mut b = Node::of(&server);
    let second = b.login();
    b.store.reached(ALICE, second.epoch, at(50));
    b.settle();
    unheard.claim(jwt(ACCOUNT, unix_ms() / 1000)).expect("granted");
    // What it should have heard of is lost with a Redis that forgets.
    server.cli(&["DEL", &format!("connect:evicted:{}", shared.instance)]);
    let third = a.claim(jwt(ACCOUNT, unix_ms() / 1000)).expect("granted");
    assert_eq!(third.begin, Begin::From(at(50)));
}

#[test]
fn a_node_that_is_told_of_a_newer_owner_gives_the_session_up_at_once() {
    let server = Redis::start();
    let mut node = Node::of(&server);
    let owner = node.login();
    let earlier = Epoch(owner.epoch.0 - 1);
    assert!(!node.store.superseded(ALICE, earlier), "that was an earlier stay");
    assert!(node.store.superseded(ALICE, owner.epoch));
    node.turn();
    assert_eq!(
        node.lost.pop_front().map(|lost| (lost.owner, lost.why)),
        Some((Some(owner), Loss::Replaced))
    );
    assert!(node.store.known(ALICE).is_none());
}

#[test]
fn the_token_before_is_good_until_the_next_one_has_arrived() {
    let server = Redis::start();
    let mut nodes = [Node::of(&server), Node::of(&server)];
    let first = nodes[0].login().epoch;
    let second = nodes[1].reconnect(&token(first)).unwrap_or_else(|why| panic!("{why:?}")).owner;
    let third = nodes[0].reconnect(&token(first)).unwrap_or_else(|why| panic!("{why:?}")).owner;
    assert_eq!(nodes[1].reconnect(&token(second.epoch)).err(), Some(ClaimRefusal::Unknown));
    nodes[0].store.token_received(ALICE, third.epoch);
    nodes[0].settle();
    assert_eq!(nodes[1].reconnect(&token(first)).err(), Some(ClaimRefusal::Unknown));
    nodes[0].leave(third);
    let fourth = nodes[1].reconnect(&token(third.epoch)).unwrap_or_else(|why| panic!("{why:?}"));
    nodes[1].leave(fourth.owner);
    // Both are good in the window, for other programs too.
    for epoch in [third.epoch, fourth.owner.epoch] {
        let key = format!("connect:reconnect:{}", token(epoch));
        assert_eq!(server.cli(&["GET", &key]), format!("\"{SID}\""));
    }
    assert!(nodes[0].reconnect(&token(third.epoch)).is_ok());
}

#[test]
fn of_two_claims_at_once_the_later_has_the_session_and_the_earlier_hears_of_it() {
    let server = Redis::start();
    for _ in 0..20 {
        let (mut a, mut b) = (Node::of(&server), Node::of(&server));
        a.begin_claim(jwt(ACCOUNT, unix_ms() / 1000));
        b.begin_claim(jwt(ACCOUNT, unix_ms() / 1000));
        let mut epochs = Vec::new();
        for node in [&mut a, &mut b] {
            let ToShard::Granted { epoch, .. } = node.decision().answer else { panic!("refused") };
            epochs.push(epoch);
        }
        assert_ne!(epochs[0], epochs[1]);
        let (winner, loser) = if epochs[0] > epochs[1] { (a, b) } else { (b, a) };
        assert_eq!(stored_epoch(&server), *epochs.iter().max().expect("two"));
        let mut loser = loser;
        loser.until("the earlier hears of it", |node| !node.lost.is_empty());
        assert!(winner.store.known(ALICE).is_some() && loser.store.known(ALICE).is_none());
    }
}

#[test]
fn a_session_is_ended_wherever_it_is() {
    let server = Redis::start();
    let (mut a, mut b) = (Node::of(&server), Node::of(&server));
    let live = a.login();
    assert_eq!(b.store.end(ALICE, Some("AdminAction"), b.now()), Ended::Unknown);
    b.settle();
    a.until("its node hears of it", |node| !node.lost.is_empty());
    let why = Loss::Ended { reason: Some("AdminAction".into()) };
    assert_eq!(a.lost[0], Lost { session: ALICE, owner: Some(live), why });
    assert_eq!(a.reconnect(&token(live.epoch)).err(), Some(ClaimRefusal::Unknown));
}

#[test]
fn a_session_whose_node_is_gone_waits_for_its_own_token_and_not_for_ever_for_the_other() {
    let server = Redis::start();
    let mut a = Node::of(&server);
    a.cursor = Some(at(5));
    let first = a.login();
    drop(a);
    let mut b = Node::of(&server);
    b.cursor = Some(at(9));
    server.cli(&["DEL", &format!("connect:heartbeat:{SID}")]);
    assert_eq!(b.reconnect(&token(first.epoch)).err(), Some(ClaimRefusal::Unknown));
    let granted = b.claim(jwt(ACCOUNT, unix_ms() / 1000)).unwrap_or_else(|why| panic!("{why:?}"));
    assert_eq!(granted.begin, Begin::From(at(5)));
}

#[test]
fn a_node_that_begins_again_takes_its_own_sessions_back() {
    let server = Redis::start();
    let setup = Setup::new(&server);
    let instance = setup.shared.instance;
    let mut a = setup.start();
    a.cursor = Some(at(5));
    let first = a.login();
    drop(a);
    let mut again = Setup::new(&server);
    again.shared.instance = instance;
    let mut again = again.start();
    let granted = again.reconnect(&token(first.epoch)).unwrap_or_else(|why| panic!("{why:?}"));
    assert_eq!(granted.begin, Begin::From(at(5)));
    again.turn();
    assert!(again.lost.is_empty() && !again.store.is_dethroned());
}

#[test]
fn what_is_here_begins_with_what_is_here() {
    let server = Redis::start();
    let mut node = Node::of(&server);
    node.cursor = Some(at(5));
    let first = node.login();
    node.leave(first);
    node.cursor = Some(at(8));
    let granted = node.reconnect(&token(first.epoch)).unwrap_or_else(|why| panic!("{why:?}"));
    assert_eq!(granted.begin, Begin::Here);
}

#[test]
fn a_process_whose_name_another_has_taken_gives_up_its_sessions() {
    let server = Redis::start();
    let setup = Setup::new(&server);
    let instance = setup.shared.instance;
    let mut old = setup.start();
    let live = old.login();
    let mut new = Setup::new(&server);
    new.shared.instance = instance;
    let mut new = new.start();
    old.until("it hears of it", |node| node.store.is_dethroned());
    assert_eq!(old.lost[0], Lost { session: ALICE, owner: Some(live), why: Loss::Identity });
    assert!(!old.store.may_deliver(old.now()));
    let refused = old.claim(jwt(ACCOUNT, unix_ms() / 1000)).err();
    assert_eq!(refused, Some(ClaimRefusal::Unavailable));
    new.login();
    assert!(new.store.may_deliver(new.now()));
}

#[test]
fn the_sessions_of_an_account_are_found_on_all_nodes_while_they_are_alive() {
    let server = Redis::start();
    let (mut a, mut b) = (Node::of(&server), Node::of(&server));
    let live = a.login();
    let asks = |node: &mut Node| -> Vec<ListedSession> {
        let (answer, mut answered) = tokio::sync::oneshot::channel();
        node.store.find_account(ACCOUNT, answer);
        let mut found = None;
        node.until("an answer", |_| {
            found = answered.try_recv().ok();
            found.is_some()
        });
        found.expect("answered")
    };
    let found = asks(&mut b);
    assert_eq!(found.len(), 1);
    assert!(found[0].live && found[0].identity.session == ALICE);
    assert_eq!(found[0].identity.standing.roles.len(), 2);
    let here: HashSet<_> = asks(&mut a).iter().map(|it| it.identity.session).collect();
    assert_eq!(here, [ALICE].into());
    server.cli(&["DEL", &format!("connect:heartbeat:{SID}")]);
    assert!(asks(&mut b).is_empty());
    let set = "connect:set:account-sessions:7f1e0f1c6f0e4b539d2e0a1b2c3d4e5f";
    assert_eq!(server.cli(&["EXISTS", set]), "0", "it was taken out");
    // Its node puts it back with the next heartbeat.
    drop(a);
    let mut setup = Setup::new(&server);
    setup.shared.heartbeat_interval = std::time::Duration::from_millis(100);
    let mut c = setup.start();
    c.login();
    server.cli(&["DEL", set, &format!("connect:heartbeat:{SID}")]);
    c.until("the next heartbeat", |_| server.cli(&["EXISTS", set]) == "1");
    assert_eq!(asks(&mut b).len(), 1);
    assert_ne!(stored_epoch(&server), live.epoch);
}
