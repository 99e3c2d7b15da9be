//! What the fuzz targets check. Each target is a function of the fuzzer's bytes that panics when
//! something does not hold; `libfuzzer` runs them with new bytes, the tests with those in `corpus`.

mod frame;
mod handshake;
mod header;
mod http;
mod link;
mod message;
mod receiver;
mod session;
mod shard;
mod tls;

#[cfg(feature = "gateway")]
mod events;
#[cfg(feature = "gateway")]
mod token;

pub use frame::frame;
pub use handshake::handshake;
pub use header::header;
pub use http::http;
pub use link::link;
pub use message::message;
pub use session::session;
pub use shard::shard;
pub use tls::tls;

#[cfg(feature = "gateway")]
pub use events::events;
#[cfg(feature = "gateway")]
pub use token::token;

/// One target: its inputs are in the folder of this name.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    pub name: &'static str,
    pub check: fn(&[u8]),
}

pub const TARGETS: &[Target] = &[
    Target { name: "frame", check: frame },
    Target { name: "message", check: message },
    Target { name: "handshake", check: handshake },
    Target { name: "header", check: header },
    Target { name: "session", check: session },
    Target { name: "http", check: http },
    Target { name: "link", check: link },
    Target { name: "shard", check: shard },
    Target { name: "tls", check: tls },
    #[cfg(feature = "gateway")]
    Target { name: "events", check: events },
    #[cfg(feature = "gateway")]
    Target { name: "token", check: token },
];
