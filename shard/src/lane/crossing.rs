//! Messages between two shards, as they lie in a lane's slot and as the receiver sees them.

use std::ops::Deref;

use super::borrowed::{BorrowedFrame, Loan};
use crate::block::Block;
use crate::id::{ConnectionKey, Generation, Slot};
use crate::wire::header::{Flags, Priority, ReplyTo};

/// A lane slot is one cache line.
const SLOT_BYTES: usize = 64;

/// A request from one shard to another.
#[derive(Debug)]
pub enum Crossing {
    Deliver(Deliver),
    Broadcast(Broadcast),
}

/// A message for one connection of the receiving shard. May be answered once.
#[derive(Debug)]
pub struct Deliver<P = Payload> {
    pub target: ConnectionKey,
    /// The sender on the sending shard; answers go there.
    pub from: ConnectionKey,
    /// A whole server frame: `header_len` bytes of WebSocket header, then the message with its
    /// 31-byte header.
    pub frame: P,
    pub header_len: u8,
    pub priority: Priority,
    pub acknowledge: Acknowledge,
}

/// A message for every session of the receiving shard. Never answered.
#[derive(Debug)]
pub struct Broadcast<P = Payload> {
    pub from: ConnectionKey,
    /// As [`Deliver::frame`].
    pub frame: P,
    pub header_len: u8,
    pub priority: Priority,
}

/// Where a crossing frame lies.
#[derive(Debug)]
pub enum Payload {
    /// In a receive buffer of the sender, until the receiver's index passes the slot.
    Borrowed(Loan),
    /// In a block that becomes the receiver's.
    Owned(Block),
}

/// When the sender wants to hear of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acknowledge {
    Always,
    OnRefusal,
}

/// The answer to a [`Deliver`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    pub to: ConnectionKey,
    pub reply: ReplyTo,
    /// Of the target, as the frame named it.
    pub guid: [u8; 16],
    /// Response code: 0 delivered, 31 refused.
    pub code: u8,
}

impl Answer {
    /// What lies in a place that no answer has used.
    pub(super) const FILLER: Self = Self {
        to: ConnectionKey { slot: Slot(0), generation: Generation(0) },
        reply: ReplyTo { flags: Flags::RESPONSE, channel: 0, sequence: 0, message_id: 0 },
        guid: [0; 16],
        code: 0,
    };
}

/// A [`Crossing`] in the hands of its receiver; borrowed frames last until the lane is released.
#[derive(Debug)]
pub enum Arrival<'a> {
    Deliver(Deliver<Frame<'a>>),
    Broadcast(Broadcast<Frame<'a>>),
}

/// A frame that has arrived.
#[derive(Debug)]
pub enum Frame<'a> {
    Borrowed(BorrowedFrame<'a>),
    /// To be adopted by the receiver's pool ([`crate::block::BlockPool::adopt`]).
    Owned(Block),
}

impl Deref for Frame<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Borrowed(frame) => frame,
            Self::Owned(block) => block.as_slice(),
        }
    }
}

impl Crossing {
    /// Its frame, taken out of it.
    #[must_use]
    pub fn into_frame(self) -> Payload {
        match self {
            Self::Deliver(deliver) => deliver.frame,
            Self::Broadcast(broadcast) => broadcast.frame,
        }
    }

    /// The same request with another frame.
    #[must_use]
    pub fn with_frame(self, frame: impl FnOnce(Payload) -> Option<Payload>) -> Option<Self> {
        Some(match self {
            Self::Deliver(Deliver {
                target,
                from,
                frame: old,
                header_len,
                priority,
                acknowledge,
            }) => {
                let frame = frame(old)?;
                Self::Deliver(Deliver { target, from, frame, header_len, priority, acknowledge })
            }
            Self::Broadcast(Broadcast { from, frame: old, header_len, priority }) => {
                Self::Broadcast(Broadcast { from, frame: frame(old)?, header_len, priority })
            }
        })
    }

    pub(super) fn payload(&self) -> &Payload {
        match self {
            Self::Deliver(deliver) => &deliver.frame,
            Self::Broadcast(broadcast) => &broadcast.frame,
        }
    }

    /// The same request with its frame opened.
    pub(super) fn arrive<'a>(self, open: impl FnOnce(Payload) -> Frame<'a>) -> Arrival<'a> {
        match self {
            Self::Deliver(Deliver { target, from, frame, header_len, priority, acknowledge }) => {
                let frame = open(frame);
                Arrival::Deliver(Deliver { target, from, frame, header_len, priority, acknowledge })
            }
            Self::Broadcast(Broadcast { from, frame, header_len, priority }) => {
                Arrival::Broadcast(Broadcast { from, frame: open(frame), header_len, priority })
            }
        }
    }
}

const _: () = assert!(size_of::<Option<Crossing>>() <= SLOT_BYTES);
const _: () = assert!(size_of::<Answer>() <= SLOT_BYTES);
