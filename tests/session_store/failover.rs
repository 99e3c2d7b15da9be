//! A primary that is gone, and the replica that Sentinel has put in its place.

use std::time::Duration;

use corelane::control::store::SessionStore as _;

use crate::deaf::Deaf;
use crate::node::{ACCOUNT, ALICE, BOB, Node, SID, Setup, jwt_of, named, token, unix_ms};
use crate::services::Redis;
use crate::services::sentinel::Sentinel;

const NAME: &str = "main";

fn replica_of(primary: &Redis, node: &mut Node) -> Redis {
    let of = format!("127.0.0.1 {}", primary.address().port());
    let replica = Redis::setup().setting("replicaof", &of).start();
    node.until("the replica follows", |_| {
        replica.cli(&["INFO", "replication"]).contains("master_link_status:up")
    });
    replica
}

fn stored(server: &Redis) -> String {
    server.cli(&["HGET", &format!("connect:owner:{SID}"), "epoch"])
}

#[test]
fn a_node_follows_its_sentinel_to_the_replica_that_became_primary() {
    let mut primary = Redis::start();
    let replica = replica_of(&primary, &mut Node::of(&primary));
    let sentinel = Sentinel::of(&primary, NAME);
    let mut setup = Setup::new(&primary);
    setup.redis.sentinel = Some(NAME.into());
    setup.redis.servers = vec![named(sentinel.address())];
    let mut node = setup.start();
    let live = node.login();
    let epoch = live.epoch.0.to_string();
    node.until("the replica has the session", |_| stored(&replica) == epoch);

    primary.kill();
    node.until("claims are granted again", |node| {
        node.claim(jwt_of(BOB, ACCOUNT, unix_ms() / 1000)).is_ok()
    });
    node.until("the lease is held", |node| node.store.may_deliver(node.now()));
    assert!(node.lost.is_empty());
    assert_eq!(node.store.known(ALICE).and_then(|known| known.owner), Some(live));
    assert_eq!(stored(&replica), epoch);
    // What the new primary is told is good.
    assert!(node.reconnect(&token(live.epoch)).is_ok());
    assert!(replica.cli(&["INFO", "replication"]).contains("role:master"));
}

#[test]
fn sentinels_that_are_gone_or_name_what_is_gone_are_passed_over() {
    let mut gone = Redis::start();
    let of_the_gone = Sentinel::of(&gone, NAME);
    gone.kill();
    let primary = Redis::start();
    let (deaf, sentinel) = (Deaf::new(), Sentinel::of(&primary, NAME));
    let mut setup = Setup::new(&primary);
    setup.redis.sentinel = Some(NAME.into());
    setup.redis.connect_timeout = Duration::from_millis(200);
    setup.redis.servers =
        [deaf.address, of_the_gone.address(), sentinel.address()].map(named).into();
    let mut node = setup.start();
    let live = node.login();
    assert_eq!(stored(&primary), live.epoch.0.to_string());
}
