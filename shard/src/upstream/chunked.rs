//! The chunked transfer coding of a backend's answer (RFC 9112 §7.1), decoded strictly: digits and
//! line ends as written there, extensions and trailers skipped within a bound.

use std::ops::Range;

use thiserror::Error;

/// Extensions and trailers of one body, bytes.
pub const SKIPPED_BYTES_MAX: u16 = 8 << 10;

/// Where a chunked body stands. One per response that is being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkedDecoder {
    state: State,
    /// `skipped <= SKIPPED_BYTES_MAX`
    skipped: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size {
        digits: u8,
        size: u64,
    },
    Extension {
        size: u64,
    },
    SizeLf {
        size: u64,
    },
    /// `left > 0`
    Payload {
        left: u64,
    },
    PayloadCr,
    PayloadLf,
    TrailerStart,
    Trailer,
    TrailerLf,
    LastLf,
    Complete,
}

/// What the next bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// All of the input was consumed.
    NeedMore,
    /// This part of the input belongs to the body.
    Payload(Range<usize>),
    Complete,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ChunkedError {
    #[error("a chunk size that is not a hexadecimal number")]
    Size,
    #[error("a line that does not end with CR LF, or holds a control character")]
    Line,
    #[error("extensions and trailers that exceed their bound")]
    Skipped,
}

impl Default for ChunkedDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl ChunkedDecoder {
    #[must_use]
    pub fn new() -> Self {
        Self { state: State::Size { digits: 0, size: 0 }, skipped: 0 }
    }

    /// Takes one step and says how many bytes of `input` it consumed.
    pub fn next(&mut self, input: &[u8]) -> Result<(usize, Step), ChunkedError> {
        for (at, byte) in input.iter().enumerate() {
            match self.state {
                State::Payload { left } => {
                    let here = input.len() - at;
                    let len = usize::try_from(left).map_or(here, |left| left.min(here));
                    self.state = match left - len as u64 {
                        0 => State::PayloadCr,
                        left => State::Payload { left },
                    };
                    return Ok((at + len, Step::Payload(at..at + len)));
                }
                State::Complete => return Ok((at, Step::Complete)),
                _ => self.state = self.after(*byte)?,
            }
        }
        let step = if self.state == State::Complete { Step::Complete } else { Step::NeedMore };
        Ok((input.len(), step))
    }

    /// The state behind one byte that is not payload.
    fn after(&mut self, byte: u8) -> Result<State, ChunkedError> {
        match (self.state, byte) {
            (State::Size { digits: 1.., size }, b'\r') => Ok(State::SizeLf { size }),
            (State::Size { digits: 1.., size }, b';') => Ok(State::Extension { size }),
            (State::Size { digits, size }, digit) if digits < SIZE_DIGITS_MAX => {
                let digit = char::from(digit).to_digit(16).ok_or(ChunkedError::Size)?;
                Ok(State::Size { digits: digits + 1, size: size << 4 | u64::from(digit) })
            }
            (State::Size { .. }, _) => Err(ChunkedError::Size),
            (State::Extension { size }, b'\r') => Ok(State::SizeLf { size }),
            (State::SizeLf { size: 0 }, b'\n') => Ok(State::TrailerStart),
            (State::SizeLf { size }, b'\n') => Ok(State::Payload { left: size }),
            (State::PayloadCr, b'\r') => Ok(State::PayloadLf),
            (State::PayloadLf, b'\n') => Ok(State::Size { digits: 0, size: 0 }),
            (State::TrailerStart, b'\r') => Ok(State::LastLf),
            (State::LastLf, b'\n') => Ok(State::Complete),
            (State::Trailer, b'\r') => Ok(State::TrailerLf),
            (State::TrailerLf, b'\n') => Ok(State::TrailerStart),
            (same @ State::Extension { .. }, byte) => self.skip(byte, same),
            (State::TrailerStart | State::Trailer, byte) => self.skip(byte, State::Trailer),
            _ => Err(ChunkedError::Line),
        }
    }

    fn skip(&mut self, byte: u8, then: State) -> Result<State, ChunkedError> {
        if byte != b'\t' && byte.is_ascii_control() {
            return Err(ChunkedError::Line);
        }
        self.skipped += 1;
        if self.skipped > SKIPPED_BYTES_MAX {
            return Err(ChunkedError::Skipped);
        }
        Ok(then)
    }
}

/// Fifteen digits cannot overflow, and no body is that long.
const SIZE_DIGITS_MAX: u8 = 15;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The whole body, and what stands behind it.
    type Decoded = (Vec<u8>, Vec<u8>);

    /// `None` when the body is not complete.
    fn decode<'a>(
        inputs: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Option<Decoded>, ChunkedError> {
        let mut decoder = ChunkedDecoder::new();
        let (mut body, mut behind) = (Vec::new(), Vec::new());
        let mut complete = false;
        for input in inputs {
            let mut rest = input;
            while !complete {
                let (used, step) = decoder.next(rest)?;
                match step {
                    Step::NeedMore => {
                        assert_eq!(used, rest.len());
                        break;
                    }
                    Step::Payload(range) => body.extend_from_slice(&rest[range]),
                    Step::Complete => complete = true,
                }
                rest = &rest[used..];
            }
            if complete {
                behind.extend_from_slice(rest);
            }
        }
        Ok(complete.then_some((body, behind)))
    }

    fn whole(input: &[u8]) -> Result<Option<Decoded>, ChunkedError> {
        decode([input])
    }

    #[test]
    fn chunks_are_joined_and_what_follows_is_left_alone() {
        let decoded =
            whole(b"4\r\nWiki\r\n00B\r\npedia in \r\n\r\n0\r\n\r\nHTTP").unwrap().unwrap();
        assert_eq!(decoded, (b"Wikipedia in \r\n".to_vec(), b"HTTP".to_vec()));
    }

    #[test]
    fn extensions_and_trailers_are_skipped() {
        let decoded =
            whole(b"1;a=\"b\"\r\nx\r\n0;z\r\nExpires: never\r\nA: b\r\n\r\n").unwrap().unwrap();
        assert_eq!(decoded, (b"x".to_vec(), Vec::new()));
    }

    #[test]
    fn sizes_are_plain_hexadecimal() {
        for bad in [
            &b"\r\n"[..],
            b"g\r\n",
            b"+1\r\n",
            b"0x1\r\n",
            b" 1\r\n",
            b"1 \r\n",
            b"-1",
            b"1234567890abcdef",
            b";a",
        ] {
            assert_eq!(whole(bad), Err(ChunkedError::Size), "{bad:?}");
        }
    }

    #[test]
    fn lines_end_with_cr_lf() {
        for bad in [
            &b"1\r\r"[..],
            b"1\r\nxy",
            b"1\r\nx\n",
            b"1\r\nx\rA",
            b"0\r\n\n",
            b"0\r\n\rX",
            b"0\r\na\n",
            b"1;\n",
            b"0\r\na\rb",
        ] {
            assert_eq!(whole(bad), Err(ChunkedError::Line), "{bad:?}");
        }
        assert_eq!(whole(b"1\n"), Err(ChunkedError::Size));
    }

    #[test]
    fn a_cut_body_is_not_complete() {
        let body = b"5\r\nhello\r\n0\r\nA: b\r\n\r\n";
        for cut in 0..body.len() {
            assert_eq!(whole(&body[..cut]), Ok(None), "{cut}");
        }
        assert!(whole(body).unwrap().is_some());
    }

    #[test]
    fn extensions_and_trailers_are_bounded_together() {
        let half = "x".repeat(usize::from(SKIPPED_BYTES_MAX) / 2);
        let body = format!("0;{half}\r\n{half}\r\n\r\n");
        assert!(whole(body.as_bytes()).unwrap().is_some());
        let body = format!("0;{half}\r\n{half}y\r\n\r\n");
        assert_eq!(whole(body.as_bytes()), Err(ChunkedError::Skipped));
    }

    proptest! {
        #[test]
        fn any_split_decodes_alike(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
            pieces in prop::collection::vec(1usize..9, 1..20),
        ) {
            let mut coded = Vec::new();
            for chunk in &chunks {
                coded.extend_from_slice(format!("{:X}\r\n", chunk.len()).as_bytes());
                coded.extend_from_slice(chunk);
                coded.extend_from_slice(b"\r\n");
            }
            coded.extend_from_slice(b"0\r\nT: v\r\n\r\nbehind");
            let mut rest = &coded[..];
            let split = pieces.iter().cycle().map_while(|len| {
                let (piece, after) = rest.split_at(rest.len().min(*len));
                rest = after;
                (!piece.is_empty()).then_some(piece)
            });
            let decoded = decode(split.collect::<Vec<_>>()).unwrap().unwrap();
            prop_assert_eq!(decoded, (chunks.concat(), b"behind".to_vec()));
        }

        #[test]
        fn hostile_bytes_end_in_an_error_or_wait(input in "[0-3a;\r\n]{0,40}") {
            let alone = whole(input.as_bytes());
            let bytewise = decode(input.as_bytes().chunks(1));
            prop_assert_eq!(alone, bytewise);
        }
    }
}
