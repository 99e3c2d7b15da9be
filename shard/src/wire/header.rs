//! The two binary headers of the client protocol and their flags: 31 bytes for requests and
//! events, 16 bytes for answers. Integers are big-endian. What a message *means* is decided in
//! [`crate::session::routing`].

use thiserror::Error;

use super::code::ResponseCode;
use super::guid::Guid;

/// First byte of every binary message. Bits without a name here are opaque: they
/// are echoed and forwarded, never interpreted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(pub u8);

impl Flags {
    pub const NONE: Self = Self(0);
    /// The payload is not JSON. Echoed, never looked at.
    pub const BINARY: Self = Self(0x01);
    /// The payload is the business of its two ends alone: never touched.
    pub const OPAQUE: Self = Self(0x02);
    /// The payload is compressed with Brotli.
    pub const COMPRESSED: Self = Self(0x04);
    /// Overtakes waiting messages in the target's outbox, where the sender's role allows it.
    pub const PRIORITY: Self = Self(0x08);
    /// No answer wanted.
    pub const EVENT: Self = Self(0x10);
    /// To another client, or to all of them.
    pub const CLIENT: Self = Self(0x20);
    /// An answer; selects the 16-byte layout.
    pub const RESPONSE: Self = Self(0x40);
    /// Asks about an endpoint; the channel field carries the kind of question.
    pub const META: Self = Self(0x80);

    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The one rule for both directions.
    #[must_use]
    pub const fn layout(self) -> Layout {
        if self.contains(Self::RESPONSE) { Layout::Response } else { Layout::Request }
    }

    #[must_use]
    pub const fn wants_reply(self) -> WantsReply {
        if self.0 & (Self::EVENT.0 | Self::RESPONSE.0) == 0 {
            WantsReply::Yes
        } else {
            WantsReply::No
        }
    }

    /// Flags of the answer to a message with these flags: all of them and 0x40, but never 0x04,
    /// since clients would try to inflate a plain answer.
    #[must_use]
    pub const fn of_reply(self) -> Self {
        self.union(Self::RESPONSE).without(Self::COMPRESSED)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    Request,
    Response,
}

impl Layout {
    #[must_use]
    pub const fn header_len(self) -> usize {
        match self {
            Self::Request => RequestHeader::LEN,
            Self::Response => ResponseHeader::LEN,
        }
    }
}

/// Whether a success is answered. Errors are answered in either case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WantsReply {
    Yes,
    No,
}

/// The message is shorter than the header that its first byte announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a binary message is shorter than its header")]
pub struct ShortFrame;

/// A parsed header of either layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    Request(RequestHeader),
    Response(ResponseHeader),
}

impl Header {
    pub fn parse(message: &[u8]) -> Result<Self, ShortFrame> {
        let flags = Flags(*message.first().ok_or(ShortFrame)?);
        match flags.layout() {
            Layout::Request => RequestHeader::parse(message).map(Self::Request),
            Layout::Response => ResponseHeader::parse(message).map(Self::Response),
        }
    }

    #[must_use]
    pub fn reply_to(&self) -> ReplyTo {
        match self {
            Self::Request(header) => header.reply_to(),
            Self::Response(header) => header.reply_to(),
        }
    }
}

/// Requests, peer messages and broadcasts of clients; events and RPCs of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestHeader {
    pub flags: Flags,
    pub channel: u16,
    pub sequence: u32,
    pub guid: Guid,
    pub message_id: u64,
}

impl RequestHeader {
    pub const LEN: usize = 31;

    /// Reads the layout without looking at the flags: [`Header::parse`] chooses.
    pub fn parse(message: &[u8]) -> Result<Self, ShortFrame> {
        let bytes: &[u8; Self::LEN] = message.first_chunk().ok_or(ShortFrame)?;
        Ok(Self {
            flags: Flags(bytes[0]),
            channel: u16::from_be_bytes(field(bytes, 1)),
            sequence: u32::from_be_bytes(field(bytes, 3)),
            guid: Guid(field(bytes, 7)),
            message_id: u64::from_be_bytes(field(bytes, 23)),
        })
    }

    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[0] = self.flags.0;
        bytes[1..3].copy_from_slice(&self.channel.to_be_bytes());
        bytes[3..7].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[7..23].copy_from_slice(&self.guid.0);
        bytes[23..].copy_from_slice(&self.message_id.to_be_bytes());
        bytes
    }

    /// An event of the gateway: GUID, channel and sequence are zero.
    #[must_use]
    pub fn event(message_id: u64) -> Self {
        Self { flags: Flags::EVENT, channel: 0, sequence: 0, guid: Guid::NULL, message_id }
    }

    #[must_use]
    pub fn reply_to(&self) -> ReplyTo {
        ReplyTo {
            flags: self.flags,
            channel: self.channel,
            sequence: self.sequence,
            message_id: self.message_id,
        }
    }
}

/// Answers, in both directions. The payload is empty whenever `code` is not 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseHeader {
    pub flags: Flags,
    pub channel: u16,
    pub sequence: u32,
    pub message_id: u64,
    /// As on the wire: clients and backends may send codes that [`ResponseCode`] does not know.
    pub code: u8,
}

impl ResponseHeader {
    pub const LEN: usize = 16;

    /// Reads the layout without looking at the flags: [`Header::parse`] chooses.
    pub fn parse(message: &[u8]) -> Result<Self, ShortFrame> {
        let bytes: &[u8; Self::LEN] = message.first_chunk().ok_or(ShortFrame)?;
        Ok(Self {
            flags: Flags(bytes[0]),
            channel: u16::from_be_bytes(field(bytes, 1)),
            sequence: u32::from_be_bytes(field(bytes, 3)),
            message_id: u64::from_be_bytes(field(bytes, 7)),
            code: bytes[15],
        })
    }

    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[0] = self.flags.0;
        bytes[1..3].copy_from_slice(&self.channel.to_be_bytes());
        bytes[3..7].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[7..15].copy_from_slice(&self.message_id.to_be_bytes());
        bytes[15] = self.code;
        bytes
    }

    #[must_use]
    pub fn reply_to(&self) -> ReplyTo {
        ReplyTo {
            flags: self.flags,
            channel: self.channel,
            sequence: self.sequence,
            message_id: self.message_id,
        }
    }
}

/// Where a message goes in an outbox: flag 0x08, where it is honoured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    Normal,
    /// In front of normal messages that wait; never in front of each other.
    Urgent,
}

/// What must be kept of a message to answer it later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyTo {
    /// Of the message, not of the answer.
    pub flags: Flags,
    pub channel: u16,
    pub sequence: u32,
    pub message_id: u64,
}

impl ReplyTo {
    #[must_use]
    pub fn wants_reply(&self) -> WantsReply {
        self.flags.wants_reply()
    }

    #[must_use]
    pub fn header(&self, code: ResponseCode) -> ResponseHeader {
        ResponseHeader {
            flags: self.flags.of_reply(),
            channel: self.channel,
            sequence: self.sequence,
            message_id: self.message_id,
            code: code.value(),
        }
    }

    /// The header of the answer; for any code but 0 this is the whole answer.
    #[must_use]
    pub fn answer(&self, code: ResponseCode) -> [u8; ResponseHeader::LEN] {
        self.header(code).to_bytes()
    }
}

/// `N` bytes from `at`; callers pass offsets inside a header of fixed length.
#[inline]
fn field<const N: usize, const LEN: usize>(bytes: &[u8; LEN], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn number(frame: &Value, key: &str) -> u64 {
        let value = &frame[key];
        value.as_u64().unwrap_or_else(|| value.as_str().unwrap().parse().unwrap())
    }

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len() / 2)
            .map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
            .collect()
    }

    #[test]
    fn frames_of_the_vector_file_parse_and_are_written_byte_for_byte() {
        let vectors: Value =
            serde_json::from_str(include_str!("../../testdata/guid-vectors.json")).unwrap();
        let frames = vectors["frames"].as_array().unwrap();
        assert_eq!(frames.len(), 19);
        for frame in frames {
            let name = frame["name"].as_str().unwrap();
            let bytes = unhex(frame["hex"].as_str().unwrap());
            let header = Header::parse(&bytes).unwrap();
            let (len, written) = match header {
                Header::Request(header) => {
                    assert_eq!(header.guid.to_string(), frame["guid"].as_str().unwrap(), "{name}");
                    (31, header.to_bytes().to_vec())
                }
                Header::Response(header) => {
                    assert_eq!(u64::from(header.code), number(frame, "code"), "{name}");
                    (16, header.to_bytes().to_vec())
                }
            };
            assert_eq!(len, number(frame, "header"), "{name}");
            assert_eq!(written, &bytes[..written.len()], "{name}");
            assert_eq!(&bytes[written.len()..], frame["payload_utf8"].as_str().unwrap().as_bytes());
            let echo = header.reply_to();
            assert_eq!(u64::from(echo.flags.0), number(frame, "flags"), "{name}");
            assert_eq!(u64::from(echo.channel), number(frame, "channel"), "{name}");
            assert_eq!(u64::from(echo.sequence), number(frame, "sequence"), "{name}");
            assert_eq!(echo.message_id, number(frame, "message_id"), "{name}");
        }
    }

    #[test]
    fn a_reply_echoes_all_flags_but_compression() {
        assert_eq!(Flags::META.of_reply(), Flags(0xC0));
        assert_eq!(Flags::CLIENT.of_reply(), Flags(0x60));
        assert_eq!(Flags::EVENT.of_reply(), Flags(0x50));
        assert_eq!(Flags(0x05).of_reply(), Flags(0x41));
        assert_eq!(Flags(0xFF).of_reply(), Flags(0xFB));
    }

    #[test]
    fn only_events_and_answers_want_no_reply() {
        for bits in 0..=u8::MAX {
            let expected = if bits & 0x50 == 0 { WantsReply::Yes } else { WantsReply::No };
            assert_eq!(Flags(bits).wants_reply(), expected);
        }
    }

    #[test]
    fn messages_shorter_than_their_header_are_refused() {
        assert_eq!(Header::parse(&[]), Err(ShortFrame));
        assert_eq!(Header::parse(&[0; 30]), Err(ShortFrame));
        assert_eq!(Header::parse(&[0x40; 15]), Err(ShortFrame));
        assert!(Header::parse(&[0; 31]).is_ok());
        assert!(Header::parse(&[0x40; 16]).is_ok());
    }

    proptest! {
        #[test]
        fn parsing_and_writing_are_inverse(bytes in proptest::collection::vec(any::<u8>(), 31..64)) {
            let request = RequestHeader::parse(&bytes).unwrap();
            prop_assert_eq!(&request.to_bytes()[..], &bytes[..31]);
            let response = ResponseHeader::parse(&bytes).unwrap();
            prop_assert_eq!(&response.to_bytes()[..], &bytes[..16]);
        }
    }
}
