//! Who a session is, and the door through which the gateway's authentication enters a shard.

use std::rc::Rc;

use thiserror::Error;

use crate::clock::Now;
use crate::id::SessionId;

/// What a verified token says. Immutable; shared by the session and the token cache of its shard.
/// What many tokens say alike is shared among them too, so that a session does not pay for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub tenant: Rc<str>,
    pub session: SessionId,
    pub account: Option<Box<str>>,
    /// Sorted and without repeats, so that equal sets compare equal and can be interned.
    pub roles: Rc<[Box<str>]>,
    pub authorizations: Box<[Box<str>]>,
    /// Unix seconds.
    pub expires_at: Option<u64>,
}

/// Verifies tokens on the shard's thread. Implemented by the gateway; one instance per shard.
pub trait Authenticator {
    /// `token` is the credential without its scheme word, at most 8 KiB. Never blocks.
    fn verify(&mut self, token: &str, now: Now) -> Result<Rc<Identity>, AuthRefusal>;
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
    #[error("the key source cannot be reached")]
    Unavailable,
}

impl AuthRefusal {
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
            Self::Unavailable => "unavailable",
        }
    }
}
