//! Frames that cross in the receive buffer they arrived in: the one place where an address goes
//! from one shard's memory to another's thread.

#![expect(unsafe_code, reason = "a frame is read by another shard in its sender's buffer")]

use std::ops::Deref;
use std::ptr::NonNull;

use crate::buffers::{BufferId, Lent};

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

    /// Lends on what this shard has lent from a buffer of its own; the reference goes along.
    #[must_use]
    pub(crate) fn of(lent: Lent) -> Option<Self> {
        let buffer = lent.buffer()?;
        Some(Self { at: lent.address(), len: lent.len() as u32, buffer })
    }

    /// A loan that no lane took, as it was.
    #[must_use]
    pub(crate) fn taken_back(self) -> Lent {
        Lent::own(self.at, self.len, self.buffer)
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

    /// The frame as something to be sent. The engine releases a lane only after the sends of the
    /// turn that read it were settled, and copies whatever is not sent in that turn.
    #[must_use]
    pub(crate) fn lend(&self) -> Lent {
        // SAFETY: the sender leaves the bytes alone until this lane is released, and by then the
        // engine has settled, copied or dropped what it made of them.
        unsafe { Lent::foreign(self.address(), self.bytes.len() as u32) }
    }
}

impl Deref for BorrowedFrame<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::cell::UnsafeCell;
    use std::thread;

    use super::*;
    use crate::id::{ConnectionKey, Generation, Slot};
    use crate::lane::{
        Arrival, Broadcast, Crossing, LaneReceiver, LaneSender, Lending, Payload, Returned, lane,
    };
    use crate::wire::header::Priority;

    const BUFFERS: u16 = 16;
    const LEN: usize = 24;
    const MESSAGES: u64 = if cfg!(miri) { 300 } else { 100_000 };
    const FROM: ConnectionKey = ConnectionKey { slot: Slot(0), generation: Generation(0) };

    /// Memory that is changed by hand, as the kernel does with receive buffers.
    struct Buffers(Box<[UnsafeCell<[u8; LEN]>]>);

    impl Buffers {
        fn new() -> Self {
            Self((0..BUFFERS).map(|_| UnsafeCell::new([0; LEN])).collect())
        }

        fn address(&self, buffer: BufferId) -> NonNull<[u8; LEN]> {
            NonNull::new(self.0[usize::from(buffer.0)].get()).unwrap()
        }

        fn fill(&self, buffer: BufferId, number: u64) {
            // SAFETY: only this thread writes, and only buffers that no lane has.
            unsafe { self.address(buffer).write(contents(number)) };
        }
    }

    fn contents(number: u64) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&number.to_be_bytes()));
        bytes
    }

    /// Sends every number once, in a buffer that is filled anew each time it comes back.
    fn send_all(mut sender: LaneSender, buffers: &Buffers) {
        let mut lending = Lending::new(4 * BUFFERS);
        let mut free: Vec<_> = (0..BUFFERS).map(BufferId).collect();
        let mut number = 0;
        while number < MESSAGES {
            sender.reclaim(&mut lending, |returned| match returned {
                Returned::Buffer(buffer) => free.push(buffer),
                Returned::Block { .. } => unreachable!("only loans were sent"),
            });
            let Some(buffer) = free.pop() else {
                thread::yield_now();
                continue;
            };
            buffers.fill(buffer, number);
            // SAFETY: the buffer is filled again only after `reclaim` has yielded it, and the
            // buffers outlive both threads.
            let loan = unsafe { Loan::new(buffers.address(buffer).cast(), LEN as u32, buffer) };
            let crossing = Crossing::Broadcast(Broadcast {
                from: FROM,
                frame: Payload::Borrowed(loan),
                header_len: 0,
                priority: Priority::Normal,
            });
            match sender.try_request(crossing, &mut lending) {
                Ok(()) => number += 1,
                Err(_) => {
                    free.push(buffer);
                    thread::yield_now();
                }
            }
        }
    }

    /// Reads in batches and looks at each frame again by its address right before the release, as
    /// a SEND by reference does.
    fn receive_all(mut receiver: LaneReceiver) {
        let mut number = 0;
        let mut kept = Vec::with_capacity(5);
        while number < MESSAGES {
            while kept.len() < 5
                && let Some(Arrival::Broadcast(broadcast)) = receiver.next_arrival()
            {
                let crate::lane::Frame::Borrowed(frame) = broadcast.frame else {
                    unreachable!("only loans were sent")
                };
                assert_eq!(*frame, contents(number));
                kept.push((frame.address(), number));
                number += 1;
            }
            for (address, number) in kept.drain(..) {
                // SAFETY: the lane is released only after this.
                let bytes = unsafe { address.cast::<[u8; LEN]>().read() };
                assert_eq!(bytes, contents(number));
            }
            receiver.release();
            thread::yield_now();
        }
    }

    #[test]
    fn a_buffer_keeps_its_bytes_until_the_receiver_releases_it() {
        let buffers = Buffers::new();
        let (sender, receiver) = lane(8);
        struct Shared<'a>(&'a Buffers);
        // SAFETY: only the sending thread uses the buffers; the other reads through loans.
        unsafe impl Send for Shared<'_> {}
        let shared = Shared(&buffers);
        thread::scope(|scope| {
            scope.spawn(move || {
                let shared = shared;
                send_all(sender, shared.0);
            });
            receive_all(receiver);
        });
    }
}
