//! Any cut of any stream gives the same arrivals.

use proptest::prelude::*;

use super::*;

/// Bytes of one frame or of something that is none, before masking decides the rest.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    first: u8,
    payload: Vec<u8>,
    mask: [u8; 4],
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..40),
        2 => prop::collection::vec(any::<u8>(), 100..300),
        1 => prop::collection::vec(any::<u8>(), 800..2500),
    ]
}

fn characters() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => prop::collection::vec(any::<char>(), 0..30),
        1 => prop::collection::vec(any::<char>(), 200..500),
    ]
    .prop_map(|chars| chars.into_iter().collect::<String>().into_bytes())
}

fn close_payload() -> impl Strategy<Value = Vec<u8>> {
    let code = prop_oneof![998..1013_u16, 2998..3002_u16, 4998..5002_u16];
    (code, characters()).prop_map(|(code, reason)| {
        let len = reason.len().min(123);
        [&code.to_be_bytes()[..], &reason[..len]].concat()
    })
}

/// `bytes` as one message in as many frames as there are `cuts` and one more.
fn fragments(opcode: u8, bytes: &[u8], cuts: &[prop::sample::Index], mask: [u8; 4]) -> Vec<Piece> {
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    let last = cuts.len() - 2;
    let frames = cuts.windows(2).enumerate();
    frames
        .map(|(i, cut)| Piece {
            first: if i == 0 { opcode } else { CONTINUATION } | if i == last { FIN } else { 0 },
            payload: bytes[cut[0]..cut[1]].to_vec(),
            mask,
        })
        .collect()
}

/// One message with a control frame somewhere in it, or rarely frames that make no sense.
fn message() -> impl Strategy<Value = Vec<Piece>> {
    let cuts = prop_oneof![
        2 => Just(Vec::new()),
        1 => prop::collection::vec(any::<prop::sample::Index>(), 1..6),
    ];
    let data = prop_oneof![
        2 => payload().prop_map(|bytes| (BINARY, bytes)),
        2 => characters().prop_map(|bytes| (TEXT, bytes)),
    ];
    let control = (prop_oneof![Just(PING), Just(PONG)], prop::collection::vec(any::<u8>(), 0..126));
    let control = prop::option::of((any::<prop::sample::Index>(), control));
    let sound = (data, cuts, any::<[u8; 4]>(), control).prop_map(
        |((opcode, bytes), cuts, mask, control)| {
            let mut pieces = fragments(opcode, &bytes, &cuts, mask);
            if let Some((at, (opcode, payload))) = control {
                let at = at.index(pieces.len() + 1);
                pieces.insert(at, Piece { first: FIN | opcode, payload, mask });
            }
            pieces
        },
    );
    let stray = (any::<u8>(), payload(), any::<[u8; 4]>())
        .prop_map(|(first, payload, mask)| vec![Piece { first, payload, mask }]);
    let plausible = (0..3_u8, any::<bool>(), payload(), any::<[u8; 4]>()).prop_map(
        |(opcode, fin, payload, mask)| {
            vec![Piece { first: opcode | if fin { FIN } else { 0 }, payload, mask }]
        },
    );
    let close = (close_payload(), any::<[u8; 4]>())
        .prop_map(|(payload, mask)| vec![Piece { first: FIN | CLOSE, payload, mask }]);
    prop_oneof![20 => sound, 1 => stray, 1 => plausible, 1 => close]
}

pub(super) fn pieces() -> impl Strategy<Value = Vec<Piece>> {
    prop::collection::vec(message(), 1..10).prop_map(|messages| messages.concat())
}

pub(super) fn encode(pieces: &[Piece], role: Role) -> Vec<u8> {
    let frames = pieces.iter().map(|piece| match role {
        Role::Server => masked_frame(piece.first, &piece.payload, piece.mask),
        Role::Client => {
            // Masked with zeros, then without the mask bit and the mask.
            let mut frame = masked_frame(piece.first, &piece.payload, [0; 4]);
            let mask_at = frame.len() - piece.payload.len() - 4;
            frame.drain(mask_at..mask_at + 4);
            frame[1] &= 0x7F;
            frame
        }
    });
    frames.collect::<Vec<_>>().concat()
}

/// Feeds `bytes` in pieces of the given lengths (over and over), until the first error.
fn receive_cut(receiver: &mut Receiver, mut bytes: &[u8], lengths: &[usize]) -> Vec<Event> {
    let mut events = Vec::new();
    for len in lengths.iter().cycle() {
        let (now, later) = bytes.split_at((*len).min(bytes.len()));
        events.extend(receiver.receive(now));
        if later.is_empty() || matches!(events.last(), Some(Event::Failed(_))) {
            break;
        }
        bytes = later;
    }
    events
}

fn lengths() -> impl Strategy<Value = Vec<usize>> {
    let len = prop_oneof![1..20_usize, 1..300_usize, 1..2048_usize];
    prop::collection::vec(len, 1..20)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_cut_of_a_stream_gives_the_same_arrivals(
        pieces in pieces(),
        lengths in lengths(),
        client in any::<bool>(),
    ) {
        let role = if client { Role::Client } else { Role::Server };
        let limits = InboundLimits { role, ..LIMITS };
        let bytes = encode(&pieces, role);
        let expected = Receiver::with(limits).receive(&bytes);
        for lengths in [&lengths[..], &[1]] {
            let mut receiver = Receiver::with(limits);
            prop_assert_eq!(&receive_cut(&mut receiver, &bytes, lengths), &expected);
            let held = receiver.blocks.in_use();
            prop_assert_eq!(receiver.inbound.is_mid_message(), held > 0);
            receiver.inbound.release(&mut receiver.blocks);
            prop_assert_eq!(receiver.blocks.in_use(), 0);
        }
    }

    #[test]
    fn a_small_pool_refuses_but_never_leaks(
        pieces in pieces(),
        lengths in lengths(),
        bound in prop::sample::select(vec![0, BLOCK_MIN, 2 * BLOCK_MIN, 4 * BLOCK_MIN]),
    ) {
        let mut receiver = Receiver::new();
        receiver.blocks = BlockPool::new(bound);
        receive_cut(&mut receiver, &encode(&pieces, Role::Server), &lengths);
        receiver.inbound.release(&mut receiver.blocks);
        prop_assert_eq!(receiver.blocks.in_use(), 0);
    }

    #[test]
    fn noise_never_panics(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..6),
    ) {
        let mut receiver = Receiver::new();
        for chunk in chunks {
            receiver.receive(&chunk);
        }
    }
}
