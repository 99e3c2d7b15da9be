//! From start to exit: the phases of the process, what signals ask for, and what systemd is told.
//!
//! [`drain`] is the shutdown as a state machine without a clock, [`systemd`] the conversation with
//! the service manager. Carrying the phases out is the control core's and the shards' work.

use std::io;
use std::sync::atomic::{AtomicU8, Ordering};

use corelane_shard::lane::DrainPhase;
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

pub mod drain;
pub mod systemd;

/// Where the process stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Starting,
    Running,
    Draining(DrainPhase),
}

impl Phase {
    pub const ALL: [Self; 6] = [
        Self::Starting,
        Self::Running,
        Self::Draining(DrainPhase::Grace),
        Self::Draining(DrainPhase::Closing),
        Self::Draining(DrainPhase::Cutting),
        Self::Draining(DrainPhase::Done),
    ];

    fn index(self) -> u8 {
        match self {
            Self::Starting => 0,
            Self::Running => 1,
            Self::Draining(DrainPhase::Grace) => 2,
            Self::Draining(DrainPhase::Closing) => 3,
            Self::Draining(DrainPhase::Cutting) => 4,
            Self::Draining(DrainPhase::Done) => 5,
        }
    }

    /// Log field and metric label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Draining(DrainPhase::Grace) => "grace",
            Self::Draining(DrainPhase::Closing) => "closing",
            Self::Draining(DrainPhase::Cutting) => "cutting",
            Self::Draining(DrainPhase::Done) => "done",
        }
    }
}

/// The phase of this process, for all threads to read. Starts at [`Phase::Starting`].
#[derive(Debug, Default)]
pub struct PhaseCell(AtomicU8);

impl PhaseCell {
    pub fn store(&self, phase: Phase) {
        self.0.store(phase.index(), Ordering::Release);
    }

    /// From starting to running; a drain that has begun meanwhile stays.
    pub fn serve(&self) {
        let (from, to) = (Phase::Starting.index(), Phase::Running.index());
        // Failing is the case that this is for.
        let _moved = self.0.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
    }

    #[must_use]
    pub fn load(&self) -> Phase {
        let index = usize::from(self.0.load(Ordering::Acquire));
        Phase::ALL.get(index).copied().unwrap_or(Phase::Starting)
    }
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// SIGTERM, SIGINT. The second one means: at once.
    Terminate,
    /// SIGHUP.
    Reload,
}

/// The signals of this process. Once created, none of the three has its default effect any more.
#[derive(Debug)]
pub struct Signals {
    terminate: Stream,
    interrupt: Stream,
    hangup: Stream,
}

impl Signals {
    /// Needs a running tokio runtime.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Cancel safe: a signal that is not returned is returned next time.
    pub async fn next(&mut self) -> Request {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => Request::Terminate,
            _ = self.interrupt.recv() => Request::Terminate,
            _ = self.hangup.recv() => Request::Reload,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_phase_cell_returns_what_was_stored() {
        let cell = PhaseCell::default();
        assert_eq!(cell.load(), Phase::Starting);
        for phase in Phase::ALL {
            cell.store(phase);
            assert_eq!(cell.load(), phase);
        }
    }

    #[test]
    fn serving_begins_only_when_no_drain_has() {
        let cell = PhaseCell::default();
        cell.serve();
        assert_eq!(cell.load(), Phase::Running);
        cell.store(Phase::Draining(DrainPhase::Grace));
        cell.serve();
        assert_eq!(cell.load(), Phase::Draining(DrainPhase::Grace));
    }
}
