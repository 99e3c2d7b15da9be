//! Writing masked WebSocket frames into a send buffer: header, prefix and body in one pass.

use super::error::NotSent;
use super::prefix::{PREFIX_LEN, Prefix};
use crate::block::Block;
use crate::upstream::trace::{TRACE_LEN, Trace};
use crate::wire::mask::copy_masked;

/// Where a link writes what it sends. Never grows.
pub trait SendBuffer {
    /// Bytes that can still be appended.
    fn room(&self) -> usize;

    /// Appends `len <= room()` bytes of undefined content and returns them to be written.
    fn reserve(&mut self, len: usize) -> &mut [u8];
}

impl SendBuffer for Block {
    fn room(&self) -> usize {
        Self::room(self)
    }

    fn reserve(&mut self, len: usize) -> &mut [u8] {
        Self::reserve(self, len)
    }
}

/// As far as the capacity reaches.
impl SendBuffer for Vec<u8> {
    fn room(&self) -> usize {
        self.capacity() - self.len()
    }

    fn reserve(&mut self, len: usize) -> &mut [u8] {
        let at = self.len();
        self.resize(at + len, 0);
        &mut self[at..]
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OpCode {
    Binary = 0x2,
    Close = 0x8,
    Ping = 0x9,
    Pong = 0xA,
}

/// Bytes on the wire of a link message with a body of `body` bytes.
pub(super) const fn message_len(body: usize, trace: Option<Trace>) -> usize {
    let trace = if trace.is_some() { TRACE_LEN } else { 0 };
    let payload = PREFIX_LEN + trace + body;
    client_header_len(payload) + payload
}

/// Appends one whole link message; the body is given in two parts and copied once.
pub(super) fn write_message(
    out: &mut impl SendBuffer,
    mask: [u8; 4],
    prefix: Prefix,
    trace: Option<Trace>,
    body: [&[u8]; 2],
) -> Result<(), NotSent> {
    let body_len = body[0].len() + body[1].len();
    let len = message_len(body_len, trace);
    if out.room() < len {
        return Err(NotSent::NoRoom);
    }
    let payload_len = PREFIX_LEN + body_len + trace.map_or(0, |_| TRACE_LEN);
    let (header, payload) = out.reserve(len).split_at_mut(client_header_len(payload_len));
    write_client_header(header, OpCode::Binary, payload_len, mask);
    let mut masked = Masked { target: payload, mask, at: 0 };
    masked.put(&prefix.to_bytes(trace));
    if let Some(trace) = trace {
        masked.put(&trace.to_bytes());
    }
    masked.put(body[0]);
    masked.put(body[1]);
    Ok(())
}

/// Appends a control frame; `payload` is at most 125 bytes.
pub(super) fn write_control(
    out: &mut impl SendBuffer,
    mask: [u8; 4],
    opcode: OpCode,
    payload: &[u8],
) -> Result<(), NotSent> {
    let header_len = client_header_len(payload.len());
    if out.room() < header_len + payload.len() {
        return Err(NotSent::NoRoom);
    }
    let (header, target) = out.reserve(header_len + payload.len()).split_at_mut(header_len);
    write_client_header(header, opcode, payload.len(), mask);
    copy_masked(payload, target, mask, 0);
    Ok(())
}

/// Fills a frame's payload piece by piece, keeping the phase of the mask.
struct Masked<'a> {
    target: &'a mut [u8],
    mask: [u8; 4],
    at: usize,
}

impl Masked<'_> {
    fn put(&mut self, piece: &[u8]) {
        let end = self.at + piece.len();
        copy_masked(piece, &mut self.target[self.at..end], self.mask, self.at);
        self.at = end;
    }
}

const fn client_header_len(payload_len: usize) -> usize {
    match payload_len {
        0..=125 => 6,
        126..=0xFFFF => 8,
        _ => 14,
    }
}

fn write_client_header(out: &mut [u8], opcode: OpCode, payload_len: usize, mask: [u8; 4]) {
    let (lengths, key) = out.split_at_mut(out.len() - 4);
    lengths[0] = 0x80 | opcode as u8;
    match u16::try_from(payload_len) {
        Ok(len) if len < 126 => lengths[1] = 0x80 | len as u8,
        Ok(len) => {
            lengths[1] = 0x80 | 126;
            lengths[2..].copy_from_slice(&len.to_be_bytes());
        }
        Err(_) => {
            lengths[1] = 0x80 | 127;
            lengths[2..].copy_from_slice(&(payload_len as u64).to_be_bytes());
        }
    }
    key.copy_from_slice(&mask);
}
