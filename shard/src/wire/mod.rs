//! Bytes of the client protocol, sans-IO: WebSocket frames and handshake, binary headers, GUIDs,
//! close and response codes. No clock, no socket, no allocation per message.

pub mod close;
pub mod code;
pub mod forwarded;
pub mod frame;
pub mod guid;
pub mod handshake;
pub mod header;
pub mod inbound;
pub mod mask;
pub mod meta;
pub mod proxy_protocol;
pub mod reconnect_token;
pub mod utf8;
