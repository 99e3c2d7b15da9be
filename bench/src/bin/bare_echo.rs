//! The yardstick: a bare io_uring loop that sends back every byte it receives. No WebSocket, no
//! session, no slow-consumer rule; a connection whose send does not fit is closed. What a gateway
//! costs per message is measured as a multiple of this.
#![expect(clippy::print_stdout, reason = "a command line program")]

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;

use clap::Parser;
use corelane_bench::cpu_time;
use corelane_bench::net_ring::{Completion, NetRing, Socket};
use socket2::{Domain, Protocol, Type};

/// Echoes bytes on 127.0.0.1 with one thread and one io_uring.
#[derive(Parser)]
struct Arguments {
    /// TCP port to listen on; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Processor to run on; without it the scheduler decides
    #[arg(long)]
    cpu: Option<usize>,
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
    EchoLoop {
        ring: NetRing::new(SLOTS, Box::default())?,
        listener: listener.as_raw_fd(),
        spent: Vec::with_capacity(1024),
        starved: Vec::with_capacity(64),
    }
    .run()
}

fn listen(port: u16) -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_tcp_nodelay(true)?; // inherited by what it accepts
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
    socket.listen(4096)?;
    Ok(socket)
}

struct EchoLoop {
    ring: NetRing,
    listener: i32,
    /// Buffers whose send was queued in this turn; free once the next enter has returned.
    spent: Vec<u16>,
    /// Slots whose receive ended because no buffer was left.
    starved: Vec<u32>,
}

impl EchoLoop {
    fn run(&mut self) -> io::Result<()> {
        let mut completions = Vec::with_capacity(1024);
        self.ring.accept(self.listener, ACCEPT)?;
        loop {
            self.ring.enter()?;
            self.ring.give_back(self.spent.drain(..));
            self.ring.drain(&mut completions);
            for completion in completions.drain(..) {
                self.handle(completion)?;
            }
            for slot in std::mem::take(&mut self.starved) {
                self.receive(slot)?;
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
            if len > 0 {
                let socket = Socket::Direct(slot);
                self.ring.send_received(socket, id, len, SEND | u64::from(slot))?;
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
            _ => self.ring.close(slot, END),
        }
    }

    fn receive(&mut self, slot: u32) -> io::Result<()> {
        let socket = Socket::Direct(slot);
        self.ring.receive(socket, RECEIVE | u64::from(slot))
    }
}
