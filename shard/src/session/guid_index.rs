//! How one session finds the endpoint of a request's GUID: a small cache, and on a miss either its
//! full table ([`super::fingerprints`]) or a derivation of the set's GUIDs one after the other.

use crate::id::{EndpointId, SessionId};
use crate::session::capability::CapabilitySet;
use crate::session::fingerprints::{
    Entry, FingerprintTables, TableAnswer, TableTicket, fingerprint,
};
use crate::wire::guid::{Guid, SessionText};

/// Per session. Holds endpoints of one capability set only: cleared when it changes. One word until
/// the session calls something.
#[derive(Debug, Default)]
pub struct GuidIndex(Option<Box<Known>>);

#[derive(Debug)]
struct Known {
    recent: [Entry; RECENT],
    table: Option<TableTicket>,
    /// Derivations made for misses, less one for every hit since: what a table would have saved.
    debt: u16,
    /// Where the next found endpoint goes, round robin.
    next: u8,
}

/// What is known without deriving anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remembered {
    Found(EndpointId),
    /// The session has a full table and the GUID is not in it.
    Unknown,
    /// Only [`GuidIndex::derive`] can tell.
    Missed,
}

impl Default for Known {
    fn default() -> Self {
        Self { recent: [Entry::EMPTY; RECENT], table: None, debt: 0, next: 0 }
    }
}

impl GuidIndex {
    #[inline]
    pub fn recall(&mut self, guid: Guid, tables: &mut FingerprintTables) -> Remembered {
        let Some(known) = self.0.as_deref_mut() else {
            return Remembered::Missed;
        };
        let fingerprint = fingerprint(guid);
        let hit = known.recent.iter().find_map(|entry| entry.endpoint_of(fingerprint));
        if let Some(endpoint) = hit {
            known.debt = known.debt.saturating_sub(1);
            return Remembered::Found(endpoint);
        }
        let Some(ticket) = known.table else {
            return Remembered::Missed;
        };
        match tables.find(ticket, guid) {
            TableAnswer::Found(endpoint) => Remembered::Found(endpoint),
            TableAnswer::Unknown => Remembered::Unknown,
            TableAnswer::Evicted => {
                known.table = None;
                Remembered::Missed
            }
        }
    }

    /// Derives the GUIDs of `set` in order until one is `guid`; after [`Remembered::Missed`].
    ///
    /// A session whose misses have cost as much as a table costs gets one.
    #[cold]
    pub fn derive(
        &mut self,
        guid: Guid,
        session: SessionId,
        set: &CapabilitySet,
        tables: &mut FingerprintTables,
    ) -> Option<EndpointId> {
        let known = self.0.get_or_insert_default();
        let text = SessionText::new(session);
        let mut derived: u16 = 0;
        let found = set.derive(&text).find(|(_, candidate)| {
            derived = derived.saturating_add(1);
            *candidate == guid
        });
        known.debt = known.debt.saturating_add(derived);
        if set.len() > RECENT && usize::from(known.debt) >= PROMOTION_FACTOR * set.len() {
            known.debt = 0;
            known.table = tables.insert(set.len(), set.derive(&text));
        }
        let (endpoint, _) = found?;
        let next = usize::from(known.next) % RECENT;
        known.recent[next] = Entry::new(fingerprint(guid), endpoint);
        known.next = known.next.wrapping_add(1);
        Some(endpoint)
    }

    /// Forgets everything and gives the table back: the set has changed or the session ends.
    pub fn clear(&mut self, tables: &mut FingerprintTables) {
        if let Some(ticket) = self.0.take().and_then(|known| known.table) {
            tables.release(ticket);
        }
    }

    /// Lets go of what is quickly derived again, since nothing is asked for.
    pub fn rest(&mut self) {
        if self.0.as_ref().is_some_and(|known| known.table.is_none()) {
            self.0 = None;
        }
    }
}

const RECENT: usize = 8;

/// A table costs one derivation per endpoint; waiting until misses have cost twice that keeps
/// sessions that only look around once from taking a table.
const PROMOTION_FACTOR: usize = 2;

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use proptest::prelude::*;

    use super::*;
    use crate::session::fixtures;

    const SESSION: SessionId = SessionId(0x3f25_04e0_4f89_41d3_9a0c_0305_e82c_3301);

    fn set_of(count: usize) -> Rc<CapabilitySet> {
        fixtures::set_of(count)
    }

    fn guids(set: &CapabilitySet) -> Vec<Guid> {
        set.derive(&SessionText::new(SESSION)).map(|(_, guid)| guid).collect()
    }

    /// The answer, and whether anything had to be derived for it.
    fn find(
        index: &mut GuidIndex,
        guid: Guid,
        set: &CapabilitySet,
        tables: &mut FingerprintTables,
    ) -> (Option<EndpointId>, bool) {
        match index.recall(guid, tables) {
            Remembered::Found(endpoint) => (Some(endpoint), false),
            Remembered::Unknown => (None, false),
            Remembered::Missed => (index.derive(guid, SESSION, set, tables), true),
        }
    }

    #[test]
    fn a_resting_index_keeps_its_table_and_nothing_else() {
        let (set, mut tables) = (set_of(100), FingerprintTables::new(1 << 20));
        let mut index = GuidIndex::default();
        let guids = guids(&set);
        find(&mut index, guids[0], &set, &mut tables);
        index.rest();
        assert_eq!(find(&mut index, guids[0], &set, &mut tables), (Some(EndpointId(0)), true));
        for guid in &guids {
            find(&mut index, *guid, &set, &mut tables);
        }
        index.rest();
        assert_eq!(find(&mut index, guids[0], &set, &mut tables), (Some(EndpointId(0)), false));
    }

    #[test]
    fn eight_endpoints_in_turn_are_derived_once_each() {
        let (set, mut tables) = (set_of(8), FingerprintTables::new(1 << 20));
        let mut index = GuidIndex::default();
        let guids = guids(&set);
        for round in 0..4 {
            for (i, guid) in guids.iter().enumerate() {
                let (endpoint, derived) = find(&mut index, *guid, &set, &mut tables);
                assert_eq!(endpoint, Some(EndpointId(i as u16)));
                assert_eq!(derived, round == 0);
            }
        }
        assert_eq!(tables.bytes_used(), 0);
    }

    #[test]
    fn a_session_that_misses_often_gets_a_table_and_derives_no_more() {
        let (set, mut tables) = (set_of(100), FingerprintTables::new(1 << 20));
        let mut index = GuidIndex::default();
        let guids = guids(&set);
        for guid in &guids {
            find(&mut index, *guid, &set, &mut tables);
        }
        assert!(tables.bytes_used() > 0);
        for (i, guid) in guids.iter().enumerate() {
            let found = find(&mut index, *guid, &set, &mut tables);
            assert_eq!(found, (Some(EndpointId(i as u16)), false));
        }
        assert_eq!(find(&mut index, Guid([7; 16]), &set, &mut tables), (None, false));
        index.clear(&mut tables);
        assert_eq!(tables.bytes_used(), 0);
    }

    #[test]
    fn a_session_that_rarely_misses_gets_no_table() {
        let (set, mut tables) = (set_of(100), FingerprintTables::new(1 << 20));
        let mut index = GuidIndex::default();
        let guids = guids(&set);
        for rare in 10..90 {
            find(&mut index, guids[rare], &set, &mut tables);
            for _ in 0..200 {
                find(&mut index, guids[0], &set, &mut tables);
            }
        }
        assert_eq!(tables.bytes_used(), 0);
    }

    proptest! {
        /// Three sessions fight for a pool of two tables; every answer stays right.
        #[test]
        fn the_index_answers_as_a_plain_search_does(
            requests in proptest::collection::vec((0..3_usize, 0..40_usize), 1..300),
        ) {
            let set = set_of(30);
            let own = guids(&set);
            let mut tables = FingerprintTables::new(2 * 64 * 8);
            let mut indices = [(); 3].map(|()| GuidIndex::default());
            for (session, which) in requests {
                let guid = own.get(which).copied().unwrap_or(Guid([which as u8; 16]));
                let expected = (which < own.len()).then_some(EndpointId(which as u16));
                let (found, _) = find(&mut indices[session], guid, &set, &mut tables);
                prop_assert_eq!(found, expected);
                prop_assert!(tables.bytes_used() <= 2 * 64 * 8);
            }
        }
    }
}
