//! Bytes of a socket become frames, frames messages, and messages what they mean. Pings are
//! answered, a close frame is obeyed, and any broken rule ends the connection.

use super::super::ear::Ear;
use super::super::line::{ENDED, Ended, Phase};
use super::{Driver, RECEIVE_BYTES, clock};
use crate::protocol::{Dialect, Incoming};
use crate::wire::frame::{self, Frame, FrameError, Opcode};

/// Of a message in fragments.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

impl<D: Dialect> Driver<'_, D> {
    /// Reads once, and sends what the connection may send then.
    #[inline]
    pub(super) fn readable(&mut self, at: usize) -> Result<(), Ended> {
        match self.receive(at)? {
            Some(now) => self.flush(at, now),
            None => Ok(()),
        }
    }

    /// A connection that cannot be sent to may have said why: what it sent before is still there.
    #[cold]
    pub(super) fn last_words(&mut self, at: usize) -> Result<(), Ended> {
        while self.receive(at)?.is_some() {}
        Ok(())
    }

    /// Says when something was received.
    #[inline]
    fn receive(&mut self, at: usize) -> Result<Option<u64>, Ended> {
        let Some(line) = &mut self.lines[at] else {
            return Ok(None);
        };
        if line.carry.len() + RECEIVE_BYTES / 4 > self.buffer.len() {
            self.buffer.resize(line.carry.len() + RECEIVE_BYTES, 0);
        }
        let Some((filled, received)) = line.receive(&mut self.buffer, &mut self.records)? else {
            return Ok(None);
        };
        let now = clock::now();
        self.tally.messages.bytes_received += received as u64;
        self.tally.messages.bytes_sent += self.records.take_answered();
        if line.phase == Phase::Securing {
            self.secured(at, now)?;
        }
        self.learn_published(at);
        let buffer = std::mem::take(&mut self.buffer);
        self.out.clear();
        let used = self.take_bytes(at, &buffer[..filled], now);
        let kept = used.as_ref().map_or(filled, |&used| used);
        let mut is_over = false;
        if let Some(line) = &mut self.lines[at] {
            is_over = line.is_over();
            if kept < filled {
                line.carry.extend_from_slice(&buffer[kept..filled]);
            }
        }
        self.buffer = buffer;
        used?;
        if is_over {
            return Err(ENDED.into());
        }
        Ok(Some(now))
    }

    /// Says how many of `bytes` were whole.
    #[inline]
    fn take_bytes(&mut self, at: usize, bytes: &[u8], now: u64) -> Result<usize, Ended> {
        let mut used = 0;
        match self.lines[at].as_ref().map(|line| line.phase) {
            Some(Phase::Securing) => return Ok(0),
            Some(Phase::Upgrading) => match self.take_answer(at, bytes, now)? {
                Some(answer) => used = answer,
                None => return Ok(0),
            },
            _ => {}
        }
        while let Some(frame) = frame::decode(&bytes[used..])? {
            used += frame.len;
            let Some(line) = &mut self.lines[at] else {
                return Ok(bytes.len()); // reset meanwhile: it has done its duty
            };
            let whole = frame.last && matches!(frame.opcode, Opcode::Binary | Opcode::Text);
            if whole && line.joined.is_none() {
                self.message(at, frame.opcode, frame.payload, now)?;
            } else {
                self.other_frame(at, frame, now)?;
            }
        }
        Ok(used)
    }

    #[inline]
    fn message(
        &mut self,
        at: usize,
        opcode: Opcode,
        message: &[u8],
        now: u64,
    ) -> Result<(), Ended> {
        let Some(line) = &mut self.lines[at] else {
            return Ok(());
        };
        let reception = &mut self.receptions[at];
        let mut ear = Ear {
            number: self.seats[at].number,
            from_number: self.from_numbers[at],
            expectation: &self.expectation,
            reception,
            flows: &mut self.flows,
            tally: &mut self.tally,
            at,
            now,
        };
        let mut ready = false;
        let (out, masks) = (&mut self.out, &mut self.masks);
        line.dialect.take(message, opcode, &mut |incoming| match incoming {
            Incoming::Payload(payload) => ear.payload(payload),
            Incoming::Ready => ready = true,
            Incoming::SendBack(bytes) => frame::encode(D::OPCODE, bytes, key(masks.next()), out),
            other => ear.hear(other),
        })?;
        let from = self.receptions[at].from;
        let sender = &self.flows[from];
        if from != at && sender.may_send() && (!self.tally.open_loop || !sender.queue.is_empty()) {
            self.mark_dirty(from);
        }
        if ready {
            self.signed_in(at, now);
        }
        Ok(())
    }

    /// A control frame or a part of a message.
    #[cold]
    fn other_frame(&mut self, at: usize, frame: Frame<'_>, now: u64) -> Result<(), Ended> {
        let Some(line) = &mut self.lines[at] else {
            return Ok(());
        };
        match frame.opcode {
            Opcode::Ping => {
                let mask = key(self.masks.next());
                frame::encode(Opcode::Pong, frame.payload, mask, &mut self.out);
            }
            Opcode::Pong => {}
            Opcode::Close => return self.closed(at, frame.payload),
            Opcode::Binary | Opcode::Text if line.joined.is_some() => {
                return Err(FrameError::Fragments.into());
            }
            opcode @ (Opcode::Binary | Opcode::Text) => {
                line.joined = Some((opcode, frame.payload.to_vec()));
            }
            Opcode::Continuation => {
                let (opcode, mut message) = line.joined.take().ok_or(FrameError::Fragments)?;
                message.extend_from_slice(frame.payload);
                if message.len() > MESSAGE_BYTES_MAX {
                    return Err(FrameError::TooLong(message.len() as u64).into());
                }
                if frame.last {
                    return self.message(at, opcode, &message, now);
                }
                line.joined = Some((opcode, message));
            }
        }
        Ok(())
    }

    /// The server's close frame: answered with its own code unless it is an answer itself.
    fn closed(&mut self, at: usize, payload: &[u8]) -> Result<(), Ended> {
        let Some(line) = &mut self.lines[at] else {
            return Ok(());
        };
        let code = frame::close_code(payload)?;
        if line.phase == Phase::Closing {
            return Ok(()); // the server ends the connection next
        }
        let answer = payload.get(..2).unwrap_or_default();
        frame::encode(Opcode::Close, answer, key(self.masks.next()), &mut self.out);
        // A server that no longer takes the answer has closed all the same.
        drop(line.send(&self.out, &mut self.records));
        Err(format!("closed: {}", code.map_or("no code".to_owned(), |code| code.to_string()))
            .into())
    }
}

/// A masking key of random bits.
#[inline]
pub(super) fn key(random: u64) -> [u8; 4] {
    (random as u32).to_ne_bytes()
}
