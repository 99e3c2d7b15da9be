//! Turns of the control core with lanes made of queues.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use corelane_shard::id::{Epoch, Generation, ServiceId, Slot};
use corelane_shard::lane::ClaimRefusal;

use super::*;
use crate::control::resolve::Target;

/// Both ends of one shard's lanes; the test holds a clone.
#[derive(Clone, Default)]
struct Lane(Rc<RefCell<Ends>>);

#[derive(Default)]
struct Ends {
    upward: VecDeque<ToControl>,
    downward: Vec<ToShard>,
    /// The shard does not read.
    stuck: bool,
}

impl ShardPort for Lane {
    fn receive(&mut self) -> Option<ToControl> {
        self.0.borrow_mut().upward.pop_front()
    }

    fn send(&mut self, message: ToShard) -> Result<(), ToShard> {
        let mut ends = self.0.borrow_mut();
        if ends.stuck {
            return Err(message);
        }
        ends.downward.push(message);
        Ok(())
    }

    fn has_room(&self) -> bool {
        !self.0.borrow().stuck
    }
}

impl Lane {
    fn says(&self, message: ToControl) {
        self.0.borrow_mut().upward.push_back(message);
    }

    fn heard(&self) -> Vec<ToShard> {
        self.0.borrow_mut().downward.drain(..).collect()
    }

    fn heard_phases(&self) -> Vec<DrainPhase> {
        let phase = |message| match message {
            ToShard::Drain(phase) => Some(phase),
            _ => None,
        };
        self.heard().into_iter().filter_map(phase).collect()
    }
}

const PLAN: DrainPlan = DrainPlan {
    grace: Duration::from_secs(1),
    spread: Duration::from_secs(2),
    calls: Duration::from_secs(2),
    deadline: Duration::from_secs(5),
};
const ALICE: SessionId = SessionId(1);

struct Bench {
    core: Core<Lane>,
    lanes: [Lane; 2],
    phase: Arc<PhaseCell>,
    probe: Arc<ControlProbe>,
}

impl Bench {
    fn new() -> Self {
        let lanes = [Lane::default(), Lane::default()];
        let (phase, probe) = (Arc::<PhaseCell>::default(), Arc::<ControlProbe>::default());
        let core = Core::new(lanes.to_vec(), 1000, PLAN, Arc::clone(&phase), Arc::clone(&probe));
        Self { core, lanes, phase, probe }
    }

    fn turn(&mut self, second: u64) -> Turn {
        self.core.turn(at(second))
    }
}

fn at(second: u64) -> Now {
    Now { mono: Instant(second * 1_000_000_000), unix_ms: second * 1000 }
}

fn key(slot: u32) -> ConnectionKey {
    ConnectionKey { slot: Slot(slot), generation: Generation(3) }
}

fn claim(slot: u32, session: SessionId) -> ToControl {
    ToControl::Claim { key: key(slot), session }
}

#[test]
fn a_takeover_tells_both_shards_in_one_turn() {
    let mut bench = Bench::new();
    bench.lanes[0].says(claim(1, ALICE));
    assert_eq!(bench.turn(1), Turn::Busy);
    let heard = bench.lanes[0].heard();
    assert!(matches!(heard[..], [ToShard::Granted { epoch: Epoch(1000), .. }]), "{heard:?}");
    bench.lanes[1].says(claim(9, ALICE));
    bench.turn(2);
    let (old, new) = (bench.lanes[0].heard(), bench.lanes[1].heard());
    assert!(
        matches!(old[..], [ToShard::Evict { key: evicted, epoch: Epoch(1000) }] if evicted == key(1)),
        "{old:?}"
    );
    assert!(matches!(new[..], [ToShard::Granted { epoch: Epoch(2000), .. }]), "{new:?}");
    assert_eq!((bench.probe.granted.read(), bench.probe.evictions.read()), (2, 1));
    bench.lanes[0].says(ToControl::Release { key: key(1), session: ALICE, epoch: Epoch(1000) });
    bench.lanes[1].says(ToControl::Release { key: key(9), session: ALICE, epoch: Epoch(2000) });
    bench.turn(3);
    assert_eq!((bench.probe.releases.read(), bench.probe.releases_outdated.read()), (1, 1));
    assert_eq!(bench.probe.sessions.read(), 0);
    assert_eq!(bench.turn(3), Turn::Idle);
}

#[test]
fn one_shards_flood_leaves_the_other_its_share_of_every_turn() {
    let mut bench = Bench::new();
    for slot in 0..600 {
        bench.lanes[0].says(claim(slot, SessionId(u128::from(slot) + 10)));
    }
    bench.lanes[1].says(claim(1, ALICE));
    bench.turn(1);
    assert_eq!(bench.lanes[0].heard().len(), MESSAGES_PER_TURN);
    assert_eq!(bench.lanes[1].heard().len(), 1);
}

#[test]
fn while_a_shard_does_not_read_no_claims_are_taken_and_none_is_lost() {
    let mut bench = Bench::new();
    bench.lanes[0].0.borrow_mut().stuck = true;
    let asked = 20 * MESSAGES_PER_TURN;
    for slot in 0..asked {
        bench.lanes[0].says(claim(slot as u32, ALICE));
    }
    for _ in 0..100 {
        bench.turn(1);
    }
    assert!(bench.probe.turns_behind.read() > 0);
    let left = bench.lanes[0].0.borrow().upward.len();
    assert!(left > asked / 2, "{left} of {asked} claims were left on the lane");
    assert!(bench.core.has_waiting());
    bench.lanes[0].0.borrow_mut().stuck = false;
    while bench.turn(1) == Turn::Busy || bench.core.has_waiting() {}
    let granted = bench.lanes[0].heard().into_iter();
    let granted = granted.filter(|message| matches!(message, ToShard::Granted { .. })).count();
    assert_eq!(granted, asked);
}

#[test]
fn the_drain_admits_in_grace_refuses_from_closing_and_ends_when_all_are_done() {
    let mut bench = Bench::new();
    bench.lanes[0].says(claim(1, ALICE));
    bench.turn(10);
    bench.lanes[0].heard();
    assert_eq!(bench.core.terminate(at(10).mono), Termination::Begun);
    assert_eq!(bench.phase.load(), Phase::Draining(DrainPhase::Grace));
    bench.lanes[0].says(claim(2, SessionId(2)));
    bench.turn(10);
    assert_eq!(bench.probe.granted.read(), 2);
    assert_eq!(bench.lanes[1].heard_phases(), [DrainPhase::Grace]);

    bench.turn(11);
    assert_eq!(bench.lanes[1].heard_phases(), [DrainPhase::Closing]);
    bench.lanes[1].says(claim(3, SessionId(3)));
    bench.turn(11);
    let heard = bench.lanes[1].heard();
    assert!(
        matches!(heard[..], [ToShard::Refused { why: ClaimRefusal::Draining, .. }]),
        "{heard:?}"
    );

    for lane in &bench.lanes {
        lane.says(ToControl::DrainReached { phase: DrainPhase::Done, connections: 0 });
    }
    bench.turn(12);
    assert!(bench.core.is_done());
    assert_eq!(bench.lanes[1].heard_phases(), [DrainPhase::Done]);
    assert_eq!(bench.phase.load(), Phase::Draining(DrainPhase::Done));
}

#[test]
fn a_second_request_to_terminate_insists() {
    let mut bench = Bench::new();
    assert_eq!(bench.core.terminate(at(1).mono), Termination::Begun);
    assert_eq!(bench.core.terminate(at(1).mono), Termination::Insisted);
}

#[test]
fn addresses_reach_every_shard_once_per_change() {
    let mut bench = Bench::new();
    let socket = std::net::SocketAddr::from(([127, 0, 0, 1], 80));
    let targets = vec![Target::Socket(socket)];
    bench.core.book.replace(7, vec![ServiceTargets { service: ServiceId(4), targets }]);
    bench.turn(1);
    for lane in &bench.lanes {
        let heard = lane.heard();
        let [ToShard::Addresses { version: 7, service: ServiceId(4), addresses }] = &heard[..]
        else {
            panic!("{heard:?}");
        };
        assert_eq!(addresses.len(), 1);
    }
    bench.turn(1);
    assert!(bench.lanes[0].heard().is_empty());
}
