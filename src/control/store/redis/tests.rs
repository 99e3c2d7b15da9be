//! Two nodes and a Redis that does what the scripts do, in every order of what may happen. What the
//! scripts themselves do is tested with a real Redis (`tests/session_store`).

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use corelane_shard::id::{ConnectionKey, Generation, ShardId, Slot};

use super::command::{Answer, Eviction, Found, Held, Keeping, Kept, Last, Why};
use super::*;
use crate::control::fixtures;
use crate::control::redis::Fault;

const ALICE: SessionId = SessionId(1);

/// The way between one node and Redis.
#[derive(Clone, Default)]
struct Wire(Rc<RefCell<Ends>>);

#[derive(Default)]
struct Ends {
    asked: VecDeque<Command>,
    /// Done, and not heard of yet.
    done: VecDeque<(Command, Answer)>,
    news: VecDeque<News>,
}

impl Courier for Wire {
    fn send(&mut self, command: Command) -> Result<(), Command> {
        self.0.borrow_mut().asked.push_back(command);
        Ok(())
    }

    fn news(&mut self) -> Option<News> {
        self.0.borrow_mut().news.pop_front()
    }

    fn poll_news(&mut self, _context: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

#[derive(Clone, Copy)]
struct Stored {
    epoch: Epoch,
    instance: Uuid,
    run: Uuid,
    live: bool,
}

#[derive(Default)]
struct FakeRedis {
    owners: BTreeMap<SessionId, Stored>,
    revoked: BTreeSet<SessionId>,
    evicted: BTreeMap<Uuid, Vec<Eviction>>,
}

impl FakeRedis {
    fn execute(&mut self, me: (Uuid, Uuid), command: &Command) -> Answer {
        match command {
            Command::Claim(claiming) => self.claim(me, claiming),
            Command::Keep { held, .. } => {
                Answer::Kept(held.iter().map(|held| Some(self.keep(me, held))).collect())
            }
            Command::Release(release) => {
                let owner = self.owners.get_mut(&release.session);
                let owner = owner.filter(|owner| {
                    (owner.epoch, owner.instance) == (release.epoch, me.0) && owner.live
                });
                let fenced = u64::from(owner.is_none());
                owner.into_iter().for_each(|owner| owner.live = false);
                Answer::Written { fenced }
            }
            Command::Remove { session, epoch, .. } => {
                if self
                    .owners
                    .get(session)
                    .is_some_and(|owner| (owner.epoch, owner.instance) == (*epoch, me.0))
                {
                    self.owners.remove(session);
                }
                Answer::Written { fenced: 0 }
            }
            Command::End(ending) => {
                let Ending { session, reason, .. } = &**ending;
                self.revoked.insert(*session);
                let existed = self.owners.contains_key(session);
                if let Some(owner) = self.owners.remove(session).filter(|it| it.instance != me.0) {
                    let why = Why::Ended { reason: reason.clone() };
                    self.evict(owner.instance, *session, owner.epoch, why);
                }
                Answer::Ended { existed }
            }
            Command::Find { session, .. } => {
                let owner = self.owners.get(session).filter(|owner| owner.live);
                Answer::Found(owner.map(|owner| owner.instance))
            }
            Command::Poll { .. } => {
                let evictions = self.evicted.remove(&me.0).unwrap_or_default();
                Answer::Held { born: 1, evictions }
            }
            Command::Cursors { .. } | Command::Confirm { .. } => Answer::Written { fenced: 0 },
            Command::OfAccount { .. } => Answer::OfAccount(Vec::new()),
        }
    }

    fn evict(&mut self, instance: Uuid, session: SessionId, epoch: Epoch, why: Why) {
        self.evicted.entry(instance).or_default().push(Eviction { session, epoch, why });
    }

    fn claim(&mut self, me: (Uuid, Uuid), claiming: &Claiming) -> Answer {
        let Credential::Token(identity) = &claiming.claimed.claim.credential else {
            panic!("the model knows no other")
        };
        let session = identity.session;
        if self.revoked.contains(&session) {
            return Answer::Refused(ClaimRefusal::Revoked);
        }
        let old = self.owners.get(&session).copied();
        if let Some(old) = old.filter(|old| old.epoch >= claiming.epoch) {
            return Answer::Retry { session, epoch: Epoch(old.epoch.0 + 1) };
        }
        let (epoch, (instance, run)) = (claiming.epoch, me);
        self.owners.insert(session, Stored { epoch, instance, run, live: true });
        if let Some(old) = old.filter(|old| old.instance != instance) {
            self.evict(old.instance, session, epoch, Why::Replaced);
        }
        Answer::Granted(Box::new(Found {
            identity: Arc::clone(identity),
            existed: old.is_some(),
            last: old.map(|old| Last {
                node: old.instance,
                run: old.run,
                epoch: old.epoch,
                foreign: Epoch(0),
            }),
            cursor: None,
            older: false,
        }))
    }

    fn keep(&mut self, me: (Uuid, Uuid), held: &Held) -> Kept {
        let session = held.identity.session;
        let old = self.owners.get(&session).copied();
        match old {
            Some(old) if old.epoch > held.epoch => return Kept::Newer,
            Some(old) if old.epoch == held.epoch && old.instance != me.0 => return Kept::Newer,
            _ if self.revoked.contains(&session) => return Kept::Ended,
            Some(old) if old.epoch == held.epoch => return Kept::Ours,
            _ => {}
        }
        let (epoch, (instance, run)) = (held.epoch, me);
        self.owners.insert(session, Stored { epoch, instance, run, live: true });
        if let Some(old) = old.filter(|old| old.instance != instance) {
            self.evict(old.instance, session, epoch, Why::Replaced);
        }
        Kept::Ours
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Reading,
    Claiming { gone: bool },
    Open(Epoch),
    Closed,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Claim(usize),
    HangUp(usize),
    /// Redis does what this node asked first.
    Execute(usize),
    /// The node hears what came of it.
    Hear(usize),
    /// The connection breaks, for so long that the lease is not sure any more.
    Break(usize),
    /// This node ends the session for good.
    End(usize),
}

/// Things that may happen once.
#[derive(Debug, Clone, Copy, Default)]
struct Once {
    hang_up: bool,
    lapse: bool,
    end: bool,
}

struct Node {
    store: RedisStore<Wire>,
    wire: Wire,
    me: (Uuid, Uuid),
}

struct World {
    redis: FakeRedis,
    nodes: Vec<Node>,
    /// The node of each connection, and how far it has come.
    connections: Vec<(usize, Life)>,
    left: Once,
    allowed: Once,
    seconds: u64,
    unix_ms: u64,
}

impl World {
    fn new(nodes_of: &[usize], allowed: Once, admit: bool) -> Self {
        let node = |number: u128| {
            let wire = Wire::default();
            let me = (Uuid::from_u128(number), Uuid::from_u128(number + 100));
            let shared = SharedRules {
                instance: me.0,
                run: me.1,
                session_ttl: Duration::from_secs(60),
                heartbeat_ttl: Duration::from_secs(60),
                heartbeat_interval: Duration::from_secs(30),
                poll_interval: Duration::from_millis(300),
                admit_when_unreachable: admit,
            };
            let rules = fixtures::rules(1000).store;
            let store = RedisStore::new(wire.clone(), "salt", rules, shared, Arc::default());
            wire.0.borrow_mut().news.push_back(News::Connected);
            Node { store, wire, me }
        };
        Self {
            redis: FakeRedis::default(),
            nodes: vec![node(1), node(2)],
            connections: nodes_of.iter().map(|node| (*node, Life::Reading)).collect(),
            left: allowed,
            allowed,
            seconds: 0,
            unix_ms: 1000,
        }
    }

    fn now(&self) -> Now {
        Now { mono: Instant(self.seconds * 1_000_000_000), unix_ms: self.unix_ms }
    }

    fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for (index, (_, life)) in self.connections.iter().enumerate() {
            match life {
                Life::Reading => steps.push(Step::Claim(index)),
                Life::Claiming { gone: false } | Life::Open(_) if self.left.hang_up => {
                    steps.push(Step::HangUp(index));
                }
                _ => {}
            }
        }
        for (index, node) in self.nodes.iter().enumerate() {
            let ends = node.wire.0.borrow();
            if !ends.asked.is_empty() {
                steps.push(Step::Execute(index));
            }
            if !ends.done.is_empty() {
                steps.push(Step::Hear(index));
            }
            if self.left.lapse && !(ends.asked.is_empty() && ends.done.is_empty()) {
                steps.push(Step::Break(index));
            }
        }
        if self.left.end {
            steps.push(Step::End(0));
        }
        steps
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Claim(index) => {
                let node = self.connections[index].0;
                self.connections[index].1 = Life::Claiming { gone: false };
                let claim = fixtures::token_claim(ALICE);
                let claimed = Claimed { shard: ShardId(0), key: key(index), claim };
                let now = self.now();
                self.nodes[node].store.claim(claimed, None, now);
                self.listen(node);
            }
            Step::HangUp(index) => {
                self.left.hang_up = false;
                match self.connections[index].1 {
                    Life::Claiming { .. } => {
                        self.connections[index].1 = Life::Claiming { gone: true };
                    }
                    Life::Open(epoch) => self.close(index, epoch),
                    other => panic!("hang-up of {other:?}"),
                }
            }
            Step::Execute(index) => {
                let node = &self.nodes[index];
                let command = node.wire.0.borrow_mut().asked.pop_front().expect("asked");
                let answer = self.redis.execute(node.me, &command);
                node.wire.0.borrow_mut().done.push_back((command, answer));
            }
            Step::Hear(index) => {
                let mut ends = self.nodes[index].wire.0.borrow_mut();
                let (command, answer) = ends.done.pop_front().expect("done");
                ends.news.push_back(News::Answered(command, Ok(answer)));
                drop(ends);
                self.listen(index);
            }
            Step::Break(index) => {
                self.left.lapse = false;
                self.seconds += 4;
                self.unix_ms += 4000;
                let mut ends = self.nodes[index].wire.0.borrow_mut();
                let Ends { asked, done, news } = &mut *ends;
                news.push_back(News::Disconnected);
                let lost = done.drain(..).map(|(command, _)| command).chain(asked.drain(..));
                news.extend(lost.map(|it| News::Answered(it, Err(Fault::Unreachable))));
                drop(ends);
                self.listen(index);
                self.nodes[index].wire.0.borrow_mut().news.push_back(News::Connected);
            }
            Step::End(index) => {
                self.left.end = false;
                let now = self.now();
                let ended = self.nodes[index].store.end(ALICE, Some("Logout"), now);
                if let Ended::Live(owner) = ended {
                    self.close(owner.key.slot.0 as usize, owner.epoch);
                }
            }
        }
    }

    fn renew(&mut self, index: usize) {
        self.seconds += 1;
        self.unix_ms += 1000;
        let now = self.now();
        self.nodes[index].store.renew(&mut |_| None, now);
        self.listen(index);
    }

    /// The shards of a node do what they are told.
    fn listen(&mut self, index: usize) {
        while let Some(decision) = self.nodes[index].store.decided() {
            if let Some((_, ToShard::Evict { key, epoch })) = decision.evict {
                self.evict(key, epoch);
            }
            match decision.answer {
                ToShard::Granted { key, epoch, .. } => self.granted(index, key, epoch),
                ToShard::Refused { key, .. } => {
                    self.connections[key.slot.0 as usize].1 = Life::Closed;
                }
                other => panic!("{other:?}"),
            }
        }
        while let Some(lost) = self.nodes[index].store.lost() {
            if let Some(Owner { key, epoch, .. }) = lost.owner {
                self.evict(key, epoch);
            }
        }
    }

    fn granted(&mut self, node: usize, key: ConnectionKey, epoch: Epoch) {
        let index = key.slot.0 as usize;
        match self.connections[index].1 {
            Life::Claiming { gone: true } => self.close(index, epoch),
            Life::Claiming { gone: false } => {
                self.connections[index].1 = Life::Open(epoch);
                let owner = Owner { shard: ShardId(0), key, epoch };
                self.nodes[node].store.opened(ALICE, owner);
            }
            other => panic!("granted in {other:?}"),
        }
    }

    fn evict(&mut self, key: ConnectionKey, up_to: Epoch) {
        let index = key.slot.0 as usize;
        if let Life::Open(epoch) = self.connections[index].1
            && epoch <= up_to
        {
            self.close(index, epoch);
        }
    }

    fn close(&mut self, index: usize, epoch: Epoch) {
        let (node, life) = &mut self.connections[index];
        *life = Life::Closed;
        let (node, owner) = (*node, Owner { shard: ShardId(0), key: key(index), epoch });
        let now = self.now();
        self.nodes[node].store.release(ALICE, owner, End::Resumable, None, now);
    }

    /// Everything that is under way comes to its end, without anything new.
    fn settle(&mut self) {
        for _ in 0..8 {
            for index in 0..self.nodes.len() {
                self.renew(index);
                while !self.nodes[index].wire.0.borrow().asked.is_empty() {
                    self.take(Step::Execute(index));
                }
                while !self.nodes[index].wire.0.borrow().done.is_empty() {
                    self.take(Step::Hear(index));
                }
            }
        }
    }

    fn check_end(&self, trace: &[Step]) {
        let open: Vec<Epoch> = self
            .connections
            .iter()
            .filter_map(|(_, life)| match life {
                Life::Open(epoch) => Some(*epoch),
                Life::Closed => None,
                other => panic!("{other:?} is stuck: {trace:?}"),
            })
            .collect();
        let stored = self.redis.owners.get(&ALICE).filter(|owner| owner.live);
        let stored: Vec<Epoch> = stored.map(|owner| owner.epoch).into_iter().collect();
        assert_eq!(open, stored, "open and stored: {trace:?}");
        let happened = |allowed: bool, left: bool| allowed && !left;
        if happened(self.allowed.end, self.left.end) {
            assert_eq!(open, [], "it was ended: {trace:?}");
        } else if !happened(self.allowed.hang_up, self.left.hang_up)
            && !happened(self.allowed.lapse, self.left.lapse)
        {
            assert_eq!(open.len(), 1, "nobody is live: {trace:?}");
        }
        for node in &self.nodes {
            let known = node.store.known(ALICE).and_then(|known| known.owner);
            assert!(known.is_none_or(|owner| open.contains(&owner.epoch)), "{trace:?}");
        }
    }
}

fn key(index: usize) -> ConnectionKey {
    ConnectionKey { slot: Slot(index as u32), generation: Generation(0) }
}

/// Walks every order of steps to its end; returns how many ends there are. A store cannot be copied, so
/// that each way begins anew.
fn explore(begin: &dyn Fn() -> World, trace: &mut Vec<Step>) -> u64 {
    let mut world = begin();
    trace.iter().for_each(|step| world.take(*step));
    let steps = world.steps();
    if steps.is_empty() {
        world.settle();
        world.check_end(trace);
        return 1;
    }
    let mut ends = 0;
    for step in steps {
        trace.push(step);
        ends += explore(begin, trace);
        trace.pop();
    }
    ends
}

#[test]
fn every_order_of_two_claims_and_a_hang_up_leaves_at_most_the_one_in_redis() {
    for nodes in [[0, 1], [0, 0]] {
        let allowed = Once { hang_up: true, ..Once::default() };
        let ends = explore(&|| World::new(&nodes, allowed, false), &mut Vec::new());
        assert!(ends > 100, "only {ends} ways with {nodes:?}");
    }
}

#[test]
fn every_order_of_two_claims_and_a_lapse_leaves_at_most_the_one_in_redis() {
    for (nodes, admit) in [([0, 1], false), ([0, 0], false), ([0, 1], true)] {
        let allowed = Once { lapse: true, ..Once::default() };
        let ends = explore(&|| World::new(&nodes, allowed, admit), &mut Vec::new());
        assert!(ends > 50, "only {ends} ways with {nodes:?}");
    }
}

#[test]
fn every_order_of_two_claims_and_an_end_leaves_nobody() {
    for nodes in [[0, 1], [1, 1]] {
        let allowed = Once { end: true, ..Once::default() };
        let ends = explore(&|| World::new(&nodes, allowed, false), &mut Vec::new());
        assert!(ends > 100, "only {ends} ways with {nodes:?}");
    }
}

/// One node with so many sessions whose lease has lapsed.
fn after_a_lapse(sessions: usize) -> World {
    let mut world = World::new(&[], Once { lapse: true, ..Once::default() }, false);
    for number in 1..=sessions {
        let claim = fixtures::token_claim(SessionId(number as u128));
        let claimed = Claimed { shard: ShardId(0), key: key(number), claim };
        let now = world.now();
        world.nodes[0].store.claim(claimed, None, now);
    }
    world.answer(|_| true);
    while world.nodes[0].store.decided().is_some() {}
    assert_eq!(world.nodes[0].store.live(), sessions);
    world.renew(0);
    world.answer(|_| true);
    world.renew(0);
    assert!(world.nodes[0].store.may_deliver(world.now()), "the lease is good as yet");
    world.take(Step::Break(0));
    assert!(!world.nodes[0].store.may_deliver(world.now()));
    world
}

impl World {
    /// Redis does what the first node has asked of it, as far as it is `wanted`.
    fn answer(&mut self, mut wanted: impl FnMut(&Command) -> bool) {
        let Node { wire, me, .. } = &self.nodes[0];
        let mut ends = wire.0.borrow_mut();
        let (asked, kept): (VecDeque<_>, _) =
            std::mem::take(&mut ends.asked).into_iter().partition(|command| wanted(command));
        ends.asked = kept;
        for command in asked {
            let answer = self.redis.execute(*me, &command);
            ends.news.push_back(News::Answered(command, Ok(answer)));
        }
    }
}

fn is_comparison(command: &Command) -> bool {
    matches!(command, Command::Keep { why: Keeping::Comparison, .. })
}

#[test]
fn a_node_whose_many_sessions_are_being_compared_waits_for_the_answers() {
    let mut world = after_a_lapse(3 * SWEPT_AT_ONCE);
    for _ in 0..3 {
        world.renew(0);
        world.answer(|command| !is_comparison(command));
    }
    world.renew(0);
    let asked = world.nodes[0].wire.0.borrow().asked.iter().filter(|it| is_comparison(it)).count();
    assert_eq!(asked, 2, "comparisons under way");
    let due = world.nodes[0].store.due().expect("the lease is renewed all the time");
    assert!(due > world.now().mono, "a turn is due at once, and again after it");
}

#[test]
fn comparisons_that_take_longer_than_the_lease_lasts_to_its_renewal_come_to_their_end() {
    let mut world = after_a_lapse(3 * SWEPT_AT_ONCE);
    let mut turns = 0;
    while !world.nodes[0].store.may_deliver(world.now()) {
        turns += 1;
        assert!(turns < 20, "they begin anew with each renewal");
        world.renew(0);
        let mut compared = false;
        world.answer(|command| {
            // One in each turn, and all else.
            !is_comparison(command) || !std::mem::replace(&mut compared, true)
        });
    }
    assert!(turns >= 6, "{turns} turns for six comparisons");
}

#[test]
fn heartbeats_under_way_do_not_hold_back_the_events_after_a_lapse() {
    let mut world = after_a_lapse(3 * SWEPT_AT_ONCE);
    let is_beat = |command: &Command| matches!(command, Command::Keep { why: Keeping::Beat, .. });
    for _ in 0..6 {
        world.renew(0);
        world.answer(|command| !is_beat(command));
    }
    let beats = world.nodes[0].wire.0.borrow().asked.iter().filter(|it| is_beat(it)).count();
    assert!(beats > 0, "Redis is slow");
    world.renew(0);
    assert!(world.nodes[0].store.may_deliver(world.now()));
}

#[test]
fn cursors_lag_from_what_clients_confirm_until_redis_has_it() {
    let mut world = World::new(&[0], Once::default(), false);
    world.take(Step::Claim(0));
    world.answer(|_| true);
    world.listen(0);
    let epoch = world.nodes[0].store.local.epoch(ALICE).expect("it was granted");
    let probe = Arc::clone(&world.nodes[0].store.probe);
    let lag = || (probe.cursors_waiting.read(), probe.cursor_lag_ms.read());
    let reach = |world: &mut World, offset| {
        let position = Position { partition: 0, offset };
        world.nodes[0].store.reached(ALICE, epoch, position);
    };
    world.renew(0);
    world.answer(|_| true);
    world.renew(0);
    assert_eq!(lag(), (0, 0));
    reach(&mut world, 1);
    world.renew(0);
    let all_else = |command: &Command| !matches!(command, Command::Cursors { .. });
    world.answer(all_else);
    assert_eq!(lag(), (0, 1000), "under way");
    reach(&mut world, 2);
    world.renew(0);
    assert_eq!(lag(), (1, 2000));
    world.answer(|_| true);
    world.renew(0);
    // The later one since the former had been sent.
    assert_eq!(lag(), (0, 2000));
    world.answer(|_| true);
    world.renew(0);
    assert_eq!(lag(), (0, 0));
    reach(&mut world, 3);
    world.close(0, epoch);
    world.renew(0);
    assert_eq!(lag(), (0, 0), "it was written with the end of the connection");
}

/// With two comparisons.
const SWEPT_AT_ONCE: usize = 256;
