//! How librdkafka's threads and the surveyor tell the control core that there is something to take.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Context;

use futures_util::task::AtomicWaker;

/// Of one place where something may lie. All bells of a bus wake the same task.
#[derive(Debug)]
pub(super) struct Bell {
    rung: AtomicBool,
    waker: Arc<AtomicWaker>,
}

impl Bell {
    /// Rung already: nobody knows what has come before.
    pub(super) fn new(waker: &Arc<AtomicWaker>) -> Arc<Self> {
        Arc::new(Self { rung: AtomicBool::new(true), waker: Arc::clone(waker) })
    }

    /// From any thread.
    pub(super) fn ring(&self) {
        self.rung.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Whether it has rung since. Looked at before the place is emptied, so that no ring is lost.
    pub(super) fn take(&self) -> bool {
        self.rung.load(Ordering::Relaxed) && self.rung.swap(false, Ordering::Acquire)
    }

    /// The place was not emptied.
    pub(super) fn keep(&self) {
        self.rung.store(true, Ordering::Relaxed);
    }

    pub(super) fn has_rung(&self) -> bool {
        self.rung.load(Ordering::Acquire)
    }
}

/// The task that is woken by every bell.
pub(super) fn listen(waker: &AtomicWaker, context: &Context<'_>) {
    waker.register(context.waker());
}
