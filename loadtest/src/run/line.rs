//! One connection: its socket, how far it has come, and bytes that are not complete or not sent.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::socket::kind_of;
use crate::wire::frame::{FrameError, Opcode};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Connecting,
    /// The request is sent.
    Upgrading,
    /// Upgraded; the protocol is not signed in yet.
    Greeting,
    Ready,
    /// Our close frame is sent.
    Closing,
}

/// Why a connection is of no further use, as the kind that errors are counted by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended(pub(crate) String);

impl From<&str> for Ended {
    fn from(kind: &str) -> Self {
        Self(kind.to_owned())
    }
}

impl From<String> for Ended {
    fn from(kind: String) -> Self {
        Self(kind)
    }
}

impl From<FrameError> for Ended {
    fn from(error: FrameError) -> Self {
        Self(format!("frame: {error}"))
    }
}

impl From<Errno> for Ended {
    fn from(error: Errno) -> Self {
        Self(kind_of(&io::Error::from(error)))
    }
}

/// A server that lets this much lie unread is not served any further.
const UNSENT_BYTES_MAX: usize = 4 << 20;

#[derive(Debug)]
pub(crate) struct Line<D> {
    pub(crate) socket: OwnedFd,
    pub(crate) dialect: D,
    pub(crate) phase: Phase,
    /// Received, but no whole frame yet.
    pub(crate) carry: Vec<u8>,
    /// The fragments of a message that is not complete.
    pub(crate) joined: Option<(Opcode, Vec<u8>)>,
    /// Refused by the full socket.
    unsent: Vec<u8>,
    /// When it was to be opened, was begun, connected, and upgraded.
    pub(crate) intended: u64,
    pub(crate) started: u64,
    pub(crate) connected: u64,
    pub(crate) upgraded: u64,
}

impl<D> Line<D> {
    pub(crate) fn new(socket: OwnedFd, dialect: D, intended: u64, started: u64) -> Self {
        Self {
            socket,
            dialect,
            phase: Phase::Connecting,
            carry: Vec::new(),
            joined: None,
            unsent: Vec::new(),
            intended,
            started,
            connected: 0,
            upgraded: 0,
        }
    }

    /// Whether the socket took everything so far.
    #[inline]
    pub(crate) fn is_clear(&self) -> bool {
        self.unsent.is_empty()
    }

    /// Receives behind the carried bytes, which are moved to the start of `buffer`. Says how many
    /// bytes `buffer` holds, and how many of them are new; nothing if there was nothing to read.
    #[inline]
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> Result<Option<(usize, usize)>, Ended> {
        let carried = self.carry.len();
        buffer[..carried].copy_from_slice(&self.carry);
        match recv(&self.socket, &mut buffer[carried..], RecvFlags::DONTWAIT) {
            Ok((0, _)) => Err("ended without a close frame".into()),
            Ok((received, _)) => {
                self.carry.clear();
                Ok(Some((carried + received, received)))
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Hands `bytes` to the socket; what it does not take is kept. Says how many it took.
    #[inline]
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<usize, Ended> {
        if !self.unsent.is_empty() {
            return self.keep(bytes).map(|()| 0);
        }
        let taken = match send(&self.socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(taken) => taken,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(error) => return Err(error.into()),
        };
        if taken < bytes.len() {
            self.keep(&bytes[taken..])?;
        }
        Ok(taken)
    }

    /// Tries the kept bytes again.
    pub(crate) fn send_kept(&mut self) -> Result<usize, Ended> {
        let kept = std::mem::take(&mut self.unsent);
        self.send(&kept)
    }

    #[cold]
    fn keep(&mut self, bytes: &[u8]) -> Result<(), Ended> {
        if self.unsent.len() + bytes.len() > UNSENT_BYTES_MAX {
            return Err("the server does not read".into());
        }
        self.unsent.extend_from_slice(bytes);
        Ok(())
    }
}
