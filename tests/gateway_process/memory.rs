//! What the kernel says about a process: its share of memory and its descriptors.

use std::fs;

/// Proportional set size in bytes, from `/proc/PID/smaps_rollup`.
#[must_use]
pub fn pss_bytes(pid: u32) -> u64 {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix("kB")).map(str::trim);
    let kib: u64 = kib.and_then(|kib| kib.parse().ok()).unwrap_or_else(|| panic!("{path}: {text}"));
    kib * 1024
}

/// Open descriptors; direct ones of a ring do not count.
#[must_use]
pub fn descriptors(pid: u32) -> usize {
    let path = format!("/proc/{pid}/fd");
    fs::read_dir(&path).unwrap_or_else(|error| panic!("{path}: {error}")).count()
}
