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
