//! W3C trace context: the text of a `traceparent` header, the bytes in a link message, and the
//! header lines that one call to an HTTP backend adds.

use std::fmt;
use std::io::Write as _;

pub const TRACE_LEN: usize = 25;

/// Length of a `traceparent` of version 00.
pub const TRACEPARENT_LEN: usize = 55;

/// Which trace a call belongs to, and the span that it is of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    pub trace: u128,
    pub span: u64,
    pub flags: u8,
}

impl Trace {
    /// Flag: whoever sent the context records its span.
    pub const SAMPLED: u8 = 0x01;

    #[must_use]
    pub fn is_sampled(self) -> bool {
        self.flags & Self::SAMPLED != 0
    }

    /// Reads a `traceparent`. A version after 00 may have more behind the flags, which is ignored.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (known, more) = text.split_at_checked(TRACEPARENT_LEN)?;
        let mut fields = known.split('-');
        let [version, trace, span, flags] =
            [2, 32, 16, 2].map(|digits| fields.next().and_then(|field| hex(field, digits)));
        let complete = match version? {
            0 => more.is_empty(),
            0xff => false,
            _ => more.is_empty() || more.starts_with('-'),
        };
        let (trace, span) = (trace?, span? as u64);
        let valid = complete && trace != 0 && span != 0 && fields.next().is_none();
        valid.then_some(Self { trace, span, flags: flags? as u8 })
    }

    pub(super) fn to_bytes(self) -> [u8; TRACE_LEN] {
        let mut bytes = [0; TRACE_LEN];
        bytes[..16].copy_from_slice(&self.trace.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.span.to_be_bytes());
        bytes[24] = self.flags;
        bytes
    }
}

/// The `traceparent`.
impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trace, span, flags } = self;
        write!(f, "00-{trace:032x}-{span:016x}-{flags:02x}")
    }
}

/// A number of exactly so many hexadecimal digits, in lower case as the standard wants.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let legal = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (legal && text.len() == digits).then(|| u128::from_str_radix(text, 16).ok())?
}

/// Header lines that tell an HTTP backend which call this is; most calls have none.
#[derive(Debug)]
pub struct CallLines {
    text: [u8; CALL_LINES_MAX],
    len: usize,
}

/// `traceparent` and `X-Correlation-Id`.
const CALL_LINES_MAX: usize =
    "traceparent: \r\n".len() + TRACEPARENT_LEN + "X-Correlation-Id: \r\n".len() + CORRELATION_LEN;

const CORRELATION_LEN: usize = 32;

impl CallLines {
    /// `correlation` is written as a trace id is: 32 hexadecimal digits.
    #[must_use]
    pub fn new(trace: Option<Trace>, correlation: Option<u128>) -> Self {
        let mut text = [0; CALL_LINES_MAX];
        let mut room = &mut text[..];
        if let Some(trace) = trace {
            write!(room, "traceparent: {trace}\r\n").expect("there is room for both lines");
        }
        if let Some(id) = correlation {
            write!(room, "X-Correlation-Id: {id:032x}\r\n").expect("there is room for both lines");
        }
        let len = CALL_LINES_MAX - room.len();
        Self { text, len }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text[..self.len]).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_example_of_the_standard_is_read_and_written() {
        let trace = Trace::parse(EXAMPLE).unwrap();
        assert_eq!(trace.trace, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!(trace.span, 0x00f0_67aa_0ba9_02b7);
        assert!(trace.is_sampled());
        assert_eq!(trace.to_string(), EXAMPLE);
        let unsampled = Trace::parse(&EXAMPLE.replace("-01", "-00")).unwrap();
        assert!(!unsampled.is_sampled());
        // Other flags may come; they do not decide.
        assert!(!Trace::parse(&EXAMPLE.replace("-01", "-02")).unwrap().is_sampled());
    }

    #[test]
    fn what_is_no_traceparent_is_refused() {
        let zero_trace = format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32));
        let zero_span = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{}-01", "0".repeat(16));
        for bad in [
            "",
            "00",
            zero_trace.as_str(),
            zero_span.as_str(),
            &EXAMPLE.to_uppercase(),
            &EXAMPLE.replace('-', "_"),
            &EXAMPLE.replacen("00-", "ff-", 1),
            &EXAMPLE.replacen("00-", "0g-", 1),
            &EXAMPLE.replace("4bf9", "+bf9"),
            &EXAMPLE[..54],
            &format!("{EXAMPLE}-more"),
            &format!("{}x", EXAMPLE.replacen("00-", "01-", 1)),
            // The fields have the length of the whole, but not each its own.
            "00-4bf92f3577b34da6a3ce929d0e0e47360-0f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b-701",
        ] {
            assert_eq!(Trace::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_later_version_may_say_more() {
        let later = EXAMPLE.replacen("00-", "01-", 1);
        assert_eq!(Trace::parse(&later), Trace::parse(EXAMPLE));
        assert_eq!(Trace::parse(&format!("{later}-what ever")), Trace::parse(EXAMPLE));
    }

    #[test]
    fn lines_stand_for_what_there_is() {
        let trace = Trace::parse(EXAMPLE).unwrap();
        assert_eq!(CallLines::new(None, None).as_str(), "");
        assert_eq!(
            CallLines::new(Some(trace), None).as_str(),
            format!("traceparent: {EXAMPLE}\r\n")
        );
        let both = CallLines::new(Some(trace), Some(trace.trace));
        assert_eq!(
            both.as_str(),
            format!(
                "traceparent: {EXAMPLE}\r\n\
                 X-Correlation-Id: 4bf92f3577b34da6a3ce929d0e0e4736\r\n"
            )
        );
        assert_eq!(both.as_str().len(), CALL_LINES_MAX);
    }

    proptest! {
        #[test]
        fn parsing_inverts_writing(trace in 1..=u128::MAX, span in 1..=u64::MAX, flags: u8) {
            let trace = Trace { trace, span, flags };
            let text = trace.to_string();
            prop_assert_eq!(text.len(), TRACEPARENT_LEN);
            prop_assert_eq!(Trace::parse(&text), Some(trace));
        }

        #[test]
        fn any_text_is_parsed_without_panic(text in "(0[01]-)?[0-9a-f]{0,32}-?.{0,40}") {
            let _either_way = Trace::parse(&text);
        }
    }
}
