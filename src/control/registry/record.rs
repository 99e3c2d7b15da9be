//! What a node says of itself in the registry, as all gateways of the protocol write it (§10.2).

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use crate::config::NodeUrl;
use crate::control::hyphenated;
use crate::control::nodes::BroadcastMode;

/// One node. The order of the fields is that of its text, which is what the registry compares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct NodeRecord {
    #[serde(rename = "InstanceId", with = "hyphenated")]
    pub instance: Uuid,
    /// Where others reach it.
    #[serde(rename = "InternalUrl", serialize_with = "show_url", deserialize_with = "read_url")]
    pub url: NodeUrl,
    #[serde(rename = "BroadcastMode")]
    pub broadcast: BroadcastMode,
}

impl NodeRecord {
    pub(super) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("texts are JSON")
    }

    /// `None` for what cannot be dialled from here.
    pub(super) fn read(json: &str) -> Option<Self> {
        serde_json::from_str(json).ok()
    }
}

fn show_url<S: Serializer>(url: &NodeUrl, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(url)
}

fn read_url<'de, D: Deserializer<'de>>(from: D) -> Result<NodeUrl, D::Error> {
    let text = String::deserialize(from)?;
    NodeUrl::parse(&text).ok_or_else(|| serde::de::Error::custom("no ws:// URL"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The protocol's example.
    const RECORD: &str = r#"{"InstanceId":"c0ffee00-1234-4abc-8def-00112233aabb","InternalUrl":"ws://node-a:5012/connect/broadcast","BroadcastMode":"Both"}"#;

    #[test]
    fn a_record_is_written_and_read_as_the_protocol_has_it() {
        let record = NodeRecord {
            instance: Uuid::from_u128(0xC0FF_EE00_1234_4ABC_8DEF_0011_2233_AABB),
            url: NodeUrl::parse("ws://node-a:5012").unwrap(),
            broadcast: BroadcastMode::Both,
        };
        assert_eq!(record.to_json(), RECORD);
        assert_eq!(NodeRecord::read(RECORD), Some(record.clone()));
        let more = RECORD.replace('}', r#","Extra":null}"#);
        assert_eq!(NodeRecord::read(&more), Some(record));
    }

    #[test]
    fn what_names_nobody_who_can_be_dialled_is_passed_over() {
        for text in [
            "",
            "7",
            "{}",
            &RECORD.replace("ws:", "wss:"),
            &RECORD.replace("Both", "Neither"),
            &RECORD.replace("c0ffee", "coffee"),
        ] {
            assert_eq!(NodeRecord::read(text), None, "{text}");
        }
    }
}
