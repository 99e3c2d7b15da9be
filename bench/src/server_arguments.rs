//! How every server of this package is told where to listen and run, and says so.
#![expect(clippy::print_stdout, reason = "whoever started the server reads where it listens")]

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use clap::Args;
use socket2::{Domain, Protocol, Socket, Type};

use crate::cpu_time;

/// Flattened into the arguments of a server.
#[derive(Args)]
pub struct ServerArguments {
    /// TCP port to listen on; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Processor to run on; without it the scheduler decides
    #[arg(long)]
    cpu: Option<usize>,
}

impl ServerArguments {
    /// Moves this thread to its processor and listens on 127.0.0.1, with `Type::STREAM` or
    /// `Type::STREAM.nonblocking()`. What it accepts sends small messages at once.
    pub fn listen(&self, kind: Type) -> io::Result<Socket> {
        if let Some(cpu) = self.cpu {
            cpu_time::pin_to(cpu)?;
        }
        let socket = Socket::new(Domain::IPV4, kind, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_tcp_nodelay(true)?; // inherited by what it accepts
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)).into())?;
        socket.listen(4096)?;
        let address = socket.local_addr()?.as_socket();
        println!("listening on {}", address.expect("bound to an IPv4 address"));
        Ok(socket)
    }
}
