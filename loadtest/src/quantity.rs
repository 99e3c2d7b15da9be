//! How numbers with their units are written for people: three significant digits, in the unit that
//! fits. Values stay exact in `json`.

use crate::outcome::metrics::Dimension;
use crate::scenario::Bound;

/// `412 µs`, `1.73 ms`, `12.0 s`
pub(crate) fn microseconds(us: f64) -> String {
    match us.abs() {
        0.0 => "0 µs".to_owned(),
        size if size < 0.9995 => format!("{} ns", significant(us * 1e3)),
        size if size < 999.5 => format!("{} µs", significant(us)),
        size if size < 999_500.0 => format!("{} ms", significant(us / 1e3)),
        _ => format!("{} s", significant(us / 1e6)),
    }
}

pub(crate) fn seconds(seconds: f64) -> String {
    microseconds(seconds * 1e6)
}

/// `12.3 B`, `4.00 KiB`
pub(crate) fn bytes(count: f64) -> String {
    match count.abs() {
        size if size < 1000.0 => format!("{} B", significant(count)),
        size if size < 1000.0 * 1024.0 => format!("{} KiB", significant(count / 1024.0)),
        size if size < 1e3 * 1024.0 * 1024.0 => {
            format!("{} MiB", significant(count / 1024.0_f64.powi(2)))
        }
        _ => format!("{} GiB", significant(count / 1024.0_f64.powi(3))),
    }
}

pub(crate) fn per_second(rate: f64) -> String {
    if rate.abs() < 1000.0 {
        return format!("{}/s", significant(rate));
    }
    format!("{}/s", count(rate.round() as u64))
}

/// With thin spaces between groups of three digits.
pub(crate) fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut grouped = String::with_capacity(digits.len() * 2);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push('\u{202f}');
        }
        grouped.push(digit);
    }
    grouped
}

/// `12.3 %`
pub(crate) fn share(part: f64) -> String {
    format!("{} %", significant(part * 100.0))
}

pub(crate) fn in_dimension(value: f64, dimension: Dimension) -> String {
    match dimension {
        Dimension::Microseconds => microseconds(value),
        Dimension::PerSecond => per_second(value),
        Dimension::Count => count(value.max(0.0).round() as u64),
        Dimension::Bytes => bytes(value),
    }
}

/// `at most 5.00 ms`
pub(crate) fn bound(bound: Bound, dimension: Dimension) -> String {
    match bound {
        Bound::AtMost(limit) => format!("at most {}", in_dimension(limit, dimension)),
        Bound::AtLeast(limit) => format!("at least {}", in_dimension(limit, dimension)),
    }
}

fn significant(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size < 9.995 => format!("{value:.2}"),
        size if size < 99.95 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_change_their_unit_where_three_digits_end() {
        let written = [0.0, 0.25, 1.0, 41.26, 999.4, 999.6, 12_345.0, 999_600.0, 61e6];
        assert_eq!(
            written.map(microseconds),
            [
                "0 µs", "250 ns", "1.00 µs", "41.3 µs", "999 µs", "1.00 ms", "12.3 ms", "1.00 s",
                "61.0 s"
            ]
        );
    }

    #[test]
    fn counts_are_grouped_from_the_right() {
        assert_eq!(count(7), "7");
        assert_eq!(count(1000), "1\u{202f}000");
        assert_eq!(count(12_345_678), "12\u{202f}345\u{202f}678");
    }

    #[test]
    fn memory_is_in_binary_units() {
        assert_eq!(bytes(512.0), "512 B");
        assert_eq!(bytes(4096.0), "4.00 KiB");
        assert_eq!(bytes(3.5 * 1024.0 * 1024.0), "3.50 MiB");
    }
}
