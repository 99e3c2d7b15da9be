//! The receive side of one WebSocket connection: bytes in, messages out, in place where possible.
//!
//! A whole unfragmented message is unmasked where it lies. Everything else is taken apart as it
//! arrives and collected in a pooled block, which grows with what has come, never
//! with what a header declares. What a message means is the business of `session`.

mod assembly;
mod control;
mod error;
#[cfg(test)]
mod tests;

use std::ops::Range;

use self::assembly::{Assembly, Fate, Position, Progress, Stash};
use super::frame::{ControlKind, ControlPayload, FrameHeader, HEADER_MAX, OpCode, Role};
use super::mask::unmask;
use crate::block::{Block, BlockPool};
use crate::clock::Instant;

pub use self::error::InboundError;

/// What is kept of a message that is too long: enough for the binary header of a request.
pub const HEAD_BYTES: usize = 31;

/// Bounds of one connection; shared by all connections of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InboundLimits {
    pub role: Role,
    /// Longer messages are skipped and reported as [`Arrival::TooLong`]. <= `message_bytes_hard`
    pub message_bytes_max: usize,
    /// A message that declares more ends the connection.
    pub message_bytes_hard: usize,
    /// Frames of one fragmented message.
    pub fragments_max: u32,
    /// Those among them that carry nothing.
    pub empty_fragments_max: u32,
    /// Without those that [`Inbound::uncount_control`] takes off.
    pub control_frames_per_second: u32,
    /// Free bytes in front of an [`Arrival::Assembled`] payload.
    pub block_headroom: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataKind {
    Text,
    Binary,
}

/// What [`Inbound::next`] found.
#[derive(Debug)]
pub enum Arrival {
    /// The input is used up; an incomplete frame may have been kept.
    NeedMore,
    /// A whole unfragmented message: `input[payload]`, unmasked in place. The frame header in front
    /// of it lies inside `input` too and may be overwritten.
    InPlace {
        kind: DataKind,
        payload: Range<usize>,
    },
    /// A message that came in pieces. The caller owns the block, which has at least
    /// [`InboundLimits::block_headroom`] bytes free in front.
    Assembled {
        kind: DataKind,
        block: Block,
    },
    /// A message above [`InboundLimits::message_bytes_max`] has ended; its payload is gone but for
    /// the first `head_len` bytes.
    TooLong {
        kind: DataKind,
        head: [u8; HEAD_BYTES],
        head_len: usize,
    },
    Ping(ControlPayload),
    Pong(ControlPayload),
    /// The peer closes; code and reason are valid. Nothing is accepted after it.
    Close {
        code: Option<u16>,
        reason: ControlPayload,
    },
}

/// The receive state of one connection. Holds at most one pooled block, and none between messages.
#[derive(Debug, Default)]
pub struct Inbound {
    held: Option<Assembly>,
    /// Second of the monotonic clock that `control_count` belongs to; wraps after 136 years.
    control_second: u32,
    /// Saturates: a limit of 65 535 or more is none.
    control_count: u16,
    gate: Gate,
}

/// Whether input is still looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Gate {
    #[default]
    Open,
    /// After a close frame or an error.
    Shut,
}

/// The start of a frame, taken from the stream.
enum Start {
    NeedMore,
    Data(FrameHeader),
    Control(ControlKind, ControlPayload),
}

impl Inbound {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Consumes a prefix of `input` and returns its length with what it held; to be called again
    /// with the rest until [`Arrival::NeedMore`]. After an error, and after [`Arrival::Close`],
    /// all further input is swallowed. Bytes of `input` in front of the returned length may have
    /// been overwritten.
    #[inline]
    pub fn next(
        &mut self,
        input: &mut [u8],
        now: Instant,
        limits: &InboundLimits,
        blocks: &mut BlockPool,
    ) -> Result<(usize, Arrival), InboundError> {
        if self.held.is_none()
            && self.gate == Gate::Open
            && let Ok(Some(header)) = FrameHeader::parse(input, limits.role)
            && let Some((kind, payload)) = whole_message(&header, input.len(), limits)
        {
            let bytes = &mut input[payload.clone()];
            if let Some(mask) = header.mask {
                unmask(bytes, mask, 0);
            }
            if kind == DataKind::Binary || std::str::from_utf8(bytes).is_ok() {
                return Ok((payload.end, Arrival::InPlace { kind, payload }));
            }
            self.gate = Gate::Shut;
            return Err(InboundError::InvalidUtf8);
        }
        self.next_streamed(input, now, limits, blocks)
    }

    /// Whether a part of a frame or of a fragmented message is held, which deserves a deadline.
    #[must_use]
    pub fn is_mid_message(&self) -> bool {
        self.held.is_some()
    }

    /// The connection ends: gives back what is held.
    pub fn release(&mut self, blocks: &mut BlockPool) {
        self.gate = Gate::Shut;
        if let Some(held) = self.held.take() {
            held.give_back(blocks);
        }
    }

    #[inline(never)]
    fn next_streamed(
        &mut self,
        input: &mut [u8],
        now: Instant,
        limits: &InboundLimits,
        blocks: &mut BlockPool,
    ) -> Result<(usize, Arrival), InboundError> {
        if self.gate == Gate::Shut {
            return Ok((input.len(), Arrival::NeedMore));
        }
        let found = self.stream(input, now, limits, blocks);
        if matches!(found, Err(_) | Ok((_, Arrival::Close { .. }))) {
            self.release(blocks);
        }
        found
    }

    /// The general way: any cut, any mixture of fragments and control frames.
    fn stream(
        &mut self,
        input: &mut [u8],
        now: Instant,
        limits: &InboundLimits,
        blocks: &mut BlockPool,
    ) -> Result<(usize, Arrival), InboundError> {
        let mut used = 0;
        loop {
            if let Some(arrival) = self.take_payload(input, &mut used, blocks)? {
                return Ok((used, arrival));
            }
            if used == input.len() {
                return Ok((used, Arrival::NeedMore));
            }
            match self.take_start(input, &mut used, limits, blocks)? {
                Start::NeedMore => return Ok((used, Arrival::NeedMore)),
                Start::Data(header) => self.begin_frame(&header, limits, blocks)?,
                Start::Control(kind, payload) => {
                    self.admit_control(now, limits.control_frames_per_second)?;
                    return Ok((used, control::arrival(kind, payload)?));
                }
            }
        }
    }

    /// Takes payload bytes of the frame in progress, if there is one; an arrival when they end the
    /// message.
    fn take_payload(
        &mut self,
        input: &mut [u8],
        used: &mut usize,
        blocks: &mut BlockPool,
    ) -> Result<Option<Arrival>, InboundError> {
        let Some(assembly) = self.held.take_if(|held| held.progress().is_inside_frame()) else {
            return Ok(None);
        };
        let owed = usize::try_from(assembly.progress().remaining).unwrap_or(usize::MAX);
        let end = *used + owed.min(input.len() - *used);
        let mut assembly = assembly.absorb(&mut input[*used..end], blocks)?;
        *used = end;
        let mut progress = assembly.progress();
        if progress.remaining == 0 && progress.position == Position::LastFrame {
            return finish(assembly, blocks).map(Some);
        }
        if progress.remaining == 0 {
            progress.position = Position::BetweenFrames;
            assembly.set_progress(progress);
        }
        self.held = Some(assembly);
        Ok(None)
    }

    /// Takes a data frame's header or a whole control frame, continuing with what was stashed; an
    /// incomplete one is stashed.
    fn take_start(
        &mut self,
        input: &[u8],
        used: &mut usize,
        limits: &InboundLimits,
        blocks: &mut BlockPool,
    ) -> Result<Start, InboundError> {
        let input = &input[*used..];
        let mut stash = self.held.as_ref().map_or(Stash::EMPTY, Assembly::stash);
        let stashed = stash.len();
        stash.fill(input, HEADER_MAX);
        let header = FrameHeader::parse(stash.as_slice(), limits.role)?;
        let wanted = header.map_or(HEADER_MAX, |header| match header.opcode.control() {
            Some(_) => header.header_len + usize::try_from(header.payload_len).unwrap_or(0),
            None => header.header_len,
        });
        stash.truncate(stashed);
        *used += stash.fill(input, wanted);
        let Some(header) = header.filter(|_| stash.len() == wanted) else {
            return self.keep_stash(&stash, limits, blocks);
        };
        self.clear_stash(blocks);
        let Some(kind) = header.opcode.control() else {
            return Ok(Start::Data(header));
        };
        let mut payload = ControlPayload::new(&stash.as_slice()[header.header_len..]);
        if let Some(mask) = header.mask {
            unmask(payload.as_mut_slice(), mask, 0);
        }
        Ok(Start::Control(kind, payload))
    }

    fn keep_stash(
        &mut self,
        stash: &Stash,
        limits: &InboundLimits,
        blocks: &mut BlockPool,
    ) -> Result<Start, InboundError> {
        self.held_or_new(limits, blocks)?.set_stash(stash);
        Ok(Start::NeedMore)
    }

    /// The stash was used; a block that held nothing else goes back.
    fn clear_stash(&mut self, blocks: &mut BlockPool) {
        let Some(mut held) = self.held.take() else {
            return;
        };
        if held.progress().kind.is_none() {
            held.give_back(blocks);
            return;
        }
        held.set_stash(&Stash::EMPTY);
        self.held = Some(held);
    }

    /// Checks a data frame's header against the message in progress and the limits, and gets ready
    /// for its payload.
    fn begin_frame(
        &mut self,
        header: &FrameHeader,
        limits: &InboundLimits,
        blocks: &mut BlockPool,
    ) -> Result<(), InboundError> {
        let mut progress = self.held.as_ref().map_or(Progress::NONE, Assembly::progress);
        progress.kind = Some(match (header.opcode, progress.kind) {
            (OpCode::Continuation, Some(kind)) => kind,
            (OpCode::Continuation, None) => return Err(InboundError::ContinuationWithoutStart),
            (_, Some(_)) => return Err(InboundError::MessageInsideMessage),
            (OpCode::Text, None) => DataKind::Text,
            (_, None) => DataKind::Binary,
        });
        let fragmented = header.opcode == OpCode::Continuation || !header.fin;
        progress.fragments = progress.fragments.saturating_add(u32::from(fragmented));
        if progress.fragments > limits.fragments_max {
            return Err(InboundError::TooManyFragments);
        }
        let empty = fragmented && header.payload_len == 0;
        progress.empty_fragments = progress.empty_fragments.saturating_add(u32::from(empty));
        if progress.empty_fragments > limits.empty_fragments_max {
            return Err(InboundError::TooManyEmptyFragments);
        }
        progress.total = progress.total.saturating_add(header.payload_len);
        if progress.total > limits.message_bytes_hard as u64 {
            return Err(InboundError::MessageTooLong);
        }
        progress.remaining = header.payload_len;
        progress.mask = header.mask.unwrap_or_default();
        progress.position = if header.fin { Position::LastFrame } else { Position::Fragment };
        let too_long = progress.total > limits.message_bytes_max as u64;
        if too_long && progress.fate == Fate::Keep {
            progress.fate = Fate::Discard;
            if let Some(held) = self.held.take() {
                self.held = Some(held.keep_only_head(blocks)?);
            }
        }
        self.held_or_new(limits, blocks)?.set_progress(progress);
        Ok(())
    }

    fn admit_control(&mut self, now: Instant, per_second: u32) -> Result<(), InboundError> {
        let second = (now.0 / 1_000_000_000) as u32;
        if second != self.control_second {
            self.control_second = second;
            self.control_count = 0;
        }
        self.control_count = self.control_count.saturating_add(1);
        if u32::from(self.control_count) > per_second {
            return Err(InboundError::TooManyControlFrames);
        }
        Ok(())
    }

    /// The last control frame was asked for: it does not count among those that a peer may send.
    pub fn uncount_control(&mut self) {
        self.control_count = self.control_count.saturating_sub(1);
    }

    /// What is held; a block is taken when nothing is yet.
    fn held_or_new(
        &mut self,
        limits: &InboundLimits,
        blocks: &mut BlockPool,
    ) -> Result<&mut Assembly, InboundError> {
        match &mut self.held {
            Some(held) => Ok(held),
            none => Ok(none.insert(Assembly::take(limits.block_headroom, blocks)?)),
        }
    }
}

/// The payload of a data message that lies whole in `input_len` bytes and is not too long.
#[inline]
fn whole_message(
    header: &FrameHeader,
    input_len: usize,
    limits: &InboundLimits,
) -> Option<(DataKind, Range<usize>)> {
    let kind = match header.opcode {
        OpCode::Binary => DataKind::Binary,
        OpCode::Text => DataKind::Text,
        OpCode::Continuation | OpCode::Close | OpCode::Ping | OpCode::Pong => return None,
    };
    let payload_len = usize::try_from(header.payload_len).ok()?;
    let present = input_len - header.header_len;
    let fits = payload_len <= present && payload_len <= limits.message_bytes_max;
    (header.fin && fits).then(|| (kind, header.header_len..header.header_len + payload_len))
}

/// Hands over a message whose last byte has come.
fn finish(assembly: Assembly, blocks: &mut BlockPool) -> Result<Arrival, InboundError> {
    let progress = assembly.progress();
    let kind = progress.kind.unwrap_or(DataKind::Binary);
    if progress.utf8.finish().is_err() {
        assembly.give_back(blocks);
        return Err(InboundError::InvalidUtf8);
    }
    match progress.fate {
        Fate::Keep => Ok(Arrival::Assembled { kind, block: assembly.into_payload() }),
        Fate::Discard => {
            let mut head = [0; HEAD_BYTES];
            let kept = assembly.payload();
            let head_len = kept.len().min(HEAD_BYTES);
            head[..head_len].copy_from_slice(&kept[..head_len]);
            assembly.give_back(blocks);
            Ok(Arrival::TooLong { kind, head, head_len })
        }
    }
}
