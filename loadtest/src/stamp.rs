//! What a message's payload says of itself: who sent it, its number, when it was meant to go and
//! when it went. Printable and quoted, so that it is a JSON string for backends that insist on one.
//!
//! ```text
//! " stamp, 46 characters | filler, decided by sender and sequence … "
//! ```
//!
//! Each character carries 5 bits in the 32 characters from `_` to `~`: none of them is special in
//! JSON, HTML or a NATS line. A check value covers the fields, and the receiver compares the filler
//! with what it must be, so that no changed byte goes unseen.
//!
//! Times are nanoseconds of `CLOCK_MONOTONIC`, which all processes of one host share. A one-way
//! time between two hosts means nothing.

use std::sync::OnceLock;

/// Bytes of the shortest payload.
pub const LEN: usize = 48;

/// Characters between the opening quote and the filler.
const CODED: usize = 46;
/// Different places in the table where a filler may begin.
const FILLER_STARTS: usize = 4096;
const LOW_40: u64 = (1 << 40) - 1;
/// The first of the 32 characters.
const ZERO: u8 = b'_';

/// The fields of one payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub sender: u32,
    /// Of this sender, from 0; below 2⁴⁰.
    pub sequence: u64,
    /// When the plan wanted it sent; below 2⁶² ns.
    pub intended: u64,
    /// How much later it was sent; 19 hours at most.
    pub delay: u64,
}

/// The payload is not one that a sender wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damaged {
    /// Not even its sender and sequence are known.
    #[error("a payload without a valid stamp")]
    Stamp,
    #[error("a payload whose filler has changed")]
    Filler(Stamp),
}

impl Stamp {
    /// Appends a payload of `bytes`, at least [`LEN`].
    #[inline]
    pub fn write(&self, bytes: usize, out: &mut Vec<u8>) {
        let check = self.check();
        let intended = self.intended;
        let delay = self.delay;
        let mut coded = [0; LEN];
        let groups = [
            self.sequence & LOW_40,
            intended & LOW_40,
            u64::from(self.sender) << 8 | intended >> 40 & 0xff,
            delay & LOW_40,
            check & LOW_40,
            intended >> 48 & 0x3fff | (delay >> 40 & 0x3f) << 14 | (check >> 40 & 0x3ff) << 20,
        ];
        for (place, group) in coded.as_chunks_mut::<8>().0.iter_mut().zip(groups) {
            *place = spread(group);
        }
        out.push(b'"');
        out.extend_from_slice(&coded[..CODED]);
        let filler = bytes.saturating_sub(LEN);
        let table = filler_table();
        if filler <= table.len() - FILLER_STARTS {
            let start = self.filler_start();
            out.extend_from_slice(&table[start..start + filler]);
        } else {
            self.write_long_filler(filler, out);
        }
        out.push(b'"');
    }

    /// Reads a payload back and checks every byte of it.
    #[inline]
    pub fn read(payload: &[u8]) -> Result<Self, Damaged> {
        let stamp = Self::read_fields(payload).ok_or(Damaged::Stamp)?;
        let filler = &payload[CODED + 1..payload.len() - 1];
        let table = filler_table();
        let as_written = if filler.len() <= table.len() - FILLER_STARTS {
            let start = stamp.filler_start();
            filler == &table[start..start + filler.len()]
        } else {
            let mut expected = Vec::new();
            stamp.write_long_filler(filler.len(), &mut expected);
            filler == expected
        };
        let quoted = payload[0] == b'"' && payload[payload.len() - 1] == b'"';
        if as_written && quoted { Ok(stamp) } else { Err(Damaged::Filler(stamp)) }
    }

    #[inline]
    fn read_fields(payload: &[u8]) -> Option<Self> {
        if payload.len() < LEN {
            return None;
        }
        let mut coded = [ZERO; LEN];
        coded[..CODED].copy_from_slice(&payload[1..=CODED]);
        let mut groups = [0; 6];
        let mut foreign = 0;
        for (group, characters) in groups.iter_mut().zip(coded.as_chunks::<8>().0) {
            let (value, bad) = gather(*characters);
            *group = value;
            foreign |= bad;
        }
        let [sequence, low, sender, delay, check, rest] = groups;
        let stamp = Self {
            sender: (sender >> 8) as u32,
            sequence,
            intended: low | (sender & 0xff) << 40 | (rest & 0x3fff) << 48,
            delay: delay | (rest >> 14 & 0x3f) << 40,
        };
        let check = check | (rest >> 20) << 40;
        (foreign == 0 && stamp.check() == check).then_some(stamp)
    }

    /// 50 bits; a change of any one field changes all 64 bits it is taken from.
    #[inline]
    fn check(&self) -> u64 {
        const ODD: [u64; 3] = [0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb];
        let mut mixed = (self.sequence ^ 0x5bd1_e995).wrapping_mul(ODD[0]) ^ u64::from(self.sender);
        mixed = (mixed ^ mixed >> 32).wrapping_mul(ODD[1]) ^ self.intended;
        mixed = (mixed ^ mixed >> 29).wrapping_mul(ODD[2]) ^ self.delay;
        mixed = (mixed ^ mixed >> 32).wrapping_mul(ODD[0]);
        mixed >> 14
    }

    #[inline]
    fn filler_start(&self) -> usize {
        let mixed = self.sequence.wrapping_mul(0x9e37_79b9) ^ u64::from(self.sender) << 5;
        mixed as usize % FILLER_STARTS
    }

    /// For payloads longer than the table: the table over and over.
    #[cold]
    fn write_long_filler(&self, bytes: usize, out: &mut Vec<u8>) {
        let table = filler_table();
        out.extend(table.iter().cycle().skip(self.filler_start()).take(bytes));
    }
}

/// 40 bits as 8 characters.
#[inline]
fn spread(value: u64) -> [u8; 8] {
    let halves = value & 0xf_ffff | (value & 0xff_fff0_0000) << 12;
    let quarters = halves & 0x0000_03ff_0000_03ff | (halves & 0x000f_fc00_000f_fc00) << 6;
    let eighths = quarters & 0x001f_001f_001f_001f | (quarters & 0x03e0_03e0_03e0_03e0) << 3;
    (eighths + u64::from_ne_bytes([ZERO; 8])).to_le_bytes()
}

/// The 40 bits of 8 characters, and something other than zero if one of them is no such character:
/// the lowest such byte has one of its upper bits set whatever the others borrow.
#[inline]
fn gather(characters: [u8; 8]) -> (u64, u64) {
    let eighths = u64::from_le_bytes(characters).wrapping_sub(u64::from_ne_bytes([ZERO; 8]));
    let foreign = eighths & 0xe0e0_e0e0_e0e0_e0e0;
    let quarters = eighths & 0x001f_001f_001f_001f | (eighths & 0x1f00_1f00_1f00_1f00) >> 3;
    let halves = quarters & 0x0000_03ff_0000_03ff | (quarters & 0x03ff_0000_03ff_0000) >> 6;
    (halves & 0xf_ffff | (halves >> 32 & 0xf_ffff) << 20, foreign)
}

/// The same in every process, so that one generator can check what another sent.
#[inline]
fn filler_table() -> &'static [u8] {
    static TABLE: OnceLock<Vec<u8>> = OnceLock::new();
    TABLE.get_or_init(|| {
        const LONGEST_IN_ONE_PIECE: usize = 64 << 10;
        let mut random = crate::schedule::Random::new(0x636f_7265_6c61_6e65);
        let mut table = Vec::with_capacity(FILLER_STARTS + LONGEST_IN_ONE_PIECE);
        table.resize_with(FILLER_STARTS + LONGEST_IN_ONE_PIECE, || {
            ZERO + (random.next() & 0x1f) as u8
        });
        table
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn payload(stamp: Stamp, bytes: usize) -> Vec<u8> {
        let mut out = Vec::new();
        stamp.write(bytes, &mut out);
        out
    }

    proptest! {
        #[test]
        fn stamps_come_back_from_a_json_string(
            sender: u32,
            sequence in 0..1_u64 << 40,
            intended in 0..1_u64 << 62,
            delay in 0..1_u64 << 46,
            bytes in LEN..1000,
        ) {
            let stamp = Stamp { sender, sequence, intended, delay };
            let written = payload(stamp, bytes);
            prop_assert_eq!(written.len(), bytes);
            prop_assert!(serde_json::from_slice::<String>(&written).is_ok());
            prop_assert_eq!(Stamp::read(&written), Ok(stamp));
        }

        #[test]
        fn every_changed_byte_is_seen(
            sequence in 0..1_u64 << 40,
            at in 0..200_usize,
            other: u8,
        ) {
            let stamp = Stamp { sender: 7, sequence, intended: 1 << 55, delay: 12_345 };
            let mut written = payload(stamp, 200);
            prop_assume!(written[at] != other);
            written[at] = other;
            prop_assert!(Stamp::read(&written).is_err());
        }
    }

    #[test]
    fn a_stamp_before_a_changed_filler_is_still_known() {
        let stamp = Stamp { sender: 1, sequence: 2, intended: 3, delay: 4 };
        let mut written = payload(stamp, 200);
        written[100] ^= 1;
        assert_eq!(Stamp::read(&written), Err(Damaged::Filler(stamp)));
        assert_eq!(Stamp::read(b"\"short\""), Err(Damaged::Stamp));
    }

    #[test]
    fn payloads_longer_than_the_table_are_checked_too() {
        let stamp = Stamp { sender: 1, sequence: 2, intended: 3, delay: 4 };
        let mut written = payload(stamp, 300_000);
        assert_eq!(Stamp::read(&written), Ok(stamp));
        written[299_000] ^= 1;
        assert_eq!(Stamp::read(&written), Err(Damaged::Filler(stamp)));
    }
}
