//! A link backend in one file: blocking sockets, one thread per link, every endpoint echoes.
//!
//! ```sh
//! LINK_TOKEN=secret cargo run --example link_backend -- 127.0.0.1:9300
//! ```
//!
//! It shares no code with the gateway and follows docs/LINK.md alone, so it can be taken as
//! the start of a backend. A real one would push events too; tests/backends/link_backend.py shows
//! the credit that takes.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line program")]
#![expect(
    clippy::result_large_err,
    reason = "an upgrade is refused in the shape that tungstenite gives it"
)]

use std::collections::HashSet;
use std::env;
use std::error::Error;
use std::net::{TcpListener, TcpStream};
use std::thread;

use serde_json::{Value, json};
use tungstenite::Message;
use tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tungstenite::http::{HeaderValue, StatusCode};
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;

const SUBPROTOCOL: &str = "corelane-link.1";
const PATH: &str = "/corelane-link";

/// Kinds of link messages.
const HELLO: u8 = 1;
const OPEN: u8 = 2;
const CLOSE: u8 = 3;
const DATA: u8 = 4;
const CREDIT: u8 = 5;
const GOAWAY: u8 = 6;

/// kind 1, flags 1, endpoint 2, tag 4, session 16
const PREFIX_BYTES: usize = 24;
const TRACE_CONTEXT: u8 = 0x01;
const TRACE_CONTEXT_BYTES: usize = 25;
const NO_ENDPOINT: u16 = 0xffff;

/// flags 1, channel 2, sequence 4, GUID 16, message id 8
const REQUEST_HEADER_BYTES: usize = 31;
const COMPRESSED: u8 = 0x04;
const RESPONSE: u8 = 0x40;
const META: u8 = 0x80;

/// Response codes of a backend.
const OK: u8 = 0;
const NOT_FOUND: u8 = 51;
const INTERNAL_ERROR: u8 = 60;

type SessionId = [u8; 16];
type Socket = tungstenite::WebSocket<TcpStream>;
type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

fn main() -> Outcome {
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9300".to_owned());
    let token = env::var("LINK_TOKEN").unwrap_or_default();
    let listener = TcpListener::bind(&address)?;
    println!("listening on {}", listener.local_addr()?);
    for stream in listener.incoming() {
        let (stream, token) = (stream?, token.clone());
        thread::spawn(move || {
            if let Err(error) = serve(stream, &token) {
                eprintln!("a link ended: {error}");
            }
        });
    }
    Ok(())
}

/// Upgrades one connection and answers on it until it ends.
fn serve(stream: TcpStream, token: &str) -> Outcome {
    stream.set_nodelay(true)?;
    let upgrade = |request: &Request, response| authorize(request, response, token);
    let mut socket = tungstenite::accept_hdr(stream, upgrade).map_err(|e| e.to_string())?;
    let mut link = Link::default();
    loop {
        let answer = match socket.read()? {
            Message::Binary(message) => link.receive(&message),
            Message::Text(_) => Err(Violation::Malformed),
            Message::Close(_) => return Ok(()),
            // Pings are answered by tungstenite.
            _ => Ok(None),
        };
        match answer {
            Ok(None) => {}
            Ok(Some(message)) => socket.send(message.into())?,
            Err(violation) => return refuse(&mut socket, violation),
        }
    }
}

fn authorize(
    request: &Request,
    mut response: Response,
    token: &str,
) -> Result<Response, ErrorResponse> {
    let refusal = |status| {
        let mut refusal = ErrorResponse::new(None);
        *refusal.status_mut() = status;
        refusal
    };
    let header = |name: &str| request.headers().get(name).map(HeaderValue::as_bytes);
    // A backend that strangers can reach compares in constant time.
    if header("x-service-token").unwrap_or_default() != token.as_bytes() {
        return Err(refusal(StatusCode::UNAUTHORIZED));
    }
    if request.uri().path() != PATH {
        return Err(refusal(StatusCode::NOT_FOUND));
    }
    if header("sec-websocket-protocol") != Some(SUBPROTOCOL.as_bytes()) {
        return Err(refusal(StatusCode::BAD_REQUEST));
    }
    let headers = response.headers_mut();
    headers.insert("Sec-WebSocket-Protocol", HeaderValue::from_static(SUBPROTOCOL));
    Ok(response)
}

/// How the gateway broke the rules.
#[derive(Clone, Copy, Debug)]
enum Violation {
    Malformed,
    NoCommonVersion,
}

fn refuse(socket: &mut Socket, violation: Violation) -> Outcome {
    let (code, reason) = match violation {
        Violation::Malformed => (CloseCode::Protocol, "not a link message"),
        Violation::NoCommonVersion => (CloseCode::Policy, "no common version"),
    };
    socket.close(Some(CloseFrame { code, reason: reason.into() }))?;
    // The close reply ends the reading with an error, as it should.
    while socket.read().is_ok() {}
    Ok(())
}

/// What one link knows.
#[derive(Default)]
struct Link {
    greeted: bool,
    /// Paths by index, as the gateway numbers them.
    endpoints: Vec<String>,
    /// Sessions opened on this link.
    sessions: HashSet<SessionId>,
}

impl Link {
    /// Takes one message; returns the message to send in answer, if any.
    fn receive(&mut self, message: &[u8]) -> Result<Option<Vec<u8>>, Violation> {
        let (prefix, rest) =
            message.split_first_chunk::<PREFIX_BYTES>().ok_or(Violation::Malformed)?;
        let [kind, flags, e0, e1, t0, t1, t2, t3, session @ ..] = *prefix;
        let (endpoint, tag) = (u16::from_be_bytes([e0, e1]), u32::from_be_bytes([t0, t1, t2, t3]));
        let body = match flags & TRACE_CONTEXT {
            0 => rest,
            _ => rest.get(TRACE_CONTEXT_BYTES..).ok_or(Violation::Malformed)?,
        };
        match kind {
            HELLO => return self.hello(body),
            OPEN | CLOSE | DATA | CREDIT | GOAWAY if !self.greeted => {
                return Err(Violation::Malformed);
            }
            OPEN => {
                self.sessions.insert(session);
            }
            CLOSE => {
                self.sessions.remove(&session);
            }
            DATA => return self.data(endpoint, tag, session, body),
            // Credit is for pushes, which this backend makes none of; after goaway the gateway
            // opens no new sessions here, and what runs is answered as ever.
            CREDIT | GOAWAY => {}
            _ => return Err(Violation::Malformed),
        }
        Ok(None)
    }

    fn hello(&mut self, body: &[u8]) -> Result<Option<Vec<u8>>, Violation> {
        let hello: Value = serde_json::from_slice(body).map_err(|_| Violation::Malformed)?;
        let list = |key| hello[key].as_array().ok_or(Violation::Malformed);
        if !list("versions")?.contains(&json!(1)) {
            return Err(Violation::NoCommonVersion);
        }
        // A reload sends a longer list; the indices stay.
        let paths = list("endpoints")?.iter();
        self.endpoints = paths.filter_map(|p| Some(p.as_str()?.to_owned())).collect();
        if self.greeted {
            return Ok(None);
        }
        self.greeted = true;
        let hello = json!({ "version": 1, "credit": { "messages": 32, "bytes": 65_536 } });
        Ok(Some(message(HELLO, 0, [0; 16], hello.to_string().as_bytes())))
    }

    fn data(
        &self,
        endpoint: u16,
        tag: u32,
        session: SessionId,
        frame: &[u8],
    ) -> Result<Option<Vec<u8>>, Violation> {
        if tag == 0 {
            // Nobody waits for an answer, so only a credit message gives the credit back.
            let grant = json!({ "messages": 1, "bytes": frame.len() });
            return Ok(Some(message(CREDIT, 0, session, grant.to_string().as_bytes())));
        }
        let (header, payload) =
            frame.split_first_chunk::<REQUEST_HEADER_BYTES>().ok_or(Violation::Malformed)?;
        let (code, payload) = self.answer(endpoint, header[0], session, payload);
        // The reply copies flags, channel, sequence and message id, and leaves the GUID out.
        let mut reply = vec![(header[0] | RESPONSE) & !COMPRESSED];
        reply.extend(&header[1..7]);
        reply.extend(&header[23..31]);
        reply.push(code);
        reply.extend(payload);
        Ok(Some(message(DATA, tag, session, &reply)))
    }

    /// The code and payload for one call: the place for a service's own work.
    fn answer<'a>(
        &self,
        endpoint: u16,
        flags: u8,
        session: SessionId,
        payload: &'a [u8],
    ) -> (u8, &'a [u8]) {
        if !self.sessions.contains(&session) {
            return (INTERNAL_ERROR, &[]);
        }
        match self.endpoints.get(usize::from(endpoint)) {
            Some(path) if flags & META == 0 && path.ends_with("echo") => (OK, payload),
            _ => (NOT_FOUND, &[]),
        }
    }
}

/// A link message to the gateway, which carries no endpoint.
fn message(kind: u8, tag: u32, session: SessionId, body: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, 0];
    message.extend(NO_ENDPOINT.to_be_bytes());
    message.extend(tag.to_be_bytes());
    message.extend(session);
    message.extend(body);
    message
}
