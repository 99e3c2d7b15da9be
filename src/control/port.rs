//! The control core's end of the lanes to one shard, and what waits there for room.

use std::collections::{BTreeMap, VecDeque};

use corelane_shard::id::ServiceId;
use corelane_shard::lane::{DrainPhase, ToControl, ToShard};

/// One shard as the control core reaches it. Neither side waits for the other.
pub trait ShardPort {
    fn receive(&mut self) -> Option<ToControl>;

    /// Gives the message back when the lane is full.
    fn send(&mut self, message: ToShard) -> Result<(), ToShard>;

    /// Whether an order, which is no answer to a claim, would find room now.
    fn has_room(&self) -> bool;

    /// End of a turn in which something was sent: the shard is woken if it sleeps.
    fn ring(&mut self) {}
}

/// How the control core falls asleep without missing a message: it says so, looks at every lane
/// once more, and only then waits for its eventfd.
pub trait Bell {
    /// From here on a producer that pushes must also write the eventfd.
    fn announce_sleep(&self);
    fn awake(&self);
}

/// For producers that write the eventfd with every push.
#[derive(Debug, Clone, Copy, Default)]
pub struct AlwaysRung;

impl Bell for AlwaysRung {
    fn announce_sleep(&self) {}
    fn awake(&self) {}
}

/// A port with the messages that did not fit its lanes. Nothing is lost: answers wait in order, and
/// so do evictions and orders, without holding each other up; configuration, addresses and the drain
/// phase are state, so only the latest of each waits.
///
/// Bounded: the caller takes no claims while any shard [`Self::is_behind`], and a claim adds at
/// most one message to two ports; an order ends a session or answers somebody who waits for it.
#[derive(Debug)]
pub(super) struct Outlet<P> {
    port: P,
    answers: VecDeque<ToShard>,
    evictions: VecDeque<ToShard>,
    snapshot: Option<ToShard>,
    addresses: BTreeMap<ServiceId, ToShard>,
    drain: Option<DrainPhase>,
    orders: VecDeque<ToShard>,
    sent: bool,
}

impl<P: ShardPort> Outlet<P> {
    pub(super) fn new(port: P) -> Self {
        Self {
            port,
            answers: VecDeque::new(),
            evictions: VecDeque::new(),
            snapshot: None,
            addresses: BTreeMap::new(),
            drain: None,
            orders: VecDeque::new(),
            sent: false,
        }
    }

    pub(super) fn receive(&mut self) -> Option<ToControl> {
        self.port.receive()
    }

    /// Queues `message`; [`Self::flush`] sends it.
    pub(super) fn post(&mut self, message: ToShard) {
        match message {
            ToShard::Granted { .. } | ToShard::Refused { .. } | ToShard::Validated { .. } => {
                self.answers.push_back(message);
            }
            ToShard::Evict { .. } => self.evictions.push_back(message),
            ToShard::Snapshot(_) => {
                // Service ids mean nothing across two versions.
                self.addresses.clear();
                self.snapshot = Some(message);
            }
            ToShard::Addresses { service, .. } => {
                self.addresses.insert(service, message);
            }
            ToShard::MoreEndpoints(snapshot) => {
                // What still waits was to be followed by manifests, so this is, too.
                self.snapshot = Some(match self.snapshot {
                    Some(ToShard::Snapshot(_)) => ToShard::Snapshot(snapshot),
                    _ => ToShard::MoreEndpoints(snapshot),
                });
            }
            ToShard::Drain(phase) => self.drain = Some(phase),
            ToShard::EndSession { .. }
            | ToShard::Disown { .. }
            | ToShard::Deliver(_)
            | ToShard::Describe { .. }
            | ToShard::AbroadAnswered(_)
            | ToShard::FromAbroad(_)
            | ToShard::BroadcastFromAbroad { .. } => {
                self.orders.push_back(message);
            }
        }
    }

    /// Sends at once what nothing is lost with: it comes back unless there is room and nothing waits
    /// that must come before.
    pub(super) fn try_send(&mut self, message: ToShard) -> Result<(), ToShard> {
        if self.takes_orders() { self.send(message) } else { Err(message) }
    }

    /// Whether [`Self::try_send`] would succeed.
    pub(super) fn takes_orders(&self) -> bool {
        self.snapshot.is_none() && self.orders.is_empty() && self.port.has_room()
    }

    /// Sends as much as fits, and wakes the shard for it.
    pub(super) fn flush(&mut self) {
        self.send_waiting();
        if self.sent {
            self.sent = false;
            self.port.ring();
        }
    }

    /// Sends as much as fits, and leaves the shard asleep.
    pub(super) fn send_waiting(&mut self) {
        self.flush_queues();
        self.flush_state();
        self.flush_orders();
    }

    pub(super) fn has_waiting(&self) -> bool {
        !self.answers.is_empty()
            || !self.evictions.is_empty()
            || self.snapshot.is_some()
            || !self.addresses.is_empty()
            || self.drain.is_some()
            || !self.orders.is_empty()
    }

    /// So much waits that the shard has stopped reading.
    pub(super) fn is_behind(&self) -> bool {
        self.answers.len() + self.evictions.len() >= WAITING_MAX || self.orders.len() >= WAITING_MAX
    }

    fn flush_queues(&mut self) {
        for queue in [&mut self.evictions, &mut self.answers] {
            while let Some(message) = queue.pop_front() {
                if let Err(message) = self.port.send(message) {
                    queue.push_front(message);
                    break;
                }
                self.sent = true;
            }
        }
    }

    /// A snapshot leaves before the addresses that belong to it.
    fn flush_state(&mut self) {
        if let Some(phase) = self.drain {
            if self.send(ToShard::Drain(phase)).is_err() {
                return;
            }
            self.drain = None;
        }
        if let Some(message) = self.snapshot.take()
            && let Err(message) = self.send(message)
        {
            self.snapshot = Some(message);
            return;
        }
        while let Some((service, message)) = self.addresses.pop_first() {
            if let Err(message) = self.send(message) {
                self.addresses.insert(service, message);
                return;
            }
        }
    }

    /// After the configuration that they may speak of.
    fn flush_orders(&mut self) {
        while self.snapshot.is_none()
            && let Some(order) = self.orders.pop_front()
        {
            if let Err(order) = self.send(order) {
                self.orders.push_front(order);
                return;
            }
        }
    }

    fn send(&mut self, message: ToShard) -> Result<(), ToShard> {
        self.port.send(message)?;
        self.sent = true;
        Ok(())
    }
}

/// Answers and evictions waiting for one shard, or orders, beyond which nothing further is taken.
const WAITING_MAX: usize = 4096;

#[cfg(test)]
mod tests;
