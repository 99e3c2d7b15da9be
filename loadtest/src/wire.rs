//! What goes over the wire below any protocol of the payload: TLS, the opening handshake, frames,
//! and the gateway's two headers. Sans-IO; the sockets are in `run`.

pub(crate) mod envelope;
pub(crate) mod frame;
pub(crate) mod handshake;
pub(crate) mod tls;
