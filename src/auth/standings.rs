//! What identities of one shard say alike, kept once: tenant, roles and authorizations. Every session
//! holds its identity, so that this counts in what an idle session costs.

use std::sync::Arc;

use ahash::AHashSet;
use corelane_shard::identity::Standing;

/// The standings seen so far. Bounded: when full, those that no identity holds any more make room,
/// and if all are held, newcomers keep their own copy.
#[derive(Debug, Default)]
pub(super) struct Standings(AHashSet<Arc<Standing>>);

impl Standings {
    /// The one that is held already, if there is an equal one.
    pub(super) fn share(&mut self, standing: Standing) -> Arc<Standing> {
        if let Some(equal) = self.0.get(&standing) {
            return Arc::clone(equal);
        }
        let standing = Arc::new(standing);
        if self.0.len() >= KNOWN_MAX {
            self.0.retain(|held| Arc::strong_count(held) > 1);
        }
        if self.0.len() < KNOWN_MAX {
            self.0.insert(Arc::clone(&standing));
        }
        standing
    }
}

/// Different standings that are remembered.
const KNOWN_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(tenant: &str, role: &str) -> Standing {
        Standing {
            tenant: tenant.into(),
            roles: [Box::from(role)].into(),
            authorizations: Box::default(),
        }
    }

    #[test]
    fn equal_standings_are_held_once() {
        let mut standings = Standings::default();
        let first = standings.share(standing("a", "user"));
        let second = standings.share(standing("a", "user"));
        assert!(Arc::ptr_eq(&first, &second));
        let other = standings.share(standing("b", "user"));
        assert_eq!((&*other.tenant, &*other.roles[0]), ("b", "user"));
    }

    #[test]
    fn standings_without_number_neither_pile_up_nor_go_wrong() {
        let mut standings = Standings::default();
        for n in 0..4 * KNOWN_MAX {
            standings.share(standing(&n.to_string(), "user"));
        }
        assert!(standings.0.len() <= KNOWN_MAX, "{}", standings.0.len());

        let mut held = Vec::new();
        for n in 0..2 * KNOWN_MAX {
            let one = standings.share(standing("a", &n.to_string()));
            assert_eq!(*one.roles[0], *n.to_string());
            held.push(one);
        }
        assert_eq!(standings.0.len(), KNOWN_MAX);
    }
}
