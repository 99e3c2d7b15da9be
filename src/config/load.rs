//! From sources to [`Config`]: the file is parsed, the layers are merged table by table, and only
//! a configuration without any problem leaves here.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jsonwebtoken::{DecodingKey, EncodingKey};
use thiserror::Error;
use toml::de::DeTable;

use super::check::cross_check;
use super::network::networks;
use super::problem::{Origin, Problem, Refused};
use super::reader::{Notes, Overrides, Reader, rows};
use super::rows::{
    Algorithm, AuthJwks, AuthKey, CertificateFiles, EndpointSettings, RoleSettings, ServiceSettings,
};
use super::unknown::{
    find, is_ours, refuse_unknown_flags, refuse_unknown_tables, refuse_unknown_variables,
};
use super::{
    Auth, Compat, Compression, Config, Control, Drain, Echo, Events, Kafka, Limits, ListenAdmin,
    ListenInternal, ListenPublic, ListenTls, Log, Nodes, Priority, Redis, Secret, Service, Session,
    Shards, Tracing, Validate, profile,
};
use crate::certificates::{CertificateError, CertificateSpec, inspect, inspect_roots};

/// The text of `corelane.toml`, and the name that errors give it.
#[derive(Debug, Clone)]
pub struct SourceFile {
    pub path: PathBuf,
    pub text: String,
}

/// Everything that a configuration is made of.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    pub file: Option<SourceFile>,
    pub overrides: Overrides,
}

/// Shorter secrets than the hash are guessed sooner than the signature (RFC 7518 §3.2).
const HS256_SECRET_BYTES_MIN: usize = 32;

/// Where a process takes its configuration from; kept, so that a reload reads the same places.
#[derive(Debug, Clone, Default)]
pub struct ConfigSource {
    pub path: Option<PathBuf>,
    /// Pairs of `table.key` and value, from the command line.
    pub flags: Vec<(String, String)>,
}

#[derive(Debug, Error)]
pub enum LoadError {
    #[error("cannot read {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Refused(#[from] Refused),
}

impl ConfigSource {
    /// Reads the file and the process's `CORELANE_*` and `CONNECT_*` variables.
    pub fn load(&self) -> Result<Config, LoadError> {
        let file = match &self.path {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|source| LoadError::Unreadable { path: path.clone(), source })?;
                Some(SourceFile { path: path.clone(), text })
            }
            None => None,
        };
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| {
                Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
            })
            .filter(|(name, _)| is_ours(name))
            .collect();
        let overrides = Overrides { flags: self.flags.clone(), environment };
        Ok(Config::load(&Sources { file, overrides })?)
    }
}

impl Config {
    /// Merges, checks, and reads the files that keys name. All problems come back at once.
    pub fn load(sources: &Sources) -> Result<Self, Refused> {
        let (name, text, folder) = match &sources.file {
            Some(file) => {
                let folder = file.path.parent().unwrap_or(Path::new(""));
                (file.path.display().to_string(), file.text.as_str(), folder)
            }
            None => ("corelane.toml".to_owned(), "", Path::new("")),
        };
        let mut notes = Notes::default();
        let config = read(text, &sources.overrides, &mut notes).map(|mut config| {
            read_files(&mut config, folder, &mut notes);
            cross_check(&config, &mut notes);
            profile::apply(&mut config);
            config
        });
        match config {
            Some(config) if notes.problems.is_empty() => Ok(config),
            _ => Err(Refused::new(&name, text, notes.problems)),
        }
    }
}

impl AuthKey {
    /// The key's bytes; of a shared secret without the line end that editors add.
    pub fn read_file(&self) -> io::Result<Vec<u8>> {
        let mut bytes = std::fs::read(&self.file)?;
        if self.algorithm == Algorithm::Hs256 {
            while bytes.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
                bytes.pop();
            }
        }
        Ok(bytes)
    }
}

/// What every key of [`super::TABLES`] gives without any other layer.
pub(super) fn defaults() -> Config {
    read("", &Overrides::default(), &mut Notes::default()).expect("defaults have their shape")
}

fn read(text: &str, overrides: &Overrides, notes: &mut Notes) -> Option<Config> {
    let (root, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        for error in errors {
            let span = error.span().unwrap_or(0..0);
            notes.report(Problem::new(Origin::File(span), error.message()));
        }
        return None;
    }
    let root = root.get_ref();
    refuse_unknown_tables(root, notes);
    refuse_unknown_variables(&overrides.environment, notes);
    refuse_unknown_flags(&overrides.flags, notes);

    macro_rules! once {
        ($Section:ident, $nested:expr) => {{
            let path = $Section::TABLE.name;
            $Section::read(&mut Reader::once(path, overrides, find(root, path), notes), $nested)
        }};
    }
    let listen_public = once!(ListenPublic, &[]);
    let listen_tls = once!(ListenTls, &["certificate"]);
    let listen_internal = once!(ListenInternal, &[]);
    let listen_admin = once!(ListenAdmin, &[]);
    let shards = once!(Shards, &[]);
    let auth = once!(Auth, &["key", "jwks", "validate"]);
    let auth_validate = once!(Validate, &[]);
    let session = once!(Session, &[]);
    let limits = once!(Limits, &[]);
    let compression = once!(Compression, &[]);
    let compat = once!(Compat, &[]);
    let priority = once!(Priority, &[]);
    let control = once!(Control, &[]);
    let nodes = once!(Nodes, &[]);
    let redis = once!(Redis, &[]);
    let events = once!(Events, &[]);
    let kafka = once!(Kafka, &[]);
    let echo = once!(Echo, &[]);
    let drain = once!(Drain, &[]);
    let log = once!(Log, &[]);
    let tracing = once!(Tracing, &[]);
    let certificates =
        each(root, "listen.tls.certificate", notes, |reader| CertificateFiles::read(reader, &[]));
    let auth_keys = each(root, "auth.key", notes, |reader| AuthKey::read(reader, &[]));
    let auth_jwks = each(root, "auth.jwks", notes, |reader| AuthJwks::read(reader, &[]));
    let services = each(root, "service", notes, read_service);
    let roles = each(root, "role", notes, |reader| RoleSettings::read(reader, &[]));
    Some(Config {
        listen_public: listen_public?,
        listen_tls: listen_tls?,
        certificates: certificates?,
        denied: Arc::default(),
        listen_internal: listen_internal?,
        listen_admin: listen_admin?,
        shards: shards?,
        auth: auth?,
        auth_validate: auth_validate?,
        auth_keys: auth_keys?,
        auth_jwks: auth_jwks?,
        session: session?,
        limits: limits?,
        compression: compression?,
        compat: compat?,
        priority: priority?,
        control: control?,
        nodes: nodes?,
        redis: redis?,
        events: events?,
        kafka: kafka?,
        echo: echo?,
        drain: drain?,
        log: log?,
        tracing: tracing?,
        services: services?,
        roles: roles?,
        shown: notes.shown(),
    })
}

/// All rows of the array at `path`; `None` when one of them has a problem.
fn each<T>(
    root: &DeTable<'_>,
    path: &str,
    notes: &mut Notes,
    read: impl Fn(&mut Reader<'_>) -> Option<T>,
) -> Option<Vec<T>> {
    let Some(value) = find(root, path) else {
        return Some(Vec::new());
    };
    let mut all = Some(Vec::new());
    for (index, (header, table)) in rows(path, value, notes).into_iter().enumerate() {
        let row = read(&mut Reader::row(format!("{path}.{index}"), header, table, notes));
        all = all.zip(row).map(|(mut rows, row)| {
            rows.push(row);
            rows
        });
    }
    all
}

fn read_service(reader: &mut Reader<'_>) -> Option<Service> {
    let settings = ServiceSettings::read(reader, &["endpoints"]);
    let path = reader.path().to_owned();
    let mut endpoints = Some(Vec::new());
    for (index, (header, table)) in reader.rows("endpoints").into_iter().enumerate() {
        let path = format!("{path}.endpoints.{index}");
        let row =
            EndpointSettings::read(&mut Reader::row(path, header, table, reader.notes()), &[]);
        endpoints = endpoints.zip(row).map(|(mut rows, row)| {
            rows.push(row);
            rows
        });
    }
    Some(Service { settings: settings?, endpoints: endpoints?, token: None })
}

/// Makes file names absolute or relative to the process, and reads what must be readable.
fn read_files(config: &mut Config, folder: &Path, notes: &mut Notes) {
    for (index, key) in config.auth_keys.iter_mut().enumerate() {
        key.file = folder.join(&key.file);
        let origin = notes.origin(&format!("auth.key.{index}.file"));
        match key.read_file() {
            Ok(bytes)
                if key.algorithm == Algorithm::Hs256 && bytes.len() < HS256_SECRET_BYTES_MIN =>
            {
                let message = format!(
                    "the secret in {} has {} bytes; HS256 needs at least {HS256_SECRET_BYTES_MIN}",
                    key.file.display(),
                    bytes.len()
                );
                notes.report(Problem::new(origin, message));
            }
            Ok(bytes) if !holds_key(key.algorithm, &bytes) => {
                let name = key.algorithm.name();
                let message = format!("{} holds no PEM key for {name}", key.file.display());
                notes.report(Problem::new(origin, message));
            }
            Ok(_) => {}
            Err(error) => notes.report(unreadable(origin, &key.file, &error)),
        }
    }
    read_certificates(config, folder, notes);
    read_deny_list(config, folder, notes);
    read_redis_password(config, folder, notes);
    for (index, service) in config.services.iter_mut().enumerate() {
        let Some(file) = &mut service.settings.token_file else {
            continue;
        };
        *file = folder.join(&*file);
        let origin = notes.origin(&format!("service.{index}.token_file"));
        match std::fs::read_to_string(&*file) {
            Ok(text) if is_header_value(text.trim()) => {
                service.token = Some(Secret::new(text.trim()));
            }
            Ok(_) => {
                let message = format!("{} holds no token of one line", file.display());
                notes.report(Problem::new(origin, message));
            }
            Err(error) => notes.report(unreadable(origin, file, &error)),
        }
    }
}

/// Whether handshakes can begin with what the files hold. They are read once more for that: until then
/// they may change.
fn read_certificates(config: &mut Config, folder: &Path, notes: &mut Notes) {
    for (index, row) in config.certificates.iter_mut().enumerate() {
        row.certificate = folder.join(&row.certificate);
        row.key = folder.join(&row.key);
        if let Err(error) = inspect(&row.spec()) {
            let key = if error.file() == Some(&*row.key) { "key" } else { "certificate" };
            let origin = notes.origin(&format!("listen.tls.certificate.{index}.{key}"));
            notes.report(unusable(origin, &error));
        }
    }
    if let Some(file) = &mut config.listen_tls.client_roots {
        *file = folder.join(&*file);
        if let Err(error) = inspect_roots(file) {
            notes.report(unusable(notes.origin("listen.tls.client_roots"), &error));
        }
    }
}

impl CertificateFiles {
    #[must_use]
    pub fn spec(&self) -> CertificateSpec {
        CertificateSpec { certificate: self.certificate.clone(), key: self.key.clone() }
    }
}

fn unusable(origin: Origin, error: &CertificateError) -> Problem {
    let problem = Problem::new(origin, error.to_string());
    match error {
        CertificateError::Unreadable { .. } => problem.help(RELATIVE_PATHS),
        _ => problem,
    }
}

/// Puts together who is kept out.
fn read_deny_list(config: &mut Config, folder: &Path, notes: &mut Notes) {
    let mut denied = config.limits.deny.clone();
    if let Some(file) = &mut config.limits.deny_file {
        *file = folder.join(&*file);
        let origin = notes.origin("limits.deny_file");
        match std::fs::read_to_string(&*file).map(|text| networks(&text)) {
            Ok(Ok(found)) => denied.extend(found),
            Ok(Err(wrong)) => {
                let message = format!("{}, {wrong}", file.display());
                notes.report(Problem::new(origin, message));
            }
            Err(error) => notes.report(unreadable(origin, file, &error)),
        }
    }
    config.denied = Arc::new(denied.into_iter().collect());
}

/// It is read again for every connection; here only whether it can be.
fn read_redis_password(config: &mut Config, folder: &Path, notes: &mut Notes) {
    let Some(file) = &mut config.redis.password_file else { return };
    *file = folder.join(&*file);
    let origin = notes.origin("redis.password_file");
    match std::fs::read_to_string(&*file) {
        Ok(text) if !text.trim_end().is_empty() => {}
        Ok(_) => {
            let message = format!("{} holds no password", file.display());
            notes.report(Problem::new(origin, message));
        }
        Err(error) => notes.report(unreadable(origin, file, &error)),
    }
}

/// A public or a private key of the algorithm's family.
fn holds_key(algorithm: Algorithm, bytes: &[u8]) -> bool {
    match algorithm {
        Algorithm::Hs256 => true,
        Algorithm::Rs256 => {
            DecodingKey::from_rsa_pem(bytes).is_ok() || EncodingKey::from_rsa_pem(bytes).is_ok()
        }
        Algorithm::Es256 => {
            DecodingKey::from_ec_pem(bytes).is_ok() || EncodingKey::from_ec_pem(bytes).is_ok()
        }
        Algorithm::EdDsa => {
            DecodingKey::from_ed_pem(bytes).is_ok() || EncodingKey::from_ed_pem(bytes).is_ok()
        }
    }
}

/// The token becomes a header of the upgrade request: a line end in it would start another.
fn is_header_value(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn unreadable(origin: Origin, file: &Path, error: &io::Error) -> Problem {
    Problem::new(origin, format!("cannot read {}: {error}", file.display())).help(RELATIVE_PATHS)
}

const RELATIVE_PATHS: &str = "a relative path counts from the folder of the configuration file";
