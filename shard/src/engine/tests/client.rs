//! A WebSocket client of its own: small, blocking, and ignorant of the code that it tests.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

/// Nothing here takes longer than a fraction of this unless it is broken.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

pub(super) const TEXT: u8 = 1;
pub(super) const BINARY: u8 = 2;
pub(super) const CLOSE: u8 = 8;
pub(super) const PING: u8 = 9;
pub(super) const PONG: u8 = 10;

pub(super) const HEAD: &[u8] = b"GET /echo HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

pub(super) struct Client<S = TcpStream> {
    pub(super) stream: S,
}

/// A masked frame.
pub(super) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x5A, 0xC3, 0x17, payload.len() as u8];
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..126 => bytes.push(0x80 | len as u8),
        len @ 126..65_536 => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

pub(super) fn whole(opcode: u8, payload: &[u8]) -> Vec<u8> {
    frame(0x80 | opcode, payload)
}

impl Client {
    pub(super) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream }
    }

    /// One that takes little while it does not read. With less still, TCP probes its window in
    /// steps of 200 ms.
    pub(super) fn connect_narrow(address: SocketAddr) -> Self {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(8 << 10).unwrap();
        socket.connect(&address.into()).unwrap();
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream }
    }

    pub(super) fn open(address: SocketAddr) -> Self {
        let mut client = Self::connect(address);
        client.upgrade(&[]);
        client
    }

    pub(super) fn open_narrow(address: SocketAddr) -> Self {
        let mut client = Self::connect_narrow(address);
        client.upgrade(&[]);
        client
    }

    /// Ends the connection with a reset.
    pub(super) fn reset(self) {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
}

impl<S: Read + Write> Client<S> {
    /// Asks for the echo route, with `early` right behind the request.
    pub(super) fn upgrade(&mut self, early: &[u8]) {
        self.ask(early);
        self.read_answer();
    }

    pub(super) fn ask(&mut self, early: &[u8]) {
        self.write(&[HEAD, early].concat());
    }

    pub(super) fn read_answer(&mut self) {
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.extend_from_slice(&self.read::<1>());
        }
        assert!(answer.starts_with(b"HTTP/1.1 101 "));
    }

    pub(super) fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub(super) fn send(&mut self, opcode: u8, payload: &[u8]) {
        self.write(&whole(opcode, payload));
    }

    /// Sends `payload` in `pieces` frames, with a Ping in the midst of them.
    pub(super) fn send_in_pieces(&mut self, opcode: u8, payload: &[u8], pieces: usize) {
        let mut bytes = frame(opcode, &[]);
        for piece in payload.chunks((payload.len() / pieces).max(1)) {
            bytes.extend_from_slice(&frame(0, piece));
        }
        bytes.extend_from_slice(&whole(PING, b"in between"));
        bytes.extend_from_slice(&frame(0x80, &[]));
        self.write(&bytes);
    }

    /// The next frame: opcode and payload.
    pub(super) fn next(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut start = [0; 2];
        self.stream.read_exact(&mut start)?;
        assert!(start[0] & 0xF0 == 0x80, "whole frames only: {start:?}");
        let len = match start[1] {
            len @ 0..126 => usize::from(len),
            126 => usize::from(u16::from_be_bytes(self.read())),
            127 => u64::from_be_bytes(self.read()) as usize,
            _ => panic!("a server does not mask"),
        };
        let mut payload = vec![0; len];
        self.stream.read_exact(&mut payload)?;
        Ok((start[0] & 0x0F, payload))
    }

    /// The next message; Pongs are passed over.
    pub(super) fn message(&mut self) -> (u8, Vec<u8>) {
        loop {
            let (opcode, payload) = self.next().unwrap();
            if opcode == PONG {
                assert_eq!(payload, b"in between");
            } else {
                return (opcode, payload);
            }
        }
    }

    pub(super) fn echo(&mut self, payload: &[u8]) {
        self.send(BINARY, payload);
        let (opcode, echo) = self.message();
        assert!(opcode == BINARY && echo == payload, "{} bytes", payload.len());
    }

    /// Everything up to the server's FIN.
    pub(super) fn rest(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.stream.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn read<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }
}
