//! The two headers of the connect protocol inside a binary message, big-endian: 31 bytes for
//! requests and pushed messages, 16 for replies. The flag `RESPONSE` tells them apart.

use thiserror::Error;

pub(crate) const EVENT: u8 = 0x10;
/// To another client, or with the broadcast GUID to all.
pub(crate) const CLIENT: u8 = 0x20;
pub(crate) const RESPONSE: u8 = 0x40;

pub(crate) const REQUEST_HEADER: usize = 31;

pub(crate) type Guid = [u8; 16];

/// All sessions but the sender's.
pub(crate) const BROADCAST: Guid = [0xff; 16];
/// What the gateway itself says.
pub(crate) const GATEWAY: Guid = [0; 16];

/// A message with the long header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request<'a> {
    pub(crate) flags: u8,
    pub(crate) channel: u16,
    pub(crate) sequence: u32,
    pub(crate) guid: Guid,
    pub(crate) message_id: u64,
    pub(crate) payload: &'a [u8],
}

/// A message with the short header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply<'a> {
    pub(crate) flags: u8,
    pub(crate) channel: u16,
    pub(crate) sequence: u32,
    pub(crate) message_id: u64,
    pub(crate) code: u8,
    pub(crate) payload: &'a [u8],
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Envelope<'a> {
    Request(Request<'a>),
    Reply(Reply<'a>),
}

/// The message ends inside its header.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("a message of {0} bytes is shorter than its header")]
pub(crate) struct TooShort(usize);

impl Request<'_> {
    #[inline]
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let mut header = [0; REQUEST_HEADER];
        header[0] = self.flags;
        header[1..3].copy_from_slice(&self.channel.to_be_bytes());
        header[3..7].copy_from_slice(&self.sequence.to_be_bytes());
        header[7..23].copy_from_slice(&self.guid);
        header[23..].copy_from_slice(&self.message_id.to_be_bytes());
        out.extend_from_slice(&header);
        out.extend_from_slice(self.payload);
    }
}

#[inline]
pub(crate) fn decode(message: &[u8]) -> Result<Envelope<'_>, TooShort> {
    parse(message).ok_or(TooShort(message.len()))
}

#[inline]
fn parse(message: &[u8]) -> Option<Envelope<'_>> {
    let mut rest = message;
    let [flags] = take(&mut rest)?;
    let channel = u16::from_be_bytes(take(&mut rest)?);
    let sequence = u32::from_be_bytes(take(&mut rest)?);
    if flags & RESPONSE != 0 {
        let message_id = u64::from_be_bytes(take(&mut rest)?);
        let [code] = take(&mut rest)?;
        let payload = rest;
        return Some(Envelope::Reply(Reply {
            flags,
            channel,
            sequence,
            message_id,
            code,
            payload,
        }));
    }
    let guid = take(&mut rest)?;
    let message_id = u64::from_be_bytes(take(&mut rest)?);
    let payload = rest;
    Some(Envelope::Request(Request { flags, channel, sequence, guid, message_id, payload }))
}

#[inline]
fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, left) = rest.split_first_chunk()?;
    *rest = left;
    Some(*taken)
}

/// A GUID from its text; the wire carries it in the order of the text.
pub(crate) fn parse_guid(text: &str) -> Option<Guid> {
    let digits: Vec<u8> = text.bytes().filter(|&b| b != b'-').collect();
    if digits.len() != 32 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let value = u128::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?;
    Some(value.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUID: Guid = [
        0xca, 0xb5, 0x44, 0x25, 0x59, 0x41, 0x5c, 0x52, 0xbf, 0xb2, 0x22, 0x1b, 0x0c, 0xea, 0x4f,
        0x17,
    ];

    #[test]
    fn a_request_has_every_field_at_its_offset() {
        let request = Request {
            flags: 0x20,
            channel: 0x0102,
            sequence: 0x0304_0506,
            guid: GUID,
            message_id: 0x0123_4567_89ab_cdef,
            payload: b"{}",
        };
        let mut bytes = Vec::new();
        request.encode(&mut bytes);
        assert_eq!(bytes[..7], [0x20, 1, 2, 3, 4, 5, 6]);
        assert_eq!(bytes[7..23], GUID);
        assert_eq!(bytes[23..31], [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef]);
        assert_eq!(bytes[31..], *b"{}");
        assert_eq!(decode(&bytes), Ok(Envelope::Request(request)));
    }

    #[test]
    fn a_reply_is_read_by_its_flag() {
        let bytes = [0x40, 0, 0, 0, 0, 0, 0, 0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0x33];
        let Ok(Envelope::Reply(reply)) = decode(&bytes) else {
            panic!("not a reply");
        };
        assert_eq!((reply.message_id, reply.code), (0x0123_4567_89ab_cdef, 51));
        assert!(reply.payload.is_empty());
    }

    #[test]
    fn a_message_shorter_than_its_header_is_refused() {
        assert_eq!(decode(&[]), Err(TooShort(0)));
        assert_eq!(decode(&[0x40; 15]), Err(TooShort(15)));
        assert_eq!(decode(&[0x00; 30]), Err(TooShort(30)));
        assert!(decode(&[0x40; 16]).is_ok() && decode(&[0x00; 31]).is_ok());
    }

    #[test]
    fn guids_keep_the_order_of_their_text() {
        assert_eq!(parse_guid("cab54425-5941-5c52-bfb2-221b0cea4f17"), Some(GUID));
        for wrong in [
            "",
            "cab54425",
            "zab54425-5941-5c52-bfb2-221b0cea4f17",
            "+ab544255941-5c52-bfb2-221b0cea4f17",
        ] {
            assert_eq!(parse_guid(wrong), None, "{wrong}");
        }
    }
}
