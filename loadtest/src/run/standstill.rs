//! A process that stands still for a while: none of its threads runs, all its connections stand.

use std::fs;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Until it is dropped.
pub(super) struct Standstill(Pid);

impl Standstill {
    /// Returns when the process stands still.
    pub(super) fn of(pid: u32) -> io::Result<Self> {
        let known = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let known = known.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        kill_process(known, Signal::STOP)?;
        let standstill = Self(known);
        let until = Instant::now() + WITHIN;
        // The state stands behind the name, which is in parentheses and may contain anything.
        while !fs::read_to_string(format!("/proc/{pid}/stat"))?
            .rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with('T'))
        {
            if Instant::now() > until {
                return Err(io::ErrorKind::TimedOut.into());
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(standstill)
    }
}

impl Drop for Standstill {
    fn drop(&mut self) {
        // One that has ended meanwhile needs no word.
        let _gone = kill_process(self.0, Signal::CONT);
    }
}

const WITHIN: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_stands_still_until_it_may_go_on() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let state = || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
            stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
        };
        let standstill = Standstill::of(child.id()).unwrap();
        assert_eq!(state(), 'T');
        drop(standstill);
        let until = Instant::now() + WITHIN;
        while state() == 'T' {
            assert!(Instant::now() < until, "it does not go on");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(Standstill::of(child.id()).is_err());
    }
}
