//! One verification key and the immutable set of them that every shard reads.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use corelane_shard::identity::AuthRefusal;
use jsonwebtoken::{DecodingKey, DecodingKeyKind};
use thiserror::Error;

use super::jwks::{JwksSpec, PublicKey, UnknownKeys};

/// The signature algorithms that a key can be pinned to. There is no `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    Hs256,
    Rs256,
    Es256,
    EdDsa,
}

impl Algorithm {
    /// The `alg` value of RFC 7518, RFC 8037.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }

    pub(super) fn wire(self) -> jsonwebtoken::Algorithm {
        match self {
            Self::Hs256 => jsonwebtoken::Algorithm::HS256,
            Self::Rs256 => jsonwebtoken::Algorithm::RS256,
            Self::Es256 => jsonwebtoken::Algorithm::ES256,
            Self::EdDsa => jsonwebtoken::Algorithm::EdDSA,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A configured algorithm name that is not one of [`Algorithm`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not one of HS256, RS256, ES256, EdDSA")]
pub struct UnknownAlgorithm;

impl FromStr for Algorithm {
    type Err = UnknownAlgorithm;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        [Self::Hs256, Self::Rs256, Self::Es256, Self::EdDsa]
            .into_iter()
            .find(|algorithm| algorithm.name().eq_ignore_ascii_case(name))
            .ok_or(UnknownAlgorithm)
    }
}

/// One key as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySpec {
    /// The `kid` of the tokens that this key signs.
    pub id: String,
    pub algorithm: Algorithm,
    /// HS256: the secret's bytes, one trailing line break apart. Others: a public key in PEM.
    pub file: PathBuf,
    pub issuer: String,
    pub audience: String,
    /// The issuer's session claims that are UUIDs are session ids as they stand; of at most one
    /// issuer.
    pub native: bool,
}

/// A key ready to verify, with everything that is pinned to it.
#[derive(Debug)]
pub struct Key {
    pub(super) id: Box<str>,
    pub(super) algorithm: Algorithm,
    pub(super) issuer: Box<str>,
    pub(super) audience: Box<str>,
    pub(super) native: bool,
    decoding: DecodingKey,
}

/// What is wrong with the content of a key file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum KeyFault {
    #[error("the file is empty: put the key into it")]
    Empty,
    #[error("the secret is shorter than 32 bytes: HS256 needs at least 256 bits")]
    ShortSecret,
    #[error("the file holds a PEM key but HS256 is configured: set the algorithm of that key")]
    PemAsSecret,
    #[error("the file holds a private key: configure the public key and keep this one elsewhere")]
    PrivateKey,
    #[error("the file is not a public key in PEM: export one with `openssl pkey -pubout`")]
    NotPublicPem,
    #[error("the key does not fit its algorithm: RS256 needs RSA, ES256 P-256, EdDSA Ed25519")]
    WrongKind,
    #[error("the RSA key is shorter than 2048 bits")]
    ShortRsa,
}

impl Key {
    /// Checks `content` against the algorithm, so that a key that can never verify is found when
    /// it is read and not when players are turned away.
    pub fn new(spec: &KeySpec, content: &[u8]) -> Result<Self, KeyFault> {
        let decoding = match spec.algorithm {
            Algorithm::Hs256 => secret(content)?,
            Algorithm::Rs256 | Algorithm::Es256 | Algorithm::EdDsa => {
                public_key(spec.algorithm, content)?
            }
        };
        Ok(Self {
            id: spec.id.as_str().into(),
            algorithm: spec.algorithm,
            issuer: spec.issuer.as_str().into(),
            audience: spec.audience.as_str().into(),
            native: spec.native,
            decoding,
        })
    }

    /// A key of a published set; `id` is its `kid`.
    pub(super) fn from_jwk(
        spec: &JwksSpec,
        id: &str,
        algorithm: Algorithm,
        key: &PublicKey<'_>,
    ) -> Result<Self, KeyFault> {
        key.check()?;
        let decoding = match key {
            PublicKey::Rsa { n, e } => DecodingKey::from_rsa_components(n, e),
            PublicKey::P256 { x, y } => DecodingKey::from_ec_components(x, y),
            PublicKey::Ed25519 { x } => DecodingKey::from_ed_components(x),
        };
        Ok(Self {
            id: id.into(),
            algorithm,
            issuer: spec.issuer.as_str().into(),
            audience: spec.audience.as_str().into(),
            native: spec.native,
            decoding: decoding.map_err(|_| KeyFault::WrongKind)?,
        })
    }

    /// Of one source, whose issuer and audience are the same for all.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let equal = match (self.decoding.kind(), other.decoding.kind()) {
            (DecodingKeyKind::SecretOrDer(one), DecodingKeyKind::SecretOrDer(other)) => {
                one == other
            }
            (
                DecodingKeyKind::RsaModulusExponent { n, e },
                DecodingKeyKind::RsaModulusExponent { n: other_n, e: other_e },
            ) => n == other_n && e == other_e,
            _ => false,
        };
        equal && self.id == other.id && self.algorithm == other.algorithm
    }

    /// Whether `signature` (base64url) signs `message` under this key and its pinned algorithm.
    pub(super) fn signs(&self, message: &str, signature: &str) -> bool {
        let message = message.as_bytes();
        jsonwebtoken::crypto::verify(signature, message, &self.decoding, self.algorithm.wire())
            .unwrap_or(false)
    }
}

fn secret(content: &[u8]) -> Result<DecodingKey, KeyFault> {
    let line = content.strip_suffix(b"\n").unwrap_or(content);
    let secret = line.strip_suffix(b"\r").unwrap_or(line);
    if secret.is_empty() {
        return Err(KeyFault::Empty);
    }
    // A public key is public: as an HMAC secret it would let anyone sign.
    if secret.starts_with(b"-----BEGIN") {
        return Err(KeyFault::PemAsSecret);
    }
    if secret.len() < SECRET_BYTES_MIN {
        return Err(KeyFault::ShortSecret);
    }
    Ok(DecodingKey::from_secret(secret))
}

fn public_key(algorithm: Algorithm, content: &[u8]) -> Result<DecodingKey, KeyFault> {
    let text = str::from_utf8(content).map_err(|_| KeyFault::NotPublicPem)?;
    if text.trim().is_empty() {
        return Err(KeyFault::Empty);
    }
    if text.contains("PRIVATE KEY-----") {
        return Err(KeyFault::PrivateKey);
    }
    if !text.contains("-----BEGIN PUBLIC KEY-----")
        && !text.contains("-----BEGIN RSA PUBLIC KEY-----")
    {
        return Err(KeyFault::NotPublicPem);
    }
    let key = match algorithm {
        Algorithm::Rs256 => DecodingKey::from_rsa_pem(content),
        Algorithm::Es256 => DecodingKey::from_ec_pem(content),
        Algorithm::EdDsa => DecodingKey::from_ed_pem(content),
        Algorithm::Hs256 => return Err(KeyFault::WrongKind),
    }
    .map_err(|_| KeyFault::WrongKind)?;
    let length = key.try_get_as_bytes().map_err(|_| KeyFault::WrongKind)?.len();
    match algorithm {
        Algorithm::Rs256 if length < RSA_2048_DER_BYTES => Err(KeyFault::ShortRsa),
        Algorithm::Es256 if length != P256_POINT_BYTES => Err(KeyFault::WrongKind),
        Algorithm::EdDsa if length != ED25519_BYTES => Err(KeyFault::WrongKind),
        _ => Ok(key),
    }
}

/// RFC 7518 section 3.2: a key of the size of the hash output or larger.
const SECRET_BYTES_MIN: usize = 32;
/// Shortest `RSAPublicKey` structure with a modulus of 2048 bits: 257 bytes of modulus, a
/// one-byte exponent, and their tags and lengths.
const RSA_2048_DER_BYTES: usize = 268;
/// Uncompressed point: 0x04, x, y.
const P256_POINT_BYTES: usize = 65;
const ED25519_BYTES: usize = 32;

/// All keys of one moment, and how their tokens name a session. Immutable; shared by all shards
/// and replaced as a whole.
#[derive(Debug)]
pub struct KeySet {
    keys: Box<[Arc<Key>]>,
    session_claims: Box<[Box<str>]>,
    published: Published,
}

/// How much is known of the sets that issuers publish.
#[derive(Debug)]
pub(super) enum Published {
    /// No set is configured.
    Nowhere,
    /// Each was fetched the last time it was tried.
    Current(Arc<UnknownKeys>),
    /// Some set was not: a key that is not here may be in it.
    Uncertain,
}

impl KeySet {
    /// Of two keys with one id the first is found.
    pub(super) fn new(
        keys: impl IntoIterator<Item = Arc<Key>>,
        session_claims: &[String],
        published: Published,
    ) -> Self {
        Self {
            keys: keys.into_iter().collect(),
            session_claims: session_claims.iter().map(|claim| claim.as_str().into()).collect(),
            published,
        }
    }

    /// A token names a key that is not here.
    #[must_use]
    pub(super) fn unknown_key(&self) -> AuthRefusal {
        match &self.published {
            Published::Nowhere => AuthRefusal::UnknownKey,
            Published::Current(unknown) if unknown.report() => AuthRefusal::Unavailable,
            Published::Current(_) => AuthRefusal::UnknownKey,
            Published::Uncertain => AuthRefusal::Unavailable,
        }
    }

    /// The key that a token's header names. A header without `kid` is understood only while there
    /// is nothing to choose between.
    #[must_use]
    pub fn find(&self, id: Option<&str>) -> Option<&Key> {
        match id {
            Some(id) => self.keys.iter().find(|key| &*key.id == id).map(AsRef::as_ref),
            None => match &*self.keys {
                [only] => Some(only),
                _ => None,
            },
        }
    }

    /// Claim names that may hold the session, the first present one wins.
    #[must_use]
    pub fn session_claims(&self) -> &[Box<str>] {
        &self.session_claims
    }
}
