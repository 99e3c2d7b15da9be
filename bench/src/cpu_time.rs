//! CPU time and affinity as Linux reports them: nanoseconds on the processor per thread from
//! `/proc/PID/task/*/schedstat`, machine-wide ticks from `/proc/stat`, and pinning.

use std::fs;
use std::io;
use std::time::Duration;

use rustix::thread::{CpuSet, sched_setaffinity};

/// Time on the processor of one thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadTime {
    pub tid: u32,
    pub name: String,
    pub on_cpu: Duration,
}

/// Every thread of `pid`. Threads that end meanwhile are left out.
pub fn threads(pid: u32) -> io::Result<Vec<ThreadTime>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = entry?.path();
        let Some(tid) = path.file_name().and_then(|n| n.to_str()?.parse().ok()) else {
            continue;
        };
        let (Ok(stat), Ok(name)) =
            (fs::read_to_string(path.join("schedstat")), fs::read_to_string(path.join("comm")))
        else {
            continue;
        };
        if let Some(on_cpu) = parse_schedstat(&stat) {
            let name = name.trim_end().to_owned();
            found.push(ThreadTime { tid, name, on_cpu });
        }
    }
    Ok(found)
}

/// What each thread of `after` used since `before`; a thread born between counts from zero.
pub fn difference(before: &[ThreadTime], after: &[ThreadTime]) -> Vec<ThreadTime> {
    let earlier = |tid| before.iter().find(|t| t.tid == tid).map_or(Duration::ZERO, |t| t.on_cpu);
    after
        .iter()
        .map(|t| ThreadTime { on_cpu: t.on_cpu.saturating_sub(earlier(t.tid)), ..t.clone() })
        .collect()
}

/// Machine-wide time since boot, summed over all processors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MachineTime {
    pub busy: Duration,
    /// Time that the hypervisor gave to somebody else.
    pub stolen: Duration,
}

impl MachineTime {
    pub fn sample() -> io::Result<Self> {
        parse_machine_time(&fs::read_to_string("/proc/stat")?)
            .ok_or_else(|| io::Error::other("/proc/stat has no first line as proc(5) says"))
    }

    pub fn since(self, earlier: Self) -> Self {
        Self {
            busy: self.busy.saturating_sub(earlier.busy),
            stolen: self.stolen.saturating_sub(earlier.stolen),
        }
    }
}

/// The same of one processor.
pub type CoreTime = MachineTime;

/// Every processor, in the order of their numbers.
pub fn cores() -> io::Result<Vec<CoreTime>> {
    let text = fs::read_to_string("/proc/stat")?;
    Ok(text.lines().skip(1).map_while(parse_core_time).collect())
}

/// Binds the calling thread to one processor.
pub fn pin_to(cpu: usize) -> io::Result<()> {
    pin_to_any(&[cpu])
}

/// Binds the calling thread, and what it starts from now on, to some processors.
pub fn pin_to_any(cpus: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        set.set(cpu);
    }
    sched_setaffinity(None, &set)?;
    Ok(())
}

/// The first number is the nanoseconds on the processor.
fn parse_schedstat(text: &str) -> Option<Duration> {
    let nanos = text.split_ascii_whitespace().next()?.parse().ok()?;
    Some(Duration::from_nanos(nanos))
}

fn parse_machine_time(text: &str) -> Option<MachineTime> {
    let (name, times) = parse_times(text.lines().next()?)?;
    name.is_empty().then_some(times)
}

fn parse_core_time(line: &str) -> Option<CoreTime> {
    let (number, times) = parse_times(line)?;
    number.bytes().all(|b| b.is_ascii_digit()).then_some(times)
}

/// `cpuN user nice system idle iowait irq softirq steal …`, in ticks of 10 ms; what stands behind
/// `cpu`, and the times.
fn parse_times(line: &str) -> Option<(&str, MachineTime)> {
    const TICK_MS: u64 = 10;
    let mut fields = line.split_ascii_whitespace();
    let name = fields.next()?.strip_prefix("cpu")?;
    let ticks: Vec<u64> = fields.map_while(|f| f.parse().ok()).collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, steal, ..] = ticks[..] else {
        return None;
    };
    let times = MachineTime {
        busy: Duration::from_millis((user + nice + system + irq + softirq) * TICK_MS),
        stolen: Duration::from_millis(steal * TICK_MS),
    };
    Some((name, times))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedstat_counts_nanoseconds() {
        assert_eq!(parse_schedstat("801838 85647 5\n"), Some(Duration::from_nanos(801_838)));
        assert_eq!(parse_schedstat(""), None);
    }

    #[test]
    fn machine_time_leaves_idle_and_iowait_out() {
        let text = "cpu  1 2 3 1000 500 4 5 6 0 0\ncpu0 0 0 0 0\n";
        let expected =
            MachineTime { busy: Duration::from_millis(150), stolen: Duration::from_millis(60) };
        assert_eq!(parse_machine_time(text), Some(expected));
        assert_eq!(parse_machine_time("intr 5"), None);
        assert_eq!(parse_core_time("cpu12 1 2 3 1000 500 4 5 6 0 0"), Some(expected));
        assert_eq!(parse_core_time("intr 1 2 3 1000 500 4 5 6 0 0"), None);
    }

    #[test]
    fn a_thread_born_in_between_counts_whole() {
        let thread =
            |tid, ms| ThreadTime { tid, name: "t".to_owned(), on_cpu: Duration::from_millis(ms) };
        let used = difference(&[thread(1, 10)], &[thread(1, 25), thread(2, 7)]);
        assert_eq!(used, [thread(1, 15), thread(2, 7)]);
    }

    #[test]
    fn own_threads_are_found() {
        let mine = threads(std::process::id()).unwrap();
        assert!(mine.iter().any(|t| t.on_cpu > Duration::ZERO));
    }
}
