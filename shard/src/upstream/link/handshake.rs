//! The opening handshake as its client: RFC 6455 §4.1, with exactly one subprotocol and no
//! extension offered.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest as _, Sha1};

use super::error::LinkError;

pub const SUBPROTOCOL: &str = "corelane-link.1";

/// Longest upgrade response that is read; a longer one is [`LinkError::MalformedResponse`].
pub const RESPONSE_BYTES_MAX: usize = 4096;

const HEADERS_MAX: usize = 32;
const ACCEPT_SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Appends the upgrade request. `key` is fresh for each connection; `host`, `path` and `token` come
/// from the checked configuration.
pub fn write_upgrade_request(
    host: &str,
    path: &str,
    token: Option<&str>,
    key: [u8; 16],
    out: &mut Vec<u8>,
) {
    let mut put = |piece: &str| out.extend_from_slice(piece.as_bytes());
    for piece in ["GET ", path, " HTTP/1.1\r\nHost: ", host] {
        put(piece);
    }
    put("\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13");
    for piece in ["\r\nSec-WebSocket-Protocol: ", SUBPROTOCOL, "\r\nSec-WebSocket-Key: "] {
        put(piece);
    }
    put(&STANDARD.encode(key));
    if let Some(token) = token {
        put("\r\nX-Service-Token: ");
        put(token);
    }
    put("\r\n\r\n");
}

/// Reads the answer to the request made with `key`: its length when it is complete and accepts the
/// upgrade, `None` while more bytes are needed.
pub fn parse_upgrade_response(bytes: &[u8], key: [u8; 16]) -> Result<Option<usize>, LinkError> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let len = match response.parse(bytes) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) if bytes.len() < RESPONSE_BYTES_MAX => return Ok(None),
        Ok(httparse::Status::Partial) | Err(_) => return Err(LinkError::MalformedResponse),
    };
    match response.code {
        Some(101) => {}
        Some(status) => return Err(LinkError::Refused(status)),
        None => return Err(LinkError::MalformedResponse),
    }
    let headers = &*response.headers;
    let accept = accept_of(key);
    if !has_token(headers, "upgrade", "websocket")
        || !has_token(headers, "connection", "upgrade")
        || only(headers, "sec-websocket-accept") != Some(accept.as_bytes())
    {
        return Err(LinkError::BadUpgrade);
    }
    if only(headers, "sec-websocket-protocol") != Some(SUBPROTOCOL.as_bytes()) {
        return Err(LinkError::WrongSubprotocol);
    }
    if values(headers, "sec-websocket-extensions").any(|value| !value.is_empty()) {
        return Err(LinkError::UnofferedExtension);
    }
    Ok(Some(len))
}

fn accept_of(key: [u8; 16]) -> String {
    let mut hash = Sha1::new();
    hash.update(STANDARD.encode(key));
    hash.update(ACCEPT_SUFFIX);
    STANDARD.encode(hash.finalize())
}

fn values<'h>(
    headers: &'h [httparse::Header<'_>],
    name: &'static str,
) -> impl Iterator<Item = &'h [u8]> {
    let named = headers.iter().filter(move |h| h.name.eq_ignore_ascii_case(name));
    named.map(|h| h.value.trim_ascii())
}

/// The value of a header that occurs exactly once.
fn only<'h>(headers: &'h [httparse::Header<'_>], name: &'static str) -> Option<&'h [u8]> {
    let mut values = values(headers, name);
    let first = values.next()?;
    values.next().is_none().then_some(first)
}

fn has_token(headers: &[httparse::Header<'_>], name: &'static str, token: &str) -> bool {
    values(headers, name)
        .flat_map(|value| value.split(|&byte| byte == b','))
        .any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key of RFC 6455 §1.3.
    const KEY: [u8; 16] = *b"the sample nonce";

    const ACCEPTED: &str = "HTTP/1.1 101 Switching Protocols\r\nupgrade: WebSocket\r\n\
        Connection: keep-alive, Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
        Sec-WebSocket-Protocol: corelane-link.1\r\n\r\n";

    fn parse(response: &str) -> Result<Option<usize>, LinkError> {
        parse_upgrade_response(response.as_bytes(), KEY)
    }

    #[test]
    fn the_request_offers_one_subprotocol_and_no_extension() {
        let mut out = Vec::new();
        write_upgrade_request("game:9000", "/corelane-link", Some("secret"), KEY, &mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "GET /corelane-link HTTP/1.1\r\nHost: game:9000\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Protocol: corelane-link.1\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nX-Service-Token: secret\r\n\r\n"
        );
    }

    #[test]
    fn an_accepting_response_is_measured_whatever_its_split() {
        let with_frame = format!("{ACCEPTED}\u{2}");
        assert_eq!(parse(&with_frame), Ok(Some(ACCEPTED.len())));
        for cut in 0..ACCEPTED.len() {
            assert_eq!(parse(&ACCEPTED[..cut]), Ok(None));
        }
    }

    #[test]
    fn every_missing_or_wrong_part_is_refused() {
        let cases = [
            ("101 Switching Protocols", "401 Unauthorized", LinkError::Refused(401)),
            ("HTTP/1.1", "HTTQ/1.1", LinkError::MalformedResponse),
            ("upgrade: WebSocket", "upgrade: h2c", LinkError::BadUpgrade),
            ("keep-alive, Upgrade", "keep-alive", LinkError::BadUpgrade),
            ("s3pP", "S3pP", LinkError::BadUpgrade),
            ("corelane-link.1", "corelane-link.2", LinkError::WrongSubprotocol),
            ("Sec-WebSocket-Protocol", "X-Other", LinkError::WrongSubprotocol),
            (
                "upgrade:",
                "Sec-WebSocket-Extensions: permessage-deflate\r\nUpgrade:",
                LinkError::UnofferedExtension,
            ),
        ];
        for (part, instead, error) in cases {
            assert_eq!(parse(&ACCEPTED.replace(part, instead)), Err(error), "{instead}");
        }
    }

    #[test]
    fn a_response_without_end_is_given_up() {
        let endless = format!("HTTP/1.1 101 X\r\nA: {}", "a".repeat(RESPONSE_BYTES_MAX));
        assert_eq!(parse(&endless), Err(LinkError::MalformedResponse));
    }
}
