//! GUIDs made from SHA-256: a session's service GUIDs and the admin notice's.
//!
//! A session's GUIDs are derived when they are needed, so the derivation is what a routing miss
//! costs: the padded preimage of every endpoint is laid out once per configuration, with a hole
//! where the session id goes, and a derivation fills the hole and compresses.

use sha2::block_api::compress256;
use sha2::{Digest, Sha256};

use super::Guid;
use crate::id::{EndpointId, SessionId};
use crate::snapshot::Snapshot;

/// A session id as it stands in a preimage; formatted once for a whole series of derivations.
#[derive(Debug, Clone, Copy)]
pub struct SessionText([u8; Guid::TEXT_LEN]);

impl SessionText {
    #[must_use]
    pub fn new(session: SessionId) -> Self {
        Self(Guid(session.0.to_be_bytes()).text())
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8; Guid::TEXT_LEN] {
        &self.0
    }
}

/// The preimages of all endpoints of one configuration, ready for any session. Shared by the
/// capability sets of a shard; at most a few hundred bytes an endpoint.
#[derive(Debug)]
pub struct ServiceGuids {
    blocks: Box<[Block]>,
    /// Of endpoint `i`: `blocks[starts[i]..starts[i + 1]]`, never empty.
    starts: Box<[u32]>,
}

impl ServiceGuids {
    #[must_use]
    pub fn new(snapshot: &Snapshot) -> Self {
        let mut blocks = Vec::new();
        let mut starts = vec![0];
        for endpoint in &snapshot.endpoints {
            let service = snapshot.services.get(usize::from(endpoint.service.0));
            let name = service.map_or("", |service| &service.name);
            let hole = [0; Guid::TEXT_LEN];
            // The words "service" and "session" stand before the wrong values on purpose: these
            // are the GUIDs that servers in the field emit.
            let preimage: [&[u8]; 7] = [
                PREFIX,
                &hole,
                b"|session:",
                name.as_bytes(),
                b":",
                endpoint.path.as_bytes(),
                b"|salt:",
            ];
            pad(&[&preimage.concat(), snapshot.salt.as_bytes()].concat(), &mut blocks);
            starts.push(u32::try_from(blocks.len()).unwrap_or(u32::MAX));
        }
        Self { blocks: blocks.into(), starts: starts.into() }
    }

    /// The session's GUID of `endpoint`; `None` when the configuration has no such endpoint.
    #[must_use]
    pub fn derive(&self, session: &SessionText, endpoint: EndpointId) -> Option<Guid> {
        let index = usize::from(endpoint.0);
        let range = *self.starts.get(index)? as usize..*self.starts.get(index + 1)? as usize;
        let (first, rest) = self.blocks.get(range)?.split_first()?;
        let mut head = *first;
        head[PREFIX.len()..PREFIX.len() + Guid::TEXT_LEN].copy_from_slice(&session.0);
        let mut state = SHA256_INITIAL;
        compress256(&mut state, &[head]);
        compress256(&mut state, rest);
        let mut hash = [0; 16];
        for (bytes, word) in hash.chunks_exact_mut(4).zip(state) {
            bytes.copy_from_slice(&word.to_be_bytes());
        }
        Some(from_hash(hash, 5))
    }
}

/// GUID of the admin error notice; its preimage is in the documented order.
#[must_use]
pub fn admin_notice(salt: &str) -> Guid {
    generate(&["service:admin-notification|session:system|salt:", salt], 5)
}

fn generate(preimage: &[&str], version: u8) -> Guid {
    let mut hasher = Sha256::new();
    for piece in preimage {
        hasher.update(piece);
    }
    let digest: [u8; 32] = hasher.finalize().into();
    let mut hash = [0; 16];
    hash.copy_from_slice(&digest[..16]);
    from_hash(hash, version)
}

/// The first three fields of the masked hash are little-endian and the wire is big-endian, so they
/// are reversed and the version ends up in the high nibble of wire byte 7, not 6.
fn from_hash(mut hash: [u8; 16], version: u8) -> Guid {
    hash[6] = (hash[6] & 0x0F) | (version << 4);
    hash[8] = (hash[8] & 0x3F) | 0x80;
    hash[0..4].reverse();
    hash[4..6].reverse();
    hash[6..8].reverse();
    Guid(hash)
}

/// Appends `message` with the padding of SHA-256 (FIPS 180-4 §5.1.1).
fn pad(message: &[u8], blocks: &mut Vec<Block>) {
    let mut padded = message.to_vec();
    padded.push(0x80);
    while padded.len() % BLOCK_LEN != BLOCK_LEN - 8 {
        padded.push(0);
    }
    padded.extend_from_slice(&(message.len() as u64 * 8).to_be_bytes());
    blocks.extend_from_slice(padded.as_chunks().0);
}

type Block = [u8; BLOCK_LEN];

const BLOCK_LEN: usize = 64;

/// Before the session id, which therefore always lies in the first block.
const PREFIX: &[u8] = b"service:";

/// FIPS 180-4 §5.3.3.
const SHA256_INITIAL: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::session::fixtures;

    fn vectors() -> Value {
        serde_json::from_str(include_str!("../../../testdata/guid-vectors.json")).unwrap()
    }

    #[test]
    fn service_guids_equal_the_vectors() {
        let vectors = vectors();
        let vectors = vectors["service_v5_as_connect_computes_them"]["vectors"].as_array().unwrap();
        assert_eq!(vectors.len(), 7);
        for vector in vectors {
            let text = |key: &str| vector[key].as_str().unwrap();
            let snapshot = fixtures::snapshot_of(&[(text("service"), text("path"))], text("salt"));
            let session = SessionText::new(text("session_id").parse().unwrap());
            let guid = ServiceGuids::new(&snapshot).derive(&session, EndpointId(0)).unwrap();
            assert_eq!(guid.to_string(), text("guid"));
        }
    }

    #[test]
    fn every_generated_kind_equals_the_vectors() {
        let vectors = vectors();
        let kinds = [
            ("service_v5_as_connect_computes_them", 5, 7),
            ("service_v5_generator_function", 5, 5),
            ("client_v6", 6, 4),
            ("shortcut_v7", 7, 4),
        ];
        for (kind, version, count) in kinds {
            let vectors = vectors[kind]["vectors"].as_array().unwrap();
            assert_eq!(vectors.len(), count, "{kind}");
            for vector in vectors {
                let guid = generate(&[vector["preimage"].as_str().unwrap()], version);
                assert_eq!(guid.to_string(), vector["guid"].as_str().unwrap(), "{kind}");
                assert_eq!(guid.0[7] >> 4, version);
            }
        }
    }

    #[test]
    fn the_admin_notice_equals_its_vector() {
        let vector = &vectors()["admin_notification_v5"];
        let guid = admin_notice(vector["salt"].as_str().unwrap());
        assert_eq!(guid.to_string(), vector["guid"].as_str().unwrap());
    }

    #[test]
    fn an_endpoint_outside_the_configuration_has_no_guid() {
        let snapshot = fixtures::snapshot_of(&[("account", "/account/get")], "salt");
        let guids = ServiceGuids::new(&snapshot);
        let session = SessionText::new(SessionId(1));
        assert_eq!(guids.derive(&session, EndpointId(1)), None);
        assert_eq!(guids.derive(&session, EndpointId(u16::MAX)), None);
    }

    proptest! {
        /// Any length, so that the padding crosses every block boundary.
        #[test]
        fn laid_out_preimages_hash_like_whole_ones(
            path in "/[a-z/]{0,200}", salt in "[ -~]{1,80}", session: u128, before in 0..3_usize,
        ) {
            let mut endpoints = vec![("other", "/x/y"); before];
            endpoints.push(("account", path.as_str()));
            let guids = ServiceGuids::new(&fixtures::snapshot_of(&endpoints, &salt));
            let session = SessionId(session);
            let id = EndpointId(u16::try_from(before).unwrap());
            let whole = format!("service:{session}|session:account:{path}|salt:{salt}");
            prop_assert_eq!(
                guids.derive(&SessionText::new(session), id),
                Some(generate(&[&whole], 5))
            );
        }
    }
}
