//! Who a session is, and the door through which the gateway's authentication enters a shard.

use std::num::NonZeroU32;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use thiserror::Error;
use uuid::Uuid;
use uuid::fmt::Hyphenated;

use crate::clock::Now;
use crate::id::SessionId;

/// What a verified token says. Immutable; shared by the session and the token cache of its shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub session: SessionId,
    pub account: Option<Account>,
    /// Shared with all that stand alike, so that a session does not pay for it.
    pub standing: Arc<Standing>,
    pub expires_at: Option<UnixSeconds>,
    /// When the token was made, if it says so: one older than a revocation is no longer good.
    pub issued_at: Option<UnixSeconds>,
}

const _: () = assert!(size_of::<Identity>() == 56, "what a session pays for knowing who it is");

/// Seconds since 1970, in four bytes, because every session pays for two of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnixSeconds(NonZeroU32);

impl UnixSeconds {
    /// `None` for 0. What lies beyond the year 2106 never comes.
    #[must_use]
    pub fn new(seconds: u64) -> Option<Self> {
        NonZeroU32::new(u32::try_from(seconds).unwrap_or(u32::MAX)).map(Self)
    }

    #[must_use]
    pub fn get(self) -> u64 {
        match self.0.get() {
            u32::MAX => u64::MAX,
            seconds => seconds.into(),
        }
    }
}

/// What many tokens say alike.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Standing {
    pub tenant: Box<str>,
    /// Sorted and without repeats, so that equal sets compare equal.
    pub roles: Box<[Box<str>]>,
    pub authorizations: Box<[Box<str>]>,
}

/// The name of an account. Nearly all are UUIDs, and those need no memory of their own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Account {
    Uuid(Uuid),
    /// Anything else, other spellings of a UUID among it.
    Text(Box<str>),
}

impl Account {
    /// The name as it was given; `room` is for what has to be spelled out.
    #[must_use]
    pub fn text<'a>(&'a self, room: &'a mut [u8; Hyphenated::LENGTH]) -> &'a str {
        match self {
            Self::Uuid(id) => id.hyphenated().encode_lower(room),
            Self::Text(text) => text,
        }
    }
}

impl From<&str> for Account {
    fn from(text: &str) -> Self {
        let mut spelled = [0; Hyphenated::LENGTH];
        match Uuid::try_parse(text) {
            Ok(id) if id.hyphenated().encode_lower(&mut spelled) == text => Self::Uuid(id),
            Ok(_) | Err(_) => Self::Text(text.into()),
        }
    }
}

/// Judges tokens on the shard's thread. Implemented by the gateway; one instance per shard.
pub trait Authenticator {
    /// `token` is the credential without its scheme word, at most 8 KiB. Never blocks.
    fn judge(&mut self, token: &str, now: Now) -> Judgement;

    /// The answer to [`Judgement::Ask`]; what it says may be remembered.
    fn learn(&mut self, token: TokenFingerprint, told: Validated, now: Now) -> Arc<Identity> {
        let (_, _) = (token, now);
        Arc::new(told.into())
    }

    /// Tokens so far that were not known from before, whatever became of them: decoding and checking
    /// them is what costs.
    fn fresh_tokens(&self) -> u64;
}

/// What is known about a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    Accepted(Arc<Identity>),
    Refused(AuthRefusal),
    /// No key here can tell: the auth service is to be asked, through the control core.
    Ask(TokenFingerprint),
}

/// SHA-256 of a whole token, signature included: who knows it had the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenFingerprint(pub [u8; 32]);

impl TokenFingerprint {
    #[must_use]
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }
}

/// What the auth service says of a token: an [`Identity`] that may still change threads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Validated {
    pub session: SessionId,
    pub account: Option<Account>,
    pub standing: Standing,
    pub expires_at: Option<UnixSeconds>,
    /// When the auth service has said so.
    pub issued_at: Option<UnixSeconds>,
}

impl From<Validated> for Identity {
    fn from(told: Validated) -> Self {
        let Validated { session, account, standing, expires_at, issued_at } = told;
        Self { session, account, standing: Arc::new(standing), expires_at, issued_at }
    }
}

/// Why a credential was refused. Answered as 401, [`Self::Unavailable`] as 503.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AuthRefusal {
    #[error("the token is not a signed JWT of an allowed form")]
    Malformed,
    #[error("the token's algorithm is not the one pinned for its key")]
    AlgorithmMismatch,
    #[error("no key is configured under the token's key id")]
    UnknownKey,
    #[error("the signature does not verify")]
    BadSignature,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    NotYetValid,
    #[error("issuer or audience is not the pinned one")]
    WrongParty,
    #[error("the token names no session")]
    NoSession,
    #[error("the session was revoked")]
    Revoked,
    #[error("the auth service does not accept the token")]
    NotAccepted,
    #[error("key source or auth service cannot be reached, or is not done yet")]
    Unavailable,
}

impl AuthRefusal {
    pub const ALL: [Self; 11] = [
        Self::Malformed,
        Self::AlgorithmMismatch,
        Self::UnknownKey,
        Self::BadSignature,
        Self::Expired,
        Self::NotYetValid,
        Self::WrongParty,
        Self::NoSession,
        Self::Revoked,
        Self::NotAccepted,
        Self::Unavailable,
    ];

    /// Metric label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::AlgorithmMismatch => "algorithm_mismatch",
            Self::UnknownKey => "unknown_key",
            Self::BadSignature => "bad_signature",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::WrongParty => "wrong_party",
            Self::NoSession => "no_session",
            Self::Revoked => "revoked",
            Self::NotAccepted => "not_accepted",
            Self::Unavailable => "unavailable",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_spelled_as_it_was_given() {
        let plain = "3f2504e0-4f89-41d3-9a0c-0305e82c3301";
        let upper = plain.to_uppercase();
        let bare = plain.replace('-', "");
        for name in [plain, &upper, &bare, "anna", "", "{3f2504e0-4f89-41d3-9a0c-0305e82c3301}"] {
            let account = Account::from(name);
            assert_eq!(account.text(&mut [0; Hyphenated::LENGTH]), name);
            assert_eq!(matches!(account, Account::Uuid(_)), name == plain);
        }
    }
}
