//! Who is kept out, whom a proxy speaks for, and what is refused when memory runs short.

use std::io::Write;
use std::net::TcpStream;

use uuid::Uuid;

use crate::gateway_process::http;
use crate::gateway_process::token::Claims;
use crate::harness::PATIENCE;
use crate::harness::client::Client;
use crate::harness::frames::Request;
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::http_backend::{Answer, HttpBackend};
use crate::harness::raw::{client_frame, dial, exchange, read_head, upgrade};

#[test]
fn a_deny_list_and_its_file_are_read_again_on_sighup() {
    let mut gateway = Setup::new("").start();
    let mut open = gateway.client();
    let list = "# nobody\n\n127.0.0.0/8 # all of us\n";
    std::fs::write(gateway.folder().join("denied.txt"), list).expect("the folder is writable");
    gateway.reload("[limits]\ndeny_file = \"denied.txt\"\n");
    let refused = || {
        let answer = exchange(gateway.public(), upgrade("/connect", &[]).as_bytes());
        (answer.status == 403).then_some(answer)
    };
    gateway.wait_until("the list to be in force", PATIENCE, || refused().is_some());
    let answer = refused().expect("it stays in force");
    assert!(answer.body.contains("This address may not connect"), "{}", answer.body);
    assert!(gateway.metric("corelane_upgrades_total", "outcome=\"denied\"") >= 2);
    assert_eq!(open.call(&Request::to([1; 16])).code, 30, "whoever is in stays in");

    std::fs::write(gateway.folder().join("denied.txt"), "127.0.0.1/8\n").expect("it is writable");
    gateway.reload("[limits]\ndeny_file = \"denied.txt\"\n");
    gateway.await_log("line 1: ");
    assert_eq!(Client::try_connect(gateway.public(), &gateway.token()).err(), Some(403));
    gateway.reload("");
    gateway.wait_until("everybody to be let in", PATIENCE, || {
        Client::try_connect(gateway.public(), &gateway.token()).is_ok()
    });
}

/// The status that a client of `session` behind a proxy gets, and its connection.
fn from(gateway: &Gateway, client: &str, session: u128) -> (String, TcpStream) {
    let family = if client.contains(':') { "TCP6 " } else { "TCP4 " };
    let token = Claims::default().session(Uuid::from_u128(session)).sign();
    let request = upgrade("/connect", &[&format!("Authorization: Bearer {token}")]);
    let header = format!("PROXY {family}{client} {client} 4711 443\r\n");
    let mut stream = dial(gateway.public());
    stream.write_all((header + &request).as_bytes()).expect("the gateway reads");
    let head = read_head(&mut stream);
    (head[9..12].to_owned(), stream)
}

#[test]
fn clients_behind_a_proxy_are_counted_and_shown_by_their_own_addresses() {
    let gateway = Setup::new("")
        .set("listen.public.trusted_proxies", "127.0.0.0/8")
        .set("listen.public.proxy_protocol", "any")
        .set("limits.connections_per_address", "1")
        .start();
    let (one, _first) = from(&gateway, "203.0.113.1", 1);
    let (again, _) = from(&gateway, "203.0.113.1", 2);
    let (other, _second) = from(&gateway, "203.0.113.2", 3);
    assert_eq!([&*one, &*again, &*other], ["101", "429", "101"]);
    let (network, _third) = from(&gateway, "2001:db8::1", 4);
    let (neighbour, _) = from(&gateway, "2001:db8::2", 5);
    assert_eq!([&*network, &*neighbour], ["101", "429"]);

    let session = format!("/sessions/{}", Uuid::from_u128(1));
    let shown = http::request(gateway.admin(), "GET", &session).expect("the admin answers");
    assert!(shown.body.contains("203.0.113.1:4711"), "{}", shown.body);
    // Without its header the proxy is nobody.
    let bare = exchange(gateway.public(), upgrade("/connect", &[]).as_bytes());
    assert_eq!(bare.status, 400);
    assert_eq!(gateway.metric("corelane_upgrades_total", "outcome=\"proxy_header\""), 1);
    assert_eq!(gateway.metric("corelane_upgrades_total", "outcome=\"too_many\""), 2);
}

#[test]
fn new_calls_are_answered_12_and_new_connections_503_while_memory_runs_short() {
    let backend = HttpBackend::start(|_| Answer::ok("{}"));
    // One block is more than this share of the pool.
    let gateway = Setup::new(backend.service("/demo/echo", ""))
        .set("limits.shed_connections_at", "0.0001")
        .set("limits.shed_calls_at", "0.0001")
        .start();
    let (mut one, mut two) = (gateway.client(), gateway.client());
    let echo = Request::to(two.service("/demo/echo"));
    assert_eq!(two.call(&echo).code, 0);
    gateway.await_metric("corelane_memory_stage", "", 0);

    let held = client_frame(&Request::to([1; 16]).encode());
    let (begun, rest) = held.split_at(held.len() / 2);
    one.socket.get_mut().write_all(begun).expect("the gateway reads");
    gateway.await_metric("corelane_memory_stage", "", 2);
    assert_eq!(two.call(&echo).code, 12);
    assert_eq!(gateway.shed("short_of_memory"), 1);
    assert_eq!(Client::try_connect(gateway.public(), &gateway.token()).err(), Some(503));
    assert_eq!(gateway.metric("corelane_upgrades_total", "outcome=\"short_of_memory\""), 1);

    one.socket.get_mut().write_all(rest).expect("the gateway reads");
    assert_eq!(one.reply().code, 30, "what was begun is finished");
    gateway.await_metric("corelane_memory_stage", "", 0);
    assert_eq!(two.call(&echo).code, 0);
}
