//! Who used the processors while a load ran: a thread that samples `/proc` ten times a second, and
//! the differences over the part of the run that was measured.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use corelane_bench::cpu_time::{self, CoreTime, ThreadTime};

const PERIOD: Duration = Duration::from_millis(100);
/// Samples between two looks at a process's memory, which are walks over its pages, at most.
const MEMORY_EVERY: u32 = 10;

/// One look at the machine.
#[derive(Clone, Debug, Default)]
pub(super) struct Sample {
    unix_ms: u64,
    cores: Vec<CoreTime>,
    /// By process id.
    threads: BTreeMap<u32, Vec<ThreadTime>>,
    /// Proportional set size of the first watched process.
    memory_bytes: Option<u64>,
}

/// Samples until it is asked for them.
pub(super) struct Sampler {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Sample>>,
}

impl Sampler {
    /// Watches the processes `pids` from the processor `cpu`; the first one's memory too if it is to be
    /// known of any part of the run that is this long.
    pub(super) fn start(pids: Vec<u32>, cpu: usize, memory_within: Option<Duration>) -> Self {
        let memory_every = memory_within.map(memory_every);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            // On the wrong processor it disturbs a little and measures the same.
            let _pinned = cpu_time::pin_to(cpu);
            let mut samples = Vec::new();
            let mut number = 0;
            while !stopped.load(Ordering::Relaxed) {
                let memory = memory_every.is_some_and(|every| number % every == 0);
                samples.push(Sample::take(&pids, memory));
                number += 1;
                thread::sleep(PERIOD);
            }
            samples.push(Sample::take(&pids, memory_every.is_some()));
            samples
        });
        Self { stop, thread }
    }

    pub(super) fn finish(self) -> Vec<Sample> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

/// Two looks fall into the time even if half of the samples come late.
fn memory_every(within: Duration) -> u32 {
    let samples = within.as_millis() / PERIOD.as_millis() / 4;
    u32::try_from(samples).unwrap_or(u32::MAX).clamp(1, MEMORY_EVERY)
}

impl Sample {
    fn take(pids: &[u32], memory: bool) -> Self {
        // A process that has ended meanwhile has no threads.
        let threads = |&pid: &u32| (pid, cpu_time::threads(pid).unwrap_or_default());
        Self {
            unix_ms: unix_ms(),
            cores: cpu_time::cores().unwrap_or_default(),
            threads: pids.iter().map(threads).collect(),
            memory_bytes: pids.first().filter(|_| memory).and_then(|&pid| memory_of(pid)),
        }
    }
}

pub(super) fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// The proportional set size of a process in bytes.
pub(crate) fn memory_of(pid: u32) -> Option<u64> {
    parse_memory(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?)
}

fn parse_memory(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

/// What was used between two samples. All but memory are shares of one processor.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Used {
    pub(super) seconds: f64,
    /// By processor, whoever it was.
    pub(super) cores: Vec<f64>,
    /// By all processors together: what the hypervisor gave to others.
    pub(super) stolen: f64,
    /// By process.
    pub(super) processes: BTreeMap<u32, f64>,
    /// By thread of the watched processes.
    pub(super) threads: Vec<(u32, String, f64)>,
    /// The last that was seen.
    pub(super) memory_bytes: Option<u64>,
}

/// What was used within the part of `samples` from `from` to `to`; nothing if fewer than two lie
/// there.
pub(super) fn used(samples: &[Sample], from_ms: u64, to_ms: u64) -> Option<Used> {
    let inside = |sample: &&Sample| (from_ms..=to_ms).contains(&sample.unix_ms);
    let first = samples.iter().find(inside)?;
    let last = samples.iter().rev().find(inside)?;
    let seconds = (last.unix_ms - first.unix_ms) as f64 / 1e3;
    if seconds <= 0.0 {
        return None;
    }
    let share = |time: Duration| time.as_secs_f64() / seconds;
    let cores = first.cores.iter().zip(&last.cores);
    let stolen = cores.clone().map(|(a, b)| b.stolen.saturating_sub(a.stolen)).sum();
    let mut used = Used {
        seconds,
        cores: cores.map(|(a, b)| share(b.busy.saturating_sub(a.busy))).collect(),
        stolen: share(stolen),
        memory_bytes: samples.iter().filter(inside).rev().find_map(|sample| sample.memory_bytes),
        ..Used::default()
    };
    for (&pid, after) in &last.threads {
        let before = first.threads.get(&pid).map_or(&[][..], Vec::as_slice);
        let threads = cpu_time::difference(before, after);
        used.processes.insert(pid, threads.iter().map(|t| share(t.on_cpu)).sum());
        used.threads.extend(threads.into_iter().map(|t| (pid, t.name, share(t.on_cpu))));
    }
    Some(used)
}

impl Used {
    pub(super) fn process(&self, pid: u32) -> f64 {
        self.processes.get(&pid).copied().unwrap_or(0.0)
    }

    /// All threads of `pid` whose name begins with `name`.
    pub(super) fn threads_named(&self, pid: u32, name: &str) -> f64 {
        let named = self.threads.iter().filter(|(of, its, _)| *of == pid && its.starts_with(name));
        named.map(|(.., share)| share).sum()
    }

    /// What belongs to none of the watched processes, and what was stolen.
    pub(super) fn disturbance(&self) -> f64 {
        let watched: f64 = self.processes.values().sum();
        (self.cores.iter().sum::<f64>() - watched).max(0.0) + self.stolen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(unix_ms: u64, core_ms: u64, thread_ms: u64) -> Sample {
        let ms = Duration::from_millis;
        let thread =
            |name: &str, tid, time| ThreadTime { tid, name: name.to_owned(), on_cpu: ms(time) };
        Sample {
            unix_ms,
            cores: vec![CoreTime { busy: ms(core_ms), stolen: ms(core_ms / 10) }],
            threads: BTreeMap::from([(
                7,
                vec![thread("shard-0", 1, thread_ms), thread("main", 2, thread_ms / 10)],
            )]),
            memory_bytes: (unix_ms == 2000).then_some(4096),
        }
    }

    #[test]
    fn memory_is_looked_at_in_short_runs_too_and_seldom_in_long_ones() {
        let every = |ms| memory_every(Duration::from_millis(ms));
        assert_eq!([every(50), every(700), every(3000), every(25_000)], [1, 1, 7, 10]);
    }

    #[test]
    fn only_samples_of_the_measurement_count() {
        let samples =
            [sample(0, 0, 0), sample(1000, 900, 500), sample(2000, 1800, 1300), sample(3000, 0, 0)];
        let used = used(&samples, 900, 2100).unwrap();
        assert_eq!(used.seconds, 1.0);
        assert_eq!(used.cores, [0.9]);
        assert_eq!(used.memory_bytes, Some(4096));
        assert!((used.process(7) - 0.88).abs() < 1e-9);
        assert!((used.threads_named(7, "shard-") - 0.8).abs() < 1e-9);
        assert!((used.disturbance() - (0.02 + 0.09)).abs() < 1e-9);
    }

    #[test]
    fn one_sample_says_nothing() {
        assert_eq!(used(&[sample(1000, 1, 1)], 0, 5000), None);
    }

    #[test]
    fn memory_is_the_proportional_share() {
        assert_eq!(
            parse_memory("55d0-7ffd ---p [rollup]\nRss:  900 kB\nPss:   12 kB\n"),
            Some(12288)
        );
        assert_eq!(parse_memory(""), None);
    }
}
