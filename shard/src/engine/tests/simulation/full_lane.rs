//! A lane that is full: who is told, what is counted, and that everything else arrives.

use std::sync::Arc;
use std::time::Duration;

use super::clock::Clock;
use super::frames::{FrameReader, Writer};
use super::invariants;
use super::kernel::Kernel;
use super::network::{Network, PLAIN, WireId};
use super::scenes::HEAD;
use super::setting::{SHARDS, Setting};
use super::talk::{Asked, Talk};
use crate::engine::Engine;
use crate::engine::tests::client::{BINARY, whole};
use crate::id::{ConnectionKey, Epoch, SessionId, ShardId};
use crate::lane::{ControlLanes, Resumed, ToControl, ToShard, mesh};
use crate::probe::Shed;
use crate::wire::guid::Guid;
use crate::wire::header::Flags;

/// Messages that a lane holds.
const LANE: usize = 2;

pub(super) const ANNA: SessionId = SessionId(0x51 << 120 | 1);
pub(super) const BERT: SessionId = SessionId(0x51 << 120 | 2);
pub(super) const CARL: SessionId = SessionId(0x51 << 120 | 3);

pub(super) struct Player {
    wire: WireId,
    pub(super) talk: Talk,
    frames: FrameReader,
}

/// Two shards, each turned only when the test says so.
pub(super) struct Pair {
    clock: Clock,
    network: Network,
    pub(super) shards: Vec<Engine<Kernel>>,
    control: ControlLanes,
    claims: Vec<ConnectionKey>,
    /// What the shards have said of other nodes, and to them.
    pub(super) abroad: Vec<(ShardId, ToControl)>,
    /// The control core hears nothing.
    pub(super) deaf: bool,
}

impl Pair {
    fn new() -> Self {
        let mut setting = Setting::roomy();
        setting.mesh.capacity = LANE;
        Self::of(&setting)
    }

    pub(super) fn of(setting: &Setting) -> Self {
        let clock = Clock::new();
        let snapshot = setting.snapshot(1, &mut fastrand::Rng::with_seed(1));
        let lanes = mesh(setting.mesh);
        let engine =
            |lanes| setting.engine(lanes, Arc::clone(&snapshot), Box::new(|| {}), clock.now(), 1);
        let shards = lanes.shards.into_iter().map(engine).collect();
        let network = Network::new(SHARDS, setting.weather);
        let control = lanes.control;
        let (claims, abroad, deaf) = (Vec::new(), Vec::new(), false);
        Self { clock, network, shards, control, claims, abroad, deaf }
    }

    pub(super) fn tell(&mut self, shard: ShardId, message: ToShard) {
        self.control.tell(shard, message).unwrap();
    }

    /// One shard alone: to the other it is as if no time passed.
    fn turn(&mut self, at: usize) {
        self.clock.advance(Duration::from_millis(1));
        let shard = &mut self.shards[at];
        let Engine { sockets, buffers, .. } = shard;
        sockets.progress(&mut self.network, buffers);
        shard.turn(self.clock.now());
        shard.sockets.submit(&mut self.network);
        invariants::check(shard);
        let shard = ShardId(at as u8);
        while !self.deaf
            && let Some(message) = self.control.hear(shard)
        {
            match message {
                ToControl::Claim { key, .. } => self.claims.push(key),
                ToControl::Abroad(_)
                | ToControl::BroadcastAbroad { .. }
                | ToControl::Arrived { .. } => self.abroad.push((shard, message)),
                _ => {}
            }
        }
    }

    /// Both, until everything that is under way has arrived.
    pub(super) fn turns(&mut self) {
        for _ in 0..60 {
            (0..SHARDS).for_each(|at| self.turn(at));
        }
    }

    /// A player who has got his manifest, and in it his GUID.
    pub(super) fn enter(&mut self, shard: usize, session: SessionId) -> Player {
        let wire = self.network.dial_shard(shard, PLAIN, &mut fastrand::Rng::with_seed(1));
        let head = format!("{HEAD}Authorization: Bearer session.{session}\r\n\r\n");
        self.network.wire(wire).write(head.as_bytes());
        self.turns();
        let key = self.claims.pop().expect("a claim");
        let (epoch, resumed) = (Epoch(1), Resumed::Nothing);
        let granted = ToShard::Granted { key, session, epoch, resumed };
        self.control.tell(ShardId(shard as u8), granted).unwrap();
        self.turns();
        let bytes = self.network.wire(wire).read(usize::MAX);
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole answer");
        let mut frames = FrameReader::new(Writer::Server);
        frames.push(&bytes[end + 4..]);
        let mut player = Player { wire, talk: Talk::new(session, session.0 as u32), frames };
        self.hear(&mut player);
        assert!(player.talk.guid.is_some(), "the mode is Relayed");
        player
    }

    pub(super) fn say(
        &mut self,
        player: &mut Player,
        asked: Asked,
        flags: Flags,
        to: Guid,
        filler: usize,
    ) {
        let message = player.talk.ask(asked, flags.union(Flags::CLIENT), 0, to, filler);
        self.network.wire(player.wire).write(&whole(BINARY, &message));
    }

    /// Reads what has come for a player: nothing that nobody may send him.
    pub(super) fn hear(&mut self, player: &mut Player) {
        player.frames.push(&self.network.wire(player.wire).read(usize::MAX));
        while let Some(frame) = player.frames.next() {
            if frame.opcode == BINARY {
                player.talk.hear(&frame.payload);
            }
        }
    }

    /// Everything that either shard has shed.
    pub(super) fn shed(&self) -> Vec<(&'static str, u64)> {
        let count = |what: &Shed| {
            let counts = self.shards.iter().map(|shard| shard.probe.shed_count(*what));
            (what.label(), counts.sum::<u64>())
        };
        Shed::ALL.iter().map(count).filter(|(_, count)| *count > 0).collect()
    }

    /// Nothing of any message is held any more.
    pub(super) fn assert_all_came_back(&self) {
        for shard in &self.shards {
            assert_eq!((shard.buffers.out(), shard.lanes.lent()), (0, 0), "receive buffers");
            assert_eq!(shard.blocks.in_use(), 0, "bytes of blocks");
        }
    }
}

/// Numbers of those of its messages that a player was told were delivered.
pub(super) fn delivered(player: &Player) -> Vec<u32> {
    player.talk.delivered().map(|(number, _)| number).collect()
}

#[test]
fn a_peer_message_that_finds_its_lane_full_is_answered_31_and_nothing_else_is_lost() {
    // In a receive buffer, and in a block.
    for filler in [0, 3000] {
        let mut pair = Pair::new();
        let (mut anna, mut bert) = (pair.enter(0, ANNA), pair.enter(1, BERT));
        let to = bert.talk.guid.expect("he was told");
        for _ in 0..=LANE {
            pair.say(&mut anna, Asked::Peer, Flags::NONE, to, filler);
        }
        // Who wants no acknowledgement is told of a refusal all the same.
        pair.say(&mut anna, Asked::Peer, Flags::EVENT, to, filler);
        (0..20).for_each(|_| pair.turn(0));
        pair.hear(&mut anna);
        assert_eq!((anna.talk.count(31), delivered(&anna)), (2, vec![]), "at once");
        assert_eq!(pair.shed(), [("lane_full", 2)]);

        pair.turns();
        pair.hear(&mut anna);
        pair.hear(&mut bert);
        assert_eq!((anna.talk.count(31), delivered(&anna)), (2, vec![0, 1]));
        let heard = [0, 1, 2, 3].map(|number| bert.talk.has_received(anna.talk.serial, number));
        assert_eq!(heard, [true, true, false, false]);

        // There is room again.
        pair.say(&mut anna, Asked::Peer, Flags::NONE, to, filler);
        pair.turns();
        pair.hear(&mut anna);
        pair.hear(&mut bert);
        assert_eq!(delivered(&anna), [0, 1, 4]);
        assert!(bert.talk.has_received(anna.talk.serial, 4));
        assert_eq!(pair.shed(), [("lane_full", 2)]);
        pair.assert_all_came_back();
    }
}

#[test]
fn a_broadcast_that_finds_a_lane_full_reaches_its_own_shard_and_is_not_answered() {
    for filler in [0, 3000] {
        let mut pair = Pair::new();
        let (mut anna, mut bert) = (pair.enter(0, ANNA), pair.enter(1, BERT));
        let mut carl = pair.enter(0, CARL);
        let to = bert.talk.guid.expect("he was told");
        for _ in 0..LANE {
            pair.say(&mut anna, Asked::Peer, Flags::NONE, to, filler);
        }
        pair.say(&mut anna, Asked::Broadcast, Flags::NONE, Guid::BROADCAST, filler);
        (0..20).for_each(|_| pair.turn(0));
        assert_eq!(pair.shed(), [("broadcast_lane_full", 1)]);
        pair.turns();
        for player in [&mut anna, &mut bert, &mut carl] {
            pair.hear(player);
        }
        let (serial, number) = (anna.talk.serial, LANE as u32);
        assert!(carl.talk.has_received(serial, number));
        assert!(!bert.talk.has_received(serial, number));
        assert_eq!((delivered(&anna), anna.talk.count(31)), (vec![0, 1], 0));
        assert_eq!(pair.shed(), [("broadcast_lane_full", 1)]);
        pair.assert_all_came_back();
    }
}
