//! Messages of one session, and what the gateway itself answers to them.

use std::io::Write;

use serde_json::json;
use tungstenite::Message;

use crate::harness::frames::{BROADCAST, CLIENT, EVENT, Guid, META, Reply, Request};
use crate::harness::gateway::Setup;
use crate::harness::http_backend::{Answer, HttpBackend};

const NOBODY: Guid = [0x77; 16];

#[test]
fn a_session_gets_its_manifest_and_calls_what_it_names() {
    let backend = HttpBackend::start(|asked| Answer::ok(&asked.body));
    let gateway = Setup::new(backend.service("/demo/echo GET:/demo/state", "")).start();
    let mut client = gateway.client();
    let apis = client.manifest["availableApis"].as_array().expect("a list");
    let named: Vec<_> = apis.iter().map(|api| (&api["service"], &api["endpoint"])).collect();
    let (echo, state) = (json!("/demo/echo"), json!("/demo/state"));
    let demo = json!("demo");
    assert_eq!(named, [(&demo, &echo), (&demo, &state)]);
    assert_eq!(client.manifest["eventName"], "connect.capability-manifest");
    assert_eq!(client.manifest["reason"], "session_connected");
    assert_eq!(client.manifest.get("peerGuid"), None, "the mode is External");

    let request = Request::to(client.service("/demo/echo")).channel(3).payload("{\"a\":1}");
    let reply = client.call(&request);
    assert_eq!(reply, request.answer(0, "{\"a\":1}"));
    client.leave();
}

#[test]
fn text_is_refused_with_14_and_counted_from_one() {
    let gateway = Setup::new("").start();
    let mut client = gateway.client();
    for sequence in 1..=3 {
        client.send_message(Message::text("{\"hello\":\"world\"}"));
        let reply = client.reply();
        let Reply { flags, channel, code, .. } = reply;
        assert_eq!((flags, channel, reply.sequence, code), (0x40, 0, sequence, 14));
        assert!(reply.payload.is_empty());
    }
    assert_eq!(gateway.metric("corelane_responses_total", "code=\"14\""), 3);
}

#[test]
fn what_cannot_be_routed_is_answered_with_its_code() {
    let backend = HttpBackend::start(|_| Answer::ok("{}"));
    let gateway = Setup::new(backend.service("/demo/echo", ""))
        .set("session.max_channel_number", "10")
        .start();
    let mut client = gateway.client();
    let echo = client.service("/demo/echo");
    let cases = [
        ("unknown GUID", Request::to(NOBODY), 30),
        ("unknown GUID on a high channel", Request::to(NOBODY).channel(11), 30),
        ("empty payload", Request::to(echo).payload(""), 10),
        ("channel above the maximum", Request::to(echo).channel(11), 13),
        ("unknown peer on a high channel", Request::to(NOBODY).flags(CLIENT).channel(11), 13),
        ("unknown peer", Request::to(NOBODY).flags(CLIENT), 31),
        ("nobody", Request::to([0; 16]).flags(CLIENT), 31),
        ("everybody without the flag for clients", Request::to(BROADCAST), 10),
        ("broadcast in External mode", Request::to(BROADCAST).flags(CLIENT), 40),
        ("error to an event", Request::to(NOBODY).flags(EVENT), 30),
        ("compressed bit is not echoed", Request::to(NOBODY).flags(0x04), 30),
        ("meta of everybody", Request::to(BROADCAST).flags(META).channel(0), 30),
        ("meta of nobody", Request::to([0; 16]).flags(META).channel(0), 30),
        ("meta of an unknown service", Request::to(NOBODY).flags(META).channel(0), 30),
    ];
    for (what, request, code) in cases {
        assert_eq!(client.call(&request), request.answer(code, ""), "{what}");
    }
    let unmatched = Request::to([0; 16]).answer(0, "{}");
    client.send_message(Message::binary(unmatched.encode()));
    assert_eq!(client.reply(), Reply { code: 30, payload: Vec::new(), ..unmatched });
    assert_eq!(gateway.shed("unmatched_answer"), 1);
    client.expect_no_reply();
    assert!(backend.was_not_asked());
}

#[test]
fn meta_requests_ask_the_backend_for_its_four_descriptions() {
    let backend = HttpBackend::start(|asked| Answer::ok(format!("{:?}", asked.path)));
    let gateway = Setup::new(backend.service("/demo/echo", "")).start();
    let mut client = gateway.client();
    let echo = client.service("/demo/echo");
    let kinds = [
        (0, "/meta/info"),
        (1, "/meta/request-schema"),
        (2, "/meta/response-schema"),
        (3, "/meta/schema"),
        (9, "/meta/info"),
    ];
    for (channel, suffix) in kinds {
        let request = Request::to(echo).flags(META).channel(channel).payload("");
        let reply = client.call(&request);
        assert_eq!(reply, request.answer(0, format!("\"/demo/echo{suffix}\"")));
        let asked = backend.asked();
        assert_eq!((asked.method.as_str(), asked.body.len()), ("GET", 0));
    }
    let request = Request::to(echo).flags(META | EVENT).channel(0).payload("");
    assert_eq!(client.call(&request).code, 0, "meta is answered even if sent as an event");
}

#[test]
fn an_event_request_reaches_its_backend_and_is_not_answered() {
    let backend = HttpBackend::start(|_| Answer::ok("{\"unwanted\":true}"));
    let gateway = Setup::new(backend.service("/demo/echo", "")).start();
    let mut client = gateway.client();
    let echo = client.service("/demo/echo");
    client.send(&Request::to(echo).flags(EVENT).payload("{\"note\":1}"));
    assert_eq!(backend.asked().body, b"{\"note\":1}");
    // Of the same channel, so it leaves after whatever the event is answered.
    let request = Request::to(echo).id(5);
    assert_eq!(client.call(&request).id, 5);
    client.expect_no_reply();
}

#[test]
fn a_message_that_is_too_long_is_answered_11_and_the_next_one_passes() {
    let backend = HttpBackend::start(|asked| Answer::ok(&asked.body));
    let gateway = Setup::new(backend.service("/demo/echo", ""))
        .set("session.buffer_size", "4KiB")
        .set("limits.message_bytes_hard", "64KiB")
        .start();
    let mut client = gateway.client();
    let echo = client.service("/demo/echo");
    let longest = Request::to(echo).payload(vec![b'x'; 4096 - 31]);
    assert_eq!(client.call(&longest).payload.len(), 4096 - 31);
    for len in [4097, 10_000, 65_536] {
        let long = Request::to(echo).id(len as u64).payload(vec![b'x'; len - 31]);
        assert_eq!(client.call(&long), long.answer(11, ""), "{len} bytes");
        assert_eq!(client.call(&longest).code, 0, "after {len} bytes");
    }
    assert_eq!(gateway.shed("message_too_long"), 3);
}

#[test]
fn a_message_beyond_the_hard_limit_closes_with_1009() {
    let gateway = Setup::new("").set("limits.message_bytes_hard", "64KiB").start();
    let mut client = gateway.client();
    let mut frame = vec![0x82, 0xff];
    frame.extend(65_537_u64.to_be_bytes());
    frame.extend([0; 4]);
    frame.extend(Request::to(NOBODY).encode());
    client.socket.get_mut().write_all(&frame).expect("the connection is open");
    assert_eq!(client.close_reason().0, 1009);
}

#[test]
fn frames_shorter_than_their_header_are_forgiven_ten_times_a_minute() {
    let gateway = Setup::new("").start();
    let mut client = gateway.client();
    let shorts: [&[u8]; 10] =
        [b"", b"a", &[0; 30], &[0x40; 15], &[0x40], &[0x10; 30], b"b", b"c", b"d", b"e"];
    for short in shorts {
        client.send_message(Message::binary(short.to_vec()));
    }
    client.expect_no_reply();
    client.send_message(Message::binary(b"f".to_vec()));
    assert_eq!(client.close_reason().0, 1002);
    assert_eq!(gateway.shed("short_frame"), 10);
}

#[test]
fn messages_beyond_the_rate_are_answered_12_and_stubborn_clients_are_closed_with_4003() {
    let backend = HttpBackend::start(|_| Answer::ok("{}"));
    let gateway = Setup::new(backend.service("/demo/echo", ""))
        .set("limits.messages_per_window", "3")
        .set("limits.rate_limit_window_minutes", "60")
        .start();
    let mut client = gateway.client();
    let request = Request::to(client.service("/demo/echo"));
    let codes: Vec<_> = (0..9).map(|_| client.call(&request).code).collect();
    assert_eq!(codes, [0, 0, 0, 12, 12, 12, 12, 12, 12], "three pass, twice as many are refused");
    client.send(&request);
    assert_eq!(client.close_reason().0, 4003);
    assert_eq!(gateway.shed("rate_limited"), 6);
    let mut other = gateway.client();
    assert_eq!(other.call(&request.clone()).code, 30, "each session has a rate of its own");
}

#[test]
fn a_broadcast_reaches_everybody_else_on_every_shard_and_is_not_acknowledged() {
    let gateway = Setup::new("").shards(2).set("session.connection_mode", "Relayed").start();
    let mut sender = gateway.client_on(0);
    let mut near = gateway.client_on(0);
    let mut far = gateway.client_on(1);
    let broadcast = Request::to(BROADCAST).flags(CLIENT).payload("to all");
    sender.send(&broadcast);
    assert_eq!(near.request(), broadcast);
    assert_eq!(far.request(), broadcast);
    sender.expect_no_reply();
}

#[test]
fn the_copies_of_a_broadcast_that_a_full_outbox_loses_are_counted() {
    let gateway = Setup::new("")
        .set("session.connection_mode", "Relayed")
        .set("limits.messages_per_window", "0")
        .set("limits.outbox_bytes_max", "64KiB")
        .set("limits.write_stall", "1m")
        .start();
    let (mut sender, mut reader, slow) = (gateway.client(), gateway.client(), gateway.client());
    let broadcast = Request::to(BROADCAST).flags(CLIENT).payload(vec![b'b'; 32_768]);
    gateway.wait_until("the outbox to fill", crate::harness::PATIENCE, || {
        sender.send(&broadcast);
        assert!(reader.request() == broadcast, "the others get theirs");
        gateway.shed("broadcast_outbox_full") > 0
    });
    sender.expect_no_reply();
    drop(slow);
}
