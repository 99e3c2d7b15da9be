//! Going to sleep without missing a message.
//!
//! The sleeper raises its flag, looks at its lanes once more, and only then parks. The producer
//! pushes and then looks at the flag. Between the two steps both pass a sequentially consistent
//! fence, so at least one of them sees the other: the sleeper the message, or the producer the
//! flag; and whoever takes the flag down rings the doorbell (`IORING_OP_MSG_RING` from a shard, an
//! eventfd from any other thread). One fence covers all pushes of a turn.
//!
//! The model of this runs under loom:
//! `RUSTFLAGS="--cfg loom" cargo test -p corelane-shard --no-default-features --lib lane::doorbell`

#![expect(
    unexpected_cfgs,
    reason = "loom is set by hand, for the model test alone"
)]

use sync::{AtomicBool, Ordering, fence};

#[cfg(all(loom, test))]
mod sync {
    pub(super) use loom::sync::atomic::{AtomicBool, Ordering, fence};
}

#[cfg(not(all(loom, test)))]
mod sync {
    pub(super) use std::sync::atomic::{AtomicBool, Ordering, fence};
}

/// Whether one core sleeps. Shared by that core and everyone who sends to it; on a cache line of
/// its own, since a producer reads it every turn.
#[derive(Debug)]
#[repr(align(128))]
pub struct Sleep {
    asleep: AtomicBool,
}

impl Default for Sleep {
    fn default() -> Self {
        Self::new()
    }
}

impl Sleep {
    #[must_use]
    pub fn new() -> Self {
        Self {
            asleep: AtomicBool::new(false),
        }
    }

    /// Sleeper: "I am about to park". Every lane must be looked at after this and before parking.
    pub fn announce(&self) {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Sleeper: "I am awake", after parking or instead of it.
    pub fn awake(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }

    /// Producer: whether the caller has to ring this core's doorbell, now. Call
    /// [`pushes_are_visible`] in between the pushes and this.
    #[must_use]
    pub fn take_sleeper(&self) -> bool {
        // The plain read keeps the line shared while its owner is busy.
        self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed)
    }
}

/// Producer: orders every push so far before the flags that are read from here on.
pub fn pushes_are_visible() {
    fence(Ordering::SeqCst);
}

#[cfg(all(loom, test))]
mod model {
    use loom::sync::atomic::{AtomicUsize, Ordering};
    use loom::sync::{Arc, Condvar, Mutex};
    use loom::thread;

    use super::*;

    const PRODUCERS: usize = 2;

    /// A sleeper, a lane's index for each producer, and a bell that keeps ringing until heard.
    struct World {
        sleep: Sleep,
        pushed: [AtomicUsize; PRODUCERS],
        rings: Mutex<bool>,
        heard: Condvar,
    }

    impl World {
        fn new() -> Arc<Self> {
            Arc::new(Self {
                sleep: Sleep::new(),
                pushed: std::array::from_fn(|_| AtomicUsize::new(0)),
                rings: Mutex::new(false),
                heard: Condvar::new(),
            })
        }

        fn push(&self, producer: usize) {
            // As rtrb: the producer's index, with release.
            self.pushed[producer].store(1, Ordering::Release);
        }

        fn arrived(&self) -> usize {
            self.pushed
                .iter()
                .map(|index| index.load(Ordering::Acquire))
                .sum()
        }

        fn ring(&self) {
            *self.rings.lock().unwrap() = true;
            self.heard.notify_one();
        }

        fn park(&self) {
            let mut rings = self.rings.lock().unwrap();
            while !*rings {
                rings = self.heard.wait(rings).unwrap();
            }
            *rings = false;
        }
    }

    /// One message from each producer; the sleeper parks whenever it finds less than all of them.
    /// A lost wake-up leaves it parked for ever, which loom reports.
    fn run(produce: fn(&World, usize), sleep_once: fn(&World, usize)) {
        loom::model(move || {
            let world = World::new();
            let producers: Vec<_> = (0..PRODUCERS)
                .map(|id| {
                    let world = Arc::clone(&world);
                    thread::spawn(move || produce(&world, id))
                })
                .collect();
            let mut taken = 0;
            while taken < PRODUCERS {
                sleep_once(&world, taken);
                taken = world.arrived();
            }
            producers
                .into_iter()
                .for_each(|producer| producer.join().unwrap());
        });
    }

    fn produce(world: &World, id: usize) {
        world.push(id);
        pushes_are_visible();
        if world.sleep.take_sleeper() {
            world.ring();
        }
    }

    fn sleep_once(world: &World, taken: usize) {
        world.sleep.announce();
        if world.arrived() == taken {
            world.park();
        }
        world.sleep.awake();
    }

    #[test]
    fn no_wake_up_is_lost() {
        run(produce, sleep_once);
    }

    #[test]
    #[should_panic(expected = "deadlock")]
    fn without_the_second_look_a_wake_up_is_lost() {
        run(produce, |world, _| {
            world.sleep.announce();
            world.park();
            world.sleep.awake();
        });
    }

    #[test]
    #[should_panic(expected = "deadlock")]
    fn without_the_producers_fence_a_wake_up_is_lost() {
        let produce = |world: &World, id: usize| {
            world.push(id);
            if world.sleep.take_sleeper() {
                world.ring();
            }
        };
        run(produce, sleep_once);
    }

    #[test]
    #[should_panic(expected = "deadlock")]
    fn without_the_sleepers_fence_a_wake_up_is_lost() {
        run(produce, |world, taken| {
            world.sleep.asleep.store(true, Ordering::Relaxed);
            if world.arrived() == taken {
                world.park();
            }
            world.sleep.awake();
        });
    }
}
