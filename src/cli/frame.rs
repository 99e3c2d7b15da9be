//! Frames for people: a decoder of its own, independent of the gateway's, so that each finds the
//! other's mistakes. `call` uses it as a client's codec.

use std::io::Read as _;

use thiserror::Error;
use uuid::Uuid;

use self::hex::parse_hex;
use self::meaning::Explained;
use super::{Failure, output};

mod hex;
mod meaning;

pub(super) const BINARY: u8 = 0x01;
pub(super) const EVENT: u8 = 0x10;
pub(super) const CLIENT: u8 = 0x20;
pub(super) const RESPONSE: u8 = 0x40;

const REQUEST_HEADER_BYTES: usize = 31;
const RESPONSE_HEADER_BYTES: usize = 16;

/// One message of the client protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    pub(super) flags: u8,
    pub(super) channel: u16,
    pub(super) sequence: u32,
    pub(super) message_id: u64,
    pub(super) kind: Kind,
    pub(super) payload: &'a [u8],
}

/// What the two layouts differ in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// 31-byte header.
    Request { guid: Uuid },
    /// 16-byte header.
    Response { code: u8 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum FrameError {
    #[error("{found} bytes are too few for a {needed}-byte header")]
    Short { found: usize, needed: usize },
    #[error("not hexadecimal: two digits 0-9, a-f for each byte")]
    NotHex,
    #[error("the WebSocket frame ends before its payload does")]
    Truncated,
    #[error("bytes follow the end of the WebSocket frame")]
    Trailing,
}

impl<'a> Frame<'a> {
    pub(super) fn decode(bytes: &'a [u8]) -> Result<Self, FrameError> {
        let needed = match bytes.first() {
            Some(flags) if flags & RESPONSE != 0 => RESPONSE_HEADER_BYTES,
            _ => REQUEST_HEADER_BYTES,
        };
        let short = FrameError::Short { found: bytes.len(), needed };
        let (header, payload) = bytes.split_at_checked(needed).ok_or(short)?;
        let id_at = needed - if needed == REQUEST_HEADER_BYTES { 8 } else { 9 };
        let kind = if needed == REQUEST_HEADER_BYTES {
            Kind::Request { guid: Uuid::from_bytes(array(header, 7)) }
        } else {
            Kind::Response { code: header[15] }
        };
        Ok(Self {
            flags: header[0],
            channel: u16::from_be_bytes(array(header, 1)),
            sequence: u32::from_be_bytes(array(header, 3)),
            message_id: u64::from_be_bytes(array(header, id_at)),
            kind,
            payload,
        })
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(REQUEST_HEADER_BYTES + self.payload.len());
        out.push(self.flags);
        out.extend(self.channel.to_be_bytes());
        out.extend(self.sequence.to_be_bytes());
        if let Kind::Request { guid } = self.kind {
            out.extend(guid.as_bytes());
        }
        out.extend(self.message_id.to_be_bytes());
        if let Kind::Response { code } = self.kind {
            out.push(code);
        }
        out.extend(self.payload);
        out
    }
}

/// `N` bytes from `at`; the header's length was checked.
fn array<const N: usize>(header: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&header[at..at + N]);
    out
}

/// Names of response codes.
pub(super) fn code_name(code: u8) -> &'static str {
    match code {
        0 => "OK",
        10 => "RequestError",
        11 => "RequestTooLarge",
        12 => "TooManyRequests",
        13 => "InvalidRequestChannel",
        14 => "TextProtocolNotSupported",
        20 => "Unauthorized",
        30 => "ServiceNotFound",
        31 => "ClientNotFound",
        32 => "MessageNotFound",
        40 => "BroadcastNotAllowed",
        50 => "Service_BadRequest",
        51 => "Service_NotFound",
        52 => "Service_Unauthorized",
        53 => "Service_Conflict",
        60 => "Service_InternalServerError",
        70 => "ShortcutExpired",
        71 => "ShortcutTargetNotFound",
        72 => "ShortcutRevoked",
        _ => "unknown code",
    }
}

/// A WebSocket frame (RFC 6455 §5.2) that fills `bytes` exactly, payload unmasked.
struct WebSocketFrame {
    opcode: u8,
    is_final: bool,
    mask: Option<[u8; 4]>,
    payload: Vec<u8>,
}

impl WebSocketFrame {
    fn parse(bytes: &[u8]) -> Result<Self, FrameError> {
        let (&[first, second], mut rest) =
            bytes.split_first_chunk::<2>().ok_or(FrameError::Truncated)?;
        let length = match second & 0x7f {
            126 => u64::from(u16::from_be_bytes(take(&mut rest)?)),
            127 => u64::from_be_bytes(take(&mut rest)?),
            short => u64::from(short),
        };
        let mask = if second & 0x80 == 0 { None } else { Some(take::<4>(&mut rest)?) };
        match length.cmp(&(rest.len() as u64)) {
            std::cmp::Ordering::Greater => return Err(FrameError::Truncated),
            std::cmp::Ordering::Less => return Err(FrameError::Trailing),
            std::cmp::Ordering::Equal => {}
        }
        let key = mask.unwrap_or_default();
        let payload = rest.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
        Ok(Self { opcode: first & 0x0f, is_final: first & 0x80 != 0, mask, payload })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], FrameError> {
    let (taken, left) = rest.split_first_chunk::<N>().ok_or(FrameError::Truncated)?;
    *rest = left;
    Ok(*taken)
}

/// The likelier of two readings: a WebSocket frame if its opcode exists, its length fits exactly and
/// its payload makes sense; otherwise a bare message.
fn explain(bytes: &[u8]) -> Result<String, FrameError> {
    let first = bytes.first().copied().unwrap_or(0);
    let is_opcode = matches!(first & 0x7f, 0..=2 | 8..=10);
    let outer = WebSocketFrame::parse(bytes);
    match (outer, Frame::decode(bytes)) {
        (Ok(frame), _) if is_opcode && frame.is_plausible() => frame.explain(),
        (_, Ok(frame)) => Ok(Explained { frame, sender: None }.to_string()),
        // Neither: a final WebSocket frame that was cut is likelier than a cut meta request.
        (Err(error), Err(_)) if is_opcode && first & 0x80 != 0 => Err(error),
        (_, Err(error)) => Err(error),
    }
}

/// Who has sent a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sender {
    Client,
    Gateway,
}

impl WebSocketFrame {
    /// A message of the protocol may begin like a WebSocket frame and even fit its length, but
    /// hardly carry another message at the right place.
    fn is_plausible(&self) -> bool {
        match self.opcode {
            2 => Frame::decode(&self.payload).is_ok() || self.payload.is_empty(),
            8..=10 => self.is_final && self.payload.len() <= 125,
            _ => std::str::from_utf8(&self.payload).is_ok(),
        }
    }

    fn explain(&self) -> Result<String, FrameError> {
        let name = match self.opcode {
            0 => "continuation",
            1 => "text",
            2 => "binary",
            8 => "close",
            9 => "ping",
            _ => "pong",
        };
        let ends = if self.is_final { "final" } else { "more follow" };
        let mask = match self.mask {
            Some(key) => format!("masked with {}, from a client", output::hex(&key)),
            None => "not masked, from a server".to_owned(),
        };
        let head = format!("WebSocket {name} frame, {ends}, {mask}");
        let body = match (self.opcode, self.payload.as_slice()) {
            (2, payload) if !payload.is_empty() => {
                let sender =
                    Some(if self.mask.is_some() { Sender::Client } else { Sender::Gateway });
                Explained { frame: Frame::decode(payload)?, sender }.to_string()
            }
            (8, [high, low, reason @ ..]) => {
                let code = u16::from_be_bytes([*high, *low]);
                let meaning = meaning::of_close(code);
                let reason = output::payload(reason);
                format!("  close code  {code} ({meaning})\n  reason      {reason}")
            }
            (_, payload) => {
                format!("  payload     {} bytes: {}", payload.len(), output::payload(payload))
            }
        };
        Ok(format!("{head}\n{body}"))
    }
}

pub(super) fn run(hex: Option<String>) -> Result<(), Failure> {
    let text = match hex {
        Some(text) => text,
        None => {
            let mut text = String::new();
            let read = std::io::stdin().read_to_string(&mut text);
            read.map_err(|error| Failure::Usage(format!("cannot read standard input: {error}")))?;
            text
        }
    };
    let explained = parse_hex(&text).and_then(|bytes| explain(&bytes));
    output::line(&explained.map_err(|error| Failure::Usage(error.to_string()))?);
    Ok(())
}

#[cfg(test)]
mod tests;
