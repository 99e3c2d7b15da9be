//! The demo backend over a link, also to be read as an example of one: what a link is and what its
//! messages mean stands in `docs/LINK.md`.
//!
//! Here are the sockets: one thread per link, which waits for a message, lets the [`Conversation`]
//! find the reply, and sends it. It shares no code with the gateway's side of the protocol.

mod conversation;
#[cfg(test)]
mod tests;

use std::io::{self, ErrorKind, Read as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tracing::{debug, error};
use tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tungstenite::http::{HeaderValue, StatusCode};
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tungstenite::{Error, Message, WebSocket};

use self::conversation::{Conversation, Fault, Stage};

pub(super) use self::conversation::ECHO;

const PATH: &str = "/corelane-link";
const SUBPROTOCOL: &str = "corelane-link.1";

/// For the upgrade, and again for the gateway's hello.
const HELLO_WITHIN: Duration = Duration::from_secs(5);
/// A link that is silent for so long is sent a Ping; one that stays silent is closed.
const QUIET_MAX: Duration = Duration::from_secs(20);
/// A gateway that takes nothing for so long is given up.
const WRITE_MAX: Duration = Duration::from_secs(10);
/// For the other side's Close.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);
/// Longer than any client message that a gateway of `corelane dev` lets through.
const MESSAGE_BYTES_MAX: usize = 2 << 20;

/// Accepts links on a thread of its own until the process ends.
pub(super) fn spawn(token: &str) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let token: Arc<str> = token.into();
    thread::Builder::new().name("demo-link".to_owned()).spawn(move || accept(&listener, &token))?;
    Ok(address)
}

fn accept(listener: &TcpListener, token: &Arc<str>) {
    for stream in listener.incoming() {
        let token = Arc::clone(token);
        let served = stream.and_then(|stream| {
            let thread = thread::Builder::new().name("demo-link-conn".to_owned());
            thread.spawn(move || match serve(stream, &token) {
                Ok(()) => debug!("a link has ended"),
                Err(error) => debug!(%error, "a link has failed"),
            })
        });
        if let Err(error) = served {
            error!(%error, "the demo link backend cannot take a link");
            // Most likely descriptors or threads are short: do not spin until there are some.
            thread::sleep(Duration::from_millis(100));
        }
    }
}

/// One link from its upgrade to its end.
fn serve(stream: TcpStream, token: &str) -> Result<(), Box<Error>> {
    let prepared = stream
        .set_nodelay(true)
        .and_then(|()| stream.set_read_timeout(Some(HELLO_WITHIN)))
        .and_then(|()| stream.set_write_timeout(Some(WRITE_MAX)));
    prepared.map_err(Error::from)?;
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    let check = Check { token };
    let upgraded = tungstenite::accept_hdr_with_config(stream, check, Some(config));
    let mut socket = upgraded.map_err(|error| match error {
        tungstenite::HandshakeError::Failure(error) => Box::new(error),
        tungstenite::HandshakeError::Interrupted(_) => {
            Box::new(Error::Io(ErrorKind::TimedOut.into()))
        }
    })?;
    converse(&mut socket).map_err(Box::new)
}

/// Checks the request for an upgrade.
struct Check<'a> {
    token: &'a str,
}

impl tungstenite::handshake::server::Callback for Check<'_> {
    fn on_request(
        self,
        request: &Request,
        mut response: Response,
    ) -> Result<Response, ErrorResponse> {
        let header = |name: &str| {
            let value = request.headers().get(name)?;
            value.to_str().ok()
        };
        if request.uri().path() != PATH {
            return Err(refusal(StatusCode::NOT_FOUND));
        }
        if !header("X-Service-Token").is_some_and(|token| same(token, self.token)) {
            return Err(refusal(StatusCode::UNAUTHORIZED));
        }
        let offered = header("Sec-WebSocket-Protocol").unwrap_or_default();
        if !offered.split(',').any(|one| one.trim() == SUBPROTOCOL) {
            return Err(refusal(StatusCode::BAD_REQUEST));
        }
        let chosen = HeaderValue::from_static(SUBPROTOCOL);
        response.headers_mut().insert("Sec-WebSocket-Protocol", chosen);
        Ok(response)
    }
}

fn refusal(status: StatusCode) -> ErrorResponse {
    let mut response = ErrorResponse::new(None);
    *response.status_mut() = status;
    response
}

/// Takes the same time wherever the two differ.
fn same(given: &str, expected: &str) -> bool {
    let pairs = given.bytes().zip(expected.bytes());
    let difference = pairs.fold(0, |sum, (a, b)| sum | (a ^ b));
    given.len() == expected.len() && std::hint::black_box(difference) == 0
}

/// Reads and replies until either side closes.
fn converse(socket: &mut WebSocket<TcpStream>) -> Result<(), Error> {
    let mut conversation = Conversation::default();
    let hello_until = Instant::now() + HELLO_WITHIN;
    let mut pinged = false;
    loop {
        let message = match socket.read() {
            Ok(message) => message,
            Err(Error::ConnectionClosed) => return Ok(()),
            Err(Error::Io(error)) if is_late(&error) => {
                match conversation.stage() {
                    Stage::BeforeHello => return close(socket, Fault::LateHello),
                    Stage::Open if pinged => return close(socket, Fault::Silent),
                    Stage::Open => socket.send(Message::Ping(Vec::new().into()))?,
                }
                pinged = true;
                continue;
            }
            Err(Error::Capacity(_)) => return close(socket, Fault::TooLong),
            Err(error) => return Err(error),
        };
        pinged = false;
        let reply = match message {
            Message::Binary(bytes) => conversation.receive(&bytes),
            Message::Text(_) => Err(Fault::Text),
            // The library answers Pings and Closes by itself; it says so when the link has ended.
            _ => Ok(None),
        };
        match reply {
            Ok(Some(bytes)) => socket.send(Message::binary(bytes))?,
            Ok(None) => {}
            Err(fault) => return close(socket, fault),
        }
        let wait = match conversation.stage() {
            Stage::Open => QUIET_MAX,
            // Pings do not buy time.
            Stage::BeforeHello => match hello_until.checked_duration_since(Instant::now()) {
                Some(left) if !left.is_zero() => left,
                _ => return close(socket, Fault::LateHello),
            },
        };
        socket.get_ref().set_read_timeout(Some(wait))?;
    }
}

fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Says why, and reads on until the other side closes: bytes left unread would reset the connection
/// and take the reason with them.
fn close(socket: &mut WebSocket<TcpStream>, fault: Fault) -> Result<(), Error> {
    debug!(%fault, "closing a link");
    let frame =
        CloseFrame { code: CloseCode::from(fault.close_code()), reason: fault.to_string().into() };
    socket.close(Some(frame))?;
    socket.flush()?;
    let stream = socket.get_mut();
    stream.shutdown(Shutdown::Write)?;
    stream.set_read_timeout(Some(CLOSE_WITHIN))?;
    let until = Instant::now() + CLOSE_WITHIN;
    let mut unread = [0; 4096];
    while Instant::now() < until && stream.read(&mut unread)? > 0 {}
    Ok(())
}
