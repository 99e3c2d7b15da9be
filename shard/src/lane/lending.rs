//! How much of a shard's receive memory is out on lanes, and what comes back from them.

use crate::buffers::BufferId;

/// Something a lane kept alive and no longer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Returned {
    /// One loan from this receive buffer; a buffer comes back once for each of its loans.
    Buffer(BufferId),
    /// An owned block of this capacity now belongs to the receiver's pool: to be disowned.
    Block { bytes: usize },
}

/// Receive buffers of one shard that lanes hold: at most a quarter of them.
#[derive(Debug)]
pub struct Lending {
    /// Loans of each buffer, by position.
    loans: Box<[u32]>,
    /// Buffers with at least one loan; `lent <= limit`.
    lent: usize,
    limit: usize,
}

impl Lending {
    /// For a shard with `buffers` receive buffers.
    #[must_use]
    pub fn new(buffers: u16) -> Self {
        let buffers = usize::from(buffers);
        Self { loans: vec![0; buffers].into_boxed_slice(), lent: 0, limit: buffers / 4 }
    }

    /// Buffers out on lanes.
    #[must_use]
    pub fn lent(&self) -> usize {
        self.lent
    }

    /// Whether `buffer` may go out (once more). A buffer that is out already costs nothing.
    pub(super) fn permits(&self, buffer: BufferId) -> bool {
        match self.loans.get(usize::from(buffer.0)) {
            Some(0) => self.lent < self.limit,
            Some(_) => true,
            None => false,
        }
    }

    pub(super) fn lend(&mut self, buffer: BufferId) {
        let loans = &mut self.loans[usize::from(buffer.0)];
        *loans += 1;
        self.lent += usize::from(*loans == 1);
    }

    pub(super) fn returned(&mut self, buffer: BufferId) {
        let loans = &mut self.loans[usize::from(buffer.0)];
        *loans -= 1;
        self.lent -= usize::from(*loans == 0);
    }
}
