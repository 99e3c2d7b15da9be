//! The doorbell that any thread can ring and any event loop can wait for.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{Errno, read, write};

/// An eventfd; clones are the same bell. The sleeper waits until it is readable and silences it,
/// or has it read by its ring.
#[derive(Debug, Clone)]
pub struct EventBell {
    fd: Arc<OwnedFd>,
}

impl EventBell {
    pub fn new() -> io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { fd: Arc::new(fd) })
    }

    /// Never blocks. A bell that rings already stays ringing.
    pub fn ring(&self) -> io::Result<()> {
        match write(&self.fd, &1u64.to_ne_bytes()) {
            Ok(_) | Err(Errno::AGAIN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Ends the ringing, if it rings.
    pub fn silence(&self) -> io::Result<()> {
        match read(&self.fd, &mut [0; 8]) {
            Ok(_) | Err(Errno::AGAIN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for EventBell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for EventBell {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    fn rings(bell: &EventBell) -> bool {
        let mut fds = [PollFd::new(bell, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
    }

    #[test]
    fn a_bell_rings_until_it_is_silenced_and_every_clone_is_the_same_bell() {
        let bell = EventBell::new().unwrap();
        let far_end = bell.clone();
        bell.silence().unwrap();
        assert!(!rings(&bell));
        far_end.ring().unwrap();
        far_end.ring().unwrap();
        assert!(rings(&bell));
        bell.silence().unwrap();
        assert!(!rings(&far_end));
    }
}
