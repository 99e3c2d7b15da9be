//! Brotli between sessions and the rest: messages to clients are compressed on their way into an
//! outbox, messages of clients inflated on their way to a backend. Everything here begins with a
//! look at the rules, which is all that it costs while it is off.

use super::connection::Phase;
use super::sending::NotQueued;
use super::{Arrived, Engine, Role, Source};
use crate::block::Block;
use crate::buffers::Lent;
use crate::compression::{NotInflated, NotShrunk, PAYLOAD_BYTES_MAX};
use crate::id::ConnectionKey;
use crate::probe::Compression;
use crate::sockets::Sockets;
use crate::wire::code::SessionRefusal;
use crate::wire::frame::{
    FrameHeader, HEADER_MAX, OpCode, Role as FrameRole, server_header_len, write_server_header,
};
use crate::wire::header::{Flags, Priority, RequestHeader};

/// Longer frames are not looked at.
const FRAME_BYTES_MAX: usize = HEADER_MAX + RequestHeader::LEN + PAYLOAD_BYTES_MAX;

/// One frame for many sessions: compressed once, for the first of them that takes it so.
#[derive(Debug)]
pub(super) enum ForAll {
    Untried,
    Useless,
    Frame(Block),
}

impl<S: Sockets> Engine<S> {
    /// Queues a whole frame that lies in a receive buffer: compressed if that is agreed and helps,
    /// else by reference when it is alone and can leave this turn.
    pub(super) fn queue_lent(
        &mut self,
        to: ConnectionKey,
        lent: Lent,
        priority: Priority,
    ) -> Result<(), NotQueued> {
        if self.compresses_for(to, lent.len())
            && let Some(message) = message_of(lent.as_slice())
            && let Some(queued) = self.queue_compressed(to, message, priority)
        {
            self.buffers.give_back(lent);
            return queued;
        }
        self.queue_lent_as_is(to, lent, priority)
    }

    /// As [`Self::queue_lent`], for what lies in a block.
    pub(super) fn queue_block(
        &mut self,
        to: ConnectionKey,
        block: Block,
        priority: Priority,
    ) -> Result<(), NotQueued> {
        if self.compresses_for(to, block.len())
            && let Some(message) = message_of(block.as_slice())
            && let Some(queued) = self.queue_compressed(to, message, priority)
        {
            self.blocks.give_back(block);
            return queued;
        }
        self.queue_block_as_is(to, block, priority)
    }

    /// Queues `len` bytes that `write` puts straight into the outbox, or compressed.
    pub(super) fn queue_with(
        &mut self,
        to: ConnectionKey,
        len: usize,
        priority: Priority,
        write: impl FnOnce(&mut [u8]),
    ) -> Result<(), NotQueued> {
        if !self.compresses_for(to, len) {
            return self.queue_with_as_is(to, len, priority, write);
        }
        let Some(mut block) = self.blocks.take(len) else {
            return self.queue_with_as_is(to, len, priority, write);
        };
        write(block.reserve(len));
        let compressed = message_of(block.as_slice())
            .and_then(|message| self.queue_compressed(to, message, priority));
        let queued = compressed.unwrap_or_else(|| {
            self.queue_with_as_is(to, len, priority, |room| room.copy_from_slice(block.as_slice()))
        });
        self.blocks.give_back(block);
        queued
    }

    /// Whether a frame or message of `len` bytes to this connection may leave compressed.
    #[inline]
    pub(super) fn compresses_for(&self, to: ConnectionKey, len: usize) -> bool {
        let rules = &self.limits.session.compression;
        rules.enabled
            && (rules.threshold_bytes..=FRAME_BYTES_MAX).contains(&len)
            && self.table.get(to).is_some_and(|connection| {
                matches!(connection.role, Role::Session(_))
                    && connection.phase == Phase::Open
                    && (connection.accepts_brotli || !rules.negotiate)
            })
    }

    /// `None` when the message has to leave as it is.
    pub(super) fn queue_compressed(
        &mut self,
        to: ConnectionKey,
        message: &[u8],
        priority: Priority,
    ) -> Option<Result<(), NotQueued>> {
        self.compress(message, |engine, shrunk| {
            let header_len = server_header_len(shrunk.len());
            engine.queue_with_as_is(to, header_len + shrunk.len(), priority, |room| {
                write_server_header(&mut room[..header_len], OpCode::Binary, shrunk.len());
                room[header_len..].copy_from_slice(shrunk);
            })
        })
    }

    /// The compressed form of a frame that goes to many, if `to` takes it so.
    pub(super) fn compressed_for<'a>(
        &mut self,
        to: ConnectionKey,
        frame: &[u8],
        for_all: &'a mut ForAll,
    ) -> Option<&'a [u8]> {
        if !self.compresses_for(to, frame.len()) {
            return None;
        }
        if matches!(for_all, ForAll::Untried) {
            let compressed = message_of(frame).and_then(|message| {
                self.compress(message, |engine, shrunk| {
                    let header_len = server_header_len(shrunk.len());
                    let mut block = engine.blocks.take(header_len + shrunk.len())?;
                    let header = block.reserve(header_len);
                    write_server_header(header, OpCode::Binary, shrunk.len());
                    block.append(shrunk);
                    Some(block)
                })
            });
            *for_all = compressed.flatten().map_or(ForAll::Useless, ForAll::Frame);
        }
        match for_all {
            ForAll::Frame(block) => Some(block.as_slice()),
            ForAll::Untried | ForAll::Useless => None,
        }
    }

    pub(super) fn end_for_all(&mut self, for_all: ForAll) {
        if let ForAll::Frame(block) = for_all {
            self.blocks.give_back(block);
        }
    }

    fn compress<T>(
        &mut self,
        message: &[u8],
        then: impl FnOnce(&mut Self, &[u8]) -> T,
    ) -> Option<T> {
        let mut shrinker = std::mem::take(&mut self.shrinker);
        let rules = self.limits.session.compression;
        let outcome = match shrinker.shrink(message, &rules, self.turn) {
            Ok(shrunk) => {
                self.probe.compression(Compression::Compressed);
                self.probe.compression_in_bytes.add(message.len() as u64);
                self.probe.compression_out_bytes.add(shrunk.len() as u64);
                Some(then(self, shrunk))
            }
            Err(why) => {
                match why {
                    NotShrunk::Unsuited => {}
                    NotShrunk::Incompressible => {
                        self.probe.compression(Compression::Incompressible);
                    }
                    NotShrunk::NoTime => self.probe.compression(Compression::NoTime),
                }
                None
            }
        };
        self.shrinker = shrinker;
        outcome
    }

    /// A message of a client as a backend gets it: inflated and without 0x04 if that is switched
    /// on, else untouched.
    pub(super) fn inflate_for_backend<'a>(
        &mut self,
        mut arrived: Arrived<'a>,
    ) -> Result<Arrived<'a>, SessionRefusal> {
        if !self.limits.session.compression.inflate_inbound || !is_inflatable(arrived.bytes()) {
            return Ok(arrived);
        }
        let bytes_max = self.limits.session.message_bytes_max;
        let Some(mut block) = self.blocks.take(bytes_max) else {
            self.discard(arrived);
            return Err(SessionRefusal::BlocksExhausted);
        };
        let message = arrived.bytes();
        let flags = Flags(message[0]);
        let (header, payload) = message.split_at(flags.layout().header_len());
        let (front, room) = block.reserve(bytes_max).split_at_mut(header.len());
        front.copy_from_slice(header);
        front[0] = flags.without(Flags::COMPRESSED).0;
        let inflated = self.inflater.inflate(payload, room, self.turn);
        let header_len = header.len();
        self.discard(arrived);
        match inflated {
            Ok(payload_len) => {
                self.probe.messages_inflated.increment();
                let payload = 0..header_len + payload_len;
                block.truncate(payload.end);
                Ok(Arrived { source: Source::Block(block), payload })
            }
            Err(why) => {
                self.blocks.give_back(block);
                Err(match why {
                    NotInflated::Malformed => SessionRefusal::CompressedBadly,
                    NotInflated::TooLong => SessionRefusal::MessageTooLong,
                    NotInflated::NoTime => SessionRefusal::InflatingBusy,
                })
            }
        }
    }
}

/// The message in a whole binary frame of a server.
fn message_of(frame: &[u8]) -> Option<&[u8]> {
    let header = FrameHeader::parse(frame, FrameRole::Client).ok()??;
    let whole = header.fin && header.opcode == OpCode::Binary;
    frame.get(header.header_len..).filter(|_| whole)
}

/// Says that its payload is compressed, and may be touched. A message without a payload has nothing
/// to inflate, whatever it says.
fn is_inflatable(message: &[u8]) -> bool {
    let Some(flags) = message.first().copied().map(Flags) else {
        return false;
    };
    flags.contains(Flags::COMPRESSED)
        && !flags.contains(Flags::OPAQUE)
        && message.len() > flags.layout().header_len()
}
