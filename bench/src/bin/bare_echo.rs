//! The yardstick: a bare io_uring loop that sends back every byte it receives. No WebSocket, no
//! session, no slow-consumer rule; a connection whose send does not fit is closed. What a gateway
//! costs per message is measured as a multiple of this.

use std::io;

use clap::Parser;
use corelane_bench::net_ring::{NetRing, Socket};
use corelane_bench::server_arguments::ServerArguments;
use corelane_bench::slots::{self, Over, SlotServer};
use socket2::Type;

/// Echoes bytes on 127.0.0.1 with one thread and one io_uring.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
}

fn main() -> io::Result<()> {
    let listener = Arguments::parse().server.listen(Type::STREAM)?;
    slots::serve(&listener, BareEcho)
}

struct BareEcho;

impl SlotServer for BareEcho {
    fn received(
        &mut self,
        ring: &mut NetRing,
        slot: u32,
        id: u16,
        len: usize,
    ) -> io::Result<Result<(), Over>> {
        ring.send_received(Socket::Direct(slot), id, len, slots::send_tag(slot))?;
        Ok(Ok(()))
    }
}
