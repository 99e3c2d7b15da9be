//! The yardstick for messages between clients: a bare io_uring loop that sends each frame, unmasked,
//! to the other connections of its room, which is the path they connected to. No session, no
//! routing, no acknowledgement, no slow-consumer rule. What a gateway costs per delivery is
//! measured as a multiple of this.
#![expect(clippy::print_stdout, reason = "a command line program")]

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;

use clap::{Parser, ValueEnum};
use corelane_bench::cpu_time;
use corelane_bench::net_ring::{Completion, NetRing, Socket};
use corelane_bench::websocket::{self, Malformed};
use socket2::{Domain, Protocol, Type};

/// Relays WebSocket messages on 127.0.0.1 with one thread and one io_uring.
#[derive(Parser)]
struct Arguments {
    /// TCP port to listen on; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Processor to run on; without it the scheduler decides
    #[arg(long)]
    cpu: Option<usize>,
    /// Who gets a message
    #[arg(long, value_enum, default_value_t = Deliver::Others)]
    deliver: Deliver,
    /// When a connection's messages are sent
    #[arg(long, value_enum, default_value_t = Sends::PerTurn)]
    sends: Sends,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Deliver {
    /// The others of the room
    Others,
    /// Its sender alone
    Sender,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Sends {
    /// All of a turn of the loop in one send
    PerTurn,
    /// Each in a send of its own
    PerMessage,
}

/// Connections at a time; each takes a slot of the ring's descriptor table.
const SLOTS: u32 = 16_384;

/// What a completion belongs to: the operation in the high half of the user data, the slot in the
/// low half.
const ACCEPT: u64 = 1 << 32;
const RECEIVE: u64 = 2 << 32;
const SEND: u64 = 3 << 32;
const END: u64 = 4 << 32;

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    if let Some(cpu) = arguments.cpu {
        cpu_time::pin_to(cpu)?;
    }
    let listener = listen(arguments.port)?;
    let address = listener.local_addr()?.as_socket();
    println!("listening on {}", address.expect("bound to an IPv4 address"));
    let mut connections = Vec::new();
    connections.resize_with(SLOTS as usize, Connection::default);
    RelayLoop {
        ring: NetRing::new(SLOTS, Box::default())?,
        listener: listener.as_raw_fd(),
        deliver: arguments.deliver,
        sends: arguments.sends,
        connections,
        rooms: Rooms::default(),
        unsent: Vec::with_capacity(1024),
        spent: Vec::with_capacity(1024),
        starved: Vec::with_capacity(64),
    }
    .run()
}

fn listen(port: u16) -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?; // inherited by what it accepts
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
    socket.listen(4096)?;
    Ok(socket)
}

/// A slot of the ring's table.
#[derive(Default)]
struct Connection {
    room: Option<usize>,
    /// The start of a head or frame whose end has not come.
    begun: Vec<u8>,
    /// What goes out at the end of this turn.
    out: Vec<u8>,
}

/// Who is in which room, by path.
#[derive(Default)]
struct Rooms {
    by_path: HashMap<String, usize>,
    members: Vec<Vec<u32>>,
}

impl Rooms {
    fn join(&mut self, path: &str, slot: u32) -> usize {
        let room = *self.by_path.entry(path.to_owned()).or_insert_with(|| {
            self.members.push(Vec::new());
            self.members.len() - 1
        });
        self.members[room].push(slot);
        room
    }

    fn leave(&mut self, room: usize, slot: u32) {
        self.members[room].retain(|member| *member != slot);
    }
}

struct RelayLoop {
    ring: NetRing,
    listener: i32,
    deliver: Deliver,
    sends: Sends,
    connections: Vec<Connection>,
    rooms: Rooms,
    /// Connections with something in `out`.
    unsent: Vec<u32>,
    /// Buffers read in this turn.
    spent: Vec<u16>,
    /// Slots whose receive ended because no buffer was left.
    starved: Vec<u32>,
}

impl RelayLoop {
    fn run(&mut self) -> io::Result<()> {
        let mut completions = Vec::with_capacity(1024);
        self.ring.accept(self.listener, ACCEPT)?;
        loop {
            self.ring.enter()?;
            self.ring.drain(&mut completions);
            for completion in completions.drain(..) {
                self.handle(completion)?;
            }
            self.ring.give_back(self.spent.drain(..));
            for slot in std::mem::take(&mut self.starved) {
                self.receive(slot)?;
            }
            for slot in std::mem::take(&mut self.unsent) {
                self.flush(slot)?;
            }
        }
    }

    fn handle(&mut self, completion: Completion) -> io::Result<()> {
        let slot = completion.user_data as u32;
        match completion.user_data & !u64::from(u32::MAX) {
            ACCEPT => {
                if let Ok(slot) = u32::try_from(completion.result) {
                    self.receive(slot)?;
                }
                if !completion.armed {
                    self.ring.accept(self.listener, ACCEPT)?;
                }
            }
            RECEIVE => self.received(slot, completion)?,
            // Only a failed or partial send gets here: the stream has a hole and ends. Its receive
            // completes next and closes the slot, so that a slot is closed once.
            SEND => self.ring.shut_down(slot, END)?,
            _ => {}
        }
        Ok(())
    }

    fn received(&mut self, slot: u32, completion: Completion) -> io::Result<()> {
        if let (Some(id), Ok(len)) = (completion.buffer, usize::try_from(completion.result)) {
            self.spent.push(id);
            if self.read(slot, id, len).is_err() {
                self.ring.shut_down(slot, END)?;
            }
        }
        if completion.armed {
            return Ok(());
        }
        match completion.result {
            1.. => self.receive(slot),
            result if result == -libc::ENOBUFS => {
                self.starved.push(slot);
                Ok(())
            }
            _ => {
                let connection = std::mem::take(&mut self.connections[slot as usize]);
                if let Some(room) = connection.room {
                    self.rooms.leave(room, slot);
                }
                self.ring.close(slot, END)
            }
        }
    }

    /// Takes the messages of the first `len` bytes of buffer `id`.
    fn read(&mut self, slot: u32, id: u16, len: usize) -> Result<(), Malformed> {
        let connection = &mut self.connections[slot as usize];
        let mut whole = std::mem::take(&mut connection.begun);
        whole.extend(self.ring.received(id, len));
        let mut at = 0;
        if self.connections[slot as usize].room.is_none() {
            let Some(upgrade) = websocket::parse_upgrade(&whole)? else {
                self.connections[slot as usize].begun = whole;
                return Ok(());
            };
            at = upgrade.len;
            let room = self.rooms.join(&upgrade.path, slot);
            self.connections[slot as usize].room = Some(room);
            self.queue(slot, |out| out.extend(upgrade.answer(None).as_bytes()));
        }
        while let Some(frame) = websocket::parse_frame(&whole[at..])? {
            let payload = &mut whole[at + frame.payload.start..at + frame.payload.end];
            websocket::apply_mask(payload, frame.mask);
            match frame.opcode {
                websocket::TEXT | websocket::BINARY => self.relay(slot, frame.opcode, payload),
                websocket::PING => self.queue_frame(slot, websocket::PONG, payload),
                websocket::PONG => {}
                _ => return Err(Malformed),
            }
            at += frame.payload.end;
        }
        whole.drain(..at);
        self.connections[slot as usize].begun = whole;
        Ok(())
    }

    fn relay(&mut self, from: u32, opcode: u8, payload: &[u8]) {
        if self.deliver == Deliver::Sender {
            self.queue_frame(from, opcode, payload);
            return;
        }
        let Some(room) = self.connections[from as usize].room else { return };
        for index in 0..self.rooms.members[room].len() {
            let member = self.rooms.members[room][index];
            if member != from {
                self.queue_frame(member, opcode, payload);
            }
        }
    }

    fn queue_frame(&mut self, slot: u32, opcode: u8, payload: &[u8]) {
        self.queue(slot, |out| {
            websocket::write_header(out, opcode, payload.len());
            out.extend(payload);
        });
        if self.sends == Sends::PerMessage {
            // A failure to submit shows at the next enter.
            let _sent = self.flush(slot);
        }
    }

    fn queue(&mut self, slot: u32, write: impl FnOnce(&mut Vec<u8>)) {
        let out = &mut self.connections[slot as usize].out;
        if out.is_empty() {
            if out.capacity() == 0 {
                *out = self.ring.take_block();
            }
            self.unsent.push(slot);
        }
        write(out);
    }

    fn flush(&mut self, slot: u32) -> io::Result<()> {
        let out = std::mem::take(&mut self.connections[slot as usize].out);
        if out.is_empty() {
            return Ok(());
        }
        self.ring.send(Socket::Direct(slot), out, SEND | u64::from(slot))
    }

    fn receive(&mut self, slot: u32) -> io::Result<()> {
        let socket = Socket::Direct(slot);
        self.ring.receive(socket, RECEIVE | u64::from(slot))
    }
}
