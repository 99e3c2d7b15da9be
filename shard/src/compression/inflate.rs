//! Messages of clients to backends, made whole again. Whatever a client sends, the result is no
//! longer than allowed.

use std::time::Duration;

use brotli::{BrotliDecompressStream, BrotliResult, BrotliState};

use super::memory::{Meter, Metered};
use super::work::TurnWork;

/// A window of 16 MiB, the largest there is, and the decoder's tables.
pub(super) const MEMORY_BYTES_MAX: usize = 24 << 20;

/// Clearing memory, measured like the prices of compression.
const PER_MEBIBYTE: Duration = Duration::from_micros(250);

const PER_OUTPUT_KIBIBYTE: Duration = Duration::from_micros(8);

const START: Duration = Duration::from_micros(10);

/// Why a payload was not inflated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotInflated {
    /// It is not one whole Brotli stream, or a stream of nothing.
    Malformed,
    /// More comes out of it than there was room.
    TooLong,
    /// This turn has no time for it.
    NoTime,
}

/// Inflates one payload after the other.
#[derive(Debug, Default)]
pub struct Inflater {
    work: TurnWork,
}

impl Inflater {
    /// Inflates `payload` into `out` and returns the length. `turn` names the turn of the shard.
    /// What a payload costs is known only afterwards: the last one of a turn may exceed its time.
    pub fn inflate(
        &mut self,
        payload: &[u8],
        out: &mut [u8],
        turn: u32,
    ) -> Result<usize, NotInflated> {
        if self.work.left(turn).is_zero() {
            return Err(NotInflated::NoTime);
        }
        let meter = Meter::default();
        let inflated = decode(payload, out, &meter);
        let len = match inflated {
            Ok(len) => len,
            Err(_) => out.len(),
        };
        self.work.spend(
            START
                + PER_MEBIBYTE * (meter.total() >> 20) as u32
                + PER_OUTPUT_KIBIBYTE * (len >> 10) as u32,
        );
        inflated
    }
}

pub(super) fn decode(payload: &[u8], out: &mut [u8], meter: &Meter) -> Result<usize, NotInflated> {
    let memory = Metered(meter);
    // Strict: windows beyond 16 MiB are an extension that nobody here has asked for.
    let mut decoder = BrotliState::new_strict(memory, memory, memory);
    let (mut input_left, mut input_at) = (payload.len(), 0);
    let (mut room, mut written, mut total) = (out.len(), 0, 0);
    let result = BrotliDecompressStream(
        &mut input_left,
        &mut input_at,
        payload,
        &mut room,
        &mut written,
        out,
        &mut total,
        &mut decoder,
    );
    match result {
        BrotliResult::ResultSuccess if input_left == 0 && written > 0 => Ok(written),
        BrotliResult::NeedsMoreOutput => Err(NotInflated::TooLong),
        BrotliResult::ResultSuccess
        | BrotliResult::NeedsMoreInput
        | BrotliResult::ResultFailure => Err(NotInflated::Malformed),
    }
}
