//! `getpeername` for a socket that has no file descriptor: a socket command on the ring.

#![expect(unsafe_code, reason = "the kernel writes the address into memory of ours")]

use std::cell::UnsafeCell;
use std::net::SocketAddr;

use io_uring::{opcode, squeue, types::Fixed};
use socket2::{SockAddr, SockAddrStorage};

use crate::sockets::Socket;

const SOCKET_URING_OP_GETSOCKOPT: u32 = 2;
const SO_PEERNAME: u32 = 28;
/// Where `struct io_uring_sqe` keeps a socket command's `optlen`.
const OPTLEN_AT: usize = 44;

/// Room for the answers of one turn. The command completes within the enter that submits it.
pub(super) struct PeerNames {
    answers: Box<[UnsafeCell<SockAddrStorage>]>,
    free: Vec<u32>,
}

impl PeerNames {
    pub(super) fn new(places: u32) -> Self {
        Self {
            answers: (0..places).map(|_| UnsafeCell::new(SockAddrStorage::zeroed())).collect(),
            free: (0..places).collect(),
        }
    }

    /// The command and the place of its answer, or `None` when every place is taken.
    ///
    /// The kernel refuses more room than the address takes, so its length must be known.
    pub(super) fn ask(&mut self, socket: Socket, len: u32) -> Option<(squeue::Entry, u32)> {
        let place = self.free.pop()?;
        let answer = self.answers[place as usize].get();
        let mut command = [0; 16];
        command[..8].copy_from_slice(&(answer as u64).to_ne_bytes());
        let level_and_name = u64::from(SO_PEERNAME) << 32 | libc::SOL_SOCKET as u64;
        let entry = opcode::UringCmd16::new(Fixed(socket.0), SOCKET_URING_OP_GETSOCKOPT)
            .cmd(command)
            .addr(Some(level_and_name))
            .build();
        // SAFETY: an entry is a plain 64-byte C structure; every bit pattern of it is valid.
        let mut bytes = unsafe { std::mem::transmute::<squeue::Entry, [u8; 64]>(entry) };
        bytes[OPTLEN_AT..OPTLEN_AT + 4].copy_from_slice(&len.to_ne_bytes());
        // SAFETY: as above; the bytes came from an entry and only its optlen field was set.
        let entry = unsafe { std::mem::transmute::<[u8; 64], squeue::Entry>(bytes) };
        Some((entry, place))
    }

    /// Reads the answer and frees its place. `result` is the completion's: the address length.
    pub(super) fn answer(&mut self, place: u32, result: i32) -> Option<SocketAddr> {
        self.free.push(place);
        let len = libc::socklen_t::try_from(result).ok()?;
        // SAFETY: the completion has been seen, so the kernel no longer writes here.
        let storage = unsafe { std::ptr::read(self.answers[place as usize].get()) };
        // SAFETY: the kernel filled `len` bytes of an address of the family that it wrote.
        let address = unsafe { SockAddr::new(storage, len) };
        address.as_socket()
    }
}
