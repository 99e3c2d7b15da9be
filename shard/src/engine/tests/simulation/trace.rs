//! What a run did, as a number: two runs that differ anywhere differ here.

use std::fmt::Display;

/// FNV-1a over everything that was noted.
#[derive(Debug)]
pub(super) struct Trace {
    hash: u64,
    /// A run that is replayed tells what it does.
    prints: bool,
}

impl Trace {
    pub(super) fn new(prints: bool) -> Self {
        Self { hash: 0xCBF2_9CE4_8422_2325, prints }
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01B3);
        }
    }

    pub(super) fn number(&mut self, number: u64) {
        self.bytes(&number.to_le_bytes());
    }

    pub(super) fn note(&self, line: impl FnOnce() -> String) {
        if self.prints {
            println!("{}", line());
        }
    }

    pub(super) fn event(&mut self, what: impl Display) {
        let line = what.to_string();
        self.bytes(line.as_bytes());
        self.note(|| line);
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }
}
