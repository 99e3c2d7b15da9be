//! What is written although nothing happens: the lease, heartbeats, cursors, and what could not be written
//! before.

use corelane_shard::id::{Epoch, SessionId};

use super::command::{Command, Held, Keeping, Reached};
use super::{Courier, Duration, Position, RedisStore, SessionStore as _};
use crate::control::ask::NotEnded;

type Reach<'a> = &'a mut dyn FnMut(SessionId) -> Option<Position>;

impl<C: Courier> RedisStore<C> {
    pub(super) fn keep_up(&mut self, reached: Reach<'_>) {
        let (mono, at) = (self.now.mono, self.now.unix_ms);
        if self.lease.ask(mono, self.shared.poll_interval) {
            let begins = self.lease.begins();
            if self.send(Command::Poll { begins, sent: mono, at }).is_err() {
                self.lease.failed();
            }
        }
        self.send_unsent();
        self.compare(reached);
        self.beat(reached);
        self.send_cursors();
    }

    /// Remembers what Redis is to know of a claim, in the place of what it was to know before.
    pub(super) fn keep_unsent(&mut self, mut command: Command) {
        if let Command::End(ending) = &mut command
            && let Some(answer) = ending.answer.take()
        {
            let _unheard = answer.send(Err(NotEnded::Unknown));
        }
        let of = match &command {
            Command::Release(release) => (release.session, release.epoch),
            Command::Remove { session, epoch, .. } => (*session, *epoch),
            Command::End(ending) => (ending.session, Epoch(u64::MAX)),
            _ => return,
        };
        if self.unsent.len() < UNSENT_MAX || self.unsent.contains_key(&of) {
            self.unsent.insert(of, command);
        }
    }

    fn send_unsent(&mut self) {
        if self.unsent.is_empty() || self.now.mono < self.next_unsent {
            return;
        }
        self.next_unsent = self.now.mono + UNSENT_PAUSE;
        for (_, command) in std::mem::take(&mut self.unsent) {
            self.send_or_keep(command.again(self.now.unix_ms));
        }
    }

    /// Compares all live sessions with what Redis has, from now on.
    pub(super) fn begin_to_compare(&mut self) {
        let Self { sweep, local, .. } = self;
        sweep.clear();
        local.each(&mut |known| {
            if let Some(owner) = known.owner {
                sweep.push_back((known.identity.session, owner.epoch));
            }
        });
    }

    /// It failed, and would do so at once again.
    pub(super) fn compare_again(&mut self, session: SessionId, epoch: Epoch) {
        self.next_sweep = self.now.mono + UNSENT_PAUSE;
        self.sweep.push_back((session, epoch));
    }

    fn compare(&mut self, reached: Reach<'_>) {
        if self.now.mono < self.next_sweep {
            return;
        }
        while !self.sweep.is_empty() && self.sweeps_sent < SWEEPS_SENT_MAX {
            let some = self.sweep.len().min(KEPT_TOGETHER);
            let sessions: Vec<_> = self.sweep.drain(..some).collect();
            let held = self.held(&sessions, reached);
            if !held.is_empty() {
                self.sweeps_sent += 1;
                let (why, at) = (Keeping::Comparison, self.now.unix_ms);
                if self.send(Command::Keep { held, why, at }).is_err() {
                    self.sweeps_sent -= 1;
                    self.sweep.extend(sessions);
                    return;
                }
            }
        }
        if self.sweep.is_empty() && self.sweeps_sent == 0 {
            self.lease.all_compared();
        }
    }

    /// Keeps as many as must be so that all have their turn within the interval.
    fn beat(&mut self, reached: Reach<'_>) {
        let live = self.local.live();
        if live == 0 || self.now.mono < self.next_beat {
            return;
        }
        self.next_beat = self.now.mono + TICK;
        let share = TICK.as_secs_f64() / self.shared.heartbeat_interval.as_secs_f64();
        self.beats_due += live as f64 * share;
        // Whose turn has passed meanwhile has it again soon.
        let mut left = (self.beats_due as usize).min(live);
        self.beats_due = self.beats_due.fract();
        while left > 0 {
            let (sessions, next) = self.local.live_from(self.round, left.min(KEPT_TOGETHER));
            self.round = next;
            left = left.saturating_sub(KEPT_TOGETHER);
            let held = self.held(&sessions, reached);
            if held.is_empty() {
                continue;
            }
            if self.send(Command::Keep { held, why: Keeping::Beat, at: self.now.unix_ms }).is_err()
            {
                return;
            }
        }
    }

    /// Those of them that are still this node's.
    fn held(&self, sessions: &[(SessionId, Epoch)], reached: Reach<'_>) -> Box<[Held]> {
        let sure = self.may_deliver(self.now);
        let held = sessions.iter().filter_map(|&(session, epoch)| {
            let known = self.local.known(session)?;
            known.owner.filter(|owner| owner.epoch == epoch)?;
            let cursor = reached(session).filter(|_| sure);
            Some(Held { identity: std::sync::Arc::clone(known.identity), epoch, cursor })
        });
        held.collect()
    }

    fn send_cursors(&mut self) {
        if self.cursors.is_empty() || self.cursors_sent.is_some() {
            return;
        }
        if !self.may_deliver(self.now) {
            self.probe.writes_fenced.increment();
            return;
        }
        let some: Vec<SessionId> = self.cursors.keys().take(CURSORS_TOGETHER).copied().collect();
        let cursor = |session| {
            let (epoch, position) = self.cursors.remove(&session)?;
            Some(Reached { session, epoch, position })
        };
        let reached = some.into_iter().filter_map(cursor).collect();
        if self.cursors.is_empty() && self.cursors.capacity() > CURSORS_KEPT {
            // A crowd came at once; mostly few have something to be written.
            self.cursors.shrink_to(CURSORS_KEPT);
        }
        match self.send(Command::Cursors { reached, at: self.now.unix_ms }) {
            Ok(()) => self.cursors_sent = Some(self.now.mono),
            Err(command) => self.keep_cursors(command),
        }
    }

    /// They were not written; what has come since is newer.
    pub(super) fn keep_cursors(&mut self, command: Command) {
        let Command::Cursors { reached, .. } = command else { return };
        for Reached { session, epoch, position } in reached {
            if self.local.epoch(session) == Some(epoch) {
                self.cursors.entry(session).or_insert((epoch, position));
            }
        }
    }

    pub(super) fn show(&self) {
        let sure = self.may_deliver(self.now);
        self.probe.lease_held.set(u64::from(sure));
        let left = if sure { self.lease.left(self.now.mono) } else { Duration::ZERO };
        self.authority.lasts(left);
        let age = self.lease.age(self.now.mono).unwrap_or_default();
        self.probe.lease_age_ms.set(age.as_millis() as u64);
        self.probe.commands_waiting.set((self.sent + self.unsent.len()) as u64);
        self.probe.cursors_waiting.set(self.cursors.len() as u64);
        let lag = self.cursors_behind.map_or(Duration::ZERO, |since| self.now.mono.since(since));
        self.probe.cursor_lag_ms.set(lag.as_millis() as u64);
    }
}

impl Command {
    /// The same later; what it says of the past stays.
    fn again(mut self, now: u64) -> Self {
        match &mut self {
            Self::Release(release) => release.at = now,
            Self::Remove { at, .. } => *at = now,
            _ => {}
        }
        self
    }
}

/// Sessions of one command.
const KEPT_TOGETHER: usize = 128;
const CURSORS_TOGETHER: usize = 512;
/// Sessions whose cursors have room for good.
const CURSORS_KEPT: usize = 2 * CURSORS_TOGETHER;
/// Comparisons under way.
pub(super) const SWEEPS_SENT_MAX: usize = 2;
/// Between two steps of the round of heartbeats.
const TICK: Duration = Duration::from_millis(100);
/// Before what failed is tried again.
const UNSENT_PAUSE: Duration = Duration::from_millis(200);
/// Sessions that ended while Redis was away; of more, Redis will forget the rest by itself.
const UNSENT_MAX: usize = 1 << 17;
