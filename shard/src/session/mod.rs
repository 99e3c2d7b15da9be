//! One session's rules, sans-IO: what a message means, what it may do, in which order answers
//! leave. Returns verdicts; moves no payload.

pub mod calls;
pub mod capability;
mod client_ack;
pub mod fingerprints;
pub mod guid_index;
pub mod hello;
pub mod json;
pub mod liveness;
pub mod manifest;
pub mod message_id;
pub mod notices;
pub mod peer_ack;
pub mod rate;
pub mod receipts;
pub mod routing;
pub mod rpc;
pub mod shortcuts;
pub mod verdict;

#[cfg(test)]
pub(crate) mod fixtures;
