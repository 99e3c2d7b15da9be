//! HTTP/1.1 message heads (RFC 9112 §2–5), requests and responses alike: where one ends, its
//! fields, and a cursor that writes one.

use memchr::memchr;

/// Longest list of fields that one head may have, whatever the configuration says.
pub(crate) const HEADERS_MAX: usize = 100;

/// A byte that no head may contain: a control character, or CR or LF on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadByte;

/// Length of the head that `bytes` begin with, the empty line included; `None` when it is not
/// complete. The first `scanned` bytes were found in order by an earlier call.
pub(crate) fn end(bytes: &[u8], scanned: usize) -> Result<Option<usize>, BadByte> {
    // One byte back: a CR at the end of the earlier bytes still waits for its LF.
    let mut at = scanned.saturating_sub(1);
    while let Some(len) = memchr(b'\n', &bytes[at..]) {
        let line_feed = at + len;
        if !bytes[..line_feed].ends_with(b"\r") || !is_plain(&bytes[at..line_feed.max(at + 1) - 1])
        {
            return Err(BadByte);
        }
        if bytes[..=line_feed].ends_with(b"\r\n\r\n") {
            return Ok(Some(line_feed + 1));
        }
        at = line_feed + 1;
    }
    let rest = &bytes[at..];
    if is_plain(rest.strip_suffix(b"\r").unwrap_or(rest)) { Ok(None) } else { Err(BadByte) }
}

/// Free of control characters. Looks at every byte whatever the others are, which the compiler
/// makes many at a time.
fn is_plain(bytes: &[u8]) -> bool {
    let control = |byte: u8| (byte < b' ' && byte != b'\t') || byte == 0x7f;
    !bytes.iter().fold(false, |found, byte| found | control(*byte))
}

/// Why a block of fields is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadFields {
    Syntax,
    TooMany,
}

/// The fields of a complete head, in the order in which they came. Names match in any case.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a> {
    /// Lines of `name: value CRLF` that httparse has accepted.
    lines: &'a [u8],
}

impl<'a> Fields<'a> {
    /// `block` is everything behind the start line, the empty line included.
    pub(crate) fn parse(block: &'a [u8], count_max: usize) -> Result<Self, BadFields> {
        let mut found = [httparse::EMPTY_HEADER; HEADERS_MAX];
        match httparse::parse_headers(block, &mut found[..count_max.min(HEADERS_MAX)]) {
            Ok(httparse::Status::Complete((used, _))) if used == block.len() => {
                Ok(Self { lines: block })
            }
            Err(httparse::Error::TooManyHeaders) => Err(BadFields::TooMany),
            Ok(_) | Err(_) => Err(BadFields::Syntax),
        }
    }

    /// Values of every field called `name`, without the white space around them.
    pub fn values(self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let mut rest = self.lines;
        let lines = std::iter::from_fn(move || {
            let (line, others) = rest.split_at(memchr(b'\n', rest)? + 1);
            rest = others;
            Some(line)
        });
        lines.filter_map(move |line| {
            let (found, rest) = line.split_at_checked(name.len())?;
            let value = rest.strip_prefix(b":")?;
            found.eq_ignore_ascii_case(name.as_bytes()).then(|| value.trim_ascii())
        })
    }

    /// Elements of the comma-separated list that all fields called `name` make together
    /// (RFC 9110 §5.6.1); empty ones are skipped.
    pub fn elements(self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.values(name)
            .flat_map(|value| value.split(|byte| *byte == b','))
            .map(<[u8]>::trim_ascii)
            .filter(|element| !element.is_empty())
    }

    /// Does the list `name` contain `element`, in any case?
    #[must_use]
    pub fn lists(self, name: &str, element: &str) -> bool {
        self.elements(name).any(|found| found.eq_ignore_ascii_case(element.as_bytes()))
    }

    /// The value of a field that may come once: `Err` when it comes again or is not visible ASCII.
    pub(crate) fn single(self, name: &str) -> Result<Option<&'a str>, BadFields> {
        let mut values = self.values(name);
        let Some(value) = values.next() else {
            return Ok(None);
        };
        if values.next().is_some() {
            return Err(BadFields::Syntax);
        }
        ascii(value).map(Some).ok_or(BadFields::Syntax)
    }
}

/// `bytes` as text when they are printable ASCII.
pub(crate) fn ascii(bytes: &[u8]) -> Option<&str> {
    let printable = bytes.iter().fold(true, |all, byte| all & matches!(byte, b' '..=b'~'));
    std::str::from_utf8(bytes).ok().filter(|_| printable)
}

/// Characters of a `token` (RFC 9110 §5.6.2).
pub(crate) fn is_token_byte(byte: u8) -> bool {
    matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~')
        || byte.is_ascii_alphanumeric()
}

/// Writes a head into a slice that the caller has made large enough.
#[derive(Debug)]
pub(crate) struct Cursor<'a> {
    out: &'a mut [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(out: &'a mut [u8]) -> Self {
        Self { out, at: 0 }
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.out[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
        self
    }

    pub(crate) fn put_decimal(&mut self, number: u64) -> &mut Self {
        let mut digits = [0; DECIMAL_BYTES_MAX];
        let mut first = digits.len();
        let mut rest = number;
        loop {
            first -= 1;
            digits[first] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                return self.put(&digits[first..]);
            }
        }
    }

    /// Bytes written.
    pub(crate) fn len(&self) -> usize {
        self.at
    }
}

/// Digits of the greatest `u64`.
pub(crate) const DECIMAL_BYTES_MAX: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_ends_behind_the_first_empty_line() {
        assert_eq!(end(b"a\r\nb: c\r\n\r\nrest\0", 0), Ok(Some(11)));
        assert_eq!(end(b"a\r\nb: c\r\n\r", 0), Ok(None));
        assert_eq!(end(b"", 0), Ok(None));
    }

    #[test]
    fn line_ends_are_cr_lf_and_nothing_else() {
        for bad in [&b"a\nb"[..], b"\n", b"a\rb", b"a\r\r\n", b"a\0b", b"a\x7fb", b"a\x0bb"] {
            assert_eq!(end(bad, 0), Err(BadByte), "{bad:?}");
        }
        assert_eq!(end(b"a\tb\xc3\xa9", 0), Ok(None));
    }

    #[test]
    fn a_scan_that_goes_on_sees_line_ends_across_the_seam() {
        let head = b"a\r\nb: c\r\n\r\n";
        for seam in 0..head.len() {
            assert_eq!(end(&head[..seam], 0), Ok(None));
            assert_eq!(end(head, seam), Ok(Some(head.len())));
        }
        assert_eq!(end(b"a\rb", 2), Err(BadByte));
    }

    /// As [`end`], a byte at a time.
    fn end_by_bytes(bytes: &[u8]) -> Result<Option<usize>, BadByte> {
        for at in 0..bytes.len() {
            match bytes[at] {
                b'\n' if !bytes[..at].ends_with(b"\r") => return Err(BadByte),
                b'\n' if bytes[..at].ends_with(b"\r\n\r") => return Ok(Some(at + 1)),
                b'\r' if bytes.get(at + 1).is_some_and(|next| *next != b'\n') => {
                    return Err(BadByte);
                }
                b'\n' | b'\r' | b'\t' | 0x20..=0x7e | 0x80.. => {}
                _ => return Err(BadByte),
            }
        }
        Ok(None)
    }

    #[test]
    fn every_short_head_ends_where_reading_by_bytes_says() {
        const BYTES: [u8; 5] = *b"a\r\n\0\t";
        const LEN: u32 = 7;
        for number in 0..BYTES.len().pow(LEN) {
            let digit = |at| BYTES[number / BYTES.len().pow(at) % BYTES.len()];
            let bytes: Vec<_> = (0..LEN).map(digit).collect();
            assert_eq!(end(&bytes, 0), end_by_bytes(&bytes), "{bytes:?}");
        }
    }

    #[test]
    fn a_list_may_be_spread_over_fields_and_have_holes() {
        let fields = Fields::parse(b"X: a, ,b\r\nY: z\r\nx:,C ,\r\n\r\n", 9).unwrap();
        assert_eq!(fields.elements("x").collect::<Vec<_>>(), [b"a", b"b", b"C"]);
        assert!(fields.lists("X", "c"));
        assert!(!fields.lists("y", "a"));
    }

    #[test]
    fn too_many_fields_are_told_from_bad_ones() {
        assert_eq!(Fields::parse(b"a: 1\r\nb: 2\r\n\r\n", 1).unwrap_err(), BadFields::TooMany);
        for bad in [
            &b"a : 1\r\n\r\n"[..],
            b" a: 1\r\n\r\n",
            b"a: 1\r\n b\r\n\r\n",
            b": 1\r\n\r\n",
            b"a\r\n\r\n",
        ] {
            assert_eq!(Fields::parse(bad, 9).unwrap_err(), BadFields::Syntax, "{bad:?}");
        }
        assert!(Fields::parse(b"\r\n", 9).is_ok());
    }

    #[test]
    fn numbers_are_written_without_leading_zeros() {
        let mut out = [0; 64];
        let mut cursor = Cursor::new(&mut out);
        let len =
            cursor.put_decimal(0).put(b" ").put_decimal(1090).put(b" ").put_decimal(u64::MAX).len();
        assert_eq!(&out[..len], b"0 1090 18446744073709551615");
    }
}
