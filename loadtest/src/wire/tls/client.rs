//! What all TLS connections of a run have in common: whom they trust and what they offer.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::{Resumption, UnbufferedClientConnection};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use thiserror::Error;

use super::tickets::Tickets;
use super::verifier::AnyCertificate;
use super::{Session, TlsError};
use crate::scenario::{Tls, TlsSuite, TlsVersion};

/// What a WebSocket goes over (RFC 6455), as browsers offer it.
const ALPN: &[u8] = b"http/1.1";

#[derive(Clone, Debug)]
pub(crate) struct Client {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

/// Why there can be no TLS connection at all.
#[derive(Debug, Error)]
pub enum Unusable {
    #[error("tls.ca {path}: {source}")]
    Authorities { path: PathBuf, source: PemError },
    #[error("tls.ca {path} has no certificate that can be an authority's: give a PEM file")]
    NoAuthority { path: PathBuf },
    #[error("this system has no trusted authorities: name a file of them with --ca (tls.ca)")]
    NoSystemAuthorities,
    #[error("{name:?} is no host name that a certificate could be for: set tls.server_name")]
    Name { name: String },
    #[error("{0}")]
    Offer(#[from] rustls::Error),
}

impl Client {
    /// Connections to `host`; `tickets` are kept if sessions are to be taken up again.
    pub(crate) fn new(tls: &Tls, host: &str, tickets: usize) -> Result<Self, Unusable> {
        let name = tls.server_name.as_deref().unwrap_or(host).to_owned();
        let name = ServerName::try_from(name.clone()).map_err(|_| Unusable::Name { name })?;
        let mut provider = aws_lc_rs::default_provider();
        if let Some(wanted) = tls.suite {
            provider.cipher_suites.retain(|suite| suite.suite() == wanted.number());
        }
        let provider = Arc::new(provider);
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&versions(tls))?;
        let mut config = match tls.verify {
            true => config.with_root_certificates(authorities(tls.ca.as_deref())?),
            false => config.dangerous().with_custom_certificate_verifier(any(&provider)),
        }
        .with_no_client_auth();
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = match tls.resume {
            true => Resumption::store(Arc::new(Tickets::new(tickets))),
            false => Resumption::disabled(),
        };
        Ok(Self { config: Arc::new(config), name })
    }

    pub(crate) fn open(&self) -> Result<Session, TlsError> {
        UnbufferedClientConnection::new(Arc::clone(&self.config), self.name.clone())
            .map(Session::new)
            .map_err(|error| TlsError::new(&error, true))
    }
}

fn versions(tls: &Tls) -> Vec<&'static SupportedProtocolVersion> {
    match (tls.version, tls.suite) {
        (Some(TlsVersion::V12), _) => vec![&TLS12],
        (Some(TlsVersion::V13), _) | (None, Some(_)) => vec![&TLS13],
        (None, None) => vec![&TLS13, &TLS12],
    }
}

fn any(provider: &CryptoProvider) -> Arc<AnyCertificate> {
    Arc::new(AnyCertificate(provider.signature_verification_algorithms))
}

/// Those of the file, or those that the system trusts.
fn authorities(file: Option<&Path>) -> Result<RootCertStore, Unusable> {
    let mut roots = RootCertStore::empty();
    let Some(path) = file else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return if roots.is_empty() { Err(Unusable::NoSystemAuthorities) } else { Ok(roots) };
    };
    let unreadable = |source| Unusable::Authorities { path: path.to_owned(), source };
    let certificates: Vec<_> =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(unreadable)?;
    roots.add_parsable_certificates(certificates);
    if roots.is_empty() {
        return Err(Unusable::NoAuthority { path: path.to_owned() });
    }
    Ok(roots)
}

impl TlsSuite {
    fn number(self) -> rustls::CipherSuite {
        match self {
            Self::Aes128Gcm => rustls::CipherSuite::TLS13_AES_128_GCM_SHA256,
            Self::Aes256Gcm => rustls::CipherSuite::TLS13_AES_256_GCM_SHA384,
            Self::ChaCha20Poly1305 => rustls::CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
        }
    }
}
