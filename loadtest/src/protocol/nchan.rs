//! nchan's `nchan_pubsub`: what a connection sends to its path is published to everybody on that
//! path, itself included. Where the path forwards to an upstream, what is published is the
//! upstream's answer, and each connection has a path of its own.

use super::{Dialect, Incoming, Seat, Upgrade};
use crate::scenario::Traffic;
use crate::wire::frame::Opcode;

#[derive(Debug)]
pub(crate) struct Nchan {
    calls: bool,
}

impl Dialect for Nchan {
    const OPCODE: Opcode = Opcode::Binary;
    const HEARS_ITSELF: bool = true;

    fn new(seat: &Seat<'_>) -> Self {
        Self { calls: matches!(seat.scenario.traffic, Traffic::Call { .. }) }
    }

    fn upgrade(&self, path: &str, seat: &Seat<'_>) -> Upgrade {
        Upgrade { path: format!("{path}{}", seat.group), fields: String::new() }
    }

    fn greet(&mut self, _seat: &Seat<'_>, _out: &mut Vec<u8>) -> bool {
        true
    }

    fn around(&self, _sequence: u64) -> usize {
        0
    }

    fn put_before(&self, _sequence: u64, _out: &mut Vec<u8>) {}

    fn put_after(&self, _out: &mut Vec<u8>) {}

    fn take(
        &mut self,
        message: &[u8],
        _opcode: Opcode,
        each: &mut impl FnMut(Incoming<'_>),
    ) -> Result<(), String> {
        each(match self.calls {
            true => Incoming::Answer { sequence: None, payload: message },
            false => Incoming::Payload(message),
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::sample::{heard, scenario, seat};
    use crate::scenario::Reply;

    #[test]
    fn the_path_is_the_room() {
        let scenario = scenario(Traffic::Broadcast { members: 3 });
        let mut seat = seat(&scenario);
        seat.group = 4;
        let mut nchan = Nchan::new(&seat);
        assert_eq!(nchan.upgrade("/room/", &seat).path, "/room/4");
        assert_eq!(heard(&mut nchan, b"ab"), ["Payload \"ab\""]);
    }

    #[test]
    fn what_a_call_hears_is_its_answer() {
        let scenario =
            scenario(Traffic::Call { endpoints: Vec::new(), reply: Reply::Any, channels: 1 });
        let mut nchan = Nchan::new(&seat(&scenario));
        assert_eq!(heard(&mut nchan, b"ab"), ["Answer None \"ab\""]);
    }
}
