//! Receive buffers: the memory into which the kernel puts what clients send.
//!
//! One contiguous region per shard, cut into equal buffers. A buffer is out of the kernel's hands
//! from the completion that names it until its last reference is dropped; a message is forwarded
//! from the very buffer it arrived in by lending a range of it.
//!
//! Invariants: `references[id] == 0` exactly while the buffer is with the kernel or on `returned`;
//! two live [`Lent`] ranges of one buffer are disjoint or equal (a broadcast lends one range many
//! times, after its header was written).

#![expect(
    unsafe_code,
    reason = "buffers are shared with the kernel and with other shards by address"
)]

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ops::Range;
use std::ptr::NonNull;

/// A buffer of one shard, by position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BufferId(pub u16);

const PAGE: usize = 4096;

/// What a buffer holds before it is first used. Not zero: memory that is to be zero may be had
/// without pages.
const WRITTEN: u8 = 0xA5;

/// The receive buffers of one shard.
#[derive(Debug)]
pub struct ReceiveBuffers {
    base: NonNull<u8>,
    layout: Layout,
    size: usize,
    references: Box<[u32]>,
    returned: Vec<BufferId>,
    out: usize,
}

/// One filled buffer, while its bytes are being read. The only handle that may change them.
#[derive(Debug)]
pub struct Received {
    id: BufferId,
    at: NonNull<u8>,
    len: u32,
}

/// A range of a receive buffer on its way out. `buffer` is `None` when it belongs to another shard,
/// whose lane position keeps it alive instead of a reference.
#[derive(Debug)]
pub struct Lent {
    at: NonNull<u8>,
    len: u32,
    buffer: Option<BufferId>,
}

impl ReceiveBuffers {
    /// `count` buffers of `size` bytes each, all to be provided to the kernel. They are written
    /// once: their pages belong to the process from the start, and no client waits for one.
    #[must_use]
    pub fn new(count: u16, size: usize) -> Self {
        let bytes = usize::from(count) * size;
        let layout =
            Layout::from_size_align(bytes.max(PAGE), PAGE).expect("bounded by configuration");
        // SAFETY: the layout's size is at least one page, never zero.
        let base = unsafe { alloc(layout) };
        let Some(base) = NonNull::new(base) else { handle_alloc_error(layout) };
        // SAFETY: all of the allocation, which nobody else knows yet.
        unsafe { base.write_bytes(WRITTEN, layout.size()) };
        Self {
            base,
            layout,
            size,
            references: vec![0; usize::from(count)].into_boxed_slice(),
            returned: (0..count).map(BufferId).collect(),
            out: 0,
        }
    }

    /// Buffers that are not with the kernel.
    #[must_use]
    pub fn out(&self) -> usize {
        self.out
    }

    #[must_use]
    pub fn count(&self) -> usize {
        self.references.len()
    }

    #[must_use]
    pub fn buffer_size(&self) -> usize {
        self.size
    }

    /// Address of the first byte; the kernel writes `buffer_size` bytes at `base + id * size`.
    #[must_use]
    pub fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// Buffers to be handed back to the kernel.
    pub fn returned(&mut self) -> &mut Vec<BufferId> {
        &mut self.returned
    }

    /// Takes the buffer that the kernel has filled with `len` bytes.
    ///
    /// # Panics
    /// When the buffer is already out: the kernel and we disagree about who owns it.
    pub fn received(&mut self, id: BufferId, len: u32) -> Received {
        let references = &mut self.references[usize::from(id.0)];
        assert!(*references == 0, "a buffer is filled only while the kernel has it");
        assert!(len as usize <= self.size, "the kernel stays within the buffer");
        *references = 1;
        self.out += 1;
        // SAFETY: id is below count (indexing above), so the offset lies inside the allocation.
        let at = unsafe { self.base.add(usize::from(id.0) * self.size) };
        Received { id, at, len }
    }

    /// Lends `range` of a buffer that is being read.
    pub fn lend(&mut self, received: &Received, range: Range<usize>) -> Lent {
        assert!(range.start <= range.end && range.end <= received.len as usize, "inside the bytes");
        self.references[usize::from(received.id.0)] += 1;
        // SAFETY: the range was just checked against the filled part of the buffer.
        let at = unsafe { received.at.add(range.start) };
        Lent { at, len: (range.end - range.start) as u32, buffer: Some(received.id) }
    }

    /// The same range once more, for another receiver.
    pub fn lend_again(&mut self, lent: &Lent) -> Lent {
        if let Some(id) = lent.buffer {
            self.references[usize::from(id.0)] += 1;
        }
        Lent { at: lent.at, len: lent.len, buffer: lent.buffer }
    }

    /// Reading has ended; the buffer lives on only in what was lent.
    #[expect(clippy::needless_pass_by_value, reason = "the handle ends here")]
    pub fn done(&mut self, received: Received) {
        self.release(received.id);
    }

    /// What was lent has been sent, copied or dropped.
    #[expect(clippy::needless_pass_by_value, reason = "the handle ends here")]
    pub fn give_back(&mut self, lent: Lent) {
        if let Some(id) = lent.buffer {
            self.release(id);
        }
    }

    /// Drops one reference that a lane held.
    pub fn release(&mut self, id: BufferId) {
        let references = &mut self.references[usize::from(id.0)];
        *references -= 1;
        if *references == 0 {
            self.out -= 1;
            self.returned.push(id);
        }
    }
}

impl Drop for ReceiveBuffers {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this very layout; the ring that wrote here is gone first.
        unsafe { dealloc(self.base.as_ptr(), self.layout) };
    }
}

impl Received {
    #[must_use]
    pub fn id(&self) -> BufferId {
        self.id
    }

    /// Bytes that arrived.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes of `range`, which must not have been lent yet.
    ///
    /// # Panics
    /// When the range is not inside the bytes that arrived.
    pub fn range(&mut self, range: Range<usize>) -> &mut [u8] {
        assert!(range.start <= range.end && range.end <= self.len(), "inside the bytes");
        // SAFETY: inside the filled part, as just checked.
        let at = unsafe { self.at.add(range.start) };
        // SAFETY: the kernel has filled the range and let go of it. Messages are taken from a
        // buffer front to back and lent after they were looked at, so what is lent lies in front
        // of any range that is still asked for.
        unsafe { std::slice::from_raw_parts_mut(at.as_ptr(), range.len()) }
    }

    /// As [`Self::range`], from `start` to the end.
    pub fn from(&mut self, start: usize) -> &mut [u8] {
        self.range(start..self.len())
    }
}

impl Lent {
    /// A range of another shard's buffer.
    ///
    /// # Safety
    /// `at..at+len` stays readable and unchanged until the lane position that carried it is passed.
    #[must_use]
    pub unsafe fn foreign(at: NonNull<u8>, len: u32) -> Self {
        Self { at, len, buffer: None }
    }

    /// A reference that was counted when it was lent the first time.
    pub(crate) fn own(at: NonNull<u8>, len: u32, buffer: BufferId) -> Self {
        Self { at, len, buffer: Some(buffer) }
    }

    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: the reference count (own buffer) or the lane position (foreign one) keeps the
        // bytes in place, and nobody writes to a lent range.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.len as usize) }
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[must_use]
    pub fn address(&self) -> NonNull<u8> {
        self.at
    }

    /// The own buffer that is lent, if it is one of this shard's.
    #[must_use]
    pub fn buffer(&self) -> Option<BufferId> {
        self.buffer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_returns_to_the_kernel_when_its_last_reference_is_dropped() {
        let mut buffers = ReceiveBuffers::new(4, 64);
        assert_eq!(buffers.returned().len(), 4);
        buffers.returned().clear();

        let mut received = buffers.received(BufferId(2), 10);
        received.from(0).copy_from_slice(b"0123456789");
        let first = buffers.lend(&received, 0..4);
        let second = buffers.lend_again(&first);
        buffers.done(received);
        assert_eq!((first.as_slice(), second.as_slice()), (&b"0123"[..], &b"0123"[..]));
        buffers.give_back(first);
        assert!(buffers.returned().is_empty());
        assert_eq!(buffers.out(), 1);
        buffers.give_back(second);
        assert_eq!(buffers.returned(), &[BufferId(2)]);
        assert_eq!(buffers.out(), 0);
    }

    #[test]
    #[should_panic(expected = "inside the bytes")]
    fn lending_beyond_what_arrived_is_refused() {
        let mut buffers = ReceiveBuffers::new(1, 64);
        let received = buffers.received(BufferId(0), 10);
        let _lent = buffers.lend(&received, 5..11);
    }
}
