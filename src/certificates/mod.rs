//! Certificates of the TLS port: read, watched, and published to the shards as one configuration of
//! rustls.
//!
//! Runs on the control core. Shards see only the [`ArcSwap`] that this module stores into.

mod chain;
mod clients;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use corelane_shard::tls::ALPN;
use rustls::crypto::aws_lc_rs;
use rustls::server::{NoServerSessionStorage, ProducesTickets};
use rustls::{ServerConfig, SupportedProtocolVersion, version};
use thiserror::Error;
use tracing::{info, warn};

pub use self::chain::ChainFault;
use self::chain::{Chain, Chains};
use self::clients::Demand;
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
    Optional {
        roots: PathBuf,
    },
    Required {
        roots: PathBuf,
    },
}

impl ClientCertificates {
    fn roots(&self) -> Option<&Path> {
        match self {
            Self::Unasked => None,
            Self::Optional { roots } | Self::Required { roots } => Some(roots),
        }
    }
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
    #[error("{}: no certificate that clients' could lead to; name a PEM file of roots", file.display())]
    NoRoots { file: PathBuf },
    #[error("TLS cannot be set up: {0}")]
    Rustls(#[from] rustls::Error),
}

impl CertificateError {
    /// The file at fault.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Unreadable { file, .. }
            | Self::Unusable { file, .. }
            | Self::NoRoots { file } => Some(file),
            Self::Rustls(_) => None,
        }
    }
}

/// When a certificate ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expiry {
    pub certificate: PathBuf,
    pub unix_seconds: i64,
}

/// The watched files and what is made of them. One per process, owned by the control core.
#[derive(Debug)]
pub struct Certificates {
    rules: TlsRules,
    /// State of the files that were read last, good or not.
    stamps: Vec<Option<FileStamp>>,
    expiries: Arc<[Expiry]>,
    tickets: Tickets,
    published: Arc<ArcSwap<ServerConfig>>,
}

/// Makes the tickets of clients that come back, for all shards and across reloads. A ticket spares its
/// client the proof of who it is: it is good for as long as the same is asked.
#[derive(Debug, Clone)]
struct Tickets {
    /// Rotates its keys by itself.
    maker: Arc<dyn ProducesTickets>,
    demand: Demand,
}

/// Certificates that were read and found good, and are yet to be put in force.
#[derive(Debug)]
pub struct Candidate {
    rules: TlsRules,
    stamps: Vec<Option<FileStamp>>,
    expiries: Arc<[Expiry]>,
    tickets: Tickets,
    config: ServerConfig,
}

impl Certificates {
    /// Reads every file; the first that cannot be used is an error.
    pub fn open(rules: TlsRules) -> Result<Self, CertificateError> {
        let Candidate { rules, stamps, expiries, tickets, config } = Candidate::read(rules, None)?;
        let published = Arc::new(ArcSwap::from_pointee(config));
        Ok(Self { rules, stamps, expiries, tickets, published })
    }

    /// What every shard's handshakes begin with.
    #[must_use]
    pub fn published(&self) -> Arc<ArcSwap<ServerConfig>> {
        Arc::clone(&self.published)
    }

    #[must_use]
    pub fn expiries(&self) -> Arc<[Expiry]> {
        Arc::clone(&self.expiries)
    }

    /// Reads what a new configuration names, and changes nothing.
    pub fn read(&self, rules: TlsRules) -> Result<Candidate, CertificateError> {
        Candidate::read(rules, Some(&self.tickets))
    }

    /// Puts it in force for all handshakes to come. Says whether it may differ from what was.
    pub fn take(&mut self, new: Candidate) -> bool {
        let differs = new.stamps != self.stamps || new.rules != self.rules;
        self.published.store(Arc::new(new.config));
        self.rules = new.rules;
        self.stamps = new.stamps;
        self.expiries = new.expiries;
        self.tickets = new.tickets;
        differs
    }

    /// Looks for changed files and reads all anew if there is one. Files that do not fit together leave
    /// the old certificates in force, which is reported once per change. Says whether they were replaced.
    pub fn poll(&mut self) -> bool {
        let stamps = stamps(&self.rules);
        if stamps == self.stamps {
            return false;
        }
        match self.read(self.rules.clone()) {
            Ok(new) => {
                self.take(new);
                info!("certificates replaced");
                true
            }
            Err(reason) => {
                self.stamps = stamps;
                warn!(%reason, "certificates not usable, those read before stay in force");
                false
            }
        }
    }
}

impl Candidate {
    fn read(rules: TlsRules, former: Option<&Tickets>) -> Result<Self, CertificateError> {
        // Older than what is read below, so that a write in between is seen at the next poll.
        let stamps = stamps(&rules);
        let provider = Arc::new(aws_lc_rs::default_provider());
        let chains = rules.certificates.iter().map(|spec| Chain::read(spec, &provider));
        let chains = chains.collect::<Result<Vec<_>, _>>()?;
        let expiries = rules.certificates.iter().zip(&chains).map(|(spec, chain)| Expiry {
            certificate: spec.certificate.clone(),
            unix_seconds: chain.expires_unix_seconds(),
        });
        let expiries = expiries.collect();
        let demand = Demand::read(&rules.clients)?;
        let tickets = match former {
            Some(former) if former.demand == demand => former.clone(),
            _ => Tickets { maker: aws_lc_rs::Ticketer::new()?, demand },
        };
        let versions: &[&SupportedProtocolVersion] = match rules.oldest {
            TlsVersion::Tls12 => &[&version::TLS13, &version::TLS12],
            TlsVersion::Tls13 => &[&version::TLS13],
        };
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)?
            .with_client_cert_verifier(tickets.demand.verifier(&provider)?)
            .with_cert_resolver(Arc::new(Chains(chains)));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.ticketer = Arc::clone(&tickets.maker);
        // A client that comes back uses the last ticket it was given.
        config.send_tls13_tickets = 1;
        // Nothing is kept for those that come back but what their tickets say.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        // Records are the shards' own work.
        config.enable_secret_extraction = true;
        Ok(Self { rules, stamps, expiries, tickets, config })
    }
}

/// Whether certificate and key can be used together. Says when the certificate ends.
pub fn inspect(spec: &CertificateSpec) -> Result<Expiry, CertificateError> {
    let chain = Chain::read(spec, &aws_lc_rs::default_provider())?;
    let unix_seconds = chain.expires_unix_seconds();
    Ok(Expiry { certificate: spec.certificate.clone(), unix_seconds })
}

/// Whether clients could be judged by what the file holds.
pub fn inspect_roots(file: &Path) -> Result<(), CertificateError> {
    let demand = Demand::read(&ClientCertificates::Required { roots: file.to_owned() })?;
    demand.verifier(&Arc::new(aws_lc_rs::default_provider())).map(drop)
}

fn stamps(rules: &TlsRules) -> Vec<Option<FileStamp>> {
    let own = rules.certificates.iter().flat_map(|spec| [&*spec.certificate, &*spec.key]);
    own.chain(rules.clients.roots()).map(FileStamp::of).collect()
}

fn read_file(file: &Path) -> Result<Vec<u8>, CertificateError> {
    let unreadable = |source| CertificateError::Unreadable { file: file.to_owned(), source };
    let mut content = Vec::new();
    let opened = File::open(file).map_err(unreadable)?;
    opened.take(FILE_BYTES_MAX + 1).read_to_end(&mut content).map_err(unreadable)?;
    if content.len() as u64 > FILE_BYTES_MAX {
        let larger = "larger than any set of certificates";
        return Err(unreadable(io::Error::new(io::ErrorKind::FileTooLarge, larger)));
    }
    Ok(content)
}

/// Some hundreds of roots.
const FILE_BYTES_MAX: u64 = 1 << 20;
