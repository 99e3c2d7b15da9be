//! A gateway of a few lines on a thread, made with `tungstenite`'s server side.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::thread;

use serde_json::json;
use tungstenite::accept;

use super::*;

const GUID: Uuid = Uuid::from_u128(0xcab5_4425_5941_5c52_bfb2_221b_0cea_4f17);
const TIMEOUT: Duration = Duration::from_secs(5);

fn manifest_text() -> String {
    json!({
        "eventName": "connect.capability-manifest",
        "sessionId": "3f2504e0-4f89-41d3-9a0c-0305e82c3301",
        "availableApis": [
            {"serviceId": GUID.to_string(), "endpoint": "/demo/echo", "service": "demo"},
            {"serviceId": Uuid::nil().to_string(), "endpoint": "/a", "service": "one"},
            {"serviceId": Uuid::nil().to_string(), "endpoint": "/a", "service": "two"},
        ],
    })
    .to_string()
}

fn event(payload: &[u8]) -> Message {
    let kind = Kind::Request { guid: Uuid::nil() };
    let frame = Frame { flags: EVENT, channel: 0, sequence: 0, message_id: 9, kind, payload };
    Message::binary(frame.encode())
}

/// Runs `serve` on the first connection and gives the URL to reach it.
pub(super) fn gateway(
    serve: impl FnOnce(TcpStream) + Send + 'static,
) -> (String, thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    let server = thread::spawn(move || serve(listener.accept().unwrap().0));
    (url, server)
}

fn answering(code: u8) -> (String, thread::JoinHandle<()>) {
    gateway(move |stream| {
        let mut socket = accept(stream).unwrap();
        socket.send(event(b"{\"eventName\":\"something.else\"}")).unwrap();
        socket.send(event(manifest_text().as_bytes())).unwrap();
        let bytes = socket.read().unwrap().into_data();
        let request = Frame::decode(&bytes).unwrap();
        assert_eq!(request.kind, Kind::Request { guid: GUID });
        let payload = if code == 0 { request.payload } else { b"" };
        let kind = Kind::Response { code };
        let reply = Frame { flags: RESPONSE, kind, payload, ..request };
        socket.send(event(b"{}")).unwrap();
        socket.send(Message::binary(reply.encode())).unwrap();
        while socket.read().is_ok() {}
    })
}

fn args(url: &str, timeout: Duration) -> CallArgs {
    CallArgs {
        url: url.to_owned(),
        token: "t".to_owned(),
        endpoint: Some("/demo/echo".to_owned()),
        payload: "{\"n\":1}".to_owned(),
        channel: 3,
        timeout,
    }
}

#[test]
fn a_call_goes_by_the_manifest_and_returns_the_answer() {
    let (url, server) = answering(0);
    let mut client = Client::connect(request(&url, "t").unwrap(), TIMEOUT).unwrap();
    let manifest = client.manifest().unwrap();
    let guid = find(&manifest, "demo:/demo/echo").unwrap().service_id;
    let kind = Kind::Request { guid };
    let frame = Frame { flags: 0, channel: 3, sequence: 0, message_id: 1, kind, payload: b"hi" };
    assert_eq!(client.call(&frame).unwrap(), (0, b"hi".to_vec()));
    client.close().unwrap();
    server.join().unwrap();
}

#[test]
fn a_refused_call_ends_with_69_and_names_the_code() {
    let (url, server) = answering(51);
    let failure = run(&args(&url, TIMEOUT)).unwrap_err();
    assert_eq!(failure.exit_code(), 69);
    assert!(failure.to_string().contains("51"), "{failure}");
    server.join().unwrap();
}

#[test]
fn a_refusal_at_the_door_is_explained() {
    for (status, words) in [
        ("401 Unauthorized", "the token was refused"),
        ("503 Service Unavailable", "full, draining"),
    ] {
        let (url, server) = gateway(move |mut stream| {
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).unwrap();
            let answer =
                format!("HTTP/1.1 {status}\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let failure = run(&args(&url, TIMEOUT)).unwrap_err();
        assert_eq!(failure.exit_code(), 69);
        let text = failure.to_string();
        assert!(text.contains(words) && text.contains("after 7 s"), "{text}");
        server.join().unwrap();
    }
}

#[test]
fn a_silent_gateway_is_given_up_in_every_phase() {
    let short = Duration::from_millis(50);
    let (url, server) =
        gateway(|mut stream| while stream.read(&mut [0; 512]).is_ok_and(|n| n > 0) {});
    assert!(
        run(&args(&url, short)).unwrap_err().to_string().contains("did not answer the upgrade")
    );
    server.join().unwrap();

    let (url, server) = gateway(|stream| {
        let mut socket = accept(stream).unwrap();
        while socket.read().is_ok() {}
    });
    let failure = run(&args(&url, short)).unwrap_err();
    assert!(failure.to_string().contains("gave up waiting for the manifest"), "{failure}");
    server.join().unwrap();
}

#[test]
fn a_close_is_reported_with_code_and_reason() {
    let (url, server) = gateway(|stream| {
        let mut socket = accept(stream).unwrap();
        let code = tungstenite::protocol::frame::coding::CloseCode::from(4001);
        let reason = "Session invalidated: Logout".into();
        socket.close(Some(tungstenite::protocol::CloseFrame { code, reason })).unwrap();
        while socket.read().is_ok() {}
    });
    let text = run(&args(&url, TIMEOUT)).unwrap_err().to_string();
    assert!(text.contains("4001 Session invalidated: Logout"), "{text}");
    server.join().unwrap();
}

#[test]
fn an_unreachable_gateway_is_unavailable() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    drop(listener);
    let failure = run(&args(&url, TIMEOUT)).unwrap_err();
    assert_eq!(failure.exit_code(), 69);
    assert!(failure.to_string().contains("cannot reach 127.0.0.1"), "{failure}");
}

#[test]
fn urls_are_completed_and_strange_ones_refused() {
    let path = |url: &str| request(url, "t").unwrap().uri().to_string();
    assert_eq!(path("ws://h:1"), "ws://h:1/connect");
    assert_eq!(path("http://h:1/"), "ws://h:1/connect");
    assert_eq!(path("ws://[::1]:1/echo"), "ws://[::1]:1/echo");
    for url in ["wss://h", "https://h", "h:1", "ws://", "ws://a b"] {
        assert_eq!(request(url, "t").unwrap_err().exit_code(), 64, "{url}");
    }
    assert_eq!(request("ws://h:1", "a\nb").unwrap_err().exit_code(), 64);
}

#[test]
fn endpoints_are_found_by_path_or_by_service_and_path() {
    let manifest: Manifest = serde_json::from_str(&manifest_text()).unwrap();
    for name in ["/demo/echo", "demo:/demo/echo", "demo/demo/echo"] {
        assert_eq!(find(&manifest, name).unwrap().service_id, GUID, "{name}");
    }
    assert!(find(&manifest, "/a").unwrap_err().to_string().contains("one:/a or two:/a"));
    assert_eq!(find(&manifest, "two:/a").unwrap().service, "two");
    assert!(find(&manifest, "/b").is_err());
    assert!(table(&manifest).contains("cab54425-5941-5c52-bfb2-221b0cea4f17  demo  /demo/echo"));
}
