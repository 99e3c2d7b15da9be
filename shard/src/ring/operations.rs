//! From what the engine asks for to submission entries.

use std::os::fd::AsRawFd;

use io_uring::opcode;
use io_uring::types::{CancelBuilder, DestinationSlot, Fd, Fixed};
use socket2::{Domain, SockAddr};

use super::provided::GROUP;
use super::tag::{Operation, Tag};
use super::{InFlight, Listener, Uring};
use crate::buffers::BufferId;
use crate::id::{ConnectionKey, Generation, ShardId, Slot};
use crate::snapshot::Address;
use crate::sockets::{Completion, ListenerId, Outgoing, Pending, Sent, Socket, Sockets};

const SEND_INLINE: i32 = libc::MSG_DONTWAIT | libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
const SEND_WAITING: i32 = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;

static ONE: libc::c_int = 1;

impl Uring {
    /// Cancels what is pending on the socket and closes it.
    pub(super) fn close_now(&mut self, socket: Socket, key: ConnectionKey, pending: Pending) {
        match pending {
            Pending::Nothing => {}
            Pending::Receive => self.stop_receiving(key),
            Pending::Unknown => {
                let everything = CancelBuilder::fd(Fixed(socket.0)).all();
                let entry = opcode::AsyncCancel2::new(everything).build();
                self.push_quiet(entry, Tag::own(Operation::Ignored));
            }
        }
        let entry = opcode::Close::new(Fixed(socket.0)).build();
        self.push(entry, Tag::of(Operation::Close, key));
    }

    fn listener_tag(listener: ListenerId) -> Tag {
        let key = ConnectionKey { slot: Slot(u32::from(listener.0)), generation: Generation(0) };
        Tag::of(Operation::Accept, key)
    }
}

impl Sockets for Uring {
    fn accept(&mut self, listener: ListenerId) {
        let Some(Some(Listener { socket, .. })) = self.listeners.get(usize::from(listener.0))
        else {
            return;
        };
        let entry =
            opcode::AcceptMulti::new(Fd(socket.as_raw_fd())).allocate_file_index(true).build();
        self.push(entry, Self::listener_tag(listener));
    }

    fn stop_accepting(&mut self, listener: ListenerId) {
        let target = Self::listener_tag(listener).pack();
        let entry = opcode::AsyncCancel2::new(CancelBuilder::user_data(target)).build();
        self.push_quiet(entry, Tag::own(Operation::Ignored));
    }

    fn close_listener(&mut self, listener: ListenerId) {
        if let Some(place) = self.listeners.get_mut(usize::from(listener.0)) {
            *place = None;
        }
    }

    fn receive(&mut self, socket: Socket, key: ConnectionKey) {
        let entry = opcode::RecvMulti::new(Fixed(socket.0), GROUP).build();
        self.push(entry, Tag::of(Operation::Receive, key));
    }

    fn stop_receiving(&mut self, key: ConnectionKey) {
        let target = Tag::of(Operation::Receive, key).pack();
        let entry = opcode::AsyncCancel2::new(CancelBuilder::user_data(target)).build();
        self.push_quiet(entry, Tag::own(Operation::Ignored));
    }

    fn send(&mut self, socket: Socket, key: ConnectionKey, bytes: Outgoing) {
        let slice = bytes.as_slice();
        let entry = opcode::Send::new(Fixed(socket.0), slice.as_ptr(), slice.len() as u32)
            .flags(SEND_INLINE)
            .build();
        let tag = Tag::indexed(Operation::Send, key, self.prepared.len());
        // Recorded before it is queued: a full queue is submitted on the way, and a failure that
        // is drained there must find its send.
        self.prepared.push(InFlight { key, bytes, outcome: Sent::All });
        self.push_quiet(entry, tag);
    }

    fn send_rest(&mut self, socket: Socket, key: ConnectionKey, bytes: Outgoing) {
        let slice = bytes.as_slice();
        let entry = opcode::Send::new(Fixed(socket.0), slice.as_ptr(), slice.len() as u32)
            .flags(SEND_WAITING)
            .build();
        let index = self.waiting_free.pop().unwrap_or_else(|| {
            self.waiting.push(None);
            (self.waiting.len() - 1) as u32
        });
        self.waiting[index as usize] = Some((key, bytes));
        self.push(entry, Tag::indexed(Operation::SendRest, key, index as usize));
    }

    fn peer_name(&mut self, listener: ListenerId, socket: Socket, key: ConnectionKey) {
        let listener = self.listeners.get(usize::from(listener.0)).and_then(Option::as_ref);
        let len = listener.map_or(0, |listener| listener.address_len);
        match self.peer_names.ask(socket, len) {
            Some((entry, place)) => {
                self.push(entry, Tag::indexed(Operation::PeerName, key, place as usize));
            }
            None => self.queue.push_back(Completion::PeerName { key, peer: None }),
        }
    }

    fn open(&mut self, key: ConnectionKey, address: &Address) {
        let domain = match address {
            Address::Tcp(address) => Domain::for_address(*address),
            Address::Unix(_) => Domain::UNIX,
        };
        let entry = opcode::Socket::new(domain.into(), libc::SOCK_STREAM, 0)
            .file_index(Some(DestinationSlot::auto_target()))
            .build();
        self.push(entry, Tag::of(Operation::Open, key));
    }

    fn connect(&mut self, socket: Socket, key: ConnectionKey, address: &Address) {
        let target = match address {
            Address::Tcp(address) => {
                let level = libc::IPPROTO_TCP as u32;
                let option = libc::TCP_NODELAY as u32;
                let value = (&raw const ONE).cast();
                let size = size_of::<libc::c_int>() as u32;
                let entry =
                    opcode::SetSockOpt::new(Fixed(socket.0), level, option, value, size).build();
                self.push_quiet(entry, Tag::own(Operation::Ignored));
                SockAddr::from(*address)
            }
            Address::Unix(path) => match SockAddr::unix(path) {
                Ok(address) => address,
                Err(error) => {
                    let outcome = Err(error.raw_os_error().unwrap_or(libc::EINVAL));
                    self.queue.push_back(Completion::Connected { key, outcome });
                    return;
                }
            },
        };
        let target = Box::new(target);
        let entry =
            opcode::Connect::new(Fixed(socket.0), target.as_ptr().cast(), target.len()).build();
        self.addresses.push(target);
        self.push(entry, Tag::of(Operation::Connect, key));
    }

    fn finish(&mut self, socket: Socket, key: ConnectionKey) {
        self.finishing.insert(key, None);
        let entry = opcode::Shutdown::new(Fixed(socket.0), libc::SHUT_WR).build();
        self.push(entry, Tag::of(Operation::Finish, key));
    }

    fn close(&mut self, socket: Socket, key: ConnectionKey, pending: Pending) {
        match self.finishing.get_mut(&key) {
            Some(closes) => *closes = Some((socket, pending)),
            None => self.close_now(socket, key, pending),
        }
    }

    fn ring_doorbell(&mut self, shard: ShardId) {
        let Some(ring) = self.directory.ring_of(shard) else {
            return;
        };
        let bell = Tag::own(Operation::Doorbell).pack();
        let entry = opcode::MsgRingData::new(Fd(ring), 0, bell, None).build();
        self.push_quiet(entry, Tag::own(Operation::Ignored));
    }

    fn provide(&mut self, buffers: &mut Vec<BufferId>) {
        self.provided.provide(buffers);
    }

    fn settled(&mut self) -> Option<(ConnectionKey, Outgoing, Sent)> {
        self.settled.pop().map(|send| (send.key, send.bytes, send.outcome))
    }

    fn completion(&mut self) -> Option<Completion> {
        self.queue.pop_front()
    }

    fn backlog(&self) -> usize {
        self.queue.len()
    }
}
