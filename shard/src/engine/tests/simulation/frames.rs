//! WebSocket frames as the other ends write and read them, with code of their own.

/// One frame as it was received, unmasked.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) opcode: u8,
    pub(super) payload: Vec<u8>,
}

/// Which end writes the frames that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writer {
    Server,
    Client,
}

/// Bytes of a stream that were not read as frames yet.
#[derive(Debug)]
pub(super) struct FrameReader {
    writer: Writer,
    bytes: Vec<u8>,
}

impl FrameReader {
    pub(super) fn new(writer: Writer) -> Self {
        Self { writer, bytes: Vec::new() }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole frame.
    ///
    /// # Panics
    /// When the stream is none that the gateway may write.
    pub(super) fn next(&mut self) -> Option<Frame> {
        let (first, second) = (*self.bytes.first()?, *self.bytes.get(1)?);
        assert_eq!(first & 0xF0, 0x80, "the gateway sends whole frames without extensions");
        let opcode = first & 0x0F;
        assert!(matches!(opcode, 1 | 2 | 8..=10), "opcode {opcode}");
        assert_eq!(second & 0x80 != 0, self.writer == Writer::Client, "who masks and who does not");
        let (len, mut at) = match second & 0x7F {
            126 => (u16::from_be_bytes(self.field(2)?) as usize, 4),
            127 => (u64::from_be_bytes(self.field(2)?) as usize, 10),
            len => (usize::from(len), 2),
        };
        let mask: [u8; 4] = match self.writer {
            Writer::Server => [0; 4],
            Writer::Client => {
                at += 4;
                self.field(at - 4)?
            }
        };
        let payload = self.bytes.get(at..at + len)?;
        let payload = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
        let payload = payload.collect();
        self.bytes.drain(..at + len);
        Some(Frame { opcode, payload })
    }

    fn field<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.bytes.get(at..at + N)?.try_into().ok()
    }
}

/// A whole frame of a server.
pub(super) fn unmasked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x80 | opcode];
    match payload.len() {
        len @ 0..126 => bytes.push(len as u8),
        len @ 126..65_536 => {
            bytes.push(126);
            bytes.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            bytes.push(127);
            bytes.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(payload);
    bytes
}
