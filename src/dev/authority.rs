//! The certificate of `corelane dev --tls`, and the authority that a developer trusts for its sake. The
//! authority's key is thrown away once it has signed: nobody can make anything else of that trust.

use std::path::PathBuf;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use thiserror::Error;
use time::OffsetDateTime;

use super::folder::{Folder, FolderError};
use crate::certificates::{CertificateSpec, inspect};

/// There only while the three files belong together.
pub(super) const AUTHORITY: &str = "tls.authority.pem";
pub(super) const CERTIFICATE: &str = "tls.pem";
pub(super) const KEY: &str = "tls.key.pem";

const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Why there is no certificate.
#[derive(Debug, Error)]
pub enum AuthorityError {
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error("cannot make a certificate: {0}")]
    Made(#[from] rcgen::Error),
    #[error("cannot make a certificate: {0}; is the clock right?")]
    Date(#[from] time::error::ComponentRange),
}

/// Makes the files, unless there are some that last for another day. Returns the authority's.
pub(super) fn provide(folder: &Folder, unix_seconds: i64) -> Result<PathBuf, AuthorityError> {
    let spec = CertificateSpec { certificate: folder.file(CERTIFICATE), key: folder.file(KEY) };
    let authority = folder.file(AUTHORITY);
    let lasts = |end: i64| end - unix_seconds > DAY.as_secs() as i64;
    if authority.exists() && inspect(&spec).is_ok_and(|found| lasts(found.unix_seconds)) {
        folder.protect(KEY)?;
        return Ok(authority);
    }
    let Made { authority: signer, certificate, key } = make(unix_seconds)?;
    folder.remove(AUTHORITY)?;
    folder.write(KEY, &key)?;
    folder.write(CERTIFICATE, &certificate)?;
    folder.write(AUTHORITY, &signer)?;
    Ok(authority)
}

/// PEM each.
struct Made {
    authority: String,
    certificate: String,
    key: String,
}

fn make(unix_seconds: i64) -> Result<Made, AuthorityError> {
    // Clocks differ, and a phone's more than others.
    let begin = OffsetDateTime::from_unix_timestamp(unix_seconds - DAY.as_secs() as i64)?;
    let end = OffsetDateTime::from_unix_timestamp(unix_seconds + LIFE.as_secs() as i64)?;
    let params = |name: &str, names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = begin;
        params.not_after = end;
        Ok::<_, rcgen::Error>(params)
    };
    let mut authority = params("corelane dev: authority of this folder alone", &[])?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let authority_key = KeyPair::generate()?;
    let signer = authority.self_signed(&authority_key)?.pem();
    let issuer = Issuer::new(authority, authority_key);

    let mut own = params("corelane dev", &NAMES)?;
    own.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    own.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    own.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let certificate = own.signed_by(&key, &issuer)?.pem();
    Ok(Made { authority: signer, certificate, key: key.serialize_pem() })
}

const DAY: Duration = Duration::from_secs(86_400);
const LIFE: Duration = Duration::from_secs(365 * 86_400);
