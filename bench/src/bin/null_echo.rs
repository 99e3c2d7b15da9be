//! The server that a load generator is measured against: it upgrades any WebSocket and sends each
//! client frame back unmasked, with as little work as that takes. One thread, one epoll, one `recv`
//! and one `send` for each connection and turn. It checks nothing; a connection whose send does not
//! fit is closed.
#![expect(clippy::print_stdout, reason = "a command line program")]

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Parser;
use corelane_bench::cpu_time;
use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send};
use sha1::{Digest, Sha1};
use socket2::{Domain, Protocol, Socket, Type};

/// Echoes WebSocket messages on 127.0.0.1 with one thread.
#[derive(Parser)]
struct Arguments {
    /// TCP port to listen on; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Processor to run on; without it the scheduler decides
    #[arg(long)]
    cpu: Option<usize>,
}

const LISTENER: u64 = u64::MAX;
const BUFFER_BYTES: usize = 256 << 10;
/// RFC 6455, section 1.3
const MAGIC: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    if let Some(cpu) = arguments.cpu {
        cpu_time::pin_to(cpu)?;
    }
    let listener = listen(arguments.port)?;
    let address = listener.local_addr()?.as_socket();
    println!("listening on {}", address.expect("bound to an IPv4 address"));
    NullEcho {
        epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
        listener,
        connections: Vec::new(),
        free: Vec::new(),
        buffer: vec![0; BUFFER_BYTES],
        out: Vec::with_capacity(BUFFER_BYTES),
    }
    .run()
}

fn listen(port: u16) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?; // inherited by what it accepts
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
    socket.listen(4096)?;
    Ok(socket)
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
            let used = upgrade(bytes, &mut self.out).unwrap_or(0);
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
    const CLOSE: u8 = 0x88;
    let mut used = 0;
    while let Some(&[first, second]) = bytes[used..].first_chunk() {
        let (header, length) = match second & 0x7f {
            126 => match bytes[used + 2..].first_chunk() {
                Some(length) => (4, usize::from(u16::from_be_bytes(*length))),
                None => break,
            },
            127 => match bytes[used + 2..].first_chunk() {
                Some(length) => (10, u64::from_be_bytes(*length) as usize),
                None => break,
            },
            short => (2, usize::from(short)),
        };
        let end = used + header + 4 + length;
        if end > bytes.len() {
            break;
        }
        if first == CLOSE {
            return Err(Over);
        }
        let (head, frame) = bytes[used..end].split_at_mut(header);
        let (key, payload) = frame.split_at_mut(4);
        let key = [key[0], key[1], key[2], key[3]];
        let wide =
            u64::from_ne_bytes([key[0], key[1], key[2], key[3], key[0], key[1], key[2], key[3]]);
        let (words, rest) = payload.as_chunks_mut::<8>();
        for word in words {
            *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
        }
        for (byte, key) in rest.iter_mut().zip(key) {
            *byte ^= key;
        }
        for (byte, key) in rest.iter_mut().skip(4).zip(key) {
            *byte ^= key;
        }
        head[1] &= 0x7f;
        out.extend_from_slice(head);
        out.extend_from_slice(payload);
        used = end;
    }
    Ok(used)
}

/// Appends the 101 to the request at the start of `bytes`; says how long the request is.
fn upgrade(bytes: &[u8], out: &mut Vec<u8>) -> Option<usize> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = str::from_utf8(&bytes[..end]).ok()?;
    let key = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("sec-websocket-key").then(|| value.trim())
    })?;
    let accept = STANDARD.encode(Sha1::new().chain_update(key).chain_update(MAGIC).finalize());
    out.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
          Sec-WebSocket-Accept: ",
    );
    out.extend_from_slice(accept.as_bytes());
    out.extend_from_slice(b"\r\n\r\n");
    Some(end + 4)
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

    #[test]
    fn the_upgrade_has_the_answer_of_the_rfc() {
        let mut out = Vec::new();
        let request = b"GET / HTTP/1.1\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n\x81";
        assert_eq!(upgrade(request, &mut out), Some(request.len() - 1));
        assert!(String::from_utf8(out).unwrap().contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        assert_eq!(upgrade(b"GET / HTTP/1.1\r\n", &mut Vec::new()), None);
    }
}
