//! One record of a session's events: read only as far as its name, or consumed.
//!
//! A client event is walked once, without building a tree, and its bytes go on as they are. Where
//! an object has a property twice the last one counts, as it does in the clients' parsers.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::names::{ClientEventNames, Internal, Treatment};
use super::order::{SessionOrder, Unusable};
use super::text::Text;
use super::{capabilities, shortcut};

/// What the record of one session means. Whether the record is that session's, is for the caller:
/// a session id in the JSON is not looked at.
pub fn read<'a>(record: &'a [u8], names: &ClientEventNames) -> Result<SessionOrder<'a>, Unusable> {
    let text = std::str::from_utf8(record).map_err(|_| Unusable::NotJson)?;
    let Event { json, name } = Event::find(text)?;
    let written = name.ok_or(Unusable::NoEventName)?;
    let Text(name) = serde_json::from_str(written.get()).map_err(|_| Unusable::NoEventName)?;
    let body = match names.treatment(&name) {
        Treatment::Forward => Cow::Borrowed(json.as_bytes()),
        Treatment::ForwardAs(canonical) => {
            Cow::Owned(respelled(json, range_within(json, written.get()), canonical))
        }
        Treatment::Consume(Internal::Capabilities) => {
            return capabilities::read(json).map(SessionOrder::Capabilities);
        }
        Treatment::Consume(Internal::ShortcutPublished) => {
            return shortcut::read(json).map(Box::new).map(SessionOrder::PublishShortcut);
        }
        Treatment::Consume(Internal::ShortcutRevoked) => {
            return shortcut::read_revocation(json).map(SessionOrder::RevokeShortcut);
        }
        Treatment::Refuse => return Err(Unusable::NotWhitelisted(shortened(&name))),
    };
    Ok(SessionOrder::Forward { body })
}

/// The event of a record, out of its envelope if it came in one.
struct Event<'a> {
    json: &'a str,
    /// As it is written, quotes included.
    name: Option<&'a RawValue>,
}

impl<'a> Event<'a> {
    fn find(record: &'a str) -> Result<Self, Unusable> {
        let outer = Properties::of(record)?;
        match outer.message.map(RawValue::get) {
            Some(json) if json.starts_with('{') => {
                Ok(Self { json, name: Properties::of(json)?.name })
            }
            _ => Ok(Self { json: record, name: outer.name }),
        }
    }
}

/// The two properties that decide about a record.
#[derive(Default)]
struct Properties<'a> {
    name: Option<&'a RawValue>,
    message: Option<&'a RawValue>,
}

impl<'a> Properties<'a> {
    fn of(json: &'a str) -> Result<Self, Unusable> {
        serde_json::from_str(json).map_err(|_| Unusable::NotJson)
    }
}

impl<'de> Deserialize<'de> for Properties<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(PropertiesVisitor)
    }
}

struct PropertiesVisitor;

impl<'de> Visitor<'de> for PropertiesVisitor {
    type Value = Properties<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut found = Properties::default();
        while let Some(key) = map.next_key()? {
            match key {
                Key::EventName => found.name = Some(map.next_value()?),
                Key::Message => found.message = Some(map.next_value()?),
                Key::Other => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(found)
    }
}

#[derive(Deserialize)]
#[serde(field_identifier)]
enum Key {
    #[serde(rename = "eventName")]
    EventName,
    #[serde(rename = "message")]
    Message,
    #[serde(other)]
    Other,
}

/// Where `part`, which lies within `whole`, stands in it.
fn range_within(whole: &str, part: &str) -> Range<usize> {
    let start = part.as_ptr().addr() - whole.as_ptr().addr();
    start..start + part.len()
}

/// `json` with the text `name` in the place of the value at `at`.
fn respelled(json: &str, at: Range<usize>, name: &str) -> Vec<u8> {
    let name = serde_json::Value::from(name).to_string();
    [&json[..at.start], &name, &json[at.end..]].concat().into_bytes()
}

fn shortened(name: &str) -> Box<str> {
    name[..name.floor_char_boundary(Unusable::NAME_BYTES_MAX)].into()
}

#[cfg(test)]
mod tests;
