//! The door: who is let in, and what is answered to those who are not.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use serde_json::json;
use tungstenite::WebSocket;
use tungstenite::protocol::Role;

use crate::gateway_process::http::{self, Answer};
use crate::gateway_process::token::{Claims, KEY_FILE};
use crate::harness::client::Client;
use crate::harness::frames::{CLIENT, Request};
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::raw::{client_frame, dial, exchange, read_answer, read_head, upgrade};

fn bearer(gateway: &Gateway) -> String {
    format!("Authorization: Bearer {}", gateway.token())
}

#[test]
fn every_refusal_is_answered_whole_with_its_status() {
    let gateway = Setup::new("").start();
    let good = bearer(&gateway);
    let whole = upgrade("/connect", &[&good]);
    let without = |line: &str| {
        assert!(whole.contains(line), "{line}");
        whole.replace(line, "")
    };
    let now = std::time::UNIX_EPOCH.elapsed().expect("the clock is set").as_secs();
    let with = |claims: Claims| {
        upgrade("/connect", &[&format!("Authorization: Bearer {}", claims.sign())])
    };
    let foreign = Claims::default().sign_with("another secret, as long as the real one is");
    let unsigned = "eyJhbGciOiJub25lIiwia2lkIjoidGVzdCJ9.e30.";
    let cases = [
        (401, upgrade("/connect", &[])),
        (401, upgrade("/connect", &["Authorization: Bearer nonsense"])),
        (401, upgrade("/connect", &[&format!("Authorization: Bearer {foreign}")])),
        (401, upgrade("/connect", &[&format!("Authorization: Bearer {unsigned}")])),
        (401, upgrade("/connect", &["Authorization: Basic dXNlcjpwYXNz"])),
        (401, upgrade("/connect", &["Authorization: Reconnect unknown"])),
        (401, upgrade("/connect?token=nonsense", &[])),
        (401, with(Claims::default().with("exp", json!(now - 1)))),
        (401, with(Claims::default().with("nbf", json!(now + 100)))),
        (401, with(Claims::default().with("aud", json!("somebody else")))),
        (401, with(Claims::default().with("iss", json!("somebody else")))),
        (401, with(Claims::default().with("session_key", json!(null)))),
        (404, upgrade("/elsewhere", &[&good])),
        (404, upgrade("/", &[&good])),
        (404, "POST /elsewhere HTTP/1.1\r\nHost: localhost\r\n\r\n".into()),
        (405, whole.replace("GET ", "POST ")),
        (405, "PUT /health HTTP/1.1\r\nHost: localhost\r\n\r\n".into()),
        (426, without("Upgrade: websocket\r\n").replace("keep-alive, Upgrade", "keep-alive")),
        (426, whole.replace("Version: 13", "Version: 8")),
        (400, without("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n")),
        (400, whole.replace("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ=")),
        (400, without("Host: localhost\r\n")),
        (400, whole.replace("HTTP/1.1\r\n", "HTTP/1.0\r\n")),
        (400, whole.replace("\r\nHost", "\r\n folded\r\nHost")),
        (400, upgrade("/connect", &[&good, "Content-Length: 5"])),
        (400, "GET\r\n\r\n".into()),
        (400, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into()),
        (431, upgrade("/connect", &[&good, &format!("X-Long: {}", "x".repeat(40_000))])),
    ];
    for (status, request) in cases {
        let answer = exchange(gateway.public(), request.as_bytes());
        let shown = request.chars().take(200).collect::<String>();
        assert_eq!(answer.status, status, "{shown}\n{answer:?}");
        assert!(!answer.body.is_empty(), "says why: {shown}");
        let field = |name: &str| answer.header(name).map(str::to_owned);
        match status {
            401 => assert_eq!(field("www-authenticate").as_deref(), Some("Bearer")),
            405 => assert_eq!(field("allow").as_deref(), Some("GET")),
            426 => assert_eq!(field("sec-websocket-version").as_deref(), Some("13")),
            _ => {}
        }
    }
    assert_eq!(gateway.metric("corelane_sessions", ""), 0);
}

#[test]
fn tls_on_the_plain_port_is_told_so() {
    let gateway = Setup::new("").start();
    let hello = [0x16, 0x03, 0x01, 0x00, 0xa5, 0x01, 0x00, 0x00, 0xa1, 0x03, 0x03];
    let answer = exchange(gateway.public(), &hello);
    assert_eq!(answer.status, 400);
    assert!(answer.body.contains("TLS"), "{}", answer.body);
}

#[test]
fn a_head_that_does_not_come_in_time_is_answered_408() {
    let gateway = Setup::new("").set("limits.head_timeout", "100ms").start();
    for start in ["", "GET /connect HTTP/1.1\r\nHost: loc"] {
        let answer = exchange(gateway.public(), start.as_bytes());
        assert_eq!(answer.status, 408, "after {start:?}");
    }
    assert_eq!(gateway.metric("corelane_upgrades_total", "outcome=\"head_timeout\""), 2);
}

#[test]
fn health_is_served_beside_the_door() {
    let gateway = Setup::new("").start();
    let answer = http::request(gateway.public(), "GET", "/health").expect("an answer");
    assert_eq!(answer.status, 200);
    assert!(answer.header("sec-websocket-accept").is_none());
}

#[test]
fn a_token_in_the_query_opens_the_door_unless_that_is_switched_off() {
    let gateway = Setup::new("").start();
    let token = gateway.token();
    let mut stream = dial(gateway.public());
    let request = upgrade(&format!("/connect?token={token}&x=1"), &[]);
    stream.write_all(request.as_bytes()).expect("the gateway reads");
    assert!(read_head(&mut stream).starts_with("HTTP/1.1 101 "));
    let mut client = Client::over(WebSocket::from_raw_socket(stream, Role::Client, None));
    assert_eq!(client.event()["eventName"], "connect.capability-manifest");
    client.leave();
    assert!(!gateway.log().text().contains(&token), "a token is in the log");

    let strict = Setup::new("").set("auth.query", "false").start();
    let request = upgrade(&format!("/connect?token={}", strict.token()), &[]);
    assert_eq!(exchange(strict.public(), request.as_bytes()).status, 401);
    strict.client().leave();

    let browsers = Setup::new("").set("auth.header", "false").start();
    let request = upgrade("/connect", &[&bearer(&browsers)]);
    assert_eq!(exchange(browsers.public(), request.as_bytes()).status, 401);
}

#[test]
fn the_head_may_come_byte_by_byte_and_frames_right_behind_it() {
    let gateway = Setup::new("").start();
    let request = upgrade("/connect", &[&bearer(&gateway)]);
    let mut stream = dial(gateway.public());
    for byte in request.bytes() {
        stream.write_all(&[byte]).expect("the gateway reads");
    }
    assert!(read_head(&mut stream).starts_with("HTTP/1.1 101 "));

    for split in [0, 1, 20] {
        let message = Request::to([0x11; 16]).id(77);
        let frame = client_frame(&message.encode());
        let (with_head, later) = frame.split_at(frame.len() - split);
        let mut stream = dial(gateway.public());
        let request = upgrade("/connect", &[&bearer(&gateway)]);
        stream.write_all(&[request.as_bytes(), with_head].concat()).expect("the gateway reads");
        assert!(read_head(&mut stream).starts_with("HTTP/1.1 101 "));
        stream.write_all(later).expect("the gateway reads");
        let mut client = Client::over(WebSocket::from_raw_socket(stream, Role::Client, None));
        assert_eq!(client.reply(), message.answer(30, ""), "{split} bytes came later");
        assert_eq!(client.event()["eventName"], "connect.capability-manifest");
    }
}

#[test]
fn the_manifest_comes_after_its_pause_and_never_with_the_101() {
    let gateway = Setup::new("").set("session.first_frame_delay", "40ms").start();
    let request = upgrade("/connect", &[&bearer(&gateway)]);
    let mut stream = dial(gateway.public());
    let asked = Instant::now();
    stream.write_all(request.as_bytes()).expect("the gateway reads");
    let mut first = [0; 4096];
    let len = stream.read(&mut first).expect("the answer");
    assert!(first[..len].starts_with(b"HTTP/1.1 101 "));
    assert!(first[..len].ends_with(b"\r\n\r\n"), "something is in the packet of the 101");
    let len = stream.read(&mut first).expect("the manifest");
    // The pause begins after the request was sent.
    assert!(asked.elapsed() >= Duration::from_millis(40), "{:?}", asked.elapsed());
    assert_eq!((first[0], len > 31), (0x82, true));
}

#[test]
fn a_full_gateway_answers_503_and_lets_a_takeover_pass() {
    let gateway = Setup::new("").set("session.max_concurrent_connections", "1").start();
    let claims = Claims::default();
    let mut first = gateway.client_of(&claims);
    let answer = exchange(gateway.public(), upgrade("/connect", &[&bearer(&gateway)]).as_bytes());
    assert_eq!(answer.status, 503);
    assert!(retry_after(&answer) > 0);
    let second = gateway.client_of(&claims);
    assert_eq!(first.close_reason().0, 4002);
    second.leave();
    gateway.wait_until("a free place", crate::harness::PATIENCE, || {
        Client::try_connect(gateway.public(), &gateway.token()).is_ok()
    });
}

fn retry_after(answer: &Answer) -> u32 {
    answer.header("retry-after").and_then(|text| text.parse().ok()).expect("says when to retry")
}

#[test]
fn sockets_beyond_a_shards_limit_are_answered_503() {
    let gateway = Setup::new("").set("shards.connections_max", "64").start();
    let crowd: Vec<_> = (0..64)
        .map(|_| {
            let mut stream = dial(gateway.public());
            stream.write_all(b"GET /conn").expect("the gateway reads");
            stream
        })
        .collect();
    gateway.await_metric("corelane_connections", "", 64);
    let request = upgrade("/connect", &[&bearer(&gateway)]);
    let answer = exchange(gateway.public(), request.as_bytes());
    assert_eq!(answer.status, 503);
    assert!(retry_after(&answer) > 0);
    drop(crowd);
    gateway.await_metric("corelane_connections", "", 0);
    gateway.client().leave();
}

#[test]
fn a_key_file_that_changes_is_read_again_and_open_sessions_stay() {
    let gateway = Setup::new("").start();
    let claims = Claims::default();
    let mut open = gateway.client_of(&claims);
    let secret = "the secret that came after the first one";
    let new = Claims::default();
    assert_eq!(Client::try_connect(gateway.public(), &new.sign_with(secret)).err(), Some(401));
    std::fs::write(gateway.folder().join(KEY_FILE), secret).expect("the folder is writable");
    gateway.await_log("key replaced");
    gateway.wait_until("the new key to be in force", crate::harness::PATIENCE, || {
        Client::try_connect(gateway.public(), &new.sign_with(secret)).is_ok()
    });
    // The old token had been verified and remembered; that must not help it.
    assert_eq!(Client::try_connect(gateway.public(), &claims.sign()).err(), Some(401));
    assert_eq!(Client::try_connect(gateway.public(), &gateway.token()).err(), Some(401));
    open.expect_no_reply();

    std::fs::write(gateway.folder().join(KEY_FILE), "short").expect("the folder is writable");
    gateway.await_log("the key read before stays in force");
    Client::connect(gateway.public(), &Claims::default().sign_with(secret)).leave();
    let mut stream = dial(gateway.public());
    stream.write_all(b"GET /elsewhere HTTP/1.1\r\nHost: a\r\n\r\n").expect("the gateway reads");
    assert_eq!(read_answer(&mut stream).expect("a whole answer").status, 404);
}

#[test]
fn one_gateway_serves_several_addresses_of_both_families() {
    let setup = Setup::new("").set("session.connection_mode", "Relayed");
    let gateway = setup.set("listen.public.address", "127.0.0.1:0,[::1]:0").start();
    let addresses = gateway.public_addresses();
    let &[four, six] = addresses else { panic!("{addresses:?}") };
    assert_eq!((four.is_ipv4(), six.is_ipv6()), (true, true));
    let [mut one, mut other] = [four, six].map(|to| Client::connect(to, &gateway.token()));
    let letter = Request::to(other.peer()).flags(CLIENT).payload("from the other family");
    assert_eq!(one.call(&letter).code, 0);
    assert_eq!(other.request(), letter);
}

#[test]
fn refusals_that_follow_each_other_are_all_answered() {
    let gateway = Setup::new("").start();
    let refused = upgrade("/connect", &[]);
    for round in 0..300 {
        // It leaves at once, so that its place is free for the next when it is barely over.
        let mut first = dial(gateway.public());
        first.write_all(refused.as_bytes()).expect("the gateway reads");
        read_head(&mut first);
        drop(first);
        let answer = exchange(gateway.public(), refused.as_bytes());
        assert_eq!(answer.status, 401, "round {round}");
    }
}
