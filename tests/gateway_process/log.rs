//! What a gateway writes to standard error, kept line by line while it runs.

use std::io::{BufRead as _, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Instant;

use super::SOON;

#[derive(Debug, Clone, Default)]
pub struct Log(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    written: Mutex<Written>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Written {
    lines: Vec<String>,
    ended: bool,
}

impl Log {
    pub(super) fn follow(stream: impl Read + Send + 'static) -> Self {
        let log = Self::default();
        let shared = Arc::clone(&log.0);
        thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut line = Vec::new();
            while stream.read_until(b'\n', &mut line).is_ok_and(|len| len > 0) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                line.clear();
                lock(&shared).lines.push(text);
                shared.changed.notify_all();
            }
            lock(&shared).ended = true;
            shared.changed.notify_all();
        });
        log
    }

    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        lock(&self.0).lines.clone()
    }

    #[must_use]
    pub fn text(&self) -> String {
        self.lines().join("\n")
    }

    /// The first line that `find` makes something of, whether it is written already or comes
    /// before `deadline`.
    pub fn wait_for<T>(
        &self,
        deadline: Instant,
        mut find: impl FnMut(&str) -> Option<T>,
    ) -> Option<T> {
        let mut written = lock(&self.0);
        let mut seen = 0;
        loop {
            let found = written.lines[seen..].iter().find_map(|line| find(line));
            seen = written.lines.len();
            let left = deadline.saturating_duration_since(Instant::now());
            if found.is_some() || written.ended || left.is_zero() {
                return found;
            }
            written = match self.0.changed.wait_timeout(written, left) {
                Ok((written, _)) => written,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    /// Until the writer has closed its end.
    pub(super) fn wait_for_end(&self) {
        let nothing: Option<()> = self.wait_for(Instant::now() + SOON, |_| None);
        debug_assert!(nothing.is_none(), "nothing was looked for");
    }
}

fn lock(shared: &Shared) -> MutexGuard<'_, Written> {
    match shared.written.lock() {
        Ok(written) => written,
        Err(poisoned) => poisoned.into_inner(),
    }
}
