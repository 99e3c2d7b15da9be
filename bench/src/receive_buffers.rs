//! The provided-buffer ring of one io_uring: equal buffers in one mapping that the kernel picks
//! from for multishot receives. Which operation uses them, and when a buffer is done, is the
//! caller's business.
#![expect(unsafe_code, reason = "the kernel writes into this memory on its own schedule")]

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// A buffer ring of one io_uring. Its memory lives until the value is dropped, which must happen
/// after the io_uring is gone (declare it after the ring in a struct).
#[derive(Debug)]
pub struct ReceiveBuffers {
    base: NonNull<u8>,
    mapped_bytes: usize,
    /// A power of two, at most 32 768.
    entries: u16,
    buffer_bytes: u32,
    /// What was published last; only this side writes it.
    tail: u16,
}

impl ReceiveBuffers {
    /// Maps `entries` buffers of `buffer_bytes` each and registers them as `group`.
    pub fn register(
        ring: &IoUring,
        group: u16,
        entries: u16,
        buffer_bytes: u32,
    ) -> io::Result<Self> {
        assert!(entries.is_power_of_two() && entries <= 1 << 15, "the kernel takes powers of two");
        let mapped_bytes =
            usize::from(entries) * (size_of::<BufRingEntry>() + buffer_bytes as usize);
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice aliases nothing.
        let mapping = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                mapped_bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::POPULATE,
            )
        }?;
        let base = NonNull::new(mapping.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        let mut buffers = Self { base, mapped_bytes, entries, buffer_bytes, tail: 0 };
        let address = base.as_ptr() as u64;
        // SAFETY: the mapping holds `entries` ring entries at its page-aligned start and lives as
        // long as `buffers`, which the owner drops after the ring.
        unsafe { ring.submitter().register_buf_ring_with_flags(address, entries, group, 0) }?;
        for id in 0..entries {
            buffers.give_back(id);
        }
        buffers.publish();
        Ok(buffers)
    }

    /// The first `len` bytes of buffer `id`, which the kernel has handed to us.
    pub fn filled(&self, id: u16, len: usize) -> &[u8] {
        assert!(id < self.entries && len <= self.buffer_bytes as usize);
        let start = self.offset_of(id);
        // SAFETY: in bounds by the assertion; the kernel does not write to a buffer between its
        // completion and `publish` of its return, and the borrow ends before `give_back`.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().wrapping_add(start), len) }
    }

    /// Puts buffer `id` back; the kernel sees it after the next [`Self::publish`].
    pub fn give_back(&mut self, id: u16) {
        let slot = usize::from(self.tail & (self.entries - 1));
        let first = self.base.as_ptr().cast::<BufRingEntry>();
        // SAFETY: `slot` is below `entries`, so the entry lies in the mapping, and the kernel does
        // not read it before the tail moves past it.
        let entry = unsafe { &mut *first.wrapping_add(slot) };
        entry.set_addr(self.base.as_ptr() as u64 + self.offset_of(id) as u64);
        entry.set_len(self.buffer_bytes);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Shows the kernel every buffer given back so far.
    pub fn publish(&self) {
        let first = self.base.as_ptr().cast::<BufRingEntry>();
        // SAFETY: `first` is the start of the registered ring.
        let tail = unsafe { BufRingEntry::tail(first) };
        // SAFETY: the tail is an aligned u16 inside our mapping that only this side writes.
        let tail = unsafe { &*tail.cast::<AtomicU16>() };
        tail.store(self.tail, Ordering::Release);
    }

    fn offset_of(&self, id: u16) -> usize {
        usize::from(self.entries) * size_of::<BufRingEntry>()
            + usize::from(id) * self.buffer_bytes as usize
    }
}

impl Drop for ReceiveBuffers {
    fn drop(&mut self) {
        // SAFETY: mapped in `register` with this length, and the ring that knew it is gone. A
        // failure would leave the mapping behind, which is harmless.
        let _unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.mapped_bytes) };
    }
}
