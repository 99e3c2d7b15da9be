//! What is spoken inside the WebSocket, one file for each protocol. Bytes in, events out; which
//! message is whose, and what it means for the counts, is decided in `run`.

use crate::scenario::Scenario;
use crate::wire::frame::Opcode;

pub(crate) mod centrifugo;
pub(crate) mod corelane;
pub(crate) mod echo;
pub(crate) mod nats;
pub(crate) mod nchan;
#[cfg(test)]
pub(crate) mod sample;

/// The place of one connection in the load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seat<'a> {
    pub(crate) scenario: &'a Scenario,
    /// Of all connections of all generators: also the sender of its messages.
    pub(crate) number: u32,
    /// Pair or room; the connection itself where there is neither.
    pub(crate) group: u32,
    /// The other of a pair.
    pub(crate) partner: u32,
    /// Whether it sends to its group: in a room only the first does.
    pub(crate) sends: bool,
    pub(crate) token: Option<&'a str>,
}

/// Path and further header lines of the upgrade request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Upgrade {
    pub(crate) path: String,
    /// Each with its CR LF.
    pub(crate) fields: String,
}

/// What one message of the server says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Incoming<'a> {
    /// The connection is signed in.
    Ready,
    /// A payload that some sender stamped.
    Payload(&'a [u8]),
    /// The answer to the connection's own call of this number, or to its oldest if the protocol
    /// has no numbers.
    Answer { sequence: Option<u64>, payload: &'a [u8] },
    /// The call or message of this number is answered with an error.
    Refused { sequence: Option<u64>, code: u32 },
    /// An answer that contradicts itself.
    Wrong(&'static str),
    /// A message that the protocol wants sent back.
    SendBack(&'static [u8]),
}

/// One connection's side of a protocol.
pub(crate) trait Dialect: Sized + Send {
    const OPCODE: Opcode;
    /// Whether a sender gets its own messages to its group back.
    const HEARS_ITSELF: bool = false;

    fn new(seat: &Seat<'_>) -> Self;

    fn upgrade(&self, path: &str, seat: &Seat<'_>) -> Upgrade;

    /// Appends the first message after the 101; says whether the connection is ready without an
    /// answer. An empty message is not sent.
    fn greet(&mut self, seat: &Seat<'_>, out: &mut Vec<u8>) -> bool;

    /// Bytes of message `sequence` beside its payload.
    fn around(&self, sequence: u64) -> usize;

    fn put_before(&self, sequence: u64, out: &mut Vec<u8>);

    fn put_after(&self, out: &mut Vec<u8>);

    /// Tells `each` what a message says. An error ends the connection; its text is the kind.
    fn take(
        &mut self,
        message: &[u8],
        opcode: Opcode,
        each: &mut impl FnMut(Incoming<'_>),
    ) -> Result<(), String>;

    /// Answers keep the order of calls whose numbers are equal modulo this; 0 promises no order.
    fn lanes(&self) -> u64 {
        1
    }

    /// How others address this connection, once it is ready.
    fn own_name(&self) -> Option<[u8; 16]> {
        None
    }

    /// The session that the connection is of, as services know it, once it is ready.
    fn own_session(&self) -> Option<&str> {
        None
    }

    /// To whom this connection sends from now on.
    fn address_to(&mut self, _name: [u8; 16]) {}
}
