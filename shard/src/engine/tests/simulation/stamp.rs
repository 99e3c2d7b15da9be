//! What every payload of a run begins with: who sent it, on which of his connections, and for whom.

use crate::id::SessionId;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) session: SessionId,
    /// Of the connection, among all of the run.
    pub(super) serial: u32,
    /// Of the message, among those of the connection.
    pub(super) number: u32,
    /// The GUID that it was sent to.
    pub(super) to: [u8; 16],
}

impl Stamp {
    pub(super) const LEN: usize = 40;

    pub(super) fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..16].copy_from_slice(&self.session.0.to_be_bytes());
        bytes[16..20].copy_from_slice(&self.serial.to_be_bytes());
        bytes[20..24].copy_from_slice(&self.number.to_be_bytes());
        bytes[24..].copy_from_slice(&self.to);
        bytes
    }

    /// The stamp and as much filler behind it, which [`Self::read`] recognises.
    pub(super) fn payload(self, filler: usize) -> Vec<u8> {
        let mut payload = self.to_bytes().to_vec();
        payload.resize(Self::LEN + filler, self.number as u8);
        payload
    }

    /// # Panics
    /// When these are not the bytes that were sent.
    pub(super) fn read(payload: &[u8]) -> Self {
        let bytes: &[u8; Self::LEN] = payload.first_chunk().expect("a payload bears its stamp");
        let word = |at: usize| {
            u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let (mut session, mut to) = ([0; 16], [0; 16]);
        session.copy_from_slice(&bytes[..16]);
        to.copy_from_slice(&bytes[24..]);
        let session = SessionId(u128::from_be_bytes(session));
        let stamp = Self { session, serial: word(16), number: word(20), to };
        let filler = stamp.number as u8;
        assert!(payload[Self::LEN..].iter().all(|byte| *byte == filler), "{stamp:?} was changed");
        stamp
    }
}
