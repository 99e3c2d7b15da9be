//! Where the bytes of a SEND lie: the engine on a ring that notes every send's address.

use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use corelane_shard::buffers::{BufferId, ReceiveBuffers};
use corelane_shard::engine::Engine;
use corelane_shard::id::{ConnectionKey, ShardId};
use corelane_shard::lane::{EventBell, Mesh, MeshShape, mesh};
use corelane_shard::probe::Probe;
use corelane_shard::pump::sample_clocks;
use corelane_shard::ring::{RingDirectory, Uring, listen};
use corelane_shard::snapshot::Address;
use corelane_shard::sockets::{Completion, ListenerId, Outgoing, Sent, Socket, Sockets, Wait};

use super::alone;
use super::harness::drive::{Load, Route};
use super::harness::gateway::{self, Backends};

/// Sends by where their bytes lay.
#[derive(Debug, Default)]
struct Sends {
    from_receive_buffers: AtomicU64,
    from_elsewhere: AtomicU64,
}

/// The real ring, with an eye on what it is given to send.
struct Witness {
    ring: Uring,
    receive_buffers: Range<usize>,
    sends: Arc<Sends>,
}

impl Sockets for Witness {
    fn send(&mut self, socket: Socket, key: ConnectionKey, bytes: Outgoing) {
        let range = bytes.as_slice().as_ptr_range();
        let own = &self.receive_buffers;
        let inside = own.start <= range.start as usize && range.end as usize <= own.end;
        let count =
            if inside { &self.sends.from_receive_buffers } else { &self.sends.from_elsewhere };
        count.fetch_add(1, Ordering::Relaxed);
        self.ring.send(socket, key, bytes);
    }

    fn accept(&mut self, listener: ListenerId) {
        self.ring.accept(listener);
    }

    fn stop_accepting(&mut self, listener: ListenerId) {
        self.ring.stop_accepting(listener);
    }

    fn close_listener(&mut self, listener: ListenerId) {
        self.ring.close_listener(listener);
    }

    fn receive(&mut self, socket: Socket, key: ConnectionKey) {
        self.ring.receive(socket, key);
    }

    fn stop_receiving(&mut self, key: ConnectionKey) {
        self.ring.stop_receiving(key);
    }

    fn send_rest(&mut self, socket: Socket, key: ConnectionKey, bytes: Outgoing) {
        self.ring.send_rest(socket, key, bytes);
    }

    fn peer_name(&mut self, listener: ListenerId, socket: Socket, key: ConnectionKey) {
        self.ring.peer_name(listener, socket, key);
    }

    fn open(&mut self, key: ConnectionKey, address: &Address) {
        self.ring.open(key, address);
    }

    fn connect(&mut self, socket: Socket, key: ConnectionKey, address: &Address) {
        self.ring.connect(socket, key, address);
    }

    fn finish(&mut self, socket: Socket, key: ConnectionKey) {
        self.ring.finish(socket, key);
    }

    fn close(&mut self, socket: Socket, key: ConnectionKey) {
        self.ring.close(socket, key);
    }

    fn ring_doorbell(&mut self, shard: ShardId) {
        self.ring.ring_doorbell(shard);
    }

    fn provide(&mut self, buffers: &mut Vec<BufferId>) {
        self.ring.provide(buffers);
    }

    fn settled(&mut self) -> Option<(ConnectionKey, Outgoing, Sent)> {
        self.ring.settled()
    }

    fn completion(&mut self) -> Option<Completion> {
        self.ring.completion()
    }

    fn backlog(&self) -> usize {
        self.ring.backlog()
    }
}

/// Ends the shard, also when the test fails.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Sends of lone peer messages, and of coalesced ones, beside their acknowledgements.
#[test]
fn a_lone_peer_message_is_sent_from_the_buffer_it_arrived_in() {
    const MESSAGES: usize = 500;
    alone(|| {
        let listener = listen(([127, 0, 0, 1], 0).into(), &gateway::listen_options()).unwrap();
        let address = socket2::SockRef::from(&listener).local_addr().unwrap().as_socket().unwrap();
        let bell = EventBell::new().unwrap();
        let Mesh { shards, control } = mesh(MeshShape {
            shards: 1,
            capacity: 64,
            control_capacity: 64,
            buffers: gateway::RECEIVE_BUFFERS,
        });
        let lanes = shards.into_iter().next().unwrap();
        let wake = bell.as_fd().try_clone_to_owned().unwrap();
        let sends = Arc::new(Sends::default());
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let ends = &over;
            scope.spawn(move || {
                gateway::control_loop(control, &[bell], Backends::default(), ends);
            });
            let witnessed = Arc::clone(&sends);
            scope.spawn(move || {
                let buffers =
                    ReceiveBuffers::new(gateway::RECEIVE_BUFFERS, gateway::RECEIVE_BUFFER_BYTES);
                let directory = RingDirectory::new(1);
                let sizes = gateway::ring_sizes();
                let ring = Uring::new(ShardId(0), sizes, &buffers, vec![listener], wake, directory)
                    .unwrap();
                let base = buffers.base() as usize;
                let receive_buffers = base..base + buffers.count() * buffers.buffer_size();
                let witness = Witness { ring, receive_buffers, sends: witnessed };
                let snapshot = Arc::new(gateway::snapshot());
                let surroundings =
                    gateway::surroundings(lanes, snapshot, Arc::new(Probe::default()));
                let options = gateway::options(ShardId(0), 1);
                let mut engine =
                    Engine::new(witness, buffers, options, surroundings, sample_clocks());
                while !engine.is_done() {
                    engine.turn(sample_clocks());
                    engine.sockets().ring.exchange(Wait::No).unwrap();
                    std::thread::yield_now();
                }
            });
            let ending = Ending(&over);
            let mut load = Load::connect(address, Route::Peer, 2);
            let read = || {
                let Sends { from_receive_buffers, from_elsewhere } = &*sends;
                [from_receive_buffers, from_elsewhere].map(|count| count.load(Ordering::Relaxed))
            };
            let before = read();
            load.run_batches(1, MESSAGES);
            let lone = read();
            load.run_batches(2, MESSAGES);
            let coalesced = read();
            drop(ending);
            // Each message was sent from where it arrived, each acknowledgement from a block.
            let messages = MESSAGES as u64;
            assert_eq!([lone[0] - before[0], lone[1] - before[1]], [messages, messages]);
            assert_eq!(coalesced[0], lone[0], "a batch is not sent from a receive buffer");
        });
    });
}
