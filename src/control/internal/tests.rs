//! The listener's router in front of a control core that the tests play.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::Body;
use axum::http::{Request, header};
use corelane_shard::id::{EndpointId, ServiceId};
use corelane_shard::identity::{Account, Identity, Standing};
use corelane_shard::lane::SessionDescription;
use corelane_shard::session::shortcuts::Shortcut;
use corelane_shard::snapshot::{
    Address, ConnectionMode, DoorLimits, Endpoint, Method, Service, SessionLimits, Snapshot,
    Tracing, UpstreamKind,
};
use corelane_shard::wire::guid::Guid;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::sync::{broadcast, mpsc};
use tower::ServiceExt as _;
use uuid::Uuid;

use super::*;
use crate::control::ask::{
    ASKS_MAX, Ask, Described, ListedSession, NoLinks, NoSession, Rpc, RpcRefused, Unpublished,
    Whereabouts,
};
use crate::control::bus::Record;
use crate::control::nodes::{self, NoResponse};

mod backends;
mod bus;
mod description;
mod elsewhere;
mod messages;
mod sessions;

const TOKEN: &str = "the-token-of-services";
/// Connected.
const LIVE: SessionId = SessionId(0x3f25_04e0_4f89_41d3_9a0c_0305_e82c_3301);
/// Of the same account, without a connection.
const WAITING: SessionId = SessionId(0x3f25_04e0_4f89_41d3_9a0c_0305_e82c_3302);
const ABSENT: SessionId = SessionId(7);
/// On another node, if there are any.
const ELSEWHERE: SessionId = SessionId(8);
const OTHER_NODE: Uuid = Uuid::from_u128(77);
const ACCOUNT: &str = "7f1e0f1c-6f0e-4b53-9d2e-0a1b2c3d4e5f";
/// What [`Tokens`] takes for a player's token.
const PLAYER: &str = "of-a-player";

/// A control core with one account, of which [`LIVE`] and [`WAITING`] are the sessions.
#[derive(Debug)]
struct Fake {
    snapshot: Snapshot,
    shortcuts: Vec<Shortcut>,
    addresses: Vec<Address>,
    /// The core does not answer.
    silent: bool,
    /// This node is one of several.
    relays: bool,
    /// Where [`ELSEWHERE`] is.
    elsewhere: Whereabouts,
    /// What its node says.
    told: Result<nodes::Response, NoResponse>,
    heard: Mutex<Heard>,
    bus: broadcast::Sender<Arc<Record>>,
}

/// What reached the core.
#[derive(Debug, Default)]
struct Heard {
    records: Vec<Record>,
    pushed: Vec<(SessionId, Box<[u8]>)>,
    rpcs: Vec<Rpc>,
    relayed: Vec<nodes::Request>,
}

impl Default for Fake {
    fn default() -> Self {
        Self {
            snapshot: snapshot(),
            shortcuts: Vec::new(),
            addresses: Vec::new(),
            silent: false,
            relays: false,
            elsewhere: Whereabouts::Node(OTHER_NODE),
            told: Err(NoResponse::NoLink),
            heard: Mutex::default(),
            bus: broadcast::channel(4).0,
        }
    }
}

impl Fake {
    fn listed(session: SessionId) -> ListedSession {
        let standing = Standing {
            tenant: "default".into(),
            roles: ["user".into()].into(),
            authorizations: [].into(),
        };
        let identity = Identity {
            session,
            account: Some(Account::from(ACCOUNT)),
            standing: Arc::new(standing),
            expires_at: None,
            issued_at: None,
        };
        ListedSession { identity: Arc::new(identity), live: session == LIVE }
    }

    fn described(&self) -> Box<Described> {
        Box::new(Described {
            listed: Self::listed(LIVE),
            description: SessionDescription {
                endpoints: (0..5).map(EndpointId).collect(),
                shortcuts: self.shortcuts.clone().into(),
                peer: None,
                peer_guid: Guid::NULL,
                open_ms: 0,
                messages_in: 0,
                messages_out: 0,
                bytes_in: 0,
                bytes_out: 0,
            },
            snapshot: Arc::new(self.snapshot.clone()),
        })
    }

    /// Like the core: an event needs a name, and a session.
    fn publish(&self, record: Record) -> Result<(), Unpublished> {
        if &*record.topic == crate::control::bus::topic::CLIENT_EVENTS {
            let key = record.key.strip_prefix("CONNECT_SESSION_").ok_or(Unpublished::BadKey)?;
            let session: SessionId = key.parse().map_err(|_| Unpublished::BadKey)?;
            let event: Value = serde_json::from_slice(&record.value).unwrap();
            if event["eventName"].is_null() {
                let text = "the event has no eventName that is a text".into();
                return Err(Unpublished::Unusable { text, label: "no_event_name" });
            }
            if event["eventName"] == "too.long" {
                return Err(Unpublished::TooLong);
            }
            if session == ABSENT {
                return Err(Unpublished::NoSession);
            }
        }
        let _nobody = self.bus.send(Arc::new(record.clone()));
        self.heard.lock().unwrap().records.push(record);
        Ok(())
    }

    fn answer(&self, ask: Ask) {
        match ask {
            Ask::Publish { record, answer } => drop(answer.send(self.publish(record))),
            Ask::Subscribe { answer } => drop(answer.send(Some(self.bus.subscribe()))),
            Ask::Push { session, message, answer } => {
                self.heard.lock().unwrap().pushed.push((session, message));
                let _unheard = answer.send(if session == LIVE { Ok(()) } else { Err(NoSession) });
            }
            Ask::Rpc { rpc, answer } => {
                let outcome = match (rpc.session, rpc.channel) {
                    (LIVE, 99) => Err(RpcRefused::TooMany),
                    (LIVE, _) => Ok(()),
                    _ => Err(RpcRefused::NoSession(NoSession)),
                };
                self.heard.lock().unwrap().rpcs.push(*rpc);
                let _unheard = answer.send(outcome);
            }
            Ask::OfAccount { account, answer } => {
                let of = [LIVE, WAITING].map(Self::listed);
                drop(answer.send(if *account == *ACCOUNT { of.into() } else { Vec::new() }));
            }
            Ask::Describe { session, answer } => {
                let described = (session == LIVE).then(|| self.described()).ok_or(NoSession);
                drop(answer.send(described));
            }
            Ask::Addresses { answer, .. } => drop(answer.send(self.addresses.clone().into())),
            Ask::Link { answer, .. } => drop(answer.send(Err(NoLinks::Alone))),
            Ask::Whereabouts { session, answer } => {
                let is_elsewhere = session == ELSEWHERE;
                let found = if is_elsewhere { self.elsewhere } else { Whereabouts::Nowhere };
                let _unheard = answer.send(found);
            }
            Ask::Node { node, request, answer } => {
                assert_eq!(node, OTHER_NODE);
                self.heard.lock().unwrap().relayed.push(request);
                let _unheard = answer.send(self.told.clone());
            }
            Ask::List { .. } | Ask::End { .. } => panic!("services do not ask that"),
        }
    }
}

/// `account` with five endpoints by HTTP, of which one is templated, and `game` with one by link.
fn snapshot() -> Snapshot {
    let endpoint = |service, method, path: &str| Endpoint {
        service: ServiceId(service),
        method,
        path: path.into(),
        idempotent: false,
    };
    let link = UpstreamKind::Link { path: "/corelane-link".into(), token: None };
    Snapshot {
        version: 1,
        mode: ConnectionMode::External,
        salt: "bannou-dev-connect-salt-change-in-production".into(),
        node: 0,
        services: [service("account", UpstreamKind::Http), service("game", link)].into(),
        endpoints: [
            endpoint(0, Method::Post, "/account/get"),
            endpoint(0, Method::Get, "/account/{id}"),
            endpoint(0, Method::Put, "/other/path"),
            endpoint(1, Method::Post, "/game/move"),
            endpoint(0, Method::Delete, "/account/gone"),
            endpoint(0, Method::Post, "/account/admin"),
        ]
        .into(),
        roles: [].into(),
        session: SessionLimits::default(),
        door: DoorLimits::default(),
        tracing: Tracing::default(),
    }
}

fn service(name: &str, kind: UpstreamKind) -> Service {
    Service {
        name: name.into(),
        kind,
        host: "backend.test".into(),
        call_timeout: Duration::from_secs(5),
        connect_timeout: Duration::from_secs(2),
        running_max: 1,
        connections_max: 1,
        pool_idle: Duration::from_secs(1),
        response_head_bytes_max: 8 << 10,
        response_body_bytes_max: 1 << 10,
        breaker: corelane_shard::snapshot::BreakerLimits {
            failures: 0,
            open_for: Duration::from_secs(1),
        },
    }
}

/// One token of [`LIVE`], one of a session that is not connected, and a key source that fails.
#[derive(Debug)]
struct Tokens;

impl TokenCheck for Tokens {
    fn check<'a>(&'a self, token: &'a str) -> Checking<'a> {
        Box::pin(async move {
            match token {
                PLAYER => Ok(LIVE),
                "of-nobody" => Ok(ABSENT),
                "of-somebody-elsewhere" => Ok(ELSEWHERE),
                "unavailable" => Err(AuthRefusal::Unavailable),
                _ => Err(AuthRefusal::BadSignature),
            }
        })
    }
}

/// The router, its core, and what it counts.
struct Rig {
    router: Router,
    /// What other nodes ask.
    holder: Holder,
    core: Arc<Fake>,
    probe: Arc<ControlProbe>,
    phase: Arc<PhaseCell>,
    /// Questions that the core has answered.
    asked: Arc<AtomicUsize>,
}

/// An answer that was read whole.
#[derive(Debug)]
struct Answer {
    status: u16,
    content_type: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// It is a refusal of this status that says `cause`, and what to do next.
    #[track_caller]
    fn assert_problem(&self, status: u16, cause: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.content_type, "application/problem+json", "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], status);
        assert!(problem["detail"].as_str().unwrap().contains(cause), "{cause:?}: {self:?}");
        assert!(!problem["next"].as_str().unwrap().is_empty(), "{self:?}");
    }
}

impl Rig {
    fn new(core: Fake) -> Self {
        let (asking, mut asks) = mpsc::channel(ASKS_MAX);
        let (core, asked) = (Arc::new(core), Arc::<AtomicUsize>::default());
        let (probe, phase) = (Arc::<ControlProbe>::default(), Arc::<PhaseCell>::default());
        let parts = InternalParts {
            asking,
            tokens: Arc::new(Tokens),
            probe: Arc::clone(&probe),
            phase: Arc::clone(&phase),
            relays: core.relays,
        };
        let holder = Holder::new(parts.clone());
        let router = router(Inside::new(Some(ServiceToken::new(TOKEN)), parts), routes());
        let (answering, count) = (Arc::clone(&core), Arc::clone(&asked));
        tokio::spawn(async move {
            while let Some(ask) = asks.recv().await {
                if !answering.silent {
                    answering.answer(ask);
                }
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { router, holder, core, probe, phase, asked }
    }

    fn request(method: &str, path: &str) -> axum::http::request::Builder {
        Request::builder().method(method).uri(path).header("X-Service-Token", TOKEN)
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let content_type = response.headers().get(header::CONTENT_TYPE);
        let content_type = content_type.map_or("", |text| text.to_str().unwrap()).to_owned();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        Answer { status, content_type, body: String::from_utf8(body.to_vec()).unwrap() }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(Self::request("GET", path).body(Body::empty()).unwrap()).await
    }

    async fn post(&self, path: &str, body: impl Into<Body>) -> Answer {
        self.send(Self::request("POST", path).body(body.into()).unwrap()).await
    }

    async fn post_json(&self, path: &str, body: Value) -> Answer {
        self.post(path, body.to_string()).await
    }

    fn count(&self, line: &str) -> u64 {
        let sources = crate::control::metrics::Sources {
            shards: Vec::new(),
            control: Arc::clone(&self.probe),
            phase: Arc::clone(&self.phase),
            started_unix_seconds: 0.0,
        };
        let registry = crate::control::metrics::registry(sources);
        let text = crate::control::metrics::render(&registry).unwrap();
        let found = text.lines().find_map(|found| found.strip_prefix(line));
        found.map_or(0, |value| value.trim().parse().unwrap())
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let soon = Duration::from_secs(20);
    runtime.block_on(async { tokio::time::timeout(soon, test).await.expect("not in time") });
}

#[test]
fn nothing_is_served_without_the_service_token() {
    run(async {
        let rig = Rig::new(Fake::default());
        let paths =
            routes().map(|(path, ..)| path.replace("{topic}", "t").replace("{kind}", "info"));
        for path in paths.iter().map(String::as_str).chain(["/nowhere"]) {
            for method in ["GET", "POST"] {
                let bare = || Request::builder().method(method).uri(path);
                let none = rig.send(bare().body(Body::empty()).unwrap()).await;
                none.assert_problem(401, "has no service token");
                for wrong in ["", "the-token-of-service", "the-token-of-services2", "x"] {
                    let wrong = bare().header("X-Service-Token", wrong).body(Body::empty());
                    rig.send(wrong.unwrap()).await.assert_problem(401, "not the one");
                }
                let twice = bare().header("X-Service-Token", TOKEN).header("X-Service-Token", "x");
                let twice = rig.send(twice.body(Body::empty()).unwrap()).await;
                twice.assert_problem(401, "more than one");
            }
        }
        assert_eq!(rig.asked.load(Ordering::Relaxed), 0);
        assert_eq!(rig.count("corelane_internal_token_refused_total"), 17 * 2 * 6);
    });
}

#[test]
fn unknown_paths_and_methods_are_told_apart() {
    run(async {
        let rig = Rig::new(Fake::default());
        rig.get("/nowhere").await.assert_problem(404, "nothing is served");
        rig.get("/client-capabilities").await.assert_problem(405, "this method");
        rig.post("/openapi.json", "").await.assert_problem(405, "this method");
    });
}

#[test]
fn requests_are_counted_by_route_and_status() {
    run(async {
        let rig = Rig::new(Fake::default());
        rig.get("/openapi.json").await;
        rig.get("/openapi.json").await;
        rig.post("/bus/a", "1").await;
        rig.post("/bus/b", "no json").await;
        rig.get("/nowhere").await;
        let of = |route: &str, status: &str| {
            rig.count(&format!(
                "corelane_internal_requests_total{{route=\"{route}\",status=\"{status}\"}}"
            ))
        };
        assert_eq!((of("/openapi.json", "2xx"), of("/openapi.json", "4xx")), (2, 0));
        assert_eq!((of("/bus/{topic}", "2xx"), of("/bus/{topic}", "4xx")), (1, 1));
        assert_eq!(of("other", "4xx"), 1);
    });
}

#[test]
fn a_body_that_is_too_long_is_refused_before_it_is_whole() {
    run(async {
        let rig = Rig::new(Fake::default());
        let long = "x".repeat((1 << 20) + 1);
        rig.post("/bus/t", long).await.assert_problem(413, "longer than 1048576");
        let just = format!("\"{}\"", "x".repeat((1 << 20) - 2));
        assert_eq!(rig.post("/bus/t", just).await.status, 202);
    });
}

#[test]
fn a_core_that_does_not_answer_is_a_503_in_time() {
    run(async {
        tokio::time::pause();
        let rig = Rig::new(Fake { silent: true, ..Fake::default() });
        let body = json!({ "sessionId": LIVE.to_string() });
        let silent = rig.post_json("/client-capabilities", body).await;
        silent.assert_problem(503, "does not answer");
        // By the protocol this one never fails.
        let none =
            rig.post_json("/connect/get-account-sessions", json!({ "accountId": "a" })).await;
        assert_eq!(none.json()["sessionIds"], json!([]));
    });
}

#[test]
fn health_speaks_in_the_protocols_words() {
    run(async {
        let rig = Rig::new(Fake::default());
        for (phase, status, words) in [
            (Phase::Starting, 503, "Service unavailable"),
            (Phase::Running, 200, "Healthy"),
            (Phase::Draining(DrainPhase::Closing), 503, "Service unavailable"),
        ] {
            rig.phase.store(phase);
            for answer in [rig.get("/health").await, rig.post("/health", "").await] {
                assert_eq!((answer.status, &*answer.body), (status, words));
            }
        }
    });
}
