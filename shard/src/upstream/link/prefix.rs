//! The 24 bytes in front of every link message, and the trace context that may follow them.

use super::error::LinkError;
use crate::id::SessionId;
use crate::upstream::trace::{TRACE_LEN, Trace};

pub const PREFIX_LEN: usize = 24;

/// The endpoint field of messages that concern none.
pub const NO_ENDPOINT: u16 = 0xFFFF;

/// A trace context stands before the body.
const FLAG_TRACE: u8 = 0x01;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Hello = 1,
    Open = 2,
    Close = 3,
    Data = 4,
    Credit = 5,
    GoAway = 6,
}

impl Kind {
    fn parse(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Hello,
            2 => Self::Open,
            3 => Self::Close,
            4 => Self::Data,
            5 => Self::Credit,
            6 => Self::GoAway,
            _ => return None,
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    pub kind: Kind,
    pub endpoint: u16,
    /// 0 where no answer is wanted.
    pub tag: u32,
    pub session: SessionId,
}

impl Prefix {
    /// The prefix of a message without endpoint and tag.
    #[must_use]
    pub fn of(kind: Kind, session: SessionId) -> Self {
        Self { kind, endpoint: NO_ENDPOINT, tag: 0, session }
    }

    #[must_use]
    pub fn to_bytes(self, trace: Option<Trace>) -> [u8; PREFIX_LEN] {
        let mut bytes = [0; PREFIX_LEN];
        bytes[0] = self.kind as u8;
        bytes[1] = if trace.is_some() { FLAG_TRACE } else { 0 };
        bytes[2..4].copy_from_slice(&self.endpoint.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.tag.to_be_bytes());
        bytes[8..].copy_from_slice(&self.session.0.to_be_bytes());
        bytes
    }

    /// The prefix and the offset at which the body begins, past a trace context. Only data may
    /// carry one.
    pub fn parse(message: &[u8]) -> Result<(Self, usize), LinkError> {
        let bytes: &[u8; PREFIX_LEN] = message.first_chunk().ok_or(LinkError::Short)?;
        let [kind, flags, e0, e1, t0, t1, t2, t3, session @ ..] = *bytes;
        let kind = Kind::parse(kind).ok_or(LinkError::UnknownKind)?;
        let body = match (flags, kind) {
            (0, _) => PREFIX_LEN,
            (FLAG_TRACE, Kind::Data) => PREFIX_LEN + TRACE_LEN,
            _ => return Err(LinkError::UnknownFlag),
        };
        if message.len() < body {
            return Err(LinkError::Short);
        }
        let prefix = Self {
            kind,
            endpoint: u16::from_be_bytes([e0, e1]),
            tag: u32::from_be_bytes([t0, t1, t2, t3]),
            session: SessionId(u128::from_be_bytes(session)),
        };
        Ok((prefix, body))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_fields_stand_where_the_table_says() {
        let session = SessionId(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff);
        let prefix = Prefix { kind: Kind::Data, endpoint: 0x0102, tag: 0x0a0b_0c0d, session };
        let trace = Trace { trace: 1, span: 2, flags: 3 };
        assert_eq!(
            prefix.to_bytes(Some(trace)),
            [
                4, 1, 1, 2, 0x0a, 0x0b, 0x0c, 0x0d, 0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77,
                0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff
            ]
        );
        assert_eq!(trace.to_bytes()[15..], [1, 0, 0, 0, 0, 0, 0, 0, 2, 3]);
    }

    #[test]
    fn malformed_prefixes_are_told_apart() {
        let mut bytes = Prefix::of(Kind::Credit, SessionId(1)).to_bytes(None);
        assert_eq!(Prefix::parse(&bytes[..23]), Err(LinkError::Short));
        bytes[1] = 1;
        assert_eq!(Prefix::parse(&bytes), Err(LinkError::UnknownFlag));
        bytes[0] = 4;
        assert_eq!(Prefix::parse(&bytes), Err(LinkError::Short), "the trace context is missing");
        bytes[1] = 2;
        assert_eq!(Prefix::parse(&bytes), Err(LinkError::UnknownFlag));
        for kind in [0, 7, 255] {
            bytes[0] = kind;
            assert_eq!(Prefix::parse(&bytes), Err(LinkError::UnknownKind));
        }
    }

    proptest! {
        #[test]
        fn parsing_inverts_writing(kind in 1..=6u8, endpoint: u16, tag: u32, session: u128) {
            let kind = Kind::parse(kind).expect("in range");
            let prefix = Prefix { kind, endpoint, tag, session: SessionId(session) };
            prop_assert_eq!(Prefix::parse(&prefix.to_bytes(None)), Ok((prefix, PREFIX_LEN)));
        }

        #[test]
        fn the_body_of_traced_data_stands_behind_its_context(tag: u32, trace: u128, span: u64) {
            let prefix = Prefix { tag, ..Prefix::of(Kind::Data, SessionId(7)) };
            let trace = Trace { trace, span, flags: Trace::SAMPLED };
            let mut message = prefix.to_bytes(Some(trace)).to_vec();
            message.extend(trace.to_bytes());
            message.extend(b"body");
            let (read, body) = Prefix::parse(&message).expect("it is whole");
            prop_assert_eq!((read, &message[body..]), (prefix, &b"body"[..]));
            let context = &message[PREFIX_LEN..body];
            prop_assert_eq!(&context[..16], &trace.trace.to_be_bytes()[..]);
            prop_assert_eq!(&context[16..24], &span.to_be_bytes()[..]);
            prop_assert_eq!(context[24], 1);
        }

        #[test]
        fn any_bytes_are_parsed_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Ok((_, body)) = Prefix::parse(&bytes) {
                prop_assert!(body <= bytes.len());
            }
        }
    }
}
