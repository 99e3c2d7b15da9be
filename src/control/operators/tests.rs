//! The calls of operators in front of a control core that the tests play.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use corelane_shard::id::{EndpointId, ServiceId};
use corelane_shard::identity::{Account, Identity, Standing};
use corelane_shard::lane::SessionDescription;
use corelane_shard::snapshot::{
    BreakerLimits, ConnectionMode, DoorLimits, Endpoint, Method, Service, SessionLimits, Snapshot,
    Tracing, UpstreamKind,
};
use corelane_shard::wire::guid::Guid;
use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio::sync::mpsc;
use tower::ServiceExt as _;

use super::*;
use crate::config::{Config, Log, LogFormat, LogLevel};
use crate::control::ask::{NoSession, NotEnded};

/// Sessions 1 to 250; every tenth is of `anna`, and 10 waits to be taken up.
fn listed(session: u128) -> ListedSession {
    let standing = Standing {
        tenant: "default".into(),
        roles: ["user".into()].into(),
        authorizations: ["game:yes".into()].into(),
    };
    let identity = Identity {
        session: SessionId(session),
        account: session.is_multiple_of(10).then(|| Account::from("anna")),
        standing: Arc::new(standing),
        expires_at: None,
        issued_at: None,
    };
    ListedSession { identity: Arc::new(identity), live: session != 10 }
}

fn described(listed: ListedSession) -> Described {
    let service = Service {
        name: "demo".into(),
        kind: UpstreamKind::Http,
        host: "backend.test".into(),
        call_timeout: Duration::from_secs(1),
        connect_timeout: Duration::from_secs(1),
        running_max: 1,
        connections_max: 1,
        pool_idle: Duration::from_secs(1),
        response_head_bytes_max: 1024,
        response_body_bytes_max: 1024,
        breaker: BreakerLimits { failures: 0, open_for: Duration::from_secs(1) },
    };
    let endpoint = Endpoint {
        service: ServiceId(0),
        method: Method::Get,
        path: "/demo/time".into(),
        idempotent: false,
    };
    let snapshot = Snapshot {
        version: 1,
        mode: ConnectionMode::External,
        salt: "salt".into(),
        node: 0,
        services: [service].into(),
        endpoints: [endpoint].into(),
        roles: [].into(),
        session: SessionLimits::default(),
        door: DoorLimits::default(),
        tracing: Tracing::default(),
    };
    let description = SessionDescription {
        endpoints: [EndpointId(0)].into(),
        shortcuts: [].into(),
        peer: Some(([192, 0, 2, 7], 4711).into()),
        peer_guid: Guid([9; 16]),
        open_ms: 61_999,
        messages_in: 1,
        messages_out: 2,
        bytes_in: 3,
        bytes_out: 4,
    };
    Described { listed, description, snapshot: Arc::new(snapshot) }
}

/// The router, and which sessions were ended with which reason.
struct Rig {
    router: Router,
    config: ShownConfig,
    ended: Arc<Mutex<BTreeMap<u128, String>>>,
}

impl Rig {
    fn new() -> Self {
        let (asking, mut asks) = mpsc::channel(8);
        let config = ShownConfig::default();
        let ended = Arc::<Mutex<BTreeMap<u128, String>>>::default();
        let ends = Arc::clone(&ended);
        tokio::spawn(async move {
            while let Some(ask) = asks.recv().await {
                match ask {
                    Ask::List { after, limit, answer } => {
                        let after = after.map_or(0, |session| session.0);
                        let page = (after + 1..=250).take(limit).map(listed).collect();
                        drop(answer.send(page));
                    }
                    Ask::OfAccount { account, answer } => {
                        // In no order, as the core has them.
                        let all = (1..=250).rev().filter(|session| session % 10 == 0);
                        let found =
                            if &*account == "anna" { all.map(listed).collect() } else { vec![] };
                        drop(answer.send(found));
                    }
                    Ask::Describe { session, answer } => {
                        let known = (1..=250).contains(&{ session.0 }) && session.0 != 10;
                        let found = known.then(|| Box::new(described(listed(session.0))));
                        drop(answer.send(found.ok_or(NoSession)));
                    }
                    Ask::End { session, reason, answer } => {
                        let known = (1..=250).contains(&{ session.0 });
                        let mut ends = ends.lock().unwrap();
                        let is_new = known && ends.insert(session.0, reason.to_string()).is_none();
                        let _unheard =
                            answer.send(if is_new { Ok(()) } else { Err(NotEnded::NoSession) });
                    }
                    other => panic!("operators do not ask {other:?}"),
                }
            }
        });
        let router = Operators::new(asking, Arc::clone(&config)).router();
        Self { router, config, ended }
    }

    async fn send(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let request = Request::builder().method(method).uri(path);
        let request = request.body(Body::from(body.to_owned())).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.send("GET", path, "").await
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(10), test).await.expect("not in time");
    });
}

fn ids(page: &Value) -> Vec<u128> {
    let sessions = page["sessions"].as_array().unwrap().iter();
    let ids = sessions.map(|session| session["sessionId"].as_str().unwrap());
    ids.map(|id| id.parse::<SessionId>().unwrap().0).collect()
}

#[test]
fn sessions_are_listed_page_by_page_each_once() {
    run(async {
        let rig = Rig::new();
        for (base, expected) in [
            ("/sessions?", (1..=250).collect::<Vec<u128>>()),
            ("/sessions?account=anna&", (1..=25).map(|n| n * 10).collect()),
        ] {
            for limit in [1, 7, 25, 100, 1000] {
                let (mut all, mut after) = (Vec::new(), String::new());
                loop {
                    let (status, page) = rig.get(&format!("{base}limit={limit}{after}")).await;
                    assert_eq!(status, 200, "{page}");
                    let ids = ids(&page);
                    assert!(ids.len() <= limit);
                    all.extend(ids);
                    match page["next"].as_str() {
                        Some(next) => after = format!("&after={next}"),
                        None => break,
                    }
                }
                assert_eq!(all, expected, "{base} {limit}");
            }
        }
        assert_eq!(ids(&rig.get("/sessions").await.1).len(), 100);
        assert_eq!(ids(&rig.get("/sessions?account=nobody").await.1), []);
    });
}

#[test]
fn a_listed_session_says_whose_it_is() {
    run(async {
        let (_, page) = Rig::new().get("/sessions?account=anna&limit=1").await;
        let expected = json!({
            "sessionId": SessionId(10).to_string(), "accountId": "anna", "tenant": "default",
            "roles": ["user"], "authorizations": ["game:yes"], "live": false,
        });
        assert_eq!(page["sessions"][0], expected);
    });
}

#[test]
fn one_session_is_shown_with_all_that_is_known() {
    run(async {
        let rig = Rig::new();
        let (status, session) = rig.get(&format!("/sessions/{}", SessionId(3))).await;
        assert_eq!(status, 200);
        let expected = json!({
            "sessionId": SessionId(3).to_string(), "tenant": "default", "roles": ["user"],
            "authorizations": ["game:yes"], "live": true, "peer": "192.0.2.7:4711",
            "peerGuid": Guid([9; 16]).to_string(), "openSeconds": 61, "messagesReceived": 1,
            "messagesSent": 2, "bytesReceived": 3, "bytesSent": 4,
            "endpoints": ["GET demo:/demo/time"], "shortcuts": [],
        });
        assert_eq!(session, expected);
        for absent in [10, 251] {
            let (status, why) = rig.get(&format!("/sessions/{}", SessionId(absent))).await;
            assert_eq!(status, 404, "{why}");
        }
        assert_eq!(rig.get("/sessions/x").await.0, 400);
    });
}

#[test]
fn a_session_is_ended_with_its_reason_and_once() {
    run(async {
        let rig = Rig::new();
        let path = |session| format!("/sessions/{}", SessionId(session));
        let (status, ended) = rig.send("DELETE", &path(3), "").await;
        assert_eq!((status, ended), (200, json!({ "ended": 1 })));
        assert_eq!(rig.send("DELETE", &path(3), "").await.0, 404);
        let with_reason = format!("{}?reason=Logout%20now", path(10));
        assert_eq!(rig.send("DELETE", &with_reason, "").await.0, 200);
        assert_eq!(rig.send("DELETE", &path(251), "").await.0, 404);
        let reasons = [(3, "AdminAction".to_owned()), (10, "Logout now".to_owned())];
        assert_eq!(
            rig.ended.lock().unwrap().clone().into_iter().take(2).collect::<Vec<_>>(),
            reasons
        );
    });
}

#[test]
fn all_sessions_of_an_account_are_ended() {
    run(async {
        let rig = Rig::new();
        let (status, ended) = rig.send("DELETE", "/sessions?account=anna&reason=x", "").await;
        assert_eq!((status, ended), (200, json!({ "ended": 25 })));
        assert_eq!(rig.ended.lock().unwrap().len(), 25);
        assert_eq!(rig.send("DELETE", "/sessions?account=nobody", "").await.0, 404);
    });
}

#[test]
fn an_order_that_is_not_clear_ends_nothing() {
    run(async {
        let rig = Rig::new();
        let one = format!("/sessions/{}", SessionId(3));
        let long = "x".repeat(65);
        for path in [
            "/sessions",
            "/sessions?account=",
            "/sessions?account=anna&account=otto",
            "/sessions?accuont=anna",
            "/sessions?account=anna&limit=1",
            &format!("{one}?reason="),
            &format!("{one}?reason={long}"),
            &format!("{one}?reason=a%0Ab"),
            &format!("{one}?why=x"),
            "/sessions/x",
        ] {
            let (status, why) = rig.send("DELETE", path, "").await;
            assert_eq!(status, 400, "{path}: {why}");
            assert!(why["next"].is_string(), "{why}");
        }
        for path in ["/sessions?limit=0", "/sessions?limit=1001", "/sessions?after=x"] {
            assert_eq!(rig.get(path).await.0, 400, "{path}");
        }
        assert!(rig.ended.lock().unwrap().is_empty());
    });
}

#[test]
fn the_configuration_is_the_present_one_without_secrets() {
    run(async {
        let rig = Rig::new();
        rig.config.store(Arc::new(Config::default().shown));
        let (status, shown) = rig.get("/config").await;
        assert_eq!(status, 200);
        let limit = json!({ "value": 64, "from": "default" });
        assert_eq!(shown["limits.fragments_max"], limit);
        assert_eq!(shown["session.server_salt"]["value"], "(secret)");
        assert_eq!(shown["listen.internal.service_token"]["value"], "");
    });
}

#[test]
fn the_logs_level_is_told_and_set_until_the_end() {
    run(async {
        let rig = Rig::new();
        logging::install(&Log { format: LogFormat::Json, level: LogLevel::Error });
        assert_eq!(rig.get("/log-level").await, (200, json!({ "level": "error" })));
        let debug = json!({ "level": "DEBUG" }).to_string();
        let told = (200, json!({ "level": "debug" }));
        assert_eq!(rig.send("PUT", "/log-level", &debug).await, told);
        assert!(tracing::enabled!(tracing::Level::DEBUG));
        for wrong in ["", "debug", r#"{"level":"loud"}"#, r#"{"level":1}"#] {
            assert_eq!(rig.send("PUT", "/log-level", wrong).await.0, 400, "{wrong}");
        }
        assert_eq!(rig.get("/log-level").await, told);
        let error = json!({ "level": "error" }).to_string();
        rig.send("PUT", "/log-level", &error).await;
        assert!(!tracing::enabled!(tracing::Level::WARN));
    });
}
