//! What two nodes say to each other on a link (docs/NODES.md): a prefix of 16 bytes, then a body.
//! Integers are big-endian. Nothing here does I/O.

use bytes::Bytes;
use corelane_shard::id::{Epoch, SessionId};
use corelane_shard::wire::guid::Guid;
use corelane_shard::wire::header::{Flags, Layout, Priority, RequestHeader};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

use super::BroadcastMode;
use super::handovers::{LeftBehind, TakenUp};
use super::requests::{Request, Response, Route};
use crate::control::hyphenated;

/// Of every message between two nodes that both speak [`SUBPROTOCOL`].
pub(super) const PREFIX_BYTES: usize = 16;

/// Offered by the node that dials.
pub(super) const SUBPROTOCOL: &str = "corelane-node.1";

/// Longest message of a client that a link carries, whatever a node's own `session.buffer_size` is.
pub(super) const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Of a request's body, its route; of a response's, its status.
const STATUS_BYTES: usize = 2;

/// Of a body about a claim: session and epoch.
const CLAIM_BYTES: usize = 16 + 8;

/// Longest message on a link.
pub(super) const LINK_MESSAGE_BYTES_MAX: usize = PREFIX_BYTES + STATUS_BYTES + MESSAGE_BYTES_MAX;

/// Who speaks, in its first message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Hello {
    #[serde(with = "hyphenated")]
    pub(super) instance: Uuid,
    /// In the GUIDs of its sessions.
    pub(super) node: u16,
    pub(super) broadcast: BroadcastMode,
    /// A GUID of slot 0 of this node, which says that both have one salt.
    pub(super) proof: Box<str>,
    /// It answers requests.
    #[serde(default)]
    pub(super) requests: bool,
    /// It hands over what sessions leave behind.
    #[serde(default)]
    pub(super) handovers: bool,
}

/// Names a message on its link, and its sender on the node that sent it. Comes back as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket {
    /// 0: only a refusal is answered.
    pub(super) number: u32,
    pub(super) sender: u64,
}

/// One message on a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    Hello(Hello),
    /// This link is the one that is used; said by the node with the lesser instance id.
    Use,
    Broadcast {
        message: Bytes,
        priority: Priority,
    },
    Letter {
        message: Bytes,
        priority: Priority,
        ticket: Ticket,
    },
    /// What became of a letter with this header.
    Answer {
        header: RequestHeader,
        delivered: bool,
        ticket: Ticket,
    },
    Request {
        number: u32,
        request: Request,
    },
    /// To the request of this number.
    Response {
        number: u32,
        response: Response,
    },
    TakenUp(TakenUp),
    /// What is left of a session that was taken up; `None` if nothing can be told.
    HandedOver {
        session: SessionId,
        epoch: Epoch,
        left: Option<LeftBehind>,
    },
}

/// Why a message on a link cannot be taken; the link is closed for it with 1002.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum Malformed {
    #[error("a message shorter than what it must hold")]
    Short,
    #[error("a message longer than what it may hold")]
    Long,
    #[error("a message of an unknown kind")]
    Kind,
    #[error("bits that have no meaning")]
    Reserved,
    #[error("a hello that is not JSON of the right shape")]
    Hello,
    #[error("a client's message with a header that no node sends")]
    Header,
    #[error("a request that this node does not know, or a status that is none")]
    Request,
    #[error("what is left of a session is not JSON of the right shape")]
    Left,
}

const HELLO: u8 = 1;
const USE: u8 = 2;
const BROADCAST: u8 = 3;
const LETTER: u8 = 4;
const ANSWER: u8 = 5;
const REQUEST: u8 = 6;
const RESPONSE: u8 = 7;
const TAKEN_UP: u8 = 8;
const HANDED_OVER: u8 = 9;

/// Second byte: the message overtakes others.
const URGENT: u8 = 0x01;
/// Second byte of an answer.
const DELIVERED: u8 = 0x02;
/// Second byte of a response: problem details.
const PROBLEM: u8 = 0x04;

const NO_TICKET: Ticket = Ticket { number: 0, sender: 0 };

impl Said {
    pub(super) fn encode(&self) -> Bytes {
        match self {
            Self::Hello(hello) => {
                let json = serde_json::to_vec(hello).unwrap_or_default();
                written(HELLO, 0, NO_TICKET, &json)
            }
            Self::Use => written(USE, 0, NO_TICKET, &[]),
            Self::Broadcast { message, priority } => {
                written(BROADCAST, urgency(*priority), NO_TICKET, message)
            }
            Self::Letter { message, priority, ticket } => letter(message, *priority, *ticket),
            Self::Answer { header, delivered, ticket } => {
                let bits = if *delivered { DELIVERED } else { 0 };
                written(ANSWER, bits, *ticket, &header.to_bytes())
            }
            Self::Request { number, request: Request { route, body } } => {
                let ticket = Ticket { number: *number, sender: 0 };
                written(REQUEST, 0, ticket, &[&[0, route_code(*route)], &body[..]].concat())
            }
            Self::Response { number, response: Response { status, problem, body } } => {
                let ticket = Ticket { number: *number, sender: 0 };
                let bits = if *problem { PROBLEM } else { 0 };
                written(RESPONSE, bits, ticket, &[&status.to_be_bytes(), &body[..]].concat())
            }
            Self::TakenUp(TakenUp { session, epoch, before }) => {
                let body = [&claim_bytes(*session, *epoch)[..], &before.0.to_be_bytes()].concat();
                written(TAKEN_UP, 0, NO_TICKET, &body)
            }
            Self::HandedOver { session, epoch, left } => {
                let left = left.as_ref().map(LeftBehind::to_json).unwrap_or_default();
                let body = [&claim_bytes(*session, *epoch)[..], &left].concat();
                written(HANDED_OVER, 0, NO_TICKET, &body)
            }
        }
    }

    pub(super) fn decode(bytes: &Bytes) -> Result<Self, Malformed> {
        let Some((prefix, body)) = bytes.split_at_checked(PREFIX_BYTES) else {
            return Err(Malformed::Short);
        };
        let [kind, bits, 0, 0, n0, n1, n2, n3, sender @ ..] = prefix else {
            return Err(Malformed::Reserved);
        };
        let number = u32::from_be_bytes([*n0, *n1, *n2, *n3]);
        let sender = sender.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        let ticket = Ticket { number, sender };
        let (may_have, has_its_ticket) = match *kind {
            HELLO | USE | TAKEN_UP | HANDED_OVER => (0, ticket == NO_TICKET),
            BROADCAST => (URGENT, ticket == NO_TICKET),
            LETTER => (URGENT, true),
            ANSWER => (DELIVERED, true),
            REQUEST => (0, number != 0 && ticket.sender == 0),
            RESPONSE => (PROBLEM, number != 0 && ticket.sender == 0),
            _ => return Err(Malformed::Kind),
        };
        if bits & !may_have != 0 || !has_its_ticket {
            return Err(Malformed::Reserved);
        }
        let priority = if bits & URGENT == 0 { Priority::Normal } else { Priority::Urgent };
        Ok(match *kind {
            HELLO => Self::Hello(serde_json::from_slice(body).map_err(|_| Malformed::Hello)?),
            USE if body.is_empty() => Self::Use,
            USE => return Err(Malformed::Long),
            BROADCAST => {
                Self::Broadcast { message: broadcast(&bytes.slice(PREFIX_BYTES..))?, priority }
            }
            LETTER => {
                let header = client_header(body)?;
                if header.guid == Guid::BROADCAST {
                    return Err(Malformed::Header);
                }
                Self::Letter { message: bytes.slice(PREFIX_BYTES..), priority, ticket }
            }
            REQUEST => {
                let (code, body) = numbered(bytes)?;
                let route =
                    Route::ALL.into_iter().find(|route| u16::from(route_code(*route)) == code);
                let route = route.ok_or(Malformed::Request)?;
                Self::Request { number, request: Request { route, body } }
            }
            RESPONSE => {
                let (status, body) = numbered(bytes)?;
                if !(200..600).contains(&status) {
                    return Err(Malformed::Request);
                }
                let response = Response { status, problem: bits & PROBLEM != 0, body };
                Self::Response { number, response }
            }
            TAKEN_UP => {
                let (session, epoch, rest) = claim(body)?;
                let before =
                    Epoch(u64::from_be_bytes(*rest.first_chunk().ok_or(Malformed::Short)?));
                if rest.len() > size_of::<u64>() {
                    return Err(Malformed::Long);
                }
                Self::TakenUp(TakenUp { session, epoch, before })
            }
            HANDED_OVER => {
                let (session, epoch, json) = claim(body)?;
                let left = match json {
                    [] => None,
                    _ if json.len() > MESSAGE_BYTES_MAX => return Err(Malformed::Long),
                    json => Some(LeftBehind::from_json(json).map_err(|_| Malformed::Left)?),
                };
                Self::HandedOver { session, epoch, left }
            }
            _ => {
                if body.len() > RequestHeader::LEN {
                    return Err(Malformed::Long);
                }
                let header = client_header(body)?;
                Self::Answer { header, delivered: bits & DELIVERED != 0, ticket }
            }
        })
    }
}

/// On the wire.
fn route_code(route: Route) -> u8 {
    match route {
        Route::Capabilities => 1,
        Route::Proxy => 2,
        Route::Message => 3,
        Route::Rpc => 4,
        Route::Meta => 5,
    }
}

/// The two bytes that a body begins with, and what follows them.
fn numbered(bytes: &Bytes) -> Result<(u16, Bytes), Malformed> {
    let body = bytes.slice(PREFIX_BYTES..);
    let Some((code, rest)) = body.split_first_chunk() else { return Err(Malformed::Short) };
    if rest.len() > MESSAGE_BYTES_MAX {
        return Err(Malformed::Long);
    }
    Ok((u16::from_be_bytes(*code), body.slice(STATUS_BYTES..)))
}

fn claim_bytes(session: SessionId, epoch: Epoch) -> [u8; CLAIM_BYTES] {
    let mut bytes = [0; CLAIM_BYTES];
    bytes[..16].copy_from_slice(&{ session.0 }.to_be_bytes());
    bytes[16..].copy_from_slice(&epoch.0.to_be_bytes());
    bytes
}

/// Session and epoch that a body begins with, and what follows them.
fn claim(body: &[u8]) -> Result<(SessionId, Epoch, &[u8]), Malformed> {
    let (session, rest) = body.split_first_chunk().ok_or(Malformed::Short)?;
    let (epoch, rest) = rest.split_first_chunk().ok_or(Malformed::Short)?;
    let session = SessionId(u128::from_be_bytes(*session));
    Ok((session, Epoch(u64::from_be_bytes(*epoch)), rest))
}

/// [`Said::Letter`], written.
pub(super) fn letter(message: &[u8], priority: Priority, ticket: Ticket) -> Bytes {
    written(LETTER, urgency(priority), ticket, message)
}

/// A client's broadcast, as nodes without the subprotocol send it: all of the message.
pub(super) fn broadcast(message: &Bytes) -> Result<Bytes, Malformed> {
    match client_header(message)?.guid {
        Guid::BROADCAST => Ok(message.clone()),
        _ => Err(Malformed::Header),
    }
}

/// Of a message from client to client.
fn client_header(message: &[u8]) -> Result<RequestHeader, Malformed> {
    if message.len() > MESSAGE_BYTES_MAX {
        return Err(Malformed::Long);
    }
    let header = RequestHeader::parse(message).map_err(|_| Malformed::Short)?;
    let among_clients = header.flags.contains(Flags::CLIENT)
        && header.flags.layout() == Layout::Request
        && !header.flags.contains(Flags::META);
    if among_clients { Ok(header) } else { Err(Malformed::Header) }
}

fn urgency(priority: Priority) -> u8 {
    match priority {
        Priority::Normal => 0,
        Priority::Urgent => URGENT,
    }
}

fn written(kind: u8, bits: u8, ticket: Ticket, body: &[u8]) -> Bytes {
    let mut bytes = Vec::with_capacity(PREFIX_BYTES + body.len());
    bytes.extend_from_slice(&[kind, bits, 0, 0]);
    bytes.extend_from_slice(&ticket.number.to_be_bytes());
    bytes.extend_from_slice(&ticket.sender.to_be_bytes());
    bytes.extend_from_slice(body);
    bytes.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::control::bus::Position;
    use crate::control::mailboxes::Left;

    fn any_header(guid: Option<Guid>) -> impl Strategy<Value = RequestHeader> {
        (any::<u8>(), any::<u16>(), any::<u32>(), any::<[u8; 16]>(), any::<u64>()).prop_map(
            move |(flags, channel, sequence, other, message_id)| {
                let flags = Flags(flags).without(Flags::RESPONSE).without(Flags::META);
                let flags = flags.union(Flags::CLIENT);
                let guid = guid.unwrap_or(Guid(other));
                RequestHeader { flags, channel, sequence, guid, message_id }
            },
        )
    }

    fn any_message(guid: Option<Guid>) -> impl Strategy<Value = Bytes> {
        (any_header(guid), proptest::collection::vec(any::<u8>(), 0..200))
            .prop_map(|(header, payload)| [&header.to_bytes()[..], &payload].concat().into())
    }

    fn any_priority() -> impl Strategy<Value = Priority> {
        prop_oneof![Just(Priority::Normal), Just(Priority::Urgent)]
    }

    fn any_ticket() -> impl Strategy<Value = Ticket> {
        (any::<u32>(), any::<u64>()).prop_map(|(number, sender)| Ticket { number, sender })
    }

    fn any_body() -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from)
    }

    fn any_position() -> impl Strategy<Value = Option<Position>> {
        let position = (any::<u32>(), any::<u64>());
        let position = position.prop_map(|(partition, offset)| Position { partition, offset });
        proptest::option::of(position)
    }

    fn any_left() -> impl Strategy<Value = LeftBehind> {
        let json = "[ -~é]{0,40}".prop_map(|text| serde_json::json!({ "t": text }).to_string());
        let event = (json, proptest::option::of(any::<u64>()), any_position());
        let event = event.prop_map(|(json, expires_unix_ms, position)| Left {
            json: json.into_bytes().into(),
            expires_unix_ms,
            position,
        });
        (proptest::collection::vec(event, 0..5), any_position())
            .prop_map(|(events, next)| LeftBehind { events, next })
    }

    fn any_said() -> impl Strategy<Value = Said> {
        prop_oneof![
            Just(Said::Use),
            (any::<u128>(), 0..4096_u16, "[ -~]{0,40}").prop_map(|(id, node, proof)| {
                let (instance, proof) = (Uuid::from_u128(id), proof.into());
                let (broadcast, requests) = (BroadcastMode::Both, id % 2 == 0);
                Said::Hello(Hello {
                    instance,
                    node,
                    broadcast,
                    proof,
                    requests,
                    handovers: !requests,
                })
            }),
            (any_message(Some(Guid::BROADCAST)), any_priority())
                .prop_map(|(message, priority)| Said::Broadcast { message, priority }),
            (any_message(None), any_priority(), any_ticket())
                .prop_map(|(message, priority, ticket)| Said::Letter { message, priority, ticket }),
            (any_header(None), any::<bool>(), any_ticket())
                .prop_map(|(header, delivered, ticket)| Said::Answer { header, delivered, ticket }),
            (1..=u32::MAX, 0..Route::ALL.len(), any_body()).prop_map(|(number, route, body)| {
                Said::Request { number, request: Request { route: Route::ALL[route], body } }
            }),
            (1..=u32::MAX, 200..600_u16, any::<bool>(), any_body()).prop_map(
                |(number, status, problem, body)| {
                    Said::Response { number, response: Response { status, problem, body } }
                }
            ),
            (any::<u128>(), any::<u64>(), any::<u64>()).prop_map(|(session, epoch, before)| {
                let (session, epoch, before) = (SessionId(session), Epoch(epoch), Epoch(before));
                Said::TakenUp(TakenUp { session, epoch, before })
            }),
            (any::<u128>(), any::<u64>(), proptest::option::of(any_left())).prop_map(
                |(session, epoch, left)| {
                    let (session, epoch) = (SessionId(session), Epoch(epoch));
                    Said::HandedOver { session, epoch, left }
                }
            ),
        ]
    }

    proptest! {
        #[test]
        fn what_is_said_is_heard(said in any_said()) {
            prop_assert_eq!(Said::decode(&said.encode()), Ok(said));
        }

        #[test]
        fn what_is_understood_is_written_in_one_way(
            bytes in proptest::collection::vec(any::<u8>(), 0..80),
            kind in 0..11_u8,
        ) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = kind;
            }
            let bytes = Bytes::from(bytes);
            match Said::decode(&bytes) {
                Ok(Said::Hello(_) | Said::HandedOver { .. }) | Err(_) => {}
                Ok(said) => prop_assert_eq!(said.encode(), bytes),
            }
        }

        #[test]
        fn nothing_shorter_is_understood_as_the_same(said in any_said(), cut in 1..20_usize) {
            let bytes = said.encode();
            let shorter = bytes.slice(..bytes.len().saturating_sub(cut));
            prop_assert_ne!(Said::decode(&shorter), Ok(said));
        }
    }

    fn header(flags: Flags, guid: Guid) -> RequestHeader {
        RequestHeader { flags, channel: 1, sequence: 2, guid, message_id: 3 }
    }

    #[test]
    fn a_letter_lies_on_the_wire_as_documented() {
        let header = header(Flags::CLIENT, Guid([9; 16]));
        let message = [&header.to_bytes()[..], b"payload"].concat();
        let ticket = Ticket { number: 0x0102_0304, sender: 0x0506_0708_090A_0B0C };
        let bytes = letter(&message, Priority::Urgent, ticket);
        assert_eq!(bytes[..16], [4, 1, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        assert_eq!(bytes[16..], message);
    }

    #[test]
    fn a_request_and_its_response_lie_on_the_wire_as_documented() {
        let request = Request { route: Route::Rpc, body: Bytes::from_static(b"{}") };
        let bytes = Said::Request { number: 7, request }.encode();
        assert_eq!(bytes[..], [6, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, b'{', b'}']);
        let response = Response { status: 404, problem: true, body: Bytes::from_static(b"{}") };
        let bytes = Said::Response { number: 7, response }.encode();
        assert_eq!(bytes[..], [7, 4, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 148, b'{', b'}']);
    }

    #[test]
    fn what_is_left_of_a_session_lies_on_the_wire_as_documented() {
        let (session, epoch, before) = (SessionId(2), Epoch(4), Epoch(3));
        let bytes = Said::TakenUp(TakenUp { session, epoch, before }).encode();
        let words =
            |words: &[u64]| -> Vec<u8> { words.iter().flat_map(|it| it.to_be_bytes()).collect() };
        assert_eq!(bytes[..], [words(&[8 << 56, 0]), words(&[0, 2, 4, 3])].concat());
        let at = |offset| Some(Position { partition: 3, offset });
        let json = br#"{"eventName":"a"}"#.as_slice().into();
        let events = vec![Left { json, expires_unix_ms: Some(5), position: at(41) }];
        let left = Some(LeftBehind { events, next: at(50) });
        let bytes = Said::HandedOver { session, epoch, left }.encode();
        assert_eq!(bytes[..40], [words(&[9 << 56, 0]), words(&[0, 2, 4])].concat());
        let json =
            r#"{"next":[3,50],"events":[{"at":[3,41],"expires":5,"event":{"eventName":"a"}}]}"#;
        assert_eq!(std::str::from_utf8(&bytes[40..]), Ok(json));
    }

    #[test]
    fn a_node_that_says_nothing_of_requests_answers_none() {
        let json = br#"{"instance":"00000000-0000-0000-0000-000000000001","node":3,"broadcast":"Both","proof":""}"#;
        let Ok(Said::Hello(hello)) = Said::decode(&written(HELLO, 0, NO_TICKET, json)) else {
            panic!("it is a hello")
        };
        assert!(!hello.requests && !hello.handovers);
    }

    #[test]
    fn what_no_node_sends_is_refused() {
        let to = Guid([9; 16]);
        let said = |kind: u8, flags, guid| {
            let body = header(flags, guid).to_bytes();
            Said::decode(&written(kind, 0, NO_TICKET, &body))
        };
        assert!(said(LETTER, Flags::CLIENT, to).is_ok());
        assert!(said(BROADCAST, Flags::CLIENT, Guid::BROADCAST).is_ok());
        for (kind, flags, guid) in [
            (LETTER, Flags::CLIENT, Guid::BROADCAST),
            (BROADCAST, Flags::CLIENT, to),
            (LETTER, Flags::NONE, to),
            (LETTER, Flags::CLIENT.union(Flags::RESPONSE), to),
            (LETTER, Flags::CLIENT.union(Flags::META), to),
            (BROADCAST, Flags::NONE, Guid::BROADCAST),
            (ANSWER, Flags::NONE, to),
        ] {
            assert_eq!(said(kind, flags, guid), Err(Malformed::Header), "{kind} {flags:?}");
        }
        assert_eq!(Said::decode(&written(10, 0, NO_TICKET, &[])), Err(Malformed::Kind));
        assert_eq!(Said::decode(&written(USE, 1, NO_TICKET, &[])), Err(Malformed::Reserved));
        assert_eq!(Said::decode(&written(USE, 0, NO_TICKET, &[0])), Err(Malformed::Long));
        assert_eq!(Said::decode(&written(HELLO, 0, NO_TICKET, b"{}")), Err(Malformed::Hello));
        let ticket = Ticket { number: 1, sender: 0 };
        assert_eq!(Said::decode(&written(USE, 0, ticket, &[])), Err(Malformed::Reserved));
        let numbered = Ticket { number: 1, sender: 0 };
        for (kind, bits, ticket, body, why) in [
            (REQUEST, 0, numbered, &[0, 6][..], Malformed::Request),
            (REQUEST, 0, numbered, &[1, 1], Malformed::Request),
            (REQUEST, 0, numbered, &[0], Malformed::Short),
            (REQUEST, PROBLEM, numbered, &[0, 1], Malformed::Reserved),
            (REQUEST, 0, NO_TICKET, &[0, 1], Malformed::Reserved),
            (RESPONSE, 0, Ticket { number: 1, sender: 1 }, &[0, 200], Malformed::Reserved),
            (RESPONSE, 0, numbered, &[0, 199], Malformed::Request),
            (RESPONSE, 0, numbered, &[], Malformed::Short),
            (TAKEN_UP, 0, numbered, &[0; 32], Malformed::Reserved),
            (TAKEN_UP, 0, NO_TICKET, &[0; 31], Malformed::Short),
            (TAKEN_UP, 0, NO_TICKET, &[0; 33], Malformed::Long),
            (HANDED_OVER, 0, NO_TICKET, &[0; 23], Malformed::Short),
            (HANDED_OVER, 0, NO_TICKET, &[0; 25], Malformed::Left),
        ] {
            let refused = Said::decode(&written(kind, bits, ticket, body));
            assert_eq!(refused, Err(why), "{kind} {body:?}");
        }
        let long = vec![0x20; MESSAGE_BYTES_MAX + 1];
        assert_eq!(Said::decode(&written(LETTER, 0, NO_TICKET, &long)), Err(Malformed::Long));
        assert_eq!(Said::decode(&Bytes::from_static(&[LETTER; 15])), Err(Malformed::Short));
    }
}
