//! Calls to HTTP backends: what is sent, what comes back, and what happens when it does not.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};

use crate::gateway_process::folder::Folder;
use crate::harness::PATIENCE;
use crate::harness::frames::{EVENT, Request};
use crate::harness::gateway::Setup;
use crate::harness::http_backend::{Answer, Asked, HttpBackend, service};

/// A script that waits for leave before it answers requests whose body is `"slow"`, and echoes.
fn slow_on_demand() -> (impl Fn(&Asked) -> Answer + Send + Sync, std::sync::mpsc::Sender<()>) {
    let (leave, waits) = channel::<()>();
    let waits: Mutex<Receiver<()>> = Mutex::new(waits);
    let script = move |asked: &Asked| {
        if asked.body.starts_with(b"\"slow") {
            // The test may be over: then nobody waits for this answer.
            let waits = waits.lock().unwrap_or_else(PoisonError::into_inner);
            let _either_way = waits.recv_timeout(PATIENCE);
        }
        Answer::ok(&asked.body)
    };
    (script, leave)
}

#[test]
fn a_request_has_exactly_the_fields_of_the_protocol() {
    let backend = HttpBackend::start(|_| Answer::ok("{}"));
    let gateway = Setup::new(backend.service("/demo/echo GET:/demo/state", "")).start();
    let mut client = gateway.client();
    let session = client.manifest["sessionId"].as_str().expect("text").to_owned();
    let host = backend.url.strip_prefix("http://").expect("its scheme");

    let echo = Request::to(client.service("/demo/echo")).payload("{\"a\":1}");
    assert_eq!(client.call(&echo).code, 0);
    let asked = backend.asked();
    assert_eq!(
        asked.head,
        format!(
            "POST /demo/echo HTTP/1.1\r\nHost: {host}\r\nAccept: application/json\r\n\
             X-Bannou-Session-Id: {session}\r\nContent-Length: 7\r\n\
             Content-Type: application/json; charset=utf-8"
        )
    );
    assert_eq!(asked.body, b"{\"a\":1}");

    let state = Request::to(client.service("/demo/state")).payload("{\"dropped\":1}");
    assert_eq!(client.call(&state).code, 0);
    assert_eq!(
        backend.asked().head,
        format!(
            "GET /demo/state HTTP/1.1\r\nHost: {host}\r\nAccept: application/json\r\n\
             X-Bannou-Session-Id: {session}"
        )
    );
}

#[test]
fn statuses_become_codes_and_only_success_keeps_its_body() {
    let backend = HttpBackend::start(|asked| {
        let status = String::from_utf8_lossy(&asked.body).parse().expect("a number was sent");
        Answer::status(status, if status == 204 { "" } else { "\"body\"" })
    });
    // 502, 503 and 504 count as failures of the backend.
    let gateway = Setup::new(backend.service("/demo/echo", "breaker_failures = 0")).start();
    let mut client = gateway.client();
    let echo = Request::to(client.service("/demo/echo"));
    let codes = [
        (200, 0),
        (201, 0),
        (202, 0),
        (204, 0),
        (206, 60),
        (302, 60),
        (400, 50),
        (401, 52),
        (402, 60),
        (403, 52),
        (404, 51),
        (405, 60),
        (409, 53),
        (410, 60),
        (422, 60),
        (429, 60),
        (500, 60),
        (503, 60),
    ];
    for (status, code) in codes {
        let request = echo.clone().payload(status.to_string());
        let body = if code == 0 && status != 204 { "\"body\"" } else { "" };
        assert_eq!(client.call(&request), request.answer(code, body), "{status}");
    }
}

#[test]
fn bodies_arrive_whole_however_they_are_framed() {
    let long = vec![b'y'; 100_000];
    let answers = {
        let long = long.clone();
        move |asked: &Asked| match &asked.body[..] {
            b"1" => Answer::ok("short"),
            b"2" => Answer::ok(&long),
            b"3" => Answer::chunked(&[b"one", b"and", b"two"]),
            b"4" => Answer::chunked(&[&long[..70_000], &long[70_000..]]),
            b"5" => Answer::Close(b"HTTP/1.1 200 OK\r\n\r\nuntil the end".to_vec()),
            b"6" => Answer::Keep(
                b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
                    .to_vec(),
            ),
            _ => Answer::ok(""),
        }
    };
    let backend = HttpBackend::start(answers);
    let gateway = Setup::new(backend.service("/demo/echo", "")).start();
    let mut client = gateway.client();
    let echo = Request::to(client.service("/demo/echo"));
    let wanted: [(&str, &[u8]); 7] = [
        ("1", b"short"),
        ("2", &long),
        ("3", b"oneandtwo"),
        ("4", &long),
        ("5", b"until the end"),
        ("6", b"ok"),
        ("7", b""),
    ];
    for (what, body) in wanted {
        let reply = client.call(&echo.clone().payload(what));
        assert_eq!((reply.code, reply.payload.len()), (0, body.len()), "answer {what}");
        assert!(reply.payload == body, "answer {what}");
    }
}

#[test]
fn responses_that_are_too_long_or_make_no_sense_are_answered_60() {
    let backend = HttpBackend::start(|asked| match &asked.body[..] {
        b"announced" => Answer::ok(vec![b'z'; 5000]),
        b"chunked" => Answer::chunked(&[&[b'z'; 3000], &[b'z'; 3000]]),
        b"unending" => Answer::Keep([b"HTTP/1.1 200 OK\r\nX: ".as_slice(), &[b'h'; 9000]].concat()),
        b"nonsense" => Answer::Keep(b"HELLO\r\n\r\n".to_vec()),
        b"two lengths" => Answer::Keep(
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab".to_vec(),
        ),
        b"cut" => Answer::Close(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc".to_vec()),
        b"silent end" => Answer::Close(Vec::new()),
        _ => Answer::ok("fine"),
    });
    let settings = "response_body_bytes_max = \"4KiB\"\nresponse_head_bytes_max = \"1KiB\"\n\
                    breaker_failures = 0";
    let gateway = Setup::new(backend.service("/demo/echo", settings)).start();
    let mut client = gateway.client();
    let echo = Request::to(client.service("/demo/echo"));
    let bad = ["announced", "chunked", "unending", "nonsense", "two lengths", "cut", "silent end"];
    for what in bad {
        assert_eq!(client.call(&echo.clone().payload(what)).code, 60, "{what}");
        assert_eq!(client.call(&echo.clone().payload("good")).payload, b"fine", "after {what}");
    }
    assert_eq!(gateway.shed("backend_body_too_long"), 2);
}

#[test]
fn a_call_that_takes_too_long_is_answered_60_and_its_late_answer_disturbs_nobody() {
    let (script, leave) = slow_on_demand();
    let backend = HttpBackend::start(script);
    let gateway = Setup::new(backend.service("/demo/echo", "call_timeout = \"100ms\"")).start();
    let mut client = gateway.client();
    let echo = Request::to(client.service("/demo/echo"));
    let slow = echo.clone().id(1).payload("\"slow\"");
    assert_eq!(client.call(&slow), slow.answer(60, ""));
    assert_eq!(gateway.shed("call_timed_out"), 1);
    leave.send(()).expect("the backend waits");
    let next = echo.id(2).payload("\"next\"");
    assert_eq!(client.call(&next), next.answer(0, "\"next\""));
    client.expect_no_reply();
    assert_eq!(gateway.shed("call_timed_out"), 1, "one call, one time-out");
}

#[test]
fn an_open_breaker_refuses_at_once_and_closes_after_a_probe_that_succeeds() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let address = free.local_addr().expect("it is bound");
    drop(free);
    let settings = "breaker_failures = 3\nbreaker_open_for = \"200ms\"";
    let gateway = Setup::new(service(&format!("http://{address}"), "/demo/echo", settings)).start();
    let mut client = gateway.client();
    let echo = Request::to(client.service("/demo/echo"));
    for _ in 0..3 {
        assert_eq!(client.call(&echo).code, 60, "nobody listens");
    }
    let before = gateway.shed("breaker_open");
    assert_eq!(client.call(&echo).code, 60);
    assert!(gateway.shed("breaker_open") > before, "the backend is not asked any more");
    let backend = HttpBackend::start_at(address, |_| Answer::ok("back"));
    gateway.wait_until("the probe to succeed", PATIENCE, || client.call(&echo).code == 0);
    let refused = gateway.shed("breaker_open");
    for _ in 0..5 {
        assert_eq!(client.call(&echo).payload, b"back");
    }
    assert_eq!(gateway.shed("breaker_open"), refused);
    assert_eq!(backend.asked().connection, 0);
}

#[test]
fn connections_are_kept_and_one_that_the_backend_ended_meanwhile_is_no_error() {
    let backend = HttpBackend::start(|_| Answer::ok("{}"));
    let gateway =
        Setup::new(backend.service("/demo/echo", "breaker_failures = 1\npool_idle = \"60s\""))
            .start();
    let mut client = gateway.client();
    let echo = Request::to(client.service("/demo/echo"));
    for _ in 0..3 {
        assert_eq!(client.call(&echo).code, 0);
        assert_eq!(backend.asked().connection, 0, "the same connection serves them all");
    }
    gateway.await_upstreams(1);
    backend.end_connection(0);
    gateway.await_upstreams(0);
    assert_eq!(client.call(&echo).code, 0);
    assert_eq!(backend.asked().connection, 1);
    assert_eq!(gateway.shed("breaker_open"), 0);
}

#[test]
fn an_unused_connection_is_closed_after_its_idle_time() {
    let backend = HttpBackend::start(|_| Answer::ok("{}"));
    let gateway = Setup::new(backend.service("/demo/echo", "pool_idle = \"20ms\"")).start();
    let mut client = gateway.client();
    assert_eq!(client.call(&Request::to(client.service("/demo/echo"))).code, 0);
    gateway.await_upstreams(0);
}

/// Answers the first request of each connection and ends the connection at the second, unanswered.
fn ends_at_the_second_request() -> (HttpBackend, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let backend = HttpBackend::start(move |_| match counted.fetch_add(1, Ordering::SeqCst) {
        1 => Answer::Close(Vec::new()),
        _ => Answer::ok("{}"),
    });
    (backend, count)
}

#[test]
fn a_call_is_sent_again_on_a_fresh_connection_only_when_it_is_idempotent() {
    for (path, code, requests) in [("/demo/echo!", 0, 3), ("/demo/echo", 60, 2)] {
        let (backend, count) = ends_at_the_second_request();
        let gateway = Setup::new(backend.service(path, "")).start();
        let mut client = gateway.client();
        let echo = Request::to(client.service("/demo/echo"));
        assert_eq!(client.call(&echo).code, 0);
        assert_eq!(client.call(&echo).code, code, "{path}");
        assert_eq!(count.load(Ordering::SeqCst), requests, "{path}");
    }
}

#[test]
fn calls_of_a_channel_run_one_by_one_while_other_channels_go_on() {
    let (script, leave) = slow_on_demand();
    let backend = HttpBackend::start(script);
    let gateway = Setup::new(backend.service("/demo/echo", "")).start();
    let mut client = gateway.client();
    let echo = Request::to(client.service("/demo/echo"));
    client.send(&echo.clone().channel(1).id(1).payload("\"slow\""));
    client.send(&echo.clone().channel(1).id(2).payload("\"behind it\""));
    client.send(&echo.clone().channel(1).id(3).flags(EVENT).payload("\"an event\""));
    client.send(&echo.clone().channel(1).id(4).payload("\"last\""));
    let other = echo.channel(2).id(5).payload("\"elsewhere\"");
    assert_eq!(client.call(&other), other.answer(0, "\"elsewhere\""));
    // Each came on a connection of its own, so the backend may note them in either order.
    let mut asked: Vec<_> = (0..2).map(|_| backend.asked().body).collect();
    asked.sort();
    assert_eq!(asked, [b"\"elsewhere\"".to_vec(), b"\"slow\"".to_vec()]);
    assert!(backend.was_not_asked(), "the channel's next call waits");
    leave.send(()).expect("the backend waits");
    let ids: Vec<_> = (0..3).map(|_| client.reply().id).collect();
    assert_eq!(ids, [1, 2, 4]);
    let asked: Vec<_> = (0..3).map(|_| backend.asked().body).collect();
    assert_eq!(asked, [b"\"behind it\"".to_vec(), b"\"an event\"".to_vec(), b"\"last\"".to_vec()]);
}

#[test]
fn calls_that_find_the_line_full_are_answered_12_and_the_line_goes_on() {
    let (script, leave) = slow_on_demand();
    let backend = HttpBackend::start(script);
    let gateway =
        Setup::new(backend.service("/demo/echo", "")).set("limits.calls_waiting_max", "2").start();
    let mut client = gateway.client();
    let echo = Request::to(client.service("/demo/echo"));
    for id in 1..=4 {
        client.send(&echo.clone().id(id).payload(if id == 1 { "\"slow\"" } else { "\"x\"" }));
    }
    let refused = client.reply();
    assert_eq!((refused.id, refused.code), (4, 12), "one runs and two wait");
    assert_eq!(gateway.shed("call_line_full"), 1);
    leave.send(()).expect("the backend waits");
    let answers: Vec<_> = (0..3).map(|_| client.reply()).map(|r| (r.id, r.code)).collect();
    assert_eq!(answers, [(1, 0), (2, 0), (3, 0)]);
}

#[test]
fn a_waiting_call_whose_time_is_up_is_answered_60_and_never_sent() {
    let (script, leave) = slow_on_demand();
    let backend = HttpBackend::start(script);
    let settings = "call_timeout = \"100ms\"\nconnections_max = 1";
    let gateway = Setup::new(backend.service("/demo/echo", settings)).start();
    let mut client = gateway.client();
    let echo = Request::to(client.service("/demo/echo"));
    client.send_together(&[
        echo.clone().channel(1).id(1).payload("\"slow\""),
        echo.clone().channel(2).id(2).payload("\"no connection left\""),
        echo.clone().channel(1).id(3).payload("\"behind it\""),
    ]);
    let mut codes: Vec<_> = (0..3).map(|_| client.reply()).map(|r| (r.id, r.code)).collect();
    codes.sort_unstable();
    assert_eq!(codes, [(1, 60), (2, 60), (3, 60)]);
    leave.send(()).expect("the backend waits");
    assert_eq!(client.call(&echo.payload("\"good\"")).code, 0);
    assert_eq!(backend.asked().body, b"\"slow\"");
    assert_eq!(backend.asked().body, b"\"good\"", "nobody waits for the others any more");
}

#[test]
fn a_service_with_its_fill_of_calls_answers_12() {
    let (script, leave) = slow_on_demand();
    let backend = HttpBackend::start(script);
    let gateway = Setup::new(backend.service("/demo/echo", "running_max = 1")).start();
    let (mut one, mut two) = (gateway.client(), gateway.client());
    let (first, second) =
        (Request::to(one.service("/demo/echo")), Request::to(two.service("/demo/echo")));
    one.send(&first.payload("\"slow\""));
    assert_eq!(backend.asked().body, b"\"slow\"");
    assert_eq!(two.call(&second).code, 12);
    leave.send(()).expect("the backend waits");
    assert_eq!(one.reply().code, 0);
    assert_eq!(two.call(&second).code, 0);
}

#[test]
fn a_call_of_a_client_that_left_harms_neither_its_connection_nor_the_next_client() {
    let (script, leave) = slow_on_demand();
    let backend = HttpBackend::start(script);
    let gateway = Setup::new(backend.service("/demo/echo", "connections_max = 1")).start();
    let mut gone = gateway.client();
    gone.send(&Request::to(gone.service("/demo/echo")).payload("\"slow\""));
    assert_eq!(backend.asked().body, b"\"slow\"");
    drop(gone);
    gateway.await_metric("corelane_sessions", "", 0);
    leave.send(()).expect("the backend waits");
    gateway.await_shed("late_answer", 1);
    let mut next = gateway.client();
    let request = Request::to(next.service("/demo/echo")).payload("\"mine\"");
    assert_eq!(next.call(&request), request.answer(0, "\"mine\""));
    assert_eq!(backend.asked().connection, 0, "the connection goes on");
    assert_eq!(gateway.metric("corelane_calls_running", ""), 0);
}

#[test]
fn a_backend_behind_a_unix_socket_is_called_like_any_other() {
    let folder = Folder::new();
    let file = folder.path().join("http.sock");
    let backend = HttpBackend::start_unix(&file, |asked| Answer::ok(&asked.body));
    let gateway = Setup::new(backend.service("/demo/echo", "")).start();
    let mut client = gateway.client();
    let request = Request::to(client.service("/demo/echo")).payload("over a file");
    assert_eq!(client.call(&request), request.answer(0, "over a file"));
    assert_eq!(backend.asked().fields["host"], "localhost");
}
