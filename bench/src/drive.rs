//! A closed-loop driver: a fixed number of connections, a fixed number of messages in flight on
//! each, every reply answered by the next request. One thread, one io_uring, one shared request
//! and one shared reply, so that it costs less than any server it measures.

use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use corelane_bench::cpu_time::{self, MachineTime, ThreadTime};
use corelane_bench::net_ring::{Completion, NetRing, Socket};

use crate::exchange::{ReplyCursor, Target};

/// What to drive, and for how long.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) target: Target,
    pub(crate) connections: usize,
    /// Messages in flight on each connection.
    pub(crate) in_flight: u32,
    pub(crate) payload_bytes: usize,
    pub(crate) warm_up: Duration,
    pub(crate) duration: Duration,
}

/// What was seen between warm-up and end.
#[derive(Clone, Debug)]
pub(crate) struct Measurement {
    pub(crate) messages: u64,
    pub(crate) elapsed: Duration,
    /// Per server thread; empty when the server's process was not named.
    pub(crate) server: Vec<ThreadTime>,
    /// Of the whole driver process.
    pub(crate) driver: Duration,
    pub(crate) machine: MachineTime,
}

impl Measurement {
    pub(crate) fn messages_per_second(&self) -> f64 {
        self.messages as f64 / self.elapsed.as_secs_f64()
    }

    /// The part of one processor that `time` is.
    pub(crate) fn share(&self, time: Duration) -> f64 {
        time.as_secs_f64() / self.elapsed.as_secs_f64()
    }

    pub(crate) fn micros_per_message(&self, time: Duration) -> f64 {
        time.as_secs_f64() * 1e6 / self.messages as f64
    }

    pub(crate) fn server_total(&self) -> Duration {
        self.server.iter().map(|t| t.on_cpu).sum()
    }

    /// The one thread whose name contains `name`; without a name, the busiest.
    pub(crate) fn server_thread(&self, name: Option<&str>) -> Option<&ThreadTime> {
        self.server
            .iter()
            .filter(|t| name.is_none_or(|name| t.name.contains(name)))
            .max_by_key(|t| t.on_cpu)
    }

    /// Processor time that neither the driver nor the server used.
    pub(crate) fn foreign(&self) -> Duration {
        self.machine.busy.saturating_sub(self.driver + self.server_total())
    }
}

const RECEIVE: u64 = 1 << 32;
const SEND: u64 = 2 << 32;
const HEARTBEAT: u64 = 3 << 32;
const HEARTBEAT_MS: u32 = 50;
/// Without a single reply for this long the run is over.
const SILENCE: Duration = Duration::from_secs(5);

struct Connection {
    stream: TcpStream,
    cursor: ReplyCursor,
}

/// Runs `load` and measures the process `server` meanwhile.
pub(crate) fn run(load: &Load, server: Option<u32>) -> io::Result<Measurement> {
    let payload: Vec<u8> = (0..load.payload_bytes).map(|i| (i * 31 + 7) as u8).collect();
    let request = load.target.request(&payload);
    // As many requests behind each other as are in flight on a connection.
    let requests = request.repeat(load.in_flight as usize);
    let mut driver = Driver {
        request_bytes: request.len(),
        reply: load.target.reply(&payload),
        connections: Vec::with_capacity(load.connections),
        ring: NetRing::new(0, requests.into_boxed_slice())?,
        spent: Vec::with_capacity(1024),
        starved: Vec::with_capacity(64),
        messages: 0,
    };
    driver.open(load)?;
    driver.turn_until(Instant::now() + load.warm_up)?;
    let started = Instant::now();
    let before = Sample::take(server)?;
    let messages = driver.messages;
    driver.turn_until(started + load.duration)?;
    let after = Sample::take(server)?;
    Ok(Measurement {
        messages: driver.messages - messages,
        elapsed: started.elapsed(),
        server: cpu_time::difference(&before.server, &after.server),
        driver: sum(&after.driver).saturating_sub(sum(&before.driver)),
        machine: after.machine.since(before.machine),
    })
}

struct Sample {
    server: Vec<ThreadTime>,
    driver: Vec<ThreadTime>,
    machine: MachineTime,
}

impl Sample {
    fn take(server: Option<u32>) -> io::Result<Self> {
        Ok(Self {
            server: server.map_or_else(|| Ok(Vec::new()), cpu_time::threads)?,
            driver: cpu_time::threads(std::process::id())?,
            machine: MachineTime::sample()?,
        })
    }
}

fn sum(threads: &[ThreadTime]) -> Duration {
    threads.iter().map(|t| t.on_cpu).sum()
}

struct Driver {
    request_bytes: usize,
    reply: Vec<u8>,
    connections: Vec<Connection>,
    ring: NetRing,
    /// Buffers read in this turn.
    spent: Vec<u16>,
    /// Connections whose receive ended for want of a buffer.
    starved: Vec<usize>,
    messages: u64,
}

impl Driver {
    fn open(&mut self, load: &Load) -> io::Result<()> {
        for index in 0..load.connections {
            let stream = load.target.connect()?;
            let cursor = ReplyCursor::default();
            self.connections.push(Connection { stream, cursor });
            self.receive(index)?;
        }
        self.ring.start_heartbeat(HEARTBEAT_MS, HEARTBEAT)?;
        for index in 0..load.connections {
            self.send(index, load.in_flight)?;
        }
        Ok(())
    }

    /// One turn after the other until `deadline`.
    fn turn_until(&mut self, deadline: Instant) -> io::Result<()> {
        let mut completions: Vec<Completion> = Vec::with_capacity(1024);
        let mut last_reply = (self.messages, Instant::now());
        loop {
            let now = Instant::now();
            if now >= deadline {
                return Ok(());
            }
            if last_reply.0 != self.messages {
                last_reply = (self.messages, now);
            } else if now - last_reply.1 > SILENCE {
                return Err(io::Error::other("the server has stopped answering"));
            }
            self.ring.enter()?;
            self.ring.drain(&mut completions);
            for completion in completions.drain(..) {
                self.handle(completion)?;
            }
            self.ring.give_back(self.spent.drain(..));
            for index in std::mem::take(&mut self.starved) {
                self.receive(index)?;
            }
        }
    }

    fn handle(&mut self, completion: Completion) -> io::Result<()> {
        let index = completion.user_data as u32 as usize;
        match completion.user_data & !u64::from(u32::MAX) {
            RECEIVE => self.received(index, completion),
            SEND => Err(io::Error::other(format!(
                "the server takes less than it is sent (connection {index}, result {})",
                completion.result
            ))),
            _ => Ok(()),
        }
    }

    fn received(&mut self, index: usize, completion: Completion) -> io::Result<()> {
        if let (Some(id), Ok(len)) = (completion.buffer, usize::try_from(completion.result)) {
            self.spent.push(id);
            let bytes = self.ring.received(id, len);
            let cursor = &mut self.connections[index].cursor;
            let completed = cursor.advance(bytes, &self.reply).map_err(|unfaithful| {
                let at = unfaithful.offset;
                io::Error::other(format!("connection {index}: the reply differs at byte {at}"))
            })?;
            if completed > 0 {
                self.messages += u64::from(completed);
                self.send(index, completed)?;
            }
        }
        match completion.result {
            _ if completion.armed => Ok(()),
            1.. => self.receive(index),
            result if result == -libc::ENOBUFS => {
                self.starved.push(index);
                Ok(())
            }
            0 => Err(io::Error::other(format!("the server closed connection {index}"))),
            result => Err(io::Error::from_raw_os_error(-result)),
        }
    }

    fn receive(&mut self, index: usize) -> io::Result<()> {
        let socket = self.socket(index);
        self.ring.receive(socket, RECEIVE | index as u64)
    }

    /// `count` requests as one send.
    fn send(&mut self, index: usize, count: u32) -> io::Result<()> {
        let socket = self.socket(index);
        let len = self.request_bytes * count as usize;
        self.ring.send_request(socket, len, SEND | index as u64)
    }

    fn socket(&self, index: usize) -> Socket {
        Socket::Descriptor(self.connections[index].stream.as_raw_fd())
    }
}

#[cfg(test)]
mod tests;
