//! The shard's thread: a glommio executor whose one pump task owns the ring and drives the engine.
//!
//! The pump sleeps inside the private ring, never through glommio, whose reactor turn costs more than
//! a message. glommio's reactor gets a turn now and then: often while there is work, seldom while the
//! shard is parked, which is a sleep without a heartbeat.

use std::io;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::pin::Pin;
use std::time::Duration;

use glommio::io::BufferedFile;
use glommio::{LocalExecutorBuilder, Placement};
use rustix::event::{EventfdFlags, eventfd};
use rustix::time::{ClockId, clock_gettime};

use crate::clock::{Instant, Now};
use crate::engine::Engine;
use crate::lane::Park;
use crate::ring::Uring;
use crate::sockets::Wait;

/// Bounds the lateness of timers while the shard is busy.
const HEARTBEAT: Duration = Duration::from_millis(5);

/// How long nothing must happen before the thread parks.
const PARK_AFTER: Duration = Duration::from_millis(50);

/// How often glommio's reactor runs while the pump is busy.
const REACTOR_EVERY: Duration = Duration::from_millis(100);

/// And how often it runs at least while nothing happens.
const REACTOR_WITHIN: Duration = Duration::from_secs(1);

/// glommio 0.9 can park with runnable tasks; any pending timer bounds that stall.
const GUARD: Duration = Duration::from_millis(20);

/// How long a spinning shard polls before it sleeps.
const SPIN: Duration = Duration::from_micros(50);

/// glommio's own registered memory; its sockets and files are not used on the data path.
const GLOMMIO_IO_MEMORY: usize = 64 << 10;

/// How a shard's thread waits for work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pace {
    /// CPU to run on; `None` leaves it to the scheduler.
    pub cpu: Option<usize>,
    /// Polls for a while before sleeping: half the latency for a core that is never idle.
    pub spin: bool,
}

/// Told when a shard's thread begins and ends work of its own (a turn, or an exchange with the
/// kernel); everything between an end and the next beginning is glommio's. For measurement.
pub trait TurnObserver {
    fn entering(&mut self);
    fn leaving(&mut self);
}

/// Watches nothing, at no cost.
#[derive(Debug, Clone, Copy, Default)]
struct Unobserved;

impl TurnObserver for Unobserved {
    fn entering(&mut self) {}
    fn leaving(&mut self) {}
}

impl TurnObserver for Box<dyn TurnObserver> {
    fn entering(&mut self) {
        (**self).entering();
    }

    fn leaving(&mut self) {
        (**self).leaving();
    }
}

/// The clocks of this machine, as the core takes them.
#[must_use]
pub fn sample_clocks() -> Now {
    let mono = clock_gettime(ClockId::Monotonic);
    let real = clock_gettime(ClockId::Realtime);
    Now {
        mono: Instant(mono.tv_sec as u64 * 1_000_000_000 + mono.tv_nsec as u64),
        unix_ms: real.tv_sec as u64 * 1000 + real.tv_nsec as u64 / 1_000_000,
    }
}

/// Runs one shard on a thread of its own until its engine says that it is done. `build` is called
/// on that thread, since the ring belongs to the thread that made it; when it fails the thread
/// ends. `broken` is told when the ring fails later. The returned function waits for the end, and
/// says why the thread never began if that is so.
pub fn spawn<B, F>(
    name: &str,
    pace: Pace,
    build: B,
    broken: F,
) -> io::Result<impl FnOnce() -> io::Result<()> + use<B, F>>
where
    B: FnOnce() -> io::Result<Engine<Uring>> + Send + 'static,
    F: FnOnce(&io::Error) + Send + 'static,
{
    let pump = move |engine| -> Running { Box::pin(pump(engine, pace, Unobserved)) };
    spawn_with(name, pace, build, pump, broken)
}

/// As [`spawn`], with `observer` told of the thread's every turn and exchange.
pub fn spawn_observed<B, F>(
    name: &str,
    pace: Pace,
    observer: Box<dyn TurnObserver + Send>,
    build: B,
    broken: F,
) -> io::Result<impl FnOnce() -> io::Result<()> + use<B, F>>
where
    B: FnOnce() -> io::Result<Engine<Uring>> + Send + 'static,
    F: FnOnce(&io::Error) + Send + 'static,
{
    let pump = move |engine| observed_pump(engine, pace, observer);
    spawn_with(name, pace, build, pump, broken)
}

type Running = Pin<Box<dyn Future<Output = io::Result<()>>>>;

async fn pump(engine: Engine<Uring>, pace: Pace, observer: impl TurnObserver) -> io::Result<()> {
    Pump::new(engine, pace, observer)?.run().await
}

fn observed_pump(
    engine: Engine<Uring>,
    pace: Pace,
    observer: Box<dyn TurnObserver + Send>,
) -> Running {
    let observer: Box<dyn TurnObserver> = observer;
    Box::pin(pump(engine, pace, observer))
}

fn spawn_with<B, P, F>(
    name: &str,
    pace: Pace,
    build: B,
    pump: P,
    broken: F,
) -> io::Result<impl FnOnce() -> io::Result<()> + use<B, P, F>>
where
    B: FnOnce() -> io::Result<Engine<Uring>> + Send + 'static,
    P: FnOnce(Engine<Uring>) -> Running + Send + 'static,
    F: FnOnce(&io::Error) + Send + 'static,
{
    let placement = pace.cpu.map_or(Placement::Unbound, Placement::Fixed);
    let handle = LocalExecutorBuilder::new(placement)
        .name(name)
        .io_memory(GLOMMIO_IO_MEMORY)
        .spawn(move || async move {
            glommio::spawn_local(async {
                loop {
                    glommio::timer::sleep(GUARD).await;
                }
            })
            .detach();
            let Ok(engine) = build() else { return };
            if let Err(error) = pump(engine).await {
                broken(&error);
            }
        })
        .map_err(|error| io::Error::other(error.to_string()))?;
    Ok(move || handle.join().map_err(|error| io::Error::other(error.to_string())))
}

struct Pump<O> {
    engine: Engine<Uring>,
    pace: Pace,
    observer: O,
    bell: OwnedFd,
    /// The same eventfd, as glommio reads it.
    bell_reader: BufferedFile,
    active_at: Instant,
    reactor_at: Instant,
}

impl<O: TurnObserver> Pump<O> {
    fn new(engine: Engine<Uring>, pace: Pace, observer: O) -> io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC)?;
        let reader = bell.try_clone()?;
        let now = sample_clocks().mono;
        #[expect(unsafe_code, reason = "glommio takes foreign descriptors only as raw numbers")]
        // SAFETY: the descriptor was just duplicated and is owned by nobody else.
        let bell_reader = unsafe { BufferedFile::from_raw_fd(reader.into_raw_fd()) };
        Ok(Self { engine, pace, observer, bell, bell_reader, active_at: now, reactor_at: now })
    }

    async fn run(mut self) -> io::Result<()> {
        self.engine.sockets().heartbeat(Some(HEARTBEAT));
        loop {
            let now = sample_clocks();
            if self.turn(now) {
                self.active_at = now.mono;
                self.engine.sockets().heartbeat(Some(HEARTBEAT));
            }
            if self.engine.is_done() {
                return Ok(());
            }
            // Whoever puts something on a lane must know that nobody is looking.
            let wait = if self.engine.has_work() || self.engine.announce_sleep() == Park::NotYet {
                Wait::No
            } else {
                Wait::ForOne
            };
            if wait == Wait::ForOne && now.mono.since(self.active_at) > PARK_AFTER {
                self.park()?;
            } else {
                self.wait(wait)?;
            }
            self.engine.woken();
            if now.mono.since(self.reactor_at) > REACTOR_EVERY {
                self.reactor_at = now.mono;
                self.give_reactor_a_turn().await?;
            }
        }
    }

    fn turn(&mut self, now: Now) -> bool {
        self.observer.entering();
        let busy = self.engine.turn(now);
        self.observer.leaving();
        busy
    }

    fn wait(&mut self, wait: Wait) -> io::Result<()> {
        self.observer.entering();
        let outcome = self.exchange(wait);
        self.observer.leaving();
        outcome
    }

    fn exchange(&mut self, wait: Wait) -> io::Result<()> {
        if self.pace.spin && wait == Wait::ForOne {
            // What this turn has queued is submitted first; its sends are settled next turn.
            self.engine.exchange(Wait::No)?;
            let until = sample_clocks().mono + SPIN;
            while !self.engine.sockets().has_pending() && sample_clocks().mono < until {
                std::hint::spin_loop();
            }
            if self.engine.sockets().has_pending() || self.engine.sockets().has_settled() {
                return Ok(());
            }
        }
        self.engine.exchange(wait)
    }

    /// Sleeps until a completion, a doorbell, the next deadline, or glommio's.
    fn park(&mut self) -> io::Result<()> {
        let reactor_at = self.reactor_at + REACTOR_WITHIN;
        let deadline = self.engine.next_deadline().map_or(reactor_at, |at| at.min(reactor_at));
        self.engine.parks();
        let ring = self.engine.sockets();
        ring.heartbeat(None);
        ring.deadline(Some(deadline));
        self.engine.exchange(Wait::No)?;
        // Timers that were just removed report so: nothing that a turn would act on.
        while self.engine.sockets().has_unseen() && !self.must_turn() {
            self.engine.exchange(Wait::No)?;
        }
        // A deadline that had passed is spent already: nothing would end the sleep.
        if self.must_turn() || !self.engine.sockets().has_deadline() {
            return Ok(());
        }
        self.wait(Wait::ForOne)
    }

    /// Whether sleeping would keep something waiting: work, or memory of sends that have ended.
    fn must_turn(&mut self) -> bool {
        self.engine.has_work() || self.engine.sockets().has_settled()
    }

    async fn give_reactor_a_turn(&self) -> io::Result<()> {
        rustix::io::write(&self.bell, &1u64.to_ne_bytes())?;
        self.wait_for_bell().await
    }

    async fn wait_for_bell(&self) -> io::Result<()> {
        let read = self.bell_reader.read_at(0, 8).await;
        read.map(drop).map_err(|error| io::Error::other(error.to_string()))
    }
}
