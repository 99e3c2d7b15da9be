//! Links: a backend may send what it likes. Each call is answered once, bounds hold, and all that is
//! written is whole frames.

use std::collections::BTreeSet;
use std::iter;
use std::sync::Arc;
use std::time::Duration;

use arbitrary::{Arbitrary, Result, Unstructured};
use corelane_shard::clock::Instant;
use corelane_shard::id::{ConnectionKey, Generation, ServiceId, SessionId, ShardId, Slot};
use corelane_shard::identity::{Identity, Standing};
use corelane_shard::snapshot::{
    ConnectionMode, DoorLimits, Endpoint, Method, SessionLimits, Snapshot, Tracing,
};
use corelane_shard::upstream::link::{
    Client, Data, Gateway, Inbound, Kind, Link, LinkLimits, LinkState, NO_ENDPOINT, NotSent,
    PREFIX_LEN, Prefix, RESPONSE_BYTES_MAX, Window, parse_upgrade_response,
};
use corelane_shard::wire::frame::Role;
use corelane_shard::wire::inbound::{DataKind, InboundLimits};

use crate::receiver::{Event, LIMITS as FRAME_LIMITS, received};

const LIMITS: LinkLimits = LinkLimits {
    dial_timeout: Duration::from_secs(2),
    ping_interval: Duration::from_secs(25),
    pong_timeout: Duration::from_secs(20),
    window: Window { messages: 4, bytes: 1000 },
    calls_max: 20,
};

const SESSIONS: u8 = 4;

const KEY: [u8; 16] = *b"the sample nonce";

/// An even first byte: the answer to an upgrade follows. An odd one: what happens on a link.
pub fn link(input: &[u8]) {
    match input.split_first() {
        Some((first, bytes)) if first % 2 == 0 => upgrade(bytes),
        Some((_, bytes)) => {
            let mut run = Run::new();
            let _input_is_used_up = run.all(&mut Unstructured::new(bytes));
            run.end();
        }
        None => {}
    }
}

/// More bytes change no answer.
fn upgrade(bytes: &[u8]) {
    let whole = parse_upgrade_response(bytes, KEY);
    if let Ok(Some(len)) = whole {
        assert!(len <= bytes.len());
        assert_eq!(parse_upgrade_response(&bytes[..len], KEY), whole);
        assert!(!matches!(parse_upgrade_response(&bytes[..len - 1], KEY), Ok(Some(_))));
    }
    if bytes.len() > RESPONSE_BYTES_MAX {
        return;
    }
    let first_half = parse_upgrade_response(&bytes[..bytes.len() / 2], KEY);
    if first_half != Ok(None) {
        assert_eq!(first_half, whole);
    }
}

#[derive(Debug, Arbitrary)]
enum Step<'a> {
    Call {
        session: u8,
        bytes: u16,
        seconds: u8,
    },
    Post {
        session: u8,
        bytes: u16,
    },
    EndSession {
        session: u8,
    },
    /// The oldest push that was not handled.
    Handle,
    Later {
        ms: u16,
    },
    Timer,
    GoAway,
    Receive {
        message: &'a [u8],
    },
    Answer {
        tag: u8,
        session: u8,
        header: &'a [u8],
    },
    Push {
        session: u8,
        flags: u8,
        bytes: u16,
    },
    Json {
        kind: u8,
        session: u8,
        text: &'a str,
    },
    Grant {
        session: u8,
        messages: u8,
        bytes: u16,
    },
    Forget {
        session: u8,
    },
    Hello {
        messages: u8,
        bytes: u16,
    },
    /// How much room there is for what is written.
    Room {
        bytes: u16,
    },
}

struct Run {
    link: Link<u32>,
    now: Instant,
    room: usize,
    next_call: u32,
    /// Not answered yet.
    calls: BTreeSet<u32>,
    pushed: Vec<(SessionId, usize)>,
    broken: bool,
}

impl Run {
    fn new() -> Self {
        let now = Instant(1_000_000_000);
        let mut link = Link::new(LIMITS, 1, now);
        link.adopt(&snapshot(), ServiceId(0));
        link.connected();
        link.upgraded(now);
        let mut out = Vec::with_capacity(1 << 12);
        let gateway = Gateway { service: "demo", node: "7", shard: ShardId(0) };
        assert_eq!(link.write_hello(gateway, &mut out), Ok(()));
        whole_frames(&out);
        let (calls, pushed) = (BTreeSet::new(), Vec::new());
        Self { link, now, room: 1 << 17, next_call: 0, calls, pushed, broken: false }
    }

    fn all(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        while !input.is_empty() && !self.broken {
            let step = Step::arbitrary(input)?;
            self.step(&step);
            assert_eq!(self.link.outstanding(), self.calls.len(), "{step:?}");
            assert!(self.calls.len() <= LIMITS.calls_max);
            assert!(self.link.sessions() <= usize::from(SESSIONS));
            let waits = self.link.next_deadline().is_some();
            assert!(
                waits != self.broken || self.link.state() != LinkState::Closed,
                "until a moment"
            );
        }
        Ok(())
    }

    fn step(&mut self, step: &Step<'_>) {
        let mut out = Vec::with_capacity(self.room);
        match *step {
            Step::Call { session, bytes, seconds } => self.call(session, bytes, seconds, &mut out),
            Step::Post { session, bytes } => {
                let (identity, frame) = (identity(session), vec![0x10; usize::from(bytes) % 2000]);
                let _refused = self.link.post(&client(&identity), data(&frame), &mut out);
            }
            Step::EndSession { session } => {
                let (id, owner) = (session_id(session), owner(session));
                let ended = self.link.end_session(id, owner, "end", &mut out);
                assert!(ended.is_err() || !self.link.carries(id));
            }
            Step::Handle => {
                if !self.pushed.is_empty() {
                    let (session, bytes) = self.pushed.remove(0);
                    self.link.handled(session, bytes, &mut out);
                }
            }
            Step::Later { ms } => self.now = self.now + Duration::from_millis(ms.into()),
            Step::Timer => self.timer(&mut out),
            Step::GoAway => {
                let open = self.link.state() == LinkState::Open;
                let said = self.link.go_away(Duration::from_secs(3), &mut out);
                assert!(said.is_err() || open);
            }
            Step::Room { bytes } => self.room = usize::from(bytes),
            _ => self.receive(&message(step)),
        }
        if !matches!(step, Step::Room { .. }) {
            assert!(out.len() <= self.room, "nothing is written beyond the room");
        }
        whole_frames(&out);
    }

    fn call(&mut self, session: u8, bytes: u16, seconds: u8, out: &mut Vec<u8>) {
        let (identity, frame) = (identity(session), vec![0; usize::from(bytes) % 2000]);
        let client = client(&identity);
        let had_credit = self.link.has_credit(identity.session, client.owner, frame.len());
        let before = out.len();
        let deadline = self.now + Duration::from_secs(seconds.into());
        let call = self.next_call;
        self.next_call += 1;
        match self.link.call(&client, data(&frame), call, deadline, out) {
            Ok(()) => {
                assert!(had_credit && self.link.carries(identity.session));
                assert!(self.calls.insert(call));
            }
            Err(why) => {
                assert_eq!(out.len(), before, "what is refused writes nothing");
                assert!(why != NotSent::NoCredit || !had_credit);
            }
        }
    }

    fn timer(&mut self, out: &mut Vec<u8>) {
        while let Some(call) = self.link.expire(self.now) {
            assert!(self.calls.remove(&call), "answered once");
        }
        if self.link.on_timer(self.now, out).is_err() {
            self.broken = true;
        }
    }

    fn receive(&mut self, message: &[u8]) {
        self.link.heard();
        let outcome = match self.link.receive(message) {
            Ok(outcome) => outcome,
            Err(error) => {
                let mut out = Vec::with_capacity(200);
                if let Some(code) = error.close_code() {
                    assert_eq!(self.link.close(code, &error.to_string(), &mut out), Ok(()));
                }
                whole_frames(&out);
                self.broken = true;
                return;
            }
        };
        match outcome {
            Inbound::Answer { call, code, frame } => {
                assert!(self.calls.remove(&call), "answered once");
                assert!(code == 0 || ((50..=60).contains(&code) && frame.len() == 16));
                assert!(frame.start >= PREFIX_LEN && frame.end <= message.len());
                assert_eq!(message[frame.start + 15], code);
            }
            Inbound::BadAnswer { call } => assert!(self.calls.remove(&call), "answered once"),
            Inbound::Push { owner: to, session, frame, .. } => {
                assert_eq!(owner((session.0 - 1) as u8), to, "to its own client");
                assert!(frame.len() >= 31 && frame.end <= message.len());
                self.pushed.push((session, frame.len()));
            }
            Inbound::Credit { .. }
            | Inbound::Forgotten { .. }
            | Inbound::Ready
            | Inbound::GoAway { .. }
            | Inbound::Dropped(_) => {}
        }
    }

    fn end(mut self) {
        while let Some(call) = self.link.pop_lost() {
            assert!(self.calls.remove(&call), "answered once");
        }
        assert!(self.calls.is_empty(), "every call is answered");
        assert_eq!((self.link.sessions(), self.link.outstanding()), (0, 0));
        assert_eq!(self.link.next_deadline(), None);
    }
}

/// What a backend sends in this step.
fn message(step: &Step<'_>) -> Vec<u8> {
    let with = |kind: Kind, tag: u32, session: u8, body: &[u8]| {
        let session = session_id(session);
        let prefix = Prefix { kind, endpoint: NO_ENDPOINT, tag, session };
        [&prefix.to_bytes(None)[..], body].concat()
    };
    match *step {
        Step::Answer { tag, session, header } => with(Kind::Data, tag.into(), session, header),
        Step::Push { session, flags, bytes } => {
            with(Kind::Data, 0, session, &vec![flags; usize::from(bytes) % 1200])
        }
        Step::Json { kind, session, text } => {
            let mut message = with(Kind::Hello, 0, session, text.as_bytes());
            message[0] = kind % 8;
            message
        }
        Step::Grant { session, messages, bytes } => {
            let json = format!(r#"{{"messages":{messages},"bytes":{bytes}}}"#);
            with(Kind::Credit, 0, session, json.as_bytes())
        }
        Step::Forget { session } => with(Kind::Close, 0, session, b"{}"),
        Step::Hello { messages, bytes } => {
            let credit = format!(r#"{{"messages":{messages},"bytes":{bytes}}}"#);
            with(Kind::Hello, 0, 0, format!(r#"{{"version":1,"credit":{credit}}}"#).as_bytes())
        }
        Step::Receive { message } => message.to_vec(),
        _ => Vec::new(),
    }
}

/// What a backend reads: whole masked frames and nothing else.
fn whole_frames(bytes: &[u8]) {
    let limits = InboundLimits {
        role: Role::Server,
        message_bytes_max: 1 << 17,
        message_bytes_hard: 1 << 17,
        control_frames_per_second: 1000,
        ..FRAME_LIMITS
    };
    let mut len = 0;
    for event in received(bytes, iter::repeat(usize::MAX), &limits) {
        let payload = match &event {
            Event::Message(DataKind::Binary, message) => {
                assert!(Prefix::parse(message).is_ok(), "a link message");
                message.len()
            }
            Event::Ping(payload) | Event::Pong(payload) => payload.len(),
            Event::Close(code, reason) => reason.len() + 2 * usize::from(code.is_some()),
            other => panic!("{other:?}"),
        };
        len += payload + if payload < 126 { 6 } else { 8 };
    }
    assert_eq!(len, bytes.len(), "whole frames");
}

fn session_id(session: u8) -> SessionId {
    SessionId(u128::from(session % SESSIONS) + 1)
}

fn owner(session: u8) -> ConnectionKey {
    ConnectionKey { slot: Slot((session % SESSIONS).into()), generation: Generation(1) }
}

fn identity(session: u8) -> Identity {
    let standing = Standing {
        tenant: "default".into(),
        roles: ["user".into()].into(),
        authorizations: Box::default(),
    };
    Identity {
        session: session_id(session),
        account: Some("anna \"a\"".into()),
        standing: Arc::new(standing),
        expires_at: None,
        issued_at: None,
    }
}

fn client(identity: &Identity) -> Client<'_> {
    let session = identity.session.0 as u8 - 1;
    Client { owner: owner(session), identity, peer: Some(([192, 0, 2, 9], 40_000).into()) }
}

fn data(frame: &[u8]) -> Data<'_> {
    Data { endpoint: 0, trace: None, frame: [frame, &[]] }
}

fn snapshot() -> Snapshot {
    let endpoint = Endpoint {
        service: ServiceId(0),
        method: Method::Post,
        path: "/demo/echo".into(),
        idempotent: false,
    };
    Snapshot {
        version: 1,
        mode: ConnectionMode::External,
        salt: "salt".into(),
        node: 7,
        services: Box::default(),
        endpoints: [endpoint].into(),
        roles: Box::default(),
        session: SessionLimits::default(),
        door: DoorLimits::default(),
        tracing: Tracing::default(),
    }
}
