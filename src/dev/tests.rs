//! The pieces together: what is written is accepted by those who read it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use jsonwebtoken::{DecodingKey, Validation};
use serde_json::Value;

use super::*;
use crate::config::{ConnectionMode, Overrides, Scheme, SourceFile, Sources};

/// A folder of one test, removed with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let name = format!("corelane-dev-test-{}", Uuid::new_v4().simple());
        Self(std::env::temp_dir().join(name))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn setup() -> Setup {
    let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    Setup { public: local(0), tls: None, shards: Some(2), http: local(7001), link: local(7002) }
}

/// As [`ConfigSource::load`], but without the variables of whoever runs the tests.
fn load(folder: &Folder) -> Config {
    let path = folder.config_path();
    let text = fs::read_to_string(&path).unwrap();
    let file = Some(SourceFile { path, text });
    let overrides = Overrides::default();
    Config::load(&Sources { file, overrides }).unwrap_or_else(|refused| panic!("{refused:?}"))
}

#[test]
fn the_written_configuration_is_accepted_without_a_warning() {
    let scratch = Scratch::new();
    let folder = Folder::open(Some(scratch.path())).unwrap();
    folder.write_config(&setup().render()).unwrap();
    let config = load(&folder);
    assert_eq!(config.warnings(), Vec::<String>::new());
    assert_eq!(config.listen_public.address, [setup().public]);
    assert_eq!(config.listen_admin.address.port(), 0);
    assert_eq!(config.listen_internal.address.unwrap().port(), 0);
    let service_token = config.listen_internal.service_token.as_ref().unwrap();
    assert_eq!(service_token.reveal().len(), 32);
    assert_eq!(config.shards.count.unwrap_or_else(|| 0), 2);
    assert_eq!(config.session.connection_mode, ConnectionMode::Relayed);
    assert_eq!(config.limits.messages_per_window, 0);
    assert!(config.echo.enabled && config.echo.path == "/echo");
    let services: Vec<_> = config
        .services
        .iter()
        .map(|service| {
            let paths = service.endpoints.iter().map(|one| one.path.as_str());
            let address = &service.settings.addresses[0];
            (
                service.settings.name.as_str(),
                address.scheme == Scheme::Http,
                address.upstream.to_string(),
                paths.collect::<Vec<_>>(),
            )
        })
        .collect();
    let http = vec!["/demo/echo", "/demo/time"];
    let link = vec!["/demo/link-echo"];
    assert_eq!(
        services,
        [
            ("demo", true, "127.0.0.1:7001".to_owned(), http),
            ("demo", false, "127.0.0.1:7002".to_owned(), link),
        ]
    );
    let token = config.services[1].token.as_ref().unwrap();
    assert_eq!(token.reveal(), folder.link_token());
}

#[test]
fn without_a_number_of_shards_the_gateway_chooses() {
    let scratch = Scratch::new();
    let folder = Folder::open(Some(scratch.path())).unwrap();
    let setup = Setup { shards: None, ..setup() };
    folder.write_config(&setup.render()).unwrap();
    assert_eq!(load(&folder).shards, Config::default().shards);
}

#[test]
fn each_start_has_a_salt_of_its_own() {
    assert_ne!(setup().render(), setup().render());
}

#[test]
fn the_tokens_are_of_four_accounts_and_sessions() {
    let scratch = Scratch::new();
    let folder = Folder::open(Some(scratch.path())).unwrap();
    folder.write_config(&setup().render()).unwrap();
    let secret = fs::read(scratch.path().join(folder::KEY)).unwrap();
    let mut rules = Validation::new(jsonwebtoken::Algorithm::HS256);
    rules.set_audience(&["corelane-dev"]);
    rules.set_issuer(&["corelane-dev"]);
    let mut seen = Vec::new();
    for Player { account, token } in players(&load(&folder)).unwrap() {
        let key = DecodingKey::from_secret(&secret);
        let claims = jsonwebtoken::decode::<Value>(token, &key, &rules).unwrap().claims;
        assert_eq!(claims["roles"][0], "user");
        assert_eq!(claims["sub"], account);
        seen.extend(["sub", "session_key"].map(|claim| claims[claim].as_str().unwrap().to_owned()));
    }
    assert_eq!(seen.len(), 2 * PLAYERS);
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 2 * PLAYERS);
}

#[test]
fn folder_and_files_are_the_owners_alone() {
    let scratch = Scratch::new();
    let folder = Folder::open(Some(&scratch.path().join("below"))).unwrap();
    folder.write_config(&setup().render()).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(scratch.path()), 0o700);
    let below = scratch.path().join("below");
    assert_eq!(mode(&below), 0o700);
    let mut names = Vec::new();
    for entry in fs::read_dir(below).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(mode(&entry.path()), 0o600, "{entry:?}");
        names.push(entry.file_name());
    }
    names.sort();
    assert_eq!(names, [folder::CONFIG, folder::LINK_TOKEN, folder::KEY]);
}

#[test]
fn a_folder_that_is_there_keeps_its_secrets_and_takes_a_new_configuration() {
    let scratch = Scratch::new();
    let key = scratch.path().join(folder::KEY);
    let first = Folder::open(Some(scratch.path())).unwrap();
    first.write_config(&setup().render()).unwrap();
    let (secret, token) = (fs::read(&key).unwrap(), first.link_token().to_owned());
    drop(first);
    // Somebody was careless.
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();

    let again = Folder::open(Some(scratch.path())).unwrap();
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read(&key).unwrap(), secret);
    assert_eq!(again.link_token(), token);
    let setup = Setup { shards: Some(3), ..setup() };
    again.write_config(&setup.render()).unwrap();
    assert_eq!(load(&again).shards.count.unwrap_or_else(|| 0), 3);
}

#[test]
fn a_folder_serves_one_process_at_a_time() {
    let scratch = Scratch::new();
    let first = Folder::open(Some(scratch.path())).unwrap();
    let second = Folder::open(Some(scratch.path()));
    assert!(matches!(second, Err(FolderError::InUse { .. })), "{second:?}");
    drop(first);
    assert!(Folder::open(Some(scratch.path())).is_ok());
}

#[test]
fn a_configuration_of_somebody_else_is_not_overwritten() {
    let scratch = Scratch::new();
    let folder = Folder::open(Some(scratch.path())).unwrap();
    fs::write(folder.config_path(), "[echo]\n").unwrap();
    let refused = folder.write_config(&setup().render());
    assert!(matches!(refused, Err(FolderError::ForeignConfig { .. })), "{refused:?}");
    assert_eq!(fs::read_to_string(folder.config_path()).unwrap(), "[echo]\n");
}

#[test]
fn flags_of_dev_are_stronger_than_the_environment() {
    let scratch = Scratch::new();
    let folder = Folder::open(Some(scratch.path())).unwrap();
    let args =
        |shards, port, tls| DevArgs { shards, port, tls, json: false, quiet: false, dir: None };
    assert_eq!(source(&folder, &args(None, None, false)).flags, []);
    let flag = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(
        source(&folder, &args(Some(2), Some(0), false)).flags,
        [flag("listen.public.address", "127.0.0.1:0"), flag("shards.count", "2")]
    );
}

#[test]
fn tls_is_spoken_one_port_above_the_public_one() {
    let scratch = Scratch::new();
    let folder = Folder::open(Some(scratch.path())).unwrap();
    for (port, tls) in [(None, 8443), (Some(0), 0), (Some(9000), 9001), (Some(65_535), 0)] {
        let args = DevArgs { shards: None, port, tls: true, json: false, quiet: false, dir: None };
        let flags = source(&folder, &args).flags;
        let flag = ("listen.tls.address".to_owned(), format!("127.0.0.1:{tls}"));
        assert!(flags.contains(&flag), "{flags:?}");
    }
}

const NOW: i64 = 1_800_000_000;
const DAY: i64 = 86_400;

/// Authority, certificate and key.
fn tls_files(scratch: &Scratch) -> [String; 3] {
    [authority::AUTHORITY, authority::CERTIFICATE, authority::KEY]
        .map(|name| fs::read_to_string(scratch.path().join(name)).unwrap())
}

#[test]
fn the_certificate_of_tls_is_kept_until_its_last_day_and_its_key_private() {
    let scratch = Scratch::new();
    let folder = Folder::open(Some(scratch.path())).unwrap();
    let path = authority::provide(&folder, NOW).unwrap();
    assert_eq!(path, scratch.path().join(authority::AUTHORITY));
    let first = tls_files(&scratch);
    let key = scratch.path().join(authority::KEY);
    let mode = || fs::metadata(&key).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(), 0o600);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    authority::provide(&folder, NOW + 363 * DAY).unwrap();
    assert_eq!((tls_files(&scratch), mode()), (first.clone(), 0o600));
    authority::provide(&folder, NOW + 364 * DAY).unwrap();
    let second = tls_files(&scratch);
    assert!(first.iter().zip(&second).all(|(old, new)| old != new));
    // Whatever is missing or does not belong to the rest has all of it made anew.
    fs::write(&key, &first[2]).unwrap();
    authority::provide(&folder, NOW + 364 * DAY).unwrap();
    let third = tls_files(&scratch);
    assert_ne!(third[0], second[0]);
    fs::remove_file(scratch.path().join(authority::AUTHORITY)).unwrap();
    authority::provide(&folder, NOW + 364 * DAY).unwrap();
    assert_ne!(tls_files(&scratch)[1], third[1]);
}

#[test]
fn a_client_that_trusts_the_authority_trusts_the_certificate_on_this_machine_only() {
    use rustls::client::danger::ServerCertVerifier as _;
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

    let scratch = Scratch::new();
    let folder = Folder::open(Some(scratch.path())).unwrap();
    authority::provide(&folder, NOW).unwrap();
    let [authority, certificate, _] = tls_files(&scratch);
    let [authority, certificate] =
        [authority, certificate].map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(
        std::sync::Arc::new(roots),
        provider,
    );
    let verifier = verifier.build().unwrap();
    let trusted = |name: &'static str, at: i64| {
        let name = ServerName::try_from(name).unwrap();
        let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(at as u64));
        verifier.verify_server_cert(&certificate, &[], &name, &[], at).is_ok()
    };
    for name in ["localhost", "127.0.0.1", "::1"] {
        assert!(trusted(name, NOW) && trusted(name, NOW + 364 * DAY), "{name}");
    }
    assert!(!trusted("game.example", NOW) && !trusted("127.0.0.2", NOW));
    assert!(!trusted("localhost", NOW + 366 * DAY));
}

#[test]
fn the_configuration_with_tls_is_accepted_without_a_warning() {
    let scratch = Scratch::new();
    let folder = Folder::open(Some(scratch.path())).unwrap();
    authority::provide(&folder, NOW).unwrap();
    let tls = SocketAddr::from((Ipv4Addr::LOCALHOST, 8443));
    folder.write_config(&Setup { tls: Some(tls), ..setup() }.render()).unwrap();
    let config = load(&folder);
    assert_eq!(config.warnings(), Vec::<String>::new());
    assert_eq!(config.listen_tls.address, [tls]);
    assert_eq!(config.certificates[0].key, scratch.path().join(authority::KEY));
}
