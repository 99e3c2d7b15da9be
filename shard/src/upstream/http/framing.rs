//! What the head of a response says: its status, where its body ends (RFC 9112 §6.3), and whether
//! the connection lives on (§9.3).

use super::response::{HttpError, ResponseLimits, Reuse};
use crate::wire::handshake::head::{self, BadFields, Fields};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ResponseHead {
    pub(super) status: u16,
    pub(super) framing: Framing,
    pub(super) reuse: Reuse,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

/// Length of the head that `bytes` begin with; `None` when it is not complete. The first `scanned`
/// bytes were found in order by an earlier call.
pub(super) fn head_end(bytes: &[u8], scanned: usize) -> Result<Option<usize>, HttpError> {
    if bytes.iter().zip(VERSION).any(|(found, wanted)| found != wanted) {
        return Err(HttpError::StatusLine);
    }
    head::end(bytes, scanned).map_err(|head::BadByte| HttpError::Field)
}

impl ResponseHead {
    /// `head` is complete, the empty line included.
    pub(super) fn parse(head: &[u8], limits: &ResponseLimits) -> Result<Self, HttpError> {
        let line_end = head.iter().position(|byte| *byte == b'\n').ok_or(HttpError::StatusLine)?;
        let (line, block) = head.split_at(line_end + 1);
        let (version, status) = status_line(line).ok_or(HttpError::StatusLine)?;
        let fields = Fields::parse(block, limits.headers_max).map_err(|bad| match bad {
            BadFields::TooMany => HttpError::HeadTooLong,
            BadFields::Syntax => HttpError::Field,
        })?;
        let framing = match status {
            100..=199 | 204 | 304 => Framing::Length(0),
            _ => framing(fields, version, limits)?,
        };
        let closes = version == Version::Http10
            || framing == Framing::UntilClose
            || fields.lists("Connection", "close");
        Ok(Self { status, framing, reuse: if closes { Reuse::Close } else { Reuse::Keep } })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    Http10,
    Http11,
}

/// `HTTP/1.x SP 3DIGIT [SP reason] CRLF`
fn status_line(line: &[u8]) -> Option<(Version, u16)> {
    let (version, rest) = match line.strip_prefix(VERSION)?.split_first()? {
        (b'0', rest) => (Version::Http10, rest),
        (b'1', rest) => (Version::Http11, rest),
        _ => return None,
    };
    let (digits, rest) = rest.strip_prefix(b" ")?.split_at_checked(3)?;
    let reason_follows = rest.starts_with(b" ") || rest == b"\r\n";
    let status = digits.iter().try_fold(0, |sum, digit| {
        digit.is_ascii_digit().then(|| sum * 10 + u16::from(digit - b'0'))
    })?;
    (reason_follows && (100..=599).contains(&status)).then_some((version, status))
}

fn framing(
    fields: Fields<'_>,
    version: Version,
    limits: &ResponseLimits,
) -> Result<Framing, HttpError> {
    let length = content_length(fields)?;
    if fields.values("Transfer-Encoding").next().is_some() {
        // Both fields, another coding, or HTTP/1.0: two readers could see two ends of the body.
        let mut codings = fields.elements("Transfer-Encoding");
        let chunked = codings.next().is_some_and(|coding| coding.eq_ignore_ascii_case(b"chunked"));
        let alone = codings.next().is_none() && length.is_none();
        return match version {
            Version::Http11 if chunked && alone => Ok(Framing::Chunked),
            _ => Err(HttpError::Framing),
        };
    }
    match length {
        Some(length) if length > limits.body_bytes_max => Err(HttpError::BodyTooLong),
        Some(length) => Ok(Framing::Length(length)),
        None => Ok(Framing::UntilClose),
    }
}

/// Several equal values count as one (RFC 9110 §8.6).
fn content_length(fields: Fields<'_>) -> Result<Option<usize>, HttpError> {
    let mut agreed = None;
    for value in fields.values("Content-Length").flat_map(|value| value.split(|byte| *byte == b','))
    {
        let length = decimal(value.trim_ascii()).ok_or(HttpError::Framing)?;
        if agreed.is_some_and(|earlier| earlier != length) {
            return Err(HttpError::Framing);
        }
        agreed = Some(length);
    }
    Ok(agreed)
}

/// A number beyond `usize` is read as its greatest value: too long in any case.
fn decimal(digits: &[u8]) -> Option<usize> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0usize, |sum, digit| {
        let digit = digit.is_ascii_digit().then(|| usize::from(digit - b'0'))?;
        Some(sum.saturating_mul(10).saturating_add(digit))
    })
}

const VERSION: &[u8] = b"HTTP/1.";
