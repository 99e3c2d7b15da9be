//! The server that a load generator is measured against: it upgrades any WebSocket and sends each
//! client frame back unmasked, with as little work as that takes. One thread, one epoll, one `recv`
//! and one `send` for each connection and turn. It checks nothing; a connection whose send does not
//! fit is closed.

use std::io;
use std::os::fd::OwnedFd;

use clap::Parser;
use corelane_bench::server_arguments::ServerArguments;
use corelane_bench::websocket::{self, Malformed};
use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send};
use socket2::{Socket, Type};

/// Echoes WebSocket messages on 127.0.0.1 with one thread.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
}

const LISTENER: u64 = u64::MAX;
const BUFFER_BYTES: usize = 256 << 10;

fn main() -> io::Result<()> {
    NullEcho {
        listener: Arguments::parse().server.listen(Type::STREAM.nonblocking())?,
        epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
        connections: Vec::new(),
        free: Vec::new(),
        buffer: vec![0; BUFFER_BYTES],
        out: Vec::with_capacity(BUFFER_BYTES),
    }
    .run()
}

struct Connection {
    socket: OwnedFd,
    upgraded: bool,
    /// Received, but no whole frame yet.
    carry: Vec<u8>,
}

struct NullEcho {
    epoll: OwnedFd,
    listener: Socket,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    buffer: Vec<u8>,
    out: Vec<u8>,
}

/// The connection is of no further use.
struct Over;

impl From<Errno> for Over {
    fn from(_: Errno) -> Self {
        Self
    }
}

impl From<Malformed> for Over {
    fn from(_: Malformed) -> Self {
        Self
    }
}

impl NullEcho {
    fn run(&mut self) -> io::Result<()> {
        let data = epoll::EventData::new_u64(LISTENER);
        epoll::add(&self.epoll, &self.listener, data, epoll::EventFlags::IN)?;
        let mut events = Vec::with_capacity(512);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                match event.data.u64() {
                    LISTENER => self.accept_all()?,
                    at => {
                        if self.serve(at as usize).is_err() {
                            self.connections[at as usize] = None;
                            self.free.push(at as usize);
                        }
                    }
                }
            }
        }
    }

    fn accept_all(&mut self) -> io::Result<()> {
        loop {
            let socket = match accept_with(&self.listener, SocketFlags::NONBLOCK) {
                Ok(socket) => socket,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::CONNABORTED | Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let at = self.free.pop().unwrap_or(self.connections.len());
            if at == self.connections.len() {
                self.connections.push(None);
            }
            let data = epoll::EventData::new_u64(at as u64);
            epoll::add(&self.epoll, &socket, data, epoll::EventFlags::IN)?;
            self.connections[at] = Some(Connection { socket, upgraded: false, carry: Vec::new() });
        }
    }

    fn serve(&mut self, at: usize) -> Result<(), Over> {
        let Some(connection) = &mut self.connections[at] else {
            return Ok(());
        };
        let carried = connection.carry.len();
        if carried + BUFFER_BYTES / 2 > self.buffer.len() {
            self.buffer.resize(carried + BUFFER_BYTES, 0);
        }
        self.buffer[..carried].copy_from_slice(&connection.carry);
        let received =
            match recv(&connection.socket, &mut self.buffer[carried..], RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Err(Over),
                Ok((received, _)) => received,
                Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
        let bytes = &mut self.buffer[..carried + received];
        self.out.clear();
        let used = if connection.upgraded {
            echo(bytes, &mut self.out)?
        } else {
            let used = upgrade(bytes, &mut self.out)?;
            connection.upgraded = used > 0;
            used + echo_if(connection.upgraded, &mut bytes[used..], &mut self.out)?
        };
        connection.carry.clear();
        connection.carry.extend_from_slice(&self.buffer[used..carried + received]);
        if self.out.is_empty() {
            return Ok(());
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match send(&connection.socket, &self.out, flags) {
            Ok(sent) if sent == self.out.len() => Ok(()),
            _ => Err(Over),
        }
    }
}

fn echo_if(upgraded: bool, bytes: &mut [u8], out: &mut Vec<u8>) -> Result<usize, Over> {
    if upgraded { echo(bytes, out) } else { Ok(0) }
}

/// Appends every whole frame of `bytes` to `out`, unmasked; says how many bytes they were. A close
/// frame ends the connection.
fn echo(bytes: &mut [u8], out: &mut Vec<u8>) -> Result<usize, Over> {
    let mut used = 0;
    while let Some(frame) = websocket::parse_frame(&bytes[used..])? {
        if frame.opcode == websocket::CLOSE {
            return Err(Over);
        }
        let end = used + frame.payload.end;
        let payload = &mut bytes[used + frame.payload.start..end];
        websocket::apply_mask(payload, frame.mask);
        websocket::write_header(out, frame.opcode, payload.len());
        out.extend_from_slice(payload);
        used = end;
    }
    Ok(used)
}

/// Appends the 101 to the request at the start of `bytes`; says how long the request is, 0 while it
/// is not whole.
fn upgrade(bytes: &[u8], out: &mut Vec<u8>) -> Result<usize, Over> {
    let Some(upgrade) = websocket::parse_upgrade(bytes)? else { return Ok(0) };
    out.extend_from_slice(upgrade.answer(None).as_bytes());
    Ok(upgrade.len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_unmasked_at_any_split() {
        // RFC 6455 section 5.7, twice
        let masked = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58].repeat(2);
        for split in 0..=masked.len() {
            let mut out = Vec::new();
            let mut carry = masked[..split].to_vec();
            let Ok(used) = echo(&mut carry, &mut out) else { panic!("over") };
            let mut rest = [&masked[used..split], &masked[split..]].concat();
            let Ok(more) = echo(&mut rest, &mut out) else { panic!("over") };
            assert_eq!((used + more, out), (masked.len(), b"\x81\x05Hello\x81\x05Hello".to_vec()));
        }
    }
}
