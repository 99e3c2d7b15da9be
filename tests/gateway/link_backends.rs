//! Links: the test is the backend, message by message, as `docs/LINK.md` has it.

use std::time::Instant;

use serde_json::json;
use tungstenite::Message;

use crate::gateway_process::folder::Folder;
use crate::gateway_process::token::Claims;
use crate::harness::client::Client;
use crate::harness::frames::{EVENT, META, Request, guid};
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::link_backend::{
    BackendLink, CLOSE, CREDIT, DATA, GOAWAY, HELLO, LinkBackend, LinkMessage, OPEN,
};

/// One client, one link, one session open on it.
struct Scene {
    gateway: Gateway,
    backend: LinkBackend,
    link: BackendLink,
    client: Client,
    session: u128,
    echo: Request,
}

fn scene(settings: &str) -> Scene {
    scene_with(settings, 32)
}

fn scene_with(settings: &str, credit: u32) -> Scene {
    let backend = LinkBackend::listen();
    let gateway = Setup::new(backend.service("/demo/echo /demo/other", settings)).start();
    let mut link = backend.link_with(credit, 65_536);
    let mut client = gateway.client();
    let echo = Request::to(client.service("/demo/echo"));
    let session = session_of(&client);
    client.send(&echo.clone().id(0xf1).payload("\"first\""));
    let open = link.expect(OPEN);
    assert_eq!(open.session, session);
    let (call, request) = link.call();
    link.answer(&call, &request.answer(0, "\"open\""));
    assert_eq!(client.reply(), request.answer(0, "\"open\""));
    Scene { gateway, backend, link, client, session, echo }
}

fn session_of(client: &Client) -> u128 {
    u128::from_be_bytes(guid(client.manifest["sessionId"].as_str().expect("text")))
}

#[test]
fn the_upgrade_offers_only_the_protocol_and_presents_the_token() {
    let backend = LinkBackend::listen();
    let folder = Folder::new();
    let file = folder.path().join("token");
    std::fs::write(&file, "the-secret\n").expect("the folder is writable");
    let settings = format!("token_file = {file:?}");
    let _gateway = Setup::new(backend.service("/demo/echo GET:/demo/state", &settings)).start();
    let mut link = backend.accept();
    let header = |name: &str| link.upgrade.headers().get(name).and_then(|v| v.to_str().ok());
    assert_eq!(link.upgrade.uri().path(), "/corelane-link");
    assert_eq!(header("X-Service-Token"), Some("the-secret"));
    assert_eq!(header("Sec-WebSocket-Protocol"), Some("corelane-link.1"));
    assert_eq!(header("Sec-WebSocket-Extensions"), None);
    let hello = link.expect(HELLO);
    assert_eq!((hello.endpoint, hello.tag, hello.session), (0xffff, 0, 0));
    let hello = hello.json();
    assert_eq!(hello["versions"], json!([1]));
    assert_eq!(hello["service"], "demo");
    assert_eq!(hello["endpoints"], json!(["/demo/echo", "GET:/demo/state"]));
    assert_eq!(hello["shard"], 0);
    assert!(hello["credit"]["messages"].as_u64() >= Some(1));
}

#[test]
fn a_reload_announces_new_endpoints_behind_the_old_ones() {
    let backend = LinkBackend::listen();
    let mut gateway = Setup::new(backend.service("/demo/echo", "")).start();
    let mut link = backend.link();
    gateway.reload(backend.service("/demo/new /demo/echo", ""));
    let hello = link.expect(HELLO).json();
    assert_eq!(hello["endpoints"], json!(["/demo/echo", "/demo/new"]));
    let mut client = gateway.client();
    client.send(&Request::to(client.service("/demo/new")));
    link.expect(OPEN);
    assert_eq!(link.call().0.endpoint, 1);
}

#[test]
fn a_refused_link_is_dialled_again_after_pauses_that_grow() {
    let backend = LinkBackend::listen();
    let gateway = Setup::new(backend.service("/demo/echo", "")).start();
    let started = Instant::now();
    backend.refuse();
    let mut pauses = Vec::new();
    for _ in 0..3 {
        let before = Instant::now();
        backend.refuse();
        pauses.push(before.elapsed());
    }
    assert!(started.elapsed().as_millis() >= 50 + 100 + 200, "{pauses:?}");
    let mut client = gateway.client();
    assert_eq!(client.call(&Request::to(client.service("/demo/echo"))).code, 60, "no link");
    let _link = backend.link();
}

#[test]
fn a_session_is_introduced_before_its_first_data_and_taken_back_when_it_ends() {
    let backend = LinkBackend::listen();
    let gateway = Setup::new(backend.service("/demo/echo /demo/other", "")).start();
    let mut link = backend.link();
    let claims = Claims::default().with("sub", json!("anna"));
    let mut client = gateway.client_of(&claims);
    let peer = client.socket.get_ref().local_addr().expect("it is connected").to_string();
    let other = Request::to(client.service("/demo/other")).channel(9).payload("\"x\"");
    client.send(&other);
    let open = link.expect(OPEN);
    let who = open.json();
    assert_eq!(open.session, session_of(&client));
    assert_eq!(who["account"], "anna");
    assert_eq!(who["roles"], json!(["user"]));
    assert_eq!(who["tenant"], "default");
    assert_eq!(who["peer"], json!(peer));
    let (call, request) = link.call();
    assert_eq!((call.endpoint, call.session), (1, open.session), "the second of hello's list");
    assert_eq!(request, other, "the frame is the client's own");
    link.answer(&call, &request.answer(0, "\"y\""));
    assert_eq!(client.reply(), other.answer(0, "\"y\""));
    client.leave();
    let close = link.expect(CLOSE);
    assert_eq!(close.session, open.session);
    assert!(close.json()["reason"].is_string());
}

#[test]
fn answers_leave_in_the_order_of_their_channel() {
    let mut scene = scene("");
    let ids = [(1, 1), (1, 2), (2, 3), (1, 4)];
    for (channel, id) in ids {
        scene.client.send(&scene.echo.clone().channel(channel).id(id));
    }
    let calls: Vec<_> = ids.iter().map(|_| scene.link.call()).collect();
    for at in [3, 2, 1] {
        let (call, request) = &calls[at];
        scene.link.answer(call, &request.answer(0, format!("{}", request.id)));
    }
    assert_eq!(scene.client.reply().id, 3, "another channel waits for nobody");
    scene.client.expect_no_reply();
    let (call, request) = &calls[0];
    scene.link.answer(call, &request.answer(51, ""));
    let replies: Vec<_> = (0..3).map(|_| scene.client.reply()).collect();
    let seen: Vec<_> = replies.iter().map(|r| (r.id, r.code, r.payload.as_slice())).collect();
    assert_eq!(seen, [(1, 51, &b""[..]), (2, 0, &b"2"[..]), (4, 0, &b"4"[..])]);
}

#[test]
fn calls_without_credit_wait_until_an_answer_gives_it_back() {
    let mut scene = scene_with("", 1);
    for id in 1..=3 {
        scene.client.send(&scene.echo.clone().channel(id as u16).id(id));
    }
    for id in 1..=3 {
        let (call, request) = scene.link.call();
        assert_eq!(request.id, id);
        // The gateway answers this one itself, after it has read the calls before it.
        scene.client.expect_no_reply();
        scene.link.assert_quiet("the window is one message");
        scene.link.answer(&call, &request.answer(0, "{}"));
        assert_eq!(scene.client.reply().id, id);
    }
}

#[test]
fn event_requests_take_credit_until_the_backend_gives_it_back() {
    let mut scene = scene_with("", 1);
    let note = scene.echo.clone().flags(EVENT).id(1).payload("\"note\"");
    scene.client.send(&note);
    let data = scene.link.expect(DATA);
    assert_eq!((data.tag, Request::decode(&data.body)), (0, note));
    scene.client.send(&scene.echo.clone().id(2));
    scene.client.expect_no_reply();
    scene.link.assert_quiet("there is no credit");
    let credit = json!({"messages": 1, "bytes": data.body.len()}).to_string();
    scene.link.send(&LinkMessage::new(CREDIT, 0, scene.session, credit));
    let (call, request) = scene.link.call();
    assert_eq!(request.id, 2);
    scene.link.answer(&call, &request.answer(0, "{}"));
    assert_eq!(scene.client.reply().id, 2);
}

#[test]
fn meta_requests_arrive_as_calls() {
    let mut scene = scene("");
    let meta = scene.echo.clone().flags(META).channel(3).payload("");
    scene.client.send(&meta);
    let (call, request) = scene.link.call();
    assert_eq!((call.endpoint, &request), (0, &meta));
    scene.link.answer(&call, &request.answer(0, "{\"metaType\":\"full-schema\"}"));
    assert_eq!(scene.client.reply(), meta.answer(0, "{\"metaType\":\"full-schema\"}"));
}

#[test]
fn answers_to_nothing_are_dropped_and_counted() {
    let mut scene = scene("");
    scene.client.send(&scene.echo.clone().id(1));
    let (call, request) = scene.link.call();
    let reply = request.answer(0, "{}");
    let stray = LinkMessage { tag: call.tag ^ 0x5555, ..call.clone() };
    scene.link.answer(&stray, &reply);
    let foreign = LinkMessage { session: call.session ^ 1, ..call.clone() };
    scene.link.answer(&foreign, &reply);
    scene.gateway.await_shed("unknown_tag", 2);
    scene.link.answer(&call, &reply);
    assert_eq!(scene.client.reply(), reply);
    scene.link.answer(&call, &reply);
    scene.gateway.await_shed("unknown_tag", 3);
    scene.client.expect_no_reply();
}

#[test]
fn answers_that_break_the_rules_reach_the_client_as_60() {
    let mut scene = scene("");
    type Build = fn(&Request) -> Vec<u8>;
    let bad: [Build; 4] = [
        |request| request.answer(12, "").encode(),
        |request| request.answer(70, "").encode(),
        |request| request.answer(0, "").encode()[..15].to_vec(),
        |request| request.encode(),
    ];
    for (id, build) in (1..).zip(bad) {
        scene.client.send(&scene.echo.clone().id(id));
        let (call, request) = scene.link.call();
        let data = LinkMessage::new(DATA, call.tag, call.session, build(&request));
        scene.link.send(&data);
        assert_eq!(scene.client.reply(), request.answer(60, ""), "answer {id}");
    }
    scene.client.send(&scene.echo.clone().id(9));
    let (call, request) = scene.link.call();
    scene.link.answer(&call, &request.answer(53, "a payload beside an error"));
    assert_eq!(scene.client.reply(), request.answer(53, ""));
}

#[test]
fn a_call_that_is_not_answered_in_time_is_answered_60() {
    let mut scene = scene("call_timeout = \"500ms\"");
    scene.client.send(&scene.echo.clone().id(1));
    let (call, request) = scene.link.call();
    assert_eq!(scene.client.reply(), request.answer(60, ""));
    assert_eq!(scene.gateway.shed("call_timed_out"), 1);
    scene.link.answer(&call, &request.answer(0, "too late"));
    scene.client.send(&scene.echo.clone().id(2));
    let (call, request) = scene.link.call();
    scene.link.answer(&call, &request.answer(0, "in time"));
    assert_eq!(scene.client.reply().payload, b"in time");
    scene.client.expect_no_reply();
}

#[test]
fn a_session_that_the_backend_forgot_opens_again_with_its_next_call() {
    let mut scene = scene("");
    let reason = json!({"reason": "forgotten"}).to_string();
    scene.link.send(&LinkMessage::new(CLOSE, 0, scene.session, reason));
    scene.link.push(scene.session, &Request::to([0; 16]).flags(EVENT));
    scene.link.assert_quiet("the session is forgotten");
    assert_eq!(scene.gateway.shed("push_without_session"), 1);
    scene.client.send(&scene.echo.clone().id(1));
    assert_eq!(scene.link.expect(OPEN).session, scene.session);
    let (call, request) = scene.link.call();
    scene.link.answer(&call, &request.answer(0, "{}"));
    assert_eq!(scene.client.reply().code, 0);
    scene.client.expect_no_reply();
}

#[test]
fn events_are_pushed_to_their_session_and_credit_comes_back() {
    let mut scene = scene("");
    let tick = Request::to([0; 16]).flags(EVENT).payload("{\"eventName\":\"demo.tick\"}");
    let mut given = 0;
    for id in 1..=100 {
        let push = tick.clone().id(id);
        scene.link.push(scene.session, &push);
        assert_eq!(scene.client.request(), push);
        while given + 24 <= id {
            let credit = scene.link.expect(CREDIT);
            assert_eq!(credit.session, scene.session);
            given += credit.json()["messages"].as_u64().expect("a number");
        }
    }
    assert_eq!(scene.gateway.shed("push_without_session"), 0);
}

#[test]
fn pushes_to_nobody_or_of_the_wrong_kind_are_dropped_and_counted() {
    let mut scene = scene("");
    let tick = Request::to([0; 16]).flags(EVENT);
    scene.link.push(scene.session ^ 1, &tick);
    scene.link.push(scene.session, &tick.clone().flags(0));
    scene.link.push(scene.session, &tick.clone().flags(0x20));
    let short = LinkMessage::new(DATA, 0, scene.session, vec![0x10; 30]);
    scene.link.send(&short);
    scene.gateway.await_shed("push_without_session", 4);
    scene.link.push(scene.session, &tick);
    assert_eq!(scene.client.request(), tick);
    scene.client.expect_no_reply();
}

#[test]
fn the_answer_to_an_rpc_comes_back_as_untagged_data_once() {
    let mut scene = scene("");
    let rpc = Request::to([0; 16]).flags(0x01).channel(0).id(0x2b).payload("{\"ask\":1}");
    scene.link.push(scene.session, &rpc);
    assert_eq!(scene.client.request(), rpc);
    let told = rpc.answer(0, "{\"told\":1}");
    scene.client.send_message(Message::binary(told.encode()));
    let data = loop {
        let message = scene.link.next();
        if message.kind != CREDIT {
            break message;
        }
    };
    assert_eq!((data.kind, data.tag, data.endpoint), (DATA, 0, 0xffff));
    assert_eq!((data.session, data.body), (scene.session, told.encode()));
    scene.client.send_message(Message::binary(told.encode()));
    assert_eq!(scene.client.reply().code, 30, "it has been answered");
}

#[test]
fn a_backend_that_goes_away_is_replaced_without_a_failed_call() {
    let mut scene = scene("");
    scene.client.send(&scene.echo.clone().id(1).channel(7));
    let (running, first) = scene.link.call();
    let leave = json!({"deadlineMs": 30_000}).to_string();
    scene.link.send(&LinkMessage::new(GOAWAY, 0, 0, leave));
    scene.link.assert_quiet("goaway wants no answer");
    // An open session may go on using this link.
    scene.link.push(scene.session, &Request::to([0; 16]).flags(EVENT));
    assert_eq!(scene.client.request().flags, EVENT);
    scene.client.send(&scene.echo.clone().id(2).channel(8));
    let (call, request) = scene.link.call();
    scene.link.answer(&call, &request.answer(0, "still here"));
    assert_eq!(scene.client.reply().payload, b"still here");
    scene.link.answer(&running, &first.answer(0, "the last one"));
    assert_eq!(scene.client.reply().payload, b"the last one");

    let mut next = scene.backend.link();
    let mut other = scene.gateway.client();
    assert_eq!(other.call(&scene.echo).code, 30, "GUIDs are a session's own");
    other.send(&Request::to(other.service("/demo/echo")));
    assert_eq!(next.expect(OPEN).session, session_of(&other), "new sessions go to the new link");
    let (call, request) = next.call();
    next.answer(&call, &request.answer(0, "{}"));
    assert_eq!(other.reply().code, 0);
    scene.link.socket.close(None).expect("the link stands");
}

#[test]
fn calls_of_a_lost_link_are_answered_60_and_the_session_opens_on_the_next() {
    let mut scene = scene("");
    for id in 1..=2 {
        scene.client.send(&scene.echo.clone().id(id));
        scene.link.call();
    }
    scene.link.cut();
    for id in 1..=2 {
        let reply = scene.client.reply();
        assert_eq!((reply.id, reply.code), (id, 60));
    }
    let mut link = scene.backend.link();
    scene.client.send(&scene.echo.clone().id(3));
    assert_eq!(link.expect(OPEN).session, scene.session);
    let (call, request) = link.call();
    link.answer(&call, &request.answer(0, "{}"));
    assert_eq!(scene.client.reply().code, 0);
    scene.client.expect_no_reply();
}

#[test]
fn messages_that_break_the_protocol_close_the_link_with_1002() {
    let prefix = |kind: u8, flags: u8| {
        let mut bytes = LinkMessage::new(kind, 0, 0, "{}").encode();
        bytes[1] = flags;
        Message::binary(bytes)
    };
    let broken = [
        ("text", Message::text("hello")),
        ("shorter than its prefix", Message::binary(vec![1; 23])),
        ("unknown kind", prefix(9, 0)),
        ("open from a backend", prefix(OPEN, 0)),
        ("undefined flag", prefix(CREDIT, 0x80)),
        ("no JSON", Message::binary(LinkMessage::new(CREDIT, 0, 0, "{").encode())),
        ("no member", prefix(HELLO, 0)),
    ];
    let backend = LinkBackend::listen();
    let _gateway = Setup::new(backend.service("/demo/echo", "")).start();
    for (what, message) in broken {
        let mut link = backend.link();
        link.send_message(message);
        assert_eq!(link.close_code(what), 1002, "{what}");
    }
    let mut link = backend.accept();
    link.expect(HELLO);
    link.push(1, &Request::to([0; 16]).flags(EVENT));
    assert_eq!(link.close_code("data before hello"), 1002);
    let mut link = backend.accept();
    link.expect(HELLO);
    let hello = json!({"version": 2, "credit": {"messages": 1, "bytes": 1}}).to_string();
    link.send(&LinkMessage::new(HELLO, 0, 0, hello));
    assert_eq!(link.close_code("no version in common"), 1008);
}

#[test]
fn a_link_over_a_unix_socket_works_like_any_other() {
    let folder = Folder::new();
    let file = folder.path().join("link.sock");
    let backend = LinkBackend::listen_unix(&file);
    let gateway = Setup::new(backend.service("/demo/echo", "")).start();
    let mut link = backend.link();
    assert_eq!(link.upgrade.headers()["host"], "localhost");
    let mut client = gateway.client();
    let echo = Request::to(client.service("/demo/echo"));
    client.send(&echo);
    link.expect(OPEN);
    let (call, request) = link.call();
    link.answer(&call, &request.answer(0, "over a file"));
    assert_eq!(client.reply().payload, b"over a file");
}
