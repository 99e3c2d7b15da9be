//! One connection: its socket, its TLS if it has one, how far it has come, and bytes that are not
//! complete or not sent.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::socket::kind_of;
use crate::wire::frame::{FrameError, Opcode};
use crate::wire::tls::{self, TlsError};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Connecting,
    /// TLS shakes hands.
    Securing,
    /// The request is sent.
    Upgrading,
    /// Upgraded; the protocol is not signed in yet.
    Greeting,
    Ready,
    /// Our close frame is sent.
    Closing,
}

impl Phase {
    /// On its way to ready.
    pub(crate) fn is_opening(self) -> bool {
        !matches!(self, Self::Ready | Self::Closing)
    }
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

impl From<TlsError> for Ended {
    fn from(error: TlsError) -> Self {
        Self(error.to_string())
    }
}

impl From<Errno> for Ended {
    fn from(error: Errno) -> Self {
        Self(kind_of(&io::Error::from(error)))
    }
}

/// The end of what the server sends, without a close frame before it.
pub(crate) const ENDED: &str = "ended without a close frame";

/// A server that lets this much lie unread is not served any further.
const UNSENT_BYTES_MAX: usize = 4 << 20;

#[derive(Debug)]
pub(crate) struct Line<D> {
    pub(crate) socket: OwnedFd,
    tls: Option<Box<tls::Session>>,
    pub(crate) dialect: D,
    pub(crate) phase: Phase,
    /// Received, but no whole frame yet.
    pub(crate) carry: Vec<u8>,
    /// The fragments of a message that is not complete.
    pub(crate) joined: Option<(Opcode, Vec<u8>)>,
    /// Refused by the full socket.
    unsent: Vec<u8>,
    /// When it was to be opened, was begun, connected, secured if it has TLS, and upgraded.
    pub(crate) intended: u64,
    pub(crate) started: u64,
    pub(crate) connected: u64,
    pub(crate) secured: u64,
    pub(crate) upgraded: u64,
}

/// Records on their way in and out, of one connection after the other.
#[derive(Debug, Default)]
pub(crate) struct Records {
    received: Vec<u8>,
    sealed: Vec<u8>,
    /// Bytes that TLS has sent by itself.
    answered: u64,
}

impl Records {
    /// How many bytes TLS has sent by itself since the last call.
    #[inline]
    pub(crate) fn take_answered(&mut self) -> u64 {
        std::mem::take(&mut self.answered)
    }
}

impl<D> Line<D> {
    pub(crate) fn new(socket: OwnedFd, dialect: D, intended: u64, started: u64) -> Self {
        Self {
            socket,
            tls: None,
            dialect,
            phase: Phase::Connecting,
            carry: Vec::new(),
            joined: None,
            unsent: Vec::new(),
            intended,
            started,
            connected: 0,
            secured: 0,
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
    pub(crate) fn receive(
        &mut self,
        buffer: &mut [u8],
        records: &mut Records,
    ) -> Result<Option<(usize, usize)>, Ended> {
        if self.tls.is_some() {
            return self.receive_records(buffer, records);
        }
        let carried = self.carry.len();
        buffer[..carried].copy_from_slice(&self.carry);
        match recv(&self.socket, &mut buffer[carried..], RecvFlags::DONTWAIT) {
            Ok((0, _)) => Err(ENDED.into()),
            Ok((received, _)) => {
                self.carry.clear();
                Ok(Some((carried + received, received)))
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Like `receive`; the new bytes that it says are those of the records.
    fn receive_records(
        &mut self,
        buffer: &mut [u8],
        records: &mut Records,
    ) -> Result<Option<(usize, usize)>, Ended> {
        let Some(session) = &mut self.tls else {
            return Ok(None);
        };
        let carried = self.carry.len();
        buffer[..carried].copy_from_slice(&self.carry);
        let begun = session.carry().len();
        // The plaintext of all that is received has room in `buffer`.
        records.received.resize(buffer.len() - carried, 0);
        records.received[..begun].copy_from_slice(session.carry());
        let unread = &mut records.received[begun..];
        let received = match recv(&self.socket, unread, RecvFlags::DONTWAIT) {
            Ok((0, _)) if session.is_shaken() => return Err(ENDED.into()),
            Ok((0, _)) => return Err(tls::ended_early().into()),
            Ok((received, _)) => received,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        self.carry.clear();
        let mut filled = carried;
        let mut each = |plain: &[u8]| {
            buffer[filled..filled + plain.len()].copy_from_slice(plain);
            filled += plain.len();
        };
        records.sealed.clear();
        let arrived = &mut records.received[..begun + received];
        let opened = session.open(arrived, &mut each, &mut records.sealed);
        let answered = match records.sealed.is_empty() {
            true => Ok(0),
            false => self.transmit(&records.sealed),
        };
        // What TLS has to say against the records explains why the socket takes nothing more.
        opened?;
        records.answered += answered? as u64;
        Ok(Some((filled, received)))
    }

    /// Begins the handshake.
    pub(crate) fn secure(
        &mut self,
        client: &tls::Client,
        records: &mut Records,
    ) -> Result<usize, Ended> {
        let session = self.tls.insert(Box::new(client.open()?));
        records.sealed.clear();
        session.begin(&mut records.sealed)?;
        self.transmit(&records.sealed)
    }

    /// What the handshake agreed on, once it is done.
    pub(crate) fn agreed(&self) -> Option<String> {
        let session = self.tls.as_ref()?;
        session.is_shaken().then(|| session.agreed())
    }

    /// The server has said that it sends no more.
    #[inline]
    pub(crate) fn is_over(&self) -> bool {
        self.tls.as_ref().is_some_and(|session| session.is_over())
    }

    /// Tells the server that no more comes, where there is a word for it.
    pub(crate) fn say_goodbye(&mut self, records: &mut Records) {
        let Some(session) = self.tls.as_mut().filter(|session| session.is_shaken()) else {
            return;
        };
        records.sealed.clear();
        if session.say_goodbye(&mut records.sealed).is_ok() {
            // A server that is gone already needs no goodbye.
            drop(self.transmit(&records.sealed));
        }
    }

    /// Hands `bytes` to the socket, as records if it has TLS; what it does not take is kept. Says
    /// how many bytes it took.
    #[inline]
    pub(crate) fn send(&mut self, bytes: &[u8], records: &mut Records) -> Result<usize, Ended> {
        let Some(session) = &mut self.tls else {
            return self.transmit(bytes);
        };
        records.sealed.clear();
        session.seal(bytes, &mut records.sealed)?;
        self.transmit(&records.sealed)
    }

    #[inline]
    fn transmit(&mut self, bytes: &[u8]) -> Result<usize, Ended> {
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
        self.transmit(&kept)
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
