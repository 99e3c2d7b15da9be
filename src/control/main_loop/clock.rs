//! The only place of the control core that reads the wall clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use corelane_shard::clock::{Instant, Now};
use rustix::time::{ClockId, clock_gettime};

/// The two clocks of a turn. The monotonic one goes on while the machine sleeps: what may have gone to
/// another node in the meantime is not to be taken for this one's.
#[derive(Debug)]
pub(super) struct Clock {
    started: Duration,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self { started: Self::boottime() }
    }

    fn boottime() -> Duration {
        let now = clock_gettime(ClockId::Boottime);
        Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
    }

    pub(super) fn now(&self) -> Now {
        let mono = Instant(0) + Self::boottime().saturating_sub(self.started);
        let unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        Now { mono, unix_ms: u64::try_from(unix_ms).unwrap_or(u64::MAX) }
    }
}
