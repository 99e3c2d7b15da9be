//! Who may come in: token keys and their verification.
//!
//! Lives here: the key files, what of published key sets is used, and the immutable set made of both;
//! the checks of one token, the identity that a token's claims or the auth service's answer spell, what
//! identities share, and each shard's cache of results. Does not live here: reading the request and
//! answering the client (`corelane_shard`), fetching and asking over the network (`control`), or the
//! TOML that names the keys (the configuration).
//!
//! No token, and no part of one, is ever put into a log line or an error.

mod cache;
mod claims;
mod jwks;
mod jwt;
mod key;
mod key_ring;
mod standings;
mod validation;

pub use jwks::{JwksFault, JwksSpec, UnknownKeys, parse_set};
pub use jwt::{JwtAuthenticator, VerifyCounts};
pub use key::{Algorithm, Key, KeyFault, KeySet, KeySpec, UnknownAlgorithm};
pub use key_ring::{KeyError, KeyRing, KeyRules};
pub use validation::{Told, understand};

#[cfg(test)]
mod tests;
