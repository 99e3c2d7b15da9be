//! Link backends that a test plays itself, message by message.

#![expect(clippy::result_large_err, reason = "the signature of tungstenite's callback")]

use std::collections::VecDeque;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};
use tungstenite::handshake::server::{ErrorResponse, Request as Upgrade, Response};
use tungstenite::http::{HeaderValue, StatusCode};
use tungstenite::{Message, WebSocket, accept_hdr};

use super::frames::{Reply, Request, array};
use super::{PATIENCE, Stream};

pub(crate) const HELLO: u8 = 1;
pub(crate) const OPEN: u8 = 2;
pub(crate) const CLOSE: u8 = 3;
pub(crate) const DATA: u8 = 4;
pub(crate) const CREDIT: u8 = 5;
pub(crate) const GOAWAY: u8 = 6;

const NONE: u16 = 0xffff;

/// One link message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LinkMessage {
    pub(crate) kind: u8,
    pub(crate) endpoint: u16,
    pub(crate) tag: u32,
    pub(crate) session: u128,
    /// What stands before the body of a traced call: trace id, span id, flags.
    pub(crate) trace: Option<[u8; 25]>,
    pub(crate) body: Vec<u8>,
}

impl LinkMessage {
    pub(crate) fn new(kind: u8, tag: u32, session: u128, body: impl Into<Vec<u8>>) -> Self {
        Self { kind, endpoint: NONE, tag, session, trace: None, body: body.into() }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![self.kind, 0];
        out.extend(self.endpoint.to_be_bytes());
        out.extend(self.tag.to_be_bytes());
        out.extend(self.session.to_be_bytes());
        out.extend(&self.body);
        out
    }

    fn decode(bytes: &[u8]) -> Self {
        assert!(bytes.len() >= 24, "shorter than a prefix: {bytes:02x?}");
        let (trace, body) = match bytes[1] {
            0 => (None, &bytes[24..]),
            1 => (Some(array(&bytes[24..49])), &bytes[49..]),
            other => panic!("flags that nobody knows: {other:#x}"),
        };
        assert!(trace.is_none() || bytes[0] == DATA, "only data is traced: {bytes:02x?}");
        Self {
            kind: bytes[0],
            endpoint: u16::from_be_bytes(array(&bytes[2..4])),
            tag: u32::from_be_bytes(array(&bytes[4..8])),
            session: u128::from_be_bytes(array(&bytes[8..24])),
            trace,
            body: body.to_vec(),
        }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }

    /// The trace context as HTTP backends get it.
    pub(crate) fn traceparent(&self) -> Option<String> {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let trace = self.trace?;
        let [id, span, flags] = [&trace[..16], &trace[16..24], &trace[24..]].map(hex);
        Some(format!("00-{id}-{span}-{flags}"))
    }
}

/// Where the gateway's links arrive.
pub(crate) struct LinkBackend {
    pub(crate) url: String,
    arrivals: Receiver<(Box<dyn Stream>, Ending)>,
}

/// Cuts a connection from outside, without a word.
type Ending = Box<dyn Fn() + Send>;

impl LinkBackend {
    pub(crate) fn listen() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let url = format!("link://{}", listener.local_addr().expect("it is bound"));
        let (sender, arrivals) = channel();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                stream.set_read_timeout(Some(PATIENCE)).expect("a legal time-out");
                stream.set_nodelay(true).expect("it is a TCP socket");
                let copy = stream.try_clone().expect("descriptors are left");
                let cut: Ending = Box::new(move || drop(copy.shutdown(std::net::Shutdown::Both)));
                if sender.send((Box::new(stream) as Box<dyn Stream>, cut)).is_err() {
                    return;
                }
            }
        });
        Self { url, arrivals }
    }

    pub(crate) fn listen_unix(file: &Path) -> Self {
        let listener = UnixListener::bind(file).expect("the folder is writable");
        let url = format!("link+unix:{}", file.display());
        let (sender, arrivals) = channel();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                stream.set_read_timeout(Some(PATIENCE)).expect("a legal time-out");
                let copy = stream.try_clone().expect("descriptors are left");
                let cut: Ending = Box::new(move || drop(copy.shutdown(std::net::Shutdown::Both)));
                if sender.send((Box::new(stream) as Box<dyn Stream>, cut)).is_err() {
                    return;
                }
            }
        });
        Self { url, arrivals }
    }

    /// TOML as [`super::http_backend::service`].
    pub(crate) fn service(&self, paths: &str, settings: &str) -> String {
        super::http_backend::service(&self.url, paths, settings)
    }

    /// The next link that the gateway dials, upgraded.
    pub(crate) fn accept(&self) -> BackendLink {
        let (stream, cut) = self.arrivals.recv_timeout(PATIENCE).expect("the gateway dials");
        let seen = Arc::new(Mutex::new(None));
        let keep = Arc::clone(&seen);
        let welcome = move |upgrade: &Upgrade, mut response: Response| {
            *keep.lock().expect("nobody panics with it") = Some(upgrade.clone());
            let protocol = HeaderValue::from_static("corelane-link.1");
            response.headers_mut().insert("Sec-WebSocket-Protocol", protocol);
            Ok(response)
        };
        let socket = accept_hdr(stream, welcome).expect("the gateway upgrades");
        let upgrade = seen.lock().expect("nobody panics with it").take();
        let arrived = VecDeque::new();
        BackendLink { socket, cut, arrived, upgrade: upgrade.expect("it was shown the upgrade") }
    }

    /// Refuses the next link with 401.
    pub(crate) fn refuse(&self) {
        let (stream, _cut) = self.arrivals.recv_timeout(PATIENCE).expect("the gateway dials");
        let refused = accept_hdr(stream, |_: &Upgrade, _: Response| {
            let mut refusal = ErrorResponse::new(None);
            *refusal.status_mut() = StatusCode::UNAUTHORIZED;
            Err::<Response, _>(refusal)
        });
        assert!(refused.is_err());
    }

    /// The next link with both hellos said, generous with credit.
    pub(crate) fn link(&self) -> BackendLink {
        self.link_with(32, 65_536)
    }

    pub(crate) fn link_with(&self, messages: u32, bytes: u32) -> BackendLink {
        let mut link = self.accept();
        let hello = link.next();
        assert_eq!((hello.kind, hello.session), (HELLO, 0), "the gateway speaks first");
        link.hello(messages, bytes);
        link.settle();
        link
    }
}

/// One link, seen from the backend.
pub(crate) struct BackendLink {
    pub(crate) socket: WebSocket<Box<dyn Stream>>,
    pub(crate) upgrade: Upgrade,
    cut: Ending,
    /// Read while something else was waited for.
    arrived: VecDeque<LinkMessage>,
}

impl BackendLink {
    pub(crate) fn hello(&mut self, messages: u32, bytes: u32) {
        let hello = json!({"version": 1, "credit": {"messages": messages, "bytes": bytes}});
        self.send(&LinkMessage::new(HELLO, 0, 0, hello.to_string()));
    }

    pub(crate) fn send(&mut self, message: &LinkMessage) {
        self.send_message(Message::binary(message.encode()));
    }

    pub(crate) fn send_message(&mut self, message: Message) {
        self.socket.send(message).expect("the link stands");
    }

    /// Returns when the gateway has read all that was sent to it.
    pub(crate) fn settle(&mut self) {
        self.send_message(Message::Ping("settle".into()));
        loop {
            match self.socket.read() {
                Ok(Message::Pong(_)) => return,
                Ok(Message::Binary(bytes)) => self.arrived.push_back(LinkMessage::decode(&bytes)),
                Ok(Message::Ping(_)) => {}
                other => panic!("waited for a pong, got {other:?}"),
            }
        }
    }

    /// The gateway has read all that was sent to it, and has nothing to say.
    pub(crate) fn assert_quiet(&mut self, why: &str) {
        self.settle();
        assert!(self.arrived.is_empty(), "{why}: {:?}", self.arrived);
    }

    pub(crate) fn next(&mut self) -> LinkMessage {
        if let Some(message) = self.arrived.pop_front() {
            return message;
        }
        loop {
            match self.socket.read() {
                Ok(Message::Binary(bytes)) => return LinkMessage::decode(&bytes),
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                other => panic!("waited for a link message, got {other:?}"),
            }
        }
    }

    /// The next message, which is of this kind.
    pub(crate) fn expect(&mut self, kind: u8) -> LinkMessage {
        let message = self.next();
        assert_eq!(message.kind, kind, "{message:?}");
        message
    }

    /// The next call, with its frame.
    pub(crate) fn call(&mut self) -> (LinkMessage, Request) {
        let message = self.expect(DATA);
        assert_ne!(message.tag, 0, "not a call: {message:?}");
        let request = Request::decode(&message.body);
        (message, request)
    }

    /// Answers `call` with `reply`.
    pub(crate) fn answer(&mut self, call: &LinkMessage, reply: &Reply) {
        self.send(&LinkMessage::new(DATA, call.tag, call.session, reply.encode()));
    }

    pub(crate) fn push(&mut self, session: u128, request: &Request) {
        self.send(&LinkMessage::new(DATA, 0, session, request.encode()));
    }

    /// The close code with which the gateway ends the link because of `what`.
    pub(crate) fn close_code(&mut self, what: &str) -> u16 {
        loop {
            match self.socket.read() {
                Ok(Message::Close(Some(frame))) => return frame.code.into(),
                Ok(_) => {}
                Err(error) => panic!("{what}: no close frame but {error}"),
            }
        }
    }

    /// Ends the connection without a word.
    pub(crate) fn cut(&self) {
        (self.cut)();
    }
}
