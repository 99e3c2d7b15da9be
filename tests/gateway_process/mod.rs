//! A running `corelane serve` for tests: the real binary with a configuration of the test's own.
//!
//! The harness adds what no test cares about: free ports, a key whose tokens [`Gateway::token`]
//! mints, a salt, a short drain and logs as JSON, from which the ports are read. All but the key
//! come as variables, so that the text of a test may say anything, and [`Launch::env`] or
//! [`Launch::set`] override them. Nothing here sleeps for luck: everything is polled against a
//! deadline.

pub(crate) mod backend;
pub(crate) mod client;
pub(crate) mod folder;
pub(crate) mod http;
pub(crate) mod log;
pub(crate) mod memory;
pub(crate) mod metrics;
pub(crate) mod token;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use self::folder::Folder;
use self::log::Log;
use self::metrics::Metrics;
use self::token::{Claims, KEY_FILE, SECRET};

/// Time for a start, an end, and everything else that should be quick.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Name of the configuration in the gateway's folder.
const CONFIG_FILE: &str = "corelane.toml";

/// What is zero when nobody is there.
const GAUGES: &[&str] = &[
    "corelane_connections",
    "corelane_sessions",
    "corelane_slots_in_use",
    "corelane_directory_sessions",
    "corelane_blocks_in_use_bytes",
    "corelane_receive_buffers_out",
    "corelane_calls_running",
];

const DEFAULTS: &[(&str, &str)] = &[
    ("CORELANE_LISTEN_PUBLIC_ADDRESS", "127.0.0.1:0"),
    ("CORELANE_LISTEN_ADMIN_ADDRESS", "127.0.0.1:0"),
    ("CONNECT_SERVER_SALT", "a salt of the tests that nobody else knows"),
    ("CORELANE_LOG_FORMAT", "json"),
    ("CORELANE_DRAIN_GRACE", "0s"),
    ("CORELANE_DRAIN_SPREAD", "0s"),
    ("CORELANE_DRAIN_CALLS", "1s"),
    ("CORELANE_DRAIN_DEADLINE", "5s"),
];

/// How a gateway is started.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    config: String,
    env: Vec<(String, String)>,
    args: Vec<String>,
    wrapper: Vec<String>,
    readers: Readers,
}

/// Who may read the gateway's folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Readers {
    Owner,
    Everybody,
}

/// A gateway that serves. Killed when dropped; [`Gateway::stop`] ends it properly.
#[derive(Debug)]
pub(crate) struct Gateway {
    launch: Launch,
    folder: Arc<Folder>,
    child: Child,
    log: Log,
    public: Vec<SocketAddr>,
    tls: Vec<SocketAddr>,
    internal: Option<SocketAddr>,
    endpoint_meta: Option<SocketAddr>,
    admin: SocketAddr,
}

/// A gateway that ended by itself.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    /// Everything that it wrote to standard error.
    pub(crate) stderr: String,
}

impl Launch {
    /// `config` is the text of `corelane.toml`; the key of [`Gateway::token`] is appended to it.
    #[must_use]
    pub(crate) fn new(config: impl Into<String>) -> Self {
        let env = DEFAULTS.iter().map(|&(name, value)| (name.to_owned(), value.to_owned()));
        Self {
            config: config.into(),
            env: env.collect(),
            args: Vec::new(),
            wrapper: Vec::new(),
            readers: Readers::Owner,
        }
    }

    /// A variable of the gateway's environment; the last one of a name counts.
    #[must_use]
    pub(crate) fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// One more argument of `corelane serve`.
    #[must_use]
    pub(crate) fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// `--set KEY=VALUE`, stronger than all else.
    #[must_use]
    pub(crate) fn set(self, key: &str, value: &str) -> Self {
        self.arg("--set").arg(format!("{key}={value}"))
    }

    /// Runs the gateway through another program, such as `prlimit --nofile=100`. That one must
    /// become the gateway by exec, or signals do not reach it.
    #[must_use]
    pub(crate) fn through(mut self, program: &[&str]) -> Self {
        self.wrapper.extend(program.iter().map(|&word| word.to_owned()));
        self
    }

    /// Lets any user read the configuration, the key and a copy of the binary.
    #[must_use]
    pub(crate) fn readable_by_everybody(mut self) -> Self {
        self.readers = Readers::Everybody;
        self
    }

    /// Starts it and waits until it is ready; panics with its log when it is not in time.
    #[must_use]
    pub(crate) fn start(self) -> Gateway {
        let folder = Arc::new(Folder::new());
        self.start_in(folder)
    }

    /// Runs it until it ends by itself, as it does when it refuses to start.
    #[must_use]
    pub(crate) fn run_to_end(self) -> Ended {
        let folder = Folder::new();
        let mut child = self.spawn(&folder);
        let log = Log::follow(child.stderr.take().expect("standard error is piped"));
        let Some(status) = wait_for_end(&mut child, SOON) else {
            end_at_once(&mut child);
            panic!("the gateway was to end by itself; its log:\n{}", log.tail());
        };
        log.wait_for_end();
        Ended { status, stderr: log.text() }
    }

    fn start_in(self, folder: Arc<Folder>) -> Gateway {
        let mut child = self.spawn(&folder);
        let log = Log::follow(child.stderr.take().expect("standard error is piped"));
        let deadline = Instant::now() + SOON;
        let serving = log.wait_for(deadline, Serving::parse);
        let Some(Serving { public, tls, internal, endpoint_meta, admin }) = serving else {
            end_at_once(&mut child);
            panic!("the gateway does not serve; its log:\n{}", log.tail());
        };
        let launch = self;
        let gateway =
            Gateway { launch, folder, child, log, public, tls, internal, endpoint_meta, admin };
        gateway.wait_until("/readyz answers 200", SOON, || {
            http::request(gateway.admin, "GET", "/readyz").is_ok_and(|answer| answer.status == 200)
        });
        gateway
    }

    fn spawn(&self, folder: &Folder) -> Child {
        let config = folder.path().join(CONFIG_FILE);
        let text = format!("{}\n{}", self.config, token::key_table());
        fs::write(&config, text).expect("the configuration can be written");
        fs::write(folder.path().join(KEY_FILE), SECRET).expect("the key can be written");
        let mut binary = env!("CARGO_BIN_EXE_corelane").to_owned();
        if self.readers == Readers::Everybody {
            binary = folder.share_with_everybody(Path::new(&binary));
        }
        let words = self.wrapper.iter().map(String::as_str).chain([&*binary, "serve", "-c"]);
        let words: Vec<&str> = words.collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg(config).args(&self.args).current_dir(folder.path());
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.spawn().unwrap_or_else(|error| panic!("cannot run {}: {error}", words[0]))
    }
}

impl Gateway {
    /// Where clients connect.
    #[must_use]
    pub(crate) fn public(&self) -> SocketAddr {
        self.public[0]
    }

    /// Of every address in the configuration.
    #[must_use]
    pub(crate) fn public_addresses(&self) -> &[SocketAddr] {
        &self.public
    }

    /// Where clients connect over TLS; the configuration has to switch that on.
    #[must_use]
    pub(crate) fn tls(&self) -> SocketAddr {
        *self.tls.first().expect("listen.tls.address is set")
    }

    /// Where services reach it; the configuration has to switch that on.
    #[must_use]
    pub(crate) fn internal(&self) -> SocketAddr {
        self.internal.expect("listen.internal.address is set")
    }

    pub(crate) fn endpoint_meta(&self) -> SocketAddr {
        self.endpoint_meta.expect("listen.internal.endpoint_meta_address is set")
    }

    #[must_use]
    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin
    }

    #[must_use]
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Configuration and key; a test may change them for a reload or a restart.
    #[must_use]
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Replaces the text of the configuration and sends SIGHUP.
    pub(crate) fn reload(&mut self, config: impl Into<String>) {
        self.launch.config = config.into();
        let text = format!("{}\n{}", self.launch.config, token::key_table());
        fs::write(self.folder().join(CONFIG_FILE), text).expect("the configuration can be written");
        self.signal(rustix::process::Signal::HUP);
    }

    /// A token of a session and an account of its own, with the role `user`.
    #[must_use]
    pub(crate) fn token(&self) -> String {
        Claims::default().sign()
    }

    /// What the gateway has logged so far.
    #[must_use]
    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    /// A scrape of `/metrics`.
    #[must_use]
    pub(crate) fn metrics(&self) -> Metrics {
        let answer = http::request(self.admin, "GET", "/metrics");
        let answer = answer.unwrap_or_else(|error| panic!("/metrics does not answer: {error}"));
        assert_eq!(answer.status, 200, "{}", answer.body);
        Metrics::parse(&answer.body)
    }

    /// Scrapes until `accept` is content with what it sees, and returns that; panics with the log
    /// when it is not in time.
    pub(crate) fn wait_for_metrics(
        &self,
        what: &str,
        within: Duration,
        mut accept: impl FnMut(&Metrics) -> bool,
    ) -> Metrics {
        let deadline = Instant::now() + within;
        loop {
            let metrics = self.metrics();
            if accept(&metrics) {
                return metrics;
            }
            assert!(
                Instant::now() < deadline,
                "not in time: {what}\n{metrics}\nlog:\n{}",
                self.log.tail()
            );
            pause();
        }
    }

    /// Waits until nothing of any client or call is left.
    pub(crate) fn wait_until_empty(&self) -> Metrics {
        self.wait_for_metrics("everything is given back", SOON, |metrics| {
            GAUGES.iter().all(|gauge| metrics.sum(gauge) == 0.0)
        })
    }

    /// Polls until `done`; panics with the log when it is not in time.
    pub(crate) fn wait_until(&self, what: &str, within: Duration, mut done: impl FnMut() -> bool) {
        let deadline = Instant::now() + within;
        while !done() {
            assert!(Instant::now() < deadline, "not in time: {what}; log:\n{}", self.log.tail());
            pause();
        }
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.child.id().cast_signed());
        let pid = pid.expect("a child has a process id");
        rustix::process::kill_process(pid, signal).expect("the child was not reaped yet");
    }

    /// SIGTERM, then whatever the drain takes. Panics unless the gateway exits with 0.
    pub(crate) fn stop(mut self) {
        self.terminate();
    }

    /// Stops it and starts it again with the same folder, so that its tokens stay good. The ports
    /// are new ones.
    #[must_use]
    pub(crate) fn restart(mut self) -> Self {
        self.terminate();
        let (launch, folder) = (self.launch.clone(), Arc::clone(&self.folder));
        drop(self);
        launch.start_in(folder)
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Waits until it ends by itself, as after a signal.
    pub(crate) fn wait_for_end(&mut self, within: Duration) -> ExitStatus {
        wait_for_end(&mut self.child, within)
            .unwrap_or_else(|| panic!("does not end; log:\n{}", self.log.tail()))
    }

    fn terminate(&mut self) {
        if let Some(status) = self.ended() {
            panic!("the gateway had ended already ({status}); log:\n{}", self.log.tail());
        }
        self.signal(rustix::process::Signal::TERM);
        let status = self.wait_for_end(SOON);
        assert!(status.success(), "{status}; log:\n{}", self.log.tail());
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        end_at_once(&mut self.child);
    }
}

/// The log line that says where the gateway listens.
struct Serving {
    public: Vec<SocketAddr>,
    tls: Vec<SocketAddr>,
    internal: Option<SocketAddr>,
    endpoint_meta: Option<SocketAddr>,
    admin: SocketAddr,
}

impl Serving {
    fn parse(line: &str) -> Option<Self> {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        if line.get("message")?.as_str()? != "serving" {
            return None;
        }
        let list = |name: &str| {
            let text = line.get(name).map_or(Some("[]"), serde_json::Value::as_str)?;
            let addresses = text.strip_prefix('[')?.strip_suffix(']')?.split(", ");
            let addresses = addresses.filter(|one| !one.is_empty()).map(|one| one.parse().ok());
            addresses.collect::<Option<Vec<SocketAddr>>>()
        };
        let switched = |name| match line.get(name) {
            Some(address) => address.as_str()?.parse().ok().map(Some),
            None => Some(None),
        };
        Some(Self {
            public: list("public")?,
            tls: list("tls")?,
            internal: switched("internal")?,
            endpoint_meta: switched("endpoint_meta")?,
            admin: line.get("admin")?.as_str()?.parse().ok()?,
        })
    }
}

/// Between two looks at something that is polled.
pub(crate) fn pause() {
    thread::sleep(Duration::from_millis(5));
}

fn wait_for_end(child: &mut Child, within: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + within;
    loop {
        let status = child.try_wait().expect("a child can be waited for");
        if status.is_some() || Instant::now() >= deadline {
            return status;
        }
        pause();
    }
}

fn end_at_once(child: &mut Child) {
    // Fails when it has ended, which is just as well.
    drop(child.kill());
    drop(child.wait());
}
