//! Two cores on threads of their own that sleep whenever there is nothing to do.

use std::sync::mpsc;
use std::thread::{self, Thread};
use std::time::{Duration, Instant as RealInstant};

use super::*;

const MESSAGES: u64 = if cfg!(miri) { 30 } else { 5_000 };

/// Far more than any wait takes in which nobody was forgotten.
const PATIENCE: Duration = Duration::from_secs(30);

/// One of the two: says every number once, hears every number of the other and answers it.
struct Core {
    lanes: ShardLanes,
    pool: BlockPool,
    other: ShardId,
    said: u64,
    heard: u64,
    answered: u64,
}

impl Core {
    fn new(lanes: ShardLanes, other: ShardId) -> Self {
        Self { lanes, pool: BlockPool::new(1 << 20), other, said: 0, heard: 0, answered: 0 }
    }

    fn live(&mut self, neighbour: &Thread) {
        loop {
            self.turn();
            let other = self.other;
            self.lanes.wake_sleepers(NOW, |wake| {
                assert_eq!(wake, Wake::Shard(other));
                neighbour.unpark();
            });
            if self.heard == MESSAGES && self.answered == MESSAGES {
                return;
            }
            if self.lanes.prepare_park() == Park::Now {
                let asleep = RealInstant::now();
                thread::park_timeout(PATIENCE);
                assert!(asleep.elapsed() < PATIENCE, "a wake-up was lost");
                self.lanes.awake();
            }
        }
    }

    fn turn(&mut self) {
        let Self { lanes, pool, other, .. } = self;
        lanes.reclaim(|returned| match returned {
            Returned::Block { bytes } => pool.disown(bytes),
            Returned::Buffer(_) => unreachable!("only blocks were sent"),
        });
        let mut heard = Vec::new();
        while let Some(Arrival::Deliver(deliver)) = lanes.next_arrival(*other) {
            heard.push(u64::from_be_bytes((*deliver.frame).try_into().unwrap()));
            if let Frame::Owned(block) = deliver.frame {
                let block = pool.adopt(block).unwrap();
                pool.give_back(block);
            }
        }
        for number in heard {
            assert_eq!(number, self.heard);
            self.heard += 1;
            lanes.answer(*other, answer(number));
        }
        while let Some(answer) = lanes.next_answer(*other) {
            assert_eq!(answer.reply.message_id, self.answered);
            self.answered += 1;
        }
        lanes.release();
        while self.said < MESSAGES {
            let mut block = pool.take(8).unwrap();
            block.append(&self.said.to_be_bytes());
            match lanes.try_request(*other, deliver(Payload::Owned(block))) {
                Ok(()) => self.said += 1,
                Err(refused) => {
                    let Payload::Owned(block) = refused.crossing.into_frame() else {
                        panic!("the same block")
                    };
                    pool.give_back(block);
                    break;
                }
            }
        }
    }
}

#[test]
fn two_threads_that_sleep_between_messages_miss_none() {
    let mut shards = mesh(shape(2)).shards;
    let mut second = Core::new(shards.pop().unwrap(), ShardId(0));
    let mut first = Core::new(shards.pop().unwrap(), ShardId(1));
    let here = thread::current();
    let (introduce, introduced) = mpsc::channel();
    thread::scope(|scope| {
        let there = scope.spawn(move || {
            introduce.send(thread::current()).unwrap();
            second.live(&here);
        });
        first.live(&introduced.recv().unwrap());
        there.join().unwrap();
    });
}
