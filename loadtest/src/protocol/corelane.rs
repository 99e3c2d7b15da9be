//! The gateway's protocol: a token opens the session, a manifest names the GUIDs, calls and
//! messages carry a 31-byte header, answers a 16-byte one.

use serde::Deserialize;

use super::{Dialect, Incoming, Seat, Upgrade};
use crate::scenario::Traffic;
use crate::wire::envelope::{
    BROADCAST, CLIENT, EVENT, Envelope, GATEWAY, Guid, REQUEST_HEADER, RESPONSE, Reply, Request,
    decode, parse_guid,
};
use crate::wire::event;
use crate::wire::frame::Opcode;

/// Above the number of the message in its id, so that an id of somebody else is not taken for ours.
const MESSAGE_ID_MARK: u64 = 0x10ad << 48;

#[derive(Debug)]
pub(crate) struct Corelane {
    kind: Kind,
    /// Channels of its calls, taken in turn.
    channels: u64,
    /// Of a call's endpoints in turn; of other traffic the one address.
    targets: Vec<Guid>,
    own: Option<Guid>,
    session: Option<Box<str>>,
    upgraded: bool,
}

#[derive(Debug)]
enum Kind {
    Call {
        endpoints: Vec<String>,
    },
    Peer,
    Broadcast,
    Push,
    /// Events that the load itself publishes.
    Published,
    /// Nothing is sent.
    Silent,
}

impl Dialect for Corelane {
    const OPCODE: Opcode = Opcode::Binary;

    fn new(seat: &Seat<'_>) -> Self {
        let kind = match &seat.scenario.traffic {
            Traffic::Call { endpoints, .. } => Kind::Call { endpoints: endpoints.clone() },
            Traffic::Peer { .. } => Kind::Peer,
            Traffic::Broadcast { .. } => Kind::Broadcast,
            Traffic::Push if seat.scenario.target.kafka.is_some() => Kind::Published,
            Traffic::Push => Kind::Push,
            _ => Kind::Silent,
        };
        let channels = match seat.scenario.traffic {
            Traffic::Call { channels, .. } => u64::from(channels),
            _ => 1,
        };
        Self { kind, channels, targets: Vec::new(), own: None, session: None, upgraded: false }
    }

    fn upgrade(&self, path: &str, seat: &Seat<'_>) -> Upgrade {
        let fields = seat.token.map(|token| format!("Authorization: Bearer {token}\r\n"));
        Upgrade { path: path.to_owned(), fields: fields.unwrap_or_default() }
    }

    fn greet(&mut self, _seat: &Seat<'_>, _out: &mut Vec<u8>) -> bool {
        false
    }

    #[inline]
    fn around(&self, _sequence: u64) -> usize {
        REQUEST_HEADER
    }

    #[inline]
    fn put_before(&self, sequence: u64, out: &mut Vec<u8>) {
        let turn = match self.targets.len() {
            1 => 0,
            targets => sequence as usize % targets.max(1),
        };
        let flags = match self.kind {
            // An event: a delivery needs no acknowledgement, the other side counts it.
            Kind::Peer | Kind::Broadcast => CLIENT | EVENT,
            _ => 0,
        };
        let request = Request {
            flags,
            channel: self.channel(sequence),
            sequence: sequence as u32,
            guid: self.targets.get(turn).copied().unwrap_or(GATEWAY),
            message_id: MESSAGE_ID_MARK | sequence,
            payload: &[],
        };
        request.encode(out);
    }

    #[inline]
    fn put_after(&self, _out: &mut Vec<u8>) {}

    #[inline]
    fn take(
        &mut self,
        message: &[u8],
        opcode: Opcode,
        each: &mut impl FnMut(Incoming<'_>),
    ) -> Result<(), String> {
        if opcode != Opcode::Binary {
            return Err("protocol: a text message".to_owned());
        }
        match decode(message).map_err(|error| format!("protocol: {error}"))? {
            Envelope::Reply(reply) => each(self.read_reply(&reply)),
            Envelope::Request(request) => self.take_request(&request, each)?,
        }
        Ok(())
    }

    fn lanes(&self) -> u64 {
        self.channels
    }

    fn own_name(&self) -> Option<Guid> {
        self.own
    }

    fn own_session(&self) -> Option<&str> {
        self.session.as_deref()
    }

    fn address_to(&mut self, name: Guid) {
        self.targets = vec![name];
    }
}

impl Corelane {
    #[inline]
    fn channel(&self, sequence: u64) -> u16 {
        match self.channels {
            1 => 0,
            channels => (sequence % channels) as u16,
        }
    }

    #[inline]
    fn read_reply<'a>(&self, reply: &Reply<'a>) -> Incoming<'a> {
        let sequence = reply.message_id ^ MESSAGE_ID_MARK;
        let flags = match self.kind {
            Kind::Peer | Kind::Broadcast => RESPONSE | CLIENT | EVENT,
            _ => RESPONSE,
        };
        if sequence >> 48 != 0 {
            return Incoming::Wrong("answer: a message id that was not sent");
        }
        if reply.sequence != sequence as u32 || reply.channel != self.channel(sequence) {
            return Incoming::Wrong("answer: channel or sequence of another call");
        }
        if reply.flags != flags {
            return Incoming::Wrong("answer: flags that are not the call's");
        }
        let sequence = Some(sequence);
        match reply.code {
            0 => Incoming::Answer { sequence, payload: reply.payload },
            code if reply.payload.is_empty() => {
                Incoming::Refused { sequence, code: u32::from(code) }
            }
            _ => Incoming::Wrong("answer: a payload beside an error code"),
        }
    }

    #[inline]
    fn take_request(
        &mut self,
        request: &Request<'_>,
        each: &mut impl FnMut(Incoming<'_>),
    ) -> Result<(), String> {
        if let (Kind::Published, GATEWAY) = (&self.kind, request.guid)
            && let Some(payload) = event::stamped(request.payload)
        {
            each(match request.flags {
                EVENT => Incoming::Payload(payload),
                _ => Incoming::Wrong("event: its header is not as it should be"),
            });
            return Ok(());
        }
        if request.guid == GATEWAY {
            return self.take_manifest(request, each);
        }
        let to_us = match self.kind {
            Kind::Peer => Some(request.guid) == self.own,
            Kind::Broadcast => request.guid == BROADCAST,
            Kind::Push => true,
            // Events and RPCs of backends are none of this traffic's business.
            Kind::Call { .. } | Kind::Published | Kind::Silent => return Ok(()),
        };
        each(match to_us {
            true => Incoming::Payload(request.payload),
            false => Incoming::Wrong("message: for another GUID"),
        });
        Ok(())
    }

    #[cold]
    fn take_manifest(
        &mut self,
        request: &Request<'_>,
        each: &mut impl FnMut(Incoming<'_>),
    ) -> Result<(), String> {
        if request.flags != EVENT || request.channel != 0 || request.sequence != 0 {
            return Err("manifest: its header is not as it should be".to_owned());
        }
        let manifest: Manifest = serde_json::from_slice(request.payload)
            .map_err(|error| format!("manifest: {error}"))?;
        if manifest.event_name != "connect.capability-manifest" {
            return Ok(());
        }
        self.own = manifest.peer_guid.as_deref().and_then(parse_guid);
        self.session.clone_from(&manifest.session_id);
        match &self.kind {
            Kind::Call { endpoints } => {
                let found: Result<_, String> =
                    endpoints.iter().map(|wanted| manifest.find(wanted)).collect();
                self.targets = found?;
            }
            Kind::Broadcast => self.targets = vec![BROADCAST],
            Kind::Peer if self.own.is_none() => {
                return Err("manifest: no peerGuid: the gateway is not in Relayed mode".to_owned());
            }
            Kind::Published if self.session.is_none() => {
                return Err("manifest: no sessionId, which events are published for".to_owned());
            }
            Kind::Peer | Kind::Push | Kind::Published | Kind::Silent => {}
        }
        if !self.upgraded {
            self.upgraded = true;
            each(Incoming::Ready);
        }
        Ok(())
    }
}

/// How others address the client that got this message, if it is the manifest.
pub(crate) fn own_name(message: &[u8]) -> Option<Guid> {
    let Ok(Envelope::Request(request)) = decode(message) else {
        return None;
    };
    let manifest: Manifest = serde_json::from_slice(request.payload).ok()?;
    manifest.peer_guid.as_deref().and_then(parse_guid)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    event_name: String,
    peer_guid: Option<String>,
    session_id: Option<Box<str>>,
    #[serde(default)]
    available_apis: Vec<Api>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Api {
    service_id: String,
    endpoint: String,
}

impl Manifest {
    fn find(&self, wanted: &str) -> Result<Guid, String> {
        let Some(api) = self.available_apis.iter().find(|api| api.endpoint == wanted) else {
            let mut there: Vec<&str> =
                self.available_apis.iter().map(|api| api.endpoint.as_str()).collect();
            there.sort_unstable();
            return Err(format!("manifest: no endpoint {wanted}; there are {}", there.join(", ")));
        };
        parse_guid(&api.service_id)
            .ok_or_else(|| format!("manifest: endpoint {wanted} has no GUID"))
    }
}

#[cfg(test)]
mod tests;
