//! An instance id as its text, for `#[serde(with)]`.

use serde::de::Error as _;
use serde::{Deserialize as _, Deserializer, Serializer};
use uuid::Uuid;

pub(super) fn serialize<S: Serializer>(id: &Uuid, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&id.hyphenated())
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Uuid, D::Error> {
    Uuid::parse_str(&String::deserialize(from)?).map_err(D::Error::custom)
}
