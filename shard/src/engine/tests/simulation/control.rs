//! What stands in for the control core: it answers claims and questions, late and not always as
//! one hopes, and delivers what sessions are to get. It keeps books of what shards owe it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::kernel::one_in;
use super::stamp::Stamp;
use super::trace::Trace;
use crate::clock::Instant;
use crate::id::{ConnectionKey, EndpointId, Epoch, Place, SessionId, ShardId};
use crate::identity::{AuthRefusal, Identity, Validated};
use crate::lane::{
    Claim, ClaimRefusal, Content, ControlLanes, Credential, Delivery, DrainPhase, End, Granting,
    Park, Resumed, Rpc, RpcEnded, RpcOutcome, ToControl, ToShard,
};
use crate::wire::guid::Guid;
use crate::wire::header::{Flags, RequestHeader};
use crate::wire::reconnect_token::ReconnectKeys;

/// Longest time that an answer takes: more than a shard waits.
const LATEST: u64 = 15_000;

/// What is known of one session.
#[derive(Debug, Default)]
struct Record {
    /// Of the newest claim.
    epoch: u64,
    owner: Option<(ShardId, ConnectionKey)>,
    /// Its connection can receive.
    opened: bool,
    /// A claim may take it up.
    resumable: bool,
    /// Events published, handed to a shard, and confirmed by the client.
    published: u64,
    delivered: u64,
    confirmed: u64,
    /// Confirmed when the present connection opened.
    began: u64,
    /// RPCs without an end.
    rpcs: BTreeSet<u64>,
}

/// Somebody who has been overtaken and must be told to go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Eviction {
    pub(super) shard: ShardId,
    pub(super) key: ConnectionKey,
    epoch: Epoch,
    /// It is on the shard's lane.
    pub(super) told: bool,
}

#[derive(Debug)]
pub(super) struct Control {
    lanes: ControlLanes,
    keys: ReconnectKeys,
    rng: fastrand::Rng,
    epoch: u64,
    tickets: u64,
    rpcs: u64,
    sessions: BTreeMap<SessionId, Record>,
    /// Granted claims whose release is still to come.
    granted: BTreeMap<(u8, u32, u32), (SessionId, Epoch)>,
    /// Answers whose time has not come.
    late: Vec<(Instant, ShardId, ToShard)>,
    /// What waits for room on the lane of each shard.
    orders: Vec<VecDeque<ToShard>>,
    /// Whoever may not have heard yet that he is to go.
    pub(super) evictions: Vec<Eviction>,
    /// The newest phase that each shard has reached.
    pub(super) reached: Vec<Option<DrainPhase>>,
    pub(super) draining: bool,
    /// Not one event was lost on the way to a session.
    seen: BTreeMap<SessionId, u64>,
}

impl Control {
    pub(super) fn new(lanes: ControlLanes, salt: &str, seed: u64) -> Self {
        let shards = lanes.shards();
        Self {
            lanes,
            keys: ReconnectKeys::from_salt(salt),
            rng: fastrand::Rng::with_seed(seed),
            epoch: 0,
            tickets: 0,
            rpcs: 0,
            sessions: BTreeMap::new(),
            granted: BTreeMap::new(),
            late: Vec::new(),
            orders: (0..shards).map(|_| VecDeque::new()).collect(),
            evictions: Vec::new(),
            reached: vec![None; shards],
            draining: false,
            seen: BTreeMap::new(),
        }
    }

    /// A client of this session has had this event.
    pub(super) fn saw(&mut self, session: SessionId, number: u64) {
        let newest = self.seen.entry(session).or_default();
        *newest = number.max(*newest);
    }

    /// Something for a shard that waits for room.
    pub(super) fn order(&mut self, shard: ShardId, message: ToShard) {
        self.orders[usize::from(shard.0)].push_back(message);
    }

    pub(super) fn order_all(&mut self, message: impl Fn() -> ToShard) {
        for shard in 0..self.orders.len() as u8 {
            self.order(ShardId(shard), message());
        }
    }

    /// Whether everything ordered is on its way.
    pub(super) fn has_told_all(&self) -> bool {
        self.late.is_empty() && self.orders.iter().all(VecDeque::is_empty)
    }

    /// Granted claims that nobody has overtaken and that were not released.
    pub(super) fn unreleased(&self) -> usize {
        let newest = |session| self.sessions.get(session).map_or(0, |record: &Record| record.epoch);
        self.granted.values().filter(|(session, epoch)| epoch.0 == newest(session)).count()
    }

    /// The next moment at which something is to be said.
    pub(super) fn due(&self) -> Option<Instant> {
        self.late.iter().map(|(at, ..)| *at).min()
    }

    /// Hears and answers. The bells of sleeping shards are rung with `ring`.
    pub(super) fn act(
        &mut self,
        now: Instant,
        calm: bool,
        trace: &Trace,
        ring: impl FnMut(ShardId),
    ) {
        for shard in (0..self.orders.len() as u8).map(ShardId) {
            while let Some(message) = self.lanes.hear(shard) {
                trace.note(|| format!("shard {}: {message:?}", shard.0));
                self.hear(shard, message, now, calm);
            }
        }
        if !calm {
            self.begin();
        }
        self.deliver();
        self.tell(now, trace);
        self.lanes.wake_sleepers(ring);
    }

    fn hear(&mut self, shard: ShardId, message: ToControl, now: Instant, calm: bool) {
        match message {
            ToControl::Claim { key, claim } => {
                let at = self.moment(now, calm);
                let answer = self.decide(shard, key, &claim, calm);
                self.late.push((at, shard, answer));
            }
            ToControl::Validate { key, token } => {
                let told = self.validate(&token);
                let at = self.moment(now, calm);
                self.late.push((at, shard, ToShard::Validated { key, told }));
            }
            ToControl::Opened { key, session, epoch } => {
                let record = self.sessions.entry(session).or_default();
                if record.owner == Some((shard, key)) && record.epoch == epoch.0 {
                    assert!(!record.opened, "{session} is opened twice");
                    record.opened = true;
                    record.delivered = record.confirmed;
                    record.began = record.confirmed;
                }
            }
            ToControl::Release { key, session, epoch, end } => {
                self.release(shard, key, session, epoch, end);
            }
            ToControl::Received { session, epoch, place } => {
                let seen = self.seen.get(&session).copied().unwrap_or_default();
                assert!(place.0 <= seen, "{session} has seen {seen}, not {place:?}");
                let record = self.sessions.entry(session).or_default();
                assert!(epoch.0 <= record.epoch);
                record.confirmed = record.confirmed.max(place.0);
            }
            ToControl::RpcEnded(ended) => self.rpc_ended(*ended),
            ToControl::DrainReached { phase, connections } => {
                assert!(phase != DrainPhase::Done || self.draining, "{connections} left");
                self.reached[usize::from(shard.0)] = Some(phase);
            }
            ToControl::TokenReceived { .. }
            | ToControl::Described { .. }
            | ToControl::SessionEnded(_)
            | ToControl::UpgradeRefused(_)
            | ToControl::Span(_)
            | ToControl::Abroad(_)
            | ToControl::BroadcastAbroad { .. }
            | ToControl::Arrived { .. } => {}
        }
    }

    fn moment(&mut self, now: Instant, calm: bool) -> Instant {
        let wait = match self.rng.u8(..20) {
            _ if calm => 0,
            0 => self.rng.u64(..LATEST),
            1..6 => self.rng.u64(..30),
            _ => 0,
        };
        now + Duration::from_millis(wait)
    }

    fn decide(&mut self, shard: ShardId, key: ConnectionKey, claim: &Claim, calm: bool) -> ToShard {
        let session = claim.session();
        let refused = |why| ToShard::Refused { key, why };
        if self.draining {
            return refused(ClaimRefusal::Draining);
        }
        if !calm && one_in(&mut self.rng, 15) {
            let whys = [
                ClaimRefusal::Full,
                ClaimRefusal::Unavailable,
                ClaimRefusal::TooMany,
                ClaimRefusal::Revoked,
                ClaimRefusal::Mismatch,
            ];
            return refused(self.rng.choice(whys).unwrap_or(ClaimRefusal::Full));
        }
        let record = self.sessions.entry(session).or_default();
        let resumed = match claim.credential {
            Credential::Reconnect { seal, .. } => {
                let own = self.keys.is_of(seal, session, Epoch(record.epoch));
                if !own || !record.resumable {
                    return refused(ClaimRefusal::Unknown);
                }
                Resumed::Session(Some(Arc::new(identity(session))))
            }
            Credential::Token(_) if record.resumable => Resumed::Session(None),
            Credential::Token(_) => Resumed::Nothing,
        };
        self.epoch += 1;
        let epoch = Epoch(self.epoch);
        record.epoch = self.epoch;
        record.resumable = true;
        record.opened = false;
        if let Some((shard, key)) = record.owner.replace((shard, key)) {
            self.evictions.push(Eviction { shard, key, epoch, told: false });
            self.order(shard, ToShard::Evict { key, epoch });
        }
        let before = self.granted.insert(place_of(shard, key), (session, epoch));
        assert!(before.is_none(), "{key:?} claims twice");
        ToShard::Granted { key, session, epoch, resumed }
    }

    fn release(
        &mut self,
        shard: ShardId,
        key: ConnectionKey,
        session: SessionId,
        epoch: Epoch,
        end: End,
    ) {
        let granted = self.granted.remove(&place_of(shard, key));
        assert_eq!(granted, Some((session, epoch)), "{key:?} releases what it was granted, once");
        let Some(record) = self.sessions.get_mut(&session) else { return };
        if record.owner == Some((shard, key)) {
            record.owner = None;
            record.opened = false;
            record.resumable = end == End::Resumable;
        }
    }

    fn validate(&mut self, token: &str) -> Result<Box<Validated>, AuthRefusal> {
        let session = token.strip_prefix("ask.").and_then(|session| session.parse().ok());
        let session: SessionId = session.expect("only these are asked about");
        if self.rng.u8(..5) == 0 {
            return Err(AuthRefusal::NotAccepted);
        }
        let Identity { account, standing, expires_at, issued_at, .. } = identity(session);
        let standing = (*standing).clone();
        Ok(Box::new(Validated { session, account, standing, expires_at, issued_at }))
    }

    fn rpc_ended(&mut self, ended: RpcEnded) {
        let RpcEnded { session, message_id, outcome } = ended;
        let record = self.sessions.entry(session).or_default();
        let asked = record.rpcs.remove(&message_id);
        assert!(asked, "{session} was not asked {message_id:x}, or has answered already");
        if let RpcOutcome::Answered { payload, .. } = outcome {
            assert_eq!(*payload, session.0.to_be_bytes(), "somebody else's answer");
        }
    }

    /// Something new for one session.
    fn begin(&mut self) {
        let Some(session) = self.rng.choice(self.sessions.keys().copied()) else { return };
        let dice = self.rng.u8(..60);
        let Some(record) = self.sessions.get_mut(&session) else { return };
        if dice < 12 {
            record.published += 1;
        }
        let (Some((shard, key)), true) = (record.owner, record.opened) else { return };
        let epoch = Epoch(record.epoch);
        let deliver = |content| ToShard::Deliver(Delivery { key, epoch, place: None, content });
        let order = match dice {
            12 => {
                let reason = "Session invalidated: simulated".into();
                record.resumable = false;
                ToShard::EndSession { key, epoch, reason }
            }
            13..16 => {
                self.tickets += 1;
                ToShard::Describe { key, ticket: self.tickets }
            }
            16..20 => deliver(Content::Message(message(session, Flags::EVENT, 0).into())),
            20..25 => {
                self.rpcs += 1;
                let id = 1 << 63 | self.rpcs;
                record.rpcs.insert(id);
                let timeout = Duration::from_millis(self.rng.u64(..5000));
                let message = message(session, Flags::BINARY, id).into();
                deliver(Content::Rpc(Box::new(Rpc { message, timeout })))
            }
            25 => {
                let endpoints: Arc<[EndpointId]> = (0..self.rng.u16(..4)).map(EndpointId).collect();
                let granting = Granting { endpoints, reason: "simulated".into() };
                deliver(Content::Capabilities(Box::new(granting)))
            }
            _ => return,
        };
        // A core that is not heard keeps no more than this; it may drop what comes once or never.
        if self.orders[usize::from(shard.0)].len() < 64 {
            self.order(shard, order);
        }
    }

    /// What every open session has not been sent yet.
    fn deliver(&mut self) {
        for (session, record) in &mut self.sessions {
            let (Some((shard, key)), true) = (record.owner, record.opened) else { continue };
            let orders = &mut self.orders[usize::from(shard.0)];
            while record.delivered < record.published && orders.len() < 64 {
                record.delivered += 1;
                let number = record.delivered;
                let body =
                    format!(r#"{{"eventName":"simulation","for":"{session}","number":{number}}}"#);
                let content = Content::Event(Arc::from(body.into_bytes()));
                let (epoch, place) = (Epoch(record.epoch), Some(Place(number)));
                let delivery = Delivery { key, epoch, place, content };
                orders.push_back(ToShard::Deliver(delivery));
            }
        }
    }

    fn tell(&mut self, now: Instant, trace: &Trace) {
        let all = std::mem::take(&mut self.late).into_iter();
        let (due, late): (Vec<_>, Vec<_>) = all.partition(|(at, ..)| *at <= now);
        self.late = late;
        for (_, shard, answer) in due {
            trace.note(|| format!("to shard {}: {answer:?}", shard.0));
            self.lanes.tell(shard, answer).expect("its place was reserved");
        }
        for (shard, orders) in (0u8..).map(ShardId).zip(&mut self.orders) {
            while let Some(order) = orders.pop_front() {
                trace.note(|| format!("to shard {}: {order:?}", shard.0));
                let evicts = match order {
                    ToShard::Evict { key, epoch } => Some((key, epoch)),
                    _ => None,
                };
                if let Err(order) = self.lanes.tell(shard, order) {
                    orders.push_front(order);
                    break;
                }
                for eviction in &mut self.evictions {
                    eviction.told |=
                        eviction.shard == shard && evicts == Some((eviction.key, eviction.epoch));
                }
            }
        }
    }

    /// Goes to sleep until its bell is rung, if nothing waits.
    pub(super) fn sleeps(&mut self) -> bool {
        self.lanes.prepare_park() == Park::Now
    }

    pub(super) fn wakes(&mut self) {
        self.lanes.awake();
    }

    /// Puts an order in front of all others.
    pub(super) fn tell_now(&mut self, shard: ShardId, order: ToShard) -> bool {
        self.lanes.tell(shard, order).is_ok()
    }

    /// The newest event that a session's present connection is to get, if there is any for it.
    pub(super) fn newest_event_for(&self, session: SessionId) -> Option<u64> {
        let record = self.sessions.get(&session)?;
        (record.opened && record.published > record.began).then_some(record.published)
    }

    /// The newest epoch of a session.
    pub(super) fn epoch_of(&self, session: SessionId) -> u64 {
        self.sessions.get(&session).map_or(0, |record| record.epoch)
    }
}

fn place_of(shard: ShardId, key: ConnectionKey) -> (u8, u32, u32) {
    (shard.0, key.slot.0, key.generation.0)
}

fn message(session: SessionId, flags: Flags, message_id: u64) -> Vec<u8> {
    let header = RequestHeader { flags, channel: 0, sequence: 0, guid: Guid::NULL, message_id };
    let stamp = Stamp { session, serial: 0, number: 0, to: [0; 16] };
    [header.to_bytes().to_vec(), stamp.payload(20)].concat()
}

/// What a token of a session says, and its record.
pub(super) fn identity(session: SessionId) -> Identity {
    Identity {
        session,
        account: None,
        standing: Arc::new(crate::identity::Standing {
            tenant: "default".into(),
            roles: ["user".into()].into(),
            authorizations: Box::default(),
        }),
        expires_at: None,
        issued_at: None,
    }
}
