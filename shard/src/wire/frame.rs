//! RFC 6455 frame headers: strict parsing, and writing of whole (FIN) frames and control frames.
//! Payloads, fragmentation and limits are the business of [`super::inbound`].

use super::mask::copy_masked;

/// Longest header there is: two bytes, a 64-bit length, a mask.
pub const HEADER_MAX: usize = 14;

/// Longest payload of a control frame (RFC 6455 §5.5).
pub const CONTROL_PAYLOAD_MAX: usize = 125;

/// Which end of the connection we are. A server requires masked frames, a client unmasked ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Server,
    Client,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum OpCode {
    Continuation = 0x0,
    Text = 0x1,
    Binary = 0x2,
    Close = 0x8,
    Ping = 0x9,
    Pong = 0xA,
}

impl OpCode {
    /// `None` for data frames.
    #[must_use]
    pub const fn control(self) -> Option<ControlKind> {
        match self {
            Self::Continuation | Self::Text | Self::Binary => None,
            Self::Close => Some(ControlKind::Close),
            Self::Ping => Some(ControlKind::Ping),
            Self::Pong => Some(ControlKind::Pong),
        }
    }

    const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xA => Self::Pong,
            _ => return None,
        })
    }
}

/// Why a header is refused; each is a protocol error (1002).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("reserved bits set without an extension")]
    ReservedBits,
    #[error("unknown opcode")]
    UnknownOpCode,
    #[error("fragmented control frame")]
    FragmentedControl,
    #[error("control frame payload above 125 bytes")]
    ControlTooLong,
    #[error("length not in its shortest form")]
    NonMinimalLength,
    #[error("64-bit length with its top bit set")]
    LengthOverflow,
    #[error("client frame without a mask")]
    Unmasked,
    #[error("server frame with a mask")]
    Masked,
}

/// One parsed header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    pub fin: bool,
    pub opcode: OpCode,
    /// < 2^63, as declared by the sender: never allocate by it.
    pub payload_len: u64,
    /// `Some` exactly when we are the server.
    pub mask: Option<[u8; 4]>,
    /// 2..=[`HEADER_MAX`].
    pub header_len: usize,
}

impl FrameHeader {
    /// Reads the header that `bytes` begin with; `None` means that more bytes are needed. A bad
    /// header fails with the first byte that proves it bad, in the order of the bytes, so the
    /// outcome does not depend on how the stream was cut.
    #[inline]
    pub fn parse(bytes: &[u8], role: Role) -> Result<Option<Self>, FrameError> {
        let Some(&first) = bytes.first() else {
            return Ok(None);
        };
        if first & 0x70 != 0 {
            return Err(FrameError::ReservedBits);
        }
        let fin = first & 0x80 != 0;
        let opcode = OpCode::from_bits(first & 0x0F).ok_or(FrameError::UnknownOpCode)?;
        let is_control = opcode.control().is_some();
        if is_control && !fin {
            return Err(FrameError::FragmentedControl);
        }
        let Some(&second) = bytes.get(1) else {
            return Ok(None);
        };
        match (role, second & 0x80 != 0) {
            (Role::Server, false) => return Err(FrameError::Unmasked),
            (Role::Client, true) => return Err(FrameError::Masked),
            (Role::Server, true) | (Role::Client, false) => {}
        }
        let short = second & 0x7F;
        if is_control && usize::from(short) > CONTROL_PAYLOAD_MAX {
            return Err(FrameError::ControlTooLong);
        }
        let (payload_len, length_end) = match short {
            126 => match length_16(&bytes[2..])? {
                Some(len) => (len, 4),
                None => return Ok(None),
            },
            127 => match length_64(&bytes[2..])? {
                Some(len) => (len, 10),
                None => return Ok(None),
            },
            len => (u64::from(len), 2),
        };
        let (mask, header_len) = match role {
            Role::Client => (None, length_end),
            Role::Server => match bytes[length_end..].first_chunk::<4>() {
                Some(mask) => (Some(*mask), length_end + 4),
                None => return Ok(None),
            },
        };
        Ok(Some(Self { fin, opcode, payload_len, mask, header_len }))
    }
}

fn length_16(bytes: &[u8]) -> Result<Option<u64>, FrameError> {
    let Some(length) = bytes.first_chunk::<2>() else {
        return Ok(None);
    };
    match u16::from_be_bytes(*length) {
        0..=125 => Err(FrameError::NonMinimalLength),
        len => Ok(Some(u64::from(len))),
    }
}

fn length_64(bytes: &[u8]) -> Result<Option<u64>, FrameError> {
    if bytes.first().is_some_and(|top| top & 0x80 != 0) {
        return Err(FrameError::LengthOverflow);
    }
    // Six leading zero bytes leave a value that fits the 16-bit form.
    if bytes.first_chunk::<6>() == Some(&[0; 6]) {
        return Err(FrameError::NonMinimalLength);
    }
    Ok(bytes.first_chunk::<8>().map(|length| u64::from_be_bytes(*length)))
}

/// Header length of an unmasked frame: 2, 4 or 10.
#[must_use]
pub const fn server_header_len(payload_len: usize) -> usize {
    match payload_len {
        0..=125 => 2,
        126..=0xFFFF => 4,
        _ => 10,
    }
}

/// Header length of a masked frame: 6, 8 or 14.
#[must_use]
pub const fn client_header_len(payload_len: usize) -> usize {
    server_header_len(payload_len) + 4
}

/// Writes the header of a whole (FIN) unmasked frame. `out` is exactly
/// [`server_header_len`]`(payload_len)` long.
pub fn write_server_header(out: &mut [u8], opcode: OpCode, payload_len: usize) {
    write_lengths(out, opcode, payload_len, 0);
}

/// Writes the header of a whole (FIN) masked frame. `out` is exactly
/// [`client_header_len`]`(payload_len)` long; the payload is the caller's to mask.
pub fn write_client_header(out: &mut [u8], opcode: OpCode, payload_len: usize, mask: [u8; 4]) {
    let (lengths, tail) = out.split_at_mut(server_header_len(payload_len));
    write_lengths(lengths, opcode, payload_len, 0x80);
    tail.copy_from_slice(&mask);
}

fn write_lengths(out: &mut [u8], opcode: OpCode, payload_len: usize, mask_bit: u8) {
    out[0] = 0x80 | opcode as u8;
    match u16::try_from(payload_len) {
        Ok(len) if len < 126 => {
            out[1] = mask_bit | len.to_be_bytes()[1];
            assert_eq!(out.len(), 2, "room for exactly the header");
        }
        Ok(len) => {
            out[1] = mask_bit | 126;
            out[2..].copy_from_slice(&len.to_be_bytes());
        }
        Err(_) => {
            out[1] = mask_bit | 127;
            out[2..].copy_from_slice(&(payload_len as u64).to_be_bytes());
        }
    }
}

/// The payload of a control frame, by value.
#[derive(Clone, Copy)]
pub struct ControlPayload {
    bytes: [u8; CONTROL_PAYLOAD_MAX],
    /// <= [`CONTROL_PAYLOAD_MAX`]
    len: u8,
}

impl ControlPayload {
    pub const EMPTY: Self = Self { bytes: [0; CONTROL_PAYLOAD_MAX], len: 0 };

    /// The first 125 bytes of `bytes`.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        let mut payload = Self::EMPTY;
        payload.append(bytes);
        payload
    }

    /// The payload of a close frame. A reason that does not fit is cut between two characters.
    #[must_use]
    pub fn close(code: u16, reason: &str) -> Self {
        let mut payload = Self::new(&code.to_be_bytes());
        let room = CONTROL_PAYLOAD_MAX - payload.as_slice().len();
        payload.append(&reason.as_bytes()[..reason.floor_char_boundary(room)]);
        payload
    }

    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes[..usize::from(self.len)]
    }

    /// Appends what fits of `bytes`.
    fn append(&mut self, bytes: &[u8]) {
        let at = usize::from(self.len);
        let len = bytes.len().min(CONTROL_PAYLOAD_MAX - at);
        self.bytes[at..at + len].copy_from_slice(&bytes[..len]);
        self.len += len as u8;
    }
}

impl PartialEq for ControlPayload {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for ControlPayload {}

impl std::fmt::Debug for ControlPayload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ControlPayload").field(&self.as_slice()).finish()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlKind {
    Close,
    Ping,
    Pong,
}

impl From<ControlKind> for OpCode {
    fn from(kind: ControlKind) -> Self {
        match kind {
            ControlKind::Close => Self::Close,
            ControlKind::Ping => Self::Ping,
            ControlKind::Pong => Self::Pong,
        }
    }
}

const CONTROL_FRAME_MAX: usize = client_header_len(CONTROL_PAYLOAD_MAX) + CONTROL_PAYLOAD_MAX;

/// A whole control frame, ready to send, by value.
#[derive(Debug, Clone, Copy)]
pub struct ControlFrame {
    bytes: [u8; CONTROL_FRAME_MAX],
    len: u8,
}

impl ControlFrame {
    /// As a server sends it.
    #[must_use]
    pub fn unmasked(kind: ControlKind, payload: &ControlPayload) -> Self {
        let payload = payload.as_slice();
        let mut frame = Self::sized(server_header_len(payload.len()) + payload.len());
        let (header, body) = frame.bytes.split_at_mut(server_header_len(payload.len()));
        write_server_header(header, kind.into(), payload.len());
        body[..payload.len()].copy_from_slice(payload);
        frame
    }

    /// As a client sends it.
    #[must_use]
    pub fn masked(kind: ControlKind, payload: &ControlPayload, mask: [u8; 4]) -> Self {
        let payload = payload.as_slice();
        let mut frame = Self::sized(client_header_len(payload.len()) + payload.len());
        let (header, body) = frame.bytes.split_at_mut(client_header_len(payload.len()));
        write_client_header(header, kind.into(), payload.len(), mask);
        copy_masked(payload, &mut body[..payload.len()], mask, 0);
        frame
    }

    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    fn sized(len: usize) -> Self {
        Self { bytes: [0; CONTROL_FRAME_MAX], len: len as u8 }
    }
}

#[cfg(test)]
mod tests;
