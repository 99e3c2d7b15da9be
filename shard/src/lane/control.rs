//! The lanes between one shard and the control core, both ends.
//!
//! A claim or validation is answered long after it was read, so it reserves the place of its answer by count:
//! `claims <= capacity` of the answer ring. Everything else may be refused; what must not be lost
//! then (a `Release`, an `Evict`) is state, and its owner keeps it marked until there is room. An
//! owner with marks does not park without a deadline, because room rings no doorbell.

use std::sync::Arc;

use rtrb::{Consumer, Producer};

use super::doorbell::{Sleep, pushes_are_visible};
use super::mesh::Park;
use super::message::{DrainPhase, ToControl, ToShard};
use super::places::ring;
use crate::id::ShardId;

/// Messages to other nodes carry their bytes: of the lane they get one part in so many.
pub const ABROAD_SHARE: usize = 4;

/// The two ends of the lanes between the control core and one shard, `capacity` messages each way.
pub(super) fn pair(capacity: usize) -> (ControlSide, ShardSide) {
    let (requests, arriving) =
        ring(capacity, || ToControl::DrainReached { phase: DrainPhase::Grace, connections: 0 });
    let (answers, answered) = ring(capacity, || ToShard::Drain(DrainPhase::Grace));
    let (orders, ordered) = ring(capacity, || ToShard::Drain(DrainPhase::Grace));
    let shard = ControlSide { requests, answers: answered, orders: ordered, claims: 0 };
    (shard, ShardSide { requests: arriving, answers, orders, pushed: false })
}

/// A shard's end: its way to the control core.
#[derive(Debug)]
pub struct ControlSide {
    requests: Producer<ToControl>,
    answers: Consumer<ToShard>,
    orders: Consumer<ToShard>,
    /// Claims and validations without an answer yet; at most the capacity of `answers`.
    claims: usize,
}

impl ControlSide {
    /// Hands the message back when the ring is full (for spans half full, for messages to other nodes
    /// a quarter), or when a claim's answer would find no place.
    pub(super) fn tell(&mut self, message: ToControl) -> Result<(), ToControl> {
        let asks = matches!(message, ToControl::Claim { .. } | ToControl::Validate { .. });
        let claims = usize::from(asks);
        if self.claims + claims > self.answers.buffer().capacity() {
            return Err(message);
        }
        let share = match message {
            ToControl::Span(_) => 2,
            ToControl::Abroad(_) | ToControl::BroadcastAbroad { .. } => ABROAD_SHARE,
            _ => 1,
        };
        if self.has_used_up(share) {
            return Err(message);
        }
        self.requests.push(message).map_err(|rtrb::PushError::Full(message)| message)?;
        self.claims += claims;
        Ok(())
    }

    /// Answers first: sockets wait for them.
    pub(super) fn hear(&mut self) -> Option<ToShard> {
        if let Ok(answer) = self.answers.pop() {
            self.claims -= 1;
            return Some(answer);
        }
        self.orders.pop().ok()
    }

    /// Whether one part in `share` of the ring is taken.
    fn has_used_up(&self, share: usize) -> bool {
        let capacity = self.requests.buffer().capacity();
        capacity - self.requests.slots() >= capacity.div_ceil(share)
    }

    pub(super) fn has_news(&self) -> bool {
        !self.answers.is_empty() || !self.orders.is_empty()
    }
}

/// The control core's end of one shard's lanes.
#[derive(Debug)]
pub(super) struct ShardSide {
    requests: Consumer<ToControl>,
    answers: Producer<ToShard>,
    orders: Producer<ToShard>,
    /// Something was pushed since the doorbell was last considered.
    pushed: bool,
}

/// All lanes of the control core; owned by its thread.
#[derive(Debug)]
pub struct ControlLanes {
    shards: Vec<ShardSide>,
    sleepers: Vec<Arc<Sleep>>,
    sleep: Arc<Sleep>,
}

impl ControlLanes {
    pub(super) fn new(
        shards: Vec<ShardSide>,
        sleepers: Vec<Arc<Sleep>>,
        sleep: Arc<Sleep>,
    ) -> Self {
        Self { shards, sleepers, sleep }
    }

    #[must_use]
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// Takes the oldest message of `shard`.
    pub fn hear(&mut self, shard: ShardId) -> Option<ToControl> {
        self.shards[usize::from(shard.0)].requests.pop().ok()
    }

    /// Hands the message back when the shard's ring is full. `Granted` and `Refused` have their
    /// place: they come back only if no claim asked for them.
    pub fn tell(&mut self, shard: ShardId, message: ToShard) -> Result<(), ToShard> {
        let side = &mut self.shards[usize::from(shard.0)];
        let ring = match message {
            ToShard::Granted { .. } | ToShard::Refused { .. } | ToShard::Validated { .. } => {
                &mut side.answers
            }
            _ => &mut side.orders,
        };
        ring.push(message).map_err(|rtrb::PushError::Full(message)| message)?;
        side.pushed = true;
        Ok(())
    }

    /// Whether an order, which is no answer to a claim, would find room now.
    #[must_use]
    pub fn has_room(&self, shard: ShardId) -> bool {
        !self.shards[usize::from(shard.0)].orders.is_full()
    }

    /// Ends a turn in which `shard` was told something: `ring` is called if it sleeps.
    pub fn wake_sleeper(&mut self, shard: ShardId, ring: impl FnOnce()) {
        let at = usize::from(shard.0);
        if std::mem::take(&mut self.shards[at].pushed) {
            pushes_are_visible();
            if self.sleepers[at].take_sleeper() {
                ring();
            }
        }
    }

    /// Names each sleeping shard that was told something since the last call: its doorbell has to
    /// be rung now.
    pub fn wake_sleepers(&mut self, mut ring: impl FnMut(ShardId)) {
        if !self.shards.iter().any(|side| side.pushed) {
            return;
        }
        pushes_are_visible();
        for (id, (side, sleep)) in (0u8..).zip(self.shards.iter_mut().zip(&self.sleepers)) {
            if std::mem::take(&mut side.pushed) && sleep.take_sleeper() {
                ring(ShardId(id));
            }
        }
    }

    /// Asks to sleep. After [`Park::Now`] the core parks until its doorbell rings, then calls
    /// [`Self::awake`].
    pub fn prepare_park(&mut self) -> Park {
        self.sleep.announce();
        if self.shards.iter().any(|side| !side.requests.is_empty()) {
            self.sleep.awake();
            return Park::NotYet;
        }
        Park::Now
    }

    pub fn awake(&mut self) {
        self.sleep.awake();
    }
}
