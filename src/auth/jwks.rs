//! Sets of keys that issuers publish at a URL (RFC 7517): what of a set is used, the keys taken from
//! each last, and how a shard says that it has met a key nobody knows. The fetching is the control
//! core's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

use super::key::{Algorithm, Key, KeyFault};

/// One published set as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwksSpec {
    pub url: String,
    /// Of every key in it.
    pub issuer: String,
    pub audience: String,
    /// As for a key file.
    pub native: bool,
    /// Time between two fetches that succeed.
    pub refresh: Duration,
}

/// Why nothing of a document can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum JwksFault {
    #[error("it is not a JWK set: expected JSON with an array `keys`")]
    NotASet,
    #[error(
        "no key in it can be used: expected RSA, P-256 or Ed25519 keys for signatures, with `kid`"
    )]
    NoKey,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

/// A key as it is published; binary members in base64url.
#[derive(Deserialize)]
struct Jwk {
    kid: String,
    kty: String,
    alg: Option<String>,
    r#use: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

/// The usable keys of a set. Others are passed over: issuers publish keys for other purposes beside
/// them, and a kind that is not known yet must not lock everybody out.
pub fn parse_set(spec: &JwksSpec, body: &[u8]) -> Result<Vec<Arc<Key>>, JwksFault> {
    let document: Document = serde_json::from_slice(body).map_err(|_| JwksFault::NotASet)?;
    let mut keys: Vec<Arc<Key>> = Vec::new();
    for value in document.keys.into_iter().take(KEYS_MAX) {
        let usable = serde_json::from_value(value).ok().and_then(|jwk| usable_key(spec, &jwk));
        if let Some(key) = usable.filter(|key| keys.iter().all(|known| known.id != key.id)) {
            keys.push(Arc::new(key));
        }
    }
    if keys.is_empty() { Err(JwksFault::NoKey) } else { Ok(keys) }
}

fn usable_key(spec: &JwksSpec, jwk: &Jwk) -> Option<Key> {
    let signs = jwk.r#use.as_deref().is_none_or(|purpose| purpose == "sig");
    let verifies = jwk.key_ops.as_ref().is_none_or(|all| all.iter().any(|one| one == "verify"));
    let algorithm = algorithm(jwk).filter(|_| signs && verifies && !jwk.kid.is_empty())?;
    // The key's own word may only confirm what its kind says.
    if jwk.alg.as_deref().is_some_and(|named| named != algorithm.name()) {
        return None;
    }
    let material = match algorithm {
        Algorithm::Rs256 => PublicKey::Rsa { n: jwk.n.as_deref()?, e: jwk.e.as_deref()? },
        Algorithm::Es256 => PublicKey::P256 { x: jwk.x.as_deref()?, y: jwk.y.as_deref()? },
        Algorithm::EdDsa => PublicKey::Ed25519 { x: jwk.x.as_deref()? },
        Algorithm::Hs256 => return None,
    };
    Key::from_jwk(spec, &jwk.kid, algorithm, &material).ok()
}

/// What signs with a key of this kind. A shared secret has no place at a URL.
fn algorithm(jwk: &Jwk) -> Option<Algorithm> {
    match (jwk.kty.as_str(), jwk.crv.as_deref()) {
        ("RSA", _) => Some(Algorithm::Rs256),
        ("EC", Some("P-256")) => Some(Algorithm::Es256),
        ("OKP", Some("Ed25519")) => Some(Algorithm::EdDsa),
        _ => None,
    }
}

/// The members that make a key, in base64url.
pub(super) enum PublicKey<'a> {
    Rsa { n: &'a str, e: &'a str },
    P256 { x: &'a str, y: &'a str },
    Ed25519 { x: &'a str },
}

impl PublicKey<'_> {
    /// The lengths are what could make a key that never verifies, or costs too much to.
    pub(super) fn check(&self) -> Result<(), KeyFault> {
        let length = |text: &str| -> Result<usize, KeyFault> {
            let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| KeyFault::WrongKind)?;
            Ok(bytes.iter().skip_while(|byte| **byte == 0).count())
        };
        let whole = |text: &str| URL_SAFE_NO_PAD.decode(text).map_or(0, |bytes| bytes.len());
        let right = match self {
            Self::Rsa { n, e } => {
                if length(n)? < RSA_MODULUS_BYTES_MIN {
                    return Err(KeyFault::ShortRsa);
                }
                length(n)? <= RSA_MODULUS_BYTES_MAX && (1..=8).contains(&length(e)?)
            }
            Self::P256 { x, y } => whole(x) == 32 && whole(y) == 32,
            Self::Ed25519 { x } => whole(x) == 32,
        };
        if right { Ok(()) } else { Err(KeyFault::WrongKind) }
    }
}

/// The keys taken last from one URL.
#[derive(Debug)]
pub(super) struct JwksSource {
    pub(super) spec: JwksSpec,
    pub(super) keys: Vec<Arc<Key>>,
    /// The last fetch brought these keys. Otherwise a key that nobody knows may be in the set all the
    /// same.
    pub(super) current: bool,
}

impl JwksSource {
    pub(super) fn new(spec: &JwksSpec) -> Self {
        Self { spec: spec.clone(), keys: Vec::new(), current: false }
    }
}

/// What shards and control core tell each other about tokens of unknown keys. One per process.
#[derive(Debug, Default)]
pub struct UnknownKeys(AtomicU8);

/// A shard that meets one may ask for a fetch.
const QUIET: u8 = 0;
/// A shard has asked, and the fetch is not over.
const ASKED: u8 = 1;
/// What is not in the sets is not there: they were fetched a moment ago for that reason.
const SETTLED: u8 = 2;

impl UnknownKeys {
    /// A shard has met one. Returns whether the sets are being fetched for it, so that nothing can be
    /// said about its token yet.
    pub fn report(&self) -> bool {
        let seen = self.0.compare_exchange(QUIET, ASKED, Ordering::Relaxed, Ordering::Relaxed);
        seen != Err(SETTLED)
    }

    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed) == ASKED
    }

    /// The sets have been fetched for it.
    pub fn settle(&self) {
        self.0.store(SETTLED, Ordering::Relaxed);
    }

    /// The next one counts again.
    pub fn reopen(&self) {
        self.0.store(QUIET, Ordering::Relaxed);
    }
}

/// Keys taken of one set.
const KEYS_MAX: usize = 256;
/// 2048 bits.
const RSA_MODULUS_BYTES_MIN: usize = 256;
/// 8192 bits: a verification is still short.
const RSA_MODULUS_BYTES_MAX: usize = 1024;
