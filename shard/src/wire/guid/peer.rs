//! Peer GUIDs: a connection's place in the cluster, sealed so that only gateways with the server
//! salt can make or read one, in the form of a random UUID.

use hkdf::Hkdf;
use sha2::Sha256;
use siphasher::sip::SipHasher24;

use super::Guid;
use crate::id::{Generation, ShardId, Slot};

/// Where a peer GUID points: one tenancy of one slot of one shard of one node. 58 bits, most
/// significant first: node 12, shard 8, slot 20, generation 18.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PeerRoute {
    /// `0 <= node < 2^12`
    pub node: u16,
    pub shard: ShardId,
    /// `0 <= slot < 2^20`
    pub slot: Slot,
    /// `0 <= generation < 2^18`
    pub generation: Generation,
}

impl PeerRoute {
    fn to_bits(self) -> u64 {
        debug_assert!(self.node < 1 << NODE_BITS);
        debug_assert!(self.slot.0 < 1 << SLOT_BITS);
        debug_assert!(self.generation.0 < 1 << Generation::BITS);
        let node = u64::from(self.node) & low_bits(NODE_BITS);
        let slot = u64::from(self.slot.0) & low_bits(SLOT_BITS);
        let generation = u64::from(self.generation.0) & low_bits(Generation::BITS);
        let shard = u64::from(self.shard.0);
        (((node << SHARD_BITS | shard) << SLOT_BITS | slot) << Generation::BITS) | generation
    }

    fn from_bits(bits: u64) -> Self {
        let field = |at: u32, width: u32| bits >> at & low_bits(width);
        let slot_at = Generation::BITS;
        let shard_at = slot_at + SLOT_BITS;
        let node_at = shard_at + SHARD_BITS;
        Self {
            node: field(node_at, NODE_BITS) as u16,
            shard: ShardId(field(shard_at, SHARD_BITS) as u8),
            slot: Slot(field(slot_at, SLOT_BITS) as u32),
            generation: Generation(field(0, Generation::BITS) as u32),
        }
    }
}

/// The two keys of a cluster; every node derives the same ones from the shared salt.
#[derive(Clone)]
pub struct PeerKeys {
    /// Of the tag over the route.
    tag: SipHasher24,
    /// Of the mask that hides the route, made from the tag.
    mask: SipHasher24,
}

impl PeerKeys {
    /// HKDF-SHA-256 with the server salt as *input key material*, no HKDF salt, and the info
    /// `peer-guid`: the first 16 bytes key the tag, the next 16 the mask.
    #[must_use]
    pub fn from_salt(server_salt: &str) -> Self {
        let mut okm = [0; 32];
        Hkdf::<Sha256>::new(None, server_salt.as_bytes())
            .expand(b"peer-guid", &mut okm)
            .expect("32 bytes are within HKDF-SHA-256's 8160");
        let (mut tag, mut mask) = ([0; 16], [0; 16]);
        tag.copy_from_slice(&okm[..16]);
        mask.copy_from_slice(&okm[16..]);
        Self { tag: SipHasher24::new_with_key(&tag), mask: SipHasher24::new_with_key(&mask) }
    }

    #[must_use]
    pub fn encode(&self, route: PeerRoute) -> Guid {
        let route = route.to_bits();
        let tag = self.tag.hash(&route.to_be_bytes());
        let stored = route ^ self.mask_of(tag);
        spread(u128::from(tag) << ROUTE_BITS | u128::from(stored))
    }

    /// The route, if the GUID was made with these keys.
    #[must_use]
    pub fn decode(&self, guid: Guid) -> Option<PeerRoute> {
        let packed = gather(guid)?;
        let tag = (packed >> ROUTE_BITS) as u64;
        let route = (packed as u64 & low_bits(ROUTE_BITS)) ^ self.mask_of(tag);
        (self.tag.hash(&route.to_be_bytes()) == tag).then(|| PeerRoute::from_bits(route))
    }

    fn mask_of(&self, tag: u64) -> u64 {
        self.mask.hash(&tag.to_be_bytes()) & low_bits(ROUTE_BITS)
    }
}

impl std::fmt::Debug for PeerKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerKeys").finish_non_exhaustive()
    }
}

/// Places 122 bits around version 4 and the variant, most significant first (RFC 9562 §5.4).
fn spread(packed: u128) -> Guid {
    let head = packed >> (MIDDLE_BITS + TAIL_BITS);
    let middle = packed >> TAIL_BITS & u128::from(low_bits(MIDDLE_BITS));
    let tail = packed & u128::from(low_bits(TAIL_BITS));
    Guid((head << 80 | 0x4 << 76 | middle << 64 | 0b10 << 62 | tail).to_be_bytes())
}

/// The inverse of [`spread`]; `None` when version or variant is another one.
fn gather(guid: Guid) -> Option<u128> {
    let bits = u128::from_be_bytes(guid.0);
    if bits >> 76 & 0xF != 0x4 || bits >> 62 & 0b11 != 0b10 {
        return None;
    }
    let head = bits >> 80;
    let middle = bits >> 64 & u128::from(low_bits(MIDDLE_BITS));
    let tail = bits & u128::from(low_bits(TAIL_BITS));
    Some((head << MIDDLE_BITS | middle) << TAIL_BITS | tail)
}

const fn low_bits(count: u32) -> u64 {
    (1 << count) - 1
}

const NODE_BITS: u32 = 12;
const SHARD_BITS: u32 = 8;
const SLOT_BITS: u32 = 20;
const ROUTE_BITS: u32 = NODE_BITS + SHARD_BITS + SLOT_BITS + Generation::BITS;

/// Between the version nibble and the variant, and after the variant.
const MIDDLE_BITS: u32 = 12;
const TAIL_BITS: u32 = 62;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn route(node: u16, shard: u8, slot: u32, generation: u32) -> PeerRoute {
        PeerRoute {
            node,
            shard: ShardId(shard),
            slot: Slot(slot),
            generation: Generation(generation),
        }
    }

    fn any_route() -> impl Strategy<Value = PeerRoute> {
        (0..1_u16 << 12, any::<u8>(), 0..1_u32 << 20, 0..1_u32 << 18)
            .prop_map(|(node, shard, slot, generation)| route(node, shard, slot, generation))
    }

    #[test]
    fn peer_guids_equal_the_frozen_vectors() {
        let vectors = [
            ("", route(0, 0, 0, 0), "3696c790-31fc-4d46-b8dc-5bc25b5f6d83"),
            (
                "bannou-dev-connect-salt-change-in-production",
                route(0, 0, 0, 0),
                "088e3c1e-6f52-4467-842c-02ddc1f791b6",
            ),
            (
                "bannou-dev-connect-salt-change-in-production",
                route(1, 2, 3, 4),
                "c697708c-5cbf-4eba-ab86-140d64f8a637",
            ),
            (
                "bannou-dev-connect-salt-change-in-production",
                route(0xFFF, 0xFF, 0xF_FFFF, 0x3_FFFF),
                "ae379b7b-4493-4ebb-b2ca-6c931f0ae1fc",
            ),
        ];
        for (salt, route, text) in vectors {
            let keys = PeerKeys::from_salt(salt);
            assert_eq!(keys.encode(route).to_string(), text);
            assert_eq!(keys.decode(text.parse().unwrap()), Some(route));
        }
    }

    #[test]
    fn the_null_and_the_broadcast_guid_are_nobodys() {
        let keys = PeerKeys::from_salt("salt");
        assert_eq!(keys.decode(Guid::NULL), None);
        assert_eq!(keys.decode(Guid::BROADCAST), None);
    }

    #[test]
    fn every_bit_of_the_tag_is_compared() {
        let keys = PeerKeys::from_salt("salt");
        let bits = route(1, 2, 3, 4).to_bits();
        let seal = |tag: u64| {
            let stored = bits ^ keys.mask_of(tag);
            spread(u128::from(tag) << ROUTE_BITS | u128::from(stored))
        };
        let tag = keys.tag.hash(&bits.to_be_bytes());
        assert_eq!(keys.decode(seal(tag)), Some(route(1, 2, 3, 4)));
        for bit in 0..64 {
            assert_eq!(keys.decode(seal(tag ^ 1 << bit)), None, "{bit}");
        }
    }

    proptest! {
        #[test]
        fn a_route_survives_the_round_trip(route in any_route(), salt in ".{1,40}") {
            let keys = PeerKeys::from_salt(&salt);
            let guid = keys.encode(route);
            prop_assert_eq!(guid.0[6] >> 4, 4);
            prop_assert_eq!(guid.0[8] >> 6, 0b10);
            prop_assert_eq!(keys.decode(guid), Some(route));
        }

        #[test]
        fn a_guid_with_any_bit_changed_is_refused(route in any_route(), bit in 0..128_usize) {
            let keys = PeerKeys::from_salt("salt");
            let mut guid = keys.encode(route);
            guid.0[bit / 8] ^= 0x80 >> (bit % 8);
            prop_assert_eq!(keys.decode(guid), None);
        }

        #[test]
        fn a_guid_of_another_salt_is_refused(route in any_route(), guess: [u8; 16]) {
            let keys = PeerKeys::from_salt("salt");
            prop_assert_eq!(keys.decode(PeerKeys::from_salt("other").encode(route)), None);
            prop_assert_eq!(keys.decode(Guid(guess)), None);
        }

        #[test]
        fn placing_bits_around_version_and_variant_is_invertible(packed in 0..1_u128 << 122) {
            prop_assert_eq!(gather(spread(packed)), Some(packed));
        }
    }
}
