//! The shapes of single values: numbers, sizes, durations, words, paths, addresses.

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use uuid::Uuid;

use super::quantity::{parse_duration, parse_size, show_duration, show_size};
use super::secret::Secret;
use super::shape::{Mismatch, Raw, Shape};

/// A whole number from `.0` to `.1`.
pub(super) struct Count<T>(pub(super) T, pub(super) T);

impl<T: TryFrom<i64> + PartialOrd + Display + Copy> Shape for Count<T> {
    type Value = T;

    fn expects(&self) -> String {
        format!("a whole number from {} to {}", self.0, self.1)
    }

    fn accept(&self, raw: Raw<'_>) -> Option<T> {
        let value = T::try_from(raw.integer()?).ok()?;
        (self.0 <= value && value <= self.1).then_some(value)
    }
}

/// A power of two from `.0` to `.1`.
pub(super) struct PowerOfTwo(pub(super) usize, pub(super) usize);

impl Shape for PowerOfTwo {
    type Value = usize;

    fn expects(&self) -> String {
        format!("a power of two from {} to {}", self.0, self.1)
    }

    fn accept(&self, raw: Raw<'_>) -> Option<usize> {
        Count(self.0, self.1).accept(raw).filter(|value| value.is_power_of_two())
    }
}

/// A number of bytes from `.0` to `.1`, bare or with a unit.
pub(super) struct Size(pub(super) usize, pub(super) usize);

impl Shape for Size {
    type Value = usize;

    fn expects(&self) -> String {
        let [low, high] = [self.0, self.1].map(|bytes| show_size(bytes as u64));
        format!("a size from {low} to {high}, such as \"64KiB\"")
    }

    fn accept(&self, raw: Raw<'_>) -> Option<usize> {
        let bytes = match raw.integer() {
            Some(bytes) => usize::try_from(bytes).ok()?,
            None => usize::try_from(parse_size(raw.words()?)?).ok()?,
        };
        (self.0..=self.1).contains(&bytes).then_some(bytes)
    }
}

/// A duration with its unit, from `.0` to `.1`.
pub(super) struct Span(pub(super) Duration, pub(super) Duration);

impl Shape for Span {
    type Value = Duration;

    fn expects(&self) -> String {
        let [low, high] = [self.0, self.1].map(show_duration);
        format!("a duration with a unit from {low} to {high}, such as \"25s\" or \"20ms\"")
    }

    fn accept(&self, raw: Raw<'_>) -> Option<Duration> {
        parse_duration(raw.words()?).filter(|value| (self.0..=self.1).contains(value))
    }
}

/// A whole number of `unit`s from `low` to `high`, as the protocol's own keys are written.
pub(super) struct Whole {
    pub(super) unit: &'static str,
    pub(super) seconds: u64,
    pub(super) low: u64,
    pub(super) high: u64,
}

pub(super) const fn seconds(low: u64, high: u64) -> Whole {
    Whole { unit: "seconds", seconds: 1, low, high }
}

pub(super) const fn minutes(low: u64, high: u64) -> Whole {
    Whole { unit: "minutes", seconds: 60, low, high }
}

impl Shape for Whole {
    type Value = Duration;

    fn expects(&self) -> String {
        format!("a whole number of {} from {} to {}", self.unit, self.low, self.high)
    }

    fn accept(&self, raw: Raw<'_>) -> Option<Duration> {
        let count = Count(self.low, self.high).accept(raw)?;
        Some(Duration::from_secs(count * self.seconds))
    }
}

/// A part of a whole, exact to a millionth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    pub per_million: u32,
}

/// A [`Share`], written as a number from 0 to 1. One that is too small to be kept is refused, so
/// that what was meant as little does not become nothing.
pub(super) struct Ratio;

impl Shape for Ratio {
    type Value = Share;

    fn expects(&self) -> String {
        "a number from 0 to 1 with at most six decimals, such as 0.01".into()
    }

    fn accept(&self, raw: Raw<'_>) -> Option<Share> {
        const MILLION: f64 = 1e6;
        let share = raw.number().filter(|number| (0.0..=1.0).contains(number))? * MILLION;
        let whole = share.round();
        ((share - whole).abs() < 1e-6).then_some(Share { per_million: whole as u32 })
    }
}

pub(super) struct Flag;

impl Shape for Flag {
    type Value = bool;

    fn expects(&self) -> String {
        "true or false".into()
    }

    fn accept(&self, raw: Raw<'_>) -> Option<bool> {
        raw.boolean()
    }
}

/// One of a few words, in any case.
pub(super) struct Choice<T: 'static>(pub(super) &'static [(&'static str, T)]);

impl<T: Copy> Shape for Choice<T> {
    type Value = T;

    fn expects(&self) -> String {
        let words: Vec<_> = self.0.iter().map(|(word, _)| format!("{word:?}")).collect();
        format!("one of {}", words.join(", "))
    }

    fn accept(&self, raw: Raw<'_>) -> Option<T> {
        let text = raw.words()?;
        self.0.iter().find(|(word, _)| word.eq_ignore_ascii_case(text)).map(|(_, value)| *value)
    }
}

/// Text that is not empty and of one line.
pub(super) struct Text;

impl Shape for Text {
    type Value = String;

    fn expects(&self) -> String {
        "a text that is not empty".into()
    }

    fn accept(&self, raw: Raw<'_>) -> Option<String> {
        let text = raw.words()?;
        (!text.is_empty() && !text.contains(char::is_control)).then(|| text.to_owned())
    }
}

/// Letters, digits, `-`, `_` and `.`: what may stand before the colon of an endpoint key.
pub(super) struct Name;

impl Shape for Name {
    type Value = String;

    fn expects(&self) -> String {
        "a name of letters, digits, \"-\", \"_\" and \".\"".into()
    }

    fn accept(&self, raw: Raw<'_>) -> Option<String> {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let text = raw.words()?;
        (!text.is_empty() && text.len() <= 128 && text.chars().all(legal)).then(|| text.to_owned())
    }
}

/// An absolute URL path without query.
pub(super) struct UrlPath;

impl Shape for UrlPath {
    type Value = String;

    fn expects(&self) -> String {
        "a path that starts with \"/\", without blanks, \"?\" or \"#\"".into()
    }

    fn accept(&self, raw: Raw<'_>) -> Option<String> {
        let text = raw.words()?;
        let legal = |c: char| c.is_ascii_graphic() && !matches!(c, '?' | '#');
        (text.starts_with('/') && text.len() <= 1024 && text.chars().all(legal))
            .then(|| text.to_owned())
    }
}

/// A file; a relative path counts from the configuration file's folder.
pub(super) struct File;

impl Shape for File {
    type Value = PathBuf;

    fn expects(&self) -> String {
        "the path of a file".into()
    }

    fn accept(&self, raw: Raw<'_>) -> Option<PathBuf> {
        Text.accept(raw).map(PathBuf::from)
    }
}

/// A [`Secret`]; errors do not quote what was written.
pub(super) struct Hidden;

impl Shape for Hidden {
    type Value = Secret;

    fn expects(&self) -> String {
        "a text that is not empty".into()
    }

    fn accept(&self, raw: Raw<'_>) -> Option<Secret> {
        raw.words().filter(|text| !text.is_empty()).map(Secret::new)
    }

    fn parse(&self, raw: Raw<'_>) -> Result<Secret, Mismatch> {
        let hidden = || Mismatch { span: raw.span(), expected: self.expects(), found: None };
        self.accept(raw).ok_or_else(hidden)
    }

    fn is_secret(&self) -> bool {
        true
    }
}

/// A [`Secret`] that fits a header, or none.
pub(super) struct HiddenOrNone;

impl Shape for HiddenOrNone {
    type Value = Option<Secret>;

    fn expects(&self) -> String {
        "a text of printable ASCII without blanks, or an empty one for none".into()
    }

    fn accept(&self, raw: Raw<'_>) -> Option<Option<Secret>> {
        let text = raw.words().filter(|text| text.bytes().all(|byte| byte.is_ascii_graphic()))?;
        Some((!text.is_empty()).then(|| Secret::new(text)))
    }

    fn parse(&self, raw: Raw<'_>) -> Result<Option<Secret>, Mismatch> {
        let hidden = || Mismatch { span: raw.span(), expected: self.expects(), found: None };
        self.accept(raw).ok_or_else(hidden)
    }

    fn is_secret(&self) -> bool {
        true
    }
}

/// A UUID in any spelling.
pub(super) struct Id;

impl Shape for Id {
    type Value = Uuid;

    fn expects(&self) -> String {
        "a UUID".into()
    }

    fn accept(&self, raw: Raw<'_>) -> Option<Uuid> {
        raw.words()?.trim().parse().ok()
    }
}

/// An origin as a browser spells it (RFC 6454 section 6.2).
pub(super) struct Origin;

impl Shape for Origin {
    type Value = String;

    fn expects(&self) -> String {
        "an origin such as \"https://game.example\" or \"http://localhost:3000\", or \"null\""
            .into()
    }

    fn accept(&self, raw: Raw<'_>) -> Option<String> {
        let text = raw.words()?;
        let (scheme, host) = text.split_once("://").unwrap_or(("", ""));
        let of_scheme = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
        let of_host = |c: char| c.is_ascii_graphic() && !"/?#@*,".contains(c);
        let whole = !scheme.is_empty() && scheme.chars().all(of_scheme);
        let origin = whole && !host.is_empty() && host.chars().all(of_host);
        (origin || text == "null").then(|| text.to_ascii_lowercase())
    }
}

/// `address:port`, IPv6 in brackets.
pub(super) struct Socket;

impl Shape for Socket {
    type Value = SocketAddr;

    fn expects(&self) -> String {
        "an address with a port, such as \"127.0.0.1:8080\" or \"[::1]:8080\"".into()
    }

    fn accept(&self, raw: Raw<'_>) -> Option<SocketAddr> {
        raw.words()?.parse().ok()
    }
}
