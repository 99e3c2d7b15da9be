//! Clients that break the rules on purpose, to be run beside good ones: slow readers, fragmenters,
//! those that send one byte at a time, and flooders. One thread, no hurry: they share a bound on
//! what they send, so that what the good ones suffer is the server's doing.
//!
//! Each has a session of the gateway with its default limits, is ended by it, notes how, and comes
//! back a while later.

mod budget;
mod connection;
mod life;
mod tally;

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::thread;
use std::time::{Duration, Instant};

use thiserror::Error;

use self::budget::Budget;
use self::connection::Connection;
pub use self::tally::{End, Row, Tally};
use crate::wire::handshake::Address;

/// How a client is bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persona {
    /// Sends one message in pieces of a byte, without an end.
    Fragmenter,
    /// Sends a request of single bytes, without an end.
    OneByte,
    /// Sends itself more than anybody keeps for it, and reads nothing until all of it is sent.
    SlowReader,
    /// Sends messages to nobody as fast as it may.
    Flooder,
}

impl Persona {
    /// Those first that need the least of what all may send together.
    pub const ALL: [Self; 4] = [Self::Fragmenter, Self::OneByte, Self::SlowReader, Self::Flooder];

    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::SlowReader => "slow reader",
            Self::Fragmenter => "fragmenter",
            Self::OneByte => "one byte at a time",
            Self::Flooder => "flooder",
        }
    }

    /// How a gateway that keeps what it documents ends such a client.
    #[must_use]
    pub fn deserves(self) -> End {
        match self {
            Self::SlowReader => End::Close(1013),
            Self::Fragmenter => End::Close(1009),
            Self::OneByte => End::Status(408),
            Self::Flooder => End::Close(4003),
        }
    }

    /// The least time between two lives of one client.
    fn period(self) -> Duration {
        match self {
            // Each moves ten megabytes.
            Self::SlowReader => Duration::from_secs(15),
            Self::Fragmenter | Self::OneByte | Self::Flooder => Duration::from_secs(1),
        }
    }
}

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// `ws://HOST:PORT/PATH` of the gateway, in the mode Relayed.
    pub url: String,
    /// One for each client of each persona.
    pub tokens: Vec<String>,
    /// Clients of each persona.
    pub each: NonZeroUsize,
    /// Messages, or pieces of them, a second, of all together.
    pub per_second: f64,
    /// How long clients come back for; those that are there then are waited for.
    pub duration: Duration,
}

/// Why nothing was done, or not all.
#[derive(Debug, Error)]
pub enum HostileError {
    #[error("{0:?} is not ws://HOST:PORT/PATH of a host that has an address")]
    Url(String),
    #[error(
        "{needed} bad clients need as many tokens and there are {given}: mint more with `corelane \
         token mint --count {needed}`"
    )]
    Tokens { needed: usize, given: usize },
    #[error("cannot connect to {0}: {1}; is the server up, and are there descriptors left?")]
    Connect(SocketAddr, #[source] io::Error),
}

/// Between two looks at all clients.
const TICK: Duration = Duration::from_millis(5);

/// For the last lives to end, once the time is up.
const PATIENCE: Duration = Duration::from_secs(20);

/// Until the time is up and everybody was ended, or the patience is.
pub fn run(plan: &Plan) -> Result<Tally, HostileError> {
    let address =
        Address::parse(&plan.url, "ws://").ok_or_else(|| HostileError::Url(plan.url.clone()))?;
    let each = plan.each.get();
    let (needed, given) = (each * Persona::ALL.len(), plan.tokens.len());
    if given < needed {
        return Err(HostileError::Tokens { needed, given });
    }
    let began = Instant::now();
    let births_end = began + plan.duration;
    let mut clients = crowd(plan, began);
    let mut budget = Budget::new(plan.per_second, began);
    let mut tally = Tally::default();
    for turn in 0.. {
        let now = Instant::now();
        let is_over = now >= births_end && clients.iter().all(|client| client.living.is_none());
        if is_over || now >= births_end + PATIENCE {
            break;
        }
        budget.refill(now);
        // The flooders share what the others leave; nobody is always first.
        let share = budget.share_of(each);
        let flooders = (needed - each..needed).cycle().skip(turn % each).take(each);
        for at in (0..needed - each).chain(flooders) {
            let client = &mut clients[at];
            let persona = client.persona;
            if now < births_end && client.comes_back(&address, now)? {
                tally.opened(persona);
            }
            let most = if persona == Persona::Flooder { share } else { usize::MAX };
            if let Some(end) = client.go_on(now, most, &mut budget) {
                tally.ended(persona, end);
            }
        }
        thread::sleep(TICK);
    }
    let left = clients.iter().filter(|client| client.living.is_some());
    left.for_each(|client| tally.never_ended(client.persona));
    Ok(tally)
}

/// All clients, flooders last; the first lives of a persona are spread over its period.
fn crowd(plan: &Plan, began: Instant) -> Vec<Client<'_>> {
    let each = plan.each.get();
    let mut tokens = plan.tokens.iter();
    let mut clients = Vec::new();
    for persona in Persona::ALL {
        let spread = persona.period().min(plan.duration / 2);
        for (number, token) in tokens.by_ref().take(each).enumerate() {
            let born_at = began + spread.mul_f64(number as f64 / each as f64);
            clients.push(Client { persona, token, living: None, born_at });
        }
    }
    clients
}

struct Client<'a> {
    persona: Persona,
    token: &'a str,
    living: Option<Connection>,
    /// When its next life may begin.
    born_at: Instant,
}

impl Client<'_> {
    /// Begins its next life if it is time; says whether it did.
    fn comes_back(&mut self, address: &Address, now: Instant) -> Result<bool, HostileError> {
        if self.living.is_some() || now < self.born_at {
            return Ok(false);
        }
        let opened = Connection::open(self.persona, address, self.token, now);
        self.living = Some(opened.map_err(|error| HostileError::Connect(address.socket, error))?);
        self.born_at = now + self.persona.period();
        Ok(true)
    }

    fn go_on(&mut self, now: Instant, most: usize, budget: &mut Budget) -> Option<End> {
        let end = self.living.as_mut()?.go_on(now, most, budget)?;
        self.living = None;
        Some(end)
    }
}
