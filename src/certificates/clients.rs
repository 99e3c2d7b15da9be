//! What is asked of clients: a certificate of theirs, or none.

use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoClientAuth, WebPkiClientVerifier};

use super::chain::read_certificates;
use super::{CertificateError, ChainFault, ClientCertificates};

/// The demand, with the roots that clients' certificates are to lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Demand {
    clients: ClientCertificates,
    roots: Vec<CertificateDer<'static>>,
}

impl Demand {
    pub(super) fn read(clients: &ClientCertificates) -> Result<Self, CertificateError> {
        let roots = match clients.roots() {
            Some(file) => read_certificates(file)?,
            None => Vec::new(),
        };
        Ok(Self { clients: clients.clone(), roots })
    }

    pub(super) fn verifier(
        &self,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Arc<dyn ClientCertVerifier>, CertificateError> {
        let Some(file) = self.clients.roots() else {
            return Ok(Arc::new(NoClientAuth));
        };
        let mut store = RootCertStore::empty();
        for root in &self.roots {
            store.add(root.clone()).map_err(|_| not_understood(file))?;
        }
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider));
        let verifier = match &self.clients {
            ClientCertificates::Optional { .. } => verifier.allow_unauthenticated(),
            ClientCertificates::Unasked | ClientCertificates::Required { .. } => verifier,
        };
        verifier.build().map_err(|_| CertificateError::NoRoots { file: file.to_owned() })
    }
}

fn not_understood(file: &Path) -> CertificateError {
    CertificateError::Unusable { file: file.to_owned(), fault: ChainFault::NotUnderstood }
}
