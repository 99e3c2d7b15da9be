//! TLS between the socket and the codec, spoken by rustls. Sans-IO: records in, plaintext and
//! records out.

mod client;
mod session;
mod tickets;
mod verifier;

use rustls::{CertificateError, Error as RustlsError, InvalidMessage};
use thiserror::Error;

pub(crate) use client::{Client, Unusable};
pub(crate) use session::Session;

/// Why a connection cannot go on. The text is the kind that errors are counted by: it holds nothing
/// that differs from one connection to the next.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum TlsError {
    #[error("certificate refused: {0}")]
    Certificate(String),
    #[error("TLS handshake failed: {0}")]
    Handshake(String),
    /// After the handshake.
    #[error("TLS: {0}")]
    Record(String),
}

impl TlsError {
    fn new(error: &RustlsError, shaking: bool) -> Self {
        match error {
            RustlsError::InvalidCertificate(why) => Self::Certificate(refused(why)),
            RustlsError::NoCertificatesPresented => {
                Self::Certificate("the server shows none".to_owned())
            }
            _ if shaking => Self::Handshake(in_words(error)),
            _ => Self::Record(in_words(error)),
        }
    }
}

fn in_words(error: &RustlsError) -> String {
    match error {
        RustlsError::AlertReceived(alert) => format!("the server answers {alert:?}"),
        RustlsError::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "the server does not speak TLS".to_owned()
        }
        other => other.to_string(),
    }
}

/// The server ended the connection in the handshake.
pub(crate) fn ended_early() -> TlsError {
    TlsError::Handshake("the server ends the connection".to_owned())
}

/// What is wrong with a certificate, and what helps.
fn refused(why: &CertificateError) -> String {
    match why {
        CertificateError::UnknownIssuer => "no trusted authority has signed it; tls.ca (--ca) \
                                            names the file of another authority"
            .to_owned(),
        CertificateError::BadSignature => "the trusted authority of the name in it has not signed \
                                           it; tls.ca (--ca) names the file of another authority"
            .to_owned(),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "it has expired".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet".to_owned()
        }
        CertificateError::NotValidForName => "it is for another host".to_owned(),
        CertificateError::NotValidForNameContext { expected, .. } => {
            format!("it is not for {}; tls.server_name says whose it must be", expected.to_str())
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;
