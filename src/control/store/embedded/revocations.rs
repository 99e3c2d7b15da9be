//! Sessions that were ended for good, for as long as a token from before may live.

use std::collections::VecDeque;
use std::time::Duration;

use ahash::AHashMap;
use corelane_shard::clock::{Instant, Now};
use corelane_shard::id::SessionId;
use corelane_shard::identity::{Identity, UnixSeconds};

/// At most [`REVOCATIONS_MAX`]; beyond it the oldest is forgotten.
#[derive(Debug, Clone, Default)]
pub(super) struct Revocations {
    /// Unix seconds at which they were ended.
    ended: AHashMap<SessionId, u64>,
    /// When each is forgotten; one that was ended again has an entry for each time.
    forget: VecDeque<(Instant, SessionId)>,
}

impl Revocations {
    pub(super) fn revoke(&mut self, session: SessionId, now: Now, life: Duration) {
        if self.forget.len() >= REVOCATIONS_MAX
            && let Some((_, oldest)) = self.forget.pop_front()
        {
            self.ended.remove(&oldest);
        }
        self.ended.insert(session, now.unix_ms / 1000);
        self.forget.push_back((now.mono + life, session));
    }

    /// Whether the session was ended after this token was made. By the second: a token of the very
    /// second in which it was ended is refused.
    pub(super) fn refuse(&self, token: &Identity) -> bool {
        let issued = token.issued_at.map_or(0, UnixSeconds::get);
        self.ended.get(&token.session).is_some_and(|ended| issued <= *ended)
    }

    pub(super) fn expire(&mut self, now: Instant) {
        while let Some(&(until, session)) = self.forget.front()
            && until <= now
        {
            self.forget.pop_front();
            // One that was ended again since has a later entry of its own.
            if !self.forget.iter().any(|(_, other)| *other == session) {
                self.ended.remove(&session);
            }
        }
    }

    /// When [`Self::expire`] has something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        self.forget.front().map(|(until, _)| *until)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.ended.is_empty()
    }
}

const REVOCATIONS_MAX: usize = 1 << 16;
