//! Level-triggered readiness of many sockets on one thread.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll;

pub(crate) struct Poll {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Poll {
    pub(crate) fn new() -> Self {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("epoll exists");
        Self { epoll, events: Vec::with_capacity(256) }
    }

    /// Reports `socket` as `id` whenever it can be read.
    pub(crate) fn watch(&self, socket: impl AsFd, id: usize) {
        let id = epoll::EventData::new_u64(id as u64);
        epoll::add(&self.epoll, socket, id, epoll::EventFlags::IN).expect("a fresh socket");
    }

    /// Ids of what can be read; empty when nothing could within `patience`.
    pub(crate) fn readable(&mut self, patience: Duration) -> impl Iterator<Item = usize> + '_ {
        let patience = rustix::time::Timespec::try_from(patience).expect("a short time");
        self.events.clear();
        let room = rustix::buffer::spare_capacity(&mut self.events);
        epoll::wait(&self.epoll, room, Some(&patience)).expect("epoll waits");
        self.events.iter().map(|event| event.data.u64() as usize)
    }
}
