//! The ledger of events: many are published to sessions whose clients are killed without a good-bye
//! and taken up again at random, and every one of them is accounted for.
//!
//! `LEDGER_SEED=n` replays a run.

use std::collections::HashSet;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use serde_json::{Value, json};
use tungstenite::{Error, Message};
use uuid::Uuid;

use crate::gateway_process::token::Claims;
use crate::harness::PATIENCE;
use crate::harness::client::Client;
use crate::harness::frames::{EVENT, Request};
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::raw::dial;

const SESSIONS: usize = 50;
const EVENTS: u64 = 10_000;
const TOKEN: &str = "of-the-publisher";

/// How a session's client says what it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Confirms {
    ByPong,
    ByAck,
}

/// One session and what its clients have seen.
struct Player {
    session: Uuid,
    jwt: String,
    reconnect: Option<String>,
    connection: Option<Client>,
    confirms: Confirms,
    published: u64,
    seen: HashSet<String>,
    next: u64,
    counts: Counts,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Counts {
    delivered: u64,
    /// Again after a resume: what the filter by id is for.
    repeated: u64,
    reordered: u64,
    foreign: u64,
    gaps: u64,
    kills: u64,
    by_token: u64,
    by_jwt: u64,
    refused_tokens: u64,
}

impl Player {
    fn new(number: usize) -> Self {
        let session = Uuid::from_u128(0x1000 + number as u128);
        Self {
            session,
            jwt: Claims::default().session(session).sign(),
            reconnect: None,
            connection: None,
            confirms: if number.is_multiple_of(2) { Confirms::ByPong } else { Confirms::ByAck },
            published: 0,
            seen: HashSet::new(),
            next: 0,
            counts: Counts::default(),
        }
    }

    fn connect(&mut self, gateway: SocketAddr, by_token: bool) {
        let client = match self.reconnect.as_deref().filter(|_| by_token) {
            Some(token) => match Client::try_resume(gateway, token) {
                Ok(client) => {
                    self.counts.by_token += 1;
                    client
                }
                // Between the last token that it confirmed and this one, which it had no time to
                // confirm, a login took place: of the two before the newest, the confirmed is kept.
                Err(401) => {
                    self.counts.refused_tokens += 1;
                    return self.connect(gateway, false);
                }
                Err(status) => panic!("{} gets {status}", self.session),
            },
            None => {
                self.counts.by_jwt += 1;
                Client::try_connect(gateway, &self.jwt)
                    .unwrap_or_else(|status| panic!("{} gets {status}", self.session))
            }
        };
        client.socket.get_ref().set_nonblocking(true).expect("an open socket takes options");
        self.connection = Some(client);
    }

    /// No close frame, and whatever is in flight is lost.
    fn kill(&mut self) {
        self.counts.kills += u64::from(self.connection.take().is_some());
    }

    /// Reads what is there, as an application does that keeps up.
    fn pump(&mut self) {
        let Some(mut client) = self.connection.take() else { return };
        let mut handled = None;
        loop {
            match client.socket.read() {
                Ok(Message::Binary(bytes)) => {
                    let event = Request::decode(&bytes);
                    assert_eq!(event.flags, EVENT);
                    if self.take(&event.json()) {
                        handled = Some(event.id);
                    }
                }
                Ok(Message::Ping(_)) => {}
                Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => break,
                other => panic!("{}: {other:?}", self.session),
            }
        }
        if let Some(id) = handled.filter(|_| self.confirms == Confirms::ByAck) {
            let ack = json!({"eventName": "connect.ack", "sequence": id.to_string()});
            client.send(&Request::to([0; 16]).flags(EVENT).channel(0).payload(ack.to_string()));
        }
        let flushed = client.socket.flush();
        assert!(flushed.is_ok(), "{}: {flushed:?}", self.session);
        self.connection = Some(client);
    }

    /// Says whether it is one of the published events.
    fn take(&mut self, event: &Value) -> bool {
        match event["eventName"].as_str() {
            Some("connect.session-token") => {
                self.reconnect = event["token"].as_str().map(str::to_owned);
                return false;
            }
            Some("connect.event-gap") => {
                self.counts.gaps += 1;
                return true;
            }
            Some("system.notification") => {}
            _ => return false,
        }
        let id = event["eventId"].as_str().expect("an event has an id");
        if event["for"] != self.session.to_string() {
            self.counts.foreign += 1;
        } else if !self.seen.insert(id.to_owned()) {
            self.counts.repeated += 1;
        } else {
            let n = event["n"].as_u64().expect("a number");
            self.counts.reordered += u64::from(n != self.next);
            self.next = n + 1;
            self.counts.delivered += 1;
        }
        true
    }
}

/// A service with one connection to the internal listener.
struct Publisher {
    stream: BufReader<TcpStream>,
}

impl Publisher {
    fn new(gateway: &Gateway) -> Self {
        Self { stream: BufReader::new(dial(gateway.internal())) }
    }

    fn publish(&mut self, player: &mut Player) {
        let (session, n) = (player.session, player.published);
        player.published += 1;
        let event = json!({
            "eventName": "system.notification", "eventId": format!("{session}/{n}"),
            "for": session.to_string(), "n": n,
        });
        let body = event.to_string();
        let request = format!(
            "POST /bus/bannou-client-events?session={session} HTTP/1.1\r\nHost: x\r\n\
             X-Service-Token: {TOKEN}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.get_mut().write_all(request.as_bytes()).expect("the listener stays");
        let mut length = 0;
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("an answer");
        assert!(line.starts_with("HTTP/1.1 202 "), "{session} {n}: {line}");
        while line != "\r\n" {
            line.clear();
            self.stream.read_line(&mut line).expect("a whole head");
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
        }
        self.stream.read_exact(&mut vec![0; length]).expect("a whole body");
    }
}

#[test]
fn ten_thousand_events_reach_fifty_sessions_whose_clients_are_killed_at_random() {
    let seed = std::env::var("LEDGER_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("LEDGER_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let gateway = Setup::new("")
        .with_notices()
        .shards(2)
        .set("listen.internal.address", "127.0.0.1:0")
        .set("listen.internal.service_token", TOKEN)
        .start();
    let mut publisher = Publisher::new(&gateway);
    let mut players: Vec<Player> = (0..SESSIONS).map(Player::new).collect();
    for player in &mut players {
        player.connect(gateway.public(), false);
    }
    // Open as the store sees it, so that events find their session.
    gateway.await_metric("corelane_directory_sessions", "", SESSIONS as u64);

    for _ in 0..EVENTS {
        let at = random.usize(..SESSIONS);
        publisher.publish(&mut players[at]);
        if random.u32(..100) < 2 {
            players[random.usize(..SESSIONS)].kill();
        }
        let at = random.usize(..SESSIONS);
        if players[at].connection.is_none() {
            players[at].connect(gateway.public(), random.bool());
        } else {
            players[at].pump();
        }
    }
    let until = Instant::now() + PATIENCE;
    while players.iter().any(|player| player.counts.delivered < player.published) {
        assert!(Instant::now() < until, "{}", ledger(&players));
        for player in &mut players {
            if player.connection.is_none() {
                player.connect(gateway.public(), random.bool());
            }
            player.pump();
        }
    }
    println!("{}", ledger(&players));
    for player in &players {
        let Counts { reordered, foreign, gaps, .. } = player.counts;
        assert_eq!((reordered, foreign, gaps), (0, 0, 0), "{}", player.session);
        assert_eq!(player.counts.delivered, player.published);
    }
    let total = |of: fn(&Counts) -> u64| players.iter().map(|p| of(&p.counts)).sum::<u64>();
    assert!(total(|counts| counts.kills) > 100 && total(|counts| counts.repeated) > 0);
    assert!(total(|counts| counts.by_token) > 50 && total(|counts| counts.by_jwt) > 50);
    assert!(total(|counts| counts.refused_tokens) < 10, "{}", ledger(&players));
    // Every event is confirmed in the end, and then nothing is kept of any.
    for player in &mut players {
        player.pump();
    }
    gateway.wait_until("all mailboxes to be empty", PATIENCE, || {
        players.iter_mut().for_each(Player::pump);
        gateway.metric("corelane_mailbox_bytes", "") == 0
    });
}

/// The result in one line.
fn ledger(players: &[Player]) -> String {
    let total = |of: fn(&Counts) -> u64| players.iter().map(|p| of(&p.counts)).sum::<u64>();
    let published: u64 = players.iter().map(|player| player.published).sum();
    let delivered = total(|counts| counts.delivered);
    format!(
        "published {published}, delivered {delivered}, lost {}, repeated before the id filter {}, \
         reordered {}, to another session {}, gaps {}, kills {}, resumed by token {}, by JWT {}, \
         refused tokens {}",
        published - delivered,
        total(|counts| counts.repeated),
        total(|counts| counts.reordered),
        total(|counts| counts.foreign),
        total(|counts| counts.gaps),
        total(|counts| counts.kills),
        total(|counts| counts.by_token),
        total(|counts| counts.by_jwt),
        total(|counts| counts.refused_tokens),
    )
}
