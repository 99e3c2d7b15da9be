//! The JSON of the gateway's own events to clients, under the names of the dialect. (The manifest
//! is written by the shard, which knows what is in it.)

use serde::Serialize;
use uuid::Uuid;

use super::Timestamp;
use super::dialect::{NameDialect, OwnEvent};
use super::outbound::{DisconnectReason, text, to_json};

/// What every event has. A client that knows both names of an event recognises the second of them
/// by the id.
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    pub event_id: Uuid,
    pub timestamp: Timestamp,
}

/// How the client may resume its session from now on, right after the manifest.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionToken<'a> {
    pub token: &'a str,
    /// For so long after the connection's end the token is good.
    pub window_seconds: u64,
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

/// The connection is about to be closed.
#[derive(Debug, Clone, Copy)]
pub struct DisconnectNotification<'a> {
    /// `None`: the session is over.
    pub resume: Option<Resume<'a>>,
    pub reason: DisconnectReason,
}

#[derive(Debug, Clone, Copy)]
pub struct Resume<'a> {
    pub token: &'a str,
    pub expires: Timestamp,
}

impl SessionToken<'_> {
    /// The payloads of the one or two events to send.
    pub fn events(self, dialect: NameDialect, stamp: Stamp) -> impl Iterator<Item = Vec<u8>> {
        events(OwnEvent::SessionToken, dialect, stamp, self)
    }
}

impl EventGap {
    /// The payloads of the one or two events to send.
    pub fn events(self, dialect: NameDialect, stamp: Stamp) -> impl Iterator<Item = Vec<u8>> {
        events(OwnEvent::EventGap, dialect, stamp, self)
    }
}

impl<'a> DisconnectNotification<'a> {
    /// The payloads of the one or two events to send.
    pub fn events(self, dialect: NameDialect, stamp: Stamp) -> impl Iterator<Item = Vec<u8>> {
        events(OwnEvent::DisconnectNotification, dialect, stamp, self.written())
    }

    /// The one or two text messages to send: the older form, without header, id and time.
    pub fn texts(self, dialect: NameDialect) -> impl Iterator<Item = Vec<u8>> {
        let names = OwnEvent::DisconnectNotification.names(dialect).iter();
        names.map(move |name| to_json(&Unstamped { event_name: name, rest: self.written() }))
    }

    fn written(self) -> WrittenNotification<'a> {
        WrittenNotification {
            reconnection_token: self.resume.map(|resume| resume.token),
            expires_at: self.resume.map(|resume| resume.expires),
            reconnectable: self.resume.is_some(),
            reason: self.reason,
        }
    }
}

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
struct WrittenNotification<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    reconnection_token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
    reconnectable: bool,
    reason: DisconnectReason,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Stamped<T> {
    event_name: &'static str,
    #[serde(serialize_with = "text")]
    event_id: Uuid,
    timestamp: Timestamp,
    #[serde(flatten)]
    rest: T,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Unstamped<T> {
    event_name: &'static str,
    #[serde(flatten)]
    rest: T,
}

fn events<T: Serialize + Copy>(
    event: OwnEvent,
    dialect: NameDialect,
    Stamp { event_id, timestamp }: Stamp,
    rest: T,
) -> impl Iterator<Item = Vec<u8>> {
    let names = event.names(dialect).iter();
    names.map(move |event_name| to_json(&Stamped { event_name, event_id, timestamp, rest }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "CzBVep/E6Q4zWH2ix+wRNluApcrvFDleg6jN8hc8YYY=";

    fn stamp() -> Stamp {
        Stamp {
            event_id: "5a1d3c1e-0f5f-4c1e-9a3f-4b0d7f2f6a01".parse().unwrap(),
            timestamp: Timestamp(1_772_463_381_123),
        }
    }

    fn texts(bodies: impl Iterator<Item = Vec<u8>>) -> Vec<String> {
        bodies.map(|body| String::from_utf8(body).unwrap()).collect()
    }

    fn notification() -> DisconnectNotification<'static> {
        DisconnectNotification {
            resume: Some(Resume { token: TOKEN, expires: Timestamp(1_772_463_681_123) }),
            reason: DisconnectReason::GracefulDisconnect,
        }
    }

    #[test]
    fn the_session_token_is_an_event() {
        let token = SessionToken { token: TOKEN, window_seconds: 300 };
        assert_eq!(
            texts(token.events(NameDialect::Hyphen, stamp())),
            [
                r#"{"eventName":"connect.session-token","eventId":"5a1d3c1e-0f5f-4c1e-9a3f-4b0d7f2f6a01","timestamp":"2026-03-02T14:56:21.123+00:00","token":"CzBVep/E6Q4zWH2ix+wRNluApcrvFDleg6jN8hc8YYY=","windowSeconds":300}"#
            ]
        );
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

    #[test]
    fn the_notification_before_a_close_is_text_and_event() {
        assert_eq!(
            texts(notification().texts(NameDialect::Hyphen)),
            [
                r#"{"eventName":"connect.disconnect-notification","reconnectionToken":"CzBVep/E6Q4zWH2ix+wRNluApcrvFDleg6jN8hc8YYY=","expiresAt":"2026-03-02T15:01:21.123+00:00","reconnectable":true,"reason":"graceful_disconnect"}"#
            ]
        );
        assert_eq!(
            texts(notification().events(NameDialect::Hyphen, stamp())),
            [
                r#"{"eventName":"connect.disconnect-notification","eventId":"5a1d3c1e-0f5f-4c1e-9a3f-4b0d7f2f6a01","timestamp":"2026-03-02T14:56:21.123+00:00","reconnectionToken":"CzBVep/E6Q4zWH2ix+wRNluApcrvFDleg6jN8hc8YYY=","expiresAt":"2026-03-02T15:01:21.123+00:00","reconnectable":true,"reason":"graceful_disconnect"}"#
            ]
        );
    }

    #[test]
    fn a_session_that_is_over_is_not_reconnectable() {
        let over =
            DisconnectNotification { resume: None, reason: DisconnectReason::SessionInvalidated };
        assert_eq!(
            texts(over.texts(NameDialect::Hyphen)),
            [
                r#"{"eventName":"connect.disconnect-notification","reconnectable":false,"reason":"session_invalidated"}"#
            ]
        );
    }

    #[test]
    fn in_both_dialects_only_the_name_differs() {
        let [hyphen, underscore]: [String; 2] =
            texts(notification().events(NameDialect::Both, stamp())).try_into().unwrap();
        assert_ne!(hyphen, underscore);
        assert_eq!(hyphen.replacen("disconnect-n", "disconnect_n", 1), underscore);
        assert_eq!(texts(notification().texts(NameDialect::Both)).len(), 2);
    }
}
