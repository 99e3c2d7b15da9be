//! The channels in use: for each, the calls whose answers leave in order, and its HTTP calls.

/// Index that names nothing.
pub(super) const NONE: u16 = u16::MAX;

/// One channel with open calls. Lives in [`Lines`]; free when `members == 0`.
#[derive(Debug)]
pub(super) struct Line {
    channel: u16,
    /// Calls of this channel, event requests included.
    members: u16,
    /// First and last call that wants an answer, in request order; linked through the entries.
    pub(super) head: u16,
    pub(super) tail: u16,
    /// HTTP calls, waiting or running.
    pub(super) http_open: u16,
    pub(super) http_running: bool,
    /// The last search for work that passed over an HTTP call of this channel.
    pub(super) skipped: u32,
}

/// The lines of one connection. Searched front to back: there is one in the common case, and never
/// more than calls.
#[derive(Debug)]
pub(super) struct Lines {
    lines: Vec<Line>,
}

impl Lines {
    pub(super) fn with_capacity(lines: usize) -> Self {
        Self { lines: Vec::with_capacity(lines) }
    }

    pub(super) fn find(&self, channel: u16) -> Option<u16> {
        let at = self.lines.iter().position(|l| l.channel == channel && l.members > 0)?;
        Some(at as u16)
    }

    /// Adds a member to the channel's line, which is made if there is none.
    pub(super) fn join(&mut self, found: Option<u16>, channel: u16) -> u16 {
        let at = found.unwrap_or_else(|| self.open(channel));
        self[at].members += 1;
        at
    }

    /// Takes a member out of the line.
    pub(super) fn leave(&mut self, line: u16) {
        self[line].members -= 1;
        while self.lines.last().is_some_and(|l| l.members == 0) {
            self.lines.pop();
        }
    }

    pub(super) fn clear(&mut self) {
        self.lines.clear();
    }

    fn open(&mut self, channel: u16) -> u16 {
        let fresh = Line {
            channel,
            members: 0,
            head: NONE,
            tail: NONE,
            http_open: 0,
            http_running: false,
            skipped: 0,
        };
        let at = match self.lines.iter().position(|l| l.members == 0) {
            Some(at) => {
                self.lines[at] = fresh;
                at
            }
            None => {
                self.lines.push(fresh);
                self.lines.len() - 1
            }
        };
        at as u16
    }
}

impl std::ops::Index<u16> for Lines {
    type Output = Line;

    fn index(&self, line: u16) -> &Line {
        &self.lines[usize::from(line)]
    }
}

impl std::ops::IndexMut<u16> for Lines {
    fn index_mut(&mut self, line: u16) -> &mut Line {
        &mut self.lines[usize::from(line)]
    }
}
