//! Frames that cross in the receive buffer they arrived in: the one place where an address goes
//! from one shard's memory to another's thread.

#![expect(
    unsafe_code,
    reason = "a frame is read by another shard in its sender's buffer"
)]

use std::ops::Deref;
use std::ptr::NonNull;

/// A receive buffer of the sending shard, by position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BufferId(pub u16);

/// Bytes in a receive buffer of the shard that sends them, on their way to another.
#[derive(Debug)]
pub struct Loan {
    at: NonNull<u8>,
    len: u32,
    buffer: BufferId,
}

// SAFETY: a loan is an address and two numbers. Its bytes are touched only through
// [`BorrowedFrame`], read-only, in the time for which the maker of the loan has promised them.
unsafe impl Send for Loan {}

impl Loan {
    /// # Safety
    /// From the moment a lane takes the loan until that lane's `reclaim` has yielded `buffer` for
    /// it, `at..at + len` stays allocated, initialised and unchanged: no write, no reference that
    /// allows one, and not the kernel's to fill.
    #[must_use]
    pub unsafe fn new(at: NonNull<u8>, len: u32, buffer: BufferId) -> Self {
        Self { at, len, buffer }
    }

    #[must_use]
    pub fn buffer(&self) -> BufferId {
        self.buffer
    }

    /// The bytes, for as long as `_lane` is kept from releasing them.
    pub(super) fn open(self, _lane: &mut Unreleased) -> BorrowedFrame<'_> {
        // SAFETY: the maker of the loan keeps the bytes until the lane's index passes its slot.
        // The receiver that owns `_lane` opens only loans from its own unreleased slots, and it
        // cannot move its index while it is borrowed through `_lane`.
        let bytes = unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.len as usize) };
        BorrowedFrame { bytes }
    }
}

/// Stands for "slots that were read and not yet released" of one lane. Each receiver owns exactly
/// one and opens only the loans of its own slots with it; as long as it is borrowed, so is the
/// receiver, and nothing can be released.
#[derive(Debug)]
pub(super) struct Unreleased(());

impl Unreleased {
    pub(super) fn new() -> Self {
        Self(())
    }
}

/// A frame in another shard's receive buffer.
#[derive(Debug)]
pub struct BorrowedFrame<'a> {
    bytes: &'a [u8],
}

impl BorrowedFrame<'_> {
    /// For a SEND by reference. The kernel may read `self.len()` bytes from here until the lane
    /// that delivered the frame is released.
    #[must_use]
    pub fn address(&self) -> NonNull<u8> {
        NonNull::from(self.bytes).cast()
    }
}

impl Deref for BorrowedFrame<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes
    }
}
