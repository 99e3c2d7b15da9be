//! The request line: method, target and version, judged from the first bytes on.

use std::borrow::Cow;

use super::head::{self, is_token_byte};
use super::refusal::{Malformed, Refusal};
use super::request::HeadLimits;

/// An origin-form target (RFC 9112 §3.2.1), still percent-encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target<'a> {
    pub path: &'a str,
    pub query: Option<&'a str>,
}

/// A complete request line; `len` includes its CR LF.
#[derive(Debug, Clone, Copy)]
pub(super) struct RequestLine<'a> {
    pub(super) method: &'a str,
    pub(super) target: Target<'a>,
    pub(super) len: usize,
}

/// The request line at the start of `bytes`, `None` while it may still become one.
pub(super) fn request_line<'a>(
    bytes: &'a [u8],
    limits: &HeadLimits,
) -> Result<Option<RequestLine<'a>>, Refusal> {
    let method_len = run(bytes, is_token_byte);
    if method_len > METHOD_BYTES_MAX {
        return Err(Malformed::RequestLine.into());
    }
    let Some((method, rest)) = split_at_space(bytes, method_len).ok_or(Malformed::RequestLine)?
    else {
        return Ok(None);
    };
    if method.is_empty() {
        return Err(Malformed::RequestLine.into());
    }
    if rest.first().is_some_and(|first| *first != b'/') {
        return Err(Malformed::Target.into());
    }
    let target_len = run(rest, is_target_byte);
    if target_len > limits.target_bytes_max {
        return Err(Refusal::HeadTooLarge);
    }
    let Some((target, rest)) = split_at_space(rest, target_len).ok_or(Malformed::Target)? else {
        return Ok(None);
    };
    let matching =
        rest.iter().zip(VERSION_LINE).take_while(|(found, wanted)| found == wanted).count();
    if matching == VERSION_LINE.len() {
        let len = method_len + 1 + target_len + 1 + VERSION_LINE.len();
        return Ok(Some(RequestLine { method, target: Target::new(target), len }));
    }
    match rest.len() - matching {
        0 => Ok(None),
        // Another line end than CR LF.
        _ if matching > VERSION.len() => Err(Malformed::ControlByte.into()),
        _ if matching == VERSION.len() && rest[matching].is_ascii_control() => {
            Err(Malformed::ControlByte.into())
        }
        _ if matching >= b"HTTP/".len() => Err(Malformed::HttpVersion.into()),
        _ => Err(Malformed::RequestLine.into()),
    }
}

/// The first `len` bytes and what stands behind the space after them; the inner `None` when that
/// space is still to come, the outer one when there is something else.
fn split_at_space(bytes: &[u8], len: usize) -> Option<Option<(&str, &[u8])>> {
    let (text, rest) = bytes.split_at(len);
    match rest.split_first() {
        None => Some(None),
        Some((b' ', rest)) => Some(Some((head::ascii(text)?, rest))),
        Some(_) => None,
    }
}

fn run(bytes: &[u8], belongs: fn(u8) -> bool) -> usize {
    bytes.iter().position(|byte| !belongs(*byte)).unwrap_or(bytes.len())
}

/// Characters of path and query (RFC 3986 §3.3, §3.4).
pub(super) fn is_target_byte(byte: u8) -> bool {
    matches!(byte, b'!' | b'$'..=b'/' | b':' | b';' | b'=' | b'?' | b'@' | b'_' | b'~')
        || byte.is_ascii_alphanumeric()
}

impl<'a> Target<'a> {
    fn new(text: &'a str) -> Self {
        match text.split_once('?') {
            Some((path, query)) => Self { path, query: Some(query) },
            None => Self { path: text, query: None },
        }
    }

    /// The still encoded value of `name` in the query; the first if there are several.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&'a str> {
        self.parameters(name).next()
    }

    /// The token of `?token=`, decoded; `None` without that parameter. Copied only if it was
    /// percent-encoded. `+` stands for itself: base64 uses it, and no token holds a space.
    pub fn token(&self, limits: &HeadLimits) -> Result<Option<Cow<'a, str>>, Refusal> {
        let mut values = self.parameters("token");
        let Some(value) = values.next() else {
            return Ok(None);
        };
        if values.next().is_some() {
            return Err(Malformed::Credential.into());
        }
        let token = percent_decoded(value).ok_or(Refusal::BadCredential)?;
        if is_token68(&token) && token.len() <= limits.token_bytes_max {
            Ok(Some(token))
        } else {
            Err(Refusal::BadCredential)
        }
    }

    fn parameters(&self, name: &str) -> impl Iterator<Item = &'a str> {
        let pairs = self.query.unwrap_or_default().split('&');
        pairs
            .filter_map(|pair| pair.split_once('='))
            .filter(move |(key, _)| *key == name)
            .map(|(_, value)| value)
    }
}

/// `None` when an escape is broken or the result is not UTF-8.
fn percent_decoded(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => hex_digit(bytes.next()?)? << 4 | hex_digit(bytes.next()?)?,
            plain => plain,
        });
    }
    String::from_utf8(decoded).ok().map(Cow::Owned)
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

/// RFC 9110 §11.2: what JWTs and base64 of either alphabet consist of.
pub(super) fn is_token68(token: &str) -> bool {
    let body = token.trim_end_matches('=');
    let belongs = |byte: u8| {
        byte.is_ascii_alphanumeric() | matches!(byte, b'-' | b'.' | b'_' | b'~' | b'+' | b'/')
    };
    !body.is_empty() && body.bytes().fold(true, |all, byte| all & belongs(byte))
}

const VERSION: &[u8] = b"HTTP/1.1";

/// [`VERSION`] and the line end.
const VERSION_LINE: &[u8] = b"HTTP/1.1\r\n";

/// Longer than any registered method; a first word beyond it is not HTTP.
const METHOD_BYTES_MAX: usize = 24;
