//! UTF-8 that arrives in pieces: one byte of state, failing on the first byte after which no
//! continuation could be valid.

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid UTF-8")]
pub struct InvalidUtf8;

/// The check of one text; lives as long as its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Utf8(Expect);

/// What may come next. The variants with a name of their own are the lead bytes whose first
/// continuation byte has a narrower range (Unicode 15 table 3-7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
enum Expect {
    #[default]
    Lead,
    OneMore,
    TwoMore,
    ThreeMore,
    AfterE0,
    AfterEd,
    AfterF0,
    AfterF4,
}

impl Utf8 {
    #[must_use]
    pub const fn new() -> Self {
        Self(Expect::Lead)
    }

    /// Checks the next piece.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), InvalidUtf8> {
        while self.0 != Expect::Lead {
            let Some((&byte, rest)) = bytes.split_first() else {
                return Ok(());
            };
            self.0 = self.0.after(byte)?;
            bytes = rest;
        }
        let Err(error) = std::str::from_utf8(bytes) else {
            return Ok(());
        };
        if error.error_len().is_some() {
            return Err(InvalidUtf8);
        }
        // The piece ends inside a sequence of at most four bytes.
        for &byte in &bytes[error.valid_up_to()..] {
            self.0 = self.0.after(byte)?;
        }
        Ok(())
    }

    /// The text is over: fails inside a sequence.
    pub fn finish(self) -> Result<(), InvalidUtf8> {
        if self.0 == Expect::Lead { Ok(()) } else { Err(InvalidUtf8) }
    }

    /// The state as one byte, for [`Self::from_byte`].
    pub(super) const fn to_byte(self) -> u8 {
        self.0 as u8
    }

    pub(super) const fn from_byte(byte: u8) -> Self {
        Self(match byte {
            1 => Expect::OneMore,
            2 => Expect::TwoMore,
            3 => Expect::ThreeMore,
            4 => Expect::AfterE0,
            5 => Expect::AfterEd,
            6 => Expect::AfterF0,
            7 => Expect::AfterF4,
            _ => Expect::Lead,
        })
    }
}

impl Expect {
    fn after(self, byte: u8) -> Result<Self, InvalidUtf8> {
        Ok(match (self, byte) {
            (Self::Lead, 0x00..=0x7F) | (Self::OneMore, 0x80..=0xBF) => Self::Lead,
            (Self::Lead, 0xC2..=0xDF)
            | (Self::TwoMore, 0x80..=0xBF)
            | (Self::AfterE0, 0xA0..=0xBF)
            | (Self::AfterEd, 0x80..=0x9F) => Self::OneMore,
            (Self::Lead, 0xE1..=0xEC | 0xEE..=0xEF)
            | (Self::ThreeMore, 0x80..=0xBF)
            | (Self::AfterF0, 0x90..=0xBF)
            | (Self::AfterF4, 0x80..=0x8F) => Self::TwoMore,
            (Self::Lead, 0xF1..=0xF3) => Self::ThreeMore,
            (Self::Lead, 0xE0) => Self::AfterE0,
            (Self::Lead, 0xED) => Self::AfterEd,
            (Self::Lead, 0xF0) => Self::AfterF0,
            (Self::Lead, 0xF4) => Self::AfterF4,
            _ => return Err(InvalidUtf8),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Index of the byte that is refused, feeding one byte at a time.
    fn refused_at(bytes: &[u8]) -> Option<usize> {
        let mut check = Utf8::new();
        bytes.iter().position(|byte| check.feed(&[*byte]).is_err())
    }

    #[test]
    fn the_first_byte_without_a_valid_continuation_is_refused() {
        for (bytes, at) in [
            (&[0xC0, 0x80][..], 0),         // overlong
            (&[0xC1], 0),                   // overlong
            (&[0xE0, 0x9F, 0x80], 1),       // overlong
            (&[0xF0, 0x8F, 0x80, 0x80], 1), // overlong
            (&[0xED, 0xA0, 0x80], 1),       // surrogate
            (&[0xF4, 0x90, 0x80, 0x80], 1), // > U+10FFFF
            (&[0xF5], 0),
            (&[b'a', 0x80], 1),
            (&[0xE2, 0x82, b'x'], 2),
        ] {
            assert_eq!(refused_at(bytes), Some(at), "{bytes:x?}");
            assert_eq!(Utf8::new().feed(&bytes[..=at]), Err(InvalidUtf8), "{bytes:x?}");
            assert_eq!(Utf8::new().feed(&bytes[..at]), Ok(()), "{bytes:x?}");
        }
    }

    #[test]
    fn a_text_that_ends_inside_a_sequence_is_refused() {
        let mut check = Utf8::new();
        assert_eq!(check.feed("a€".as_bytes().split_last().unwrap().1), Ok(()));
        assert_eq!(check.finish(), Err(InvalidUtf8));
        assert_eq!(check.feed(&"€".as_bytes()[2..]), Ok(()));
        assert_eq!(check.finish(), Ok(()));
    }

    #[test]
    fn every_state_survives_its_byte() {
        for lead in 0..=255u8 {
            let mut check = Utf8::new();
            if check.feed(&[lead]).is_ok() {
                assert_eq!(Utf8::from_byte(check.to_byte()), check);
            }
        }
    }

    /// Text with bytes near the borders of the ranges.
    fn nearly_text() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            8 => any::<char>().prop_map(|c| c.to_string().into_bytes()),
            4 => "[ -~]{1,40}".prop_map(String::into_bytes),
            1 => proptest::sample::select(vec![
                0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xED, 0xEF,
                0xF0, 0xF4, 0xF5, 0xFF_u8,
            ]).prop_map(|byte| vec![byte]),
        ];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn any_split_agrees_with_the_standard_library(
            bytes in nearly_text(),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let mut check = Utf8::new();
            let verdict = cuts
                .windows(2)
                .try_for_each(|cut| check.feed(&bytes[cut[0]..cut[1]]))
                .and_then(|()| check.finish());
            prop_assert_eq!(verdict.is_ok(), std::str::from_utf8(&bytes).is_ok());
        }

        #[test]
        fn the_refused_byte_is_the_one_the_standard_library_stops_at(bytes in nearly_text()) {
            let expected = std::str::from_utf8(&bytes).err().and_then(|error| {
                error.error_len().map(|len| {
                    // The standard library reports the longest prefix that could have been valid;
                    // the byte after it is the bad one, or the lead itself.
                    let lead_alone = Utf8::new().feed(&bytes[error.valid_up_to()..][..1]).is_err();
                    error.valid_up_to() + if lead_alone { 0 } else { len }
                })
            });
            prop_assert_eq!(refused_at(&bytes), expected);
        }
    }
}
