//! The two layouts of the protocol, written down once more without the gateway's own code.

use serde_json::Value;

pub const EVENT: u8 = 0x10;
pub const CLIENT: u8 = 0x20;
pub const RESPONSE: u8 = 0x40;
pub const META: u8 = 0x80;
pub const URGENT: u8 = 0x08;

pub const BROADCAST: Guid = [0xff; 16];

pub type Guid = [u8; 16];

/// A message with the 31-byte header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub flags: u8,
    pub channel: u16,
    pub sequence: u32,
    pub guid: Guid,
    pub id: u64,
    pub payload: Vec<u8>,
}

impl Request {
    pub fn to(guid: Guid) -> Self {
        let payload = b"{}".to_vec();
        Self { flags: 0, channel: 1, sequence: 7, guid, id: 0x0123_4567_89ab_cdef, payload }
    }

    pub fn flags(self, flags: u8) -> Self {
        Self { flags, ..self }
    }

    pub fn channel(self, channel: u16) -> Self {
        Self { channel, ..self }
    }

    pub fn id(self, id: u64) -> Self {
        Self { id, ..self }
    }

    pub fn payload(self, payload: impl Into<Vec<u8>>) -> Self {
        Self { payload: payload.into(), ..self }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![self.flags];
        out.extend(self.channel.to_be_bytes());
        out.extend(self.sequence.to_be_bytes());
        out.extend(self.guid);
        out.extend(self.id.to_be_bytes());
        out.extend(&self.payload);
        out
    }

    pub fn decode(bytes: &[u8]) -> Self {
        assert!(bytes.len() >= 31 && bytes[0] & RESPONSE == 0, "not a request: {bytes:02x?}");
        Self {
            flags: bytes[0],
            channel: u16::from_be_bytes(array(&bytes[1..3])),
            sequence: u32::from_be_bytes(array(&bytes[3..7])),
            guid: array(&bytes[7..23]),
            id: u64::from_be_bytes(array(&bytes[23..31])),
            payload: bytes[31..].to_vec(),
        }
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.payload).expect("the payload is JSON")
    }

    /// The answer that a backend or a client gives to this request.
    pub fn answer(&self, code: u8, payload: impl Into<Vec<u8>>) -> Reply {
        Reply {
            flags: (self.flags | RESPONSE) & !0x04,
            channel: self.channel,
            sequence: self.sequence,
            id: self.id,
            code,
            payload: payload.into(),
        }
    }
}

/// A message with the 16-byte header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub flags: u8,
    pub channel: u16,
    pub sequence: u32,
    pub id: u64,
    pub code: u8,
    pub payload: Vec<u8>,
}

impl Reply {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![self.flags];
        out.extend(self.channel.to_be_bytes());
        out.extend(self.sequence.to_be_bytes());
        out.extend(self.id.to_be_bytes());
        out.push(self.code);
        out.extend(&self.payload);
        out
    }

    pub fn decode(bytes: &[u8]) -> Self {
        assert!(bytes.len() >= 16 && bytes[0] & RESPONSE != 0, "not a reply: {bytes:02x?}");
        Self {
            flags: bytes[0],
            channel: u16::from_be_bytes(array(&bytes[1..3])),
            sequence: u32::from_be_bytes(array(&bytes[3..7])),
            id: u64::from_be_bytes(array(&bytes[7..15])),
            code: bytes[15],
            payload: bytes[16..].to_vec(),
        }
    }
}

/// The 16 bytes of a GUID's text.
pub fn guid(text: &str) -> Guid {
    let hex: String = text.chars().filter(|c| *c != '-').collect();
    let value = u128::from_str_radix(&hex, 16).expect("a GUID is hexadecimal");
    value.to_be_bytes()
}

/// The text of a GUID.
pub fn guid_text(guid: Guid) -> String {
    let hex = format!("{:032x}", u128::from_be_bytes(guid));
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

pub fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("the length was checked")
}
