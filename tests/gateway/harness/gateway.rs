//! One running gateway with a configuration of its own, and clients of it.

use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::PATIENCE;
use super::client::Client;
use crate::gateway_process::token::Claims;
use crate::gateway_process::{self, Launch};

/// Small enough that several fit on one machine.
const SETTINGS: [(&str, &str); 5] = [
    ("shards.connections_max", "256"),
    ("shards.receive_buffers", "256"),
    ("shards.submission_entries", "256"),
    ("shards.block_pool_bytes", "16MiB"),
    ("shards.lane_capacity", "256"),
];

/// What the gateway says by itself, besides the manifest. Most tests are about something else.
const NOTICES: [&str; 3] =
    ["session.early_token", "session.disconnect_event", "session.disconnect_text"];

/// A gateway that is yet to be started.
pub(crate) struct Setup {
    launch: Launch,
    shards: usize,
    notices: bool,
}

impl Setup {
    /// `tables` is TOML: the services, and every setting that the test reloads.
    pub(crate) fn new(tables: impl Into<String>) -> Self {
        let mut launch = Launch::new(tables);
        for (key, value) in SETTINGS {
            launch = launch.set(key, value);
        }
        Self { launch, shards: 1, notices: false }
    }

    pub(crate) fn shards(self, shards: usize) -> Self {
        Self { shards, ..self }
    }

    /// With reconnect tokens, early and before a close.
    pub(crate) fn with_notices(self) -> Self {
        Self { notices: true, ..self }
    }

    pub(crate) fn set(self, key: &str, value: &str) -> Self {
        Self { launch: self.launch.set(key, value), ..self }
    }

    /// A variable of the gateway's environment.
    pub(crate) fn env(self, name: &str, value: &str) -> Self {
        Self { launch: self.launch.env(name, value), ..self }
    }

    pub(crate) fn start(self) -> Gateway {
        let mut launch = self.launch.set("shards.count", &self.shards.to_string());
        for key in NOTICES {
            launch = launch.set(key, &self.notices.to_string());
        }
        Gateway(launch.start())
    }
}

pub(crate) struct Gateway(gateway_process::Gateway);

impl Deref for Gateway {
    type Target = gateway_process::Gateway;

    fn deref(&self) -> &gateway_process::Gateway {
        &self.0
    }
}

impl DerefMut for Gateway {
    fn deref_mut(&mut self) -> &mut gateway_process::Gateway {
        &mut self.0
    }
}

/// A test that fails shows what the gateway had to say.
impl Drop for Gateway {
    #[expect(clippy::print_stdout, reason = "the test runner keeps it for those that fail")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("log of the gateway ({:?}):\n{}", self.0.ended(), self.log().text());
        }
    }
}

impl Gateway {
    /// Waits for a line of the log that contains `text`.
    pub(crate) fn await_log(&self, text: &str) -> String {
        let find = |line: &str| line.contains(text).then(|| line.to_owned());
        let found = self.log().wait_for(Instant::now() + PATIENCE, find);
        found.unwrap_or_else(|| panic!("{text:?} is not logged:\n{}", self.log().text()))
    }

    /// The line that tells how a session ended.
    pub(crate) fn await_session_end(&self, session: &str) -> Value {
        let find = |line: &str| {
            let line: Value = serde_json::from_str(line).ok()?;
            (line["session"] == session && !line["cause"].is_null()).then_some(line)
        };
        let found = self.log().wait_for(Instant::now() + PATIENCE, find);
        found.unwrap_or_else(|| panic!("no end of {session}:\n{}", self.log().text()))
    }

    /// Sum over all shards.
    pub(crate) fn metric(&self, name: &str, label: &str) -> u64 {
        self.metrics().sum_of(name, label) as u64
    }

    pub(crate) fn shed(&self, reason: &str) -> u64 {
        self.metric("corelane_shed_total", &format!("reason=\"{reason}\""))
    }

    pub(crate) fn await_metric(&self, name: &str, label: &str, wanted: u64) {
        self.wait_for_metrics(&format!("{name} {label} = {wanted}"), PATIENCE, |metrics| {
            metrics.sum_of(name, label) as u64 == wanted
        });
    }

    pub(crate) fn await_shed(&self, reason: &str, wanted: u64) {
        self.await_metric("corelane_shed_total", &format!("reason=\"{reason}\""), wanted);
    }

    /// Waits until `shards` links or pooled connections stand.
    pub(crate) fn await_upstreams(&self, wanted: u64) {
        self.await_metric("corelane_upstream_connections", "", wanted);
    }

    /// A fresh session.
    pub(crate) fn client(&self) -> Client {
        self.client_of(&Claims::default())
    }

    pub(crate) fn client_of(&self, claims: &Claims) -> Client {
        Client::connect(self.public(), &claims.sign())
    }

    /// A fresh session on the shard with this number. The kernel chooses where a connection goes,
    /// so others are made and dropped until it chooses well.
    pub(crate) fn client_on(&self, shard: usize) -> Client {
        let label = format!("shard=\"{shard}\"");
        let until = Instant::now() + PATIENCE;
        let mut elsewhere = Vec::new();
        while Instant::now() < until {
            let before = self.metric("corelane_sessions", &label);
            let client = self.client();
            if self.metric("corelane_sessions", &label) > before {
                return client;
            }
            elsewhere.push(client);
        }
        panic!("the kernel sends nobody to shard {shard}")
    }

    /// Nothing moves while `during` lasts.
    pub(crate) fn still_runs_for(&mut self, during: Duration) {
        let until = Instant::now() + during;
        while Instant::now() < until {
            assert!(self.ended().is_none(), "it has ended");
            gateway_process::pause();
        }
    }
}
