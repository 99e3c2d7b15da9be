//! TLS at the edges of the turn: records that arrived are opened before anything reads them, and what a
//! flush takes from the outbox is sealed.

use super::connection::{Fin, Hold, Phase, Sending};
use super::receiving::Kept;
use super::{Engine, Role};
use crate::block::Block;
use crate::buffers::Received;
use crate::id::ConnectionKey;
use crate::probe::TlsOutcome;
use crate::sockets::{Outgoing, Sockets};
use crate::tls::{Opened, TlsFault, TlsStream};
use crate::wire::handshake::Refusal;

/// The TLS of a connection, and the beginning of a record that is not whole.
#[derive(Debug)]
pub(super) struct Tls {
    pub(super) stream: TlsStream,
    carry: Option<Block>,
}

/// What the records of one arrival have led to.
enum Read {
    All,
    /// From there on the input is the beginning of a record.
    Until(usize),
    Closed,
    Broken(TlsFault),
}

impl Tls {
    pub(super) fn new(stream: TlsStream) -> Self {
        Self { stream, carry: None }
    }
}

impl<S: Sockets> Engine<S> {
    /// Opens the records of `received`, and of what was kept from before, and reads what is in them.
    pub(super) fn read_sealed(
        &mut self,
        key: ConnectionKey,
        mut tls: Box<Tls>,
        received: &mut Received,
    ) {
        let Some(carry) = tls.carry.take() else {
            let len = received.len();
            return self.open_records(key, tls, Kept::Buffer(received), len);
        };
        match self.blocks.grow(carry, received.len()) {
            Ok(mut block) => {
                block.append(received.from(0));
                let len = block.len();
                self.open_records(key, tls, Kept::Aside(block.as_mut_slice()), len);
                self.blocks.give_back(block);
            }
            Err(block) => {
                self.blocks.give_back(block);
                self.lost(key, "no block for a TLS record");
            }
        }
    }

    fn open_records(
        &mut self,
        key: ConnectionKey,
        mut tls: Box<Tls>,
        mut kept: Kept<'_>,
        len: usize,
    ) {
        let shaking = tls.stream.is_handshaking();
        let read = self.read_records(key, &mut tls.stream, &mut kept, len);
        if let Read::Until(at) = read {
            let rest = kept.range(at..len);
            match self.blocks.take(rest.len()) {
                Some(mut block) => {
                    block.append(rest);
                    tls.carry = Some(block);
                }
                None => return self.lost(key, "no block for a TLS record"),
            }
        }
        if shaking && !tls.stream.is_handshaking() {
            self.tls_handshakes -= 1;
            if tls.stream.is_open() {
                self.probe.tls(TlsOutcome::Established);
            }
        }
        let stands = tls.stream.is_open();
        match self.table.get_mut(key) {
            Some(connection) if !matches!(connection.phase, Phase::Closing | Phase::Closed) => {
                connection.tls = Some(tls);
                self.mark_dirty(key);
            }
            _ => self.release_tls(*tls),
        }
        match read {
            Read::All | Read::Until(_) if shaking && stands => self.await_head(key),
            Read::All | Read::Until(_) => {}
            Read::Closed => self.peer_finished_sealed(key),
            Read::Broken(fault) => self.tls_broken(key, &fault),
        }
    }

    fn read_records(
        &mut self,
        key: ConnectionKey,
        stream: &mut TlsStream,
        kept: &mut Kept<'_>,
        len: usize,
    ) -> Read {
        let mut at = 0;
        while at < len {
            match stream.open(kept.range(at..len)) {
                Ok(Opened::InPlace { consumed, plain }) => {
                    let plain = at + plain.start..at + plain.end;
                    at += consumed;
                    self.read(key, kept.again(), plain);
                }
                Ok(Opened::Aside { consumed, mut plain }) => {
                    at += consumed;
                    let plain_len = plain.len();
                    self.read(key, Kept::Aside(&mut plain), 0..plain_len);
                }
                Ok(Opened::Nothing { consumed }) => at += consumed,
                Ok(Opened::NeedMore { consumed }) if at + consumed < len => {
                    return Read::Until(at + consumed);
                }
                Ok(Opened::NeedMore { .. }) => return Read::All,
                Ok(Opened::Closed) => return Read::Closed,
                Err(fault) => return Read::Broken(fault),
            }
            let reads = self.table.get(key).is_some_and(|connection| {
                matches!(connection.phase, Phase::Open | Phase::Leaving(Fin::Answered))
            });
            if !reads {
                return Read::All;
            }
        }
        Read::All
    }

    fn peer_finished_sealed(&mut self, key: ConnectionKey) {
        match self.table.get(key).map(|connection| connection.phase) {
            Some(Phase::Open) => self.peer_finished(key),
            Some(Phase::Leaving(_)) => self.peer_finished_while_leaving(key),
            _ => {}
        }
    }

    /// The alert leaves, then the connection ends. Who speaks plain HTTP is told so in plain HTTP.
    fn tls_broken(&mut self, key: ConnectionKey, fault: &TlsFault) {
        let Some(connection) = self.table.get_mut(key) else {
            return;
        };
        match fault {
            TlsFault::NotTls => {
                self.probe.tls(TlsOutcome::NotTls);
                if let Some(tls) = connection.tls.take() {
                    self.release_tls(*tls);
                }
                self.refuse(key, Refusal::NotTls);
            }
            TlsFault::Handshake(_) => {
                self.probe.tls(TlsOutcome::Failed);
                self.end_role(key, 0, "the TLS handshake failed");
                self.start_leaving(key, Fin::Flushed);
            }
            TlsFault::Record(_) => {
                self.probe.parse_errors.increment();
                self.clear_outbox(key);
                self.end_role(key, super::ending::ABNORMAL, "a TLS record was broken");
                self.start_leaving(key, Fin::Flushed);
            }
        }
    }

    /// One send for a connection with TLS: its own records first, then what the outbox has.
    pub(super) fn flush_sealed(&mut self, key: ConnectionKey) {
        let Some(connection) = self.table.get_mut(key) else {
            return;
        };
        let (Some(socket), Some(tls)) = (connection.socket, connection.tls.as_mut()) else {
            return;
        };
        let sendable = matches!(connection.phase, Phase::Open | Phase::Leaving(_));
        if connection.sending == Sending::Waiting || !sendable {
            return;
        }
        let first = tls.stream.take_outgoing();
        let may_speak = tls.stream.is_open() && connection.hold == Hold::Off;
        let outbox = connection.outbox.as_mut().filter(|_| may_speak);
        let plain = outbox.and_then(|outbox| outbox.take());
        let spoken = connection.outbox.as_ref().is_none_or(|outbox| outbox.is_empty());
        if spoken {
            self.outboxes.extend(connection.outbox.take());
        } else if may_speak {
            connection.dirty = true;
            self.dirty.push(key);
        }
        let sealed_len = plain.as_ref().map_or(0, |it| tls.stream.sealed_len(it.as_slice().len()));
        let last = spoken && connection.phase == Phase::Leaving(Fin::Flushed);
        let sealed = (first.len() + sealed_len > 0 || last)
            .then(|| self.blocks.take(first.len() + sealed_len + GOODBYE_MAX));
        // More to come
        let Some(sealed) = sealed else { return };
        let mut block = match sealed {
            Some(block) => block,
            None => {
                plain.map(|plain| self.recycle(plain));
                return self.lost(key, "no block for a TLS record");
            }
        };
        block.append(&first);
        let mut fault = None;
        if let Some(plain) = plain {
            fault = tls.stream.seal(plain.as_slice(), block.reserve(sealed_len)).err();
            self.recycle(plain);
        }
        if last {
            tls.stream.say_goodbye();
            block.append(&tls.stream.take_outgoing());
        }
        if fault.is_some() {
            self.blocks.give_back(block);
            return self.lost(key, "the TLS keys are used up");
        }
        if block.is_empty() {
            self.blocks.give_back(block);
            return self.finish_if_flushed(key);
        }
        self.probe.sends.increment();
        self.probe.bytes_out.add(block.len() as u64);
        self.sockets.send(socket, key, Outgoing::Block(block));
    }

    pub(super) fn release_tls(&mut self, tls: Tls) {
        if tls.stream.is_handshaking() {
            self.tls_handshakes -= 1;
        }
        self.blocks_back(tls.carry);
    }
}

/// Longest record that says that nothing more comes: header, explicit nonce, alert, type, tag.
const GOODBYE_MAX: usize = 5 + 8 + 2 + 1 + 16;
