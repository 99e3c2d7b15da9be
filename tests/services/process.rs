//! One process of a service: what it prints goes into a file, and it never outlives this process.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::LazyLock;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{SOON, pause, program};

/// Lines that a failure shows, and letters of each.
const TAIL: usize = 30;
const LINE: usize = 200;

#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

/// A process that is not ready in time, or ended before.
#[derive(Debug)]
pub(crate) struct Failed {
    status: Option<ExitStatus>,
    log: String,
}

impl Failed {
    pub(crate) fn port_was_taken(&self) -> bool {
        self.status.is_some() && self.log.to_ascii_lowercase().contains("address already in use")
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status {
            Some(status) => writeln!(f, "it ended with {status}; its last words:")?,
            None => writeln!(f, "it is not ready after {SOON:?}; its last words:")?,
        }
        f.write_str(&tail(&self.log))
    }
}

impl Process {
    /// Runs `words` and waits until it prints `ready`.
    pub(crate) fn start<W: AsRef<Path>>(
        words: &[W],
        log: PathBuf,
        ready: &str,
    ) -> Result<Self, Failed> {
        let file = File::create(&log).unwrap_or_else(|error| panic!("{}: {error}", log.display()));
        let mut command = Command::new(program("setpriv"));
        command.args(["--pdeathsig", "KILL", "--"]).args(words.iter().map(W::as_ref));
        command.process_group(0).stdin(Stdio::null());
        command.stdout(file.try_clone().expect("a file can be shared")).stderr(file);
        let child = spawn_for_good(command).unwrap_or_else(|error| panic!("setpriv: {error}"));
        let mut process = Self { child, log };
        let until = Instant::now() + SOON;
        loop {
            // The end first: what it printed before is then all there is.
            let status = process.ended();
            let log = process.log();
            if log.contains(ready) {
                return Ok(process);
            }
            if status.is_some() || Instant::now() >= until {
                return Err(Failed { status, log });
            }
            pause();
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Stands still from here on, with all its connections open.
    pub(crate) fn freeze(&mut self) {
        self.signal(Signal::STOP);
        let path = format!("/proc/{}/stat", self.id());
        let until = Instant::now() + SOON;
        // The state stands behind the name, which is in parentheses and may contain anything.
        while !fs::read_to_string(&path)
            .is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')))
        {
            assert!(self.ended().is_none(), "it has ended:\n{}", tail(&self.log()));
            assert!(Instant::now() < until, "a process does not stand still");
            pause();
        }
    }

    pub(crate) fn thaw(&mut self) {
        self.signal(Signal::CONT);
    }

    /// SIGTERM, then whatever it has to do before it ends.
    pub(crate) fn stop(&mut self) {
        let pid = self.running();
        // Its end may come between the two, but nobody has asked for it yet: the number is still its.
        for signal in [Signal::TERM, Signal::CONT] {
            kill_process(pid, signal).expect("the child was not reaped yet");
        }
        let until = Instant::now() + SOON;
        while self.ended().is_none() {
            assert!(Instant::now() < until, "it does not stop:\n{}", tail(&self.log()));
            pause();
        }
    }

    fn signal(&mut self, signal: Signal) {
        kill_process(self.running(), signal).expect("the child was not reaped yet");
    }

    fn running(&mut self) -> Pid {
        if let Some(status) = self.ended() {
            panic!("it has ended with {status}:\n{}", tail(&self.log()));
        }
        Pid::from_raw(self.id().cast_signed()).expect("a child has a process id")
    }
}

/// Killed, and what it said is shown if the test fails.
impl Drop for Process {
    #[expect(clippy::print_stdout, reason = "the test runner keeps it for those that fail")]
    fn drop(&mut self) {
        // Fails when it has ended, which is just as well.
        drop(self.child.kill());
        drop(self.child.wait());
        if thread::panicking() {
            println!("{}:\n{}", self.log.display(), tail(&self.log()));
        }
    }
}

/// Waits for a while until a process with this number is gone.
pub(crate) fn is_gone_within(id: u32, time: Duration) -> bool {
    let until = Instant::now() + time;
    while Path::new(&format!("/proc/{id}")).exists() {
        if Instant::now() >= until {
            return false;
        }
        pause();
    }
    true
}

fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    let short = |line: &&str| line.chars().take(LINE).collect::<String>();
    let last: Vec<_> = lines[lines.len().saturating_sub(TAIL)..].iter().map(short).collect();
    last.join("\n")
}

/// The kernel kills a child that asked for it when the *thread* that started it ends. Tests are
/// threads that end; this one does not.
fn spawn_for_good(command: Command) -> io::Result<Child> {
    type Order = (Command, Sender<io::Result<Child>>);
    static ORDERS: LazyLock<Sender<Order>> = LazyLock::new(|| {
        let (orders, to_do) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for (mut command, done) in to_do {
                drop(done.send(command.spawn()));
            }
        });
        orders
    });
    let (done, child) = mpsc::channel();
    ORDERS.send((command, done)).map_err(io::Error::other)?;
    child.recv().map_err(io::Error::other)?
}
