//! The only place that writes to the terminal. Results go to standard output, everything said about
//! them to standard error. A reader that has gone away is no error.

use std::fmt::Write as _;
use std::io::{self, Write};

use super::Failure;

/// One or more lines of the result.
pub(crate) fn line(text: &str) {
    write_line(&mut io::stdout().lock(), text);
}

/// Something about the result.
pub(super) fn notice(text: &str) {
    write_line(&mut io::stderr().lock(), text);
}

/// The last words of a process that ends with a status other than 0.
pub(super) fn failure(failure: Failure) {
    match failure {
        // The report of `miette` quotes the lines of the file.
        Failure::Config(refused) => {
            notice(&format!("{:?}", miette::Report::new(refused)));
        }
        other => notice(&format!("corelane: {other}")),
    }
}

/// Text from outside, fit for a terminal: control characters are escaped, line ends and tabs kept.
pub(super) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && !matches!(c, '\n' | '\t') {
            write!(out, "{}", c.escape_default()).expect("writing to a String cannot fail");
        } else {
            out.push(c);
        }
    }
    out
}

/// A payload: text if it is UTF-8, otherwise hexadecimal.
pub(super) fn payload(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => printable(text),
        Err(_) => hex(bytes),
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(out, "{byte:02x}").expect("writing to a String cannot fail");
    }
    out
}

fn write_line(to: &mut impl Write, text: &str) {
    // Nobody is left to be told that the reader has gone.
    drop(to.write_all(text.as_bytes()).and_then(|()| to.write_all(b"\n")));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_from_outside_do_not_reach_the_terminal() {
        assert_eq!(printable("a\u{1b}[31m\nb\tc\u{9b}"), "a\\u{1b}[31m\nb\tc\\u{9b}");
        assert_eq!(payload(&[0xff, 0x00]), "ff00");
    }
}
