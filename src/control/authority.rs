//! Until when this node surely owns its sessions, as its shards see it: they may have orders of the
//! control core that were given before the process stood still.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Written by the control core, read by the shards.
#[derive(Debug, Default)]
pub struct Authority {
    /// By the clock that also counts while the machine sleeps.
    until_boot_ns: AtomicU64,
}

impl Authority {
    /// From now on it lasts for this long; zero ends it.
    pub fn lasts(&self, time: Duration) {
        let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let until = if time == 0 { 0 } else { boot_ns().saturating_add(time) };
        self.until_boot_ns.store(until, Ordering::Relaxed);
    }

    pub fn is_sure(&self) -> bool {
        boot_ns() < self.until_boot_ns.load(Ordering::Relaxed)
    }
}

fn boot_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_sure_of_its_sessions_until_its_time_is_over() {
        let authority = Authority::default();
        assert!(!authority.is_sure());
        authority.lasts(Duration::from_secs(3600));
        assert!(authority.is_sure());
        authority.lasts(Duration::from_nanos(1));
        while authority.is_sure() {}
        authority.lasts(Duration::from_secs(3600));
        authority.lasts(Duration::ZERO);
        assert!(!authority.is_sure());
    }
}
