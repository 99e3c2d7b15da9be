//! The TLS of one connection.

use std::fmt;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic,
};
use rustls::{Error as RustlsError, HandshakeKind, ProtocolVersion};

use super::{TlsError, ended_early};

/// Plaintext of a record, and the most that its header, nonce, type and tag add to it.
const FRAGMENT_BYTES: usize = 16 << 10;
const RECORD_OVERHEAD: usize = 32;

pub(crate) struct Session {
    connection: UnbufferedClientConnection,
    /// Received, but no whole record yet: what the next records begin with.
    carry: Vec<u8>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Shaking,
    Open,
    /// The server sends no more.
    Over,
    /// After an error. rustls is not to be asked again: it would look for what it has not discarded.
    Broken,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connection: _, carry, stage } = self;
        let carried = carry.len();
        f.debug_struct("Session")
            .field("carried", &carried)
            .field("stage", stage)
            .finish_non_exhaustive()
    }
}

impl Session {
    pub(super) fn new(connection: UnbufferedClientConnection) -> Self {
        Self { connection, carry: Vec::new(), stage: Stage::Shaking }
    }

    /// What stands before the next received bytes.
    pub(crate) fn carry(&self) -> &[u8] {
        &self.carry
    }

    /// The handshake is done: messages can be sealed.
    pub(crate) fn is_shaken(&self) -> bool {
        matches!(self.stage, Stage::Open | Stage::Over)
    }

    /// The server sends no more.
    pub(crate) fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// Appends the first records of the handshake.
    pub(crate) fn begin(&mut self, out: &mut Vec<u8>) -> Result<(), TlsError> {
        self.open(&mut [], &mut |_| {}, out)
    }

    /// Takes `records`, which begin with the carried bytes. `each` is given their plaintext; what
    /// TLS itself answers is appended to `out`, with an error too.
    pub(crate) fn open(
        &mut self,
        records: &mut [u8],
        each: &mut impl FnMut(&[u8]),
        out: &mut Vec<u8>,
    ) -> Result<(), TlsError> {
        let mut used = 0;
        loop {
            let UnbufferedStatus { discard, state } =
                self.connection.process_tls_records(&mut records[used..]);
            let waits = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
                    match traffic.next_record() {
                        Some(Ok(record)) => each(record.payload),
                        Some(Err(error)) => break Err(error),
                        None => break Ok(false),
                    }
                },
                Ok(ConnectionState::EncodeTlsData(data)) => encode(data, out).map(|()| false),
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done(); // `out` goes before anything else
                    Ok(false)
                }
                Ok(ConnectionState::WriteTraffic(_)) => {
                    if self.stage == Stage::Shaking {
                        self.stage = Stage::Open;
                    }
                    Ok(true)
                }
                Ok(ConnectionState::PeerClosed) => {
                    if self.stage == Stage::Shaking {
                        self.stage = Stage::Broken;
                        return Err(ended_early());
                    }
                    self.stage = Stage::Over;
                    Ok(false)
                }
                Ok(ConnectionState::BlockedHandshake | ConnectionState::Closed) => Ok(true),
                Ok(_) => Err(RustlsError::General("early data, which is off".to_owned())),
                Err(error) => Err(error),
            };
            used += discard;
            match waits {
                Ok(false) => {}
                Ok(true) => break,
                Err(error) => {
                    self.say_why(out);
                    return Err(self.broken(&error));
                }
            }
        }
        let rest = if self.is_over() { &[] } else { &records[used..] };
        self.carry.clear();
        self.carry.extend_from_slice(rest);
        Ok(())
    }

    /// Appends `plain` as records.
    #[inline]
    pub(crate) fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), TlsError> {
        let most = plain.len() + (plain.len() / FRAGMENT_BYTES + 1) * RECORD_OVERHEAD;
        self.write(most, out, |traffic, room| traffic.encrypt(plain, room))
    }

    /// Appends the word that nothing more will come.
    pub(crate) fn say_goodbye(&mut self, out: &mut Vec<u8>) -> Result<(), TlsError> {
        self.write(RECORD_OVERHEAD + 2, out, |traffic, room| traffic.queue_close_notify(room))
    }

    /// Lets `put` write up to `most` bytes behind `out`.
    #[inline]
    fn write(
        &mut self,
        most: usize,
        out: &mut Vec<u8>,
        put: impl Fn(
            &mut WriteTraffic<'_, ClientConnectionData>,
            &mut [u8],
        ) -> Result<usize, EncryptError>,
    ) -> Result<(), TlsError> {
        if !self.is_shaken() {
            return Err(TlsError::new(&RustlsError::HandshakeNotComplete, true));
        }
        loop {
            // It wants to see what it has not discarded.
            let UnbufferedStatus { discard: _, state } =
                self.connection.process_tls_records(&mut self.carry);
            let done = match state {
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    let before = out.len();
                    out.resize(before + most, 0);
                    let written = put(&mut traffic, &mut out[before..]);
                    out.truncate(before + written.as_ref().copied().unwrap_or(0));
                    written.map(|_| true).map_err(|error| RustlsError::General(error.to_string()))
                }
                Ok(ConnectionState::EncodeTlsData(data)) => encode(data, out).map(|()| false),
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    Ok(false)
                }
                Ok(_) => Err(RustlsError::HandshakeNotComplete),
                Err(error) => Err(error),
            };
            match done {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => return Err(self.broken(&error)),
            }
        }
    }

    #[cold]
    fn broken(&mut self, error: &RustlsError) -> TlsError {
        let shaking = self.stage == Stage::Shaking;
        self.stage = Stage::Broken;
        TlsError::new(error, shaking)
    }

    /// After an error, the alert that tells the server. rustls must not be led on to the records: it
    /// would read them once more.
    #[cold]
    fn say_why(&mut self, out: &mut Vec<u8>) {
        while self.connection.wants_write() {
            let UnbufferedStatus { state: Ok(ConnectionState::EncodeTlsData(data)), .. } =
                self.connection.process_tls_records(&mut [])
            else {
                return;
            };
            if encode(data, out).is_err() {
                return;
            }
        }
    }

    /// What was agreed, in words: `TLS 1.3, TLS_AES_128_GCM_SHA256, full`.
    pub(crate) fn agreed(&self) -> String {
        let version = match self.connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "TLS 1.3",
            Some(ProtocolVersion::TLSv1_2) => "TLS 1.2",
            _ => "TLS",
        };
        let suite = self.connection.negotiated_cipher_suite();
        let suite = suite.map_or("no suite".to_owned(), |suite| format!("{:?}", suite.suite()));
        let kind = match self.connection.handshake_kind() {
            Some(HandshakeKind::Resumed) => "resumed",
            Some(HandshakeKind::FullWithHelloRetryRequest) => "full after a retry",
            _ => "full",
        };
        // As the registry of suites spells it.
        format!("{version}, {}, {kind}", suite.replace("TLS13_", "TLS_"))
    }
}

fn encode(
    mut data: EncodeTlsData<'_, ClientConnectionData>,
    out: &mut Vec<u8>,
) -> Result<(), RustlsError> {
    let before = out.len();
    // The first attempt says how much it takes.
    while let Err(refused) = data.encode(&mut out[before..]) {
        let EncodeError::InsufficientSize(size) = refused else {
            return Err(RustlsError::General(refused.to_string()));
        };
        out.resize(before + size.required_size, 0);
    }
    Ok(())
}
