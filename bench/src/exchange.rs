//! The two things a driver can exchange with an echo server: raw blobs over TCP, and WebSocket
//! binary messages. Builds the request bytes, opens a connection, and checks what comes back byte
//! for byte. Moves no bytes by itself.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::str::FromStr;
use std::time::Duration;

/// Where to connect and what to speak there: `tcp://host:port` or `ws://host:port/path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) authority: String,
    /// The path of a WebSocket; none for raw TCP.
    path: Option<String>,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(url: &str) -> Result<Self, String> {
        let wanted = "an address is tcp://HOST:PORT or ws://HOST:PORT/PATH";
        let (authority, path) = if let Some(rest) = url.strip_prefix("tcp://") {
            (rest, None)
        } else if let Some(rest) = url.strip_prefix("ws://") {
            let slash = rest.find('/').unwrap_or(rest.len());
            let (authority, path) = rest.split_at(slash);
            let path = if path.is_empty() { "/" } else { path };
            (authority, Some(path.to_owned()))
        } else {
            return Err(format!("{url:?}: {wanted}"));
        };
        match authority.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                Ok(Self { authority: authority.to_owned(), path })
            }
            _ => Err(format!("{url:?} has no port; {wanted}")),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "ws://{}{path}", self.authority),
            None => write!(f, "tcp://{}", self.authority),
        }
    }
}

/// The key and its answer of RFC 6455 section 1.3. A fixed key spares a SHA-1 here, and still
/// proves that the server computed the answer.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
const MASK: [u8; 4] = [0x5a, 0xc3, 0x17, 0x88];

impl Target {
    /// A connection that is ready to exchange messages.
    pub(crate) fn connect(&self) -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect(&self.authority)?;
        stream.set_nodelay(true)?;
        if let Some(path) = &self.path {
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            let authority = &self.authority;
            let request = format!(
                "GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: Upgrade\r\n\
                 Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
            );
            stream.write_all(request.as_bytes())?;
            check_upgrade(&read_head(&mut stream)?)?;
        }
        Ok(stream)
    }

    /// The bytes of one request with `payload`.
    pub(crate) fn request(&self, payload: &[u8]) -> Vec<u8> {
        if self.path.is_none() {
            return payload.to_vec();
        }
        let mut frame = frame_header(payload.len(), 0x80);
        frame.extend(MASK);
        frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(b, m)| b ^ m));
        frame
    }

    /// The bytes of the reply that a faithful echo of `payload` gives.
    pub(crate) fn reply(&self, payload: &[u8]) -> Vec<u8> {
        let mut frame = match self.path {
            Some(_) => frame_header(payload.len(), 0),
            None => Vec::new(),
        };
        frame.extend(payload);
        frame
    }
}

/// An unfragmented binary frame's header up to the mask.
fn frame_header(payload_bytes: usize, mask_bit: u8) -> Vec<u8> {
    let mut header = vec![0x82];
    match payload_bytes {
        0..=125 => header.push(mask_bit | payload_bytes as u8),
        126..=0xffff => {
            header.push(mask_bit | 126);
            header.extend((payload_bytes as u16).to_be_bytes());
        }
        _ => {
            header.push(mask_bit | 127);
            header.extend((payload_bytes as u64).to_be_bytes());
        }
    }
    header
}

/// Reads to the end of the head and not a byte further.
fn read_head(stream: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
        if head.len() > 8192 {
            return Err(io::Error::other("the server's answer to the upgrade is endless"));
        }
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

fn check_upgrade(head: &str) -> io::Result<()> {
    let status = head.lines().next().unwrap_or_default();
    let accepted = head.lines().filter_map(|line| line.split_once(':')).any(|(name, value)| {
        name.eq_ignore_ascii_case("sec-websocket-accept") && value.trim() == ACCEPT
    });
    if status.split(' ').nth(1) == Some("101") && accepted {
        return Ok(());
    }
    Err(io::Error::other(format!("the server refused the upgrade: {status}")))
}

/// How far one connection's replies have come. All replies are equal, so a position in the
/// repeated reply is all there is to know.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ReplyCursor {
    matched: usize,
}

/// The bytes are not the expected echo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unfaithful {
    /// Where in the reply the first difference is.
    pub(crate) offset: usize,
}

impl ReplyCursor {
    /// Takes the next bytes of the stream; says how many replies they complete.
    pub(crate) fn advance(&mut self, mut bytes: &[u8], reply: &[u8]) -> Result<u32, Unfaithful> {
        let mut completed = 0;
        while !bytes.is_empty() {
            let expected = &reply[self.matched..];
            let (now, rest) = bytes.split_at(expected.len().min(bytes.len()));
            if now != &expected[..now.len()] {
                let differs = now.iter().zip(expected).take_while(|(a, b)| a == b).count();
                return Err(Unfaithful { offset: self.matched + differs });
            }
            self.matched += now.len();
            if self.matched == reply.len() {
                self.matched = 0;
                completed += 1;
            }
            bytes = rest;
        }
        Ok(completed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_name_their_protocol() {
        let target: Target = "ws://127.0.0.1:8080/echo".parse().unwrap();
        assert_eq!(target.path.as_deref(), Some("/echo"));
        assert_eq!(target.to_string(), "ws://127.0.0.1:8080/echo");
        assert_eq!("tcp://[::1]:9".parse::<Target>().unwrap().authority, "[::1]:9");
        assert_eq!("ws://h:1".parse::<Target>().unwrap().to_string(), "ws://h:1/");
        for wrong in ["http://h:1", "ws://h/echo", "ws://:1/", "tcp://h:70000"] {
            assert!(wrong.parse::<Target>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_request_is_one_masked_frame_and_its_reply_is_not_masked() {
        let target: Target = "ws://h:1/echo".parse().unwrap();
        assert_eq!(
            target.request(b"ab"),
            [0x82, 0x82, 0x5a, 0xc3, 0x17, 0x88, b'a' ^ 0x5a, b'b' ^ 0xc3]
        );
        assert_eq!(target.reply(b"ab"), [0x82, 2, b'a', b'b']);
        assert_eq!(target.reply(&[0; 200])[..4], [0x82, 126, 0, 200]);
        assert_eq!(target.reply(&[0; 70_000])[..10], [0x82, 127, 0, 0, 0, 0, 0, 1, 0x11, 0x70]);
    }

    #[test]
    fn replies_are_counted_at_any_split() {
        let reply = b"\x82\x03abc";
        let stream = reply.repeat(3);
        for split in 0..=stream.len() {
            let mut cursor = ReplyCursor::default();
            let (head, tail) = stream.split_at(split);
            let first = cursor.advance(head, reply).unwrap();
            assert_eq!(first + cursor.advance(tail, reply).unwrap(), 3, "split at {split}");
        }
    }

    #[test]
    fn a_changed_byte_is_found_where_it_is() {
        let mut cursor = ReplyCursor::default();
        assert_eq!(cursor.advance(b"\x82\x03a", b"\x82\x03abc"), Ok(0));
        assert_eq!(cursor.advance(b"bX", b"\x82\x03abc"), Err(Unfaithful { offset: 4 }));
    }

    #[test]
    fn only_a_101_with_the_right_answer_opens() {
        let good =
            format!("HTTP/1.1 101 Switching Protocols\r\nsec-websocket-accept: {ACCEPT}\r\n\r\n");
        assert!(check_upgrade(&good).is_ok());
        assert!(check_upgrade(&good.replace("s3p", "s3q")).is_err());
        assert!(check_upgrade(&good.replace("101", "200")).is_err());
    }
}
