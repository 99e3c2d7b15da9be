//! The certificate that all servers show over TLS: ECDSA P-256, new for each run, signed by itself.
//! The load does not check it: that would be the load's processor time, not the server's.

use std::fs;
use std::io;

use rcgen::{CertifiedKey, generate_simple_self_signed};

use super::place::Place;

pub(super) const CERTIFICATE: &str = "certificate.pem";
pub(super) const KEY: &str = "certificate.key";
/// Certificate and key in one file, as HAProxy wants them.
pub(super) const BOTH: &str = "certificate_and_key.pem";

/// Writes it into the scratch folder.
pub(super) fn write(place: &Place) -> io::Result<()> {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["127.0.0.1".to_owned()]).map_err(io::Error::other)?;
    let (certificate, key) = (cert.pem(), signing_key.serialize_pem());
    fs::write(place.scratch.join(BOTH), format!("{certificate}{key}"))?;
    fs::write(place.scratch.join(CERTIFICATE), certificate)?;
    fs::write(place.scratch.join(KEY), key)
}
