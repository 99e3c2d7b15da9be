//! What one bad client sends, from its first byte to its end, and how it understands that end.
//! Sans-IO: time is an argument, bytes go in and out.

use std::time::{Duration, Instant};

use super::{End, Persona};
use crate::protocol::corelane;
use crate::wire::envelope::{CLIENT, Guid, Request};
use crate::wire::frame::{self, Opcode};
use crate::wire::handshake::{self, Refusal};

/// Fast enough to be work, slow enough that no request gets too long before its time is over.
const BYTE_EVERY: Duration = Duration::from_millis(50);

/// After each filling: the gateway has seen it all by then, and its kernel may have made more room for
/// what waits. Short: a gateway that has ended a client waits for it five seconds, and a client that sends
/// more after that reads nothing more.
const SULKS: Duration = Duration::from_millis(200);

/// How long it reads. A gateway that was too slow itself to be full of answers is asked again.
const READS: Duration = Duration::from_secs(5);

/// Nobody has this name: a good one has a tag that the gateway can check.
const NOBODY: Guid = [0xab; 16];

/// Unmasking is the same work with any key.
const MASK: [u8; 4] = [7; 4];

/// The longest that a message may be is 64 KiB with its header.
const LARGE: usize = 60 << 10;
/// More than kernel and gateway keep for a client that reads nothing, 4 MiB and 1 MiB, but for the last
/// of the gateway's.
const FIRST_ONES: usize = 88;
/// What the gateway keeps: the kernel may take all of it while the client sulks.
const LARGE_ONES: usize = 18;
/// Each of half the length of the one before; two fill what one of twice their length leaves free.
const HALVINGS: usize = 11;
/// The gateway's answers to these have no room then.
const LAST_ONES: usize = 64;
const FILLING: usize = LARGE_ONES + 2 * HALVINGS + LAST_ONES;
const FILLINGS: usize = 3;

/// Payload of the message with this number that a slow reader sends itself; nothing behind the last.
fn asked_for(number: usize) -> Option<usize> {
    const SMALLER: usize = LARGE_ONES + 2 * HALVINGS;
    let Some(filling) = number.checked_sub(FIRST_ONES) else {
        return Some(LARGE);
    };
    let bytes = match filling % FILLING {
        0..LARGE_ONES => LARGE,
        smaller @ LARGE_ONES..SMALLER => LARGE >> ((smaller - LARGE_ONES) / 2 + 1),
        _ => 1,
    };
    (filling < FILLINGS * FILLING).then_some(bytes)
}

fn sulks_after(number: usize) -> bool {
    (number + 1)
        .checked_sub(FIRST_ONES)
        .is_some_and(|sent| sent > 0 && sent.is_multiple_of(FILLING))
}

#[derive(Debug)]
pub(super) struct Life {
    persona: Persona,
    stage: Stage,
    request: Vec<u8>,
    /// Heard, and not understood yet.
    heard: Vec<u8>,
    next_at: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// So many bytes of the request are sent.
    Asking(usize),
    /// The request is sent, its answer is not here.
    Waiting,
    /// A slow reader does not know its own name yet.
    Nameless,
    /// So many messages, or pieces of one, are sent.
    Sending { sent: usize, to: Guid },
    /// A slow reader takes what it was sent.
    Reading { to: Guid },
    /// Sends nothing more.
    Listening,
}

impl Life {
    pub(super) fn new(persona: Persona, mut request: Vec<u8>, now: Instant) -> Self {
        if persona == Persona::OneByte {
            // Without the empty line, so that another field may follow; see `send`.
            request.truncate(request.len() - 2);
            request.extend_from_slice(b"X-More: ");
        }
        Self { persona, stage: Stage::Asking(0), request, heard: Vec::new(), next_at: now }
    }

    /// Whether what the server says is taken now.
    pub(super) fn reads(&self) -> bool {
        self.persona != Persona::SlowReader || !matches!(self.stage, Stage::Sending { .. })
    }

    /// Whether it has something to send.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        match self.stage {
            Stage::Asking(_) | Stage::Sending { .. } | Stage::Reading { .. } => now >= self.next_at,
            Stage::Waiting | Stage::Nameless | Stage::Listening => false,
        }
    }

    /// Whether a whole request is what it sends next.
    pub(super) fn is_asking(&self) -> bool {
        matches!(self.stage, Stage::Asking(_)) && self.persona != Persona::OneByte
    }

    /// Nothing more can be sent.
    pub(super) fn listen(&mut self) {
        self.stage = Stage::Listening;
    }

    /// Appends what is sent next.
    pub(super) fn send(&mut self, now: Instant, out: &mut Vec<u8>) {
        match (self.stage, self.persona) {
            (Stage::Asking(sent), Persona::OneByte) => {
                out.push(self.request.get(sent).copied().unwrap_or(b'a'));
                self.stage = Stage::Asking(sent + 1);
                self.next_at = now + BYTE_EVERY;
            }
            (Stage::Asking(_), _) => {
                out.append(&mut self.request);
                self.stage = Stage::Waiting;
            }
            (Stage::Sending { sent, to }, persona) => {
                self.stage = Stage::Sending { sent: sent + 1, to };
                match persona {
                    Persona::SlowReader => self.ask_for_more(now, sent, to, out),
                    Persona::Flooder => put_message(to, 1, out),
                    Persona::Fragmenter | Persona::OneByte => put_piece(sent, out),
                }
            }
            (Stage::Reading { to }, _) => self.stage = Stage::Sending { sent: 0, to },
            (Stage::Waiting | Stage::Nameless | Stage::Listening, _) => {}
        }
    }

    fn ask_for_more(&mut self, now: Instant, sent: usize, to: Guid, out: &mut Vec<u8>) {
        match asked_for(sent) {
            Some(payload_bytes) => put_message(to, payload_bytes, out),
            None => {
                self.stage = Stage::Reading { to };
                self.next_at = now + READS;
                return;
            }
        }
        if sulks_after(sent) {
            self.next_at = now + SULKS;
        }
    }

    /// Takes what the server says; says how it has ended the connection, once that is known.
    pub(super) fn hear(&mut self, bytes: &[u8]) -> Option<End> {
        self.heard.extend_from_slice(bytes);
        if matches!(self.stage, Stage::Asking(_) | Stage::Waiting) {
            match handshake::check_answer(&self.heard) {
                Ok(Some(len)) => drop(self.heard.drain(..len)),
                Ok(None) => return None,
                Err(Refusal::Status(status)) => return Some(End::Status(status)),
                Err(_) => return Some(End::Garbled),
            }
            self.stage = match self.persona {
                Persona::SlowReader => Stage::Nameless,
                _ => Stage::Sending { sent: 0, to: NOBODY },
            };
        }
        loop {
            let frame = match frame::decode(&self.heard) {
                Ok(Some(frame)) => frame,
                Ok(None) => return None,
                Err(_) => return Some(End::Garbled),
            };
            if frame.opcode == Opcode::Close {
                let code = frame::close_code(frame.payload);
                return Some(
                    code.map_or(End::Garbled, |code| code.map_or(End::Codeless, End::Close)),
                );
            }
            if self.stage == Stage::Nameless
                && let Some(own) = corelane::own_name(frame.payload)
            {
                self.stage = Stage::Sending { sent: 0, to: own };
            }
            let len = frame.len;
            self.heard.drain(..len);
        }
    }
}

/// A message of the gateway's protocol from one client to another.
fn put_message(to: Guid, payload_bytes: usize, out: &mut Vec<u8>) {
    let payload = vec![b'!'; payload_bytes];
    let request = Request {
        flags: CLIENT,
        channel: 0,
        sequence: 0,
        guid: to,
        message_id: 1,
        payload: &payload,
    };
    let mut message = Vec::new();
    request.encode(&mut message);
    frame::encode(Opcode::Binary, &message, MASK, out);
}

/// The next byte of a message that has no last one.
fn put_piece(sent: usize, out: &mut Vec<u8>) {
    const LAST: u8 = 0x80;
    let opcode = if sent == 0 { Opcode::Binary } else { Opcode::Continuation };
    let start = out.len();
    frame::encode(opcode, b"!", MASK, out);
    out[start] &= !LAST;
}

#[cfg(test)]
mod tests;
