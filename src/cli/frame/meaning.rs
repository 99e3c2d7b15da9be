//! What a message is about: its kind, the names of its numbers, its payload in plain.

use std::fmt;
use std::io::Read as _;

use serde_json::Value;

use super::{BINARY, CLIENT, EVENT, Frame, Kind, RESPONSE, Sender, code_name};
use crate::cli::output;

const COMPRESSED: u8 = 0x04;
const META: u8 = 0x80;

const FLAGS: [(u8, &str); 8] = [
    (BINARY, "binary"),
    (0x02, "opaque"),
    (COMPRESSED, "compressed"),
    (0x08, "high priority"),
    (EVENT, "event"),
    (CLIENT, "client"),
    (RESPONSE, "response"),
    (META, "meta"),
];

const META_TYPES: [&str; 4] = ["endpoint info", "request schema", "response schema", "full schema"];

/// Longest payload that is shown whole.
const SHOWN_BYTES_MAX: usize = 4096;

/// Of a compressed payload no more than this is inflated.
const INFLATED_BYTES_MAX: u64 = 32 << 20;

/// A message as it is shown.
pub(super) struct Explained<'a> {
    pub(super) frame: Frame<'a>,
    /// Known from the WebSocket frame around it.
    pub(super) sender: Option<Sender>,
}

/// A payload that can be read.
enum Plain {
    AsItIs,
    Inflated(Vec<u8>),
    /// The flag is set, but it is not one whole Brotli stream.
    NoBrotli,
    TooLong,
}

impl fmt::Display for Explained<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let frame = &self.frame;
        let plain = plain(frame);
        let payload = match &plain {
            Plain::Inflated(bytes) => bytes,
            _ => frame.payload,
        };
        let bytes = match frame.kind {
            Kind::Request { .. } => 31,
            Kind::Response { .. } => 16,
        };
        writeln!(f, "message with {bytes}-byte header: {}", self.what(payload))?;
        let set = FLAGS.iter().filter(|(bit, _)| frame.flags & bit != 0).map(|(_, name)| *name);
        let names: Vec<_> = set.collect();
        let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        writeln!(f, "  flags       0x{:02x} ({names})", frame.flags)?;
        write!(f, "  channel     {}", frame.channel)?;
        if frame.flags & META != 0 {
            let meta = META_TYPES.get(usize::from(frame.channel)).unwrap_or(&META_TYPES[0]);
            write!(f, " (meta type: {meta})")?;
        }
        writeln!(f, "\n  sequence    {}", frame.sequence)?;
        if let Kind::Request { guid } = frame.kind {
            let meaning = match (guid.is_nil(), guid.is_max()) {
                (true, _) => " (system)",
                (_, true) => " (broadcast)",
                _ => "",
            };
            writeln!(f, "  guid        {guid}{meaning}")?;
        }
        writeln!(f, "  message id  {0} (0x{0:016x})", frame.message_id)?;
        if let Kind::Response { code } = frame.kind {
            writeln!(f, "  code        {code} ({})", code_name(code))?;
        }
        write!(f, "  payload     {} bytes", frame.payload.len())?;
        match plain {
            Plain::AsItIs => {}
            Plain::Inflated(_) => write!(f, " of Brotli, {} bytes inflated", payload.len())?,
            Plain::NoBrotli => f.write_str(", flagged as compressed but no Brotli stream")?,
            Plain::TooLong => {
                write!(f, " of Brotli, more than {} MiB inflated", INFLATED_BYTES_MAX >> 20)?;
            }
        }
        write_payload(f, payload)
    }
}

impl Explained<'_> {
    /// What the message does, `payload` being in plain.
    fn what(&self, payload: &[u8]) -> String {
        let Frame { flags, kind, .. } = self.frame;
        let is = |bit| flags & bit != 0;
        match kind {
            Kind::Response { .. } if is(META) => "answer to a meta request".into(),
            Kind::Response { .. } if is(CLIENT) => "answer to a peer message or broadcast".into(),
            Kind::Response { .. } => match self.sender {
                Some(Sender::Client) => "answer to an RPC".into(),
                Some(Sender::Gateway) => "answer to a call".into(),
                None => "answer to a call, or of a client to an RPC".into(),
            },
            Kind::Request { .. } if is(META) => "meta request".into(),
            Kind::Request { guid } if is(CLIENT) && guid.is_max() => "broadcast".into(),
            Kind::Request { .. } if is(CLIENT) => "peer message".into(),
            Kind::Request { guid } if guid.is_nil() && is(EVENT) => event(payload),
            Kind::Request { .. } if is(EVENT) => match self.sender {
                Some(Sender::Client) => "call that wants no answer".into(),
                Some(Sender::Gateway) => "event of a backend".into(),
                None => "call that wants no answer, or event of a backend".into(),
            },
            Kind::Request { .. } if !is(BINARY) || self.sender == Some(Sender::Client) => {
                "call of an endpoint or shortcut".into()
            }
            Kind::Request { .. } if self.sender == Some(Sender::Gateway) => {
                "RPC to a client".into()
            }
            Kind::Request { .. } => "call of an endpoint or shortcut, or RPC to a client".into(),
        }
    }
}

/// An event of the gateway by its name.
fn event(payload: &[u8]) -> String {
    let json: Value = serde_json::from_slice(payload).unwrap_or_default();
    let text = |field: &str| json[field].as_str().map(output::printable).unwrap_or_default();
    match &*text("eventName") {
        "" => "event without a name".into(),
        "connect.ack" => {
            let sequence = text("sequence");
            format!("acknowledgement of all events up to message id {sequence}")
        }
        "connect.capability-manifest" | "connect.capability_manifest" => {
            let count = json["availableApis"].as_array().map_or(0, Vec::len);
            format!("capability manifest, {count} endpoints and shortcuts")
        }
        name => format!("event {name}"),
    }
}

fn plain(frame: &Frame<'_>) -> Plain {
    if frame.flags & COMPRESSED == 0 {
        return Plain::AsItIs;
    }
    let mut inflated = Vec::new();
    let mut stream = brotli::Decompressor::new(frame.payload, 4096).take(INFLATED_BYTES_MAX + 1);
    match stream.read_to_end(&mut inflated) {
        Err(_) => Plain::NoBrotli,
        Ok(_) if inflated.len() as u64 > INFLATED_BYTES_MAX => Plain::TooLong,
        Ok(_) => Plain::Inflated(inflated),
    }
}

fn write_payload(f: &mut fmt::Formatter<'_>, payload: &[u8]) -> fmt::Result {
    let shown = &payload[..payload.len().min(SHOWN_BYTES_MAX)];
    match std::str::from_utf8(payload) {
        _ if payload.is_empty() => Ok(()),
        Ok(_) => write!(f, ", text: {}", output::printable(&String::from_utf8_lossy(shown))),
        Err(_) => write!(f, ", hex: {}", output::hex(shown)),
    }
}

/// Close codes as docs/PROTOCOL.md has them.
pub(super) fn of_close(code: u16) -> &'static str {
    match code {
        1000 => "ended by the client",
        1001 => "shutdown: reconnect",
        1002 => "protocol error",
        1003 => "unsupported kind of message",
        1007 => "text that is not UTF-8",
        1008 => "policy violation",
        1009 => "message too long",
        1011 => "internal error: retry later",
        1013 => "too slow, or load is shed: retry later",
        4001 => "session over: log in again",
        4002 => "replaced by a newer connection: do not reconnect",
        4003 => "message rate abuse: retry later",
        4004 => "idle: reconnect when needed",
        4005 => "node lost its identity: reconnect",
        _ => "unknown code",
    }
}
