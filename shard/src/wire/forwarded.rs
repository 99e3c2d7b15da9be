//! `Forwarded` (RFC 7239) and `X-Forwarded-For`: who is behind the proxies that a request came
//! through.
//!
//! Each proxy adds at the right whom it has seen, and whoever was there before may have written
//! anything. So the list is believed from the right as long as it names trusted proxies: the first
//! other address is the client's.

use std::net::{IpAddr, SocketAddr};

use thiserror::Error;

use super::handshake::Fields;
use super::handshake::head::is_token_byte;
use crate::network::Networks;

/// The field in which trusted proxies name their clients. One alone: what a proxy does not write
/// itself it passes on as the client has sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardedField {
    Forwarded,
    XForwardedFor,
}

/// A `Forwarded` that does not follow its grammar: who wrote which part of it cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a malformed Forwarded")]
pub struct Malformed;

/// The client that trusted proxies name, with port 0 when they do not name that. When all of the
/// list is trusted it is the leftmost; `None` when nobody is named: then only the proxy is known.
pub fn client(
    fields: Fields<'_>,
    field: ForwardedField,
    trusted: &Networks,
) -> Result<Option<SocketAddr>, Malformed> {
    let mut walk = Walk { trusted, found: None };
    match field {
        ForwardedField::XForwardedFor => {
            fields.elements("X-Forwarded-For").for_each(|element| walk.pass(node(element)));
        }
        ForwardedField::Forwarded => {
            for line in fields.values("Forwarded") {
                walk.pass_line(line)?;
            }
        }
    }
    Ok(walk.found)
}

/// Goes from left to right, and yet finds what a walk from the right would.
struct Walk<'a> {
    trusted: &'a Networks,
    /// The client, if nothing further to the right says otherwise.
    found: Option<SocketAddr>,
}

impl Walk<'_> {
    fn pass(&mut self, hop: Option<SocketAddr>) {
        self.found = match hop {
            // Whoever is unknown hides all to its left; a trusted one shows it.
            None => None,
            Some(hop) if self.trusted.contains(hop.ip()) => self.found.or(Some(hop)),
            Some(hop) => Some(hop),
        };
    }

    /// One field line: a quoted string does not reach into the next.
    fn pass_line(&mut self, line: &[u8]) -> Result<(), Malformed> {
        let mut rest = line.trim_ascii();
        while !rest.is_empty() {
            let element = Element::read(rest)?;
            if let Some(hop) = element.hop {
                self.pass(hop);
            }
            rest = element.behind;
        }
        Ok(())
    }
}

/// One element of a `Forwarded`, up to its comma.
struct Element<'a> {
    /// `None` for an empty element; `Some(None)` for one that does not say who it was.
    hop: Option<Option<SocketAddr>>,
    behind: &'a [u8],
}

impl<'a> Element<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (mut hop, mut has_for) = (None, false);
        let mut rest = bytes;
        loop {
            rest = rest.trim_ascii_start();
            match rest.split_first() {
                None => return Ok(Self { hop, behind: rest }),
                Some((b',', behind)) => return Ok(Self { hop, behind }),
                Some((b';', behind)) => rest = behind,
                Some(_) => {
                    let pair = Pair::read(rest)?;
                    let is_for = pair.name.eq_ignore_ascii_case(b"for");
                    if is_for && std::mem::replace(&mut has_for, true) {
                        return Err(Malformed);
                    }
                    if is_for {
                        hop = Some(node(pair.value));
                    }
                    hop = hop.or(Some(None));
                    rest = pair.behind;
                }
            }
        }
    }
}

/// `name=value`, of which the value may stand in quotes.
struct Pair<'a> {
    name: &'a [u8],
    /// Without its quotes, but with its backslashes: no address has any.
    value: &'a [u8],
    behind: &'a [u8],
}

impl<'a> Pair<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let equals = bytes.iter().position(|byte| !is_token_byte(*byte)).ok_or(Malformed)?;
        let (name, rest) = bytes.split_at(equals);
        let rest = rest.strip_prefix(b"=").ok_or(Malformed)?;
        let (value, behind) = match rest.strip_prefix(b"\"") {
            Some(quoted) => {
                let end = end_of_quoted(quoted).ok_or(Malformed)?;
                (&quoted[..end], &quoted[end + 1..])
            }
            None => {
                let ends = |byte: &u8| b"\",; \t".contains(byte);
                rest.split_at(rest.iter().position(ends).unwrap_or(rest.len()))
            }
        };
        let ended = matches!(behind.trim_ascii_start().first(), None | Some(b',' | b';'));
        let whole = ended && !name.is_empty() && !value.is_empty();
        whole.then_some(Self { name, value, behind }).ok_or(Malformed)
    }
}

/// Where the closing quote stands.
fn end_of_quoted(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match bytes.get(at)? {
            b'"' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// `203.0.113.9`, `203.0.113.9:4711`, `[2001:db8::9]`, `[2001:db8::9]:4711` or `2001:db8::9`. `None`
/// for everything else, the names that hide somebody among it.
fn node(bytes: &[u8]) -> Option<SocketAddr> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (address, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, rest) = rest.split_once(']')?;
            (
                IpAddr::V6(address.parse().ok()?),
                rest.strip_prefix(':').or_else(|| rest.is_empty().then_some("0"))?,
            )
        }
        None => match text.parse() {
            Ok(address) => (address, "0"),
            Err(_) => {
                let (address, port) = text.split_once(':')?;
                (IpAddr::V4(address.parse().ok()?), port)
            }
        },
    };
    // A port may be hidden as well.
    let hidden = port.starts_with('_');
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    let port = if hidden { 0 } else { port.parse().ok().filter(|_| digits)? };
    Some(SocketAddr::new(address.to_canonical(), port))
}

#[cfg(test)]
mod tests;
