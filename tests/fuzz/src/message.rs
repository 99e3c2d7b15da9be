//! Messages in any number of frames, with control frames between them, arrive as they were sent.

use std::iter;

use arbitrary::{Arbitrary, Result, Unstructured};
use corelane_shard::wire::frame::{
    OpCode, Role, client_header_len, server_header_len, write_client_header, write_server_header,
};
use corelane_shard::wire::inbound::{DataKind, HEAD_BYTES, InboundLimits};
use corelane_shard::wire::mask::copy_masked;

use crate::receiver::{Event, LIMITS, pieces, received};

/// The bytes say which messages are sent, in which frames, and how the stream is cut.
pub fn message(input: &[u8]) {
    let _input_is_used_up = converse(&mut Unstructured::new(input));
}

fn converse(input: &mut Unstructured<'_>) -> Result<()> {
    let role = if input.arbitrary()? { Role::Server } else { Role::Client };
    let cuts = input.arbitrary()?;
    let limits = InboundLimits { role, ..LIMITS };
    let mut stream = Stream { role, bytes: Vec::new(), events: Vec::new(), controls: 0 };
    while !input.is_empty() && stream.bytes.len() < 40_000 {
        // What was sent before the input ended is checked all the same.
        if stream.send(input, &limits).is_err() {
            break;
        }
    }
    let Stream { bytes, events, .. } = stream;
    assert_eq!(received(&bytes, iter::repeat(usize::MAX), &limits), events, "whole");
    assert_eq!(received(&bytes, pieces(cuts), &limits), events, "cut");
    Ok(())
}

/// What is sent, as bytes and as the arrivals to be expected.
struct Stream {
    role: Role,
    bytes: Vec<u8>,
    events: Vec<Event>,
    controls: u32,
}

#[derive(Arbitrary)]
struct Sent {
    text: bool,
    start: Vec<u8>,
    /// Makes long messages of few bytes.
    repeats: u8,
    /// Where the frames of the message end, in 256ths of it.
    ends: Vec<u8>,
    control: Option<Control>,
    mask: [u8; 4],
}

#[derive(Arbitrary)]
struct Control {
    ping: bool,
    payload: Vec<u8>,
    /// Number of the frame behind which it stands.
    behind: u8,
}

impl Stream {
    fn send(&mut self, input: &mut Unstructured<'_>, limits: &InboundLimits) -> Result<()> {
        let sent = Sent::arbitrary(input)?;
        let mut payload = match sent.text {
            true => String::from_utf8_lossy(&sent.start).into_owned().into_bytes(),
            false => sent.start,
        };
        payload.truncate(300);
        while std::str::from_utf8(&payload).is_err() && sent.text {
            payload.pop();
        }
        let mut payload = payload.repeat(1 + usize::from(sent.repeats) / 8);
        if payload.len() > limits.message_bytes_hard {
            payload.clear();
        }
        let mut ends: Vec<usize> =
            sent.ends.iter().map(|end| payload.len() * usize::from(*end) / 256).collect();
        ends.sort_unstable();
        // An empty frame would be counted.
        ends.dedup();
        ends.retain(|end| *end > 0);
        ends.truncate(limits.fragments_max as usize - 1);
        ends.push(payload.len());
        let kind = if sent.text { DataKind::Text } else { DataKind::Binary };
        self.send_frames(kind, &payload, &ends, &sent.control, sent.mask, limits);
        self.events.push(if payload.len() > limits.message_bytes_max {
            payload.truncate(HEAD_BYTES);
            Event::TooLong(kind, payload)
        } else {
            Event::Message(kind, payload)
        });
        Ok(())
    }

    fn send_frames(
        &mut self,
        kind: DataKind,
        payload: &[u8],
        ends: &[usize],
        control: &Option<Control>,
        mask: [u8; 4],
        limits: &InboundLimits,
    ) {
        let mut start = 0;
        for (number, end) in ends.iter().enumerate() {
            let opcode = match (number, kind) {
                (0, DataKind::Text) => OpCode::Text,
                (0, DataKind::Binary) => OpCode::Binary,
                _ => OpCode::Continuation,
            };
            let last = number + 1 == ends.len();
            self.write(opcode, last, &payload[start..*end], mask);
            start = *end;
            // Behind the last frame it would come after the message.
            let here = control.as_ref().filter(|control| usize::from(control.behind) == number);
            if let Some(control) = here.filter(|_| !last)
                && self.controls < limits.control_frames_per_second
            {
                self.controls += 1;
                let bytes = &control.payload[..control.payload.len().min(125)];
                let (opcode, event) = match control.ping {
                    true => (OpCode::Ping, Event::Ping(bytes.to_vec())),
                    false => (OpCode::Pong, Event::Pong(bytes.to_vec())),
                };
                self.write(opcode, true, bytes, mask);
                self.events.push(event);
            }
        }
    }

    fn write(&mut self, opcode: OpCode, fin: bool, payload: &[u8], mask: [u8; 4]) {
        let at = self.bytes.len();
        let header_len = match self.role {
            Role::Server => client_header_len(payload.len()),
            Role::Client => server_header_len(payload.len()),
        };
        self.bytes.resize(at + header_len + payload.len(), 0);
        let (header, body) = self.bytes[at..].split_at_mut(header_len);
        match self.role {
            Role::Server => {
                write_client_header(header, opcode, payload.len(), mask);
                copy_masked(payload, body, mask, 0);
            }
            Role::Client => {
                write_server_header(header, opcode, payload.len());
                body.copy_from_slice(payload);
            }
        }
        if !fin {
            header[0] &= 0x7F;
        }
    }
}
