//! Durations and sizes as people write them: `25s`, `20ms`, `64KiB`.

use std::time::Duration;

const TIME_UNITS: [(&str, u64); 6] = [
    ("us", 1),
    ("ms", 1_000),
    ("s", 1_000_000),
    ("m", 60_000_000),
    ("h", 3_600_000_000),
    ("d", 86_400_000_000),
];

const SIZE_UNITS: [(&str, u64); 7] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
];

/// A whole number with one unit of `us`, `ms`, `s`, `m`, `h`, `d`.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    scaled(number, unit, &TIME_UNITS).map(Duration::from_micros)
}

/// The shortest exact spelling, which [`parse_duration`] reads back.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    shortest(micros, &TIME_UNITS, "0s")
}

/// A whole number of bytes, bare or with one unit of `B`, `KiB`, `MiB`, `GiB`, `kB`, `MB`, `GB`.
#[must_use]
pub fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    if unit.is_empty() { number.parse().ok() } else { scaled(number, unit, &SIZE_UNITS) }
}

/// The largest binary unit that is exact, which [`parse_size`] reads back.
#[must_use]
pub fn show_size(bytes: u64) -> String {
    shortest(bytes, &SIZE_UNITS[..4], "0B")
}

fn split(text: &str) -> Option<(&str, &str)> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    (digits > 0).then(|| (&text[..digits], text[digits..].trim_start()))
}

fn scaled(number: &str, unit: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

fn shortest(value: u64, units: &[(&str, u64)], zero: &str) -> String {
    units
        .iter()
        .rev()
        .find(|(_, factor)| value != 0 && value.is_multiple_of(*factor))
        .map_or_else(|| zero.to_owned(), |(unit, factor)| format!("{}{unit}", value / factor))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn units_scale_and_blanks_are_forgiven() {
        assert_eq!(parse_duration("25s"), Some(Duration::from_secs(25)));
        assert_eq!(parse_duration(" 20 ms "), Some(Duration::from_millis(20)));
        assert_eq!(parse_size("64KiB"), Some(65_536));
        assert_eq!(parse_size("1 MB"), Some(1_000_000));
        assert_eq!(parse_size("512"), Some(512));
    }

    #[test]
    fn what_has_no_unit_or_an_unknown_one_or_overflows_is_refused() {
        for text in ["25", "s", "", "-1s", "1.5s", "3 weeks", "99999999999999999999s"] {
            assert_eq!(parse_duration(text), None, "{text:?}");
        }
        for text in ["KiB", "", "-1", "64kb", "18446744073709551615GiB"] {
            assert_eq!(parse_size(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(micros in 0..u64::MAX / 2, bytes: u64) {
            let duration = Duration::from_micros(micros);
            prop_assert_eq!(parse_duration(&show_duration(duration)), Some(duration));
            prop_assert_eq!(parse_size(&show_size(bytes)), Some(bytes));
        }
    }
}
