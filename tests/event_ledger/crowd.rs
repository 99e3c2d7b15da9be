//! All clients of a run, the service that publishes to them, and the book of both. Whoever plays it
//! says where the gateways are; everything else it does on one thread.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::book::Book;
use super::player::{Player, Tally};
use super::publisher::{Publisher, event};

/// Without an event for so long, a run is stuck.
const STUCK: Duration = Duration::from_secs(60);

pub(crate) struct Crowd {
    pub(crate) players: Vec<Player>,
    publisher: Box<dyn Publisher>,
    pub(crate) book: Book,
    pub(crate) published: u64,
    /// When an event was last seen, and how many were then.
    progress: (Instant, u64),
}

impl Crowd {
    /// One client for each session, dealt to so many gateways.
    pub(crate) fn new(sessions: usize, gateways: usize, publisher: Box<dyn Publisher>) -> Self {
        let players = (0..sessions).map(|number| Player::new(number, gateways)).collect();
        let (book, progress) = (Book::new(sessions), (Instant::now(), 0));
        Self { players, publisher, book, published: 0, progress }
    }

    /// Every session has been open, so that its events are kept.
    pub(crate) fn is_known(&self) -> bool {
        self.players.iter().all(Player::is_known)
    }

    /// Everybody is connected.
    pub(crate) fn is_there(&self) -> bool {
        self.players.iter().all(Player::is_there)
    }

    pub(crate) fn publish(&mut self, session: usize) {
        let n = self.book.publish(session);
        let id = self.players[session].session();
        self.publisher.publish(id, &event(id, session, n));
        self.published += 1;
    }

    /// One more event for each session, and all of them where they are kept: the last event of each
    /// shows what was lost before it.
    pub(crate) fn publish_last(&mut self) {
        (0..self.players.len()).for_each(|session| self.publish(session));
        self.publisher.settle();
    }

    /// Everybody does what can be done, after waiting for something to come if nothing is there.
    /// `doors` says after that where clients connect; `None` is a gateway that is away.
    pub(crate) fn pump(&mut self, wait: Duration, doors: impl FnOnce() -> Vec<Option<SocketAddr>>) {
        let mut sockets: Vec<_> = self
            .players
            .iter()
            .filter_map(Player::readable)
            .map(|socket| PollFd::from_borrowed_fd(socket, PollFlags::IN))
            .collect();
        let wait = Timespec::try_from(wait).expect("a short time");
        // A signal in between does no harm: everybody is asked all the same.
        if let Err(error) = poll(&mut sockets, Some(&wait)) {
            assert_eq!(error, Errno::INTR);
        }
        drop(sockets);
        self.publisher.tend();
        let doors = doors();
        for player in &mut self.players {
            player.step(&doors, &mut self.book);
        }
    }

    /// Somebody begins to wait.
    pub(crate) fn begin_wait(&mut self) {
        self.progress.0 = Instant::now();
    }

    /// No event has been seen for too long since somebody began to wait.
    pub(crate) fn is_stuck(&mut self) -> bool {
        let delivered = self.book.balance().delivered;
        if delivered > self.progress.1 {
            self.progress = (Instant::now(), delivered);
        }
        self.progress.0.elapsed() >= STUCK
    }

    /// What all clients have done and met.
    pub(crate) fn tally(&self) -> Tally {
        self.players.iter().fold(Tally::default(), |sum, player| sum.and(player.tally))
    }
}

impl Tally {
    fn and(self, other: Self) -> Self {
        Self {
            kills: self.kills + other.kills,
            by_token: self.by_token + other.by_token,
            by_jwt: self.by_jwt + other.by_jwt,
            refused_tokens: self.refused_tokens + other.refused_tokens,
            told_to_wait: self.told_to_wait + other.told_to_wait,
            ended: self.ended + other.ended,
        }
    }
}
