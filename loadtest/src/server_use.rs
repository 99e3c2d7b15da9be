//! What the measured server uses: a process with all its descendants, from `/proc`, or a control
//! group (version 2). Two samples make a difference; nothing here knows of the load.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::outcome::ServerUse;
use crate::run::ServerAt;

/// `times` and the like count in hundredths of a second on every Linux.
const TICK_US: u64 = 10_000;

/// Processor time and switches so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sample {
    user_us: u64,
    system_us: u64,
    /// From the scheduler: name and nanoseconds of each thread.
    threads: BTreeMap<u32, (String, u64)>,
    /// Where there are no threads to see.
    cpu_ns: u64,
    switches: Option<(u64, u64)>,
}

impl Sample {
    pub(crate) fn take(server: &ServerAt) -> io::Result<Self> {
        match server {
            ServerAt::Pid(pid) => {
                let mut sample = Self { switches: Some((0, 0)), ..Self::default() };
                for member in family(*pid)? {
                    match sample.add_process(member) {
                        Err(error) if member == *pid => return Err(error),
                        Ok(()) | Err(_) => {} // a descendant may have ended
                    }
                }
                Ok(sample)
            }
            ServerAt::Cgroup(path) => {
                let stat = fs::read_to_string(path.join("cpu.stat"))?;
                let field = |name| named_number(&stat, name).unwrap_or(0);
                Ok(Self {
                    user_us: field("user_usec"),
                    system_us: field("system_usec"),
                    cpu_ns: field("usage_usec") * 1000,
                    ..Self::default()
                })
            }
        }
    }

    fn add_process(&mut self, pid: u32) -> io::Result<()> {
        let process = PathBuf::from(format!("/proc/{pid}"));
        // Of the whole process, so that the time of threads that have ended stays in it.
        let stat = fs::read_to_string(process.join("stat"))?;
        let (user, system) = parse_stat(&stat).unwrap_or_default();
        self.user_us += user * TICK_US;
        self.system_us += system * TICK_US;
        for thread in fs::read_dir(process.join("task"))? {
            let thread = thread?.path();
            // A thread that ends meanwhile is left out.
            if let Some(found) = read_thread(&thread) {
                if let Some((voluntary, involuntary)) = &mut self.switches {
                    *voluntary += found.voluntary;
                    *involuntary += found.involuntary;
                }
                self.threads.insert(found.tid, (found.name, found.on_cpu_ns));
            }
        }
        Ok(())
    }

    /// Nanoseconds of each thread since `before`. What a thread has used that ended in between
    /// is not known, and must not be taken from what the others have used.
    fn threads_since(&self, before: &Self) -> impl Iterator<Item = (&str, u64)> {
        self.threads.iter().map(|(tid, (name, on_cpu))| {
            let earlier = before.threads.get(tid).map_or(0, |(_, on_cpu)| *on_cpu);
            (name.as_str(), on_cpu.saturating_sub(earlier))
        })
    }

    fn cpu_ns_since(&self, before: &Self) -> u64 {
        let of_threads: u64 = self.threads_since(before).map(|(_, on_cpu)| on_cpu).sum();
        of_threads + self.cpu_ns.saturating_sub(before.cpu_ns)
    }
}

/// One thread so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ThreadSample {
    pub(crate) tid: u32,
    pub(crate) name: String,
    pub(crate) on_cpu_ns: u64,
    pub(crate) user_us: u64,
    pub(crate) system_us: u64,
    pub(crate) voluntary: u64,
    pub(crate) involuntary: u64,
}

/// From a folder `/proc/PID/task/TID`.
pub(crate) fn read_thread(folder: &Path) -> Option<ThreadSample> {
    let read = |file| fs::read_to_string(folder.join(file)).ok();
    let (stat, status) = (read("stat")?, read("status")?);
    let (user, system) = parse_stat(&stat)?;
    Some(ThreadSample {
        tid: folder.file_name()?.to_str()?.parse().ok()?,
        name: read("comm")?.trim_end().to_owned(),
        on_cpu_ns: read("schedstat")?.split_ascii_whitespace().next()?.parse().ok()?,
        user_us: user * TICK_US,
        system_us: system * TICK_US,
        voluntary: named_number(&status, "voluntary_ctxt_switches:")?,
        involuntary: named_number(&status, "nonvoluntary_ctxt_switches:")?,
    })
}

/// `utime` and `stime`, the 14th and 15th field; the second may contain spaces and brackets.
fn parse_stat(stat: &str) -> Option<(u64, u64)> {
    let mut after_name = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace().skip(11);
    Some((after_name.next()?.parse().ok()?, after_name.next()?.parse().ok()?))
}

/// The number behind the word `name` at the start of a line.
fn named_number(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next()? == name).then(|| words.next()?.parse().ok())?
    })
}

/// `pid` and everything it has started, at this moment.
fn family(pid: u32) -> io::Result<Vec<u32>> {
    let mut found = vec![pid];
    let mut at = 0;
    while let Some(&parent) = found.get(at) {
        at += 1;
        let tasks = match fs::read_dir(format!("/proc/{parent}/task")) {
            Ok(tasks) => tasks,
            Err(error) if parent == pid => return Err(error),
            Err(_) => continue,
        };
        for task in tasks.flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            found.extend(children.split_ascii_whitespace().filter_map(|c| c.parse::<u32>().ok()));
        }
    }
    Ok(found)
}

/// Bytes: the proportional share (PSS) of the process and its descendants, or all that is charged
/// to the control group, kernel memory included.
pub(crate) fn memory(server: &ServerAt) -> io::Result<u64> {
    match server {
        ServerAt::Cgroup(path) => {
            let text = fs::read_to_string(path.join("memory.current"))?;
            text.trim().parse().map_err(io::Error::other)
        }
        ServerAt::Pid(pid) => {
            let mut bytes = 0;
            for member in family(*pid)? {
                match fs::read_to_string(format!("/proc/{member}/smaps_rollup")) {
                    Ok(text) => bytes += named_number(&text, "Pss:").unwrap_or(0) * 1024,
                    Err(error) if member == *pid => return Err(error),
                    Err(_) => {} // has ended
                }
            }
            Ok(bytes)
        }
    }
}

/// Everything known of the server during one measurement.
pub(crate) struct Observed<'a> {
    pub(crate) server: &'a ServerAt,
    pub(crate) before: Sample,
    pub(crate) after: Sample,
    /// Nanoseconds between the two.
    pub(crate) elapsed_ns: u64,
    pub(crate) messages: u64,
    pub(crate) bytes_before: Option<u64>,
    pub(crate) bytes_with_connections: Option<u64>,
    pub(crate) bytes_after: Option<u64>,
    pub(crate) connections: u64,
}

impl Observed<'_> {
    pub(crate) fn summary(&self) -> ServerUse {
        let Self { before, after, .. } = self;
        let cpu_us = after.cpu_ns_since(before) as f64 / 1e3;
        let switches = |which: fn((u64, u64)) -> u64| {
            let of = |sample: &Sample| sample.switches.map(which);
            Some(of(after)?.saturating_sub(of(before)?))
        };
        let memory = self.bytes_before.zip(self.bytes_with_connections);
        ServerUse {
            source: match self.server {
                ServerAt::Pid(pid) => format!("process {pid} and its descendants, from /proc"),
                ServerAt::Cgroup(path) => format!("control group {}", path.display()),
            },
            user_us: after.user_us.saturating_sub(before.user_us),
            system_us: after.system_us.saturating_sub(before.system_us),
            cpu_us,
            busiest_thread: self.busiest_thread(),
            threads: self.threads(),
            cpu_us_per_message: (self.messages > 0).then(|| cpu_us / self.messages as f64),
            voluntary_switches: switches(|both| both.0),
            involuntary_switches: switches(|both| both.1),
            bytes_before: self.bytes_before,
            bytes_with_connections: self.bytes_with_connections,
            bytes_after: self.bytes_after,
            bytes_per_connection: memory
                .filter(|_| self.connections > 0)
                .map(|(before, with)| (with as f64 - before as f64) / self.connections as f64),
        }
    }

    /// The busiest first.
    fn threads(&self) -> Vec<(String, f64)> {
        let mut by_name = BTreeMap::<&str, u64>::new();
        for (name, on_cpu) in self.after.threads_since(&self.before) {
            *by_name.entry(name).or_default() += on_cpu;
        }
        let used = by_name.into_iter().filter(|&(_, on_cpu)| on_cpu > 0);
        let mut used: Vec<_> =
            used.map(|(name, on_cpu)| (name.to_owned(), on_cpu as f64 / 1e3)).collect();
        used.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        used
    }

    fn busiest_thread(&self) -> Option<(String, f64)> {
        let used = self.after.threads_since(&self.before).map(|(name, on_cpu)| (on_cpu, name));
        let (on_cpu, name) = used.max()?;
        Some((name.to_owned(), on_cpu as f64 / self.elapsed_ns.max(1) as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_may_be_called_anything() {
        let stat = "71 (a) R (b)) S 1 71 71 0 -1 4194560 1 0 0 0 42 17 0 0 20 0 1 0";
        assert_eq!(parse_stat(stat), Some((42, 17)));
        assert_eq!(parse_stat("71 nothing"), None);
    }

    #[test]
    fn numbers_are_found_by_their_whole_name() {
        let status = "nonvoluntary_ctxt_switches:\t7\nvoluntary_ctxt_switches:\t3\n";
        assert_eq!(named_number(status, "voluntary_ctxt_switches:"), Some(3));
        assert_eq!(named_number("Pss:     12 kB\n", "Pss:"), Some(12));
    }

    #[test]
    fn this_process_uses_time_and_memory() {
        let server = ServerAt::Pid(std::process::id());
        let before = Sample::take(&server).unwrap();
        let mut sum = 0_u64;
        while Sample::take(&server).unwrap().cpu_ns_since(&before) < 3_000_000 {
            sum = std::hint::black_box(sum + 1);
        }
        let observed = Observed {
            server: &server,
            after: Sample::take(&server).unwrap(),
            before,
            elapsed_ns: 10_000_000,
            messages: 10,
            bytes_before: Some(1000),
            bytes_with_connections: Some(3000),
            bytes_after: Some(3500),
            connections: 2,
        };
        let found = observed.summary();
        assert!(found.cpu_us >= 3000.0 && found.busiest_thread.is_some());
        let sum: f64 = found.threads.iter().map(|(_, us)| us).sum();
        assert!((sum - found.cpu_us).abs() < 1.0 && sum > 0.0, "{:?}", found.threads);
        assert_eq!(found.cpu_us_per_message, Some(found.cpu_us / 10.0));
        assert_eq!(found.bytes_per_connection, Some(1000.0));
        assert!(memory(&server).unwrap() > 100_000);
    }

    #[test]
    fn a_thread_that_ends_takes_nothing_from_what_the_others_used() {
        let threads = |all: &[(u32, u64)]| Sample {
            threads: all.iter().map(|&(tid, ns)| (tid, (format!("thread-{tid}"), ns))).collect(),
            ..Sample::default()
        };
        let before = threads(&[(1, 5_000), (2, 9_000)]);
        assert_eq!(threads(&[(1, 7_000), (3, 500)]).cpu_ns_since(&before), 2_500);
    }

    #[test]
    fn a_control_group_is_read_from_its_files() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path();
        fs::write(folder.join("cpu.stat"), "usage_usec 500\nuser_usec 300\nsystem_usec 200\n")
            .unwrap();
        fs::write(folder.join("memory.current"), "4096\n").unwrap();
        let server = ServerAt::Cgroup(folder.to_owned());
        let sample = Sample::take(&server).unwrap();
        assert_eq!((sample.user_us, sample.system_us, sample.cpu_ns), (300, 200, 500_000));
        assert_eq!(memory(&server).unwrap(), 4096);
    }

    #[test]
    fn a_process_that_is_gone_is_an_error() {
        assert!(Sample::take(&ServerAt::Pid(u32::MAX)).is_err());
    }
}
