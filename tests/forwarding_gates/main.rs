//! What forwarding a message may cost, held to numbers with the real engine over loopback: heap
//! allocations, payload copies and `io_uring_enter` calls. Every gate is also shown to fail when
//! one such cost is planted.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test may fail, and shows its figures"
)]

mod counting;
#[path = "../harness/mod.rs"]
mod harness;
mod references;
mod sabotage;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use corelane_shard::probe::Probe;
use corelane_shard::pump::TurnObserver;

use counting::{Counting, Counts, Tally};
use harness::backend;
use harness::drive::{Load, Route};
use harness::gateway::{Backends, Gateway};
use sabotage::{Plant, Saboteur};

const CLIENTS: usize = 64;
const IN_FLIGHT: usize = 16;
const MESSAGES: usize = 1_000_000;
const WARM_UP: usize = 20_000;
/// For a cost that is planted to be found.
const PLANTED: usize = 20_000;

/// Of glommio, per second of a shard's thread.
const RUNTIME_ALLOCATIONS_PER_SECOND: f64 = 200.0;

const ENTERS_PER_MESSAGE: f64 = 0.1;

/// A neighbour who takes the processor from clients or backends makes turns smaller, and nothing
/// makes them larger than the traffic: the least of a few runs is what the route costs.
const ATTEMPTS: usize = 5;
const ATTEMPT: usize = 200_000;

/// For the option that waits for more, in the test of its effect.
const BATCH_WINDOW: Duration = Duration::from_micros(500);

/// The gates measure what a thread does in a while: one at a time.
static MACHINE: Mutex<()> = Mutex::new(());

/// One shard under watch, with clients on one route.
struct Bench {
    load: Load,
    gateway: Gateway,
    counts: &'static Counts,
    saboteur: Saboteur,
}

/// What a number of messages has cost the shard.
#[derive(Debug, Clone, Copy)]
struct Cost {
    messages: u64,
    seconds: f64,
    thread: Tally,
    copies: u64,
    /// Of the shard's own ring, as it counts them itself.
    ring_enters: u64,
}

impl Bench {
    fn new(route: Route, clients: usize) -> Self {
        Self::with_window(route, clients, None)
    }

    fn with_window(route: Route, clients: usize, window: Option<Duration>) -> Self {
        let counts: &'static Counts = Box::leak(Box::default());
        let saboteur = Saboteur::default();
        let observer = saboteur.clone();
        let watch = move |probe: Arc<Probe>| -> Box<dyn TurnObserver + Send> {
            Box::new(observer.around(Counting(counts), probe))
        };
        let backends = match route {
            Route::Peer => Backends::default(),
            Route::Link => Backends { link: Some(backend::link()), http: None },
            Route::Http => Backends { http: Some(backend::http()), link: None },
        };
        let gateway = Gateway::start(vec![Some(Box::new(watch))], backends, window);
        let load = Load::connect(gateway.address, route, clients);
        Self { load, gateway, counts, saboteur }
    }

    fn cost_of(&mut self, traffic: impl FnOnce(&mut Load) -> usize) -> Cost {
        let probe = &self.gateway.probes[0];
        let before = (self.counts.read(), probe.payload_copies.read(), probe.ring_enters.read());
        let begun = Instant::now();
        let messages = traffic(&mut self.load) as u64;
        Cost {
            messages,
            seconds: begun.elapsed().as_secs_f64(),
            thread: self.counts.read() - before.0,
            copies: probe.payload_copies.read() - before.1,
            ring_enters: probe.ring_enters.read() - before.2,
        }
    }

    /// Brings every pool and queue to the most that this traffic can need: all that is in flight
    /// meets in one turn, several times over.
    fn warm_up(&mut self) {
        self.saboteur.plant(Plant::Stall, (CLIENTS * IN_FLIGHT) as u64);
        self.saturated(WARM_UP);
        self.saboteur.plant(Plant::Stall, 0);
        self.saturated(WARM_UP);
    }

    fn saturated(&mut self, messages: usize) -> Cost {
        self.cost_of(|load| {
            load.run(messages, IN_FLIGHT);
            messages
        })
    }
}

impl Cost {
    fn enters_per_message(&self) -> f64 {
        self.thread.enters as f64 / self.messages as f64
    }

    fn runtime_allocations_per_second(&self) -> f64 {
        self.thread.allocations_outside as f64 / self.seconds
    }

    fn allocation_gate(&self) -> Result<(), String> {
        match self.thread.allocations_inside {
            0 => Ok(()),
            count => Err(format!("{count} allocations in turns: {self:?}")),
        }
    }

    fn runtime_gate(&self) -> Result<(), String> {
        let rate = self.runtime_allocations_per_second();
        if rate <= RUNTIME_ALLOCATIONS_PER_SECOND {
            return Ok(());
        }
        Err(format!("{rate:.0} allocations a second outside turns: {self:?}"))
    }

    fn enter_gate(&self) -> Result<(), String> {
        assert!(self.thread.enters >= self.ring_enters, "every enter is seen: {self:?}");
        let enters = self.enters_per_message();
        if enters <= ENTERS_PER_MESSAGE {
            return Ok(());
        }
        Err(format!("{enters:.3} enters a message: {self:?}"))
    }

    fn copy_gate(&self, per_message: u64) -> Result<(), String> {
        if self.copies == per_message * self.messages {
            return Ok(());
        }
        Err(format!("{} copies, not {per_message} a message: {self:?}", self.copies))
    }
}

fn alone<T>(test: impl FnOnce() -> T) -> T {
    let _guard = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    test()
}

/// A million messages in full flow: no allocation in a turn, few enters. Then the same shard with
/// one allocation, and with one enter, planted for every so many messages.
fn saturated_route(route: Route) {
    alone(|| {
        let mut bench = Bench::new(route, CLIENTS);
        bench.warm_up();
        let cost = bench.saturated(MESSAGES);
        println!(
            "{route:?}: {:.3} enters a message ({:.3} of the shard's ring), {:.0} allocations a \
             second by the runtime, {:.0} messages a second",
            cost.enters_per_message(),
            cost.ring_enters as f64 / cost.messages as f64,
            cost.runtime_allocations_per_second(),
            cost.messages as f64 / cost.seconds,
        );
        cost.allocation_gate().unwrap();
        cost.runtime_gate().unwrap();
        let mut fewest = cost;
        for _ in 1..ATTEMPTS {
            if fewest.enter_gate().is_ok() {
                break;
            }
            let again = bench.saturated(ATTEMPT);
            again.allocation_gate().unwrap();
            if again.enters_per_message() < fewest.enters_per_message() {
                fewest = again;
            }
        }
        fewest.enter_gate().unwrap();

        bench.saboteur.plant(Plant::Allocation, PLANTED as u64 / 2);
        let planted = bench.saturated(PLANTED);
        planted.allocation_gate().expect_err("a planted allocation is found");
        bench.saboteur.plant(Plant::Enter, 10);
        let planted = bench.saturated(PLANTED);
        planted.enter_gate().expect_err("a planted enter for every ten messages is found");
    });
}

#[test]
fn a_million_peer_messages_cost_no_allocation_and_few_enters() {
    saturated_route(Route::Peer);
}

#[test]
fn a_million_link_calls_cost_no_allocation_and_few_enters() {
    saturated_route(Route::Link);
}

#[test]
fn a_million_http_calls_cost_no_allocation_and_few_enters() {
    saturated_route(Route::Http);
}

/// Answers of HTTP backends come one by one; a shard that may wait for more of them turns less.
#[test]
fn a_batch_window_makes_enters_fewer_where_answers_trickle_in() {
    alone(|| {
        let cost = |window| {
            let mut bench = Bench::with_window(Route::Http, CLIENTS, window);
            bench.warm_up();
            bench.cost_of(|load| load.run_at(20_000, Duration::from_secs(2))).enters_per_message()
        };
        let (without, with) = (cost(None), cost(Some(BATCH_WINDOW)));
        assert!(
            with < without * 0.8,
            "{with:.3} enters a message with a window, {without:.3} without"
        );
    });
}

/// The runtime's allocations come from its timers, not from messages: ten times the messages, the
/// same number within a tenth of what is allowed.
#[test]
fn the_runtime_allocates_by_the_clock_and_not_by_the_message() {
    alone(|| {
        let mut bench = Bench::new(Route::Peer, CLIENTS);
        bench.warm_up();
        let [slow, fast] = [2_000, 20_000].map(|rate| {
            let cost = bench.cost_of(|load| load.run_at(rate, Duration::from_secs(3)));
            cost.runtime_gate().unwrap();
            cost.runtime_allocations_per_second()
        });
        println!("runtime: {slow:.1} and {fast:.1} allocations a second");
        assert!(
            (slow - fast).abs() <= RUNTIME_ALLOCATIONS_PER_SECOND / 10.0,
            "{slow:.1} a second at the low rate, {fast:.1} at the high one"
        );
    });
}

const LONE: usize = 2_000;
const BATCH: usize = 8;

/// Copies of messages that come one by one, and of batches.
fn copies(route: Route) -> (Cost, Cost) {
    let mut bench = Bench::new(route, 2);
    bench.load.run_batches(1, 100);
    let lone = bench.cost_of(|load| {
        load.run_batches(1, LONE);
        LONE
    });
    let batched = bench.cost_of(|load| {
        load.run_batches(BATCH, LONE / BATCH);
        LONE / BATCH * BATCH
    });
    (lone, batched)
}

#[test]
fn a_lone_peer_message_is_not_copied_and_coalesced_ones_once() {
    alone(|| {
        let (lone, batched) = copies(Route::Peer);
        lone.copy_gate(0).unwrap();
        batched.copy_gate(1).unwrap();
    });
}

/// One copy is the request's, masked on its way; coalesced answers are copied once more.
#[test]
fn a_lone_link_answer_is_not_copied_and_coalesced_ones_once() {
    alone(|| {
        let (lone, batched) = copies(Route::Link);
        lone.copy_gate(1).unwrap();
        batched.copy_gate(2).unwrap();
    });
}

/// One copy is the request's, behind the head that was written for it.
#[test]
fn a_lone_http_answer_is_not_copied() {
    alone(|| {
        let (lone, _) = copies(Route::Http);
        lone.copy_gate(1).unwrap();
    });
}

#[test]
fn one_pair_of_messages_among_lone_ones_is_seen_as_copies() {
    alone(|| {
        let mut bench = Bench::new(Route::Peer, 2);
        bench.load.run_batches(1, 100);
        let cost = bench.cost_of(|load| {
            load.run_batches(1, LONE / 2);
            load.run_batches(2, 1);
            load.run_batches(1, LONE / 2);
            LONE + 2
        });
        cost.copy_gate(0).expect_err("a planted copy is found");
        assert_eq!(cost.copies, 2);
    });
}
