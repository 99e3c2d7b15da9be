//! The listener that speaks TLS, and its certificates.

use std::path::Path;

use super::*;
use crate::certificates::TlsVersion;

const KEYS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys");

fn certificate(certificate: &str, key: &str) -> String {
    format!("[[listen.tls.certificate]]\ncertificate = \"{certificate}\"\nkey = \"{key}\"\n")
}

fn good() -> String {
    certificate(&format!("{KEYS}/localhost.pem"), &format!("{KEYS}/localhost.key.pem"))
}

/// Five lines with a certificate behind them.
fn on(more: &str) -> String {
    format!("[listen.tls]\naddress = [\"127.0.0.1:8443\"]\n{more}\n{}", good())
}

#[test]
fn tls_is_spoken_at_addresses_of_its_own_with_certificates_that_are_named() {
    let config = load(&on("oldest_version = \"1.3\"")).unwrap();
    assert_eq!(config.listen_tls.address, ["127.0.0.1:8443".parse().unwrap()]);
    assert_eq!(config.listen_tls.oldest_version, TlsVersion::Tls13);
    assert_eq!(config.certificates.len(), 1);
    assert!(config.warnings().iter().all(|warning| !warning.contains("tls")));
    let budget = |config: &Config| MemoryBudget::of(config, 2).total();
    let more = 2 * (1024 * (32 << 10) + 16_384 * (2 << 10));
    assert_eq!(budget(&config), budget(&load("").unwrap()) + more);
    assert!(load(&format!("[listen.public]\naddress = []\n{}", on(""))).is_ok());
}

#[test]
fn an_address_needs_a_certificate_and_somebody_must_be_able_to_connect() {
    let lonely = "[listen.tls]\naddress = [\"127.0.0.1:8443\"]";
    assert_refused(load(lonely), &[":2:11: ", "no [[listen.tls.certificate]]", "PEM files"]);
    let nobody = "[listen.public]\naddress = []";
    assert_refused(load(nobody), &[":2:11: ", "listen.tls.address", "nobody could connect"]);
    let crowd = (1..=255).map(|port| format!("\"127.0.0.1:{port}\"")).collect::<Vec<_>>();
    let crowd = format!("[listen.public]\naddress = [{}]\n", crowd.join(", "));
    assert!(load(&crowd).is_ok());
    assert_refused(load(&format!("{crowd}{}", on(""))), &[":2:11: ", "more than 255 addresses"]);
    let unused = load(&good()).unwrap().warnings();
    assert!(unused.iter().any(|warning| warning.contains("listen.tls.address is empty")));
}

#[test]
fn no_other_listener_has_an_address_of_tls() {
    let internal = "[listen.internal]\nservice_token = \"x\"\n";
    for (other, taken) in [
        ("", "127.0.0.1:8080"),
        ("", "127.0.0.1:9100"),
        (&*format!("{internal}address = \"127.0.0.1:9200\"\n"), "127.0.0.1:9200"),
        (&*format!("{internal}endpoint_meta_address = \"127.0.0.1:9201\"\n"), "127.0.0.1:9201"),
    ] {
        let text = on("").replace("127.0.0.1:8443", taken);
        assert_refused(load(&format!("{text}{other}")), &[":2:11: ", taken, "another listener"]);
    }
    // Any free port.
    let text = on("").replace("8443", "0");
    assert!(load(&format!("{text}[listen.public]\naddress = [\"127.0.0.1:0\"]")).is_ok());
}

#[test]
fn files_are_read_when_the_configuration_is() {
    let missing = certificate("/nonexistent/a.pem", "/nonexistent/b.pem");
    assert_refused(load(&missing), &[":2:15: ", "cannot read /nonexistent/a.pem", "folder"]);
    let missing = certificate(&format!("{KEYS}/localhost.pem"), "/nonexistent/b.pem");
    assert_refused(load(&missing), &[":3:7: ", "cannot read /nonexistent/b.pem"]);
    let stranger = format!("{KEYS}/stranger.es256.private.pem");
    let mismatch = certificate(&format!("{KEYS}/localhost.pem"), &stranger);
    assert_refused(load(&mismatch), &[":3:7: ", &stranger, "not that of", "localhost.pem"]);
    let twice = format!("{}{}", good(), good());
    assert_refused(load(&twice), &[":5:15: ", "localhost.pem stands twice"]);
    let file = Some(SourceFile {
        path: Path::new(KEYS).join("corelane.toml"),
        text: format!("{SALT}{}", certificate("localhost.pem", "localhost.key.pem")),
    });
    let config = Config::load(&Sources { file, overrides: Overrides::default() }).unwrap();
    assert_eq!(config.certificates[0].key, Path::new(KEYS).join("localhost.key.pem"));
}

#[test]
fn client_certificates_are_judged_by_roots_that_are_named() {
    for demand in ["optional", "required"] {
        let text = on(&format!("client_certificates = \"{demand}\""));
        assert_refused(load(&text), &[":3:23: ", "client_roots", "name a PEM file of the roots"]);
    }
    let roots = |file: &str| {
        on(&format!("client_certificates = \"required\"\nclient_roots = \"{KEYS}/{file}\""))
    };
    let config = load(&roots("authority.pem")).unwrap();
    assert_eq!(config.listen_tls.client_certificates, CertificateDemand::Required);
    assert_refused(load(&roots("nobody.pem")), &[":4:16: ", "cannot read"]);
    assert_refused(load(&roots("rsa1024.public.pem")), &[":4:16: ", "name a PEM file of roots"]);
    let unused = load(&on(&format!("client_roots = \"{KEYS}/authority.pem\""))).unwrap();
    assert!(unused.warnings().iter().any(|warning| warning.contains("client_roots does nothing")));
}

#[test]
fn a_misspelt_key_of_a_certificate_is_refused() {
    let misspelt = good().replace("key =", "kye =");
    let lines = refusals(load(&misspelt));
    assert!(lines.iter().any(|line| line.contains("did you mean `key`?")), "{lines:?}");
    assert_refused(load("[listen.tls.certificate]"), &["written [[listen.tls.certificate]]"]);
    assert_refused(load("[listen.tsl]"), &["did you mean [listen.tls]?"]);
}

#[test]
fn certificates_and_versions_are_reloaded_and_addresses_are_not() {
    let old = load(&on("")).unwrap();
    let live = "oldest_version = \"1.3\"\nclient_certificates = \"optional\"\nclient_roots = ";
    let mut new = load(&on(&format!("{live}\"{KEYS}/authority.pem\""))).unwrap();
    new.certificates.clear();
    assert_eq!(old.restart_changes(&new), Vec::<String>::new());
    let other = "handshakes_max = 5\nhandshake_timeout = \"1s\"";
    let new = load(&on(other).replace("8443", "8444")).unwrap();
    assert_eq!(
        old.restart_changes(&new),
        ["listen.tls.address", "listen.tls.handshake_timeout", "listen.tls.handshakes_max"]
    );
}
