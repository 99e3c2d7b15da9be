//! A backend that speaks the link protocol: honest, slow, forgetful, or out of its mind.

use std::collections::BTreeMap;
use std::time::Duration;

use super::frames::{FrameReader, Writer, unmasked};
use super::network::{Network, WireId};
use super::stamp::Stamp;
use crate::clock::Instant;
use crate::engine::tests::client::{BINARY, CLOSE, PING, PONG};
use crate::id::SessionId;
use crate::upstream::link::{Kind, NO_ENDPOINT, PREFIX_LEN, Prefix, SUBPROTOCOL};
use crate::wire::guid::Guid;
use crate::wire::handshake::{ACCEPT_BYTES_MAX, accept};
use crate::wire::header::{Flags, RequestHeader, ResponseHeader};

/// Where the code stands in an answer.
const CODE_AT: usize = ResponseHeader::LEN - 1;

const HELLO: &[u8] = br#"{"version":1,"credit":{"messages":4,"bytes":8192}}"#;

#[derive(Debug)]
struct LinkServed {
    wire: WireId,
    head: Vec<u8>,
    upgraded: bool,
    frames: FrameReader,
    /// Sessions that are open here, with the credit that each is owed.
    open: BTreeMap<SessionId, (u32, u32)>,
    /// Tags of calls, and whose they are.
    asked: Vec<(u32, SessionId)>,
    /// Messages to be sent, from when on.
    due: Vec<(Instant, Vec<u8>)>,
    out: Vec<u8>,
    /// Nothing more comes behind what is in `out`.
    ends: bool,
}

#[derive(Debug, Default)]
pub(super) struct LinkBackend {
    connections: Vec<LinkServed>,
    rpcs: u64,
    closed: usize,
}

impl LinkBackend {
    pub(super) fn take(&mut self, wire: WireId) {
        self.connections.push(LinkServed {
            wire,
            head: Vec::new(),
            upgraded: false,
            frames: FrameReader::new(Writer::Client),
            open: BTreeMap::new(),
            asked: Vec::new(),
            due: Vec::new(),
            out: Vec::new(),
            ends: false,
        });
    }

    pub(super) fn act(
        &mut self,
        now: Instant,
        calm: bool,
        network: &mut Network,
        rng: &mut fastrand::Rng,
    ) {
        let (rpcs, closed) = (&mut self.rpcs, &mut self.closed);
        self.connections.retain_mut(|link| {
            *closed += link.read(now, calm, network, rng);
            if !calm && link.upgraded {
                link.begin(rpcs, rng);
            }
            link.write(now, network, rng)
        });
    }

    /// Close frames that came.
    pub(super) fn closed(&self) -> usize {
        self.closed
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.connections.iter().flat_map(|link| link.due.iter().map(|(at, _)| *at)).min()
    }
}

impl LinkServed {
    /// Says how many close frames there were.
    fn read(
        &mut self,
        now: Instant,
        calm: bool,
        network: &mut Network,
        rng: &mut fastrand::Rng,
    ) -> usize {
        let mut closed = 0;
        let bytes = network.wire(self.wire).read(rng.usize(1..8000));
        if self.upgraded {
            self.frames.push(&bytes);
        } else {
            self.head.extend_from_slice(&bytes);
            self.upgrade(rng, calm);
        }
        while let Some(frame) = self.frames.next() {
            match frame.opcode {
                BINARY => self.hear(&frame.payload, now, calm, rng),
                PING => self.out.extend(unmasked(PONG, &frame.payload)),
                CLOSE => {
                    self.out.extend(unmasked(CLOSE, &frame.payload[..frame.payload.len().min(2)]));
                    self.ends = true;
                    closed += 1;
                }
                _ => {}
            }
        }
        closed
    }

    fn upgrade(&mut self, rng: &mut fastrand::Rng, calm: bool) {
        let Some(end) = self.head.windows(4).position(|four| four == b"\r\n\r\n") else { return };
        assert_eq!(end + 4, self.head.len(), "nothing comes before the upgrade");
        let head = String::from_utf8(std::mem::take(&mut self.head)).expect("heads are text");
        let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "));
        let key = key.and_then(|key| key.as_bytes().first_chunk::<24>()).expect("a key");
        if !calm && rng.u8(..10) == 0 {
            self.out.extend_from_slice(b"HTTP/1.1 503 Service Unavailable\r\n\r\n");
            self.ends = true;
            return;
        }
        let mut answer = [0; ACCEPT_BYTES_MAX];
        let len = accept(key, Some(SUBPROTOCOL), &mut answer);
        self.out.extend_from_slice(&answer[..len]);
        self.upgraded = true;
    }

    fn hear(&mut self, message: &[u8], now: Instant, calm: bool, rng: &mut fastrand::Rng) {
        let (prefix, at) = Prefix::parse(message).expect("the gateway keeps to the protocol");
        let (session, body) = (prefix.session, &message[at..]);
        match prefix.kind {
            Kind::Hello => self.send(Prefix::of(Kind::Hello, SessionId(0)), HELLO),
            Kind::Open => {
                self.open.insert(session, (0, 0));
            }
            Kind::Close => {
                self.open.remove(&session);
            }
            Kind::Data => self.data(prefix, body, now, calm, rng),
            Kind::Credit | Kind::GoAway => {}
        }
    }

    fn data(
        &mut self,
        prefix: Prefix,
        body: &[u8],
        now: Instant,
        calm: bool,
        rng: &mut fastrand::Rng,
    ) {
        let session = prefix.session;
        // Somebody who was forgotten is opened again with his next message, unless that was under
        // way already.
        let owed = self.open.entry(session).or_default();
        if prefix.tag == 0 {
            if prefix.endpoint == NO_ENDPOINT {
                let answer = &body[ResponseHeader::LEN..];
                let own = answer.is_empty() || answer == session.0.to_be_bytes();
                assert!(own, "the answer of somebody else to an RPC");
            }
            owed.0 += 1;
            owed.1 += body.len() as u32;
            let (messages, bytes) = *owed;
            if messages > 1 || calm {
                *owed = (0, 0);
                let credit = format!("{{\"messages\":{messages},\"bytes\":{bytes}}}");
                self.send(Prefix::of(Kind::Credit, session), credit.as_bytes());
            }
            return;
        }
        self.asked.push((prefix.tag, session));
        let header = RequestHeader::parse(body).expect("a call is a whole message");
        let payload = &body[RequestHeader::LEN..];
        let meta = header.flags.contains(Flags::META);
        if !payload.is_empty() {
            assert_eq!(Stamp::read(payload).session, session, "a call of somebody else");
        }
        let mood = if calm { 99 } else { rng.u8(..100) };
        let code = if mood < 5 { 50 + rng.u8(..4) } else { 0 };
        let flags = header.flags.union(Flags::RESPONSE).without(Flags::COMPRESSED);
        let RequestHeader { channel, sequence, message_id, .. } = header;
        let answer = ResponseHeader { flags, channel, sequence, message_id, code };
        let mut frame = answer.to_bytes().to_vec();
        match (code, meta) {
            (0, true) => frame.extend(session.to_string().into_bytes()),
            (0, false) => frame.extend_from_slice(payload),
            _ => {}
        }
        let mut message = Prefix { endpoint: NO_ENDPOINT, ..prefix }.to_bytes(None).to_vec();
        message.extend(frame);
        match mood {
            // Never answered, answered late, answered twice.
            5..8 => return,
            8..25 => {
                let wait = Duration::from_millis(rng.u64(..if mood < 10 { 8000 } else { 50 }));
                return self.due.push((now + wait, message));
            }
            25..30 => self.put(&message),
            30..33 => self.misaddress(session, &message, rng),
            33..35 => message.truncate(PREFIX_LEN + rng.usize(..ResponseHeader::LEN)),
            // A code that is not a backend's to give.
            35 => message[PREFIX_LEN + CODE_AT] = if rng.bool() { 32 } else { 72 },
            _ => {}
        }
        self.put(&message);
    }

    /// The answer of one session under the name of another, or to the call of another: nobody may
    /// get it.
    fn misaddress(&mut self, session: SessionId, answer: &[u8], rng: &mut fastrand::Rng) {
        let others = self.asked.iter().filter(|(_, other)| *other != session);
        let others: Vec<(u32, SessionId)> = others.rev().take(4).copied().collect();
        let Some((tag, other)) = rng.choice(others) else { return };
        let mut wrong = answer.to_vec();
        if rng.bool() {
            wrong[4..8].copy_from_slice(&tag.to_be_bytes());
        } else {
            wrong[8..24].copy_from_slice(&other.0.to_be_bytes());
        }
        self.put(&wrong);
    }

    /// What a backend does without being asked.
    fn begin(&mut self, rpcs: &mut u64, rng: &mut fastrand::Rng) {
        let session = rng.choice(self.open.keys().copied());
        match (rng.u16(..600), session) {
            (0..30, Some(session)) => self.push(session, Flags::EVENT, 0, rng),
            (30..45, Some(session)) => {
                *rpcs += 1;
                self.push(session, Flags::BINARY, 1 << 62 | *rpcs, rng);
            }
            (45..50, _) => self.push(SessionId(rng.u128(..)), Flags::EVENT, 0, rng),
            (50..53, Some(session)) => {
                self.open.remove(&session);
                self.send(Prefix::of(Kind::Close, session), br#"{"reason":"forgotten"}"#);
            }
            (53..55, _) => {
                self.send(Prefix::of(Kind::GoAway, SessionId(0)), br#"{"deadlineMs":1000}"#);
            }
            (55, _) => self.put(&[(); 40].map(|()| rng.u8(..))),
            (56, _) => self.out.extend([(); 30].map(|()| rng.u8(..))),
            (57, _) => self.ends = true,
            (60..62, _) => self.out.extend(unmasked(CLOSE, &1001_u16.to_be_bytes())),
            (58, _) => self.out.extend(unmasked(PING, b"there?")),
            (59, _) => {
                let tag = rng.u32(1..20);
                let prefix = Prefix { tag, ..Prefix::of(Kind::Data, SessionId(rng.u128(..))) };
                self.send(prefix, &[0x40; 16]);
            }
            _ => {}
        }
    }

    fn push(&mut self, session: SessionId, flags: Flags, message_id: u64, rng: &mut fastrand::Rng) {
        let guid = Guid::NULL;
        let header = RequestHeader { flags, channel: 0, sequence: 0, guid, message_id };
        let stamp = Stamp { session, serial: 0, number: 0, to: [0; 16] };
        let message = [header.to_bytes().to_vec(), stamp.payload(rng.usize(..300))].concat();
        self.send(Prefix::of(Kind::Data, session), &message);
    }

    fn send(&mut self, prefix: Prefix, body: &[u8]) {
        let message = [&prefix.to_bytes(None)[..], body].concat();
        self.put(&message);
    }

    fn put(&mut self, message: &[u8]) {
        self.out.extend(unmasked(BINARY, message));
    }

    /// Says whether the link is still there.
    fn write(&mut self, now: Instant, network: &mut Network, rng: &mut fastrand::Rng) -> bool {
        let due = std::mem::take(&mut self.due);
        for (at, message) in due {
            if at <= now {
                self.put(&message);
            } else {
                self.due.push((at, message));
            }
        }
        let wire = network.wire(self.wire);
        let piece = self.out.len().min(rng.usize(1..9000));
        let taken = wire.write(&self.out[..piece]);
        self.out.drain(..taken);
        if wire.is_over() || (self.ends && self.out.is_empty()) {
            wire.close();
            return false;
        }
        true
    }
}
