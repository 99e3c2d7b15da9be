//! Any cut of any bytes comes to what a plain decoder makes of all of them at once.

use std::iter;

use corelane_shard::wire::frame::{FrameError, Role};
use corelane_shard::wire::inbound::{DataKind, HEAD_BYTES, InboundError, InboundLimits};

use crate::receiver::{Event, LIMITS, pieces, received};

/// One byte says which end we are and how the stream is cut; the rest is the stream.
pub fn frame(input: &[u8]) {
    let Some((&first, bytes)) = input.split_first() else { return };
    let role = if first & 0x80 == 0 { Role::Server } else { Role::Client };
    let limits = InboundLimits { role, ..LIMITS };
    let expected = decoded(bytes, &limits);
    assert_eq!(received(bytes, iter::repeat(usize::MAX), &limits), expected, "whole");
    assert_eq!(received(bytes, pieces(first & 0x7F), &limits), expected, "cut");
}

/// What a stream comes to, read at leisure: no state between frames but the message so far.
fn decoded(bytes: &[u8], limits: &InboundLimits) -> Vec<Event> {
    let mut events = Vec::new();
    if let Err(error) = decode(bytes, limits, &mut events) {
        events.push(Event::Failed(error));
    }
    events
}

fn decode(
    bytes: &[u8],
    limits: &InboundLimits,
    events: &mut Vec<Event>,
) -> Result<(), InboundError> {
    let mut rest = bytes;
    let mut message: Option<Message> = None;
    let mut controls = 0;
    while let Some(frame) = Frame::read(rest, limits.role)? {
        let declared = usize::try_from(frame.len).unwrap_or(usize::MAX);
        let whole = frame.payload.len() == declared;
        rest = frame.rest;
        if frame.opcode >= CLOSE {
            if !whole {
                return Ok(());
            }
            controls += 1;
            if controls > limits.control_frames_per_second {
                return Err(InboundError::TooManyControlFrames);
            }
            let control = control(frame.opcode, frame.payload)?;
            let last = matches!(control, Event::Close(..));
            events.push(control);
            if last {
                return Ok(());
            }
            continue;
        }
        let message_so_far = Message::continued(message.take(), &frame, limits)?;
        if !whole {
            return Ok(());
        }
        if !frame.fin {
            message = Some(message_so_far);
            continue;
        }
        events.push(message_so_far.finished(limits)?);
    }
    Ok(())
}

const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;

/// A header and what there is of its payload, unmasked.
struct Frame<'a> {
    fin: bool,
    opcode: u8,
    len: u64,
    payload: Vec<u8>,
    rest: &'a [u8],
}

impl<'a> Frame<'a> {
    /// `None` while the header is not whole. Judges byte by byte, so that the first bad one counts.
    fn read(bytes: &'a [u8], role: Role) -> Result<Option<Self>, FrameError> {
        let mut header = bytes.iter().copied();
        let Some(first) = header.next() else { return Ok(None) };
        let (fin, opcode) = (first >= 0x80, first & 0x0F);
        if first & 0x70 != 0 {
            return Err(FrameError::ReservedBits);
        }
        if !matches!(opcode, 0..=2 | 8..=10) {
            return Err(FrameError::UnknownOpCode);
        }
        if opcode >= CLOSE && !fin {
            return Err(FrameError::FragmentedControl);
        }
        let Some(second) = header.next() else { return Ok(None) };
        match (role, second >= 0x80) {
            (Role::Server, false) => return Err(FrameError::Unmasked),
            (Role::Client, true) => return Err(FrameError::Masked),
            _ => {}
        }
        let short = second & 0x7F;
        if opcode >= CLOSE && short > 125 {
            return Err(FrameError::ControlTooLong);
        }
        let mut len = u64::from(short);
        let width = match short {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        for place in 0..width {
            let Some(byte) = header.next() else { return Ok(None) };
            if width == 8 && place == 0 && byte >= 0x80 {
                return Err(FrameError::LengthOverflow);
            }
            len = if place == 0 { 0 } else { len << 8 } | u64::from(byte);
            if (width == 8 && place == 5 && len == 0) || (width == 2 && place == 1 && len < 126) {
                return Err(FrameError::NonMinimalLength);
            }
        }
        let mut mask = [0; 4];
        if role == Role::Server {
            for place in &mut mask {
                let Some(byte) = header.next() else { return Ok(None) };
                *place = byte;
            }
        }
        let rest = &bytes[bytes.len() - header.len()..];
        let present = usize::try_from(len).map_or(rest.len(), |len| len.min(rest.len()));
        let (payload, rest) = rest.split_at(present);
        let payload = payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key);
        Ok(Some(Self { fin, opcode, len, payload: payload.collect(), rest }))
    }
}

/// A message and the frames that it has come in.
struct Message {
    kind: DataKind,
    bytes: Vec<u8>,
    total: u64,
    fragments: u32,
    empty_fragments: u32,
}

impl Message {
    fn continued(
        begun: Option<Self>,
        frame: &Frame<'_>,
        limits: &InboundLimits,
    ) -> Result<Self, InboundError> {
        let fresh = |kind| Self { kind, bytes: vec![], total: 0, fragments: 0, empty_fragments: 0 };
        let mut message = match (frame.opcode, begun) {
            (0, Some(begun)) => begun,
            (0, None) => return Err(InboundError::ContinuationWithoutStart),
            (_, Some(_)) => return Err(InboundError::MessageInsideMessage),
            (1, None) => fresh(DataKind::Text),
            (_, None) => fresh(DataKind::Binary),
        };
        if frame.opcode == 0 || !frame.fin {
            message.fragments += 1;
            message.empty_fragments += u32::from(frame.len == 0);
        }
        message.total = message.total.saturating_add(frame.len);
        if message.fragments > limits.fragments_max {
            return Err(InboundError::TooManyFragments);
        }
        if message.empty_fragments > limits.empty_fragments_max {
            return Err(InboundError::TooManyEmptyFragments);
        }
        if message.total > limits.message_bytes_hard as u64 {
            return Err(InboundError::MessageTooLong);
        }
        message.bytes.extend_from_slice(&frame.payload);
        let text = std::str::from_utf8(&message.bytes);
        if message.kind == DataKind::Text && text.is_err_and(|error| error.error_len().is_some()) {
            return Err(InboundError::InvalidUtf8);
        }
        Ok(message)
    }

    fn finished(mut self, limits: &InboundLimits) -> Result<Event, InboundError> {
        if self.kind == DataKind::Text && std::str::from_utf8(&self.bytes).is_err() {
            return Err(InboundError::InvalidUtf8);
        }
        if self.bytes.len() <= limits.message_bytes_max {
            return Ok(Event::Message(self.kind, self.bytes));
        }
        self.bytes.truncate(HEAD_BYTES);
        Ok(Event::TooLong(self.kind, self.bytes))
    }
}

fn control(opcode: u8, payload: Vec<u8>) -> Result<Event, InboundError> {
    match (opcode, &payload[..]) {
        (CLOSE, []) => Ok(Event::Close(None, payload)),
        (CLOSE, [_]) => Err(InboundError::TruncatedCloseCode),
        (CLOSE, [high, low, reason @ ..]) => {
            let code = u16::from_be_bytes([*high, *low]);
            if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
                return Err(InboundError::InvalidCloseCode);
            }
            match std::str::from_utf8(reason) {
                Ok(_) => Ok(Event::Close(Some(code), reason.to_vec())),
                Err(_) => Err(InboundError::InvalidUtf8),
            }
        }
        (PING, _) => Ok(Event::Ping(payload)),
        _ => Ok(Event::Pong(payload)),
    }
}
