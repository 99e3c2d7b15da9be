//! The little JSON that the gateway writes itself: strings and time stamps, appended to a buffer.
//! Nothing here reads JSON.

/// Appends `text` as a JSON string, quotes included (RFC 8259 §7). UTF-8 passes as it is.
pub(crate) fn push_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut plain = 0;
    for (at, byte) in bytes.iter().enumerate() {
        let short = match byte {
            b'"' => b'"',
            b'\\' => b'\\',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0..0x20 => b'u',
            _ => continue,
        };
        out.extend_from_slice(&bytes[plain..at]);
        out.extend_from_slice(&[b'\\', short]);
        if short == b'u' {
            let [high, low] = [byte >> 4, byte & 0xF].map(|digit| HEX[usize::from(digit)]);
            out.extend_from_slice(&[b'0', b'0', high, low]);
        }
        plain = at + 1;
    }
    out.extend_from_slice(&bytes[plain..]);
    out.push(b'"');
}

/// `2026-03-02T14:56:21.123+00:00`. Years after 9999 are written as 9999.
#[must_use]
pub fn timestamp(unix_ms: u64) -> [u8; 29] {
    let unix_ms = unix_ms.min(LAST_MS);
    let (days, ms) = (unix_ms / MS_PER_DAY, unix_ms % MS_PER_DAY);
    let (year, month, day) = civil(days);
    let mut text = *b"0000-00-00T00:00:00.000+00:00";
    put_digits(&mut text[0..4], year);
    put_digits(&mut text[5..7], month);
    put_digits(&mut text[8..10], day);
    put_digits(&mut text[11..13], ms / 3_600_000);
    put_digits(&mut text[14..16], ms / 60_000 % 60);
    put_digits(&mut text[17..19], ms / 1000 % 60);
    put_digits(&mut text[20..23], ms % 1000);
    text
}

/// Year, month and day of a day since 1970-01-01 in the Gregorian calendar.
///
/// Years are counted from March, so that the leap day is the last of its year: then day `n` of
/// the year lies in month `(5n + 2) / 153`, the months being 31, 30, 31, 30, 31 days in turn.
fn civil(days_since_epoch: u64) -> (u64, u64, u64) {
    let days = days_since_epoch + DAYS_FROM_MARCH_0_TO_EPOCH;
    let (era, day_of_era) = (days / DAYS_PER_ERA, days % DAYS_PER_ERA);
    let leap_days = day_of_era / (DAYS_PER_4_YEARS - 1);
    let century_days = day_of_era / DAYS_PER_CENTURY;
    let year_of_era =
        (day_of_era - leap_days + century_days - day_of_era / (DAYS_PER_ERA - 1)) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let (month, next_year) = match month_from_march {
        0..10 => (month_from_march + 3, 0),
        _ => (month_from_march - 9, 1),
    };
    (400 * era + year_of_era + next_year, month, day)
}

/// Fills `place` with the decimal digits of `value`, zeros in front.
fn put_digits(place: &mut [u8], mut value: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

const MS_PER_DAY: u64 = 86_400_000;
const DAYS_PER_ERA: u64 = 146_097;
const DAYS_PER_CENTURY: u64 = 36_524;
const DAYS_PER_4_YEARS: u64 = 1461;
/// From 0000-03-01 to 1970-01-01.
const DAYS_FROM_MARCH_0_TO_EPOCH: u64 = 719_468;
/// 9999-12-31T23:59:59.999.
const LAST_MS: u64 = 253_402_300_799_999;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stamp(unix_ms: u64) -> String {
        String::from_utf8(timestamp(unix_ms).to_vec()).unwrap()
    }

    #[test]
    fn known_moments_are_written_right() {
        let known = [
            (0, "1970-01-01T00:00:00.000+00:00"),
            (951_782_400_000, "2000-02-29T00:00:00.000+00:00"),
            (1_772_463_381_123, "2026-03-02T14:56:21.123+00:00"),
            (1_798_761_599_999, "2026-12-31T23:59:59.999+00:00"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000+00:00"),
            (LAST_MS, "9999-12-31T23:59:59.999+00:00"),
            (u64::MAX, "9999-12-31T23:59:59.999+00:00"),
        ];
        for (unix_ms, text) in known {
            assert_eq!(stamp(unix_ms), text);
        }
    }

    #[test]
    fn every_day_of_a_thousand_years_follows_the_one_before() {
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for n in 0..365_250 {
            assert_eq!(civil(n), (year, month, day));
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let last = match month {
                2 if leap => 29,
                2 => 28,
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            (day, month) = if day < last { (day + 1, month) } else { (1, month + 1) };
            if month == 13 {
                (year, month) = (year + 1, 1);
            }
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_back_by_a_json_parser(text in any::<String>()) {
            let mut out = Vec::new();
            push_string(&mut out, &text);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }

        #[test]
        fn control_characters_are_escaped(text in "[\\x00-\\x20\"\\\\/é]{0,40}") {
            let mut out = Vec::new();
            push_string(&mut out, &text);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }
    }
}
