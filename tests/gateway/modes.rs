//! The Internal mode, and the routes that a browser has for its token.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::Value;
use tungstenite::protocol::Role;
use tungstenite::{Message, WebSocket};

use crate::gateway_process::Launch;
use crate::harness::client::Client;
use crate::harness::frames::{Request, guid};
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::raw::{dial, exchange, read_head, upgrade};

const SERVICE_TOKEN: &str = "what-only-servers-know";

fn open(gateway: &Gateway, fields: &[&str]) -> (String, TcpStream) {
    let mut stream = dial(gateway.public());
    stream.write_all(upgrade("/connect", fields).as_bytes()).expect("the gateway reads");
    let head = read_head(&mut stream);
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    (head, stream)
}

fn over(stream: TcpStream) -> Client {
    Client::over(WebSocket::from_raw_socket(stream, Role::Client, None))
}

/// A server that has heard its hello.
fn server(gateway: &Gateway) -> (Client, Value) {
    let token = format!("X-Service-Token: {SERVICE_TOKEN}");
    let (_, stream) = open(gateway, &["Authorization: Internal", &token]);
    let mut client = over(stream);
    let Ok(Message::Text(hello)) = client.socket.read() else { panic!("no hello") };
    let hello = serde_json::from_str(&hello).expect("a hello is JSON");
    (client, hello)
}

#[test]
fn servers_reach_each_other_across_shards_and_get_no_manifest() {
    let gateway = Setup::new("")
        .shards(2)
        .set("session.connection_mode", "internal")
        .set("session.internal_auth_mode", "service-token")
        .set("listen.internal.service_token", SERVICE_TOKEN)
        .start();
    let refused = upgrade("/connect", &[&format!("Authorization: Bearer {}", gateway.token())]);
    assert_eq!(exchange(gateway.public(), refused.as_bytes()).status, 401, "a player");
    let wrong = upgrade("/connect", &["Authorization: Internal", "X-Service-Token: wrong"]);
    assert_eq!(exchange(gateway.public(), wrong.as_bytes()).status, 401);

    // So many that some are on either shard.
    let mut servers: Vec<_> = (0..12).map(|_| server(&gateway)).collect();
    let peers: Vec<_> = servers
        .iter()
        .map(|(_, hello)| guid(hello["PeerGuid"].as_str().expect("a GUID is text")))
        .collect();
    let (first, others) = servers.split_first_mut().expect("there are some");
    first.0.send_message(Message::text("passed over"));
    for ((other, _), peer) in others.iter_mut().zip(&peers[1..]) {
        let message = Request::to(*peer).flags(0x20).payload("hello").id(5);
        let reply = first.0.call(&message);
        assert_eq!((reply.code, reply.id), (0, 5));
        assert_eq!(other.request(), message);
    }
    let all = Request::to([0xFF; 16]).flags(0x20).payload("all").id(6);
    first.0.send(&all);
    for (other, _) in others {
        assert_eq!(other.request(), all);
    }
    assert_eq!(gateway.metric("corelane_sessions", ""), 12);
    let by_token = gateway.metric("corelane_credentials_total", "route=\"service_token\"");
    assert_eq!(by_token, 12);

    // A close ends the connection without a word.
    let (mut leaving, _) = servers.remove(0);
    leaving.socket.close(None).expect("the connection is open");
    let mut rest = Vec::new();
    leaving.socket.get_mut().read_to_end(&mut rest).expect("an orderly end");
    assert_eq!(rest, b"");
    gateway.await_metric("corelane_sessions", "", 11);
    assert!(!gateway.log().text().contains(SERVICE_TOKEN), "a secret is in the log");
}

#[test]
fn a_gateway_for_servers_does_not_start_without_its_secret() {
    let ended = Launch::new("").set("session.connection_mode", "Internal").run_to_end();
    assert_eq!(ended.status.code(), Some(64));
    assert!(ended.stderr.contains("listen.internal.service_token"), "{}", ended.stderr);
}

#[test]
fn a_browser_brings_its_token_as_subprotocol_or_cookie() {
    let gateway = Setup::new("")
        .set("auth.subprotocol", "true")
        .set("auth.cookie", "session")
        .set("auth.origins", "https://game.example")
        .start();
    let token = gateway.token();
    let offer = format!("Sec-WebSocket-Protocol: corelane, bearer.{token}");
    let cookie = format!("Cookie: theme=dark; session={token}");
    let origin = "Origin: https://game.example";
    for (field, chosen) in [(&offer, true), (&cookie, false)] {
        let (head, stream) = open(&gateway, &[field, origin]);
        assert_eq!(head.contains("\r\nSec-WebSocket-Protocol: corelane\r\n"), chosen, "{head}");
        assert!(!head.contains(&token));
        let mut client = over(stream);
        assert_eq!(client.event()["eventName"], "connect.capability-manifest");
        client.leave();
        let foreign = upgrade("/connect", &[field, "Origin: https://other.example"]);
        assert_eq!(exchange(gateway.public(), foreign.as_bytes()).status, 403);
    }
    assert_eq!(gateway.metric("corelane_upgrades_total", "outcome=\"forbidden\""), 2);
    for route in ["subprotocol", "cookie"] {
        let label = format!("route=\"{route}\"");
        assert_eq!(gateway.metric("corelane_credentials_total", &label), 1);
    }
    assert!(!gateway.log().text().contains(&token), "a token is in the log");
}

#[test]
fn a_session_is_closed_when_its_token_expires_if_that_is_asked_for() {
    let gateway = Setup::new("[auth]\non_expiry = \"close\"\n").start();
    let now = std::time::UNIX_EPOCH.elapsed().expect("the clock is set").as_secs();
    let claims = crate::gateway_process::token::Claims::default();
    let mut client = gateway.client_of(&claims.with("exp", (now + 2).into()));
    let reason = (4001, "Session invalidated: SessionExpired".to_owned());
    assert_eq!(client.close_reason(), reason);
    gateway.await_metric("corelane_connections_closed_total", "code=\"4001\"", 1);
}
