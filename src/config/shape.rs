//! What a shape of values is: a description for people, and a parser for TOML and for the text of a
//! variable or flag. Here are the shapes made of others; single values are in `scalar`.

use std::ops::Range;

use toml::Spanned;
use toml::de::DeValue;

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

    pub(super) fn integer(self) -> Option<i64> {
        match self {
            Self::Text(text) => text.trim().parse().ok(),
            Self::Toml(value) => {
                let integer = value.get_ref().as_integer()?;
                i64::from_str_radix(integer.as_str(), integer.radix()).ok()
            }
        }
    }

    pub(super) fn number(self) -> Option<f64> {
        match self {
            Self::Text(text) => text.trim().parse().ok(),
            Self::Toml(value) => match value.get_ref() {
                DeValue::Float(float) => float.as_str().parse().ok(),
                _ => self.integer().map(|integer| integer as f64),
            },
        }
    }

    pub(super) fn boolean(self) -> Option<bool> {
        match self {
            Self::Text(text) => text.trim().to_ascii_lowercase().parse().ok(),
            Self::Toml(value) => value.get_ref().as_bool(),
        }
    }

    /// The elements of a list: a TOML array, or the comma-separated parts of a text.
    pub(super) fn items(self) -> Option<Vec<Self>> {
        match self {
            Self::Text(text) if text.trim().is_empty() => Some(Vec::new()),
            Self::Text(text) => Some(text.split(',').map(|part| Self::Text(part.trim())).collect()),
            Self::Toml(value) => Some(value.get_ref().as_array()?.iter().map(Self::Toml).collect()),
        }
    }

    /// The value in JSON, whole.
    pub(super) fn json(self) -> serde_json::Value {
        match self {
            Self::Text(text) => text.into(),
            Self::Toml(value) => match value.get_ref() {
                DeValue::String(text) => (&**text).into(),
                DeValue::Boolean(boolean) => (*boolean).into(),
                DeValue::Array(items) => items.iter().map(|item| Self::Toml(item).json()).collect(),
                _ => self.integer().map_or_else(|| self.shown().into(), Into::into),
            },
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
        Self { span: raw.span(), expected: shape.expects(), found: Some(raw.shown()) }
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

    /// Whether nobody may be shown what was written.
    fn is_secret(&self) -> bool {
        false
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
        let least = if self.min == 0 { "a list" } else { "a list, not empty," };
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
                return Err(Mismatch { span: item.span(), ..Mismatch::new(self, item) });
            }
            values.push(value);
        }
        if values.len() < self.min { Err(Mismatch::new(self, raw)) } else { Ok(values) }
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
