//! The players of a run, good and bad.

use std::collections::VecDeque;
use std::sync::Arc;

use rustls::ClientConfig;

use super::frames::{FrameReader, Writer};
use super::kernel::one_in;
use super::network::{Network, PLAIN, SEALED, WireId};
use super::sealed::Sealed;
use super::talk::{Asked, Heard, Talk};
use super::trace::Trace;
use crate::engine::tests::client::{BINARY, CLOSE, PING, PONG, TEXT, frame, whole};
use crate::id::SessionId;
use crate::wire::close::CloseCode;
use crate::wire::guid::Guid;
use crate::wire::header::Flags;

const PAUSE: u8 = 4;
const PAUSE_WHEN_REPLACED: u8 = 100;

/// How a client behaves, beyond asking and answering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Persona {
    Honest,
    /// Reads a few bytes at a time.
    SlowReader,
    /// Sends dozens of messages at once.
    Flooder,
    /// Sends everything in pieces, some of them empty, with Pings in between.
    Fragmenter,
    /// Sends and reads single bytes.
    OneByte,
    /// Sends what no client sends, before or after the handshake.
    Garbage,
    /// Closes in the middle of everything, in every way there is.
    Closer,
    /// Vanishes without a word.
    HalfOpen,
    /// Cuts its connection and takes its session up again.
    Restless,
}

impl Persona {
    pub(super) const ALL: [Self; 9] = [
        Self::Honest,
        Self::SlowReader,
        Self::Flooder,
        Self::Fragmenter,
        Self::OneByte,
        Self::Garbage,
        Self::Closer,
        Self::HalfOpen,
        Self::Restless,
    ];
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Away,
    /// The answer to the upgrade is awaited.
    Door,
    Open,
    /// Refused or closing: reads to the end.
    Leaving,
    /// Gone without the gateway's knowledge.
    Vanished,
}

#[derive(Debug)]
pub(super) struct Client {
    pub(super) session: SessionId,
    pub(super) persona: Persona,
    pub(super) stage: Stage,
    wire: Option<WireId>,
    /// `None` while it speaks in plain.
    sealed: Option<Box<Sealed>>,
    /// Not yet on the wire, nor sealed.
    out: VecDeque<u8>,
    head: Vec<u8>,
    frames: FrameReader,
    pub(super) talk: Talk,
    token: Option<String>,
    /// Comes again in one of so many steps.
    pause: u8,
    /// Answers with each code on connections of before.
    answers: [u64; 256],
}

/// What a client acts with.
pub(super) struct Around<'a> {
    pub(super) network: &'a mut Network,
    pub(super) rng: &'a mut fastrand::Rng,
    pub(super) trace: &'a mut Trace,
    pub(super) tls: &'a Arc<ClientConfig>,
    pub(super) shards: usize,
    /// GUIDs of those who are or were here.
    pub(super) peers: &'a [Guid],
    /// GUIDs of endpoints, and whose they are.
    pub(super) endpoints: &'a [(SessionId, Guid)],
    pub(super) message_bytes_max: usize,
    pub(super) channel_max: u16,
    pub(super) serials: &'a mut u32,
    /// Newest event that the clients of each session have had.
    pub(super) seen: &'a mut dyn FnMut(SessionId, u64),
    /// Nothing new is begun, everybody is at his best.
    pub(super) calm: bool,
    pub(super) draining: bool,
}

impl Client {
    pub(super) fn new(session: SessionId, persona: Persona) -> Self {
        Self {
            session,
            persona,
            stage: Stage::Away,
            wire: None,
            sealed: None,
            out: VecDeque::new(),
            head: Vec::new(),
            frames: FrameReader::new(Writer::Server),
            talk: Talk::new(session, 0),
            token: None,
            pause: PAUSE,
            answers: [0; 256],
        }
    }

    /// Whether everything that it has asked must have been answered by now.
    pub(super) fn keeps_its_side(&self) -> bool {
        self.stage == Stage::Open && self.has_sent_all() && self.persona != Persona::Garbage
    }

    fn has_sent_all(&self) -> bool {
        self.out.is_empty() && self.sealed.as_ref().is_none_or(|sealed| sealed.has_sent_all())
    }

    pub(super) fn act(&mut self, around: &mut Around<'_>) {
        self.talk.draining = around.draining;
        match self.stage {
            Stage::Vanished => self.come_back(around),
            Stage::Away if !around.calm && around.rng.u8(..self.pause) == 0 => self.knock(around),
            Stage::Away => {}
            Stage::Door | Stage::Open | Stage::Leaving => {
                self.read(around);
                if self.stage == Stage::Open && !around.calm {
                    self.speak(around);
                    self.misbehave(around);
                }
                self.write(around);
            }
        }
    }

    fn knock(&mut self, around: &mut Around<'_>) {
        let rng = &mut *around.rng;
        let shard = rng.usize(..around.shards);
        let listener = if rng.u8(..3) == 0 { SEALED } else { PLAIN };
        self.wire = Some(around.network.dial_shard(shard, listener, rng));
        // Some speak TLS where it is not understood, or nothing else where it is.
        let mistaken = self.persona == Persona::Garbage && rng.u8(..6) == 0;
        let speaks_tls = (listener == SEALED) != mistaken;
        self.sealed = speaks_tls.then(|| Box::new(Sealed::new(around.tls, !mistaken)));
        self.stage = Stage::Door;
        self.pause = PAUSE;
        *around.serials += 1;
        for (code, answers) in (0..=u8::MAX).zip(&mut self.answers) {
            *answers += self.talk.count(code);
        }
        self.talk = Talk::new(self.session, *around.serials);
        self.talk.noisy = self.persona == Persona::Garbage;
        self.frames = FrameReader::new(Writer::Server);
        self.head.clear();
        self.out.clear();
        if self.persona == Persona::Garbage && rng.u8(..3) == 0 {
            if rng.bool() {
                self.sealed = None;
            }
            return self.out.extend(noise(rng, 600));
        }
        let session = self.session;
        let credential = match (rng.u8(..12), &self.token) {
            (0, _) => "Authorization: Bearer bad".into(),
            (1, _) => format!("Authorization: Bearer ask.{session}"),
            (2..8, Some(token)) => format!("Authorization: Reconnect {token}"),
            _ => format!("Authorization: Bearer session.{session}"),
        };
        let path = if rng.u8(..40) == 0 { "/nowhere" } else { "/connect" };
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             {credential}\r\n\r\n"
        );
        self.out.extend(head.into_bytes());
        around.trace.number(u64::from(self.talk.serial));
        around.trace.note(|| {
            let Talk { serial, .. } = self.talk;
            format!(
                "{serial} ({session}, {:?}) knocks at shard {shard}, {listener:?}: {credential}",
                self.persona
            )
        });
    }

    fn read(&mut self, around: &mut Around<'_>) {
        let Some(wire) = self.wire else { return };
        let most = match self.persona {
            _ if around.calm => usize::MAX,
            Persona::SlowReader => around.rng.usize(..200),
            Persona::OneByte => around.rng.usize(..8),
            _ if around.rng.u8(..8) == 0 => 0,
            _ => usize::MAX,
        };
        let mut bytes = around.network.wire(wire).read(most);
        if let Some(sealed) = &mut self.sealed {
            around.trace.number(bytes.len() as u64);
            let Some(plain) = sealed.open(&bytes) else {
                return self.leave(around);
            };
            bytes = plain;
        }
        around.trace.bytes(&bytes);
        self.take(&bytes, around);
        let wire = around.network.wire(wire);
        if wire.is_over() {
            if let Some(sealed) = &self.sealed {
                sealed.ends(wire.finished_by_shard && !wire.reset);
            }
            self.leave(around);
        }
    }

    fn take(&mut self, bytes: &[u8], around: &mut Around<'_>) {
        if self.stage == Stage::Door {
            self.head.extend_from_slice(bytes);
            let Some(end) = self.head.windows(4).position(|four| four == b"\r\n\r\n") else {
                return;
            };
            assert!(self.head.starts_with(b"HTTP/1.1 "), "the answer is HTTP");
            if self.head.starts_with(b"HTTP/1.1 101 ") {
                self.stage = Stage::Open;
                self.frames.push(&self.head[end + 4..]);
            } else {
                self.stage = Stage::Leaving;
            }
            let status = String::from_utf8_lossy(&self.head[9..12]).into_owned();
            around.trace.note(|| format!("{} is answered {status}", self.talk.serial));
        } else if self.stage == Stage::Open {
            self.frames.push(bytes);
        }
        while self.stage == Stage::Open
            && let Some(frame) = self.frames.next()
        {
            self.take_frame(frame.opcode, &frame.payload, around);
        }
    }

    fn take_frame(&mut self, opcode: u8, payload: &[u8], around: &mut Around<'_>) {
        match opcode {
            BINARY => match self.talk.hear(payload) {
                Heard::Nothing => {}
                Heard::ReconnectToken(token) => self.token = Some(token),
                Heard::Event(number) => (around.seen)(self.session, number),
                Heard::Question(id) if around.rng.u8(..4) > 0 => {
                    let answer = self.talk.answer(id);
                    self.out.extend(whole(BINARY, &answer));
                }
                Heard::Question(_) => {}
            },
            TEXT => assert!(payload.starts_with(b"{\"eventName\":\"connect.disconnect")),
            PING => self.out.extend(whole(PONG, payload)),
            PONG => {}
            _ => {
                let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                around.trace.note(|| format!("{} is told to go: {code:?}", self.talk.serial));
                self.out.extend(whole(CLOSE, &payload[..payload.len().min(2)]));
                if code == Some(CloseCode::Replaced.code()) {
                    // Or two with one token would take each other's place for ever.
                    self.pause = PAUSE_WHEN_REPLACED;
                }
                self.stage = Stage::Leaving;
            }
        }
    }

    fn write(&mut self, around: &mut Around<'_>) {
        let Some(wire) = self.wire else { return };
        let most = match self.persona {
            _ if around.calm => usize::MAX,
            Persona::OneByte => around.rng.usize(..4),
            _ => usize::MAX,
        };
        let out = match &mut self.sealed {
            Some(sealed) => sealed.seal(&mut self.out),
            None => &mut self.out,
        };
        let len = most.min(out.len());
        let bytes: Vec<u8> = out.iter().take(len).copied().collect();
        let taken = around.network.wire(wire).write(&bytes);
        out.drain(..taken);
        if self.stage == Stage::Leaving
            && self.has_sent_all()
            && around.network.wire(wire).is_over()
        {
            self.leave(around);
        }
    }

    /// The connection is over for this end.
    fn leave(&mut self, around: &mut Around<'_>) {
        if let Some(wire) = self.wire.take() {
            let wire = around.network.wire(wire);
            if let Some(mut sealed) = self.sealed.take()
                && around.rng.bool()
            {
                sealed.leave();
                wire.write(sealed.seal(&mut self.out).make_contiguous());
            }
            wire.close();
        }
        around.trace.note(|| format!("{} has gone", self.talk.serial));
        self.stage = Stage::Away;
    }

    /// Somebody who has vanished may come again, with another connection.
    fn come_back(&mut self, around: &mut Around<'_>) {
        if !around.calm && around.rng.u8(..40) == 0 {
            self.wire = None;
            self.stage = Stage::Away;
        }
    }

    fn misbehave(&mut self, around: &mut Around<'_>) {
        let Some(wire) = self.wire else { return };
        let rng = &mut *around.rng;
        match self.persona {
            Persona::Garbage if rng.u8(..10) == 0 => {
                let noise = noise(rng, 300);
                match &mut self.sealed {
                    Some(sealed) if rng.bool() => sealed.spoil(&noise),
                    _ => self.out.extend(noise),
                }
            }
            Persona::HalfOpen if rng.u8(..40) == 0 => {
                around.trace.note(|| format!("{} vanishes", self.talk.serial));
                self.stage = Stage::Vanished;
            }
            Persona::Restless if rng.u8(..30) == 0 => {
                around.network.wire(wire).reset();
                self.leave(around);
            }
            Persona::Closer if rng.u8(..30) == 0 => match rng.u8(..4) {
                0 => self.out.extend(whole(CLOSE, &1000u16.to_be_bytes())),
                1 => match &mut self.sealed {
                    Some(sealed) if rng.bool() => sealed.leave(),
                    _ => around.network.wire(wire).finish(),
                },
                2 => {
                    around.network.wire(wire).reset();
                    self.leave(around);
                }
                _ => self.leave(around),
            },
            _ => {}
        }
    }

    fn speak(&mut self, around: &mut Around<'_>) {
        if let Some(sealed) = &mut self.sealed
            && around.rng.u8(..50) == 0
        {
            sealed.renew();
        }
        let messages = match self.persona {
            Persona::Flooder if around.rng.u8(..6) == 0 => around.rng.usize(..40),
            _ => usize::from(around.rng.u8(..3) == 0),
        };
        for _ in 0..messages {
            // Whoever is not read stops to speak, or his own memory would be the test's.
            if self.out.len() < 64 << 10 {
                self.say(around);
            }
        }
    }

    fn say(&mut self, around: &mut Around<'_>) {
        let rng = &mut *around.rng;
        let channel = rng.u16(..3);
        let mut flags = Flags::NONE;
        if rng.u8(..6) == 0 {
            flags = flags.union(Flags::EVENT);
        }
        if rng.u8(..6) == 0 {
            flags = flags.union(Flags::PRIORITY);
        }
        let filler = match rng.u8(..16) {
            0 => rng.usize(..around.message_bytes_max - 100),
            1..4 => rng.usize(..2000),
            _ => rng.usize(..100),
        };
        let endpoint = rng.choice(self.talk.endpoints.iter().copied());
        let peer = rng.choice(around.peers.iter().copied());
        let talk = &mut self.talk;
        let message = match (rng.u8(..100), endpoint, peer) {
            (0..45, Some(guid), _) => talk.ask(Asked::Call, flags, channel, guid, filler),
            (45..50, Some(guid), _) => {
                talk.ask(Asked::Meta, Flags::META, channel, guid, filler.min(100))
            }
            (50..75, _, Some(guid)) => {
                talk.ask(Asked::Peer, flags.union(Flags::CLIENT), channel, guid, filler)
            }
            (75..79, _, Some(_)) => {
                let flags = flags.union(Flags::CLIENT);
                talk.ask(Asked::Broadcast, flags, channel, Guid::BROADCAST, filler)
            }
            (79..85, ..) => {
                let session = talk.session;
                let others = around.endpoints.iter().filter(|(owner, _)| *owner != session);
                let others: Vec<Guid> = others.map(|(_, guid)| *guid).collect();
                let foreign = rng.choice(others);
                let guid = foreign.unwrap_or(Guid(rng.u128(..).to_be_bytes()));
                talk.ask(Asked::Stranger, flags, channel, guid, filler)
            }
            (85..88, ..) => {
                talk.sent_text();
                return self.out.extend(whole(TEXT, b"hello?"));
            }
            (88, Some(guid), _) => {
                let filler = around.message_bytes_max + rng.usize(..500);
                talk.ask(Asked::TooLong, flags, channel, guid, filler)
            }
            (89..92, _, Some(guid)) => {
                let (flags, channel) = (flags.union(Flags::CLIENT), around.channel_max + 1);
                talk.ask(Asked::BadChannel, flags, channel, guid, filler)
            }
            (92..94, ..) => talk.ask(Asked::Unmatched, Flags::RESPONSE, channel, Guid::NULL, 0),
            (94, ..) => vec![0; rng.usize(..16)],
            (95..98, ..) => return self.out.extend(whole(PING, &[7; 5])),
            _ => return,
        };
        if self.persona == Persona::Fragmenter {
            self.say_in_pieces(&message, rng);
        } else {
            self.out.extend(whole(BINARY, &message));
        }
    }

    fn say_in_pieces(&mut self, message: &[u8], rng: &mut fastrand::Rng) {
        self.out.extend(frame(BINARY, &[]));
        for piece in message.chunks((message.len() / 4).max(1)) {
            self.out.extend(frame(0, piece));
            if rng.u8(..3) == 0 {
                self.out.extend(whole(PING, b"between"));
            }
        }
        self.out.extend(frame(0x80, &[]));
    }

    /// The network fails under this client.
    pub(super) fn is_cut(&self, network: &mut Network) {
        if let Some(wire) = self.wire {
            network.wire(wire).reset();
        }
    }

    /// Answers with this code on all of its connections.
    pub(super) fn answers(&self, code: u8) -> u64 {
        self.answers[usize::from(code)] + self.talk.count(code)
    }
}

fn noise(rng: &mut fastrand::Rng, most: usize) -> Vec<u8> {
    let mut noise = vec![0; rng.usize(1..most)];
    rng.fill(&mut noise);
    // Some of it looks like the real thing for a while.
    if one_in(rng, 2) {
        noise[0] = 0x82;
    }
    noise
}
