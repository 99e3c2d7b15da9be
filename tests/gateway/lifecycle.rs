//! Sessions and the process over time: takeover, silence, reload, shutdown.

use std::io::Write;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;
use tungstenite::Message;

use crate::gateway_process::http;
use crate::gateway_process::token::Claims;
use crate::harness::PATIENCE;
use crate::harness::client::Client;
use crate::harness::frames::Request;
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::http_backend::{Answer, HttpBackend, service};
use crate::harness::raw::{dial, exchange, read_head, upgrade};

/// What a conforming client does after each close code: everything but a good-bye of its own, an
/// expired session and a replacement is tried again.
fn reconnects(code: u16) -> bool {
    !matches!(code, 1000 | 4001 | 4002)
}

#[test]
fn two_clients_with_one_token_come_to_rest_after_one_takeover() {
    for shards in [1, 2] {
        let gateway = Setup::new("").shards(shards).start();
        let claims = Claims::default();
        let mut first = gateway.client_of(&claims);
        let mut second = gateway.client_of(&claims);
        let (code, reason) = first.close_reason();
        assert_eq!((code, reason.as_str()), (4002, "New connection established"));
        assert!(!reconnects(code), "or they would replace each other for ever");
        second.expect_no_reply();
        assert_eq!(gateway.metric("corelane_connections_closed_total", "code=\"4002\""), 1);
        assert_eq!(gateway.metric("corelane_sessions", ""), 1);
        second.leave();
        // The session has left the directory with its last owner, not with the first.
        gateway.await_metric("corelane_sessions", "", 0);
        gateway.client_of(&claims).leave();
        assert_eq!(gateway.metric("corelane_connections_closed_total", "code=\"4002\""), 1);
    }
}

#[test]
fn a_silent_client_is_pinged_and_dropped_when_no_pong_comes() {
    let gateway = Setup::new("")
        .set("session.websocket_keep_alive_interval_seconds", "1")
        .set("session.pong_timeout", "1s")
        .start();
    let mut lively = gateway.client();
    let mut silent = dial(gateway.public());
    let token = format!("Authorization: Bearer {}", gateway.token());
    silent.write_all(upgrade("/connect", &[&token]).as_bytes()).expect("the gateway reads");
    assert!(read_head(&mut silent).starts_with("HTTP/1.1 101 "));
    gateway.await_metric("corelane_sessions", "", 2);
    let mut pings = 0;
    let until = Instant::now() + PATIENCE;
    while pings < 4 {
        // tungstenite answers the Pings that it reads.
        if let Ok(Message::Ping(_)) = lively.socket.read() {
            lively.socket.flush().expect("the connection is open");
            pings += 1;
        }
        assert!(Instant::now() < until);
    }
    gateway.await_metric("corelane_sessions", "", 1);
    assert_eq!(gateway.metric("corelane_connections_closed_total", "code=\"1006\""), 1);
    lively.expect_no_reply();
}

#[test]
fn clients_that_vanish_leave_nothing_behind() {
    let gateway = Setup::new("").start();
    let mut half = dial(gateway.public());
    let token = format!("Authorization: Bearer {}", gateway.token());
    half.write_all(upgrade("/connect", &[&token]).as_bytes()).expect("the gateway reads");
    read_head(&mut half);
    half.write_all(&[0x82, 0xfe, 0x10]).expect("the gateway reads");
    let polite = gateway.client();
    let gone = gateway.client();
    gateway.await_metric("corelane_sessions", "", 3);
    drop(half);
    drop(gone);
    polite.leave();
    gateway.await_metric("corelane_sessions", "", 0);
    gateway.await_metric("corelane_connections", "", 0);
    assert_eq!(gateway.metric("corelane_blocks_in_use_bytes", ""), 0);
}

#[test]
fn a_drain_finishes_running_calls_says_1001_and_exits_with_0() {
    let (leave, waits) = channel::<()>();
    let waits = std::sync::Mutex::new(waits);
    let backend = HttpBackend::start(move |asked| {
        if asked.body == b"\"slow\"" {
            let waits = waits.lock().expect("nobody panics with it");
            waits.recv_timeout(PATIENCE).expect("the test gives leave");
        }
        Answer::ok("\"done\"")
    });
    let mut gateway = Setup::new(backend.service("/demo/echo", ""))
        .set("drain.grace", "300ms")
        .set("drain.spread", "300ms")
        .set("drain.calls", "10s")
        .set("drain.deadline", "15s")
        .start();
    let mut idle: Vec<_> = (0..4).map(|_| gateway.client()).collect();
    let mut busy = gateway.client();
    let slow = Request::to(busy.service("/demo/echo")).payload("\"slow\"");
    busy.send(&slow);
    assert_eq!(backend.asked().body, b"\"slow\"");

    gateway.signal(Signal::TERM);
    let readiness = |gateway: &Gateway| {
        http::request(gateway.admin(), "GET", "/readyz").map_or(0, |answer| answer.status)
    };
    gateway.wait_until("readiness to say 503", PATIENCE, || readiness(&gateway) == 503);
    for client in &mut idle {
        assert_eq!(client.close_reason().0, 1001);
    }
    // Its call runs, so this one may stay a little.
    assert!(gateway.ended().is_none());
    leave.send(()).expect("the backend waits");
    assert_eq!(busy.reply(), slow.answer(0, "\"done\""));
    assert_eq!(busy.close_reason().0, 1001);
    assert_eq!(gateway.wait_for_end(PATIENCE).code(), Some(0));
}

#[test]
fn a_draining_session_takes_no_new_call() {
    let (leave, waits) = channel::<()>();
    let waits = std::sync::Mutex::new(waits);
    let backend = HttpBackend::start(move |asked| {
        if asked.body == b"\"slow\"" {
            let waits = waits.lock().expect("nobody panics with it");
            waits.recv_timeout(PATIENCE).expect("the test gives leave");
        }
        Answer::ok("\"done\"")
    });
    let mut gateway = Setup::new(backend.service("/demo/echo", ""))
        // Both on one shard: another shard may learn of the drain a little later.
        .set("shards.count", "1")
        .set("drain.spread", "0s")
        .set("drain.calls", "10s")
        .set("drain.deadline", "15s")
        .start();
    let mut watch = gateway.client();
    let mut busy = gateway.client();
    let slow = Request::to(busy.service("/demo/echo")).channel(1).id(1).payload("\"slow\"");
    busy.send(&slow);
    assert_eq!(backend.asked().body, b"\"slow\"");
    gateway.signal(Signal::TERM);
    assert_eq!(watch.close_reason().0, 1001, "the moment of all sessions has come");
    let late = slow.clone().channel(2).id(2).payload("\"late\"");
    // Even without a spread a session's moment comes within a millisecond of the first one's.
    gateway.wait_until("the session to take no call", PATIENCE, || {
        let answer = busy.call(&late);
        if answer == late.answer(60, "") {
            return true;
        }
        assert_eq!(answer, late.answer(0, "\"done\""));
        assert_eq!(backend.asked().body, b"\"late\"");
        false
    });
    assert_eq!(busy.call(&late), late.answer(60, ""));
    assert!(backend.was_not_asked());
    leave.send(()).expect("the backend waits");
    assert_eq!(busy.reply(), slow.answer(0, "\"done\""));
    assert_eq!(busy.close_reason().0, 1001);
    assert_eq!(gateway.wait_for_end(PATIENCE).code(), Some(0));
}

#[test]
fn calls_that_outlast_the_drain_are_answered_60_before_the_good_bye() {
    let (_leave, waits) = channel::<()>();
    let waits = std::sync::Mutex::new(waits);
    let backend = HttpBackend::start(move |_| {
        let waits = waits.lock().expect("nobody panics with it");
        let _either_way = waits.recv_timeout(PATIENCE);
        Answer::ok("\"much too late\"")
    });
    let mut gateway =
        Setup::new(backend.service("/demo/echo", "")).set("drain.calls", "200ms").start();
    let mut client = gateway.client();
    let slow = Request::to(client.service("/demo/echo"));
    client.send(&slow);
    backend.asked();
    gateway.signal(Signal::TERM);
    assert_eq!(client.reply(), slow.answer(60, ""));
    assert_eq!(client.close_reason().0, 1001);
    assert_eq!(gateway.wait_for_end(PATIENCE).code(), Some(0));
}

#[test]
fn a_drain_refuses_newcomers_and_ends_without_those_who_do_not_answer() {
    let mut gateway = Setup::new("")
        .set("drain.grace", "0s")
        .set("drain.spread", "0s")
        .set("drain.deadline", "3s")
        .set("session.connection_shutdown_timeout_seconds", "1")
        .start();
    let mut mute = gateway.client();
    gateway.signal(Signal::TERM);
    // The first one is told at once and does not answer, so the drain lasts a while.
    assert!(
        matches!(mute.socket.read(), Ok(Message::Close(Some(frame))) if u16::from(frame.code) == 1001)
    );
    assert!(std::net::TcpStream::connect(gateway.public()).is_err(), "nobody listens any more");
    assert_eq!(gateway.wait_for_end(PATIENCE).code(), Some(0));
}

#[test]
fn a_second_signal_ends_at_once_with_1() {
    let mut gateway = Setup::new("").set("drain.grace", "30s").set("drain.deadline", "1m").start();
    let _client = gateway.client();
    gateway.signal(Signal::TERM);
    let ready = |gateway: &Gateway| {
        http::request(gateway.admin(), "GET", "/readyz").is_ok_and(|answer| answer.status == 200)
    };
    gateway.wait_until("the drain to begin", PATIENCE, || !ready(&gateway));
    gateway.client().leave();
    let asked = Instant::now();
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.wait_for_end(PATIENCE).code(), Some(1));
    assert!(asked.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_reload_brings_new_endpoints_and_closes_nothing() {
    let backend = HttpBackend::start(|asked| Answer::ok(&asked.path));
    let mut gateway = Setup::new(backend.service("/demo/echo", "")).shards(2).start();
    let mut sessions = [gateway.client_on(0), gateway.client_on(1)];
    let connection = {
        let echo = Request::to(sessions[0].service("/demo/echo"));
        assert_eq!(sessions[0].call(&echo).code, 0);
        backend.asked().connection
    };
    let before = sessions[0].service("/demo/echo");
    gateway.reload(backend.service("/demo/echo /demo/new", ""));
    for session in &mut sessions {
        session.manifest = session.event();
        assert_eq!(session.manifest["reason"], "capabilities_updated");
        let new = Request::to(session.service("/demo/new"));
        let reply = session.call(&new);
        assert_eq!((reply.code, reply.payload), (0, b"/demo/new".to_vec()));
    }
    assert_eq!(sessions[0].service("/demo/echo"), before, "known endpoints keep their GUID");
    assert_eq!(backend.asked().connection, connection, "connections to backends stay");

    gateway.reload(backend.service("/demo/new", ""));
    for session in &mut sessions {
        session.manifest = session.event();
        let apis = session.manifest["availableApis"].as_array().map(Vec::len);
        assert_eq!(apis, Some(1));
    }
    let gone = Request::to(before);
    assert_eq!(sessions[0].call(&gone).code, 30);
    assert_eq!(gateway.client().manifest["availableApis"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_reload_whose_manifests_fill_the_pool_costs_sessions_and_not_the_gateway() {
    const SESSIONS: usize = 100;
    let mut gateway = Setup::new(service("http://127.0.0.1:9", "/demo/echo", ""))
        .set("shards.block_pool_bytes", "1MiB")
        .start();
    let sessions: Vec<_> = (0..SESSIONS).map(|_| gateway.client()).collect();
    // A manifest of some 20 kB for each.
    let paths: Vec<_> = (0..90).map(|n| format!("/demo/{n}-{}", "x".repeat(60))).collect();
    gateway.reload(service("http://127.0.0.1:9", &paths.join(" "), ""));
    gateway.wait_until("every session has its manifest or is let go", PATIENCE, || {
        let left = gateway.metric("corelane_sessions", "shard=\"0\"");
        left < SESSIONS as u64 && gateway.shed("slow_consumer") == SESSIONS as u64 - left
    });
    drop(sessions);
    gateway.wait_until_empty();
    let apis = gateway.client().manifest["availableApis"].as_array().map(Vec::len);
    assert_eq!(apis, Some(90));
}

#[test]
fn a_reload_can_move_a_service_to_another_backend() {
    let (old, new) =
        (HttpBackend::start(|_| Answer::ok("old")), HttpBackend::start(|_| Answer::ok("new")));
    let mut gateway = Setup::new(old.service("/demo/echo", "")).start();
    let mut client = gateway.client();
    let echo = Request::to(client.service("/demo/echo"));
    assert_eq!(client.call(&echo).payload, b"old");
    gateway.reload(new.service("/demo/echo", ""));
    client.event();
    gateway.wait_until("the new backend to be called", PATIENCE, || {
        let reply = client.call(&echo);
        assert_eq!(reply.code, 0, "no call fails meanwhile");
        reply.payload == b"new"
    });
}

#[test]
fn a_reload_that_is_not_allowed_is_refused_by_name_and_nothing_changes() {
    let backend = HttpBackend::start(|_| Answer::ok("{}"));
    let mut gateway = Setup::new(backend.service("/demo/echo", "")).start();
    let mut client = gateway.client();
    let tables = backend.service("/demo/echo /demo/new", "");
    gateway.reload(format!("{tables}\n[echo]\nenabled = true\n"));
    gateway.await_log("echo.enabled");
    gateway.reload(format!("{tables}\n[sesion]\nbuffer_size = 1\n"));
    gateway.await_log("sesion");
    gateway.reload(service("nonsense://", "/demo/echo", ""));
    gateway.await_log("nonsense://");
    client.expect_no_reply();
    let other = gateway.client();
    assert_eq!(other.manifest["availableApis"], {
        let entry = &other.manifest["availableApis"][0];
        json!([entry])
    });
    let request = upgrade("/echo", &[]);
    assert_eq!(exchange(gateway.public(), request.as_bytes()).status, 404);
    assert!(gateway.ended().is_none());
    // What is allowed still is.
    gateway.reload(tables);
    assert_eq!(client.event()["availableApis"].as_array().map(Vec::len), Some(2));
    gateway.still_runs_for(Duration::from_millis(20));
    Client::connect(gateway.public(), &gateway.token()).leave();
}
