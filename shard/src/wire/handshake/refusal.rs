//! Every way in which a request at the door is refused, and what is answered.

use std::io::Write;

use thiserror::Error;

use super::head::Cursor;
use crate::probe;

/// Room that [`Refusal::write`] needs.
pub const REFUSAL_BYTES_MAX: usize = 512;

/// Why a request was not upgraded. The text is the body of the answer: the cause, and what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Refusal {
    #[error("{0}")]
    Malformed(Malformed),
    #[error("This port speaks plain HTTP, not TLS. Use ws:// or the TLS port.")]
    PlainTls,
    #[error("This port speaks TLS, not plain HTTP. Use wss:// or the plain port.")]
    NotTls,
    #[error("This port speaks HTTP/1.1. Disable HTTP/2 for this connection.")]
    Http2Preface,
    #[error("The request head is too large. Send fewer or shorter header fields.")]
    HeadTooLarge,
    #[error("The request head did not arrive in time. Send it at once after connecting.")]
    HeadTimeout,
    #[error("Nothing is served at this path. Connect to the documented WebSocket path.")]
    NotFound,
    #[error("This path takes GET only. Open a WebSocket with a GET request.")]
    MethodNotAllowed,
    #[error("This path serves WebSockets only. Send an upgrade request (RFC 6455).")]
    UpgradeRequired,
    #[error("Only WebSocket version 13 is spoken. Send Sec-WebSocket-Version: 13.")]
    BadVersion,
    #[error("A credential is missing. Send Authorization: Bearer <token>.")]
    NoCredential,
    #[error("The credential was not accepted. Log in again for a new token.")]
    BadCredential,
    #[error("Pages of this origin may not connect. Ask the operator to allow the origin.")]
    OriginRefused,
    #[error("This client may not connect. Ask the operator.")]
    Forbidden,
    #[error("Too many connections from this address or account. Close some, then retry later.")]
    TooMany,
    #[error("This address may not connect. Ask the operator.")]
    Denied,
    #[error("Too many unfinished requests from this address. Retry after the given time.")]
    TooManyWaiting,
    #[error("Too many clients wait to be let in. Retry after the given time.")]
    Crowded,
    #[error("Too many clients come at a time. Retry after the given time.")]
    TooFast,
    #[error("The gateway is short of memory. Retry after the given time.")]
    ShortOfMemory,
    #[error("A PROXY header is missing. Let the proxy send one, or do not trust its address.")]
    NoProxyHeader,
    #[error("PROXY headers are not accepted from this address. Ask the operator to trust it.")]
    ForeignProxyHeader,
    #[error("A newer connection took over this session. Retry only if that was not intended.")]
    Replaced,
    #[error("Authentication is not available. Retry after the given time.")]
    Unavailable,
    #[error("The gateway is full. Retry after the given time.")]
    Full,
    #[error("The gateway is shutting down. Retry after the given time.")]
    Draining,
}

/// Which rule of HTTP or of the handshake a request breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Malformed {
    #[error("Malformed request line. Send METHOD SP /path SP HTTP/1.1.")]
    RequestLine,
    #[error("Malformed request target. Send a path that begins with a slash.")]
    Target,
    #[error("Unsupported HTTP version. Send HTTP/1.1.")]
    HttpVersion,
    #[error("A control character in the request head. End lines with CR LF.")]
    ControlByte,
    #[error("Malformed header field. Send name: value, each on one line.")]
    Field,
    #[error("Missing, empty, repeated or malformed Host. Send exactly one.")]
    Host,
    #[error("Repeated or malformed Origin. Send at most one.")]
    Origin,
    #[error("Repeated or malformed credential. Send exactly one.")]
    Credential,
    #[error("A token is offered without the subprotocol that can be answered. Offer corelane too.")]
    Subprotocol,
    #[error("Missing, repeated or malformed Sec-WebSocket-Key. Send 16 bytes in base64.")]
    WebSocketKey,
    #[error("Repeated Sec-WebSocket-Version. Send exactly one.")]
    WebSocketVersion,
    #[error("An upgrade request has no body. Leave out Content-Length and Transfer-Encoding.")]
    Body,
    #[error("Malformed PROXY header. Send version 1 or 2 for TCP.")]
    ProxyHeader,
    #[error("Malformed Forwarded. Send what RFC 7239 describes, or nothing.")]
    Forwarded,
}

impl Refusal {
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::Malformed(_)
            | Self::PlainTls
            | Self::NotTls
            | Self::Http2Preface
            | Self::NoProxyHeader => 400,
            Self::NoCredential | Self::BadCredential => 401,
            Self::OriginRefused | Self::Forbidden | Self::Denied | Self::ForeignProxyHeader => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::HeadTimeout => 408,
            Self::Replaced => 409,
            Self::UpgradeRequired | Self::BadVersion => 426,
            Self::TooMany | Self::TooManyWaiting => 429,
            Self::HeadTooLarge => 431,
            Self::Unavailable
            | Self::Full
            | Self::Crowded
            | Self::TooFast
            | Self::ShortOfMemory
            | Self::Draining => 503,
        }
    }

    /// The cause for the log; one of a closed list.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Malformed(rule) => rule.label(),
            Self::PlainTls => "plain_tls",
            Self::NotTls => "not_tls",
            Self::Http2Preface => "http2_preface",
            Self::HeadTooLarge => "head_too_large",
            Self::HeadTimeout => "head_timeout",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::UpgradeRequired => "upgrade_required",
            Self::BadVersion => "bad_version",
            Self::NoCredential => "no_credential",
            Self::BadCredential => "bad_credential",
            Self::OriginRefused => "origin_refused",
            Self::Forbidden => "forbidden",
            Self::TooMany => "too_many",
            Self::Denied => "denied",
            Self::TooManyWaiting => "too_many_waiting",
            Self::Crowded => "crowded",
            Self::TooFast => "too_fast",
            Self::ShortOfMemory => "short_of_memory",
            Self::NoProxyHeader => "no_proxy_header",
            Self::ForeignProxyHeader => "foreign_proxy_header",
            Self::Replaced => "replaced",
            Self::Unavailable => "unavailable",
            Self::Full => "full",
            Self::Draining => "draining",
        }
    }

    /// How the upgrade is counted.
    #[must_use]
    pub fn outcome(self) -> probe::Upgrade {
        use probe::Upgrade as Outcome;
        match self {
            Self::Malformed(Malformed::ProxyHeader)
            | Self::NoProxyHeader
            | Self::ForeignProxyHeader => Outcome::ProxyHeader,
            Self::Malformed(_) | Self::PlainTls | Self::NotTls | Self::Http2Preface => {
                Outcome::Malformed
            }
            Self::HeadTooLarge => Outcome::HeadTooLarge,
            Self::HeadTimeout => Outcome::HeadTimeout,
            Self::NotFound => Outcome::NotFound,
            Self::MethodNotAllowed => Outcome::MethodNotAllowed,
            Self::UpgradeRequired | Self::BadVersion => Outcome::UpgradeRequired,
            Self::NoCredential | Self::BadCredential => Outcome::Unauthorized,
            Self::OriginRefused | Self::Forbidden => Outcome::Forbidden,
            Self::TooMany => Outcome::TooMany,
            Self::Denied => Outcome::Denied,
            Self::TooManyWaiting => Outcome::TooManyWaiting,
            Self::Crowded => Outcome::Crowded,
            Self::TooFast => Outcome::TooFast,
            Self::ShortOfMemory => Outcome::ShortOfMemory,
            Self::Full => Outcome::Full,
            Self::Replaced => Outcome::Replaced,
            Self::Unavailable => Outcome::Unavailable,
            Self::Draining => Outcome::Draining,
        }
    }

    /// Writes the whole answer, after which the connection is closed, and returns its length.
    /// `retry_after_s` (jitter is the caller's) goes into the answers that ask for patience.
    /// `out` has room for [`REFUSAL_BYTES_MAX`].
    pub fn write(self, retry_after_s: u32, out: &mut [u8]) -> usize {
        let mut text = [0; BODY_BYTES_MAX];
        let mut rest = &mut text[..];
        writeln!(rest, "{self}").expect("every text is shorter than BODY_BYTES_MAX");
        let unused = rest.len();
        let body = &text[..BODY_BYTES_MAX - unused];

        let mut head = Cursor::new(out);
        head.put(b"HTTP/1.1 ").put(self.status_words()).put(b"\r\n").put(self.fields());
        if self.asks_for_patience() {
            head.put(b"Retry-After: ").put_decimal(retry_after_s.into()).put(b"\r\n");
        }
        head.put(b"Content-Type: text/plain; charset=utf-8\r\nContent-Length: ");
        head.put_decimal(body.len() as u64).put(b"\r\n\r\n").put(body).len()
    }

    fn asks_for_patience(self) -> bool {
        matches!(self.status(), 409 | 429 | 503)
    }

    fn status_words(self) -> &'static [u8] {
        match self.status() {
            401 => b"401 Unauthorized",
            403 => b"403 Forbidden",
            404 => b"404 Not Found",
            405 => b"405 Method Not Allowed",
            408 => b"408 Request Timeout",
            409 => b"409 Conflict",
            426 => b"426 Upgrade Required",
            429 => b"429 Too Many Requests",
            431 => b"431 Request Header Fields Too Large",
            503 => b"503 Service Unavailable",
            _ => b"400 Bad Request",
        }
    }

    fn fields(self) -> &'static [u8] {
        match self.status() {
            401 => b"Connection: close\r\nWWW-Authenticate: Bearer\r\n",
            405 => b"Connection: close\r\nAllow: GET\r\n",
            // RFC 9110 §7.8: a sender of Upgrade names it in Connection.
            426 => {
                b"Connection: close, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            }
            _ => b"Connection: close\r\n",
        }
    }
}

impl Malformed {
    fn label(self) -> &'static str {
        match self {
            Self::RequestLine => "malformed_request_line",
            Self::Target => "malformed_target",
            Self::HttpVersion => "unsupported_http_version",
            Self::ControlByte => "control_byte",
            Self::Field => "malformed_field",
            Self::Host => "malformed_host",
            Self::Origin => "malformed_origin",
            Self::Credential => "malformed_credential",
            Self::Subprotocol => "malformed_subprotocol",
            Self::WebSocketKey => "malformed_websocket_key",
            Self::WebSocketVersion => "malformed_websocket_version",
            Self::Body => "body_beside_upgrade",
            Self::ProxyHeader => "malformed_proxy_header",
            Self::Forwarded => "malformed_forwarded",
        }
    }
}

impl From<Malformed> for Refusal {
    fn from(rule: Malformed) -> Self {
        Self::Malformed(rule)
    }
}

/// Longest answer text, its line end included.
const BODY_BYTES_MAX: usize = 160;

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Refusal; 39] = [
        Refusal::Malformed(Malformed::RequestLine),
        Refusal::Malformed(Malformed::Target),
        Refusal::Malformed(Malformed::HttpVersion),
        Refusal::Malformed(Malformed::ControlByte),
        Refusal::Malformed(Malformed::Field),
        Refusal::Malformed(Malformed::Host),
        Refusal::Malformed(Malformed::Origin),
        Refusal::Malformed(Malformed::Credential),
        Refusal::Malformed(Malformed::Subprotocol),
        Refusal::Malformed(Malformed::WebSocketKey),
        Refusal::Malformed(Malformed::WebSocketVersion),
        Refusal::Malformed(Malformed::Body),
        Refusal::Malformed(Malformed::ProxyHeader),
        Refusal::Malformed(Malformed::Forwarded),
        Refusal::PlainTls,
        Refusal::NotTls,
        Refusal::Http2Preface,
        Refusal::HeadTooLarge,
        Refusal::HeadTimeout,
        Refusal::NotFound,
        Refusal::MethodNotAllowed,
        Refusal::UpgradeRequired,
        Refusal::BadVersion,
        Refusal::NoCredential,
        Refusal::BadCredential,
        Refusal::OriginRefused,
        Refusal::Forbidden,
        Refusal::TooMany,
        Refusal::Denied,
        Refusal::TooManyWaiting,
        Refusal::Crowded,
        Refusal::TooFast,
        Refusal::ShortOfMemory,
        Refusal::NoProxyHeader,
        Refusal::ForeignProxyHeader,
        Refusal::Replaced,
        Refusal::Unavailable,
        Refusal::Full,
        Refusal::Draining,
    ];

    fn written(refusal: Refusal, retry_after_s: u32) -> String {
        let mut out = [0; REFUSAL_BYTES_MAX];
        let len = refusal.write(retry_after_s, &mut out);
        String::from_utf8(out[..len].to_vec()).unwrap()
    }

    #[test]
    fn every_answer_is_a_whole_response_that_closes_the_connection() {
        for refusal in ALL {
            let text = written(refusal, u32::MAX);
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with(&format!("HTTP/1.1 {} ", refusal.status())), "{head}");
            assert!(head.contains("\r\nConnection: close"), "{head}");
            assert!(head.contains("\r\nContent-Type: text/plain"), "{head}");
            assert!(head.ends_with(&format!("\r\nContent-Length: {}", body.len())), "{head}");
            assert_eq!(body, format!("{refusal}\n"));
        }
    }

    #[test]
    fn every_answer_has_a_label_of_its_own() {
        let mut labels: Vec<_> = ALL.iter().map(|refusal| refusal.label()).collect();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), ALL.len());
    }

    #[test]
    fn answers_that_ask_for_patience_say_how_long() {
        for refusal in ALL {
            let patient = [409, 429, 503].contains(&refusal.status());
            assert_eq!(
                written(refusal, 17).contains("\r\nRetry-After: 17\r\n"),
                patient,
                "{refusal:?}"
            );
        }
    }

    #[test]
    fn answers_carry_the_fields_that_their_status_requires() {
        assert!(written(Refusal::NoCredential, 0).contains("\r\nWWW-Authenticate: Bearer\r\n"));
        assert!(written(Refusal::BadCredential, 0).contains("\r\nWWW-Authenticate: Bearer\r\n"));
        assert!(written(Refusal::MethodNotAllowed, 0).contains("\r\nAllow: GET\r\n"));
        for refusal in [Refusal::UpgradeRequired, Refusal::BadVersion] {
            let text = written(refusal, 0);
            assert!(text.contains("\r\nSec-WebSocket-Version: 13\r\n"));
            assert!(text.contains("\r\nConnection: close, Upgrade\r\nUpgrade: websocket\r\n"));
        }
    }
}
