//! Small servers on loopback for the tests, and scenarios to send at them. They speak WebSocket
//! with code of their own.
#![allow(
    dead_code,
    clippy::allow_attributes,
    clippy::unwrap_used,
    reason = "each test program uses a part; which one differs; a test may panic"
)]

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use corelane_loadtest::outcome::{Interval, Outcome};
use corelane_loadtest::run::{RunError, Surroundings, Watcher, run};
use corelane_loadtest::scenario::{
    Arrival, Connections, Generator, Protocol, Scenario, Target, Timing, Tls, Traffic, Validity,
};
use rustls::{ServerConfig, ServerConnection};

/// The answer to the one key that the harness sends.
pub(crate) const ACCEPTED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

pub(crate) const BINARY: u8 = 0x82;
pub(crate) const CLOSE: u8 = 0x88;
pub(crate) const PING: u8 = 0x89;
pub(crate) const PONG: u8 = 0x8a;

/// Accepts for ever; each connection is served on a thread of its own.
pub(crate) fn serve(each: impl Fn(Peer) + Send + Clone + 'static) -> SocketAddr {
    serve_by(None, each)
}

/// The same over TLS.
pub(crate) fn serve_tls(
    config: Arc<ServerConfig>,
    each: impl Fn(Peer) + Send + Clone + 'static,
) -> SocketAddr {
    serve_by(Some(config), each)
}

fn serve_by(
    tls: Option<Arc<ServerConfig>>,
    each: impl Fn(Peer) + Send + Clone + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let each = each.clone();
            let stream = stream.unwrap();
            stream.set_nodelay(true).unwrap();
            let tls = tls.clone().map(|config| Box::new(ServerConnection::new(config).unwrap()));
            let (path, received) = (String::new(), Vec::new());
            thread::spawn(move || each(Peer { stream, tls, path, received }));
        }
    });
    address
}

/// A client as a server sees it.
pub(crate) struct Peer {
    pub(crate) stream: TcpStream,
    pub(crate) tls: Option<Box<ServerConnection>>,
    pub(crate) path: String,
    received: Vec<u8>,
}

/// One unmasked message of a client: first byte of its frame, and payload.
pub(crate) type Message = (u8, Vec<u8>);

impl Peer {
    /// Reads the request; nothing if the client is gone.
    pub(crate) fn read_request(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.received.windows(4).position(|four| four == b"\r\n\r\n") {
                let head: Vec<u8> = self.received.drain(..end + 4).collect();
                let head = String::from_utf8(head).unwrap();
                self.path = head.split(' ').nth(1).unwrap().to_owned();
                return Some(head);
            }
            self.read_more()?;
        }
    }

    pub(crate) fn upgrade(&mut self) -> Option<()> {
        self.read_request()?;
        self.send(ACCEPTED.as_bytes())
    }

    /// All messages that are here; waits for the first.
    pub(crate) fn read_messages(&mut self) -> Option<Vec<Message>> {
        let mut messages = Vec::new();
        loop {
            let mut used = 0;
            while let Some((message, len)) = parse(&self.received[used..]) {
                used += len;
                messages.push(message);
            }
            self.received.drain(..used);
            if !messages.is_empty() {
                return Some(messages);
            }
            self.read_more()?;
        }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> Option<()> {
        match &mut self.tls {
            Some(tls) => rustls::Stream::new(&mut **tls, &mut self.stream).write_all(bytes).ok(),
            None => self.stream.write_all(bytes).ok(),
        }
    }

    fn read_more(&mut self) -> Option<()> {
        let mut chunk = [0; 16 << 10];
        let read = match &mut self.tls {
            Some(tls) => rustls::Stream::new(&mut **tls, &mut self.stream).read(&mut chunk),
            None => self.stream.read(&mut chunk),
        };
        match read {
            Ok(0) => None,
            Ok(len) => {
                self.received.extend_from_slice(&chunk[..len]);
                Some(())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Some(()),
            Err(_) => None,
        }
    }
}

/// The masked frame at the start of `bytes`, and its length.
pub(crate) fn parse(bytes: &[u8]) -> Option<(Message, usize)> {
    let (&[first, second], rest) = bytes.split_first_chunk()?;
    assert!(second & 0x80 != 0, "a client masks");
    let (length, header) = match second & 0x7f {
        126 => (usize::from(u16::from_be_bytes(*rest.first_chunk()?)), 4),
        127 => (u64::from_be_bytes(*rest.first_chunk()?) as usize, 10),
        short => (usize::from(short), 2),
    };
    let key = bytes.get(header..header + 4)?;
    let masked = bytes.get(header + 4..header + 4 + length)?;
    let payload = masked.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
    Some(((first, payload), header + 4 + length))
}

/// An unmasked frame.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        short @ 0..126 => bytes.push(short as u8),
        medium => {
            bytes.push(126);
            bytes.extend(u16::try_from(medium).unwrap().to_be_bytes());
        }
    }
    bytes.extend_from_slice(payload);
    bytes
}

/// Four connections in a closed loop for a second.
pub(crate) fn scenario(address: SocketAddr) -> Scenario {
    Scenario {
        name: "test".to_owned(),
        description: String::new(),
        target: Target {
            url: format!("ws://{address}/"),
            protocol: Protocol::Echo,
            admin_url: None,
            kafka: None,
        },
        tls: Tls::default(),
        traffic: Traffic::Echo,
        payload_bytes: 200,
        connections: Connections { count: 4, per_second: 0.0, opening: 4, sources: Vec::new() },
        arrival: Arrival::Closed { in_flight: 16 },
        timing: Timing {
            warm_up: Duration::from_millis(100),
            duration: Duration::from_millis(900),
            patience: Duration::from_millis(300),
            interval: Duration::from_millis(250),
        },
        generator: Generator { threads: 1, cpus: Vec::new(), seed: 1, first_sender: 0 },
        validity: Validity { lag_p99_max: Duration::from_millis(1), busy_max: 0.85 },
        thresholds: Vec::new(),
        search: None,
    }
}

/// Watches nothing.
pub(crate) struct Blind;

impl Watcher for Blind {
    fn opening(&mut self, _ready: u64, _wanted: u64) {}
    fn interval(&mut self, _interval: &Interval) {}
}

pub(crate) fn outcome_of(scenario: &Scenario) -> Outcome {
    run(scenario, &Surroundings::default(), &mut Blind).unwrap()
}

pub(crate) fn error_of(scenario: &Scenario) -> RunError {
    run(scenario, &Surroundings::default(), &mut Blind).unwrap_err()
}
