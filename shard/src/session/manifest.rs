//! The capability manifest: the event that tells a client which GUID stands for which endpoint.

use crate::clock::Now;
use crate::id::SessionId;
use crate::session::capability::CapabilitySet;
use crate::session::json;
use crate::snapshot::{ConnectionMode, Snapshot};
use crate::wire::guid::{Guid, SessionText};
use crate::wire::header::RequestHeader;

/// Everything that a manifest says about one session.
#[derive(Debug, Clone, Copy)]
pub struct Manifest<'a> {
    pub session: SessionId,
    /// Made from `snapshot`.
    pub capabilities: &'a CapabilitySet,
    pub snapshot: &'a Snapshot,
    /// The connection's own peer GUID; told in Relayed mode only.
    pub peer: Guid,
    pub reason: ManifestReason,
}

/// What made the manifest necessary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ManifestReason {
    SessionConnected,
    CapabilitiesUpdated,
}

impl ManifestReason {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SessionConnected => "session_connected",
            Self::CapabilitiesUpdated => "capabilities_updated",
        }
    }
}

impl Manifest<'_> {
    /// Appends the whole message to `out`: 31-byte header and JSON. `random` makes the event id.
    pub fn write(&self, message_id: u64, now: Now, random: &mut fastrand::Rng, out: &mut Vec<u8>) {
        let session = SessionText::new(self.session);
        out.extend_from_slice(&RequestHeader::event(message_id).to_bytes());
        out.extend_from_slice(br#"{"eventName":"connect.capability-manifest","eventId":""#);
        out.extend_from_slice(&random_guid(random).text());
        out.extend_from_slice(br#"","timestamp":""#);
        out.extend_from_slice(&json::timestamp(now.unix_ms));
        out.extend_from_slice(br#"","sessionId":""#);
        out.extend_from_slice(session.as_bytes());
        if self.snapshot.mode == ConnectionMode::Relayed {
            out.extend_from_slice(br#"","peerGuid":""#);
            out.extend_from_slice(&self.peer.text());
        }
        out.extend_from_slice(br#"","availableApis":["#);
        self.write_apis(&session, out);
        out.extend_from_slice(br#"],"version":0,"reason":""#);
        out.extend_from_slice(self.reason.as_str().as_bytes());
        out.extend_from_slice(br#""}"#);
    }

    fn write_apis(&self, session: &SessionText, out: &mut Vec<u8>) {
        let mut separator: &[u8] = b"";
        for (id, guid) in self.capabilities.derive(session) {
            let Some(endpoint) = self.snapshot.endpoints.get(usize::from(id.0)) else {
                continue;
            };
            let service = self.snapshot.services.get(usize::from(endpoint.service.0));
            let Some(service) = service else { continue };
            if endpoint.is_templated() {
                continue;
            }
            out.extend_from_slice(separator);
            out.extend_from_slice(br#"{"serviceId":""#);
            out.extend_from_slice(&guid.text());
            out.extend_from_slice(br#"","endpoint":"#);
            json::push_string(out, &endpoint.path);
            out.extend_from_slice(br#","service":"#);
            json::push_string(out, &service.name);
            out.push(b'}');
            separator = b",";
        }
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
    use crate::session::capability::Capabilities;
    use crate::session::fixtures;

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
            reason: ManifestReason::SessionConnected,
        };
        let mut out = Vec::new();
        manifest.write(77, NOW, &mut fastrand::Rng::with_seed(seed), &mut out);
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
}
