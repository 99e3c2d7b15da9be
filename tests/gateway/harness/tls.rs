//! Clients over TLS, and the certificates of a gateway that speaks it.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion,
};

use super::client::Client;
use super::raw::dial;
use crate::gateway_process::folder::Folder;

pub(crate) type TlsStream = StreamOwned<ClientConnection, TcpStream>;

/// An authority, and the files of a gateway whose certificates it signs.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    folder: Folder,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let folder = Folder::new();
        let mut params = CertificateParams::new(Vec::new()).expect("no names are legal ones");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("keys can be made");
        let certificate = params.self_signed(&key).expect("a key signs");
        fs::write(folder.path().join("roots.pem"), certificate.pem()).expect("the folder is ours");
        let certificate = certificate.der().clone();
        Self { issuer: Issuer::new(params, key), certificate, folder }
    }

    /// The authority itself.
    pub(crate) fn roots(&self) -> PathBuf {
        self.folder.path().join("roots.pem")
    }

    pub(crate) fn file(&self, name: &str, kind: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.{kind}.pem"))
    }

    /// A certificate for `names` with its key, as PEM.
    pub(crate) fn issue(&self, names: &[&str]) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("the names are legal");
        // 2_556_057_600
        params.not_after = rcgen::date_time_ymd(2050, 12, 31);
        let key = KeyPair::generate().expect("keys can be made");
        let certificate = params.signed_by(&key, &self.issuer).expect("a key signs");
        (certificate.pem(), key.serialize_pem())
    }

    /// Puts new files, or the first, in the place of the certificate `name`.
    pub(crate) fn write(&self, name: &str, names: &[&str]) -> CertificateDer<'static> {
        let (certificate, key) = self.issue(names);
        replace(&self.file(name, "certificate"), &certificate);
        replace(&self.file(name, "key"), &key);
        CertificateDer::from_pem_slice(certificate.as_bytes()).expect("it was just made")
    }

    /// TOML of a listener at any port with the certificates `names`; `more` are keys of the listener.
    pub(crate) fn listener(&self, names: &[&str], more: &str) -> String {
        let rows = names.iter().map(|name| {
            let [certificate, key] = ["certificate", "key"].map(|kind| self.file(name, kind));
            format!("[[listen.tls.certificate]]\ncertificate = {certificate:?}\nkey = {key:?}\n")
        });
        let rows: String = rows.collect();
        format!("[listen.tls]\naddress = [\"127.0.0.1:0\"]\n{more}\n{rows}")
    }

    /// What a client is told that trusts this authority and speaks `versions`.
    pub(crate) fn client(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        own: Option<(String, String)>,
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("it is a certificate");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("the provider has them")
            .with_root_certificates(roots);
        Arc::new(match own {
            None => config.with_no_client_auth(),
            Some((certificate, key)) => {
                let certificate = CertificateDer::from_pem_slice(certificate.as_bytes());
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes());
                let chain = vec![certificate.expect("it is a certificate")];
                config
                    .with_client_auth_cert(chain, key.expect("it is a key"))
                    .expect("the key is the certificate's")
            }
        })
    }
}

/// A new file, never one that is half written.
fn replace(file: &Path, content: &str) {
    let new = file.with_extension("new");
    fs::write(&new, content).expect("the folder is ours");
    fs::rename(new, file).expect("the folder is ours");
}

/// Shakes hands for the server `name`.
pub(crate) fn try_shake(
    address: SocketAddr,
    name: &'static str,
    config: &Arc<ClientConfig>,
) -> io::Result<TlsStream> {
    let name = ServerName::try_from(name).expect("a legal name");
    let connection = ClientConnection::new(Arc::clone(config), name).expect("a good config");
    let mut stream = StreamOwned::new(connection, dial(address));
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}

pub(crate) fn shake(
    address: SocketAddr,
    name: &'static str,
    config: &Arc<ClientConfig>,
) -> TlsStream {
    try_shake(address, name, config).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The certificate that the gateway shows for `name`.
pub(crate) fn shown(
    address: SocketAddr,
    name: &'static str,
    config: &Arc<ClientConfig>,
) -> CertificateDer<'static> {
    let stream = shake(address, name, config);
    let chain = stream.conn.peer_certificates().expect("servers show theirs");
    chain[0].clone().into_owned()
}

/// A session for the bearer of `token`, with its manifest.
pub(crate) fn session(
    address: SocketAddr,
    config: &Arc<ClientConfig>,
    token: &str,
) -> Client<TlsStream> {
    let stream = shake(address, "game.example", config);
    Client::try_upgrade(stream, address, &format!("Bearer {token}"))
        .unwrap_or_else(|status| panic!("refused with status {status}"))
}
