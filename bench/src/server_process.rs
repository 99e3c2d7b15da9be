//! A server under measurement as a child process: started from one command line, ready when its
//! port answers, stopped and reaped when dropped.

use std::fs::File;
use std::io;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use corelane_bench::cpu_time;
use rustix::process::{Pid, Signal, kill_process};

#[derive(Debug)]
pub(crate) struct ServerProcess {
    child: Child,
}

/// A server that is to be started.
#[derive(Debug, Default)]
pub(crate) struct Launch {
    /// Program and arguments.
    pub(crate) words: Vec<String>,
    pub(crate) environment: Vec<(&'static str, String)>,
    /// Processors that it may use; empty leaves them all.
    pub(crate) cpus: Vec<usize>,
    /// Where its messages go; without it, where ours go.
    pub(crate) messages: Option<File>,
}

const READY_WITHIN: Duration = Duration::from_secs(20);
const FREE_WITHIN: Duration = Duration::from_secs(5);
const STOP_WITHIN: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

impl ServerProcess {
    /// Starts `command_line` (split at white space, no quoting) and waits until `authority`
    /// accepts a connection.
    pub(crate) fn start(command_line: &str, authority: &str) -> io::Result<Self> {
        let words = command_line.split_ascii_whitespace().map(str::to_owned).collect();
        Self::launch(Launch { words, ..Launch::default() }, authority)
    }

    /// Starts what `launch` says and waits until `authority` accepts a connection.
    pub(crate) fn launch(launch: Launch, authority: &str) -> io::Result<Self> {
        wait_until_free(authority)?;
        let (program, arguments) =
            launch.words.split_first().ok_or_else(|| io::Error::other("the command is empty"))?;
        let mut command = Command::new(program);
        command.args(arguments).envs(launch.environment);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        if let Some(messages) = launch.messages {
            command.stderr(messages);
        }
        let child = spawn_on(&launch.cpus, command)
            .map_err(|e| io::Error::other(format!("cannot start {program}: {e}")))?;
        let mut server = Self { child };
        let deadline = Instant::now() + READY_WITHIN;
        while TcpStream::connect(authority).is_err() {
            if let Some(status) = server.child.try_wait()? {
                return Err(io::Error::other(format!("{program} ended at once: {status}")));
            }
            if Instant::now() > deadline {
                return Err(io::Error::other(format!("{program} does not listen at {authority}")));
            }
            thread::sleep(POLL);
        }
        Ok(server)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub(crate) fn lives(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// SIGTERM, and SIGKILL if that is not enough.
    fn stop(&mut self) -> io::Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            kill_process(pid, Signal::TERM)?;
        }
        let deadline = Instant::now() + STOP_WITHIN;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                self.child.kill()?;
                self.child.wait()?;
                return Ok(());
            }
            thread::sleep(POLL);
        }
        Ok(())
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // A child that is gone already cannot be stopped, and nothing is lost by that.
        let _stopped = self.stop();
    }
}

/// The kernel closes the listener of a ring only some time after its process has ended.
fn wait_until_free(authority: &str) -> io::Result<()> {
    let deadline = Instant::now() + FREE_WITHIN;
    while TcpStream::connect(authority).is_ok() {
        if Instant::now() > deadline {
            return Err(io::Error::other(format!("something else answers at {authority}")));
        }
        thread::sleep(POLL);
    }
    Ok(())
}

/// A child inherits the processors of the thread that starts it, so a thread of its own is pinned.
pub(crate) fn spawn_on(cpus: &[usize], mut command: Command) -> io::Result<Child> {
    if cpus.is_empty() {
        return command.spawn();
    }
    thread::scope(|scope| {
        let pinned = scope.spawn(|| {
            cpu_time::pin_to_any(cpus)?;
            command.spawn()
        });
        pinned.join().map_err(|_| io::Error::other("the starting thread panicked"))?
    })
}
