//! What the generator itself uses: the sending threads between two moments.

use std::path::PathBuf;

use crate::outcome::{GeneratorUse, ThreadUse};
use crate::server_use::{ThreadSample, read_thread};

/// The sending threads at one moment, in order of their number.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample(Vec<Option<ThreadSample>>);

impl Sample {
    /// `threads` are their ids as the kernel knows them.
    pub(crate) fn take(threads: &[u32]) -> Self {
        let folder = |tid: &u32| PathBuf::from(format!("/proc/self/task/{tid}"));
        Self(threads.iter().map(|tid| read_thread(&folder(tid))).collect())
    }
}

/// What was used from one sample to the other.
pub(crate) fn between(before: &Sample, after: &Sample, elapsed_ns: u64) -> GeneratorUse {
    let mut found = GeneratorUse {
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        threads: Vec::new(),
        voluntary_switches: 0,
        involuntary_switches: 0,
    };
    for (before, after) in before.0.iter().zip(&after.0) {
        let (Some(before), Some(after)) = (before, after) else {
            continue;
        };
        let on_cpu = after.on_cpu_ns.saturating_sub(before.on_cpu_ns);
        found.threads.push(ThreadUse {
            user_us: after.user_us.saturating_sub(before.user_us),
            system_us: after.system_us.saturating_sub(before.system_us),
            busy: on_cpu as f64 / elapsed_ns.max(1) as f64,
        });
        found.voluntary_switches += after.voluntary.saturating_sub(before.voluntary);
        found.involuntary_switches += after.involuntary.saturating_sub(before.involuntary);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_thread_is_seen_busy() {
        let threads = [rustix::thread::gettid().as_raw_nonzero().get() as u32];
        let before = Sample::take(&threads);
        let on_cpu = |sample: &Sample| sample.0[0].as_ref().unwrap().on_cpu_ns;
        while on_cpu(&Sample::take(&threads)) < on_cpu(&before) + 2_000_000 {}
        let found = between(&before, &Sample::take(&threads), 4_000_000);
        assert!(found.threads[0].busy >= 0.5, "{found:?}");
        assert!(!found.host.is_empty());
    }
}
