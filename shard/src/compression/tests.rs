use proptest::prelude::*;

use super::memory::Meter;
use super::shrink::{encode, memory_bytes_max};
use super::work::PER_TURN;
use super::*;
use crate::wire::header::{Flags, RequestHeader, ResponseHeader};

const RULES: CompressionRules = CompressionRules {
    enabled: true,
    negotiate: false,
    threshold_bytes: 64,
    quality: 1,
    inflate_inbound: true,
};

fn message(flags: u8, payload: &[u8]) -> Vec<u8> {
    let header: Vec<u8> = (0..Flags(flags).layout().header_len() as u8).collect();
    let mut message = [&header, payload].concat();
    message[0] = flags;
    message
}

fn text(len: usize) -> Vec<u8> {
    b"{\"player\":17,\"x\":1200,\"y\":-48},".iter().copied().cycle().take(len).collect()
}

/// What even the best coder makes no smaller.
fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(7).fill(&mut bytes);
    bytes
}

fn compressed(payload: &[u8], quality: u8) -> Vec<u8> {
    let mut out = vec![0; payload.len() + 1024];
    let len = encode(payload, &mut out, quality, &Meter::default()).unwrap();
    out.truncate(len);
    out
}

fn inflated(payload: &[u8], room: usize) -> Result<Vec<u8>, NotInflated> {
    let mut out = vec![0; room];
    let len = Inflater::default().inflate(payload, &mut out, 1)?;
    out.truncate(len);
    Ok(out)
}

#[test]
fn a_payload_is_shrunk_and_the_header_keeps_all_but_its_flag() {
    for (flags, header_len) in [
        (0x00, RequestHeader::LEN),
        (0x11, RequestHeader::LEN),
        (0x28, RequestHeader::LEN),
        (0x40, ResponseHeader::LEN),
        (0xC1, ResponseHeader::LEN),
    ] {
        let plain = message(flags, &text(2000));
        let mut shrinker = Shrinker::default();
        let shrunk = shrinker.shrink(&plain, &RULES, 1).unwrap();
        assert!(shrunk.len() < plain.len() / 10, "{} bytes", shrunk.len());
        assert_eq!(shrunk[0], flags | 0x04);
        assert_eq!(shrunk[1..header_len], plain[1..header_len]);
        assert_eq!(inflated(&shrunk[header_len..], 2000).unwrap(), text(2000));
    }
}

#[test]
fn the_threshold_counts_the_payload_without_its_header() {
    let mut shrinker = Shrinker::default();
    for flags in [0x10, 0x40] {
        let short = message(flags, &text(63));
        assert_eq!(shrinker.shrink(&short, &RULES, 1), Err(NotShrunk::Unsuited));
        assert!(shrinker.shrink(&message(flags, &text(64)), &RULES, 1).is_ok());
    }
}

#[test]
fn compressed_and_opaque_payloads_are_left_alone() {
    let mut shrinker = Shrinker::default();
    for flags in [0x04, 0x02, 0x06, 0x44, 0x42, 0x34] {
        let plain = message(flags, &text(2000));
        assert_eq!(shrinker.shrink(&plain, &RULES, 1), Err(NotShrunk::Unsuited), "{flags:#x}");
    }
    let once = shrinker.shrink(&message(0, &text(2000)), &RULES, 1).unwrap().to_vec();
    assert_eq!(shrinker.shrink(&once, &RULES, 1), Err(NotShrunk::Unsuited), "never twice");
}

#[test]
fn what_is_no_message_is_left_alone() {
    let mut shrinker = Shrinker::default();
    for bytes in [&[][..], &[0; 30], &[0x40; 15], &[0; 31], &[0x40; 16]] {
        assert_eq!(shrinker.shrink(bytes, &RULES, 1), Err(NotShrunk::Unsuited));
    }
}

#[test]
fn what_would_not_become_smaller_stays_as_it_is() {
    for quality in 0..=CompressionRules::QUALITY_MAX {
        let rules = CompressionRules { quality, ..RULES };
        let mut shrinker = Shrinker::default();
        let noise = message(0, &noise(1000));
        let refused = shrinker.shrink(&noise, &rules, 1);
        assert_eq!(refused, Err(NotShrunk::Incompressible), "quality {quality}");
    }
}

#[test]
fn a_turn_has_time_for_some_and_the_next_turn_for_as_many() {
    for quality in 0..=CompressionRules::QUALITY_MAX {
        let rules = CompressionRules { quality, ..RULES };
        let plain = message(0, &text(1500));
        let mut shrinker = Shrinker::default();
        let mut shrunk_in = |turn| {
            let until_refused = (0..10_000).take_while(|_| {
                let outcome = shrinker.shrink(&plain, &rules, turn);
                assert!(matches!(outcome, Ok(_) | Err(NotShrunk::NoTime)), "{outcome:?}");
                outcome.is_ok()
            });
            until_refused.count()
        };
        let first = shrunk_in(1);
        assert!((1..10_000).contains(&first), "{first} at quality {quality}");
        assert_eq!(shrunk_in(2), first);
    }
}

#[test]
fn a_payload_that_no_turn_has_time_for_is_left_alone_at_once() {
    let mut shrinker = Shrinker::default();
    let long = message(0, &text(PAYLOAD_BYTES_MAX + 1));
    assert_eq!(shrinker.shrink(&long, &RULES, 1), Err(NotShrunk::Unsuited));
    let longest = message(0, &text(PAYLOAD_BYTES_MAX));
    assert!(shrinker.shrink(&longest, &RULES, 1).is_ok());
    let best = CompressionRules { quality: 11, ..RULES };
    assert_eq!(shrinker.shrink(&longest, &best, 2), Err(NotShrunk::NoTime));
    assert!(shrinker.shrink(&message(0, &text(1024)), &best, 2).is_ok(), "it has spent nothing");
}

#[test]
fn the_coder_takes_no_more_memory_than_is_planned_for() {
    for quality in 0..=CompressionRules::QUALITY_MAX {
        for payload in [text(PAYLOAD_BYTES_MAX), noise(PAYLOAD_BYTES_MAX), text(64)] {
            // What is longer is never tried at this quality.
            let longest = (0..=18).map(|bits| 1 << bits).filter(|len| {
                let mut shrinker = Shrinker::default();
                let rules = CompressionRules { quality, ..RULES };
                let refused = shrinker.shrink(&message(0, &text(*len)), &rules, 1);
                refused != Err(NotShrunk::NoTime)
            });
            let len = longest.max().unwrap().min(payload.len());
            let meter = Meter::default();
            encode(&payload[..len], &mut vec![0; len], quality, &meter);
            let scratch = 2 * (len + RequestHeader::LEN);
            let taken = meter.peak() + scratch;
            assert!(taken <= memory_bytes_max(quality), "{taken} bytes at quality {quality}");
            assert!(taken > 0);
        }
    }
}

#[test]
fn a_result_that_just_fits_is_inflated_and_one_byte_more_is_not() {
    for len in [1, 63, 64, 4096, 65_505] {
        let payload = compressed(&text(len), 5);
        assert_eq!(inflated(&payload, len).unwrap(), text(len));
        assert_eq!(inflated(&payload, len - 1), Err(NotInflated::TooLong), "{len}");
    }
}

#[test]
fn a_bomb_fills_the_room_and_no_more() {
    let bomb = compressed(&vec![b'a'; 200 << 20], 5);
    assert!(bomb.len() < 65_000, "{} bytes", bomb.len());
    let mut out = vec![0; 65_505];
    let meter = Meter::default();
    let outcome = inflate::decode(&bomb, &mut out, &meter);
    assert_eq!(outcome, Err(NotInflated::TooLong));
    assert!(meter.peak() <= inflate::MEMORY_BYTES_MAX, "{} bytes", meter.peak());
}

#[test]
fn half_streams_and_trailing_bytes_are_malformed() {
    let payload = compressed(&text(3000), 5);
    for len in 0..payload.len() {
        assert_eq!(inflated(&payload[..len], 4000), Err(NotInflated::Malformed), "{len}");
    }
    let trailing = [&payload[..], &[0]].concat();
    assert_eq!(inflated(&trailing, 4000), Err(NotInflated::Malformed));
    assert_eq!(inflated(&compressed(b"", 5), 4000), Err(NotInflated::Malformed), "nothing");
}

#[test]
fn a_window_larger_than_the_format_has_is_malformed() {
    // 0x11 announces the extension; the next byte would name 30 bits.
    assert_eq!(inflated(&[0x11, 30, 3], 4000), Err(NotInflated::Malformed));
}

#[test]
fn inflating_ends_with_its_time_and_goes_on_in_the_next_turn() {
    let payload = compressed(&vec![b'a'; 65_000], 5);
    let mut inflater = Inflater::default();
    let mut out = vec![0; 65_505];
    for turn in [1, 2] {
        let count =
            (0..10_000).take_while(|_| inflater.inflate(&payload, &mut out, turn).is_ok()).count();
        assert!((1..10_000).contains(&count), "{count}");
        assert_eq!(inflater.inflate(&payload, &mut out, turn), Err(NotInflated::NoTime));
    }
    assert!(PER_TURN.as_millis() < 10, "a turn stays short");
}

/// Payloads of all kinds: repetitive, random, mixed.
fn payloads() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..3000),
        proptest::collection::vec(0..4_u8, 0..3000),
        ("[a-f]{1,40}", 1..200_usize).prop_map(|(word, count)| word.repeat(count).into_bytes()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_shrunk_is_smaller_and_comes_back(
        payload in payloads(),
        flags in any::<u8>(),
        quality in 0..=CompressionRules::QUALITY_MAX,
    ) {
        let rules = CompressionRules { quality, threshold_bytes: 0, ..RULES };
        let plain = message(flags, &payload);
        let mut shrinker = Shrinker::default();
        // The scratch buffer has held something longer before.
        let _earlier = shrinker.shrink(&message(0, &text(4000)), &rules, 1);
        if let Ok(shrunk) = shrinker.shrink(&plain, &rules, 2) {
            prop_assert_eq!(flags & 0x06, 0);
            prop_assert!(shrunk.len() < plain.len());
            prop_assert_eq!(shrunk[0], flags | 0x04);
            let header_len = Flags(flags).layout().header_len();
            prop_assert_eq!(&shrunk[1..header_len], &plain[1..header_len]);
            prop_assert_eq!(inflated(&shrunk[header_len..], payload.len()).unwrap(), payload);
        }
    }

    #[test]
    fn any_bytes_are_inflated_or_refused_within_their_room(
        bytes in proptest::collection::vec(any::<u8>(), 0..500),
        room in 0..5000_usize,
    ) {
        let meter = Meter::default();
        let _outcome = inflate::decode(&bytes, &mut vec![0; room], &meter);
        prop_assert!(meter.peak() <= inflate::MEMORY_BYTES_MAX);
    }

    #[test]
    fn a_damaged_stream_is_inflated_or_refused_within_its_room(
        payload in payloads(),
        at in any::<prop::sample::Index>(),
        with in 1..=u8::MAX,
    ) {
        let mut stream = compressed(&payload, 5);
        let at = at.index(stream.len());
        stream[at] ^= with;
        let meter = Meter::default();
        let _outcome = inflate::decode(&stream, &mut vec![0; 4096], &meter);
        prop_assert!(meter.peak() <= inflate::MEMORY_BYTES_MAX);
    }
}
