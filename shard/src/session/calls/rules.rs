//! Which call may go to its backend: the rules for a new call and for one in the line.

use super::Calls;
use super::call::{Credit, Reply, Request, Transport};
use super::line::NONE;
use super::places::Entry;
use crate::id::ServiceId;
use crate::snapshot::SessionLimits;

impl<P, A> Calls<P, A> {
    pub(super) fn may_go_at_once(
        &self,
        call: &Request,
        line: Option<u16>,
        limits: &SessionLimits,
        credit: Credit,
    ) -> bool {
        let own_rule = match call.transport {
            Transport::Http => line.is_none_or(|l| self.lines[l].http_open == 0),
            Transport::Link => credit == Credit::Available && !self.link_waits_before(call, limits),
        };
        let first = line.is_none_or(|l| self.lines[l].head == NONE) || call.reply == Reply::None;
        own_rule && self.running < limits.calls_running_max && (first || self.may_pile_up(limits))
    }

    /// The rules of [`Self::may_go_at_once`] for a call in the line. HTTP calls of a channel never
    /// overtake each other.
    pub(super) fn may_go_now(
        &mut self,
        index: u16,
        limits: &SessionLimits,
        starved: &mut Starved,
        has_credit: &mut impl FnMut(&Request) -> bool,
    ) -> bool {
        let Entry { call, line, .. } = &self.places[index];
        let line = *line;
        let first = self.lines[line].head == index || call.reply == Reply::None;
        let room = first || self.may_pile_up(limits);
        match call.transport {
            Transport::Http => {
                let waits =
                    self.lines[line].http_running || self.lines[line].skipped == self.search;
                if waits || !room {
                    self.lines[line].skipped = self.search;
                    return false;
                }
                true
            }
            Transport::Link => {
                room && !starved.contains(call.service)
                    && (has_credit(call) || starved.add(call.service))
            }
        }
    }

    /// Whether one more call may go that is not the first of its channel. Without this bound,
    /// answers without number could pile up behind one slow call. The first of a channel always
    /// may: what is piled up waits for it.
    fn may_pile_up(&self, limits: &SessionLimits) -> bool {
        let gone = self.places.occupied() - self.waiting.len();
        gone < limits.calls_running_max + limits.answers_held_max
    }

    /// Whether a new link call would overtake one that waits for credit of the same service, or one
    /// of its own channel.
    fn link_waits_before(&self, new: &Request, limits: &SessionLimits) -> bool {
        let piled_up = !self.may_pile_up(limits);
        self.waiting.iter().any(|&index| {
            let Entry { call, line, .. } = &self.places[index];
            let first = self.lines[*line].head == index || call.reply == Reply::None;
            call.transport == Transport::Link
                && call.service == new.service
                && (first || !piled_up || call.reply_to.channel == new.reply_to.channel)
        })
    }
}

/// Services found without credit in one search; beyond these no further link call is considered.
const STARVED_MAX: usize = 8;

/// Services found without credit during one search.
#[derive(Default)]
pub(super) struct Starved {
    services: [Option<ServiceId>; STARVED_MAX],
}

impl Starved {
    /// With every entry taken, all services count as starved.
    fn contains(&self, service: ServiceId) -> bool {
        self.services.contains(&Some(service)) || self.services[STARVED_MAX - 1].is_some()
    }

    /// Always `false`: the call may not go.
    fn add(&mut self, service: ServiceId) -> bool {
        if let Some(free) = self.services.iter_mut().find(|s| s.is_none()) {
            *free = Some(service);
        }
        false
    }
}
