//! What services publish for sessions, from the bus of the internal listener to the client.

use std::io::{BufRead as _, BufReader, Write as _};

use serde_json::{Value, json};
use tungstenite::protocol::Role;
use tungstenite::{Message, WebSocket};
use uuid::Uuid;

use crate::gateway_process::SOON;
use crate::gateway_process::http::Answer;
use crate::gateway_process::token::Claims;
use crate::harness::client::Client;
use crate::harness::frames::{EVENT, Guid, META, Request, guid, guid_text};
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::http_backend::{self, HttpBackend};
use crate::harness::raw::{dial, exchange, read_head, upgrade};

const TOKEN: &str = "of-the-publishing-services";
const SHORTCUT: Guid = [0xA1; 16];

fn setup(tables: &str) -> Setup {
    Setup::new(tables)
        .set("listen.internal.address", "127.0.0.1:0")
        .set("listen.internal.service_token", TOKEN)
}

fn post(gateway: &Gateway, path: &str, body: &Value) -> Answer {
    let (to, body) = (gateway.internal(), body.to_string());
    let length = body.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\nX-Service-Token: {TOKEN}\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    );
    exchange(to, request.as_bytes())
}

/// Publishes an event for one session.
fn publish(gateway: &Gateway, session: Uuid, event: &Value) {
    let answer = post(gateway, &format!("/bus/bannou-client-events?session={session}"), event);
    assert_eq!(answer.status, 202, "{answer:?}");
}

/// A session whose manifest is yet to come.
fn open(gateway: &Gateway, session: Uuid) -> Client {
    let token = format!("Authorization: Bearer {}", Claims::default().session(session).sign());
    let mut stream = dial(gateway.public());
    stream.write_all(upgrade("/connect", &[&token]).as_bytes()).expect("the gateway reads");
    assert!(read_head(&mut stream).starts_with("HTTP/1.1 101 "));
    Client::over(WebSocket::from_raw_socket(stream, Role::Client, None))
}

fn shortcut(more: &Value) -> Value {
    let mut metadata = json!({
        "name": "leave", "sourceService": "lobby",
        "targetService": "demo", "targetMethod": "POST", "targetEndpoint": "/demo/other",
    });
    let fields = more.as_object().expect("fields").clone();
    metadata.as_object_mut().expect("fields").extend(fields);
    json!({ "eventName": "session.shortcut-published", "shortcut": {
        "routeGuid": guid_text(SHORTCUT), "targetGuid": guid_text([0xB2; 16]),
        "boundPayload": "{\"bound\":1}", "metadata": metadata,
    }})
}

fn capabilities(paths: &[&str]) -> Value {
    json!({
        "eventName": "permission.session_capabilities", "permissions": { "demo": paths },
        "reason": "role_changed",
    })
}

/// What a manifest lists.
fn listed(manifest: &Value) -> Vec<&str> {
    let apis = manifest["availableApis"].as_array().expect("a manifest lists");
    apis.iter().map(|api| api["endpoint"].as_str().expect("text")).collect()
}

#[test]
fn an_event_reaches_its_session_with_nothing_changed_but_its_spelling() {
    let gateway = setup("").start();
    let (anna, bert) = (Uuid::new_v4(), Uuid::new_v4());
    let mut client = gateway.client_of(&Claims::default().session(anna));
    let mut other = gateway.client_of(&Claims::default().session(bert));
    let event = json!({ "eventName": "System_Notification", "message": "Hello", "n": [1.50] });
    publish(&gateway, anna, &event);
    let arrived = client.request();
    assert_eq!((arrived.flags, arrived.channel, arrived.sequence), (EVENT, 0, 0));
    assert_eq!(arrived.guid, [0; 16]);
    let expected = event.to_string().replace("System_Notification", "system.notification");
    assert_eq!(String::from_utf8(arrived.payload).expect("UTF-8"), expected);
    let path = format!("/bus/bannou-client-events?session={anna}");
    let unlisted = post(&gateway, &path, &json!({ "eventName": "no.such" }));
    assert_eq!(unlisted.status, 422, "{unlisted:?}");
    client.expect_no_reply();
    other.expect_no_reply();
}

#[test]
fn a_session_that_waits_for_its_capabilities_gets_no_manifest_before_them() {
    let backend = HttpBackend::start(|_| http_backend::Answer::ok("{}"));
    let gateway = setup(&backend.service("/demo/echo /demo/other", ""))
        .set("session.capabilities", "events")
        .start();
    let session = Uuid::new_v4();
    let mut client = open(&gateway, session);
    client.expect_no_reply();
    publish(&gateway, session, &shortcut(&json!({})));
    client.expect_no_reply();
    publish(&gateway, session, &capabilities(&["/demo/echo"]));
    client.manifest = client.event();
    assert_eq!(listed(&client.manifest), ["/demo/echo", "leave"]);
    assert_eq!(
        (&client.manifest["reason"], &client.manifest["version"]),
        (&json!("role_changed"), &json!(0))
    );
    let echo = client.service("/demo/echo");
    assert_eq!(client.call(&Request::to(echo)).code, 0);
    backend.asked();

    // Another set replaces the first; the shortcut is no part of it.
    publish(&gateway, session, &capabilities(&[]));
    client.manifest = client.event();
    assert_eq!(listed(&client.manifest), ["leave"]);
    assert_eq!(client.call(&Request::to(echo)).code, 30);
    assert_eq!(client.call(&Request::to(SHORTCUT)).code, 0);
    assert_eq!(backend.asked().path, "/demo/other");
}

#[test]
fn a_shortcut_calls_its_target_with_its_own_payload_until_it_is_taken_back() {
    let backend = HttpBackend::start(|asked| http_backend::Answer::ok(&asked.body));
    let services = backend.service("/demo/echo /demo/other", "");
    let role = "[[role]]\nname = \"narrow\"\nendpoints = [\"demo:/demo/echo\"]\n";
    let gateway = setup(&format!("{services}{role}")).start();
    let session = Uuid::new_v4();
    let claims = Claims::default().session(session).with("roles", json!(["narrow"]));
    let mut client = gateway.client_of(&claims);
    assert_eq!(listed(&client.manifest), ["/demo/echo"]);
    publish(&gateway, session, &shortcut(&json!({})));
    let manifest = client.event();
    assert_eq!(listed(&manifest), ["/demo/echo", "leave"]);
    assert_eq!((manifest.get("reason"), &manifest["version"]), (None, &json!(1)));

    // Its target is none of the session's endpoints.
    let call = Request::to(SHORTCUT).channel(2000).payload("the client's own");
    assert_eq!(client.call(&call), call.answer(0, "{\"bound\":1}"));
    let asked = backend.asked();
    assert_eq!((asked.method.as_str(), asked.path.as_str()), ("POST", "/demo/other"));
    assert_eq!(asked.body, b"{\"bound\":1}");
    let meta = Request::to(SHORTCUT).flags(META).channel(0);
    assert_eq!(client.call(&meta), meta.answer(20, ""));

    let revoked = json!({ "eventName": "session.shortcut-revoked", "revokeByService": "lobby" });
    publish(&gateway, session, &revoked);
    assert_eq!(listed(&client.event()), ["/demo/echo"]);
    assert_eq!(client.call(&call), call.answer(30, ""));
    // Nothing is left to take back, so there is no manifest either.
    publish(&gateway, session, &revoked);
    client.expect_no_reply();

    publish(&gateway, session, &shortcut(&json!({ "expiresAt": "2001-01-01T00:00:00+00:00" })));
    assert_eq!(listed(&client.event()), ["/demo/echo"]);
    assert_eq!(client.call(&call), call.answer(70, ""));
    assert_eq!(client.call(&call), call.answer(30, ""), "it was removed");
}

#[test]
fn a_newer_connection_has_neither_the_shortcuts_nor_the_peer_guid_of_the_older() {
    let backend = HttpBackend::start(|_| http_backend::Answer::ok("{}"));
    let gateway = setup(&backend.service("/demo/echo /demo/other", ""))
        .set("session.connection_mode", "Relayed")
        .start();
    let session = Uuid::new_v4();
    let claims = Claims::default().session(session);
    let mut first = gateway.client_of(&claims);
    publish(&gateway, session, &shortcut(&json!({})));
    assert!(listed(&first.event()).contains(&"leave"));
    let mut second = gateway.client_of(&claims);
    assert!(!listed(&second.manifest).contains(&"leave"));
    assert_eq!(second.call(&Request::to(SHORTCUT)).code, 30);
    assert_ne!(second.peer(), first.peer());
    assert_eq!(second.service("/demo/echo"), first.service("/demo/echo"));
}

#[test]
fn an_error_is_noticed_to_administrators_and_to_nobody_else() {
    let gateway = setup("").start();
    let session = Uuid::new_v4();
    let mut player = gateway.client_of(&Claims::default().session(session));
    let mut admin = gateway.client_of(&Claims::default().with("roles", json!(["Admin"])));
    let nowhere = shortcut(&json!({ "targetService": "" }));
    let path = format!("/bus/bannou-client-events?session={session}");
    assert_eq!(post(&gateway, &path, &nowhere).status, 422);
    let notice = admin.request();
    assert_eq!(notice.flags, EVENT);
    assert_ne!(notice.guid, [0; 16]);
    assert_eq!(notice.json()["eventName"], "service_error");
    player.expect_no_reply();
}

#[test]
fn an_invalidated_session_ends_with_4001_without_a_way_back() {
    let gateway = setup("").with_notices().start();
    let session = Uuid::new_v4();
    let claims = Claims::default().session(session);
    let mut client = gateway.client_of(&claims);
    let early = client.event();
    assert_eq!(early["eventName"], "connect.session-token");
    let notice = json!({
        "eventName": "session.invalidated", "sessionIds": [session.to_string()], "reason": "AdminAction",
    });
    assert_eq!(post(&gateway, "/bus/session.invalidated", &notice).status, 202);
    let (code, reason) = loop {
        match client.socket.read().expect("there is a close frame") {
            Message::Close(Some(frame)) => break (u16::from(frame.code), frame.reason.to_string()),
            Message::Ping(_) | Message::Pong(_) => {}
            other => panic!("nothing is said before it: {other:?}"),
        }
    };
    assert_eq!((code, &*reason), (4001, "Session invalidated: AdminAction"));
    assert_eq!(Client::try_connect(gateway.public(), &claims.sign()).err(), Some(401));
    let early = early["token"].as_str().expect("text");
    assert_eq!(Client::try_resume(gateway.public(), early).err(), Some(401));
}

#[test]
fn the_answer_to_an_rpc_is_published_where_the_rpc_said() {
    let gateway = setup("").start();
    let mut stream = dial(gateway.internal());
    let request = format!(
        "GET /bus?topic=game.answers HTTP/1.1\r\nHost: i\r\nX-Service-Token: {TOKEN}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).expect("the gateway reads");
    stream.set_read_timeout(Some(SOON)).expect("a legal time-out");
    let mut lines = BufReader::new(stream).lines();
    let mut line = |wanted: &str| {
        let found = lines.find_map(|line| {
            let line = line.expect("the stream goes on");
            line.strip_prefix(wanted).map(str::to_owned)
        });
        found.unwrap_or_else(|| panic!("the stream ended before {wanted:?}"))
    };
    line("content-type: text/event-stream");
    let session = Uuid::new_v4();
    let mut client = gateway.client_of(&Claims::default().session(session));
    let service = Uuid::new_v4();
    let rpc = json!({
        "clientId": session.to_string(), "serviceName": "game",
        "serviceGuid": service.to_string(), "messageId": -2,
        "payload": "e30=", "flags": 8, "channel": 5, "responseChannel": "game.answers",
    });
    assert_eq!(post(&gateway, "/events/client-rpc", &rpc).status, 200);
    let asked = client.request();
    assert_eq!((asked.flags, asked.channel, asked.sequence), (0x01, 5, 0));
    assert_eq!((asked.guid, asked.id), (guid(&service.to_string()), u64::MAX - 1));
    assert_eq!(asked.payload, b"{}");
    let told = asked.answer(53, "{\"answer\":2}");
    let mut stranger = gateway.client();
    stranger.send_message(Message::binary(asked.answer(0, "{}").encode()));
    assert_eq!(stranger.reply().code, 30, "it was not asked");
    client.send_message(Message::binary(told.encode()));
    assert_eq!(line("event: "), "game.answers");
    let published: Value = serde_json::from_str(&line("data: ")).expect("JSON");
    assert_eq!(published["clientId"], json!(session.to_string()));
    assert_eq!((&published["messageId"], &published["responseCode"]), (&json!(-2), &json!(53)));
    assert_eq!(published["payload"], "eyJhbnN3ZXIiOjJ9");
    client.send_message(Message::binary(told.encode()));
    assert_eq!(client.reply().code, 30, "it has been answered");
}
