//! Where the services' backends are: host names looked up over and over, on the control core.
//!
//! [`AddressBook`] is sans-IO and decides what is published; [`Lookups`] asks the resolver.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use corelane_shard::id::ServiceId;
use corelane_shard::snapshot::Address;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{info, warn};

/// A host name with a port, to be looked up.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Host {
    pub name: String,
    pub port: u16,
}

/// Where a backend is, as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Host(Host),
    Socket(SocketAddr),
    Unix(PathBuf),
}

/// All targets of one service, in configured order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceTargets {
    pub service: ServiceId,
    pub targets: Vec<Target>,
}

/// A service's addresses that have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) version: u64,
    pub(super) service: ServiceId,
    pub(super) addresses: Arc<[Address]>,
}

/// What is known about every host, and what the shards were told. Bounded by the configuration
/// and [`HOST_ADDRESSES_MAX`].
#[derive(Debug, Default)]
pub(super) struct AddressBook {
    version: u64,
    services: Vec<Listed>,
    hosts: BTreeMap<Host, Vec<SocketAddr>>,
    /// Something was learned or replaced since [`Self::changes`].
    touched: bool,
}

#[derive(Debug)]
struct Listed {
    service: ServiceId,
    targets: Vec<Target>,
    published: Option<Arc<[Address]>>,
}

impl AddressBook {
    /// Takes the services of snapshot `version`. Hosts that stay keep their addresses.
    pub(super) fn replace(&mut self, version: u64, services: Vec<ServiceTargets>) {
        self.touched = true;
        self.version = version;
        let listed =
            |s: ServiceTargets| Listed { service: s.service, targets: s.targets, published: None };
        self.services = services.into_iter().map(listed).collect();
        let named = self.hosts();
        self.hosts.retain(|host, _| named.contains(host));
    }

    /// Moves a service to other targets; says whether that is a change.
    pub(super) fn remap(&mut self, service: ServiceId, targets: Vec<Target>) -> bool {
        let Some(listed) = self.services.iter_mut().find(|listed| listed.service == service) else {
            return false;
        };
        let changed = listed.targets != targets;
        listed.targets = targets;
        self.touched |= changed;
        changed
    }

    /// As the shards were told.
    pub(super) fn addresses_of(&self, service: ServiceId) -> Arc<[Address]> {
        let listed = self.services.iter().find(|listed| listed.service == service);
        listed.and_then(|listed| listed.published.clone()).unwrap_or_default()
    }

    pub(super) fn hosts(&self) -> BTreeSet<Host> {
        let targets = self.services.iter().flat_map(|listed| &listed.targets);
        let host = |target: &Target| match target {
            Target::Host(host) => Some(host.clone()),
            Target::Socket(_) | Target::Unix(_) => None,
        };
        targets.filter_map(host).collect()
    }

    /// A successful look-up. An empty one changes nothing: old addresses beat none.
    pub(super) fn learn(&mut self, host: Host, mut addresses: Vec<SocketAddr>) {
        if addresses.is_empty() {
            return;
        }
        // Resolvers rotate their answers; a rotation is no change.
        addresses.sort_unstable();
        addresses.dedup();
        addresses.truncate(HOST_ADDRESSES_MAX);
        self.touched = true;
        self.hosts.insert(host, addresses);
    }

    /// The lists that differ from what was published, which they are from here on. A service of
    /// which nothing is known yet is left out.
    pub(super) fn changes(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        if !std::mem::take(&mut self.touched) {
            return changes;
        }
        for listed in &mut self.services {
            let addresses = addresses(&listed.targets, &self.hosts);
            let same = listed.published.as_deref().unwrap_or_default() == addresses.as_slice();
            if same {
                continue;
            }
            let addresses: Arc<[Address]> = addresses.into();
            listed.published = Some(Arc::clone(&addresses));
            changes.push(Change { version: self.version, service: listed.service, addresses });
        }
        changes
    }
}

fn addresses(targets: &[Target], hosts: &BTreeMap<Host, Vec<SocketAddr>>) -> Vec<Address> {
    let mut all = Vec::new();
    for target in targets {
        match target {
            Target::Host(host) => {
                let known = hosts.get(host).map(Vec::as_slice).unwrap_or_default();
                all.extend(known.iter().copied().map(Address::Tcp));
            }
            Target::Socket(socket) => all.push(Address::Tcp(*socket)),
            Target::Unix(path) => all.push(Address::Unix(path.clone())),
        }
    }
    let mut seen = BTreeSet::new();
    all.retain(|address| match address {
        Address::Tcp(socket) => seen.insert(*socket),
        Address::Unix(_) => true,
    });
    all
}

/// One finished look-up.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) host: Host,
    pub(super) found: io::Result<Vec<SocketAddr>>,
}

/// One task per host, which looks up, reports and waits; a slow host delays no other. Ends its
/// tasks when it goes.
#[derive(Debug)]
pub(super) struct Lookups {
    answers: mpsc::Receiver<Answer>,
    /// Held so that `answers` stays open while there is no host at all.
    _report: mpsc::Sender<Answer>,
    _tasks: JoinSet<()>,
}

impl Lookups {
    pub(super) fn start(hosts: BTreeSet<Host>, refresh: Duration) -> Self {
        let (report, answers) = mpsc::channel(ANSWERS_WAITING_MAX);
        let mut tasks = JoinSet::new();
        for host in hosts {
            tasks.spawn(look_up_for_ever(host, refresh, report.clone()));
        }
        Self { answers, _report: report, _tasks: tasks }
    }

    /// Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Answer> {
        self.answers.recv().await
    }
}

/// Logs when a host's state changes, not every time: a dead name is one line, not one a second.
async fn look_up_for_ever(host: Host, refresh: Duration, report: mpsc::Sender<Answer>) {
    let mut failing = false;
    loop {
        let found = match tokio::net::lookup_host((host.name.as_str(), host.port)).await {
            Ok(addresses) => Ok(addresses.collect::<Vec<_>>()),
            Err(reason) => Err(reason),
        };
        match &found {
            Err(reason) if !failing => {
                warn!(host = host.name, %reason, "host name not resolved, its last addresses stay");
            }
            Ok(_) if failing => info!(host = host.name, "host name resolved again"),
            Ok(_) | Err(_) => {}
        }
        failing = found.is_err();
        if report.send(Answer { host: host.clone(), found }).await.is_err() {
            return;
        }
        tokio::time::sleep(refresh).await;
    }
}

/// Addresses kept of one host name.
pub(super) const HOST_ADDRESSES_MAX: usize = 64;
const ANSWERS_WAITING_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    const DEMO: ServiceId = ServiceId(0);
    const PLAIN: ServiceId = ServiceId(1);

    fn host() -> Host {
        Host { name: "demo.internal".into(), port: 80 }
    }

    fn socket(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 80))
    }

    fn book() -> AddressBook {
        let mut book = AddressBook::default();
        book.replace(1, services());
        book
    }

    fn services() -> Vec<ServiceTargets> {
        let fixed = vec![Target::Socket(socket(9)), Target::Unix("/run/plain.sock".into())];
        vec![
            ServiceTargets { service: DEMO, targets: vec![Target::Host(host())] },
            ServiceTargets { service: PLAIN, targets: fixed },
        ]
    }

    fn tcp(last: &[u8]) -> Arc<[Address]> {
        last.iter().map(|last| Address::Tcp(socket(*last))).collect()
    }

    #[test]
    fn sockets_and_paths_are_published_at_once_and_only_once() {
        let mut book = book();
        let fixed = [Address::Tcp(socket(9)), Address::Unix("/run/plain.sock".into())];
        let change = Change { version: 1, service: PLAIN, addresses: fixed.into() };
        assert_eq!(book.changes(), [change]);
        assert_eq!(book.changes(), []);
    }

    #[test]
    fn a_rotated_answer_is_no_change_and_a_new_one_is() {
        let mut book = book();
        book.changes();
        book.learn(host(), vec![socket(2), socket(1), socket(2)]);
        assert_eq!(book.changes(), [Change { version: 1, service: DEMO, addresses: tcp(&[1, 2]) }]);
        book.learn(host(), vec![socket(1), socket(2)]);
        assert_eq!(book.changes(), []);
        book.learn(host(), vec![socket(3)]);
        assert_eq!(book.changes(), [Change { version: 1, service: DEMO, addresses: tcp(&[3]) }]);
    }

    #[test]
    fn an_empty_answer_keeps_the_old_addresses() {
        let mut book = book();
        book.learn(host(), vec![socket(1)]);
        book.changes();
        book.learn(host(), Vec::new());
        assert_eq!(book.changes(), []);
    }

    #[test]
    fn a_new_version_is_published_whole_with_what_is_known() {
        let mut book = book();
        book.learn(host(), vec![socket(1)]);
        book.changes();
        book.replace(2, services());
        let changes = book.changes();
        assert!(changes.iter().all(|change| change.version == 2));
        assert_eq!(changes.iter().map(|c| c.service).collect::<Vec<_>>(), [DEMO, PLAIN]);
        book.replace(3, Vec::new());
        assert!(book.hosts.is_empty());
    }

    #[test]
    fn a_host_with_very_many_addresses_is_cut() {
        let mut book = book();
        book.changes();
        book.learn(host(), (0..=255).map(socket).collect());
        assert_eq!(book.changes()[0].addresses.len(), HOST_ADDRESSES_MAX);
    }

    #[tokio::test]
    async fn a_name_of_this_host_is_looked_up() {
        let local = Host { name: "localhost".into(), port: 8080 };
        let hosts = BTreeSet::from([local.clone()]);
        let mut lookups = Lookups::start(hosts, Duration::from_secs(60));
        let answer = lookups.next().await.unwrap();
        assert_eq!(answer.host, local);
        let found = answer.found.unwrap();
        assert!(found.iter().all(|address| address.ip().is_loopback() && address.port() == 8080));
        assert!(!found.is_empty());
    }
}
