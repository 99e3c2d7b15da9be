//! The control core as the shard knows it: it grants claims, one owner for each session, and has
//! things delivered.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use corelane_shard::id::{ConnectionKey, EndpointId, Epoch, Place, ServiceId, SessionId, ShardId};
use corelane_shard::identity::Validated;
use corelane_shard::lane::{
    ClaimRefusal, Content, ControlLanes, Delivery, DrainPhase, Granting, Resumed, Rpc, ToControl,
    ToShard,
};
use corelane_shard::session::shortcuts::Shortcut;
use corelane_shard::snapshot::{Address, Endpoint, Method, Snapshot};
use corelane_shard::wire::guid::Guid;
use corelane_shard::wire::header::{Flags, RequestHeader};

use super::peer::LINK_PORTS;
use super::step::Control as Step;
use super::world::{player, session_of, standing};

const SHARD: ShardId = ShardId(0);

pub(super) struct Control {
    lanes: ControlLanes,
    /// What finds no room yet, in order.
    waiting: VecDeque<ToShard>,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) epoch: u64,
    place: u64,
    owners: BTreeMap<SessionId, (ConnectionKey, Epoch)>,
    held: Vec<(ConnectionKey, SessionId)>,
    holds: bool,
    refuses: bool,
    drains: bool,
}

impl Control {
    pub(super) fn new(lanes: ControlLanes, snapshot: Arc<Snapshot>) -> Self {
        let mut this = Self {
            lanes,
            waiting: VecDeque::new(),
            snapshot,
            epoch: 0,
            place: 0,
            owners: BTreeMap::new(),
            held: Vec::new(),
            holds: false,
            refuses: false,
            drains: false,
        };
        this.addresses(0, 1);
        this.addresses(1, 1);
        this
    }

    /// Hears what the shard has to say, and says what there is room for.
    pub(super) fn turn(&mut self) {
        while let Some(message) = self.lanes.hear(SHARD) {
            self.hear(message);
        }
        while let Some(order) = self.waiting.pop_front() {
            if let Err(order) = self.lanes.tell(SHARD, order) {
                self.waiting.push_front(order);
                break;
            }
        }
    }

    fn hear(&mut self, message: ToControl) {
        match message {
            ToControl::Claim { key, claim } if self.holds => self.held.push((key, claim.session())),
            ToControl::Claim { key, claim } => self.judge(key, claim.session()),
            ToControl::Validate { key, token } => {
                let id = token.strip_prefix("ask-").and_then(|player| player.parse().ok());
                let told = match id {
                    Some(id) => Ok(Box::new(Validated {
                        session: session_of(id),
                        account: None,
                        standing: standing(),
                        expires_at: None,
                        issued_at: None,
                    })),
                    None => Err(corelane_shard::identity::AuthRefusal::NotAccepted),
                };
                self.waiting.push_back(ToShard::Validated { key, told });
            }
            ToControl::Release { key, session, epoch, .. }
                if self.owners.get(&session) == Some(&(key, epoch)) =>
            {
                self.owners.remove(&session);
            }
            _ => {}
        }
    }

    fn judge(&mut self, key: ConnectionKey, session: SessionId) {
        if self.refuses || self.drains {
            let why = if self.drains { ClaimRefusal::Draining } else { ClaimRefusal::TooMany };
            self.waiting.push_back(ToShard::Refused { key, why });
            return;
        }
        self.epoch += 1;
        let epoch = Epoch(self.epoch);
        let before = self.owners.insert(session, (key, epoch));
        if let Some((key, _)) = before {
            self.waiting.push_back(ToShard::Evict { key, epoch });
        }
        let resumed = match before {
            Some(_) => Resumed::Session(None),
            None => Resumed::Nothing,
        };
        self.waiting.push_back(ToShard::Granted { key, session, epoch, resumed });
    }

    pub(super) fn step(&mut self, step: &Step) {
        // A core that only ever asks for more would be no core of ours.
        if self.waiting.len() > 64 {
            return;
        }
        match *step {
            Step::HoldsClaims(holds) => self.hold(holds),
            Step::RefusesClaims(refuses) => self.refuses = refuses,
            Step::Event { player, len, kept } => {
                let json =
                    format!(r#"{{"eventName":"x","x":"{}"}}"#, "e".repeat(usize::from(len) % 3000));
                self.deliver(player, kept, Content::Event(json.into_bytes().into()));
            }
            Step::Message { player, len } => {
                self.deliver(player, true, Content::Message(message(Flags::EVENT, 7, len)));
            }
            Step::Rpc { player, len, ms } => {
                self.place += 1;
                let message = message(Flags::BINARY, self.place, len);
                let timeout = Duration::from_millis(ms.into());
                self.deliver(player, false, Content::Rpc(Box::new(Rpc { message, timeout })));
            }
            Step::Capabilities { player, endpoints } => {
                let endpoints = endpoints.map(|at| EndpointId(u16::from(at % 12)));
                let endpoints = Arc::new(endpoints);
                let reason = "role_changed".into();
                let granting = Granting { endpoints, reason };
                self.deliver(player, true, Content::Capabilities(Box::new(granting)));
            }
            Step::Publish { player, route, target, len } => {
                let shortcut = shortcut(route, target, len);
                self.deliver(player, true, Content::Publish(Box::new(shortcut)));
            }
            Step::RevokeRoute { player, route } => {
                self.deliver(player, true, Content::RevokeRoute(Guid([route; 16])));
            }
            Step::RevokeService { player } => {
                self.deliver(player, true, Content::RevokeService("one".into()));
            }
            Step::Evict { player } => {
                if let Some((key, epoch)) = self.owner(player) {
                    self.waiting.push_back(ToShard::Evict { key, epoch });
                }
            }
            Step::EndSession { player } => {
                if let Some((key, epoch)) = self.owner(player) {
                    let reason = "AdminAction".into();
                    self.waiting.push_back(ToShard::EndSession { key, epoch, reason });
                }
            }
            Step::Describe { player } => {
                if let Some((key, _)) = self.owner(player) {
                    self.waiting.push_back(ToShard::Describe { key, ticket: 1 });
                }
            }
            Step::Reload { messages_per_window } => self.reload(messages_per_window),
            Step::MoreEndpoints => self.more_endpoints(),
            Step::Addresses { service, count } => self.addresses(service % 2, count % 3),
            Step::Drain => self.drain(DrainPhase::Closing),
        }
    }

    pub(super) fn hold(&mut self, holds: bool) {
        self.holds = holds;
        if !holds {
            for (key, session) in std::mem::take(&mut self.held) {
                self.judge(key, session);
            }
        }
    }

    pub(super) fn drain(&mut self, phase: DrainPhase) {
        self.drains = true;
        self.waiting.push_back(ToShard::Drain(phase));
    }

    pub(super) fn owner(&self, who: u8) -> Option<(ConnectionKey, Epoch)> {
        self.owners.get(&session_of(player(who))).copied()
    }

    fn deliver(&mut self, player: u8, kept: bool, content: Content) {
        let Some((key, epoch)) = self.owner(player) else { return };
        self.place += 1;
        let place = kept.then_some(Place(self.place));
        let delivery = Delivery { key, epoch, place, content };
        self.waiting.push_back(ToShard::Deliver(delivery));
    }

    fn reload(&mut self, messages_per_window: u8) {
        let mut snapshot = (*self.snapshot).clone();
        snapshot.version += 1;
        snapshot.session.messages_per_window = u32::from(messages_per_window) * 4;
        self.snapshot = Arc::new(snapshot);
        self.waiting.push_back(ToShard::Snapshot(Arc::clone(&self.snapshot)));
        self.addresses(0, 1);
        self.addresses(1, 1);
    }

    fn more_endpoints(&mut self) {
        if self.snapshot.endpoints.len() >= 12 {
            return;
        }
        let mut snapshot = (*self.snapshot).clone();
        snapshot.version += 1;
        let path = format!("/more/{}", snapshot.endpoints.len()).into();
        let service = ServiceId((snapshot.endpoints.len() % 2) as u16);
        let endpoint = Endpoint { service, method: Method::Post, path, idempotent: false };
        snapshot.endpoints = snapshot.endpoints.into_iter().chain([endpoint]).collect();
        self.snapshot = Arc::new(snapshot);
        self.waiting.push_back(ToShard::MoreEndpoints(Arc::clone(&self.snapshot)));
    }

    fn addresses(&mut self, service: u8, count: u8) {
        let first = 1000 + u16::from(service) * (LINK_PORTS - 1000);
        let ports = (first..).take(count.into());
        let addresses = ports.map(|port| Address::Tcp(([127, 0, 0, 1], port).into())).collect();
        let (version, service) = (self.snapshot.version, ServiceId(service.into()));
        self.waiting.push_back(ToShard::Addresses { version, service, addresses });
    }
}

fn message(flags: Flags, message_id: u64, len: u16) -> Box<[u8]> {
    let header = RequestHeader { flags, channel: 0, sequence: 0, guid: Guid::NULL, message_id };
    [&header.to_bytes()[..], &vec![b'm'; usize::from(len) % 3000]].concat().into()
}

fn shortcut(route: u8, target: Option<u8>, len: u16) -> Shortcut {
    Shortcut {
        route: Guid([route; 16]),
        target_guid: Guid::NULL,
        target: target.map(|at| EndpointId(u16::from(at % 12))),
        payload: vec![b's'; usize::from(len) % 2000].into(),
        expires_unix_ms: None,
        name: None,
        description: None,
        source_service: Some("one".into()),
    }
}
