//! What stands in Redis, as the protocol wants it: names, types, times to live, records.

use std::collections::BTreeSet;
use std::time::Duration;

use corelane::control::store::{Begin, SessionStore as _};
use corelane_shard::id::Epoch;
use corelane_shard::lane::{ClaimRefusal, Resumed};
use serde_json::{Value, json};

use crate::node::{ACCOUNT, ALICE, Node, SID, Setup, at, jwt, token, unix_ms};
use crate::services::Redis;

const BARE_ACCOUNT: &str = "7f1e0f1c6f0e4b539d2e0a1b2c3d4e5f";

/// Seconds for which a key still lives.
fn ttl(server: &Redis, key: &str) -> i64 {
    server.cli(&["TTL", key]).parse().expect("seconds")
}

fn lives(server: &Redis, key: &str, seconds: i64) {
    let left = ttl(server, key);
    assert!((seconds - 5..=seconds).contains(&left), "{key} lives {left} s, not {seconds}");
}

/// A value and its companion.
fn value(server: &Redis, name: &str, seconds: i64) -> Value {
    let (key, meta) = (format!("connect:{name}"), format!("connect:{name}:meta"));
    assert_eq!(server.cli(&["TYPE", &key]), "string", "{key}");
    assert_eq!(server.cli(&["TYPE", &meta]), "hash", "{meta}");
    lives(server, &key, seconds);
    lives(server, &meta, seconds);
    let version: u64 = server.cli(&["HGET", &meta, "version"]).parse().expect("a version");
    let updated: u64 = server.cli(&["HGET", &meta, "updated"]).parse().expect("a time");
    assert!(version >= 1 && updated.abs_diff(unix_ms()) < 10_000);
    serde_json::from_str(&server.cli(&["GET", &key])).expect("JSON")
}

fn exists(server: &Redis, name: &str) -> bool {
    server.cli(&["EXISTS", &format!("connect:{name}")]) == "1"
}

fn owner(server: &Redis, field: &str) -> String {
    server.cli(&["HGET", &format!("connect:owner:{SID}"), field])
}

#[test]
fn a_live_session_has_a_record_a_heartbeat_and_an_entry_of_its_account() {
    let server = Redis::start();
    let setup = Setup::new(&server);
    let instance = setup.shared.instance.to_string();
    let mut node = setup.start();
    node.cursor = Some(at(17));
    let Epoch(epoch) = node.login().epoch;
    let since = epoch / 1000;
    assert_eq!(
        value(&server, &format!("ws-session:{SID}"), 86_400),
        json!({
            "SessionId": SID, "AccountId": ACCOUNT, "ConnectedAtUnix": since,
            "LastActivityUnix": since, "UserRoles": ["admin", "user"], "Authorizations": [],
            "IsInReconnectionWindow": false,
        })
    );
    let heartbeat = value(&server, &format!("heartbeat:{SID}"), 300);
    assert_eq!((&heartbeat["SessionId"], &heartbeat["ConnectionCount"]), (&json!(SID), &json!(1)));
    assert_eq!(heartbeat["InstanceId"], instance.as_str());
    assert!(heartbeat["LastSeenUnix"].as_u64().expect("a time").abs_diff(since) <= 1);
    let set = format!("connect:set:account-sessions:{BARE_ACCOUNT}");
    assert_eq!(server.cli(&["SMEMBERS", &set]), format!("\"{SID}\""));
    lives(&server, &set, 86_400);
    assert_eq!(owner(&server, "epoch"), epoch.to_string());
    assert_eq!(owner(&server, "instance"), instance);
    assert_eq!(owner(&server, "token"), token(Epoch(epoch)));
    lives(&server, &format!("connect:owner:{SID}"), 86_400);
    assert_eq!(server.cli(&["GET", &format!("connect:client-cursor:{SID}")]), "3:17");
    lives(&server, &format!("connect:client-cursor:{SID}"), 86_400);
    let lease = format!("connect:node:{instance}");
    assert!((1..=10).contains(&ttl(&server, &lease)));
}

#[test]
fn a_session_in_its_window_can_be_found_by_its_token() {
    let server = Redis::start();
    let mut node = Node::of(&server);
    let live = node.login();
    node.cursor = Some(at(20));
    node.leave(live);
    let record = value(&server, &format!("ws-session:{SID}"), 360);
    let ended = record["DisconnectedAtUnix"].as_u64().expect("a time");
    assert!(ended.abs_diff(unix_ms() / 1000) < 10);
    assert_eq!(record["ReconnectionExpiresAtUnix"], ended + 300);
    assert_eq!(record["ReconnectionToken"], token(live.epoch));
    assert_eq!(record["IsInReconnectionWindow"], true);
    assert_eq!(record["UserRoles"], json!(["admin", "user"]));
    assert!(record.get("PreviousReconnectionToken").is_none(), "nulls are left out");
    let found = value(&server, &format!("reconnect:{}", token(live.epoch)), 300);
    assert_eq!(found, SID);
    assert!(!exists(&server, &format!("set:account-sessions:{BARE_ACCOUNT}")));
    assert!(exists(&server, &format!("heartbeat:{SID}")), "it is left to age");
    assert_eq!(server.cli(&["GET", &format!("connect:client-cursor:{SID}")]), "3:20");
    lives(&server, &format!("connect:client-cursor:{SID}"), 360);
    lives(&server, &format!("connect:owner:{SID}"), 360);
}

#[test]
fn an_ended_session_leaves_nothing_but_its_revocation() {
    let server = Redis::start();
    let mut node = Node::of(&server);
    let live = node.login();
    node.leave(live);
    node.store.end(ALICE, Some("Logout"), node.now());
    node.settle();
    let mut keys: Vec<String> = server.cli(&["KEYS", "*"]).lines().map(str::to_owned).collect();
    keys.retain(|key| key.contains(SID) || key.contains("reconnect") || key.contains("account"));
    assert_eq!(keys, [format!("connect:revoked:{SID}")]);
    lives(&server, &keys[0], 7200);
    let revoked: u64 = server.cli(&["GET", &keys[0]]).parse().expect("seconds");
    // Whatever node it comes to.
    for mut node in [node, Node::of(&server)] {
        let refused = node.claim(jwt(ACCOUNT, revoked)).err();
        assert_eq!(refused, Some(ClaimRefusal::Revoked));
        assert!(node.claim(jwt(ACCOUNT, revoked + 1)).is_ok());
    }
}

/// What services keep of who watches what: both sessions the room, the first one a realm, too.
fn write_bindings(server: &Redis, other: &str) {
    let room = "chat-room:00112233445566778899aabbccddeeff";
    let realm = "realm:ffeeddccbbaa99887766554433221100";
    for (sid, entities) in [(SID, &[room, realm][..]), (other, &[room])] {
        for entity in entities {
            let (watchers, watched) =
                (format!("entity-sessions:{entity}"), format!("session-entities:{sid}"));
            for (set, member) in [(watchers, sid), (watched, entity)] {
                server.cli(&["SADD", &format!("connect:set:{set}"), &format!("\"{member}\"")]);
            }
        }
    }
    // Of another make.
    server.cli(&["SADD", &format!("connect:set:session-entities:{SID}"), "no JSON", "7"]);
}

fn bindings(server: &Redis) -> BTreeSet<(String, String)> {
    let keys = server.cli(&["KEYS", "connect:set:*entit*"]);
    let members = keys.lines().flat_map(|key| {
        let members = server.cli(&["SMEMBERS", key]);
        members.lines().map(|m| (key.to_owned(), m.to_owned())).collect::<Vec<_>>()
    });
    members.collect()
}

#[test]
fn what_a_session_watches_is_forgotten_with_its_connection_and_with_itself() {
    let server = Redis::start();
    let mut node = Node::of(&server);
    let other = "00000000-0000-0000-0000-00000000b0b0";
    let room = "chat-room:00112233445566778899aabbccddeeff";
    let of_the_other = BTreeSet::from([
        (format!("connect:set:entity-sessions:{room}"), format!("\"{other}\"")),
        (format!("connect:set:session-entities:{other}"), format!("\"{room}\"")),
    ]);

    let live = node.login();
    write_bindings(&server, other);
    assert_eq!(bindings(&server).len(), of_the_other.len() + 6);
    node.leave(live);
    assert_eq!(bindings(&server), of_the_other);

    node.login();
    write_bindings(&server, other);
    node.store.end(ALICE, Some("Logout"), node.now());
    node.settle();
    assert_eq!(bindings(&server), of_the_other);
}

#[test]
fn everything_lives_as_long_as_is_configured() {
    let server = Redis::start();
    let mut setup = Setup::new(&server);
    setup.shared.session_ttl = Duration::from_secs(1000);
    setup.shared.heartbeat_ttl = Duration::from_secs(77);
    setup.rules.window = Duration::from_secs(60);
    setup.rules.extension = Duration::from_secs(120);
    let mut node = setup.start();
    node.cursor = Some(at(3));
    let live = node.login();
    value(&server, &format!("ws-session:{SID}"), 1000);
    value(&server, &format!("heartbeat:{SID}"), 77);
    for key in [format!("owner:{SID}"), format!("client-cursor:{SID}")] {
        lives(&server, &format!("connect:{key}"), 1000);
    }
    lives(&server, &format!("connect:set:account-sessions:{BARE_ACCOUNT}"), 1000);
    node.leave(live);
    let record = value(&server, &format!("ws-session:{SID}"), 60 + 120);
    let (ended, expires) = ("DisconnectedAtUnix", "ReconnectionExpiresAtUnix");
    assert_eq!(record[expires].as_u64(), record[ended].as_u64().map(|at| at + 60));
    value(&server, &format!("reconnect:{}", token(live.epoch)), 60);
    for key in [format!("owner:{SID}"), format!("client-cursor:{SID}")] {
        lives(&server, &format!("connect:{key}"), 60 + 120);
    }
}

#[test]
fn a_session_whose_client_may_lack_its_newest_token_can_be_found_by_the_one_before() {
    let server = Redis::start();
    let mut node = Node::of(&server);
    let first = node.login();
    let second = node.reconnect(&token(first.epoch)).unwrap_or_else(|why| panic!("{why:?}"));
    node.leave(second.owner);
    let record = value(&server, &format!("ws-session:{SID}"), 360);
    assert_eq!(record["ReconnectionToken"], token(second.owner.epoch));
    assert_eq!(record["PreviousReconnectionToken"], token(first.epoch));
    for epoch in [first.epoch, second.owner.epoch] {
        assert_eq!(value(&server, &format!("reconnect:{}", token(epoch)), 300), SID);
    }
}

#[test]
fn nothing_stands_there_but_what_is_documented_and_all_of_it_ends_but_the_birth() {
    let server = Redis::start();
    let (mut a, mut b) = (Node::of(&server), Node::of(&server));
    (a.cursor, b.cursor) = (Some(at(1)), Some(at(1)));
    let first = a.login();
    // The node that it is taken from has a note of that, until it asks.
    let second = b.login();
    let mut seen = patterns(&server);
    b.leave(second);
    seen.extend(patterns(&server));
    b.store.end(ALICE, Some("Logout"), b.now());
    b.settle();
    seen.extend(patterns(&server));
    let expected = [
        "client-cursor:*",
        "evicted:*",
        "heartbeat:*",
        "heartbeat:*:meta",
        "node:*",
        "owner:*",
        "reconnect:*",
        "reconnect:*:meta",
        "revoked:*",
        "set:account-sessions:*",
        "store-born",
        "ws-session:*",
        "ws-session:*:meta",
    ];
    assert_eq!(seen.iter().map(String::as_str).collect::<Vec<_>>(), expected);
    assert_ne!(first.epoch, second.epoch);
}

/// The kinds of keys that are there; each but one has an end.
fn patterns(server: &Redis) -> BTreeSet<String> {
    let keys = server.cli(&["KEYS", "*"]);
    let patterns = keys.lines().map(|key| {
        let name = key.strip_prefix("connect:").expect("every name begins so");
        // It may have ended in between.
        let left = ttl(server, key);
        assert!(left > 0 || left == -2 || name == "store-born", "{key} stays for ever");
        let parts: Vec<_> = name.split(':').collect();
        let wild = |part: &&str| part.contains(SID) || part.len() >= 32;
        let parts = parts.iter().map(|part| if wild(part) { "*" } else { part });
        parts.collect::<Vec<_>>().join(":")
    });
    patterns.collect()
}

/// A session that another program has kept.
fn write_upstream(server: &Redis, token: &str, expires: u64) {
    let record = json!({
        "SessionId": SID, "AccountId": ACCOUNT, "ConnectedAtUnix": 1_772_463_381,
        "LastActivityUnix": 1_772_463_381, "ReconnectionExpiresAtUnix": expires,
        "DisconnectedAtUnix": 1_772_463_500, "ReconnectionToken": token, "UserRoles": ["user"],
        "Authorizations": ["my-game:authorized"], "IsInReconnectionWindow": true,
    });
    server.cli(&["SET", &format!("connect:ws-session:{SID}"), &record.to_string(), "EX", "360"]);
    let sid = format!("\"{SID}\"");
    server.cli(&["SET", &format!("connect:reconnect:{token}"), &sid, "EX", "300"]);
}

const UPSTREAM_TOKEN: &str = "CzBVep/E6Q4zWH2ix+wRNluApcrvFDleg6jN8hc8YYY=";

#[test]
fn a_session_that_another_program_kept_is_taken_up_with_its_token() {
    let server = Redis::start();
    let mut node = Node::of(&server);
    write_upstream(&server, UPSTREAM_TOKEN, unix_ms() / 1000 + 200);
    let granted = node.reconnect(UPSTREAM_TOKEN).unwrap_or_else(|why| panic!("{why:?}"));
    let Resumed::Session(Some(identity)) = granted.resumed else { panic!("who is it?") };
    assert_eq!(identity.session, ALICE);
    assert_eq!(identity.account, Some(ACCOUNT.into()));
    assert_eq!(&*identity.standing.tenant, "default");
    assert_eq!(identity.standing.roles, [Box::from("user")].into());
    assert_eq!(identity.standing.authorizations, [Box::from("my-game:authorized")].into());
    assert_eq!(granted.begin, Begin::Unknown { since: None });
    let record = value(&server, &format!("ws-session:{SID}"), 86_400);
    assert_eq!(record["AccountId"], ACCOUNT);
    for gone in ["ReconnectionToken", "ReconnectionExpiresAtUnix", "DisconnectedAtUnix"] {
        assert!(record.get(gone).is_none(), "{gone}");
    }
    // Good until the client has the next one.
    let again = node.reconnect(UPSTREAM_TOKEN).unwrap_or_else(|why| panic!("{why:?}"));
    node.store.token_received(ALICE, again.owner.epoch);
    node.settle();
    assert_eq!(node.reconnect(UPSTREAM_TOKEN).err(), Some(ClaimRefusal::Unknown));
}

#[test]
fn a_token_whose_window_is_over_or_that_the_record_does_not_know_is_refused() {
    let server = Redis::start();
    let mut node = Node::of(&server);
    write_upstream(&server, UPSTREAM_TOKEN, unix_ms() / 1000);
    assert_eq!(node.reconnect(UPSTREAM_TOKEN).err(), Some(ClaimRefusal::Unknown));
    write_upstream(&server, UPSTREAM_TOKEN, unix_ms() / 1000 + 200);
    let mut other = UPSTREAM_TOKEN.to_owned();
    other.replace_range(..1, "D");
    let sid = format!("\"{SID}\"");
    server.cli(&["SET", &format!("connect:reconnect:{other}"), &sid]);
    assert_eq!(node.reconnect(&other).err(), Some(ClaimRefusal::Unknown));
    server.cli(&["SET", &format!("connect:reconnect:{other}"), "no JSON"]);
    assert_eq!(node.reconnect(&other).err(), Some(ClaimRefusal::Unknown));
    assert!(node.reconnect(UPSTREAM_TOKEN).is_ok());
}

#[test]
fn a_session_that_another_program_took_up_in_between_is_not_ours_to_take_up() {
    let server = Redis::start();
    let mut node = Node::of(&server);
    let live = node.login();
    node.leave(live);
    let record = json!({
        "SessionId": SID, "AccountId": ACCOUNT, "ConnectedAtUnix": 1, "LastActivityUnix": 1,
        "UserRoles": [], "Authorizations": [], "IsInReconnectionWindow": false,
    });
    server.cli(&["SET", &format!("connect:ws-session:{SID}"), &record.to_string()]);
    server.cli(&["DEL", &format!("connect:reconnect:{}", token(live.epoch))]);
    assert_eq!(node.reconnect(&token(live.epoch)).err(), Some(ClaimRefusal::Unknown));
    assert!(node.claim(jwt(ACCOUNT, unix_ms() / 1000)).is_ok());
}

#[test]
fn a_token_of_another_account_does_not_open_the_session() {
    let server = Redis::start();
    let mut node = Node::of(&server);
    write_upstream(&server, UPSTREAM_TOKEN, unix_ms() / 1000 + 200);
    let refused = node.claim(jwt("anna", unix_ms() / 1000)).err();
    assert_eq!(refused, Some(ClaimRefusal::Mismatch));
    assert!(node.claim(jwt(ACCOUNT, unix_ms() / 1000)).is_ok());
}

#[test]
fn every_key_stands_behind_the_configured_prefix() {
    let server = Redis::start();
    let mut setup = Setup::new(&server);
    setup.redis.prefix = "game-1:".into();
    let mut node = setup.start();
    let live = node.login();
    node.leave(live);
    let keys = server.cli(&["KEYS", "*"]);
    assert!(keys.lines().count() > 5);
    assert!(keys.lines().all(|key| key.starts_with("game-1:connect:")), "{keys}");
}
