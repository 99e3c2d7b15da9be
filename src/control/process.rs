//! What the kernel says about this process, for the scrape.

use std::fs;
use std::io;

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

/// One look at `/proc/self`. Values that cannot be read are left out.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ProcessSample {
    pub(super) resident_bytes: Option<u64>,
    pub(super) virtual_bytes: Option<u64>,
    pub(super) cpu_seconds: Option<f64>,
    pub(super) threads: Option<u64>,
    pub(super) open_files: Option<u64>,
    pub(super) open_files_max: Option<u64>,
}

impl ProcessSample {
    pub(super) fn take() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let stat = Stat::parse(&stat);
        Self {
            resident_bytes: stat.number(RSS).map(|pages| pages * page_size() as u64),
            virtual_bytes: stat.number(VSIZE),
            cpu_seconds: stat
                .number(UTIME)
                .zip(stat.number(STIME))
                .map(|(user, system)| (user + system) as f64 / clock_ticks_per_second() as f64),
            threads: stat.number(THREADS),
            open_files: open_files().ok(),
            open_files_max: getrlimit(Resource::Nofile).current,
        }
    }
}

/// Not counting the descriptor that the counting itself needs.
fn open_files() -> io::Result<u64> {
    Ok((fs::read_dir("/proc/self/fd")?.count() as u64).saturating_sub(1))
}

/// The fields of `/proc/self/stat` after the process name, which may hold anything.
struct Stat<'a>(Vec<&'a str>);

impl<'a> Stat<'a> {
    fn parse(stat: &'a str) -> Self {
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        Self(fields.split_ascii_whitespace().collect())
    }

    /// `field` counts from 1, as `proc_pid_stat(5)` does.
    fn number(&self, field: usize) -> Option<u64> {
        self.0.get(field.checked_sub(3)?)?.parse().ok()
    }
}

const UTIME: usize = 14;
const STIME: usize = 15;
const THREADS: usize = 20;
const VSIZE: usize = 23;
const RSS: usize = 24;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_from_behind_the_name() {
        // Every field holds its own number.
        let rest: Vec<String> = (4..=52).map(|field| field.to_string()).collect();
        let line = format!("1 (core) lane) S {}\n", rest.join(" "));
        let stat = Stat::parse(&line);
        for field in [UTIME, STIME, THREADS, VSIZE, RSS] {
            assert_eq!(stat.number(field), Some(field as u64));
        }
        assert_eq!(stat.number(99), None);
        assert_eq!(stat.number(1), None);
    }

    #[test]
    fn this_process_has_memory_threads_and_files() {
        let sample = ProcessSample::take();
        assert!(sample.resident_bytes.is_some_and(|bytes| bytes > 1 << 20), "{sample:?}");
        assert!(sample.open_files.is_some_and(|files| files >= 3), "{sample:?}");
        assert!(sample.threads.is_some_and(|threads| threads >= 1), "{sample:?}");
    }
}
