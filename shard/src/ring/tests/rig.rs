//! A ring on the real kernel, its memory, and what it has reported so far.

use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant as Moment};

use rustix::event::{EventfdFlags, eventfd};
use socket2::{Domain, SockRef, Socket as RawSocket, Type};

use super::super::{ListenOptions, RingDirectory, RingSizes, Uring, listen};
use crate::block::BlockPool;
use crate::buffers::ReceiveBuffers;
use crate::id::{ConnectionKey, Generation, ShardId, Slot};
use crate::sockets::{Completion, ListenerId, Outgoing, Sent, Socket, Sockets, Wait};

/// Nothing here takes longer than a few milliseconds unless it is broken.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// The smallest send buffer that the kernel grants.
pub(super) const TINY: Option<usize> = Some(1);

pub(super) struct Setup {
    pub(super) entries: u32,
    pub(super) sockets: u32,
    pub(super) buffers: u16,
    pub(super) send_buffer: Option<usize>,
    pub(super) shard: ShardId,
    pub(super) directory: RingDirectory,
    pub(super) ip: std::net::IpAddr,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            entries: 256,
            sockets: 256,
            buffers: 64,
            send_buffer: None,
            shard: ShardId(0),
            directory: RingDirectory::new(1),
            ip: Ipv4Addr::LOCALHOST.into(),
        }
    }
}

pub(super) struct Rig {
    // Dropped before the buffers that the kernel fills.
    pub(super) uring: Uring,
    pub(super) buffers: ReceiveBuffers,
    pub(super) blocks: BlockPool,
    pub(super) address: SocketAddr,
    pub(super) wake: OwnedFd,
    pub(super) settled: Vec<(ConnectionKey, Outgoing, Sent)>,
    completions: Vec<Completion>,
}

impl Setup {
    pub(super) fn build(self) -> Rig {
        let options = ListenOptions {
            backlog: 1024,
            keepalive: Duration::from_secs(60),
            user_timeout: Duration::from_secs(30),
            send_buffer: self.send_buffer,
            receive_buffer: None,
        };
        let listener = listen((self.ip, 0).into(), &options).unwrap();
        let address = SockRef::from(&listener).local_addr().unwrap().as_socket().unwrap();
        let wake = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let ringer = wake.try_clone().unwrap();
        let mut buffers = ReceiveBuffers::new(self.buffers, 2048);
        let sizes = RingSizes { entries: self.entries, sockets: self.sockets };
        let mut uring =
            Uring::new(self.shard, sizes, &buffers, vec![listener], wake, self.directory).unwrap();
        uring.provide(buffers.returned());
        uring.accept(ListenerId(0));
        Rig {
            uring,
            buffers,
            blocks: BlockPool::new(64 << 20),
            address,
            wake: ringer,
            settled: Vec::new(),
            completions: Vec::new(),
        }
    }
}

pub(super) fn rig() -> Rig {
    Setup::default().build()
}

pub(super) fn key(slot: usize) -> ConnectionKey {
    ConnectionKey { slot: Slot(slot as u32), generation: Generation(1) }
}

/// `len` bytes that no other seed yields.
pub(super) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

/// Reads `len` bytes, or panics when they do not come in time.
pub(super) fn read(mut client: &TcpStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.read_exact(&mut bytes).unwrap();
    bytes
}

impl Rig {
    pub(super) fn exchange(&mut self, wait: Wait) {
        self.uring.exchange(wait).unwrap();
        while let Some(settled) = self.uring.settled() {
            self.settled.push(settled);
        }
    }

    /// The next completion that `wanted` picks; the others stay for later, in order.
    pub(super) fn until<T>(
        &mut self,
        what: &str,
        mut wanted: impl FnMut(&Completion) -> Option<T>,
    ) -> T {
        let give_up = Moment::now() + PATIENCE;
        loop {
            while let Some(completion) = self.uring.completion() {
                self.completions.push(completion);
            }
            let found = self
                .completions
                .iter()
                .enumerate()
                .find_map(|(at, completion)| wanted(completion).map(|found| (at, found)));
            if let Some((at, found)) = found {
                self.completions.remove(at);
                return found;
            }
            assert!(Moment::now() < give_up, "{what}: only {:?}", self.completions);
            self.exchange(Wait::No);
            std::thread::yield_now();
        }
    }

    /// Every completion reported so far, in order.
    pub(super) fn taken(&mut self) -> Vec<Completion> {
        while let Some(completion) = self.uring.completion() {
            self.completions.push(completion);
        }
        std::mem::take(&mut self.completions)
    }

    /// Exchanges until the send of `key` has ended.
    pub(super) fn until_settled(&mut self, key: ConnectionKey) -> (Outgoing, Sent) {
        let give_up = Moment::now() + PATIENCE;
        loop {
            if let Some(at) = self.settled.iter().position(|(of, ..)| *of == key) {
                let (_, bytes, sent) = self.settled.remove(at);
                return (bytes, sent);
            }
            assert!(Moment::now() < give_up, "the send of {key:?} has not settled");
            self.exchange(Wait::No);
            std::thread::yield_now();
        }
    }

    /// A client and the socket that it was accepted as.
    pub(super) fn connect(&mut self) -> (TcpStream, Socket) {
        let client = TcpStream::connect(self.address).unwrap();
        (client, self.accepted())
    }

    /// As [`Self::connect`], with a client that buffers as little as the kernel allows.
    pub(super) fn connect_narrow(&mut self) -> (TcpStream, Socket) {
        let client = RawSocket::new(Domain::for_address(self.address), Type::STREAM, None).unwrap();
        client.set_recv_buffer_size(1).unwrap();
        client.connect(&self.address.into()).unwrap();
        (client.into(), self.accepted())
    }

    pub(super) fn accepted(&mut self) -> Socket {
        self.until("an accepted socket", |completion| match completion {
            Completion::Accepted { socket, .. } => Some(*socket),
            _ => None,
        })
    }

    pub(super) fn block(&mut self, bytes: &[u8]) -> Outgoing {
        let mut block = self.blocks.take(bytes.len()).unwrap();
        block.append(bytes);
        Outgoing::Block(block)
    }

    pub(super) fn send(&mut self, socket: Socket, key: ConnectionKey, bytes: &[u8]) {
        let block = self.block(bytes);
        self.uring.send(socket, key, block);
    }

    /// Sends inline and returns how it ended; the bytes go back to the pool.
    pub(super) fn send_now(&mut self, socket: Socket, key: ConnectionKey, bytes: &[u8]) -> Sent {
        self.send(socket, key, bytes);
        let (outgoing, sent) = self.until_settled(key);
        self.recycle(outgoing);
        sent
    }

    /// Sends noise until the kernel takes no more; returns what it took.
    pub(super) fn fill(&mut self, socket: Socket, key: ConnectionKey) -> Vec<u8> {
        let bytes = noise(99, 16 << 20);
        let mut taken = 0;
        loop {
            match self.send_now(socket, key, &bytes[taken..taken + (64 << 10)]) {
                Sent::All => taken += 64 << 10,
                Sent::Partial(0) => return bytes[..taken].to_vec(),
                Sent::Partial(more) => taken += more,
                Sent::Failed => panic!("the peer is alive"),
            }
        }
    }

    pub(super) fn recycle(&mut self, outgoing: Outgoing) {
        match outgoing {
            Outgoing::Block(block) => self.blocks.give_back(block),
            Outgoing::Lent(lent) => self.buffers.give_back(lent),
        }
    }

    /// Copies what arrived out of its buffer, which the kernel gets back.
    pub(super) fn take(&mut self, completion: &Completion) -> Vec<u8> {
        let Completion::Received { buffer, len, .. } = *completion else {
            return Vec::new();
        };
        let mut received = self.buffers.received(buffer, len);
        let bytes = received.from(0).to_vec();
        self.buffers.done(received);
        self.uring.provide(self.buffers.returned());
        bytes
    }
}

/// Ends the connection with a reset.
pub(super) fn reset(client: TcpStream) -> io::Result<()> {
    SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
    drop(client);
    Ok(())
}
