//! Towards the backends, sans-IO: HTTP/1.1 calls, multiplexed links, and who may be called.

pub mod breaker;
pub mod chunked;
pub mod http;
pub mod link;
pub mod placement;
pub mod trace;
