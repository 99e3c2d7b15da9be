//! A gateway written from `docs/LINK.md`, byte by byte, over real sockets.

use serde_json::Value;
use tungstenite::client::IntoClientRequest as _;

use super::*;

const TOKEN: &str = "the token";
const SESSION: [u8; 16] = [0x3f; 16];
const HELLO: &str = r#"{"versions":[1],"service":"demo","endpoints":["/other","/demo/link-echo"],"node":"7",
    "shard":0,"credit":{"messages":32,"bytes":65536}}"#;
const OPEN: &str = r#"{"account":"anna","roles":["user"],"tenant":"default","new":1}"#;
const ENDPOINT: u16 = 1;

type Socket = WebSocket<TcpStream>;

fn connect(path: &str, token: &str, protocol: &str) -> Result<(Socket, String), u16> {
    let address = spawn(TOKEN).unwrap();
    let mut request = format!("ws://{address}{path}").into_client_request().unwrap();
    let headers = request.headers_mut();
    headers.insert("X-Service-Token", token.parse().unwrap());
    headers.insert("Sec-WebSocket-Protocol", protocol.parse().unwrap());
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    match tungstenite::client::client(request, stream) {
        Ok((socket, response)) => {
            let chosen = response.headers()["Sec-WebSocket-Protocol"].to_str();
            Ok((socket, chosen.unwrap().to_owned()))
        }
        Err(tungstenite::HandshakeError::Failure(Error::Http(response))) => {
            Err(response.status().as_u16())
        }
        Err(error) => panic!("{error}"),
    }
}

fn message(kind: u8, endpoint: u16, tag: u32, session: [u8; 16], body: &[u8]) -> Vec<u8> {
    let mut out = vec![kind, 0];
    out.extend(endpoint.to_be_bytes());
    out.extend(tag.to_be_bytes());
    out.extend(session);
    out.extend(body);
    out
}

fn call(flags: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![flags];
    out.extend(channel.to_be_bytes());
    out.extend([0, 0, 0, 9]);
    out.extend([0xca; 16]);
    out.extend([1, 2, 3, 4, 5, 6, 7, 8]);
    out.extend(payload);
    out
}

/// The next binary message.
fn hear(socket: &mut Socket) -> Vec<u8> {
    loop {
        match socket.read().unwrap() {
            Message::Binary(bytes) => return bytes.to_vec(),
            Message::Close(frame) => panic!("closed: {frame:?}"),
            _ => {}
        }
    }
}

fn tell(socket: &mut Socket, bytes: Vec<u8>) {
    socket.send(Message::binary(bytes)).unwrap();
}

/// A link on which `SESSION` is open.
fn open_link() -> Socket {
    let (mut socket, chosen) = connect("/corelane-link", TOKEN, "corelane-link.1").unwrap();
    assert_eq!(chosen, "corelane-link.1");
    tell(&mut socket, message(1, 0xffff, 0, [0; 16], HELLO.as_bytes()));
    let hello = hear(&mut socket);
    assert_eq!(hello[..24], message(1, 0xffff, 0, [0; 16], b""));
    let hello: Value = serde_json::from_slice(&hello[24..]).unwrap();
    assert_eq!(hello["version"], 1);
    assert!(hello["credit"]["messages"].as_u64().unwrap() > 0);
    assert!(hello["credit"]["bytes"].as_u64().unwrap() > 0);
    tell(&mut socket, message(2, 0xffff, 0, SESSION, OPEN.as_bytes()));
    socket
}

/// Calls with tag 5 and returns flags, code and payload of the answer.
fn answer(socket: &mut Socket, endpoint: u16, frame: &[u8]) -> (u8, u8, Vec<u8>) {
    tell(socket, message(4, endpoint, 5, SESSION, frame));
    let got = hear(socket);
    assert_eq!(got[..24], message(4, 0xffff, 5, SESSION, b""));
    let frame_got = &got[24..];
    assert_eq!(frame_got[1..7], frame[1..7], "channel and sequence");
    assert_eq!(frame_got[7..15], frame[23..31], "message id");
    (frame_got[0], frame_got[15], frame_got[16..].to_vec())
}

/// The code with which the backend ends the link.
fn closed(mut socket: Socket) -> u16 {
    loop {
        match socket.read().unwrap() {
            Message::Close(frame) => return frame.unwrap().code.into(),
            Message::Binary(bytes) => panic!("{bytes:?}"),
            _ => {}
        }
    }
}

#[test]
fn calls_are_answered_with_their_payload() {
    let mut link = open_link();
    for payload in [&b"{}"[..], b"", &[9; 100_000]] {
        let (flags, code, echoed) = answer(&mut link, ENDPOINT, &call(0x09, 5, payload));
        assert_eq!((flags, code), (0x49, 0));
        assert!(echoed == payload);
    }
    let (_, code, payload) = answer(&mut link, 0, &call(0, 0, b"{}"));
    assert_eq!((code, payload.len()), (51, 0));
    let (_, code, _) = answer(&mut link, 99, &call(0, 0, b"{}"));
    assert_eq!(code, 51);
    let (flags, code, payload) = answer(&mut link, ENDPOINT, &call(0x04, 0, b"\x8b"));
    assert_eq!((flags, code, payload.len()), (0x40, 50, 0));
}

#[test]
fn a_call_without_a_whole_header_is_answered_60() {
    let mut link = open_link();
    tell(&mut link, message(4, ENDPOINT, 6, SESSION, b"short"));
    let got = hear(&mut link);
    assert_eq!(got[4..8], [0, 0, 0, 6]);
    assert_eq!((got[24], got[39], got.len()), (0x40, 60, 40));
}

#[test]
fn a_trace_context_is_passed_over() {
    let mut link = open_link();
    let mut traced = vec![0xee; 25];
    traced.extend(call(0, 0, b"{\"a\":1}"));
    let mut data = message(4, ENDPOINT, 7, SESSION, &traced);
    data[1] = 1;
    tell(&mut link, data);
    let got = hear(&mut link);
    assert_eq!((got[1], got[39], &got[40..]), (0, 0, &b"{\"a\":1}"[..]));
}

#[test]
fn questions_about_the_endpoint_are_answered() {
    let mut link = open_link();
    for (channel, meta_type) in [
        (0, "endpoint-info"),
        (1, "request-schema"),
        (2, "response-schema"),
        (3, "full-schema"),
        (9, "endpoint-info"),
    ] {
        let (flags, code, payload) = answer(&mut link, ENDPOINT, &call(0x80, channel, b""));
        assert_eq!((flags, code), (0xc0, 0));
        let payload: Value = serde_json::from_slice(&payload).unwrap();
        assert_eq!(payload["metaType"], meta_type);
        assert_eq!(payload["path"], "/demo/link-echo");
    }
}

#[test]
fn an_event_request_gets_its_credit_back_and_no_answer() {
    let mut link = open_link();
    tell(&mut link, message(4, ENDPOINT, 0, SESSION, &call(0x10, 0, b"{\"a\":1}")));
    let credit = hear(&mut link);
    assert_eq!(credit[..24], message(5, 0xffff, 0, SESSION, b""));
    let credit: Value = serde_json::from_slice(&credit[24..]).unwrap();
    assert_eq!(credit, serde_json::json!({ "messages": 1, "bytes": 38 }));
}

#[test]
fn data_of_a_closed_session_is_dropped_and_the_link_stays() {
    let mut link = open_link();
    tell(&mut link, message(3, 0xffff, 0, SESSION, br#"{"reason":"closed"}"#));
    tell(&mut link, message(4, ENDPOINT, 1, SESSION, &call(0, 0, b"1")));
    let credit = br#"{"messages":1,"bytes":1}"#;
    tell(&mut link, message(5, 0xffff, 0, SESSION, credit));
    let goaway = br#"{"deadlineMs":30000}"#;
    tell(&mut link, message(6, 0xffff, 0, [0; 16], goaway));
    tell(&mut link, message(2, 0xffff, 0, SESSION, OPEN.as_bytes()));
    // The first answer is that of the call after the second open.
    let (_, code, payload) = answer(&mut link, ENDPOINT, &call(0, 0, b"2"));
    assert_eq!((code, &payload[..]), (0, &b"2"[..]));
}

#[test]
fn a_second_hello_brings_new_endpoints() {
    let mut link = open_link();
    let (_, code, _) = answer(&mut link, 2, &call(0, 0, b"{}"));
    assert_eq!(code, 51);
    let grown = HELLO.replace("link-echo\"]", "link-echo\",\"/demo/link-echo\"]");
    assert_ne!(grown, HELLO);
    tell(&mut link, message(1, 0xffff, 0, [0; 16], grown.as_bytes()));
    assert_eq!(hear(&mut link)[0], 1);
    let (_, code, _) = answer(&mut link, 2, &call(0, 0, b"{}"));
    assert_eq!(code, 0);
}

#[test]
fn pings_are_answered() {
    let mut link = open_link();
    link.send(Message::Ping(vec![1, 2].into())).unwrap();
    assert_eq!(link.read().unwrap(), Message::Pong(vec![1, 2].into()));
}

#[test]
fn only_who_has_the_token_gets_a_link() {
    let refused = |path, token, protocol| connect(path, token, protocol).err();
    let path = "/corelane-link";
    assert_eq!(refused(path, "the tokem", SUBPROTOCOL), Some(401));
    assert_eq!(refused(path, "the token ", "other"), Some(400));
    assert_eq!(refused(path, "the token2", SUBPROTOCOL), Some(401));
    assert_eq!(refused("/elsewhere", TOKEN, SUBPROTOCOL), Some(404));
    assert_eq!(refused(path, TOKEN, "a, corelane-link.1"), None);
}

#[test]
fn faults_end_the_link_with_the_code_of_the_protocol() {
    let faulty = |bytes: Vec<u8>| {
        let mut link = open_link();
        tell(&mut link, bytes);
        closed(link)
    };
    assert_eq!(faulty(vec![4; 23]), 1002);
    assert_eq!(faulty(message(7, 0xffff, 0, SESSION, b"{}")), 1002);
    assert_eq!(faulty(message(2, 0xffff, 0, SESSION, b"{}")), 1002);
    assert_eq!(faulty(message(5, 0xffff, 0, SESSION, b"[]")), 1002);
    let mut flagged = message(4, ENDPOINT, 1, SESSION, &call(0, 0, b""));
    flagged[1] = 2;
    assert_eq!(faulty(flagged), 1002);
    let versions = HELLO.replace("[1]", "[2]");
    assert_eq!(faulty(message(1, 0xffff, 0, [0; 16], versions.as_bytes())), 1008);
    let mut text = open_link();
    text.send(Message::text("{}")).unwrap();
    assert_eq!(closed(text), 1002);
    let (mut early, _) = connect("/corelane-link", TOKEN, SUBPROTOCOL).unwrap();
    tell(&mut early, message(2, 0xffff, 0, SESSION, OPEN.as_bytes()));
    assert_eq!(closed(early), 1002);
    let mut long = open_link();
    tell(&mut long, vec![4; MESSAGE_BYTES_MAX + 1]);
    assert_eq!(closed(long), 1009);
}
