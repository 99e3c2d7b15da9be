//! The order of one connection's service calls: which may go to a backend now, which wait, and in
//! which order their answers leave. Moves no payload and reads no clock.
//!
//! A channel is an ordering domain: answers leave in request order per channel, whatever transport
//! brought them; channels do not wait for each other. An HTTP call waits for the earlier HTTP calls
//! of its channel; a link call goes at once. Answers that the gateway makes before a call is
//! admitted do not come here.

mod call;
mod line;
mod places;
mod rules;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

pub use call::{
    Admission, Answered, CallId, Credit, Dispatch, Failed, Ready, Reply, Request, Returned,
    Transport,
};
use line::{Lines, NONE};
use places::{Entry, Places, Stage};
use rules::Starved;

use crate::clock::Instant;
use crate::snapshot::SessionLimits;
use crate::wire::header::ReplyTo;

/// The open calls of one connection; attached to it only while there are any, and pooled between
/// two tenants, so that a warm shard allocates nothing.
///
/// `P` is a request kept while it waits, `A` an answer held for its turn. Each is handed back
/// exactly once.
///
/// Bounds ([`SessionLimits`]): running `<= calls_running_max`; waiting `<= calls_waiting_max` and
/// `<= calls_waiting_bytes_max`; held `<= answers_held_max` and `<= answers_held_bytes_max`; all
/// calls together `<= calls_waiting_max + 2 * calls_running_max + answers_held_max`.
#[derive(Debug)]
pub struct Calls<P, A> {
    places: Places<P, A>,
    lines: Lines,
    /// Waiting calls in request order.
    waiting: VecDeque<u16>,
    /// Lines whose first call has been answered. Emptied by [`Self::pop_ready`].
    ready: Vec<u16>,
    running: usize,
    waiting_bytes: usize,
    held: usize,
    held_bytes: usize,
    /// Number of the last search in [`Self::next_to_dispatch`].
    search: u32,
}

/// Calls that a fresh [`Calls`] takes before it grows.
const COMMON_CALLS: usize = 8;

/// Response code of a call whose answer could not be kept: the backend failed.
const BACKEND_FAILED: u8 = 60;

impl<P, A> Default for Calls<P, A> {
    fn default() -> Self {
        Self {
            places: Places::with_capacity(COMMON_CALLS),
            lines: Lines::with_capacity(COMMON_CALLS),
            waiting: VecDeque::with_capacity(COMMON_CALLS),
            ready: Vec::with_capacity(COMMON_CALLS),
            running: 0,
            waiting_bytes: 0,
            held: 0,
            held_bytes: 0,
            search: 0,
        }
    }
}

impl<P, A> Calls<P, A> {
    /// No call is open: may be given back to its pool.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.places.occupied() == 0
    }

    /// Places that this one has grown to: a pool keeps those that stayed small.
    #[must_use]
    pub fn places(&self) -> usize {
        self.places.len()
    }

    #[must_use]
    pub fn running(&self) -> usize {
        self.running
    }

    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Gives a new call its place. `credit` matters for link calls alone. `keep` stores the request
    /// and is called only when the call has to wait; `None` from it refuses the call.
    pub fn admit(
        &mut self,
        call: Request,
        limits: &SessionLimits,
        credit: Credit,
        keep: impl FnOnce() -> Option<P>,
    ) -> Admission {
        if self.places.occupied() >= places_max(limits) {
            return Admission::Refused;
        }
        let line = self.lines.find(call.reply_to.channel);
        if self.may_go_at_once(&call, line, limits, credit) {
            let index = self.enter(call, line, Stage::Running);
            self.start(index);
            return Admission::Dispatch(self.places.id(index));
        }
        if self.waiting.len() >= limits.calls_waiting_max
            || self.waiting_bytes + call.bytes > limits.calls_waiting_bytes_max
        {
            return Admission::Refused;
        }
        let Some(payload) = keep() else {
            return Admission::Refused;
        };
        self.waiting_bytes += call.bytes;
        let index = self.enter(call, line, Stage::Waiting(payload));
        self.waiting.push_back(index);
        Admission::Wait(self.places.id(index))
    }

    /// The next waiting call that may go now. To be called until `None` whenever a call has ended
    /// or credit has come. `has_credit` is asked for link calls, once per service without credit.
    pub fn next_to_dispatch(
        &mut self,
        limits: &SessionLimits,
        mut has_credit: impl FnMut(&Request) -> bool,
    ) -> Option<Dispatch<P>> {
        if self.waiting.is_empty() || self.running >= limits.calls_running_max {
            return None;
        }
        self.search = self.search.wrapping_add(1);
        let mut starved = Starved::default();
        let mut position = 0;
        while let Some(&index) = self.waiting.get(position) {
            if self.may_go_now(index, limits, &mut starved, &mut has_credit) {
                self.waiting.remove(position);
                return self.dispatch(index);
            }
            position += 1;
        }
        None
    }

    /// A backend has answered the call, or has taken an event request that it will not answer.
    /// `keep` stores the answer (`bytes` long) and is called only when it must wait for its turn;
    /// `None` from it displaces the answer.
    pub fn answered(
        &mut self,
        id: CallId,
        bytes: usize,
        limits: &SessionLimits,
        keep: impl FnOnce() -> Option<A>,
    ) -> Answered {
        let Some(index) = self.places.find(id) else {
            return Answered::Late;
        };
        if !matches!(self.places[index].stage, Stage::Running) {
            return Answered::Late;
        }
        self.stop(index);
        let line = self.places[index].line;
        if self.places[index].call.reply == Reply::None {
            self.leave(index);
            return Answered::Silent;
        }
        if self.lines[line].head == index {
            return Answered::Leaves(self.release_head(line));
        }
        let fits = self.held < limits.answers_held_max
            && self.held_bytes + bytes <= limits.answers_held_bytes_max;
        let Some(answer) = fits.then(keep).flatten() else {
            self.places[index].stage = Stage::Failed(BACKEND_FAILED);
            return Answered::Displaced;
        };
        self.held += 1;
        self.held_bytes += bytes;
        self.places[index].stage = Stage::Held(answer, bytes);
        Answered::Held
    }

    /// Ends the call with a response code and no payload: a time-out, an unreachable backend, an
    /// error status. `None` if it has ended already. Then [`Self::pop_ready`].
    pub fn fail(&mut self, id: CallId, code: u8) -> Option<Failed<P>> {
        let index = self.places.find(id)?;
        let payload = match self.places[index].stage {
            Stage::Running => {
                self.stop(index);
                None
            }
            Stage::Waiting(_) => self.withdraw(index),
            Stage::Free | Stage::Held(..) | Stage::Failed(_) => return None,
        };
        let line = self.places[index].line;
        let leaves = if self.places[index].call.reply == Reply::None {
            self.leave(index);
            None
        } else if self.lines[line].head == index {
            Some(self.release_head(line))
        } else {
            self.places[index].stage = Stage::Failed(code);
            None
        };
        Some(Failed { payload, leaves })
    }

    /// The next answer whose turn has come. To be called until `None` after an answer has left.
    pub fn pop_ready(&mut self) -> Option<Ready<A>> {
        let line = self.ready.pop()?;
        let head = self.lines[line].head;
        let stage = std::mem::replace(&mut self.places[head].stage, Stage::Free);
        let reply_to = self.release_head(line);
        match stage {
            Stage::Held(answer, bytes) => {
                self.held -= 1;
                self.held_bytes -= bytes;
                Some(Ready::Answer(reply_to, answer))
            }
            Stage::Failed(code) => Some(Ready::Failure(reply_to, code)),
            Stage::Free | Stage::Waiting(_) | Stage::Running => {
                unreachable!("only answered calls make their line ready")
            }
        }
    }

    /// When the next call must be answered at the latest.
    #[must_use]
    pub fn earliest_deadline(&self) -> Option<Instant> {
        self.places.unanswered().map(|(_, entry)| entry.call.deadline).min()
    }

    /// A call, waiting or running, whose deadline has passed; to be failed.
    #[must_use]
    pub fn expired(&self, now: Instant) -> Option<CallId> {
        let (index, _) = self.places.unanswered().find(|(_, e)| e.call.deadline <= now)?;
        Some(self.places.id(index))
    }

    /// The request of an open call.
    #[must_use]
    pub fn request(&self, id: CallId) -> Option<&Request> {
        self.places.find(id).map(|index| &self.places[index].call)
    }

    /// Ends all calls and hands back whatever was kept. Leaves `self` as new, but with its storage
    /// and with ids that do not repeat those of before.
    pub fn drain(&mut self, mut each: impl FnMut(Returned<P, A>)) {
        self.places.clear(&mut each);
        self.lines.clear();
        self.waiting.clear();
        self.ready.clear();
        self.running = 0;
        self.waiting_bytes = 0;
        self.held = 0;
        self.held_bytes = 0;
    }

    fn enter(&mut self, call: Request, line: Option<u16>, stage: Stage<P, A>) -> u16 {
        let line = self.lines.join(line, call.reply_to.channel);
        let index = self.places.occupy(Entry::new(call, line, stage));
        let at = &mut self.lines[line];
        if call.transport == Transport::Http {
            at.http_open += 1;
        }
        if call.reply == Reply::Wanted {
            match std::mem::replace(&mut at.tail, index) {
                NONE => at.head = index,
                before => self.places[before].next = index,
            }
        }
        index
    }

    fn dispatch(&mut self, index: u16) -> Option<Dispatch<P>> {
        let entry = &mut self.places[index];
        let call = entry.call;
        let Stage::Waiting(payload) = std::mem::replace(&mut entry.stage, Stage::Running) else {
            unreachable!("the waiting line holds waiting calls alone")
        };
        self.waiting_bytes -= call.bytes;
        self.start(index);
        Some(Dispatch { id: self.places.id(index), call, payload })
    }

    /// Takes a call out of the waiting line.
    fn withdraw(&mut self, index: u16) -> Option<P> {
        self.waiting.retain(|&waiting| waiting != index);
        let entry = &mut self.places[index];
        self.waiting_bytes -= entry.call.bytes;
        if entry.call.transport == Transport::Http {
            self.lines[entry.line].http_open -= 1;
        }
        match std::mem::replace(&mut entry.stage, Stage::Running) {
            Stage::Waiting(payload) => Some(payload),
            Stage::Free | Stage::Running | Stage::Held(..) | Stage::Failed(_) => None,
        }
    }

    fn start(&mut self, index: u16) {
        self.running += 1;
        let entry = &self.places[index];
        if entry.call.transport == Transport::Http {
            self.lines[entry.line].http_running = true;
        }
    }

    fn stop(&mut self, index: u16) {
        self.running -= 1;
        let entry = &self.places[index];
        if entry.call.transport == Transport::Http {
            self.lines[entry.line].http_running = false;
            self.lines[entry.line].http_open -= 1;
        }
    }

    /// Takes the first call out of its line's order and frees its place.
    fn release_head(&mut self, line: u16) -> ReplyTo {
        let index = self.lines[line].head;
        let Entry { next, call, .. } = &self.places[index];
        let (next, reply_to) = (*next, call.reply_to);
        self.lines[line].head = next;
        if next == NONE {
            self.lines[line].tail = NONE;
        } else if self.places[next].stage.is_answered() {
            self.ready.push(line);
        }
        self.leave(index);
        reply_to
    }

    fn leave(&mut self, index: u16) {
        let line = self.places.free(index);
        self.lines.leave(line);
    }
}

/// Places that the bounds of [`Calls`] add up to.
fn places_max(limits: &SessionLimits) -> usize {
    let bound = limits.calls_waiting_max + 2 * limits.calls_running_max + limits.answers_held_max;
    bound.min(CallId::PLACES)
}
