//! One bad client: what it sends next, and how it learns of its end.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Socket, Type};

use super::Persona;
use super::tally::End;
use crate::wire::frame::{self, Opcode};
use crate::wire::handshake::{self, Address};

/// What a slow reader leaves to its own side of the connection.
const NARROW: usize = 4 << 10;
/// What it asks for at a time.
const ASKED: usize = 16 << 10;
/// How long it goes on asking without being taken from, before it reads how it ended.
const STUCK: Duration = Duration::from_secs(2);
const BYTE_EVERY: Duration = Duration::from_secs(1);

pub(super) enum Progress {
    Goes,
    Ended(End),
}

pub(super) struct Connection {
    persona: Persona,
    stream: TcpStream,
    request: Vec<u8>,
    stage: Stage,
    /// What the kernel has not taken yet.
    unsent: Vec<u8>,
    received: Vec<u8>,
    /// When the kernel last took something.
    moved: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// So many bytes of the request are sent.
    Asking(usize),
    Open {
        begun: bool,
    },
    /// Sends nothing more, and reads to the end.
    Listening,
}

impl Connection {
    pub(super) fn open(persona: Persona, address: &Address) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address.socket), Type::STREAM, None)?;
        if persona == Persona::SlowReader {
            socket.set_recv_buffer_size(NARROW)?;
        }
        socket.set_tcp_nodelay(true)?;
        socket.connect(&address.socket.into())?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            persona,
            stream: socket.into(),
            request: handshake::request(&address.authority, &address.path, ""),
            stage: Stage::Asking(0),
            unsent: Vec::new(),
            received: Vec::new(),
            moved: Instant::now(),
        })
    }

    pub(super) fn persona(&self) -> Persona {
        self.persona
    }

    /// Reads, unless that is what it is bad at, and sends as much as `budget` allows in frames.
    pub(super) fn go_on(&mut self, now: Instant, budget: &mut f64) -> Progress {
        let reads = !matches!((self.persona, self.stage), (Persona::SlowReader, Stage::Open { .. }));
        if reads && self.read() {
            return Progress::Ended(self.end());
        }
        match self.stage {
            Stage::Asking(sent) => self.ask(sent, now),
            Stage::Open { begun } => self.misbehave(begun, now, budget),
            Stage::Listening => Ok(()),
        }
        .unwrap_or_else(|_gone| self.stage = Stage::Listening);
        Progress::Goes
    }

    fn ask(&mut self, sent: usize, now: Instant) -> io::Result<()> {
        let due = match self.persona {
            Persona::OneByte if now < self.moved + BYTE_EVERY => return Ok(()),
            Persona::OneByte => sent + 1,
            Persona::SlowReader | Persona::Flooder | Persona::Fragmenter => self.request.len(),
        };
        // A request is far smaller than what the kernel takes at once.
        self.stream.write_all(&self.request[sent..due.min(self.request.len())])?;
        self.moved = now;
        self.stage = Stage::Asking(due.min(self.request.len()));
        if let Ok(Some(len)) = handshake::check_answer(&self.received) {
            self.received.drain(..len);
            self.stage = Stage::Open { begun: false };
        }
        Ok(())
    }

    fn misbehave(&mut self, mut begun: bool, now: Instant, budget: &mut f64) -> io::Result<()> {
        while *budget >= 1.0 {
            if !self.push(now)? {
                break;
            }
            *budget -= 1.0;
            let key = [7; 4];
            match self.persona {
                Persona::SlowReader => {
                    frame::encode(Opcode::Binary, &[0; ASKED], key, &mut self.unsent);
                }
                Persona::Flooder => frame::encode(Opcode::Ping, b"!", key, &mut self.unsent),
                Persona::Fragmenter | Persona::OneByte => {
                    let opcode = if begun { Opcode::Continuation } else { Opcode::Binary };
                    frame::encode(opcode, b"!", key, &mut self.unsent);
                    // Not the last.
                    let first = self.unsent.len() - 7;
                    self.unsent[first] &= 0x7f;
                }
            }
            begun = true;
            self.stage = Stage::Open { begun };
        }
        self.push(now)?;
        if self.persona == Persona::SlowReader && begun && now > self.moved + STUCK {
            self.stage = Stage::Listening;
        }
        Ok(())
    }

    /// Whether the kernel has taken everything.
    fn push(&mut self, now: Instant) -> io::Result<bool> {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(taken) => {
                    self.unsent.drain(..taken);
                    self.moved = now;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Says whether the server has ended the connection.
    fn read(&mut self) -> bool {
        let mut buffer = [0; 16 << 10];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return true,
                Ok(len) => {
                    self.received.extend_from_slice(&buffer[..len]);
                    self.forget_messages();
                }
                Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
            }
        }
    }

    /// Keeps only what may be the last word.
    fn forget_messages(&mut self) {
        if matches!(self.stage, Stage::Asking(_)) {
            return;
        }
        while let Ok(Some(frame)) = frame::decode(&self.received)
            && frame.opcode != Opcode::Close
        {
            let len = frame.len;
            self.received.drain(..len);
        }
    }

    fn end(&self) -> End {
        if matches!(self.stage, Stage::Asking(_)) {
            return match handshake::check_answer(&self.received) {
                Err(handshake::Refusal::Status(status)) => End::Status(status),
                _ => End::Silent,
            };
        }
        match frame::decode(&self.received) {
            Ok(Some(frame)) => match frame::close_code(frame.payload) {
                Ok(Some(code)) => End::Close(code),
                _ => End::Silent,
            },
            _ => End::Silent,
        }
    }
}

/// Until one of them can be read, at most for `pause`.
pub(super) fn wait(clients: &[Connection], pause: Duration) -> io::Result<()> {
    let readable = |client: &Connection| {
        // What a slow reader does not read is always there.
        !matches!((client.persona, client.stage), (Persona::SlowReader, Stage::Open { .. }))
    };
    let mut waiting: Vec<_> = clients
        .iter()
        .filter(|client| readable(client))
        .map(|client| PollFd::new(&client.stream, PollFlags::IN))
        .collect();
    let pause = Timespec { tv_sec: 0, tv_nsec: i64::from(pause.subsec_nanos()) };
    poll(&mut waiting, Some(&pause))?;
    Ok(())
}
