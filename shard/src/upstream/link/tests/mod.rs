//! Fixtures: a link with one endpoint, two clients' identities, and a WebSocket server that is not
//! ours to read what the link writes.

mod conversation;
mod example;
mod model;

use std::io::{self, Cursor, Read, Write};
use std::sync::Arc;

use tungstenite::Message;
use tungstenite::protocol::{Role, WebSocket};

use super::*;
use crate::id::{EndpointId, Generation, SessionId, ShardId, Slot};
use crate::identity::Standing;
use crate::snapshot::{ConnectionMode, DoorLimits, Endpoint, Method, SessionLimits, Tracing};
use crate::upstream::trace::Trace;

const START: Instant = Instant(1_000_000_000);

const LIMITS: LinkLimits = LinkLimits {
    dial_timeout: Duration::from_secs(2),
    ping_interval: Duration::from_secs(25),
    pong_timeout: Duration::from_secs(20),
    window: Window { messages: 4, bytes: 1000 },
    calls_max: 100,
};

const GATEWAY: Gateway<'_> = Gateway { service: "demo", node: "7", shard: ShardId(0) };

const BACKEND_HELLO: &str = r#"{"version":1,"credit":{"messages":2,"bytes":100}}"#;

fn identity(session: u128) -> Identity {
    Identity {
        session: SessionId(session),
        account: Some("anna \"a\"".into()),
        standing: standing(["admin".into(), "user".into()].into()),
        expires_at: None,
        issued_at: None,
    }
}

fn standing(roles: Box<[Box<str>]>) -> Arc<Standing> {
    Arc::new(Standing { tenant: "default".into(), roles, authorizations: Box::default() })
}

fn owner(slot: u32) -> ConnectionKey {
    ConnectionKey { slot: Slot(slot), generation: Generation(1) }
}

fn client(identity: &Identity) -> Client<'_> {
    let peer = Some(([192, 0, 2, 9], 40_000).into());
    Client { owner: owner(identity.session.0 as u32), identity, peer }
}

fn data(frame: &[u8]) -> Data<'_> {
    Data { endpoint: 0, trace: None, frame: [frame, &[]] }
}

fn buffer() -> Vec<u8> {
    Vec::with_capacity(1 << 17)
}

/// The frames in `out` as an independent WebSocket server reads them; leaves `out` empty.
fn sent(out: &mut Vec<u8>) -> Vec<Message> {
    struct Received(Cursor<Vec<u8>>);
    impl Read for Received {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            self.0.read(into)
        }
    }
    impl Write for Received {
        fn write(&mut self, from: &[u8]) -> io::Result<usize> {
            Ok(from.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let end = out.len() as u64;
    let received = Received(Cursor::new(std::mem::replace(out, buffer())));
    let mut socket = WebSocket::from_raw_socket(received, Role::Server, None);
    let mut messages = Vec::new();
    while let Ok(message) = socket.read() {
        messages.push(message);
    }
    assert_eq!(socket.get_ref().0.position(), end, "whole frames and nothing else");
    messages
}

/// The link messages in `out`: prefix and body.
fn sent_messages(out: &mut Vec<u8>) -> Vec<(Prefix, Vec<u8>)> {
    let messages = sent(out).into_iter().map(Message::into_data);
    messages
        .map(|bytes| {
            let (prefix, at) = Prefix::parse(&bytes).expect("well-formed");
            (prefix, bytes[at..].to_vec())
        })
        .collect()
}

fn text(body: &[u8]) -> &str {
    std::str::from_utf8(body).expect("JSON")
}

fn message(kind: Kind, tag: u32, session: u128, body: &[u8]) -> Vec<u8> {
    let prefix = Prefix { kind, endpoint: NO_ENDPOINT, tag, session: SessionId(session) };
    [&prefix.to_bytes(None)[..], body].concat()
}

fn snapshot(paths: &[(Method, &str, u16)]) -> Snapshot {
    let endpoints = paths.iter().map(|&(method, path, service)| Endpoint {
        service: ServiceId(service),
        method,
        path: path.into(),
        idempotent: false,
    });
    Snapshot {
        version: 1,
        mode: ConnectionMode::External,
        salt: "salt".into(),
        node: 7,
        services: Box::default(),
        endpoints: endpoints.collect(),
        roles: [].into(),
        session: SessionLimits::default(),
        door: DoorLimits::default(),
        tracing: Tracing::default(),
    }
}

fn link_awaiting_hello() -> Link<u32> {
    let mut link = Link::new(LIMITS, 1, START);
    link.adopt(&snapshot(&[(Method::Post, "/demo/echo", 0)]), ServiceId(0));
    link.connected();
    link.upgraded(START);
    link.write_hello(GATEWAY, &mut buffer()).expect("room");
    link
}

fn open_link() -> Link<u32> {
    let mut link = link_awaiting_hello();
    let hello = message(Kind::Hello, 0, 0, BACKEND_HELLO.as_bytes());
    assert_eq!(link.receive(&hello), Ok(Inbound::Ready));
    link
}

/// Sends call number `call` and returns its tag.
fn call(link: &mut Link<u32>, who: &Identity, call: u32, frame: &[u8]) -> u32 {
    let mut out = buffer();
    link.call(&client(who), data(frame), call, START, &mut out).expect("may go");
    let (prefix, body) = sent_messages(&mut out).pop().expect("one message at least");
    assert_eq!((prefix.kind, &body[..]), (Kind::Data, frame));
    prefix.tag
}

fn answer(code: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x40; 15];
    frame.push(code);
    frame.extend_from_slice(payload);
    frame
}
