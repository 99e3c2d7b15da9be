//! The ledger of events: many are published to sessions whose clients, gateways and stores are killed,
//! frozen and started again, and every one of them is accounted for.
//!
//! `LEDGER_SEED=n` repeats the script of a run, `LEDGER_SCALE=10` makes one ten times as long.

#[expect(dead_code, reason = "each test takes the part of the harness that it needs")]
#[path = "../gateway_process/mod.rs"]
mod gateway_process;
#[expect(dead_code, reason = "each test takes the part of the services that it needs")]
#[path = "../services/mod.rs"]
mod services;

#[path = "../event_ledger/mod.rs"]
mod event_ledger;
mod script;
mod stage;

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use self::event_ledger::book::Entries;
use self::event_ledger::crowd::Crowd;
use self::event_ledger::player::{Player, Tally};
use self::script::{Act, Fault, OF_A_CLUSTER, OF_ONE_GATEWAY, Shape, acts};
use self::stage::{Links, Persistence, Stage};

/// Events that a session is behind at most before more are published to it: well below what is kept
/// for one that is away, so that nothing is lost for want of room.
const BEHIND: u64 = 200;

/// How long a run waits for something to read.
const A_MOMENT: Duration = Duration::from_millis(5);

/// So many events are published before the clients are looked at.
const AT_ONCE: u64 = 32;

struct Run<'a> {
    stage: Stage,
    crowd: Crowd,
    /// What was broken so far, also for whoever looks when it has failed.
    faults: &'a mut Vec<Fault>,
}

/// What is left of a run.
struct Result {
    entries: Entries,
    tally: Tally,
    faults: usize,
}

impl<'a> Run<'a> {
    fn new(stage: Stage, sessions: usize, faults: &'a mut Vec<Fault>) -> Self {
        let crowd = Crowd::new(sessions, stage.doors().len(), stage.publisher());
        Self { stage, crowd, faults }
    }

    fn play(mut self, acts: impl Iterator<Item = Act>) -> Result {
        let sessions = self.crowd.players.len();
        // A session's events are kept from when it is open as its store sees it.
        self.wait_until("every session is open", |run| {
            run.crowd.is_known() && run.stage.knows(sessions)
        });
        for act in acts {
            self.act(act);
        }
        self.wait_until("everything is mended, and everybody back", |run| {
            run.stage.is_whole() && run.crowd.is_there()
        });
        self.crowd.publish_last();
        self.wait_until("the last event of each session", |run| run.crowd.book.is_complete());
        let (entries, tally) = (self.crowd.book.balance(), self.crowd.tally());
        Result { entries, tally, faults: self.faults.len() }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Publish(session) => {
                self.wait_until("a session catches up", |run| {
                    run.crowd.book.outstanding(session) < BEHIND
                });
                self.crowd.publish(session);
                if self.crowd.published.is_multiple_of(AT_ONCE) {
                    self.pump(Duration::ZERO);
                }
            }
            Act::Kill(session) => self.crowd.players[session].kill(),
            Act::Break(fault, gateway) => {
                self.wait_until("the last fault is mended", |run| run.stage.is_whole());
                self.faults.push(fault);
                self.stage.apply(fault, gateway);
                // Half of those who would notice nothing are away while it lasts, or move on.
                match fault {
                    Fault::KillClients | Fault::RestartRedis | Fault::KillRedis => {
                        self.kill_half(|_| true);
                    }
                    Fault::FreezeGateway => self.kill_half(|player| player.is_at(gateway)),
                    _ => {}
                }
            }
        }
    }

    fn kill_half(&mut self, of: impl Fn(&Player) -> bool) {
        self.crowd.players.iter_mut().filter(|it| of(it)).step_by(2).for_each(Player::kill);
    }

    fn pump(&mut self, wait: Duration) {
        let stage = &mut self.stage;
        self.crowd.pump(wait, || {
            stage.mend();
            stage.doors()
        });
    }

    fn wait_until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        self.crowd.begin_wait();
        while !holds(self) {
            self.pump(A_MOMENT);
            assert!(
                !self.crowd.is_stuck(),
                "nothing moves before {what}: {}\n{}",
                self.crowd.book.balance(),
                self.stage.last_words()
            );
        }
    }
}

/// Prints the seed before and the result behind it. Why a run has failed is said last: the services show
/// long logs when they go.
#[expect(clippy::print_stdout, reason = "the ledger is what the test is for")]
fn play(stage: impl FnOnce() -> Stage, shape: &Shape) -> Result {
    let seed = variable("LEDGER_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("LEDGER_SEED={seed}: {shape:?}");
    let mut faults = Vec::new();
    let played = catch_unwind(AssertUnwindSafe(|| {
        Run::new(stage(), shape.sessions, &mut faults).play(acts(seed, shape))
    }));
    let result = played.unwrap_or_else(|panic| {
        let why = panic.downcast_ref::<String>().map_or("see above", String::as_str);
        println!("LEDGER_SEED={seed} has failed behind the faults {faults:?}: {why}");
        resume_unwind(panic)
    });
    println!("{}\n{:?}, faults {}", result.entries, result.tally, result.faults);
    result
}

fn variable(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")))
}

/// Of runs that are as long as they are asked to be.
fn scale() -> u64 {
    variable("LEDGER_SCALE").unwrap_or(1)
}

/// Nothing is lost, doubled or misdirected; whether gaps may be told is another question.
fn assert_balanced(result: &Result, shape: &Shape) {
    let Entries { lost, duplicated, silent_gaps, foreign, .. } = result.entries;
    assert_eq!((lost, duplicated, silent_gaps, foreign), (0, 0, 0, 0));
    assert_eq!(result.entries.published, shape.events + shape.sessions as u64);
    assert_eq!(result.faults, shape.faults);
    // What was to be survived has happened.
    let Tally { kills, by_token, by_jwt, .. } = result.tally;
    let least = shape.events / 200;
    assert!(kills > least && by_token > least / 4 && by_jwt > least / 4, "{:?}", result.tally);
    assert!(result.entries.repeated > 0, "nothing was under way when a client was killed");
}

fn assert_no_gap_was_told(result: &Result) {
    assert_eq!((result.entries.told_gaps, result.entries.told), (0, 0));
    assert_eq!(result.entries.delivered, result.entries.published);
    assert_eq!(result.entries.reordered, 0);
}

#[test]
fn one_gateway_loses_nothing_of_clients_that_are_killed() {
    let shape =
        Shape { sessions: 50, events: 10_000, faults: 5, kinds: OF_ONE_GATEWAY, gateways: 1 };
    let result = play(Stage::of_one, &shape);
    assert_balanced(&result, &shape);
    assert_no_gap_was_told(&result);
}

fn cluster() -> Shape {
    Shape {
        sessions: 200,
        events: 100_000 * scale(),
        faults: 30 * scale() as usize,
        kinds: OF_A_CLUSTER,
        gateways: 2,
    }
}

#[test]
fn a_cluster_loses_nothing_of_whatever_is_killed_frozen_or_restarted() {
    let shape = cluster();
    let result = play(|| Stage::of_a_cluster(shape.gateways, Persistence::On, Links::Full), &shape);
    assert_balanced(&result, &shape);
    assert_no_gap_was_told(&result);
}

#[test]
fn a_cluster_whose_redis_forgets_tells_every_gap() {
    let shape = Shape { events: 20_000 * scale(), faults: 9 * scale() as usize, ..cluster() };
    let result =
        play(|| Stage::of_a_cluster(shape.gateways, Persistence::Off, Links::None), &shape);
    assert_balanced(&result, &shape);
    let Entries { told_gaps, reordered, .. } = result.entries;
    assert!(told_gaps > 0, "a Redis that forgets leaves gaps");
    assert_eq!(reordered, 0);
}
