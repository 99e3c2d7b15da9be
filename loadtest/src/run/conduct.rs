//! The main thread of a run: starts the sending threads, watches them and the server, and has
//! their results put together. Sends nothing itself.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::driver::{Driver, Found};
use super::gathering::{Gathered, Series, gather};
use super::plan::{Layout, Plan, Progress, Word};
use super::publishing::{Published, Publisher};
use super::standstill::Standstill;
use super::{RunError, ServerAt, Surroundings, Watcher, clock};
use crate::generator_use;
use crate::outcome::Outcome;
use crate::protocol::Dialect;
use crate::scenario::{Arrival, Protocol, Scenario, Traffic};
use crate::server_use;
use crate::wire::handshake::Address;
use crate::wire::tls;

/// From "all are open" to the start of the load: every thread sees the start before it comes.
const LEAD_NS: u64 = 20_000_000;
/// Descriptors beside the connections.
const OTHER_FILES: u64 = 32;
const LOOK: Duration = Duration::from_millis(50);
/// Parts of intervals that may wait for the main thread.
const WORDS: usize = 4096;

pub(super) fn run<D: Dialect>(
    scenario: &Scenario,
    surroundings: &Surroundings,
    watcher: &mut dyn Watcher,
) -> Result<Outcome, RunError> {
    let (to_main, from_threads) = sync_channel(WORDS);
    let layout = Layout::new(scenario);
    check_tokens(scenario, surroundings, layout)?;
    raise_open_files(layout.places as u64 + OTHER_FILES + layout.threads as u64)?;
    let (address, tls) = target(scenario, layout)?;
    let plan = Plan {
        scenario,
        address,
        tls,
        admin: scenario.target.admin_url.as_deref().and_then(|url| Address::parse(url, "http://")),
        tokens: &surroundings.tokens,
        layout,
        progress: Progress::default(),
        published: scenario.target.kafka.as_ref().map(|_| Published::new(layout.places)),
        to_main,
    };
    let publishing = plan.published.as_ref().zip(scenario.target.kafka.as_ref());
    let threads_in_all = layout.threads + usize::from(publishing.is_some());
    let bytes_before = memory(surroundings)?;
    thread::scope(|scope| {
        let plan = &plan;
        let mut threads: Vec<_> = (0..layout.threads)
            .map(|number| {
                let named = thread::Builder::new().name(format!("sender {number}"));
                named.spawn_scoped(scope, move || {
                    let found = Driver::<D>::new(plan, number).and_then(Driver::run);
                    plan.progress.end();
                    found
                })
            })
            .collect::<Result<_, _>>()
            .map_err(thread_error)
            .inspect_err(|_| plan.progress.abandon())?;
        if let Some((published, topic)) = publishing {
            let named = thread::Builder::new().name("publisher".to_owned());
            let publisher = named.spawn_scoped(scope, move || {
                let publisher = Publisher::new(plan, published, topic, layout.threads);
                let found = publisher.and_then(Publisher::run);
                plan.progress.end();
                found
            });
            let publisher = publisher.map_err(thread_error);
            threads.push(publisher.inspect_err(|_| plan.progress.abandon())?);
        }
        let mut watch = Watch {
            plan,
            surroundings,
            from_threads: &from_threads,
            ids: vec![0; threads_in_all],
            series: Series::new(scenario, threads_in_all),
        };
        let watched = watch.run(watcher);
        if watched.is_err() {
            plan.progress.abandon();
        }
        plan.progress.set_sampled();
        let mut found = Vec::new();
        for thread in threads {
            found.push(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        // A thread's own error says more than what the main thread saw of it.
        let found = found.into_iter().collect::<Result<Vec<Found>, RunError>>()?;
        let mut series = watch.series;
        watch_rest(&from_threads, &mut series, watcher);
        let Some(mut observed) = watched? else {
            let mut cause = found.iter().filter_map(|found| found.first_failure.clone());
            let cause = cause.next().unwrap_or_else(|| "there are none to open".to_owned());
            return Err(RunError::NoConnection { attempted: layout.places as u64, cause });
        };
        observed.bytes_before = bytes_before;
        observed.server_at = surroundings.server.clone();
        Ok(gather(scenario, found, series, observed))
    })
}

fn thread_error(source: std::io::Error) -> RunError {
    RunError::Io { what: "starting a thread".to_owned(), source }
}

/// Where the connections go, and the TLS that they have.
fn target(scenario: &Scenario, layout: Layout) -> Result<(Address, Option<tls::Client>), RunError> {
    /// A server leaves some with each connection, and each connection takes one.
    const TICKETS_EACH: usize = 4;
    let url = &scenario.target.url;
    if let Some(address) = Address::parse(url, "ws://") {
        return Ok((address, None));
    }
    let address =
        Address::parse(url, "wss://").ok_or_else(|| RunError::Url { url: url.clone() })?;
    let tickets = TICKETS_EACH * layout.places;
    let tls = tls::Client::new(&scenario.tls, address.host(), tickets)?;
    Ok((address, Some(tls)))
}

fn watch_rest(from_threads: &Receiver<Word>, series: &mut Series, watcher: &mut dyn Watcher) {
    while let Ok(word) = from_threads.try_recv() {
        if let Word::Part(part) = word {
            series.add(&part, watcher);
        }
    }
    series.finish(watcher);
}

struct Watch<'a> {
    plan: &'a Plan<'a>,
    surroundings: &'a Surroundings,
    from_threads: &'a Receiver<Word>,
    ids: Vec<u32>,
    series: Series,
}

impl Watch<'_> {
    /// Nothing, if there is no connection to load.
    fn run(&mut self, watcher: &mut dyn Watcher) -> Result<Option<Gathered>, RunError> {
        if !self.await_connections(watcher) {
            self.plan.progress.abandon();
            return Ok(None);
        }
        let ready = self.plan.progress.ready.load(Ordering::Relaxed);
        let bytes_with_connections = if ready > 0 { memory(self.surroundings)? } else { None };
        self.fill_backlog()?;
        let timing = &self.plan.scenario.timing;
        let start = clock::now() + LEAD_NS;
        self.plan.progress.begin_at(start);
        let from = start + clock::nanoseconds(timing.warm_up);
        let until = from + clock::nanoseconds(timing.duration);
        self.follow_until(from, watcher);
        let started_unix_ms = unix_ms();
        let before = self.sample()?;
        self.follow_until(until, watcher);
        let after = self.sample()?;
        let bytes_after = memory(self.surroundings)?;
        self.plan.progress.set_sampled();
        while !self.plan.progress.has_ended() {
            self.follow_until(clock::now() + clock::nanoseconds(LOOK), watcher);
        }
        let elapsed = after.at - before.at;
        Ok(Some(Gathered {
            started_unix_ms,
            generator: generator_use::between(&before.generator, &after.generator, elapsed),
            server: before.server.zip(after.server),
            server_at: None,
            elapsed_ns: elapsed,
            bytes_before: None,
            bytes_with_connections,
            bytes_after,
            connections: ready,
        }))
    }

    /// Until every thread has opened what it is to open; whether there is anything to load.
    fn await_connections(&mut self, watcher: &mut dyn Watcher) -> bool {
        let comes_and_goes = matches!(self.plan.scenario.traffic, Traffic::Connect { .. });
        let wanted = if comes_and_goes { 0 } else { self.plan.layout.places as u64 };
        let mut opening = self.plan.layout.threads;
        while opening > 0 {
            match self.from_threads.recv_timeout(LOOK) {
                Ok(Word::Opened) => opening -= 1,
                Ok(Word::Begun { thread, id }) => self.ids[thread] = id,
                Ok(Word::Part(_) | Word::Filled) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return false,
            }
            watcher.opening(self.plan.progress.ready.load(Ordering::Relaxed), wanted);
            if self.plan.progress.has_ended() {
                return false;
            }
        }
        comes_and_goes || self.plan.progress.ready.load(Ordering::Relaxed) > 0
    }

    /// The server's process stands still until the backlog is with the brokers.
    fn fill_backlog(&self) -> Result<(), RunError> {
        let Arrival::Backlog { .. } = self.plan.scenario.arrival else { return Ok(()) };
        let Some(ServerAt::Pid(pid)) = self.surroundings.server else {
            return Err(RunError::WhoStandsStill);
        };
        let standstill = Standstill::of(pid)
            .map_err(|source| RunError::Io { what: format!("stopping process {pid}"), source })?;
        self.plan.progress.fill();
        while !self.plan.progress.has_ended() {
            if let Ok(Word::Filled) = self.from_threads.recv_timeout(LOOK) {
                break;
            }
        }
        drop(standstill);
        Ok(())
    }

    /// Takes what the threads say until `time`.
    fn follow_until(&mut self, time: u64, watcher: &mut dyn Watcher) {
        loop {
            let now = clock::now();
            if now >= time || self.plan.progress.has_ended() {
                return;
            }
            let wait = Duration::from_nanos(time - now).min(LOOK);
            if let Ok(Word::Part(part)) = self.from_threads.recv_timeout(wait) {
                self.series.add(&part, watcher);
            }
        }
    }

    fn sample(&self) -> Result<Sample, RunError> {
        let server = self.surroundings.server.as_ref();
        let server = server.map(server_use::Sample::take).transpose().map_err(server_error)?;
        Ok(Sample { at: clock::now(), server, generator: generator_use::Sample::take(&self.ids) })
    }
}

struct Sample {
    at: u64,
    server: Option<server_use::Sample>,
    generator: generator_use::Sample,
}

fn server_error(source: std::io::Error) -> RunError {
    RunError::Io { what: "reading what the server uses".to_owned(), source }
}

fn memory(surroundings: &Surroundings) -> Result<Option<u64>, RunError> {
    surroundings.server.as_ref().map(server_use::memory).transpose().map_err(server_error)
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn check_tokens(
    scenario: &Scenario,
    surroundings: &Surroundings,
    layout: Layout,
) -> Result<(), RunError> {
    let (needed, given) = (layout.places, surroundings.tokens.len());
    if scenario.target.protocol == Protocol::Corelane && given < needed {
        return Err(RunError::Tokens { needed, given });
    }
    Ok(())
}

fn raise_open_files(needed: u64) -> Result<(), RunError> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // A limit that cannot be raised may still be high enough.
    let _raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let limit = getrlimit(Resource::Nofile).current.or(current).unwrap_or(u64::MAX);
    if needed > limit { Err(RunError::OpenFiles { needed, limit }) } else { Ok(()) }
}
