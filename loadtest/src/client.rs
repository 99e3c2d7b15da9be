//! One blocking client connection: upgrade, manifest, calls. Uses the codec of `frame` and
//! `envelope`; measures nothing.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::str::FromStr;
use std::time::Duration;

use serde_json::Value;
use thiserror::Error;

use crate::envelope::{self, Envelope, Guid, Reply, Request, TooShort};
use crate::frame::{self, FrameError, Opcode};

/// Where the gateway is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url {
    authority: String,
    path: String,
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || format!("{text:?} is not of the form ws://HOST:PORT/PATH");
        let rest = text.strip_prefix("ws://").ok_or_else(refused)?;
        let (authority, path) = rest.split_at(rest.find('/').ok_or_else(refused)?);
        let (host, port) = authority.rsplit_once(':').ok_or_else(refused)?;
        if host.is_empty() || port.parse::<u16>().is_err() {
            return Err(refused());
        }
        Ok(Self { authority: authority.to_owned(), path: path.to_owned() })
    }
}

/// Why a connection is of no further use.
#[derive(Debug, Error)]
pub(crate) enum ClientError {
    #[error("the network failed: {0}")]
    Network(#[from] io::Error),
    #[error("the gateway refused the upgrade: {0}")]
    Refused(String),
    #[error("the gateway broke the WebSocket protocol: {0}")]
    Frame(#[from] FrameError),
    #[error("fragments do not follow each other as they must")]
    Fragments,
    #[error("the gateway sent {0}")]
    Envelope(#[from] TooShort),
    #[error("the gateway sent a text message")]
    Text,
    #[error("the gateway closed the connection with code {0}")]
    Closed(u16),
    #[error("the manifest is not as it should be: {0}")]
    Manifest(&'static str),
    #[error("the manifest has no endpoint {0}")]
    NoEndpoint(String),
    #[error("the reply carries the wrong {0}")]
    WrongReply(&'static str),
    #[error("the call was answered with code {0}")]
    Code(u8),
}

/// The key and its answer of RFC 6455 section 1.3: a fixed key needs no SHA-1 here, and a server
/// that does not compute the answer still fails.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
const HEAD_BYTES_MAX: usize = 16 << 10;
const NORMAL_CLOSURE: u16 = 1000;
const SILENCE: Duration = Duration::from_secs(30);

/// A session of one token.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    /// Received and not yet used, from `used` on.
    inbound: Vec<u8>,
    used: usize,
    outbound: Vec<u8>,
    message: Vec<u8>,
    sequence: u32,
}

impl Client {
    /// Connects and upgrades with `token`.
    pub(crate) fn connect(url: &Url, token: &str) -> Result<Self, ClientError> {
        let stream = TcpStream::connect(&url.authority)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE))?;
        let mut client = Self {
            stream,
            inbound: Vec::with_capacity(8192),
            used: 0,
            outbound: Vec::with_capacity(4096),
            message: Vec::new(),
            sequence: 0,
        };
        let Url { authority, path } = url;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\
             Authorization: Bearer {token}\r\n\r\n"
        );
        client.stream.write_all(request.as_bytes())?;
        client.read_upgrade()?;
        Ok(client)
    }

    /// Waits for the manifest and returns the GUID of `endpoint`.
    pub(crate) fn find_endpoint(&mut self, endpoint: &str) -> Result<Guid, ClientError> {
        self.read_message()?;
        let Envelope::Request(event) = envelope::decode(&self.message)? else {
            return Err(ClientError::Manifest("a reply came first"));
        };
        if event.flags & envelope::EVENT == 0 || event.guid != Guid::default() {
            return Err(ClientError::Manifest("the first message is no event"));
        }
        let manifest: Value = serde_json::from_slice(event.payload)
            .map_err(|_| ClientError::Manifest("it is not JSON"))?;
        if manifest["eventName"] != "connect.capability-manifest" {
            return Err(ClientError::Manifest("the first event is another one"));
        }
        let apis = manifest["availableApis"]
            .as_array()
            .ok_or(ClientError::Manifest("it lists no endpoints"))?;
        let found = apis.iter().find(|api| api["endpoint"] == endpoint);
        let found = found.ok_or_else(|| ClientError::NoEndpoint(endpoint.to_owned()))?;
        found["serviceId"]
            .as_str()
            .and_then(envelope::parse_guid)
            .ok_or(ClientError::Manifest("an endpoint has no GUID"))
    }

    /// Calls the endpoint `guid` and checks that the reply is this call's, without an error.
    /// Events that come meanwhile are passed over.
    pub(crate) fn call(&mut self, guid: Guid, payload: &[u8]) -> Result<&[u8], ClientError> {
        let sequence = self.sequence;
        self.sequence = sequence.wrapping_add(1);
        let message_id = u64::from(sequence) << 16 | 0x5a;
        let request = Request { flags: 0, channel: 0, sequence, guid, message_id, payload };
        self.message.clear();
        request.encode(&mut self.message);
        self.outbound.clear();
        frame::encode(Opcode::Binary, &self.message, fresh_mask(), &mut self.outbound);
        self.stream.write_all(&self.outbound)?;
        loop {
            self.read_message()?;
            if let Envelope::Reply(reply) = envelope::decode(&self.message)? {
                check_reply(&reply, sequence, message_id)?;
                break;
            }
        }
        match envelope::decode(&self.message)? {
            Envelope::Reply(reply) => Ok(reply.payload),
            Envelope::Request(_) => Err(ClientError::WrongReply("layout")),
        }
    }

    /// Ends the session as RFC 6455 section 7 wants it and waits for the gateway's part.
    pub(crate) fn close(mut self) -> Result<(), ClientError> {
        self.outbound.clear();
        let code = NORMAL_CLOSURE.to_be_bytes();
        frame::encode(Opcode::Close, &code, fresh_mask(), &mut self.outbound);
        self.stream.write_all(&self.outbound)?;
        loop {
            match self.read_message() {
                // Under way before the close reply: events, or a notice as text.
                Ok(()) | Err(ClientError::Text) => {}
                Err(ClientError::Closed(NORMAL_CLOSURE)) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn read_upgrade(&mut self) -> Result<(), ClientError> {
        let end = loop {
            let blank_line = self.inbound.windows(4).position(|w| w == b"\r\n\r\n");
            match blank_line {
                Some(at) => break at + 4,
                None if self.inbound.len() > HEAD_BYTES_MAX => {
                    return Err(ClientError::Refused("its answer is endless".to_owned()));
                }
                None => self.receive()?,
            }
        };
        self.used = end; // a frame may have come in the same packet
        let head = String::from_utf8_lossy(&self.inbound[..end]);
        let status = head.lines().next().unwrap_or_default();
        let mut headers = head.lines().filter_map(|line| line.split_once(':'));
        let accepted = headers.any(|(name, value)| {
            name.eq_ignore_ascii_case("sec-websocket-accept") && value.trim() == ACCEPT
        });
        if status.split(' ').nth(1) == Some("101") && accepted {
            return Ok(());
        }
        Err(ClientError::Refused(status.to_owned()))
    }

    /// Reads the next binary message into `self.message`; answers Pings on the way.
    fn read_message(&mut self) -> Result<(), ClientError> {
        self.message.clear();
        let mut begun = false;
        loop {
            let Some(frame) = frame::decode(&self.inbound[self.used..])? else {
                self.receive()?;
                continue;
            };
            self.used += frame.len;
            match frame.opcode {
                Opcode::Binary if begun => return Err(ClientError::Fragments),
                Opcode::Continuation if !begun => return Err(ClientError::Fragments),
                Opcode::Binary | Opcode::Continuation => {
                    self.message.extend(frame.payload);
                    begun = true;
                    if frame.last {
                        return Ok(());
                    }
                }
                Opcode::Text => return Err(ClientError::Text),
                Opcode::Close => {
                    let code = frame.payload.first_chunk().map_or(1005, |c| u16::from_be_bytes(*c));
                    return Err(ClientError::Closed(code));
                }
                Opcode::Ping => {
                    self.outbound.clear();
                    frame::encode(Opcode::Pong, frame.payload, fresh_mask(), &mut self.outbound);
                    self.stream.write_all(&self.outbound)?;
                }
                Opcode::Pong => {}
            }
        }
    }

    fn receive(&mut self) -> Result<(), ClientError> {
        self.inbound.drain(..self.used);
        self.used = 0;
        let mut chunk = [0; 8192];
        match self.stream.read(&mut chunk)? {
            0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            len => {
                self.inbound.extend(&chunk[..len]);
                Ok(())
            }
        }
    }
}

fn check_reply(reply: &Reply<'_>, sequence: u32, message_id: u64) -> Result<(), ClientError> {
    if reply.code != 0 {
        return Err(ClientError::Code(reply.code));
    }
    let wrong = if reply.message_id != message_id {
        "message id"
    } else if reply.sequence != sequence {
        "sequence"
    } else if reply.channel != 0 {
        "channel"
    } else if reply.flags != envelope::RESPONSE {
        "flags"
    } else {
        return Ok(());
    };
    Err(ClientError::WrongReply(wrong))
}

fn fresh_mask() -> [u8; 4] {
    fastrand::u32(..).to_ne_bytes()
}

#[cfg(test)]
pub(crate) mod tests;
