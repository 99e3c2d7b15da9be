//! The message in progress of one connection, kept in a pooled block.
//!
//! So that an idle connection stays small, everything that is needed only in the middle of a frame
//! or message lives in the block too: its live bytes are a front of [`FRONT`] bytes (the progress,
//! then the bytes of an incomplete header or control frame) and after it the payload. The front
//! turns into headroom when the message is handed over.

use super::{DataKind, HEAD_BYTES, InboundError};
use crate::block::{BLOCK_MIN, Block, BlockPool};
use crate::wire::frame::{CONTROL_PAYLOAD_MAX, client_header_len};
use crate::wire::mask::{copy_masked, rotated, unmask};
use crate::wire::utf8::Utf8;

/// Longest control frame; an incomplete data header is shorter.
const STASH_MAX: usize = client_header_len(CONTROL_PAYLOAD_MAX) + CONTROL_PAYLOAD_MAX;
/// Encoded length of [`Progress`].
const PROGRESS: usize = 32;
/// Offset of the stash: a length byte, then the bytes.
const STASH_AT: usize = PROGRESS;
const FRONT: usize = STASH_AT + 1 + STASH_MAX;

/// Bytes of an incomplete header or control frame, as they came (masked).
#[derive(Debug, Clone, Copy)]
pub(super) struct Stash {
    bytes: [u8; STASH_MAX],
    len: u8,
}

impl Stash {
    pub(super) const EMPTY: Self = Self { bytes: [0; STASH_MAX], len: 0 };

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len()]
    }

    pub(super) fn len(&self) -> usize {
        usize::from(self.len)
    }

    pub(super) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len as u8);
    }

    /// Appends what fits of `bytes` up to a length of `target`; returns how many bytes that were.
    pub(super) fn fill(&mut self, bytes: &[u8], target: usize) -> usize {
        let at = self.len();
        let count = target.min(STASH_MAX).saturating_sub(at).min(bytes.len());
        self.bytes[at..at + count].copy_from_slice(&bytes[..count]);
        self.len += count as u8;
        count
    }
}

/// What becomes of the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Keep,
    /// Too long: only the first [`HEAD_BYTES`] are kept.
    Discard,
}

/// Where in the current data frame the stream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Position {
    BetweenFrames,
    /// Inside the payload of a frame after which more follow.
    Fragment,
    /// Inside the payload of the frame that ends the message.
    LastFrame,
}

/// The state of a message in progress.
#[derive(Debug, Clone, Copy)]
pub(super) struct Progress {
    /// `None` while only a stash is held.
    pub(super) kind: Option<DataKind>,
    pub(super) fate: Fate,
    pub(super) position: Position,
    /// Payload bytes that the current frame still owes.
    pub(super) remaining: u64,
    /// Declared payload bytes of all frames so far.
    pub(super) total: u64,
    /// As seen from the next payload byte; zero when the peer does not mask.
    pub(super) mask: [u8; 4],
    pub(super) fragments: u32,
    pub(super) empty_fragments: u32,
    pub(super) utf8: Utf8,
}

impl Progress {
    pub(super) const NONE: Self = Self {
        kind: None,
        fate: Fate::Keep,
        position: Position::BetweenFrames,
        remaining: 0,
        total: 0,
        mask: [0; 4],
        fragments: 0,
        empty_fragments: 0,
        utf8: Utf8::new(),
    };

    pub(super) fn is_inside_frame(self) -> bool {
        self.position != Position::BetweenFrames
    }

    fn encode(self) -> [u8; PROGRESS] {
        let mut out = [0; PROGRESS];
        out[..8].copy_from_slice(&self.remaining.to_ne_bytes());
        out[8..16].copy_from_slice(&self.total.to_ne_bytes());
        out[16..20].copy_from_slice(&self.mask);
        out[20..24].copy_from_slice(&self.fragments.to_ne_bytes());
        out[24..28].copy_from_slice(&self.empty_fragments.to_ne_bytes());
        out[28] = self.utf8.to_byte();
        out[29] = match self.kind {
            None => 0,
            Some(DataKind::Text) => 1,
            Some(DataKind::Binary) => 2,
        };
        out[30] = match self.fate {
            Fate::Keep => 0,
            Fate::Discard => 1,
        };
        out[31] = match self.position {
            Position::BetweenFrames => 0,
            Position::Fragment => 1,
            Position::LastFrame => 2,
        };
        out
    }

    fn decode(bytes: &[u8; PROGRESS]) -> Self {
        Self {
            remaining: u64::from_ne_bytes(field(bytes, 0)),
            total: u64::from_ne_bytes(field(bytes, 8)),
            mask: field(bytes, 16),
            fragments: u32::from_ne_bytes(field(bytes, 20)),
            empty_fragments: u32::from_ne_bytes(field(bytes, 24)),
            utf8: Utf8::from_byte(bytes[28]),
            kind: match bytes[29] {
                1 => Some(DataKind::Text),
                2 => Some(DataKind::Binary),
                _ => None,
            },
            fate: if bytes[30] == 0 { Fate::Keep } else { Fate::Discard },
            position: match bytes[31] {
                1 => Position::Fragment,
                2 => Position::LastFrame,
                _ => Position::BetweenFrames,
            },
        }
    }
}

fn field<const N: usize>(bytes: &[u8; PROGRESS], at: usize) -> [u8; N] {
    std::array::from_fn(|i| bytes[at + i])
}

/// A block with a front; owned by one connection while [`super::Inbound::is_mid_message`].
#[derive(Debug)]
pub(super) struct Assembly(Block);

impl Assembly {
    /// An empty one whose payload will be handed over with at least `headroom` bytes free in front.
    pub(super) fn take(headroom: usize, blocks: &mut BlockPool) -> Result<Self, InboundError> {
        let front_at = headroom.saturating_sub(FRONT);
        let wanted = front_at + FRONT + HEAD_BYTES;
        let mut block = blocks.take(wanted).ok_or(InboundError::OutOfBlocks)?;
        block.reset(front_at);
        let front = block.reserve(FRONT);
        front[..PROGRESS].copy_from_slice(&Progress::NONE.encode());
        front[STASH_AT] = 0;
        Ok(Self(block))
    }

    pub(super) fn give_back(self, blocks: &mut BlockPool) {
        blocks.give_back(self.0);
    }

    pub(super) fn progress(&self) -> Progress {
        self.0.as_slice().first_chunk().map_or(Progress::NONE, Progress::decode)
    }

    pub(super) fn set_progress(&mut self, progress: Progress) {
        self.0.as_mut_slice()[..PROGRESS].copy_from_slice(&progress.encode());
    }

    pub(super) fn stash(&self) -> Stash {
        let front = &self.0.as_slice()[STASH_AT..FRONT];
        let mut stash = Stash::EMPTY;
        stash.fill(&front[1..], usize::from(front[0]));
        stash
    }

    pub(super) fn set_stash(&mut self, stash: &Stash) {
        let front = &mut self.0.as_mut_slice()[STASH_AT..FRONT];
        front[0] = stash.len;
        front[1..=stash.len()].copy_from_slice(stash.as_slice());
    }

    /// Drops all payload but the head and swaps a grown block for a small one.
    pub(super) fn keep_only_head(mut self, blocks: &mut BlockPool) -> Result<Self, InboundError> {
        self.0.truncate(self.0.len().min(FRONT + HEAD_BYTES));
        if self.0.capacity() == BLOCK_MIN {
            return Ok(self);
        }
        let mut kept = [0; FRONT + HEAD_BYTES];
        let kept = &mut kept[..self.0.len()];
        kept.copy_from_slice(self.0.as_slice());
        // First give back, then take: a pool at its bound has room again.
        self.give_back(blocks);
        let mut small = blocks.take(kept.len()).ok_or(InboundError::OutOfBlocks)?;
        small.append(kept);
        Ok(Self(small))
    }

    /// Takes the next payload bytes of the current frame, which may be fewer than it owes. Never
    /// allocates by what a header declared, only by what has come. The block is given back when
    /// this fails.
    pub(super) fn absorb(
        self,
        piece: &mut [u8],
        blocks: &mut BlockPool,
    ) -> Result<Self, InboundError> {
        let mut progress = self.progress();
        let absorbed = match progress.fate {
            Fate::Keep => self.append(piece, &mut progress, blocks),
            Fate::Discard => self.discard(piece, &mut progress, blocks),
        };
        progress.mask = rotated(progress.mask, piece.len());
        progress.remaining -= piece.len() as u64;
        let mut assembly = absorbed?;
        assembly.set_progress(progress);
        Ok(assembly)
    }

    fn append(
        mut self,
        piece: &[u8],
        progress: &mut Progress,
        blocks: &mut BlockPool,
    ) -> Result<Self, InboundError> {
        match blocks.grow(self.0, piece.len()) {
            Ok(block) => self.0 = block,
            Err(block) => {
                blocks.give_back(block);
                return Err(InboundError::OutOfBlocks);
            }
        }
        let target = self.0.reserve(piece.len());
        copy_masked(piece, target, progress.mask, 0);
        if progress.kind == Some(DataKind::Text) && progress.utf8.feed(target).is_err() {
            self.give_back(blocks);
            return Err(InboundError::InvalidUtf8);
        }
        Ok(self)
    }

    fn discard(
        mut self,
        piece: &mut [u8],
        progress: &mut Progress,
        blocks: &mut BlockPool,
    ) -> Result<Self, InboundError> {
        unmask(piece, progress.mask, 0);
        // The smallest block has room for front and head.
        let missing = (FRONT + HEAD_BYTES).saturating_sub(self.0.len()).min(piece.len());
        self.0.append(&piece[..missing]);
        if progress.kind == Some(DataKind::Text) && progress.utf8.feed(piece).is_err() {
            self.give_back(blocks);
            return Err(InboundError::InvalidUtf8);
        }
        Ok(self)
    }

    /// The payload that was kept.
    pub(super) fn payload(&self) -> &[u8] {
        &self.0.as_slice()[FRONT..]
    }

    /// The block with nothing but the payload; the front has become headroom.
    pub(super) fn into_payload(mut self) -> Block {
        self.0.consume(FRONT);
        self.0
    }
}
