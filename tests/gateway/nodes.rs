//! Several gateways as one: what their players say to each other.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::process::Signal;
use tungstenite::client::IntoClientRequest as _;
use tungstenite::{Message, WebSocket};
use uuid::Uuid;

use crate::harness::PATIENCE;
use crate::harness::client::Client;
use crate::harness::frames::{BROADCAST, CLIENT, EVENT, Guid, Request, URGENT};
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::raw::{dial, exchange, read_head, upgrade};

const TOKEN: &str = "of-the-nodes-of-this-test";
const MODES: [&str; 4] = ["None", "Send", "Receive", "Both"];

/// A node that dials `peers`. Nobody dials its `internal_url`.
fn node(number: u16, broadcast: &str, peers: &[SocketAddr]) -> Setup {
    let peers: Vec<_> = peers.iter().map(|peer| format!("ws://{peer}")).collect();
    Setup::new("")
        .set("session.connection_mode", "Relayed")
        .set("listen.internal.address", "127.0.0.1:0")
        .set("listen.internal.service_token", TOKEN)
        .set("control.node", &number.to_string())
        .set("nodes.internal_url", "ws://this-node:5012")
        .set("nodes.broadcast", broadcast)
        .set("nodes.peers", &peers.join(","))
        .set("limits.messages_per_window", "0")
}

fn await_links(gateway: &Gateway, wanted: u64) {
    gateway.await_metric("corelane_node_links", "state=\"open\"", wanted);
}

/// Two of them, linked.
fn pair(shards: usize) -> [Gateway; 2] {
    let first = node(1, "Both", &[]).shards(shards).start();
    let second = node(2, "Both", &[first.internal()]).shards(shards).start();
    await_links(&first, 1);
    await_links(&second, 1);
    [first, second]
}

fn letter(to: Guid) -> Request {
    Request::to(to).flags(CLIENT)
}

fn refused(gateway: &Gateway, reason: &str) -> u64 {
    gateway.metric("corelane_node_messages_refused_total", &format!("reason=\"{reason}\""))
}

#[test]
fn players_of_two_nodes_reach_each_other_as_if_they_were_on_one() {
    let [first, second] = pair(2);
    let mut alice = first.client_on(0);
    for shard in 0..2 {
        let mut bob = second.client_on(shard);
        for len in [1, 94, 2000, 10_000, 65_536 - 31] {
            let payload: Vec<u8> = (0..len).map(|at: usize| (at * 31 + len) as u8).collect();
            let message = letter(bob.peer()).channel(5).payload(payload);
            alice.send(&message);
            assert!(bob.request() == message, "{len} bytes");
            let ack = alice.reply();
            assert_eq!((ack.code, ack.id), (0, message.id), "{len} bytes");
            let delivered: serde_json::Value = serde_json::from_slice(&ack.payload).expect("JSON");
            assert_eq!(delivered["Status"], "delivered");
        }
        let silent = letter(bob.peer()).flags(CLIENT | EVENT | URGENT).payload("no answer");
        alice.send(&silent);
        assert_eq!(bob.request(), silent);
        alice.expect_no_reply();
        let back = letter(alice.peer());
        assert_eq!(bob.call(&back).code, 0);
        assert_eq!(alice.request(), back);
    }
    assert_eq!(first.metric("corelane_node_messages_sent_total", ""), 12);
    assert_eq!(second.metric("corelane_node_messages_received_total", ""), 12);
}

#[test]
fn whoever_is_gone_from_another_node_is_answered_31_as_are_forged_guids_and_nodes_without_a_link() {
    let [first, second] = pair(1);
    let (mut alice, bob) = (first.client(), second.client());
    let to = bob.peer();
    assert_eq!(alice.call(&letter(to)).code, 0);
    let session = bob.manifest["sessionId"].as_str().expect("text").to_owned();
    bob.leave();
    second.await_session_end(&session);
    for flags in [CLIENT, CLIENT | EVENT] {
        let gone = letter(to).flags(flags);
        assert_eq!(alice.call(&gone), gone.answer(31, ""));
    }
    assert_eq!(refused(&second, "undelivered"), 2);

    let sent = first.metric("corelane_node_messages_sent_total", "");
    for bit in [0, 40, 64, 100, 127] {
        let forged = letter((u128::from_be_bytes(to) ^ 1 << bit).to_be_bytes());
        assert_eq!(alice.call(&forged), forged.answer(31, ""), "bit {bit}");
    }
    assert_eq!(first.metric("corelane_node_messages_sent_total", ""), sent, "none has left");

    let third = node(3, "Both", &[]).start();
    let stranger = letter(third.client().peer());
    assert_eq!(alice.call(&stranger), stranger.answer(31, ""));
    assert_eq!(refused(&first, "no_link"), 1);
}

/// One node of each mode, each linked to all others.
#[test]
fn broadcasts_cross_from_every_mode_that_sends_to_every_mode_that_receives() {
    let mut nodes: Vec<Gateway> = Vec::new();
    for (number, mode) in (1..).zip(MODES) {
        let peers: Vec<_> = nodes.iter().map(|node| node.internal()).collect();
        nodes.push(node(number, mode, &peers).start());
    }
    nodes.iter().for_each(|node| await_links(node, 3));
    let mut players: Vec<_> = nodes.iter().map(|node| [node.client(), node.client()]).collect();
    for (from, sends) in (0..4).zip(["None", "Send", "Receive", "Both"]) {
        let broadcast = letter(BROADCAST).id(from as u64).payload(format!("of {sends}"));
        players[from][0].send(&broadcast);
        players[from][0].expect_no_reply();
        assert_eq!(players[from][1].request(), broadcast, "at home it is heard anyway");
        for (to, receives) in (0..4).zip(MODES) {
            let crosses =
                matches!(sends, "Send" | "Both") && matches!(receives, "Receive" | "Both");
            if to != from && crosses {
                for player in &mut players[to] {
                    assert_eq!(player.request(), broadcast, "{sends} to {receives}");
                }
            }
        }
    }
    // Everybody has heard what he may, and nothing else came before what he says to himself.
    for player in players.iter_mut().flatten() {
        let own = letter(player.peer());
        player.send(&own);
        assert_eq!(player.request(), own);
    }
}

/// Messages that wait for an answer at one time.
const WINDOW: u64 = 64;

fn read_in_order(player: &mut Client, name: &str, first: u64) {
    for id in first..first + WINDOW {
        let got = player.request();
        assert_eq!((got.id, got.payload), (id, format!("to {name} {id}").into_bytes()));
        let ack = player.reply();
        assert_eq!((ack.id, ack.code), (id, 0));
    }
}

#[test]
fn what_a_player_says_to_another_node_stays_in_order_under_load() {
    let [first, second] = pair(2);
    thread::scope(|scope| {
        for _ in 0..3 {
            let (mut alice, mut bob) = (first.client(), second.client());
            scope.spawn(move || {
                for round in 0..30 {
                    let ids = round * WINDOW..(round + 1) * WINDOW;
                    let write = |to: Guid, name: &str| {
                        let one = |id| letter(to).id(id).payload(format!("to {name} {id}"));
                        ids.clone().map(one).collect::<Vec<_>>()
                    };
                    let (to_bob, to_alice) = (bob.peer(), alice.peer());
                    alice.send_together(&write(to_bob, "bob"));
                    bob.send_together(&write(to_alice, "alice"));
                    read_in_order(&mut bob, "bob", ids.start);
                    read_in_order(&mut alice, "alice", ids.start);
                }
            });
        }
    });
    for node in [&first, &second] {
        assert_eq!(node.metric("corelane_node_messages_sent_total", ""), 3 * 30 * WINDOW);
        assert_eq!(node.metric("corelane_node_messages_refused_total", ""), 0);
    }
}

/// Passes on what comes, both ways, until it is cut.
struct Wire {
    address: SocketAddr,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

impl Wire {
    fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback listens");
        let address = listener.local_addr().expect("it is bound");
        let streams = Arc::<Mutex<Vec<TcpStream>>>::default();
        let kept = Arc::clone(&streams);
        thread::spawn(move || {
            for near in listener.incoming() {
                let Ok(near) = near else { return };
                let Ok(far) = TcpStream::connect(target) else { continue };
                let twice = |stream: &TcpStream| stream.try_clone().expect("a spare descriptor");
                let ends = [(twice(&near), twice(&far)), (twice(&far), twice(&near))];
                kept.lock().expect("nobody panics").extend([near, far]);
                for (from, to) in ends {
                    thread::spawn(move || pass_on(from, to));
                }
            }
        });
        Self { address, streams }
    }

    fn cut(&self) {
        for stream in self.streams.lock().expect("nobody panics").drain(..) {
            // It may have ended by itself.
            drop(stream.shutdown(Shutdown::Both));
        }
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream) {
    let mut bytes = vec![0; 16 << 10];
    while let Ok(len @ 1..) = from.read(&mut bytes) {
        if to.write_all(&bytes[..len]).is_err() {
            return;
        }
    }
}

#[test]
fn a_link_that_is_cut_is_dialled_again() {
    let first = node(1, "Both", &[]).start();
    let wire = Wire::to(first.internal());
    let second = node(2, "Both", &[wire.address]).start();
    for round in 1..4 {
        await_links(&first, 1);
        await_links(&second, 1);
        let (mut alice, mut bob) = (first.client(), second.client());
        let message = letter(bob.peer());
        assert_eq!(alice.call(&message).code, 0);
        assert_eq!(bob.request(), message);
        wire.cut();
        second.wait_for_metrics("another link", PATIENCE, |metrics| {
            metrics.sum_of("corelane_node_dials_total", "") as u64 > round
        });
        first.wait_for_metrics("the end of the link", PATIENCE, |metrics| {
            metrics.sum_of("corelane_node_links_ended_total", "") as u64 >= round
        });
    }
}

/// A player of each node reaches those of all others.
fn assert_all_reach_each_other(nodes: &[&Gateway]) {
    for gateway in nodes {
        await_links(gateway, nodes.len() as u64 - 1);
    }
    let mut players: Vec<_> = nodes.iter().map(|gateway| gateway.client()).collect();
    for from in 0..players.len() {
        for to in 0..players.len() {
            let message = letter(players[to].peer());
            assert_eq!(players[from].call(&message).code, 0, "{from} to {to}");
            assert_eq!(players[to].request(), message);
        }
    }
}

#[test]
fn a_node_that_is_started_again_is_linked_again_whoever_dials() {
    let first = node(1, "Both", &[]).start();
    let internal = first.internal();
    let second = node(2, "Both", &[internal]).start();
    let peers = [internal, second.internal()];
    let third = node(3, "Both", &peers).start();
    assert_all_reach_each_other(&[&first, &second, &third]);
    let mut alice = second.client();

    let lost = third.client().peer();
    drop(third);
    await_links(&second, 1);
    assert_eq!(alice.call(&letter(lost)).code, 31);
    let third = node(3, "Both", &peers).start();
    assert_all_reach_each_other(&[&first, &second, &third]);

    let lost = first.client().peer();
    drop(first);
    await_links(&second, 1);
    assert_eq!(alice.call(&letter(lost)).code, 31);
    let address = internal.to_string();
    let first = node(1, "Both", &[]).set("listen.internal.address", &address).start();
    assert_all_reach_each_other(&[&first, &second, &third]);
}

#[test]
fn a_node_that_stops_tells_the_others() {
    let [first, mut second] = pair(1);
    second.signal(Signal::TERM);
    second.wait_for_end(PATIENCE);
    await_links(&first, 0);
    let ended = "corelane_node_links_ended_total";
    assert_eq!(first.metric(ended, "reason=\"closed\""), 1);
}

fn ask(gateway: &Gateway, path: &str, fields: &[&str]) -> String {
    let mut stream = dial(gateway.internal());
    let request = upgrade(path, fields);
    stream.write_all(request.as_bytes()).expect("the gateway reads");
    read_head(&mut stream)
}

#[test]
fn a_request_for_a_link_is_answered_as_the_protocol_says() {
    let gateway = node(1, "Both", &[]).start();
    let token = format!("X-Service-Token: {TOKEN}");
    let instance = format!("/connect/broadcast?instanceId={}", Uuid::new_v4());
    let status = |path: &str, fields: &[&str]| {
        let head = ask(&gateway, path, fields);
        head.split(' ').nth(1).and_then(|code| code.parse::<u16>().ok()).expect("a status line")
    };
    assert_eq!(status(&instance, &[]), 401);
    assert_eq!(status(&instance, &["X-Service-Token: another"]), 401);
    assert_eq!(status("/connect/broadcast", &[&token]), 400);
    assert_eq!(status("/connect/broadcast?instanceId=me", &[&token]), 400);
    let plain = format!(
        "GET {instance} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{token}\r\n\r\n"
    );
    assert_eq!(exchange(gateway.internal(), plain.as_bytes()).status, 400);
    assert_eq!(status(&instance, &[&token]), 101);
}

/// A node of another make, which knows broadcasts alone.
fn plain_node(gateway: &Gateway) -> WebSocket<TcpStream> {
    let address = gateway.internal();
    let url = format!("ws://{address}/connect/broadcast?instanceId={}", Uuid::new_v4());
    let mut request = url.into_client_request().expect("an address makes a URL");
    let token = TOKEN.parse().expect("a token is ASCII");
    request.headers_mut().insert("X-Service-Token", token);
    tungstenite::client(request, dial(address)).expect("it is let in").0
}

fn next_message(socket: &mut WebSocket<TcpStream>) -> Option<Message> {
    loop {
        match socket.read() {
            Ok(Message::Ping(_) | Message::Pong(_)) => {}
            other => return other.ok(),
        }
    }
}

#[test]
fn a_node_of_another_make_sends_and_gets_broadcasts_as_they_are() {
    let gateway = node(1, "Both", &[]).start();
    let mut other = plain_node(&gateway);
    await_links(&gateway, 1);
    let (mut alice, mut bob) = (gateway.client(), gateway.client());
    let broadcast = letter(BROADCAST).payload("from alice");
    alice.send(&broadcast);
    assert_eq!(bob.request(), broadcast);
    assert_eq!(next_message(&mut other), Some(Message::binary(broadcast.encode())));

    let foreign = letter(BROADCAST).payload("from elsewhere");
    other.send(Message::binary(foreign.encode())).expect("it reads");
    assert_eq!(alice.request(), foreign);
    assert_eq!(bob.request(), foreign);
    assert_eq!(gateway.metric("corelane_node_broadcasts_received_total", ""), 1);
}

#[test]
fn a_frame_that_no_node_sends_closes_the_link_and_reaches_nobody() {
    let gateway = node(1, "Both", &[]).start();
    let mut alice = gateway.client();
    let bad = [
        Message::text("hello"),
        Message::binary(vec![0x20; 30]),
        Message::binary(letter(alice.peer()).encode()),
        Message::binary(Request::to(BROADCAST).encode()),
    ];
    for (count, message) in (1..).zip(bad) {
        let mut other = plain_node(&gateway);
        other.send(message).expect("it reads");
        let Some(Message::Close(Some(close))) = next_message(&mut other) else {
            panic!("it stays open")
        };
        assert_eq!(u16::from(close.code), 1002);
        let ended = "corelane_node_links_ended_total";
        gateway.await_metric(ended, "reason=\"malformed\"", count);
    }
    alice.expect_no_reply();
}

#[test]
fn a_node_that_is_alone_lets_nobody_stay_and_relays_nothing() {
    let gateway = Setup::new("")
        .set("session.connection_mode", "Relayed")
        .set("listen.internal.address", "127.0.0.1:0")
        .set("listen.internal.service_token", TOKEN)
        .start();
    let mut other = plain_node(&gateway);
    assert_eq!(next_message(&mut other), None);
    let there = node(7, "Both", &[]).start();
    let (mut alice, bob) = (gateway.client(), there.client());
    let message = letter(bob.peer());
    assert_eq!(alice.call(&message), message.answer(31, ""));
    assert_eq!(refused(&gateway, "no_link"), 0, "it has not left the shard");
}
