//! Sockets as the sending threads want them: not blocking, without Nagle's delay, from a chosen
//! source address, and reset on demand.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fd::AsFd;
use rustix::io::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// A socket that is being connected to `target`, and whether it is connected already.
pub(crate) fn connect(target: SocketAddr, source: Option<IpAddr>) -> io::Result<(OwnedFd, bool)> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(target), kind, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    if let Some(source) = source {
        late_port::choose_port_late(&socket)?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    let connected = match socket.connect(&target.into()) {
        Ok(()) => true,
        Err(error) if error.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => false,
        Err(error) => return Err(error),
    };
    Ok((socket.into(), connected))
}

/// Makes the close of `socket` a reset: nothing stays behind on either side.
pub(crate) fn reset_on_close(socket: impl AsFd) {
    // A socket that is gone already needs no reset.
    drop(SockRef::from(&socket.as_fd()).set_linger(Some(Duration::ZERO)));
}

/// The kind of an error of a socket, in words.
pub(crate) fn kind_of(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "reset".to_owned(),
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::TimedOut => "timed out".to_owned(),
        io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse => {
            "no local port is free".to_owned()
        }
        _ => error.to_string(),
    }
}

/// Fenced: the one socket option that no safe interface has.
mod late_port {
    #![expect(unsafe_code, reason = "setsockopt takes a pointer to the option's value")]

    use std::io;
    use std::os::fd::AsRawFd;

    /// The port is chosen at `connect`, where the whole four-tuple counts: a source address has
    /// all its ports for each target, not once.
    pub(super) fn choose_port_late(socket: &impl AsRawFd) -> io::Result<()> {
        let on: libc::c_int = 1;
        // SAFETY: the pointer and the length are those of `on`, which outlives the call.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_IP,
                libc::IP_BIND_ADDRESS_NO_PORT,
                (&raw const on).cast(),
                size_of_val(&on) as libc::socklen_t,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}
