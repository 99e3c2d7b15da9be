//! Every leaf of the routing decision, and what each one spends.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::id::{Generation, ShardId, Slot};
use crate::session::capability::Capabilities;
use crate::session::fixtures;
use crate::session::rpc::{PendingRpc, RpcSender};
use crate::wire::guid::{PeerRoute, SessionText};
use crate::wire::header::WantsReply;

const SESSION: SessionId = SessionId(0x3f25_04e0_4f89_41d3_9a0c_0305_e82c_3301);
const ROUTE: PeerRoute =
    PeerRoute { node: 1, shard: ShardId(0), slot: Slot(77), generation: Generation(5) };
const SHORTCUT: Guid = Guid([0xA1; 16]);
const EXPIRED: Guid = Guid([0xA2; 16]);
const TARGETLESS: Guid = Guid([0xA3; 16]);
const RPC: u64 = 4242;
const PENDING: PendingRpc =
    PendingRpc { message_id: RPC, sender: RpcSender::Control, expires: Instant::NEVER };
const MODES: [ConnectionMode; 3] =
    [ConnectionMode::External, ConnectionMode::Relayed, ConnectionMode::Internal];

/// A session of role `user` with two endpoints, three shortcuts and one pending RPC, and the
/// shard's things around it.
struct Bench {
    session: Session,
    snapshot: Snapshot,
    rates: RateLimits,
    peer_keys: PeerKeys,
    tables: FingerprintTables,
    now: Now,
}

impl Bench {
    fn new(adjust: impl FnOnce(&mut Snapshot)) -> Self {
        let endpoints = [("account", "/account/get"), ("demo", "/demo/echo"), ("demo", "/demo/x")];
        let mut snapshot = fixtures::snapshot_of(&endpoints, "salt");
        snapshot.roles[0].endpoints = Box::new([EndpointId(0), EndpointId(1)]);
        snapshot.session.messages_per_window = 0;
        adjust(&mut snapshot);
        let identity = fixtures::identity(SESSION);
        let capabilities =
            Capabilities::new(&snapshot).of_roles(&snapshot, &identity.standing.roles);
        let mut session = Session::new(identity, capabilities, &snapshot, 1);
        for shortcut in shortcuts() {
            session.shortcuts_mut().publish(shortcut).unwrap();
        }
        session.rpcs_mut().register(PENDING).unwrap();
        Self {
            session,
            rates: RateLimits::new(&snapshot.session),
            snapshot,
            peer_keys: PeerKeys::from_salt("salt"),
            tables: FingerprintTables::new(1 << 20),
            now: Now { mono: Instant(1_000_000_000), unix_ms: 1_772_463_381_123 },
        }
    }

    fn with<T>(&mut self, act: impl FnOnce(&mut Session, &mut RoutingContext<'_>) -> T) -> T {
        let mut ctx = RoutingContext {
            snapshot: &self.snapshot,
            rates: &self.rates,
            peer_keys: &self.peer_keys,
            tables: &mut self.tables,
            now: self.now,
        };
        act(&mut self.session, &mut ctx)
    }

    fn decide(&mut self, message: &[u8]) -> (Option<ReplyTo>, Verdict) {
        self.with(|session, ctx| session.on_binary(message, ctx))
    }

    /// Routes a request with payload `{}` on channel 0.
    fn request(&mut self, flags: u8, guid: Guid) -> Verdict {
        self.request_on(flags, guid, 0, b"{}")
    }

    fn request_on(&mut self, flags: u8, guid: Guid, channel: u16, payload: &[u8]) -> Verdict {
        let message = request(flags, guid, channel, payload);
        let (reply_to, verdict) = self.decide(&message);
        assert_eq!(reply_to.unwrap().channel, channel);
        verdict
    }

    fn answer(&mut self, flags: u8, message_id: u64, payload: &[u8]) -> Verdict {
        let mut header = ResponseHeader::parse(&[flags; 16]).unwrap();
        header.message_id = message_id;
        header.code = 53;
        self.decide(&[&header.to_bytes(), payload].concat()).1
    }

    fn guid(&self, endpoint: u16) -> Guid {
        guid_of(&self.snapshot, endpoint)
    }

    fn peer(&self) -> Guid {
        self.peer_keys.encode(ROUTE)
    }
}

fn request(flags: u8, guid: Guid, channel: u16, payload: &[u8]) -> Vec<u8> {
    let flags = Flags(flags);
    let header = RequestHeader { flags, channel, sequence: 3, guid, message_id: 11 };
    [&header.to_bytes(), payload].concat()
}

fn guid_of(snapshot: &Snapshot, endpoint: u16) -> Guid {
    let guids = crate::wire::guid::ServiceGuids::new(snapshot);
    guids.derive(&SessionText::new(SESSION), EndpointId(endpoint)).unwrap()
}

fn shortcuts() -> [Shortcut; 3] {
    let shortcut = |route, target, expires_unix_ms| Shortcut {
        route,
        target_guid: Guid::NULL,
        target,
        payload: Box::new(*b"{}"),
        expires_unix_ms,
        name: None,
        description: None,
        source_service: None,
    };
    [
        shortcut(SHORTCUT, Some(EndpointId(2)), Some(u64::MAX)),
        shortcut(EXPIRED, Some(EndpointId(2)), Some(1_772_463_381_123)),
        shortcut(TARGETLESS, None, None),
    ]
}

fn call(endpoint: u16, wants_reply: WantsReply) -> Verdict {
    Verdict::Call { endpoint: EndpointId(endpoint), wants_reply }
}

fn reply(code: u8) -> Verdict {
    Verdict::Reply(ResponseCode::from_value(code).unwrap())
}

fn plain() -> Bench {
    Bench::new(|_| {})
}

#[test]
fn a_session_is_small() {
    assert!(size_of::<Session>() <= 256, "{}", size_of::<Session>());
    assert!(size_of::<Verdict>() <= 40, "{}", size_of::<Verdict>());
}

#[test]
fn an_endpoint_of_the_set_is_called() {
    let mut bench = plain();
    let guid = bench.guid(1);
    for _ in 0..2 {
        assert_eq!(bench.request(0, guid), call(1, WantsReply::Yes));
    }
    assert_eq!(bench.request(0x10, guid), call(1, WantsReply::No));
}

#[test]
fn an_endpoint_outside_the_set_is_not_found() {
    let mut bench = plain();
    let guid = bench.guid(2);
    assert_eq!(bench.request(0, guid), reply(30));
    assert_eq!(bench.request(0x10, guid), reply(30));
    assert_eq!(bench.request(0, Guid::NULL), reply(30));
}

#[test]
fn a_guid_of_another_session_is_not_found() {
    let mut bench = plain();
    let guids = crate::wire::guid::ServiceGuids::new(&bench.snapshot);
    let foreign = guids.derive(&SessionText::new(SessionId(1)), EndpointId(0)).unwrap();
    assert_eq!(bench.request(0, foreign), reply(30));
}

#[test]
fn an_empty_payload_is_an_error_unless_nothing_needs_it() {
    let mut bench = plain();
    let (guid, peer) = (bench.guid(0), bench.peer());
    assert_eq!(bench.request_on(0, guid, 0, b""), reply(10));
    assert_eq!(bench.request_on(0x20, peer, 0, b""), reply(10));
    assert_eq!(bench.request_on(0x20, Guid::BROADCAST, 0, b""), reply(10));
    assert_eq!(bench.request_on(0x10, guid, 0, b""), call(0, WantsReply::No));
    assert!(matches!(bench.request_on(0x80, guid, 0, b""), Verdict::Meta { .. }));
    assert!(matches!(bench.request_on(0, SHORTCUT, 0, b""), Verdict::Shortcut { .. }));
}

#[test]
fn a_channel_above_the_maximum_is_refused_after_the_guid_was_found() {
    let mut bench = plain();
    let (guid, peer) = (bench.guid(0), bench.peer());
    assert_eq!(bench.request_on(0, guid, 1000, b"{}"), call(0, WantsReply::Yes));
    assert_eq!(bench.request_on(0, guid, 1001, b"{}"), reply(13));
    assert_eq!(bench.request_on(0, Guid([9; 16]), 1001, b"{}"), reply(30));
    assert_eq!(bench.request_on(0x20, peer, 1001, b"{}"), reply(13));
    assert_eq!(bench.request_on(0x20, Guid([9; 16]), 1001, b"{}"), reply(13));
}

#[test]
fn channels_of_shortcuts_and_broadcasts_are_not_checked() {
    let mut bench = Bench::new(|s| s.mode = ConnectionMode::Relayed);
    assert!(matches!(bench.request_on(0, SHORTCUT, 1001, b""), Verdict::Shortcut { .. }));
    let broadcast = bench.request_on(0x20, Guid::BROADCAST, 1001, b"{}");
    assert_eq!(broadcast, Verdict::Broadcast { priority: Priority::Normal });
}

#[test]
fn a_shortcut_is_called_with_its_own_payload() {
    let mut bench = plain();
    let Verdict::Shortcut { shortcut, wants_reply } = bench.request(0, SHORTCUT) else {
        panic!("not a shortcut")
    };
    assert_eq!(wants_reply, WantsReply::Yes);
    assert_eq!(bench.session.shortcut(shortcut), Some(&shortcuts()[0]));
    let with_client_flag = bench.request(0x20, SHORTCUT);
    assert!(matches!(with_client_flag, Verdict::Shortcut { .. }));
}

#[test]
fn an_expired_shortcut_is_removed() {
    let mut bench = plain();
    assert_eq!(bench.request(0, EXPIRED), reply(70));
    assert_eq!(bench.request(0, EXPIRED), reply(30));
}

#[test]
fn a_shortcut_without_target_is_answered_71() {
    assert_eq!(plain().request(0, TARGETLESS), reply(71));
}

#[test]
fn meta_asks_what_the_channel_says() {
    let mut bench = plain();
    let guid = bench.guid(1);
    let kinds = [
        (0, MetaKind::Info),
        (1, MetaKind::RequestSchema),
        (2, MetaKind::ResponseSchema),
        (3, MetaKind::Full),
        (4, MetaKind::Info),
        (1000, MetaKind::Info),
    ];
    for (channel, kind) in kinds {
        let expected = Verdict::Meta { endpoint: EndpointId(1), kind };
        assert_eq!(bench.request_on(0x80, guid, channel, b""), expected);
    }
    assert_eq!(bench.request_on(0x80, guid, 1001, b""), reply(13));
    assert_eq!(bench.request_on(0x80, Guid([9; 16]), 0, b""), reply(30));
}

#[test]
fn meta_of_what_is_no_service_is_not_found() {
    let mut bench = Bench::new(|s| s.mode = ConnectionMode::Relayed);
    let peer = bench.peer();
    assert_eq!(bench.request(0xA0, peer), reply(30));
    for flags in [0x80, 0xA0] {
        assert_eq!(bench.request(flags, Guid::BROADCAST), reply(30));
        assert_eq!(bench.request(flags, Guid::NULL), reply(30));
    }
}

#[test]
fn meta_of_a_shortcut_needs_its_target_in_the_set() {
    let mut bench = plain();
    assert_eq!(bench.request(0x80, SHORTCUT), reply(20));
    assert_eq!(bench.request(0x80, TARGETLESS), reply(71));
    let mut allowed = shortcuts()[0].clone();
    allowed.target = Some(EndpointId(1));
    bench.session.shortcuts_mut().publish(allowed).unwrap();
    let expected = Verdict::Meta { endpoint: EndpointId(1), kind: MetaKind::Info };
    assert_eq!(bench.request(0x80, SHORTCUT), expected);
}

#[test]
fn a_peer_is_routed_in_every_mode() {
    for mode in MODES {
        let mut bench = Bench::new(|s| s.mode = mode);
        let guid = bench.peer();
        for (flags, acknowledge) in [(0x20, WantsReply::Yes), (0x30, WantsReply::No)] {
            let priority = Priority::Normal;
            let expected = Verdict::Peer { route: ROUTE, guid, acknowledge, priority };
            assert_eq!(bench.request(flags, guid), expected);
        }
    }
}

#[test]
fn a_forged_or_null_peer_is_not_found() {
    let mut bench = plain();
    let mut forged = bench.peer();
    forged.0[15] ^= 1;
    let not_found = Verdict::Refuse(SessionRefusal::PeerGone);
    assert_eq!(bench.request(0x20, forged), not_found);
    assert_eq!(bench.request(0x20, Guid::NULL), not_found);
    let service = bench.guid(0);
    assert_eq!(bench.request(0x20, service), not_found);
    assert_eq!(SessionRefusal::PeerGone.code().value(), 31);
}

#[test]
fn peers_are_refused_before_their_guid_is_looked_at_when_switched_off() {
    let mut bench = Bench::new(|s| s.session.peer_routing = false);
    let peer = bench.peer();
    assert_eq!(bench.request(0x20, peer), reply(40));
    assert_eq!(bench.request(0x20, Guid::NULL), reply(40));
    assert_eq!(bench.request_on(0x20, peer, 1001, b"{}"), reply(13));
}

#[test]
fn broadcasts_are_refused_in_external_mode_and_without_the_client_flag() {
    let mut bench = plain();
    assert_eq!(bench.request(0x20, Guid::BROADCAST), reply(40));
    assert_eq!(bench.request(0, Guid::BROADCAST), reply(10));
    let mut relayed = Bench::new(|s| {
        s.mode = ConnectionMode::Relayed;
        s.session.peer_routing = false;
    });
    let allowed = Verdict::Broadcast { priority: Priority::Normal };
    assert_eq!(relayed.request(0x20, Guid::BROADCAST), allowed);
}

#[test]
fn what_each_mode_makes_of_broadcasts_and_text() {
    let broadcast = Verdict::Broadcast { priority: Priority::Normal };
    let refused = reply(40);
    for (mode, expected, answers_text) in [
        (ConnectionMode::External, refused, true),
        (ConnectionMode::Relayed, broadcast, true),
        (ConnectionMode::Internal, broadcast, false),
    ] {
        let mut bench = Bench::new(|s| {
            s.mode = mode;
            s.session.messages_per_window = 1;
        });
        assert_eq!(bench.request(0x20, Guid::BROADCAST), expected, "{mode:?}");
        for _ in 0..50 {
            let text = bench.session.on_text(mode, &bench.rates, bench.now);
            assert_eq!(text != TextVerdict::Ignore, answers_text, "{mode:?}");
        }
    }
}

#[test]
fn peers_can_be_switched_off_in_every_mode() {
    for mode in MODES {
        let mut bench = Bench::new(|s| {
            s.mode = mode;
            s.session.peer_routing = false;
        });
        let peer = bench.peer();
        assert_eq!(bench.request(0x20, peer), reply(40), "{mode:?}");
    }
}

#[test]
fn the_priority_flag_is_honoured_for_its_roles_only() {
    for (roles, expected) in [("user", Priority::Urgent), ("admin", Priority::Normal)] {
        let mut bench = Bench::new(|s| {
            s.mode = ConnectionMode::Relayed;
            s.session.priority_roles = Box::new([roles.into()]);
        });
        let peer = bench.peer();
        let Verdict::Peer { priority, .. } = bench.request(0x28, peer) else { panic!("no peer") };
        assert_eq!(priority, expected);
        let broadcast = bench.request(0x28, Guid::BROADCAST);
        assert_eq!(broadcast, Verdict::Broadcast { priority: expected });
        let Verdict::Peer { priority, .. } = bench.request(0x20, peer) else { panic!("no peer") };
        assert_eq!(priority, Priority::Normal);
    }
}

#[test]
fn an_acknowledgement_is_for_the_gateway_itself() {
    let ack = br#"{"eventName":"connect.ack","sequence":"77"}"#;
    let mut bench = plain();
    let acknowledged = Verdict::Acknowledged { sequence: 77 };
    assert_eq!(bench.request_on(0x10, Guid::NULL, 0, ack), acknowledged);
    for malformed in [&b""[..], b"{}", b"\xFF"] {
        assert_eq!(bench.request_on(0x10, Guid::NULL, 0, malformed), reply(10));
    }
    // With any other flag it is a message to nobody.
    assert_eq!(bench.request_on(0x00, Guid::NULL, 0, ack), reply(30));
    assert_eq!(bench.request_on(0x11, Guid::NULL, 0, ack), reply(30));
}

#[test]
fn an_answer_reaches_its_rpc_once_whatever_other_flags_it_has() {
    for flags in [0x40, 0x41, 0xFF] {
        let mut bench = plain();
        let expected = Verdict::RpcAnswer { rpc: PENDING, code: 53 };
        assert_eq!(bench.answer(flags, RPC, b"{}"), expected);
        let unmatched = Verdict::Refuse(SessionRefusal::UnmatchedAnswer);
        assert_eq!(bench.answer(flags, RPC, b"{}"), unmatched);
        assert_eq!(bench.answer(flags, RPC, b""), unmatched);
    }
}

#[test]
fn more_than_ten_short_frames_in_a_minute_close_the_session() {
    let mut bench = plain();
    let short: [&[u8]; 3] = [&[], &[0; 30], &[0x40; 15]];
    for i in 0..10 {
        assert_eq!(bench.decide(short[i % 3]), (None, Verdict::Ignore));
    }
    bench.now.mono = bench.now.mono + Duration::from_secs(59);
    let close = Verdict::Close(CloseReason::ShortFrames);
    assert_eq!(bench.decide(&[]), (None, close));
    bench.now.mono = bench.now.mono + Duration::from_secs(1);
    assert_eq!(bench.decide(&[]), (None, Verdict::Ignore));
}

#[test]
fn too_long_messages_are_answered_when_their_header_is_readable() {
    let mut bench = plain();
    let head = request(0x04, Guid::NULL, 5, b"");
    let (reply_to, verdict) = bench.with(|session, ctx| session.on_too_long(&head, ctx));
    assert_eq!(verdict, Verdict::Refuse(SessionRefusal::MessageTooLong));
    let answer = reply_to.unwrap().answer(SessionRefusal::MessageTooLong.code());
    assert_eq!(answer, [0x40, 0, 5, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 11, 11]);
    let (reply_to, verdict) = bench.with(|session, ctx| session.on_too_long(&head[..30], ctx));
    assert_eq!((reply_to, verdict), (None, Verdict::Close(CloseReason::MessageTooLong)));
}

#[test]
fn text_is_refused_from_a_sequence_of_its_own() {
    let mut bench = plain();
    let mut last_id = 0;
    for sequence in 1..=3 {
        let TextVerdict::Refuse(bytes) =
            bench.session.on_text(bench.snapshot.mode, &bench.rates, bench.now)
        else {
            panic!("closed")
        };
        let answer = ResponseHeader::parse(&bytes).unwrap();
        assert_eq!((answer.flags, answer.channel, answer.code), (Flags(0x40), 0, 14));
        assert_eq!(answer.sequence, sequence);
        assert!(answer.message_id > last_id);
        last_id = answer.message_id;
    }
}

#[test]
fn the_rate_limit_counts_routed_messages_and_then_closes() {
    let mut bench = Bench::new(|s| s.session.messages_per_window = 3);
    let guid = bench.guid(0);
    assert!(matches!(bench.request(0x80, guid), Verdict::Meta { .. }));
    assert_eq!(bench.request(0x20, Guid::NULL), Verdict::Refuse(SessionRefusal::PeerGone));
    assert_eq!(bench.request(0, guid), call(0, WantsReply::Yes));
    assert_eq!(bench.request(0, guid), call(0, WantsReply::Yes));
    for _ in 0..6 {
        assert_eq!(bench.request(0, guid), Verdict::Refuse(SessionRefusal::RateLimited));
    }
    assert_eq!(bench.request(0, guid), Verdict::Close(CloseReason::RateAbuse));
}

#[test]
fn an_unknown_guid_is_answered_12_without_deriving_when_the_lax_bucket_is_empty() {
    let mut bench = Bench::new(|s| s.session.messages_per_window = 2);
    let (known, other) = (bench.guid(0), bench.guid(1));
    assert_eq!(bench.request(0, known), call(0, WantsReply::Yes));
    for n in 0..8 {
        assert_eq!(bench.request(0, Guid([n; 16])), reply(30));
    }
    let limited = Verdict::Refuse(SessionRefusal::RateLimited);
    assert_eq!(bench.request(0, Guid([99; 16])), limited);
    assert_eq!(bench.request(0, other), limited);
    assert_eq!(bench.request(0, known), call(0, WantsReply::Yes));
}

#[test]
fn finding_an_endpoint_does_not_spend_the_lax_bucket() {
    let mut bench = Bench::new(|s| s.session.messages_per_window = 1);
    let guids = [bench.guid(0), bench.guid(1)];
    for i in 0..50 {
        bench.now.mono = bench.now.mono + Duration::from_secs(60);
        bench.session.index.clear(&mut bench.tables);
        assert_eq!(bench.request(0, guids[i % 2]), call(i as u16 % 2, WantsReply::Yes));
        assert!(!bench.session.allowance.lax_is_spent(&bench.rates, bench.now.mono));
    }
    assert_eq!(bench.request(0x20, Guid::NULL), Verdict::Refuse(SessionRefusal::RateLimited));
}

#[test]
fn text_and_stray_pongs_and_answers_and_meta_spend_the_lax_bucket() {
    type Act = fn(&mut Bench) -> Verdict;
    let acts: [Act; 4] = [
        |bench| match bench.session.on_text(bench.snapshot.mode, &bench.rates, bench.now) {
            TextVerdict::Refuse(bytes) => reply(bytes[15]),
            TextVerdict::Ignore => Verdict::Ignore,
            TextVerdict::Close(reason) => Verdict::Close(reason),
        },
        |bench| match bench.session.on_unsolicited_pong(&bench.rates, bench.now) {
            Ok(()) => Verdict::Ignore,
            Err(reason) => Verdict::Close(reason),
        },
        |bench| bench.answer(0x40, 1, b""),
        |bench| {
            let guid = bench.guid(0);
            bench.request(0x80, guid)
        },
    ];
    let limited = Verdict::Refuse(SessionRefusal::RateLimited);
    for (act, refused) in acts.into_iter().zip([reply(12), Verdict::Ignore, limited, limited]) {
        let mut bench = Bench::new(|s| s.session.messages_per_window = 1);
        for _ in 0..4 {
            act(&mut bench);
        }
        assert_eq!(act(&mut bench), refused);
        assert_eq!(act(&mut bench), refused);
        assert_eq!(act(&mut bench), Verdict::Close(CloseReason::RateAbuse));
    }
}

#[test]
fn a_reload_replaces_what_a_session_may_call() {
    let mut bench = plain();
    let (before, after) = (bench.guid(1), bench.guid(2));
    assert_eq!(bench.request(0, before), call(1, WantsReply::Yes));
    bench.snapshot.version = 2;
    bench.snapshot.roles[0].endpoints = Box::new([EndpointId(2)]);
    let roles = &bench.session.identity().standing.roles;
    let set = Capabilities::new(&bench.snapshot).of_roles(&bench.snapshot, roles);
    bench.session.adopt(set, &bench.snapshot, &mut bench.tables);
    assert_eq!(bench.request(0, before), reply(30));
    assert_eq!(bench.request(0, after), call(2, WantsReply::Yes));
}

#[test]
fn a_grant_replaces_what_a_session_may_call_and_leaves_its_shortcuts() {
    let mut bench = plain();
    let (before, after) = (bench.guid(0), bench.guid(2));
    assert_eq!(bench.request(0, before), call(0, WantsReply::Yes));
    let set = Capabilities::new(&bench.snapshot).of_endpoints(&bench.snapshot, &[EndpointId(2)]);
    bench.session.grant(set, &mut bench.tables);
    assert_eq!(bench.request(0, before), reply(30));
    assert_eq!(bench.request(0, after), call(2, WantsReply::Yes));
    assert!(matches!(bench.request(0, SHORTCUT), Verdict::Shortcut { .. }));
}

#[test]
fn a_reload_measures_by_the_new_rate_limit_at_once() {
    let mut bench = Bench::new(|s| {
        s.session.messages_per_window = 10;
        s.session.rate_window = Duration::from_secs(3600);
    });
    let guid = bench.guid(0);
    for _ in 0..10 {
        assert_eq!(bench.request(0, guid), call(0, WantsReply::Yes));
    }
    bench.snapshot.session.rate_window = Duration::from_secs(1);
    bench.rates = RateLimits::new(&bench.snapshot.session);
    let roles = &bench.session.identity().standing.roles;
    let set = Capabilities::new(&bench.snapshot).of_roles(&bench.snapshot, roles);
    bench.session.adopt(set, &bench.snapshot, &mut bench.tables);
    assert_eq!(bench.request(0, guid), call(0, WantsReply::Yes));
}

/// The order of docs/PROTOCOL.md, written down once more: first row that matches.
struct Model {
    snapshot: Snapshot,
    endpoints: HashMap<Guid, EndpointId>,
    shortcuts: HashMap<Guid, &'static str>,
    rpc_waits: bool,
    peer: Guid,
}

impl Model {
    fn decide(&mut self, message: &[u8]) -> Option<u8> {
        let flags = *message.first()?;
        let has = |bit: u8| flags & bit != 0;
        if has(0x40) {
            let id = u64::from_be_bytes(message.get(7..15)?.try_into().unwrap());
            message.get(15)?;
            let matched = id == RPC && std::mem::take(&mut self.rpc_waits);
            return Some(if matched { RPC_ANSWER } else { 30 });
        }
        let guid = Guid(message.get(7..23)?.try_into().unwrap());
        message.get(30)?;
        let channel_ok = u16::from_be_bytes([message[1], message[2]]) <= 1000;
        let shortcut = self.shortcuts.get(&guid).copied();
        let (all, null) = (guid == Guid::BROADCAST, guid == Guid::NULL);
        let known = self.endpoints.contains_key(&guid);
        let peer_on = self.snapshot.session.peer_routing;
        let relayed = self.snapshot.mode != ConnectionMode::External;
        let rows = [
            // Not one of these payloads is a `connect.ack`.
            (flags == 0x10 && null, 10),
            (has(0x80) && (all || null), 30),
            (message.len() == 31 && shortcut.is_none() && !has(0x10) && !has(0x80), 10),
            (shortcut == Some("expired"), 70),
            (shortcut == Some("targetless"), 71),
            (shortcut.is_some() && has(0x80), 20),
            (shortcut.is_some(), SHORTCUT_CALL),
            (all && !has(0x20), 10),
            (all && !relayed, 40),
            (all, BROADCAST),
            (!has(0x20) && !known, 30),
            (!channel_ok, 13),
            (has(0x80) && has(0x20), 30),
            (has(0x80), META),
            (has(0x20) && !peer_on, 40),
            (has(0x20) && guid != self.peer, 31),
            (has(0x20), PEER),
            (true, CALL),
        ];
        let outcome = rows.iter().find(|(matches, _)| *matches)?.1;
        if outcome == 70 {
            self.shortcuts.remove(&guid);
        }
        Some(outcome)
    }
}

const CALL: u8 = 200;
const META: u8 = 201;
const SHORTCUT_CALL: u8 = 202;
const PEER: u8 = 203;
const BROADCAST: u8 = 204;
const RPC_ANSWER: u8 = 205;

fn outcome(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Call { .. } => CALL,
        Verdict::Meta { .. } => META,
        Verdict::Shortcut { .. } => SHORTCUT_CALL,
        Verdict::Peer { .. } => PEER,
        Verdict::Broadcast { .. } => BROADCAST,
        Verdict::RpcAnswer { .. } => RPC_ANSWER,
        Verdict::Reply(code) => code.value(),
        Verdict::Refuse(refusal) => refusal.code().value(),
        Verdict::Ignore | Verdict::Acknowledged { .. } | Verdict::Close(_) => {
            panic!("{verdict:?} has no outcome")
        }
    }
}

proptest! {
    #[test]
    fn the_tree_agrees_with_the_table(
        mode in 0..3_usize, peer_routing: bool,
        messages in proptest::collection::vec(
            (any::<u8>(), 0..10_usize, 0..3_usize, 0..2_usize, 0..40_usize), 1..40,
        ),
    ) {
        let mut bench = Bench::new(|s| {
            s.mode = MODES[mode];
            s.session.peer_routing = peer_routing;
        });
        let guids = [
            bench.guid(0), bench.guid(1), bench.guid(2), bench.peer(), SHORTCUT, EXPIRED,
            TARGETLESS, Guid::NULL, Guid::BROADCAST, Guid([7; 16]),
        ];
        let mut model = Model {
            snapshot: bench.snapshot.clone(),
            endpoints: HashMap::from([(guids[0], EndpointId(0)), (guids[1], EndpointId(1))]),
            shortcuts: HashMap::from([
                (SHORTCUT, "valid"), (EXPIRED, "expired"), (TARGETLESS, "targetless"),
            ]),
            rpc_waits: true,
            peer: bench.peer(),
        };
        for (flags, guid, channel, rpc, payload) in messages {
            let mut message =
                request(flags, guids[guid], [0, 1000, 1001][channel], &vec![b' '; payload]);
            if flags & 0x40 != 0 {
                let id = if rpc == 0 { RPC } else { 77 };
                message[7..15].copy_from_slice(&u64::to_be_bytes(id));
                message.truncate(16 + payload);
            }
            let (_, verdict) = bench.decide(&message);
            prop_assert_eq!(Some(outcome(verdict)), model.decide(&message));
        }
    }

    #[test]
    fn no_message_panics(
        messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..48), 1..30),
    ) {
        let mut bench = Bench::new(|s| s.session.messages_per_window = 5);
        for message in messages {
            let (reply_to, verdict) = bench.decide(&message);
            let answerable = !matches!(verdict, Verdict::Ignore | Verdict::Close(_));
            prop_assert!(!answerable || reply_to.is_some());
        }
    }
}
