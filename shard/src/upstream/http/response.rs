//! Reads one response after the other from a backend connection, however its bytes are cut.

use std::ops::Range;

use thiserror::Error;

use super::body::{BodyFraming, Incomplete, Room, append};
use super::framing::{Framing, ResponseHead, head_end};
use crate::block::{Block, BlockPool};
use crate::snapshot::Service;
use crate::upstream::chunked::{ChunkedDecoder, ChunkedError};

/// Bounds of one response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseLimits {
    pub head_bytes_max: usize,
    /// At most 100, whatever is written here.
    pub headers_max: usize,
    pub body_bytes_max: usize,
    /// Bytes free in front of every body, for the headers under which it is passed on.
    pub headroom: usize,
}

impl ResponseLimits {
    #[must_use]
    pub fn of(service: &Service, headroom: usize) -> Self {
        Self {
            head_bytes_max: service.response_head_bytes_max,
            headers_max: 100,
            body_bytes_max: service.response_body_bytes_max,
            headroom,
        }
    }
}

/// Where a response stands after some input.
#[derive(Debug)]
pub enum Progress {
    /// All of the input was consumed.
    NeedMore,
    Complete {
        status: u16,
        body: Body,
        reuse: Reuse,
    },
}

/// A whole body. Never empty but as [`Body::Empty`].
#[derive(Debug)]
pub enum Body {
    Empty,
    /// This part of the input that completed it; at least `headroom` consumed bytes stand in front.
    InPlace(Range<usize>),
    /// With `headroom` in front. Whoever takes it gives it back to the pool.
    Assembled(Block),
}

/// May the connection carry another call?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    Keep,
    Close,
    /// Bytes follow a response after which the connection would have been kept. The response is
    /// sound, but the backend has lost count: close.
    Surplus,
}

/// What the end of the connection means.
#[derive(Debug)]
pub enum Eof {
    /// Not one byte of a response had come.
    NoResponse,
    /// It was the end of the body.
    Complete { status: u16, body: Body },
    /// The response is incomplete.
    Cut,
}

/// Why a response cannot be used. The connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum HttpError {
    #[error("not an HTTP/1 status line")]
    StatusLine,
    #[error("a malformed header field or line end")]
    Field,
    #[error("a head longer than allowed, or with too many fields")]
    HeadTooLong,
    #[error("a body longer than allowed")]
    BodyTooLong,
    #[error("contradictory or unsupported body framing")]
    Framing,
    #[error("{0}")]
    Chunked(ChunkedError),
    #[error("too many interim responses, or a change of protocol")]
    Interim,
    #[error("no block free for the response")]
    NoBlock,
}

/// Reads the responses of one backend connection; lives with it. Holds a block only while a
/// response is incomplete: call [`Self::abandon`] before dropping it then.
///
/// Bytes that arrive while no call is under way are for the caller to refuse.
#[derive(Debug, Default)]
pub struct ResponseReader {
    state: State,
    /// `<= INTERIM_MAX`, of the present response
    interim: u8,
    /// Some byte of the present response has come.
    begun: bool,
}

#[derive(Debug)]
enum State {
    /// `carry` holds the beginning of a head that one input did not complete.
    Head {
        carry: Option<Block>,
    },
    Body(Incomplete),
}

impl Default for State {
    fn default() -> Self {
        Self::Head { carry: None }
    }
}

impl ResponseReader {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in `input` and says how many of its bytes belong to the response. After an error or
    /// a complete response the reader is as new.
    pub fn next(
        &mut self,
        input: &[u8],
        limits: &ResponseLimits,
        blocks: &mut BlockPool,
    ) -> Result<(usize, Progress), HttpError> {
        self.begun |= !input.is_empty();
        let outcome = self.advance(input, limits, blocks);
        if outcome.is_err() {
            self.abandon(blocks);
        }
        outcome
    }

    /// Not one byte of the present response has come.
    #[must_use]
    pub fn is_untouched(&self) -> bool {
        !self.begun
    }

    /// The backend has closed its side.
    pub fn on_eof(&mut self, blocks: &mut BlockPool) -> Eof {
        let begun = self.begun;
        match &mut self.state {
            State::Body(body) if matches!(body.framing, BodyFraming::UntilClose) => {
                let (status, body) = (body.status, whole(body.block.take()));
                self.abandon(blocks);
                Eof::Complete { status, body }
            }
            _ => {
                self.abandon(blocks);
                if begun { Eof::Cut } else { Eof::NoResponse }
            }
        }
    }

    /// Drops what has come of a response.
    pub fn abandon(&mut self, blocks: &mut BlockPool) {
        let (State::Head { carry: held } | State::Body(Incomplete { block: held, .. })) =
            std::mem::take(self).state;
        if let Some(block) = held {
            blocks.give_back(block);
        }
    }

    fn advance(
        &mut self,
        input: &[u8],
        limits: &ResponseLimits,
        blocks: &mut BlockPool,
    ) -> Result<(usize, Progress), HttpError> {
        let mut at = 0;
        loop {
            match &mut self.state {
                State::Head { carry } => {
                    let Some((used, head)) = read_head(carry, &input[at..], limits, blocks)? else {
                        return Ok((input.len(), Progress::NeedMore));
                    };
                    at += used;
                    if let Some(body) = self.begin(head, &input[at..], at, limits)? {
                        at = if let Body::InPlace(range) = &body { range.end } else { at };
                        return Ok((
                            at,
                            self.complete(head.status, body, head.reuse, at < input.len()),
                        ));
                    }
                }
                State::Body(body) => {
                    let (used, ended) = body.read(&input[at..], limits, blocks)?;
                    at += used;
                    if !ended {
                        return Ok((input.len(), Progress::NeedMore));
                    }
                    let (status, reuse, body) = (body.status, body.reuse, whole(body.block.take()));
                    return Ok((at, self.complete(status, body, reuse, at < input.len())));
                }
            }
        }
    }

    /// Goes on behind a head: `rest` begins at offset `at` of the input. The body is returned if it
    /// needs no further reading.
    fn begin(
        &mut self,
        head: ResponseHead,
        rest: &[u8],
        at: usize,
        limits: &ResponseLimits,
    ) -> Result<Option<Body>, HttpError> {
        if head.status < 200 {
            // 101 answers an upgrade, and no call asks for one.
            if head.status == 101 || self.interim == INTERIM_MAX {
                return Err(HttpError::Interim);
            }
            self.interim += 1;
            return Ok(None);
        }
        let framing = match head.framing {
            Framing::Length(0) => return Ok(Some(Body::Empty)),
            Framing::Length(len) if len <= rest.len() && at >= limits.headroom => {
                return Ok(Some(Body::InPlace(at..at + len)));
            }
            Framing::Length(left) => BodyFraming::Length { left },
            Framing::Chunked => BodyFraming::Chunked(ChunkedDecoder::new()),
            Framing::UntilClose => BodyFraming::UntilClose,
        };
        let (status, reuse) = (head.status, head.reuse);
        self.state = State::Body(Incomplete { status, reuse, framing, block: None });
        Ok(None)
    }

    fn complete(&mut self, status: u16, body: Body, reuse: Reuse, surplus: bool) -> Progress {
        *self = Self::default();
        let reuse = if surplus && reuse == Reuse::Keep { Reuse::Surplus } else { reuse };
        Progress::Complete { status, body, reuse }
    }
}

/// The head at the start of what `carry` and `input` are together, and how many bytes of `input`
/// belong to it.
fn read_head(
    carry: &mut Option<Block>,
    input: &[u8],
    limits: &ResponseLimits,
    blocks: &mut BlockPool,
) -> Result<Option<(usize, ResponseHead)>, HttpError> {
    if input.is_empty() {
        return Ok(None);
    }
    let before = carry.as_ref().map_or(0, Block::len);
    let window = &input[..input.len().min(limits.head_bytes_max.saturating_sub(before))];
    if carry.is_none()
        && let Some(len) = head_end(window, 0)?
    {
        return Ok(Some((len, ResponseHead::parse(&window[..len], limits)?)));
    }
    append(carry, window, Room { headroom: 0, expected: window.len() }, blocks)?;
    let head = carry.as_ref().map_or(&[][..], Block::as_slice);
    let found = match head_end(head, before)? {
        Some(len) => Some((len - before, ResponseHead::parse(&head[..len], limits)?)),
        None if head.len() >= limits.head_bytes_max => return Err(HttpError::HeadTooLong),
        None => None,
    };
    if found.is_some()
        && let Some(block) = carry.take()
    {
        blocks.give_back(block);
    }
    Ok(found)
}

fn whole(block: Option<Block>) -> Body {
    block.map_or(Body::Empty, Body::Assembled)
}

/// Interim (1xx) responses that may stand before a final one.
const INTERIM_MAX: u8 = 8;
