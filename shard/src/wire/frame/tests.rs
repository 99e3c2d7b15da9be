//! Frame headers, valid and not, and frames written and read back.

use proptest::prelude::*;
use tungstenite::protocol::frame::{FrameHeader as OracleHeader, coding};

use super::*;

const MASK: [u8; 4] = [1, 2, 3, 4];

/// The bytes up to and including `bytes[at]` fail, all shorter prefixes do not.
fn fails_at(bytes: &[u8], at: usize, role: Role, error: FrameError) {
    for len in 0..=at {
        assert_eq!(FrameHeader::parse(&bytes[..len], role), Ok(None), "{len} of {bytes:x?}");
    }
    for len in at + 1..=bytes.len() {
        assert_eq!(FrameHeader::parse(&bytes[..len], role), Err(error), "{len} of {bytes:x?}");
    }
}

#[test]
fn reserved_bits_are_refused() {
    for bits in [0x40, 0x20, 0x10, 0x70] {
        fails_at(&[0x82 | bits, 0x80], 0, Role::Server, FrameError::ReservedBits);
    }
}

#[test]
fn unknown_opcodes_are_refused() {
    for opcode in (0x3..=0x7).chain(0xB..=0xF) {
        fails_at(&[0x80 | opcode, 0x80], 0, Role::Server, FrameError::UnknownOpCode);
    }
}

#[test]
fn a_control_frame_is_neither_fragmented_nor_longer_than_125_bytes() {
    for opcode in [0x8, 0x9, 0xA] {
        fails_at(&[opcode, 0x80], 0, Role::Server, FrameError::FragmentedControl);
        fails_at(&[0x80 | opcode, 0xFE, 0, 126], 1, Role::Server, FrameError::ControlTooLong);
        fails_at(&[0x80 | opcode, 0x7F], 1, Role::Client, FrameError::ControlTooLong);
    }
}

#[test]
fn a_server_requires_a_mask_and_a_client_refuses_it() {
    fails_at(&[0x82, 0x05], 1, Role::Server, FrameError::Unmasked);
    fails_at(&[0x82, 0x85], 1, Role::Client, FrameError::Masked);
}

#[test]
fn a_length_must_have_its_shortest_form() {
    let error = FrameError::NonMinimalLength;
    fails_at(&[0x82, 126, 0, 125], 3, Role::Client, error);
    fails_at(&[0x82, 0xFE, 0, 0, 1, 2, 3, 4], 3, Role::Server, error);
    fails_at(&[0x82, 127, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF], 7, Role::Client, error);
}

#[test]
fn a_64_bit_length_has_no_top_bit() {
    fails_at(&[0x82, 127, 0x80, 0, 0, 0, 0, 1, 0, 0], 2, Role::Client, FrameError::LengthOverflow);
}

#[test]
fn written_headers_are_read_back_and_equal_those_of_another_implementation() {
    for len in [0, 1, 125, 126, 127, 0xFFFF, 0x1_0000, 0x1_2345_6789] {
        let mut server = vec![0; server_header_len(len)];
        write_server_header(&mut server, OpCode::Binary, len);
        let mut client = vec![0; client_header_len(len)];
        write_client_header(&mut client, OpCode::Text, len, MASK);
        for (bytes, role, opcode, mask, data) in [
            (server, Role::Client, OpCode::Binary, None, coding::Data::Binary),
            (client, Role::Server, OpCode::Text, Some(MASK), coding::Data::Text),
        ] {
            let expected = FrameHeader {
                fin: true,
                opcode,
                payload_len: len as u64,
                mask,
                header_len: bytes.len(),
            };
            assert_eq!(FrameHeader::parse(&bytes, role), Ok(Some(expected)));
            for end in 0..bytes.len() {
                assert_eq!(FrameHeader::parse(&bytes[..end], role), Ok(None));
            }
            let oracle = OracleHeader {
                opcode: coding::OpCode::Data(data),
                mask,
                ..OracleHeader::default()
            };
            let mut formatted = Vec::new();
            oracle.format(len as u64, &mut formatted).unwrap();
            assert_eq!(bytes, formatted);
        }
    }
}

#[test]
fn control_frames_carry_their_payload_both_ways() {
    for payload in [&b""[..], b"x", &[7; 125]] {
        let payload = ControlPayload::new(payload);
        let len = payload.as_slice().len();
        let frame = ControlFrame::unmasked(ControlKind::Pong, &payload);
        assert_eq!(frame.as_slice()[..2], [0x8A, len as u8]);
        assert_eq!(&frame.as_slice()[2..], payload.as_slice());

        let frame = ControlFrame::masked(ControlKind::Ping, &payload, MASK);
        assert_eq!(frame.as_slice()[..2], [0x89, 0x80 | len as u8]);
        let mut body = frame.as_slice()[6..].to_vec();
        crate::wire::mask::unmask(&mut body, MASK, 0);
        assert_eq!(body, payload.as_slice());
    }
}

#[test]
fn a_close_payload_is_code_and_reason_cut_between_characters() {
    assert_eq!(ControlPayload::close(1001, "bye").as_slice(), b"\x03\xE9bye");
    for (ascii, fits) in [(118, 118 + 3), (119, 119 + 3), (120, 120 + 3), (121, 121), (130, 123)] {
        let payload = ControlPayload::close(4001, &format!("{}€€", "x".repeat(ascii)));
        let reason = &payload.as_slice()[2..];
        assert_eq!(reason.len(), fits, "{ascii}");
        assert!(std::str::from_utf8(reason).is_ok());
    }
}

#[test]
fn a_control_payload_takes_at_most_125_bytes() {
    assert_eq!(ControlPayload::new(&[1; 300]).as_slice(), [1; 125]);
}

proptest! {
    #[test]
    fn a_verdict_does_not_change_when_more_bytes_come(
        bytes in prop::collection::vec(prop_oneof![Just(0), Just(0x82), Just(0xFE), any::<u8>()], 0..20),
        client in any::<bool>(),
    ) {
        let role = if client { Role::Client } else { Role::Server };
        let whole = FrameHeader::parse(&bytes, role);
        for len in 0..bytes.len() {
            let part = FrameHeader::parse(&bytes[..len], role);
            prop_assert!(part == Ok(None) || part == whole, "{:?} then {:?}", part, whole);
        }
    }
}
