//! Players who write to each other and to all, each on a thread of its own, until they are told to
//! end; then each says what it has said and heard.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use tungstenite::{Error, Message, WebSocket};

use crate::account::{Heard, Told, What};
use crate::cluster::PATIENCE;
use crate::gateway_process::token::Claims;
use crate::harness::client::Client;
use crate::harness::frames::{BROADCAST, CLIENT, EVENT, Guid, RESPONSE, Reply, Request};

/// Letters to one addressee that wait for their answers.
const UNANSWERED: usize = 4;

/// Letters for one broadcast.
const LETTERS_PER_BROADCAST: usize = 20;

/// Messages that are read before something is written again.
const READ_AT_ONCE: usize = 64;

/// How long a player waits for something to read before it writes again: the pace of the talk.
const PAUSE: Duration = Duration::from_millis(4);

const OF_A_BROADCAST: u8 = 1;

/// What all players of a talk see.
#[derive(Debug)]
pub(crate) struct Talk {
    broadcasts: bool,
    ends: AtomicBool,
    /// Players who have an answer to each of their letters, the last ones too.
    settled: AtomicUsize,
}

struct Talker<'a> {
    talk: &'a Talk,
    number: usize,
    socket: WebSocket<TcpStream>,
    /// All players, itself among them.
    guids: &'a [Guid],
    unanswered: Vec<usize>,
    told: Told,
}

/// Connects one player for each door; they can be written to.
pub(crate) fn players(doors: impl IntoIterator<Item = SocketAddr>) -> Vec<Client> {
    doors.into_iter().map(|door| Client::connect(door, &Claims::default().sign())).collect()
}

impl Talk {
    /// With broadcasts, or of letters alone.
    pub(crate) fn new(broadcasts: bool) -> Self {
        Self { broadcasts, ends: AtomicBool::new(false), settled: AtomicUsize::new(0) }
    }

    /// Every player writes to every other one from here on.
    pub(crate) fn begin<'scope, 'env>(
        &'env self,
        scope: &'scope thread::Scope<'scope, 'env>,
        players: Vec<Client>,
        guids: &'env [Guid],
    ) -> Vec<ScopedJoinHandle<'scope, Told>> {
        let talkers = players.into_iter().enumerate().map(|(number, client)| {
            let (unanswered, told) = (vec![0; guids.len()], Told::default());
            let socket = client.socket;
            let talker = Talker { talk: self, number, socket, guids, unanswered, told };
            scope.spawn(move || talker.run())
        });
        talkers.collect()
    }

    /// Tells everybody to write one last letter to each other player, to wait for the answers, and to
    /// hear all that is still to come.
    pub(crate) fn end(&self) {
        self.ends.store(true, Ordering::Release);
    }
}

impl Talker<'_> {
    fn run(mut self) -> Told {
        let stream = self.socket.get_ref();
        stream.set_read_timeout(Some(PAUSE)).expect("a legal time-out");
        let others: Vec<_> = (0..self.guids.len()).filter(|to| *to != self.number).collect();
        let mut turn = self.number;
        while !self.talk.ends.load(Ordering::Acquire) {
            turn += 1;
            let to = others[turn % others.len()];
            if self.unanswered[to] < UNANSWERED {
                self.write_to(to);
            }
            if self.talk.broadcasts && turn.is_multiple_of(LETTERS_PER_BROADCAST) {
                self.broadcast();
            }
            self.read_what_is_there();
        }
        // Behind every broadcast: who has answered these has heard those.
        others.iter().for_each(|to| self.write_to(*to));
        self.read_until("every letter is answered", |talker| {
            talker.unanswered.iter().all(|count| *count == 0)
        });
        self.talk.settled.fetch_add(1, Ordering::AcqRel);
        self.read_until("everybody is answered", |talker| {
            talker.talk.settled.load(Ordering::Acquire) == talker.guids.len()
        });
        // What others have sent stands before it.
        self.write_to(self.number);
        self.read_until("its own word is heard", |talker| {
            talker.told.heard.last().is_some_and(|heard| heard.from == talker.number)
        });
        self.read_until("that is answered, too", |talker| talker.unanswered[talker.number] == 0);
        self.told
    }

    fn write_to(&mut self, to: usize) {
        let number = self.told.letters.len() as u64;
        self.told.letters.push((to, Vec::new()));
        self.unanswered[to] += 1;
        self.send(self.guids[to], number, 0);
    }

    fn broadcast(&mut self) {
        let number = self.told.broadcasts;
        self.told.broadcasts += 1;
        self.send(BROADCAST, number, OF_A_BROADCAST);
    }

    fn send(&mut self, to: Guid, number: u64, kind: u8) {
        let request = Request::to(to).flags(CLIENT).id(number).payload([kind, self.number as u8]);
        self.socket.send(Message::binary(request.encode())).expect("the connection stands");
    }

    fn read_until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(
                Instant::now() < until,
                "player {}, not in time: {what}; unanswered {:?}",
                self.number,
                self.unanswered
            );
            self.read_what_is_there();
        }
    }

    /// Waits for a moment if nothing is there.
    fn read_what_is_there(&mut self) {
        for _ in 0..READ_AT_ONCE {
            match self.socket.read() {
                Ok(Message::Binary(bytes)) if bytes[0] & RESPONSE != 0 => {
                    let Reply { id, code, .. } = Reply::decode(&bytes);
                    let (to, answers) = &mut self.told.letters[id as usize];
                    answers.push(code);
                    // More answers than letters are seen in the account.
                    self.unanswered[*to] = self.unanswered[*to].saturating_sub(1);
                }
                Ok(Message::Binary(bytes)) => {
                    let request = Request::decode(&bytes);
                    // What the gateway itself has to say.
                    if request.flags & EVENT != 0 {
                        continue;
                    }
                    let [kind, from] = request.payload[..] else { panic!("{request:?}") };
                    let what = if kind == OF_A_BROADCAST { What::Broadcast } else { What::Letter };
                    let from = usize::from(from);
                    self.told.heard.push(Heard { from, what, number: request.id });
                }
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                Ok(other) => panic!("player {}: {other:?}", self.number),
                Err(Error::Io(error))
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    return;
                }
                Err(error) => panic!("player {} has lost its connection: {error}", self.number),
            }
        }
    }
}
