//! Time stamps as events carry them: ISO 8601 in JSON, Unix milliseconds inside.

use corelane_shard::session::json::timestamp;
use serde::{Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A moment, in milliseconds since the Unix epoch. In JSON: `2026-03-02T14:56:21.123+00:00`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The last millisecond of the year 9999.
    const LAST: Self = Self(253_402_300_799_999);

    /// Reads ISO 8601 in the form of RFC 3339, down to the millisecond below. A time without an
    /// offset is taken as UTC, one before 1970 as 1970. One that is past the year 9999 only in UTC is
    /// none: it could not be written again.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let moment = OffsetDateTime::parse(text, &Rfc3339)
            .or_else(|_| OffsetDateTime::parse(&format!("{text}Z"), &Rfc3339))
            .ok()?;
        let ms = moment.unix_timestamp_nanos() / 1_000_000;
        let moment = Self(u64::try_from(ms).unwrap_or(0));
        (moment <= Self::LAST).then_some(moment)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes = timestamp(self.0);
        serializer.serialize_str(std::str::from_utf8(&bytes).map_err(serde::ser::Error::custom)?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_forms_that_services_write_are_read() {
        let forms = [
            ("2026-03-02T14:56:21+00:00", 1_772_463_381_000),
            ("2026-03-02T14:56:21.1234567+00:00", 1_772_463_381_123),
            ("2026-03-02T14:56:21.9999999Z", 1_772_463_381_999),
            ("2026-03-02T16:56:21.1+02:00", 1_772_463_381_100),
            ("2026-03-02T14:56:21.123", 1_772_463_381_123),
            ("1969-12-31T23:59:59Z", 0),
        ];
        for (text, unix_ms) in forms {
            assert_eq!(Timestamp::parse(text), Some(Timestamp(unix_ms)), "{text}");
        }
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        let bad = [
            "",
            "soon",
            "2026-03-02",
            "2026-13-02T14:56:21Z",
            "2026-03-02T14:56:21+25:00",
            "1772",
            "9999-12-31T23:59:59-00:01",
        ];
        for text in bad {
            assert_eq!(Timestamp::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_written_moment_is_read_back(unix_ms in 0..253_402_300_800_000_u64) {
            let json = serde_json::to_string(&Timestamp(unix_ms)).unwrap();
            let text: String = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(Timestamp::parse(&text), Some(Timestamp(unix_ms)));
        }
    }
}
