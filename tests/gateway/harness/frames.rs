//! The two layouts of the protocol, written down once more without the gateway's own code.

use serde_json::Value;

pub(crate) const EVENT: u8 = 0x10;
pub(crate) const CLIENT: u8 = 0x20;
pub(crate) const RESPONSE: u8 = 0x40;
pub(crate) const META: u8 = 0x80;
pub(crate) const URGENT: u8 = 0x08;

pub(crate) const BROADCAST: Guid = [0xff; 16];

pub(crate) type Guid = [u8; 16];

/// A message with the 31-byte header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) flags: u8,
    pub(crate) channel: u16,
    pub(crate) sequence: u32,
    pub(crate) guid: Guid,
    pub(crate) id: u64,
    pub(crate) payload: Vec<u8>,
}

impl Request {
    pub(crate) fn to(guid: Guid) -> Self {
        let payload = b"{}".to_vec();
        Self { flags: 0, channel: 1, sequence: 7, guid, id: 0x0123_4567_89ab_cdef, payload }
    }

    pub(crate) fn flags(self, flags: u8) -> Self {
        Self { flags, ..self }
    }

    pub(crate) fn channel(self, channel: u16) -> Self {
        Self { channel, ..self }
    }

    pub(crate) fn id(self, id: u64) -> Self {
        Self { id, ..self }
    }

    pub(crate) fn payload(self, payload: impl Into<Vec<u8>>) -> Self {
        Self { payload: payload.into(), ..self }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![self.flags];
        out.extend(self.channel.to_be_bytes());
        out.extend(self.sequence.to_be_bytes());
        out.extend(self.guid);
        out.extend(self.id.to_be_bytes());
        out.extend(&self.payload);
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Self {
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

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.payload).expect("the payload is JSON")
    }

    /// The answer that a backend or a client gives to this request.
    pub(crate) fn answer(&self, code: u8, payload: impl Into<Vec<u8>>) -> Reply {
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
pub(crate) struct Reply {
    pub(crate) flags: u8,
    pub(crate) channel: u16,
    pub(crate) sequence: u32,
    pub(crate) id: u64,
    pub(crate) code: u8,
    pub(crate) payload: Vec<u8>,
}

impl Reply {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![self.flags];
        out.extend(self.channel.to_be_bytes());
        out.extend(self.sequence.to_be_bytes());
        out.extend(self.id.to_be_bytes());
        out.push(self.code);
        out.extend(&self.payload);
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Self {
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
pub(crate) fn guid(text: &str) -> Guid {
    let hex: String = text.chars().filter(|c| *c != '-').collect();
    let value = u128::from_str_radix(&hex, 16).expect("a GUID is hexadecimal");
    value.to_be_bytes()
}

/// The text of a GUID.
pub(crate) fn guid_text(guid: Guid) -> String {
    let hex = format!("{:032x}", u128::from_be_bytes(guid));
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

pub(crate) fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("the length was checked")
}
