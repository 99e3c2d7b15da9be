//! Two gateways and one Redis: sessions that move between them.

use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use uuid::Uuid;

use crate::gateway_process::http;
use crate::gateway_process::token::Claims;
use crate::harness::PATIENCE;
use crate::harness::client::Client;
use crate::harness::gateway::{Gateway, Setup};
use crate::services::Redis;

fn gateway(redis: &Redis) -> Gateway {
    let gateway = Setup::new("").with_notices().set("redis.url", &redis.url()).start();
    gateway.await_metric("corelane_redis_lease_held", "", 1);
    gateway
}

/// The reconnect token that follows the manifest.
fn early_token(client: &mut Client) -> String {
    let event = client.event();
    assert_eq!(event["eventName"], "connect.session-token", "{event}");
    event["token"].as_str().expect("a token is text").to_owned()
}

fn session_of(client: &Client) -> &str {
    client.manifest["sessionId"].as_str().expect("a manifest names its session")
}

#[test]
fn a_login_on_another_node_closes_the_older_connection() {
    let redis = Redis::start();
    let (a, b) = (gateway(&redis), gateway(&redis));
    let claims = Claims::default().session(Uuid::from_u128(7));
    let mut first = a.client_of(&claims);
    early_token(&mut first);
    let second = b.client_of(&claims);
    assert_eq!(second.manifest["reason"], "session_reconnected");
    let (code, reason) = first.close_reason();
    assert_eq!((code, &*reason), (4002, "New connection established"));
    a.await_metric("corelane_sessions_lost_total", "", 1);
    b.await_metric("corelane_directory_sessions", "", 1);
    a.await_metric("corelane_directory_sessions", "", 0);
}

#[test]
fn a_client_comes_back_to_another_node_with_its_reconnect_token() {
    let redis = Redis::start();
    let (a, b) = (gateway(&redis), gateway(&redis));
    let mut client = a.client();
    let (session, token) = (session_of(&client).to_owned(), early_token(&mut client));
    drop(client);
    a.await_session_end(&session);
    let mut back = Client::try_resume(b.public(), &token).expect("it is within the window");
    assert_eq!(session_of(&back), session);
    assert_ne!(early_token(&mut back), token);
    b.await_metric("corelane_sessions_resumed_total", "", 1);
}

#[test]
fn a_drained_node_leaves_its_sessions_to_the_others() {
    let redis = Redis::start();
    let (mut a, b) = (gateway(&redis), gateway(&redis));
    let mut client = a.client();
    let (session, token) = (session_of(&client).to_owned(), early_token(&mut client));
    a.signal(Signal::TERM);
    drop(client);
    assert!(a.wait_for_end(PATIENCE).success());
    let back = Client::try_resume(b.public(), &token).expect("it was written before the end");
    assert_eq!(session_of(&back), session);
}

#[test]
fn without_redis_open_sessions_stay_and_new_ones_are_told_to_come_later() {
    let mut redis = Redis::start();
    let gateway = gateway(&redis);
    let mut client = gateway.client();
    early_token(&mut client);
    redis.kill();
    gateway.await_metric("corelane_redis_up", "", 0);
    let refused = Client::try_connect(gateway.public(), &Claims::default().sign());
    assert_eq!(refused.err(), Some(503));
    redis.restart();
    gateway.wait_until("clients are let in", PATIENCE, || {
        Client::try_connect(gateway.public(), &Claims::default().sign()).is_ok()
    });
    client.leave();
}

#[test]
fn the_token_of_a_good_bye_is_good_on_another_node_at_once() {
    let redis = Redis::start();
    let (a, b) = (gateway(&redis), gateway(&redis));
    let mut client = a.client();
    let (session, early) = (session_of(&client).to_owned(), early_token(&mut client));
    a.signal(Signal::TERM);
    let told = client.event();
    assert_eq!(told["eventName"], "connect.disconnect-notification", "{told}");
    assert_eq!(told["reconnectionToken"], early.as_str());
    let back = Client::try_resume(b.public(), &early).expect("it stands in the store already");
    assert_eq!(session_of(&back), session);
}

#[test]
fn of_two_processes_with_one_name_the_older_closes_its_sessions_with_4005_and_drains() {
    let redis = Redis::start();
    let of_that_name = || {
        let instance = Uuid::from_u128(0x7011).to_string();
        let setup = Setup::new("").with_notices().set("redis.url", &redis.url());
        let gateway = setup.set("control.instance", &instance).start();
        gateway.await_metric("corelane_redis_lease_held", "", 1);
        gateway
    };
    let mut older = of_that_name();
    let mut client = older.client();
    let (session, token) = (session_of(&client).to_owned(), early_token(&mut client));
    let newer = of_that_name();
    let (code, reason) = client.close_reason();
    assert_eq!(code, 4005, "{reason}");
    assert!(older.wait_for_end(PATIENCE).success());
    let back = Client::try_resume(newer.public(), &token).expect("the newer one is that node");
    assert_eq!(session_of(&back), session);
}

/// Seconds for which a key of `game-1` still lives.
fn ttl(redis: &Redis, name: &str) -> i64 {
    redis.cli(&["TTL", &format!("game-1:connect:{name}")]).parse().expect("seconds")
}

fn assert_lives(redis: &Redis, name: &str, seconds: i64) {
    let left = ttl(redis, name);
    assert!((seconds - 5..=seconds).contains(&left), "{name} lives {left} s, not {seconds}");
}

#[test]
fn what_stands_in_redis_has_the_configured_prefix_and_lives_as_long_as_is_configured() {
    let redis = Redis::start();
    let settings = [
        ("redis.key_prefix", "game-1:"),
        ("session.session_ttl_seconds", "1000"),
        ("session.heartbeat_ttl_seconds", "77"),
        ("session.heartbeat_interval_seconds", "1"),
        ("session.reconnection_window_seconds", "60"),
        ("session.reconnection_window_extension_minutes", "2"),
    ];
    let setup = Setup::new("").with_notices().set("redis.url", &redis.url());
    let setup = settings.iter().fold(setup, |setup, (key, value)| setup.set(key, value));
    let gateway = setup.start();
    gateway.await_metric("corelane_redis_lease_held", "", 1);
    let mut client = gateway.client();
    let (session, token) = (session_of(&client).to_owned(), early_token(&mut client));
    let (record, heartbeat) = (format!("ws-session:{session}"), format!("heartbeat:{session}"));
    assert_lives(&redis, &record, 1000);
    assert_lives(&redis, &heartbeat, 77);
    // It comes again after a second.
    redis.cli(&["DEL", &format!("game-1:connect:{heartbeat}")]);
    gateway.wait_until("the next heartbeat", PATIENCE, || ttl(&redis, &heartbeat) > 0);
    client.leave();
    gateway.await_session_end(&session);
    gateway.wait_until("the session waits", PATIENCE, || ttl(&redis, &record) <= 180);
    assert_lives(&redis, &record, 180);
    assert_lives(&redis, &format!("reconnect:{token}"), 60);
    let keys = redis.cli(&["KEYS", "*"]);
    assert!(keys.lines().all(|key| key.starts_with("game-1:connect:")), "{keys}");
}

#[test]
fn who_has_a_token_is_let_in_without_redis_where_that_is_configured() {
    let mut redis = Redis::start();
    let setup = Setup::new("").with_notices().set("redis.url", &redis.url());
    let gateway = setup.set("redis.when_unreachable", "admit").start();
    gateway.await_metric("corelane_redis_lease_held", "", 1);
    redis.kill();
    gateway.await_metric("corelane_redis_up", "", 0);
    let mut client = gateway.client();
    let token = early_token(&mut client);
    assert_eq!(Client::try_resume(gateway.public(), &token).err(), Some(503));
    redis.restart();
    gateway.wait_until("the session is written", PATIENCE, || {
        let record = format!("connect:ws-session:{}", session_of(&client));
        redis.cli(&["EXISTS", &record]) == "1"
    });
    client.leave();
}

#[test]
fn a_redis_that_stands_still_is_waited_for_as_long_as_is_configured() {
    let mut redis = Redis::start();
    let of = |timeout| {
        let setup = Setup::new("").set("redis.url", &redis.url()).set("redis.timeout", timeout);
        // Whatever is under way already would hold the claim back.
        let gateway = setup.set("redis.poll_interval", "50ms").start();
        gateway.await_metric("corelane_redis_lease_held", "", 1);
        gateway
    };
    let (hasty, patient) = (of("50ms"), of("15s"));
    let polls = |gateway: &Gateway| {
        gateway.metrics().sum_of("corelane_redis_latency_seconds_count", "command=\"poll\"")
    };
    let before = polls(&hasty);
    hasty.wait_until("a poll each 50 ms, and not each 300", Duration::from_secs(3), || {
        polls(&hasty) >= before + 20.0
    });
    redis.pause();
    let refused = Client::try_connect(hasty.public(), &Claims::default().sign());
    assert_eq!(refused.err(), Some(503));
    assert!(hasty.metric("corelane_redis_errors_total", "kind=\"timed_out\"") > 0);
    let door = patient.public();
    let waits = thread::spawn(move || Client::try_connect(door, &Claims::default().sign()).err());
    patient.await_metric("corelane_unauthenticated", "", 1);
    redis.resume();
    assert_eq!(waits.join().expect("it does not panic"), None);
    assert_eq!(patient.metric("corelane_redis_errors_total", ""), 0);
}

#[test]
fn a_redis_behind_tls_must_show_a_certificate_of_a_trusted_authority() {
    let keys = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keys");
    let file = |name: &str| keys.join(name).display().to_string();
    let redis = Redis::setup()
        .setting("port", "0")
        .setting("tls-port", "@PORT@")
        .setting("tls-cert-file", &file("localhost.pem"))
        .setting("tls-key-file", &file("localhost.key.pem"))
        .setting("tls-auth-clients", "no")
        .start();
    let url = format!("rediss://localhost:{}", redis.address().port());
    let trusting = |authority: &str| {
        let setup = Setup::new("").set("redis.url", &url);
        setup.env("SSL_CERT_FILE", &file(authority)).start()
    };
    let gateway = trusting("authority.pem");
    gateway.await_metric("corelane_redis_lease_held", "", 1);
    gateway.client().leave();
    // That is the certificate of no authority.
    let wary = trusting("localhost.pem");
    wary.wait_for_metrics("a connection that was not made", PATIENCE, |metrics| {
        metrics.sum_of("corelane_redis_errors_total", "kind=\"unreachable\"") > 0.0
    });
    assert_eq!(wary.metric("corelane_redis_connects_total", ""), 0);
}

#[test]
fn no_password_is_shown() {
    let redis = Redis::setup().password("hush-hush").start();
    let setup = Setup::new("").set("redis.url", &redis.url());
    let gateway = setup.env("CORELANE_REDIS_PASSWORD", "hush-hush").start();
    gateway.await_metric("corelane_redis_lease_held", "", 1);
    let config = shown(gateway.admin(), "/config");
    assert!(config.contains("redis.password") && !config.contains("hush-hush"), "{config}");
    assert!(!gateway.log().text().contains("hush-hush"));
    let instance: Value = serde_json::from_str(&gateway.await_log("this node")).expect("JSON");
    assert!(instance["instance"].as_str().is_some_and(|id| id.parse::<Uuid>().is_ok()));
}

fn shown(admin: SocketAddr, path: &str) -> String {
    http::request(admin, "GET", path).expect("an answer").body
}
