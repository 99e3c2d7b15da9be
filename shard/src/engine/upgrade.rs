//! The door: from the first byte of a request head to an open WebSocket, or a whole refusal.

use super::connection::Fin;
use super::{Engine, Role};
use crate::block::Block;
use crate::clock::Instant;
use crate::id::ConnectionKey;
use crate::outbox::Priority;
use crate::probe::Upgrade as Outcome;
use crate::sockets::Sockets;
use crate::wire::handshake::{
    ACCEPT_BYTES_MAX, HEALTH_BYTES_MAX, Health, Parsed, REFUSAL_BYTES_MAX, Refusal, accept,
    health_response, resume,
};

/// A client at the door.
#[derive(Debug)]
pub(super) struct Head {
    /// The head so far, when it did not come in one piece.
    carry: Option<Block>,
    /// Bytes of `carry` known not to end the head.
    scanned: usize,
    until: Instant,
    /// The shard was full when it came: it is read and told so.
    crowded: bool,
}

impl Head {
    pub(super) fn new(until: Instant, crowded: bool) -> Self {
        Self { carry: None, scanned: 0, until, crowded }
    }

    pub(super) fn until(&self) -> Instant {
        self.until
    }
}

/// What is to be done about a head.
enum Verdict {
    Incomplete,
    Refuse(Refusal),
    Health,
    Echo { key: [u8; 24], head_len: usize },
}

impl<S: Sockets> Engine<S> {
    /// Reads more of the head of `key`. When the door opened at once, returns where in `bytes` the
    /// first frame may begin.
    pub(super) fn read_head(&mut self, key: ConnectionKey, bytes: &[u8]) -> Option<usize> {
        let connection = self.table.get_mut(key)?;
        let Role::Head(head) = &mut connection.role else { return None };
        let (scanned, crowded) = (head.scanned, head.crowded);
        let carry = match head.carry.take() {
            None => None,
            Some(carry) => match self.blocks.grow(carry, bytes.len()) {
                Ok(mut carry) => {
                    carry.append(bytes);
                    Some(carry)
                }
                Err(carry) => {
                    self.blocks.give_back(carry);
                    self.refuse(key, Refusal::Full);
                    return None;
                }
            },
        };
        let all = carry.as_ref().map_or(bytes, Block::as_slice);
        let verdict = self.judge(all, scanned, crowded);
        match verdict {
            Verdict::Incomplete => self.keep_head(key, carry, bytes),
            Verdict::Refuse(refusal) => {
                self.refuse(key, refusal);
                self.blocks_back(carry);
            }
            Verdict::Health => {
                self.answer_health(key);
                self.blocks_back(carry);
            }
            Verdict::Echo { key: nonce, head_len } => {
                self.open_echo(key, &nonce);
                let Some(mut carry) = carry else { return Some(head_len) };
                self.read_early(key, &mut carry.as_mut_slice()[head_len..]);
                self.blocks.give_back(carry);
            }
        }
        None
    }

    /// The order of the door: path and method, capacity, then what the path asks for.
    fn judge(&mut self, all: &[u8], scanned: usize, crowded: bool) -> Verdict {
        let (request, head_len) = match resume(all, scanned, &self.options.head) {
            Ok(Parsed::Incomplete) => return Verdict::Incomplete,
            Ok(Parsed::Request { request, head_len }) => (request, head_len),
            Err(refusal) => return Verdict::Refuse(refusal),
        };
        let path = request.target.path;
        let echo = self.options.echo_path.as_deref() == Some(path);
        if path == "/health" {
            return match request.method {
                "GET" => Verdict::Health,
                _ => Verdict::Refuse(Refusal::MethodNotAllowed),
            };
        }
        if !echo {
            return Verdict::Refuse(Refusal::NotFound);
        }
        let upgrade = match request.upgrade() {
            Ok(upgrade) => upgrade,
            Err(refusal) => return Verdict::Refuse(refusal),
        };
        if crowded {
            return Verdict::Refuse(Refusal::Full);
        }
        Verdict::Echo { key: *upgrade.key, head_len }
    }

    fn keep_head(&mut self, key: ConnectionKey, carry: Option<Block>, bytes: &[u8]) {
        let carry = carry.or_else(|| {
            let mut block = self.blocks.take(bytes.len())?;
            block.append(bytes);
            Some(block)
        });
        let Some(carry) = carry else { return self.refuse(key, Refusal::Full) };
        if let Some(connection) = self.table.get_mut(key)
            && let Role::Head(head) = &mut connection.role
        {
            head.scanned = carry.len();
            head.carry = Some(carry);
        }
    }

    fn open_echo(&mut self, key: ConnectionKey, nonce: &[u8; 24]) {
        let mut answer = [0; ACCEPT_BYTES_MAX];
        let len = accept(nonce, None, &mut answer);
        self.probe.upgrade(Outcome::Accepted);
        if let Some(connection) = self.table.get_mut(key) {
            connection.role = Role::Echo;
        }
        self.queue_raw(key, &answer[..len]);
    }

    fn answer_health(&mut self, key: ConnectionKey) {
        let mut answer = [0; HEALTH_BYTES_MAX];
        let len = health_response(Health::Ready, &mut answer);
        self.probe.upgrade(Outcome::Health);
        self.queue_raw(key, &answer[..len]);
        self.end_head(key);
    }

    /// Answers a refusal whole, then ends the connection.
    pub(super) fn refuse(&mut self, key: ConnectionKey, refusal: Refusal) {
        let mut answer = [0; REFUSAL_BYTES_MAX];
        let len = refusal.write(self.retry_after_s(), &mut answer);
        self.probe.upgrade(refusal.outcome());
        self.queue_raw(key, &answer[..len]);
        self.end_head(key);
    }

    pub(super) fn head_timed_out(&mut self, key: ConnectionKey) {
        self.refuse(key, Refusal::HeadTimeout);
    }

    pub(super) fn release_head(&mut self, head: Head) {
        self.blocks_back(head.carry);
    }

    fn end_head(&mut self, key: ConnectionKey) {
        self.end_role(key, 0, "refused at the door");
        self.start_leaving(key, Fin::Flushed);
    }

    fn queue_raw(&mut self, key: ConnectionKey, bytes: &[u8]) {
        let queued =
            self.queue_with(key, bytes.len(), Priority::Normal, |room| room.copy_from_slice(bytes));
        if queued.is_err() {
            self.close(key);
        }
    }

    fn blocks_back(&mut self, block: Option<Block>) {
        if let Some(block) = block {
            self.blocks.give_back(block);
        }
    }

    /// Seconds to come back after, spread so that those refused together do not return together.
    fn retry_after_s(&mut self) -> u32 {
        self.random.u32(1..=5)
    }
}
