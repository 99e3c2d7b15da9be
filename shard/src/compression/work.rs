//! Processor time in one turn, estimated before it is spent, so that a run can be repeated.

use std::time::Duration;

/// What compressing, and as much again what inflating may add to one turn of a shard.
pub(super) const PER_TURN: Duration = Duration::from_millis(5);

/// What is spent of the present turn.
#[derive(Debug, Default)]
pub(super) struct TurnWork {
    turn: u32,
    spent: Duration,
}

impl TurnWork {
    pub(super) fn left(&mut self, turn: u32) -> Duration {
        if self.turn != turn {
            *self = Self { turn, spent: Duration::ZERO };
        }
        PER_TURN.saturating_sub(self.spent)
    }

    /// Of the turn that was last asked about.
    pub(super) fn spend(&mut self, work: Duration) {
        self.spent += work;
    }
}
