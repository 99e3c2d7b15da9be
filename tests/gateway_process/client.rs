//! A WebSocket client that can misbehave: bytes are written as the test says, frames are read as
//! they come. Knows RFC 6455 and the 31- and 16-byte headers, and shares no code with the gateway.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::SockRef;

pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

/// One frame from the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) opcode: u8,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// Of a close frame.
    pub(crate) fn close_code(&self) -> Option<u16> {
        let code = self.payload.first_chunk().filter(|_| self.opcode == CLOSE)?;
        Some(u16::from_be_bytes(*code))
    }

    /// Message id and code of an answer to a request.
    pub(crate) fn answer(&self) -> Option<(u64, u8)> {
        let is_answer = self.opcode == BINARY && self.payload.first()? & 0x40 != 0;
        let id = self.payload.get(7..15).filter(|_| is_answer)?;
        Some((u64::from_be_bytes(id.try_into().ok()?), *self.payload.get(15)?))
    }
}

/// A connection, from the first byte on.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    /// Bytes that were read and not consumed.
    read: Vec<u8>,
}

impl Client {
    /// Says nothing yet.
    pub(crate) fn connect(to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).unwrap_or_else(|error| panic!("{to}: {error}"));
        stream.set_nodelay(true).expect("a fresh socket takes options");
        Self { stream, read: Vec::new() }
    }

    /// The whole way in: request, then [`Self::accepted`].
    pub(crate) fn session(to: SocketAddr, token: &str, within: Duration) -> Self {
        let mut client = Self::connect(to);
        client.send(upgrade_request(token).as_bytes());
        client.accepted(within);
        client
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the gateway takes what it is sent");
    }

    /// As [`Self::send`], for connections that the gateway may have ended.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Waits for the 101.
    pub(crate) fn accepted(&mut self, within: Duration) {
        let head = self.head(within);
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    }

    /// Waits for the head of an answer.
    pub(crate) fn head(&mut self, within: Duration) -> String {
        let deadline = Instant::now() + within;
        loop {
            if let Some(at) = self.read.windows(4).position(|end| end == b"\r\n\r\n") {
                let head: Vec<u8> = self.read.drain(..at + 4).collect();
                return String::from_utf8_lossy(&head).into_owned();
            }
            let so_far = String::from_utf8_lossy(&self.read).into_owned();
            let more = self.read_more(deadline).unwrap_or_else(|error| panic!("{error}: {so_far}"));
            assert!(more > 0, "ended in the head: {so_far:?}");
        }
    }

    /// Everything until the gateway ends the connection, by whatever means.
    pub(crate) fn until_end(mut self, within: Duration) -> Vec<u8> {
        let deadline = Instant::now() + within;
        loop {
            match self.read_more(deadline) {
                Ok(0) => return self.read,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return self.read,
                Err(error) => panic!("the connection does not end: {error}"),
            }
        }
    }

    /// The next frame; `None` when the gateway has ended the connection instead.
    pub(crate) fn frame(&mut self, deadline: Instant) -> io::Result<Option<Frame>> {
        loop {
            if let Some((frame, len)) = parse(&self.read) {
                self.read.drain(..len);
                return Ok(Some(frame));
            }
            match self.read_more(deadline) {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// The first frame that `find` makes something of.
    pub(crate) fn find<T>(
        &mut self,
        what: &str,
        within: Duration,
        mut find: impl FnMut(&Frame) -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + within;
        let mut others = 0;
        loop {
            let frame = self.frame(deadline);
            let frame = frame
                .unwrap_or_else(|error| panic!("{what}: {error}, after {others} other frames"));
            let Some(frame) = frame else {
                panic!("the connection ended before {what}, after {others} others");
            };
            if let Some(found) = find(&frame) {
                return found;
            }
            others += 1;
        }
    }

    /// The GUID of an endpoint, from the manifest, which is yet to come.
    pub(crate) fn guid_of(&mut self, endpoint: &str, within: Duration) -> [u8; 16] {
        self.find("the manifest", within, |frame| {
            let body = frame.payload.get(31..)?;
            let manifest: serde_json::Value = serde_json::from_slice(body).ok()?;
            let apis = manifest.get("availableApis")?.as_array()?;
            let api = apis.iter().find(|api| api["endpoint"] == endpoint)?;
            Some(uuid::Uuid::parse_str(api["serviceId"].as_str()?).ok()?.into_bytes())
        })
    }

    /// FIN behind what was sent; the other direction stays open.
    pub(crate) fn finish_sending(&self) {
        self.stream.shutdown(Shutdown::Write).expect("an open socket can be shut down");
    }

    /// FIN behind what was sent; what was not read is lost.
    pub(crate) fn finish(self) {}

    /// A reset instead of a FIN.
    pub(crate) fn reset(self) {
        let linger = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        linger.expect("an open socket takes options");
    }

    fn read_more(&mut self, deadline: Instant) -> io::Result<usize> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(ErrorKind::TimedOut, "not in time"));
        }
        self.stream.set_read_timeout(Some(left))?;
        let mut bytes = [0; 4096];
        let len = self.stream.read(&mut bytes)?;
        self.read.extend_from_slice(&bytes[..len]);
        Ok(len)
    }
}

/// A head that asks for a session with its token.
pub(crate) fn upgrade_request(token: &str) -> String {
    request_with(&format!("Bearer {token}"))
}

/// A head that asks for a session that was open, with its reconnect token.
pub(crate) fn resume_request(token: &str) -> String {
    request_with(&format!("Reconnect {token}"))
}

fn request_with(credential: &str) -> String {
    format!(
        "GET /connect HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Authorization: {credential}\r\n\r\n"
    )
}

/// A whole masked frame.
pub(crate) fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        len @ 0..=125 => frame.push(0x80 | len as u8),
        len @ 126..=0xFFFF => {
            frame.push(0x80 | 126);
            frame.extend((len as u16).to_be_bytes());
        }
        len => {
            frame.push(0x80 | 127);
            frame.extend((len as u64).to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// A request on channel 0 with its 31-byte header.
pub(crate) fn request(guid: [u8; 16], message_id: u64, payload: &[u8]) -> Vec<u8> {
    let mut message = vec![0; 7];
    message.extend(guid);
    message.extend(message_id.to_be_bytes());
    message.extend(payload);
    message
}

fn parse(bytes: &[u8]) -> Option<(Frame, usize)> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    let (at, len) = match second & 0x7F {
        126 => (4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
        127 => (10, u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize),
        len => (2, usize::from(len)),
    };
    let payload = bytes.get(at..at + len)?.to_vec();
    Some((Frame { opcode: first & 0x0F, payload }, at + len))
}
