//! What a token's claims say: the times and parties to check, and the identity they spell.

use corelane_shard::id::SessionId;
use corelane_shard::identity::{AuthRefusal, Identity, Standing, UnixSeconds};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::key::Key;
use super::standings::Standings;

/// Whose the session of a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Naming {
    ByClaim,
    /// Made for this connection alone: the next with the token gets another.
    Drawn,
}

/// Last among the session claims: a token that has none of those before it opens a new session.
pub(super) const RANDOM_SESSION: &str = "random";

/// The claims of one token, not yet trusted.
#[derive(Debug)]
pub(super) struct Claims(Map<String, Value>);

impl Claims {
    pub(super) fn parse(json: &[u8]) -> Result<Self, AuthRefusal> {
        serde_json::from_slice(json).map(Self).map_err(|_| AuthRefusal::Malformed)
    }

    /// `exp`, which every token must carry. Returns it in whole seconds.
    pub(super) fn check_expiry(&self, unix_ms: u64) -> Result<u64, AuthRefusal> {
        let exp = self.seconds("exp")?.ok_or(AuthRefusal::Malformed)?.floor() as u64;
        if unix_ms >= exp.saturating_mul(1000) {
            return Err(AuthRefusal::Expired);
        }
        Ok(exp)
    }

    /// Whether the token says of itself that it is over; one that the auth service judges need not say.
    pub(super) fn is_over(&self, unix_ms: u64) -> bool {
        self.check_expiry(unix_ms) == Err(AuthRefusal::Expired)
    }

    pub(super) fn check_start(&self, unix_ms: u64) -> Result<(), AuthRefusal> {
        let nbf = self.seconds("nbf")?.unwrap_or(0.0).ceil() as u64;
        if unix_ms < nbf.saturating_mul(1000) {
            return Err(AuthRefusal::NotYetValid);
        }
        Ok(())
    }

    /// Issuer and audience are the ones pinned to `key`.
    pub(super) fn check_parties(&self, key: &Key) -> Result<(), AuthRefusal> {
        let issuer = self.0.get("iss").and_then(Value::as_str);
        let addressed = match self.0.get("aud") {
            Some(Value::String(one)) => **one == *key.audience,
            Some(Value::Array(many)) => many.iter().any(|a| a.as_str() == Some(&*key.audience)),
            _ => false,
        };
        if issuer == Some(&*key.issuer) && addressed {
            Ok(())
        } else {
            Err(AuthRefusal::WrongParty)
        }
    }

    pub(super) fn identity(
        &self,
        key: &Key,
        session_claims: &[Box<str>],
        expires_at: u64,
        standings: &mut Standings,
    ) -> Result<(Identity, Naming), AuthRefusal> {
        let tenant = self.tenant()?;
        let (session, naming) = match self.session(key, session_claims, tenant)? {
            Some(session) => (session, Naming::ByClaim),
            None => (SessionId(Uuid::new_v4().as_u128()), Naming::Drawn),
        };
        let account = ["sub", "nameid"].iter().find_map(|claim| self.text(claim));
        let standing = Standing {
            tenant: tenant.into(),
            roles: self.names("roles")?,
            authorizations: self.names("authorizations")?,
        };
        let identity = Identity {
            session,
            account: account.map(Into::into),
            standing: standings.share(standing),
            expires_at: UnixSeconds::new(expires_at),
            issued_at: self.0.get("iat").and_then(Value::as_u64).and_then(UnixSeconds::new),
        };
        Ok((identity, naming))
    }

    /// `None` where the token names no session and need not.
    fn session(
        &self,
        key: &Key,
        session_claims: &[Box<str>],
        tenant: &str,
    ) -> Result<Option<SessionId>, AuthRefusal> {
        let (names, may_draw) = match session_claims {
            [names @ .., last] if **last == *RANDOM_SESSION => (names, true),
            names => (names, false),
        };
        let mut values = names.iter().filter_map(|name| self.0.get(&**name));
        let first = values.find(|value| !value.is_null());
        if first.is_none() && may_draw {
            return Ok(None);
        }
        let text = first.and_then(Value::as_str).filter(|text| !text.is_empty());
        let claim = text.ok_or(AuthRefusal::NoSession)?;
        // Another tenant's UUIDs are as foreign as another issuer's.
        let plain = if key.native && tenant == TENANT_DEFAULT { uuid(claim) } else { None };
        match plain {
            Some(0) => Err(AuthRefusal::NoSession),
            Some(id) => Ok(Some(SessionId(id))),
            None => Ok(Some(hashed(&key.issuer, tenant, claim))),
        }
    }

    /// The tenant becomes the first segment of storage keys, so only harmless letters pass.
    fn tenant(&self) -> Result<&str, AuthRefusal> {
        let tenant = match self.0.get("tenant") {
            None | Some(Value::Null) => return Ok(TENANT_DEFAULT),
            Some(Value::String(tenant)) => tenant.as_str(),
            Some(_) => return Err(AuthRefusal::Malformed),
        };
        let harmless = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let shaped = (1..=TENANT_BYTES_MAX).contains(&tenant.len())
            && tenant.bytes().all(harmless)
            && !tenant.starts_with('.');
        if shaped { Ok(tenant) } else { Err(AuthRefusal::Malformed) }
    }

    fn text(&self, claim: &str) -> Option<&str> {
        self.0.get(claim).and_then(Value::as_str).filter(|text| !text.is_empty())
    }

    /// A set of names: an array of strings, or one string with spaces between.
    fn names(&self, claim: &str) -> Result<Box<[Box<str>]>, AuthRefusal> {
        let names: Vec<Box<str>> = match self.0.get(claim) {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::String(text)) => text.split_ascii_whitespace().map(Into::into).collect(),
            Some(Value::Array(list)) => {
                let name = |value: &Value| value.as_str().map(Into::into);
                list.iter().map(name).collect::<Option<_>>().ok_or(AuthRefusal::Malformed)?
            }
            Some(_) => return Err(AuthRefusal::Malformed),
        };
        Ok(sorted(names))
    }

    /// A NumericDate of RFC 7519: seconds, possibly with a fraction.
    fn seconds(&self, claim: &str) -> Result<Option<f64>, AuthRefusal> {
        match self.0.get(claim) {
            None => Ok(None),
            Some(value) => value.as_f64().map(Some).ok_or(AuthRefusal::Malformed),
        }
    }
}

/// As [`Standing`] wants a set of names.
pub(super) fn sorted(mut names: Vec<Box<str>>) -> Box<[Box<str>]> {
    names.retain(|name| !name.is_empty());
    names.sort_unstable();
    names.dedup();
    names.into_boxed_slice()
}

/// The two spellings that issuers use: 32 hex digits, or those with hyphens.
pub(super) fn uuid(text: &str) -> Option<u128> {
    let plausible = matches!(text.len(), 32 | 36);
    plausible.then(|| Uuid::try_parse(text).ok()).flatten().map(|id| id.as_u128())
}

/// The same claim of another issuer or tenant is another session. Lengths stand before the texts,
/// so that no two triples share a preimage.
fn hashed(issuer: &str, tenant: &str, claim: &str) -> SessionId {
    let mut hash = Sha256::new();
    for text in [issuer, tenant, claim] {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text.as_bytes());
    }
    let digest: [u8; 32] = hash.finalize().into();
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    SessionId(u128::from_be_bytes(id))
}

pub(super) const TENANT_DEFAULT: &str = "default";
const TENANT_BYTES_MAX: usize = 64;
