//! Pairs whose two connections live on the same shard, or on different ones. The kernel decides
//! where a connection goes; the gateway's metrics tell where it went; what cannot be paired is
//! closed and opened again.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use rustix::event::epoll;

use super::super::RunError;
use super::super::placement::{Admin, Sessions, pair};
use super::{Driver, clock};
use crate::protocol::Dialect;
use crate::scenario::Placement;

/// The metrics follow a connection within a moment.
const METRICS_NS: u64 = 5_000_000_000;
const LOOK_NS: u64 = 1_000_000;

impl<D: Dialect> Driver<'_, D> {
    pub(super) fn open_on_shards(
        &mut self,
        wanted: Placement,
        events: &mut Vec<epoll::Event>,
    ) -> Result<(), RunError> {
        let plan = self.plan;
        // What it guards is a turn, not data.
        let _turn = plan.progress.opening_in_turn.lock().unwrap_or_else(PoisonError::into_inner);
        let admin = plan.admin.as_ref().ok_or_else(|| RunError::Placement {
            cause: "the scenario names no admin_url".to_owned(),
        })?;
        let admin = Admin::new(admin);
        let places = self.lines.len();
        let mut shards: Vec<Option<String>> = vec![None; places];
        let mut left = 16 * places + 64;
        loop {
            for (at, shard) in shards.iter_mut().enumerate() {
                if shard.is_none() {
                    if left == 0 {
                        let cause =
                            "the kernel does not spread connections over the shards".to_owned();
                        return Err(RunError::Placement { cause });
                    }
                    left -= 1;
                    *shard = Some(self.open_and_locate(at, &admin, events)?);
                }
            }
            let found: Vec<&str> = shards.iter().flatten().map(String::as_str).collect();
            let (pairs, surplus) = pair(&found, wanted);
            if surplus.is_empty() {
                self.seat_pairs(&pairs)?;
                return Ok(());
            }
            for &at in &surplus[surplus.len() / 2..] {
                self.close_surplus(at, &admin, events)?;
                shards[at] = None;
            }
        }
    }

    /// Opens the connection at `at` and says on which shard it is.
    fn open_and_locate(
        &mut self,
        at: usize,
        admin: &Admin,
        events: &mut Vec<epoll::Event>,
    ) -> Result<String, RunError> {
        let before = admin.sessions()?;
        self.opener.waiting.push_back((at, None));
        self.open_waiting(events)?;
        if !self.is_ready(at) {
            let cause = self.opener.first_failure.clone().unwrap_or_default();
            return Err(RunError::NoConnection { attempted: 1, cause });
        }
        self.await_metrics(admin, events, |now| now.risen_since(&before))
    }

    fn close_surplus(
        &mut self,
        at: usize,
        admin: &Admin,
        events: &mut Vec<epoll::Event>,
    ) -> Result<(), RunError> {
        let before = admin.sessions()?;
        self.say_goodbye(at);
        self.tally.connections.attempted -= 1;
        self.tally.connections.ready -= 1;
        self.plan.progress.ready.fetch_sub(1, Ordering::Relaxed);
        self.await_metrics(admin, events, |now| before.risen_since(now))?;
        self.reset(at); // if the gateway's FIN is not here yet
        Ok(())
    }

    /// Until the metrics show the one change that `seen` looks for.
    fn await_metrics(
        &mut self,
        admin: &Admin,
        events: &mut Vec<epoll::Event>,
        seen: impl Fn(&Sessions) -> Option<String>,
    ) -> Result<String, RunError> {
        let until = clock::now() + METRICS_NS;
        while clock::now() < until {
            if let Some(shard) = seen(&admin.sessions()?) {
                return Ok(shard);
            }
            self.turn(events, clock::now() + LOOK_NS)?;
        }
        let cause = "corelane_sessions does not follow the connections: others use the gateway too";
        Err(RunError::Placement { cause: cause.to_owned() })
    }

    /// Moves the connections so that each pair has neighbouring places.
    fn seat_pairs(&mut self, pairs: &[(usize, usize)]) -> Result<(), RunError> {
        let order = pairs.iter().flat_map(|&(one, other)| [one, other]);
        let moved: Vec<_> = order.map(|at| self.lines[at].take()).collect();
        self.lines = moved;
        for at in 0..self.lines.len() {
            // Every place had as many connections as it needed to be paired.
            self.generations[at] = self.generations[at].wrapping_add(1);
            let data = self.event_data(at);
            if let Err(ended) = self.watch(at, data, epoll::EventFlags::IN) {
                self.end(at, &ended);
            }
        }
        Ok(())
    }
}
