//! The capability manifest: the event that tells a client which GUID stands for which endpoint.

use crate::clock::Now;
use crate::id::SessionId;
use crate::session::capability::CapabilitySet;
use crate::session::json;
use crate::session::notices::{self, EventName};
use crate::session::shortcuts::Shortcuts;
use crate::snapshot::{ConnectionMode, Snapshot, Spelling};
use crate::wire::guid::{Guid, SessionText};

/// Everything that a manifest says about one session.
#[derive(Debug, Clone, Copy)]
pub struct Manifest<'a> {
    pub session: SessionId,
    pub capabilities: &'a CapabilitySet,
    pub shortcuts: &'a Shortcuts,
    pub snapshot: &'a Snapshot,
    pub peer: Guid,
    pub cause: ManifestCause<'a>,
}

/// What made the manifest necessary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ManifestCause<'a> {
    Connected,
    /// The session was taken up again.
    Reconnected,
    /// Another configuration.
    Reloaded,
    /// A capabilities event with this reason.
    Given(&'a str),
    /// Shortcuts came or went.
    Shortcuts,
}

impl<'a> ManifestCause<'a> {
    fn reason(self) -> Option<&'a str> {
        match self {
            Self::Connected => Some("session_connected"),
            Self::Reconnected => Some("session_reconnected"),
            Self::Reloaded => Some("capabilities_updated"),
            Self::Given(reason) => Some(reason),
            Self::Shortcuts => None,
        }
    }
}

impl Manifest<'_> {
    /// Appends the whole message to `out`: 31-byte header and JSON. `random` makes the event id.
    pub fn write(
        &self,
        spelling: Spelling,
        message_id: u64,
        now: Now,
        random: &mut fastrand::Rng,
        out: &mut Vec<u8>,
    ) {
        let session = SessionText::new(self.session);
        notices::begin(EventName::CapabilityManifest, spelling, message_id, now, random, out);
        out.extend_from_slice(br#","sessionId":""#);
        out.extend_from_slice(session.as_bytes());
        if self.snapshot.mode == ConnectionMode::Relayed {
            out.extend_from_slice(br#"","peerGuid":""#);
            out.extend_from_slice(&self.peer.text());
        }
        out.extend_from_slice(br#"","availableApis":["#);
        let written = self.write_apis(&session, out);
        self.write_shortcuts(written, now, out);
        // Spec §6.1: it never counts up. Clients of the older spelling know 1 alone.
        let older = spelling == Spelling::Underscore || self.cause == ManifestCause::Shortcuts;
        out.extend_from_slice(if older { br#"],"version":1"# } else { br#"],"version":0"# });
        if let Some(reason) = self.cause.reason() {
            out.extend_from_slice(br#","reason":"#);
            json::push_string(out, reason);
        }
        out.push(b'}');
    }

    /// Those that still stand, as entries of the service `shortcut`.
    fn write_shortcuts(&self, mut written: bool, now: Now, out: &mut Vec<u8>) {
        for shortcut in self.shortcuts.iter() {
            if shortcut.expires_unix_ms.is_some_and(|at| at <= now.unix_ms) {
                continue;
            }
            let route = shortcut.route.text();
            let route = str::from_utf8(&route).unwrap_or_default();
            let name = shortcut.name.as_deref().unwrap_or(route);
            if std::mem::replace(&mut written, true) {
                out.push(b',');
            }
            out.extend_from_slice(br#"{"serviceId":""#);
            out.extend_from_slice(route.as_bytes());
            out.extend_from_slice(br#"","endpoint":"#);
            json::push_string(out, name);
            out.extend_from_slice(br#","service":"shortcut","description":"#);
            match &shortcut.description {
                Some(description) => json::push_string(out, description),
                None => json::push_string(out, &format!("Shortcut to {name}")),
            }
            out.push(b'}');
        }
    }

    /// Says whether there was any.
    fn write_apis(&self, session: &SessionText, out: &mut Vec<u8>) -> bool {
        let mut written = false;
        for (id, guid) in self.capabilities.derive(session) {
            let Some(endpoint) = self.snapshot.endpoints.get(usize::from(id.0)) else {
                continue;
            };
            let service = self.snapshot.services.get(usize::from(endpoint.service.0));
            let Some(service) = service else { continue };
            if endpoint.is_templated() {
                continue;
            }
            if std::mem::replace(&mut written, true) {
                out.push(b',');
            }
            out.extend_from_slice(br#"{"serviceId":""#);
            out.extend_from_slice(&guid.text());
            out.extend_from_slice(br#"","endpoint":"#);
            json::push_string(out, &endpoint.path);
            out.extend_from_slice(br#","service":"#);
            json::push_string(out, &service.name);
            out.push(b'}');
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::clock::Instant;
    use crate::session::capability::Capabilities;
    use crate::session::fixtures;
    use crate::session::shortcuts::Shortcut;
    use crate::wire::header::RequestHeader;

    const SESSION: SessionId = SessionId(0x3f25_04e0_4f89_41d3_9a0c_0305_e82c_3301);
    const SALT: &str = "bannou-dev-connect-salt-change-in-production";
    const NOW: Now = Now { mono: Instant(0), unix_ms: 1_772_463_381_123 };

    fn write(snapshot: &Snapshot, seed: u64) -> Vec<u8> {
        let roles = [Box::from("user")];
        let capabilities = Capabilities::new(snapshot).of_roles(snapshot, &roles);
        let manifest = Manifest {
            session: SESSION,
            capabilities: &capabilities,
            snapshot,
            peer: Guid([0x9B; 16]),
            cause: ManifestCause::Connected,
            shortcuts: &Shortcuts::default(),
        };
        let mut out = Vec::new();
        let random = &mut fastrand::Rng::with_seed(seed);
        manifest.write(Spelling::Hyphen, 77, NOW, random, &mut out);
        out
    }

    fn body(message: &[u8]) -> Value {
        serde_json::from_slice(&message[31..]).unwrap()
    }

    #[test]
    fn the_manifest_is_an_event_with_the_protocols_fields() {
        let endpoints = [("account", "/account/get"), ("account", "/account/delete")];
        let message = write(&fixtures::snapshot_of(&endpoints, SALT), 1);
        let header = RequestHeader::parse(&message).unwrap();
        assert_eq!(header, RequestHeader::event(77));
        let mut body = body(&message);
        let event_id = body.as_object_mut().unwrap().remove("eventId").unwrap();
        let event_id = uuid::Uuid::parse_str(event_id.as_str().unwrap()).unwrap();
        assert_eq!(event_id.get_version_num(), 4);
        let expected = json!({
            "eventName": "connect.capability-manifest",
            "timestamp": "2026-03-02T14:56:21.123+00:00",
            "sessionId": "3f2504e0-4f89-41d3-9a0c-0305e82c3301",
            "availableApis": [
                {
                    "serviceId": "cab54425-5941-5c52-bfb2-221b0cea4f17",
                    "endpoint": "/account/get",
                    "service": "account",
                },
                {
                    "serviceId": "cf39d936-1b5a-7d56-8c1b-e7f2a2f28019",
                    "endpoint": "/account/delete",
                    "service": "account",
                },
            ],
            "version": 0,
            "reason": "session_connected",
        });
        assert_eq!(body, expected);
    }

    #[test]
    fn the_peer_guid_is_told_in_relayed_mode_only() {
        let mut snapshot = fixtures::snapshot_of(&[("demo", "/demo/echo")], SALT);
        assert_eq!(body(&write(&snapshot, 1)).get("peerGuid"), None);
        snapshot.mode = ConnectionMode::Relayed;
        let relayed = body(&write(&snapshot, 1));
        assert_eq!(relayed["peerGuid"], "9b9b9b9b-9b9b-9b9b-9b9b-9b9b9b9b9b9b");
    }

    #[test]
    fn templated_paths_are_left_out_and_odd_names_survive() {
        let endpoints = [("de\"mo", "/a/{id}"), ("de\"mo", "/b\\\n"), ("de\"mo", "/{x}")];
        let body = body(&write(&fixtures::snapshot_of(&endpoints, SALT), 1));
        let apis = body["availableApis"].as_array().unwrap();
        assert_eq!(apis.len(), 1);
        assert_eq!(apis[0]["endpoint"], "/b\\\n");
        assert_eq!(apis[0]["service"], "de\"mo");
    }

    #[test]
    fn a_session_without_capabilities_gets_an_empty_manifest() {
        let mut snapshot = fixtures::snapshot_of(&[("demo", "/demo/echo")], SALT);
        snapshot.roles = Box::default();
        assert_eq!(body(&write(&snapshot, 1))["availableApis"], json!([]));
    }

    #[test]
    fn every_manifest_has_its_own_event_id() {
        let snapshot = fixtures::snapshot_of(&[("demo", "/demo/echo")], SALT);
        let [first, second] = [1, 2].map(|seed| body(&write(&snapshot, seed)));
        assert_ne!(first["eventId"], second["eventId"]);
    }

    #[test]
    fn shortcuts_are_listed_while_they_stand() {
        let snapshot = fixtures::snapshot_of(&[], SALT);
        let mut shortcuts = Shortcuts::default();
        let shortcut = |n: u8, name: Option<&str>, description: Option<&str>, expires| Shortcut {
            route: Guid([n; 16]),
            target_guid: Guid::NULL,
            target: None,
            payload: Box::default(),
            expires_unix_ms: expires,
            name: name.map(Box::from),
            description: description.map(Box::from),
            source_service: None,
        };
        shortcuts.publish(shortcut(1, Some("leave"), Some("Leave \"it\""), None)).unwrap();
        shortcuts.publish(shortcut(2, Some("gone"), None, Some(NOW.unix_ms))).unwrap();
        shortcuts.publish(shortcut(3, None, None, Some(NOW.unix_ms + 1))).unwrap();
        let capabilities = Capabilities::new(&snapshot).of_roles(&snapshot, &[]);
        let manifest = Manifest {
            session: SESSION,
            capabilities: &capabilities,
            shortcuts: &shortcuts,
            snapshot: &snapshot,
            peer: Guid::NULL,
            cause: ManifestCause::Shortcuts,
        };
        let mut out = Vec::new();
        let random = &mut fastrand::Rng::with_seed(1);
        manifest.write(Spelling::Hyphen, 77, NOW, random, &mut out);
        let body = body(&out);
        let third = "03030303-0303-0303-0303-030303030303";
        assert_eq!(
            body["availableApis"],
            json!([
                {
                    "serviceId": "01010101-0101-0101-0101-010101010101",
                    "endpoint": "leave",
                    "service": "shortcut",
                    "description": "Leave \"it\"",
                },
                {
                    "serviceId": third,
                    "endpoint": third,
                    "service": "shortcut",
                    "description": format!("Shortcut to {third}"),
                },
            ])
        );
        assert_eq!((body.get("reason"), &body["version"]), (None, &json!(1)));
    }

    #[test]
    fn older_clients_read_the_older_spelling() {
        let snapshot = fixtures::snapshot_of(&[("demo", "/demo/echo")], SALT);
        let capabilities = Capabilities::new(&snapshot).of_roles(&snapshot, &[]);
        let manifest = Manifest {
            session: SESSION,
            capabilities: &capabilities,
            shortcuts: &Shortcuts::default(),
            snapshot: &snapshot,
            peer: Guid::NULL,
            cause: ManifestCause::Given("role_changed"),
        };
        let mut out = Vec::new();
        let random = &mut fastrand::Rng::with_seed(1);
        manifest.write(Spelling::Underscore, 77, NOW, random, &mut out);
        let body = body(&out);
        assert_eq!(body["eventName"], "connect.capability_manifest");
        assert_eq!((&body["version"], &body["reason"]), (&json!(1), &json!("role_changed")));
    }
}
