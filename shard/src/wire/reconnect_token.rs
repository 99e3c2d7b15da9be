//! Tokens with which a client takes its session up again (`Authorization: Reconnect`): 32 bytes in
//! base64, opaque to everyone without the server salt.
//!
//! A token belongs to one claim on its session, the one with its epoch. So nothing has to be kept
//! for it: whoever knows session and epoch makes it again, on any node that shares the salt. It is
//! `masked session id (16) ‖ seal (16)`, where the seal is a keyed digest of session and epoch, and
//! the mask a keyed digest of the seal.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hkdf::Hkdf;
use sha2::{Digest, Sha256};

use crate::id::{Epoch, SessionId};

/// The keys of a cluster; every node derives the same ones from the shared salt.
#[derive(Clone)]
pub struct ReconnectKeys {
    seal: [u8; 32],
    mask: [u8; 32],
}

/// What tells the tokens of one session apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seal([u8; 16]);

/// A token as its text.
pub type TokenText = [u8; TOKEN_TEXT];

/// 32 bytes in padded base64.
pub const TOKEN_TEXT: usize = 44;

impl ReconnectKeys {
    /// HKDF-SHA-256 with the server salt as input key material, no HKDF salt, and the info
    /// `reconnect-token`.
    #[must_use]
    pub fn from_salt(server_salt: &str) -> Self {
        let mut okm = [[0; 32]; 2];
        Hkdf::<Sha256>::new(None, server_salt.as_bytes())
            .expand(b"reconnect-token", okm.as_flattened_mut())
            .expect("64 bytes are within HKDF-SHA-256's 8160");
        let [seal, mask] = okm;
        Self { seal, mask }
    }

    /// The token of the claim with this epoch.
    #[must_use]
    pub fn token(&self, session: SessionId, epoch: Epoch) -> TokenText {
        self.text(session, self.seal(session, epoch))
    }

    /// The token of which [`Self::read`] has told session and seal.
    #[must_use]
    pub fn text(&self, session: SessionId, seal: Seal) -> TokenText {
        let Seal(seal) = seal;
        let masked = (session.0 ^ self.mask_of(&seal)).to_be_bytes();
        let mut token = [0; 32];
        token[..16].copy_from_slice(&masked);
        token[16..].copy_from_slice(&seal);
        let mut text = [0; TOKEN_TEXT];
        STANDARD.encode_slice(token, &mut text).expect("32 bytes are 44 characters");
        text
    }

    /// Which session a token names, and the seal by which its claim is to be recognised with
    /// [`Self::is_of`]. `None` when it has not the shape of a token; forged ones have.
    #[must_use]
    pub fn read(&self, token: &str) -> Option<(SessionId, Seal)> {
        let mut bytes = [0; 33];
        let len = STANDARD.decode_slice(token, &mut bytes).ok()?;
        let [bytes @ .., _] = &bytes;
        let (masked, seal) = bytes.split_first_chunk::<16>()?;
        let seal: [u8; 16] = seal.try_into().ok().filter(|_| len == 32)?;
        let session = u128::from_be_bytes(*masked) ^ self.mask_of(&seal);
        Some((SessionId(session), Seal(seal)))
    }

    /// Whether the token with this seal is the one of that claim.
    #[must_use]
    pub fn is_of(&self, seal: Seal, session: SessionId, epoch: Epoch) -> bool {
        // In constant time: what differs is only looked at as a whole.
        let Seal(own) = self.seal(session, epoch);
        let differences = own.iter().zip(seal.0).fold(0, |all, (a, b)| all | (a ^ b));
        std::hint::black_box(differences) == 0
    }

    fn seal(&self, session: SessionId, epoch: Epoch) -> Seal {
        Seal(digest(&self.seal, &[&session.0.to_be_bytes(), &epoch.0.to_be_bytes()]))
    }

    fn mask_of(&self, seal: &[u8; 16]) -> u128 {
        u128::from_be_bytes(digest(&self.mask, &[seal]))
    }
}

impl std::fmt::Debug for ReconnectKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReconnectKeys").finish_non_exhaustive()
    }
}

/// The first half of SHA-256 over key and parts of fixed length. Half a digest cannot be extended.
fn digest(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 16] {
    let mut hash = Sha256::new_with_prefix(key);
    parts.iter().for_each(|part| hash.update(part));
    let mut half = [0; 16];
    half.copy_from_slice(&hash.finalize()[..16]);
    half
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(token: &TokenText) -> &str {
        std::str::from_utf8(token).unwrap()
    }

    proptest! {
        #[test]
        fn a_token_names_its_session_and_is_of_its_claim_alone(
            session: u128, epoch: u64, other: u64, salt in "[a-z]{1,20}",
        ) {
            let keys = ReconnectKeys::from_salt(&salt);
            let token = keys.token(SessionId(session), Epoch(epoch));
            let (found, seal) = keys.read(text(&token)).unwrap();
            prop_assert_eq!(found, SessionId(session));
            prop_assert!(keys.is_of(seal, found, Epoch(epoch)));
            prop_assert_eq!(keys.is_of(seal, found, Epoch(other)), other == epoch);
            prop_assert!(!keys.is_of(seal, SessionId(session ^ 1), Epoch(epoch)));
        }

        #[test]
        fn a_token_with_any_bit_changed_is_of_no_claim(session: u128, epoch: u64, bit in 0..256_usize) {
            let keys = ReconnectKeys::from_salt("salt");
            let mut bytes = STANDARD.decode(keys.token(SessionId(session), Epoch(epoch))).unwrap();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let (found, seal) = keys.read(&STANDARD.encode(bytes)).unwrap();
            let accepted = found == SessionId(session) && keys.is_of(seal, found, Epoch(epoch));
            prop_assert!(!accepted);
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,60}") {
            let read = ReconnectKeys::from_salt("salt").read(&text);
            prop_assert_eq!(read.is_some(), STANDARD.decode(&text).is_ok_and(|b| b.len() == 32));
        }

        #[test]
        fn whoevers_token_was_read_can_be_written_again(bytes: [u8; 32]) {
            let (keys, token) = (ReconnectKeys::from_salt("salt"), STANDARD.encode(bytes));
            let (session, seal) = keys.read(&token).unwrap();
            let written = keys.text(session, seal);
            prop_assert_eq!(text(&written), token);
        }
    }

    #[test]
    fn another_salt_makes_other_tokens() {
        let [ours, theirs] = ["ours", "theirs"].map(ReconnectKeys::from_salt);
        let (session, epoch) = (SessionId(7), Epoch(9));
        let (found, seal) = ours.read(text(&theirs.token(session, epoch))).unwrap();
        assert_ne!(found, session);
        assert!(!ours.is_of(seal, session, epoch));
    }
}
