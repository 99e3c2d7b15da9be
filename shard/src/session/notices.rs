//! The events that the gateway itself has for a client, besides the manifest: the reconnect token
//! and the notice before a close. Spec §6.8 and docs/PROTOCOL.md.

use std::time::Duration;

use crate::clock::Now;
use crate::session::json;
use crate::snapshot::Spelling;
use crate::wire::guid::Guid;
use crate::wire::header::RequestHeader;
use crate::wire::reconnect_token::TokenText;

/// Events that shards write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventName {
    CapabilityManifest,
    DisconnectNotification,
    SessionToken,
}

impl EventName {
    const fn spelled(self, spelling: Spelling) -> &'static str {
        match (self, spelling) {
            (Self::CapabilityManifest, Spelling::Hyphen) => "connect.capability-manifest",
            (Self::CapabilityManifest, Spelling::Underscore) => "connect.capability_manifest",
            (Self::DisconnectNotification, Spelling::Hyphen) => "connect.disconnect-notification",
            (Self::DisconnectNotification, Spelling::Underscore) => {
                "connect.disconnect_notification"
            }
            (Self::SessionToken, Spelling::Hyphen) => "connect.session-token",
            (Self::SessionToken, Spelling::Underscore) => "connect.session_token",
        }
    }
}

/// Begins an event: its 31-byte header and the JSON up to and with its time stamp, still open.
pub(super) fn begin(
    name: EventName,
    spelling: Spelling,
    message_id: u64,
    now: Now,
    random: &mut fastrand::Rng,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(&RequestHeader::event(message_id).to_bytes());
    out.extend_from_slice(br#"{"eventName":""#);
    out.extend_from_slice(name.spelled(spelling).as_bytes());
    out.extend_from_slice(br#"","eventId":""#);
    out.extend_from_slice(&random_guid(random).text());
    out.extend_from_slice(br#"","timestamp":""#);
    out.extend_from_slice(&json::timestamp(now.unix_ms));
    out.push(b'"');
}

/// Appends `connect.session-token`: the token with which this session can be taken up, whatever
/// becomes of its connection.
pub fn session_token(
    spelling: Spelling,
    token: &TokenText,
    window: Duration,
    message_id: u64,
    now: Now,
    random: &mut fastrand::Rng,
    out: &mut Vec<u8>,
) {
    begin(EventName::SessionToken, spelling, message_id, now, random, out);
    out.extend_from_slice(br#","token":""#);
    out.extend_from_slice(token);
    out.extend_from_slice(br#"","windowSeconds":"#);
    out.extend_from_slice(window.as_secs().to_string().as_bytes());
    out.push(b'}');
}

/// The notice before a close that a session survives.
#[derive(Debug, Clone, Copy)]
pub struct Disconnect<'a> {
    pub token: &'a TokenText,
    pub window: Duration,
    pub now: Now,
}

impl Disconnect<'_> {
    /// Appends it as an event, which clients read.
    pub fn event(
        &self,
        spelling: Spelling,
        message_id: u64,
        random: &mut fastrand::Rng,
        out: &mut Vec<u8>,
    ) {
        let name = EventName::DisconnectNotification;
        begin(name, spelling, message_id, self.now, random, out);
        self.finish(out);
    }

    /// Appends it as the JSON of a text frame, without what makes an event.
    pub fn text(&self, spelling: Spelling, out: &mut Vec<u8>) {
        out.extend_from_slice(br#"{"eventName":""#);
        out.extend_from_slice(EventName::DisconnectNotification.spelled(spelling).as_bytes());
        out.push(b'"');
        self.finish(out);
    }

    fn finish(&self, out: &mut Vec<u8>) {
        let expires = self.now.unix_ms.saturating_add(self.window.as_millis() as u64);
        out.extend_from_slice(br#","reconnectionToken":""#);
        out.extend_from_slice(self.token);
        out.extend_from_slice(br#"","expiresAt":""#);
        out.extend_from_slice(&json::timestamp(expires));
        out.extend_from_slice(br#"","reconnectable":true,"reason":"graceful_disconnect"}"#);
    }
}

/// A random UUID (version 4).
fn random_guid(random: &mut fastrand::Rng) -> Guid {
    let bytes = random.u128(..).to_be_bytes();
    Guid(uuid::Builder::from_random_bytes(bytes).into_uuid().into_bytes())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::clock::Instant;

    const NOW: Now = Now { mono: Instant(0), unix_ms: 1_772_463_381_123 };
    const TOKEN: TokenText = [b'T'; 44];

    fn random() -> fastrand::Rng {
        fastrand::Rng::with_seed(1)
    }

    /// The JSON of an event without what every event has.
    fn own_fields(message: &[u8]) -> Value {
        assert_eq!(RequestHeader::parse(message).unwrap(), RequestHeader::event(77));
        let mut body: Value = serde_json::from_slice(&message[31..]).unwrap();
        let fields = body.as_object_mut().unwrap();
        assert_eq!(fields.remove("timestamp").unwrap(), "2026-03-02T14:56:21.123+00:00");
        let id = fields.remove("eventId").unwrap();
        assert_eq!(uuid::Uuid::parse_str(id.as_str().unwrap()).unwrap().get_version_num(), 4);
        body
    }

    #[test]
    fn the_token_event_tells_token_and_window() {
        let (mut out, window) = (Vec::new(), Duration::from_secs(300));
        session_token(Spelling::Hyphen, &TOKEN, window, 77, NOW, &mut random(), &mut out);
        let token = "T".repeat(44);
        let expected =
            json!({"eventName": "connect.session-token", "token": token, "windowSeconds": 300});
        assert_eq!(own_fields(&out), expected);
    }

    #[test]
    fn the_notice_says_the_same_as_text_and_as_an_event() {
        let notice = Disconnect { token: &TOKEN, window: Duration::from_secs(300), now: NOW };
        let (mut event, mut text) = (Vec::new(), Vec::new());
        notice.event(Spelling::Underscore, 77, &mut random(), &mut event);
        notice.text(Spelling::Underscore, &mut text);
        let expected = json!({
            "eventName": "connect.disconnect_notification",
            "reconnectionToken": "T".repeat(44),
            "expiresAt": "2026-03-02T15:01:21.123+00:00",
            "reconnectable": true,
            "reason": "graceful_disconnect",
        });
        assert_eq!(own_fields(&event), expected);
        assert_eq!(serde_json::from_slice::<Value>(&text).unwrap(), expected);
    }
}
