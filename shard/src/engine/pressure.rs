//! How full the block pool is, and what is refused for it: new work before old.

use crate::snapshot::DoorLimits;

/// Each sheds what those before it shed, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    Calm,
    /// New connections are answered 503.
    Connections,
    /// New calls are answered 12.
    Calls,
    /// The pool is used up: whatever needs a block is refused, output to slow clients last of all.
    UsedUp,
}

/// Seen once a turn, so that it costs a call one comparison.
#[derive(Debug)]
pub(super) struct Pressure {
    stage: Stage,
    connections_at: usize,
    calls_at: usize,
    used_up_at: usize,
}

impl Pressure {
    /// `pool` is the bound of the block pool; `spare` what a single request may want of it.
    pub(super) fn new(limits: &DoorLimits, pool: usize, spare: usize) -> Self {
        let share = |per_million: u32| (pool as u64 * u64::from(per_million) / 1_000_000) as usize;
        Self {
            stage: Stage::Calm,
            connections_at: share(limits.shed_connections_per_million),
            calls_at: share(limits.shed_calls_per_million),
            used_up_at: pool.saturating_sub(spare),
        }
    }

    pub(super) fn observe(&mut self, in_use: usize) {
        self.stage = if in_use < self.connections_at {
            Stage::Calm
        } else if in_use < self.calls_at {
            Stage::Connections
        } else if in_use < self.used_up_at {
            Stage::Calls
        } else {
            Stage::UsedUp
        };
    }

    pub(super) fn stage(&self) -> Stage {
        self.stage
    }

    pub(super) fn sheds_connections(&self) -> bool {
        self.stage >= Stage::Connections
    }

    pub(super) fn sheds_calls(&self) -> bool {
        self.stage >= Stage::Calls
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_connections_are_shed_before_new_calls_and_nothing_in_calm() {
        let limits = DoorLimits {
            shed_connections_per_million: 500_000,
            shed_calls_per_million: 750_000,
            ..DoorLimits::default()
        };
        let mut pressure = Pressure::new(&limits, 1000, 100);
        for (in_use, stage, connections, calls) in [
            (0, Stage::Calm, false, false),
            (499, Stage::Calm, false, false),
            (500, Stage::Connections, true, false),
            (749, Stage::Connections, true, false),
            (750, Stage::Calls, true, true),
            (900, Stage::UsedUp, true, true),
            (1000, Stage::UsedUp, true, true),
            (499, Stage::Calm, false, false),
        ] {
            pressure.observe(in_use);
            assert_eq!(pressure.stage(), stage, "{in_use}");
            assert_eq!(pressure.sheds_connections(), connections, "{in_use}");
            assert_eq!(pressure.sheds_calls(), calls, "{in_use}");
        }
    }

    #[test]
    fn a_share_of_one_sheds_nothing_before_the_pool_is_used_up() {
        let limits = DoorLimits {
            shed_connections_per_million: 1_000_000,
            shed_calls_per_million: 1_000_000,
            ..DoorLimits::default()
        };
        let mut pressure = Pressure::new(&limits, 1000, 100);
        pressure.observe(899);
        assert_eq!(pressure.stage(), Stage::Calm);
    }
}
