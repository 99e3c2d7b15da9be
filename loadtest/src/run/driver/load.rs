//! The life of a sending thread: connections are opened, the load runs, what is missing is waited
//! for, and everything is closed.

use std::iter::Peekable;
use std::thread;
use std::time::Duration;

use rustix::event::epoll;

use super::super::RunError;
use super::super::intervals::Intervals;
use super::super::line::Phase;
use super::super::plan::Word;
use super::super::tally::{Measured, Part};
use super::{Driver, EVENTS, Found, clock};
use crate::protocol::Dialect;
use crate::scenario::{Placement, Traffic};
use crate::schedule::{Schedule, Share};

/// While nothing is due, the thread looks this often whether the run goes on.
const LOOK_NS: u64 = 5_000_000;
/// For close frames to be answered at the end.
const GOODBYE_NS: u64 = 1_000_000_000;

type Events = Vec<epoll::Event>;

impl<'a, D: Dialect> Driver<'a, D> {
    /// The whole run of this thread.
    pub(crate) fn run(mut self) -> Result<Found, RunError> {
        let mut events = Vec::with_capacity(EVENTS);
        let id = rustix::thread::gettid().as_raw_nonzero().get() as u32;
        self.tell(Word::Begun { thread: self.thread, id });
        self.open_all(&mut events)?;
        self.tell(Word::Opened);
        if let Some(start) = self.await_start(&mut events)? {
            self.load(start, &mut events)?;
            self.leave(&mut events)?;
        }
        self.settle();
        // The main thread reads of this one what only /proc tells, and only while it lives.
        while !self.plan.progress.is_sampled() {
            thread::sleep(Duration::from_nanos(LOOK_NS));
        }
        let Self { tally, opener, busy, .. } = self;
        Ok(Found { tally, first_failure: opener.first_failure, busy })
    }

    fn tell(&self, word: Word) {
        // Without a main thread there is nobody to tell, and the run is over anyway.
        drop(self.plan.to_main.send(word));
    }

    fn open_all(&mut self, events: &mut Events) -> Result<(), RunError> {
        let places = self.lines.len();
        match self.plan.scenario.traffic {
            Traffic::Connect { .. } => return Ok(()),
            Traffic::Peer {
                placement: wanted @ (Placement::SameShard | Placement::CrossShard),
            } => {
                self.open_on_shards(wanted, events)?;
            }
            _ => {
                self.opener.waiting.extend((0..places).map(|at| (at, None)));
                self.open_waiting(events)?;
            }
        }
        if matches!(self.plan.scenario.traffic, Traffic::Peer { .. }) {
            self.introduce_pairs();
        } else {
            for at in 0..places {
                self.flows[at].alive =
                    self.is_ready(at) && self.seats[at].sends && self.plan.sends_messages();
            }
        }
        Ok(())
    }

    /// Until every connection that is waiting is ready or has failed.
    pub(crate) fn open_waiting(&mut self, events: &mut Events) -> Result<(), RunError> {
        while !self.opener.is_idle() && !self.plan.progress.is_abandoned() {
            self.turn(events, clock::now() + LOOK_NS)?;
        }
        Ok(())
    }

    /// Each of a pair learns how to address the other.
    fn introduce_pairs(&mut self) {
        for at in 0..self.lines.len() {
            let partner = at ^ 1;
            if !self.is_ready(at) || !self.is_ready(partner) {
                continue;
            }
            let name = self.lines[partner].as_ref().and_then(|line| line.dialect.own_name());
            if let (Some(line), Some(name)) = (&mut self.lines[at], name) {
                line.dialect.address_to(name);
            }
            self.flows[at].alive = true;
        }
    }

    pub(crate) fn is_ready(&self, at: usize) -> bool {
        self.lines[at].as_ref().is_some_and(|line| line.phase == Phase::Ready)
    }

    fn await_start(&mut self, events: &mut Events) -> Result<Option<u64>, RunError> {
        loop {
            if self.plan.progress.is_abandoned() {
                return Ok(None);
            }
            let now = clock::now();
            match self.plan.progress.start() {
                Some(start) if now >= start => return Ok(Some(start)),
                start => {
                    let look = now + LOOK_NS;
                    self.turn(events, start.map_or(look, |start| start.min(look)))?;
                }
            }
        }
    }

    fn load(&mut self, start: u64, events: &mut Events) -> Result<(), RunError> {
        let timing = &self.plan.scenario.timing;
        let horizon = timing.warm_up + timing.duration;
        let measured_from = start + clock::nanoseconds(timing.warm_up);
        let end = start + clock::nanoseconds(horizon);
        let patience = clock::nanoseconds(timing.patience).max(1_000_000);
        self.tally.measured = Measured { from: measured_from, until: end };
        self.sending_until = if self.tally.open_loop { end + patience } else { end };
        let mut intervals = Intervals::new(start, timing);
        let mut plan = self.planned(horizon).peekable();
        let break_at = self.begin_load(start, horizon);
        let mut plan_start = break_at.unwrap_or(start);
        let mut breaks = break_at;
        let mut sweep_at = start + patience;
        let mut usage = None;
        loop {
            let now = clock::now();
            self.pass_intervals(&mut intervals, now);
            if usage.is_none() && now >= measured_from {
                usage = Some((now, clock::on_cpu()));
            }
            if now >= end {
                break;
            }
            if breaks.is_some_and(|at| now >= at) {
                breaks = None;
                self.break_all();
                plan_start = clock::now();
            }
            if now >= sweep_at {
                self.sweep();
                sweep_at = now + patience;
            }
            let next_due = match breaks {
                Some(at) => at,
                None => self.take_due(&mut plan, &mut plan_start, now),
            };
            let wake_at = next_due.min(intervals.next()).min(sweep_at).min(end);
            self.turn(events, wake_at)?;
        }
        if let Some((since, on_cpu)) = usage {
            let elapsed = clock::now().saturating_sub(since).max(1);
            self.busy = (clock::on_cpu() - on_cpu) as f64 / elapsed as f64;
        }
        // Everything planned has been due by now, however late this thread is.
        self.take_due(&mut plan, &mut plan_start, end);
        self.drain(end, patience, sweep_at, intervals.last(), events)
    }

    /// This thread's part of the plan.
    fn planned(&self, horizon: Duration) -> Share<'a> {
        let scenario = self.plan.scenario;
        let mut whole = Schedule::new(&scenario.arrival, horizon, scenario.generator.seed);
        match scenario.traffic {
            Traffic::Hold | Traffic::Push => whole = whole.cut_at(0),
            Traffic::Reconnect { .. } => {
                // The second half, as far as it takes for each connection to come back.
                let half = clock::nanoseconds(horizon) / 2;
                whole = whole.cut_at(half);
            }
            _ => {}
        }
        Share::new(whole, self.plan.layout.deal(), self.thread)
    }

    /// Puts everything in the state in which the load begins; says when all connections are reset.
    fn begin_load(&mut self, start: u64, horizon: Duration) -> Option<u64> {
        let open_loop = self.tally.open_loop;
        let most = match self.plan.window() {
            Some(window) if !open_loop => self.plan.layout.part(window as usize, self.thread),
            _ => usize::MAX,
        };
        match self.plan.scenario.traffic {
            Traffic::Connect { .. } => {
                self.opener.without_pace(most);
                self.opener.free = Some((0..self.lines.len()).rev().collect());
                self.opener.endless = !open_loop;
                None
            }
            Traffic::Reconnect { times, .. } => {
                self.opener.without_pace(most);
                self.opener.breaks_left = times.saturating_sub(1);
                Some(start + clock::nanoseconds(horizon) / 2)
            }
            _ => {
                let alive = (0..self.flows.len()).filter(|&at| self.flows[at].alive);
                for at in alive.collect::<Vec<_>>() {
                    self.mark_dirty(at);
                }
                None
            }
        }
    }

    /// Gives everything that is due to its connection; says when the next is. The plan began at
    /// `start`, and stands still while connections are reset.
    fn take_due(&mut self, plan: &mut Peekable<Share<'_>>, start: &mut u64, now: u64) -> u64 {
        while let Some(due) = plan.peek() {
            let intended = *start + due.offset;
            if intended > now {
                self.opener.hold_comers();
                return intended;
            }
            if self.opener.breaks_left > 0 && self.opener.returned == self.lines.len() {
                let begun = clock::now();
                self.opener.breaks_left -= 1;
                self.opener.returned = 0;
                self.break_all();
                *start += clock::now() - begun;
                continue;
            }
            let sender = due.sender;
            plan.next();
            let measured = u64::from(self.tally.measured.contains(intended));
            self.tally.messages.planned += measured;
            match self.plan.scenario.traffic {
                Traffic::Connect { .. } => self.opener.comers.push_back((intended, false)),
                Traffic::Reconnect { .. } if self.opener.returned < self.lines.len() => {
                    self.opener.returned += 1;
                    self.opener.waiting.push_back((sender, Some(intended)));
                }
                Traffic::Reconnect { .. } => self.tally.messages.planned -= measured,
                _ => {
                    let at = self.plan.layout.place_of_sender(sender);
                    self.flows[at].queue.push_back(intended);
                    self.mark_dirty(at);
                }
            }
        }
        self.opener.hold_comers();
        u64::MAX
    }

    /// All connections are reset at once, but for those that have not come back yet; without a plan
    /// they come back as fast as they may.
    fn break_all(&mut self) {
        for at in 0..self.lines.len() {
            if self.is_ready(at) {
                self.reset(at);
            }
            if !self.tally.open_loop {
                self.opener.waiting.push_back((at, None));
            }
        }
    }

    fn pass_intervals(&mut self, intervals: &mut Intervals, now: u64) {
        while now >= intervals.next() {
            let next = Part { index: intervals.advance(), ..Part::default() };
            let part = std::mem::replace(&mut self.tally.part, next);
            self.tell(Word::Part(part));
        }
    }

    /// What was sent a while ago and has not come no longer holds its sender's window.
    fn sweep(&mut self) {
        for at in 0..self.flows.len() {
            if self.flows[at].is_overdue() {
                let missing = self.missing_of(at, self.flows[at].sweep_end());
                self.flows[at].sweep(missing);
                self.mark_dirty(at);
            }
            self.flows[at].set_mark();
        }
    }

    /// Copies of the first `end` messages of `sender` that have not come.
    fn missing_of(&self, sender: usize, end: u64) -> u64 {
        if end == 0 {
            return 0; // perhaps no sender at all
        }
        let listeners = match self.plan.scenario.traffic {
            Traffic::Broadcast { .. } => sender + 1..sender + self.plan.layout.group,
            Traffic::Peer { .. } => sender ^ 1..(sender ^ 1) + 1,
            _ => sender..sender + 1,
        };
        self.receptions[listeners].iter().map(|r| r.track.missing_below(end)).sum()
    }

    /// Sends what the window still holds, and waits for what is missing.
    fn drain(
        &mut self,
        end: u64,
        patience: u64,
        mut sweep_at: u64,
        last_interval: usize,
        events: &mut Events,
    ) -> Result<(), RunError> {
        const CHECK_NS: u64 = 2_000_000;
        self.opener.endless = false;
        self.opener.waiting.retain(|(_, intended)| intended.is_some());
        let mut unanswered = self.is_something_missing();
        let mut check_at = 0;
        loop {
            let now = clock::now();
            if now >= check_at {
                unanswered = self.is_something_missing();
                check_at = now + CHECK_NS;
            }
            if !unanswered || now >= self.last_send.max(end) + patience {
                break;
            }
            if now >= sweep_at && now < self.sending_until {
                self.sweep();
                sweep_at = now + patience;
            }
            self.turn(events, check_at)?;
        }
        let rest = std::mem::take(&mut self.tally.part);
        if !rest.is_nothing() {
            self.tell(Word::Part(Part { index: last_interval, ..rest }));
        }
        Ok(())
    }

    fn is_something_missing(&mut self) -> bool {
        (0..self.flows.len()).for_each(|at| self.learn_published(at));
        let publishes = self.plan.published.as_ref();
        let flows = self.flows.iter();
        !self.opener.is_idle()
            || publishes.is_some_and(|published| !published.is_complete())
            || flows.enumerate().any(|(at, flow)| {
                let stands = flow.alive || (publishes.is_some() && self.is_ready(at));
                (flow.alive && !flow.queue.is_empty())
                    || (flow.sent > 0 && stands && self.lost_of(at) > 0)
            })
    }

    /// Copies of a sender's messages that came in no form.
    fn lost_of(&self, at: usize) -> u64 {
        let flow = &self.flows[at];
        // Refusals of one's own calls are in the track; those of relayed messages are not.
        let refused = if self.expectation.relayed { flow.refused } else { 0 };
        self.missing_of(at, flow.sent).saturating_sub(flow.nameless + refused)
    }

    /// The counts that need the whole run.
    fn settle(&mut self) {
        for at in 0..self.flows.len() {
            self.learn_published(at);
            let lost = self.lost_of(at);
            let flow = &self.flows[at];
            self.tally.messages.expected += flow.sent * flow.copies;
            self.tally.messages.lost += lost;
            self.tally.messages.unsent += flow.queue.len() as u64;
            let (came, gaps) = self.receptions[at].pushed();
            self.tally.messages.expected += came + gaps;
            self.tally.messages.lost += gaps;
        }
        self.tally.messages.unsent += (self.opener.comers.len() + self.opener.waiting.len()) as u64;
    }

    /// Close frames, their answers, and resets for those who do not answer in time.
    fn leave(&mut self, events: &mut Events) -> Result<(), RunError> {
        self.leaving = true;
        self.opener.waiting.clear();
        for at in 0..self.lines.len() {
            if self.is_ready(at) {
                self.say_goodbye(at);
            } else {
                self.reset(at);
            }
        }
        let until = clock::now() + GOODBYE_NS;
        while self.lines.iter().any(Option::is_some) && clock::now() < until {
            self.turn(events, until)?;
        }
        for at in 0..self.lines.len() {
            self.reset(at);
        }
        Ok(())
    }
}
