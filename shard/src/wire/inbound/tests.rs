//! Messages from bytes: rules and limits here, cuts in `split`, another implementation in `oracle`.

use std::time::Duration;

use super::*;
use crate::block::BLOCK_MIN;
use crate::wire::frame::{FrameError, client_header_len, write_client_header};

mod oracle;
mod split;

const MASK: [u8; 4] = [0x5A, 0x00, 0xC3, 0xFF];

const LIMITS: InboundLimits = InboundLimits {
    role: Role::Server,
    message_bytes_max: 1000,
    message_bytes_hard: 4000,
    fragments_max: 8,
    empty_fragments_max: 2,
    control_frames_per_second: 100,
    block_headroom: 14,
};

const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CONTINUATION: u8 = 0x0;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;
const FIN: u8 = 0x80;

/// An arrival with its bytes copied out, or the error that ended the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Event {
    Message(DataKind, Vec<u8>),
    TooLong(DataKind, Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, Vec<u8>),
    Failed(InboundError),
}

fn text(text: &str) -> Event {
    Event::Message(DataKind::Text, text.as_bytes().to_vec())
}

fn binary(bytes: &[u8]) -> Event {
    Event::Message(DataKind::Binary, bytes.to_vec())
}

/// A masked frame; `first` is the first header byte.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    masked_frame(first, payload, MASK)
}

fn masked_frame(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let mut bytes = vec![0; client_header_len(payload.len())];
    write_client_header(&mut bytes, OpCode::Binary, payload.len(), mask);
    bytes[0] = first;
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

/// One connection with its pool; checks the contract of [`Inbound::next`] on the way.
struct Receiver {
    inbound: Inbound,
    limits: InboundLimits,
    blocks: BlockPool,
    now: Instant,
    /// Arrivals that needed a block.
    assembled: usize,
}

impl Receiver {
    fn new() -> Self {
        Self::with(LIMITS)
    }

    fn with(limits: InboundLimits) -> Self {
        let now = Instant(7_000_000_000);
        let blocks = BlockPool::new(1 << 20);
        Self { inbound: Inbound::new(), limits, blocks, now, assembled: 0 }
    }

    fn receive(&mut self, bytes: &[u8]) -> Vec<Event> {
        let mut bytes = bytes.to_vec();
        let mut rest = &mut bytes[..];
        let mut events = Vec::new();
        loop {
            let next = self.inbound.next(rest, self.now, &self.limits, &mut self.blocks);
            let (used, arrival) = match next {
                Ok(next) => next,
                Err(error) => {
                    assert!(!self.inbound.is_mid_message(), "an error gives everything back");
                    events.push(Event::Failed(error));
                    return events;
                }
            };
            let (taken, left) = rest.split_at_mut(used);
            match arrival {
                Arrival::NeedMore => {
                    assert!(left.is_empty(), "NeedMore takes all");
                    return events;
                }
                Arrival::InPlace { kind, payload } => {
                    assert_eq!(payload.end, used);
                    assert!(payload.start >= 2);
                    events.push(Event::Message(kind, taken[payload].to_vec()));
                }
                Arrival::Assembled { kind, mut block } => {
                    self.assembled += 1;
                    events.push(Event::Message(kind, block.as_slice().to_vec()));
                    block.prepend(self.limits.block_headroom);
                    self.blocks.give_back(block);
                }
                Arrival::TooLong { kind, head, head_len } => {
                    events.push(Event::TooLong(kind, head[..head_len].to_vec()));
                }
                Arrival::Ping(payload) => events.push(Event::Ping(payload.as_slice().to_vec())),
                Arrival::Pong(payload) => events.push(Event::Pong(payload.as_slice().to_vec())),
                Arrival::Close { code, reason } => {
                    events.push(Event::Close(code, reason.as_slice().to_vec()));
                }
            }
            // What was consumed is the caller's to overwrite.
            taken.fill(0xEE);
            rest = left;
        }
    }

    /// Feeds the stream in pieces of `piece` bytes.
    fn receive_in_pieces(&mut self, bytes: &[u8], piece: usize) -> Vec<Event> {
        bytes.chunks(piece).flat_map(|chunk| self.receive(chunk)).collect()
    }

    fn fails(&mut self, bytes: &[u8], error: InboundError) {
        assert_eq!(self.receive(bytes), [Event::Failed(error)]);
        assert_eq!(self.blocks.in_use(), 0);
    }
}

#[test]
fn an_idle_connection_is_small_and_holds_nothing() {
    assert!(size_of::<Inbound>() <= 40, "{}", size_of::<Inbound>());
    assert!(!Inbound::new().is_mid_message());
}

#[test]
fn whole_messages_are_unmasked_where_they_lie() {
    let mut receiver = Receiver::new();
    let stream = [
        frame(FIN | BINARY, &[1, 2, 3]),
        frame(FIN | TEXT, "ö".as_bytes()),
        frame(FIN | BINARY, &[9; 300]),
    ];
    let expected = [binary(&[1, 2, 3]), text("ö"), binary(&[9; 300])];
    assert_eq!(receiver.receive(&stream.concat()), expected);
    assert_eq!((receiver.assembled, receiver.blocks.allocated()), (0, 0));
    let mut lone = stream[2].clone();
    let found = receiver.inbound.next(&mut lone, receiver.now, &LIMITS, &mut receiver.blocks);
    assert!(matches!(found, Ok((308, Arrival::InPlace { payload, .. })) if payload == (8..308)));
}

#[test]
fn a_client_takes_unmasked_frames() {
    let mut receiver = Receiver::with(InboundLimits { role: Role::Client, ..LIMITS });
    let stream = [&[0x82, 3, 1, 2, 3][..], &[0x02, 1, 4, 0x89, 1, 7, 0x80, 1, 5]].concat();
    let expected = [binary(&[1, 2, 3]), Event::Ping(vec![7]), binary(&[4, 5])];
    assert_eq!(receiver.receive(&stream), expected);
    assert_eq!(receiver.receive_in_pieces(&stream, 1), expected);
    receiver.fails(&frame(FIN | BINARY, &[1]), FrameError::Masked.into());
}

#[test]
fn a_message_cut_anywhere_is_assembled_with_headroom() {
    for headroom in [0, 14, 500] {
        let mut receiver = Receiver::with(InboundLimits { block_headroom: headroom, ..LIMITS });
        let payload: Vec<u8> = (0..=255).collect();
        let bytes = frame(FIN | BINARY, &payload);
        for cut in 1..bytes.len() {
            assert_eq!(receiver.receive(&bytes[..cut]), [], "cut at {cut}");
            assert!(receiver.inbound.is_mid_message());
            assert_eq!(receiver.receive(&bytes[cut..]), [binary(&payload)], "cut at {cut}");
            assert!(!receiver.inbound.is_mid_message());
        }
        assert_eq!(receiver.assembled, bytes.len() - 1);
        assert_eq!(receiver.blocks.in_use(), 0);
    }
}

#[test]
fn a_declared_length_costs_no_more_than_what_has_come() {
    let mut receiver = Receiver::with(InboundLimits {
        message_bytes_max: 1 << 16,
        message_bytes_hard: 1 << 20,
        ..LIMITS
    });
    let bytes = frame(FIN | BINARY, &[1; 1 << 16]);
    receiver.receive(&bytes[..24]);
    assert_eq!(receiver.blocks.in_use(), BLOCK_MIN);
    receiver.receive(&bytes[24..10_000]);
    assert_eq!(receiver.blocks.in_use(), 16_384);
    assert_eq!(receiver.receive(&bytes[10_000..]), [binary(&[1; 1 << 16])]);
    assert_eq!(receiver.blocks.in_use(), 0);
}

#[test]
fn fragments_are_joined_across_control_frames() {
    let stream = [
        frame(TEXT, "a\u{20AC}".as_bytes().split_last().unwrap().1),
        frame(FIN | PING, b"between"),
        frame(CONTINUATION, &"\u{20AC}b".as_bytes()[2..]),
        frame(FIN | PONG, &[3; 125]),
        frame(FIN | CONTINUATION, b""),
        frame(FIN | BINARY, b"next"),
    ]
    .concat();
    let expected = [
        Event::Ping(b"between".to_vec()),
        Event::Pong(vec![3; 125]),
        text("a\u{20AC}b"),
        binary(b"next"),
    ];
    for piece in [1, 2, 3, 7, 50, 131, stream.len()] {
        let mut receiver = Receiver::new();
        assert_eq!(receiver.receive_in_pieces(&stream, piece), expected, "pieces of {piece}");
        assert_eq!(receiver.blocks.in_use(), 0);
    }
}

#[test]
fn between_fragments_the_connection_is_mid_message() {
    let mut receiver = Receiver::new();
    receiver.receive(&frame(BINARY, &[1]));
    receiver.receive(&frame(FIN | PING, &[]));
    assert!(receiver.inbound.is_mid_message());
    receiver.receive(&frame(FIN | CONTINUATION, &[2]));
    assert!(!receiver.inbound.is_mid_message());
}

#[test]
fn half_a_control_frame_is_held_and_its_block_given_back() {
    let mut receiver = Receiver::new();
    let ping = frame(FIN | PING, &[5; 20]);
    assert_eq!(receiver.receive(&ping[..10]), []);
    assert!(receiver.inbound.is_mid_message());
    assert_eq!(receiver.receive(&ping[10..]), [Event::Ping(vec![5; 20])]);
    assert!(!receiver.inbound.is_mid_message());
    assert_eq!(receiver.blocks.in_use(), 0);
}

#[test]
fn whole_control_frames_need_no_block() {
    let mut receiver = Receiver::new();
    receiver.receive(&[frame(FIN | PING, &[1; 125]), frame(FIN | PONG, &[])].concat());
    assert_eq!(receiver.blocks.allocated(), 0);
}

#[test]
fn a_continuation_without_start_is_refused() {
    let error = InboundError::ContinuationWithoutStart;
    Receiver::new().fails(&frame(FIN | CONTINUATION, &[1]), error);
    let mut receiver = Receiver::new();
    receiver.receive(&frame(BINARY, &[1]));
    receiver.receive(&frame(FIN | CONTINUATION, &[1]));
    receiver.fails(&frame(CONTINUATION, &[1]), error);
}

#[test]
fn a_new_message_inside_an_unfinished_one_is_refused() {
    for first in [FIN | BINARY, FIN | TEXT, BINARY] {
        let mut receiver = Receiver::new();
        receiver.receive(&frame(BINARY, &[1]));
        receiver.fails(&frame(first, b"x"), InboundError::MessageInsideMessage);
    }
}

#[test]
fn text_fails_with_its_first_bad_byte_even_inside_a_frame() {
    let error = InboundError::InvalidUtf8;
    Receiver::new().fails(&frame(FIN | TEXT, b"ab\xFFcd"), error);
    let mut receiver = Receiver::new();
    let bytes = frame(FIN | TEXT, &[b"ab\xED\xA0".as_slice(), &[b'x'; 50]].concat());
    assert_eq!(receiver.receive(&bytes[..9]), []);
    receiver.fails(&bytes[9..10], error);
}

#[test]
fn text_that_ends_inside_a_character_is_refused() {
    let error = InboundError::InvalidUtf8;
    Receiver::new().fails(&frame(FIN | TEXT, b"\xE2\x82"), error);
    let mut receiver = Receiver::new();
    receiver.receive(&frame(TEXT, b"\xE2"));
    receiver.fails(&frame(FIN | CONTINUATION, b"\x82"), error);
}

#[test]
fn a_message_above_the_limit_is_skipped_and_leaves_its_head() {
    let payload: Vec<u8> = (0..1001u32).map(|i| (i % 251) as u8).collect();
    let head = payload[..HEAD_BYTES].to_vec();
    let expected = [Event::TooLong(DataKind::Binary, head), binary(&[1])];
    let whole = frame(FIN | BINARY, &payload);
    let short_start = [frame(BINARY, &payload[..10]), frame(FIN | CONTINUATION, &payload[10..])];
    let late = [frame(BINARY, &payload[..900]), frame(FIN | CONTINUATION, &payload[900..])];
    for message in [whole, short_start.concat(), late.concat()] {
        let stream = [message, frame(FIN | BINARY, &[1])].concat();
        for piece in [1, 13, 600, stream.len()] {
            let mut receiver = Receiver::new();
            assert_eq!(receiver.receive_in_pieces(&stream, piece), expected, "pieces of {piece}");
            assert_eq!(receiver.blocks.in_use(), 0);
        }
    }
}

#[test]
fn a_message_at_the_limit_passes_in_place() {
    let mut receiver = Receiver::new();
    assert_eq!(receiver.receive(&frame(FIN | BINARY, &[1; 1000])), [binary(&[1; 1000])]);
    assert_eq!(receiver.assembled, 0);
}

#[test]
fn text_above_the_limit_is_still_checked() {
    let mut payload = vec![b'x'; 1500];
    let head = Event::TooLong(DataKind::Text, payload[..HEAD_BYTES].to_vec());
    assert_eq!(Receiver::new().receive(&frame(FIN | TEXT, &payload)), [head]);
    payload[1200] = 0xFF;
    let bytes = frame(FIN | TEXT, &payload);
    let mut receiver = Receiver::new();
    assert_eq!(receiver.receive(&bytes[..8 + 1200]), []);
    receiver.fails(&bytes[8 + 1200..][..1], InboundError::InvalidUtf8);
}

#[test]
fn a_grown_block_is_exchanged_when_only_the_head_is_kept() {
    let mut receiver = Receiver::with(InboundLimits {
        message_bytes_max: 10_000,
        message_bytes_hard: 20_000,
        ..LIMITS
    });
    // The pool has room for this one message and no more.
    receiver.blocks = BlockPool::new(16_384 + 8192);
    receiver.receive_in_pieces(&frame(BINARY, &[7; 9000]), 2000);
    assert_eq!(receiver.blocks.in_use(), 16_384);
    receiver.receive(&frame(CONTINUATION, &[7; 9000]));
    assert_eq!(receiver.blocks.in_use(), BLOCK_MIN);
    let expected = [Event::TooLong(DataKind::Binary, vec![7; HEAD_BYTES])];
    assert_eq!(receiver.receive(&frame(FIN | CONTINUATION, &[7])), expected);
}

#[test]
fn a_message_above_the_hard_limit_fails_with_the_header() {
    let error = InboundError::MessageTooLong;
    Receiver::new().fails(&frame(FIN | BINARY, &[0; 4001])[..8], error);
    let mut receiver = Receiver::new();
    receiver.receive(&frame(BINARY, &[0; 2000]));
    receiver.fails(&frame(CONTINUATION, &[0; 2001])[..8], error);
    Receiver::new()
        .fails(&[0x82, 0xFF, 0x7F, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0], error);
}

#[test]
fn the_number_of_fragments_is_bounded() {
    let mut receiver = Receiver::new();
    receiver.receive(&frame(BINARY, &[1]));
    for _ in 0..7 {
        assert_eq!(receiver.receive(&frame(CONTINUATION, &[1])), []);
    }
    receiver.fails(&frame(CONTINUATION, &[1]), InboundError::TooManyFragments);
}

#[test]
fn the_number_of_empty_fragments_is_bounded() {
    let mut receiver = Receiver::new();
    receiver.receive(&frame(BINARY, &[]));
    receiver.receive(&frame(CONTINUATION, &[]));
    receiver.fails(&frame(CONTINUATION, &[]), InboundError::TooManyEmptyFragments);
}

#[test]
fn an_unfragmented_message_counts_as_no_fragment() {
    let limits = InboundLimits { fragments_max: 0, empty_fragments_max: 0, ..LIMITS };
    let stream = [frame(FIN | BINARY, &[]), frame(FIN | BINARY, &[1; 9])].concat();
    for piece in [1, stream.len()] {
        let events = Receiver::with(limits).receive_in_pieces(&stream, piece);
        assert_eq!(events, [binary(&[]), binary(&[1; 9])]);
    }
}

#[test]
fn the_number_of_control_frames_is_bounded_per_second() {
    let limits = InboundLimits { control_frames_per_second: 3, ..LIMITS };
    let mut receiver = Receiver::with(limits);
    let ping = frame(FIN | PING, &[]);
    assert_eq!(receiver.receive(&ping.repeat(3)).len(), 3);
    receiver.now = receiver.now + Duration::from_secs(1);
    assert_eq!(receiver.receive(&ping.repeat(3)).len(), 3);
    receiver.fails(&frame(FIN | PONG, &[]), InboundError::TooManyControlFrames);
}

#[test]
fn control_frames_that_were_asked_for_do_not_count() {
    let limits = InboundLimits { control_frames_per_second: 3, ..LIMITS };
    let mut receiver = Receiver::with(limits);
    for _ in 0..9 {
        assert_eq!(receiver.receive(&frame(FIN | PONG, &[])).len(), 1);
        receiver.inbound.uncount_control();
    }
    assert_eq!(receiver.receive(&frame(FIN | PONG, &[]).repeat(3)).len(), 3);
    receiver.fails(&frame(FIN | PONG, &[]), InboundError::TooManyControlFrames);
}

#[test]
fn the_forms_of_a_close_frame() {
    let close = |payload: &[u8]| Receiver::new().receive(&frame(FIN | CLOSE, payload));
    assert_eq!(close(b""), [Event::Close(None, vec![])]);
    assert_eq!(close(b"\x03\xE8"), [Event::Close(Some(1000), vec![])]);
    assert_eq!(close(b"\x0F\xA1bye"), [Event::Close(Some(4001), b"bye".to_vec())]);
    assert_eq!(close(b"\x03"), [Event::Failed(InboundError::TruncatedCloseCode)]);
    assert_eq!(close(b"\x03\xED"), [Event::Failed(InboundError::InvalidCloseCode)]);
    assert_eq!(close(b"\x03\xE8\xFF"), [Event::Failed(InboundError::InvalidUtf8)]);
}

#[test]
fn nothing_is_accepted_after_a_close() {
    let mut receiver = Receiver::new();
    receiver.receive(&frame(BINARY, &[1]));
    let stream = [frame(FIN | CLOSE, b""), frame(FIN | CONTINUATION, &[1])].concat();
    assert_eq!(receiver.receive(&stream), [Event::Close(None, vec![])]);
    assert_eq!(receiver.receive(&frame(FIN | BINARY, &[1])), []);
    assert!(!receiver.inbound.is_mid_message());
    assert_eq!(receiver.blocks.in_use(), 0);
}

#[test]
fn nothing_is_accepted_after_an_error() {
    for bad in [frame(FIN | 0x3, &[]), frame(FIN | TEXT, &[0xFF])] {
        let mut receiver = Receiver::new();
        assert_eq!(receiver.receive(&bad).len(), 1);
        assert_eq!(receiver.receive(&frame(FIN | BINARY, &[1])), []);
    }
}

#[test]
fn a_pool_at_its_bound_refuses_and_nothing_leaks() {
    let mut receiver = Receiver::new();
    receiver.blocks = BlockPool::new(0);
    receiver.fails(&frame(FIN | BINARY, &[1; 100])[..50], InboundError::OutOfBlocks);
    let mut receiver = Receiver::with(InboundLimits { message_bytes_max: 4000, ..LIMITS });
    receiver.blocks = BlockPool::new(BLOCK_MIN);
    receiver.receive(&frame(FIN | BINARY, &[1; 4000])[..50]);
    receiver.fails(&[0; 3000], InboundError::OutOfBlocks);
}

#[test]
fn release_gives_back_what_is_held() {
    let mut receiver = Receiver::new();
    receiver.receive(&frame(BINARY, &[1; 100]));
    assert_eq!(receiver.blocks.in_use(), BLOCK_MIN);
    receiver.inbound.release(&mut receiver.blocks);
    assert_eq!(receiver.blocks.in_use(), 0);
    assert!(!receiver.inbound.is_mid_message());
}
