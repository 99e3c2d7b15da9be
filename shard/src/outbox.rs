//! What waits to be sent to one connection: whole messages, bounded in number and bytes.
//!
//! A message that is alone in its turn stays where it arrived (by reference); the second one turns
//! both into a contiguous batch, so that one send carries a turn's worth. Urgent messages overtake
//! normal ones, never each other, and never the rest of a half-sent send, which is not kept here.

use std::collections::VecDeque;

use crate::block::{Block, BlockPool};
use crate::buffers::{Lent, ReceiveBuffers};
use crate::sockets::Outgoing;
use crate::wire::header::Priority;

/// Bounds of one connection's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutboxLimits {
    pub messages_max: usize,
    pub bytes_max: usize,
    /// Batches are at least this long, so that a turn's messages share one send.
    pub batch_bytes: usize,
}

impl OutboxLimits {
    /// For a message that begins no batch: a block of its own size will do.
    #[must_use]
    pub fn lone(self) -> Self {
        Self { batch_bytes: 0, ..self }
    }
}

/// Why a message was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The connection's own bound.
    Full,
    /// The shard's block pool.
    Blocks,
}

/// How a lent message was kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    ByReference,
    Copied,
}

#[derive(Debug)]
struct Batch {
    block: Block,
    messages: u32,
}

/// The queue of one connection; pooled by the engine and attached only while something waits.
#[derive(Debug)]
pub struct Outbox {
    /// Present only while everything else is empty.
    lent: Option<Lent>,
    urgent: VecDeque<Batch>,
    normal: VecDeque<Batch>,
    messages: usize,
    bytes: usize,
}

/// Batches that a queue takes before it grows: more only wait for a peer that reads slowly.
const COMMON_BATCHES: usize = 4;

impl Default for Outbox {
    /// With room for the common case: outboxes are pooled, and growing belongs to making them.
    fn default() -> Self {
        Self {
            lent: None,
            urgent: VecDeque::with_capacity(COMMON_BATCHES),
            normal: VecDeque::with_capacity(COMMON_BATCHES),
            messages: 0,
            bytes: 0,
        }
    }
}

impl Outbox {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages == 0
    }

    /// Messages waiting.
    #[must_use]
    pub fn messages(&self) -> usize {
        self.messages
    }

    /// Bytes waiting.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes a message by reference if it is alone, else copies it.
    /// On refusal the message is handed back.
    pub fn push_lent(
        &mut self,
        lent: Lent,
        priority: Priority,
        limits: OutboxLimits,
        memory: &mut Memory<'_>,
    ) -> Result<Kept, (Refused, Lent)> {
        if self.messages == 0 {
            self.messages = 1;
            self.bytes = lent.len();
            self.lent = Some(lent);
            return Ok(Kept::ByReference);
        }
        match self.push_copied(lent, priority, limits, memory) {
            Ok(()) => Ok(Kept::Copied),
            Err(refused) => Err(refused),
        }
    }

    /// Copies a lent message into a batch and gives it back, whatever waits: for connections that
    /// cannot send in this turn.
    pub fn push_copied(
        &mut self,
        lent: Lent,
        priority: Priority,
        limits: OutboxLimits,
        memory: &mut Memory<'_>,
    ) -> Result<(), (Refused, Lent)> {
        match self.reserve(lent.len(), priority, limits, memory) {
            Ok(room) => room.copy_from_slice(lent.as_slice()),
            Err(refused) => return Err((refused, lent)),
        }
        memory.buffers.give_back(lent);
        Ok(())
    }

    /// Room for one message of `len` bytes, to be filled by the caller at once.
    pub fn reserve(
        &mut self,
        len: usize,
        priority: Priority,
        limits: OutboxLimits,
        memory: &mut Memory<'_>,
    ) -> Result<&mut [u8], Refused> {
        self.admit(len, limits)?;
        self.settle_lent(limits, memory)?;
        let queue = match priority {
            Priority::Normal => &mut self.normal,
            Priority::Urgent => &mut self.urgent,
        };
        if queue.back().is_none_or(|batch| batch.block.room() < len) {
            let block = memory
                .blocks
                .take(len.max(limits.batch_bytes))
                .or_else(|| memory.blocks.take(len))
                .ok_or(Refused::Blocks)?;
            queue.push_back(Batch { block, messages: 0 });
        }
        let batch = queue.back_mut().ok_or(Refused::Blocks)?;
        batch.messages += 1;
        self.messages += 1;
        self.bytes += len;
        Ok(batch.block.reserve(len))
    }

    /// Takes a whole message that already lies in a block of its own; copied if a batch has room.
    pub fn push_block(
        &mut self,
        block: Block,
        priority: Priority,
        limits: OutboxLimits,
        memory: &mut Memory<'_>,
    ) -> Result<(), (Refused, Block)> {
        if let Err(refused) =
            self.admit(block.len(), limits).and_then(|()| self.settle_lent(limits, memory))
        {
            return Err((refused, block));
        }
        self.messages += 1;
        self.bytes += block.len();
        let queue = match priority {
            Priority::Normal => &mut self.normal,
            Priority::Urgent => &mut self.urgent,
        };
        match queue.back_mut() {
            // A small one joins the batch in front of it, or a mixture of messages in blocks and
            // others would hold a nearly empty batch for each.
            Some(batch) if block.len() <= batch.block.room().min(limits.batch_bytes) => {
                batch.block.append(block.as_slice());
                batch.messages += 1;
                *memory.copies += 1;
                memory.blocks.give_back(block);
            }
            _ => queue.push_back(Batch { block, messages: 1 }),
        }
        Ok(())
    }

    /// The next contiguous bytes to send.
    pub fn take(&mut self) -> Option<Outgoing> {
        if let Some(lent) = self.lent.take() {
            self.messages = 0;
            self.bytes = 0;
            return Some(Outgoing::Lent(lent));
        }
        let batch = self.urgent.pop_front().or_else(|| self.normal.pop_front())?;
        self.messages -= batch.messages as usize;
        self.bytes -= batch.block.len();
        Some(Outgoing::Block(batch.block))
    }

    /// Throws away everything that waits; returns how many messages that were.
    pub fn clear(&mut self, memory: &mut Memory<'_>) -> usize {
        let thrown = self.messages;
        while let Some(outgoing) = self.take() {
            memory.recycle(outgoing);
        }
        thrown
    }

    fn admit(&self, len: usize, limits: OutboxLimits) -> Result<(), Refused> {
        // An empty queue takes any message, or one above the bound could never be sent.
        let fits = self.messages < limits.messages_max && self.bytes + len <= limits.bytes_max;
        if fits || self.messages == 0 { Ok(()) } else { Err(Refused::Full) }
    }

    /// Copies the lone lent message into a batch, since it has company now.
    fn settle_lent(
        &mut self,
        limits: OutboxLimits,
        memory: &mut Memory<'_>,
    ) -> Result<(), Refused> {
        let Some(lent) = self.lent.take() else {
            return Ok(());
        };
        let room = lent.len().max(limits.batch_bytes);
        let taken = memory.blocks.take(room).or_else(|| memory.blocks.take(lent.len()));
        let Some(mut block) = taken else {
            self.lent = Some(lent);
            return Err(Refused::Blocks);
        };
        block.append(lent.as_slice());
        *memory.copies += 1;
        memory.buffers.give_back(lent);
        self.normal.push_back(Batch { block, messages: 1 });
        Ok(())
    }
}

/// The memory of the shard that queues draw on.
#[derive(Debug)]
pub struct Memory<'a> {
    pub blocks: &'a mut BlockPool,
    pub buffers: &'a mut ReceiveBuffers,
    /// Messages copied that had been lent or had come in a block.
    pub copies: &'a mut u64,
}

impl Memory<'_> {
    /// Returns sent or dropped bytes to where they came from.
    pub fn recycle(&mut self, outgoing: Outgoing) {
        match outgoing {
            Outgoing::Lent(lent) => self.buffers.give_back(lent),
            Outgoing::Block(block) => self.blocks.give_back(block),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffers::BufferId;
    use proptest::prelude::*;

    const ROOMY: OutboxLimits =
        OutboxLimits { messages_max: 1000, bytes_max: 1 << 20, batch_bytes: 16 << 10 };

    struct Shard {
        blocks: BlockPool,
        buffers: ReceiveBuffers,
        copies: u64,
    }

    impl Shard {
        fn new() -> Self {
            let mut buffers = ReceiveBuffers::new(64, 2048);
            buffers.returned().clear();
            Self { blocks: BlockPool::new(1 << 22), buffers, copies: 0 }
        }

        fn memory(&mut self) -> Memory<'_> {
            Memory {
                blocks: &mut self.blocks,
                buffers: &mut self.buffers,
                copies: &mut self.copies,
            }
        }

        fn arrive(&mut self, id: u16, bytes: &[u8]) -> Lent {
            let mut received = self.buffers.received(BufferId(id), bytes.len() as u32);
            received.from(0).copy_from_slice(bytes);
            let lent = self.buffers.lend(&received, 0..bytes.len());
            self.buffers.done(received);
            lent
        }

        fn push(&mut self, outbox: &mut Outbox, bytes: &[u8], priority: Priority) {
            let room = outbox.reserve(bytes.len(), priority, ROOMY, &mut self.memory());
            room.unwrap().copy_from_slice(bytes);
        }

        fn sent(&mut self, outbox: &mut Outbox) -> Vec<u8> {
            let mut all = Vec::new();
            while let Some(outgoing) = outbox.take() {
                all.extend_from_slice(outgoing.as_slice());
                self.memory().recycle(outgoing);
            }
            all
        }
    }

    #[test]
    fn a_lone_message_is_sent_from_the_buffer_it_arrived_in() {
        let (mut shard, mut outbox) = (Shard::new(), Outbox::default());
        let lent = shard.arrive(3, b"alone");
        let address = lent.address();
        let kept = outbox.push_lent(lent, Priority::Normal, ROOMY, &mut shard.memory()).unwrap();
        assert_eq!(kept, Kept::ByReference);
        let outgoing = outbox.take().unwrap();
        assert_eq!(outgoing.as_slice().as_ptr(), address.as_ptr().cast_const());
        shard.memory().recycle(outgoing);
        assert_eq!((shard.buffers.out(), shard.copies), (0, 0));
    }

    #[test]
    fn the_second_message_of_a_turn_makes_one_contiguous_batch() {
        let (mut shard, mut outbox) = (Shard::new(), Outbox::default());
        for (id, text) in [(0, b"one"), (1, b"two")] {
            let lent = shard.arrive(id, text);
            outbox.push_lent(lent, Priority::Normal, ROOMY, &mut shard.memory()).unwrap();
        }
        assert_eq!(shard.buffers.out(), 0, "copied messages leave their receive buffers");
        assert_eq!(outbox.take().unwrap().as_slice(), b"onetwo");
        assert!(outbox.take().is_none());
    }

    #[test]
    fn messages_in_blocks_between_others_do_not_multiply_the_memory_held() {
        let (mut shard, mut outbox) = (Shard::new(), Outbox::default());
        let mut expected = Vec::new();
        for n in 0..100 {
            let bytes = [n; 1000];
            if n % 2 == 0 {
                shard.push(&mut outbox, &bytes, Priority::Normal);
            } else {
                let mut block = shard.blocks.take(4096).unwrap();
                block.reset(64);
                block.append(&bytes);
                let pushed = outbox.push_block(block, Priority::Normal, ROOMY, &mut shard.memory());
                assert!(pushed.is_ok());
            }
            expected.extend_from_slice(&bytes);
        }
        assert_eq!((outbox.messages(), outbox.bytes()), (100, 100_000));
        let held = shard.blocks.in_use();
        assert!(held <= 2 * 100_000, "{held} bytes for 100 000");
        // Large ones keep their block.
        let mut block = shard.blocks.take(100_000).unwrap();
        block.append(&[7; 90_000]);
        let address = block.as_slice().as_ptr();
        assert!(outbox.push_block(block, Priority::Normal, ROOMY, &mut shard.memory()).is_ok());
        assert_eq!(outbox.normal.back().unwrap().block.as_slice().as_ptr(), address);
        expected.extend_from_slice(&[7; 90_000]);
        assert_eq!(shard.sent(&mut outbox), expected);
        assert_eq!(shard.blocks.in_use(), 0);
    }

    #[test]
    fn a_message_in_a_block_of_its_own_stays_there_when_alone_and_joins_a_batch_when_not() {
        let (mut shard, mut outbox) = (Shard::new(), Outbox::default());
        let mut addresses = Vec::new();
        for text in [b"one", b"two"] {
            let mut block = shard.blocks.take(text.len()).unwrap();
            block.append(text);
            addresses.push(block.as_slice().as_ptr());
            outbox.push_block(block, Priority::Normal, ROOMY, &mut shard.memory()).unwrap();
        }
        let outgoing = outbox.take().unwrap();
        assert_eq!(
            (outgoing.as_slice(), outgoing.as_slice().as_ptr()),
            (&b"onetwo"[..], addresses[0])
        );
        shard.memory().recycle(outgoing);
        assert!(outbox.take().is_none());
        assert_eq!((shard.blocks.in_use(), shard.copies), (0, 1));
    }

    #[test]
    fn urgent_messages_overtake_normal_ones_but_not_each_other() {
        let (mut shard, mut outbox) = (Shard::new(), Outbox::default());
        shard.push(&mut outbox, b"a", Priority::Normal);
        shard.push(&mut outbox, b"B", Priority::Urgent);
        shard.push(&mut outbox, b"c", Priority::Normal);
        shard.push(&mut outbox, b"D", Priority::Urgent);
        assert_eq!(shard.sent(&mut outbox), b"BDac");
        assert_eq!(shard.blocks.in_use(), 0);
    }

    #[test]
    fn the_bounds_refuse_and_hand_the_message_back() {
        let (mut shard, mut outbox) = (Shard::new(), Outbox::default());
        let tight = OutboxLimits { messages_max: 2, bytes_max: 10, batch_bytes: 16 << 10 };
        let lent = shard.arrive(0, b"01234567");
        outbox.push_lent(lent, Priority::Normal, tight, &mut shard.memory()).unwrap();
        let lent = shard.arrive(1, b"xyz");
        let (refused, lent) =
            outbox.push_lent(lent, Priority::Normal, tight, &mut shard.memory()).unwrap_err();
        assert_eq!((refused, lent.as_slice()), (Refused::Full, &b"xyz"[..]));
        outbox.reserve(1, Priority::Normal, tight, &mut shard.memory()).unwrap().fill(b'!');
        let third = outbox.reserve(1, Priority::Normal, tight, &mut shard.memory());
        assert_eq!(third.unwrap_err(), Refused::Full);
        assert_eq!(shard.sent(&mut outbox), b"01234567!");
    }

    proptest! {
        #[test]
        fn every_message_leaves_once_in_order_within_its_priority(
            pushes in prop::collection::vec((any::<bool>(), any::<bool>(), 1usize..3000), 1..60)
        ) {
            let (mut shard, mut outbox) = (Shard::new(), Outbox::default());
            let (mut urgent, mut normal) = (Vec::new(), Vec::new());
            for (n, (lend, jump, len)) in pushes.into_iter().enumerate() {
                let bytes = vec![n as u8; len.min(2048)];
                // A message that is alone is not overtaken: it was first in its turn.
                let jump = jump && n > 0;
                let priority = if jump { Priority::Urgent } else { Priority::Normal };
                if lend {
                    let lent = shard.arrive(n as u16, &bytes);
                    prop_assert!(
                        outbox.push_lent(lent, priority, ROOMY, &mut shard.memory()).is_ok()
                    );
                } else {
                    shard.push(&mut outbox, &bytes, priority);
                }
                if jump { &mut urgent } else { &mut normal }.extend_from_slice(&bytes);
            }
            urgent.extend_from_slice(&normal);
            prop_assert_eq!(outbox.bytes(), urgent.len());
            prop_assert_eq!(shard.sent(&mut outbox), urgent);
            prop_assert_eq!((shard.blocks.in_use(), shard.buffers.out()), (0, 0));
            prop_assert_eq!((outbox.messages(), outbox.bytes()), (0, 0));
        }
    }
}
