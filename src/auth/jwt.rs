//! Verification of one signed JWT, in the order that makes refusals cheap: shape, key and
//! algorithm, expiry, signature, the remaining claims.

use std::borrow::Cow;
use std::sync::Arc;

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use corelane_shard::clock::Now;
use corelane_shard::identity::{
    AuthRefusal, Authenticator, Identity, Judgement, TokenFingerprint, Validated,
};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::cache::TokenCache;
use super::claims::{Claims, Naming};
use super::key::{Key, KeySet};
use super::standings::Standings;

/// Verifies tokens on one shard's thread; one per shard. Clocks are believed as they are: there is
/// no tolerance around `exp` and `nbf`.
#[derive(Debug)]
pub struct JwtAuthenticator {
    published: Arc<ArcSwap<KeySet>>,
    /// The set that `cache` speaks about; holding it keeps its address from being used again.
    keys: Arc<KeySet>,
    cache: TokenCache,
    standings: Standings,
    counts: VerifyCounts,
    fresh_tokens: u64,
    /// There is an auth service to ask about tokens of keys that are not here.
    asks: bool,
}

/// What verification cost so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VerifyCounts {
    pub cache_hits: u64,
    pub signatures: u64,
}

impl JwtAuthenticator {
    #[must_use]
    pub fn new(published: Arc<ArcSwap<KeySet>>) -> Self {
        Self::remembering(published, TOKEN_SETS)
    }

    /// One for a single token: the places for results would cost more than looking at it.
    #[must_use]
    pub fn forgetful(published: Arc<ArcSwap<KeySet>>) -> Self {
        Self::remembering(published, 1)
    }

    fn remembering(published: Arc<ArcSwap<KeySet>>, sets: usize) -> Self {
        let keys = published.load_full();
        let cache = TokenCache::new(sets);
        let standings = Standings::default();
        let counts = VerifyCounts::default();
        Self { published, keys, cache, standings, counts, fresh_tokens: 0, asks: false }
    }

    /// Has the auth service asked about tokens of keys that are not here.
    #[must_use]
    pub fn asking(self) -> Self {
        Self { asks: true, ..self }
    }

    #[must_use]
    pub fn counts(&self) -> VerifyCounts {
        self.counts
    }

    /// A result of the old keys says nothing about the new ones: the cache goes with its set.
    fn follow_keys(&mut self) {
        let published = self.published.load();
        if !Arc::ptr_eq(&published, &self.keys) {
            self.keys = Arc::clone(&published);
            self.cache.clear();
        }
    }

    fn verify_fresh(
        &mut self,
        token: &Parts<'_>,
        now: Now,
    ) -> Result<(Identity, Naming), AuthRefusal> {
        let key = find_key(&self.keys, token.header)?.ok_or_else(|| self.keys.unknown_key())?;
        let claims = Claims::parse(&decode(token.payload)?)?;
        let expires_at = claims.check_expiry(now.unix_ms)?;
        decode(token.signature)?;
        self.counts.signatures += 1;
        if !key.signs(token.message, token.signature) {
            return Err(AuthRefusal::BadSignature);
        }
        claims.check_start(now.unix_ms)?;
        claims.check_parties(key)?;
        claims.identity(key, self.keys.session_claims(), expires_at, &mut self.standings)
    }
}

impl Authenticator for JwtAuthenticator {
    fn judge(&mut self, token: &str, now: Now) -> Judgement {
        if self.asks
            && let Some(judgement) = self.judge_foreign(token, now)
        {
            return judgement;
        }
        match self.verify(token, now) {
            Ok(identity) => Judgement::Accepted(identity),
            Err(refusal) => Judgement::Refused(refusal),
        }
    }

    fn learn(&mut self, token: TokenFingerprint, told: Validated, now: Now) -> Arc<Identity> {
        let Validated { session, account, standing, expires_at, issued_at } = told;
        let standing = self.standings.share(standing);
        let identity = Arc::new(Identity { session, account, standing, expires_at, issued_at });
        self.cache.insert(token, Arc::clone(&identity), now);
        identity
    }

    fn fresh_tokens(&self) -> u64 {
        self.fresh_tokens
    }
}

impl JwtAuthenticator {
    /// What is to be done with a token of a key that is not here; `None` for all others, which the keys
    /// here judge, and for what the auth service need not be bothered with.
    fn judge_foreign(&mut self, token: &str, now: Now) -> Option<Judgement> {
        let parts = Parts::split(token).ok()?;
        self.follow_keys();
        if find_key(&self.keys, parts.header).ok()?.is_some() {
            return None;
        }
        // The key may be in a published set too, for the next token of it.
        let _awaited = self.keys.unknown_key();
        let fingerprint = TokenFingerprint::of(token);
        if let Some(identity) = self.cache.find(fingerprint, now) {
            self.counts.cache_hits += 1;
            return Some(Judgement::Accepted(identity));
        }
        self.fresh_tokens += 1;
        let claims = decode(parts.payload).and_then(|json| Claims::parse(&json));
        Some(match claims {
            Ok(claims) if claims.is_over(now.unix_ms) => Judgement::Refused(AuthRefusal::Expired),
            Ok(_) => Judgement::Ask(fingerprint),
            Err(refusal) => Judgement::Refused(refusal),
        })
    }

    /// What the keys here say about a token.
    pub fn verify(&mut self, token: &str, now: Now) -> Result<Arc<Identity>, AuthRefusal> {
        let parts = Parts::split(token)?;
        self.follow_keys();
        let fingerprint = TokenFingerprint::of(token);
        if let Some(identity) = self.cache.find(fingerprint, now) {
            self.counts.cache_hits += 1;
            return Ok(identity);
        }
        self.fresh_tokens += 1;
        let (identity, naming) = self.verify_fresh(&parts, now)?;
        let identity = Arc::new(identity);
        if naming == Naming::ByClaim {
            self.cache.insert(fingerprint, Arc::clone(&identity), now);
        }
        Ok(identity)
    }
}

/// A compact JWS (RFC 7515 section 3.1), its parts still encoded.
struct Parts<'a> {
    header: &'a str,
    payload: &'a str,
    signature: &'a str,
    /// What is signed: header and payload with the point between.
    message: &'a str,
}

impl<'a> Parts<'a> {
    fn split(token: &'a str) -> Result<Self, AuthRefusal> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(AuthRefusal::Malformed);
        }
        let (message, signature) = token.rsplit_once('.').ok_or(AuthRefusal::Malformed)?;
        let (header, payload) = message.split_once('.').ok_or(AuthRefusal::Malformed)?;
        // A fourth part has its point in `payload`, where the alphabet refuses it.
        let shaped = [header, payload, signature].iter().all(|part| is_base64url(part));
        if shaped {
            Ok(Self { header, payload, signature, message })
        } else {
            Err(AuthRefusal::Malformed)
        }
    }
}

fn is_base64url(part: &str) -> bool {
    let letter = |b: u8| b.is_ascii_alphanumeric() | matches!(b, b'-' | b'_');
    !part.is_empty() && part.bytes().fold(true, |all, byte| all & letter(byte))
}

fn decode(part: &str) -> Result<Vec<u8>, AuthRefusal> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| AuthRefusal::Malformed)
}

#[derive(Deserialize)]
struct Header<'a> {
    #[serde(borrow)]
    alg: Cow<'a, str>,
    #[serde(borrow)]
    kid: Option<Cow<'a, str>>,
    /// Extensions that must be understood (RFC 7515 section 4.1.11); none are.
    crit: Option<IgnoredAny>,
}

/// The key that a token names, `None` if it is not here. The algorithm is the key's; the header may only
/// agree. Believing the header instead would let a client pick `none`, or HMAC with a public key for a
/// secret.
fn find_key<'k>(keys: &'k KeySet, header: &str) -> Result<Option<&'k Key>, AuthRefusal> {
    let json = decode(header)?;
    let header: Header<'_> = serde_json::from_slice(&json).map_err(|_| AuthRefusal::Malformed)?;
    if header.crit.is_some() {
        return Err(AuthRefusal::Malformed);
    }
    let Some(key) = keys.find(header.kid.as_deref()) else {
        return Ok(None);
    };
    match header.kid {
        _ if header.alg == key.algorithm.name() => Ok(Some(key)),
        // It does not say that this is its key.
        None => Ok(None),
        Some(_) => Err(AuthRefusal::AlgorithmMismatch),
    }
}

/// Longest credential.
const TOKEN_BYTES_MAX: usize = 8 << 10;
/// Sets of results remembered per shard: 8192 results in 400 KiB.
const TOKEN_SETS: usize = 1024;
