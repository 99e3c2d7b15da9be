//! In which partition publishers put a key. Whoever publishes for sessions has chosen one of these.

use std::fmt::Write as _;

use corelane_shard::id::SessionId;

use crate::control::bus::SESSION_KEY;

/// How keys become partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Partitioner {
    /// Of the Java client, and of most others.
    Murmur2,
    /// Of librdkafka, unless it is told otherwise.
    Crc32,
}

impl Partitioner {
    /// As librdkafka calls it; keys that are empty go anywhere.
    pub(super) fn setting(self) -> &'static str {
        match self {
            Self::Murmur2 => "murmur2_random",
            Self::Crc32 => "consistent_random",
        }
    }

    /// `None` where there are no partitions.
    pub(super) fn partition(self, key: &[u8], partitions: u32) -> Option<u32> {
        let hash = match self {
            Self::Murmur2 => murmur2(key) & 0x7fff_ffff,
            Self::Crc32 => crc32fast::hash(key),
        };
        hash.checked_rem(partitions)
    }
}

/// MurmurHash2 with the Java client's seed.
fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    let mut hash = SEED ^ data.len() as u32;
    let (words, rest) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !rest.is_empty() {
        for (at, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * at);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

/// The key of a session's events, without a place on the heap.
pub(super) struct SessionKey([u8; LENGTH]);

const LENGTH: usize = SESSION_KEY.len() + 36;

impl SessionKey {
    pub(super) fn of(session: SessionId) -> Self {
        let mut key = Written { bytes: [0; LENGTH], end: 0 };
        let written = write!(key, "{SESSION_KEY}{session}");
        debug_assert!(written.is_ok() && key.end == LENGTH, "an id has 36 letters");
        Self(key.bytes)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The session that a key names.
    pub(super) fn session(key: &[u8]) -> Option<SessionId> {
        let id = key.strip_prefix(SESSION_KEY.as_bytes())?;
        std::str::from_utf8(id).ok()?.parse().ok()
    }
}

struct Written {
    bytes: [u8; LENGTH],
    end: usize,
}

impl std::fmt::Write for Written {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.end + text.len();
        let room = self.bytes.get_mut(self.end..end).ok_or(std::fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.end = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// From the tests of the Java client and of librdkafka.
    #[test]
    fn murmur2_is_that_of_the_java_client() {
        let vectors: [(&str, i32); 10] = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
            ("kafka", 0xd067_cf64_u32 as i32),
            ("1234", 0x9fc9_7b14_u32 as i32),
            ("234", 0xe7c0_09ca_u32 as i32),
            ("4", 0x5a4b_5ca1),
        ];
        for (key, hash) in vectors {
            assert_eq!(murmur2(key.as_bytes()) as i32, hash, "{key}");
        }
    }

    #[test]
    fn a_sessions_partition_is_where_publishers_put_its_key() {
        let session: SessionId = "3f2504e0-4f89-41d3-9a0c-0305e82c3301".parse().unwrap();
        let key = SessionKey::of(session);
        assert_eq!(key.bytes(), b"CONNECT_SESSION_3f2504e0-4f89-41d3-9a0c-0305e82c3301");
        assert_eq!(crc32fast::hash(b"123456789"), 0xcbf4_3926);
        for (partitioner, [of_64, of_7]) in
            [(Partitioner::Murmur2, [54, 4]), (Partitioner::Crc32, [30, 4])]
        {
            assert_eq!(partitioner.partition(key.bytes(), 64), Some(of_64), "{partitioner:?}");
            assert_eq!(partitioner.partition(key.bytes(), 7), Some(of_7), "{partitioner:?}");
            assert_eq!(partitioner.partition(key.bytes(), 0), None);
        }
    }

    proptest! {
        #[test]
        fn a_key_names_its_session_and_nothing_else_does(id: u128, other in "\\PC{0,60}") {
            let key = SessionKey::of(SessionId(id));
            prop_assert_eq!(SessionKey::session(key.bytes()), Some(SessionId(id)));
            prop_assert_eq!(SessionKey::session(&key.bytes()[1..]), None);
            prop_assert_eq!(SessionKey::session(&key.bytes()[..LENGTH - 1]), None);
            if !other.starts_with(SESSION_KEY) {
                prop_assert_eq!(SessionKey::session(other.as_bytes()), None);
            }
        }
    }
}
