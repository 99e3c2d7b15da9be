//! Another implementation as judge: the same messages, and the same streams refused.

use std::io::{self, Read, Write};

use proptest::prelude::*;
use tungstenite::Message;
use tungstenite::protocol::{Role as OracleRole, WebSocketConfig, WebSocketContext};

use super::split::{encode, pieces};
use super::*;

/// The peer's bytes as a stream; what is written is thrown away.
struct Bytes<'a>(&'a [u8]);

impl Read for Bytes<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self.0.read(out)? {
            // An empty read would mean the end of the connection.
            0 => Err(io::ErrorKind::WouldBlock.into()),
            len => Ok(len),
        }
    }
}

impl Write for Bytes<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Everything but limits that only we have.
const OPEN: InboundLimits = InboundLimits {
    message_bytes_max: 3000,
    message_bytes_hard: 3000,
    fragments_max: u32::MAX,
    empty_fragments_max: u32::MAX,
    control_frames_per_second: u32::MAX,
    ..LIMITS
};

/// What the judge delivers; ends with `None` if it refuses the stream.
fn judged(bytes: &[u8]) -> Vec<Option<Event>> {
    let config = WebSocketConfig::default()
        .read_buffer_size(4096)
        .max_frame_size(Some(OPEN.message_bytes_hard))
        .max_message_size(Some(OPEN.message_bytes_hard));
    let mut oracle = WebSocketContext::new(OracleRole::Server, Some(config));
    let mut stream = Bytes(bytes);
    let mut events = Vec::new();
    loop {
        let event = match oracle.read(&mut stream) {
            Ok(Message::Text(text)) => Event::Message(DataKind::Text, text.as_bytes().to_vec()),
            Ok(Message::Binary(bytes)) => Event::Message(DataKind::Binary, bytes.to_vec()),
            Ok(Message::Ping(payload)) => Event::Ping(payload.to_vec()),
            Ok(Message::Pong(payload)) => Event::Pong(payload.to_vec()),
            Ok(Message::Close(None)) => Event::Close(None, vec![]),
            // The judge reports a code that may not be sent as this close frame.
            Ok(Message::Close(Some(close))) if close.reason.as_str() == "Protocol violation" => {
                events.push(None);
                return events;
            }
            Ok(Message::Close(Some(close))) => {
                Event::Close(Some(close.code.into()), close.reason.as_bytes().to_vec())
            }
            Ok(Message::Frame(_)) => unreachable!("never read"),
            Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                return events;
            }
            Err(_) => {
                events.push(None);
                return events;
            }
        };
        let end = matches!(event, Event::Close(..));
        events.push(Some(event));
        if end {
            return events;
        }
    }
}

fn ours(bytes: &[u8], piece: usize) -> Vec<Event> {
    let mut receiver = Receiver::with(OPEN);
    let mut events = Vec::new();
    for chunk in bytes.chunks(piece) {
        events.extend(receiver.receive(chunk));
    }
    events
}

fn without_reason(events: Vec<Event>) -> Vec<Option<Event>> {
    let known = |event| {
        if matches!(event, Event::Failed(_)) { None } else { Some(event) }
    };
    events.into_iter().map(known).collect()
}

/// The judge finds faults only in whole frames: what follows completes the last one.
fn completed(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.extend([0; 2 * 4000]);
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn streams_are_understood_as_by_another_implementation(
        pieces in pieces(),
        piece in 1..3000_usize,
    ) {
        let bytes = completed(encode(&pieces, Role::Server));
        prop_assert_eq!(without_reason(ours(&bytes, piece)), judged(&bytes));
    }

    #[test]
    fn damaged_streams_are_refused_where_another_implementation_refuses_them(
        pieces in pieces(),
        piece in 1..3000_usize,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = encode(&pieces, Role::Server);
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let bytes = completed(bytes);
        let ours = ours(&bytes, piece);
        // The judge accepts lengths that are not in their shortest form, and knows no 1014.
        let stricter = Event::Failed(FrameError::NonMinimalLength.into());
        let newer = |event: &Event| matches!(event, Event::Close(Some(1014), _));
        prop_assume!(ours.last() != Some(&stricter) && !ours.iter().any(newer));
        prop_assert_eq!(without_reason(ours), judged(&bytes));
    }
}
