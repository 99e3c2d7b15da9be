//! The kernel's side of the receive buffers: a ring of entries that name free buffers.

#![expect(unsafe_code, reason = "the entries live in memory that the kernel reads")]

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::{IoUring, types::BufRingEntry};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use crate::buffers::{BufferId, ReceiveBuffers};

/// The one buffer group of a shard's ring.
pub(super) const GROUP: u16 = 0;

/// Free buffers, in the form in which the kernel takes them.
#[derive(Debug)]
pub(super) struct ProvidedRing {
    entries: NonNull<BufRingEntry>,
    mapped: usize,
    mask: u16,
    tail: u16,
    base: usize,
    size: usize,
}

impl ProvidedRing {
    /// Registers the group with `ring`. `buffers` must outlive the ring.
    pub(super) fn register(ring: &IoUring, buffers: &ReceiveBuffers) -> io::Result<Self> {
        let count = u16::try_from(buffers.count())
            .ok()
            .filter(|count| count.is_power_of_two())
            .ok_or_else(|| io::Error::other("the number of receive buffers is a power of two"))?;
        let mapped = usize::from(count) * size_of::<BufRingEntry>();
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh private anonymous mapping aliases nothing.
        let memory =
            unsafe { mmap_anonymous(std::ptr::null_mut(), mapped, protection, MapFlags::PRIVATE) }?;
        let entries = NonNull::new(memory.cast::<BufRingEntry>())
            .ok_or_else(|| io::Error::other("the kernel mapped the null page"))?;
        let submitter = ring.submitter();
        // SAFETY: the mapping holds `count` entries and is unmapped only after the ring is dropped
        // (field order of the owner).
        unsafe {
            submitter.register_buf_ring_with_flags(entries.as_ptr() as u64, count, GROUP, 0)
        }?;
        Ok(Self {
            entries,
            mapped,
            mask: count - 1,
            tail: 0,
            base: buffers.base() as usize,
            size: buffers.buffer_size(),
        })
    }

    /// Hands `ids` to the kernel and empties the list.
    pub(super) fn provide(&mut self, ids: &mut Vec<BufferId>) {
        if ids.is_empty() {
            return;
        }
        for id in ids.drain(..) {
            let position = usize::from(self.tail & self.mask);
            // SAFETY: `position` is below the number of entries that were mapped.
            let mut entry = unsafe { self.entries.add(position) };
            // SAFETY: the mapping is ours, and nobody else refers to its entries.
            let entry = unsafe { entry.as_mut() };
            entry.set_addr((self.base + usize::from(id.0) * self.size) as u64);
            entry.set_len(self.size as u32);
            entry.set_bid(id.0);
            self.tail = self.tail.wrapping_add(1);
        }
        // SAFETY: the tail lies in the unused field of entry 0 of the live mapping.
        let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) };
        // SAFETY: the kernel reads the tail as an aligned u16; we are its only writer.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

impl Drop for ProvidedRing {
    fn drop(&mut self) {
        // SAFETY: mapped in `register` with this length; the ring that used it is gone.
        let unmapped = unsafe { munmap(self.entries.as_ptr().cast(), self.mapped) };
        debug_assert!(unmapped.is_ok());
    }
}
