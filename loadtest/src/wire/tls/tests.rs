//! Against the server side of rustls, in memory.

use std::io::{Read, Write};
use std::sync::Arc;

use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::{TLS12, TLS13};
use rustls::{
    AlertDescription, Error as RustlsError, ServerConfig, ServerConnection,
    SupportedProtocolVersion,
};
use tempfile::NamedTempFile;

use super::*;
use crate::scenario::{Tls, TlsSuite, TlsVersion};

const BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
const HOST: &str = "127.0.0.1";

/// An authority; its certificate lies in a file that is removed at the end.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    file: NamedTempFile,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.self_signed(&key).unwrap();
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(certificate.pem().as_bytes()).unwrap();
        Self { issuer: Issuer::new(params, key), file }
    }

    /// A server whose certificate this authority has signed.
    fn server(&self, versions: &[&'static SupportedProtocolVersion]) -> Arc<ServerConfig> {
        self.server_until(versions, 2100)
    }

    fn server_until(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        year: i32,
    ) -> Arc<ServerConfig> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![HOST.to_owned()]).unwrap();
        params.not_after = date_time_ymd(year, 1, 1);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        config.ticketer = aws_lc_rs::Ticketer::new().unwrap();
        Arc::new(config)
    }

    fn trusted(&self) -> Tls {
        Tls { ca: Some(self.file.path().to_owned()), ..Tls::default() }
    }
}

fn client(tls: &Tls) -> Client {
    Client::new(tls, HOST, 8).unwrap()
}

/// One connection seen from both ends.
struct Ends {
    near: Session,
    far: ServerConnection,
    /// On its way to the server.
    out: Vec<u8>,
    /// What the client and what the server has received.
    plain: Vec<u8>,
    heard: Vec<u8>,
}

impl Ends {
    fn new(client: &Client, server: &Arc<ServerConfig>) -> Self {
        let mut far = ServerConnection::new(Arc::clone(server)).unwrap();
        far.set_buffer_limit(None);
        let mut ends = Self {
            near: client.open().unwrap(),
            far,
            out: Vec::new(),
            plain: Vec::new(),
            heard: Vec::new(),
        };
        ends.near.begin(&mut ends.out).unwrap();
        ends
    }

    /// What is under way arrives; at the client in pieces.
    fn settle(&mut self, piece: usize) -> Result<(), TlsError> {
        loop {
            self.tell_server().unwrap();
            let mut records = Vec::new();
            while self.far.wants_write() {
                self.far.write_tls(&mut records).unwrap();
            }
            if records.is_empty() {
                return Ok(());
            }
            for piece in records.chunks(piece) {
                let mut records = [self.near.carry(), piece].concat();
                let plain = &mut self.plain;
                let mut each = |bytes: &[u8]| plain.extend_from_slice(bytes);
                self.near.open(&mut records, &mut each, &mut self.out)?;
            }
        }
    }

    fn tell_server(&mut self) -> Result<(), RustlsError> {
        let out = std::mem::take(&mut self.out);
        let mut records = &out[..];
        while !records.is_empty() {
            self.far.read_tls(&mut records).unwrap();
            self.far.process_new_packets()?;
            // Ends with "would block" as long as the client may send more.
            self.far.reader().read_to_end(&mut self.heard).ok();
        }
        Ok(())
    }
}

fn shaken(client: &Client, server: &Arc<ServerConfig>) -> Result<Ends, TlsError> {
    let mut ends = Ends::new(client, server);
    ends.settle(usize::MAX)?;
    assert!(ends.near.is_shaken());
    Ok(ends)
}

fn refusal(client: &Client, server: &Arc<ServerConfig>) -> TlsError {
    shaken(client, server).err().expect("the handshake must fail")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_is_sent_arrives_whatever_the_pieces(
        piece in 1..3000_usize,
        lengths in prop::collection::vec(1..40_000_usize, 1..5),
        old in any::<bool>(),
    ) {
        let authority = Authority::new("a");
        let versions: &[_] = if old { &[&TLS12] } else { &[&TLS13] };
        let mut ends = Ends::new(&client(&authority.trusted()), &authority.server(versions));
        ends.settle(piece).unwrap();
        prop_assert!(ends.near.is_shaken());
        for length in lengths {
            let message: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            ends.near.seal(&message, &mut ends.out).unwrap();
            ends.far.writer().write_all(&message).unwrap();
            ends.plain.clear();
            ends.settle(piece).unwrap();
            prop_assert!(ends.heard == message);
            ends.heard.clear();
            prop_assert!(ends.plain == message);
            prop_assert!(ends.near.carry().is_empty());
        }
    }
}

#[test]
fn another_authority_is_refused_with_what_helps_and_the_server_is_told() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let mut ends = Ends::new(&client(&ours.trusted()), &theirs.server(BOTH));
    let refused = ends.settle(usize::MAX).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "certificate refused: no trusted authority has signed it; tls.ca (--ca) names the file of \
         another authority"
    );
    let heard = ends.tell_server().unwrap_err();
    assert_eq!(heard, RustlsError::AlertReceived(AlertDescription::UnknownCA));
}

#[test]
fn an_authority_of_the_same_name_is_refused_too() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("ours"));
    let refused = refusal(&client(&ours.trusted()), &theirs.server(BOTH)).to_string();
    assert!(refused.starts_with("certificate refused: the trusted authority"), "{refused}");
}

#[test]
fn a_certificate_for_another_host_or_another_time_is_refused() {
    let authority = Authority::new("a");
    let elsewhere = Tls { server_name: Some("game.example".to_owned()), ..authority.trusted() };
    assert_eq!(
        refusal(&client(&elsewhere), &authority.server(BOTH)).to_string(),
        "certificate refused: it is not for game.example; tls.server_name says whose it must be"
    );
    let old = authority.server_until(BOTH, 2001);
    assert_eq!(
        refusal(&client(&authority.trusted()), &old).to_string(),
        "certificate refused: it has expired"
    );
}

#[test]
fn without_verification_every_certificate_is_taken() {
    let authority = Authority::new("a");
    let any = Tls { verify: false, ..Tls::default() };
    for version in [&TLS12, &TLS13] {
        shaken(&client(&any), &authority.server_until(&[version], 2001)).unwrap();
    }
}

#[test]
fn only_the_wanted_version_and_suite_are_offered() {
    let authority = Authority::new("a");
    let server = authority.server(BOTH);
    let agreed = |tls: &Tls| shaken(&client(tls), &server).unwrap().near.agreed();
    let old = Tls { version: Some(TlsVersion::V12), ..authority.trusted() };
    assert!(agreed(&old).starts_with("TLS 1.2, TLS_ECDHE_ECDSA_"), "{}", agreed(&old));
    let new = Tls { version: Some(TlsVersion::V13), ..authority.trusted() };
    assert!(agreed(&new).starts_with("TLS 1.3, "), "{}", agreed(&new));
    for (suite, name) in [
        (TlsSuite::Aes128Gcm, "TLS_AES_128_GCM_SHA256"),
        (TlsSuite::Aes256Gcm, "TLS_AES_256_GCM_SHA384"),
        (TlsSuite::ChaCha20Poly1305, "TLS_CHACHA20_POLY1305_SHA256"),
    ] {
        let tls = Tls { suite: Some(suite), ..authority.trusted() };
        assert_eq!(agreed(&tls), format!("TLS 1.3, {name}, full"));
    }
    // The server cannot but refuse, and says why.
    let mut ends = Ends::new(&client(&old), &authority.server(&[&TLS13]));
    ends.tell_server().unwrap_err();
    assert_eq!(
        ends.settle(usize::MAX).unwrap_err().to_string(),
        "TLS handshake failed: the server answers ProtocolVersion"
    );
}

#[test]
fn sessions_are_taken_up_again_only_if_wanted() {
    let authority = Authority::new("a");
    for version in [&TLS12, &TLS13] {
        let server = authority.server(&[version]);
        for (resume, expected) in [(false, "full"), (true, "resumed")] {
            let client = client(&Tls { resume, ..authority.trusted() });
            let first = shaken(&client, &server).unwrap().near.agreed();
            assert!(first.ends_with("full"), "{first}");
            for _ in 0..20 {
                let next = shaken(&client, &server).unwrap().near.agreed();
                assert!(next.ends_with(expected), "{next}");
            }
        }
    }
}

#[test]
fn tickets_beyond_the_most_are_forgotten_and_each_is_used_once() {
    let authority = Authority::new("a");
    let server = authority.server(&[&TLS13]);
    let client = Client::new(&Tls { resume: true, ..authority.trusted() }, HOST, 3).unwrap();
    for _ in 0..4 {
        shaken(&client, &server).unwrap();
    }
    // Handshakes that go nowhere take tickets and bring none.
    let mut begun: Vec<Ends> = (0..4).map(|_| Ends::new(&client, &server)).collect();
    let kinds: Vec<bool> = begun
        .iter_mut()
        .map(|ends| {
            ends.settle(usize::MAX).unwrap();
            ends.near.agreed().ends_with("resumed")
        })
        .collect();
    assert_eq!(kinds, [true, true, true, false]);
}

#[test]
fn a_changed_record_and_what_is_no_record_are_named() {
    let authority = Authority::new("a");
    let mut ends = shaken(&client(&authority.trusted()), &authority.server(BOTH)).unwrap();
    ends.far.writer().write_all(b"unchanged").unwrap();
    let mut records = Vec::new();
    ends.far.write_tls(&mut records).unwrap();
    *records.last_mut().unwrap() ^= 1;
    let error = ends.near.open(&mut records, &mut |_| panic!("opened"), &mut ends.out);
    assert_eq!(error.unwrap_err(), TlsError::Record("cannot decrypt peer's message".to_owned()));

    let mut ends = Ends::new(&client(&authority.trusted()), &authority.server(BOTH));
    let mut answer = b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec();
    let error = ends.near.open(&mut answer, &mut |_| {}, &mut ends.out).unwrap_err();
    assert_eq!(error.to_string(), "TLS handshake failed: the server does not speak TLS");
}

#[test]
fn the_last_word_of_each_side_is_heard() {
    let authority = Authority::new("a");
    let mut ends = shaken(&client(&authority.trusted()), &authority.server(BOTH)).unwrap();
    ends.far.writer().write_all(b"bye").unwrap();
    ends.far.send_close_notify();
    assert!(!ends.near.is_over());
    ends.settle(usize::MAX).unwrap();
    assert!(ends.near.is_over());
    assert_eq!(ends.plain, b"bye");
    ends.near.say_goodbye(&mut ends.out).unwrap();
    ends.tell_server().unwrap();
    let mut rest = Vec::new();
    assert_eq!(ends.far.reader().read_to_end(&mut rest).unwrap(), 0);
}

#[test]
fn what_cannot_be_trusted_is_said_before_anything_is_opened() {
    let authority = Authority::new("a");
    let missing = Tls { ca: Some("no/such/file.pem".into()), ..Tls::default() };
    let error = Client::new(&missing, HOST, 1).unwrap_err().to_string();
    assert!(error.starts_with("tls.ca no/such/file.pem: "), "{error}");
    std::fs::write(&authority.file, "nothing\n").unwrap();
    let error = Client::new(&authority.trusted(), HOST, 1).unwrap_err().to_string();
    assert!(error.contains("no certificate that can be an authority's"), "{error}");
    let error = Client::new(&Tls::default(), "no host", 1).unwrap_err().to_string();
    assert!(error.contains("\"no host\""), "{error}");
}
