//! Tokens that verified a moment ago, per shard, so that a reconnect storm costs no signatures.

use std::sync::Arc;
use std::time::Duration;

use corelane_shard::clock::{Instant, Now};
use corelane_shard::identity::{Identity, TokenFingerprint, UnixSeconds};

/// Verified tokens by fingerprint, in sets of a few; the oldest of its set makes room for a new one.
/// Only tokens that were found good get in, so nobody without one can push others out. All its
/// memory is there from the start.
#[derive(Debug)]
pub(super) struct TokenCache {
    /// A power of two.
    sets: Box<[TokenSet]>,
}

#[derive(Debug, Default)]
struct TokenSet {
    entries: [Option<Entry>; TOKENS_PER_SET],
    /// Where the next one goes, round robin.
    next: usize,
}

#[derive(Debug)]
struct Entry {
    token: TokenFingerprint,
    identity: Arc<Identity>,
    fresh_until: Instant,
}

impl Entry {
    fn is_fresh(&self, now: Now) -> bool {
        let expires_at = self.identity.expires_at.map_or(u64::MAX, UnixSeconds::get);
        now.mono < self.fresh_until && now.unix_ms < expires_at.saturating_mul(1000)
    }
}

impl TokenCache {
    /// `sets` is a power of two.
    pub(super) fn new(sets: usize) -> Self {
        Self { sets: std::iter::repeat_with(TokenSet::default).take(sets).collect() }
    }

    pub(super) fn find(&mut self, token: TokenFingerprint, now: Now) -> Option<Arc<Identity>> {
        let mut known = self.set_of(token).entries.iter().flatten();
        let entry = known.find(|entry| entry.token == token && entry.is_fresh(now))?;
        Some(Arc::clone(&entry.identity))
    }

    pub(super) fn insert(&mut self, token: TokenFingerprint, identity: Arc<Identity>, now: Now) {
        let set = self.set_of(token);
        let known = set.entries.iter().position(|e| e.as_ref().is_some_and(|e| e.token == token));
        let place = known.unwrap_or_else(|| {
            let next = set.next;
            set.next = (next + 1) % TOKENS_PER_SET;
            next
        });
        set.entries[place] = Some(Entry { token, identity, fresh_until: now.mono + FRESH_FOR });
    }

    pub(super) fn clear(&mut self) {
        self.sets.fill_with(TokenSet::default);
    }

    fn set_of(&mut self, token: TokenFingerprint) -> &mut TokenSet {
        let bits = usize::from(u16::from_le_bytes([token.0[0], token.0[1]]));
        let at = bits & (self.sets.len() - 1);
        &mut self.sets[at]
    }
}

/// Few enough to look at all of them, enough that they seldom fill up before the whole cache does.
const TOKENS_PER_SET: usize = 8;

/// Longest time that a result is believed; never beyond the token's `exp`.
const FRESH_FOR: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use corelane_shard::id::SessionId;
    use corelane_shard::identity::Standing;

    use super::*;

    fn identity(session: u128, expires_at: u64) -> Arc<Identity> {
        let standing = Standing {
            tenant: "default".into(),
            roles: Box::default(),
            authorizations: Box::default(),
        };
        Arc::new(Identity {
            session: SessionId(session),
            account: None,
            standing: Arc::new(standing),
            expires_at: UnixSeconds::new(expires_at),
            issued_at: None,
        })
    }

    fn at(seconds: u64) -> Now {
        Now { mono: Instant(seconds * 1_000_000_000), unix_ms: seconds * 1000 }
    }

    fn fingerprints() -> impl Iterator<Item = TokenFingerprint> {
        (0u32..).map(|n| TokenFingerprint::of(&n.to_string()))
    }

    #[test]
    fn an_entry_is_found_for_a_minute_and_not_beyond_its_expiry() {
        let mut cache = TokenCache::new(4);
        let (long, short) = (TokenFingerprint::of("long"), TokenFingerprint::of("short"));
        cache.insert(long, identity(1, 1000), at(0));
        cache.insert(short, identity(2, 10), at(0));
        assert!(cache.find(long, at(59)).is_some());
        assert!(cache.find(long, at(60)).is_none());
        assert!(cache.find(short, at(9)).is_some());
        assert!(cache.find(short, at(10)).is_none());
    }

    #[test]
    fn the_oldest_of_a_set_makes_room() {
        let mut cache = TokenCache::new(1);
        let tokens: Vec<_> = fingerprints().take(100).collect();
        for &token in &tokens {
            cache.insert(token, identity(1, 1000), at(0));
        }
        let mut kept = tokens.iter().map(|&token| cache.find(token, at(0)).is_some());
        assert!(kept.by_ref().take(100 - TOKENS_PER_SET).all(|found| !found));
        assert!(kept.all(|found| found));
    }

    #[test]
    fn a_cache_that_is_half_full_has_forgotten_nearly_nothing() {
        let mut cache = TokenCache::new(64);
        let tokens: Vec<_> = fingerprints().take(64 * TOKENS_PER_SET / 2).collect();
        for &token in &tokens {
            cache.insert(token, identity(1, 1000), at(0));
        }
        let forgotten = tokens.iter().filter(|&&token| cache.find(token, at(0)).is_none()).count();
        assert!(forgotten <= tokens.len() / 50, "{forgotten} of {}", tokens.len());
    }

    #[test]
    fn a_token_verified_again_takes_one_place() {
        let mut cache = TokenCache::new(1);
        let (token, other) = (TokenFingerprint::of("token"), TokenFingerprint::of("other"));
        cache.insert(other, identity(2, 1000), at(0));
        for minute in 0..10 {
            cache.insert(token, identity(1, 1000), at(minute * 60));
        }
        assert_eq!(cache.sets[0].entries.iter().flatten().count(), 2);
        assert!(cache.find(token, at(9 * 60)).is_some());
        cache.clear();
        assert!(cache.find(token, at(9 * 60)).is_none());
    }
}
