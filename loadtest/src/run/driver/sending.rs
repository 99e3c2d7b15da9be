//! Messages become bytes of a socket: as many as the window lets go, in one `send`.

use rustix::event::epoll;

use super::super::flow::Sent;
use super::super::line::Ended;
use super::receiving::key;
use super::{Driver, clock};
use crate::protocol::Dialect;
use crate::stamp::Stamp;
use crate::wire::frame;

/// Bytes of one send; what may go beyond them goes in the next turn.
const SEND_BYTES_MAX: usize = 256 << 10;

impl<D: Dialect> Driver<'_, D> {
    /// Sends what `out` holds and what the connection may send besides.
    #[inline]
    pub(super) fn flush(&mut self, at: usize, now: u64) -> Result<(), Ended> {
        self.fill(at, now);
        if self.out.is_empty() {
            return Ok(());
        }
        let Some(line) = &mut self.lines[at] else {
            return Ok(());
        };
        self.tally.messages.bytes_sent += line.send(&self.out, &mut self.records)? as u64;
        if !line.is_clear() {
            self.await_room(at)?;
        }
        self.out.clear();
        Ok(())
    }

    /// Appends to `out` every message that may go.
    #[inline]
    fn fill(&mut self, at: usize, now: u64) {
        let Some(line) = &self.lines[at] else {
            return;
        };
        let flow = &mut self.flows[at];
        if now >= self.sending_until || !flow.alive {
            return;
        }
        let clear = line.is_clear();
        let before = flow.sent;
        let payload_bytes = self.expectation.payload_bytes;
        let open_loop = self.tally.open_loop;
        while clear && flow.may_send() && self.out.len() < SEND_BYTES_MAX {
            let due = if open_loop { flow.take_due() } else { Some((now, true)) };
            let Some((intended, held)) = due else {
                break;
            };
            let delay = now.saturating_sub(intended);
            if !held {
                self.tally.lagged(intended, delay);
            }
            let (sender, sequence) = (self.seats[at].number, flow.sent);
            let stamp = Stamp { sender, sequence, intended, delay };
            flow.sent += 1;
            if let Some(waiting) = &mut flow.unstamped {
                waiting.push_back(Sent { sequence, intended, delay });
            }
            put(&line.dialect, &stamp, payload_bytes, &mut self.masks, &mut self.out);
        }
        // A full socket is no excuse: without a window, nothing else shows that the load stands.
        let may_send_more = flow.may_send();
        if !may_send_more {
            flow.hold();
        }
        let sent = flow.sent - before;
        self.tally.messages.sent += sent;
        self.tally.part.sent += sent;
        if sent > 0 {
            self.last_send = now;
        }
        if clear && may_send_more && (!open_loop || !flow.queue.is_empty()) {
            self.mark_dirty(at); // the bytes of one send were the limit
        }
    }

    /// Sends for every connection that has become able to.
    pub(super) fn flush_dirty(&mut self) {
        for _ in 0..self.dirty.len() {
            let Some(at) = self.dirty.pop_front() else {
                break;
            };
            self.is_dirty[at] = false;
            self.out.clear();
            // Each send takes microseconds: one reading of the clock for all would be stale.
            if let Err(ended) = self.flush(at, clock::now()) {
                self.end(at, &ended);
            }
        }
    }

    /// The socket at `at` has room again.
    #[cold]
    pub(super) fn writable(&mut self, at: usize) -> Result<(), Ended> {
        let Some(line) = &mut self.lines[at] else {
            return Ok(());
        };
        self.tally.messages.bytes_sent += line.send_kept()? as u64;
        if line.is_clear() {
            let data = self.event_data(at);
            self.watch(at, data, epoll::EventFlags::IN)?;
            self.mark_dirty(at);
        }
        Ok(())
    }

    #[cold]
    pub(super) fn await_room(&self, at: usize) -> Result<(), Ended> {
        let data = self.event_data(at);
        self.watch(at, data, epoll::EventFlags::IN | epoll::EventFlags::OUT)
    }

    pub(super) fn watch(
        &self,
        at: usize,
        data: epoll::EventData,
        flags: epoll::EventFlags,
    ) -> Result<(), Ended> {
        match &self.lines[at] {
            Some(line) => Ok(epoll::modify(&self.epoll, &line.socket, data, flags)?),
            None => Ok(()),
        }
    }
}

/// Appends one message as a masked frame.
#[inline]
fn put<D: Dialect>(
    dialect: &D,
    stamp: &Stamp,
    payload_bytes: usize,
    masks: &mut crate::schedule::Random,
    out: &mut Vec<u8>,
) {
    let key = key(masks.next());
    let sequence = stamp.sequence;
    frame::begin(D::OPCODE, dialect.around(sequence) + payload_bytes, key, out);
    let start = out.len();
    dialect.put_before(sequence, out);
    stamp.write(payload_bytes, out);
    dialect.put_after(out);
    frame::mask(&mut out[start..], key);
}
