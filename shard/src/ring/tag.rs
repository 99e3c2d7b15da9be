//! What identifies an operation in its completion: 64 bits of `user_data`.
//!
//! `operation (6) ‖ generation (18) ‖ slot (20) ‖ index (20)`, most significant first.

use crate::id::{ConnectionKey, Generation, Slot};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Operation {
    /// Its outcome matters to nobody.
    Ignored = 0,
    Accept,
    Receive,
    Send,
    SendRest,
    PeerName,
    Open,
    Connect,
    Finish,
    Close,
    Doorbell,
    Wake,
    Heartbeat,
    Deadline,
}

impl Operation {
    const ALL: [Self; 14] = [
        Self::Ignored,
        Self::Accept,
        Self::Receive,
        Self::Send,
        Self::SendRest,
        Self::PeerName,
        Self::Open,
        Self::Connect,
        Self::Finish,
        Self::Close,
        Self::Doorbell,
        Self::Wake,
        Self::Heartbeat,
        Self::Deadline,
    ];
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tag {
    pub operation: Operation,
    pub key: ConnectionKey,
    /// Position in a table of the ring's own; its meaning depends on the operation.
    pub index: u32,
}

const NO_CONNECTION: ConnectionKey = ConnectionKey { slot: Slot(0), generation: Generation(0) };

impl Tag {
    pub(super) const INDEX_MAX: u32 = (1 << 20) - 1;

    pub(super) fn of(operation: Operation, key: ConnectionKey) -> Self {
        Self { operation, key, index: 0 }
    }

    pub(super) fn indexed(operation: Operation, key: ConnectionKey, index: usize) -> Self {
        debug_assert!(index <= Self::INDEX_MAX as usize);
        Self { operation, key, index: index as u32 & Self::INDEX_MAX }
    }

    pub(super) fn own(operation: Operation) -> Self {
        Self::of(operation, NO_CONNECTION)
    }

    pub(super) fn pack(self) -> u64 {
        (self.operation as u64) << 58
            | u64::from(self.key.generation.0) << 40
            | u64::from(self.key.slot.0) << 20
            | u64::from(self.index)
    }

    pub(super) fn unpack(bits: u64) -> Self {
        let operation = (bits >> 58) as usize;
        Self {
            operation: Operation::ALL.get(operation).copied().unwrap_or(Operation::Ignored),
            key: ConnectionKey {
                slot: Slot((bits >> 20) as u32 & Self::INDEX_MAX),
                generation: Generation((bits >> 40) as u32 & ((1 << Generation::BITS) - 1)),
            },
            index: bits as u32 & Self::INDEX_MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_keeps_every_field_at_its_extremes() {
        for operation in Operation::ALL {
            for (slot, generation, index) in
                [(0, 0, 0), ((1 << 20) - 1, (1 << 18) - 1, Tag::INDEX_MAX as usize), (5, 70_000, 9)]
            {
                let key = ConnectionKey { slot: Slot(slot), generation: Generation(generation) };
                let tag = Tag::indexed(operation, key, index);
                assert_eq!(Tag::unpack(tag.pack()), tag);
            }
        }
    }
}
