//! Clients that break the rules on purpose, to be run beside good ones: slow readers, flooders,
//! fragmenters and those that send one byte at a time. One thread, no hurry: they share a bound on
//! what they send, so that what the good ones suffer is the server's doing.
//!
//! They speak to a path that echoes and asks for no credential. Each is ended by the server, notes
//! how, and comes back.

mod connection;
mod tally;

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use thiserror::Error;

use self::connection::{Connection, Progress};
pub use self::tally::{End, Row, Tally};
use crate::wire::handshake::Address;

/// How a client is bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persona {
    /// Asks for much and reads nothing, until the server has said its last word.
    SlowReader,
    /// Sends Pings as fast as it may.
    Flooder,
    /// Sends one message in pieces of a byte, without an end.
    Fragmenter,
    /// Sends its request a byte a second.
    OneByte,
}

impl Persona {
    pub const ALL: [Self; 4] = [Self::SlowReader, Self::Flooder, Self::Fragmenter, Self::OneByte];

    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::SlowReader => "slow reader",
            Self::Flooder => "flooder",
            Self::Fragmenter => "fragmenter",
            Self::OneByte => "one byte at a time",
        }
    }

    /// How a server that keeps what it documents ends such a client.
    #[must_use]
    pub fn deserves(self) -> End {
        match self {
            Self::SlowReader => End::Close(1013),
            Self::Flooder | Self::Fragmenter => End::Close(1008),
            Self::OneByte => End::Status(408),
        }
    }
}

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// `ws://HOST:PORT/PATH` of an echo route.
    pub url: String,
    /// Clients of each persona.
    pub each: usize,
    /// Frames a second, of all together.
    pub per_second: f64,
    pub duration: Duration,
}

/// Why nothing was done, or not all.
#[derive(Debug, Error)]
pub enum HostileError {
    #[error("{0:?} is not ws://HOST:PORT/PATH of a host that has an address")]
    Url(String),
    #[error("cannot connect to {0}: {1}; is the server up, and are there descriptors left?")]
    Connect(SocketAddr, #[source] io::Error),
    #[error("cannot wait for sockets: {0}")]
    Wait(#[source] io::Error),
}

/// Longest pause of the loop: one that waits for its second byte is not forgotten.
const PAUSE: Duration = Duration::from_millis(10);

/// Until the time is up.
pub fn run(plan: &Plan) -> Result<Tally, HostileError> {
    let address =
        Address::parse(&plan.url, "ws://").ok_or_else(|| HostileError::Url(plan.url.clone()))?;
    let open = |persona| Connection::open(persona, &address);
    let refused = |error| HostileError::Connect(address.socket, error);
    let mut tally = Tally::default();
    let personas = Persona::ALL.iter().flat_map(|persona| vec![*persona; plan.each]);
    let mut clients = personas.map(open).collect::<Result<Vec<_>, _>>().map_err(refused)?;
    clients.iter().for_each(|client| tally.opened(client.persona()));
    let began = Instant::now();
    let mut budget = Budget::new(plan.per_second);
    // Whoever is first has the most of the budget: that goes around.
    let mut first = 0;
    while began.elapsed() < plan.duration {
        connection::wait(&clients, PAUSE).map_err(HostileError::Wait)?;
        let now = Instant::now();
        budget.refill(now);
        first += 1;
        for at in 0..clients.len() {
            let at = (first + at) % clients.len();
            let client = &mut clients[at];
            if let Progress::Ended(end) = client.go_on(now, &mut budget.left) {
                tally.ended(client.persona(), end);
                *client = open(client.persona()).map_err(refused)?;
                tally.opened(client.persona());
            }
        }
    }
    clients.iter().for_each(|client| tally.left_open(client.persona()));
    Ok(tally)
}

/// Frames that may still be sent, at most a tenth of a second's worth.
struct Budget {
    per_second: f64,
    left: f64,
    filled: Instant,
}

impl Budget {
    fn new(per_second: f64) -> Self {
        Self { per_second, left: 0.0, filled: Instant::now() }
    }

    fn refill(&mut self, now: Instant) {
        let since = now.duration_since(self.filled).as_secs_f64();
        self.left = (self.left + since * self.per_second).min(self.per_second / 10.0);
        self.filled = now;
    }
}
