//! What the loop waits for, each for ever where there is nothing of the kind.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::time::Interval;
use tracing::warn;

use crate::control::nodes::LinkNews;
use crate::control::registry::{self, Registry};
use crate::control::validation::{self, Validations};

pub(super) async fn answered(validations: Option<&mut Validations>) -> validation::Answer {
    match validations {
        Some(validations) => validations.next().await,
        None => std::future::pending().await,
    }
}

pub(super) async fn told(links: Option<&mut mpsc::Receiver<LinkNews>>) -> LinkNews {
    match links {
        Some(links) => match links.recv().await {
            Some(news) => news,
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

pub(super) async fn registered(registry: Option<&mut Registry>) -> registry::News {
    match registry {
        Some(registry) => registry.next().await,
        None => std::future::pending().await,
    }
}

pub(super) async fn due(interval: Option<&mut Interval>) {
    match interval {
        Some(interval) => {
            interval.tick().await;
        }
        None => std::future::pending().await,
    }
}

#[expect(
    deprecated,
    reason = "the replacement is unsafe for types that may change their descriptor; OwnedFd cannot"
)]
pub(super) fn watch(wake: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(wake)
}

/// Waits for the doorbell and takes its count.
pub(super) async fn rung(wake: &AsyncFd<OwnedFd>) {
    let Ok(mut ready) = wake.readable().await else {
        warn!(descriptor = wake.as_raw_fd(), "the doorbell cannot be waited for");
        return std::future::pending().await;
    };
    let mut count = [0; 8];
    // Nothing to take means that an earlier wait took it; the ring is heard all the same.
    let taken = ready.try_io(|wake| Ok(rustix::io::read(wake, &mut count)?));
    drop(taken);
    ready.clear_ready();
}
