//! One session's rules, sans-IO: what a message means, what it may do, in which order answers
//! leave. Returns verdicts; moves no payload.

pub mod calls;
pub mod capability;
pub mod liveness;
pub mod manifest;
pub mod rate;
pub mod routing;
