//! A server that sends each binary message back as it came, or stamped messages of its own.

use super::{Dialect, Incoming, Seat, Upgrade};
use crate::wire::frame::Opcode;

#[derive(Debug)]
pub(crate) struct Echo;

impl Dialect for Echo {
    const OPCODE: Opcode = Opcode::Binary;

    fn new(_seat: &Seat<'_>) -> Self {
        Self
    }

    fn upgrade(&self, path: &str, _seat: &Seat<'_>) -> Upgrade {
        Upgrade { path: path.to_owned(), fields: String::new() }
    }

    fn greet(&mut self, _seat: &Seat<'_>, _out: &mut Vec<u8>) -> bool {
        true
    }

    #[inline]
    fn around(&self, _sequence: u64) -> usize {
        0
    }

    #[inline]
    fn put_before(&self, _sequence: u64, _out: &mut Vec<u8>) {}

    #[inline]
    fn put_after(&self, _out: &mut Vec<u8>) {}

    #[inline]
    fn take(
        &mut self,
        message: &[u8],
        opcode: Opcode,
        each: &mut impl FnMut(Incoming<'_>),
    ) -> Result<(), String> {
        match opcode {
            Opcode::Binary => each(Incoming::Payload(message)),
            _ => each(Incoming::Wrong("echo: a binary message came back as text")),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_is_the_payload() {
        let mut heard = Vec::new();
        Echo.take(b"abc", Opcode::Binary, &mut |incoming| heard.push(format!("{incoming:?}")))
            .unwrap();
        assert_eq!(heard, [format!("{:?}", Incoming::Payload(b"abc"))]);
    }
}
