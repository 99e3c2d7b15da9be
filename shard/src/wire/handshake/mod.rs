//! The opening handshake, server side (RFC 6455 §4.2): bytes of a request head in, the request or
//! a [`Refusal`] out, and the bytes of the answer.
//!
//! Nothing here knows paths, tokens' contents or capacity: who calls decides in the order of the
//! door (path, method, capacity, origin, credential) and asks each question when its turn has
//! come. One request per connection: every answer but the 101 closes it.

mod credential;
pub(crate) mod head;
mod refusal;
mod request;
mod request_line;
mod response;
#[cfg(test)]
mod tests;

pub use credential::SUBPROTOCOL;
pub use head::Fields;
pub use refusal::{Malformed, REFUSAL_BYTES_MAX, Refusal};
pub use request::{Credential, HeadLimits, Parsed, Request, Upgrade, parse, resume};
pub use request_line::Target;
pub use response::{
    ACCEPT_BYTES_MAX, HEALTH_BYTES_MAX, Health, SUBPROTOCOL_BYTES_MAX, accept, health_response,
};
