//! One certificate with its key, and the choice among several by the server's name.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{Error as RustlsError, InconsistentKeys};
use thiserror::Error;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{CertificateError, CertificateSpec, read_file};

/// What is wrong with the content of a file.
#[derive(Debug, Error)]
pub enum ChainFault {
    #[error("no certificate in it; name a PEM file with the whole chain")]
    NoCertificate,
    #[error("no private key in it; name a PEM file with the certificate's key, not encrypted")]
    NoKey,
    #[error("the PEM in it is damaged; have it written again")]
    Damaged,
    #[error("the certificate cannot be understood; have it made again, as X.509 version 3")]
    NotUnderstood,
    #[error(
        "the key cannot be used: {0}; ECDSA P-256 or P-384, RSA from 2048 bits and Ed25519 can"
    )]
    UnusableKey(RustlsError),
    #[error("the key is not that of {}; name the one that belongs to it", certificate.display())]
    Mismatch { certificate: Box<Path> },
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
        let unusable =
            |file: &Path, fault| CertificateError::Unusable { file: file.to_owned(), fault };
        let certificates = read_certificates(&spec.certificate)?;
        let first = certificates
            .first()
            .ok_or_else(|| unusable(&spec.certificate, ChainFault::NoCertificate))?;
        let (names, expires_unix_seconds) = describe(first)
            .ok_or_else(|| unusable(&spec.certificate, ChainFault::NotUnderstood))?;
        let key = PrivateKeyDer::from_pem_slice(&read_file(&spec.key)?).map_err(|error| {
            let fault = match error {
                pem::Error::NoItemsFound => ChainFault::NoKey,
                _ => ChainFault::Damaged,
            };
            unusable(&spec.key, fault)
        })?;
        let key = provider
            .key_provider
            .load_private_key(key)
            .map_err(|error| unusable(&spec.key, ChainFault::UnusableKey(error)))?;
        let key = CertifiedKey::new(certificates, key);
        key.keys_match().map_err(|error| match error {
            RustlsError::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                let certificate = spec.certificate.clone().into();
                unusable(&spec.key, ChainFault::Mismatch { certificate })
            }
            _ => unusable(&spec.certificate, ChainFault::NotUnderstood),
        })?;
        Ok(Self { key: Arc::new(key), names, expires_unix_seconds })
    }

    pub(super) fn expires_unix_seconds(&self) -> i64 {
        self.expires_unix_seconds
    }
}

/// All that are in the file, which may be none.
pub(super) fn read_certificates(
    file: &Path,
) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    CertificateDer::pem_slice_iter(&read_file(file)?).collect::<Result<_, _>>().map_err(|_| {
        CertificateError::Unusable { file: file.to_owned(), fault: ChainFault::Damaged }
    })
}

/// The names of a certificate and when it ends.
fn describe(certificate: &CertificateDer<'_>) -> Option<(Box<[Box<str>]>, i64)> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let named = parsed.subject_alternative_name().ok()?;
    let named = named.iter().flat_map(|extension| &extension.value.general_names);
    let names = named.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(Box::<str>::from(name.to_ascii_lowercase())),
        _ => None,
    });
    Some((names.collect(), parsed.validity().not_after.timestamp()))
}

/// Chooses by the name that the client wants; the first where nothing else fits.
#[derive(Debug)]
pub(super) struct Chains(pub(super) Vec<Chain>);

impl Chains {
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
