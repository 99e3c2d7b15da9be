//! The first message of the Internal mode, which has no manifest: who the client is.

use crate::id::SessionId;
use crate::wire::guid::{Guid, SessionText};

/// A text message of fixed length.
#[derive(Debug, Clone, Copy)]
pub struct InternalHello([u8; LEN]);

impl InternalHello {
    #[must_use]
    pub fn new(session: SessionId, peer: Guid) -> Self {
        let (session, peer) = (SessionText::new(session), peer.text());
        let mut bytes = [0; LEN];
        let mut rest = &mut bytes[..];
        for piece in [HEAD, session.as_bytes(), MIDDLE, &peer, TAIL] {
            let (place, behind) = rest.split_at_mut(piece.len());
            place.copy_from_slice(piece);
            rest = behind;
        }
        Self(bytes)
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

const HEAD: &[u8] = br#"{"SessionId":""#;
const MIDDLE: &[u8] = br#"","PeerGuid":""#;
const TAIL: &[u8] = br#""}"#;

const LEN: usize = HEAD.len() + Guid::TEXT_LEN + MIDDLE.len() + Guid::TEXT_LEN + TAIL.len();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_spelled_as_the_protocol_has_it() {
        let session = SessionId(0x0d5c_0d3e_5a55_4d6e_8a8e_6d1f_5b1b_6a10);
        let peer = Guid(0x9b2f_6a10_77aa_4c1e_8d3b_5e0a_4a6f_9c21_u128.to_be_bytes());
        let text = r#"{"SessionId":"0d5c0d3e-5a55-4d6e-8a8e-6d1f5b1b6a10","PeerGuid":"9b2f6a10-77aa-4c1e-8d3b-5e0a4a6f9c21"}"#;
        assert_eq!(InternalHello::new(session, peer).as_bytes(), text.as_bytes());
    }
}
