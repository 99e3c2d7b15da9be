use super::*;
use crate::protocol::sample::{heard, scenario, seat};
use crate::scenario::{Placement, Reply as ReplyKind, Scenario};

const GUID: &str = "cab54425-5941-5c52-bfb2-221b0cea4f17";
const PEER: &str = "9b2f6a10-77aa-4c1e-8d3b-5e0a4a6f9c21";

fn calls(endpoint: &str) -> Scenario {
    let endpoints = vec![endpoint.to_owned()];
    scenario(Traffic::Call { endpoints, reply: ReplyKind::Echo, channels: 32 })
}

/// 31 bytes: an event of the gateway, then the JSON of the documentation.
fn manifest() -> Vec<u8> {
    let mut message = vec![0; REQUEST_HEADER];
    message[0] = 0x10;
    let json = serde_json::json!({
        "eventName": "connect.capability-manifest", "eventId": "c6f1", "version": 0,
        "peerGuid": PEER, "reason": "session_connected",
        "availableApis": [
            { "serviceId": GUID, "endpoint": "/demo/echo", "service": "demo" },
            { "serviceId": PEER, "endpoint": "/demo/time", "service": "demo" },
        ],
    });
    message.extend_from_slice(json.to_string().as_bytes());
    message
}

fn signed_in(scenario: &Scenario) -> Corelane {
    let mut corelane = Corelane::new(&seat(scenario));
    assert_eq!(heard(&mut corelane, &manifest()), ["Ready"]);
    corelane
}

/// The 16 bytes of an answer to call `sequence`.
fn answer(sequence: u32, code: u8) -> Vec<u8> {
    let mut bytes = vec![0x40, 0, (sequence % 32) as u8];
    bytes.extend(sequence.to_be_bytes());
    bytes.extend((MESSAGE_ID_MARK | u64::from(sequence)).to_be_bytes());
    bytes.push(code);
    bytes
}

#[test]
fn the_manifest_opens_the_session_once() {
    let scenario = calls("/demo/echo");
    let mut corelane = signed_in(&scenario);
    assert!(heard(&mut corelane, &manifest()).is_empty());
    assert_eq!(corelane.own_name(), parse_guid(PEER));
}

#[test]
fn a_missing_endpoint_is_named_beside_those_there_are() {
    let scenario = calls("/demo/nothing");
    let mut corelane = Corelane::new(&seat(&scenario));
    let error = corelane.take(&manifest(), Opcode::Binary, &mut |_| {}).unwrap_err();
    assert_eq!(error, "manifest: no endpoint /demo/nothing; there are /demo/echo, /demo/time");
}

#[test]
fn a_call_has_the_header_of_the_documentation() {
    let scenario = calls("/demo/echo");
    let mut out = Vec::new();
    signed_in(&scenario).put_before(0x0102, &mut out);
    let mut expected = vec![0x00, 0, 2, 0, 0, 1, 2];
    expected.extend(parse_guid(GUID).unwrap());
    expected.extend([0x10, 0xad, 0, 0, 0, 0, 1, 2]);
    assert_eq!(out, expected);
}

#[test]
fn answers_belong_to_their_call_or_are_wrong() {
    let scenario = calls("/demo/echo");
    let mut corelane = signed_in(&scenario);
    let mut good = answer(33, 0);
    good.extend(b"ab");
    assert_eq!(heard(&mut corelane, &good), ["Answer Some(33) \"ab\""]);
    assert_eq!(heard(&mut corelane, &answer(33, 60)), ["Refused Some(33) 60"]);
    for (at, what) in [
        (0, "flags that are not the call's"),
        (2, "channel or sequence of another call"),
        (6, "channel or sequence of another call"),
        (7, "a message id that was not sent"),
        (14, "channel or sequence of another call"),
    ] {
        let mut wrong = good.clone();
        wrong[at] ^= 1;
        assert_eq!(heard(&mut corelane, &wrong), [format!("Wrong answer: {what}")], "byte {at}");
    }
}

#[test]
fn a_peer_hears_what_is_for_its_own_guid() {
    let scenario = scenario(Traffic::Peer { placement: Placement::Any });
    let mut corelane = signed_in(&scenario);
    corelane.address_to(parse_guid(PEER).unwrap());
    let mut message = Vec::new();
    corelane.put_before(5, &mut message);
    assert_eq!((message[0], message.len()), (0x30, 31));
    message.extend(b"ab");
    assert_eq!(heard(&mut corelane, &message), ["Payload \"ab\""]);
    message[10] ^= 1;
    assert_eq!(heard(&mut corelane, &message), ["Wrong message: for another GUID"]);
}

#[test]
fn text_and_short_messages_end_the_connection() {
    let scenario = calls("/demo/echo");
    let mut corelane = signed_in(&scenario);
    assert!(corelane.take(b"x", Opcode::Text, &mut |_| {}).is_err());
    assert!(corelane.take(&[0x40; 15], Opcode::Binary, &mut |_| {}).is_err());
}
