//! What the kernel says about a process: its share of memory and its descriptors.

use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Proportional set size in bytes, from `/proc/PID/smaps_rollup`.
#[must_use]
pub(crate) fn pss_bytes(pid: u32) -> u64 {
    share(pid, "Pss:")
}

/// The same without what is mapped from files: processes of one program share that, so it changes when
/// others of them begin and end.
#[must_use]
pub(crate) fn own_bytes(pid: u32) -> u64 {
    share(pid, "Pss_Anon:") + share(pid, "Pss_Shmem:")
}

fn share(pid: u32, name: &str) -> u64 {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|rest| rest.trim().strip_suffix("kB")).map(str::trim);
    let kib: u64 = kib.and_then(|kib| kib.parse().ok()).unwrap_or_else(|| panic!("{path}: {text}"));
    kib * 1024
}

/// Open descriptors; direct ones of a ring do not count.
#[must_use]
pub(crate) fn descriptors(pid: u32) -> usize {
    let path = format!("/proc/{pid}/fd");
    fs::read_dir(&path).unwrap_or_else(|error| panic!("{path}: {error}")).count()
}

/// Lets this process, and the gateways that it starts, open as many files as the system permits.
pub(crate) fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
        .expect("the soft limit may be raised to the hard one");
}
