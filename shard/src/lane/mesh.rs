//! All lanes of a process, and the end of them that one shard holds.

use std::sync::Arc;
use std::time::Duration;

use super::control::{ControlLanes, ControlSide, pair};
use super::crossing::{Answer, Arrival, Crossing};
use super::doorbell::{Sleep, pushes_are_visible};
use super::lending::{Lending, Returned};
use super::message::{ToControl, ToShard};
use super::receiver::LaneReceiver;
use super::sender::{LaneSender, Refused, lane};
use crate::clock::Instant;
use crate::id::ShardId;

/// Sizes of a mesh. Its memory: `shards² × capacity × 112 + shards × control_capacity × 3 × 64`
/// bytes, roughly.
#[derive(Debug, Clone, Copy)]
pub struct MeshShape {
    pub shards: u8,
    /// Requests in each lane between two shards, and answers in its counterpart.
    pub capacity: usize,
    /// Messages in each lane between a shard and the control core.
    pub control_capacity: usize,
    /// Receive buffers of each shard; a quarter of them may be lent to lanes.
    pub buffers: u16,
}

/// Every end of every lane, to be handed to the threads.
#[derive(Debug)]
pub struct Mesh {
    /// By [`ShardId`].
    pub shards: Vec<ShardLanes>,
    pub control: ControlLanes,
}

/// Builds all lanes.
#[must_use]
pub fn mesh(shape: MeshShape) -> Mesh {
    let count = usize::from(shape.shards);
    let sleeps: Vec<Arc<Sleep>> = (0..count).map(|_| Arc::default()).collect();
    let control_sleep: Arc<Sleep> = Arc::default();
    let mut shard_sides = Vec::with_capacity(count);
    let mut shards: Vec<ShardLanes> = (0..shape.shards)
        .zip(&sleeps)
        .map(|(id, sleep)| {
            let (control, shard_side) = pair(shape.control_capacity);
            shard_sides.push(shard_side);
            ShardLanes {
                id: ShardId(id),
                peers: (0..count).map(|_| None).collect(),
                lending: Lending::new(shape.buffers),
                control,
                unheard: Unheard::Nothing,
                sleep: Arc::clone(sleep),
                control_sleep: Arc::clone(&control_sleep),
            }
        })
        .collect();
    for a in 0..count {
        for b in 0..a {
            let (to_b, from_a) = lane(shape.capacity);
            let (to_a, from_b) = lane(shape.capacity);
            let peer = |sender, receiver, sleep: &Arc<Sleep>| {
                Some(Peer { sender, receiver, sleep: Arc::clone(sleep), pushed: false })
            };
            shards[a].peers[b] = peer(to_b, from_b, &sleeps[b]);
            shards[b].peers[a] = peer(to_a, from_a, &sleeps[a]);
        }
    }
    Mesh { shards, control: ControlLanes::new(shard_sides, sleeps, control_sleep) }
}

/// One shard's end of all its lanes; owned by its thread.
///
/// A turn uses it in this order: [`Self::reclaim`]; read arrivals and answers; send; after the
/// completions of the SENDs were drained, [`Self::release`]; last, [`Self::wake_sleepers`].
#[derive(Debug)]
pub struct ShardLanes {
    id: ShardId,
    /// By [`ShardId`]; `None` at this shard's own place.
    peers: Vec<Option<Peer>>,
    lending: Lending,
    control: ControlSide,
    /// What the control core was told since its doorbell was last considered.
    unheard: Unheard,
    sleep: Arc<Sleep>,
    control_sleep: Arc<Sleep>,
}

/// Why the control core's doorbell is to be rung.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unheard {
    Nothing,
    /// News that nobody waits for: they go with whatever is urgent, or together at this moment.
    /// Waking the control core for every end of a session would cost more than the end.
    News(Instant),
    Urgent,
}

#[derive(Debug)]
struct Peer {
    sender: LaneSender,
    receiver: LaneReceiver,
    sleep: Arc<Sleep>,
    /// Something was pushed since the doorbell was last considered.
    pushed: bool,
}

/// How long news for the control core may wait for company.
const NEWS_WAIT: Duration = Duration::from_millis(5);

/// Whose doorbell to ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    Shard(ShardId),
    Control,
}

/// Whether a core may park.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Park {
    Now,
    /// Something arrived: another turn first.
    NotYet,
}

impl ShardLanes {
    #[must_use]
    pub fn id(&self) -> ShardId {
        self.id
    }

    /// The other shards.
    pub fn peers(&self) -> impl Iterator<Item = ShardId> + use<> {
        let own = usize::from(self.id.0);
        let count = self.peers.len();
        (0u8..).zip(0..count).filter(move |&(_, index)| index != own).map(|(id, _)| ShardId(id))
    }

    /// Receive buffers out on lanes.
    #[must_use]
    pub fn lent(&self) -> usize {
        self.lending.lent()
    }

    /// Sends to another shard, or hands the request back. See [`LaneSender::try_request`].
    ///
    /// # Panics
    /// When `to` is this shard or none.
    pub fn try_request(&mut self, to: ShardId, crossing: Crossing) -> Result<(), Refused> {
        let Some(peer) = &mut self.peers[usize::from(to.0)] else {
            panic!("a shard has no lane to itself");
        };
        peer.sender.try_request(crossing, &mut self.lending)?;
        peer.pushed = true;
        Ok(())
    }

    /// See [`LaneReceiver::next_arrival`].
    pub fn next_arrival(&mut self, from: ShardId) -> Option<Arrival<'_>> {
        self.peer(from)?.receiver.next_arrival()
    }

    /// See [`LaneReceiver::answer`].
    pub fn answer(&mut self, from: ShardId, answer: Answer) {
        if let Some(peer) = self.peer(from) {
            peer.receiver.answer(answer);
            peer.pushed = true;
        }
    }

    /// See [`LaneSender::next_answer`].
    pub fn next_answer(&mut self, from: ShardId) -> Option<Answer> {
        self.peer(from)?.sender.next_answer()
    }

    /// Lets go of every request that was read: no frame of theirs is needed any more.
    pub fn release(&mut self) {
        self.peers.iter_mut().flatten().for_each(|peer| peer.receiver.release());
    }

    /// Yields what other shards have let go of.
    pub fn reclaim(&mut self, mut each: impl FnMut(Returned)) {
        for peer in self.peers.iter_mut().flatten() {
            peer.sender.reclaim(&mut self.lending, &mut each);
        }
    }

    /// Sends to the control core, or hands the message back.
    pub fn tell_control(&mut self, message: ToControl, now: Instant) -> Result<(), ToControl> {
        let news = message.is_news();
        let told = self.control.tell(message);
        self.unheard = match (self.unheard, &told) {
            (Unheard::Nothing, Ok(())) if news => Unheard::News(now + NEWS_WAIT),
            (Unheard::News(until), Ok(())) if news => Unheard::News(until),
            // A full lane is emptied by nobody else.
            _ => Unheard::Urgent,
        };
        told
    }

    /// When the control core is to be woken for what it was told.
    #[must_use]
    pub fn news_due(&self) -> Option<Instant> {
        match self.unheard {
            Unheard::News(until) => Some(until),
            Unheard::Nothing | Unheard::Urgent => None,
        }
    }

    /// Takes the oldest message of the control core, answers to claims first.
    pub fn hear_control(&mut self) -> Option<ToShard> {
        self.control.hear()
    }

    /// Names each sleeping core that was sent something since the last call: its doorbell has to
    /// be rung now. The control core waits for news until they are due.
    pub fn wake_sleepers(&mut self, now: Instant, mut ring: impl FnMut(Wake)) {
        let rings_control = match self.unheard {
            Unheard::Nothing => false,
            Unheard::News(until) => now >= until,
            Unheard::Urgent => true,
        };
        if !rings_control && !self.peers.iter().flatten().any(|peer| peer.pushed) {
            return;
        }
        pushes_are_visible();
        if rings_control {
            self.unheard = Unheard::Nothing;
            if self.control_sleep.take_sleeper() {
                ring(Wake::Control);
            }
        }
        for (id, peer) in (0u8..).zip(&mut self.peers) {
            if let Some(peer) = peer
                && std::mem::take(&mut peer.pushed)
                && peer.sleep.take_sleeper()
            {
                ring(Wake::Shard(ShardId(id)));
            }
        }
    }

    /// Asks to sleep. After [`Park::Now`] the shard parks until its doorbell or a deadline, then
    /// calls [`Self::awake`].
    pub fn prepare_park(&mut self) -> Park {
        self.sleep.announce();
        if self.has_news() {
            self.sleep.awake();
            return Park::NotYet;
        }
        Park::Now
    }

    pub fn awake(&mut self) {
        self.sleep.awake();
    }

    fn has_news(&self) -> bool {
        self.control.has_news()
            || self
                .peers
                .iter()
                .flatten()
                .any(|peer| peer.receiver.has_arrival() || peer.sender.has_answer())
    }

    fn peer(&mut self, id: ShardId) -> Option<&mut Peer> {
        self.peers.get_mut(usize::from(id.0))?.as_mut()
    }
}
