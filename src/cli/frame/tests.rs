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

#[test]
fn every_vector_is_explained_bare_and_inside_a_websocket_frame() {
    for vector in vectors() {
        let bytes = parse_hex(vector["hex"].as_str().unwrap()).unwrap();
        let bare = explain(&bytes).unwrap();
        assert!(bare.starts_with("message with "), "{bare}");
        assert!(bare.contains(vector["message_id"].as_str().unwrap()));

        let mut masked = vec![0x82, 0x80 | 126];
        masked.extend(u16::try_from(bytes.len()).unwrap().to_be_bytes());
        masked.extend([1, 2, 3, 4]);
        masked.extend(bytes.iter().zip([1, 2, 3, 4].iter().cycle()).map(|(byte, key)| byte ^ key));
        let wrapped = explain(&masked).unwrap();
        let head = "WebSocket binary frame, final, masked with 01020304, from a client\n";
        assert_eq!(wrapped, format!("{head}{bare}"));
    }
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
    assert!(close.contains("close code  1001") && close.contains("hi"), "{close}");
    assert!(explain(&parse_hex("8900").unwrap()).unwrap().contains("ping"));
    assert!(explain(&parse_hex("81026869").unwrap()).unwrap().contains("2 bytes: hi"));
}

#[test]
fn short_frames_and_bad_digits_say_so() {
    assert_eq!(explain(&[0x40; 15]), Err(FrameError::Short { found: 15, needed: 16 }));
    assert_eq!(explain(&[0x10; 30]), Err(FrameError::Short { found: 30, needed: 31 }));
    assert_eq!(explain(&[0x82, 0x9f, 1, 2, 3, 4, 0x10]), Err(FrameError::Truncated));
    assert_eq!(explain(&[0x89, 0x01, 0x41, 0x42]), Err(FrameError::Trailing));
    for text in ["", "4", "zz", "4 0 1"] {
        assert_eq!(parse_hex(text), Err(FrameError::NotHex), "{text:?}");
    }
    assert_eq!(parse_hex("0x40:41-42, 43\n"), Ok(b"@ABC".to_vec()));
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
