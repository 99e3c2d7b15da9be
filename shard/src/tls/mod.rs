//! TLS records between ring and wire, sans-IO.
//!
//! rustls shakes hands. Once a connection stands, its traffic keys move to a record layer of our own
//! (`records`), which opens records where they arrived and keeps no buffers: rustls would copy every
//! message once more each way and keep some kilobytes for an idle connection. Key updates go on to be
//! derived by rustls.
//!
//! The one who drives a [`TlsStream`] keeps what it has not consumed and shows it again with what
//! comes next.

mod handshake;
mod records;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use rustls::server::UnbufferedServerConnection;
use rustls::{Error as RustlsError, HandshakeKind, ServerConfig};
use thiserror::Error;

use self::handshake::Shaken;
use self::records::{Content, RecordFault, Records};

/// The only protocol that is offered (RFC 7301): there is no other way to a WebSocket here.
pub const ALPN: &[u8] = b"http/1.1";

/// Longest record of [`TlsStream::say_goodbye`]: header, explicit nonce, alert, type, tag.
pub const GOODBYE_MAX: usize = 5 + 8 + 2 + 1 + 16;

/// The TLS of one connection.
#[derive(Debug)]
pub struct TlsStream {
    stage: Stage,
    /// Records of TLS itself that are to be sent before anything else.
    outgoing: Vec<u8>,
    /// The first byte was one of TLS.
    begun: bool,
    resumed: bool,
}

enum Stage {
    Handshake(Box<UnbufferedServerConnection>),
    Open(Box<Records>),
    /// Nothing is read or written any more.
    Over,
}

impl fmt::Debug for Stage {
    /// Without the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Handshake(_) => f.write_str("Handshake"),
            Self::Open(records) => records.fmt(f),
            Self::Over => f.write_str("Over"),
        }
    }
}

/// What was found at the beginning of the input.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened {
    /// This range of the input is plaintext now. All up to `consumed` is done with.
    InPlace { consumed: usize, plain: Range<usize> },
    /// Plaintext that came right behind the handshake.
    Aside { consumed: usize, plain: Vec<u8> },
    /// Something of TLS itself.
    Nothing { consumed: usize },
    /// The rest is the beginning of a record.
    NeedMore { consumed: usize },
    /// The peer will send no more.
    Closed,
}

/// Why a connection cannot go on. An alert that says so waits to be sent.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum TlsFault {
    /// Before anything else, so that the port is misunderstood rather than attacked.
    #[error("the first bytes are no TLS record")]
    NotTls,
    #[error("the handshake failed: {0}")]
    Handshake(RustlsError),
    #[error("{0}")]
    Record(#[from] RecordFault),
}

impl TlsStream {
    /// `config` allows the extraction of secrets and has no early data.
    pub fn new(config: Arc<ServerConfig>) -> Result<Self, RustlsError> {
        let connection = UnbufferedServerConnection::new(config)?;
        Ok(Self {
            stage: Stage::Handshake(Box::new(connection)),
            outgoing: Vec::new(),
            begun: false,
            resumed: false,
        })
    }

    #[must_use]
    pub fn is_handshaking(&self) -> bool {
        matches!(self.stage, Stage::Handshake(_))
    }

    /// Whether the peer has yet to be told that nothing more comes.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open(_))
    }

    /// Whether the handshake was cut short by a ticket.
    #[must_use]
    pub fn is_resumed(&self) -> bool {
        self.resumed
    }

    /// How many bytes belong behind `begun`, which is the beginning of a record, before it is worth
    /// opening. A handshake takes all that comes: its messages may be spread over records.
    #[must_use]
    pub fn missing(&self, begun: &[u8]) -> usize {
        match &self.stage {
            Stage::Open(_) => records::missing(begun),
            Stage::Handshake(_) | Stage::Over => usize::MAX,
        }
    }

    /// Opens the first record of `input`.
    pub fn open(&mut self, input: &mut [u8]) -> Result<Opened, TlsFault> {
        let opened = match &mut self.stage {
            Stage::Handshake(_) => self.shake(input),
            Stage::Open(records) => open_record(records, input, &mut self.outgoing),
            Stage::Over => Ok(Opened::Nothing { consumed: input.len() }),
        };
        if opened.is_err() {
            self.stage = Stage::Over;
        }
        opened
    }

    /// Bytes that are to be sent before all that is sealed from now on.
    pub fn take_outgoing(&mut self) -> Vec<u8> {
        if let Stage::Open(records) = &mut self.stage {
            // Where keys cannot be renewed, sealing ends when they are used up.
            let _renewed = records.renew_if_due(&mut self.outgoing);
        }
        std::mem::take(&mut self.outgoing)
    }

    #[must_use]
    pub fn has_outgoing(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// How many bytes [`Self::seal`] makes of `len`.
    #[must_use]
    pub fn sealed_len(&self, len: usize) -> usize {
        match &self.stage {
            Stage::Open(records) => records.sealed_len(len),
            Stage::Handshake(_) | Stage::Over => 0,
        }
    }

    /// Writes `plain` as records into all of `out`, which is [`Self::sealed_len`] long.
    pub fn seal(&mut self, plain: &[u8], out: &mut [u8]) -> Result<(), TlsFault> {
        match &mut self.stage {
            Stage::Open(records) => Ok(records.seal(plain, out)?),
            Stage::Handshake(_) | Stage::Over => Ok(()),
        }
    }

    /// Says that nothing more will be sent; once.
    pub fn say_goodbye(&mut self) {
        if let Stage::Open(records) = &mut self.stage {
            // One whose keys are used up leaves without.
            let _said = records.seal_alert(records::Alert::CloseNotify, &mut self.outgoing);
            self.stage = Stage::Over;
        }
    }

    fn shake(&mut self, input: &mut [u8]) -> Result<Opened, TlsFault> {
        let Stage::Handshake(connection) = &mut self.stage else {
            return Ok(Opened::Nothing { consumed: 0 });
        };
        if !self.begun {
            match input.first() {
                None => return Ok(Opened::NeedMore { consumed: 0 }),
                Some(&records::HANDSHAKE) => self.begun = true,
                Some(_) => return Err(TlsFault::NotTls),
            }
        }
        let shaken = handshake::advance(connection, input, &mut self.outgoing);
        match shaken.map_err(TlsFault::Handshake)? {
            Shaken::NeedMore { consumed } => Ok(Opened::NeedMore { consumed }),
            Shaken::Closed => Ok(Opened::Closed),
            Shaken::Done { consumed, plain } => {
                let Stage::Handshake(connection) = std::mem::replace(&mut self.stage, Stage::Over)
                else {
                    return Ok(Opened::Nothing { consumed });
                };
                self.resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
                let records = Records::take_over(*connection).map_err(TlsFault::Handshake)?;
                self.stage = Stage::Open(Box::new(records));
                Ok(match plain.is_empty() {
                    true => Opened::Nothing { consumed },
                    false => Opened::Aside { consumed, plain },
                })
            }
        }
    }
}

fn open_record(
    records: &mut Records,
    input: &mut [u8],
    outgoing: &mut Vec<u8>,
) -> Result<Opened, TlsFault> {
    let opened = records.open(input, outgoing);
    match opened {
        Ok(None) => Ok(Opened::NeedMore { consumed: 0 }),
        Ok(Some((consumed, Content::Data(plain)))) => Ok(Opened::InPlace { consumed, plain }),
        Ok(Some((consumed, Content::Nothing))) => Ok(Opened::Nothing { consumed }),
        Ok(Some((_, Content::CloseNotify))) => Ok(Opened::Closed),
        Err(fault) => {
            if let Some(alert) = fault.alert() {
                let _said = records.seal_alert(alert, outgoing);
            }
            Err(fault.into())
        }
    }
}

#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod tests;
