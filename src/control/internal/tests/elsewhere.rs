//! Requests about sessions of another node, on the node that is asked and on the one that has them.

use super::*;
use crate::control::nodes::{Request as Passed, Response as Told, Route};

fn message(session: SessionId) -> Value {
    json!({
        "clientId": session.to_string(), "serviceName": "game", "messageId": 5, "payload": "e30=",
        "serviceGuid": "9b2f6a10-77aa-4c1e-8d3b-5e0a4a6f9c21", "responseChannel": "game.answers",
    })
}

fn requests(session: SessionId) -> [(&'static str, Route, Value); 4] {
    let id = session.to_string();
    let call = json!({
        "sessionId": id, "targetService": "account", "targetEndpoint": "/account/get", "method": "POST",
    });
    [
        ("/client-capabilities", Route::Capabilities, json!({ "sessionId": id })),
        ("/internal/proxy", Route::Proxy, call),
        ("/events/client-messages", Route::Message, message(session)),
        ("/events/client-rpc", Route::Rpc, message(session)),
    ]
}

fn told(status: u16, problem: bool, body: &str) -> Result<Told, NoResponse> {
    Ok(Told { status, problem, body: body.to_owned().into() })
}

#[test]
fn what_the_node_that_has_the_session_says_is_the_answer() {
    run(async {
        for (status, problem, body) in
            [(200, false, "{\"a\":1}"), (200, false, ""), (403, true, "{\"detail\":\"no\"}")]
        {
            let told = told(status, problem, body);
            let rig = Rig::new(Fake { relays: true, told, ..Fake::default() });
            for (path, route, request) in requests(ELSEWHERE) {
                let answer = rig.post_json(path, request.clone()).await;
                assert_eq!((answer.status, &*answer.body), (status, body), "{path}");
                let kind = match (problem, body) {
                    (true, _) => "application/problem+json",
                    (false, "") => "",
                    (false, _) => "application/json",
                };
                assert_eq!(answer.content_type, kind, "{path}");
                let passed = rig.core.heard.lock().unwrap().relayed.pop().expect("it is passed on");
                let body = request.to_string().into();
                assert_eq!(passed, Passed { route, body });
            }
        }
    });
}

#[test]
fn a_player_is_told_of_an_endpoint_by_the_node_that_has_the_session() {
    run(async {
        let told = told(200, false, "{\"data\":{}}");
        let rig = Rig::new(Fake { relays: true, told, ..Fake::default() });
        let ask = || async {
            let request = Rig::request("POST", "/connect/get-endpoint-meta");
            let request = request.header("Authorization", "Bearer of-somebody-elsewhere");
            rig.send(request.body(json!({ "path": "/a/meta/info" }).to_string().into()).unwrap())
                .await
        };
        let answer = ask().await;
        assert_eq!((answer.status, &*answer.body), (200, "{\"data\":{}}"));
        let passed = rig.core.heard.lock().unwrap().relayed.pop().expect("it is passed on");
        assert_eq!(passed.route, Route::Meta);
        let wanted: Value = serde_json::from_slice(&passed.body).unwrap();
        assert_eq!(wanted, json!({ "sessionId": ELSEWHERE.to_string(), "path": "/a/meta/info" }));
        // On the node that has it, or had it.
        for (session, status) in [(LIVE, 403), (ABSENT, 401)] {
            let wanted = json!({ "sessionId": session.to_string(), "path": "/a/meta/info" });
            let body = wanted.to_string().into();
            let told = rig.holder.clone().answer(Passed { route: Route::Meta, body }).await;
            assert_eq!((told.status, told.problem), (status, true));
        }
    });
}

#[test]
fn a_node_that_cannot_be_asked_is_named_with_the_reason() {
    run(async {
        for (why, status) in [
            (NoResponse::NoLink, 503),
            (NoResponse::Unable, 503),
            (NoResponse::TooMany, 503),
            (NoResponse::QueueFull, 503),
            (NoResponse::LinkLost, 503),
            (NoResponse::Late, 504),
        ] {
            let rig = Rig::new(Fake { relays: true, told: Err(why), ..Fake::default() });
            for (path, _, request) in requests(ELSEWHERE) {
                let answer = rig.post_json(path, request).await;
                answer.assert_problem(status, &OTHER_NODE.to_string());
                answer.assert_problem(status, &why.to_string());
            }
        }
        let elsewhere = Whereabouts::Unknown;
        let rig = Rig::new(Fake { relays: true, elsewhere, ..Fake::default() });
        for (path, _, request) in requests(ELSEWHERE) {
            rig.post_json(path, request).await.assert_problem(503, "Redis");
        }
    });
}

#[test]
fn a_session_that_is_nowhere_or_on_no_linked_node_is_as_on_a_node_by_itself() {
    run(async {
        for (relays, session) in [(true, ABSENT), (false, ELSEWHERE)] {
            let rig = Rig::new(Fake { relays, ..Fake::default() });
            for (path, route, request) in requests(session) {
                let answer = rig.post_json(path, request).await;
                let expected = if route == Route::Message { 200 } else { 404 };
                assert_eq!(answer.status, expected, "{path}");
            }
            assert!(rig.core.heard.lock().unwrap().relayed.is_empty());
        }
    });
}

#[test]
fn a_request_that_was_passed_on_is_answered_as_at_the_listener_and_not_passed_on_again() {
    run(async {
        let rig = Rig::new(Fake { relays: true, ..Fake::default() });
        for session in [LIVE, WAITING, ELSEWHERE] {
            for (path, route, request) in requests(session) {
                let body = request.to_string().into();
                let told = rig.holder.clone().answer(Passed { route, body }).await;
                if session == LIVE {
                    let listener = rig.post_json(path, request).await;
                    assert_eq!(told.status, listener.status, "{path}");
                    let text = String::from_utf8(told.body.to_vec()).unwrap();
                    // How long a call took differs.
                    let text = text.split("executionTime").next().unwrap();
                    assert!(listener.body.starts_with(text), "{path}: {text}");
                } else {
                    let expected = if route == Route::Message { 200 } else { 404 };
                    assert_eq!((told.status, told.problem), (expected, expected == 404), "{path}");
                }
            }
        }
        let body = "{".into();
        let told = rig.holder.clone().answer(Passed { route: Route::Capabilities, body }).await;
        assert_eq!((told.status, told.problem), (400, true));
        assert!(rig.core.heard.lock().unwrap().relayed.is_empty());
    });
}
