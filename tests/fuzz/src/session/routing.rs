//! What a client sends, and what services publish for it.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arbitrary::Arbitrary;
use corelane_shard::clock::{Instant, Now};
use corelane_shard::id::{
    ConnectionKey, EndpointId, Generation, ServiceId, SessionId, ShardId, Slot,
};
use corelane_shard::identity::{Identity, Standing};
use corelane_shard::session::capability::{Capabilities, CapabilitySet};
use corelane_shard::session::fingerprints::FingerprintTables;
use corelane_shard::session::rate::RateLimits;
use corelane_shard::session::routing::{RoutingContext, Session};
use corelane_shard::session::rpc::{PendingRpc, PendingRpcs, RpcSender};
use corelane_shard::session::shortcuts::{Shortcut, ShortcutRefused, Shortcuts};
use corelane_shard::session::verdict::{TextVerdict, Verdict};
use corelane_shard::snapshot::{
    BreakerLimits, ConnectionMode, DoorLimits, Endpoint, Method, Role, Service, SessionLimits,
    Snapshot, Tracing, UpstreamKind,
};
use corelane_shard::wire::guid::{Guid, PeerKeys, PeerRoute, SessionText};
use corelane_shard::wire::header::{Flags, Header, RequestHeader, ResponseHeader};

const ENDPOINTS: u16 = 20;
const MESSAGES: u32 = 20;
const WINDOW: Duration = Duration::from_secs(10);
const SESSION: SessionId = SessionId(0x3f25_04e0_4f89_41d3_9a0c_0305_e82c_3301);

#[derive(Debug, Arbitrary)]
pub(super) enum Step<'a> {
    Request { flags: u8, channel: u16, to: To, payload: &'a [u8] },
    Answer { flags: u8, message_id: u8 },
    Raw { message: &'a [u8] },
    TooLong { head: &'a [u8] },
    Text,
    Pong,
    Later { ms: u16 },
    Publish { route: u8, target: Option<u8>, expires_ms: Option<u16>, service: Option<u8> },
    Revoke { route: u8 },
    RevokeService { service: u8 },
    Rpc { message_id: u8, ms: u16 },
    Expire,
    Grant { endpoints: [u8; 3] },
    Rest,
}

/// Whom a request names.
#[derive(Debug, Arbitrary)]
pub(super) enum To {
    Endpoint(u8),
    Shortcut(u8),
    Peer { slot: u8 },
    Nobody,
    Everybody,
    Any([u8; 16]),
}

/// A shortcut as its services know it.
struct Published {
    target: Option<EndpointId>,
    expires_unix_ms: Option<u64>,
    service: Option<u8>,
}

pub(super) struct Run {
    session: Session,
    snapshot: Snapshot,
    rates: RateLimits,
    peer_keys: PeerKeys,
    tables: FingerprintTables,
    capabilities: Capabilities,
    granted: Rc<CapabilitySet>,
    now: Now,
    shortcuts: BTreeMap<[u8; 16], Published>,
    rpcs: BTreeMap<u64, Instant>,
    /// When messages were routed.
    routed: Vec<Instant>,
}

impl Run {
    pub(super) fn new() -> Self {
        let snapshot = snapshot();
        let mut capabilities = Capabilities::new(&snapshot);
        let granted = capabilities.of_roles(&snapshot, &["user".into()]);
        let standing = Standing {
            tenant: "default".into(),
            roles: ["user".into()].into(),
            authorizations: Box::default(),
        };
        let identity = Identity {
            session: SESSION,
            account: None,
            standing: Arc::new(standing),
            expires_at: None,
            issued_at: None,
        };
        Self {
            session: Session::new(identity.into(), Rc::clone(&granted), &snapshot, 1),
            rates: RateLimits::new(&snapshot.session),
            peer_keys: PeerKeys::from_salt(&snapshot.salt),
            tables: FingerprintTables::new(256),
            snapshot,
            capabilities,
            granted,
            now: Now { mono: Instant(1_000_000_000), unix_ms: 1_772_463_381_000 },
            shortcuts: BTreeMap::new(),
            rpcs: BTreeMap::new(),
            routed: Vec::new(),
        }
    }

    pub(super) fn step(&mut self, step: &Step<'_>) {
        match *step {
            Step::Request { flags, channel, ref to, payload } => {
                let header = RequestHeader {
                    flags: Flags(flags).without(Flags::RESPONSE),
                    channel,
                    sequence: 7,
                    guid: self.guid(to),
                    message_id: 9,
                };
                self.message(&[&header.to_bytes()[..], payload].concat());
            }
            Step::Answer { flags, message_id } => {
                let header = ResponseHeader {
                    flags: Flags(flags).union(Flags::RESPONSE),
                    channel: 0,
                    sequence: 0,
                    message_id: message_id.into(),
                    code: 0,
                };
                self.message(&header.to_bytes());
            }
            Step::Raw { message } => self.message(message),
            Step::TooLong { head } => self.too_long(head),
            Step::Text => self.text(),
            Step::Pong => {
                let _tolerated = self.session.on_unsolicited_pong(&self.rates, self.now);
            }
            Step::Later { ms } => {
                self.now.mono = self.now.mono + Duration::from_millis(ms.into());
                self.now.unix_ms += u64::from(ms);
            }
            Step::Publish { route, target, expires_ms, service } => {
                self.publish(route, target, expires_ms, service);
            }
            Step::Revoke { route } => {
                let route = shortcut_guid(route);
                let revoked = self.session.shortcuts_mut().revoke(route).is_some();
                assert_eq!(revoked, self.shortcuts.remove(&route.0).is_some());
            }
            Step::RevokeService { service } => {
                let before = self.shortcuts.len();
                self.shortcuts.retain(|_, known| known.service != Some(service % 4));
                let name = service_name(service);
                let revoked = self.session.shortcuts_mut().revoke_service(&name);
                assert_eq!(revoked, self.shortcuts.len() < before);
            }
            Step::Rpc { message_id, ms } => self.rpc(message_id, ms),
            Step::Expire => self.expire(),
            Step::Grant { endpoints } => {
                let endpoints = endpoints.map(|at| EndpointId(u16::from(at) % (ENDPOINTS + 2)));
                self.granted = self.capabilities.of_endpoints(&self.snapshot, &endpoints);
                self.session.grant(Rc::clone(&self.granted), &mut self.tables);
            }
            Step::Rest => self.session.rest(),
        }
        self.compare();
    }

    fn guid(&self, to: &To) -> Guid {
        match *to {
            To::Endpoint(at) => {
                let text = SessionText::new(SESSION);
                let mut own = self.granted.derive(&text);
                let at = usize::from(at) % self.granted.len().max(1);
                own.nth(at).map_or(Guid::NULL, |(_, guid)| guid)
            }
            To::Shortcut(route) => shortcut_guid(route),
            To::Peer { slot } => self.peer_keys.encode(PeerRoute {
                node: 1,
                shard: ShardId(0),
                slot: Slot(slot.into()),
                generation: Generation(1),
            }),
            To::Nobody => Guid::NULL,
            To::Everybody => Guid::BROADCAST,
            To::Any(bytes) => Guid(bytes),
        }
    }

    fn message(&mut self, message: &[u8]) {
        let header = Header::parse(message).ok();
        let mut ctx = RoutingContext {
            snapshot: &self.snapshot,
            rates: &self.rates,
            peer_keys: &self.peer_keys,
            tables: &mut self.tables,
            now: self.now,
        };
        let (reply_to, verdict) = self.session.on_binary(message, &mut ctx);
        assert_eq!(reply_to, header.map(|header| header.reply_to()), "who is answered");
        match header {
            Some(Header::Request(request)) => {
                self.request_led_to(&request, &message[RequestHeader::LEN..], verdict);
            }
            Some(Header::Response(answer)) => match verdict {
                Verdict::RpcAnswer { rpc, code } => {
                    assert_eq!((rpc.message_id, code), (answer.message_id, answer.code));
                    assert!(self.rpcs.remove(&rpc.message_id).is_some(), "it was waited for");
                }
                Verdict::Refuse(_) | Verdict::Close(_) => {
                    assert!(!self.rpcs.contains_key(&answer.message_id), "answers are found");
                }
                other => panic!("an answer cannot lead to {other:?}"),
            },
            None => assert!(matches!(verdict, Verdict::Ignore | Verdict::Close(_)), "{verdict:?}"),
        }
    }

    fn request_led_to(&mut self, request: &RequestHeader, payload: &[u8], verdict: Verdict) {
        let wanted = request.flags.wants_reply();
        let is_client = request.flags.contains(Flags::CLIENT);
        let is_event = request.flags.contains(Flags::EVENT);
        let on_channel = request.channel <= self.snapshot.session.channel_max;
        match verdict {
            Verdict::Call { endpoint, wants_reply } => {
                assert_eq!((self.own(request.guid), wants_reply), (Some(endpoint), wanted));
                assert!(!is_client && on_channel && (!payload.is_empty() || is_event));
                self.was_routed();
            }
            Verdict::Meta { endpoint, .. } => {
                assert!(request.flags.contains(Flags::META));
                let known = self.shortcuts.get(&request.guid.0).and_then(|known| known.target);
                assert!(self.granted.contains(endpoint));
                assert_eq!(known.or(self.own(request.guid)), Some(endpoint));
            }
            Verdict::Shortcut { shortcut, wants_reply } => {
                let used = self.session.shortcut(shortcut).expect("one of the session's");
                assert_eq!((used.route, wants_reply), (request.guid, wanted));
                assert!(used.target.is_some(), "it leads somewhere");
                assert!(used.expires_unix_ms.is_none_or(|at| at > self.now.unix_ms));
                self.was_routed();
            }
            Verdict::Peer { route, guid, acknowledge, .. } => {
                assert_eq!((guid, self.peer_keys.encode(route)), (request.guid, request.guid));
                assert!(is_client && on_channel && acknowledge == wanted);
                assert!(!payload.is_empty() || is_event);
                self.was_routed();
            }
            Verdict::Broadcast { .. } => {
                assert!(is_client && request.guid == Guid::BROADCAST);
                self.was_routed();
            }
            Verdict::Acknowledged { sequence } => {
                assert_eq!((request.guid, request.flags), (Guid::NULL, Flags::EVENT));
                let text = String::from_utf8_lossy(payload);
                assert!(text.contains("connect.ack"), "{sequence}: {text}");
            }
            Verdict::RpcAnswer { .. } => panic!("a request answers nothing"),
            Verdict::Ignore => panic!("a header is always answered"),
            Verdict::Reply(_) | Verdict::Refuse(_) | Verdict::Close(_) => {}
        }
        // One that has expired is forgotten when it is used.
        let known = self.shortcuts.get(&request.guid.0).and_then(|known| known.expires_unix_ms);
        if known.is_some_and(|at| at <= self.now.unix_ms)
            && self.session.shortcuts().find(request.guid).is_none()
        {
            self.shortcuts.remove(&request.guid.0);
        }
    }

    /// The endpoint whose GUID this is for this session, if it may call it.
    fn own(&self, guid: Guid) -> Option<EndpointId> {
        let text = SessionText::new(SESSION);
        self.granted.derive(&text).find(|(_, own)| *own == guid).map(|(endpoint, _)| endpoint)
    }

    /// At most `2N - 1` in any window.
    fn was_routed(&mut self) {
        let now = self.now.mono;
        self.routed.retain(|at| now.since(*at) < WINDOW);
        self.routed.push(now);
        assert!(self.routed.len() < 2 * MESSAGES as usize, "{} in a window", self.routed.len());
    }

    fn too_long(&mut self, head: &[u8]) {
        let ctx = RoutingContext {
            snapshot: &self.snapshot,
            rates: &self.rates,
            peer_keys: &self.peer_keys,
            tables: &mut self.tables,
            now: self.now,
        };
        let (reply_to, verdict) = self.session.on_too_long(head, &ctx);
        assert_eq!(reply_to.is_some(), Header::parse(head).is_ok());
        assert!(matches!(verdict, Verdict::Refuse(_) | Verdict::Close(_)), "{verdict:?}");
    }

    fn text(&mut self) {
        let before = self.session.newest_message_id();
        match self.session.on_text(self.snapshot.mode, &self.rates, self.now) {
            TextVerdict::Refuse(answer) => {
                assert!(matches!(Header::parse(&answer), Ok(Header::Response(_))));
                assert!(self.session.newest_message_id() > before, "ids rise");
            }
            TextVerdict::Close(_) => {}
            TextVerdict::Ignore => panic!("only servers' text is ignored"),
        }
    }

    fn publish(
        &mut self,
        route: u8,
        target: Option<u8>,
        expires_ms: Option<u16>,
        service: Option<u8>,
    ) {
        let route = shortcut_guid(route);
        let target = target.map(|at| EndpointId(u16::from(at) % ENDPOINTS));
        let expires_unix_ms = expires_ms.map(|ms| self.now.unix_ms + u64::from(ms));
        let published = self.session.shortcuts_mut().publish(Shortcut {
            route,
            target_guid: Guid::NULL,
            target,
            payload: [route.0[0]].into(),
            expires_unix_ms,
            name: None,
            description: None,
            source_service: service.map(service_name),
        });
        let reserved = route == Guid::NULL || route == Guid::BROADCAST;
        let full = self.shortcuts.len() == Shortcuts::MAX;
        match published {
            Ok(()) => {
                let service = service.map(|service| service % 4);
                self.shortcuts.insert(route.0, Published { target, expires_unix_ms, service });
            }
            Err(ShortcutRefused::TableFull) => {
                assert!(full && !self.shortcuts.contains_key(&route.0));
            }
            Err(ShortcutRefused::ReservedGuid) => assert!(reserved),
            Err(ShortcutRefused::PayloadTooLong) => panic!("one byte is not too long"),
        }
    }

    fn rpc(&mut self, message_id: u8, ms: u16) {
        let message_id = message_id.into();
        let expires = self.now.mono + Duration::from_millis(ms.into());
        let sender = match message_id % 2 {
            0 => RpcSender::Control,
            _ => RpcSender::Link(ConnectionKey { slot: Slot(1), generation: Generation(1) }),
        };
        let known = self.rpcs.get(&message_id).copied();
        match self.session.rpcs_mut().register(PendingRpc { message_id, sender, expires }) {
            Ok(replaced) => {
                assert_eq!(replaced.map(|rpc| rpc.expires), known);
                self.rpcs.insert(message_id, expires);
            }
            Err(_) => assert!(known.is_none() && self.rpcs.len() == PendingRpcs::MAX),
        }
    }

    fn expire(&mut self) {
        while let Some(rpc) = self.session.rpcs_mut().take_expired(self.now.mono) {
            assert!(rpc.expires <= self.now.mono);
            assert_eq!(self.rpcs.remove(&rpc.message_id), Some(rpc.expires));
        }
        assert!(self.rpcs.values().all(|expires| *expires > self.now.mono));
    }

    fn compare(&self) {
        let kept = self.session.shortcuts().iter();
        let kept: BTreeMap<_, _> = kept.map(|kept| (kept.route.0, kept.target)).collect();
        let modelled = self.shortcuts.iter();
        assert_eq!(kept, modelled.map(|(route, known)| (*route, known.target)).collect());
        let next = self.rpcs.values().copied().min().unwrap_or(Instant::NEVER);
        assert_eq!(self.session.rpcs().next_expiry(), next);
        assert!(self.tables.bytes_used() <= 256);
    }
}

/// Among them the two that are reserved, and one that is an endpoint's.
fn shortcut_guid(route: u8) -> Guid {
    match route {
        0 => Guid::NULL,
        255 => Guid::BROADCAST,
        other => Guid([other % 80; 16]),
    }
}

fn service_name(service: u8) -> Box<str> {
    ["one", "two", "three", "four"][usize::from(service % 4)].into()
}

fn snapshot() -> Snapshot {
    let service = Service {
        name: "demo".into(),
        kind: UpstreamKind::Http,
        host: "backend".into(),
        call_timeout: Duration::from_secs(25),
        connect_timeout: Duration::from_secs(2),
        running_max: 16,
        connections_max: 16,
        pool_idle: Duration::from_secs(4),
        response_head_bytes_max: 16 << 10,
        response_body_bytes_max: 1 << 20,
        breaker: BreakerLimits { failures: 0, open_for: Duration::from_secs(1) },
    };
    let endpoint = |at: u16| Endpoint {
        service: ServiceId(0),
        method: Method::Post,
        path: format!("/demo/{at}").into(),
        idempotent: false,
    };
    let role = Role { name: "user".into(), endpoints: (0..ENDPOINTS).map(EndpointId).collect() };
    Snapshot {
        version: 1,
        mode: ConnectionMode::Relayed,
        salt: "salt".into(),
        node: 1,
        services: [service].into(),
        endpoints: (0..ENDPOINTS).map(endpoint).collect(),
        roles: [role].into(),
        session: SessionLimits {
            messages_per_window: MESSAGES,
            rate_window: WINDOW,
            priority_roles: ["user".into()].into(),
            ..SessionLimits::default()
        },
        door: DoorLimits::default(),
        tracing: Tracing::default(),
    }
}
