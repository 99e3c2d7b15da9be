//! Shortcuts: routes that a service publishes to one session, with the target and the payload
//! bound. Most sessions have none: the table is boxed.

use thiserror::Error;

use crate::id::EndpointId;
use crate::wire::guid::Guid;

/// One published shortcut. It is the authority for its call; its target need not be among the
/// session's capabilities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortcut {
    /// What the client puts into its header.
    pub route: Guid,
    /// Replaces the route in the call.
    pub target_guid: Guid,
    /// `None` when the gateway knows no such service: the call is answered 71.
    pub target: Option<EndpointId>,
    /// Replaces the client's payload.
    pub payload: Box<[u8]>,
    pub expires_unix_ms: Option<u64>,
    /// By which clients look it up; the route's text stands in for an absent one.
    pub name: Option<Box<str>>,
    pub description: Option<Box<str>>,
    /// Who published it.
    pub source_service: Option<Box<str>>,
}

/// Place of a shortcut in its table; valid until the table changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShortcutIndex(u8);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ShortcutRefused {
    #[error("the session holds as many shortcuts as it may")]
    TableFull,
    #[error("the bound payload is too long")]
    PayloadTooLong,
    #[error("the null and the broadcast GUID cannot be shortcuts")]
    ReservedGuid,
}

/// Per session; gone with its connection.
#[derive(Debug, Default)]
#[expect(clippy::box_collection, reason = "one word in every session, absent in nearly all")]
pub struct Shortcuts(Option<Box<Vec<Shortcut>>>);

impl Shortcuts {
    pub const MAX: usize = 64;
    pub const PAYLOAD_MAX: usize = 16 << 10;

    /// Publishing a route again replaces it.
    pub fn publish(&mut self, shortcut: Shortcut) -> Result<(), ShortcutRefused> {
        if shortcut.route == Guid::NULL || shortcut.route == Guid::BROADCAST {
            return Err(ShortcutRefused::ReservedGuid);
        }
        if shortcut.payload.len() > Self::PAYLOAD_MAX {
            return Err(ShortcutRefused::PayloadTooLong);
        }
        let table = self.0.get_or_insert_default();
        if let Some(known) = table.iter_mut().find(|known| known.route == shortcut.route) {
            *known = shortcut;
            return Ok(());
        }
        if table.len() >= Self::MAX {
            return Err(ShortcutRefused::TableFull);
        }
        table.push(shortcut);
        Ok(())
    }

    /// The shortcut taken away, if there was one.
    pub fn revoke(&mut self, route: Guid) -> Option<Shortcut> {
        let table = self.0.as_mut()?;
        let at = table.iter().position(|known| known.route == route)?;
        let shortcut = table.swap_remove(at);
        if table.is_empty() {
            self.0 = None;
        }
        Some(shortcut)
    }

    /// Takes back all of one source service; says whether there were any.
    pub fn revoke_service(&mut self, service: &str) -> bool {
        let Some(table) = self.0.as_mut() else { return false };
        let before = table.len();
        table.retain(|known| known.source_service.as_deref() != Some(service));
        let revoked = table.len() < before;
        if table.is_empty() {
            self.0 = None;
        }
        revoked
    }

    pub fn iter(&self) -> impl Iterator<Item = &Shortcut> {
        self.0.as_deref().into_iter().flatten()
    }

    #[inline]
    #[must_use]
    pub fn find(&self, route: Guid) -> Option<(ShortcutIndex, &Shortcut)> {
        let table = self.0.as_deref()?;
        (0..).map(ShortcutIndex).zip(table).find(|(_, known)| known.route == route)
    }

    #[must_use]
    pub fn at(&self, index: ShortcutIndex) -> Option<&Shortcut> {
        self.0.as_deref()?.get(usize::from(index.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shortcut(n: u8) -> Shortcut {
        Shortcut {
            route: Guid([n; 16]),
            target_guid: Guid::NULL,
            target: None,
            payload: Box::new([n]),
            expires_unix_ms: None,
            name: None,
            description: None,
            source_service: None,
        }
    }

    #[test]
    fn publishing_a_route_again_replaces_it() {
        let mut shortcuts = Shortcuts::default();
        shortcuts.publish(shortcut(1)).unwrap();
        let other = Shortcut { payload: Box::new([9]), ..shortcut(1) };
        shortcuts.publish(other.clone()).unwrap();
        let (index, found) = shortcuts.find(Guid([1; 16])).unwrap();
        assert_eq!(found, &other);
        assert_eq!(shortcuts.at(index), Some(&other));
        assert_eq!(shortcuts.revoke(Guid([1; 16])), Some(other));
        assert!(shortcuts.0.is_none());
    }

    #[test]
    fn a_service_takes_back_its_own_only() {
        let mut shortcuts = Shortcuts::default();
        for (n, service) in [(1, Some("a")), (2, Some("b")), (3, None), (4, Some("a"))] {
            let source_service = service.map(Box::from);
            shortcuts.publish(Shortcut { source_service, ..shortcut(n) }).unwrap();
        }
        assert!(shortcuts.revoke_service("a"));
        assert!(!shortcuts.revoke_service("a"));
        let left: Vec<_> = shortcuts.iter().map(|shortcut| shortcut.route.0[0]).collect();
        assert_eq!(left, [2, 3]);
    }

    #[test]
    fn the_table_is_bounded() {
        let mut shortcuts = Shortcuts::default();
        for n in 1..=Shortcuts::MAX as u8 {
            shortcuts.publish(shortcut(n)).unwrap();
        }
        assert_eq!(shortcuts.publish(shortcut(200)), Err(ShortcutRefused::TableFull));
        assert_eq!(shortcuts.publish(shortcut(3)), Ok(()));
        let long = Shortcut { payload: vec![0; 16 * 1024 + 1].into(), ..shortcut(3) };
        assert_eq!(shortcuts.publish(long), Err(ShortcutRefused::PayloadTooLong));
    }

    #[test]
    fn reserved_guids_are_refused() {
        for route in [Guid::NULL, Guid::BROADCAST] {
            let reserved = Shortcut { route, ..shortcut(1) };
            let refused = Shortcuts::default().publish(reserved);
            assert_eq!(refused, Err(ShortcutRefused::ReservedGuid));
        }
    }
}
