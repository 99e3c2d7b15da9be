//! The contract between the engine and whatever moves bytes: operations out, completions in.
//!
//! One implementation is the shard's io_uring (`ring`). Bytes to be sent change hands: the
//! implementation owns them from [`Sockets::send`] until it returns them from [`Sockets::settled`],
//! so nothing can free or reuse memory that the kernel still reads.

use std::net::SocketAddr;

use crate::block::Block;
use crate::buffers::{BufferId, Lent};
use crate::id::{ConnectionKey, ShardId};
use crate::snapshot::Address;

/// A socket of this shard; meaningless elsewhere (an index into the ring's descriptor table).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Socket(pub u32);

/// A listening socket of this shard, by position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ListenerId(pub u8);

/// Bytes on their way to a socket.
#[derive(Debug)]
pub enum Outgoing {
    /// A message in the receive buffer that it arrived in.
    Lent(Lent),
    /// A pooled block.
    Block(Block),
}

impl Outgoing {
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::Lent(lent) => lent.as_slice(),
            Self::Block(block) => block.as_slice(),
        }
    }
}

/// How a send ended. `Partial` counts the bytes that the kernel took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    All,
    Partial(usize),
    /// The peer is gone.
    Failed,
}

/// What happened to an operation. Sends are not here: see [`Sockets::settled`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completion {
    Accepted {
        listener: ListenerId,
        socket: Socket,
    },
    /// The listener accepts no more until it is armed again.
    AcceptEnded {
        listener: ListenerId,
        cause: AcceptEnd,
    },
    Received {
        key: ConnectionKey,
        buffer: BufferId,
        len: u32,
    },
    /// No more bytes will come until the receive is armed again.
    ReceiveEnded {
        key: ConnectionKey,
        cause: ReceiveEnd,
    },
    PeerName {
        key: ConnectionKey,
        peer: Option<SocketAddr>,
    },
    Opened {
        key: ConnectionKey,
        socket: Option<Socket>,
    },
    Connected {
        key: ConnectionKey,
        outcome: Result<(), i32>,
    },
    Closed {
        key: ConnectionKey,
    },
    /// Another core has put something on a lane.
    Doorbell,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcceptEnd {
    /// The descriptor table is full; arm again when a socket was closed.
    TableFull,
    Cancelled,
    Failed(i32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReceiveEnd {
    /// The peer sent its last byte.
    Eof,
    /// No provided buffer was free; arm again when some are.
    NoBuffers,
    Cancelled,
    /// The multishot ended for a reason of the kernel's own; arm again.
    Rearm,
    /// Reset or another socket error (errno).
    Failed(i32),
}

/// What is to be cancelled before a socket can be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pending {
    Nothing,
    /// The multishot receive.
    Receive,
    /// Whatever there is. Finding it takes time in proportion to all connections of the shard.
    Unknown,
}

/// How long an exchange with the kernel may sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Not at all: there is work to do.
    No,
    /// Until one completion is there.
    ForOne,
}

/// Moves bytes for one shard. Operations take effect at the next exchange with the kernel, which is
/// the pump's affair and not part of this contract.
pub trait Sockets {
    fn accept(&mut self, listener: ListenerId);
    fn stop_accepting(&mut self, listener: ListenerId);
    /// New connections are refused by the kernel from now on.
    fn close_listener(&mut self, listener: ListenerId);
    /// Receives until told otherwise, into provided buffers.
    fn receive(&mut self, socket: Socket, key: ConnectionKey);
    fn stop_receiving(&mut self, key: ConnectionKey);
    /// Sends without waiting for the peer; at most one send of a connection may be unsettled.
    fn send(&mut self, socket: Socket, key: ConnectionKey, bytes: Outgoing);
    /// Sends the rest of a partial send, waiting for the peer; settled when all is gone.
    fn send_rest(&mut self, socket: Socket, key: ConnectionKey, bytes: Outgoing);
    /// Asks for the address of the peer that `listener` has accepted.
    fn peer_name(&mut self, listener: ListenerId, socket: Socket, key: ConnectionKey);
    /// Makes a socket fit for `address`.
    fn open(&mut self, key: ConnectionKey, address: &Address);
    fn connect(&mut self, socket: Socket, key: ConnectionKey, address: &Address);
    /// Sends FIN after what was sent.
    fn finish(&mut self, socket: Socket, key: ConnectionKey);
    /// Cancels what is pending on the socket and closes it; answered [`Completion::Closed`] last.
    fn close(&mut self, socket: Socket, key: ConnectionKey, pending: Pending);
    fn ring_doorbell(&mut self, shard: ShardId);
    /// Gives receive buffers back to be filled again.
    fn provide(&mut self, buffers: &mut Vec<BufferId>);

    /// The next send that has ended since the last exchange, with its bytes.
    fn settled(&mut self) -> Option<(ConnectionKey, Outgoing, Sent)>;
    /// The next completion, in order.
    fn completion(&mut self) -> Option<Completion>;
    /// Completions not yet taken.
    fn backlog(&self) -> usize;
}
