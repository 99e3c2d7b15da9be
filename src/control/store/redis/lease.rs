//! Whether this process is surely the owner of what it holds.

use std::time::Duration;

use corelane_shard::clock::Instant;

/// The lease of one process on its node's name, and with it on the node's sessions.
#[derive(Debug, Default, Clone)]
pub(super) struct Lease {
    /// When the last renewal that was confirmed had been sent.
    confirmed: Option<Instant>,
    /// The renewal that is under way.
    asked: Option<Instant>,
    next: Instant,
    /// It was not renewed in time: sessions may have gone elsewhere, until all were looked at.
    lapsed: bool,
}

impl Lease {
    pub(super) fn is_sure(&self, now: Instant) -> bool {
        !self.lapsed && self.confirmed.is_some_and(|at| now.since(at) < SURE)
    }

    /// Since the last renewal that was confirmed.
    pub(super) fn age(&self, now: Instant) -> Option<Duration> {
        self.confirmed.map(|at| now.since(at))
    }

    /// For how long it is good without another renewal.
    pub(super) fn left(&self, now: Instant) -> Duration {
        self.age(now).map_or(Duration::ZERO, |age| SURE.saturating_sub(age))
    }

    /// No renewal of this process has been confirmed yet.
    pub(super) fn begins(&self) -> bool {
        self.confirmed.is_none()
    }

    /// Whether it is to be renewed; then it counts as asked for.
    pub(super) fn ask(&mut self, now: Instant, interval: Duration) -> bool {
        if self.asked.is_some() || now < self.next {
            return false;
        }
        self.asked = Some(now);
        self.next = now + interval;
        true
    }

    /// When [`Self::ask`] has something to say; an answer comes before that by itself.
    pub(super) fn due(&self) -> Option<Instant> {
        self.asked.is_none().then_some(self.next)
    }

    /// Says whether it had lapsed since the renewal before.
    pub(super) fn renewed(&mut self, sent: Instant) -> bool {
        self.asked = None;
        let lapsed = self.confirmed.is_some_and(|at| sent.since(at) >= SURE);
        self.confirmed = Some(sent);
        self.lapsed |= lapsed;
        lapsed
    }

    pub(super) fn failed(&mut self) {
        self.asked = None;
    }

    /// At the next opportunity.
    pub(super) fn hurry(&mut self) {
        self.next = Instant(0);
    }

    /// Every session has been looked at since.
    pub(super) fn all_compared(&mut self) {
        self.lapsed = false;
    }
}

/// Longer than that without a renewal, and events wait.
const SURE: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant(ms * 1_000_000)
    }

    #[test]
    fn it_is_sure_for_three_seconds_from_when_the_renewal_was_sent() {
        let (mut lease, interval) = (Lease::default(), Duration::from_millis(300));
        assert!(!lease.is_sure(at(0)) && lease.begins());
        assert!(lease.ask(at(0), interval));
        assert!(!lease.ask(at(400), interval), "one at a time");
        assert!(!lease.renewed(at(0)));
        assert!(lease.is_sure(at(2999)) && !lease.is_sure(at(3000)));
        assert_eq!(lease.left(at(2999)), Duration::from_millis(1));
        assert!(lease.ask(at(400), interval) && !lease.begins());
        lease.failed();
        assert!(!lease.ask(at(600), interval) && lease.ask(at(700), interval));
    }

    #[test]
    fn after_a_lapse_it_is_sure_when_all_sessions_were_looked_at() {
        let mut lease = Lease::default();
        lease.renewed(at(0));
        assert!(lease.renewed(at(3000)));
        assert!(!lease.is_sure(at(3001)));
        assert!(!lease.renewed(at(3300)), "not again");
        assert!(!lease.is_sure(at(3301)), "still");
        lease.all_compared();
        assert!(lease.is_sure(at(3301)));
        assert!(!lease.renewed(at(3600)));
    }
}
