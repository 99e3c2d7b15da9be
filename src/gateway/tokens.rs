//! The check of players' tokens for the internal listener: that of the door, with its keys.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use corelane_shard::clock::{Instant, Now};

use crate::auth::{JwtAuthenticator, KeySet};
use crate::control::internal::{Checking, TokenCheck};

/// Remembers no results: it is asked seldom, and by anybody who can reach a server for players.
#[derive(Debug)]
pub(super) struct PublishedKeys(pub(super) Arc<ArcSwap<KeySet>>);

impl TokenCheck for PublishedKeys {
    fn check<'a>(&'a self, token: &'a str) -> Checking<'a> {
        let unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let now = Now { mono: Instant(0), unix_ms: u64::try_from(unix_ms).unwrap_or(u64::MAX) };
        let verified = JwtAuthenticator::forgetful(Arc::clone(&self.0)).verify(token, now);
        let session = verified.map(|identity| identity.session);
        Box::pin(std::future::ready(session))
    }
}
