//! Certificates from files, as clients meet them.

use std::fs;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::Acceptor;
use rustls::{
    ClientConfig, ClientConnection, Connection, Error as RustlsError, HandshakeKind,
    ProtocolVersion, RootCertStore, ServerConnection,
};
use tempfile::TempDir;

use super::*;

/// Signs certificates, whose files are in a folder of the test's own.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    folder: TempDir,
}

impl Authority {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        fs::write(folder.path().join("roots.pem"), certificate.pem()).unwrap();
        let certificate = certificate.der().clone();
        Self { issuer: Issuer::new(params, key), certificate, folder }
    }

    fn roots(&self) -> PathBuf {
        self.folder.path().join("roots.pem")
    }

    /// Writes a certificate for `names`, and its key, over what `file` had before.
    fn write(&self, file: &str, names: &[&str]) -> CertificateSpec {
        let spec = self.spec(file);
        let (certificate, key) = self.issue(names);
        replace(&spec.certificate, &certificate);
        replace(&spec.key, &key);
        spec
    }

    fn spec(&self, file: &str) -> CertificateSpec {
        let path = |kind: &str| self.folder.path().join(format!("{file}.{kind}.pem"));
        CertificateSpec { certificate: path("certificate"), key: path("key") }
    }

    /// Certificate and key, good until the end of 2050.
    fn issue(&self, names: &[&str]) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_after = rcgen::date_time_ymd(2050, 12, 31);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// A client that trusts this authority, and shows a certificate if it has one.
    fn client(&self, own: Option<(String, String)>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        match own {
            None => config.with_no_client_auth(),
            Some((certificate, key)) => {
                let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
                config.with_client_auth_cert(vec![certificate], key).unwrap()
            }
        }
    }
}

/// A new file in the place of the old: within one tick of its clock a file system cannot tell writes apart.
fn replace(file: &Path, content: &str) {
    let new = file.with_extension("new");
    fs::write(&new, content).unwrap();
    fs::rename(new, file).unwrap();
}

fn rules<const N: usize>(certificates: [CertificateSpec; N]) -> TlsRules {
    let clients = ClientCertificates::Unasked;
    TlsRules { certificates: certificates.into(), clients, oldest: TlsVersion::Tls12 }
}

fn read(spec: &CertificateSpec) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(&spec.certificate).unwrap()
}

/// What a client that wants `name` is shown. An address is no name.
fn shown(certificates: &Certificates, name: &'static str) -> CertificateDer<'static> {
    let authority = RootCertStore::empty();
    let client = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(authority)
        .with_no_client_auth();
    let name = ServerName::try_from(name).unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    let mut flight = Vec::new();
    client.write_tls(&mut flight).unwrap();
    let mut acceptor = Acceptor::default();
    acceptor.read_tls(&mut &*flight).unwrap();
    let accepted = acceptor.accept().ok().flatten().unwrap();
    let config = certificates.published().load_full();
    let chosen = config.cert_resolver.resolve(accepted.client_hello()).unwrap();
    chosen.end_entity_cert().unwrap().clone().into_owned()
}

/// Client and server after their handshake.
fn shake(
    certificates: &Certificates,
    client: &Arc<ClientConfig>,
) -> Result<[Connection; 2], RustlsError> {
    let name = ServerName::try_from("game.example").unwrap();
    let client = ClientConnection::new(Arc::clone(client), name)?;
    let server = ServerConnection::new(certificates.published().load_full())?;
    let mut ends = [Connection::from(client), Connection::from(server)];
    // The last round carries tickets.
    for _ in 0..4 {
        for (from, to) in [(0, 1), (1, 0)] {
            let mut flight = Vec::new();
            while ends[from].wants_write() {
                ends[from].write_tls(&mut flight).unwrap();
            }
            let mut flight = &*flight;
            while !flight.is_empty() {
                ends[to].read_tls(&mut flight).unwrap();
                ends[to].process_new_packets()?;
            }
        }
    }
    assert!(ends.iter().all(|end| !end.is_handshaking()));
    Ok(ends)
}

fn kind(certificates: &Certificates, client: &Arc<ClientConfig>) -> HandshakeKind {
    shake(certificates, client).unwrap()[1].handshake_kind().unwrap()
}

#[test]
fn the_certificate_is_chosen_by_the_name_that_the_client_wants() {
    let authority = Authority::new();
    let specs = [
        authority.write("first", &["game.example"]),
        authority.write("wildcard", &["*.game.example"]),
        authority.write("exact", &["eu.game.example", "Upper.example"]),
    ];
    let certificates = Certificates::open(rules(specs.clone())).unwrap();
    for (name, of) in [
        ("game.example", 0),
        ("us.game.example", 1),
        ("eu.game.example", 2),
        ("EU.Game.Example", 2),
        ("upper.example", 2),
        ("a.eu.game.example", 0),
        ("xgame.example", 0),
        ("elsewhere.example", 0),
        ("example", 0),
        ("127.0.0.1", 0),
    ] {
        assert_eq!(shown(&certificates, name), read(&specs[of]), "{name}");
    }
}

#[test]
fn both_versions_are_spoken_unless_the_older_is_forbidden_and_only_http_1() {
    let authority = Authority::new();
    let spec = authority.write("first", &["game.example"]);
    let certificates = Certificates::open(rules([spec.clone()])).unwrap();
    let strict = TlsRules { oldest: TlsVersion::Tls13, ..rules([spec]) };
    let strict = Certificates::open(strict).unwrap();
    let client = |only: &'static SupportedProtocolVersion, protocol: &[u8]| {
        let mut roots = RootCertStore::empty();
        roots.add(authority.certificate.clone()).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[only])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.alpn_protocols = vec![protocol.to_vec()];
        Arc::new(client)
    };
    let [newer, older] = [&version::TLS13, &version::TLS12].map(|only| client(only, b"http/1.1"));
    for (client, version) in
        [(&newer, ProtocolVersion::TLSv1_3), (&older, ProtocolVersion::TLSv1_2)]
    {
        let [_, server] = shake(&certificates, client).unwrap();
        assert_eq!(server.protocol_version(), Some(version));
        assert_eq!(server.alpn_protocol(), Some(ALPN));
    }
    assert!(shake(&strict, &newer).is_ok());
    assert!(matches!(shake(&strict, &older), Err(RustlsError::PeerIncompatible(_))));
    let foreign = shake(&certificates, &client(&version::TLS13, b"h2"));
    assert_eq!(foreign.err(), Some(RustlsError::NoApplicationProtocol));
}

#[test]
fn what_cannot_be_used_is_refused_with_the_name_of_its_file() {
    let authority = Authority::new();
    let good = authority.write("good", &["game.example"]);
    let other = authority.write("other", &["other.example"]);
    let missing = authority.spec("missing");
    let file = |name: &str, content: &str| {
        let file = authority.folder.path().join(name);
        fs::write(&file, content).unwrap();
        file
    };
    let empty = file("empty.pem", "");
    let damaged =
        file("damaged.pem", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n");
    let garbled =
        file("garbled.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let long = file("long.pem", &"\n".repeat((1 << 20) + 1));
    let cases = [
        (&good.certificate, &other.key, &other.key, "good.certificate.pem; name the one"),
        (&missing.certificate, &good.key, &missing.certificate, "check path and permissions"),
        (&good.certificate, &missing.key, &missing.key, "check path and permissions"),
        (&empty, &good.key, &empty, "no certificate in it"),
        (&good.key, &good.key, &good.key, "no certificate in it"),
        (&damaged, &good.key, &damaged, "damaged"),
        (&garbled, &good.key, &garbled, "cannot be understood"),
        (&long, &good.key, &long, "larger than"),
        (&good.certificate, &good.certificate, &good.certificate, "no private key in it"),
    ];
    for (certificate, key, at_fault, why) in cases {
        let spec = CertificateSpec { certificate: certificate.clone(), key: key.clone() };
        let error = inspect(&spec).unwrap_err();
        assert_eq!(error.file(), Some(&**at_fault), "{error}");
        let text = error.to_string();
        assert!(text.contains(&at_fault.display().to_string()) && text.contains(why), "{text}");
        assert!(Certificates::open(rules([good.clone(), spec])).is_err(), "{text}");
    }
    for (roots, why) in
        [(&empty, "no certificate"), (&garbled, "understood"), (&damaged, "damaged")]
    {
        let error = inspect_roots(roots).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
        assert_eq!(error.file(), Some(&**roots));
    }
    assert!(inspect_roots(&authority.roots()).is_ok());
}

#[test]
fn the_end_of_each_certificate_is_known() {
    let authority = Authority::new();
    let specs = [authority.write("a", &["a.example"]), authority.write("b", &["b.example"])];
    let certificates = Certificates::open(rules(specs.clone())).unwrap();
    // 2050-12-31T00:00:00Z
    let ends =
        specs.map(|spec| Expiry { certificate: spec.certificate, unix_seconds: 2_556_057_600 });
    assert_eq!(*certificates.expiries(), ends);
}

#[test]
fn changed_files_are_taken_once_they_fit_together_and_until_then_the_old_stay() {
    let authority = Authority::new();
    let spec = authority.write("first", &["game.example"]);
    let mut certificates = Certificates::open(rules([spec.clone()])).unwrap();
    let first = read(&spec);
    assert!(!certificates.poll(), "nothing has changed");

    let (certificate, key) = authority.issue(&["game.example"]);
    replace(&spec.certificate, &certificate);
    assert!(!certificates.poll(), "the key is that of the old one");
    assert_eq!(shown(&certificates, "game.example"), first);
    replace(&spec.key, &key);
    assert!(certificates.poll());
    let second = read(&spec);
    assert_ne!(first, second);
    assert_eq!(shown(&certificates, "game.example"), second);
    assert!(!certificates.poll());

    fs::remove_file(&spec.certificate).unwrap();
    assert!(!certificates.poll());
    assert_eq!(shown(&certificates, "game.example"), second);
}

#[test]
fn a_new_configuration_changes_nothing_until_it_is_taken() {
    let authority = Authority::new();
    let [old, new] = ["old", "new"].map(|file| authority.write(file, &["game.example"]));
    let mut certificates = Certificates::open(rules([old.clone()])).unwrap();
    assert!(certificates.read(rules([authority.spec("missing")])).is_err());
    let candidate = certificates.read(rules([new.clone()])).unwrap();
    assert_eq!(shown(&certificates, "game.example"), read(&old));
    assert!(certificates.take(candidate));
    assert_eq!(shown(&certificates, "game.example"), read(&new));
    assert_eq!(certificates.expiries()[0].certificate, new.certificate);
    let same = certificates.read(rules([new.clone()])).unwrap();
    assert!(!certificates.take(same));
    authority.write("old", &["game.example"]);
    assert!(!certificates.poll(), "that one is watched no more");
}

#[test]
fn clients_prove_themselves_as_far_as_that_is_asked() {
    let [authority, stranger] = [(); 2].map(|()| Authority::new());
    let spec = authority.write("first", &["game.example"]);
    let none = Arc::new(authority.client(None));
    let good = Arc::new(authority.client(Some(authority.issue(&["player"]))));
    let foreign = Arc::new(authority.client(Some(stranger.issue(&["player"]))));
    let roots = authority.roots();
    for (clients, passes) in [
        (ClientCertificates::Unasked, [true, true, true]),
        (ClientCertificates::Optional { roots: roots.clone() }, [true, true, false]),
        (ClientCertificates::Required { roots }, [false, true, false]),
    ] {
        let certificates = Certificates::open(TlsRules { clients, ..rules([spec.clone()]) });
        let certificates = certificates.unwrap();
        let passed = [&none, &good, &foreign].map(|client| shake(&certificates, client).is_ok());
        assert_eq!(passed, passes, "{:?}", certificates.rules.clients);
    }
}

#[test]
fn tickets_are_good_across_reloads_until_something_else_is_asked_of_clients() {
    let authority = Authority::new();
    let spec = authority.write("first", &["game.example"]);
    let mut certificates = Certificates::open(rules([spec.clone()])).unwrap();
    let mut client = authority.client(Some(authority.issue(&["player"])));
    client.resumption = Resumption::in_memory_sessions(4);
    let client = Arc::new(client);
    assert_eq!(kind(&certificates, &client), HandshakeKind::Full);
    assert_eq!(kind(&certificates, &client), HandshakeKind::Resumed);
    authority.write("first", &["game.example"]);
    assert!(certificates.poll());
    assert_eq!(kind(&certificates, &client), HandshakeKind::Resumed);

    let clients = ClientCertificates::Required { roots: authority.roots() };
    let strict = TlsRules { clients, ..rules([spec]) };
    let strict = certificates.read(strict).unwrap();
    certificates.take(strict);
    assert_eq!(kind(&certificates, &client), HandshakeKind::Full);
    assert_eq!(kind(&certificates, &client), HandshakeKind::Resumed);
    // Another root: who came by the first is to show what it has.
    let other = Authority::new();
    let both = [authority.roots(), other.roots()].map(|file| fs::read_to_string(file).unwrap());
    replace(&authority.roots(), &both.concat());
    assert!(certificates.poll());
    assert_eq!(kind(&certificates, &client), HandshakeKind::Full);
}
