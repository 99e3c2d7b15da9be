//! The slots of one shard: a fixed-bound slab whose entries never move, with keys that outlive
//! their entry harmlessly.
//!
//! What a slot holds is the engine's business; deadlines of slots live in [`crate::timer`].

use std::time::Duration;

use crate::clock::Instant;
use crate::id::{ConnectionKey, Generation, Slot};

/// Most slots a table can have: the slot field of a peer GUID is this wide.
pub const SLOTS_MAX: usize = 1 << 20;

/// A released slot rests this long, unless no other is left: generations are 18 bits, and a GUID
/// of the former tenant must not soon meet a new one.
pub const REUSE_AFTER: Duration = Duration::from_secs(60);

/// Entries per chunk. A chunk is allocated when its first slot is needed and then stays.
const CHUNK: usize = 256;

const NONE: u32 = u32::MAX;

/// Connections of one shard by slot. `len <= capacity`; slots are handed out again first-in
/// first-out.
#[derive(Debug)]
pub struct Table<T> {
    /// All chunks but the last are full; none is ever reallocated.
    chunks: Vec<Vec<Entry<T>>>,
    capacity: usize,
    len: usize,
    /// Slots that have been handed out at least once; the rest are fresh.
    touched: usize,
    /// Released slots in order of release, linked through their entries.
    oldest_free: u32,
    newest_free: u32,
    seed: u64,
}

#[derive(Debug)]
struct Entry<T> {
    /// Of the tenant, or of the next one when vacant.
    generation: Generation,
    state: State<T>,
}

#[derive(Debug)]
enum State<T> {
    Vacant { released: Instant, next_free: u32 },
    Occupied(T),
}

impl<T> Entry<T> {
    fn value(&self) -> Option<&T> {
        match &self.state {
            State::Occupied(value) => Some(value),
            State::Vacant { .. } => None,
        }
    }

    fn value_mut(&mut self) -> Option<&mut T> {
        match &mut self.state {
            State::Occupied(value) => Some(value),
            State::Vacant { .. } => None,
        }
    }
}

impl<T> Table<T> {
    /// A table of at most `capacity` slots (capped at [`SLOTS_MAX`]) that holds no memory for
    /// entries yet. `seed` decides where each slot's generations start.
    #[must_use]
    pub fn new(capacity: usize, seed: u64) -> Self {
        let capacity = capacity.min(SLOTS_MAX);
        Self {
            chunks: Vec::with_capacity(capacity.div_ceil(CHUNK)),
            capacity,
            len: 0,
            touched: 0,
            oldest_free: NONE,
            newest_free: NONE,
            seed,
        }
    }

    /// Gives `value` a slot, or hands it back when all are taken.
    pub fn insert(&mut self, value: T, now: Instant) -> Result<ConnectionKey, T> {
        if self.len == self.capacity {
            return Err(value);
        }
        let slot = match self.oldest_free(now) {
            Some(rested) => self.reuse(rested, value),
            None if self.touched < self.capacity => self.touch(value),
            None => self.reuse(self.oldest_free, value),
        };
        self.len += 1;
        Ok(self.key_at(slot).expect("the slot was just filled"))
    }

    /// Empties the slot of `key`; `None` when its tenant is gone already.
    pub fn remove(&mut self, key: ConnectionKey, now: Instant) -> Option<T> {
        let entry = self.tenancy_mut(key)?;
        let vacant = State::Vacant { released: now, next_free: NONE };
        let State::Occupied(value) = std::mem::replace(&mut entry.state, vacant) else {
            return None;
        };
        entry.generation = entry.generation.next();
        self.len -= 1;
        self.append_free(key.slot.0);
        Some(value)
    }

    #[must_use]
    pub fn get(&self, key: ConnectionKey) -> Option<&T> {
        let entry = self.entry(key.slot)?;
        if entry.generation != key.generation {
            return None;
        }
        entry.value()
    }

    #[must_use]
    pub fn get_mut(&mut self, key: ConnectionKey) -> Option<&mut T> {
        self.tenancy_mut(key)?.value_mut()
    }

    /// The tenant of `key` to be changed with an eye on another one.
    #[must_use]
    pub fn get_mut_beside(
        &mut self,
        key: ConnectionKey,
        other: ConnectionKey,
    ) -> Option<(&mut T, &T)> {
        let [(chunk, at), (other_chunk, other_at)] =
            [key, other].map(|key| (key.slot.0 as usize / CHUNK, key.slot.0 as usize % CHUNK));
        let [entry, beside] = if chunk == other_chunk {
            self.chunks.get_mut(chunk)?.get_disjoint_mut([at, other_at]).ok()?
        } else {
            let [chunk, other_chunk] = self.chunks.get_disjoint_mut([chunk, other_chunk]).ok()?;
            [chunk.get_mut(at)?, other_chunk.get_mut(other_at)?]
        };
        let present = entry.generation == key.generation && beside.generation == other.generation;
        Some((entry.value_mut()?, beside.value()?)).filter(|_| present)
    }

    /// The present tenant of `slot`, whoever it is.
    #[must_use]
    pub fn at(&self, slot: Slot) -> Option<&T> {
        self.entry(slot)?.value()
    }

    #[must_use]
    pub fn at_mut(&mut self, slot: Slot) -> Option<&mut T> {
        self.entry_mut(slot)?.value_mut()
    }

    /// The key of the present tenant of `slot`.
    #[must_use]
    pub fn key_at(&self, slot: Slot) -> Option<ConnectionKey> {
        let entry = self.entry(slot)?;
        entry.value()?;
        Some(ConnectionKey { slot, generation: entry.generation })
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Every slot that was ever used.
    pub fn slots(&self) -> impl Iterator<Item = Slot> + use<T> {
        (0..self.touched as u32).map(Slot)
    }

    /// All tenants, by slot. Walks every slot that was ever used: for rare work only.
    pub fn iter(&self) -> impl Iterator<Item = (ConnectionKey, &T)> {
        (0u32..).zip(self.chunks.iter().flatten()).filter_map(|(slot, entry)| {
            let key = ConnectionKey { slot: Slot(slot), generation: entry.generation };
            Some((key, entry.value()?))
        })
    }

    /// As [`Self::iter`].
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (ConnectionKey, &mut T)> {
        (0u32..).zip(self.chunks.iter_mut().flatten()).filter_map(|(slot, entry)| {
            let key = ConnectionKey { slot: Slot(slot), generation: entry.generation };
            Some((key, entry.value_mut()?))
        })
    }

    fn entry(&self, slot: Slot) -> Option<&Entry<T>> {
        let slot = slot.0 as usize;
        self.chunks.get(slot / CHUNK)?.get(slot % CHUNK)
    }

    fn entry_mut(&mut self, slot: Slot) -> Option<&mut Entry<T>> {
        let slot = slot.0 as usize;
        self.chunks.get_mut(slot / CHUNK)?.get_mut(slot % CHUNK)
    }

    fn tenancy_mut(&mut self, key: ConnectionKey) -> Option<&mut Entry<T>> {
        self.entry_mut(key.slot).filter(|entry| entry.generation == key.generation)
    }

    /// The slot that has been free for longest, if it has rested.
    fn oldest_free(&self, now: Instant) -> Option<u32> {
        match self.entry(Slot(self.oldest_free))?.state {
            State::Vacant { released, .. } if now - released >= REUSE_AFTER => {
                Some(self.oldest_free)
            }
            State::Vacant { .. } | State::Occupied(_) => None,
        }
    }

    /// Fills `slot`, the head of the free list.
    fn reuse(&mut self, slot: u32, value: T) -> Slot {
        let entry = self.entry_mut(Slot(slot)).expect("a slot on the free list was used before");
        if let State::Vacant { next_free, .. } =
            std::mem::replace(&mut entry.state, State::Occupied(value))
        {
            self.oldest_free = next_free;
        }
        if self.oldest_free == NONE {
            self.newest_free = NONE;
        }
        Slot(slot)
    }

    /// Fills a slot that was never used.
    fn touch(&mut self, value: T) -> Slot {
        let slot = self.touched;
        if slot.is_multiple_of(CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK.min(self.capacity - slot)));
        }
        let slot_number = u32::try_from(slot).expect("slots are below 2^20");
        let generation = first_generation(self.seed, slot_number);
        let chunk = self.chunks.last_mut().expect("a chunk was pushed for the first slot");
        chunk.push(Entry { generation, state: State::Occupied(value) });
        self.touched += 1;
        Slot(slot_number)
    }

    fn append_free(&mut self, slot: u32) {
        let before = std::mem::replace(&mut self.newest_free, slot);
        match self.entry_mut(Slot(before)) {
            Some(Entry { state: State::Vacant { next_free, .. }, .. }) => *next_free = slot,
            Some(_) | None => self.oldest_free = slot,
        }
    }
}

/// Where the generations of `slot` start: one output of SplitMix64.
fn first_generation(seed: u64, slot: u32) -> Generation {
    let mut z =
        seed.wrapping_add(u64::from(slot).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^= z >> 31;
    Generation((z >> (64 - Generation::BITS)) as u32)
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, VecDeque};

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Insert,
        /// Removes the tenant at this position among the live ones, modulo their number.
        Remove(usize),
        /// Tries a key that was valid once.
        RemoveStale(usize),
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => Just(Step::Insert),
            3 => any::<usize>().prop_map(Step::Remove),
            1 => any::<usize>().prop_map(Step::RemoveStale),
            1 => (0u64..70).prop_map(Step::Wait),
        ]
    }

    /// The table beside a naive one.
    struct Pair {
        table: Table<u32>,
        now: Instant,
        live: Vec<(ConnectionKey, u32)>,
        gone: Vec<ConnectionKey>,
        free: VecDeque<(Slot, Instant)>,
        used: u32,
        next_value: u32,
    }

    impl Pair {
        fn new(capacity: usize, seed: u64) -> Self {
            Self {
                table: Table::new(capacity, seed),
                now: Instant(0),
                live: Vec::new(),
                gone: Vec::new(),
                free: VecDeque::new(),
                used: 0,
                next_value: 0,
            }
        }

        fn apply(&mut self, step: &Step) {
            match *step {
                Step::Insert => self.insert(),
                Step::Remove(at) if !self.live.is_empty() => {
                    let (key, value) = self.live.remove(at % self.live.len());
                    assert_eq!(self.table.remove(key, self.now), Some(value));
                    self.gone.push(key);
                    self.free.push_back((key.slot, self.now));
                }
                Step::RemoveStale(at) if !self.gone.is_empty() => {
                    let key = self.gone[at % self.gone.len()];
                    assert_eq!(self.table.remove(key, self.now), None);
                }
                Step::Remove(_) | Step::RemoveStale(_) => {}
                Step::Wait(seconds) => self.now = self.now + Duration::from_secs(seconds),
            }
            self.check();
        }

        fn insert(&mut self) {
            let value = self.next_value;
            self.next_value += 1;
            let fresh = (self.used as usize) < self.table.capacity();
            let rested = self.free.front().is_some_and(|(_, at)| self.now - *at >= REUSE_AFTER);
            let expected = if rested || !fresh {
                self.free.pop_front().map(|(slot, _)| slot)
            } else {
                self.used += 1;
                Some(Slot(self.used - 1))
            };
            match self.table.insert(value, self.now) {
                Ok(key) => {
                    assert_eq!(Some(key.slot), expected);
                    assert!(!self.gone.contains(&key), "a key never names a second tenant");
                    self.live.push((key, value));
                }
                Err(back) => {
                    assert_eq!(back, value);
                    assert_eq!(expected, None);
                }
            }
        }

        fn check(&self) {
            assert_eq!(self.table.len(), self.live.len());
            for (key, value) in &self.live {
                assert_eq!(self.table.get(*key), Some(value));
                assert_eq!(self.table.at(key.slot), Some(value));
                assert_eq!(self.table.key_at(key.slot), Some(*key));
            }
            for key in &self.gone {
                assert_eq!(self.table.get(*key), None);
            }
            let all: HashMap<_, _> = self.table.iter().map(|(key, value)| (key, *value)).collect();
            assert_eq!(all, self.live.iter().copied().collect());
        }
    }

    proptest! {
        #[test]
        fn keys_reach_their_own_tenant_and_slots_return_first_in_first_out(
            capacity in 1usize..8,
            seed: u64,
            steps in proptest::collection::vec(step(), 1..150),
        ) {
            let mut pair = Pair::new(capacity, seed);
            for step in &steps {
                pair.apply(step);
            }
        }
    }

    const START: Instant = Instant(0);

    #[test]
    fn entries_stay_where_they_are_while_the_table_grows() {
        let mut table = Table::new(5 * CHUNK, 0);
        let first = table.insert(0, START).unwrap();
        let address = std::ptr::from_ref(table.get(first).unwrap());
        for n in 1..5 * CHUNK {
            table.insert(n, START).unwrap();
        }
        assert_eq!(table.insert(9, START), Err(9));
        assert_eq!(std::ptr::from_ref(table.get(first).unwrap()), address);
    }

    #[test]
    fn one_tenant_is_changed_with_an_eye_on_another() {
        let mut table = Table::new(3 * CHUNK, 0);
        let keys: Vec<_> = (0..3 * CHUNK).map(|n| table.insert(n, START).unwrap()).collect();
        for (one, other) in [(0, 1), (1, 0), (0, CHUNK), (2 * CHUNK, CHUNK + 1)] {
            let (changed, beside) = table.get_mut_beside(keys[one], keys[other]).unwrap();
            *changed += *beside;
            assert_eq!(table.get(keys[one]), Some(&(one + other)));
            *table.get_mut(keys[one]).unwrap() = one;
        }
        assert_eq!(table.get_mut_beside(keys[0], keys[0]), None, "itself");
        table.remove(keys[1], START).unwrap();
        assert_eq!(table.get_mut_beside(keys[0], keys[1]), None, "gone");
        assert_eq!(table.get_mut_beside(keys[1], keys[0]), None, "gone");
        table.remove(keys[CHUNK], START).unwrap();
        let next = table.insert(7, START + REUSE_AFTER).unwrap();
        assert_eq!(next.slot, keys[1].slot);
        assert_eq!(table.get_mut_beside(keys[0], keys[1]), None, "somebody else by now");
        assert_eq!(table.get_mut_beside(keys[1], keys[0]), None, "somebody else by now");
        assert_eq!(table.get_mut_beside(keys[0], next), Some((&mut 0, &7)));
    }

    #[test]
    fn memory_follows_use() {
        let mut table = Table::new(SLOTS_MAX, 0);
        assert_eq!(table.chunks.len(), 0);
        for n in 0..=CHUNK {
            table.insert(n, START).unwrap();
        }
        assert_eq!(table.chunks.len(), 2);
    }

    #[test]
    fn generations_start_apart_and_wrap_within_their_bits() {
        let first = |seed| {
            let mut table = Table::new(2, seed);
            [(); 2].map(|()| table.insert((), START).unwrap().generation)
        };
        assert_ne!(first(1), first(2));
        assert_ne!(first(1)[0], first(1)[1]);

        let mut table = Table::new(1, 7);
        let key = table.insert((), START).unwrap();
        table.remove(key, START).unwrap();
        for _ in 1..1 << Generation::BITS {
            let next = table.insert((), START).unwrap();
            assert!(next.generation != key.generation && next.generation.0 < 1 << Generation::BITS);
            table.remove(next, START).unwrap();
        }
        assert_eq!(table.insert((), START).unwrap(), key);
    }

    #[test]
    fn a_slot_outside_the_table_has_no_tenant() {
        let table = Table::<u8>::new(4, 0);
        assert_eq!(table.at(Slot(u32::MAX)), None);
        let key = ConnectionKey { slot: Slot(CHUNK as u32), generation: Generation(0) };
        assert_eq!(table.get(key), None);
    }
}
