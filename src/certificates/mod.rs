//! Certificates of the TLS port: read, watched, and published to the shards as one configuration of
//! rustls.

mod chain;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use corelane_shard::tls::ALPN;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::CertificateDer;
use rustls::server::{NoServerSessionStorage, ProducesTickets, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion, version};
use thiserror::Error;
use tracing::{info, warn};

pub use self::chain::ChainFault;
use self::chain::{Chain, Chains};
use crate::file_stamp::FileStamp;

/// Everything that decides about TLS, as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsRules {
    /// At least one; the first serves clients that name no server, or one that nobody else has.
    pub certificates: Vec<CertificateSpec>,
    pub clients: ClientCertificates,
    pub oldest: TlsVersion,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateSpec {
    /// PEM: the server's own certificate, then those that lead to a root.
    pub certificate: PathBuf,
    /// PEM: its private key.
    pub key: PathBuf,
}

/// Whether clients prove themselves by a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientCertificates {
    Unasked,
    /// One that is shown must be good.
    Optional { roots: PathBuf },
    Required { roots: PathBuf },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsVersion {
    Tls12,
    Tls13,
}

/// Why certificates cannot be used. Each message names the file and the next step.
#[derive(Debug, Error)]
pub enum CertificateError {
    #[error("cannot read {}: {source}; check path and permissions", file.display())]
    Unreadable { file: PathBuf, source: io::Error },
    #[error("{}: {fault}", file.display())]
    Unusable { file: PathBuf, fault: ChainFault },
    #[error("{}: no certificate that clients' certificates could lead to; name a PEM file of roots", file.display())]
    NoRoots { file: PathBuf },
    #[error("TLS cannot be set up: {0}")]
    Rustls(#[from] rustls::Error),
}

/// The watched files and what is made of them. One per process, owned by the control core.
#[derive(Debug)]
pub struct Certificates {
    rules: TlsRules,
    stamps: Vec<Option<FileStamp>>,
    expiries: Vec<Expiry>,
    /// One for all configurations: tickets outlive a reload. Rotates its keys by itself.
    tickets: Arc<dyn ProducesTickets>,
    published: Arc<ArcSwap<ServerConfig>>,
}

/// When a certificate ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expiry {
    pub certificate: PathBuf,
    pub unix_seconds: i64,
}

impl Certificates {
    /// Reads every file; the first that cannot be used is an error.
    pub fn open(rules: TlsRules) -> Result<Self, CertificateError> {
        let tickets = aws_lc_rs::Ticketer::new()?;
        let stamps = stamps(&rules);
        let (config, expiries) = read(&rules, &tickets)?;
        let published = Arc::new(ArcSwap::from_pointee(config));
        Ok(Self { rules, stamps, expiries, tickets, published })
    }

    /// What every shard's handshakes begin with.
    #[must_use]
    pub fn published(&self) -> Arc<ArcSwap<ServerConfig>> {
        Arc::clone(&self.published)
    }

    #[must_use]
    pub fn expiries(&self) -> &[Expiry] {
        &self.expiries
    }

    /// Takes a new configuration, whole or not at all.
    pub fn reload(&mut self, rules: TlsRules) -> Result<(), CertificateError> {
        let stamps = stamps(&rules);
        self.publish(&rules)?;
        self.stamps = stamps;
        self.rules = rules;
        Ok(())
    }

    /// Looks for changed files and reads all anew if there is one. Files that do not fit together leave
    /// the old certificates in force, which is reported once per change. Says whether they were replaced.
    pub fn poll(&mut self) -> bool {
        let stamps = stamps(&self.rules);
        if stamps == self.stamps {
            return false;
        }
        // Older than what is read now, so a write in between is seen at the next poll.
        self.stamps = stamps;
        let rules = self.rules.clone();
        match self.publish(&rules) {
            Ok(()) => {
                info!("certificates replaced");
                true
            }
            Err(reason) => {
                warn!(%reason, "certificates not usable, those read before stay in force");
                false
            }
        }
    }

    fn publish(&mut self, rules: &TlsRules) -> Result<(), CertificateError> {
        let (config, expiries) = read(rules, &self.tickets)?;
        self.published.store(Arc::new(config));
        self.expiries = expiries;
        Ok(())
    }
}

fn stamps(rules: &TlsRules) -> Vec<Option<FileStamp>> {
    let own = rules.certificates.iter().flat_map(|spec| [&spec.certificate, &spec.key]);
    let roots = match &rules.clients {
        ClientCertificates::Unasked => None,
        ClientCertificates::Optional { roots } | ClientCertificates::Required { roots } => {
            Some(roots)
        }
    };
    own.chain(roots).map(|file| FileStamp::of(file)).collect()
}

fn read(
    rules: &TlsRules,
    tickets: &Arc<dyn ProducesTickets>,
) -> Result<(ServerConfig, Vec<Expiry>), CertificateError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let chains = rules.certificates.iter().map(|spec| Chain::read(spec, &provider));
    let chains = chains.collect::<Result<Vec<_>, _>>()?;
    let expiries = rules.certificates.iter().zip(&chains).map(|(spec, chain)| Expiry {
        certificate: spec.certificate.clone(),
        unix_seconds: chain.expires_unix_seconds(),
    });
    let expiries = expiries.collect();
    let versions: &[&SupportedProtocolVersion] = match rules.oldest {
        TlsVersion::Tls12 => &[&version::TLS13, &version::TLS12],
        TlsVersion::Tls13 => &[&version::TLS13],
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)?;
    let builder = match &rules.clients {
        ClientCertificates::Unasked => builder.with_no_client_auth(),
        ClientCertificates::Optional { roots } => {
            let verifier = verifier(roots, &provider)?.allow_unauthenticated();
            builder.with_client_cert_verifier(built(roots, verifier)?)
        }
        ClientCertificates::Required { roots } => {
            builder.with_client_cert_verifier(built(roots, verifier(roots, &provider)?)?)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(Chains::new(chains)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.ticketer = Arc::clone(tickets);
    // A client that comes back uses the last ticket it was given.
    config.send_tls13_tickets = 1;
    // Nothing is kept for those that come back but what their tickets say.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.enable_secret_extraction = true;
    Ok((config, expiries))
}

fn verifier(
    roots: &PathBuf,
    provider: &Arc<CryptoProvider>,
) -> Result<rustls::server::ClientCertVerifierBuilder, CertificateError> {
    let unreadable = |error| match error {
        pem::Error::Io(source) => CertificateError::Unreadable { file: roots.clone(), source },
        _ => CertificateError::NoRoots { file: roots.clone() },
    };
    let mut store = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(roots).map_err(unreadable)? {
        store.add(root.map_err(unreadable)?)?;
    }
    Ok(WebPkiClientVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider)))
}

fn built(
    roots: &PathBuf,
    verifier: rustls::server::ClientCertVerifierBuilder,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, CertificateError> {
    verifier.build().map_err(|_| CertificateError::NoRoots { file: roots.clone() })
}

#[cfg(test)]
mod tests;
