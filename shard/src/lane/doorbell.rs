//! Going to sleep without missing a message.
//!
//! The sleeper raises its flag, looks at its lanes once more, and only then parks. The producer
//! pushes and then looks at the flag. Between the two steps both pass a sequentially consistent
//! fence, so at least one of them sees the other: the sleeper the message, or the producer the
//! flag; and whoever takes the flag down rings the doorbell (`IORING_OP_MSG_RING` from a shard, an
//! eventfd from any other thread). One fence covers all pushes of a turn.
//!
//! The model of this runs under loom, in the crate `tests/doorbell_model`, which holds this file too.

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
        Self { asleep: AtomicBool::new(false) }
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
        self.asleep.load(Ordering::Relaxed)
            && self
                .asleep
                .compare_exchange(true, false, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }
}

/// Producer: orders every push so far before the flags that are read from here on.
pub fn pushes_are_visible() {
    fence(Ordering::SeqCst);
}

#[cfg(all(loom, test))]
mod model {
    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicUsize, Ordering};
    use loom::thread;

    use super::*;

    const PRODUCERS: usize = 2;

    /// A sleeper, one lane for each producer, and how often its doorbell was rung.
    struct World {
        sleep: Sleep,
        pushed: [AtomicUsize; PRODUCERS],
        rings: AtomicUsize,
    }

    impl World {
        fn new() -> Self {
            Self {
                sleep: Sleep::new(),
                pushed: std::array::from_fn(|_| AtomicUsize::new(0)),
                rings: AtomicUsize::new(0),
            }
        }

        /// As rtrb moves its index.
        fn push(&self, producer: usize) {
            self.pushed[producer].store(1, Ordering::Release);
        }

        fn arrived(&self) -> usize {
            self.pushed.iter().map(|index| index.load(Ordering::Acquire)).sum()
        }

        fn ring_if_asleep(&self) {
            if self.sleep.take_sleeper() {
                self.rings.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    enum Parked {
        Yes,
        No,
    }

    /// Each producer sends one message. The sleeper takes what there is and asks to sleep, twice
    /// if it must. When it has parked with a message left, somebody must have rung.
    fn run(produce: fn(&World, usize), park: fn(&World, usize) -> Parked) {
        let mut model = loom::model::Builder::new();
        // Without this bound the same model passes too, but takes minutes.
        model.preemption_bound = Some(3);
        model.check(move || {
            let world = Arc::new(World::new());
            let producers: Vec<_> = (0..PRODUCERS)
                .map(|id| {
                    let world = Arc::clone(&world);
                    thread::spawn(move || produce(&world, id))
                })
                .collect();
            let mut parked_with = None;
            for _ in 0..2 {
                let taken = world.arrived();
                if let Parked::Yes = park(&world, taken) {
                    parked_with = Some(taken);
                    break;
                }
            }
            for producer in producers {
                producer.join().expect("producers do not panic");
            }
            if parked_with.is_some_and(|taken| taken < PRODUCERS) {
                assert!(world.rings.load(Ordering::Relaxed) > 0, "a wake-up was lost");
            }
        });
    }

    fn produce(world: &World, id: usize) {
        world.push(id);
        pushes_are_visible();
        world.ring_if_asleep();
    }

    fn park(world: &World, taken: usize) -> Parked {
        world.sleep.announce();
        second_look(world, taken)
    }

    fn second_look(world: &World, taken: usize) -> Parked {
        if world.arrived() == taken {
            return Parked::Yes;
        }
        world.sleep.awake();
        Parked::No
    }

    #[test]
    fn no_wake_up_is_lost() {
        run(produce, park);
    }

    #[test]
    #[should_panic(expected = "a wake-up was lost")]
    fn without_the_second_look_a_wake_up_is_lost() {
        run(produce, |world, _taken| {
            world.sleep.announce();
            Parked::Yes
        });
    }

    #[test]
    #[should_panic(expected = "a wake-up was lost")]
    fn without_the_producers_fence_a_wake_up_is_lost() {
        run(
            |world, id| {
                world.push(id);
                world.ring_if_asleep();
            },
            park,
        );
    }

    #[test]
    #[should_panic(expected = "a wake-up was lost")]
    fn without_the_sleepers_fence_a_wake_up_is_lost() {
        run(produce, |world, taken| {
            world.sleep.asleep.store(true, Ordering::Relaxed);
            second_look(world, taken)
        });
    }
}
