//! TLS at the edges of the turn: records that arrived are opened before anything reads them, and what
//! a flush takes from the outbox is sealed.

use super::accepting::CROWDED_PATIENCE;
use super::connection::{Connection, Fin, Hold, Phase, Sending};
use super::receiving::Kept;
use super::{Engine, Role};
use crate::block::{Block, BlockPool};
use crate::buffers::Received;
use crate::id::ConnectionKey;
use crate::probe::TlsOutcome;
use crate::sockets::{ListenerId, Outgoing, Sockets};
use crate::tls::{GOODBYE_MAX, Opened, TlsFault, TlsStream};
use crate::wire::handshake::Refusal;

/// The TLS of a connection.
#[derive(Debug)]
pub(super) struct Tls {
    stream: TlsStream,
    /// The beginning of a record that is not whole.
    begun: Option<Block>,
}

/// Why nothing could be sealed.
#[derive(Debug, Clone, Copy)]
enum Unsealed {
    Blocks,
    KeysUsedUp,
}

/// Whether a new connection begins with TLS.
pub(super) enum Greeting {
    Plain,
    Sealed(Box<Tls>),
    /// As many shake hands as may.
    Crowded,
}

impl Tls {
    pub(super) fn is_handshaking(&self) -> bool {
        self.stream.is_handshaking()
    }

    /// Whether the peer has yet to be told that nothing more comes.
    pub(super) fn owes_goodbye(&self) -> bool {
        self.stream.is_open()
    }

    pub(super) fn has_outgoing(&self) -> bool {
        self.stream.has_outgoing()
    }

    /// The bytes of one send: what TLS itself has to say, then `plain`, then the goodbye if it is the
    /// `last`.
    fn pack(
        &mut self,
        plain: &[u8],
        last: bool,
        blocks: &mut BlockPool,
    ) -> Result<Option<Block>, Unsealed> {
        let first = self.stream.take_outgoing();
        let sealed_len = self.stream.sealed_len(plain.len());
        let room = first.len() + sealed_len + if last { GOODBYE_MAX } else { 0 };
        if room == 0 {
            return Ok(None);
        }
        let mut block = blocks.take(room).ok_or(Unsealed::Blocks)?;
        block.append(&first);
        if self.stream.seal(plain, block.reserve(sealed_len)).is_err() {
            blocks.give_back(block);
            return Err(Unsealed::KeysUsedUp);
        }
        if last {
            self.stream.say_goodbye();
            block.append(&self.stream.take_outgoing());
        }
        if block.is_empty() {
            blocks.give_back(block);
            return Ok(None);
        }
        Ok(Some(block))
    }
}

impl<S: Sockets> Engine<S> {
    pub(super) fn greeting(&self, listener: ListenerId) -> Greeting {
        let Some(tls) = self.options.tls.as_ref().filter(|tls| listener.0 >= tls.first_listener)
        else {
            return Greeting::Plain;
        };
        if self.handshaking >= tls.handshakes_max {
            return Greeting::Crowded;
        }
        match TlsStream::new(tls.config.load_full()) {
            Ok(stream) => Greeting::Sealed(Box::new(Tls { stream, begun: None })),
            // Only a configuration that can do nothing at all ends here.
            Err(_) => Greeting::Crowded,
        }
    }

    /// Reads everything behind the first `start` bytes, which are records.
    pub(super) fn read_sealed(
        &mut self,
        key: ConnectionKey,
        received: &mut Received,
        start: usize,
    ) {
        let (mut at, end) = (start, received.len());
        while at < end
            && let Some((begun, missing)) = self.take_begun(key)
        {
            let more = missing.min(end - at);
            let mut block = match self.blocks.grow(begun, more) {
                Ok(block) => block,
                Err(begun) => {
                    self.blocks.give_back(begun);
                    return self.lost(key, "no block for a TLS record");
                }
            };
            block.append(received.range(at..at + more));
            at += more;
            let len = block.len();
            match self.read_records(key, &mut Kept::Aside(block.as_mut_slice()), 0, len) {
                Some(rest) => {
                    block.consume(rest);
                    self.keep_begun(key, block);
                }
                None => self.blocks.give_back(block),
            }
        }
        let Some(rest) = self.read_records(key, &mut Kept::Buffer(received), at, end) else {
            return;
        };
        match self.blocks.take(end - rest) {
            Some(mut block) => {
                block.append(received.range(rest..end));
                self.keep_begun(key, block);
            }
            None => self.lost(key, "no block for a TLS record"),
        }
    }

    /// What was kept of a record, and how many bytes belong behind it.
    fn take_begun(&mut self, key: ConnectionKey) -> Option<(Block, usize)> {
        let tls = self.table.get_mut(key)?.tls.as_mut()?;
        let begun = tls.begun.take()?;
        let missing = tls.stream.missing(begun.as_slice());
        Some((begun, missing))
    }

    fn keep_begun(&mut self, key: ConnectionKey, block: Block) {
        match self.table.get_mut(key).and_then(|connection| connection.tls.as_mut()) {
            Some(tls) => tls.begun = Some(block),
            None => self.blocks.give_back(block),
        }
    }

    /// Opens the records in a range of `kept` and reads what is in them. Returns where one begins that
    /// is not whole.
    fn read_records(
        &mut self,
        key: ConnectionKey,
        kept: &mut Kept<'_>,
        from: usize,
        end: usize,
    ) -> Option<usize> {
        let mut at = from;
        while at < end {
            let connection = self.table.get_mut(key)?;
            if !matches!(connection.phase, Phase::Open | Phase::Leaving(Fin::Answered)) {
                return None;
            }
            let tls = connection.tls.as_mut()?;
            let shook = tls.is_handshaking();
            let opened = tls.stream.open(kept.range(at..end));
            let (shakes, speaks) = (tls.is_handshaking(), tls.has_outgoing());
            if speaks {
                self.mark_dirty(key);
            }
            if shook && !shakes {
                self.hands_shaken(key);
            }
            match opened {
                Ok(Opened::InPlace { consumed, plain }) => {
                    let plain = at + plain.start..at + plain.end;
                    at += consumed;
                    self.read(key, kept.again(), plain);
                }
                Ok(Opened::Aside { consumed, mut plain }) => {
                    at += consumed;
                    let len = plain.len();
                    self.read(key, Kept::Aside(&mut plain), 0..len);
                }
                Ok(Opened::Nothing { consumed }) => at += consumed,
                Ok(Opened::NeedMore { consumed }) => {
                    let rest = at + consumed;
                    return (rest < end).then_some(rest);
                }
                Ok(Opened::Closed) => {
                    self.peer_finished_sealed(key);
                    return None;
                }
                Err(fault) => {
                    self.tls_broken(key, &fault);
                    return None;
                }
            }
        }
        None
    }

    /// From now on a request is awaited, if all went well.
    fn hands_shaken(&mut self, key: ConnectionKey) {
        self.handshaking -= 1;
        let now = self.now.mono;
        let Some(connection) = self.table.get_mut(key) else { return };
        let Some(tls) = connection.tls.as_ref().filter(|tls| tls.stream.is_open()) else { return };
        let resumed = tls.stream.is_resumed();
        if let Role::Head(head) = &mut connection.role {
            let patience =
                if head.is_turned_away() { CROWDED_PATIENCE } else { self.options.head_timeout };
            head.wait_until(now + patience);
        }
        self.probe.door.tls(if resumed { TlsOutcome::Resumed } else { TlsOutcome::Full });
        self.set_deadline(key);
    }

    fn peer_finished_sealed(&mut self, key: ConnectionKey) {
        match self.table.get(key).map(|connection| connection.phase) {
            Some(Phase::Open) => self.peer_finished(key),
            Some(Phase::Leaving(_)) => self.peer_finished_while_leaving(key),
            Some(Phase::Lingering | Phase::Closing | Phase::Closed) | None => {}
        }
    }

    /// The alert leaves, then the connection ends. Who speaks plain HTTP is told so in plain HTTP.
    fn tls_broken(&mut self, key: ConnectionKey, fault: &TlsFault) {
        match fault {
            TlsFault::NotTls => {
                self.probe.door.tls(TlsOutcome::NotTls);
                self.unseal(key);
                self.refuse(key, Refusal::NotTls);
            }
            TlsFault::Handshake(_) => {
                self.probe.door.tls(TlsOutcome::Failed);
                self.end_role(key, 0, "the TLS handshake failed");
                self.start_leaving(key, Fin::Flushed);
            }
            TlsFault::Record(_) => {
                self.probe.parse_errors.increment();
                // The alert is all that can still be sent.
                self.clear_outbox(key);
                self.end_role(key, super::ending::ABNORMAL, "a TLS record was broken");
                self.start_leaving(key, Fin::Flushed);
            }
        }
    }

    /// As [`Self::flush_one`](super::sending), for a connection with TLS.
    pub(super) fn flush_sealed(&mut self, key: ConnectionKey) {
        let Some(connection) = self.table.get_mut(key) else { return };
        let (Some(socket), Some(tls)) = (connection.socket, connection.tls.as_mut()) else {
            return;
        };
        let sendable = matches!(connection.phase, Phase::Open | Phase::Leaving(_));
        if connection.sending == Sending::Waiting || !sendable {
            return;
        }
        let speaks = tls.stream.is_open() && connection.hold != Hold::On;
        let plain = connection.outbox.as_mut().filter(|_| speaks).and_then(|outbox| outbox.take());
        if plain.is_some() && connection.hold == Hold::BehindThis {
            connection.hold = Hold::On;
        }
        if connection.outbox.as_ref().is_some_and(|outbox| outbox.is_empty()) {
            self.outboxes.extend(connection.outbox.take());
        } else if connection.outbox.is_some() && speaks {
            connection.dirty = true;
            self.dirty.push(key);
        }
        let last = connection.outbox.is_none() && connection.phase == Phase::Leaving(Fin::Flushed);
        let bytes = plain.as_ref().map_or(&[][..], Outgoing::as_slice);
        let packed = tls.pack(bytes, last, &mut self.blocks);
        if let Some(plain) = plain {
            self.recycle(plain);
        }
        match packed {
            Ok(Some(block)) => {
                self.probe.sends.increment();
                self.probe.bytes_out.add(block.len() as u64);
                self.sockets.send(socket, key, Outgoing::Block(block));
            }
            Ok(None) => self.finish_if_flushed(key),
            Err(Unsealed::Blocks) => self.lost(key, "no block for a TLS record"),
            Err(Unsealed::KeysUsedUp) => self.lost(key, "the TLS keys are used up"),
        }
    }

    /// Whether the peer of `key` understands nothing yet, because hands are still being shaken.
    pub(super) fn is_handshaking(&self, key: ConnectionKey) -> bool {
        let tls = self.table.get(key).and_then(|connection| connection.tls.as_ref());
        tls.is_some_and(|tls| tls.is_handshaking())
    }

    /// What is said to `key` from now on is said in plain.
    pub(super) fn unseal(&mut self, key: ConnectionKey) {
        if let Some(tls) = self.table.get_mut(key).and_then(|connection| connection.tls.take()) {
            self.release_tls(*tls);
        }
    }

    pub(super) fn release_tls(&mut self, tls: Tls) {
        if tls.is_handshaking() {
            self.handshaking -= 1;
        }
        self.blocks_back(tls.begun);
    }
}

impl<R> Connection<R> {
    /// Whether TLS has something to say of its own.
    pub(super) fn has_tls_to_send(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.has_outgoing())
    }
}
