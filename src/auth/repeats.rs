//! What identities of one shard say alike, kept once: the tenant and the set of roles. Every
//! session holds its identity, so that this counts in what an idle session costs.

use std::hash::Hash;
use std::rc::Rc;

use ahash::AHashSet;
use corelane_shard::identity::Identity;

/// Tenants and role sets seen so far. Bounded: when full, those that no identity holds any more
/// make room, and if all are held, newcomers keep their own copy.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    tenants: AHashSet<Rc<str>>,
    roles: AHashSet<Rc<[Box<str>]>>,
}

impl Repeats {
    /// Lets `identity` hold what an equal one holds already.
    pub(super) fn share(&mut self, identity: &mut Identity) {
        share(&mut self.tenants, &mut identity.tenant);
        share(&mut self.roles, &mut identity.roles);
    }
}

fn share<T: ?Sized + Eq + Hash>(known: &mut AHashSet<Rc<T>>, one: &mut Rc<T>) {
    if let Some(equal) = known.get(one) {
        *one = Rc::clone(equal);
        return;
    }
    if known.len() >= KNOWN_MAX {
        known.retain(|held| Rc::strong_count(held) > 1);
    }
    if known.len() < KNOWN_MAX {
        known.insert(Rc::clone(one));
    }
}

/// Different tenants, and different sets of roles, that are remembered.
const KNOWN_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use corelane_shard::id::SessionId;

    use super::*;

    fn identity(tenant: &str, role: &str) -> Identity {
        Identity {
            tenant: tenant.into(),
            session: SessionId(1),
            account: None,
            roles: [Box::from(role)].into(),
            authorizations: Box::default(),
            expires_at: None,
        }
    }

    #[test]
    fn equal_tenants_and_roles_are_held_once() {
        let mut repeats = Repeats::default();
        let (mut first, mut second) = (identity("a", "user"), identity("a", "user"));
        repeats.share(&mut first);
        repeats.share(&mut second);
        assert!(Rc::ptr_eq(&first.tenant, &second.tenant));
        assert!(Rc::ptr_eq(&first.roles, &second.roles));
        let mut other = identity("b", "admin");
        repeats.share(&mut other);
        assert_eq!((&*other.tenant, &*other.roles[0]), ("b", "admin"));
    }

    #[test]
    fn names_without_number_neither_pile_up_nor_go_wrong() {
        let mut repeats = Repeats::default();
        for n in 0..4 * KNOWN_MAX {
            repeats.share(&mut identity(&n.to_string(), "user"));
        }
        assert!(repeats.tenants.len() <= KNOWN_MAX, "{}", repeats.tenants.len());

        let mut held = Vec::new();
        for n in 0..2 * KNOWN_MAX {
            let mut one = identity("a", &n.to_string());
            repeats.share(&mut one);
            assert_eq!(*one.roles[0], *n.to_string());
            held.push(one);
        }
        assert_eq!(repeats.roles.len(), KNOWN_MAX);
    }
}
