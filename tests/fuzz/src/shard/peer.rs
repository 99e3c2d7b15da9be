//! Who is at the other end of a socket, and what they make of what the shard sends: whole answers,
//! whole frames, nothing behind a close frame, and no byte that was not sent to them.

use std::collections::VecDeque;

use corelane_shard::id::SessionId;
use corelane_shard::snapshot::Address;
use corelane_shard::upstream::link::{Kind, NO_ENDPOINT, Prefix, SUBPROTOCOL};
use corelane_shard::wire::frame::{OpCode, server_header_len, write_server_header};
use corelane_shard::wire::guid::Guid;
use corelane_shard::wire::handshake::{ACCEPT_BYTES_MAX, accept};
use corelane_shard::wire::header::{Flags, Header, RequestHeader};

pub(super) enum Peer {
    Client(Client),
    Http(HttpBackend),
    Link(LinkBackend),
}

impl Peer {
    /// The backend that listens there.
    pub(super) fn backend(address: &Address) -> Self {
        match address {
            Address::Tcp(address) if address.port() < LINK_PORTS => {
                Self::Http(HttpBackend::default())
            }
            _ => Self::Link(LinkBackend::default()),
        }
    }

    pub(super) fn got(&mut self, bytes: &[u8]) {
        match self {
            Self::Client(client) => client.got(bytes),
            Self::Http(backend) => backend.unread.extend_from_slice(bytes),
            Self::Link(backend) => backend.unread.extend_from_slice(bytes),
        }
    }
}

/// Ports from here on are backends of links.
pub(super) const LINK_PORTS: u16 = 2000;

/// What a client has been told, as far as it decides what may come next.
#[derive(Debug, Default)]
pub(super) struct Client {
    unread: Vec<u8>,
    stage: Stage,
    /// It has sent something: only what comes first is a request.
    pub(super) asked: bool,
    /// It has asked for the echo route, or nobody knows for what.
    pub(super) asks_for_echo: bool,
    /// Messages that are to come back, oldest first, as opcode, byte and length; `None` once
    /// something was sent that nobody keeps account of.
    pub(super) echoes: Option<VecDeque<(OpCode, u8, usize)>>,
    /// The last Ping that was not answered.
    pub(super) ping: Option<Vec<u8>>,
    /// The last RPC that was not answered.
    pub(super) rpc: Option<u64>,
    /// The last event, to be acknowledged.
    pub(super) event: Option<u64>,
    pub(super) session: Option<SessionId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Stage {
    #[default]
    Door,
    /// Told so in HTTP.
    Refused,
    Frames,
    /// A close frame has come.
    Closed,
}

impl Client {
    pub(super) fn is_let_in(&self) -> bool {
        self.stage == Stage::Frames
    }

    fn got(&mut self, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
        if self.stage == Stage::Door {
            let Some(len) = head_len(&self.unread) else {
                assert!(self.unread.len() < 1024, "answers end");
                return;
            };
            let head = String::from_utf8_lossy(&self.unread[..len]).into_owned();
            self.unread.drain(..len);
            assert!(head.starts_with("HTTP/1.1 "), "{head:?}");
            let let_in = head.starts_with("HTTP/1.1 101 ");
            self.stage = if let_in { Stage::Frames } else { Stage::Refused };
        }
        if self.stage == Stage::Refused {
            assert!(self.unread.len() < 1024, "a refusal is short");
            return;
        }
        while let Some(frame) = Frame::cut(&mut self.unread) {
            assert_ne!(self.stage, Stage::Closed, "nothing follows a close frame");
            assert!(!frame.masked && frame.fin, "frames of a server are whole and plain");
            self.read(frame);
        }
        let ended = self.stage == Stage::Closed;
        assert!(!ended || self.unread.is_empty(), "nothing follows a close frame");
    }

    fn read(&mut self, frame: Frame) {
        match frame.opcode {
            CLOSE => {
                self.stage = Stage::Closed;
                assert_ne!(frame.payload.len(), 1, "half a code");
            }
            PING => self.ping = Some(frame.payload),
            PONG => {}
            opcode if self.asks_for_echo => self.read_echo(opcode, &frame.payload),
            TEXT => assert!(serde_json::from_slice::<serde_json::Value>(&frame.payload).is_ok()),
            BINARY => self.read_message(&frame.payload),
            other => panic!("a server sends no {other:x}"),
        }
    }

    fn read_echo(&mut self, opcode: u8, payload: &[u8]) {
        let Some(echoes) = &mut self.echoes else { return };
        let Some((sent, byte, len)) = echoes.pop_front() else {
            panic!("nothing comes back that was not sent");
        };
        assert_eq!((opcode, payload.len()), (sent as u8, len));
        assert!(payload.iter().all(|found| *found == byte), "as it was sent");
    }

    fn read_message(&mut self, message: &[u8]) {
        let Ok(header) = Header::parse(message) else {
            panic!("a message is longer than its header: {message:x?}");
        };
        let Header::Request(request) = header else { return };
        let payload = &message[RequestHeader::LEN..];
        if request.flags.contains(Flags::CLIENT) && request.guid != Guid::BROADCAST {
            let plain = !request.flags.contains(Flags::COMPRESSED);
            let one = payload.iter().all(|byte| Some(byte) == payload.first());
            assert!(one || !plain, "as the other player has sent it");
        } else if request.flags.contains(Flags::EVENT) {
            self.event = Some(request.message_id);
        } else {
            self.rpc = Some(request.message_id);
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct HttpBackend {
    unread: Vec<u8>,
}

impl HttpBackend {
    /// The answer to a whole request that has come.
    pub(super) fn answer(&mut self, status: u16, len: usize, chunked: bool) -> Option<Vec<u8>> {
        let head = head_len(&self.unread)?;
        let text = String::from_utf8_lossy(&self.unread[..head]).to_ascii_lowercase();
        let (_, rest) = text.split_once("content-length: ").unwrap_or(("", "0\r\n"));
        let body = rest.split_once("\r\n").and_then(|(digits, _)| digits.parse::<usize>().ok());
        let whole = head + body.unwrap_or(0);
        if self.unread.len() < whole {
            return None;
        }
        self.unread.drain(..whole);
        let body = vec![ANSWER; len];
        let head = format!("HTTP/1.1 {status} Said\r\n");
        Some(match chunked {
            true => {
                let head = format!("{head}Transfer-Encoding: chunked\r\n\r\n{len:x}\r\n");
                let end: &[u8] = if len == 0 { b"\r\n" } else { b"\r\n0\r\n\r\n" };
                [head.as_bytes(), &body, end].concat()
            }
            false => {
                let head = format!("{head}Content-Length: {len}\r\n\r\n");
                [head.as_bytes(), &body].concat()
            }
        })
    }
}

/// What backends' answers are made of.
const ANSWER: u8 = 0x42;

#[derive(Debug, Default)]
pub(super) struct LinkBackend {
    unread: Vec<u8>,
    upgraded: bool,
    open: Vec<SessionId>,
    /// It has said something of its own accord that may cross with what the gateway says.
    pub(super) wilful: bool,
}

impl LinkBackend {
    /// Everything that a well-behaved backend says to what has come.
    pub(super) fn answer(&mut self, len: usize) -> Vec<u8> {
        let mut said = Vec::new();
        if !self.upgraded {
            let Some(head) = head_len(&self.unread) else { return said };
            let head: Vec<u8> = self.unread.drain(..head).collect();
            let text = String::from_utf8_lossy(&head);
            let (_, key) = text.split_once("Sec-WebSocket-Key: ").expect("an upgrade has a key");
            let key = key.as_bytes().first_chunk().expect("24 characters");
            let mut room = [0; ACCEPT_BYTES_MAX];
            let len = accept(key, Some(SUBPROTOCOL), &mut room);
            said.extend_from_slice(&room[..len]);
            self.upgraded = true;
            let hello = br#"{"version":1,"credit":{"messages":4,"bytes":2000}}"#;
            said.extend(message(Kind::Hello, 0, SessionId(0), hello));
        }
        while let Some(frame) = Frame::cut(&mut self.unread) {
            assert!(frame.masked && frame.fin, "frames of a client are masked");
            self.read(&frame, len, &mut said);
        }
        said
    }

    fn read(&mut self, frame: &Frame, len: usize, said: &mut Vec<u8>) {
        match frame.opcode {
            BINARY => {}
            PING => return said.extend(server_frame(OpCode::Pong, &frame.payload)),
            CLOSE => return said.extend(server_frame(OpCode::Close, &frame.payload)),
            PONG => return,
            other => panic!("a gateway sends no {other:x} on a link"),
        }
        let Ok((prefix, body)) = Prefix::parse(&frame.payload) else {
            panic!("a link message has a prefix");
        };
        match prefix.kind {
            Kind::Open => {
                assert!(self.wilful || !self.open.contains(&prefix.session), "opened once");
                self.open.push(prefix.session);
            }
            Kind::Close => {
                assert!(self.wilful || self.open.contains(&prefix.session), "closed once");
                self.open.retain(|open| *open != prefix.session);
            }
            Kind::Data => {
                let open = self.open.contains(&prefix.session);
                assert!(self.wilful || open, "data is of an open session");
                assert!(frame.payload.len() >= body + 16, "data has a header");
                let bytes = frame.payload.len() - body;
                if prefix.tag == 0 {
                    let grant = format!(r#"{{"messages":1,"bytes":{bytes}}}"#);
                    said.extend(message(Kind::Credit, 0, prefix.session, grant.as_bytes()));
                } else {
                    let mut answer = vec![0; 16 + len];
                    answer[0] = Flags::RESPONSE.0;
                    answer[16..].fill(ANSWER);
                    said.extend(message(Kind::Data, prefix.tag, prefix.session, &answer));
                }
            }
            Kind::Hello | Kind::Credit | Kind::GoAway => {}
        }
    }

    /// An event, or an RPC, for one of its sessions.
    pub(super) fn push(&self, session: u8, flags: u8, len: usize) -> Vec<u8> {
        let Some(session) = self.open.get(usize::from(session) % self.open.len().max(1)) else {
            return Vec::new();
        };
        let header = RequestHeader {
            flags: Flags(flags),
            channel: 0,
            sequence: 0,
            guid: Guid::NULL,
            message_id: len as u64,
        };
        let frame = [&header.to_bytes()[..], &vec![ANSWER; len]].concat();
        message(Kind::Data, 0, *session, &frame)
    }

    /// A message of this kind about one of its sessions.
    pub(super) fn about(&mut self, kind: Kind, session: u8, body: &[u8]) -> Vec<u8> {
        let at = usize::from(session) % self.open.len().max(1);
        let Some(&session) = self.open.get(at) else { return Vec::new() };
        if kind == Kind::Close {
            self.wilful = true;
            self.open.remove(at);
        }
        message(kind, 0, session, body)
    }
}

fn message(kind: Kind, tag: u32, session: SessionId, body: &[u8]) -> Vec<u8> {
    let prefix = Prefix { kind, endpoint: NO_ENDPOINT, tag, session };
    server_frame(OpCode::Binary, &[&prefix.to_bytes(None)[..], body].concat())
}

pub(super) fn server_frame(opcode: OpCode, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; server_header_len(payload.len())];
    write_server_header(&mut frame, opcode, payload.len());
    frame.extend_from_slice(payload);
    frame
}

const TEXT: u8 = OpCode::Text as u8;
const BINARY: u8 = OpCode::Binary as u8;
const CLOSE: u8 = OpCode::Close as u8;
const PING: u8 = OpCode::Ping as u8;
const PONG: u8 = OpCode::Pong as u8;

/// A frame of the shard's, unmasked.
struct Frame {
    fin: bool,
    masked: bool,
    opcode: u8,
    payload: Vec<u8>,
}

impl Frame {
    /// Takes the first whole frame.
    fn cut(bytes: &mut Vec<u8>) -> Option<Self> {
        let [first, second, ..] = bytes[..] else { return None };
        assert_eq!(first & 0x70, 0, "nothing was negotiated: {first:x}");
        let (len, mut at) = match second & 0x7F {
            126 => (usize::from(u16::from_be_bytes(*bytes[2..].first_chunk()?)), 4),
            127 => (u64::from_be_bytes(*bytes[2..].first_chunk()?) as usize, 10),
            short => (usize::from(short), 2),
        };
        assert!(len < 1 << 20, "a frame as long as {len} was never asked for");
        let masked = second & 0x80 != 0;
        let mut mask = [0; 4];
        if masked {
            mask = *bytes[at..].first_chunk()?;
            at += 4;
        }
        let payload = bytes.get(at..at + len)?.iter().zip(mask.iter().cycle());
        let payload = payload.map(|(byte, key)| byte ^ key).collect();
        bytes.drain(..at + len);
        Some(Self { fin: first & 0x80 != 0, masked, opcode: first & 0x0F, payload })
    }
}

/// Length of the head that `bytes` begin with, once it is whole.
fn head_len(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|end| end == b"\r\n\r\n").map(|at| at + 4)
}
