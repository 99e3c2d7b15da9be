//! The gateway: composition, and everything outside the forwarding loop.

pub mod auth;
pub mod control;
pub mod host;
pub mod lifecycle;
