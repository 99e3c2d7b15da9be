//! What the host allows: too little is refused with the fact and the next step, enough is enough
//! for a user without privileges.

#[expect(dead_code, reason = "each test takes the part of the harness that it needs")]
mod gateway_process;

use std::sync::atomic::{AtomicU32, Ordering};

use gateway_process::client::Client;
use gateway_process::{Launch, SOON};

/// Status of a start that the host prevents.
const UNAVAILABLE: i32 = 69;

/// glommio starts with no less, whoever asks.
const GLOMMIO_MIN: u64 = 512 << 10;

/// A gateway of a user without privileges, which only root can make of it. Locked memory is
/// accounted by user, and the kernel gives it back a while after a process has ended: so each
/// start has a user of its own.
fn unprivileged(launch: Launch) -> Launch {
    static NEXT: AtomicU32 = AtomicU32::new(60_000);
    if !rustix::process::geteuid().is_root() {
        return launch;
    }
    let user = NEXT.fetch_add(1, Ordering::Relaxed);
    let (user, group) = (format!("--reuid={user}"), format!("--regid={user}"));
    launch.readable_by_everybody().through(&["setpriv", &user, &group, "--clear-groups"])
}

fn config(shards: usize) -> String {
    format!("[shards]\ncount = {shards}\n")
}

fn limited(shards: usize, limit: &str) -> Launch {
    Launch::new(config(shards)).through(&["prlimit", limit])
}

#[test]
fn too_few_open_files_are_refused_with_the_number_and_where_to_set_it() {
    let ended = limited(1, "--nofile=1000:1000").run_to_end();
    assert_eq!(ended.status.code(), Some(UNAVAILABLE), "{}", ended.stderr);
    for part in ["1000 open files", "LimitNOFILE=", "ulimit -n", "shards.connections_max"] {
        assert!(ended.stderr.contains(part), "{part:?} is not in: {}", ended.stderr);
    }
}

#[test]
fn a_soft_limit_of_open_files_is_raised() {
    let gateway = limited(1, "--nofile=256:").start();
    gateway.stop();
}

#[test]
fn too_little_locked_memory_is_refused_with_the_number_and_where_to_set_it() {
    let ended = unprivileged(limited(1, "--memlock=65536:65536")).run_to_end();
    assert_eq!(ended.status.code(), Some(UNAVAILABLE), "{}", ended.stderr);
    for part in ["65536 bytes of locked memory", "LimitMEMLOCK=", "ulimit -l"] {
        assert!(ended.stderr.contains(part), "{part:?} is not in: {}", ended.stderr);
    }
}

#[test]
fn whoever_may_lock_any_amount_still_needs_the_limit_that_the_executor_asks_for() {
    let limit = format!("--memlock={0}:{0}", GLOMMIO_MIN - 1);
    let ended = limited(1, &limit).run_to_end();
    assert_eq!(ended.status.code(), Some(UNAVAILABLE), "{}", ended.stderr);
    assert!(ended.stderr.contains("LimitMEMLOCK="), "{}", ended.stderr);
}

/// The number that the refusal names is enough, for one shard and for several.
#[test]
fn a_user_without_privileges_is_served_with_the_locked_memory_that_was_asked_for() {
    for shards in [1, 3] {
        let refused = unprivileged(limited(shards, "--memlock=4096:4096")).run_to_end().stderr;
        let needed = refused.split_once("LimitMEMLOCK=").map(|(_, rest)| rest);
        let needed = needed.and_then(|rest| rest.split(' ').next()).unwrap_or_default();
        println!("{shards} shards: {needed} bytes of locked memory");
        let limit = format!("--memlock={needed}:{needed}");
        let gateway = unprivileged(limited(shards, &limit)).start();
        let client = Client::session(gateway.public(), &gateway.token(), SOON);
        drop(client);
        gateway.stop();
    }
}
