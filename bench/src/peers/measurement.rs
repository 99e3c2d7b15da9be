//! One load on one contender: start it, put the load on, read off what it used, stop it.

use std::thread;
use std::time::Duration;

use super::contender::Running;
use super::cores::{self, Sampler, Used};
use super::generator::{Finding, Order};
use super::place::Place;
use super::workload::Measure;

/// What one run says. Shares are of one processor.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Run {
    /// Processor time of the whole server for an operation, in µs.
    pub(super) cost_us: f64,
    /// The same of the threads that carry messages, where there are others.
    pub(super) message_threads_us: Option<f64>,
    pub(super) per_second: f64,
    /// Of the server.
    pub(super) server_share: f64,
    pub(super) backend_share: f64,
    /// How busy the two processors were, whoever it was.
    pub(super) server_core: f64,
    pub(super) load_core: f64,
    pub(super) generator_busy: f64,
    /// Work of neither side, and what the hypervisor gave to others.
    pub(super) disturbance: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    pub(super) p999_us: f64,
    pub(super) idle: Option<Idle>,
}

/// Of connections that do nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Idle {
    pub(super) bytes_per_connection: f64,
    /// Processor time per second for a connection.
    pub(super) us_per_second: f64,
    /// Processor time per second without any connection.
    pub(super) base_ms_per_second: f64,
}

/// Why a contender has no run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoRun {
    /// It cannot be started, so another try is of no use.
    NotStarted(String),
    /// The run says nothing.
    Unusable(String),
}

/// A server without connections, over this time.
const BASE: Duration = Duration::from_secs(3);
const SETTLE: Duration = Duration::from_millis(500);

/// One load, with a fresh process.
pub(super) fn measure(order: &Order<'_>, place: &Place, what: Measure) -> Result<Run, NoRun> {
    let server = &order.contender.server;
    let connections = order.connections * order.contender.scale;
    let started = server.start(place, connections, order.contender.tls.is_some());
    let mut running = started.map_err(|error| NoRun::NotStarted(error.to_string()))?;
    let unusable = |why: String| NoRun::Unusable(why);
    let base = match what {
        Measure::Idle { .. } => {
            Some(base(&running, place).ok_or_else(|| unusable(NO_SAMPLES.to_owned()))?)
        }
        Measure::Cost | Measure::Latency => None,
    };
    let memory_within = base.is_some().then_some(order.timing.duration);
    let sampler = Sampler::start(pids(&running), place.load_cpu, memory_within);
    let found = order.run(&running, place);
    let samples = sampler.finish();
    let finding = found.map_err(|error| unusable(error.to_string()))?;
    if !running.lives() {
        let said = place.last_message(server.program()).unwrap_or_default();
        return Err(unusable(format!("the server or its backend ended during the run {said}")));
    }
    if let Some(problem) = finding.problem {
        return Err(unusable(problem));
    }
    let from = finding.started_unix_ms;
    let to = from + (finding.seconds * 1e3) as u64;
    let used = cores::used(&samples, from, to).ok_or_else(|| unusable(NO_SAMPLES.to_owned()))?;
    let message_threads = server.message_threads();
    let mut run = read(&finding, &used, &running, place, message_threads);
    run.idle = base.and_then(|base| idle(&base, &used, running.server.pid(), connections));
    if base_missing(what, &run) {
        return Err(unusable("the server's memory cannot be read".to_owned()));
    }
    if run.idle.is_none() && finding.operations <= 0.0 {
        return Err(unusable("nothing came back".to_owned()));
    }
    Ok(run)
}

const NO_SAMPLES: &str = "the run was too short to be sampled";

fn base_missing(what: Measure, run: &Run) -> bool {
    matches!(what, Measure::Idle { .. }) && run.idle.is_none()
}

fn pids(running: &Running) -> Vec<u32> {
    let backend = running.backend.as_ref().map(|backend| backend.pid());
    std::iter::once(running.server.pid()).chain(backend).collect()
}

/// What the server uses before the first connection.
fn base(running: &Running, place: &Place) -> Option<Used> {
    thread::sleep(SETTLE);
    let from = cores::unix_ms();
    let sampler = Sampler::start(pids(running), place.load_cpu, Some(BASE));
    thread::sleep(BASE);
    cores::used(&sampler.finish(), from, cores::unix_ms())
}

fn idle(base: &Used, with: &Used, pid: u32, connections: usize) -> Option<Idle> {
    let bytes = |used: &Used| used.memory_bytes.map(|bytes| bytes as f64);
    let count = connections as f64;
    Some(Idle {
        bytes_per_connection: (bytes(with)? - bytes(base)?) / count,
        us_per_second: (with.process(pid) - base.process(pid)) * 1e6 / count,
        base_ms_per_second: base.process(pid) * 1e3,
    })
}

fn read(
    finding: &Finding,
    used: &Used,
    running: &Running,
    place: &Place,
    message_threads: Option<&str>,
) -> Run {
    let pid = running.server.pid();
    let per_second = finding.operations / finding.seconds;
    let sampled = used.process(pid);
    // The harness reads the same counters at the very ends of the measurement.
    let server_share = finding.server_cpu_us.map_or(sampled, |time| time / 1e6 / finding.seconds);
    let core = |cpu: usize| used.cores.get(cpu).copied().unwrap_or(f64::NAN);
    Run {
        cost_us: server_share * 1e6 / per_second,
        message_threads_us: message_threads
            .map(|name| used.threads_named(pid, name) * 1e6 / per_second),
        per_second,
        server_share,
        backend_share: running.backend.as_ref().map_or(0.0, |b| used.process(b.pid())),
        server_core: core(place.server_cpu),
        load_core: core(place.load_cpu),
        generator_busy: finding.generator_busy,
        disturbance: (used.disturbance() - finding.generator_busy).max(0.0),
        p50_us: finding.p50_us,
        p99_us: finding.p99_us,
        p999_us: finding.p999_us,
        idle: None,
    }
}
