//! Where the brokers of Kafka are, and settings that are passed on to librdkafka.

use std::fmt;

use toml::de::{DeTable, DeValue};

use super::shape::{Mismatch, Raw, Shape};
use super::upstream::parse_authority;
use crate::control::bus::kafka::{RESERVED, takes};

/// `host:port`.
pub(super) struct Address;

impl Shape for Address {
    type Value = String;

    fn expects(&self) -> String {
        "a host with a port, such as \"kafka-1.internal:9092\"".into()
    }

    fn accept(&self, raw: Raw<'_>) -> Option<String> {
        let text = raw.words()?;
        parse_authority(text).map(|_| text.to_owned())
    }
}

/// What may stand before the name of a topic; it may be nothing.
pub(super) struct Prefix;

impl Shape for Prefix {
    type Value = String;

    fn expects(&self) -> String {
        "at most 64 letters, digits, \".\", \"_\" and \"-\"".into()
    }

    fn accept(&self, raw: Raw<'_>) -> Option<String> {
        let text = raw.words()?;
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        (text.len() <= 64 && text.chars().all(legal)).then(|| text.to_owned())
    }
}

/// Names and values of settings, in the order of the names. Values may be secrets.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct PassedOn(Vec<(String, String)>);

impl PassedOn {
    #[must_use]
    pub fn settings(&self) -> &[(String, String)] {
        &self.0
    }
}

impl fmt::Debug for PassedOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// [`PassedOn`]: a table, or `name=value` parts of a text.
pub(super) struct Settings;

impl Shape for Settings {
    type Value = PassedOn;

    fn expects(&self) -> String {
        "a table of settings of librdkafka".into()
    }

    fn accept(&self, raw: Raw<'_>) -> Option<PassedOn> {
        self.parse(raw).ok()
    }

    /// Names what is wrong, never its value.
    fn parse(&self, raw: Raw<'_>) -> Result<PassedOn, Mismatch> {
        let odd = |found: String| Mismatch {
            span: raw.span(),
            expected: self.expects(),
            found: Some(found),
        };
        let mut settings = Vec::new();
        match raw {
            Raw::Text("{}") => {}
            Raw::Text(text) => {
                for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
                    let (name, value) = part.split_once('=').ok_or_else(|| {
                        odd("a part without \"=\", which stands between name and value".into())
                    })?;
                    settings.push((name.trim().to_owned(), value.trim().to_owned()));
                }
            }
            Raw::Toml(value) => {
                let table = value.get_ref().as_table().ok_or_else(|| odd(raw.shown()))?;
                flatten("", table, &mut settings).map_err(odd)?;
            }
        }
        settings.sort();
        for (name, value) in &settings {
            if RESERVED.contains(&name.as_str()) {
                return Err(odd(format!("`{name}`, which the gateway sets itself")));
            }
            if !takes(name, value) {
                return Err(odd(format!(
                    "`{name}`, a name or a value that librdkafka does not know"
                )));
            }
        }
        if let Some(pair) = settings.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(odd(format!("`{}` twice", pair[0].0)));
        }
        Ok(PassedOn(settings))
    }

    fn is_secret(&self) -> bool {
        true
    }
}

/// `sasl.username = ..` without quotes is a table in a table.
fn flatten(
    path: &str,
    table: &DeTable<'_>,
    settings: &mut Vec<(String, String)>,
) -> Result<(), String> {
    for (name, value) in table {
        let name = format!("{path}{}", name.get_ref());
        match value.get_ref() {
            DeValue::Table(table) => flatten(&format!("{name}."), table, settings)?,
            DeValue::String(text) => settings.push((name, text.to_string())),
            DeValue::Boolean(boolean) => settings.push((name, boolean.to_string())),
            _ => match Raw::Toml(value).integer() {
                Some(number) => settings.push((name, number.to_string())),
                None => return Err(format!("`{name}`, which is no text, number, true or false")),
            },
        }
    }
    Ok(())
}
