//! Full tables from GUID to endpoint for sessions that miss their small cache often: a pool per
//! shard, bounded in bytes, from which the tables that are not used are taken away again.

use crate::id::EndpointId;
use crate::session::capability::NO_ENDPOINT;
use crate::wire::guid::Guid;

/// A GUID's fingerprint and its endpoint in 8 bytes: the upper 48 bits of the fingerprint above
/// the endpoint's index.
///
/// Two GUIDs may share an entry, so a forged one may pass for a true one. That gives its sender
/// nothing: it reaches an endpoint of the sender's own capability set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry(u64);

impl Entry {
    pub(crate) const EMPTY: Self = Self(u64::MAX);

    pub(crate) fn new(fingerprint: u64, endpoint: EndpointId) -> Self {
        Self(fingerprint & !ENDPOINT_MASK | u64::from(endpoint.0))
    }

    /// The endpoint, if this is the entry of `fingerprint`.
    #[inline]
    pub(crate) fn endpoint_of(self, fingerprint: u64) -> Option<EndpointId> {
        let same = (self.0 ^ fingerprint) & !ENDPOINT_MASK == 0;
        let endpoint = EndpointId((self.0 & ENDPOINT_MASK) as u16);
        (same && endpoint != NO_ENDPOINT).then_some(endpoint)
    }

    fn is_empty(self) -> bool {
        self.0 & ENDPOINT_MASK == u64::from(NO_ENDPOINT.0)
    }
}

/// 64 bits that all vary: the version bits of one half meet free bits of the other.
#[inline]
pub(crate) fn fingerprint(guid: Guid) -> u64 {
    let bits = u128::from_be_bytes(guid.0);
    (bits >> 64) as u64 ^ bits as u64
}

/// What a session keeps of its table; outlives the table without harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableTicket {
    slot: u32,
    tenancy: u32,
}

/// What a full table says about a GUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableAnswer {
    Found(EndpointId),
    /// Not one of the session's GUIDs.
    Unknown,
    /// The table was taken away.
    Evicted,
}

/// The pool of one shard. Eviction is second-chance: a sweeping hand takes the first table that
/// was not used since it last came by.
#[derive(Debug)]
pub struct FingerprintTables {
    slots: Vec<TableSlot>,
    free: Vec<u32>,
    hand: usize,
    bytes_used: usize,
    bytes_max: usize,
}

#[derive(Debug)]
struct TableSlot {
    tenancy: u32,
    use_bit: UseBit,
    /// Open addressing, a power of two, at most half full; empty when the slot is free.
    entries: Box<[Entry]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UseBit {
    Used,
    Unused,
}

impl FingerprintTables {
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self { slots: Vec::new(), free: Vec::new(), hand: 0, bytes_used: 0, bytes_max }
    }

    #[must_use]
    pub fn bytes_used(&self) -> usize {
        self.bytes_used
    }

    #[inline]
    pub fn find(&mut self, ticket: TableTicket, guid: Guid) -> TableAnswer {
        let Some(slot) = self.slots.get_mut(ticket.slot as usize) else {
            return TableAnswer::Evicted;
        };
        if slot.tenancy != ticket.tenancy || slot.entries.is_empty() {
            return TableAnswer::Evicted;
        }
        slot.use_bit = UseBit::Used;
        let fingerprint = fingerprint(guid);
        let mask = slot.entries.len() - 1;
        let mut at = home(fingerprint, mask);
        loop {
            let entry = slot.entries[at];
            if let Some(endpoint) = entry.endpoint_of(fingerprint) {
                return TableAnswer::Found(endpoint);
            }
            if entry.is_empty() {
                return TableAnswer::Unknown;
            }
            at = (at + 1) & mask;
        }
    }

    /// Makes a table of `count` pairs, taking room from unused tables; `None` when it is larger
    /// than the whole pool.
    pub fn insert(
        &mut self,
        count: usize,
        pairs: impl Iterator<Item = (EndpointId, Guid)>,
    ) -> Option<TableTicket> {
        let capacity = (2 * count).next_power_of_two().max(CAPACITY_MIN);
        let bytes = capacity * size_of::<Entry>();
        if bytes > self.bytes_max {
            return None;
        }
        while self.bytes_used + bytes > self.bytes_max {
            self.evict_one();
        }
        let mut entries = vec![Entry::EMPTY; capacity].into_boxed_slice();
        for (endpoint, guid) in pairs.take(count) {
            place(&mut entries, fingerprint(guid), endpoint);
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            let slot = TableSlot { tenancy: 0, use_bit: UseBit::Unused, entries: Box::default() };
            self.slots.push(slot);
            (self.slots.len() - 1) as u32
        });
        let place = &mut self.slots[slot as usize];
        place.tenancy = place.tenancy.wrapping_add(1);
        place.use_bit = UseBit::Used;
        place.entries = entries;
        self.bytes_used += bytes;
        Some(TableTicket { slot, tenancy: place.tenancy })
    }

    /// Gives a table back; nothing happens when it was evicted before.
    pub fn release(&mut self, ticket: TableTicket) {
        let index = ticket.slot as usize;
        if self.slots.get(index).is_some_and(|slot| slot.tenancy == ticket.tenancy) {
            self.vacate(index);
        }
    }

    /// Ends after at most two rounds: the first clears every use bit. Only called while bytes are
    /// in use, so there is a table to take.
    fn evict_one(&mut self) {
        for _ in 0..2 * self.slots.len() {
            let index = self.hand;
            self.hand = (self.hand + 1) % self.slots.len();
            let slot = &mut self.slots[index];
            match slot.use_bit {
                _ if slot.entries.is_empty() => {}
                UseBit::Used => slot.use_bit = UseBit::Unused,
                UseBit::Unused => return self.vacate(index),
            }
        }
    }

    fn vacate(&mut self, index: usize) {
        let entries = std::mem::take(&mut self.slots[index].entries);
        if !entries.is_empty() {
            self.bytes_used -= size_of_val(&*entries);
            self.free.push(index as u32);
        }
    }
}

fn place(entries: &mut [Entry], fingerprint: u64, endpoint: EndpointId) {
    let mask = entries.len() - 1;
    let mut at = home(fingerprint, mask);
    while !entries[at].is_empty() {
        at = (at + 1) & mask;
    }
    entries[at] = Entry::new(fingerprint, endpoint);
}

/// The low bits choose the place, so that with the 48 bits of the entry more bits are compared.
#[inline]
fn home(fingerprint: u64, mask: usize) -> usize {
    fingerprint as usize & mask
}

const ENDPOINT_MASK: u64 = 0xFFFF;

const CAPACITY_MIN: usize = 16;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn guid(n: u64) -> Guid {
        let mut random = fastrand::Rng::with_seed(n);
        Guid(random.u128(..).to_be_bytes())
    }

    fn pairs(owner: u64, count: u16) -> impl Iterator<Item = (EndpointId, Guid)> {
        (0..count).map(move |i| (EndpointId(i), guid(owner << 16 | u64::from(i))))
    }

    #[test]
    fn all_bits_of_a_fingerprint_vary() {
        let (mut ones, mut zeros) = (0, 0);
        for n in 0..1000 {
            let mut guid = guid(n);
            guid.0[7] = guid.0[7] & 0x0F | 0x50;
            guid.0[8] = guid.0[8] & 0x3F | 0x80;
            ones |= fingerprint(guid);
            zeros |= !fingerprint(guid);
        }
        assert_eq!((ones, zeros), (u64::MAX, u64::MAX));
    }

    #[test]
    fn a_table_that_is_used_survives_those_that_are_not() {
        let mut tables = FingerprintTables::new(4 * 256 * 8);
        let tickets: Vec<_> =
            (0..4).map(|owner| tables.insert(100, pairs(owner, 100)).unwrap()).collect();
        let newcomer = tables.insert(100, pairs(4, 100)).unwrap();
        assert_eq!(tables.find(tickets[0], guid(0)), TableAnswer::Evicted);
        assert_ne!(tables.find(tickets[1], guid(9)), TableAnswer::Evicted);
        tables.insert(100, pairs(5, 100)).unwrap();
        assert_eq!(tables.find(tickets[2], guid(9)), TableAnswer::Evicted);
        assert_ne!(tables.find(tickets[1], guid(9)), TableAnswer::Evicted);
        assert_eq!(tables.find(newcomer, guid(4 << 16 | 7)), TableAnswer::Found(EndpointId(7)));
    }

    #[test]
    fn a_table_larger_than_the_pool_is_refused() {
        let mut tables = FingerprintTables::new(1024);
        assert_eq!(tables.insert(100, pairs(0, 100)), None);
        assert!(tables.insert(60, pairs(0, 60)).is_some());
    }

    proptest! {
        #[test]
        fn tables_find_exactly_their_own_guids_within_the_bytes_allowed(
            operations in proptest::collection::vec((0..8_u64, 1..80_u16, any::<bool>()), 1..60),
        ) {
            let bytes_max = 4096;
            let mut tables = FingerprintTables::new(bytes_max);
            let mut held: Vec<Option<(TableTicket, u16)>> = vec![None; 8];
            for (owner, count, give_back) in operations {
                let index = owner as usize;
                if let Some((ticket, _)) = held[index].take() {
                    tables.release(ticket);
                    prop_assert_eq!(tables.find(ticket, guid(0)), TableAnswer::Evicted);
                }
                if !give_back {
                    let ticket = tables.insert(count.into(), pairs(owner, count));
                    held[index] = ticket.map(|ticket| (ticket, count));
                    prop_assert!(ticket.is_some());
                }
                prop_assert!(tables.bytes_used() <= bytes_max);
                let mut live = 0;
                for (owner, slot) in held.iter().enumerate() {
                    let Some((ticket, count)) = slot else { continue };
                    if tables.find(*ticket, guid(u64::MAX)) == TableAnswer::Evicted {
                        continue;
                    }
                    live += (2 * usize::from(*count)).next_power_of_two().max(16) * 8;
                    for (endpoint, guid) in pairs(owner as u64, *count) {
                        prop_assert_eq!(tables.find(*ticket, guid), TableAnswer::Found(endpoint));
                    }
                    prop_assert_eq!(tables.find(*ticket, guid(1 << 40)), TableAnswer::Unknown);
                }
                prop_assert_eq!(tables.bytes_used(), live);
            }
        }
    }
}
