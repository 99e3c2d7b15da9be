//! A network of a test's own: one namespace for each node, and one, the hub, for whatever they share.
//!
//! ```text
//!            hub: clients, Redis, Kafka
//!    front ══╤═══════╤═══════╤══   clients reach the nodes
//!     back ══╪═╤═════╪═╤═════╪═╤   the nodes reach each other, Redis and Kafka
//!           node 1  node 2  node 3
//! ```
//!
//! Both are bridges in the hub, so that a node can be cut off from the others and not from its clients,
//! and nothing of it is seen outside. A keeper removes all of it, with the processes in it, when the
//! network is dropped and when its test is killed; what a killed keeper has left, the next network does.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{self, Child, Command, Stdio};
use std::{env, panic, thread};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::services::program;

/// Set to anything, it leaves these tests out.
const WITHOUT: &str = "CORELANE_TEST_WITHOUT_NAMESPACES";

/// Of every name; then follow the process that made it and a number drawn by chance, because a process
/// of long ago may have had the same id and have left its namespaces.
const PREFIX: &str = "corelane";

/// Waits until nobody holds the other end of its input, and removes the namespaces that it is given.
const KEEPER: &str = r#"
cat >/dev/null
for name; do
    for pid in $(ip netns pids "$name"); do kill -KILL "$pid"; done
    ip netns delete "$name"
done
"#;

pub(crate) struct Network {
    names: Vec<String>,
    keeper: Child,
}

impl Network {
    /// `None` if the environment asks for that. Panics where namespaces cannot be made.
    #[expect(clippy::print_stdout, reason = "what is left out has to be seen")]
    pub(crate) fn new(nodes: usize) -> Option<Self> {
        if env::var_os(WITHOUT).is_some() {
            println!("NOT CHECKED: nodes in namespaces of their own, because {WITHOUT} is set");
            return None;
        }
        assert!(
            rustix::process::geteuid().is_root(),
            "network namespaces need root: run this test as root, or set {WITHOUT}=1 to leave it out"
        );
        remove_leftovers();
        let (run, number) = (process::id(), fastrand::u32(..));
        let name = |of: usize| format!("{PREFIX}-{run}-{number}-{of}");
        let names: Vec<_> = (0..=nodes).map(name).collect();
        // It comes first, so that it also removes what is left half made.
        let keeper = keeper(&names);
        let network = Self { names, keeper };
        for name in &network.names {
            ip(&["netns", "add", name]);
            ip(&["-n", name, "link", "set", "lo", "up"]);
        }
        for (side, hub) in [("back", HUB), ("front", FRONT_HUB)] {
            network.in_hub(&["link", "add", side, "type", "bridge"]);
            network.in_hub(&["address", "add", &format!("{hub}/24"), "dev", side]);
            network.in_hub(&["link", "set", side, "up"]);
        }
        network.in_hub(&["address", "add", &format!("{REDIS}/24"), "dev", "back"]);
        for node in 0..nodes {
            network.attach(node, "back", back(node));
            network.attach(node, "front", front(node));
        }
        Some(network)
    }

    fn attach(&self, node: usize, side: &str, address: Ipv4Addr) {
        let (port, name) = (port(side, node), self.node(node));
        self.in_hub(&["link", "add", &port, "type", "veth", "peer", "name", side, "netns", name]);
        self.in_hub(&["link", "set", &port, "master", side, "up"]);
        ip(&["-n", name, "address", "add", &format!("{address}/24"), "dev", side]);
        ip(&["-n", name, "link", "set", side, "up"]);
    }

    /// The namespace where clients, Redis and Kafka are.
    pub(crate) fn hub(&self) -> &str {
        &self.names[0]
    }

    /// The namespace of the node with this number, from 0.
    pub(crate) fn node(&self, node: usize) -> &str {
        &self.names[node + 1]
    }

    /// From everybody but its clients, silently: nothing goes or comes.
    pub(crate) fn cut(&self, node: usize) {
        self.in_hub(&["link", "set", &port("back", node), "down"]);
    }

    pub(crate) fn heal(&self, node: usize) {
        self.in_hub(&["link", "set", &port("back", node), "up"]);
    }

    /// From Redis alone.
    pub(crate) fn cut_from_redis(&self, node: usize) {
        self.route_to_redis(node, "add");
    }

    pub(crate) fn heal_to_redis(&self, node: usize) {
        self.route_to_redis(node, "delete");
    }

    fn route_to_redis(&self, node: usize, change: &str) {
        ip(&["-n", self.node(node), "route", change, "blackhole", &REDIS.to_string()]);
    }

    fn in_hub(&self, words: &[&str]) {
        ip(&[&["-n", self.hub()], words].concat());
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        drop(self.keeper.wait());
    }
}

/// Where Kafka listens, in the hub.
pub(crate) const HUB: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// Where Redis listens, in the hub too.
pub(crate) const REDIS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

const FRONT_HUB: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);

/// Where other nodes reach this one.
pub(crate) fn back(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, 11 + node as u8)
}

/// Where clients reach it.
pub(crate) fn front(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 78, 0, 11 + node as u8)
}

/// The end in the hub of a node's cable.
fn port(side: &str, node: usize) -> String {
    format!("{side}{node}")
}

/// Does it on a thread that is in the namespace `name`. Processes and threads that are started there
/// are there, too.
pub(crate) fn within<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let there = scope.spawn(|| {
            let path = Path::new("/run/netns").join(name);
            let file = File::open(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .unwrap_or_else(|error| panic!("cannot enter {name}: {error}"));
            work()
        });
        there.join().unwrap_or_else(|panicked| panic::resume_unwind(panicked))
    })
}

fn ip(words: &[&str]) -> String {
    let output = Command::new(program("ip")).args(words).output().expect("ip runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "ip {}: {}; these tests make network namespaces, and {WITHOUT}=1 leaves them out",
        words.join(" "),
        said.trim()
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn keeper(names: &[String]) -> Child {
    let mut keeper = Command::new("sh");
    keeper.args(["-c", KEEPER, "keeper"]).args(names);
    // Whatever ends this process from a terminal is not meant for it.
    keeper.process_group(0);
    keeper.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    keeper.spawn().unwrap_or_else(|error| panic!("cannot run sh: {error}"))
}

/// Of processes that have ended without a keeper.
fn remove_leftovers() {
    let names = ip(&["netns", "list"]);
    let names = names.lines().filter_map(|line| line.split(' ').next());
    let dead = names.filter(|name| {
        let mut parts = name.split('-');
        let run = (parts.next() == Some(PREFIX)).then(|| parts.next()).flatten();
        run.and_then(|pid| pid.parse::<u32>().ok())
            .is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
    });
    let dead: Vec<_> = dead.map(str::to_owned).collect();
    if !dead.is_empty() {
        let mut keeper = keeper(&dead);
        drop(keeper.stdin.take());
        drop(keeper.wait());
    }
}
