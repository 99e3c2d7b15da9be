//! Brotli towards clients that ask for it, and from clients to backends where it is switched on.

use std::io::Read;
use std::time::Instant;

use tungstenite::client::IntoClientRequest;
use tungstenite::http::HeaderValue;

use crate::gateway_process::token::Claims;
use crate::harness::PATIENCE;
use crate::harness::client::Client;
use crate::harness::frames::{BROADCAST, CLIENT, EVENT, Reply, Request, URGENT, guid};
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::http_backend::{Answer, HttpBackend};
use crate::harness::link_backend::{DATA, LinkBackend, OPEN};
use crate::harness::raw::dial;

const OPAQUE: u8 = 0x02;
const COMPRESSED: u8 = 0x04;

/// How a client asks for compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    Not,
    Query(&'static str),
    Header(&'static str),
}

const ASKING: Ask = Ask::Query("compress=br");

fn open(gateway: &Gateway, ask: Ask) -> Client {
    let address = gateway.public();
    let query = match ask {
        Ask::Query(query) => query,
        Ask::Not | Ask::Header(_) => "",
    };
    let url = format!("ws://{address}/connect?{query}");
    let mut request = url.into_client_request().expect("an address makes a URL");
    let mut set = |name: &'static str, value: &str| {
        request.headers_mut().insert(name, HeaderValue::from_str(value).expect("it is ASCII"));
    };
    set("Authorization", &format!("Bearer {}", Claims::default().sign()));
    if let Ask::Header(value) = ask {
        set("X-Connect-Compress", value);
    }
    let upgraded = tungstenite::client::client(request, dial(address));
    let (socket, _) = upgraded.expect("the gateway upgrades");
    let mut client = Client::over(socket);
    client.manifest = plain(client.request()).json();
    client
}

/// As [`Gateway::client_on`].
fn open_on(gateway: &Gateway, shard: usize, ask: Ask) -> Client {
    let label = format!("shard=\"{shard}\"");
    let until = Instant::now() + PATIENCE;
    let mut elsewhere = Vec::new();
    while Instant::now() < until {
        let before = gateway.metric("corelane_sessions", &label);
        let client = open(gateway, ask);
        if gateway.metric("corelane_sessions", &label) > before {
            return client;
        }
        elsewhere.push(client);
    }
    panic!("no connection came to shard {shard}")
}

fn inflate(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    brotli::Decompressor::new(payload, 4096).read_to_end(&mut out).expect("a whole stream");
    out
}

fn deflate(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    brotli::CompressorReader::new(payload, 4096, 5, 22).read_to_end(&mut out).expect("memory");
    out
}

/// What a client makes of a message.
fn plain(message: Request) -> Request {
    if message.flags & COMPRESSED == 0 {
        return message;
    }
    let payload = inflate(&message.payload);
    assert!(message.payload.len() < payload.len(), "a compressed message is smaller");
    Request { flags: message.flags & !COMPRESSED, payload, ..message }
}

/// The same message, and it was compressed.
fn was_compressed(arrived: &Request, sent: &Request) {
    assert_eq!(arrived.flags, sent.flags | COMPRESSED, "{} bytes", sent.payload.len());
    assert!(plain(arrived.clone()) == *sent, "{} bytes", sent.payload.len());
}

fn text(len: usize) -> Vec<u8> {
    b"{\"unit\":\"archer\",\"x\":12,\"y\":7},".iter().copied().cycle().take(len).collect()
}

fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(3).fill(&mut bytes);
    bytes
}

fn relayed(shards: usize) -> Setup {
    let setup = Setup::new("").shards(shards).set("session.connection_mode", "Relayed");
    setup.set("compression.enabled", "true")
}

fn compressions(gateway: &Gateway, outcome: &str) -> u64 {
    gateway.metric("corelane_compressions_total", &format!("outcome=\"{outcome}\""))
}

#[test]
fn answers_are_compressed_for_clients_that_ask_and_for_nobody_else() {
    let backend = HttpBackend::start(|asked| Answer::ok(&asked.body));
    let setup = Setup::new(backend.service("/demo/echo", ""));
    let gateway = setup.set("compression.enabled", "true").start();
    let asks = [
        (Ask::Not, false),
        (ASKING, true),
        (Ask::Query("x=1&compress=br"), true),
        (Ask::Header("br"), true),
        (Ask::Header("gzip, BR"), true),
        (Ask::Query("compress=gzip"), false),
        (Ask::Query("compress=br2"), false),
        (Ask::Header("zstd"), false),
    ];
    for (ask, compresses) in asks {
        let mut client = open(&gateway, ask);
        let request = Request::to(client.service("/demo/echo")).flags(0x01).payload(text(5000));
        let reply = client.call(&request);
        assert_eq!(reply.flags, if compresses { 0x45 } else { 0x41 }, "{ask:?}");
        let payload = if compresses { inflate(&reply.payload) } else { reply.payload.clone() };
        assert_eq!(compresses, reply.payload.len() < 500, "{ask:?}");
        assert_eq!(Reply { flags: 0x41, payload, ..reply }, request.answer(0, text(5000)));
    }
    assert_eq!(compressions(&gateway, "compressed"), 4);
    assert_eq!(gateway.metric("corelane_compression_in_bytes_total", ""), 4 * 5016);
    let out = gateway.metric("corelane_compression_out_bytes_total", "");
    assert!((4 * 17..4 * 500).contains(&out), "{out} bytes");
}

#[test]
fn without_negotiation_everybody_gets_compressed_messages() {
    let backend = HttpBackend::start(|asked| Answer::ok(&asked.body));
    let gateway = Setup::new(backend.service("/demo/echo", ""))
        .set("compression.enabled", "true")
        .set("compression.negotiate", "false")
        .start();
    for ask in [Ask::Not, ASKING] {
        let mut client = open(&gateway, ask);
        let request = Request::to(client.service("/demo/echo")).payload(text(5000));
        let reply = client.call(&request);
        assert_eq!((reply.flags, inflate(&reply.payload)), (0x44, text(5000)));
    }
}

#[test]
fn compression_that_is_off_is_off_whoever_asks() {
    let backend = HttpBackend::start(|asked| Answer::ok(&asked.body));
    let gateway = Setup::new(backend.service("/demo/echo", "")).start();
    let mut client = open(&gateway, ASKING);
    let request = Request::to(client.service("/demo/echo")).payload(text(5000));
    assert_eq!(client.call(&request), request.answer(0, text(5000)));
    assert_eq!(gateway.metric("corelane_compressions_total", ""), 0);
}

#[test]
fn a_reload_switches_compression_for_sessions_that_are_open() {
    let backend = HttpBackend::start(|asked| Answer::ok(&asked.body));
    let service = backend.service("/demo/echo", "");
    let mut gateway = Setup::new(service.clone()).start();
    let mut client = open(&gateway, ASKING);
    let request = Request::to(client.service("/demo/echo")).payload(text(900));
    let rounds = [("enabled = true", 0x40), ("enabled = true\nthreshold_bytes = 900", 0x44)];
    for (keys, flags) in rounds {
        gateway.reload(format!("[compression]\n{keys}\n{service}"));
        // The new manifest says that the reload is there.
        assert_eq!(plain(client.request()).json()["reason"], "capabilities_updated");
        assert_eq!(client.call(&request).flags, flags, "{keys}");
    }
}

#[test]
fn short_random_opaque_and_compressed_payloads_arrive_as_they_are() {
    let gateway = relayed(1).start();
    let (mut alice, mut bob) = (open(&gateway, Ask::Not), open(&gateway, ASKING));
    let letter = Request::to(bob.peer()).flags(CLIENT | EVENT);
    let cases = [
        ("below the threshold", letter.clone().payload(text(1023))),
        ("random", letter.clone().payload(noise(4000))),
        ("opaque", letter.clone().flags(CLIENT | EVENT | OPAQUE).payload(text(4000))),
        ("compressed", letter.clone().flags(CLIENT | EVENT | COMPRESSED).payload(text(4000))),
    ];
    for (what, message) in cases {
        alice.send(&message);
        assert!(bob.request() == message, "{what}");
    }
    let message = letter.payload(text(1024));
    alice.send(&message);
    was_compressed(&bob.request(), &message);
    assert_eq!(compressions(&gateway, "incompressible"), 1);
    assert_eq!(compressions(&gateway, "compressed"), 1);
}

#[test]
fn peer_messages_of_every_size_are_compressed_on_the_shard_of_their_target() {
    let gateway = relayed(2).start();
    let mut alice = open_on(&gateway, 0, Ask::Not);
    let (mut near, mut far) = (open_on(&gateway, 0, ASKING), open_on(&gateway, 1, ASKING));
    for target in [&mut near, &mut far] {
        for len in [1024, 2000, 3000, 10_000, 65_536 - 31] {
            let message = Request::to(target.peer()).flags(CLIENT).payload(text(len));
            let reply = alice.call(&message);
            assert_eq!((reply.flags, reply.code), (0x60, 0), "{len} bytes");
            was_compressed(&target.request(), &message);
        }
    }
    let on = |shard: usize| gateway.metric("corelane_messages_sent_total", &shard_label(shard));
    assert!(on(0) > 0 && on(1) > 0);
    assert_eq!(compressions(&gateway, "compressed"), 10);
    nothing_is_held(&gateway);
}

fn nothing_is_held(gateway: &Gateway) {
    gateway.await_metric("corelane_blocks_in_use_bytes", "", 0);
    gateway.await_metric("corelane_receive_buffers_out", "", 0);
}

fn shard_label(shard: usize) -> String {
    format!("shard=\"{shard}\"")
}

#[test]
fn a_broadcast_is_compressed_once_on_each_shard_and_only_for_those_who_ask() {
    let gateway = relayed(2).start();
    let mut sender = open_on(&gateway, 0, ASKING);
    let mut asking: Vec<_> = [0, 0, 0, 1, 1].map(|shard| open_on(&gateway, shard, ASKING)).into();
    let mut plain_ones: Vec<_> = [0, 1].map(|shard| open_on(&gateway, shard, Ask::Not)).into();
    for (number, len) in [(1, 2000), (2, 40_000)] {
        let before = compressions(&gateway, "compressed");
        let broadcast = Request::to(BROADCAST).flags(CLIENT).payload(text(len));
        sender.send(&broadcast);
        for client in &mut asking {
            was_compressed(&client.request(), &broadcast);
        }
        for client in &mut plain_ones {
            assert!(client.request() == broadcast, "{number}");
        }
        assert_eq!(compressions(&gateway, "compressed") - before, 2, "once on each shard");
    }
    let before = compressions(&gateway, "incompressible");
    let broadcast = Request::to(BROADCAST).flags(CLIENT).payload(noise(2000));
    sender.send(&broadcast);
    for client in asking.iter_mut().chain(&mut plain_ones) {
        assert!(client.request() == broadcast);
    }
    assert_eq!(compressions(&gateway, "incompressible") - before, 2, "tried once on each shard");
    nothing_is_held(&gateway);
}

#[test]
fn what_a_turn_has_no_time_for_leaves_as_it_is() {
    let gateway = relayed(1).set("compression.quality", "11").start();
    let (mut alice, mut bob) = (open(&gateway, Ask::Not), open(&gateway, ASKING));
    for (len, outcome) in [(1024, "compressed"), (60_000, "no_time")] {
        let message = Request::to(bob.peer()).flags(CLIENT | EVENT).payload(text(len));
        alice.send(&message);
        let arrived = bob.request();
        assert_eq!(arrived.flags & COMPRESSED != 0, outcome == "compressed", "{len} bytes");
        assert!(plain(arrived) == message, "{len} bytes");
        assert_eq!(compressions(&gateway, outcome), 1);
    }
}

#[test]
fn manifests_and_acknowledgements_are_compressed_too() {
    let gateway = relayed(1).set("compression.threshold_bytes", "64").start();
    let mut alice = open(&gateway, ASKING);
    assert_eq!(compressions(&gateway, "compressed"), 1, "the manifest");
    let message = Request::to(alice.peer()).flags(CLIENT).payload("{}");
    let reply = alice.call(&message);
    assert_eq!((reply.code, reply.flags & !COMPRESSED), (0, 0x60));
    let payload =
        if reply.flags & COMPRESSED == 0 { reply.payload } else { inflate(&reply.payload) };
    assert!(payload.starts_with(b"{\"Status\":\"delivered\""));
    assert_eq!(gateway.metric("corelane_compressions_total", ""), 2, "the acknowledgement");
    assert_eq!(alice.request(), message);
}

/// One link, one session open on it.
fn link_scene(settings: &[(&str, &str)], ask: Ask) -> (Gateway, LinkScene) {
    let backend = LinkBackend::listen();
    let mut setup = Setup::new(backend.service("/demo/echo", ""));
    for (key, value) in settings {
        setup = setup.set(key, value);
    }
    let gateway = setup.start();
    let mut link = backend.link();
    let mut client = open(&gateway, ask);
    let echo = Request::to(client.service("/demo/echo"));
    client.send(&echo);
    let open = link.expect(OPEN);
    let (call, request) = link.call();
    link.answer(&call, &request.answer(0, "{}"));
    assert_eq!(client.reply(), echo.answer(0, "{}"));
    let session = u128::from_be_bytes(guid(client.manifest["sessionId"].as_str().expect("text")));
    assert_eq!(open.session, session);
    (gateway, LinkScene { _backend: backend, link, client, echo, session })
}

struct LinkScene {
    _backend: LinkBackend,
    link: crate::harness::link_backend::BackendLink,
    client: Client,
    echo: Request,
    session: u128,
}

#[test]
fn answers_and_events_of_links_are_compressed() {
    let (_gateway, mut scene) = link_scene(&[("compression.enabled", "true")], ASKING);
    let LinkScene { link, client, echo, session, .. } = &mut scene;
    for len in [1500, 30_000] {
        client.send(&echo.clone().payload(text(100)));
        let (call, request) = link.call();
        link.answer(&call, &request.answer(0, text(len)));
        let reply = client.reply();
        assert_eq!((reply.flags, inflate(&reply.payload)), (0x44, text(len)));

        let event = Request::to([0; 16]).flags(EVENT).payload(text(len));
        link.push(*session, &event);
        was_compressed(&client.request(), &event);
    }
    let compressed = Request::to([0; 16]).flags(EVENT | COMPRESSED).payload(deflate(&text(9000)));
    link.push(*session, &compressed);
    assert_eq!(client.request(), compressed, "a backend may compress by itself");
    let opaque = echo.clone().flags(OPAQUE).payload(text(2000));
    client.send(&opaque);
    let (call, request) = link.call();
    assert_eq!(request, opaque);
    link.answer(&call, &request.answer(0, text(2000)));
    assert_eq!(client.reply(), opaque.answer(0, text(2000)), "0x42, and not touched");
}

#[test]
fn urgent_events_of_backends_jump_the_queue_of_their_client() {
    let settings = [("limits.outbox_bytes_max", "8MiB"), ("limits.write_stall", "1m")];
    let (gateway, mut scene) = link_scene(&settings, Ask::Not);
    let LinkScene { link, client, session, .. } = &mut scene;
    // The client reads nothing until more waits for it than the kernel takes; one event at a time,
    // as the credit of the session has it.
    let bulk = Request::to([0; 16]).flags(EVENT).payload(noise(60_000));
    let mut sent = 0;
    let mut after_partial = 0;
    while after_partial < 8 {
        link.push(*session, &bulk.clone().id(sent));
        link.settle();
        sent += 1;
        after_partial += u64::from(gateway.metric("corelane_sends_partial_total", "") > 0);
    }
    let urgent = Request::to([0; 16]).flags(EVENT | URGENT).id(u64::MAX).payload("urgent");
    link.push(*session, &urgent);
    link.settle();
    let arrived: Vec<_> = (0..=sent).map(|_| client.request()).collect();
    let place = arrived.iter().position(|one| one.id == u64::MAX).expect("it arrives");
    assert_eq!(arrived[place], urgent, "the flag is passed on");
    assert!(place < sent as usize, "it overtook nothing of {sent}");
}

#[test]
fn compressed_requests_reach_their_backend_as_they_came() {
    let (_gateway, mut scene) = link_scene(&[("compression.enabled", "true")], ASKING);
    let LinkScene { link, client, echo, .. } = &mut scene;
    let request = echo.clone().flags(COMPRESSED).payload(deflate(&text(5000)));
    client.send(&request);
    let (call, arrived) = link.call();
    assert_eq!(arrived, request);
    link.answer(&call, &arrived.answer(0, "{}"));
    assert_eq!(client.reply(), request.answer(0, "{}"));
}

#[test]
fn inflated_requests_reach_both_kinds_of_backend_without_their_flag() {
    let inflating = [("compression.inflate_inbound", "true")];
    let (gateway, mut scene) = link_scene(&inflating, Ask::Not);
    let LinkScene { link, client, echo, session, .. } = &mut scene;
    for len in [1, 5000, 65_536 - 31] {
        let request = echo.clone().flags(COMPRESSED | 0x01).payload(deflate(&text(len)));
        client.send(&request);
        let (call, arrived) = link.call();
        assert!(arrived == request.clone().flags(0x01).payload(text(len)), "{len} bytes");
        link.answer(&call, &arrived.answer(0, "{}"));
        assert_eq!(client.reply(), request.answer(0, "{}"));
    }
    let opaque = echo.clone().flags(COMPRESSED | OPAQUE).payload(deflate(&text(100)));
    client.send(&opaque);
    let (call, arrived) = link.call();
    assert_eq!(arrived, opaque);
    link.answer(&call, &arrived.answer(0, "{}"));
    assert_eq!(client.reply(), opaque.answer(0, "{}"));

    let rpc = Request::to([0; 16]).flags(0x01).id(77);
    link.push(*session, &rpc);
    assert_eq!(client.request(), rpc);
    let answer = rpc.answer(0, deflate(b"\"done\""));
    let answer = Reply { flags: answer.flags | COMPRESSED, ..answer };
    client.send_message(tungstenite::Message::binary(answer.encode()));
    let arrived = link.expect(DATA);
    assert_eq!(Reply::decode(&arrived.body), rpc.answer(0, "\"done\""));
    assert_eq!(gateway.metric("corelane_messages_inflated_total", ""), 4);

    let backend = HttpBackend::start(|asked| Answer::ok(&asked.body));
    let gateway = Setup::new(backend.service("/demo/echo", ""))
        .set("compression.inflate_inbound", "true")
        .start();
    let mut client = gateway.client();
    let request = Request::to(client.service("/demo/echo"));
    let request = request.flags(COMPRESSED).payload(deflate(&text(5000)));
    assert_eq!(client.call(&request), request.answer(0, text(5000)));
    assert_eq!(backend.asked().body, text(5000));
}

#[test]
fn bombs_and_broken_streams_are_answered_and_reach_nobody() {
    let backend = HttpBackend::start(|_| Answer::ok("{}"));
    let gateway = Setup::new(backend.service("/demo/echo", ""))
        .set("compression.inflate_inbound", "true")
        .start();
    let mut client = gateway.client();
    let request = Request::to(client.service("/demo/echo")).flags(COMPRESSED);
    let whole = deflate(&text(5000));
    let bomb = deflate(&vec![b'a'; 100 << 20]);
    assert!(bomb.len() < 60_000, "{} bytes", bomb.len());
    let cases = [
        ("a bomb", bomb, 11),
        ("one byte too long", deflate(&text(65_536 - 30)), 11),
        ("half a stream", whole[..whole.len() / 2].to_vec(), 10),
        ("trailing bytes", [&whole[..], b"x"].concat(), 10),
        ("no stream", b"{}".to_vec(), 10),
        ("a stream of nothing", deflate(b""), 10),
    ];
    for (what, payload, code) in cases {
        let message = request.clone().payload(payload);
        assert_eq!(client.call(&message), message.answer(code, ""), "{what}");
    }
    assert!(backend.was_not_asked());
    assert_eq!(gateway.shed("message_too_long"), 2);
    assert_eq!(gateway.shed("compressed_badly"), 4);
    let sound = request.payload(whole);
    assert_eq!(client.call(&sound), sound.answer(0, "{}"), "the session goes on");
    assert_eq!(gateway.metric("corelane_messages_inflated_total", ""), 1);
    nothing_is_held(&gateway);
}

#[test]
fn a_crowd_of_bombs_ends_the_turns_time_and_not_the_gateway() {
    let backend = HttpBackend::start(|_| Answer::ok("{}"));
    let gateway = Setup::new(backend.service("/demo/echo", ""))
        .set("compression.inflate_inbound", "true")
        .set("limits.messages_per_window", "0")
        .start();
    let mut client = gateway.client();
    let bomb = Request::to(client.service("/demo/echo")).flags(COMPRESSED);
    let bomb = bomb.payload(deflate(&vec![b'a'; 1 << 20]));
    let crowd: Vec<_> = (0..400).map(|id| bomb.clone().id(id)).collect();
    client.send_together(&crowd);
    let codes: Vec<_> = crowd.iter().map(|_| client.reply().code).collect();
    let refused = codes.iter().filter(|code| **code == 12).count();
    assert!(codes.iter().all(|code| [11, 12].contains(code)), "{codes:?}");
    assert_eq!(codes[0], 11);
    assert_eq!(gateway.shed("inflating_busy"), refused as u64);
    assert!(refused > 0, "one turn took them all");
    let plain = Request::to(bomb.guid);
    assert_eq!(client.call(&plain).code, 0);
}

#[test]
fn what_clients_compress_for_each_other_is_not_inflated() {
    let gateway = relayed(1).set("compression.inflate_inbound", "true").start();
    let (mut alice, mut bob) = (open(&gateway, ASKING), open(&gateway, ASKING));
    for payload in [deflate(&text(5000)), b"no stream".to_vec()] {
        let message = Request::to(bob.peer()).flags(CLIENT | COMPRESSED).payload(payload);
        assert_eq!(alice.call(&message).code, 0);
        assert_eq!(bob.request(), message);
    }
}
