//! Pooled memory blocks: what holds bytes across turns when a receive buffer must not.
//!
//! One pool per shard, bounded in bytes. Size classes are powers of two; a block goes back to its
//! class and is handed out again without clearing, so a warm shard allocates nothing.

/// Smallest block, bytes.
pub const BLOCK_MIN: usize = 2048;

const CLASSES: usize = 16;

const _: () = assert!(BLOCK_MIN << (CLASSES - 1) <= u32::MAX as usize);

/// Fills blocks that are laid in. Not zero: that is what the kernel gives without a page behind it.
const WRITTEN: u8 = 0xA5;

/// Owned bytes with a live range `start..end` inside a fixed capacity. The storage never moves
/// while the block lives, so the kernel may be given its address.
#[derive(Debug)]
pub struct Block {
    bytes: Box<[u8]>,
    /// `start <= end <= bytes.len()`, which is far below 4 GiB.
    start: u32,
    end: u32,
}

const _: () = assert!(size_of::<Option<Block>>() == 24, "every connection has a place for one");

impl Block {
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes that can still be appended.
    #[must_use]
    pub fn room(&self) -> usize {
        self.bytes.len() - self.end as usize
    }

    #[must_use]
    pub fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start as usize..self.end as usize]
    }

    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start as usize..self.end as usize]
    }

    /// Empties the block and leaves `headroom` bytes free in front of what will be appended.
    pub fn reset(&mut self, headroom: usize) {
        assert!(headroom <= self.bytes.len(), "headroom within the block");
        self.start = headroom as u32;
        self.end = headroom as u32;
    }

    /// Appends all of `bytes`; the caller has checked [`Self::room`].
    pub fn append(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len()).copy_from_slice(bytes);
    }

    /// Appends `len` bytes of undefined (recycled) content and returns them to be written.
    pub fn reserve(&mut self, len: usize) -> &mut [u8] {
        let at = self.end as usize;
        let reserved = &mut self.bytes[at..at + len];
        self.end += len as u32;
        reserved
    }

    /// Takes `len` bytes of the headroom in front of the live bytes and returns them.
    pub fn prepend(&mut self, len: usize) -> &mut [u8] {
        assert!(len <= self.start as usize, "headroom was reserved");
        self.start -= len as u32;
        let at = self.start as usize;
        &mut self.bytes[at..at + len]
    }

    /// Drops the first `len` live bytes.
    pub fn consume(&mut self, len: usize) {
        assert!(len <= self.len(), "consumes only live bytes");
        self.start += len as u32;
    }

    /// Keeps only the first `len` live bytes.
    pub fn truncate(&mut self, len: usize) {
        assert!(len <= self.len(), "truncates only live bytes");
        self.end = self.start + len as u32;
    }
}

/// The blocks of one shard. `allocated <= limit` bytes at any time; beyond it [`Self::take`] refuses.
#[derive(Debug)]
pub struct BlockPool {
    free: [Vec<Block>; CLASSES],
    allocated: usize,
    in_use: usize,
    limit: usize,
}

impl BlockPool {
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            free: std::array::from_fn(|_| Vec::with_capacity(64)),
            allocated: 0,
            in_use: 0,
            limit,
        }
    }

    /// Lays in `count` blocks of at least `len` bytes, so that the first traffic does not have to
    /// ask the allocator, nor the allocator's pages of the kernel; fewer when they would take more
    /// than a quarter of the bound.
    pub fn lay_in(&mut self, len: usize, count: usize) {
        let Some(class) = class_of(len) else { return };
        let size = BLOCK_MIN << class;
        let affordable = (self.limit / 4).saturating_sub(self.allocated) / size;
        for _ in 0..count.min(affordable) {
            let Some(mut block) = self.allocate(size) else { return };
            block.bytes.fill(WRITTEN);
            self.free[class].push(block);
        }
    }

    /// An empty block of at least `len` bytes, or `None` when the pool's bound is reached.
    pub fn take(&mut self, len: usize) -> Option<Block> {
        let class = class_of(len)?;
        let size = BLOCK_MIN << class;
        let mut block = match self.free[class].pop() {
            Some(block) => block,
            None => self.allocate(size)?,
        };
        block.reset(0);
        self.in_use += size;
        Some(block)
    }

    pub fn give_back(&mut self, block: Block) {
        let size = block.capacity();
        self.in_use -= size;
        match class_of(size) {
            Some(class) => self.free[class].push(block),
            None => self.allocated -= size,
        }
    }

    /// Moves `block`'s bytes into one with room for `more` further bytes. On refusal the block is
    /// handed back unchanged.
    pub fn grow(&mut self, block: Block, more: usize) -> Result<Block, Block> {
        if block.room() >= more {
            return Ok(block);
        }
        let headroom = block.start as usize;
        let Some(mut bigger) = self.take(headroom + block.len() + more) else {
            return Err(block);
        };
        bigger.reset(headroom);
        bigger.append(block.as_slice());
        self.give_back(block);
        Ok(bigger)
    }

    /// Takes over a block that another shard's pool has handed out. Refused when the bound leaves
    /// no room; the block is then dropped by the caller, its bytes with it.
    pub fn adopt(&mut self, block: Block) -> Result<Block, Block> {
        let size = block.capacity();
        if self.make_room(size).is_none() {
            return Err(block);
        }
        self.allocated += size;
        self.in_use += size;
        Ok(block)
    }

    /// Strikes a block of `size` bytes that was handed out and now belongs to another shard.
    pub fn disown(&mut self, size: usize) {
        self.in_use -= size;
        self.allocated -= size;
    }

    /// Bytes that any two further requests together are sure to get, rounding included.
    #[must_use]
    pub fn certain(&self) -> usize {
        ((self.limit - self.in_use) / 2).saturating_sub(BLOCK_MIN)
    }

    /// Bytes handed out.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.in_use
    }

    /// Bytes held from the allocator, in use or free.
    #[must_use]
    pub fn allocated(&self) -> usize {
        self.allocated
    }

    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit
    }

    fn allocate(&mut self, size: usize) -> Option<Block> {
        self.make_room(size)?;
        self.allocated += size;
        Some(Block { bytes: vec![0; size].into_boxed_slice(), start: 0, end: 0 })
    }

    /// Frees idle blocks until `size` more bytes are within the bound.
    fn make_room(&mut self, size: usize) -> Option<()> {
        while self.allocated + size > self.limit {
            // Another class may sit on free blocks: they make room before anybody is refused.
            let idle = self.free.iter_mut().rev().find(|blocks| !blocks.is_empty())?;
            self.allocated -= idle.pop().map_or(0, |block| block.capacity());
        }
        Some(())
    }
}

fn class_of(len: usize) -> Option<usize> {
    let size = len.max(BLOCK_MIN).checked_next_power_of_two()?;
    let class = (size / BLOCK_MIN).trailing_zeros() as usize;
    (class < CLASSES).then_some(class)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_laid_in_is_not_asked_of_the_allocator_again_and_stays_within_a_quarter() {
        let mut pool = BlockPool::new(16 * BLOCK_MIN);
        pool.lay_in(BLOCK_MIN, 3);
        assert_eq!((pool.allocated(), pool.in_use()), (3 * BLOCK_MIN, 0));
        let taken: Vec<_> = (0..3).map(|_| pool.take(1).unwrap()).collect();
        assert_eq!((pool.allocated(), pool.in_use()), (3 * BLOCK_MIN, 3 * BLOCK_MIN));
        pool.lay_in(BLOCK_MIN, 100);
        assert_eq!(pool.allocated(), 4 * BLOCK_MIN);
        taken.into_iter().for_each(|block| pool.give_back(block));
    }

    #[test]
    fn a_returned_block_is_handed_out_again_without_allocating() {
        let mut pool = BlockPool::new(1 << 20);
        let block = pool.take(100).unwrap();
        let address = block.as_slice().as_ptr();
        pool.give_back(block);
        assert_eq!(pool.take(2000).unwrap().as_slice().as_ptr(), address);
        assert_eq!(pool.allocated(), BLOCK_MIN);
    }

    #[test]
    fn the_bound_refuses_and_free_blocks_of_other_classes_make_room() {
        let mut pool = BlockPool::new(8 * 1024);
        let small: Vec<_> = (0..4).map(|_| pool.take(1).unwrap()).collect();
        assert!(pool.take(1).is_none());
        small.into_iter().for_each(|block| pool.give_back(block));
        assert!(pool.take(8 * 1024).is_some());
        assert_eq!(pool.allocated(), 8 * 1024);
    }

    #[test]
    fn growing_keeps_bytes_and_headroom() {
        let mut pool = BlockPool::new(1 << 20);
        let mut block = pool.take(10).unwrap();
        block.reset(14);
        block.append(&[7; 2000]);
        let mut block = pool.grow(block, 5000).unwrap();
        block.append(&[8; 5000]);
        assert_eq!(&block.as_slice()[1998..2002], &[7, 7, 8, 8]);
        block.prepend(14).fill(1);
        assert_eq!(block.len(), 7014);
        assert_eq!(pool.in_use(), block.capacity());
    }

    #[test]
    fn a_request_above_the_largest_class_is_refused() {
        assert!(BlockPool::new(usize::MAX).take(BLOCK_MIN << CLASSES).is_none());
    }
}
