//! The client of one session: it keeps up while it is there, and comes back by itself, each time to
//! another gateway and by turns with its reconnect token and its JWT.
//!
//! It reads message by message and answers a Ping when it comes to it, so that what its stack has
//! acknowledged is always what it has entered in the book: killing it loses nothing in between.

use std::borrow::Cow;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use serde::Deserialize;
use tungstenite::client::IntoClientRequest as _;
use tungstenite::handshake::MidHandshake;
use tungstenite::handshake::client::Response;
use tungstenite::http::HeaderValue;
use tungstenite::{ClientHandshake, Error, HandshakeError, Message, WebSocket};
use uuid::Uuid;

use super::book::Book;
use crate::gateway_process::token::Claims;

pub(crate) const EVENT_NAME: &str = "system.notification";

/// A gateway that says nothing for so long is given up.
const PATIENCE: Duration = Duration::from_secs(2);

/// Before it tries again where it was refused.
const PAUSE: Duration = Duration::from_millis(30);

/// Size of the header before an event, and where its message id and flags are.
const HEADER: usize = 31;
const FLAG_EVENT: u8 = 0x10;
const FLAG_RESPONSE: u8 = 0x40;

/// How it says what it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Confirms {
    ByPong,
    ByAck,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Credential {
    Jwt,
    Token,
}

type Stream = TcpStream;

enum State {
    Away {
        until: Instant,
    },
    Upgrading {
        handshake: MidHandshake<ClientHandshake<Stream>>,
        stream: Stream,
        until: Instant,
    },
    Open(Box<WebSocket<Stream>>),
    /// For the moment in which it changes.
    Changing,
}

#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Tally {
    pub(crate) kills: u64,
    /// Connections that stood, by what let them in.
    pub(crate) by_token: u64,
    pub(crate) by_jwt: u64,
    /// Tokens that were not good any more; the JWT was taken instead.
    pub(crate) refused_tokens: u64,
    /// 409, 429 and 503 at the door.
    pub(crate) told_to_wait: u64,
    /// Connections that ended without the client's doing.
    pub(crate) ended: u64,
}

pub(crate) struct Player {
    number: usize,
    session: Uuid,
    jwt: String,
    token: Option<String>,
    confirms: Confirms,
    /// Where it is, or tries to be, of how many.
    gateway: usize,
    gateways: usize,
    credential: Credential,
    state: State,
    pub(crate) tally: Tally,
}

/// What is read of an event, of whatever name.
#[derive(Debug, Deserialize)]
struct Event<'a> {
    #[serde(rename = "eventName", borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    token: Option<Cow<'a, str>>,
    owner: Option<usize>,
    n: Option<u64>,
}

impl Player {
    pub(crate) fn new(number: usize, gateways: usize) -> Self {
        let session = Uuid::from_u128(0x1ed9_e500_0000 + number as u128);
        Self {
            number,
            session,
            jwt: Claims::default().session(session).sign(),
            token: None,
            // Both kinds begin at each gateway.
            confirms: if number.is_multiple_of(2) { Confirms::ByPong } else { Confirms::ByAck },
            gateway: number / 2 % gateways,
            gateways,
            credential: Credential::Jwt,
            state: State::Away { until: Instant::now() },
            tally: Tally::default(),
        }
    }

    pub(crate) fn session(&self) -> Uuid {
        self.session
    }

    pub(crate) fn is_at(&self, gateway: usize) -> bool {
        self.gateway == gateway
    }

    /// It has had its manifest and its token, so that a gateway keeps its events.
    pub(crate) fn is_known(&self) -> bool {
        self.token.is_some()
    }

    /// It is connected: a gap that it is told of now ends before what is published from now on.
    pub(crate) fn is_there(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    /// No close frame, and whatever is in flight is lost.
    pub(crate) fn kill(&mut self) {
        self.tally.kills += u64::from(matches!(self.state, State::Open(_)));
        self.state = self.move_on(Duration::ZERO);
    }

    /// What to wait on, if its next step depends on the gateway.
    pub(crate) fn readable(&self) -> Option<BorrowedFd<'_>> {
        match &self.state {
            State::Open(socket) => Some(socket.get_ref().as_fd()),
            State::Upgrading { stream, .. } => Some(stream.as_fd()),
            State::Away { .. } | State::Changing => None,
        }
    }

    /// Does what can be done at once.
    pub(crate) fn step(&mut self, doors: &[Option<SocketAddr>], book: &mut Book) {
        let now = Instant::now();
        self.state = match std::mem::replace(&mut self.state, State::Changing) {
            State::Away { until } if now < until => State::Away { until },
            State::Away { .. } => match doors[self.gateway] {
                Some(door) => self.dial(door),
                None => self.elsewhere(PAUSE),
            },
            State::Upgrading { handshake, stream, until } if now < until => {
                self.upgraded(handshake.handshake(), stream, until)
            }
            State::Upgrading { .. } => self.elsewhere(Duration::ZERO),
            State::Open(socket) => self.pump(socket, book),
            State::Changing => unreachable!("a step is done before the next"),
        };
    }

    /// To the next gateway with the other credential.
    fn move_on(&mut self, after: Duration) -> State {
        self.credential = match self.credential {
            Credential::Jwt if self.token.is_some() => Credential::Token,
            _ => Credential::Jwt,
        };
        self.elsewhere(after)
    }

    fn elsewhere(&mut self, after: Duration) -> State {
        self.gateway = (self.gateway + 1) % self.gateways;
        State::Away { until: Instant::now() + after }
    }

    fn dial(&mut self, door: SocketAddr) -> State {
        let until = Instant::now() + PATIENCE;
        let Ok(stream) = open(door) else { return self.elsewhere(PAUSE) };
        let mut request =
            format!("ws://{door}/connect").into_client_request().expect("an address makes a URL");
        let credential = match (&self.token, self.credential) {
            (Some(token), Credential::Token) => format!("Reconnect {token}"),
            _ => format!("Bearer {}", self.jwt),
        };
        let credential = HeaderValue::from_str(&credential).expect("a token is ASCII");
        request.headers_mut().insert("Authorization", credential);
        let seen = stream.try_clone().expect("a socket can be shared");
        let upgraded = tungstenite::client::client(request, stream);
        self.upgraded(upgraded, seen, until)
    }

    fn upgraded(
        &mut self,
        result: Result<(WebSocket<Stream>, Response), HandshakeError<ClientHandshake<Stream>>>,
        stream: Stream,
        until: Instant,
    ) -> State {
        match result {
            Ok((mut socket, _)) => {
                match self.credential {
                    Credential::Jwt => self.tally.by_jwt += 1,
                    Credential::Token => self.tally.by_token += 1,
                }
                if self.confirms == Confirms::ByAck {
                    // Says who confirms, before the first Pong could.
                    drop(socket.write(acknowledgement(0)));
                }
                State::Open(Box::new(socket))
            }
            Err(HandshakeError::Interrupted(handshake)) => {
                State::Upgrading { handshake, stream, until }
            }
            Err(HandshakeError::Failure(Error::Http(response))) => {
                match response.status().as_u16() {
                    401 if self.credential == Credential::Token => {
                        self.tally.refused_tokens += 1;
                        self.credential = Credential::Jwt;
                        State::Away { until: Instant::now() }
                    }
                    409 | 429 | 503 => {
                        self.tally.told_to_wait += 1;
                        self.elsewhere(PAUSE)
                    }
                    status => panic!("{} gets {status}", self.session),
                }
            }
            // The gateway was killed meanwhile.
            Err(HandshakeError::Failure(_)) => self.elsewhere(PAUSE),
        }
    }

    /// Reads what is there, as an application does that keeps up.
    fn pump(&mut self, mut socket: Box<WebSocket<Stream>>, book: &mut Book) -> State {
        let mut handled = None;
        let open = loop {
            match socket.read() {
                Ok(Message::Binary(bytes)) => {
                    assert_eq!(bytes[0] & FLAG_RESPONSE, 0, "{}: {bytes:02x?}", self.session);
                    if bytes[0] & FLAG_EVENT != 0 && self.take(&bytes[HEADER..], book) {
                        let id = bytes[HEADER - 8..HEADER].try_into().expect("eight bytes");
                        handled = Some(u64::from_be_bytes(id));
                    }
                }
                // The announcement of a close comes as text, too.
                Ok(_) => {}
                Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => break true,
                // Whoever has ended it, and by whatever means.
                Err(_) => break false,
            }
        };
        if let Some(id) = handled.filter(|_| open && self.confirms == Confirms::ByAck) {
            drop(socket.write(acknowledgement(id)));
        }
        let flushed = match socket.flush() {
            Ok(()) => true,
            Err(Error::Io(error)) => error.kind() == ErrorKind::WouldBlock,
            Err(_) => false,
        };
        if open && flushed {
            return State::Open(socket);
        }
        self.tally.ended += 1;
        self.move_on(PAUSE)
    }

    /// Says whether it is an event of a service, which is confirmed.
    fn take(&mut self, payload: &[u8], book: &mut Book) -> bool {
        let event: Event<'_> = serde_json::from_slice(payload).unwrap_or_else(|error| {
            panic!("{}: {error}: {}", self.session, String::from_utf8_lossy(payload))
        });
        match &*event.name {
            EVENT_NAME => {
                let (owner, n) = event.owner.zip(event.n).expect("an event of this run");
                book.delivered(self.number, owner, n);
                true
            }
            "connect.event-gap" => {
                book.gap(self.number);
                true
            }
            "connect.session-token" => {
                self.token = event.token.map(Cow::into_owned);
                false
            }
            _ => false,
        }
    }
}

fn open(door: SocketAddr) -> io::Result<Stream> {
    let stream = TcpStream::connect_timeout(&door, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// `connect.ack`: everything up to this message id is handled.
fn acknowledgement(sequence: u64) -> Message {
    let mut message = vec![0; HEADER];
    message[0] = FLAG_EVENT;
    let body = format!(r#"{{"eventName":"connect.ack","sequence":"{sequence}"}}"#);
    message.extend(body.into_bytes());
    Message::binary(message)
}
