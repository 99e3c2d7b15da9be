//! An io_uring set up the way the gateway sets up its own: one issuer, deferred task work, a
//! completion queue four times the submission queue, one buffer group for receives. Knows nothing
//! of connections.
#![expect(unsafe_code, reason = "a submission names memory that the kernel reads later")]

use std::io;

use io_uring::squeue::{Entry, Flags};
use io_uring::types::{Fd, Fixed, TimeoutFlags, Timespec};
use io_uring::{IoUring, cqueue, opcode};

use crate::receive_buffers::ReceiveBuffers;

/// Entries of the submission queue.
pub const SUBMISSIONS: u32 = 4096;
/// Receive buffers of a ring, and the size of each.
pub const BUFFERS: u16 = 4096;
pub const BUFFER_BYTES: u32 = 2048;

const GROUP: u16 = 0;
/// The send finishes inside the `enter` that submits it: whole, in part, or not at all.
const SEND_FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_WAITALL | libc::MSG_NOSIGNAL;

/// A socket as the kernel is asked for it.
#[derive(Clone, Copy, Debug)]
pub enum Socket {
    /// A slot of the ring's own descriptor table.
    Direct(u32),
    /// An ordinary descriptor.
    Descriptor(i32),
}

/// One completion, copied out of the queue.
#[derive(Clone, Copy, Debug)]
pub struct Completion {
    pub user_data: u64,
    /// What the system call would have returned: a count, or a negative errno.
    pub result: i32,
    /// The receive buffer that was filled, if any.
    pub buffer: Option<u16>,
    /// Whether a multishot operation is still armed.
    pub armed: bool,
}

/// A ring with its receive buffers. Lives on the thread that made it.
pub struct NetRing {
    ring: IoUring,
    // Declared after the ring: fields drop in order, and the kernel must be done with the memory.
    buffers: ReceiveBuffers,
    heartbeat: Box<Timespec>,
    /// What [`Self::send_request`] sends; never changed while the ring lives.
    requests: Box<[u8]>,
    /// What [`Self::send`] was given and the kernel may still have to read.
    outgoing: Vec<Vec<u8>>,
    /// Emptied, for [`Self::take_block`].
    blocks: Vec<Vec<u8>>,
}

impl NetRing {
    /// A ring whose own descriptor table has `direct_slots` entries, and that sends the start of
    /// `requests` when asked to. The bytes are the ring's, so that they outlive every send.
    pub fn new(direct_slots: u32, requests: Box<[u8]>) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(4 * SUBMISSIONS)
            .build(SUBMISSIONS)?;
        if direct_slots > 0 {
            ring.submitter().register_files_sparse(direct_slots)?;
        }
        let buffers = ReceiveBuffers::register(&ring, GROUP, BUFFERS, BUFFER_BYTES)?;
        let heartbeat = Box::new(Timespec::new());
        Ok(Self {
            ring,
            buffers,
            heartbeat,
            requests,
            outgoing: Vec::with_capacity(1024),
            blocks: Vec::with_capacity(1024),
        })
    }

    /// Accepts on `listener` into direct slots until told otherwise.
    pub fn accept(&mut self, listener: i32, user_data: u64) -> io::Result<()> {
        let accept = opcode::AcceptMulti::new(Fd(listener)).allocate_file_index(true);
        self.push(&accept.build().user_data(user_data))
    }

    /// Receives from `socket` into the provided buffers until told otherwise.
    pub fn receive(&mut self, socket: Socket, user_data: u64) -> io::Result<()> {
        let receive = match socket {
            Socket::Direct(slot) => opcode::RecvMulti::new(Fixed(slot), GROUP).build(),
            Socket::Descriptor(fd) => opcode::RecvMulti::new(Fd(fd), GROUP).build(),
        };
        self.push(&receive.user_data(user_data))
    }

    /// Sends the first `len` bytes of the requests. Only a failed or partial send posts a
    /// completion.
    pub fn send_request(&mut self, socket: Socket, len: usize, user_data: u64) -> io::Result<()> {
        let send = prepare_send(socket, &self.requests[..len]);
        self.push(&send.user_data(user_data))
    }

    /// Sends the first `len` bytes of receive buffer `id`, which must not be given back before the
    /// next [`Self::enter`] has returned.
    pub fn send_received(
        &mut self,
        socket: Socket,
        id: u16,
        len: usize,
        user_data: u64,
    ) -> io::Result<()> {
        let send = prepare_send(socket, self.buffers.filled(id, len));
        self.push(&send.user_data(user_data))
    }

    /// Sends `block` and keeps it until that is done. Only a failed or partial send posts a
    /// completion.
    pub fn send(&mut self, socket: Socket, block: Vec<u8>, user_data: u64) -> io::Result<()> {
        let send = prepare_send(socket, &block);
        self.outgoing.push(block);
        self.push(&send.user_data(user_data))
    }

    /// An empty block, of memory that was sent before if there is any.
    pub fn take_block(&mut self) -> Vec<u8> {
        self.blocks.pop().unwrap_or_default()
    }

    /// The bytes of a completed receive.
    pub fn received(&self, id: u16, len: usize) -> &[u8] {
        self.buffers.filled(id, len)
    }

    /// Hands receive buffers back to the kernel.
    pub fn give_back(&mut self, ids: impl Iterator<Item = u16>) {
        for id in ids {
            self.buffers.give_back(id);
        }
        self.buffers.publish();
    }

    /// Ends both directions of a direct slot, so that its receive completes with nothing.
    pub fn shut_down(&mut self, slot: u32, user_data: u64) -> io::Result<()> {
        let shutdown = opcode::Shutdown::new(Fixed(slot), libc::SHUT_RDWR);
        self.push(&shutdown.build().user_data(user_data))
    }

    /// Closes a direct slot.
    pub fn close(&mut self, slot: u32, user_data: u64) -> io::Result<()> {
        self.push(&opcode::Close::new(Fixed(slot)).build().user_data(user_data))
    }

    /// A completion every `period_ms` until the ring ends, so that a silent peer cannot park the
    /// thread for good. One timer for all waits: a time-out on each wait costs two programmings of
    /// the clock per turn.
    pub fn start_heartbeat(&mut self, period_ms: u32, user_data: u64) -> io::Result<()> {
        *self.heartbeat =
            Timespec::new().sec(u64::from(period_ms / 1000)).nsec(period_ms % 1000 * 1_000_000);
        let timeout = opcode::Timeout::new(&raw const *self.heartbeat)
            .flags(TimeoutFlags::MULTISHOT)
            .count(0);
        self.push(&timeout.build().user_data(user_data))
    }

    /// Submits everything queued and waits for at least one completion.
    pub fn enter(&mut self) -> io::Result<()> {
        match self.ring.submit_and_wait(1) {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            // The completion queue overflowed; draining it makes room.
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {}
            Err(e) => return Err(e),
        }
        // A send ends inside the call that submits it, so nothing is read any more once all are
        // submitted.
        if self.ring.submission().is_empty() {
            self.blocks.extend(self.outgoing.drain(..).map(|mut block| {
                block.clear();
                block
            }));
        }
        Ok(())
    }

    /// Moves every waiting completion into `into`.
    pub fn drain(&mut self, into: &mut Vec<Completion>) {
        into.extend(self.ring.completion().map(|entry| Completion {
            user_data: entry.user_data(),
            result: entry.result(),
            buffer: cqueue::buffer_select(entry.flags()),
            armed: cqueue::more(entry.flags()),
        }));
    }

    fn push(&mut self, entry: &Entry) -> io::Result<()> {
        loop {
            // SAFETY: every entry names memory of this value (buffers, requests, heartbeat, and
            // outgoing blocks, which `enter` lets go of when they are sent), which stays in place
            // until the ring is gone.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return Ok(());
            }
            self.ring.submit()?;
        }
    }
}

fn prepare_send(socket: Socket, bytes: &[u8]) -> Entry {
    let (start, len) = (bytes.as_ptr(), bytes.len() as u32);
    let send = match socket {
        Socket::Direct(slot) => {
            opcode::Send::new(Fixed(slot), start, len).flags(SEND_FLAGS).build()
        }
        Socket::Descriptor(fd) => opcode::Send::new(Fd(fd), start, len).flags(SEND_FLAGS).build(),
    };
    send.flags(Flags::SKIP_SUCCESS)
}
