//! Two gateways and one Redis: sessions that move between them.

use std::net::SocketAddr;

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
    a.signal(rustix::process::Signal::TERM);
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
