//! The socket of one life: what the life wants sent goes out as the kernel takes it, and what it
//! wants read comes in.

use std::io;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::budget::Budget;
use super::life::Life;
use super::{End, Persona};
use crate::wire::handshake::{self, Address};

const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// What the kernel keeps for a slow reader.
const RECEIVE_BYTES: usize = 64 << 10;

pub(super) struct Connection {
    stream: TcpStream,
    life: Life,
    /// What the kernel has not taken yet.
    unsent: Vec<u8>,
}

impl Connection {
    pub(super) fn open(
        persona: Persona,
        address: &Address,
        token: &str,
        now: Instant,
    ) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address.socket, CONNECT_WITHIN)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        if persona == Persona::SlowReader {
            // Else the kernel may take ever more for one that does not read.
            SockRef::from(&stream).set_recv_buffer_size(RECEIVE_BYTES)?;
        }
        let bearer = format!("Authorization: Bearer {token}\r\n");
        let request = handshake::request(&address.authority, &address.path, &bearer);
        Ok(Self { stream, life: Life::new(persona, request, now), unsent: Vec::new() })
    }

    /// Reads, unless that is what it is bad at, and sends at most `most` messages; says how the
    /// server has ended it, once it has.
    pub(super) fn go_on(&mut self, now: Instant, most: usize, budget: &mut Budget) -> Option<End> {
        if self.life.reads()
            && let Some(end) = self.read()
        {
            return Some(end);
        }
        if self.write(now, most, budget).is_err() {
            // Why that is so may still be there to be read.
            self.life.listen();
        }
        None
    }

    fn write(&mut self, now: Instant, most: usize, budget: &mut Budget) -> io::Result<()> {
        for _ in 0..most {
            if !self.push()? || !self.life.is_due(now) {
                return Ok(());
            }
            // A whole request is no message: nobody is to be late with it for want of a budget.
            if !self.life.is_asking() && !budget.take() {
                return Ok(());
            }
            self.life.send(now, &mut self.unsent);
        }
        self.push().map(|_all| ())
    }

    /// Whether the kernel has taken everything.
    fn push(&mut self) -> io::Result<bool> {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(taken) => drop(self.unsent.drain(..taken)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn read(&mut self) -> Option<End> {
        let mut buffer = [0; 16 << 10];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Some(End::Silent),
                Ok(len) => {
                    let end = self.life.hear(&buffer[..len]);
                    // One that becomes a slow reader by what it has heard reads no further.
                    if end.is_some() || !self.life.reads() {
                        return end;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Some(End::Silent),
            }
        }
    }
}
