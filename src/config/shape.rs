//! Shapes of values: what a key accepts, in words for people and as a parser for TOML and for the
//! text of a variable or flag.

use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::quantity::{parse_duration, parse_size, show_duration, show_size};
use super::secret::Secret;

/// A value as it was written.
#[derive(Debug, Clone, Copy)]
pub(super) enum Raw<'a> {
    /// From a variable or a flag.
    Text(&'a str),
    Toml(&'a Spanned<DeValue<'a>>),
}

impl<'a> Raw<'a> {
    pub(super) fn words(self) -> Option<&'a str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Toml(value) => value.get_ref().as_str(),
        }
    }

    fn integer(self) -> Option<i64> {
        match self {
            Self::Text(text) => text.trim().parse().ok(),
            Self::Toml(value) => {
                let integer = value.get_ref().as_integer()?;
                i64::from_str_radix(integer.as_str(), integer.radix()).ok()
            }
        }
    }

    fn boolean(self) -> Option<bool> {
        match self {
            Self::Text(text) => text.trim().to_ascii_lowercase().parse().ok(),
            Self::Toml(value) => value.get_ref().as_bool(),
        }
    }

    /// The elements of a list: a TOML array, or the comma-separated parts of a text.
    pub(super) fn items(self) -> Option<Vec<Self>> {
        match self {
            Self::Text(text) if text.trim().is_empty() => Some(Vec::new()),
            Self::Text(text) => Some(
                text.split(',')
                    .map(|part| Self::Text(part.trim()))
                    .collect(),
            ),
            Self::Toml(value) => Some(value.get_ref().as_array()?.iter().map(Self::Toml).collect()),
        }
    }

    pub(super) fn span(self) -> Option<Range<usize>> {
        match self {
            Self::Text(_) => None,
            Self::Toml(value) => Some(value.span()),
        }
    }

    /// The value as an error shows it; long or structured ones only by their type.
    pub(super) fn shown(self) -> String {
        match self {
            Self::Text(text) => format!("{text:?}"),
            Self::Toml(value) => match value.get_ref() {
                DeValue::String(text) if text.len() <= 80 => format!("{text:?}"),
                DeValue::Integer(integer) => integer.to_string(),
                DeValue::Float(float) => float.as_str().to_owned(),
                DeValue::Boolean(boolean) => boolean.to_string(),
                other => format!("a value of type {}", other.type_str()),
            },
        }
    }
}

/// A value that does not have its shape; never carries the text of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mismatch {
    /// Where the offending part stands, if it came from the file.
    pub span: Option<Range<usize>>,
    pub expected: String,
    pub found: Option<String>,
}

impl Mismatch {
    fn new(shape: &impl Shape, raw: Raw<'_>) -> Self {
        Self {
            span: raw.span(),
            expected: shape.expects(),
            found: Some(raw.shown()),
        }
    }
}

pub(super) trait Shape: Sized {
    type Value;

    /// Completes "expected …".
    fn expects(&self) -> String;

    fn accept(&self, raw: Raw<'_>) -> Option<Self::Value>;

    fn parse(&self, raw: Raw<'_>) -> Result<Self::Value, Mismatch> {
        self.accept(raw).ok_or_else(|| Mismatch::new(self, raw))
    }
}

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
        Count(self.0, self.1)
            .accept(raw)
            .filter(|value| value.is_power_of_two())
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
    Whole {
        unit: "seconds",
        seconds: 1,
        low,
        high,
    }
}

pub(super) const fn minutes(low: u64, high: u64) -> Whole {
    Whole {
        unit: "minutes",
        seconds: 60,
        low,
        high,
    }
}

impl Shape for Whole {
    type Value = Duration;

    fn expects(&self) -> String {
        format!(
            "a whole number of {} from {} to {}",
            self.unit, self.low, self.high
        )
    }

    fn accept(&self, raw: Raw<'_>) -> Option<Duration> {
        let count = Count(self.low, self.high).accept(raw)?;
        Some(Duration::from_secs(count * self.seconds))
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
        self.0
            .iter()
            .find(|(word, _)| word.eq_ignore_ascii_case(text))
            .map(|(_, value)| *value)
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
        let hidden = || Mismatch {
            span: raw.span(),
            expected: self.expects(),
            found: None,
        };
        self.accept(raw).ok_or_else(hidden)
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

/// A list of at least `min` different elements.
pub(super) struct ListOf<S> {
    pub(super) of: S,
    pub(super) min: usize,
}

pub(super) const fn list<S>(of: S) -> ListOf<S> {
    ListOf { of, min: 0 }
}

pub(super) const fn some<S>(of: S) -> ListOf<S> {
    ListOf { of, min: 1 }
}

impl<S: Shape<Value: PartialEq>> Shape for ListOf<S> {
    type Value = Vec<S::Value>;

    fn expects(&self) -> String {
        let least = if self.min == 0 {
            "a list"
        } else {
            "a list, not empty,"
        };
        format!("{least} without repeats, each {}", self.of.expects())
    }

    fn accept(&self, raw: Raw<'_>) -> Option<Self::Value> {
        self.parse(raw).ok()
    }

    fn parse(&self, raw: Raw<'_>) -> Result<Self::Value, Mismatch> {
        let items = raw.items().ok_or_else(|| Mismatch::new(self, raw))?;
        let mut values = Vec::with_capacity(items.len());
        for item in items {
            let value = self.of.parse(item)?;
            if values.contains(&value) {
                return Err(Mismatch {
                    span: item.span(),
                    ..Mismatch::new(self, item)
                });
            }
            values.push(value);
        }
        if values.len() < self.min {
            Err(Mismatch::new(self, raw))
        } else {
            Ok(values)
        }
    }
}

/// A fixed value, or what follows from the rest of the configuration or from the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auto<T> {
    Auto,
    Fixed(T),
}

impl<T> Auto<T> {
    pub fn unwrap_or_else(self, derive: impl FnOnce() -> T) -> T {
        match self {
            Self::Auto => derive(),
            Self::Fixed(value) => value,
        }
    }
}

/// The word `auto`, or a value.
pub(super) struct AutoOr<S>(pub(super) S);

impl<S: Shape> Shape for AutoOr<S> {
    type Value = Auto<S::Value>;

    fn expects(&self) -> String {
        format!("\"auto\" or {}", self.0.expects())
    }

    fn accept(&self, raw: Raw<'_>) -> Option<Self::Value> {
        match raw.words() {
            Some(word) if word.eq_ignore_ascii_case("auto") => Some(Auto::Auto),
            _ => self.0.accept(raw).map(Auto::Fixed),
        }
    }
}

/// The word `off`, or a value.
pub(super) struct OffOr<S>(pub(super) S);

impl<S: Shape> Shape for OffOr<S> {
    type Value = Option<S::Value>;

    fn expects(&self) -> String {
        format!("\"off\" or {}", self.0.expects())
    }

    fn accept(&self, raw: Raw<'_>) -> Option<Self::Value> {
        match raw.words() {
            Some(word) if word.eq_ignore_ascii_case("off") => Some(None),
            _ => self.0.accept(raw).map(Some),
        }
    }
}
