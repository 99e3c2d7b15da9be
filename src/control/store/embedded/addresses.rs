//! How many sessions with a connection each address has.

use std::net::IpAddr;

use ahash::AHashMap;
use corelane_shard::id::SessionId;

/// Empty while nobody asks for a bound.
#[derive(Debug, Clone, Default)]
pub(super) struct AddressCounts {
    sessions: AHashMap<IpAddr, u32>,
    /// Where each session is counted.
    counted: AHashMap<SessionId, IpAddr>,
}

impl AddressCounts {
    /// Of an address as [`super::super::counted_as`] has it.
    pub(super) fn of(&self, address: IpAddr) -> u32 {
        self.sessions.get(&address).copied().unwrap_or_default()
    }

    pub(super) fn count(&mut self, session: SessionId, address: IpAddr) {
        self.forget(session);
        *self.sessions.entry(address).or_default() += 1;
        self.counted.insert(session, address);
    }

    pub(super) fn forget(&mut self, session: SessionId) {
        let Some(address) = self.counted.remove(&session) else { return };
        if let Some(count) = self.sessions.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.sessions.remove(&address);
            }
        }
    }
}
