//! What a session may call: immutable sets shared by all sessions that may call the same. How a
//! request's GUID finds its endpoint in a set is in [`super::guid_index`].

use std::hash::Hash;
use std::rc::Rc;

use ahash::AHashMap;

use crate::id::EndpointId;
use crate::snapshot::{Role, Snapshot};
use crate::wire::guid::{Guid, ServiceGuids, SessionText};

/// What sessions alike may call under one configuration. Per shard, shared by its sessions.
#[derive(Debug)]
pub struct CapabilitySet {
    version: u64,
    /// Sorted, without repeats.
    endpoints: Box<[EndpointId]>,
    guids: Rc<ServiceGuids>,
}

impl CapabilitySet {
    /// Version of the snapshot whose indices the set holds.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    #[must_use]
    pub fn endpoints(&self) -> &[EndpointId] {
        &self.endpoints
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.endpoints.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    #[must_use]
    pub fn contains(&self, endpoint: EndpointId) -> bool {
        self.endpoints.binary_search(&endpoint).is_ok()
    }

    /// Every endpoint with the session's GUID of it, derived as the iterator advances.
    pub fn derive<'a>(
        &'a self,
        session: &'a SessionText,
    ) -> impl Iterator<Item = (EndpointId, Guid)> + 'a {
        self.endpoints
            .iter()
            .filter_map(|endpoint| Some((*endpoint, self.guids.derive(session, *endpoint)?)))
    }
}

/// The capability sets of one shard under one configuration; a reload makes a new one.
#[derive(Debug)]
pub struct Capabilities {
    version: u64,
    guids: Rc<ServiceGuids>,
    /// By indices of the configured roles, sorted: roles that the configuration does not know
    /// grant nothing and so make no new set. At most [`SETS_MAX`] entries.
    sets: AHashMap<Box<[u16]>, Rc<CapabilitySet>>,
    /// By what capabilities events granted, sorted. At most [`SETS_MAX`] entries.
    given: AHashMap<Box<[EndpointId]>, Rc<CapabilitySet>>,
}

impl Capabilities {
    #[must_use]
    pub fn new(snapshot: &Snapshot) -> Self {
        Self {
            version: snapshot.version,
            guids: Rc::new(ServiceGuids::new(snapshot)),
            sets: AHashMap::new(),
            given: AHashMap::new(),
        }
    }

    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The set of `roles` under `snapshot`, which must be the one this was made from.
    pub fn of_roles(&mut self, snapshot: &Snapshot, roles: &[Box<str>]) -> Rc<CapabilitySet> {
        debug_assert_eq!(snapshot.version, self.version);
        let key = known_roles(&snapshot.roles, roles);
        if let Some(set) = self.sets.get(&key) {
            return Rc::clone(set);
        }
        let roles = key.iter().filter_map(|role| snapshot.roles.get(usize::from(*role)));
        let granted = roles.flat_map(|role| role.endpoints.iter().copied());
        let set = Rc::new(self.build(snapshot, granted));
        keep(&mut self.sets, key, &set);
        set
    }

    /// The set of exactly these endpoints, as far as `snapshot`, the one this was made from, has
    /// them.
    pub fn of_endpoints(
        &mut self,
        snapshot: &Snapshot,
        granted: &[EndpointId],
    ) -> Rc<CapabilitySet> {
        debug_assert_eq!(snapshot.version, self.version);
        let set = self.build(snapshot, granted.iter().copied());
        if let Some(known) = self.given.get(set.endpoints()) {
            return Rc::clone(known);
        }
        let set = Rc::new(set);
        keep(&mut self.given, set.endpoints().into(), &set);
        set
    }

    fn build(
        &self,
        snapshot: &Snapshot,
        granted: impl Iterator<Item = EndpointId>,
    ) -> CapabilitySet {
        let mut endpoints: Vec<EndpointId> = granted
            .filter(|endpoint| *endpoint != NO_ENDPOINT)
            .filter(|endpoint| usize::from(endpoint.0) < snapshot.endpoints.len())
            .collect();
        endpoints.sort_unstable();
        endpoints.dedup();
        CapabilitySet {
            version: self.version,
            endpoints: endpoints.into(),
            guids: Rc::clone(&self.guids),
        }
    }
}

fn keep<K: Hash + Eq>(sets: &mut AHashMap<K, Rc<CapabilitySet>>, key: K, set: &Rc<CapabilitySet>) {
    if sets.len() >= SETS_MAX {
        sets.retain(|_, set| Rc::strong_count(set) > 1);
    }
    if sets.len() < SETS_MAX {
        sets.insert(key, Rc::clone(set));
    }
}

fn known_roles(configured: &[Role], roles: &[Box<str>]) -> Box<[u16]> {
    (0..=u16::MAX)
        .zip(configured)
        .filter(|(_, role)| roles.contains(&role.name))
        .map(|(index, _)| index)
        .collect()
}

/// Names no endpoint, here as in the link protocol.
pub(crate) const NO_ENDPOINT: EndpointId = EndpointId(u16::MAX);

/// Sets kept for sessions to come; beyond it a set lives as long as its sessions.
const SETS_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::fixtures;

    fn roles(names: &[&str]) -> Vec<Box<str>> {
        names.iter().map(|name| Box::from(*name)).collect()
    }

    fn with_roles(given: &[(&str, &[u16])]) -> Snapshot {
        let paths: Vec<String> = (0..10).map(|i| format!("/demo/{i}")).collect();
        let endpoints: Vec<_> = paths.iter().map(|path| ("demo", path.as_str())).collect();
        let mut snapshot = fixtures::snapshot_of(&endpoints, "salt");
        snapshot.roles = given
            .iter()
            .map(|(name, endpoints)| Role {
                name: (*name).into(),
                endpoints: endpoints.iter().map(|id| EndpointId(*id)).collect(),
            })
            .collect();
        snapshot
    }

    #[test]
    fn a_set_is_the_sorted_union_of_its_roles() {
        let snapshot = with_roles(&[("user", &[5, 1]), ("admin", &[1, 9, 0]), ("guest", &[3])]);
        let set = Capabilities::new(&snapshot).of_roles(&snapshot, &roles(&["admin", "user", "x"]));
        assert_eq!(set.endpoints(), [0, 1, 5, 9].map(EndpointId));
        assert!(set.contains(EndpointId(5)));
        assert!(!set.contains(EndpointId(3)));
    }

    #[test]
    fn sessions_that_were_granted_the_same_share_one_set() {
        let snapshot = with_roles(&[]);
        let mut capabilities = Capabilities::new(&snapshot);
        let first = capabilities.of_endpoints(&snapshot, &[5, 1, 99, 5].map(EndpointId));
        assert_eq!(first.endpoints(), [1, 5].map(EndpointId));
        let second = capabilities.of_endpoints(&snapshot, &[1, 5].map(EndpointId));
        assert!(Rc::ptr_eq(&first, &second));
    }

    #[test]
    fn endpoints_outside_the_configuration_grant_nothing() {
        let snapshot = with_roles(&[("user", &[5, 10, u16::MAX])]);
        let set = Capabilities::new(&snapshot).of_roles(&snapshot, &roles(&["user"]));
        assert_eq!(set.endpoints(), [EndpointId(5)]);
    }

    #[test]
    fn sessions_with_the_same_known_roles_share_one_set() {
        let snapshot = with_roles(&[("user", &[1]), ("admin", &[2])]);
        let mut capabilities = Capabilities::new(&snapshot);
        let first = capabilities.of_roles(&snapshot, &roles(&["user"]));
        let second = capabilities.of_roles(&snapshot, &roles(&["premium", "user"]));
        assert!(Rc::ptr_eq(&first, &second));
        let other = capabilities.of_roles(&snapshot, &roles(&["admin"]));
        assert!(!Rc::ptr_eq(&first, &other));
    }

    #[test]
    fn the_number_of_kept_sets_is_bounded() {
        let names: Vec<String> = (0..12).map(|i| format!("role{i}")).collect();
        let given: Vec<(&str, &[u16])> = names.iter().map(|n| (n.as_str(), &[1][..])).collect();
        let snapshot = with_roles(&given);
        let mut capabilities = Capabilities::new(&snapshot);
        let mut held = Vec::new();
        for mask in 0_u32..600 {
            let chosen: Vec<Box<str>> = (0..12)
                .filter(|bit| mask >> bit & 1 == 1)
                .map(|bit| names[bit].as_str().into())
                .collect();
            held.push(capabilities.of_roles(&snapshot, &chosen));
            assert!(capabilities.sets.len() <= SETS_MAX);
        }
        held.clear();
        capabilities.of_roles(&snapshot, &roles(&["role9", "role8", "role7"]));
        assert!(capabilities.sets.len() <= SETS_MAX);
    }
}
