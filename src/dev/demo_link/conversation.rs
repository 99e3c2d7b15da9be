//! A backend's side of one link: which reply a message wants. No sockets, no clock.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::{Value, json};
use thiserror::Error;

use super::super::configuration::SERVICE;
use super::super::description::{Description, Question};

pub(in super::super) const ECHO: &str = "/demo/link-echo";

// Kinds of link messages.
const HELLO: u8 = 1;
const OPEN: u8 = 2;
const CLOSE: u8 = 3;
const DATA: u8 = 4;
const CREDIT: u8 = 5;
const GOAWAY: u8 = 6;

/// Kind, flags, endpoint, tag, session.
const PREFIX: usize = 24;
const NO_ENDPOINT: u16 = 0xffff;
/// Prefix flag: a trace context stands before the body.
const TRACED: u8 = 0x01;
const TRACE: usize = 25;

const REQUEST_HEADER: usize = 31;
const RESPONSE_HEADER: usize = 16;
// Flags of a client frame.
const COMPRESSED: u8 = 0x04;
const RESPONSE: u8 = 0x40;
const META: u8 = 0x80;
// Codes of an answer.
const OK: u8 = 0;
const BAD_REQUEST: u8 = 50;
const NOT_FOUND: u8 = 51;
const FAILED: u8 = 60;

/// The window of each session: what may be under way to this backend.
const CREDIT_MESSAGES: u32 = 256;
const CREDIT_BYTES: u32 = 1 << 20;

/// Why this side ends the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum Fault {
    #[error("a text message")]
    Text,
    #[error("shorter than its prefix")]
    Short,
    #[error("unknown kind")]
    Kind,
    #[error("undefined flag")]
    Flags,
    #[error("JSON missing or wrong")]
    Json,
    #[error("hello comes first")]
    Early,
    #[error("no version in common")]
    Version,
    #[error("hello too late")]
    LateHello,
    #[error("message too long")]
    TooLong,
    #[error("no answer to Ping")]
    Silent,
}

impl Fault {
    pub(super) fn close_code(self) -> u16 {
        match self {
            Self::Silent => 1001,
            Self::Text | Self::Short | Self::Kind | Self::Flags | Self::Json | Self::Early => 1002,
            Self::Version | Self::LateHello => 1008,
            Self::TooLong => 1009,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    BeforeHello,
    Open,
}

/// The gateway's hello.
#[derive(Debug, Deserialize)]
struct Hello {
    versions: Vec<u32>,
    endpoints: Vec<String>,
}

/// Who a session is; the gateway has verified it.
#[derive(Debug, Deserialize)]
struct Open {
    #[expect(dead_code, reason = "an echo asks nobody's name; a game does")]
    account: Option<String>,
    #[expect(dead_code, reason = "an echo asks nobody's role; a game may")]
    roles: Vec<String>,
}

type SessionId = [u8; 16];

/// All that a backend remembers of one link.
#[derive(Debug, Default)]
pub(super) struct Conversation {
    /// What the endpoint field of data indexes; there since the gateway's hello.
    endpoints: Option<Vec<String>>,
    sessions: HashMap<SessionId, Open>,
}

/// The first 24 bytes of every link message.
#[derive(Debug, Clone, Copy)]
struct Prefix {
    kind: u8,
    flags: u8,
    endpoint: u16,
    tag: u32,
    session: SessionId,
}

impl Conversation {
    pub(super) fn stage(&self) -> Stage {
        match self.endpoints {
            None => Stage::BeforeHello,
            Some(_) => Stage::Open,
        }
    }

    /// Takes one message from the gateway and returns the reply to it, if it wants one.
    pub(super) fn receive(&mut self, message: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        let (prefix, body) = Prefix::parse(message).ok_or(Fault::Short)?;
        if prefix.flags & !TRACED != 0 || (prefix.flags != 0 && prefix.kind != DATA) {
            return Err(Fault::Flags);
        }
        if prefix.kind != HELLO && self.stage() == Stage::BeforeHello {
            return Err(Fault::Early);
        }
        match prefix.kind {
            HELLO => self.hello(body).map(Some),
            OPEN => {
                let open = serde_json::from_slice(body).map_err(|_| Fault::Json)?;
                self.sessions.insert(prefix.session, open);
                Ok(None)
            }
            CLOSE => {
                json_object(body)?;
                self.sessions.remove(&prefix.session);
                Ok(None)
            }
            DATA => self.data(prefix, body),
            // This backend pushes nothing, so it needs no credit, and takes no session by itself
            // that a leaving gateway would have to place elsewhere.
            CREDIT | GOAWAY => json_object(body).map(|()| None),
            _ => Err(Fault::Kind),
        }
    }

    /// The first message, and again whenever a reload has added endpoints.
    fn hello(&mut self, body: &[u8]) -> Result<Vec<u8>, Fault> {
        let hello: Hello = serde_json::from_slice(body).map_err(|_| Fault::Json)?;
        if !hello.versions.contains(&1) {
            return Err(Fault::Version);
        }
        self.endpoints = Some(hello.endpoints);
        let credit = json!({ "messages": CREDIT_MESSAGES, "bytes": CREDIT_BYTES });
        Ok(json_message(HELLO, [0; 16], &json!({ "version": 1, "credit": credit })))
    }

    fn data(&self, prefix: Prefix, body: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        let frame = match prefix.flags & TRACED {
            0 => body,
            // Where this call belongs in a distributed trace; not needed here.
            _ => body.get(TRACE..).ok_or(Fault::Short)?,
        };
        if !self.sessions.contains_key(&prefix.session) {
            return Ok(None);
        }
        if prefix.tag == 0 {
            // An event request: nothing to answer, but its credit is to be given back.
            let credit = json!({ "messages": 1, "bytes": frame.len() });
            return Ok(Some(json_message(CREDIT, prefix.session, &credit)));
        }
        let answer = Prefix { kind: DATA, flags: 0, endpoint: NO_ENDPOINT, ..prefix };
        let mut out = Vec::with_capacity(PREFIX + RESPONSE_HEADER + frame.len());
        answer.write(&mut out);
        self.answer(prefix.endpoint, frame, &mut out);
        Ok(Some(out))
    }

    /// Every call is answered, whatever is wrong with it.
    fn answer(&self, endpoint: u16, frame: &[u8], out: &mut Vec<u8>) {
        let Some((header, payload)) = frame.split_at_checked(REQUEST_HEADER) else {
            return answer_frame(&[0; REQUEST_HEADER], FAILED, &[], out);
        };
        let flags = header[0];
        let path = self.endpoints.as_ref().and_then(|paths| paths.get(usize::from(endpoint)));
        match path.map(String::as_str) {
            Some(ECHO) if flags & META != 0 => {
                let channel = u16::from_be_bytes([header[1], header[2]]);
                let text = describe().answer(Question::from_channel(channel));
                answer_frame(header, OK, text.as_bytes(), out);
            }
            // An answer is never marked as compressed, so this payload cannot be given back.
            Some(ECHO) if flags & COMPRESSED != 0 => answer_frame(header, BAD_REQUEST, &[], out),
            Some(ECHO) => answer_frame(header, OK, payload, out),
            _ => answer_frame(header, NOT_FOUND, &[], out),
        }
    }
}

impl Prefix {
    fn parse(message: &[u8]) -> Option<(Self, &[u8])> {
        let (prefix, body) = message.split_first_chunk::<PREFIX>()?;
        let (numbers, session) = prefix.split_first_chunk::<8>()?;
        let [kind, flags, e0, e1, t0, t1, t2, t3] = *numbers;
        let prefix = Self {
            kind,
            flags,
            endpoint: u16::from_be_bytes([e0, e1]),
            tag: u32::from_be_bytes([t0, t1, t2, t3]),
            session: session.try_into().ok()?,
        };
        Some((prefix, body))
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend([self.kind, self.flags]);
        out.extend(self.endpoint.to_be_bytes());
        out.extend(self.tag.to_be_bytes());
        out.extend(self.session);
    }
}

fn json_message(kind: u8, session: SessionId, body: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    let prefix = Prefix { kind, flags: 0, endpoint: NO_ENDPOINT, tag: 0, session };
    prefix.write(&mut out);
    out.extend(body.to_string().bytes());
    out
}

fn json_object(body: &[u8]) -> Result<(), Fault> {
    let parsed: Result<serde_json::Map<String, Value>, _> = serde_json::from_slice(body);
    parsed.map(drop).map_err(|_| Fault::Json)
}

/// The client's answer: channel, sequence and message id as in the request. A payload goes with
/// code 0 only.
fn answer_frame(request: &[u8], code: u8, payload: &[u8], out: &mut Vec<u8>) {
    out.push(request[0] & !COMPRESSED | RESPONSE);
    out.extend(&request[1..7]);
    out.extend(&request[23..31]);
    out.push(code);
    out.extend(payload);
}

fn describe() -> Description {
    Description {
        service: SERVICE,
        path: ECHO,
        operation: "linkEcho",
        summary: "Answers with the request's payload, over a link",
        request: json!(true),
        response: json!(true),
    }
}
