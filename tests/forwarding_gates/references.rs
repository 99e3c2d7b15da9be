//! Where the bytes of a SEND lie: the engine on a ring that notes every send's address.

use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use corelane_shard::buffers::{BufferId, ReceiveBuffers};
use corelane_shard::engine::Engine;
use corelane_shard::id::{ConnectionKey, ShardId};
use corelane_shard::lane::{EventBell, Mesh, MeshShape, ShardLanes, mesh};
use corelane_shard::probe::Probe;
use corelane_shard::pump::sample_clocks;
use corelane_shard::ring::{RingDirectory, Uring, listen};
use corelane_shard::snapshot::Address;
use corelane_shard::sockets::{
    Completion, ListenerId, Outgoing, Pending, Sent, Socket, Sockets, Wait,
};

use super::alone;
use super::harness::backend;
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

    fn close(&mut self, socket: Socket, key: ConnectionKey, pending: Pending) {
        self.ring.close(socket, key, pending);
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

/// How many sends lay where while `traffic` passed through one shard: in receive buffers, and
/// elsewhere.
fn sends_of<T>(
    backends: Backends,
    traffic: impl FnOnce(SocketAddr, &dyn Fn() -> [u64; 2]) -> T,
) -> T {
    let listener = listen(([127, 0, 0, 1], 0).into(), &gateway::listen_options()).unwrap();
    let address = socket2::SockRef::from(&listener).local_addr().unwrap().as_socket().unwrap();
    let bell = EventBell::new().unwrap();
    let wake = bell.as_fd().try_clone_to_owned().unwrap();
    let Mesh { shards, control } = mesh(MeshShape {
        shards: 1,
        capacity: 64,
        control_capacity: 64,
        buffers: gateway::RECEIVE_BUFFERS,
    });
    let lanes = shards.into_iter().next().unwrap();
    let sends = Arc::new(Sends::default());
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (ends, witnessed) = (&over, Arc::clone(&sends));
        scope.spawn(move || gateway::control_loop(control, &[bell], backends, ends));
        scope.spawn(move || run_shard(lanes, listener, wake, witnessed));
        let _ending = Ending(&over);
        traffic(address, &|| {
            [&sends.from_receive_buffers, &sends.from_elsewhere]
                .map(|count| count.load(Ordering::Relaxed))
        })
    })
}

/// Without glommio: the shard turns and never sleeps.
fn run_shard(lanes: ShardLanes, listener: OwnedFd, wake: OwnedFd, sends: Arc<Sends>) {
    let shard = lanes.id();
    let buffers = ReceiveBuffers::new(gateway::RECEIVE_BUFFERS, gateway::RECEIVE_BUFFER_BYTES);
    let (sizes, directory) = (gateway::ring_sizes(), RingDirectory::new(1));
    let ring = Uring::new(shard, sizes, &buffers, vec![listener], wake, directory).unwrap();
    let base = buffers.base() as usize;
    let receive_buffers = base..base + buffers.count() * buffers.buffer_size();
    let witness = Witness { ring, receive_buffers, sends };
    let probe = Arc::new(Probe::default());
    let surroundings = gateway::surroundings(lanes, Arc::new(gateway::snapshot()), probe);
    let options = gateway::options(shard, 1);
    let mut engine = Engine::new(witness, buffers, options, surroundings, sample_clocks());
    while !engine.is_done() {
        engine.turn(sample_clocks());
        engine.sockets().ring.exchange(Wait::No).unwrap();
        std::thread::yield_now();
    }
}

/// Sends of messages that come one by one, from receive buffers and from elsewhere.
fn lone_sends(route: Route, backends: Backends) -> [u64; 2] {
    sends_of(backends, |gateway, read| {
        let mut load = Load::connect(gateway, route, 2);
        load.run_batches(1, 1);
        let before = read();
        load.run_batches(1, MESSAGES);
        let after = read();
        [after[0] - before[0], after[1] - before[1]]
    })
}

const MESSAGES: usize = 500;

/// Each message from where it arrived, each acknowledgement from a block.
#[test]
fn a_lone_peer_message_is_sent_from_the_buffer_it_arrived_in() {
    let sends = alone(|| lone_sends(Route::Peer, Backends::default()));
    assert_eq!(sends, [MESSAGES as u64; 2]);
}

/// Each answer from where it arrived, each request from a block.
#[test]
fn a_lone_answer_of_a_backend_is_sent_from_the_buffer_it_arrived_in() {
    let link = Backends { link: Some(backend::link()), http: None };
    assert_eq!(alone(|| lone_sends(Route::Link, link)), [MESSAGES as u64; 2]);
    let http = Backends { http: Some(backend::http()), link: None };
    assert_eq!(alone(|| lone_sends(Route::Http, http)), [MESSAGES as u64; 2]);
}

#[test]
fn coalesced_messages_are_not_sent_from_receive_buffers() {
    let [before, after] = alone(|| {
        sends_of(Backends::default(), |gateway, read| {
            let mut load = Load::connect(gateway, Route::Peer, 2);
            let before = read();
            load.run_batches(2, MESSAGES);
            [before, read()]
        })
    });
    assert_eq!(before[0], after[0]);
    assert!(after[1] > before[1]);
}
