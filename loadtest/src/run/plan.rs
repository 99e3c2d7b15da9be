//! What all threads of a run share: the scenario, the address, who sits where, and the few words
//! that main thread and sending threads exchange.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;

use super::publishing::Published;
use super::tally::{Measured, Part};
use crate::protocol::Seat;
use crate::scenario::{Arrival, Protocol, Ready, Reply, Scenario, Traffic};
use crate::schedule::Deal;
use crate::wire::handshake::Address;
use crate::wire::tls;

/// One run as its threads see it.
pub(crate) struct Plan<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) address: Address,
    /// Of all connections, for `wss://`.
    pub(crate) tls: Option<tls::Client>,
    pub(crate) admin: Option<Address>,
    pub(crate) tokens: &'a [String],
    pub(crate) layout: Layout,
    pub(crate) progress: Progress,
    /// What is published for the connections, if this generator publishes.
    pub(crate) published: Option<Published>,
    pub(crate) to_main: SyncSender<Word>,
}

/// What a sending thread tells the main thread.
pub(crate) enum Word {
    /// The thread runs; `id` is the kernel's.
    Begun {
        thread: usize,
        id: u32,
    },
    /// Everything that is opened before the load stands, or has failed.
    Opened,
    /// The backlog is with the brokers.
    Filled,
    Part(Part),
}

/// Counters that the threads read from each other while they go on.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(crate) ready: AtomicU64,
    /// The backlog may be published.
    filling: AtomicBool,
    /// When the load begins; 0 as long as that is not known.
    start: AtomicU64,
    abandoned: AtomicBool,
    /// One of the threads has ended.
    ended: AtomicBool,
    /// The main thread has seen of the threads what it needs.
    sampled: AtomicBool,
    /// Held by the one thread that opens connections whose shards must be known.
    pub(crate) opening_in_turn: std::sync::Mutex<()>,
}

impl Progress {
    pub(crate) fn fill(&self) {
        self.filling.store(true, Ordering::Release);
    }

    pub(crate) fn is_filling(&self) -> bool {
        self.filling.load(Ordering::Acquire)
    }

    pub(crate) fn begin_at(&self, start: u64) {
        self.start.store(start, Ordering::Release);
    }

    pub(crate) fn start(&self) -> Option<u64> {
        Some(self.start.load(Ordering::Acquire)).filter(|&start| start > 0)
    }

    pub(crate) fn set_sampled(&self) {
        self.sampled.store(true, Ordering::Release);
    }

    pub(crate) fn is_sampled(&self) -> bool {
        self.sampled.load(Ordering::Acquire)
    }

    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// There will be no load.
    pub(crate) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Acquire)
    }
}

/// Which connections there are, in groups that stay on one thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Connections, or places for them where they come and go.
    pub(crate) places: usize,
    /// Connections of a pair or room; 1 where there is neither.
    pub(crate) group: usize,
    /// Of each group.
    senders: usize,
    pub(crate) threads: usize,
}

impl Layout {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        let count = scenario.connections.count;
        let (group, senders, places) = match scenario.traffic {
            Traffic::Peer { .. } => (2, 2, count / 2 * 2),
            // The gateway's broadcast reaches every session: there is one room.
            Traffic::Broadcast { .. } if scenario.target.protocol == Protocol::Corelane => {
                (count, 1, count)
            }
            Traffic::Broadcast { members } => {
                let members = members.clamp(1, count.max(1));
                (members, 1, count / members * members)
            }
            Traffic::Connect { .. } => (1, 1, count.max(in_flight(scenario))),
            _ => (1, 1, count),
        };
        let threads = scenario.generator.threads.max(1);
        Self { places, group: group.max(1), senders, threads }
    }

    fn groups(self) -> usize {
        self.places / self.group
    }

    /// How events are dealt: those of the plan go to the senders in turn.
    pub(crate) fn deal(self) -> Deal {
        let senders = self.groups() * self.senders;
        Deal { senders, group: self.senders, threads: self.threads }
    }

    /// The place among a thread's connections of its sender number `sender`.
    #[inline]
    pub(crate) fn place_of_sender(self, sender: usize) -> usize {
        sender / self.senders * self.group + sender % self.senders
    }

    /// The connections of `thread`: their places in the whole.
    pub(crate) fn of_thread(self, thread: usize) -> Vec<usize> {
        (thread..self.groups())
            .step_by(self.threads)
            .flat_map(|group| group * self.group..(group + 1) * self.group)
            .collect()
    }

    /// A thread's part of `whole`, at least 1.
    pub(crate) fn part(self, whole: usize, thread: usize) -> usize {
        ((whole + self.threads - 1 - thread) / self.threads).max(1)
    }
}

fn in_flight(scenario: &Scenario) -> usize {
    match scenario.arrival {
        Arrival::Closed { in_flight } => in_flight as usize,
        _ => 0,
    }
}

impl<'a> Plan<'a> {
    /// The seat of the connection at `place` of the whole.
    pub(crate) fn seat(&self, place: usize) -> Seat<'a> {
        let Layout { group, senders, .. } = self.layout;
        let first = self.scenario.generator.first_sender;
        let number = |place: usize| first.wrapping_add(place as u32);
        Seat {
            scenario: self.scenario,
            number: number(place),
            group: number(place / group),
            partner: number(place ^ 1),
            sends: place % group < senders,
            token: self.tokens.get(place).map(String::as_str),
        }
    }

    /// Messages (or connections) of one sender that may be under way; nothing is no bound.
    pub(crate) fn window(&self) -> Option<u32> {
        match self.scenario.arrival {
            Arrival::Closed { in_flight } => Some(in_flight),
            Arrival::Backlog { .. } => None,
            Arrival::Constant { window, .. }
            | Arrival::Poisson { window, .. }
            | Arrival::Burst { window, .. }
            | Arrival::Ramp { window, .. }
            | Arrival::Replay { window, .. } => window,
        }
    }

    /// Whether connections send messages at all.
    pub(crate) fn sends_messages(&self) -> bool {
        matches!(
            self.scenario.traffic,
            Traffic::Echo | Traffic::Call { .. } | Traffic::Peer { .. } | Traffic::Broadcast { .. }
        )
    }

    pub(crate) fn answers_are_stamped(&self) -> bool {
        !matches!(self.scenario.traffic, Traffic::Call { reply: Reply::Any, .. })
    }

    /// Whether the opening of a connection that was to begin at `intended` is timed: where openings
    /// are the load, those of the measurement; otherwise all, which come before it.
    pub(crate) fn times_openings(&self, intended: u64, measured: Measured) -> bool {
        match self.scenario.traffic {
            Traffic::Connect { .. } | Traffic::Reconnect { .. } => measured.contains(intended),
            _ => true,
        }
    }

    /// Whether a connection counts at the 101 already.
    pub(crate) fn ready_at_upgrade(&self) -> bool {
        matches!(
            self.scenario.traffic,
            Traffic::Connect { ready: Ready::Upgraded, .. }
                | Traffic::Reconnect { ready: Ready::Upgraded, .. }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::sample::scenario;
    use crate::scenario::Placement;

    fn layout(traffic: Traffic, count: usize, threads: usize) -> Layout {
        let mut scenario = scenario(traffic);
        scenario.connections.count = count;
        scenario.generator.threads = threads;
        Layout::new(&scenario)
    }

    #[test]
    fn pairs_and_rooms_stay_on_one_thread() {
        let pairs = layout(Traffic::Peer { placement: Placement::Any }, 7, 2);
        assert_eq!(pairs.of_thread(0), [0, 1, 4, 5]);
        assert_eq!(pairs.of_thread(1), [2, 3]);
        let rooms = layout(Traffic::Broadcast { members: 3 }, 9, 2);
        assert_eq!(rooms.of_thread(0), [0, 1, 2, 6, 7, 8]);
        assert_eq!(rooms.place_of_sender(1), 3);
    }

    #[test]
    fn senders_of_the_deal_sit_where_the_layout_says() {
        for (traffic, count) in [
            (Traffic::Echo, 7),
            (Traffic::Peer { placement: Placement::Any }, 12),
            (Traffic::Broadcast { members: 4 }, 20),
        ] {
            let layout = layout(traffic, count, 3);
            let deal = layout.deal();
            for sender in 0..deal.senders {
                let (thread, local) = deal.place(sender);
                let place = layout.of_thread(thread)[layout.place_of_sender(local)];
                assert_eq!(place, layout.place_of_sender(sender));
            }
        }
    }
}
