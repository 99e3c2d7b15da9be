//! Costs planted into a watched thread, to show that a gate finds them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use corelane_shard::probe::Probe;
use corelane_shard::pump::TurnObserver;

use super::counting::{Counting, enter_for_nothing};

/// Long enough for clients and backends to have nothing more to say.
const STALL: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, Copy)]
pub(crate) enum Plant {
    Allocation,
    Enter,
    /// Not a cost but a pause, in which everything under way piles up in front of one turn.
    Stall,
}

/// Plants nothing until it is told to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Saboteur {
    plan: Arc<Mutex<Option<Plant>>>,
    /// Messages for each planted cost; 0 = never.
    every: Arc<AtomicU64>,
}

impl Saboteur {
    /// From now on `what`, once for every `every` messages; 0 ends it.
    pub(crate) fn plant(&self, what: Plant, every: u64) {
        *self.plan.lock().unwrap_or_else(PoisonError::into_inner) = Some(what);
        self.every.store(every, Ordering::Release);
    }

    pub(crate) fn around(self, counting: Counting, probe: Arc<Probe>) -> Sabotaged {
        Sabotaged { saboteur: self, counting, probe, paid: 0 }
    }
}

/// A counting observer with the saboteur at work in every turn.
pub(crate) struct Sabotaged {
    saboteur: Saboteur,
    counting: Counting,
    probe: Arc<Probe>,
    /// Messages whose cost was planted, or that came before the plan.
    paid: u64,
}

impl TurnObserver for Sabotaged {
    fn entering(&mut self) {
        self.counting.entering();
        let messages = self.probe.messages_in.read();
        let every = self.saboteur.every.load(Ordering::Acquire);
        if every == 0 {
            self.paid = messages;
            return;
        }
        while self.paid + every <= messages {
            self.paid += every;
            match *self.saboteur.plan.lock().unwrap_or_else(PoisonError::into_inner) {
                Some(Plant::Allocation) => drop(std::hint::black_box(Box::new(self.paid))),
                Some(Plant::Enter) => enter_for_nothing(),
                Some(Plant::Stall) => std::thread::sleep(STALL),
                None => {}
            }
        }
    }

    fn leaving(&mut self) {
        self.counting.leaving();
    }
}
