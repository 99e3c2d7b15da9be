//! One sending thread: its connections, its epoll, its counts. Here is the turn of the loop; what
//! is done with what it finds is in the modules below.
//!
//! ```text
//! opening   connections are made, signed in, paired
//! load      what is due is sent; what comes is counted
//! receiving bytes of a socket become messages
//! sending   messages become bytes of a socket
//! ```
//!
//! Each turn waits once for all sockets, then costs one `recv`, one `send` and one reading of the
//! clock for each that has something.
//!
//! Why epoll: with 64 connections and 16 messages of 200 bytes in flight on each, a loop of this
//! shape that does nothing else moved 1.62 M messages a second against `null_echo`, and one over
//! io_uring (multishot receives into provided buffers, sends queued in the ring) 1.53 M: medians of
//! five pairs on a busy machine whose single runs differ by 20 %. With one batch per system call
//! the network stack is the cost, not the call; a ring would bring buffers that the kernel owns,
//! and nothing else.

mod load;
mod opening;
mod placing;
mod receiving;
mod sending;

use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;

use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::thread::{CpuSet, sched_setaffinity, set_current_timer_slack};

use self::opening::Opener;
use super::ear::{Expectation, Reception};
use super::flow::Flow;
use super::line::{Ended, Line, Phase, Records};
use super::plan::Plan;
use super::tally::Tally;
use super::{RunError, clock, socket};
use crate::protocol::{Dialect, Seat};
use crate::scenario::Traffic;
use crate::schedule::Random;
use crate::wire::event;

/// Bytes that one `recv` may bring. Carried bytes of a long frame make it grow.
const RECEIVE_BYTES: usize = 256 << 10;
const EVENTS: usize = 512;

pub(crate) struct Driver<'a, D> {
    plan: &'a Plan<'a>,
    thread: usize,
    epoll: OwnedFd,
    /// These six have one entry for each of the thread's places.
    lines: Vec<Option<Line<D>>>,
    flows: Vec<Flow>,
    receptions: Vec<Reception>,
    seats: Vec<Seat<'a>>,
    /// To whose messages each listens; the sender of a room listens to nobody.
    from_numbers: Vec<Option<u32>>,
    /// Counts the connections a place has had, so that a late event of an old one is known.
    generations: Vec<u32>,
    expectation: Expectation,
    tally: Tally,
    opener: Opener,
    buffer: Vec<u8>,
    records: Records,
    /// What goes out on the connection that is at hand.
    out: Vec<u8>,
    /// Places with something to send that is not the answer to what they just received.
    dirty: VecDeque<usize>,
    is_dirty: Vec<bool>,
    masks: Random,
    /// Until when messages may be sent.
    sending_until: u64,
    last_send: u64,
    /// Share of a processor, once the measurement is over.
    busy: f64,
    /// The run is over: connections that end now are ended by us.
    leaving: bool,
}

/// What a thread has found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) tally: Tally,
    /// Why the first connection failed, if one did.
    pub(crate) first_failure: Option<String>,
    /// Share of a processor that this thread used during the measurement.
    pub(crate) busy: f64,
}

impl<'a, D: Dialect> Driver<'a, D> {
    pub(crate) fn new(plan: &'a Plan<'a>, thread: usize) -> Result<Self, RunError> {
        prepare_thread(plan, thread)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(io("epoll"))?;
        let seats: Vec<_> =
            plan.layout.of_thread(thread).into_iter().map(|place| plan.seat(place)).collect();
        let places = seats.len();
        let scenario = plan.scenario;
        let receptions: Vec<_> =
            (0..places).map(|at| new_reception::<D>(plan, &seats, at)).collect();
        let in_room = matches!(scenario.traffic, Traffic::Broadcast { .. });
        let from_number = |(at, reception): (usize, &Reception)| {
            (!in_room || reception.from != at).then_some(seats[reception.from].number)
        };
        Ok(Self {
            plan,
            thread,
            epoll,
            lines: (0..places).map(|_| None).collect(),
            flows: seats.iter().map(|_| new_flow(plan)).collect(),
            from_numbers: receptions.iter().enumerate().map(from_number).collect(),
            receptions,
            generations: vec![0; places],
            expectation: expectation::<D>(plan),
            tally: Tally { open_loop: scenario.is_open_loop(), ..Tally::default() },
            opener: Opener::new(plan, thread),
            buffer: vec![0; RECEIVE_BYTES],
            records: Records::default(),
            out: Vec::with_capacity(64 << 10),
            dirty: VecDeque::with_capacity(places),
            is_dirty: vec![false; places],
            masks: Random::new(scenario.generator.seed ^ (thread as u64) << 32),
            sending_until: 0,
            last_send: 0,
            busy: 0.0,
            leaving: false,
            seats,
        })
    }

    /// Waits until something happens or `wake_at`, and does what is to be done then.
    fn turn(&mut self, events: &mut Vec<epoll::Event>, wake_at: u64) -> Result<(), RunError> {
        let now = clock::now();
        let wake_at = wake_at.min(self.open_more(now));
        self.flush_dirty();
        events.clear();
        let wait = if self.dirty.is_empty() { wake_at.saturating_sub(clock::now()) } else { 0 };
        match epoll::wait(&self.epoll, spare_capacity(events), Some(&clock::timespec(wait))) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(source) => {
                return Err(RunError::Io { what: "epoll".to_owned(), source: source.into() });
            }
        }
        for event in events.drain(..) {
            let data = event.data.u64();
            let (at, generation) = (data as u32 as usize, (data >> 32) as u32);
            if self.generations[at] != generation {
                continue;
            }
            let flags = event.flags;
            if let Err(ended) = self.handle(at, flags) {
                self.end(at, &ended);
            }
        }
        Ok(())
    }

    #[inline]
    fn handle(&mut self, at: usize, flags: epoll::EventFlags) -> Result<(), Ended> {
        let Some(line) = &self.lines[at] else {
            return Ok(());
        };
        if line.phase == Phase::Connecting {
            return self.connected(at);
        }
        if flags.contains(epoll::EventFlags::OUT) {
            self.writable(at)?;
        }
        if flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR)
        {
            self.readable(at)?;
        }
        Ok(())
    }

    /// The connection at `at` is no more, and not because we wanted it.
    #[cold]
    fn end(&mut self, at: usize, ended: &Ended) {
        let is_reset = ended.0 == socket::RESET;
        let told = if is_reset { self.last_words(at).err() } else { None };
        let told = told.filter(|Ended(kind)| kind.starts_with("closed"));
        let Some(mut line) = self.drop_line(at) else {
            return;
        };
        let Ended(kind) = told.as_ref().unwrap_or(ended);
        if line.phase == Phase::Closing || self.leaving {
            line.say_goodbye(&mut self.records);
            return; // its end was asked for
        }
        if line.phase == Phase::Ready {
            self.tally.connections.lost += 1;
        } else {
            self.tally.connections.failed += 1;
            self.opener.first_failure.get_or_insert_with(|| kind.clone());
        }
        self.tally.error(kind);
    }

    /// Takes the connection at `at` out of every account but the counts.
    fn drop_line(&mut self, at: usize) -> Option<Line<D>> {
        let line = self.lines[at].take()?;
        self.generations[at] = self.generations[at].wrapping_add(1);
        self.flows[at].alive = false;
        if line.phase.is_opening() {
            self.opener.under_way -= 1;
        }
        self.opener.vacated(at);
        Some(line)
    }

    /// Resets the connection at `at`.
    fn reset(&mut self, at: usize) {
        if let Some(line) = self.drop_line(at) {
            socket::reset_on_close(&line.socket);
        }
    }

    fn event_data(&self, at: usize) -> epoll::EventData {
        epoll::EventData::new_u64(u64::from(self.generations[at]) << 32 | at as u64)
    }

    /// What was published for the connection counts as sent by it.
    #[inline]
    fn learn_published(&mut self, at: usize) {
        if let Some(published) = &self.plan.published {
            self.flows[at].sent = published.records(self.place(at));
        }
    }

    /// Of the connection at `at`, in the whole.
    fn place(&self, at: usize) -> usize {
        let first = self.plan.scenario.generator.first_sender;
        self.seats[at].number.wrapping_sub(first) as usize
    }

    fn mark_dirty(&mut self, at: usize) {
        if !std::mem::replace(&mut self.is_dirty[at], true) {
            self.dirty.push_back(at);
        }
    }
}

/// The calling thread is punctual, and where it belongs.
pub(super) fn prepare_thread(plan: &Plan<'_>, thread: usize) -> Result<(), RunError> {
    // Timers otherwise fire up to 50 µs late.
    set_current_timer_slack(NonZeroU64::new(1)).map_err(io("timer slack"))?;
    pin(plan, thread).map_err(io("pinning a thread to its processor"))
}

fn io(what: &str) -> impl FnOnce(Errno) -> RunError {
    let what = what.to_owned();
    move |source| RunError::Io { what, source: source.into() }
}

fn pin(plan: &Plan<'_>, thread: usize) -> Result<(), Errno> {
    let cpus = &plan.scenario.generator.cpus;
    if cpus.is_empty() {
        return Ok(());
    }
    let mut set = CpuSet::new();
    set.set(cpus[thread % cpus.len()]);
    sched_setaffinity(None, &set)
}

fn new_flow(plan: &Plan<'_>) -> Flow {
    let copies = match plan.scenario.traffic {
        Traffic::Broadcast { .. } => plan.layout.group as u64 - 1,
        _ => 1,
    };
    Flow::new(copies, plan.window(), plan.answers_are_stamped())
}

fn new_reception<D: Dialect>(plan: &Plan<'_>, seats: &[Seat<'_>], at: usize) -> Reception {
    let from = match plan.scenario.traffic {
        Traffic::Peer { .. } => at ^ 1,
        Traffic::Broadcast { .. } => at / plan.layout.group * plan.layout.group,
        _ => at,
    };
    Reception::new(from, D::new(&seats[at]).lanes())
}

fn expectation<D: Dialect>(plan: &Plan<'_>) -> Expectation {
    let traffic = &plan.scenario.traffic;
    Expectation {
        first_number: plan.scenario.generator.first_sender,
        connections: plan.layout.places as u32,
        answers_echo: plan.answers_are_stamped(),
        pushed: matches!(traffic, Traffic::Push) && plan.published.is_none(),
        relayed: matches!(traffic, Traffic::Peer { .. } | Traffic::Broadcast { .. }),
        hears_itself: D::HEARS_ITSELF,
        payload_bytes: match plan.published {
            Some(_) => plan.scenario.payload_bytes - event::AROUND,
            None => plan.scenario.payload_bytes,
        },
    }
}
