//! The life of a connection in the slots of a [`NetRing`]: accepted, received from until its end,
//! closed once. What its bytes mean is the affair of a [`SlotServer`].

use std::io;
use std::os::fd::AsRawFd;

use crate::net_ring::{Completion, NetRing, Socket};

/// Connections at a time; each takes a slot of the ring's descriptor table.
pub const SLOTS: u32 = 16_384;

/// What a completion belongs to: the operation in the high half of the user data, the slot in the
/// low half.
const ACCEPT: u64 = 1 << 32;
const RECEIVE: u64 = 2 << 32;
const SEND: u64 = 3 << 32;
const END: u64 = 4 << 32;

/// The user data of a send from `slot`. One that fails or is cut short ends its connection: the
/// stream has a hole.
pub fn send_tag(slot: u32) -> u64 {
    SEND | u64::from(slot)
}

/// The stream of a connection is of no further use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Over;

pub trait SlotServer {
    /// `len` bytes of `slot` lie in buffer `id`, which is this server's until the end of the turn's
    /// exchange with the kernel.
    fn received(
        &mut self,
        ring: &mut NetRing,
        slot: u32,
        id: u16,
        len: usize,
    ) -> io::Result<Result<(), Over>>;

    /// The connection of `slot` has ended; another one may take its place.
    fn gone(&mut self, _slot: u32) {}

    /// Every completion of this turn was handled.
    fn turn_ends(&mut self, _ring: &mut NetRing) -> io::Result<()> {
        Ok(())
    }
}

/// Serves everybody who connects to `listener`, until the ring fails.
pub fn serve(listener: &socket2::Socket, server: impl SlotServer) -> io::Result<()> {
    SlotLoop {
        ring: NetRing::new(SLOTS, Box::default())?,
        listener: listener.as_raw_fd(),
        server,
        spent: Vec::with_capacity(1024),
        starved: Vec::with_capacity(64),
    }
    .run()
}

struct SlotLoop<S> {
    ring: NetRing,
    listener: i32,
    server: S,
    /// Buffers whose bytes were looked at in this turn; free once the next enter has returned.
    spent: Vec<u16>,
    /// Slots whose receive ended because no buffer was left.
    starved: Vec<u32>,
}

impl<S: SlotServer> SlotLoop<S> {
    fn run(&mut self) -> io::Result<()> {
        let mut completions = Vec::with_capacity(1024);
        self.ring.accept(self.listener, ACCEPT)?;
        loop {
            self.ring.enter()?;
            self.ring.give_back(self.spent.drain(..));
            self.ring.drain(&mut completions);
            for completion in completions.drain(..) {
                self.handle(completion)?;
            }
            for slot in std::mem::take(&mut self.starved) {
                self.receive(slot)?;
            }
            self.server.turn_ends(&mut self.ring)?;
        }
    }

    fn handle(&mut self, completion: Completion) -> io::Result<()> {
        let slot = completion.user_data as u32;
        match completion.user_data & !u64::from(u32::MAX) {
            ACCEPT => {
                if let Ok(slot) = u32::try_from(completion.result) {
                    self.receive(slot)?;
                }
                if !completion.armed {
                    self.ring.accept(self.listener, ACCEPT)?;
                }
            }
            RECEIVE => self.received(slot, completion)?,
            // Only a failed or partial send gets here. Its receive completes next and closes the
            // slot, so that a slot is closed once.
            SEND => self.ring.shut_down(slot, END)?,
            _ => {}
        }
        Ok(())
    }

    fn received(&mut self, slot: u32, completion: Completion) -> io::Result<()> {
        if let (Some(id), Ok(len)) = (completion.buffer, usize::try_from(completion.result)) {
            self.spent.push(id);
            if len > 0 && self.server.received(&mut self.ring, slot, id, len)? == Err(Over) {
                self.ring.shut_down(slot, END)?;
            }
        }
        if completion.armed {
            return Ok(());
        }
        match completion.result {
            1.. => self.receive(slot),
            result if result == -libc::ENOBUFS => {
                self.starved.push(slot);
                Ok(())
            }
            _ => {
                self.server.gone(slot);
                self.ring.close(slot, END)
            }
        }
    }

    fn receive(&mut self, slot: u32) -> io::Result<()> {
        self.ring.receive(Socket::Direct(slot), RECEIVE | u64::from(slot))
    }
}
