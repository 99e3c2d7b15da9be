//! Request heads: what is let through, what each breach is answered, any cut of either.

use std::borrow::Cow;

use proptest::prelude::*;

use super::*;

const LIMITS: HeadLimits = HeadLimits {
    head_bytes_max: 1024,
    headers_max: 20,
    target_bytes_max: 256,
    token_bytes_max: 64,
};

/// The example of RFC 6455 §1.3, with every field a line of its own.
const UPGRADE: [&str; 5] = [
    "Host: server.example.com",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
];

fn head(request_line: &str, fields: &[&str]) -> Vec<u8> {
    let mut text = format!("{request_line}\r\n");
    for field in fields {
        text.push_str(field);
        text.push_str("\r\n");
    }
    text.push_str("\r\n");
    text.into_bytes()
}

fn get(fields: &[&str]) -> Vec<u8> {
    head("GET /connect HTTP/1.1", fields)
}

/// The example with the fields called `name` replaced by `lines`.
fn with(name: &str, lines: &[&str]) -> Vec<u8> {
    let prefix = format!("{name}:");
    let mut fields: Vec<&str> =
        UPGRADE.into_iter().filter(|field| !field.starts_with(&prefix)).collect();
    fields.extend(lines);
    get(&fields)
}

fn request(bytes: &[u8]) -> Result<Request<'_>, Refusal> {
    match parse(bytes, &LIMITS)? {
        Parsed::Request { request, head_len } => {
            assert_eq!(head_len, bytes.len());
            Ok(request)
        }
        Parsed::Incomplete => panic!("incomplete: {}", String::from_utf8_lossy(bytes)),
    }
}

fn upgrade(bytes: &[u8]) -> Result<Upgrade<'_>, Refusal> {
    request(bytes)?.upgrade()
}

fn refused(bytes: &[u8]) -> Refusal {
    upgrade(bytes).unwrap_err()
}

fn incomplete(bytes: &[u8]) -> bool {
    matches!(parse(bytes, &LIMITS), Ok(Parsed::Incomplete))
}

#[test]
fn the_example_of_the_rfc_is_accepted() {
    let bytes = head("GET /chat?a=b HTTP/1.1", &UPGRADE);
    let request = request(&bytes).unwrap();
    assert_eq!(request.method, "GET");
    assert_eq!(request.target, Target { path: "/chat", query: Some("a=b") });
    assert_eq!(request.host, "server.example.com");
    assert_eq!(request.origin, None);
    let upgrade = request.upgrade().unwrap();
    let mut out = [0; ACCEPT_BYTES_MAX];
    let len = accept(upgrade.key, None, &mut out);
    assert_eq!(
        std::str::from_utf8(&out[..len]).unwrap(),
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    );
}

#[test]
fn a_chosen_subprotocol_is_echoed_and_nothing_else() {
    let mut out = [0; ACCEPT_BYTES_MAX];
    let longest = "p".repeat(SUBPROTOCOL_BYTES_MAX);
    let len = accept(b"dGhlIHNhbXBsZSBub25jZQ==", Some(&longest), &mut out);
    let text = std::str::from_utf8(&out[..len]).unwrap();
    assert!(text.ends_with(&format!("=\r\nSec-WebSocket-Protocol: {longest}\r\n\r\n")), "{text}");
    assert!(!text.contains("Extensions"));
    let len = accept(b"dGhlIHNhbXBsZSBub25jZQ==", Some(&format!("{longest}p")), &mut out);
    assert!(!std::str::from_utf8(&out[..len]).unwrap().contains("Protocol:"));
}

#[test]
fn an_independent_client_is_accepted() {
    use tungstenite::client::IntoClientRequest as _;
    use tungstenite::handshake::client::generate_request;
    let asked = "ws://gateway.test:8080/connect?token=abc".into_client_request().unwrap();
    let (bytes, key) = generate_request(asked).unwrap();
    let request = request(&bytes).unwrap();
    let upgrade = request.upgrade().unwrap();
    assert_eq!(upgrade.key.as_slice(), key.as_bytes());
    let mut out = [0; ACCEPT_BYTES_MAX];
    let len = accept(upgrade.key, None, &mut out);
    let wanted = tungstenite::handshake::derive_accept_key(key.as_bytes());
    assert!(std::str::from_utf8(&out[..len]).unwrap().contains(&format!("Accept: {wanted}\r\n")));
}

#[test]
fn bytes_behind_the_head_are_left_alone() {
    let mut bytes = get(&UPGRADE);
    let len = bytes.len();
    bytes.extend_from_slice(b"\x82\x85\0\n\r\xff");
    let parsed = parse(&bytes, &LIMITS).unwrap();
    assert!(matches!(parsed, Parsed::Request { head_len, .. } if head_len == len));
}

#[test]
fn host_must_come_once_and_name_something() {
    let malformed = Refusal::Malformed(Malformed::Host);
    assert_eq!(refused(&with("Host", &[])), malformed);
    assert_eq!(refused(&with("Host", &["Host: a", "host: a"])), malformed);
    for bad in [
        "", " ", "a b", "a/b", "a,b", "user@a", ":80", "a:b", "a:123456", "[]", "[::1", "[::1]a",
        "a?b", "[g/h]",
    ] {
        assert_eq!(refused(&with("Host", &[&format!("Host: {bad}")])), malformed, "{bad:?}");
    }
    for good in ["a", "a.b-c:443", "127.0.0.1:80", "[::1]", "[::1]:8080", "a:"] {
        let bytes = with("Host", &[&format!("Host:{good}")]);
        assert_eq!(request(&bytes).unwrap().host, good);
    }
}

#[test]
fn only_http_1_1_is_spoken() {
    for line in ["GET / HTTP/1.0", "GET / HTTP/2.0", "GET / HTTP/1.2", "GET / HTTP/1.1 "] {
        assert_eq!(refused(&head(line, &UPGRADE)), Malformed::HttpVersion.into(), "{line}");
    }
    for line in [
        "GET / http/1.1",
        "GET / ICY/1.1",
        "GET /  HTTP/1.1",
        "GET / ",
        " GET / HTTP/1.1",
        "GE(T / HTTP/1.1",
    ] {
        assert_eq!(refused(&head(line, &UPGRADE)), Malformed::RequestLine.into(), "{line}");
    }
}

#[test]
fn only_origin_form_targets_are_taken() {
    for target in [
        "http://a/",
        "a:443",
        "*",
        "connect",
        "/a#b",
        "/a\"b",
        "/a\\b",
        "/\u{e9}",
        "/a{b}",
        "/a|b",
        "",
    ] {
        let refusal = refused(&head(&format!("GET {target} HTTP/1.1"), &UPGRADE));
        assert_eq!(refusal, Malformed::Target.into(), "{target}");
    }
    // HTTP/0.9
    assert_eq!(refused(b"GET /\r\n"), Malformed::Target.into());
}

#[test]
fn line_ends_and_control_characters_are_strict() {
    for bad in [
        "GET / HTTP/1.1\r\nHost: a\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\rb",
        "GET / HTTP/1.1\r\nHost: a\0",
    ] {
        assert_eq!(refused(bad.as_bytes()), Malformed::ControlByte.into(), "{bad:?}");
    }
    for bad in ["GET / HTTP/1.1\n", "GET / HTTP/1.1\rHost", "GET / HTTP/1.1\0"] {
        assert_eq!(refused(bad.as_bytes()), Malformed::ControlByte.into(), "{bad:?}");
    }
    assert_eq!(refused(b"\r\nGET / HTTP/1.1\r\n"), Malformed::RequestLine.into());
}

#[test]
fn folded_lines_and_broken_names_are_refused() {
    for bad in ["X: a\r\n b", "X : a", "X\t: a", ": a", "X", "X(: a", " X: a"] {
        let mut fields = UPGRADE.to_vec();
        fields.push(bad);
        assert_eq!(refused(&get(&fields)), Malformed::Field.into(), "{bad:?}");
    }
    let bytes = get(&[" Host: a", "Host: a"]);
    assert_eq!(refused(&bytes), Malformed::Field.into());
}

#[test]
fn connection_and_upgrade_are_lists_in_any_case() {
    for lines in [
        &["Connection: keep-alive, Upgrade"][..],
        &["connection:UPGRADE"],
        &["Connection: keep-alive", "Connection: ,upgrade ,"],
    ] {
        assert!(upgrade(&with("Connection", lines)).is_ok(), "{lines:?}");
    }
    for lines in [
        &["Upgrade: WebSocket"][..],
        &["Upgrade: h2c, websocket"],
        &["Upgrade: h2c", "Upgrade: websocket"],
    ] {
        assert!(upgrade(&with("Upgrade", lines)).is_ok(), "{lines:?}");
    }
}

#[test]
fn a_request_that_asks_for_no_websocket_is_told_to_upgrade() {
    for bytes in [
        get(&["Host: a"]),
        with("Upgrade", &[]),
        with("Upgrade", &["Upgrade: h2c"]),
        with("Upgrade", &["Upgrade: websockets"]),
        with("Connection", &[]),
        with("Connection", &["Connection: keep-alive"]),
    ] {
        assert_eq!(
            refused(&bytes),
            Refusal::UpgradeRequired,
            "{}",
            String::from_utf8_lossy(&bytes)
        );
    }
}

#[test]
fn the_version_is_13() {
    for lines in [
        &[][..],
        &["Sec-WebSocket-Version: 8"],
        &["Sec-WebSocket-Version: 13, 8"],
        &["Sec-WebSocket-Version:"],
    ] {
        assert_eq!(
            refused(&with("Sec-WebSocket-Version", lines)),
            Refusal::BadVersion,
            "{lines:?}"
        );
    }
    let twice =
        with("Sec-WebSocket-Version", &["Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 13"]);
    assert_eq!(refused(&twice), Malformed::WebSocketVersion.into());
}

#[test]
fn the_key_is_one_nonce_of_16_bytes() {
    for bad in [
        "",
        "dGhlIHNhbXBsZSBub25jZQ=",
        "dGhlIHNhbXBsZSBub25jZQ",
        "dGhlIHNhbXBsZSBub25jZWE=",
        "c2hvcnQ=",
        "dGhlIHNhbXBsZSBub25jZQ*=",
        "dGhlIHNhbXBsZSBub25jZR==",
        "dGhlIHNhbXBsZSBub25j",
    ] {
        let bytes = with("Sec-WebSocket-Key", &[&format!("Sec-WebSocket-Key: {bad}")]);
        assert_eq!(refused(&bytes), Malformed::WebSocketKey.into(), "{bad:?}");
    }
    assert_eq!(refused(&with("Sec-WebSocket-Key", &[])), Malformed::WebSocketKey.into());
    let mut twice = UPGRADE.to_vec();
    twice.push(UPGRADE[3]);
    assert_eq!(refused(&get(&twice)), Malformed::WebSocketKey.into());
}

#[test]
fn only_get_upgrades() {
    for method in ["POST", "HEAD", "OPTIONS", "get", "PRI"] {
        let bytes = head(&format!("{method} /connect HTTP/1.1"), &UPGRADE);
        assert_eq!(refused(&bytes), Refusal::MethodNotAllowed, "{method}");
        assert_eq!(request(&bytes).unwrap().method, method);
    }
}

#[test]
fn an_upgrade_has_no_body() {
    for bad in
        ["Content-Length: 1", "Content-Length: 00", "Content-Length:", "Transfer-Encoding: chunked"]
    {
        let mut fields = UPGRADE.to_vec();
        fields.push(bad);
        assert_eq!(refused(&get(&fields)), Malformed::Body.into(), "{bad}");
        assert_eq!(
            refused(&with("-", &["Content-Length: 0", bad])),
            Malformed::Body.into(),
            "{bad}"
        );
    }
    assert!(upgrade(&with("-", &["Content-Length: 0"])).is_ok());
}

#[test]
fn other_protocols_are_known_by_their_first_bytes() {
    assert_eq!(parse(b"\x16", &LIMITS).unwrap_err(), Refusal::PlainTls);
    assert_eq!(
        parse(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &LIMITS).unwrap_err(),
        Refusal::Http2Preface
    );
    assert!(incomplete(b"PRI * HTTP/2"));
    assert_eq!(refused(b"PRI * HTTP/1"), Malformed::Target.into());
}

#[test]
fn garbage_does_not_wait_for_the_end_of_the_head() {
    for bytes in [
        &b"\0"[..],
        b"\x80",
        b"{",
        b"GET\r",
        b"GET x",
        b"GET /a\x01",
        b"GET / X",
        b"SSH-2.0-OpenSSH_9.6\r",
    ] {
        assert!(parse(bytes, &LIMITS).is_err(), "{bytes:?}");
    }
    assert_eq!(parse(&[b'A'; 25], &LIMITS).unwrap_err(), Malformed::RequestLine.into());
    assert!(incomplete(&[b'A'; 24]));
    assert!(incomplete(b""));
}

#[test]
fn heads_are_bounded_in_bytes_fields_and_target() {
    let filled = |len: usize| {
        let base = get(&UPGRADE).len() + "X: \r\n".len();
        with("-", &[&format!("X: {}", "x".repeat(len - base))])
    };
    assert!(upgrade(&filled(LIMITS.head_bytes_max)).is_ok());
    assert_eq!(refused(&filled(LIMITS.head_bytes_max + 1)), Refusal::HeadTooLarge);
    let endless = &filled(LIMITS.head_bytes_max + 9)[..LIMITS.head_bytes_max];
    assert_eq!(parse(endless, &LIMITS).unwrap_err(), Refusal::HeadTooLarge);

    let fields = |count: usize| with("-", &vec!["X: y"; count - UPGRADE.len()]);
    assert!(upgrade(&fields(LIMITS.headers_max)).is_ok());
    assert_eq!(refused(&fields(LIMITS.headers_max + 1)), Refusal::HeadTooLarge);

    let target = |len: usize| head(&format!("GET /{} HTTP/1.1", "x".repeat(len - 1)), &UPGRADE);
    assert!(upgrade(&target(LIMITS.target_bytes_max)).is_ok());
    assert_eq!(refused(&target(LIMITS.target_bytes_max + 1)), Refusal::HeadTooLarge);
}

#[test]
fn the_credential_is_a_scheme_and_one_token() {
    let credential = |value: &str| {
        let bytes = with("-", &[&format!("Authorization: {value}")]);
        let found = request(&bytes).unwrap().credential(&LIMITS);
        found.map(|found| format!("{:?}", found.unwrap()))
    };
    for scheme in ["Bearer", "bearer", "BEARER"] {
        assert_eq!(
            credential(&format!("{scheme} a.b-c_d~+/==")).unwrap(),
            "Bearer(\"a.b-c_d~+/==\")"
        );
    }
    assert_eq!(credential("Reconnect   abc+/= ").unwrap(), "Reconnect(\"abc+/=\")");
    let long = "x".repeat(LIMITS.token_bytes_max + 1);
    for bad in [
        "",
        "Bearer",
        "Bearer  a",
        "Bearer a b",
        "Bearer a,b",
        "Bearer =",
        "Reconnect",
        "Basic YTpi",
        "token",
        "Bearer\ta",
    ] {
        let refusal =
            if bad.contains('\t') { Malformed::Credential.into() } else { Refusal::BadCredential };
        let bytes = with("-", &[&format!("Authorization: {bad}")]);
        let found = request(&bytes).and_then(|request| request.credential(&LIMITS).map(|_| ()));
        assert_eq!(found, Err(refusal), "{bad:?}");
    }
    assert_eq!(credential(&format!("Bearer {long}")), Err(Refusal::BadCredential));
    assert!(credential(&format!("Bearer {}", &long[1..])).is_ok());
    let bytes = get(&UPGRADE);
    assert_eq!(request(&bytes).unwrap().credential(&LIMITS), Ok(None));
}

#[test]
fn fields_that_decide_come_at_most_once() {
    let twice = with("-", &["Authorization: Bearer a", "authorization: Bearer a"]);
    assert_eq!(refused(&twice), Malformed::Credential.into());
    let twice = with("-", &["Origin: https://a", "Origin: https://a"]);
    assert_eq!(refused(&twice), Malformed::Origin.into());
    let once = with("-", &["Origin: https://a"]);
    assert_eq!(request(&once).unwrap().origin, Some("https://a"));
}

#[test]
fn the_query_token_is_decoded_only_if_it_needs_to_be() {
    let token = |query: &'static str| Target { path: "/", query: Some(query) }.token(&LIMITS);
    assert!(matches!(token("a=b&token=x.y-z"), Ok(Some(Cow::Borrowed("x.y-z")))));
    assert_eq!(token("token=a%2Bb%2fc%3D%3D&x"), Ok(Some("a+b/c==".into())));
    assert_eq!(token("token=a+b="), Ok(Some("a+b=".into())));
    for bad in [
        "token=",
        "token=a%2",
        "token=a%",
        "token=a%zz",
        "token=a%00",
        "token=a%20b",
        "token=%ff",
        "token=a%+1",
    ] {
        assert_eq!(token(bad), Err(Refusal::BadCredential), "{bad}");
    }
    assert_eq!(token("token=a&token=a"), Err(Malformed::Credential.into()));
    for none in ["", "tokens=a", "Token=a", "token", "x?token=a"] {
        assert_eq!(token(none), Ok(None), "{none}");
    }
    let long = format!("token={}", "%41".repeat(LIMITS.token_bytes_max + 1));
    let target = Target { path: "/", query: Some(&long) };
    assert_eq!(target.token(&LIMITS), Err(Refusal::BadCredential));
    assert_eq!(Target { path: "/", query: None }.token(&LIMITS), Ok(None));
    assert_eq!(
        Target { path: "/", query: Some("x=1&compress=br") }.parameter("compress"),
        Some("br")
    );
}

#[test]
fn brotli_is_asked_for_in_the_query_or_in_a_field() {
    let asks = |target: &str, fields: &[&str]| {
        let fields = [&UPGRADE[..], fields].concat();
        let bytes = head(&format!("GET {target} HTTP/1.1"), &fields);
        request(&bytes).unwrap().accepts_brotli()
    };
    assert!(asks("/connect?compress=br", &[]));
    assert!(asks("/connect?token=a&compress=br&x=1", &[]));
    assert!(asks("/connect", &["X-Connect-Compress: br"]));
    assert!(asks("/connect?compress=gzip", &["x-connect-compress: gzip, Br"]));
    for target in ["/connect", "/connect?compress", "/connect?compress=brotli", "/compress=br"] {
        assert!(!asks(target, &["X-Connect-Compress: gzip", "Accept-Encoding: br"]), "{target}");
    }
}

#[test]
fn subprotocols_are_listed_in_the_order_of_the_client() {
    let bytes = with("-", &["Sec-WebSocket-Protocol: b, a(", "Sec-WebSocket-Protocol: c"]);
    let upgrade = upgrade(&bytes).unwrap();
    assert_eq!(upgrade.subprotocols().collect::<Vec<_>>(), ["b", "c"]);
}

#[test]
fn health_says_how_the_process_is() {
    for (health, status, body) in [
        (Health::Ready, "200 OK", "Healthy"),
        (Health::Unavailable, "503 Service Unavailable", "Service unavailable"),
    ] {
        let mut out = [0; HEALTH_BYTES_MAX];
        let len = health_response(health, &mut out);
        let text = std::str::from_utf8(&out[..len]).unwrap();
        let (head, found) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status}\r\nConnection: close\r\n")), "{head}");
        assert!(head.ends_with(&format!("Content-Length: {}", body.len())), "{head}");
        assert_eq!(found, body);
    }
}

/// What a caller can see of an answer.
fn summary(bytes: &[u8], scanned: usize, limits: &HeadLimits) -> Option<Result<String, Refusal>> {
    match resume(bytes, scanned, limits) {
        Ok(Parsed::Incomplete) => None,
        Ok(Parsed::Request { request, head_len }) => {
            let upgrade =
                request.upgrade().map(|upgrade| (upgrade.key, upgrade.subprotocols().count()));
            let credential = request.credential(limits);
            let token = request.target.token(limits);
            Some(Ok(format!(
                "{head_len} {} {:?} {} {:?} {upgrade:?} {credential:?} {token:?}",
                request.method, request.target, request.host, request.origin
            )))
        }
        Err(refusal) => Some(Err(refusal)),
    }
}

/// Fed byte by byte, the first final answer is the one that the whole gets.
fn splits_alike(bytes: &[u8], limits: &HeadLimits) {
    let whole = summary(bytes, 0, limits);
    let first =
        (0..=bytes.len()).find_map(|len| summary(&bytes[..len], len.saturating_sub(1), limits));
    assert_eq!(first, whole, "{}", String::from_utf8_lossy(bytes));
}

fn mostly_good_head() -> impl Strategy<Value = Vec<u8>> {
    let line = prop::sample::select(vec![
        "GET /connect HTTP/1.1",
        "GET /connect?token=a%2Eb HTTP/1.1",
        "POST /c HTTP/1.1",
        "PRI * HTTP/2.0",
        "PRI / HTTP/1.1",
        "GET http://a/ HTTP/1.1",
        "GET / HTTP/1.0",
    ]);
    let field = prop::sample::select(vec![
        UPGRADE[0],
        UPGRADE[1],
        UPGRADE[2],
        UPGRADE[3],
        UPGRADE[4],
        "Host: b",
        "Authorization: Bearer x",
        "Origin: o",
        "Content-Length: 0",
        "X: y\r\n z",
        "X : y",
        "Sec-WebSocket-Protocol: a, b",
        "Connection: close",
        "X: \u{e9}",
    ]);
    (line, prop::collection::vec(field, 0..8), 0usize..300, any::<u8>()).prop_map(
        |(line, extra, at, byte)| {
            let mut bytes = head(line, &[&UPGRADE[..], &extra].concat());
            bytes.extend_from_slice(b"\x81\x80frame");
            // One time in four a byte is damaged.
            if byte < 64 && at < bytes.len() {
                bytes[at] = byte;
            }
            bytes
        },
    )
}

proptest! {
    #[test]
    fn any_split_of_a_head_gives_the_same_answer(
        bytes in mostly_good_head(),
        head_bytes_max in 40usize..600,
        headers_max in 4usize..20,
    ) {
        splits_alike(&bytes, &LIMITS);
        splits_alike(&bytes, &HeadLimits { head_bytes_max, headers_max, target_bytes_max: 12, ..LIMITS });
    }

    #[test]
    fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        splits_alike(&bytes, &LIMITS);
    }

    #[test]
    fn hostile_text_never_panics(text in "(GET|PRI) [/*a-c?#%&=]{0,9} HTTP/1[.][01]\r\n([HhUX:, \t\r\n]|Host: a\r\n){0,20}") {
        splits_alike(text.as_bytes(), &LIMITS);
    }
}
