//! The wires between the shards and everybody else: streams of bytes that stall, are cut anywhere
//! and break.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};

use crate::snapshot::Address;
use crate::sockets::ListenerId;

/// The listeners of each shard: one for plain text, one for TLS.
pub(super) const LISTENERS: usize = 2;
pub(super) const PLAIN: ListenerId = ListenerId(0);
pub(super) const SEALED: ListenerId = ListenerId(1);

/// One TCP connection of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct WireId(usize);

/// One direction of a wire: what was sent and not yet read.
#[derive(Debug, Default)]
pub(super) struct Flow {
    pub(super) bytes: VecDeque<u8>,
    /// Bytes that may wait here: both sockets' buffers.
    window: usize,
    /// Nothing comes behind these bytes.
    pub(super) fin: bool,
}

impl Flow {
    fn new(window: usize) -> Self {
        Self { bytes: VecDeque::new(), window, fin: false }
    }

    pub(super) fn room(&self) -> usize {
        self.window.saturating_sub(self.bytes.len())
    }

    /// Takes what there is room for and says how much that was.
    pub(super) fn push(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.room());
        self.bytes.extend(&bytes[..taken]);
        taken
    }

    pub(super) fn pop(&mut self, most: usize) -> Vec<u8> {
        let len = most.min(self.bytes.len());
        self.bytes.drain(..len).collect()
    }
}

#[derive(Debug)]
pub(super) struct Wire {
    pub(super) to_shard: Flow,
    pub(super) to_remote: Flow,
    /// Broken for both ends.
    pub(super) reset: bool,
    /// The shard has said all that it had to say, rather than hung up.
    pub(super) finished_by_shard: bool,
    pub(super) closed_by_shard: bool,
    pub(super) closed_by_remote: bool,
}

impl Wire {
    /// The remote end writes; what cannot arrive any more is lost.
    pub(super) fn write(&mut self, bytes: &[u8]) -> usize {
        if self.reset || self.closed_by_shard || self.to_shard.fin {
            return bytes.len();
        }
        self.to_shard.push(bytes)
    }

    /// The remote end reads.
    pub(super) fn read(&mut self, most: usize) -> Vec<u8> {
        if self.reset { Vec::new() } else { self.to_remote.pop(most) }
    }

    /// The remote end will read nothing more.
    pub(super) fn is_over(&self) -> bool {
        self.reset || (self.to_remote.fin && self.to_remote.bytes.is_empty())
    }

    /// The remote end sends FIN and goes on reading.
    pub(super) fn finish(&mut self) {
        self.to_shard.fin = true;
    }

    /// The remote end closes: what the shard sends from now on is answered by a reset.
    pub(super) fn close(&mut self) {
        self.to_shard.fin = true;
        self.closed_by_remote = true;
    }

    pub(super) fn reset(&mut self) {
        self.reset = true;
        self.to_shard.bytes.clear();
        self.to_remote.bytes.clear();
    }
}

/// How the run's network is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weather {
    /// Of the window of a wire; small ones make partial sends.
    pub(super) window: (usize, usize),
    /// One in so many exchanges moves nothing on a wire.
    pub(super) stalls: u32,
    /// Receives are cut shorter than their buffer, one in so many.
    pub(super) cuts: u32,
    /// A dialled address refuses, one in so many.
    pub(super) refusals: u32,
}

#[derive(Debug)]
pub(super) struct Network {
    wires: Vec<Wire>,
    /// Who waits to be accepted, by shard and listener.
    pub(super) backlogs: Vec<[VecDeque<WireId>; LISTENERS]>,
    /// Wires that the backends were given and have not looked at.
    pub(super) dialled: Vec<(usize, WireId)>,
    pub(super) weather: Weather,
}

impl Network {
    pub(super) fn new(shards: usize, weather: Weather) -> Self {
        let backlogs = (0..shards).map(|_| Default::default()).collect();
        Self { wires: Vec::new(), backlogs, dialled: Vec::new(), weather }
    }

    pub(super) fn wire(&mut self, id: WireId) -> &mut Wire {
        &mut self.wires[id.0]
    }

    pub(super) fn wires(&self) -> impl Iterator<Item = WireId> + use<> {
        (0..self.wires.len()).map(WireId)
    }

    fn add(&mut self, rng: &mut fastrand::Rng) -> WireId {
        let (least, most) = self.weather.window;
        self.wires.push(Wire {
            to_shard: Flow::new(64 << 10),
            to_remote: Flow::new(rng.usize(least..=most)),
            reset: false,
            finished_by_shard: false,
            closed_by_shard: false,
            closed_by_remote: false,
        });
        WireId(self.wires.len() - 1)
    }

    /// A client dials a shard.
    pub(super) fn dial_shard(
        &mut self,
        shard: usize,
        listener: ListenerId,
        rng: &mut fastrand::Rng,
    ) -> WireId {
        let wire = self.add(rng);
        self.backlogs[shard][usize::from(listener.0)].push_back(wire);
        wire
    }

    /// A shard dials a backend.
    pub(super) fn dial_backend(
        &mut self,
        address: &Address,
        rng: &mut fastrand::Rng,
    ) -> Option<WireId> {
        let backend = backend_at(address)?;
        let wire = self.add(rng);
        self.dialled.push((backend, wire));
        Some(wire)
    }
}

/// Where the backend with this number listens.
pub(super) fn address_of(backend: usize) -> Address {
    Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, backend as u16 + 1)))
}

fn backend_at(address: &Address) -> Option<usize> {
    match address {
        Address::Tcp(address) => Some(usize::from(address.port()) - 1),
        Address::Unix(_) => None,
    }
}
