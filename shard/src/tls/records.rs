//! The record layer of a connection that stands: AEAD records of TLS 1.3 (RFC 8446 §5) and 1.2 (RFC 5288,
//! RFC 7905), opened in place and sealed into the caller's memory. Handshake messages are left but for
//! key updates; renegotiation is refused.

use std::fmt;
use std::ops::Range;

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use rustls::kernel::KernelConnection;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::{ConnectionTrafficSecrets, Error, ProtocolVersion};
use thiserror::Error;

/// Type, version and length.
pub(super) const HEADER_LEN: usize = 5;
/// Longest ciphertext that either version allows.
pub(super) const CIPHERTEXT_MAX: usize = PLAINTEXT_MAX + 256;
/// Content type of the records that every connection begins with.
pub(super) const HANDSHAKE: u8 = 22;

const PLAINTEXT_MAX: usize = 1 << 14;
const ALERT: u8 = 21;
const APPLICATION_DATA: u8 = 23;
/// Of every record of both versions.
const WIRE_VERSION: [u8; 2] = [3, 3];
const TAG_LEN: usize = 16;
/// In front of the ciphertext with AES-GCM under TLS 1.2.
const EXPLICIT_NONCE_LEN: usize = 8;
const KEY_UPDATE: u8 = 24;

/// Records in a row that carry nothing; a peer that sends more has nothing to say.
const EMPTY_RECORDS_MAX: u8 = 32;

/// Records under one key, half of what AES-GCM may have (RFC 8446 §5.5): then the key is renewed, or
/// under TLS 1.2, which cannot, the connection ends.
const RECORDS_PER_KEY: u64 = if cfg!(test) { 100 } else { 1 << 23 };

/// What one record held.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// A range of the input.
    Data(Range<usize>),
    /// Something of TLS itself.
    Nothing,
    CloseNotify,
}

/// Why a record cannot be taken or made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RecordFault {
    #[error("a record could not be decrypted")]
    BadRecord,
    #[error("a record is too long")]
    TooLong,
    #[error("a record of a kind that has no place here")]
    Unexpected,
    #[error("a record says what cannot be understood")]
    Malformed,
    #[error("too many records without content")]
    OnlyEmpty,
    #[error("the peer ended the connection by alert {0}")]
    PeerAlert(u8),
    #[error("as many records as the keys are good for")]
    KeysUsedUp,
}

/// RFC 8446 §6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Alert {
    CloseNotify,
    UnexpectedMessage,
    BadRecordMac,
    RecordOverflow,
    DecodeError,
}

impl Alert {
    /// Level and description.
    fn bytes(self) -> [u8; 2] {
        match self {
            Self::CloseNotify => [1, 0],
            Self::UnexpectedMessage => [2, 10],
            Self::BadRecordMac => [2, 20],
            Self::RecordOverflow => [2, 22],
            Self::DecodeError => [2, 50],
        }
    }
}

impl RecordFault {
    /// What the peer is told.
    pub(super) fn alert(self) -> Option<Alert> {
        match self {
            Self::BadRecord => Some(Alert::BadRecordMac),
            Self::TooLong => Some(Alert::RecordOverflow),
            Self::Unexpected | Self::OnlyEmpty => Some(Alert::UnexpectedMessage),
            Self::Malformed => Some(Alert::DecodeError),
            Self::PeerAlert(_) | Self::KeysUsedUp => None,
        }
    }
}

/// Both directions of one connection.
pub(super) struct Records {
    /// Derives the keys that follow.
    connection: KernelConnection<ServerConnectionData>,
    incoming: Keys,
    outgoing: Keys,
    empty: u8,
}

/// One direction under one key.
struct Keys {
    key: LessSafeKey,
    iv: [u8; 12],
    layout: Layout,
    sequence: u64,
}

/// How nonce, additional data and content type of a record are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// The type is encrypted, behind the content.
    Tls13,
    /// Half of the nonce is in front of the ciphertext.
    Tls12Gcm,
    Tls12ChaCha,
}

impl Records {
    /// Takes the keys of a connection whose handshake is over and that has nothing left to say.
    pub(super) fn take_over(connection: UnbufferedServerConnection) -> Result<Self, Error> {
        let (secrets, connection) = connection.dangerous_into_kernel_connection()?;
        let version = connection.protocol_version();
        Ok(Self {
            incoming: Keys::new(version, secrets.rx)?,
            outgoing: Keys::new(version, secrets.tx)?,
            connection,
            empty: 0,
        })
    }

    /// Opens the record at the beginning of `input`; `None` when it is not whole. What is to be
    /// answered to it is appended to `answers`.
    pub(super) fn open(
        &mut self,
        input: &mut [u8],
        answers: &mut Vec<u8>,
    ) -> Result<Option<(usize, Content)>, RecordFault> {
        let Some((header, rest)) = input.split_first_chunk_mut::<HEADER_LEN>() else {
            return Ok(None);
        };
        let len = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if len > CIPHERTEXT_MAX {
            return Err(RecordFault::TooLong);
        }
        let Some(body) = rest.get_mut(..len) else { return Ok(None) };
        let (kind, plain) = self.incoming.open(*header, body)?;
        let consumed = HEADER_LEN + len;
        let content = match kind {
            APPLICATION_DATA if !plain.is_empty() => {
                self.empty = 0;
                Content::Data(plain.start + HEADER_LEN..plain.end + HEADER_LEN)
            }
            APPLICATION_DATA => self.nothing()?,
            ALERT => match body[plain] {
                [_, 0] => Content::CloseNotify,
                // user_canceled: a close_notify follows.
                [_, 90] => self.nothing()?,
                [_, description] => return Err(RecordFault::PeerAlert(description)),
                _ => return Err(RecordFault::Malformed),
            },
            HANDSHAKE => {
                let message = <[u8; 5]>::try_from(&body[plain]);
                self.renew_incoming(message.map_err(|_| RecordFault::Unexpected)?, answers)?;
                self.nothing()?
            }
            _ => return Err(RecordFault::Unexpected),
        };
        Ok(Some((consumed, content)))
    }

    fn nothing(&mut self) -> Result<Content, RecordFault> {
        self.empty += 1;
        if self.empty > EMPTY_RECORDS_MAX {
            return Err(RecordFault::OnlyEmpty);
        }
        Ok(Content::Nothing)
    }

    /// The only handshake message that has a place here: the peer's key update (RFC 8446 §4.6.3).
    fn renew_incoming(
        &mut self,
        message: [u8; 5],
        answers: &mut Vec<u8>,
    ) -> Result<(), RecordFault> {
        let [KEY_UPDATE, 0, 0, 1, wants_ours] = message else {
            return Err(RecordFault::Unexpected);
        };
        // Refused where there are no key updates.
        let renewed = self.connection.update_rx_secret().map_err(|_| RecordFault::Unexpected)?;
        let version = self.connection.protocol_version();
        self.incoming = Keys::new(version, renewed).map_err(|_| RecordFault::Unexpected)?;
        match wants_ours {
            0 => Ok(()),
            1 => self.renew_outgoing(answers),
            _ => Err(RecordFault::Malformed),
        }
    }

    fn renew_outgoing(&mut self, out: &mut Vec<u8>) -> Result<(), RecordFault> {
        let renewed = self.connection.update_tx_secret().map_err(|_| RecordFault::KeysUsedUp)?;
        self.outgoing.append(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 0], out)?;
        let version = self.connection.protocol_version();
        self.outgoing = Keys::new(version, renewed).map_err(|_| RecordFault::KeysUsedUp)?;
        Ok(())
    }

    /// Appends a key update if the key is due for one, so that what follows is sealed under the next.
    pub(super) fn renew_if_due(&mut self, out: &mut Vec<u8>) -> Result<(), RecordFault> {
        if self.outgoing.sequence < RECORDS_PER_KEY {
            return Ok(());
        }
        self.renew_outgoing(out)
    }

    pub(super) fn sealed_len(&self, len: usize) -> usize {
        len + len.div_ceil(PLAINTEXT_MAX) * self.outgoing.layout.overhead()
    }

    /// Writes `plain` as records into all of `out`.
    pub(super) fn seal(&mut self, plain: &[u8], mut out: &mut [u8]) -> Result<(), RecordFault> {
        for chunk in plain.chunks(PLAINTEXT_MAX) {
            let record;
            (record, out) = out.split_at_mut(chunk.len() + self.outgoing.layout.overhead());
            self.outgoing.seal(APPLICATION_DATA, chunk, record)?;
        }
        Ok(())
    }

    pub(super) fn seal_alert(
        &mut self,
        alert: Alert,
        out: &mut Vec<u8>,
    ) -> Result<(), RecordFault> {
        self.outgoing.append(ALERT, &alert.bytes(), out)
    }
}

/// How many bytes the record that begins with `begun` lacks before its length is known, or then before
/// it is whole.
pub(super) fn missing(begun: &[u8]) -> usize {
    let len = match begun {
        [_, _, _, high, low, ..] => HEADER_LEN + usize::from(u16::from_be_bytes([*high, *low])),
        _ => HEADER_LEN,
    };
    // One at least, so that a caller gets on.
    len.saturating_sub(begun.len()).max(1)
}

impl Layout {
    fn overhead(self) -> usize {
        HEADER_LEN + self.in_front() + TAG_LEN + self.behind()
    }

    /// Bytes between header and content.
    fn in_front(self) -> usize {
        match self {
            Self::Tls12Gcm => EXPLICIT_NONCE_LEN,
            Self::Tls13 | Self::Tls12ChaCha => 0,
        }
    }

    /// Bytes of the content type between content and tag.
    fn behind(self) -> usize {
        match self {
            Self::Tls13 => 1,
            Self::Tls12Gcm | Self::Tls12ChaCha => 0,
        }
    }
}

impl Keys {
    fn new(
        version: ProtocolVersion,
        (sequence, secrets): (u64, ConnectionTrafficSecrets),
    ) -> Result<Self, Error> {
        use ConnectionTrafficSecrets::{Aes128Gcm, Aes256Gcm, Chacha20Poly1305};
        let (algorithm, key, iv): (&'static Algorithm, _, _) = match &secrets {
            Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return Err(Error::General("a cipher that is not known here".into())),
        };
        let layout = match (version, &secrets) {
            (ProtocolVersion::TLSv1_3, _) => Layout::Tls13,
            (_, Chacha20Poly1305 { .. }) => Layout::Tls12ChaCha,
            _ => Layout::Tls12Gcm,
        };
        let mut bytes = [0; 12];
        bytes.copy_from_slice(iv.as_ref());
        let key = UnboundKey::new(algorithm, key.as_ref())
            .map_err(|_| Error::General("a key that does not fit its cipher".into()))?;
        Ok(Self { key: LessSafeKey::new(key), iv: bytes, layout, sequence })
    }

    /// The nonce of the next record, which every record but the first needs anew.
    fn nonce(&self) -> [u8; 12] {
        let mut nonce = self.iv;
        for (byte, sequence) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= sequence;
        }
        nonce
    }

    /// Additional data under TLS 1.2 (RFC 5246 §6.2.3.3): the header with the length of the content.
    fn aad12(&self, header: [u8; HEADER_LEN], plain_len: usize) -> [u8; 13] {
        let mut aad = [0; 13];
        aad[..8].copy_from_slice(&self.sequence.to_be_bytes());
        aad[8..11].copy_from_slice(&header[..3]);
        aad[11..].copy_from_slice(&(plain_len as u16).to_be_bytes());
        aad
    }

    /// Opens the body of one record in place: its content type, and where in `body` the content is.
    fn open(
        &mut self,
        header: [u8; HEADER_LEN],
        body: &mut [u8],
    ) -> Result<(u8, Range<usize>), RecordFault> {
        let from = self.layout.in_front();
        let room = from + TAG_LEN + self.layout.behind();
        let Some(plain_len) = body.len().checked_sub(room) else {
            return Err(RecordFault::BadRecord);
        };
        let mut nonce = self.nonce();
        let opened = match self.layout {
            Layout::Tls13 => {
                if header[0] != APPLICATION_DATA {
                    return Err(RecordFault::Unexpected);
                }
                let nonce = Nonce::assume_unique_for_key(nonce);
                self.key.open_in_place(nonce, Aad::from(header), body).map(|plain| plain.len())
            }
            Layout::Tls12Gcm | Layout::Tls12ChaCha => {
                nonce[12 - from..].copy_from_slice(&body[..from]);
                let nonce = Nonce::assume_unique_for_key(nonce);
                let aad = Aad::from(self.aad12(header, plain_len));
                let sealed = &mut body[from..];
                self.key.open_in_place(nonce, aad, sealed).map(|plain| plain.len())
            }
        };
        let len = opened.map_err(|_| RecordFault::BadRecord)?;
        self.sequence += 1;
        let (kind, len) = match self.layout {
            Layout::Tls13 => {
                // Padding is zeros behind the type.
                let at = body[..len].iter().rposition(|byte| *byte != 0);
                let at = at.ok_or(RecordFault::Unexpected)?;
                (body[at], at)
            }
            Layout::Tls12Gcm | Layout::Tls12ChaCha => (header[0], len),
        };
        if len > PLAINTEXT_MAX {
            return Err(RecordFault::TooLong);
        }
        Ok((kind, from..from + len))
    }

    /// Writes one record into all of `out`.
    fn seal(&mut self, kind: u8, plain: &[u8], out: &mut [u8]) -> Result<(), RecordFault> {
        // Twice what [`Records::renew_if_due`] asks for: somebody has forgotten to ask, or cannot.
        if self.sequence >= 2 * RECORDS_PER_KEY {
            return Err(RecordFault::KeysUsedUp);
        }
        let nonce = self.nonce();
        let outer = match self.layout {
            Layout::Tls13 => APPLICATION_DATA,
            Layout::Tls12Gcm | Layout::Tls12ChaCha => kind,
        };
        let (place, rest) = out.split_at_mut(HEADER_LEN);
        let mut header = [0; HEADER_LEN];
        header[0] = outer;
        header[1..3].copy_from_slice(&WIRE_VERSION);
        header[3..].copy_from_slice(&(rest.len() as u16).to_be_bytes());
        place.copy_from_slice(&header);
        let (explicit, rest) = rest.split_at_mut(self.layout.in_front());
        explicit.copy_from_slice(&nonce[12 - explicit.len()..]);
        let (content, tag) = rest.split_at_mut(rest.len() - TAG_LEN);
        content[..plain.len()].copy_from_slice(plain);
        if self.layout == Layout::Tls13 {
            content[plain.len()] = kind;
        }
        let nonce = Nonce::assume_unique_for_key(nonce);
        let made = match self.layout {
            Layout::Tls13 => self.key.seal_in_place_separate_tag(nonce, Aad::from(header), content),
            Layout::Tls12Gcm | Layout::Tls12ChaCha => {
                let aad = Aad::from(self.aad12(header, plain.len()));
                self.key.seal_in_place_separate_tag(nonce, aad, content)
            }
        };
        tag.copy_from_slice(made.map_err(|_| RecordFault::KeysUsedUp)?.as_ref());
        self.sequence += 1;
        Ok(())
    }

    fn append(&mut self, kind: u8, plain: &[u8], out: &mut Vec<u8>) -> Result<(), RecordFault> {
        let before = out.len();
        out.resize(before + plain.len() + self.layout.overhead(), 0);
        self.seal(kind, plain, &mut out[before..]).inspect_err(|_| out.truncate(before))
    }
}

impl fmt::Debug for Records {
    /// Without the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Records").field("layout", &self.outgoing.layout).finish_non_exhaustive()
    }
}
