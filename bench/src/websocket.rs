//! The server half of WebSocket, as far as the servers of this package need it: answer an upgrade,
//! find the frames in a stream of bytes, write the header of a reply. Moves no bytes by itself, and
//! trusts its peer: whoever breaks the rules is cut off, without a close code.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

const FINAL: u8 = 0x80;
const ACCEPT_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const LONGEST_HEAD: usize = 16 << 10;
const LONGEST_FRAME: u64 = 1 << 20;

/// Bytes that are no WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrade {
    pub path: String,
    pub key: String,
    /// Length of the head in bytes; frames may follow.
    pub len: usize,
}

/// The upgrade at the start of `bytes`; nothing while its head is not whole.
pub fn parse_upgrade(bytes: &[u8]) -> Result<Option<Upgrade>, Malformed> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return if bytes.len() > LONGEST_HEAD { Err(Malformed) } else { Ok(None) };
    };
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| Malformed)?;
    let mut lines = head.split("\r\n");
    let path = lines.next().and_then(|line| line.strip_prefix("GET ")?.split(' ').next());
    let key = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"));
    match (path, key) {
        (Some(path), Some((_, key))) => {
            Ok(Some(Upgrade { path: path.to_owned(), key: key.trim().to_owned(), len: end + 4 }))
        }
        _ => Err(Malformed),
    }
}

impl Upgrade {
    /// The 101, with `subprotocol` chosen if there is one.
    pub fn answer(&self, subprotocol: Option<&str>) -> String {
        let digest = Sha1::digest(format!("{}{ACCEPT_SUFFIX}", self.key));
        let accept = STANDARD.encode(digest);
        let chosen = subprotocol
            .map(|name| format!("Sec-WebSocket-Protocol: {name}\r\n"))
            .unwrap_or_default();
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n{chosen}\r\n"
        )
    }
}

/// Where one masked frame lies in the bytes that it was found in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub opcode: u8,
    pub mask: [u8; 4],
    pub payload: std::ops::Range<usize>,
}

/// The frame at the start of `bytes`; nothing while it is not whole.
pub fn parse_frame(bytes: &[u8]) -> Result<Option<Frame>, Malformed> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    // Fragments never come from the load harness or the gateway.
    if first & FINAL == 0 || second & 0x80 == 0 {
        return Err(Malformed);
    }
    let (length, header) = match (second & 0x7f, rest) {
        (126, [a, b, ..]) => (u64::from(u16::from_be_bytes([*a, *b])), 4),
        (127, [a, b, c, d, e, f, g, h, ..]) => {
            (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), 10)
        }
        (126 | 127, _) => return Ok(None),
        (short, _) => (u64::from(short), 2),
    };
    if length > LONGEST_FRAME {
        return Err(Malformed);
    }
    let start = header + 4;
    let payload = start..start + length as usize;
    match bytes.get(header..start) {
        Some(mask) if bytes.len() >= payload.end => {
            let mask = mask.try_into().map_err(|_| Malformed)?;
            Ok(Some(Frame { opcode: first & 0x0f, mask, payload }))
        }
        _ => Ok(None),
    }
}

/// Masks or unmasks `payload`, whose first byte meets the first byte of `mask`.
pub fn apply_mask(payload: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, tail) = payload.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in tail.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

/// Appends the header of an unmasked frame of `len` bytes.
pub fn write_header(out: &mut Vec<u8>, opcode: u8, len: usize) {
    out.push(FINAL | opcode);
    match len {
        0..=125 => out.push(len as u8),
        126..=0xffff => {
            out.push(126);
            out.extend((len as u16).to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend((len as u64).to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "GET /room/a HTTP/1.1\r\nHost: h\r\nsec-websocket-key: \
                        dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

    #[test]
    fn an_upgrade_is_answered_as_rfc_6455_says() {
        let upgrade = parse_upgrade(HEAD.as_bytes()).unwrap().unwrap();
        assert_eq!((upgrade.path.as_str(), upgrade.len), ("/room/a", HEAD.len()));
        let answer = upgrade.answer(Some("corelane-link.1"));
        assert!(answer.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
        assert!(answer.ends_with("Sec-WebSocket-Protocol: corelane-link.1\r\n\r\n"));
        for cut in 0..HEAD.len() {
            assert_eq!(parse_upgrade(&HEAD.as_bytes()[..cut]), Ok(None));
        }
        assert_eq!(parse_upgrade(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"), Err(Malformed));
    }

    #[test]
    fn frames_are_found_at_any_length() {
        for len in [0, 1, 125, 126, 70_000] {
            let mask = [1, 2, 3, 4];
            let mut bytes = Vec::new();
            write_header(&mut bytes, BINARY, len);
            bytes[1] |= 0x80;
            bytes.extend(mask);
            let start = bytes.len();
            bytes.extend((0..len).map(|i| i as u8 ^ mask[i % 4]));
            let frame = parse_frame(&bytes).unwrap().unwrap();
            assert_eq!(frame, Frame { opcode: BINARY, mask, payload: start..start + len });
            apply_mask(&mut bytes[start..], mask);
            assert!(bytes[start..].iter().enumerate().all(|(i, b)| *b == i as u8), "{len}");
            if len < 200 {
                for cut in 0..bytes.len() {
                    assert_eq!(parse_frame(&bytes[..cut]), Ok(None), "{len} cut at {cut}");
                }
            }
        }
        assert_eq!(parse_frame(&[0x82, 0x01, 0]), Err(Malformed), "unmasked");
        assert_eq!(parse_frame(&[0x02, 0x81]), Err(Malformed), "a fragment");
    }
}
