//! What the kernel must offer, tried on a scratch ring at start, and what a ring locks in memory.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use io_uring::IoUring;
use socket2::SockRef;
use thiserror::Error;

use super::{ListenOptions, RingDirectory, RingSizes, Uring, listen};
use crate::buffers::ReceiveBuffers;
use crate::id::{ConnectionKey, Generation, ShardId, Slot};
use crate::sockets::{Completion, ListenerId, Outgoing, Pending, Sockets, Wait};

/// An operation that the data plane needs and this machine refuses.
#[derive(Debug, Error)]
#[error("io_uring: {operation} does not work here ({cause}); {advice}")]
pub struct RingUnsupported {
    pub operation: &'static str,
    pub cause: io::Error,
    pub advice: &'static str,
}

/// The ring with the flags that the forwarding loop is written for.
pub(super) fn build(entries: u32) -> io::Result<IoUring> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_coop_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_cqsize(entries * 4)
        .build(entries)
}

/// Bytes that one shard's ring asks the kernel to lock: 64 a submission entry and 4 for its place
/// in the queue, 16 a completion entry (four times as many), the list of provided buffers, and the
/// page that each of these begins.
#[must_use]
pub fn locked_bytes(sizes: RingSizes, receive_buffers: usize) -> usize {
    let entries = sizes.entries as usize;
    entries * (64 + 4) + entries * 4 * 16 + receive_buffers * 16 + 4 * 4096
}

/// Tries every operation of the data plane once over loopback, on a scratch ring.
pub fn try_operations() -> Result<(), RingUnsupported> {
    let ring = "use Linux 6.7 or newer and allow io_uring (sysctl kernel.io_uring_disabled=0, and \
                in containers a seccomp profile that permits it)";
    let refused = |operation, advice| move |cause| RingUnsupported { operation, cause, advice };
    let buffers = ReceiveBuffers::new(4, 2048);
    let options = ListenOptions {
        backlog: 4,
        keepalive: Duration::from_secs(60),
        user_timeout: Duration::from_secs(30),
        send_buffer: None,
        receive_buffer: None,
    };
    let listener = listen(([127, 0, 0, 1], 0).into(), &options)
        .map_err(refused("listening on loopback", "bring the loopback interface up"))?;
    let wake = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)
        .map_err(|errno| refused("eventfd", ring)(errno.into()))?;
    let address = SockRef::from(&listener)
        .local_addr()
        .map_err(refused("the address of a listener", ring))?;
    let sizes = RingSizes { entries: 16, sockets: 8 };
    let directory = RingDirectory::new(1);
    let uring = Uring::new(ShardId(0), sizes, &buffers, vec![listener], wake, directory)
        .map_err(refused("creating a ring with its descriptor and buffer tables", ring))?;
    let address = address.as_socket().ok_or_else(|| {
        refused("the address of a listener", ring)(io::Error::other("not an internet address"))
    })?;
    Trial { uring, buffers }.run(address).map_err(|(operation, cause)| RingUnsupported {
        operation,
        cause,
        advice: "use Linux 6.7 or newer",
    })
}

struct Trial {
    uring: Uring,
    buffers: ReceiveBuffers,
}

type Failure = (&'static str, io::Error);

impl Trial {
    fn run(mut self, address: std::net::SocketAddr) -> Result<(), Failure> {
        let key = ConnectionKey { slot: Slot(1), generation: Generation(1) };
        self.uring.provide(self.buffers.returned());
        self.uring.accept(ListenerId(0));
        let mut client = TcpStream::connect(address).map_err(|e| ("connecting to loopback", e))?;
        let socket = self.until("multishot accept into the descriptor table", |c| match c {
            Completion::Accepted { socket, .. } => Some(Ok(socket)),
            Completion::AcceptEnded { .. } => Some(Err(io::Error::other("ended at once"))),
            _ => None,
        })?;
        self.uring.peer_name(ListenerId(0), socket, key);
        self.until("the peer's address through a socket command", |c| match c {
            Completion::PeerName { peer: Some(_), .. } => Some(Ok(())),
            Completion::PeerName { peer: None, .. } => Some(Err(io::Error::other("refused"))),
            _ => None,
        })?;
        self.uring.receive(socket, key);
        client.write_all(b"ping").map_err(|e| ("writing to loopback", e))?;
        let (buffer, len) = self.until("multishot receive with provided buffers", |c| match c {
            Completion::Received { buffer, len, .. } => Some(Ok((buffer, len))),
            Completion::ReceiveEnded { .. } => Some(Err(io::Error::other("ended at once"))),
            _ => None,
        })?;
        let received = self.buffers.received(buffer, len);
        let lent = self.buffers.lend(&received, 0..len as usize);
        self.buffers.done(received);
        self.uring.send(socket, key, Outgoing::Lent(lent));
        self.exchange()?;
        if let Some((_, Outgoing::Lent(lent), _)) = self.uring.settled() {
            self.buffers.give_back(lent);
        }
        let mut echo = [0; 4];
        client.read_exact(&mut echo).map_err(|e| ("send from a provided buffer", e))?;
        self.uring.ring_doorbell(ShardId(0));
        self.until("a message from ring to ring", |c| {
            matches!(c, Completion::Doorbell).then_some(Ok(()))
        })?;
        self.uring.heartbeat(Some(Duration::from_millis(1)));
        self.uring.exchange(Wait::ForOne).map_err(|cause| ("a multishot time-out", cause))?;
        self.uring.close(socket, key, Pending::Unknown);
        self.until("closing by descriptor index", |c| {
            matches!(c, Completion::Closed { .. }).then_some(Ok(()))
        })
    }

    fn exchange(&mut self) -> Result<(), Failure> {
        self.uring.exchange(Wait::No).map_err(|e| ("entering the ring", e))
    }

    fn until<T>(
        &mut self,
        operation: &'static str,
        wanted: impl Fn(Completion) -> Option<io::Result<T>>,
    ) -> Result<T, Failure> {
        let deadline = Instant::now() + Duration::from_secs(2);
        while Instant::now() < deadline {
            self.exchange()?;
            while let Some(completion) = self.uring.completion() {
                if let Some(outcome) = wanted(completion) {
                    return outcome.map_err(|cause| (operation, cause));
                }
            }
            std::thread::yield_now();
        }
        Err((operation, io::ErrorKind::TimedOut.into()))
    }
}
