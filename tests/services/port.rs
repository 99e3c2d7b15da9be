//! Ports for services that keep theirs when they are started again.

use std::net::TcpListener;

/// Below those that the kernel gives to outgoing connections: one of these could be given to a
/// client that dials it in vain, who would then have reached itself.
const FIRST: u16 = 16_000;
const END: u16 = 32_000;

/// A port of loopback that nobody listens on, which may change before it is used.
pub(crate) fn free() -> u16 {
    let mut candidates = std::iter::repeat_with(|| fastrand::u16(FIRST..END)).take(1000);
    candidates
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("one of a thousand ports is free")
}
