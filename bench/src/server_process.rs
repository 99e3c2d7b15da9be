//! A server under measurement as a child process: started from one command line, ready when its
//! port answers, stopped and reaped when dropped.

use std::io;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

#[derive(Debug)]
pub(crate) struct ServerProcess {
    child: Child,
}

const READY_WITHIN: Duration = Duration::from_secs(20);
const STOP_WITHIN: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

impl ServerProcess {
    /// Starts `command_line` (split at white space, no quoting) and waits until `authority`
    /// accepts a connection.
    pub(crate) fn start(command_line: &str, authority: &str) -> io::Result<Self> {
        if TcpStream::connect(authority).is_ok() {
            return Err(io::Error::other(format!("something else answers at {authority}")));
        }
        let mut words = command_line.split_ascii_whitespace();
        let program =
            words.next().ok_or_else(|| io::Error::other("the server command is empty"))?;
        let child = Command::new(program)
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
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
            std::thread::sleep(POLL);
        }
        Ok(server)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
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
            std::thread::sleep(POLL);
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
