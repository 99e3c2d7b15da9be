//! What a message's payload says of itself: who sent it, its number, when it was meant to go and
//! when it went. Printable and quoted, so that it is a JSON string for backends that insist on one.

/// Bytes of the shortest payload.
pub const LEN: usize = 48;
