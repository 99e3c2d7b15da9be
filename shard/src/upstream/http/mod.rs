//! HTTP/1.1 towards one backend (RFC 9112): heads of requests, and the reader of responses.
//!
//! One call at a time on a connection, which is kept alive between calls. Which connection, which
//! retry and which response code follow from a status is decided elsewhere.

mod body;
mod framing;
mod request;
mod response;
#[cfg(test)]
mod tests;

pub use request::{HeadError, RequestHead};
pub use response::{Body, Eof, HttpError, Progress, ResponseLimits, ResponseReader, Reuse};
