//! NATS over WebSocket: the lines of the NATS client protocol, in binary messages whose borders
//! mean nothing. A room is a subject; so is the address of each of a pair.

use super::{Dialect, Incoming, Seat, Upgrade};
use crate::scenario::Traffic;
use crate::wire::frame::Opcode;

/// Longer control lines are no NATS.
const LINE_BYTES_MAX: usize = 64 << 10;

#[derive(Debug)]
pub(crate) struct Nats {
    /// `PUB subject bytes`, with its line end.
    publish: Vec<u8>,
    /// A line or message that is not complete yet.
    rest: Vec<u8>,
    ready: bool,
}

impl Dialect for Nats {
    const OPCODE: Opcode = Opcode::Binary;

    fn new(seat: &Seat<'_>) -> Self {
        let (bytes, target) = (seat.scenario.payload_bytes, Self::target(seat));
        let publish = format!("PUB {target} {bytes}\r\n").into_bytes();
        Self { publish, rest: Vec::new(), ready: false }
    }

    fn upgrade(&self, path: &str, _seat: &Seat<'_>) -> Upgrade {
        Upgrade { path: path.to_owned(), fields: String::new() }
    }

    /// The PONG to the PING comes after the subscription is in force.
    fn greet(&mut self, seat: &Seat<'_>, out: &mut Vec<u8>) -> bool {
        out.extend_from_slice(b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\n");
        let subject = match seat.scenario.traffic {
            Traffic::Broadcast { .. } if seat.sends => None,
            Traffic::Broadcast { .. } => Some(format!("room.{}", seat.group)),
            _ => Some(format!("to.{}", seat.number)),
        };
        if let Some(subject) = subject {
            out.extend_from_slice(format!("SUB {subject} 1\r\n").as_bytes());
        }
        out.extend_from_slice(b"PING\r\n");
        false
    }

    fn around(&self, _sequence: u64) -> usize {
        self.publish.len() + 2
    }

    fn put_before(&self, _sequence: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.publish);
    }

    fn put_after(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"\r\n");
    }

    fn take(
        &mut self,
        message: &[u8],
        _opcode: Opcode,
        each: &mut impl FnMut(Incoming<'_>),
    ) -> Result<(), String> {
        if self.rest.is_empty() {
            let used = take_all(message, &mut self.ready, each)?;
            self.rest.extend_from_slice(&message[used..]);
            return Ok(());
        }
        self.rest.extend_from_slice(message);
        let used = take_all(&self.rest, &mut self.ready, each)?;
        self.rest.drain(..used);
        Ok(())
    }
}

impl Nats {
    fn target(seat: &Seat<'_>) -> String {
        match seat.scenario.traffic {
            Traffic::Broadcast { .. } => format!("room.{}", seat.group),
            Traffic::Peer { .. } => format!("to.{}", seat.partner),
            _ => format!("to.{}", seat.number),
        }
    }
}

/// Takes every complete operation of `bytes`; says how many bytes they were.
fn take_all(
    bytes: &[u8],
    ready: &mut bool,
    each: &mut impl FnMut(Incoming<'_>),
) -> Result<usize, String> {
    let mut used = 0;
    while let Some(len) = take_one(&bytes[used..], ready, each)? {
        used += len;
    }
    Ok(used)
}

/// Takes the operation at the start of `bytes`; nothing if it is not complete.
fn take_one(
    bytes: &[u8],
    ready: &mut bool,
    each: &mut impl FnMut(Incoming<'_>),
) -> Result<Option<usize>, String> {
    let Some(end) = bytes.iter().position(|&byte| byte == b'\n') else {
        return if bytes.len() > LINE_BYTES_MAX {
            Err("nats: a line without an end".to_owned())
        } else {
            Ok(None)
        };
    };
    let line = bytes[..end].strip_suffix(b"\r").ok_or("nats: a line that ends in LF alone")?;
    let after = end + 1;
    if let Some(arguments) = line.strip_prefix(b"MSG ") {
        let length = arguments.rsplit(|&byte| byte == b' ').next().and_then(parse_length);
        let length = length.ok_or("nats: MSG without a length")?;
        let Some(payload) = bytes.get(after..after + length + 2) else {
            return Ok(None);
        };
        let payload = payload.strip_suffix(b"\r\n").ok_or("nats: MSG of another length")?;
        each(Incoming::Payload(payload));
        return Ok(Some(after + length + 2));
    }
    match line {
        b"PING" => each(Incoming::SendBack(b"PONG\r\n")),
        b"PONG" if !*ready => {
            *ready = true;
            each(Incoming::Ready);
        }
        b"PONG" | b"+OK" => {}
        info if info.starts_with(b"INFO ") => {}
        error if error.starts_with(b"-ERR") => {
            return Err(format!("nats: {}", String::from_utf8_lossy(error)));
        }
        _ => return Err("nats: an unknown operation".to_owned()),
    }
    Ok(Some(after))
}

fn parse_length(digits: &[u8]) -> Option<usize> {
    str::from_utf8(digits).ok()?.parse().ok().filter(|&length| length <= 64 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::sample::{heard, scenario, seat};

    const SPOKEN: &[u8] = b"INFO {\"server_id\":\"x\"}\r\nPONG\r\nMSG room.1 1 5\r\nab\r\nc\r\n\
        MSG room.1 1 reply 2\r\nde\r\nPING\r\n+OK\r\n";

    #[test]
    fn operations_are_taken_at_any_split() {
        let scenario = scenario(Traffic::Broadcast { members: 3 });
        let whole = heard(&mut Nats::new(&seat(&scenario)), SPOKEN);
        assert_eq!(
            whole,
            ["Ready", "Payload \"ab\\r\\nc\"", "Payload \"de\"", "SendBack \"PONG\\r\\n\""]
        );
        for split in 0..SPOKEN.len() {
            let mut nats = Nats::new(&seat(&scenario));
            let mut events = heard(&mut nats, &SPOKEN[..split]);
            events.extend(heard(&mut nats, &SPOKEN[split..]));
            assert_eq!(events, whole, "split at {split}");
        }
    }

    #[test]
    fn a_room_is_a_subject_and_only_its_first_member_does_not_listen() {
        let scenario = scenario(Traffic::Broadcast { members: 3 });
        let mut first = seat(&scenario);
        first.group = 4;
        let mut out = Vec::new();
        assert!(!Nats::new(&first).greet(&first, &mut out));
        assert!(!out.windows(3).any(|three| three == b"SUB"));
        let other = Seat { sends: false, ..first };
        out.clear();
        let mut nats = Nats::new(&other);
        nats.greet(&other, &mut out);
        assert!(String::from_utf8(out).unwrap().ends_with("\r\nSUB room.4 1\r\nPING\r\n"));
        let mut message = Vec::new();
        nats.put_before(0, &mut message);
        let before = message.len();
        nats.put_after(&mut message);
        assert_eq!(message, b"PUB room.4 200\r\n\r\n");
        assert_eq!((before, nats.around(0)), (16, message.len()));
    }

    #[test]
    fn errors_and_other_protocols_end_the_connection() {
        let scenario = scenario(Traffic::Echo);
        for wrong in ["-ERR 'Authorization Violation'\r\n", "HELLO\r\n", "PING\n", "MSG a 1 x\r\n"]
        {
            let mut nats = Nats::new(&seat(&scenario));
            assert!(nats.take(wrong.as_bytes(), Opcode::Binary, &mut |_| {}).is_err(), "{wrong}");
        }
    }
}
