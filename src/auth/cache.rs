//! Tokens that verified a moment ago, per shard, so that a reconnect storm costs no signatures.

use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::rc::Rc;
use std::time::Duration;

use ahash::AHashMap;
use corelane_shard::clock::{Instant, Now};
use corelane_shard::identity::Identity;
use sha2::{Digest, Sha256};

/// SHA-256 of the whole token, signature included: who knows it had the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Fingerprint([u8; 32]);

impl Fingerprint {
    pub(super) fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }
}

/// Verified tokens by fingerprint; first in, first out. At most `capacity` entries, and only
/// tokens with a good signature get in, so nobody without a key can push others out.
#[derive(Debug)]
pub(super) struct TokenCache {
    capacity: usize,
    entries: AHashMap<Fingerprint, Entry>,
    /// Every key of `entries` once, oldest first.
    order: VecDeque<Fingerprint>,
}

#[derive(Debug)]
struct Entry {
    identity: Rc<Identity>,
    fresh_until: Instant,
}

impl Entry {
    fn is_fresh(&self, now: Now) -> bool {
        let expires_at = self.identity.expires_at.map_or(u64::MAX, NonZeroU64::get);
        now.mono < self.fresh_until && now.unix_ms < expires_at.saturating_mul(1000)
    }
}

impl TokenCache {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, entries: AHashMap::new(), order: VecDeque::new() }
    }

    pub(super) fn find(&self, token: Fingerprint, now: Now) -> Option<Rc<Identity>> {
        self.entries.get(&token).filter(|e| e.is_fresh(now)).map(|e| Rc::clone(&e.identity))
    }

    pub(super) fn insert(&mut self, token: Fingerprint, identity: Rc<Identity>, now: Now) {
        if self.capacity == 0 {
            return;
        }
        let entry = Entry { identity, fresh_until: now.mono + FRESH_FOR };
        if let Some(stale) = self.entries.get_mut(&token) {
            *stale = entry;
            return;
        }
        self.make_room(now);
        self.entries.insert(token, entry);
        self.order.push_back(token);
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.order.clear();
    }

    fn make_room(&mut self, now: Now) {
        while let Some(oldest) = self.order.front() {
            let stale = self.entries.get(oldest).is_none_or(|entry| !entry.is_fresh(now));
            if !stale && self.order.len() < self.capacity {
                return;
            }
            self.entries.remove(oldest);
            self.order.pop_front();
        }
    }
}

/// Longest time that a result is believed; never beyond the token's `exp`.
const FRESH_FOR: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use corelane_shard::id::SessionId;
    use corelane_shard::identity::Standing;

    use super::*;

    fn identity(session: u128, expires_at: u64) -> Rc<Identity> {
        let standing = Standing {
            tenant: "default".into(),
            roles: Box::default(),
            authorizations: Box::default(),
        };
        Rc::new(Identity {
            session: SessionId(session),
            account: None,
            standing: Rc::new(standing),
            expires_at: NonZeroU64::new(expires_at),
        })
    }

    fn at(seconds: u64) -> Now {
        Now { mono: Instant(seconds * 1_000_000_000), unix_ms: seconds * 1000 }
    }

    #[test]
    fn an_entry_is_found_for_a_minute_and_not_beyond_its_expiry() {
        let mut cache = TokenCache::new(4);
        let (long, short) = (Fingerprint::of("long"), Fingerprint::of("short"));
        cache.insert(long, identity(1, 1000), at(0));
        cache.insert(short, identity(2, 10), at(0));
        assert!(cache.find(long, at(59)).is_some());
        assert!(cache.find(long, at(60)).is_none());
        assert!(cache.find(short, at(9)).is_some());
        assert!(cache.find(short, at(10)).is_none());
    }

    #[test]
    fn the_oldest_entry_makes_room_and_the_bound_holds() {
        let mut cache = TokenCache::new(3);
        for n in 0..100u32 {
            cache.insert(Fingerprint::of(&n.to_string()), identity(u128::from(n), 1000), at(0));
            assert!(cache.entries.len() <= 3);
            assert_eq!(cache.entries.len(), cache.order.len());
        }
        assert!(cache.find(Fingerprint::of("96"), at(0)).is_none());
        assert!(cache.find(Fingerprint::of("97"), at(0)).is_some());
    }

    #[test]
    fn a_token_verified_again_takes_one_place() {
        let mut cache = TokenCache::new(3);
        let token = Fingerprint::of("token");
        for minute in 0..10 {
            cache.insert(token, identity(1, 1000), at(minute * 60));
        }
        assert_eq!((cache.entries.len(), cache.order.len()), (1, 1));
        assert!(cache.find(token, at(9 * 60)).is_some());
    }

    #[test]
    fn stale_entries_leave_before_the_cache_is_full() {
        let mut cache = TokenCache::new(100);
        for n in 0..10 {
            cache.insert(Fingerprint::of(&n.to_string()), identity(n, 1000), at(0));
        }
        cache.insert(Fingerprint::of("later"), identity(99, 1000), at(61));
        assert_eq!(cache.entries.len(), 1);
    }
}
