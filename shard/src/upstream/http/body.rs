//! A response's body while it is incomplete: which bytes belong to it, and the block that they
//! are collected in.

use super::response::{HttpError, ResponseLimits, Reuse};
use crate::block::{Block, BlockPool};
use crate::upstream::chunked::{ChunkedDecoder, Step};

/// A body of which more is to come.
#[derive(Debug)]
pub(super) struct Incomplete {
    pub(super) status: u16,
    pub(super) reuse: Reuse,
    pub(super) framing: BodyFraming,
    pub(super) block: Option<Block>,
}

#[derive(Debug)]
pub(super) enum BodyFraming {
    /// `left > 0`
    Length {
        left: usize,
    },
    Chunked(ChunkedDecoder),
    UntilClose,
}

impl Incomplete {
    /// Bytes consumed, and whether they ended the body.
    pub(super) fn read(
        &mut self,
        input: &[u8],
        limits: &ResponseLimits,
        blocks: &mut BlockPool,
    ) -> Result<(usize, bool), HttpError> {
        let Self { framing, block, .. } = self;
        match framing {
            BodyFraming::Length { left } => {
                let len = input.len().min(*left);
                append_body(block, &input[..len], *left, limits, blocks)?;
                *left -= len;
                Ok((len, *left == 0))
            }
            BodyFraming::Chunked(decoder) => {
                let mut at = 0;
                loop {
                    let (used, step) = decoder.next(&input[at..]).map_err(HttpError::Chunked)?;
                    match step {
                        Step::Payload(range) => {
                            let payload = &input[at..][range];
                            append_body(block, payload, payload.len(), limits, blocks)?;
                        }
                        Step::NeedMore => return Ok((input.len(), false)),
                        Step::Complete => return Ok((at + used, true)),
                    }
                    at += used;
                }
            }
            BodyFraming::UntilClose => {
                append_body(block, input, input.len(), limits, blocks)?;
                Ok((input.len(), false))
            }
        }
    }
}

fn append_body(
    block: &mut Option<Block>,
    bytes: &[u8],
    expected: usize,
    limits: &ResponseLimits,
    blocks: &mut BlockPool,
) -> Result<(), HttpError> {
    if block.as_ref().map_or(0, Block::len) + bytes.len() > limits.body_bytes_max {
        return Err(HttpError::BodyTooLong);
    }
    let room = Room { headroom: limits.headroom, expected };
    append(block, bytes, room, blocks)
}

/// How large a new block has to be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    pub(super) headroom: usize,
    pub(super) expected: usize,
}

/// Appends to the block in `slot`; takes one when there is none, and something to append.
pub(super) fn append(
    slot: &mut Option<Block>,
    bytes: &[u8],
    room: Room,
    blocks: &mut BlockPool,
) -> Result<(), HttpError> {
    if bytes.is_empty() {
        return Ok(());
    }
    let block = match slot.take() {
        Some(block) => match blocks.grow(block, bytes.len()) {
            Ok(grown) => grown,
            Err(kept) => {
                *slot = Some(kept);
                return Err(HttpError::NoBlock);
            }
        },
        None => {
            let mut block = blocks.take(room.headroom + room.expected).ok_or(HttpError::NoBlock)?;
            block.reset(room.headroom);
            block
        }
    };
    slot.insert(block).append(bytes);
    Ok(())
}
