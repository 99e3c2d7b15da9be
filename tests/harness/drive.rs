//! Traffic: many clients on one thread, each with a fixed number of messages in flight.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::client::{Client, FLAG_ANSWER, FLAG_PEER, request};
use super::poll::Poll;

/// Where the messages go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// To the client's neighbour, which is written to in turn; every message is acknowledged.
    Peer,
    Link,
    Http,
}

const PAYLOAD: &[u8] = br#"{"position":[1,2,3],"heading":90,"state":"running","health":100}"#;

/// How long nothing may happen in a run before it has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Clients of one gateway, all on one route.
pub(crate) struct Load {
    poll: Poll,
    route: Route,
    clients: Vec<Client>,
    windows: Vec<Window>,
    /// Messages that each client may send next.
    allowed: Vec<usize>,
    /// Acknowledgements of peer messages so far.
    acknowledged: usize,
}

/// Most messages that one client sends at once: of two peers, one may have all that is in flight.
const DEPTH_MAX: usize = 32;

/// What one client sends, on one channel after the other: over HTTP the calls of one channel wait
/// for each other.
struct Window {
    /// Two rounds of messages of equal length, so that every run of them is one slice.
    frames: Vec<u8>,
    next: usize,
}

impl Window {
    fn new(route: Route, clients: &[Client], at: usize) -> Self {
        let (flags, target) = match route {
            Route::Peer => (FLAG_PEER, clients[at ^ 1].peer),
            Route::Link => (0, clients[at].link),
            Route::Http => (0, clients[at].http),
        };
        let round =
            (0..DEPTH_MAX as u16).flat_map(|channel| request(flags, channel, target, PAYLOAD));
        Self { frames: round.collect::<Vec<_>>().repeat(2), next: 0 }
    }

    /// The next `count` messages.
    fn take(&mut self, count: usize) -> &[u8] {
        assert!(count <= DEPTH_MAX, "a window is one round");
        let frame = self.frames.len() / (2 * DEPTH_MAX);
        let from = self.next * frame;
        self.next = (self.next + count) % DEPTH_MAX;
        &self.frames[from..from + count * frame]
    }
}

impl Load {
    pub(crate) fn connect(gateway: SocketAddr, route: Route, clients: usize) -> Self {
        assert!(route != Route::Peer || clients.is_multiple_of(2), "peers come in pairs");
        let poll = Poll::new();
        let clients: Vec<_> =
            (1..=clients).map(|session| Client::connect(gateway, session as u128)).collect();
        for (id, client) in clients.iter().enumerate() {
            poll.watch(&client.stream, id);
        }
        let windows = (0..clients.len()).map(|at| Window::new(route, &clients, at)).collect();
        let allowed = vec![0; clients.len()];
        let mut this = Self { poll, route, clients, windows, allowed, acknowledged: 0 };
        this.await_backend();
        this
    }

    /// Runs until `messages` have arrived, each client with `depth` in flight.
    pub(crate) fn run(&mut self, messages: usize, depth: usize) {
        self.allowed.fill(depth);
        let mut left_to_send = messages;
        let mut left = messages;
        self.send_allowed(&mut left_to_send);
        while left > 0 {
            left -= self.take_arrived().min(left);
            self.send_allowed(&mut left_to_send);
        }
        self.await_quiet();
    }

    /// Sends at a steady rate for `duration`, one message each millisecond and client at most, and
    /// returns how many.
    pub(crate) fn run_at(&mut self, per_second: usize, duration: Duration) -> usize {
        self.allowed.fill(0);
        let begun = Instant::now();
        let (mut sent, mut arrived, mut next) = (0, 0, 0);
        while begun.elapsed() < duration || arrived < sent {
            let due = if begun.elapsed() < duration {
                (begun.elapsed().as_secs_f64() * per_second as f64) as usize
            } else {
                sent
            };
            while sent < due {
                self.send_one(next);
                next = (next + 1) % self.clients.len();
                sent += 1;
            }
            arrived += self.take_within(Duration::from_millis(1));
        }
        self.await_quiet();
        sent
    }

    /// Sends `batch` messages of the first client in one write and waits until all have arrived;
    /// `times` over.
    pub(crate) fn run_batches(&mut self, batch: usize, times: usize) {
        for _ in 0..times {
            self.clients[0].send(self.windows[0].take(batch));
            let (mut left, acknowledged) = (batch, self.acknowledged);
            while left > 0
                || (self.route == Route::Peer && self.acknowledged < acknowledged + batch)
            {
                left -= self.take_arrived();
            }
        }
    }

    /// Calls that find no backend yet are answered 60: asks until one is answered 0.
    fn await_backend(&mut self) {
        if self.route == Route::Peer {
            return;
        }
        let deadline = Instant::now() + PATIENCE;
        let mut code = None;
        while code != Some(0) {
            assert!(Instant::now() < deadline, "the backend does not answer: {code:?}");
            code = None;
            self.send_one(0);
            while code.is_none() && Instant::now() < deadline {
                self.clients[0].receive(|message| code = Some(message[15]));
            }
        }
    }

    fn send_one(&mut self, client: usize) {
        self.clients[client].send(self.windows[client].take(1));
    }

    fn send_allowed(&mut self, left: &mut usize) {
        for ((client, window), allowed) in
            self.clients.iter_mut().zip(&mut self.windows).zip(&mut self.allowed)
        {
            let count = (*allowed).min(*left);
            *allowed = 0;
            *left -= count;
            if count > 0 {
                client.send(window.take(count));
            }
        }
    }

    /// Waits for messages or acknowledgements and returns how many messages came; who got one may
    /// send one.
    fn take_arrived(&mut self) -> usize {
        let (deadline, acknowledged) = (Instant::now() + PATIENCE, self.acknowledged);
        loop {
            let arrived = self.take_within(Duration::from_millis(100));
            if arrived > 0 || self.acknowledged > acknowledged {
                return arrived;
            }
            assert!(Instant::now() < deadline, "messages are missing");
        }
    }

    fn take_within(&mut self, patience: Duration) -> usize {
        let mut arrived = 0;
        for id in self.poll.readable(patience) {
            let (mut messages, mut answers) = (0, 0);
            self.clients[id].receive(|message| {
                let answer = message[0] & FLAG_ANSWER != 0;
                assert!(!answer || message[15] == 0, "refused with code {}", message[15]);
                *(if answer { &mut answers } else { &mut messages }) += 1;
            });
            if self.route == Route::Peer {
                self.acknowledged += answers;
            } else {
                messages = answers;
            }
            self.allowed[id] += messages;
            arrived += messages;
        }
        arrived
    }

    /// Takes what still follows, such as acknowledgements.
    fn await_quiet(&mut self) {
        loop {
            let mut any = false;
            for id in self.poll.readable(Duration::from_millis(20)) {
                any = true;
                self.clients[id].receive(|_| {});
            }
            if !any {
                return;
            }
        }
    }
}
