//! Single scenes on the simulated kernel: what runs have found, as small as it can be told.

use std::sync::Arc;
use std::time::Duration;

use super::clock::Clock;
use super::frames::{Frame, FrameReader, Writer, unmasked};
use super::invariants;
use super::kernel::Kernel;
use super::link_backend::LinkBackend;
use super::network::{Network, PLAIN, WireId, address_of};
use super::setting::{HTTP, LINK, SHARDS, Setting};
use super::talk::{Asked, Talk};
use crate::block::{BLOCK_MIN, Block};
use crate::engine::Engine;
use crate::engine::tests::client::{BINARY, CLOSE, whole};
use crate::id::{ConnectionKey, Epoch, ServiceId, SessionId, ShardId};
use crate::lane::{ControlLanes, DrainPhase, Resumed, ToControl, ToShard, mesh};
use crate::snapshot::{Snapshot, UpstreamKind};
use crate::wire::guid::{Guid, ServiceGuids, SessionText};
use crate::wire::header::{Flags, ResponseHeader};

pub(super) const HEAD: &str = "GET /connect HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// One shard, and whoever the scene asks for.
struct Scene {
    clock: Clock,
    network: Network,
    shard: Engine<Kernel>,
    control: ControlLanes,
    snapshot: Arc<Snapshot>,
    claims: Vec<ConnectionKey>,
    released: Vec<SessionId>,
}

impl Scene {
    fn new(edit: impl FnOnce(&mut Snapshot)) -> Self {
        Self::of(&Setting::roomy(), edit)
    }

    fn of(setting: &Setting, edit: impl FnOnce(&mut Snapshot)) -> Self {
        let clock = Clock::new();
        let mut snapshot = (*setting.snapshot(1, &mut fastrand::Rng::with_seed(1))).clone();
        edit(&mut snapshot);
        let snapshot = Arc::new(snapshot);
        let mut lanes = mesh(setting.mesh);
        let own = lanes.shards.remove(0);
        let bell = Box::new(|| {});
        let shard = setting.engine(own, Arc::clone(&snapshot), bell, clock.now(), 1);
        let network = Network::new(SHARDS, setting.weather);
        let (control, claims, released) = (lanes.control, Vec::new(), Vec::new());
        Self { clock, network, shard, control, snapshot, claims, released }
    }

    fn turn(&mut self) {
        self.clock.advance(Duration::from_millis(1));
        let Engine { sockets, buffers, .. } = &mut self.shard;
        sockets.progress(&mut self.network, buffers);
        self.shard.turn(self.clock.now());
        self.shard.sockets.submit(&mut self.network);
        invariants::check(&mut self.shard);
        while let Some(message) = self.control.hear(ShardId(0)) {
            match message {
                ToControl::Claim { key, .. } => self.claims.push(key),
                ToControl::Release { session, .. } => self.released.push(session),
                _ => {}
            }
        }
    }

    /// Enough for everything that is on its way to arrive.
    fn turns(&mut self) {
        (0..60).for_each(|_| self.turn());
    }

    fn tell(&mut self, message: ToShard) {
        self.control.tell(ShardId(0), message).unwrap();
    }

    fn dial(&mut self, head: &str) -> WireId {
        let wire = self.network.dial_shard(0, PLAIN, &mut fastrand::Rng::with_seed(1));
        self.network.wire(wire).write(head.as_bytes());
        self.turns();
        wire
    }

    /// Somebody whose claim is under way.
    fn knock(&mut self, session: SessionId) -> (WireId, ConnectionKey) {
        let wire = self.dial(&format!("{HEAD}Authorization: Bearer session.{session}\r\n\r\n"));
        (wire, self.claims.pop().expect("a claim"))
    }

    fn grant(&mut self, key: ConnectionKey, session: SessionId, epoch: u64) {
        let (epoch, resumed) = (Epoch(epoch), Resumed::Nothing);
        self.tell(ToShard::Granted { key, session, epoch, resumed });
    }

    fn open(&mut self, session: SessionId) -> Visitor {
        let (wire, key) = self.knock(session);
        self.grant(key, session, 1);
        self.turns();
        Visitor { wire, talk: Talk::new(session, 1) }
    }

    /// Takes what is left of the block pool.
    fn exhaust_blocks(&mut self) -> Vec<Block> {
        std::iter::from_fn(|| self.shard.blocks.take(BLOCK_MIN)).collect()
    }

    fn call(&mut self, visitor: &mut Visitor, endpoint: u16, channel: u16) {
        let guids = ServiceGuids::new(&self.snapshot);
        let text = SessionText::new(visitor.talk.session);
        let guid: Guid = guids.derive(&text, crate::id::EndpointId(endpoint)).unwrap();
        let message = visitor.talk.ask(Asked::Call, Flags::NONE, channel, guid, 0);
        self.network.wire(visitor.wire).write(&whole(BINARY, &message));
        self.turns();
    }

    /// What the shard has sent on a wire behind its answer at the door.
    fn frames(&mut self, wire: WireId) -> Vec<Frame> {
        let bytes = self.network.wire(wire).read(usize::MAX);
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let mut frames = FrameReader::new(Writer::Server);
        frames.push(&bytes[end.map_or(0, |end| end + 4)..]);
        std::iter::from_fn(|| frames.next()).collect()
    }

    /// The codes with which calls were answered since the last look.
    fn codes(&mut self, visitor: &Visitor) -> Vec<u8> {
        let frames = self.frames(visitor.wire);
        let answers = frames.iter().filter(|frame| {
            frame.opcode == BINARY && Flags(frame.payload[0]).contains(Flags::RESPONSE)
        });
        answers.map(|frame| ResponseHeader::parse(&frame.payload).unwrap().code).collect()
    }

    fn addresses(&mut self, service: ServiceId, backend: usize) {
        let addresses = Arc::new([address_of(backend)]);
        self.tell(ToShard::Addresses { version: 1, service, addresses });
        self.turns();
    }
}

struct Visitor {
    wire: WireId,
    talk: Talk,
}

const ANNA: SessionId = SessionId(0x51 << 120 | 1);
const BERT: SessionId = SessionId(0x51 << 120 | 2);

#[test]
fn the_close_frame_does_not_go_in_the_turn_of_the_101() {
    let mut scene = Scene::new(|_| {});
    let (wire, key) = scene.knock(ANNA);
    scene.grant(key, ANNA, 1);
    scene.tell(ToShard::Evict { key, epoch: Epoch(2) });
    // The kernel panics at a second send of one exchange.
    scene.turns();
    let frames = scene.frames(wire);
    assert_eq!(frames.last().map(|frame| frame.opcode), Some(CLOSE));
    assert_eq!(scene.released, [ANNA]);
}

#[test]
fn a_claim_that_is_granted_without_room_for_the_101_is_released() {
    let mut scene = Scene::new(|_| {});
    let (_wire, key) = scene.knock(ANNA);
    let held = scene.exhaust_blocks();
    scene.grant(key, ANNA, 1);
    scene.turns();
    assert_eq!(scene.released, [ANNA]);
    assert!(scene.shard.table.is_empty(), "its slot is free again");
    held.into_iter().for_each(|block| scene.shard.blocks.give_back(block));
}

#[test]
fn whoever_is_let_go_without_an_answer_is_closed_once() {
    let mut scene = Scene::new(|_| {});
    let held = scene.exhaust_blocks();
    // The kernel panics where a socket is used that was closed.
    scene.dial("GET /nowhere HTTP/1.1\r\nHost: test\r\n\r\n");
    scene.turns();
    assert!(scene.shard.table.is_empty(), "its slot is free again");
    held.into_iter().for_each(|block| scene.shard.blocks.give_back(block));
}

#[test]
fn a_drain_leaves_those_alone_that_are_closing() {
    let mut scene = Scene::new(|_| {});
    let wire = scene.dial("GET /nowhere HTTP/1.1\r\nHost: test\r\n\r\n");
    // Refused, and lingering until its own FIN.
    scene.tell(ToShard::Drain(DrainPhase::Closing));
    scene.turn();
    scene.network.wire(wire).close();
    scene.turns();
    assert!(scene.shard.table.is_empty(), "its slot is free again");
}

#[test]
fn a_listener_that_pauses_while_the_shard_drains_is_closed() {
    let mut setting = Setting::roomy();
    setting.descriptors = 1;
    let mut scene = Scene::of(&setting, |_| {});
    let first = scene.dial(HEAD);
    scene.dial(HEAD);
    // There is no descriptor for the second: the listener is armed again a little later.
    scene.tell(ToShard::Drain(DrainPhase::Closing));
    scene.turns();
    scene.network.wire(first).close();
    scene.turns();
    scene.turns();
    assert!(!scene.shard.sockets.is_listening());
    assert!(scene.shard.table.is_empty());
}

#[test]
fn a_link_that_was_to_be_dialled_again_is_not_once_all_is_cut() {
    let mut scene = Scene::new(|_| {});
    scene.addresses(LINK, 2);
    let (_, wire) = scene.network.dialled.pop().unwrap();
    scene.network.wire(wire).reset();
    scene.turns();
    assert_eq!(scene.shard.upstreams.redials, 1);
    for phase in [DrainPhase::Closing, DrainPhase::Cutting, DrainPhase::Done] {
        scene.tell(ToShard::Drain(phase));
        scene.turn();
    }
    scene.clock.advance(Duration::from_secs(10));
    scene.turns();
    assert!(scene.shard.is_done());
}

#[test]
fn the_close_of_a_backend_is_answered_with_a_masked_frame() {
    let mut scene = Scene::new(|_| {});
    scene.addresses(LINK, 2);
    let (_, wire) = scene.network.dialled.pop().unwrap();
    let (mut backend, mut rng) = (LinkBackend::default(), fastrand::Rng::with_seed(1));
    backend.take(wire);
    // Whatever it reads must be frames of a client.
    for step in 0..60 {
        if step == 30 {
            scene.network.wire(wire).write(&unmasked(CLOSE, &1001_u16.to_be_bytes()));
        }
        scene.turn();
        backend.act(scene.clock.now().mono, true, &mut scene.network, &mut rng);
    }
    assert_eq!(backend.closed(), 1);
    assert_eq!(scene.shard.upstreams.redials, 1);
}

#[test]
fn calls_that_wait_for_a_connection_end_with_the_last_cut() {
    let mut scene = Scene::new(|snapshot| snapshot.services[0].connections_max = 1);
    scene.addresses(HTTP, 0);
    let mut anna = scene.open(ANNA);
    for channel in 0..3 {
        scene.call(&mut anna, 0, channel);
    }
    for phase in [DrainPhase::Closing, DrainPhase::Cutting, DrainPhase::Done] {
        scene.tell(ToShard::Drain(phase));
        scene.turn();
    }
    scene.turns();
    assert!(scene.shard.is_done(), "nothing is begun for those that waited");
}

#[test]
fn calls_that_have_waited_keep_to_the_cap_of_their_service() {
    let mut scene = Scene::new(|snapshot| {
        snapshot.session.calls_running_max = 1;
        snapshot.services[1].kind = UpstreamKind::Http;
        snapshot.services[1].running_max = 1;
    });
    scene.addresses(HTTP, 0);
    scene.addresses(LINK, 1);
    let (mut anna, mut bert) = (scene.open(ANNA), scene.open(BERT));
    // One runs at the first service, one waits for it and is for the second.
    scene.call(&mut anna, 0, 0);
    scene.call(&mut anna, 2, 1);
    scene.call(&mut bert, 2, 0);
    assert_eq!(scene.shard.upstreams.services[1].running, 1);
    let first = scene.network.dialled.iter().find(|(backend, _)| *backend == 0).unwrap().1;
    let answer = b"HTTP/1.1 204 Done\r\nContent-Length: 0\r\n\r\n";
    scene.network.wire(first).write(answer);
    // More than the cap is an invariant that each turn looks at.
    scene.turns();
    assert_eq!(scene.codes(&anna), [0, 12]);
}

#[test]
fn calls_that_wait_too_long_for_a_connection_do_not_count_as_running() {
    let mut scene = Scene::new(|snapshot| snapshot.services[0].connections_max = 1);
    scene.addresses(HTTP, 0);
    let mut anna = scene.open(ANNA);
    // The backend takes the first and is silent.
    for channel in 0..3 {
        scene.call(&mut anna, 0, channel);
    }
    assert_eq!(scene.shard.running, 3);
    scene.clock.advance(Duration::from_secs(4));
    scene.turns();
    assert_eq!(scene.codes(&anna), [60, 60, 60]);
    assert_eq!(scene.shard.running, 0);
}
