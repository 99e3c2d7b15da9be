//! Every interleaving of claims, grants, evictions and a hang-up, tried out.
//!
//! The shard side follows the claim rules as written: an eviction that meets a claiming connection
//! is remembered, a grant that is not newer is answered by closing, a client gone while claiming
//! is released when its grant arrives. Answers and evictions travel on lanes of their own, so
//! either may overtake the other.

use std::collections::VecDeque;

use super::*;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Reading,
    Claiming { evicted: Option<Epoch>, client_gone: bool },
    Open(Epoch),
    Closed,
}

#[derive(Debug, Clone)]
struct Connection {
    shard: ShardId,
    key: ConnectionKey,
    life: Life,
}

/// Messages as values that can be cloned; the connection is an index.
#[derive(Debug, Clone, Copy)]
enum Upward {
    Claim(usize),
    Release(usize, Epoch),
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Claim(usize),
    HangUp(usize),
    /// The control core takes the oldest message of this shard.
    Direct(usize),
    /// The shard takes its oldest answer, or its oldest eviction.
    Answer(usize),
    Evict(usize),
}

#[derive(Clone)]
struct World {
    store: EmbeddedStore,
    connections: Vec<Connection>,
    upward: Vec<VecDeque<Upward>>,
    answers: Vec<VecDeque<(usize, Epoch)>>,
    evictions: Vec<VecDeque<(usize, Epoch)>>,
    /// What the clock says at each claim that the control core handles.
    clock: VecDeque<u64>,
    hang_ups_left: usize,
    hang_ups_allowed: usize,
}

impl World {
    fn new(shards_of: &[u8], clock: &[u64], hang_ups_allowed: usize) -> Self {
        let connection = |(slot, shard): (usize, &u8)| Connection {
            shard: ShardId(*shard),
            key: key(slot as u32),
            life: Life::Reading,
        };
        Self {
            store: store(1),
            connections: shards_of.iter().enumerate().map(connection).collect(),
            upward: vec![VecDeque::new(); 2],
            answers: vec![VecDeque::new(); 2],
            evictions: vec![VecDeque::new(); 2],
            clock: clock.iter().copied().collect(),
            hang_ups_left: hang_ups_allowed,
            hang_ups_allowed,
        }
    }

    fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for (index, connection) in self.connections.iter().enumerate() {
            match connection.life {
                Life::Reading => steps.push(Step::Claim(index)),
                Life::Claiming { client_gone: false, .. } | Life::Open(_)
                    if self.hang_ups_left > 0 =>
                {
                    steps.push(Step::HangUp(index));
                }
                _ => {}
            }
        }
        for shard in 0..2 {
            if !self.upward[shard].is_empty() {
                steps.push(Step::Direct(shard));
            }
            if !self.answers[shard].is_empty() {
                steps.push(Step::Answer(shard));
            }
            if !self.evictions[shard].is_empty() {
                steps.push(Step::Evict(shard));
            }
        }
        steps
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Claim(index) => {
                let connection = &mut self.connections[index];
                connection.life = Life::Claiming { evicted: None, client_gone: false };
                self.upward[connection.shard.0 as usize].push_back(Upward::Claim(index));
            }
            Step::HangUp(index) => {
                self.hang_ups_left -= 1;
                match &mut self.connections[index].life {
                    Life::Claiming { client_gone, .. } => *client_gone = true,
                    Life::Open(epoch) => {
                        let epoch = *epoch;
                        self.close(index, epoch);
                    }
                    other => panic!("hang-up of {other:?}"),
                }
            }
            Step::Direct(shard) => match self.upward[shard].pop_front() {
                Some(Upward::Claim(index)) => self.direct_claim(index),
                Some(Upward::Release(index, epoch)) => {
                    let Connection { shard, key, .. } = self.connections[index];
                    let owner = Owner { shard, key, epoch };
                    self.store.release(ALICE, owner, End::Resumable, None, at(0));
                }
                None => panic!("nothing to direct"),
            },
            Step::Answer(shard) => {
                let (index, epoch) = self.answers[shard].pop_front().unwrap();
                match self.connections[index].life {
                    Life::Claiming { evicted, client_gone } => {
                        if client_gone || evicted.is_some_and(|e| epoch <= e) {
                            self.close(index, epoch);
                        } else {
                            self.connections[index].life = Life::Open(epoch);
                            let Connection { shard, key, .. } = self.connections[index];
                            self.store.opened(ALICE, Owner { shard, key, epoch });
                        }
                    }
                    other => panic!("granted in {other:?}"),
                }
            }
            Step::Evict(shard) => {
                let (index, up_to) = self.evictions[shard].pop_front().unwrap();
                match &mut self.connections[index].life {
                    Life::Claiming { evicted, .. } => *evicted = (*evicted).max(Some(up_to)),
                    Life::Open(epoch) if *epoch <= up_to => {
                        let epoch = *epoch;
                        self.close(index, epoch);
                    }
                    _ => {}
                }
            }
        }
    }

    fn direct_claim(&mut self, index: usize) {
        let Connection { shard, key, .. } = self.connections[index];
        let unix_ms = self.clock.pop_front().unwrap();
        let outcome = claim(&mut self.store, shard, key, ALICE, unix_ms);
        if let Some((target, ToShard::Evict { key, epoch })) = outcome.evict {
            let evicted = self.connections.iter().position(|c| c.key == key).unwrap();
            self.evictions[target.0 as usize].push_back((evicted, epoch));
        }
        let epoch = granted(&outcome);
        self.answers[shard.0 as usize].push_back((index, epoch));
    }

    fn close(&mut self, index: usize, epoch: Epoch) {
        let connection = &mut self.connections[index];
        connection.life = Life::Closed;
        self.upward[connection.shard.0 as usize].push_back(Upward::Release(index, epoch));
    }

    fn check_end(&self, trace: &[Step]) {
        let open: Vec<Owner> = self
            .connections
            .iter()
            .filter_map(|c| match c.life {
                Life::Open(epoch) => Some(Owner { shard: c.shard, key: c.key, epoch }),
                Life::Closed => None,
                Life::Reading | Life::Claiming { .. } => panic!("{c:?} is stuck: {trace:?}"),
            })
            .collect();
        assert!(open.len() <= 1, "{open:?} are live: {trace:?}");
        assert_eq!(owner(&self.store, ALICE), open.first().copied(), "{trace:?}");
        if self.hang_ups_left == self.hang_ups_allowed {
            assert_eq!(open.len(), 1, "nobody hung up and nobody is live: {trace:?}");
        }
    }
}

/// Walks every order of steps to its end; returns how many ends there are.
fn explore(world: &World, trace: &mut Vec<Step>) -> u64 {
    let steps = world.steps();
    if steps.is_empty() {
        world.check_end(trace);
        return 1;
    }
    let mut ends = 0;
    for step in steps {
        let mut next = world.clone();
        next.take(step);
        trace.push(step);
        ends += explore(&next, trace);
        trace.pop();
    }
    ends
}

#[test]
fn every_interleaving_of_two_claims_and_a_hang_up_leaves_at_most_one_owner() {
    for shards in [[0, 0], [0, 1]] {
        for clock in [[100, 200], [100, 100], [100, 50]] {
            let ends = explore(&World::new(&shards, &clock, 1), &mut Vec::new());
            assert!(ends > 500, "only {ends} interleavings of {shards:?}");
        }
    }
}

#[test]
fn every_interleaving_of_three_claims_leaves_exactly_one_owner() {
    let world = World::new(&[0, 1, 0], &[100, 100, 90], 0);
    let ends = explore(&world, &mut Vec::new());
    assert!(ends > 50_000, "only {ends} interleavings");
}
