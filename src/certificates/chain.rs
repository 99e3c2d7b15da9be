//! One certificate with its key, and the choice among several by the server's name.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use thiserror::Error;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{CertificateError, CertificateSpec};

/// What is wrong with the content of a file.
#[derive(Debug, Error)]
pub enum ChainFault {
    #[error("no certificate in it; name a PEM file with the whole chain")]
    NoCertificate,
    #[error("no private key in it; name a PEM file with the certificate's key")]
    NoKey,
    #[error("not PEM: {0}; name a PEM file")]
    NotPem(pem::Error),
    #[error("the certificate cannot be understood; have it made again")]
    Unreadable,
    #[error("the key cannot be used: {0}; ECDSA P-256 or P-384, RSA from 2048 bits and Ed25519 can")]
    UnusableKey(rustls::Error),
    #[error("the key is not the certificate's; name the one that belongs to it")]
    Mismatch,
}

/// A certificate, the way to its root, and its key.
#[derive(Debug)]
pub(super) struct Chain {
    key: Arc<CertifiedKey>,
    /// In lower case, with `*.` in front where it is a wildcard.
    names: Box<[Box<str>]>,
    expires_unix_seconds: i64,
}

impl Chain {
    pub(super) fn read(
        spec: &CertificateSpec,
        provider: &CryptoProvider,
    ) -> Result<Self, CertificateError> {
        let certificates = CertificateDer::pem_file_iter(&spec.certificate)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| refused(&spec.certificate, error, ChainFault::NoCertificate))?;
        let key = PrivateKeyDer::from_pem_file(&spec.key)
            .map_err(|error| refused(&spec.key, error, ChainFault::NoKey))?;
        let unusable = |file: &Path, fault| {
            CertificateError::Unusable { file: file.to_owned(), fault }
        };
        let first = certificates
            .first()
            .ok_or_else(|| unusable(&spec.certificate, ChainFault::NoCertificate))?;
        let (names, expires_unix_seconds) =
            describe(first).ok_or_else(|| unusable(&spec.certificate, ChainFault::Unreadable))?;
        let key = provider
            .key_provider
            .load_private_key(key)
            .map_err(|error| unusable(&spec.key, ChainFault::UnusableKey(error)))?;
        let key = CertifiedKey::new(certificates, key);
        key.keys_match().map_err(|_| unusable(&spec.key, ChainFault::Mismatch))?;
        Ok(Self { key: Arc::new(key), names, expires_unix_seconds })
    }

    pub(super) fn expires_unix_seconds(&self) -> i64 {
        self.expires_unix_seconds
    }
}

fn refused(file: &Path, error: pem::Error, nothing: ChainFault) -> CertificateError {
    let file = file.to_owned();
    match error {
        pem::Error::Io(source) => CertificateError::Unreadable { file, source },
        pem::Error::NoItemsFound => CertificateError::Unusable { file, fault: nothing },
        other => CertificateError::Unusable { file, fault: ChainFault::NotPem(other) },
    }
}

/// The names of a certificate and when it ends.
fn describe(certificate: &CertificateDer<'_>) -> Option<(Box<[Box<str>]>, i64)> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let named = parsed.subject_alternative_name().ok()?;
    let named = named.iter().flat_map(|extension| &extension.value.general_names);
    let names = named.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase().into()),
        _ => None,
    });
    Some((names.collect(), parsed.validity().not_after.timestamp()))
}

/// Chooses by the name that the client wants; the first where nothing else fits.
#[derive(Debug)]
pub(super) struct Chains(Vec<Chain>);

impl Chains {
    pub(super) fn new(chains: Vec<Chain>) -> Self {
        Self(chains)
    }

    fn of(&self, name: &str) -> Option<&Chain> {
        let exact = self.0.iter().find(|chain| chain.names.iter().any(|known| **known == *name));
        exact.or_else(|| {
            // A wildcard stands for one label.
            let (_, parent) = name.split_once('.')?;
            let covers = |known: &str| known.strip_prefix("*.") == Some(parent);
            self.0.iter().find(|chain| chain.names.iter().any(|known| covers(known)))
        })
    }
}

impl ResolvesServerCert for Chains {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().and_then(|name| self.of(&name.to_ascii_lowercase()));
        named.or(self.0.first()).map(|chain| Arc::clone(&chain.key))
    }
}
