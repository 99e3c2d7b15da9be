//! The door on a real ring: routes, origins, the Internal mode, tokens that others judge, and tokens
//! that expire.

mod authority;
mod keeping_out;
mod proxies;
mod receipts;

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use super::client::{BINARY, CLOSE, Client, PING, PONG, TEXT, whole};
use super::rig::{Rig, Shape};
use super::*;
use crate::clock::Now;
use crate::engine::players::callable_by;
use crate::engine::{CredentialRoutes, DoorRules, InternalAccess, ServiceToken};
use crate::id::{Epoch, SessionId};
use crate::identity::{
    AuthRefusal, Authenticator, Identity, Judgement, Standing, TokenFingerprint, Validated,
};
use crate::lane::{Resumed, ToShard};
use crate::session::routing::Session;
use crate::snapshot::{ConnectionMode, Snapshot};

/// `7` is session 7; `7.60` is session 7 for a minute; `ask.7` somebody else has to judge; anything
/// else is refused.
#[derive(Default)]
struct Judge {
    learnt: Vec<TokenFingerprint>,
}

fn standing() -> Standing {
    Standing { tenant: "default".into(), roles: Box::default(), authorizations: Box::default() }
}

impl Authenticator for Judge {
    fn judge(&mut self, token: &str, now: Now) -> Judgement {
        if token.starts_with("ask.") {
            let mut fingerprint = [0; 32];
            fingerprint[..token.len()].copy_from_slice(token.as_bytes());
            return Judgement::Ask(TokenFingerprint(fingerprint));
        }
        let (session, seconds) = token.split_once('.').unwrap_or((token, "0"));
        let (Ok(session), Ok(seconds)) = (session.parse(), seconds.parse::<u64>()) else {
            return Judgement::Refused(AuthRefusal::BadSignature);
        };
        let expires_at = (seconds > 0)
            .then(|| seconds + now.unix_ms / 1000)
            .and_then(crate::identity::UnixSeconds::new);
        let session = SessionId(session);
        let standing = Arc::new(standing());
        Judgement::Accepted(Arc::new(Identity {
            session,
            account: None,
            standing,
            expires_at,
            issued_at: None,
        }))
    }

    fn learn(&mut self, token: TokenFingerprint, told: Validated, _: Now) -> Arc<Identity> {
        self.learnt.push(token);
        Arc::new(told.into())
    }

    fn fresh_tokens(&self) -> u64 {
        0
    }
}

fn shape() -> Shape {
    Shape { authenticator: Box::new(Judge::default()), ..Shape::default() }
}

fn request(fields: &[&str]) -> Vec<u8> {
    let mut text = "GET /connect HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\n\
        Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        .to_owned();
    for field in fields {
        text += field;
        text += "\r\n";
    }
    (text + "\r\n").into_bytes()
}

fn read_head(client: &mut Client) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// The head of the answer to a request with `fields`.
fn answer(rig: &mut Rig, fields: &[&str]) -> String {
    let (address, request) = (rig.address, request(fields));
    rig.run(thread::spawn(move || {
        let mut client = Client::connect(address);
        client.write(&request);
        read_head(&mut client)
    }))
}

fn status(rig: &mut Rig, fields: &[&str]) -> u16 {
    answer(rig, fields)[9..12].parse().unwrap()
}

fn opened(rig: &mut Rig, fields: &[&str]) -> Client {
    let (address, request) = (rig.address, request(fields));
    rig.run(thread::spawn(move || {
        let mut client = Client::connect(address);
        client.write(&request);
        assert!(read_head(&mut client).starts_with("HTTP/1.1 101 "));
        client
    }))
}

fn next(rig: &mut Rig, mut client: Client) -> (Client, u8, Vec<u8>) {
    rig.run(thread::spawn(move || {
        let (opcode, payload) = client.next().unwrap();
        (client, opcode, payload)
    }))
}

#[test]
fn a_token_may_come_by_the_routes_that_are_on_and_by_no_other() {
    let cookie = "Cookie: a=b; sid=1";
    let offer = "Sec-WebSocket-Protocol: corelane, bearer.1";
    let mut closed = shape().build();
    for field in [cookie, offer] {
        assert_eq!(status(&mut closed, &[field]), 401, "{field}");
    }
    let routes = CredentialRoutes {
        header: false,
        subprotocol: true,
        query: false,
        cookie: Some("sid".into()),
    };
    let door = DoorRules { routes, ..DoorRules::default() };
    let mut open = Shape { door, ..shape() }.build();
    for field in [cookie, offer] {
        assert_eq!(status(&mut open, &[field]), 101, "{field}");
    }
    assert_eq!(status(&mut open, &["Cookie: sid=nobody"]), 401);
    assert_eq!(status(&mut open, &["Cookie: sid=1; sid=2"]), 400);
    assert_eq!(status(&mut open, &["Sec-WebSocket-Protocol: bearer.1"]), 400);
    assert_eq!(status(&mut open, &["Authorization: Bearer 1"]), 401);
    // The header decides alone, and an offer comes before a cookie.
    assert_eq!(status(&mut open, &["Authorization: Bearer 1", cookie]), 401);
    assert_eq!(status(&mut open, &["Sec-WebSocket-Protocol: corelane, bearer.no", cookie]), 401);
}

#[test]
fn of_what_is_offered_only_the_name_that_is_no_secret_comes_back() {
    let routes = CredentialRoutes { subprotocol: true, ..CredentialRoutes::default() };
    let door = DoorRules { routes, ..DoorRules::default() };
    let mut rig = Shape { door, ..shape() }.build();
    let chosen = "\r\nSec-WebSocket-Protocol: corelane\r\n";
    let told = answer(&mut rig, &["Sec-WebSocket-Protocol: other, bearer.1, corelane"]);
    assert!(told.contains(chosen) && !told.contains("bearer"), "{told}");
    let told = answer(&mut rig, &["Authorization: Bearer 1", "Sec-WebSocket-Protocol: corelane"]);
    assert!(told.contains(chosen), "{told}");
    for passed_over in ["Sec-WebSocket-Protocol: other", "X: y"] {
        let told = answer(&mut rig, &["Authorization: Bearer 1", passed_over]);
        assert!(told.starts_with("HTTP/1.1 101 ") && !told.contains("Protocol:"), "{told}");
    }
    let mut off = shape().build();
    let told = answer(&mut off, &["Authorization: Bearer 1", "Sec-WebSocket-Protocol: corelane"]);
    assert!(told.starts_with("HTTP/1.1 101 ") && !told.contains("Protocol:"), "{told}");
}

#[test]
fn a_foreign_page_is_refused_before_its_token_is_looked_at() {
    let origins = ["https://game.example".into()].into();
    let door = DoorRules { origins, ..DoorRules::default() };
    let mut rig = Shape { door, ..shape() }.build();
    let foreign = "Origin: https://other.example";
    assert_eq!(status(&mut rig, &["Authorization: Bearer 1", foreign]), 403);
    assert_eq!(status(&mut rig, &[foreign]), 403);
    assert_eq!(status(&mut rig, &["Authorization: Bearer 1", "Origin: https://Game.example"]), 101);
    assert_eq!(status(&mut rig, &["Authorization: Bearer 1"]), 101);
}

fn internal(access: InternalAccess) -> Rig {
    let door = DoorRules { internal: access, ..DoorRules::default() };
    Shape { door, mode: ConnectionMode::Internal, ..shape() }.build()
}

#[test]
fn servers_prove_themselves_by_the_service_token() {
    let mut rig = internal(InternalAccess::ServiceToken(ServiceToken::new("the secret")));
    let (any, good) = ("Authorization: Internal", "X-Service-Token: the secret");
    assert_eq!(status(&mut rig, &[any, good]), 101);
    assert_eq!(status(&mut rig, &[any, "X-Service-Token: another"]), 401);
    assert_eq!(status(&mut rig, &[any]), 401);
    assert_eq!(status(&mut rig, &[good]), 401, "Authorization is missing");
    assert_eq!(status(&mut rig, &["Authorization:", good]), 401);
    let mut trusting = internal(InternalAccess::Network);
    assert_eq!(status(&mut trusting, &[any]), 101);
    assert_eq!(status(&mut trusting, &[]), 401);
    let mut nobody = internal(InternalAccess::Nobody);
    assert_eq!(status(&mut nobody, &[any, good]), 403);
}

fn hello(rig: &mut Rig) -> (Client, serde_json::Value) {
    let client = opened(rig, &["Authorization: Internal"]);
    let (client, opcode, payload) = next(rig, client);
    assert_eq!(opcode, TEXT);
    (client, serde_json::from_slice(&payload).unwrap())
}

fn guid(text: &serde_json::Value) -> [u8; 16] {
    *uuid::Uuid::parse_str(text.as_str().unwrap()).unwrap().as_bytes()
}

fn message(flags: u8, guid: [u8; 16], payload: &[u8]) -> Vec<u8> {
    [&[flags, 0, 0, 0, 0, 0, 9][..], &guid, &77u64.to_be_bytes(), payload].concat()
}

#[test]
fn a_server_is_told_who_it_is_and_reaches_the_others_and_nothing_else() {
    let mut rig = internal(InternalAccess::Network);
    let ((mut anna, annas), (ben, bens)) = (hello(&mut rig), hello(&mut rig));
    assert_ne!(annas["SessionId"], bens["SessionId"]);
    assert_eq!(annas.as_object().unwrap().len(), 2);
    let roles: Vec<_> = rig.sessions().map(|session| Arc::clone(session.identity())).collect();
    assert!(roles.iter().all(|identity| *identity.standing.roles == ["internal".into()]));
    assert!(roles.iter().all(|identity| identity.account.is_none()));

    // Text is passed over: the next thing that anna hears is the acknowledgement.
    let to_ben = message(0x20, guid(&bens["PeerGuid"]), b"hi");
    anna.write(&[whole(TEXT, b"{}"), whole(BINARY, &to_ben)].concat());
    let (mut anna, opcode, acknowledged) = next(&mut rig, anna);
    assert_eq!((opcode, acknowledged[0], acknowledged[15]), (BINARY, 0x60, 0));
    let (ben, opcode, heard) = next(&mut rig, ben);
    assert_eq!((opcode, heard), (BINARY, to_ben));
    assert_eq!(rig.engine.probe.shed_count(Shed::TextIgnored), 1);

    let to_all = message(0x20, [0xFF; 16], b"all");
    anna.write(&whole(BINARY, &to_all));
    let (ben, _, heard) = next(&mut rig, ben);
    assert_eq!(heard, to_all);
    // A reload brings no manifest: what is heard next is an answer.
    let new = Snapshot { version: 2, ..(*rig.engine.snapshot).clone() };
    rig.tell(ToShard::Snapshot(Arc::new(new)));
    rig.until("the new snapshot", |engine| engine.snapshot.version == 2);
    anna.write(&whole(BINARY, &message(0, [7; 16], b"{}")));
    let (mut anna, _, refused) = next(&mut rig, anna);
    assert_eq!(refused[15], 30, "no service is known");

    // Not a word more: the connection just ends.
    anna.send(CLOSE, &1000u16.to_be_bytes());
    let rest = rig.run(thread::spawn(move || anna.rest().unwrap()));
    assert_eq!(rest, b"");
    drop(ben);
    rig.until_nothing_is_left();
}

#[test]
fn servers_may_call_nothing_whatever_their_role_may() {
    let standing = crate::engine::door::internal_standing();
    let identity = Identity {
        session: SessionId(1),
        account: None,
        standing,
        expires_at: None,
        issued_at: None,
    };
    assert!(callable_by(ConnectionMode::Internal, &identity).is_empty());
    for mode in [ConnectionMode::External, ConnectionMode::Relayed] {
        assert_eq!(callable_by(mode, &identity), ["internal".into()]);
    }
}

#[test]
fn what_a_server_was_being_told_still_reaches_it_when_it_closes() {
    let mut rig = internal(InternalAccess::Network);
    let (mut anna, annas) = hello(&mut rig);
    let to_self = message(0x30, guid(&annas["PeerGuid"]), &[7; 300]);
    anna.write(&[whole(BINARY, &to_self), whole(CLOSE, &[])].concat());
    let (opcode, heard, rest) = rig.run(thread::spawn(move || {
        let (opcode, heard) = anna.next().unwrap();
        (opcode, heard, anna.rest().unwrap())
    }));
    assert_eq!((opcode, heard, rest), (BINARY, to_self, vec![]));
    rig.until_nothing_is_left();
}

#[test]
fn players_get_a_manifest_and_their_close_is_answered() {
    for mode in [ConnectionMode::External, ConnectionMode::Relayed] {
        let mut rig = Shape { mode, ..shape() }.build();
        let client = opened(&mut rig, &["Authorization: Bearer 1"]);
        let (mut client, opcode, manifest) = next(&mut rig, client);
        assert_eq!((opcode, manifest[0]), (BINARY, 0x10));
        let manifest: serde_json::Value = serde_json::from_slice(&manifest[31..]).unwrap();
        assert_eq!(manifest["peerGuid"].is_string(), mode == ConnectionMode::Relayed);
        client.send(TEXT, b"{}");
        let (mut client, _, refused) = next(&mut rig, client);
        assert_eq!(refused[15], 14);
        client.send(BINARY, &message(0x20, [0xFF; 16], b"all"));
        if mode == ConnectionMode::External {
            let (back, _, refused) = next(&mut rig, client);
            assert_eq!(refused[15], 40);
            client = back;
        }
        client.send(CLOSE, &1000u16.to_be_bytes());
        let (_, opcode, payload) = next(&mut rig, client);
        assert_eq!((opcode, &payload[..]), (CLOSE, &1000u16.to_be_bytes()[..]));
        rig.until_nothing_is_left();
    }
}

fn asking(validations_max: usize, session: SessionLimits) -> Rig {
    let door = DoorRules { validations_max, ..DoorRules::default() };
    Shape { door, session, ..shape() }.build()
}

/// A client whose token the engine has asked about.
fn waiting(rig: &mut Rig, behind: &'static [u8]) -> JoinHandle<(String, Client)> {
    let (address, asked) = (rig.address, rig.asked.len());
    let client = thread::spawn(move || {
        let mut client = Client::connect(address);
        client.write(&[&request(&["Authorization: Bearer ask.7"])[..], behind].concat());
        (read_head(&mut client), client)
    });
    let give_up = Moment::now() + PATIENCE;
    while rig.asked.len() == asked {
        assert!(Moment::now() < give_up, "the engine does not ask");
        rig.turn();
    }
    client
}

fn validated() -> Box<Validated> {
    let standing = standing();
    Box::new(Validated {
        session: SessionId(7),
        account: None,
        standing,
        expires_at: None,
        issued_at: None,
    })
}

#[test]
fn a_head_waits_for_the_judgement_of_its_token() {
    let mut rig = asking(8, SessionLimits::default());
    for (told, expected) in [
        (Ok(validated()), "101"),
        (Err(AuthRefusal::NoSession), "401"),
        (Err(AuthRefusal::Unavailable), "503"),
    ] {
        let client = waiting(&mut rig, b"");
        assert_eq!(rig.engine.validating, 1);
        let (key, token) = rig.asked.pop().unwrap();
        assert_eq!(&*token, "ask.7");
        assert!(!client.is_finished());
        rig.tell(ToShard::Validated { key, told });
        let (head, _client) = rig.run(client);
        assert_eq!(&head[9..12], expected);
        assert_eq!(head.contains("\r\nRetry-After: "), expected == "503");
        assert_eq!(rig.engine.validating, 0);
    }
}

#[test]
fn frames_behind_a_head_wait_with_it() {
    // A masked Ping without payload.
    let mut rig = asking(8, SessionLimits::default());
    let client = waiting(&mut rig, &[0x89, 0x80, 1, 2, 3, 4]);
    let (key, _) = rig.asked.pop().unwrap();
    rig.tell(ToShard::Validated { key, told: Ok(validated()) });
    let (head, client) = rig.run(client);
    assert!(head.starts_with("HTTP/1.1 101 "));
    let (client, first, _) = next(&mut rig, client);
    let (_, second, _) = next(&mut rig, client);
    let mut heard = [first, second];
    heard.sort_unstable();
    assert_eq!(heard, [BINARY, PONG], "manifest and Pong");
}

#[test]
fn one_question_too_many_is_refused_at_once() {
    let mut rig = asking(1, SessionLimits::default());
    let first = waiting(&mut rig, b"");
    assert_eq!(status(&mut rig, &["Authorization: Bearer ask.8"]), 503);
    assert_eq!(status(&mut rig, &["Authorization: Bearer 9"]), 101, "others need no question");
    let (key, _) = rig.asked.pop().unwrap();
    rig.tell(ToShard::Validated { key, told: Ok(validated()) });
    assert!(rig.run(first).0.starts_with("HTTP/1.1 101 "));
    let second = waiting(&mut rig, b"");
    let (key, _) = rig.asked.pop().unwrap();
    rig.tell(ToShard::Validated { key, told: Err(AuthRefusal::NoSession) });
    assert!(rig.run(second).0.starts_with("HTTP/1.1 401 "));
}

#[test]
fn a_judgement_that_does_not_come_in_time_is_not_waited_for() {
    let mut rig = asking(1, SessionLimits::default());
    let client = waiting(&mut rig, b"");
    rig.ahead = Duration::from_secs(11);
    let (head, client) = rig.run(client);
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    drop(client);
    assert_eq!(rig.engine.validating, 1, "the question is still open");
    let (key, _) = rig.asked.pop().unwrap();
    rig.tell(ToShard::Validated { key, told: Ok(validated()) });
    rig.until("the answer", |engine| engine.validating == 0);
    rig.until_nothing_is_left();
    assert_eq!(rig.engine.sessions, 0);
}

#[test]
fn a_session_ends_with_its_token_only_when_told_to() {
    for (close_on_expiry, token, ends) in
        [(true, "1.60", true), (true, "1", false), (false, "1.60", false)]
    {
        let session = SessionLimits { close_on_expiry, ..shape().session };
        let mut rig = Shape { session, ..shape() }.build();
        let client = opened(&mut rig, &[&format!("Authorization: Bearer {token}")]);
        let (client, _, _) = next(&mut rig, client);
        // A minute later a Ping is due, and nothing else unless the token has ended the session.
        rig.ahead += Duration::from_secs(61);
        let (mut client, opcode, payload) = next(&mut rig, client);
        if ends {
            let reason = b"Session invalidated: SessionExpired";
            assert_eq!((opcode, &payload[..2]), (CLOSE, &4001u16.to_be_bytes()[..]));
            assert_eq!(&payload[2..], reason);
        } else {
            assert_eq!(opcode, PING, "{token}");
            client.send(CLOSE, &1000u16.to_be_bytes());
            client = next(&mut rig, client).0;
        }
        drop(client);
        rig.until_nothing_is_left();
    }
}

#[test]
fn whoever_is_replaced_while_it_waits_at_the_door_is_told_409() {
    let mut rig = shape().build();
    rig.claims = Some(Vec::new());
    // An eviction names the claim that it ends; one of an earlier claim means nothing here.
    for (ended, expected) in [(Some(4), "409"), (Some(3), "101"), (None, "101")] {
        let (address, request) = (rig.address, request(&["Authorization: Bearer 7"]));
        let client = thread::spawn(move || {
            let mut client = Client::connect(address);
            client.write(&request);
            (read_head(&mut client), client)
        });
        let give_up = Moment::now() + PATIENCE;
        let (key, session) = loop {
            if let Some(claim) = rig.claims.as_mut().and_then(Vec::pop) {
                break claim;
            }
            assert!(Moment::now() < give_up, "the engine does not claim");
            rig.turn();
        };
        if let Some(epoch) = ended {
            rig.tell(ToShard::Evict { key, epoch: Epoch(epoch) });
            // Answers are heard before anything else.
            rig.turn();
        }
        let resumed = Resumed::Nothing;
        rig.tell(ToShard::Granted { key, session, epoch: Epoch(4), resumed });
        let (head, _client) = rig.run(client);
        assert_eq!(&head[9..12], expected, "{ended:?}");
        assert_eq!(head.contains("\r\nRetry-After: "), expected == "409");
    }
}

#[test]
fn the_door_looks_at_the_path_then_at_the_room_then_at_the_origin_and_then_at_the_token() {
    let origins = ["https://game.example".into()].into();
    let door = DoorRules { origins, ..DoorRules::default() };
    let mut rig = Shape { connections_max: 1, door, ..shape() }.build();
    let foreign = "Origin: https://other.example";
    let bad = "Authorization: Bearer nobody";
    assert_eq!(status(&mut rig, &[bad, foreign]), 403);
    assert_eq!(status(&mut rig, &[bad]), 401);
    rig.until_nothing_is_left();
    let _inside = opened(&mut rig, &["Authorization: Bearer 1"]);
    for fields in [&[bad, foreign][..], &[bad], &["Authorization: Bearer 1"]] {
        assert_eq!(status(&mut rig, fields), 503, "{fields:?}");
    }
    for (line, expected) in [("GET /nowhere", "404"), ("POST /connect", "405")] {
        let address = rig.address;
        let head = format!("{line} HTTP/1.1\r\nHost: test\r\n\r\n");
        let told = rig.run(thread::spawn(move || {
            let mut client = Client::connect(address);
            client.write(head.as_bytes());
            read_head(&mut client)
        }));
        assert_eq!(&told[9..12], expected);
    }
}

#[test]
fn clients_that_are_put_off_are_told_different_times() {
    let mut rig = Shape { connections_max: 1, ..shape() }.build();
    let _inside = opened(&mut rig, &["Authorization: Bearer 1"]);
    let mut told = std::collections::BTreeSet::new();
    for _ in 0..40 {
        let head = answer(&mut rig, &["Authorization: Bearer 2"]);
        let after = head.lines().find_map(|line| line.strip_prefix("Retry-After: "));
        told.insert(after.unwrap().parse::<u32>().unwrap());
    }
    assert!(told.len() > 1 && told.iter().all(|seconds| (1..=5).contains(seconds)), "{told:?}");
}

#[test]
fn a_full_shard_waits_a_second_for_a_head_and_not_longer() {
    let mut rig = Shape { connections_max: 1, ..shape() }.build();
    let _inside = opened(&mut rig, &["Authorization: Bearer 1"]);
    let address = rig.address;
    let mut half = Client::connect(address);
    half.write(b"GET /conn");
    rig.until("both are there", |engine| engine.table.len() == 2);
    let refused = |rig: &mut Rig| {
        // Time stands nearly still meanwhile.
        (0..20).for_each(|_| rig.turn());
        rig.engine.table.iter().filter(|(_, c)| c.phase != Phase::Open).count()
    };
    rig.ahead += Duration::from_millis(500);
    assert_eq!(refused(&mut rig), 0);
    rig.ahead += Duration::from_millis(600);
    assert_eq!(refused(&mut rig), 1);
    let head = rig.run(thread::spawn(move || read_head(&mut half)));
    assert!(head.starts_with("HTTP/1.1 408 "), "{head}");
}

#[test]
fn a_session_without_messages_is_closed_with_4004() {
    let session = SessionLimits { ping_interval: Duration::ZERO, ..shape().session };
    let mut rig = Shape { session, ..shape() }.build();
    let client = opened(&mut rig, &["Authorization: Bearer 1"]);
    let (client, _, _) = next(&mut rig, client);
    rig.ahead += SessionLimits::default().idle_timeout + Duration::from_secs(1);
    let (client, opcode, payload) = next(&mut rig, client);
    assert_eq!((opcode, &payload[..2]), (CLOSE, &4004u16.to_be_bytes()[..]));
    drop(client);
    rig.until_nothing_is_left();
}

impl Rig {
    fn sessions(&self) -> impl Iterator<Item = &Session> {
        self.engine.table.iter().filter_map(|(_, connection)| match &connection.role {
            crate::engine::Role::Session(player) => Some(&player.session),
            _ => None,
        })
    }
}
