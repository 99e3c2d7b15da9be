//! One call of a client to a service, as the line of calls sees it.

use crate::clock::Instant;
use crate::id::ServiceId;
use crate::wire::header::ReplyTo;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// One at a time per channel.
    Http,
    /// At once, as far as credit reaches.
    Link,
}

/// Whether the client gets an answer. Event requests (0x10) get none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    Wanted,
    None,
}

/// Whether the session's window at the link takes one more message of this size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credit {
    Available,
    Exhausted,
}

/// A call that asks for its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    pub reply_to: ReplyTo,
    pub service: ServiceId,
    pub transport: Transport,
    pub reply: Reply,
    /// What the call occupies while it waits.
    pub bytes: usize,
    /// Of the whole call, waiting included.
    pub deadline: Instant,
}

/// Names one call of one connection. Never names a later call in the same place, so a late answer
/// is recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CallId(u32);

impl CallId {
    const INDEX_BITS: u32 = 12;
    /// Places that an id can name; one is kept free to mean "none".
    pub(super) const PLACES: usize = (1 << Self::INDEX_BITS) - 1;

    pub(super) fn new(index: u16, generation: u32) -> Self {
        Self(generation << Self::INDEX_BITS | u32::from(index))
    }

    pub(super) fn index(self) -> u16 {
        (self.0 & Self::PLACES as u32) as u16
    }

    pub(super) fn generation(self) -> u32 {
        self.0 >> Self::INDEX_BITS
    }

    pub(super) fn next_generation(generation: u32) -> u32 {
        (generation + 1) & (u32::MAX >> Self::INDEX_BITS)
    }
}

/// What becomes of a new call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    Dispatch(CallId),
    Wait(CallId),
    /// Answered 12 at once.
    Refused,
}

/// A waiting call whose turn has come, with the request that was kept for it.
#[derive(Debug, PartialEq, Eq)]
pub struct Dispatch<P> {
    pub id: CallId,
    pub call: Request,
    pub payload: P,
}

/// What becomes of a backend's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answered {
    /// Its turn: it is sent to the client now. Then [`super::Calls::pop_ready`].
    Leaves(ReplyTo),
    /// Nobody waits for it.
    Silent,
    /// Kept until the earlier calls of its channel are answered.
    Held,
    /// Too early and no room to keep it: 60 goes out in its place. Counted by the caller.
    Displaced,
    /// Its call has ended already. Counted by the caller.
    Late,
}

/// A call ended by the gateway.
#[derive(Debug, PartialEq, Eq)]
pub struct Failed<P> {
    /// The kept request of a call that had not been dispatched.
    pub payload: Option<P>,
    /// Set when the failure is to be sent now; otherwise it goes out in its place, or no answer
    /// was wanted.
    pub leaves: Option<ReplyTo>,
}

/// An answer whose turn has come after it was held.
#[derive(Debug, PartialEq, Eq)]
pub enum Ready<A> {
    Answer(ReplyTo, A),
    /// An answer without payload: the response code.
    Failure(ReplyTo, u8),
}

/// What [`super::Calls::drain`] hands back.
#[derive(Debug, PartialEq, Eq)]
pub enum Returned<P, A> {
    Request(P),
    Answer(A),
    /// Still at a backend; its answer will be [`Answered::Late`].
    Running(CallId),
}
