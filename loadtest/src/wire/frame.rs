//! WebSocket frames as a client sees them (RFC 6455 section 5): what it sends is masked, what it
//! receives must not be. Sans-IO: bytes in, frames out. Joining fragments is the connection's part.

use thiserror::Error;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Opcode {
    #[inline]
    fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xa => Self::Pong,
            _ => return None,
        })
    }

    #[inline]
    fn bits(self) -> u8 {
        match self {
            Self::Continuation => 0x0,
            Self::Text => 0x1,
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xa,
        }
    }

    #[inline]
    fn is_control(self) -> bool {
        self.bits() >= 0x8
    }
}

/// A frame from the server, its payload still in the caller's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) last: bool,
    pub(crate) opcode: Opcode,
    pub(crate) payload: &'a [u8],
    /// Bytes of header and payload together.
    pub(crate) len: usize,
}

/// A rule of RFC 6455 that the server broke.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum FrameError {
    #[error("fragments do not follow each other as they must")]
    Fragments,
    #[error("a close frame of one byte, with a code that must not be sent, or a broken reason")]
    CloseFrame,
    #[error("a frame from the server is masked")]
    Masked,
    #[error("a reserved bit is set")]
    ReservedBit,
    #[error("unknown opcode {0:#x}")]
    UnknownOpcode(u8),
    #[error("a control frame is fragmented or longer than 125 bytes")]
    ControlShape,
    #[error("a length is not in its shortest form")]
    LongLength,
    #[error("a frame of {0} bytes is longer than this client takes")]
    TooLong(u64),
}

/// No test of ours moves more in one frame.
const PAYLOAD_BYTES_MAX: u64 = 16 << 20;

/// The frame at the start of `bytes`, or nothing if it is not complete yet.
#[inline]
pub(crate) fn decode(bytes: &[u8]) -> Result<Option<Frame<'_>>, FrameError> {
    let Some(([first, second], rest)) = bytes.split_first_chunk() else {
        return Ok(None);
    };
    if first & 0x70 != 0 {
        return Err(FrameError::ReservedBit);
    }
    let bits = first & 0x0f;
    let opcode = Opcode::from_bits(bits).ok_or(FrameError::UnknownOpcode(bits))?;
    let last = first & 0x80 != 0;
    if second & 0x80 != 0 {
        return Err(FrameError::Masked);
    }
    if opcode.is_control() && (!last || *second > 125) {
        return Err(FrameError::ControlShape);
    }
    let Some((payload_bytes, rest)) = decode_length(*second, rest)? else {
        return Ok(None);
    };
    if payload_bytes > PAYLOAD_BYTES_MAX {
        return Err(FrameError::TooLong(payload_bytes));
    }
    let Some(payload) = rest.get(..payload_bytes as usize) else {
        return Ok(None);
    };
    let len = bytes.len() - rest.len() + payload.len();
    Ok(Some(Frame { last, opcode, payload, len }))
}

/// The payload's length and what follows it.
#[inline]
fn decode_length(short: u8, rest: &[u8]) -> Result<Option<(u64, &[u8])>, FrameError> {
    let (length, rest, least) = match short {
        126 => match rest.split_first_chunk() {
            Some((length, rest)) => (u64::from(u16::from_be_bytes(*length)), rest, 126),
            None => return Ok(None),
        },
        127 => match rest.split_first_chunk() {
            Some((length, rest)) => (u64::from_be_bytes(*length), rest, 1 << 16),
            None => return Ok(None),
        },
        short => (u64::from(short), rest, 0),
    };
    if length < least {
        return Err(FrameError::LongLength);
    }
    Ok(Some((length, rest)))
}

/// The code of a close frame's payload, if it has one.
pub(crate) fn close_code(payload: &[u8]) -> Result<Option<u16>, FrameError> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return if payload.is_empty() { Ok(None) } else { Err(FrameError::CloseFrame) };
    };
    let code = u16::from_be_bytes(*code);
    let may_be_sent = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
    if !may_be_sent || str::from_utf8(reason).is_err() {
        return Err(FrameError::CloseFrame);
    }
    Ok(Some(code))
}

/// Appends one whole, masked frame to `out`.
pub(crate) fn encode(opcode: Opcode, payload: &[u8], key: [u8; 4], out: &mut Vec<u8>) {
    begin(opcode, payload.len(), key, out);
    let start = out.len();
    out.extend_from_slice(payload);
    mask(&mut out[start..], key);
}

/// Appends the header of an unfragmented frame with `payload_bytes`, which the caller appends and
/// masks.
#[inline]
pub(crate) fn begin(opcode: Opcode, payload_bytes: usize, key: [u8; 4], out: &mut Vec<u8>) {
    let first = 0x80 | opcode.bits();
    match payload_bytes {
        short @ 0..=125 => out.extend_from_slice(&[first, 0x80 | short as u8]),
        medium @ 126..=0xffff => {
            let [high, low] = (medium as u16).to_be_bytes();
            out.extend_from_slice(&[first, 0x80 | 126, high, low]);
        }
        long => {
            out.extend_from_slice(&[first, 0x80 | 127]);
            out.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&key);
}

/// Masks or unmasks `payload`. Whole words of a fixed length: the compiler makes vectors of them.
#[inline]
pub(crate) fn mask(payload: &mut [u8], key: [u8; 4]) {
    let wide = u64::from_ne_bytes([key[0], key[1], key[2], key[3], key[0], key[1], key[2], key[3]]);
    let (words, rest) = payload.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a server sends: the same frame without a mask.
    fn server_frame(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
        let mut masked = Vec::new();
        encode(opcode, payload, [0; 4], &mut masked);
        masked[1] &= 0x7f;
        let header = masked.len() - payload.len();
        masked.drain(header - 4..header);
        masked
    }

    #[test]
    fn a_masked_text_is_that_of_the_rfc() {
        let mut out = Vec::new();
        encode(Opcode::Text, b"Hello", [0x37, 0xfa, 0x21, 0x3d], &mut out);
        // RFC 6455 section 5.7
        let expected = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        assert_eq!(out, expected);
    }

    #[test]
    fn close_frames_have_no_code_or_a_good_one() {
        assert_eq!(close_code(&[]), Ok(None));
        assert_eq!(close_code(&[0x0f, 0xa2, b'x']), Ok(Some(4002)));
        for wrong in [&[0x03][..], &[0x03, 0xed], &[0, 0], &[0x0f, 0xa2, 0xff]] {
            assert_eq!(close_code(wrong), Err(FrameError::CloseFrame), "{wrong:02x?}");
        }
    }

    #[test]
    fn masking_twice_is_nothing_at_every_length() {
        for len in 0..40 {
            let plain: Vec<u8> = (0..len).collect();
            let mut bytes = plain.clone();
            mask(&mut bytes, [1, 2, 3, 4]);
            let one_by_one: Vec<u8> =
                plain.iter().zip([1, 2, 3, 4].iter().cycle()).map(|(a, b)| a ^ b).collect();
            assert_eq!(bytes, one_by_one);
            mask(&mut bytes, [1, 2, 3, 4]);
            assert_eq!(bytes, plain);
        }
    }

    #[test]
    fn every_length_form_is_read_back_and_no_prefix_is_a_frame() {
        for len in [0, 1, 125, 126, 127, 0xffff, 0x1_0000] {
            let payload = vec![0xa5; len];
            let bytes = server_frame(Opcode::Binary, &payload);
            let frame = decode(&bytes).unwrap().unwrap();
            assert_eq!((frame.payload, frame.len), (&payload[..], bytes.len()));
            for cut in [0, 1, 2, 3, bytes.len() - 1] {
                if cut < bytes.len() {
                    assert_eq!(decode(&bytes[..cut]), Ok(None), "{len} bytes cut to {cut}");
                }
            }
        }
    }

    #[test]
    fn broken_rules_are_named() {
        let wrong: [(&[u8], FrameError); 7] = [
            (&[0x82, 0x80], FrameError::Masked),
            (&[0xc2, 0x00], FrameError::ReservedBit),
            (&[0x83, 0x00], FrameError::UnknownOpcode(3)),
            (&[0x09, 0x00], FrameError::ControlShape),
            (&[0x89, 126, 0, 126], FrameError::ControlShape),
            (&[0x82, 126, 0, 125], FrameError::LongLength),
            (&[0x82, 127, 0, 0, 1, 0, 0, 0, 0, 0], FrameError::TooLong(1 << 40)),
        ];
        for (bytes, error) in wrong {
            assert_eq!(decode(bytes), Err(error), "{bytes:02x?}");
        }
    }
}
