//! A Sentinel of a test's own: by itself it decides that its primary is gone, and promotes a replica.

use std::net::SocketAddr;

use super::folder::Folder;
use super::process::Process;
use super::{Redis, on_free_ports, port, program};

const TEMPLATE: &str = "\
bind 127.0.0.1
port @PORT@
dir @FOLDER@
sentinel monitor @NAME@ @HOST@ @PRIMARY@ 1
sentinel down-after-milliseconds @NAME@ 500
sentinel failover-timeout @NAME@ 5000
";
const READY: &str = "+monitor master";

#[derive(Debug)]
pub(crate) struct Sentinel {
    _process: Process,
    _folder: Folder,
    port: u16,
}

impl Sentinel {
    /// Of a primary whose replicas are connected to it: later ones it finds only after a while.
    #[must_use]
    pub(crate) fn of(primary: &Redis, name: &str) -> Self {
        on_free_ports(|| {
            let (folder, port) = (Folder::new(), port::free());
            let (host, its_port) = (primary.address().ip(), primary.address().port());
            let values = [
                ("PORT", &*port.to_string()),
                ("NAME", name),
                ("HOST", &host.to_string()),
                ("PRIMARY", &its_port.to_string()),
            ];
            let config = folder.fill("sentinel.conf", TEMPLATE, &values);
            let words = [program("redis-server"), config, "--sentinel".into()];
            let process = Process::start(&words, folder.path().join("log"), READY)?;
            Ok(Self { _process: process, _folder: folder, port })
        })
    }

    #[must_use]
    pub(crate) fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }
}
