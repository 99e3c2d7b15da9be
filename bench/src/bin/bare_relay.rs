//! The yardstick for messages between clients: a bare io_uring loop that sends each frame, unmasked,
//! to the other connections of its room, which is the path they connected to. No session, no
//! routing, no acknowledgement, no slow-consumer rule. What a gateway costs per delivery is
//! measured as a multiple of this.

use std::collections::HashMap;
use std::io;

use clap::{Parser, ValueEnum};
use corelane_bench::net_ring::{NetRing, Socket};
use corelane_bench::server_arguments::ServerArguments;
use corelane_bench::slots::{self, Over, SLOTS, SlotServer};
use corelane_bench::websocket::{self, Malformed};
use socket2::Type;

/// Relays WebSocket messages on 127.0.0.1 with one thread and one io_uring.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
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

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    let listener = arguments.server.listen(Type::STREAM)?;
    let mut connections = Vec::new();
    connections.resize_with(SLOTS as usize, Connection::default);
    let relay = BareRelay {
        deliver: arguments.deliver,
        sends: arguments.sends,
        connections,
        rooms: Rooms::default(),
        unsent: Vec::with_capacity(1024),
    };
    slots::serve(&listener, relay)
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

struct BareRelay {
    deliver: Deliver,
    sends: Sends,
    connections: Vec<Connection>,
    rooms: Rooms,
    /// Connections with something in `out`.
    unsent: Vec<u32>,
}

impl SlotServer for BareRelay {
    fn received(
        &mut self,
        ring: &mut NetRing,
        slot: u32,
        id: u16,
        len: usize,
    ) -> io::Result<Result<(), Over>> {
        Ok(self.read(ring, slot, id, len).map_err(|Malformed| Over))
    }

    fn gone(&mut self, slot: u32) {
        let connection = std::mem::take(&mut self.connections[slot as usize]);
        if let Some(room) = connection.room {
            self.rooms.leave(room, slot);
        }
    }

    fn turn_ends(&mut self, ring: &mut NetRing) -> io::Result<()> {
        for slot in std::mem::take(&mut self.unsent) {
            self.flush(ring, slot)?;
        }
        Ok(())
    }
}

impl BareRelay {
    /// Takes the messages of the first `len` bytes of buffer `id`.
    fn read(
        &mut self,
        ring: &mut NetRing,
        slot: u32,
        id: u16,
        len: usize,
    ) -> Result<(), Malformed> {
        let connection = &mut self.connections[slot as usize];
        let mut whole = std::mem::take(&mut connection.begun);
        whole.extend(ring.received(id, len));
        let mut at = 0;
        if self.connections[slot as usize].room.is_none() {
            let Some(upgrade) = websocket::parse_upgrade(&whole)? else {
                self.connections[slot as usize].begun = whole;
                return Ok(());
            };
            at = upgrade.len;
            let room = self.rooms.join(&upgrade.path, slot);
            self.connections[slot as usize].room = Some(room);
            self.queue(ring, slot, |out| out.extend(upgrade.answer(None).as_bytes()));
        }
        while let Some(frame) = websocket::parse_frame(&whole[at..])? {
            let payload = &mut whole[at + frame.payload.start..at + frame.payload.end];
            websocket::apply_mask(payload, frame.mask);
            match frame.opcode {
                websocket::TEXT | websocket::BINARY => {
                    self.relay(ring, slot, frame.opcode, payload);
                }
                websocket::PING => self.queue_frame(ring, slot, websocket::PONG, payload),
                websocket::PONG => {}
                _ => return Err(Malformed),
            }
            at += frame.payload.end;
        }
        whole.drain(..at);
        self.connections[slot as usize].begun = whole;
        Ok(())
    }

    fn relay(&mut self, ring: &mut NetRing, from: u32, opcode: u8, payload: &[u8]) {
        if self.deliver == Deliver::Sender {
            self.queue_frame(ring, from, opcode, payload);
            return;
        }
        let Some(room) = self.connections[from as usize].room else { return };
        for index in 0..self.rooms.members[room].len() {
            let member = self.rooms.members[room][index];
            if member != from {
                self.queue_frame(ring, member, opcode, payload);
            }
        }
    }

    fn queue_frame(&mut self, ring: &mut NetRing, slot: u32, opcode: u8, payload: &[u8]) {
        self.queue(ring, slot, |out| {
            websocket::write_header(out, opcode, payload.len());
            out.extend(payload);
        });
        if self.sends == Sends::PerMessage {
            // A failure to submit shows at the next enter.
            let _sent = self.flush(ring, slot);
        }
    }

    fn queue(&mut self, ring: &mut NetRing, slot: u32, write: impl FnOnce(&mut Vec<u8>)) {
        let out = &mut self.connections[slot as usize].out;
        if out.is_empty() {
            if out.capacity() == 0 {
                *out = ring.take_block();
            }
            self.unsent.push(slot);
        }
        write(out);
    }

    fn flush(&mut self, ring: &mut NetRing, slot: u32) -> io::Result<()> {
        let out = std::mem::take(&mut self.connections[slot as usize].out);
        if out.is_empty() {
            return Ok(());
        }
        ring.send(Socket::Direct(slot), out, slots::send_tag(slot))
    }
}
