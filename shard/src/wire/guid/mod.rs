//! GUIDs as the wire carries them, how service GUIDs are derived and peer GUIDs are sealed.

mod peer;
mod service;

use std::fmt;
use std::str::FromStr;

pub use peer::{PeerKeys, PeerRoute};
pub use service::{ServiceGuids, SessionText, admin_notice};

/// Sixteen bytes in text order (RFC 4122 network order), as in bytes 7–22 of a request header.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Guid(pub [u8; 16]);

impl Guid {
    pub const NULL: Self = Self([0; 16]);
    /// With flag 0x20: to every other client.
    pub const BROADCAST: Self = Self([0xFF; 16]);
    pub const TEXT_LEN: usize = 36;

    /// Hyphenated lower-case text.
    #[must_use]
    pub fn text(&self) -> [u8; Self::TEXT_LEN] {
        let mut text = [0; Self::TEXT_LEN];
        uuid::Uuid::from_bytes(self.0).hyphenated().encode_lower(&mut text);
        text
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        uuid::Uuid::from_bytes(self.0).hyphenated().fmt(f)
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Guid {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        uuid::Uuid::parse_str(text).map(|id| Self(id.into_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_carries_the_text_from_left_to_right() {
        let vectors: serde_json::Value =
            serde_json::from_str(include_str!("../../../testdata/guid-vectors.json")).unwrap();
        let fixed = [&vectors["fixed"]["system"], &vectors["fixed"]["broadcast"]];
        for (vector, known) in fixed.iter().zip([Guid::NULL, Guid::BROADCAST]) {
            assert_eq!(vector["guid"].as_str().unwrap(), known.to_string());
        }
        for vector in vectors["byte_order"].as_array().unwrap().iter().chain(fixed) {
            let text = vector["guid"].as_str().unwrap();
            let guid: Guid = text.parse().unwrap();
            let hex: String = guid.0.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hex, vector["wire_hex"].as_str().unwrap());
            assert_eq!(guid.to_string(), text);
            assert_eq!(guid.text(), text.as_bytes());
        }
    }
}
