//! The acknowledgement of a peer message: a fixed shape, written on the stack.

use crate::wire::guid::Guid;

/// Payload of the answer with code 0 to a delivered peer message.
#[derive(Debug, Clone, Copy)]
pub struct PeerAcknowledgement {
    bytes: [u8; CAPACITY],
    /// `len <= CAPACITY`
    len: u8,
}

impl PeerAcknowledgement {
    #[must_use]
    pub fn new(target: Guid, message_id: u64) -> Self {
        let mut ack = Self { bytes: [0; CAPACITY], len: 0 };
        ack.push(HEAD);
        ack.push(&target.text());
        ack.push(MIDDLE);
        let mut digits = [0; DIGITS_MAX];
        ack.push(decimal(message_id, &mut digits));
        ack.push(TAIL);
        ack
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    fn push(&mut self, piece: &[u8]) {
        let start = usize::from(self.len);
        self.bytes[start..start + piece.len()].copy_from_slice(piece);
        self.len += piece.len() as u8;
    }
}

fn decimal(mut value: u64, digits: &mut [u8; DIGITS_MAX]) -> &[u8] {
    let mut at = DIGITS_MAX;
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            return &digits[at..];
        }
    }
}

const HEAD: &[u8] = br#"{"Status":"delivered","TargetPeerGuid":""#;
const MIDDLE: &[u8] = br#"","OriginalMessageId":"#;
const TAIL: &[u8] = b"}";

/// Of `u64::MAX`.
const DIGITS_MAX: usize = 20;

const CAPACITY: usize = HEAD.len() + Guid::TEXT_LEN + MIDDLE.len() + DIGITS_MAX + TAIL.len();

const _: () = assert!(CAPACITY <= u8::MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_acknowledgement_equals_the_vector() {
        let vectors: serde_json::Value =
            serde_json::from_str(include_str!("../../testdata/guid-vectors.json")).unwrap();
        let frames = vectors["frames"].as_array().unwrap();
        let name = "peer delivery ack (Pascal case keys)";
        let vector = frames.iter().find(|frame| frame["name"] == name).unwrap();
        let target = "9b2f6a10-77aa-4c1e-8d3b-5e0a4a6f9c21".parse().unwrap();
        let ack = PeerAcknowledgement::new(target, 81_985_529_216_486_898);
        let text = std::str::from_utf8(ack.as_bytes()).unwrap();
        assert_eq!(text, vector["payload_utf8"].as_str().unwrap());
    }

    #[test]
    fn any_message_id_fits() {
        for message_id in [0, 9, 10, u64::MAX - 1, u64::MAX] {
            let ack = PeerAcknowledgement::new(Guid::BROADCAST, message_id);
            let body: serde_json::Value = serde_json::from_slice(ack.as_bytes()).unwrap();
            assert_eq!(body["OriginalMessageId"].as_u64(), Some(message_id));
            assert_eq!(body["TargetPeerGuid"], Guid::BROADCAST.to_string());
        }
    }
}
