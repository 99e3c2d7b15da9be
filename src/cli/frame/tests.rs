//! The decoder against the frames of the test vectors, and against what is no frame.

use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn vectors() -> Vec<Value> {
    let text = include_str!("../../../shard/testdata/guid-vectors.json");
    let file: Value = serde_json::from_str(text).unwrap();
    file["frames"].as_array().unwrap().clone()
}

#[test]
fn every_vector_decodes_to_its_fields_and_encodes_to_its_bytes() {
    let vectors = vectors();
    assert!(vectors.len() > 10);
    for vector in vectors {
        let name = &vector["name"];
        let bytes = parse_hex(vector["hex"].as_str().unwrap()).unwrap();
        let frame = Frame::decode(&bytes).unwrap();
        assert_eq!(u64::from(frame.flags), vector["flags"], "{name}");
        assert_eq!(u64::from(frame.channel), vector["channel"], "{name}");
        assert_eq!(u64::from(frame.sequence), vector["sequence"], "{name}");
        assert_eq!(frame.message_id.to_string(), vector["message_id"], "{name}");
        match frame.kind {
            Kind::Request { guid } => assert_eq!(guid.to_string(), vector["guid"], "{name}"),
            Kind::Response { code } => assert_eq!(u64::from(code), vector["code"], "{name}"),
        }
        if let Some(text) = vector["payload_utf8"].as_str() {
            assert_eq!(frame.payload, text.as_bytes(), "{name}");
        }
        assert_eq!(frame.encode(), bytes, "{name}");
    }
}

/// `message` in a WebSocket frame of a client.
fn masked(message: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x82, 0x80 | 126];
    frame.extend(u16::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend([1, 2, 3, 4]);
    frame.extend(message.iter().zip([1, 2, 3, 4].iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

/// `message` in a WebSocket frame of the gateway.
fn unmasked(message: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x82, 127];
    frame.extend((message.len() as u64).to_be_bytes());
    frame.extend(message);
    frame
}

#[test]
fn every_vector_is_explained_bare_and_inside_a_websocket_frame() {
    for vector in vectors() {
        let bytes = parse_hex(vector["hex"].as_str().unwrap()).unwrap();
        let bare = explain(&bytes).unwrap();
        assert!(bare.starts_with("message with "), "{bare}");
        assert!(bare.contains(vector["message_id"].as_str().unwrap()));

        let (_, fields) = bare.split_once('\n').unwrap();
        for (wrapped, head) in [
            (masked(&bytes), "WebSocket binary frame, final, masked with 01020304, from a client"),
            (unmasked(&bytes), "WebSocket binary frame, final, not masked, from a server"),
        ] {
            let wrapped = explain(&wrapped).unwrap();
            assert!(wrapped.starts_with(&format!("{head}\nmessage with ")), "{wrapped}");
            assert!(wrapped.ends_with(fields), "{wrapped}");
        }
    }
}

/// The first line about a message: bare, from a client, from the gateway.
fn kinds(message: &[u8]) -> [String; 3] {
    [message.to_vec(), masked(message), unmasked(message)].map(|bytes| {
        let text = explain(&bytes).unwrap();
        let line = text.lines().find(|line| line.starts_with("message with ")).unwrap();
        line.split_once(": ").unwrap().1.to_owned()
    })
}

fn request(flags: u8, guid: Uuid, payload: &[u8]) -> Vec<u8> {
    let kind = Kind::Request { guid };
    Frame { flags, channel: 1, sequence: 2, message_id: 3, kind, payload }.encode()
}

fn response(flags: u8, code: u8, payload: &[u8]) -> Vec<u8> {
    let kind = Kind::Response { code };
    Frame { flags, channel: 1, sequence: 2, message_id: 3, kind, payload }.encode()
}

#[test]
fn every_kind_of_message_is_named() {
    let some = Uuid::from_u128(0xcab5_4425_5941_5c52_bfb2_221b_0cea_4f17);
    let (nobody, everybody) = (Uuid::nil(), Uuid::max());
    let manifest = br#"{"eventName":"connect.capability-manifest","availableApis":[{},{}]}"#;
    let ack = br#"{"eventName":"connect.ack","sequence":"77"}"#;
    let token = br#"{"eventName":"connect.session-token"}"#;
    let same: [(Vec<u8>, &str); 12] = [
        (request(0, some, b"{}"), "call of an endpoint or shortcut"),
        (request(0x80, some, b""), "meta request"),
        (request(0x90, some, b""), "meta request"),
        (request(0x20, some, b"hi"), "peer message"),
        (request(0x30, some, b"hi"), "peer message"),
        (request(0x20, everybody, b"hi"), "broadcast"),
        (request(0x10, nobody, manifest), "capability manifest, 2 endpoints and shortcuts"),
        (request(0x10, nobody, ack), "acknowledgement of all events up to message id 77"),
        (request(0x10, nobody, token), "event connect.session-token"),
        (request(0x10, nobody, b"?"), "event without a name"),
        (response(0xc0, 0, b"{}"), "answer to a meta request"),
        (response(0x60, 31, b""), "answer to a peer message or broadcast"),
    ];
    for (message, kind) in same {
        assert_eq!(kinds(&message), [kind; 3]);
    }
    let differing = [
        (
            request(0x01, some, b"hi"),
            [
                "call of an endpoint or shortcut, or RPC to a client",
                "call of an endpoint or shortcut",
                "RPC to a client",
            ],
        ),
        (
            request(0x10, some, b"hi"),
            [
                "call that wants no answer, or event of a backend",
                "call that wants no answer",
                "event of a backend",
            ],
        ),
        (
            response(0x40, 0, b"hi"),
            ["answer to a call, or of a client to an RPC", "answer to an RPC", "answer to a call"],
        ),
    ];
    for (message, kind) in differing {
        assert_eq!(kinds(&message), kind);
    }
}

fn brotli(payload: &[u8]) -> Vec<u8> {
    let mut compressed = Vec::new();
    let params = brotli::enc::BrotliEncoderParams::default();
    brotli::BrotliCompress(&mut &*payload, &mut compressed, &params).unwrap();
    compressed
}

#[test]
fn compressed_payloads_are_shown_inflated() {
    let json = format!(r#"{{"eventName":"chat.said","text":"{}"}}"#, "ha ".repeat(500));
    let compressed = brotli(json.as_bytes());
    let text = explain(&unmasked(&request(0x14, Uuid::nil(), &compressed))).unwrap();
    assert!(text.contains("message with 31-byte header: event chat.said\n"), "{text}");
    assert!(text.contains("0x14 (compressed, event)"), "{text}");
    let sizes = format!("{} bytes of Brotli, {} bytes inflated", compressed.len(), json.len());
    assert!(text.ends_with(&format!("{sizes}, text: {json}")), "{text}");

    let answer = explain(&response(0x44, 0, &compressed)).unwrap();
    assert!(answer.ends_with(&format!("text: {json}")), "{answer}");
}

#[test]
fn a_flag_for_compression_that_lies_is_called_out() {
    let compressed = brotli(&b"ha ".repeat(500));
    for payload in [&b"{}"[..], &compressed[..compressed.len() - 1], b""] {
        let text = explain(&request(0x04, Uuid::from_u128(1), payload)).unwrap();
        let called = format!("{} bytes, flagged as compressed but no Brotli stream", payload.len());
        assert!(text.contains(&called), "{text}");
    }
}

#[test]
fn what_inflates_without_end_is_cut() {
    let bomb = brotli(&vec![b'a'; (32 << 20) + 1]);
    let text = explain(&request(0x04, Uuid::from_u128(1), &bomb)).unwrap();
    assert!(text.contains("of Brotli, more than 32 MiB inflated"), "{text}");
}

#[test]
fn a_reply_names_flags_code_and_payload() {
    let text = explain(&parse_hex("40 0000 00000000 0123456789abcdef 33").unwrap()).unwrap();
    assert!(text.contains("0x40 (response)"), "{text}");
    assert!(text.contains("51 (Service_NotFound)"), "{text}");
    assert!(text.ends_with("payload     0 bytes"), "{text}");
}

#[test]
fn control_and_text_frames_are_explained() {
    let close = explain(&parse_hex("88 04 03e9 6869").unwrap()).unwrap();
    assert!(close.contains("close code  1001 (shutdown: reconnect)"), "{close}");
    assert!(close.ends_with("reason      hi"), "{close}");
    assert!(explain(&parse_hex("8900").unwrap()).unwrap().contains("ping"));
    assert!(explain(&parse_hex("81026869").unwrap()).unwrap().contains("2 bytes: hi"));
}

#[test]
fn short_and_cut_frames_say_so() {
    assert_eq!(explain(&[0x40; 15]), Err(FrameError::Short { found: 15, needed: 16 }));
    assert_eq!(explain(&[0x10; 30]), Err(FrameError::Short { found: 30, needed: 31 }));
    assert_eq!(explain(&[0x82, 0x9f, 1, 2, 3, 4, 0x10]), Err(FrameError::Truncated));
    assert_eq!(explain(&[0x89, 0x01, 0x41, 0x42]), Err(FrameError::Trailing));
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes: Vec<u8>) {
        drop(explain(&bytes));
    }

    #[test]
    fn what_decodes_encodes_to_the_same_bytes(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        if let Ok(frame) = Frame::decode(&bytes) {
            prop_assert_eq!(frame.encode(), bytes);
        }
    }
}
