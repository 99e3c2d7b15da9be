//! Both ends of TLS for tests: a server for `game.test` and a client that trusts it.

use std::sync::Arc;

use rustls::client::{ClientConnection, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedCipherSuite};

/// Every kind of record that is spoken.
pub(crate) const SUITES: [SupportedCipherSuite; 6] = [
    aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
    aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
    aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    aws_lc_rs::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    aws_lc_rs::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    aws_lc_rs::cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
];

/// Configurations that can agree on `suite` alone.
pub(crate) fn configs(suite: SupportedCipherSuite) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    configs_signed(suite, &rcgen::PKCS_ECDSA_P256_SHA256)
}

/// As [`configs`], and each message of the handshake is always as long: signatures of ECDSA are not.
#[cfg(feature = "runtime")]
pub(crate) fn configs_of_one_length(
    suite: SupportedCipherSuite,
) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    configs_signed(suite, &rcgen::PKCS_ED25519)
}

fn configs_signed(
    suite: SupportedCipherSuite,
    algorithm: &'static rcgen::SignatureAlgorithm,
) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let provider =
        Arc::new(CryptoProvider { cipher_suites: vec![suite], ..aws_lc_rs::default_provider() });
    let signing_key = rcgen::KeyPair::generate_for(algorithm).unwrap();
    let mut params = rcgen::CertificateParams::new(["game.test".to_owned()]).unwrap();
    params.serial_number = Some(1.into());
    let cert = params.self_signed(&signing_key).unwrap();
    let certificate = CertificateDer::from(cert.der().to_vec());
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let versions = [suite.version()];
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    server.enable_secret_extraction = true;
    server.ticketer = aws_lc_rs::Ticketer::new().unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.resumption = Resumption::in_memory_sessions(8);
    (Arc::new(server), Arc::new(client))
}

pub(crate) fn client(config: &Arc<ClientConfig>) -> ClientConnection {
    let name = ServerName::try_from("game.test").unwrap();
    ClientConnection::new(Arc::clone(config), name).unwrap()
}
