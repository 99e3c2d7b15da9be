//! Brotli on the payloads of binary messages (flag 0x04). Sans-IO.
//!
//! Towards clients a message is shrunk when that is wanted, worth it, and affordable: processor
//! time is bounded for each turn, and what goes beyond it leaves as it is. Messages of clients are
//! inflated only for backends, if that is switched on at all.

mod inflate;
mod memory;
mod shrink;
#[cfg(test)]
mod tests;
mod work;

pub use inflate::{Inflater, NotInflated};
pub use shrink::{NotShrunk, PAYLOAD_BYTES_MAX, Shrinker};

/// When messages are compressed, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompressionRules {
    pub enabled: bool,
    /// Only for clients that asked for it at their upgrade; otherwise for all.
    pub negotiate: bool,
    /// Shortest payload that is compressed.
    pub threshold_bytes: usize,
    /// 0 to 11.
    pub quality: u8,
    /// Inflates what clients send to backends. Does not depend on `enabled`.
    pub inflate_inbound: bool,
}

impl Default for CompressionRules {
    fn default() -> Self {
        Self {
            enabled: false,
            negotiate: true,
            threshold_bytes: 1024,
            quality: 1,
            inflate_inbound: false,
        }
    }
}

impl CompressionRules {
    /// Highest quality there is.
    pub const QUALITY_MAX: u8 = 11;

    /// Bytes that one shard takes at most while it compresses or inflates one message, besides its
    /// block pool.
    #[must_use]
    pub fn memory_bytes_max(&self) -> usize {
        let shrinking = if self.enabled { shrink::memory_bytes_max(self.quality) } else { 0 };
        let inflating = if self.inflate_inbound { inflate::MEMORY_BYTES_MAX } else { 0 };
        // One message at a time.
        shrinking.max(inflating)
    }
}
