//! A WebSocket client with the protocol's headers, as small as a load generator wants it: what it
//! sends is made once and repeated, what it receives is walked and not kept.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

/// Key of every frame: unmasking is real work for the gateway, masking none for the test.
const MASK: [u8; 4] = [0x5a, 0x01, 0xfe, 0x33];

pub(crate) const FLAG_PEER: u8 = 0x20;
pub(crate) const FLAG_ANSWER: u8 = 0x40;

pub(crate) const REQUEST_HEADER: usize = 31;
pub(crate) const RESPONSE_HEADER: usize = 16;

/// One message of a client: its 31-byte header and payload in one masked frame.
pub(crate) fn request(flags: u8, channel: u16, guid: [u8; 16], payload: &[u8]) -> Vec<u8> {
    let mut message = vec![flags];
    message.extend(channel.to_be_bytes());
    message.extend([0; 4]);
    message.extend(guid);
    message.extend(7_u64.to_be_bytes());
    message.extend(payload);
    frame(0x82, &message)
}

/// One masked frame of a client; `first` is its first byte.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        short @ 0..=125 => frame.push(0x80 | short as u8),
        long => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(long).expect("test messages are short").to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

/// A session of the gateway under test.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    pub(crate) peer: [u8; 16],
    pub(crate) http: [u8; 16],
    pub(crate) link: [u8; 16],
    input: Input,
}

impl Client {
    /// Connects and waits for the manifest; afterwards the socket does not block.
    pub(crate) fn connect(address: SocketAddr, session: u128) -> Self {
        let mut stream = TcpStream::connect(address).expect("the gateway listens");
        stream.set_nodelay(true).expect("a TCP socket");
        let head = format!(
            "GET /connect HTTP/1.1\r\nHost: gateway.test\r\nUpgrade: websocket\r\nConnection: \
             Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: \
             dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Bearer {session}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).expect("the gateway reads");
        let mut input = Input::default();
        let head_len = loop {
            input.read(&mut stream);
            if let Some(at) = input.bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
        };
        assert!(input.bytes.starts_with(b"HTTP/1.1 101 "), "the upgrade is accepted");
        input.bytes.drain(..head_len);
        let mut manifest = Vec::new();
        while manifest.is_empty() {
            input.each_message(|message| manifest.extend(message));
            if manifest.is_empty() {
                input.read(&mut stream);
            }
        }
        stream.set_nonblocking(true).expect("a TCP socket");
        let manifest: Value =
            serde_json::from_slice(&manifest[REQUEST_HEADER..]).expect("a manifest is JSON");
        let api = |path: &str| {
            let apis = manifest["availableApis"].as_array().expect("a list of endpoints");
            let api = apis.iter().find(|api| api["endpoint"] == path).expect("it is granted");
            guid(&api["serviceId"])
        };
        Self {
            stream,
            peer: guid(&manifest["peerGuid"]),
            http: api(super::gateway::HTTP_PATH),
            link: api(super::gateway::LINK_PATH),
            input,
        }
    }

    /// Writes all of `bytes`; what a test has in flight fits the socket's buffer.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the socket's buffer has room");
    }

    /// Reads what is there and hands each whole message to `each`.
    pub(crate) fn receive(&mut self, each: impl FnMut(&[u8])) {
        self.input.read(&mut self.stream);
        self.input.each_message(each);
    }
}

fn guid(text: &Value) -> [u8; 16] {
    let digits: String = text.as_str().expect("a GUID").chars().filter(|c| *c != '-').collect();
    u128::from_str_radix(&digits, 16).expect("hexadecimal digits").to_be_bytes()
}

/// Bytes of a server that are no whole message yet.
#[derive(Default)]
pub(crate) struct Input {
    pub(crate) bytes: Vec<u8>,
}

impl Input {
    /// Reads once, as much as there is.
    pub(crate) fn read(&mut self, stream: &mut TcpStream) {
        let before = self.bytes.len();
        self.bytes.resize(before + (64 << 10), 0);
        let got = match stream.read(&mut self.bytes[before..]) {
            Ok(0) => panic!("the connection was closed"),
            Ok(got) => got,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => panic!("the connection is broken: {error}"),
        };
        self.bytes.truncate(before + got);
    }

    /// Hands on the payload of each whole unmasked data frame; control frames are passed over.
    fn each_message(&mut self, mut each: impl FnMut(&[u8])) {
        let mut at = 0;
        while let [first, second, rest @ ..] = &self.bytes[at..] {
            let (length, header) = match (second, rest) {
                (126, [high, low, ..]) => (usize::from(u16::from_be_bytes([*high, *low])), 4),
                (0..=125, _) => (usize::from(*second), 2),
                (126, _) => break,
                _ => panic!("no message of the gateway is that long, or it is masked"),
            };
            let Some(payload) = self.bytes.get(at + header..at + header + length) else { break };
            match first {
                0x82 => each(payload),
                0x89 | 0x8a => {}
                _ => panic!("unexpected frame: {first:#x} {payload:02x?}"),
            }
            at += header + length;
        }
        self.bytes.drain(..at);
    }
}
