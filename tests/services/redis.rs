//! A Redis of a test's own.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Instant;

use super::folder::Folder;
use super::process::{Failed, Process};
use super::{Place, SOON, on_free_ports, pause, port, program, running};

const TEMPLATE: &str = include_str!("../../scripts/services/redis.conf");
const READY: &str = "Ready to accept connections";

/// How a Redis is to be.
#[derive(Debug, Clone, Default)]
pub(crate) struct Setup {
    /// Lines behind the template; the last of a name counts.
    more: String,
    password: Option<String>,
    place: Place,
}

impl Setup {
    /// Not on loopback but on `host`, started through a program such as `ip netns exec NAME`. Ports
    /// are looked for where this process is.
    #[must_use]
    pub(crate) fn at(self, host: Ipv4Addr, through: &[&str]) -> Self {
        let there = Self { place: Place::new(host, through), ..self };
        there.setting("bind", &host.to_string()).setting("protected-mode", "no")
    }

    /// Every write is on disk before it is answered, so that a restart loses none.
    #[must_use]
    pub(crate) fn persistent(self) -> Self {
        self.setting("appendonly", "yes").setting("appendfsync", "always")
    }

    /// What everybody has to say first who is no [`Self::user`].
    #[must_use]
    pub(crate) fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self.setting("requirepass", password)
    }

    /// Somebody with rights of their own, such as `~connect:* +@all -@dangerous`.
    #[must_use]
    pub(crate) fn user(self, name: &str, password: &str, rights: &str) -> Self {
        self.setting("user", &format!("{name} on >{password} {rights}"))
    }

    /// A line of redis.conf.
    #[must_use]
    pub(crate) fn setting(mut self, name: &str, value: &str) -> Self {
        writeln!(self.more, "{name} {value}").expect("text grows");
        self
    }

    #[must_use]
    pub(crate) fn start(self) -> Redis {
        program("redis-server");
        program("redis-cli");
        on_free_ports(|| {
            let (folder, port) = (Folder::new(), port::free());
            let template = format!("{TEMPLATE}{}", self.more);
            folder.fill("redis.conf", &template, &[("PORT", &port.to_string())]);
            let (place, password) = (self.place.clone(), self.password.clone());
            let process = Some(launch(&place, &folder)?);
            Ok(Redis { process, folder, place, port, password })
        })
    }
}

/// A Redis that runs, or did and may again.
#[derive(Debug)]
pub(crate) struct Redis {
    process: Option<Process>,
    folder: Folder,
    place: Place,
    port: u16,
    password: Option<String>,
}

impl Redis {
    /// Forgets everything when it ends.
    #[must_use]
    pub(crate) fn start() -> Self {
        Self::setup().start()
    }

    #[must_use]
    pub(crate) fn setup() -> Setup {
        Setup::default()
    }

    #[must_use]
    pub(crate) fn address(&self) -> SocketAddr {
        (self.place.host, self.port).into()
    }

    /// For the configuration; user and password have keys of their own there.
    #[must_use]
    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    #[must_use]
    pub(crate) fn pid(&mut self) -> u32 {
        running(&mut self.process).id()
    }

    #[must_use]
    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Answers nobody from here on, though connections stand and new ones are made.
    pub(crate) fn pause(&mut self) {
        running(&mut self.process).freeze();
    }

    pub(crate) fn resume(&mut self) {
        running(&mut self.process).thaw();
    }

    /// At once, as when the power fails; what it was told to keep is in its folder.
    pub(crate) fn kill(&mut self) {
        drop(self.process.take().expect("it runs"));
    }

    /// Runs again on the same port and with what is in its folder, after an orderly end if it ran.
    pub(crate) fn restart(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.stop();
        }
        let until = Instant::now() + SOON;
        self.process = Some(loop {
            match launch(&self.place, &self.folder) {
                Ok(process) => break process,
                // Somebody passes by; nobody else stays on this port.
                Err(failed) if failed.port_was_taken() && Instant::now() < until => pause(),
                Err(failed) => panic!("Redis: {failed}"),
            }
        });
    }

    /// What `redis-cli` prints, without the last line break; panics on an error.
    pub(crate) fn cli(&self, words: &[&str]) -> String {
        self.try_cli(words).unwrap_or_else(|error| panic!("redis-cli {words:?}: {error}"))
    }

    /// As [`Self::cli`], with the server's error if that is the answer.
    pub(crate) fn try_cli(&self, words: &[&str]) -> Result<String, String> {
        let mut command = Command::new(program("redis-cli"));
        let (host, port) = (self.place.host.to_string(), self.port.to_string());
        command.args(["-e", "-h", &host, "-p", &port]).args(words);
        if let Some(password) = &self.password {
            command.env("REDISCLI_AUTH", password);
        }
        let output = command.output().map_err(|error| error.to_string())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(format!("{}{}", text(&output.stdout), text(&output.stderr))),
        }
    }
}

fn launch(place: &Place, folder: &Folder) -> Result<Process, Failed> {
    let words = place.command([program("redis-server"), folder.path().join("redis.conf")]);
    Process::start(&words, folder.path().join("log"), READY)
}
