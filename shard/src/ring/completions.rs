//! From completion entries to [`Completion`]s: which operation ended, and how.

use io_uring::cqueue;

use super::tag::{Operation, Tag};
use super::{InFlight, Uring};
use crate::buffers::BufferId;
use crate::id::ConnectionKey;
use crate::sockets::{AcceptEnd, Completion, ListenerId, ReceiveEnd, Sent, Socket};

impl Uring {
    /// Moves the whole completion queue into the local one.
    pub(super) fn drain(&mut self) {
        // The queue is borrowed anew for each batch, since completions arm operations again.
        let mut batch: [Option<(u64, i32, u32)>; 64] = [None; 64];
        loop {
            let mut completions = self.ring.completion();
            let mut taken = 0;
            for (place, entry) in batch.iter_mut().zip(&mut completions) {
                *place = Some((entry.user_data(), entry.result(), entry.flags()));
                taken += 1;
            }
            drop(completions);
            if taken == 0 {
                return;
            }
            for (bits, result, flags) in batch[..taken].iter_mut().filter_map(Option::take) {
                self.completed(Tag::unpack(bits), result, flags);
            }
        }
    }

    fn completed(&mut self, tag: Tag, result: i32, flags: u32) {
        let Tag { operation, key, index } = tag;
        let event = match operation {
            Operation::Ignored => return,
            Operation::Receive => return self.received(key, result, flags),
            Operation::Send => return self.send_failed(index, result),
            Operation::SendRest => return self.rest_ended(index, result),
            Operation::Accept => return self.accepted(key, result, flags),
            Operation::PeerName => {
                Completion::PeerName { key, peer: self.peer_names.answer(index, result) }
            }
            Operation::Open => {
                Completion::Opened { key, socket: u32::try_from(result).ok().map(Socket) }
            }
            Operation::Connect => {
                let outcome = if result < 0 { Err(-result) } else { Ok(()) };
                Completion::Connected { key, outcome }
            }
            Operation::Finish => return self.finished(key),
            Operation::Close => Completion::Closed { key },
            Operation::Doorbell => Completion::Doorbell,
            Operation::Wake => {
                self.arm_wake();
                Completion::Doorbell
            }
            // A removed timer is not news.
            Operation::Heartbeat | Operation::Deadline if result != -libc::ETIME => return,
            Operation::Heartbeat => {
                self.heartbeat_armed &= cqueue::more(flags);
                return;
            }
            Operation::Deadline => {
                self.deadline_at = None;
                return;
            }
        };
        self.queue.push_back(event);
    }

    fn finished(&mut self, key: ConnectionKey) {
        if let Some(Some((socket, pending))) = self.finishing.remove(&key) {
            self.close_now(socket, key, pending);
        }
    }

    fn received(&mut self, key: ConnectionKey, result: i32, flags: u32) {
        if let (Ok(len @ 1..), Some(id)) = (u32::try_from(result), cqueue::buffer_select(flags)) {
            self.queue.push_back(Completion::Received { key, buffer: BufferId(id), len });
        } else if let Some(id) = cqueue::buffer_select(flags) {
            // A buffer was picked but nothing put into it.
            self.provided.provide(&mut vec![BufferId(id)]);
        }
        if cqueue::more(flags) {
            return;
        }
        let cause = match result {
            0 => ReceiveEnd::Eof,
            1.. => ReceiveEnd::Rearm,
            _ => match -result {
                libc::ENOBUFS => ReceiveEnd::NoBuffers,
                libc::ECANCELED => ReceiveEnd::Cancelled,
                errno => ReceiveEnd::Failed(errno),
            },
        };
        self.queue.push_back(Completion::ReceiveEnded { key, cause });
    }

    /// A completion of an inline send means that not all was taken.
    fn send_failed(&mut self, index: u32, result: i32) {
        if let Some(send) = self.prepared.get_mut(index as usize) {
            send.outcome = match usize::try_from(result) {
                Ok(taken) => Sent::Partial(taken),
                Err(_) if result == -libc::EAGAIN => Sent::Partial(0),
                Err(_) => Sent::Failed,
            };
        }
    }

    fn rest_ended(&mut self, index: u32, result: i32) {
        let Some((key, bytes)) = self.waiting.get_mut(index as usize).and_then(Option::take) else {
            return;
        };
        self.waiting_free.push(index);
        let outcome = match usize::try_from(result) {
            Ok(taken) if taken == bytes.as_slice().len() => Sent::All,
            Ok(taken) => Sent::Partial(taken),
            Err(_) => Sent::Failed,
        };
        self.ended.push(InFlight { key, bytes, outcome });
    }

    fn accepted(&mut self, key: ConnectionKey, result: i32, flags: u32) {
        let listener = ListenerId(key.slot.0 as u8);
        if let Ok(socket) = u32::try_from(result) {
            self.queue.push_back(Completion::Accepted { listener, socket: Socket(socket) });
        }
        if cqueue::more(flags) {
            return;
        }
        let cause = match result {
            0.. => AcceptEnd::Failed(0),
            _ => match -result {
                libc::ENFILE | libc::EMFILE => AcceptEnd::TableFull,
                libc::ECANCELED => AcceptEnd::Cancelled,
                errno => AcceptEnd::Failed(errno),
            },
        };
        self.queue.push_back(Completion::AcceptEnded { listener, cause });
    }
}
