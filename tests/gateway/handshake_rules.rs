//! The rules of RFC 9112 and RFC 6455 §4 at the door, a test for each: what breaks one is answered as
//! `docs/PROTOCOL.md` says, whole and with the reason, and disturbs nobody.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::{ClientConfig, ClientConnection, RootCertStore};
use tungstenite::WebSocket;
use tungstenite::protocol::Role;

use crate::gateway_process::http::Answer;
use crate::harness::PATIENCE;
use crate::harness::client::Client;
use crate::harness::frames::Request;
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::raw::{client_frame, dial, exchange, read_answer, read_head, upgrade};

const HOST: &str = "Host: localhost\r\n";
const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const VERSION: &str = "Sec-WebSocket-Version: 13\r\n";

/// The door of a gateway with a player inside.
struct Door {
    gateway: Gateway,
    player: Client,
    /// A request that is let in.
    good: String,
}

impl Door {
    fn new() -> Self {
        Self::of(Setup::new(""))
    }

    fn of(setup: Setup) -> Self {
        let gateway = setup.start();
        let player = gateway.client();
        let good = upgrade("/connect", &[&bearer(&gateway)]);
        Self { gateway, player, good }
    }

    /// The good request with `line` in place of `instead_of`.
    fn with(&self, line: &str, instead_of: &str) -> String {
        assert_eq!(self.good.matches(instead_of).count(), 1, "{instead_of}");
        self.good.replace(instead_of, line)
    }

    /// The good request with `line` behind its other fields.
    fn and(&self, line: &str) -> String {
        let (rest, end) = self.good.split_at(self.good.len() - "\r\n".len());
        [rest, line, "\r\n", end].concat()
    }

    /// Is answered with `status`, a text that says `why`, and the end of the stream.
    fn refuses(&self, status: u16, why: &str, request: impl AsRef<[u8]>) -> Answer {
        let request = request.as_ref();
        let answer = exchange(self.gateway.public(), request);
        let shown = String::from_utf8_lossy(&request[..request.len().min(300)]);
        assert_eq!(answer.status, status, "{shown}\n{answer:?}");
        assert!(answer.body.contains(why), "{shown}\n{answer:?}");
        assert!(answer.header("connection").is_some_and(|list| list.starts_with("close")));
        answer
    }

    fn lets_in(&self, request: &str) {
        let mut stream = dial(self.gateway.public());
        stream.write_all(request.as_bytes()).expect("the gateway reads");
        assert!(read_head(&mut stream).starts_with("HTTP/1.1 101 "), "{request}");
        drop(stream);
    }

    /// The player inside is answered, and a newcomer is let in.
    fn still_serves(mut self) {
        self.player.expect_no_reply();
        self.gateway.client().leave();
        self.player.leave();
        self.gateway.wait_until_empty();
    }
}

fn bearer(gateway: &Gateway) -> String {
    format!("Authorization: Bearer {}", gateway.token())
}

#[test]
fn a_request_without_a_host_is_answered_400() {
    let door = Door::new();
    door.refuses(400, "Host", door.with("", HOST));
    door.refuses(400, "Host", door.with("Host:\r\n", HOST));
    door.still_serves();
}

#[test]
fn a_request_with_two_hosts_is_answered_400_even_if_they_agree() {
    let door = Door::new();
    door.refuses(400, "Host", door.and("Host: localhost"));
    door.refuses(400, "Host", door.and("hOST: elsewhere"));
    door.refuses(400, "Host", door.with("Host: localhost, elsewhere\r\n", HOST));
    door.still_serves();
}

#[test]
fn a_folded_field_is_answered_400() {
    let door = Door::new();
    for folded in ["X: a\r\n b", "X: a\r\n\tb", "X:\r\n a", "X: a\r\n "] {
        door.refuses(400, "header field", door.and(folded));
    }
    door.refuses(400, "header field", door.with(" X: a\r\nHost: localhost\r\n", HOST));
    door.still_serves();
}

#[test]
fn a_carriage_return_without_a_line_feed_is_answered_400() {
    let door = Door::new();
    for bad in ["X: a\rb", "X: a\r", "X\r: a", "X: a\rY: b"] {
        door.refuses(400, "control character", door.and(bad));
    }
    door.refuses(400, "control character", door.with("HTTP/1.1\r", "HTTP/1.1\r\n"));
    door.still_serves();
}

#[test]
fn a_line_feed_without_a_carriage_return_is_answered_400() {
    let door = Door::new();
    door.refuses(400, "control character", door.and("X: a\nY: b"));
    door.refuses(400, "control character", door.with("Host: localhost\n", HOST));
    door.refuses(400, "control character", door.good.replace("\r\n", "\n"));
    door.still_serves();
}

#[test]
fn a_nul_or_another_control_character_is_answered_400() {
    let door = Door::new();
    for bad in ["X: a\0b", "X\0: a", "\0", "X: \x7f", "X: \x1b[2J", "X: \x08"] {
        door.refuses(400, "control character", door.and(bad));
    }
    door.refuses(400, "target", door.with("GET /conn\0ect ", "GET /connect "));
    door.still_serves();
}

#[test]
fn a_space_before_the_colon_is_answered_400() {
    let door = Door::new();
    door.refuses(400, "header field", door.with("Host : localhost\r\n", HOST));
    for bad in ["X : a", "X\t: a", ": a", "X", "X Y: a"] {
        door.refuses(400, "header field", door.and(bad));
    }
    door.still_serves();
}

#[test]
fn another_version_of_http_is_answered_400() {
    let door = Door::new();
    for version in ["HTTP/1.0", "HTTP/0.9", "HTTP/1.2", "HTTP/2.0", "HTTP/3", "HTTP/11.1"] {
        let request = door.with(&format!("{version}\r\n"), "HTTP/1.1\r\n");
        door.refuses(400, "Unsupported HTTP version", request);
    }
    door.refuses(400, "request target", "GET /connect\r\n");
    door.still_serves();
}

#[test]
fn another_method_is_answered_405_and_told_which_one() {
    let door = Door::new();
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "get", "MADEUP"] {
        let request = door.with(&format!("{method} /connect"), "GET /connect");
        let answer = door.refuses(405, "GET only", request);
        assert_eq!(answer.header("allow"), Some("GET"));
    }
    // CONNECT and OPTIONS have targets of their own.
    door.refuses(400, "request target", door.with("CONNECT localhost:80", "GET /connect"));
    door.refuses(400, "request target", door.with("OPTIONS *", "GET /connect"));
    door.still_serves();
}

#[test]
fn a_body_beside_the_upgrade_is_answered_400() {
    let door = Door::new();
    let bodies = [
        ("Content-Length: 5", "hello"),
        ("Content-Length: 0\r\nContent-Length: 5", "hello"),
        ("Content-Length: +0", ""),
        ("Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n"),
        ("Transfer-Encoding: identity", ""),
        ("Transfer-Encoding: chunked\r\nContent-Length: 0", "0\r\n\r\n"),
    ];
    for (fields, body) in bodies {
        door.refuses(400, "no body", door.and(fields) + body);
    }
    door.lets_in(&door.and("Content-Length: 0"));
    door.still_serves();
}

#[test]
fn a_key_that_is_missing_doubled_or_not_16_bytes_is_answered_400() {
    let door = Door::new();
    door.refuses(400, "Sec-WebSocket-Key", door.with("", KEY));
    door.refuses(400, "Sec-WebSocket-Key", door.and(KEY.trim_end()));
    for bad in ["", "c2hvcnQ=", "dGhlIHNhbXBsZSBub25jZWE=", "dGhlIHNhbXBsZSBub25jZQ", "?"] {
        let field = format!("Sec-WebSocket-Key: {bad}\r\n");
        door.refuses(400, "Sec-WebSocket-Key", door.with(&field, KEY));
    }
    door.still_serves();
}

#[test]
fn another_version_of_the_websocket_is_answered_426_and_told_which_one() {
    let door = Door::new();
    let others = ["8", "0", "14", "13, 8", "013", "+13", "255", ""];
    let fields = others.map(|version| format!("Sec-WebSocket-Version: {version}\r\n"));
    for field in fields.iter().map(String::as_str).chain([""]) {
        let answer = door.refuses(426, "version 13", door.with(field, VERSION));
        assert_eq!(answer.header("sec-websocket-version"), Some("13"), "{field}");
        assert_eq!(answer.header("upgrade"), Some("websocket"), "{field}");
    }
    door.refuses(400, "Sec-WebSocket-Version", door.and(VERSION.trim_end()));
    door.still_serves();
}

#[test]
fn a_request_that_asks_for_no_websocket_is_answered_426() {
    let door = Door::new();
    for (field, of) in [
        ("", "Upgrade: websocket\r\n"),
        ("Upgrade: h2c\r\n", "Upgrade: websocket\r\n"),
        ("", "Connection: keep-alive, Upgrade\r\n"),
        ("Connection: keep-alive\r\n", "Connection: keep-alive, Upgrade\r\n"),
    ] {
        let answer = door.refuses(426, "WebSockets only", door.with(field, of));
        assert_eq!(answer.header("connection"), Some("close, Upgrade"));
    }
    door.still_serves();
}

#[test]
fn a_hundred_fields_are_let_in_and_a_thousand_are_answered_431() {
    let door = Door::new();
    let fields = |count: usize| {
        let others = door.good.matches("\r\n").count() - 2;
        let more: Vec<_> = (others..count).map(|number| format!("X-{number}: y")).collect();
        door.and(&more.join("\r\n"))
    };
    door.lets_in(&fields(100));
    door.refuses(431, "too large", fields(101));
    door.refuses(431, "too large", fields(1000));
    door.still_serves();
}

#[test]
fn a_line_of_16_kib_is_answered_431_wherever_it_stands() {
    const LEN: usize = 16 << 10;
    let door = Door::new();
    let long = "x".repeat(LEN);
    door.refuses(431, "too large", door.and(&format!("X: {long}")));
    door.refuses(431, "too large", door.and(&format!("{long}: x")));
    door.refuses(431, "too large", door.with(&format!("GET /{long} "), "GET /connect "));
    // Whether or not it ever ends.
    door.refuses(431, "too large", format!("GET /{long}"));
    door.refuses(431, "too large", format!("GET /connect HTTP/1.1\r\nHost: {long}"));
    door.refuses(400, "request line", &long);
    let rest = LEN - door.and("X: ").len();
    door.lets_in(&door.and(&format!("X: {}", "x".repeat(rest))));
    door.refuses(431, "too large", door.and(&format!("X: {}", "x".repeat(rest + 1))));
    door.still_serves();
}

#[test]
fn the_preface_of_http_2_is_answered_400_in_http_1() {
    let door = Door::new();
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let preface = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &settings].concat();
    door.refuses(400, "HTTP/2", preface);
    door.still_serves();
}

#[test]
fn the_hello_of_a_tls_client_is_answered_400_in_plain_text() {
    let door = Door::new();
    let config = ClientConfig::builder()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = "localhost".try_into().expect("it is a name");
    let mut client = ClientConnection::new(Arc::new(config), name).expect("a good config");
    let mut hello = Vec::new();
    client.write_tls(&mut hello).expect("a vector takes everything");
    assert!(hello.len() > 100, "{} bytes are no hello", hello.len());
    door.refuses(400, "TLS", hello);
    door.still_serves();
}

#[test]
fn what_is_no_http_is_answered_400_without_waiting_for_more() {
    let door = Door::new();
    for garbage in ["SSH-2.0-OpenSSH_9.6\r\n", "\0", "{\"a\":1}", "\u{fffd}", "\r\n\r\n", "GET\r\n"]
    {
        door.refuses(400, "request line", garbage);
    }
    for target in ["http://localhost/connect", "connect", "*", "/con\"nect", "/a#b"] {
        let request = door.with(&format!("GET {target} "), "GET /connect ");
        door.refuses(400, "request target", request);
    }
    door.still_serves();
}

#[test]
fn a_head_that_comes_byte_by_byte_is_answered_408_when_its_time_is_over() {
    const HEAD_TIMEOUT: Duration = Duration::from_millis(300);
    let door = Door::of(Setup::new("").set("limits.head_timeout", "300ms"));
    let mut stream = dial(door.gateway.public());
    let began = Instant::now();
    stream.set_read_timeout(Some(Duration::from_millis(10))).expect("a legal time-out");
    // It would never end, and each of its bytes comes soon after the one before.
    let dripped = "GET /connect HTTP/1.1\r\nX: ".bytes().chain(std::iter::repeat(b'x'));
    let mut answer = Vec::new();
    for byte in dripped {
        stream.write_all(&[byte]).expect("the gateway reads until it has been heard");
        let mut piece = [0; 1024];
        match stream.read(&mut piece) {
            Ok(len) => {
                answer.extend(&piece[..len]);
                break;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("{error}"),
        }
        assert!(began.elapsed() < PATIENCE, "it may drip for ever");
    }
    assert!(began.elapsed() >= HEAD_TIMEOUT, "{:?}", began.elapsed());
    stream.set_read_timeout(Some(PATIENCE)).expect("a legal time-out");
    stream.read_to_end(&mut answer).expect("the end of the stream");
    assert_eq!(Answer::parse(&answer).expect("a whole answer").status, 408);
    door.still_serves();
}

#[test]
fn frames_in_the_packet_of_the_head_are_answered_behind_the_101() {
    let door = Door::new();
    let (first, second) = (Request::to([0x11; 16]).id(1), Request::to([0x11; 16]).id(2));
    let frames = [client_frame(&first.encode()), client_frame(&second.encode())].concat();
    let mut stream = dial(door.gateway.public());
    stream.write_all(&[door.good.as_bytes(), &frames].concat()).expect("the gateway reads");
    assert!(read_head(&mut stream).starts_with("HTTP/1.1 101 "));
    let mut client = Client::over(WebSocket::from_raw_socket(stream, Role::Client, None));
    assert_eq!(client.reply(), first.answer(30, ""));
    assert_eq!(client.reply(), second.answer(30, ""));
    client.leave();
    door.still_serves();
}

#[test]
fn a_second_request_behind_the_head_is_a_broken_frame() {
    let door = Door::new();
    let mut stream = dial(door.gateway.public());
    let twice = door.good.clone() + "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(twice.as_bytes()).expect("the gateway reads");
    assert!(read_head(&mut stream).starts_with("HTTP/1.1 101 "));
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("the end of the stream");
    let close = rest.windows(4).any(|bytes| matches!(bytes, [0x88, _, 0x03, 0xea]));
    assert!(close, "no close frame with 1002: {rest:02x?}");
    drop(stream);
    door.still_serves();
}

#[test]
fn one_connection_gets_one_answer_whatever_stands_behind_its_request() {
    let door = Door::new();
    let request = "GET /elsewhere HTTP/1.1\r\nHost: localhost\r\n\r\n";
    // `refuses` makes sure that nothing follows the body.
    door.refuses(404, "Nothing is served", request.repeat(2));
    door.still_serves();
}

#[test]
fn a_client_that_has_ended_its_side_still_reads_why_it_is_refused() {
    let door = Door::new();
    for (request, status) in [
        ("GET /elsewhere HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        ("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
        ("nonsense\r\n", 400),
    ] {
        let mut stream = dial(door.gateway.public());
        stream.write_all(request.as_bytes()).expect("the gateway reads");
        stream.shutdown(Shutdown::Write).expect("an open socket");
        assert_eq!(read_answer(&mut stream).expect("a whole answer").status, status);
    }
    door.still_serves();
}

#[test]
fn a_client_that_ends_its_side_in_the_midst_of_its_head_is_gone() {
    let door = Door::new();
    let mut stream = dial(door.gateway.public());
    stream.write_all(&door.good.as_bytes()[..door.good.len() - 1]).expect("the gateway reads");
    stream.shutdown(Shutdown::Write).expect("an open socket");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("the end of the stream");
    assert!(rest.is_empty(), "nobody was to be answered: {rest:?}");
    assert_eq!(door.gateway.metric("corelane_upgrades_total", "outcome=\"client_gone\""), 1);
    door.still_serves();
}
