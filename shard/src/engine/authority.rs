//! Events kept back while this node is not sure that its sessions are still its own. Another node may
//! have taken one up and begun where the client's confirmations ended; what this one delivered now
//! would come twice, and out of order.

use std::collections::VecDeque;
use std::time::Duration;

use super::Engine;
use crate::clock::Instant;
use crate::lane::Delivery;
use crate::sockets::Sockets;

/// What is kept back, in order. Bounded by the lane: the control core sends nothing more meanwhile.
pub(super) struct Withheld {
    /// `None` for a node by itself.
    is_sure: Option<Box<dyn Fn() -> bool>>,
    deliveries: VecDeque<Delivery>,
    look_at: Instant,
}

/// Between two looks whether the node is sure again.
const LOOK_EVERY: Duration = Duration::from_millis(100);

impl Withheld {
    pub(super) fn new(is_sure: Option<Box<dyn Fn() -> bool>>) -> Self {
        Self { is_sure, deliveries: VecDeque::new(), look_at: Instant::NEVER }
    }

    pub(super) fn next_look(&self) -> Option<Instant> {
        (!self.deliveries.is_empty()).then_some(self.look_at)
    }
}

impl<S: Sockets> Engine<S> {
    /// Delivers what belongs to no session's buffer, and the rest if it is surely ours to deliver.
    pub(super) fn deliver_if_sure(&mut self, delivery: Delivery) {
        let Withheld { is_sure: Some(is_sure), deliveries, look_at } = &mut self.withheld else {
            return self.take_delivery(delivery);
        };
        if delivery.place.is_none() || (deliveries.is_empty() && is_sure()) {
            return self.take_delivery(delivery);
        }
        *look_at = self.now.mono + LOOK_EVERY;
        deliveries.push_back(delivery);
        self.probe.deliveries_withheld.increment();
    }

    /// Delivers what was kept back, if the node is sure again. Sessions that it has lost meanwhile are
    /// gone, and their deliveries with them.
    pub(super) fn deliver_withheld(&mut self) {
        let Withheld { is_sure: Some(is_sure), deliveries, look_at } = &mut self.withheld else {
            return;
        };
        if deliveries.is_empty() || *look_at > self.now.mono {
            return;
        }
        if !is_sure() {
            *look_at = self.now.mono + LOOK_EVERY;
            return;
        }
        for delivery in std::mem::take(deliveries) {
            self.take_delivery(delivery);
        }
    }
}
