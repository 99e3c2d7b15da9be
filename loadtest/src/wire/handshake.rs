//! The opening handshake as a client makes it (RFC 6455, section 4), and the address it goes to.

use std::net::{SocketAddr, ToSocketAddrs};

use thiserror::Error;

/// The key and its answer of RFC 6455 section 1.3: a fixed key needs no SHA-1 here, and a server
/// that does not compute the answer still fails.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
const HEAD_BYTES_MAX: usize = 16 << 10;

/// `SCHEME://HOST:PORT/PATH`, taken apart and looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) socket: SocketAddr,
    pub(crate) authority: String,
    pub(crate) path: String,
}

impl Address {
    /// Nothing if `url` has another form or its host has no address.
    pub(crate) fn parse(url: &str, scheme: &str) -> Option<Self> {
        let rest = url.strip_prefix(scheme)?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (host, port) = authority.rsplit_once(':')?;
        if host.is_empty() || port.parse::<u16>().is_err() {
            return None;
        }
        let socket = authority.to_socket_addrs().ok()?.next()?;
        let path = if path.is_empty() { "/" } else { path };
        Some(Self { socket, authority: authority.to_owned(), path: path.to_owned() })
    }

    /// Without the brackets of an IPv6 address.
    pub(crate) fn host(&self) -> &str {
        let host = self.authority.rsplit_once(':').map_or("", |(host, _)| host);
        host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(host)
    }
}

/// The request; `fields` are further header lines, each with its CR LF.
pub(crate) fn request(authority: &str, path: &str, fields: &str) -> Vec<u8> {
    let text = format!(
        "GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\
         {fields}\r\n"
    );
    text.into_bytes()
}

/// Why the server's answer opens no WebSocket.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum Refusal {
    #[error("refused: {0}")]
    Status(u16),
    #[error("upgrade: not an HTTP answer")]
    NotHttp,
    #[error("upgrade: a wrong Sec-WebSocket-Accept")]
    Accept,
    #[error("upgrade: an extension or subprotocol that was not asked for")]
    Unasked,
    #[error("upgrade: an endless answer")]
    Endless,
}

/// The length of the answer at the start of `bytes`; nothing if it is not complete yet.
pub(crate) fn check_answer(bytes: &[u8]) -> Result<Option<usize>, Refusal> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return if bytes.len() > HEAD_BYTES_MAX { Err(Refusal::Endless) } else { Ok(None) };
    };
    let head = str::from_utf8(&bytes[..end]).map_err(|_| Refusal::NotHttp)?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 "));
    let status: Option<u16> = status.and_then(|rest| rest.get(..3)?.parse().ok());
    match status {
        Some(101) => {}
        Some(other) => return Err(Refusal::Status(other)),
        None => return Err(Refusal::NotHttp),
    }
    let mut accepted = false;
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("sec-websocket-accept") {
            accepted = value.trim() == ACCEPT;
        } else if name.eq_ignore_ascii_case("sec-websocket-extensions")
            || name.eq_ignore_ascii_case("sec-websocket-protocol")
        {
            return Err(Refusal::Unasked);
        }
    }
    if accepted { Ok(Some(end + 4)) } else { Err(Refusal::Accept) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> String {
        format!("HTTP/1.1 101 Switching Protocols\r\nsec-websocket-accept: {ACCEPT}\r\n\r\n")
    }

    #[test]
    fn only_a_101_with_the_right_answer_opens() {
        let head = good();
        let followed = format!("{head}\u{1}\u{1}");
        assert_eq!(check_answer(followed.as_bytes()), Ok(Some(head.len())));
        assert_eq!(check_answer(head.replace("s3p", "s3q").as_bytes()), Err(Refusal::Accept));
        assert_eq!(check_answer(head.replace("101", "503").as_bytes()), Err(Refusal::Status(503)));
        assert_eq!(check_answer(b"SSH-2.0-x\r\n\r\n"), Err(Refusal::NotHttp));
        let compressed = head.replace("\r\n\r\n", "\r\nSec-WebSocket-Extensions: x\r\n\r\n");
        assert_eq!(check_answer(compressed.as_bytes()), Err(Refusal::Unasked));
    }

    #[test]
    fn an_answer_may_come_in_pieces_but_not_for_ever() {
        let head = good();
        for cut in 0..head.len() {
            assert_eq!(check_answer(&head.as_bytes()[..cut]), Ok(None));
        }
        assert_eq!(check_answer(&[b'a'; HEAD_BYTES_MAX + 1]), Err(Refusal::Endless));
    }

    #[test]
    fn addresses_need_host_and_port() {
        let address = Address::parse("ws://127.0.0.1:8080/a?b", "ws://").unwrap();
        assert_eq!((address.authority.as_str(), address.path.as_str()), ("127.0.0.1:8080", "/a?b"));
        assert_eq!(address.host(), "127.0.0.1");
        let address = Address::parse("ws://[::1]:9", "ws://").unwrap();
        assert_eq!((address.path.as_str(), address.host()), ("/", "::1"));
        for wrong in ["http://127.0.0.1:1", "ws://127.0.0.1/", "ws://:1/", "ws://127.0.0.1:70000/"]
        {
            assert_eq!(Address::parse(wrong, "ws://"), None, "{wrong}");
        }
    }
}
