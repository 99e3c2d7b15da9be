//! `connect.event-gap`: how a client hears that events of its session are lost. (The gateway's other
//! events are written by the shards, which know what is in them.)

use corelane_shard::snapshot::Spelling;
use serde::Serialize;
use uuid::Uuid;

use super::outbound::{text, to_json};
use super::{NameDialect, Timestamp};

/// What every event has. A client that knows both names of an event recognises the second of them
/// by the id.
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    pub event_id: Uuid,
    pub timestamp: Timestamp,
}

/// Events of this session are gone for good; sent before the live ones.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EventGap {
    pub reason: GapReason,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missed_at_least: Option<u64>,
    /// When the first of them may have been published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Timestamp>,
    /// When the last of them may have been published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GapReason {
    /// The bus has deleted them before they could be delivered.
    Retention,
    /// More waited than are kept.
    Overflow,
    /// It is not known up to where the session had them.
    NoCursor,
}

impl EventGap {
    /// The payloads of the one or two events to send.
    pub fn events(self, dialect: NameDialect, stamp: Stamp) -> impl Iterator<Item = Vec<u8>> {
        dialect.spellings().iter().map(move |spelling| {
            let event_name = match spelling {
                Spelling::Hyphen => "connect.event-gap",
                Spelling::Underscore => "connect.event_gap",
            };
            let Stamp { event_id, timestamp } = stamp;
            to_json(&Stamped { event_name, event_id, timestamp, gap: self })
        })
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Stamped {
    event_name: &'static str,
    #[serde(serialize_with = "text")]
    event_id: Uuid,
    timestamp: Timestamp,
    #[serde(flatten)]
    gap: EventGap,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp() -> Stamp {
        Stamp {
            event_id: "5a1d3c1e-0f5f-4c1e-9a3f-4b0d7f2f6a01".parse().unwrap(),
            timestamp: Timestamp(1_772_463_381_123),
        }
    }

    fn texts(bodies: impl Iterator<Item = Vec<u8>>) -> Vec<String> {
        bodies.map(|body| String::from_utf8(body).unwrap()).collect()
    }

    #[test]
    fn a_gap_says_what_is_known_about_it() {
        let mut gap =
            EventGap { reason: GapReason::NoCursor, missed_at_least: None, from: None, to: None };
        assert_eq!(
            texts(gap.events(NameDialect::Underscore, stamp())),
            [
                r#"{"eventName":"connect.event_gap","eventId":"5a1d3c1e-0f5f-4c1e-9a3f-4b0d7f2f6a01","timestamp":"2026-03-02T14:56:21.123+00:00","reason":"no_cursor"}"#
            ]
        );
        gap.reason = GapReason::Overflow;
        gap.missed_at_least = Some(12);
        gap.from = Some(Timestamp(0));
        gap.to = Some(Timestamp(1));
        assert_eq!(
            texts(gap.events(NameDialect::Hyphen, stamp())),
            [
                r#"{"eventName":"connect.event-gap","eventId":"5a1d3c1e-0f5f-4c1e-9a3f-4b0d7f2f6a01","timestamp":"2026-03-02T14:56:21.123+00:00","reason":"overflow","missedAtLeast":12,"from":"1970-01-01T00:00:00.000+00:00","to":"1970-01-01T00:00:00.001+00:00"}"#
            ]
        );
        assert_eq!(to_json(&GapReason::Retention), br#""retention""#);
    }
}
