//! A host that is gone, as its clients see it: whoever dials it hears nothing.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

pub(crate) struct Deaf {
    pub(crate) address: SocketAddr,
    _listener: Socket,
    _first: TcpStream,
}

impl Deaf {
    pub(crate) fn new() -> Self {
        // Its backlog has room for one, who has come already.
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
        listener.listen(0).expect("it is bound");
        let address = listener.local_addr().ok().and_then(|it| it.as_socket());
        let address = address.expect("it is bound");
        let first = TcpStream::connect(address).expect("there is room for one");
        let second = TcpStream::connect_timeout(&address, Duration::from_millis(100));
        assert!(second.is_err(), "there is room for two");
        Self { address, _listener: listener, _first: first }
    }
}
