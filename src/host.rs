//! Whether this host can carry the configuration: facts collected, compared with needs, and every
//! shortfall named together with what to do about it.
//!
//! [`shortfalls`] is a pure function; [`Facts::collect`] is the only part that looks at the host.

use std::path::{Path, PathBuf};
use std::{fs, io};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use thiserror::Error;

/// What the configuration asks of the host, all shards together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// Descriptors, direct ones of the largest table included.
    pub open_files: u64,
    /// Rings, buffer rings and the executors' own, accounted per user.
    pub locked_bytes: u64,
    /// A limit below this is refused even where locked memory is not accounted.
    pub locked_limit: u64,
    pub listen_backlog: u32,
    /// The sum of all bounds.
    pub memory_bytes: u64,
}

/// What the host has. `None`: unlimited, or not known here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// As `uname -r` prints it.
    pub kernel_release: String,
    /// `/proc/sys/kernel/io_uring_disabled`.
    pub io_uring_disabled: Option<u8>,
    /// May create rings at `io_uring_disabled = 1`.
    pub io_uring_exempt: bool,
    pub open_files: Option<u64>,
    pub locked_bytes: Option<u64>,
    /// Locked memory is not accounted to this process.
    pub locked_exempt: bool,
    pub somaxconn: Option<u32>,
    /// The tightest `memory.max` on the way to the root of the control groups.
    pub memory_bytes: Option<u64>,
}

/// Whether the process can start all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    Refuse,
    Warn,
}

/// One thing that the host lacks: the fact, then the next step.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Shortfall {
    #[error("the kernel is {release}, Linux {}.{} or later is needed: upgrade it", KERNEL_MIN.0, KERNEL_MIN.1)]
    OldKernel { release: String },
    #[error("io_uring is switched off (kernel.io_uring_disabled = {value}): run `sysctl kernel.io_uring_disabled=0`{}", group_advice(*.value))]
    IoUringDisabled { value: u8 },
    #[error(
        "{allowed} open files are allowed and {needed} needed: set LimitNOFILE={needed} in the unit, run `ulimit -n {needed}`, or lower shards.connections_max"
    )]
    OpenFiles { allowed: u64, needed: u64 },
    #[error("{allowed} bytes of locked memory are allowed and {needed} needed: set LimitMEMLOCK={needed} in the unit or run `ulimit -l {}`", needed.div_ceil(1024))]
    LockedMemory { allowed: u64, needed: u64 },
    #[error(
        "net.core.somaxconn is {allowed}, so the kernel cuts the listen backlog of {needed}: run `sysctl net.core.somaxconn={needed}`"
    )]
    Backlog { allowed: u32, needed: u32 },
    #[error(
        "the control group may use {allowed} bytes of memory and all bounds together come to {needed}: raise MemoryMax= or lower the limits"
    )]
    Memory { allowed: u64, needed: u64 },
}

impl Shortfall {
    #[must_use]
    pub fn severity(&self) -> Severity {
        match self {
            Self::Backlog { .. } => Severity::Warn,
            Self::OldKernel { .. }
            | Self::IoUringDisabled { .. }
            | Self::OpenFiles { .. }
            | Self::LockedMemory { .. }
            | Self::Memory { .. } => Severity::Refuse,
        }
    }
}

fn group_advice(value: u8) -> &'static str {
    if value == 1 { " or add the user to the group in kernel.io_uring_group" } else { "" }
}

/// Everything that `facts` lacks for `needs`, most fundamental first.
#[must_use]
pub fn shortfalls(facts: &Facts, needs: &Needs) -> Vec<Shortfall> {
    let mut found = Vec::new();
    // A release that cannot be read is let through: the rings are tried at start anyway.
    if kernel_version(&facts.kernel_release).is_some_and(|version| version < KERNEL_MIN) {
        found.push(Shortfall::OldKernel { release: facts.kernel_release.clone() });
    }
    match facts.io_uring_disabled {
        None | Some(0) => {}
        Some(1) if facts.io_uring_exempt => {}
        Some(value) => found.push(Shortfall::IoUringDisabled { value }),
    }
    if let Some(allowed) = facts.open_files.filter(|allowed| *allowed < needs.open_files) {
        found.push(Shortfall::OpenFiles { allowed, needed: needs.open_files });
    }
    let accounted = if facts.locked_exempt { 0 } else { needs.locked_bytes };
    let needed = accounted.max(needs.locked_limit);
    if let Some(allowed) = facts.locked_bytes.filter(|allowed| *allowed < needed) {
        found.push(Shortfall::LockedMemory { allowed, needed });
    }
    if let Some(allowed) = facts.memory_bytes.filter(|allowed| *allowed < needs.memory_bytes) {
        found.push(Shortfall::Memory { allowed, needed: needs.memory_bytes });
    }
    if let Some(allowed) = facts.somaxconn.filter(|allowed| *allowed < needs.listen_backlog) {
        found.push(Shortfall::Backlog { allowed, needed: needs.listen_backlog });
    }
    found
}

/// Raises the soft limit of open files to `needed`, as far as the hard limit lets it. Belongs
/// before [`Facts::collect`], which then shows what came of it.
pub fn raise_open_files(needed: u64) -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(needed, |hard| needed.min(hard));
    if limit.current.is_some_and(|soft| soft < wanted) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), ..limit })?;
    }
    Ok(())
}

impl Facts {
    #[must_use]
    pub fn collect() -> Self {
        let capabilities = capabilities(&read("/proc/self/status").unwrap_or_default());
        let has = |capability: u32| capabilities & (1 << capability) != 0;
        let uring_group = number("/proc/sys/kernel/io_uring_group");
        Self {
            kernel_release: rustix::system::uname().release().to_string_lossy().into_owned(),
            io_uring_disabled: number("/proc/sys/kernel/io_uring_disabled"),
            io_uring_exempt: has(CAP_SYS_ADMIN) || uring_group.is_some_and(in_group),
            open_files: getrlimit(Resource::Nofile).current,
            locked_bytes: getrlimit(Resource::Memlock).current,
            locked_exempt: has(CAP_IPC_LOCK),
            somaxconn: number("/proc/sys/net/core/somaxconn"),
            memory_bytes: read("/proc/self/cgroup").and_then(|own| memory_limit(&own)),
        }
    }
}

fn in_group(group: i64) -> bool {
    let status = read("/proc/self/status").unwrap_or_default();
    let groups = ["Gid:", "Groups:"].iter().filter_map(|field| status_field(&status, field));
    let mut ids = groups.flat_map(str::split_ascii_whitespace);
    ids.any(|id| id.parse() == Ok(group))
}

/// `memory.max` of every control group above this process, the smallest.
fn memory_limit(own_cgroup: &str) -> Option<u64> {
    let path = own_cgroup.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let leaf = Path::new(CGROUPS).join(path);
    let groups = leaf.ancestors().take_while(|group| group.starts_with(CGROUPS));
    groups.filter_map(|group| number(group.join("memory.max"))).min()
}

/// The effective capability set of `/proc/self/status`.
fn capabilities(status: &str) -> u64 {
    let field = status_field(status, "CapEff:");
    field.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
}

fn status_field<'a>(status: &'a str, field: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(field))
}

/// Major and minor of `6.8.0-45-generic`.
fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn number<T: std::str::FromStr>(file: impl Into<PathBuf>) -> Option<T> {
    read(file)?.trim().parse().ok()
}

fn read(file: impl Into<PathBuf>) -> Option<String> {
    fs::read_to_string(file.into()).ok()
}

/// The oldest kernel whose io_uring has all that the rings use.
const KERNEL_MIN: (u32, u32) = (6, 7);
const CGROUPS: &str = "/sys/fs/cgroup";
/// Bits of `linux/capability.h`.
const CAP_IPC_LOCK: u32 = 14;
const CAP_SYS_ADMIN: u32 = 21;

#[cfg(test)]
mod tests {
    use super::*;

    const NEEDS: Needs = Needs {
        open_files: 20_000,
        locked_bytes: 64 << 20,
        locked_limit: 512 << 10,
        listen_backlog: 4096,
        memory_bytes: 1 << 30,
    };

    fn ample() -> Facts {
        Facts {
            kernel_release: "6.8.0-45-generic".into(),
            io_uring_disabled: Some(0),
            io_uring_exempt: false,
            open_files: Some(20_000),
            locked_bytes: Some(64 << 20),
            locked_exempt: false,
            somaxconn: Some(4096),
            memory_bytes: Some(1 << 30),
        }
    }

    fn found(change: impl FnOnce(&mut Facts)) -> Vec<Shortfall> {
        let mut facts = ample();
        change(&mut facts);
        shortfalls(&facts, &NEEDS)
    }

    #[test]
    fn a_host_with_exactly_what_is_needed_lacks_nothing() {
        assert_eq!(found(|_| {}), []);
    }

    #[test]
    fn limits_that_are_unknown_or_unlimited_are_no_shortfall() {
        let none = found(|facts| {
            facts.io_uring_disabled = None;
            facts.open_files = None;
            facts.locked_bytes = None;
            facts.somaxconn = None;
            facts.memory_bytes = None;
            facts.kernel_release = "unreadable".into();
        });
        assert_eq!(none, []);
    }

    #[test]
    fn kernels_are_compared_by_number() {
        for (release, too_old) in [
            ("6.6.63", true),
            ("5.15.0-130", true),
            ("6.7", false),
            ("6.12.1+", false),
            ("10.0-rc1", false),
        ] {
            let old = Shortfall::OldKernel { release: release.into() };
            let expected: Vec<_> = too_old.then_some(old).into_iter().collect();
            assert_eq!(found(|facts| facts.kernel_release = release.into()), expected);
        }
    }

    #[test]
    fn io_uring_for_the_privileged_only_passes_with_the_privilege() {
        assert_eq!(
            found(|facts| facts.io_uring_disabled = Some(1)),
            [Shortfall::IoUringDisabled { value: 1 }]
        );
        let exempt = |value| {
            found(|facts| {
                facts.io_uring_disabled = Some(value);
                facts.io_uring_exempt = true;
            })
        };
        assert_eq!(exempt(1), []);
        assert_eq!(exempt(2), [Shortfall::IoUringDisabled { value: 2 }]);
    }

    #[test]
    fn locked_memory_does_not_count_for_the_exempt() {
        let lacking = Shortfall::LockedMemory { allowed: 8 << 20, needed: 64 << 20 };
        assert_eq!(found(|facts| facts.locked_bytes = Some(8 << 20)), [lacking]);
        let exempt = found(|facts| {
            facts.locked_bytes = Some(8 << 20);
            facts.locked_exempt = true;
        });
        assert_eq!(exempt, []);
    }

    #[test]
    fn the_exempt_need_the_limit_that_the_executor_looks_at() {
        let found = found(|facts| {
            facts.locked_bytes = Some((512 << 10) - 1);
            facts.locked_exempt = true;
        });
        let lacking = Shortfall::LockedMemory { allowed: (512 << 10) - 1, needed: 512 << 10 };
        assert_eq!(found, [lacking]);
    }

    #[test]
    fn every_message_names_both_numbers_and_a_next_step() {
        let all = found(|facts| {
            facts.open_files = Some(1024);
            facts.locked_bytes = Some(8 << 20);
            facts.somaxconn = Some(128);
            facts.memory_bytes = Some(512 << 20);
        });
        let texts: Vec<String> = all.iter().map(ToString::to_string).collect();
        for (text, parts) in texts.iter().zip([
            ["1024", "LimitNOFILE=20000"],
            ["8388608", "LimitMEMLOCK=67108864"],
            ["536870912", "MemoryMax="],
            ["128", "net.core.somaxconn=4096"],
        ]) {
            assert!(parts.iter().all(|part| text.contains(part)), "{text}");
        }
        let severities: Vec<Severity> = all.iter().map(Shortfall::severity).collect();
        use Severity::{Refuse, Warn};
        assert_eq!(severities, [Refuse, Refuse, Refuse, Warn]);
    }

    #[test]
    fn capabilities_are_read_from_the_effective_set() {
        let status = "Name:\tcorelane\nCapPrm:\tffffffffffffffff\nCapEff:\t0000000000004000\n";
        assert_eq!(capabilities(status), 1 << CAP_IPC_LOCK);
        assert_eq!(capabilities(""), 0);
    }

    #[test]
    fn facts_of_this_host_can_be_collected() {
        let facts = Facts::collect();
        assert!(kernel_version(&facts.kernel_release).is_some(), "{facts:?}");
        assert!(facts.somaxconn.is_some(), "{facts:?}");
    }
}
