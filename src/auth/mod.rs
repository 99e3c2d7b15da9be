//! Who may come in: token keys and their verification.
//!
//! Lives here: the key files and the immutable set made of them, the checks of one token, the
//! identity that a token's claims spell, what identities share, and each shard's cache of results. Does not live here:
//! reading the `Authorization` header and answering the client (`corelane_shard`), or the TOML
//! that names the keys (the configuration).
//!
//! No token, and no part of one, is ever put into a log line or an error.

mod cache;
mod claims;
mod jwt;
mod key;
mod key_files;
mod standings;

pub use jwt::{JwtAuthenticator, VerifyCounts};
pub use key::{Algorithm, Key, KeyFault, KeySet, KeySpec, UnknownAlgorithm};
pub use key_files::{KeyError, KeyFiles, KeyRules};

#[cfg(test)]
mod tests;
