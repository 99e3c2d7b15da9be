//! A connection's receive side with its pool, and the arrivals as values that can be compared.

use corelane_shard::block::BlockPool;
use corelane_shard::clock::Instant;
use corelane_shard::wire::frame::Role;
use corelane_shard::wire::inbound::{Arrival, DataKind, Inbound, InboundError, InboundLimits};

pub(crate) const LIMITS: InboundLimits = InboundLimits {
    role: Role::Server,
    message_bytes_max: 1000,
    message_bytes_hard: 4000,
    fragments_max: 8,
    empty_fragments_max: 2,
    control_frames_per_second: 20,
    block_headroom: 14,
};

const NOW: Instant = Instant(7_000_000_000);

/// An arrival with its bytes copied out, or the error that ended the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    Message(DataKind, Vec<u8>),
    /// With as much of its head as is kept.
    TooLong(DataKind, Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, Vec<u8>),
    Failed(InboundError),
}

/// Everything that arrives when `bytes` come in pieces of these lengths, over and over.
pub(crate) fn received(
    bytes: &[u8],
    lengths: impl Iterator<Item = usize>,
    limits: &InboundLimits,
) -> Vec<Event> {
    let (mut inbound, mut blocks) = (Inbound::new(), BlockPool::new(1 << 20));
    let mut events = Vec::new();
    let mut rest = bytes;
    for len in lengths {
        let (piece, later) = rest.split_at(len.clamp(1, rest.len().max(1)).min(rest.len()));
        receive(&mut inbound, &mut piece.to_vec(), limits, &mut blocks, &mut events);
        assert_eq!(inbound.is_mid_message(), blocks.in_use() > 0, "a block is held in a message");
        rest = later;
        if rest.is_empty() {
            break;
        }
    }
    inbound.release(&mut blocks);
    assert_eq!(blocks.in_use(), 0, "every block comes back");
    events
}

fn receive(
    inbound: &mut Inbound,
    mut rest: &mut [u8],
    limits: &InboundLimits,
    blocks: &mut BlockPool,
    events: &mut Vec<Event>,
) {
    loop {
        let (used, arrival) = match inbound.next(rest, NOW, limits, blocks) {
            Ok(next) => next,
            Err(error) => {
                assert!(!inbound.is_mid_message(), "an error gives everything back");
                events.push(Event::Failed(error));
                return;
            }
        };
        let (taken, left) = rest.split_at_mut(used);
        match arrival {
            Arrival::NeedMore => {
                assert!(left.is_empty(), "whoever needs more has taken all");
                return;
            }
            Arrival::InPlace { kind, payload } => {
                assert!(payload.end == used && payload.start >= 2, "the payload ends the frame");
                events.push(Event::Message(kind, taken[payload].to_vec()));
            }
            Arrival::Assembled { kind, mut block } => {
                events.push(Event::Message(kind, block.as_slice().to_vec()));
                block.prepend(limits.block_headroom);
                blocks.give_back(block);
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

/// Lengths of pieces, without end: the same ones for the same seed.
pub(crate) fn pieces(seed: u8) -> impl Iterator<Item = usize> {
    let mut random = fastrand::Rng::with_seed(seed.into());
    let longest = [1, 3, 20, 300][usize::from(seed % 4)];
    std::iter::repeat_with(move || random.usize(1..=longest))
}
