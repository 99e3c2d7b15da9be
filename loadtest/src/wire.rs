//! What goes over the wire below any protocol of the payload: TLS, the opening handshake, frames,
//! and the gateway's two headers and events. Sans-IO; the sockets are in `run`.

pub(crate) mod envelope;
pub(crate) mod event;
pub(crate) mod frame;
pub(crate) mod handshake;
pub(crate) mod tls;
