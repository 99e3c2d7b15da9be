//! Names of things, as types: no bare integer crosses a module boundary.

use std::fmt;
use std::str::FromStr;

/// A shard of this process; also the index of its thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardId(pub u8);

/// Index into one shard's connection table. `0 <= slot < 2^20`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u32);

/// Distinguishes the tenants of one slot over time. `0 <= generation < 2^18`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Generation(pub u32);

impl Generation {
    pub const BITS: u32 = 18;

    /// The generation that the slot's next tenant gets; wraps.
    #[must_use]
    pub fn next(self) -> Self {
        Self((self.0 + 1) & ((1 << Self::BITS) - 1))
    }
}

/// One tenancy of one slot: what a completion, a lane message or a timer names, so that it can
/// never reach the slot's next tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnectionKey {
    pub slot: Slot,
    pub generation: Generation,
}

/// The session key of the token; written as hyphenated lower-case UUID text. Aligned as a word, or
/// whatever holds one would be padded to a multiple of 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(Rust, packed(8))]
pub struct SessionId(pub u128);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        uuid::Uuid::from_u128(self.0).hyphenated().fmt(f)
    }
}

impl FromStr for SessionId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        uuid::Uuid::parse_str(text).map(|id| Self(id.as_u128()))
    }
}

/// Order of the claims on one session id; the greatest owns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// Place of an event among those of its session; rises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place(pub u64);

/// Index into [`crate::snapshot::Snapshot::endpoints`] of one snapshot version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId(pub u16);

/// Index into [`crate::snapshot::Snapshot::services`] of one snapshot version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceId(pub u16);
