//! The PROXY protocol, versions 1 and 2: who is behind a connection that a proxy has made, in front
//! of everything that the client itself says.
//!
//! Whether the proxy may be believed is not asked here. Type-length-value fields of version 2 are
//! passed over.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use memchr::memchr;
use thiserror::Error;

use super::handshake::head::ascii;

/// Longest header of version 1, its line end included.
const V1_BYTES_MAX: usize = 107;

/// Longest header of version 2 that is read, its fields included. The protocol permits 64 KiB; what
/// proxies send stays below one packet.
pub const V2_BYTES_MAX: usize = 2048;

const V1_START: &[u8] = b"PROXY ";
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Signature, version and command, family, length.
const V2_FIXED: usize = 16;

/// Which versions a listener reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Versions {
    V1,
    V2,
    Any,
}

impl Versions {
    fn has_v1(self) -> bool {
        matches!(self, Self::V1 | Self::Any)
    }

    fn has_v2(self) -> bool {
        matches!(self, Self::V2 | Self::Any)
    }
}

/// What the bytes so far are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    Incomplete,
    Header {
        /// `None` when the proxy speaks for itself (LOCAL), or cannot say (UNKNOWN, a Unix socket).
        client: Option<SocketAddr>,
        /// What stands behind so many bytes is the client's.
        len: usize,
    },
}

/// Why there is no header to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BadHeader {
    /// The bytes begin as no header of a version that is read.
    #[error("no PROXY header")]
    Missing,
    #[error("a malformed PROXY header")]
    Malformed,
}

/// Whether `bytes` begin with what no client says by itself.
#[must_use]
pub fn is_header(bytes: &[u8]) -> bool {
    bytes.starts_with(V1_START) || bytes.starts_with(V2_SIGNATURE)
}

/// Reads the header that `bytes`, all that a connection has sent so far, begin with.
///
/// The answer to a prefix stands: more bytes never turn a header or an error into another one.
pub fn parse(bytes: &[u8], versions: Versions) -> Result<Parsed, BadHeader> {
    if versions.has_v1() && begin_alike(bytes, V1_START) {
        return parse_v1(bytes);
    }
    if versions.has_v2() && begin_alike(bytes, V2_SIGNATURE) {
        return parse_v2(bytes);
    }
    Err(BadHeader::Missing)
}

/// As far as both go.
fn begin_alike(bytes: &[u8], start: &[u8]) -> bool {
    bytes.iter().zip(start).all(|(one, other)| one == other)
}

fn parse_v1(bytes: &[u8]) -> Result<Parsed, BadHeader> {
    let window = &bytes[..bytes.len().min(V1_BYTES_MAX)];
    let Some(line_feed) = memchr(b'\n', window) else {
        return if window.len() < V1_BYTES_MAX {
            Ok(Parsed::Incomplete)
        } else {
            Err(BadHeader::Malformed)
        };
    };
    let line = window[V1_START.len()..line_feed].strip_suffix(b"\r").and_then(ascii);
    let (family, rest) =
        line.map(|line| line.split_once(' ').unwrap_or((line, ""))).ok_or(BadHeader::Malformed)?;
    let client = match family {
        // Whatever else the line says.
        "UNKNOWN" => None,
        "TCP4" => Some(v1_source::<Ipv4Addr>(rest).ok_or(BadHeader::Malformed)?),
        "TCP6" => Some(v1_source::<Ipv6Addr>(rest).ok_or(BadHeader::Malformed)?),
        _ => return Err(BadHeader::Malformed),
    };
    Ok(Parsed::Header { client, len: line_feed + 1 })
}

/// Of `source SP destination SP source port SP destination port`.
fn v1_source<A: std::str::FromStr + Into<IpAddr>>(text: &str) -> Option<SocketAddr> {
    let mut words = text.split(' ');
    let [source, destination] = [words.next()?, words.next()?].map(|word| word.parse::<A>().ok());
    let [port, destination_port] = [words.next()?, words.next()?].map(port);
    let (source, port) = (source?, port?);
    (destination.is_some() && destination_port.is_some() && words.next().is_none())
        .then(|| canonical(source.into(), port))
}

fn port(word: &str) -> Option<u16> {
    let plain = word.bytes().all(|byte| byte.is_ascii_digit());
    let shortest = word == "0" || !word.starts_with('0');
    word.parse().ok().filter(|_| plain && shortest)
}

fn parse_v2(bytes: &[u8]) -> Result<Parsed, BadHeader> {
    let Some(&[version_and_command, family, length_high, length_low]) =
        bytes.get(V2_SIGNATURE.len()..).and_then(<[u8]>::first_chunk)
    else {
        return Ok(Parsed::Incomplete);
    };
    let len = V2_FIXED + usize::from(u16::from_be_bytes([length_high, length_low]));
    let local = match version_and_command {
        0x20 => true,
        0x21 => false,
        _ => return Err(BadHeader::Malformed),
    };
    if len > V2_BYTES_MAX {
        return Err(BadHeader::Malformed);
    }
    let Some(addresses) = bytes.get(V2_FIXED..len) else {
        return Ok(Parsed::Incomplete);
    };
    let client = match family {
        _ if local => None,
        // Unspecified; a Unix socket.
        0x00 | 0x31 | 0x32 => None,
        0x11 => Some(v2_source::<4, 12>(addresses).ok_or(BadHeader::Malformed)?),
        0x21 => Some(v2_source::<16, 36>(addresses).ok_or(BadHeader::Malformed)?),
        // Datagrams have nothing to do here.
        _ => return Err(BadHeader::Malformed),
    };
    Ok(Parsed::Header { client, len })
}

/// Of source, destination, and a port for each.
fn v2_source<const ADDRESS: usize, const ALL: usize>(bytes: &[u8]) -> Option<SocketAddr>
where
    IpAddr: From<[u8; ADDRESS]>,
{
    let all = bytes.first_chunk::<ALL>()?;
    let address = all.first_chunk::<ADDRESS>()?;
    let port = all[2 * ADDRESS..].first_chunk::<2>()?;
    Some(canonical(IpAddr::from(*address), u16::from_be_bytes(*port)))
}

fn canonical(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address.to_canonical(), port)
}

#[cfg(test)]
mod tests;
