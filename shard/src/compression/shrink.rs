//! Messages of the gateway to clients, made smaller.

use std::time::Duration;

use brotli::enc::encode::{
    BrotliEncoderDestroyInstance, BrotliEncoderOperation, BrotliEncoderParameter,
    BrotliEncoderStateStruct,
};

use super::CompressionRules;
use super::memory::{Meter, Metered};
use super::work::TurnWork;
use crate::wire::header::Flags;

/// Longest payload that is compressed, whatever the quality: it bounds the scratch buffers and what
/// the coder takes.
pub const PAYLOAD_BYTES_MAX: usize = 256 << 10;

/// 1 MiB, as the protocol's clients expect.
const WINDOW_BITS: u32 = 20;

/// Why a message stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotShrunk {
    /// It is too short or too long, compressed already, or not to be touched.
    Unsuited,
    /// It would not become smaller.
    Incompressible,
    /// This turn has no time for it.
    NoTime,
}

/// What one quality costs at most on text, measured without haste on one core: to begin with, and
/// for each byte.
struct Price {
    start_us: u64,
    byte_ns: u64,
    memory_mib: usize,
}

const fn price(start_us: u64, byte_ns: u64, memory_mib: usize) -> Price {
    Price { start_us, byte_ns, memory_mib }
}

/// By quality.
const PRICES: [Price; CompressionRules::QUALITY_MAX as usize + 1] = [
    price(5, 12, 2),
    price(5, 12, 4),
    price(20, 24, 6),
    price(20, 24, 6),
    price(40, 30, 8),
    price(50, 40, 8),
    price(80, 65, 8),
    price(170, 65, 14),
    price(650, 95, 22),
    price(1500, 480, 38),
    price(1700, 660, 14),
    price(2500, 1500, 14),
];

fn price_of(quality: u8) -> &'static Price {
    &PRICES[usize::from(quality.min(CompressionRules::QUALITY_MAX))]
}

fn work_of(quality: u8, payload_len: usize) -> Duration {
    let price = price_of(quality);
    let bytes = Duration::from_nanos(price.byte_ns * payload_len as u64);
    Duration::from_micros(price.start_us) + bytes
}

pub(super) fn memory_bytes_max(quality: u8) -> usize {
    price_of(quality).memory_mib << 20
}

/// Shrinks one message after the other. Holds nothing before the first.
#[derive(Debug, Default)]
pub struct Shrinker {
    scratch: Vec<u8>,
    work: TurnWork,
}

impl Shrinker {
    /// The whole `message` with its payload compressed and 0x04 set. `turn` names the turn of the
    /// shard.
    pub fn shrink(
        &mut self,
        message: &[u8],
        rules: &CompressionRules,
        turn: u32,
    ) -> Result<&[u8], NotShrunk> {
        let flags = Flags(*message.first().ok_or(NotShrunk::Unsuited)?);
        let header_len = flags.layout().header_len();
        let (header, payload) = message.split_at_checked(header_len).ok_or(NotShrunk::Unsuited)?;
        let len = payload.len();
        let suits = len >= rules.threshold_bytes.max(2) && len <= PAYLOAD_BYTES_MAX;
        if !suits || flags.contains(Flags::COMPRESSED) || flags.contains(Flags::OPAQUE) {
            return Err(NotShrunk::Unsuited);
        }
        let work = work_of(rules.quality, len);
        if work > self.work.left(turn) {
            return Err(NotShrunk::NoTime);
        }
        self.work.spend(work);
        // Strictly smaller, or not at all.
        let room_end = header_len + len - 1;
        if self.scratch.len() < room_end {
            self.scratch.resize(room_end, 0);
        }
        let out = &mut self.scratch[header_len..room_end];
        let shrunk_len = encode(payload, out, rules.quality, &Meter::default())
            .ok_or(NotShrunk::Incompressible)?;
        self.scratch[..header_len].copy_from_slice(header);
        self.scratch[0] = flags.union(Flags::COMPRESSED).0;
        Ok(&self.scratch[..header_len + shrunk_len])
    }
}

/// `None` when the result does not fit `out`.
pub(super) fn encode(payload: &[u8], out: &mut [u8], quality: u8, meter: &Meter) -> Option<usize> {
    let mut encoder = BrotliEncoderStateStruct::new(Metered(meter));
    let settings = [
        (BrotliEncoderParameter::BROTLI_PARAM_QUALITY, u32::from(quality)),
        (BrotliEncoderParameter::BROTLI_PARAM_LGWIN, WINDOW_BITS),
        (BrotliEncoderParameter::BROTLI_PARAM_SIZE_HINT, payload.len() as u32),
    ];
    for (parameter, value) in settings {
        encoder.set_parameter(parameter, value);
    }
    let (mut input_left, mut input_at) = (payload.len(), 0);
    let (mut room, mut written) = (out.len(), 0);
    let went_well = encoder.compress_stream(
        BrotliEncoderOperation::BROTLI_OPERATION_FINISH,
        &mut input_left,
        payload,
        &mut input_at,
        &mut room,
        out,
        &mut written,
        &mut None,
        &mut |_, _, _, _| (),
    );
    let whole = went_well && encoder.is_finished();
    BrotliEncoderDestroyInstance(&mut encoder);
    whole.then_some(written)
}
