//! What services and operators ask of one gateway about a session that another has.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::gateway_process::SOON;
use crate::harness::client::Client;
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::http_backend::{self, HttpBackend};
use crate::internal::{TOKEN, ask, json, player, post};
use crate::services::Redis;

/// Nodes that keep their sessions together; the first is where all of them dial.
fn nodes<const N: usize>(redis: &Redis, tables: &str) -> [Gateway; N] {
    let mut first = None;
    let nodes = std::array::from_fn(|at| {
        let peers = first.map(|first| format!("ws://{first}")).unwrap_or_default();
        let gateway = apart(redis, tables)
            .set("control.node", &(at + 1).to_string())
            // Nobody finds it there: who dials is the test's to say.
            .set("nodes.internal_url", &format!("ws://127.0.0.1:1/{at}"))
            .set("nodes.peers", &peers)
            .start();
        first.get_or_insert(gateway.internal());
        gateway
    });
    for gateway in &nodes[1..] {
        gateway.await_metric("corelane_node_links", "state=\"open\"", 1);
    }
    nodes
}

/// A node that shares sessions and has no links.
fn apart(redis: &Redis, tables: &str) -> Setup {
    Setup::new(tables)
        .set("listen.internal.address", "127.0.0.1:0")
        .set("listen.internal.service_token", TOKEN)
        .set("control.instance", &Uuid::new_v4().to_string())
        .set("redis.url", &redis.url())
}

fn message(session: &str) -> Value {
    json!({
        "clientId": session, "serviceName": "demo", "serviceGuid": Uuid::new_v4().to_string(),
        "messageId": 5, "payload": "e30=", "responseChannel": "demo.answers",
    })
}

fn call(session: &str) -> Value {
    json!({
        "sessionId": session, "targetService": "demo", "targetEndpoint": "/demo/time",
        "method": "POST", "body": {},
    })
}

#[test]
fn a_service_reaches_a_player_of_another_node() {
    let redis = Redis::start();
    let backend = HttpBackend::start(|_| http_backend::Answer::ok("{\"at\":1}"));
    let [here, there] = nodes(&redis, &backend.service("/demo/time", ""));
    let (session, _, mut client) = player(&there);
    let asked = json!({ "sessionId": session });
    let answers = [&here, &there].map(|gateway| post(gateway, "/client-capabilities", &asked));
    assert_eq!(answers[0].status, 200, "{:?}", answers[0]);
    assert_eq!(json(&answers[0]), json(&answers[1]));
    let guid = &client.manifest["availableApis"][0]["serviceId"];
    assert_eq!(json(&answers[0])["capabilities"][0]["guid"], *guid);

    let proxied = post(&here, "/internal/proxy", &call(&session));
    assert_eq!(json(&proxied)["response"], "{\"at\":1}", "{proxied:?}");
    let mut unknown = call(&session);
    unknown["targetEndpoint"] = json!("/demo/other");
    let refused = post(&here, "/internal/proxy", &unknown);
    assert_eq!((refused.status, &json(&refused)["status"]), (403, &json!(403)));

    for (path, flags) in [("/events/client-messages", 0x11), ("/events/client-rpc", 0x01)] {
        let answer = post(&here, path, &message(&session));
        assert_eq!((answer.status, &*answer.body), (200, ""), "{path}");
        let pushed = std::iter::repeat_with(|| client.request()).find(|it| it.id == 5);
        assert_eq!(pushed.expect("it never ends").flags, flags);
    }
    assert_eq!(here.metric("corelane_node_requests_sent_total", ""), 5);
    assert_eq!(there.metric("corelane_node_requests_received_total", ""), 5);
}

#[test]
fn an_operator_ends_a_session_of_another_node() {
    let redis = Redis::start();
    let [here, there] = [(); 2].map(|()| apart(&redis, "").start());
    let (session, token, mut client) = player(&there);
    let path = format!("/sessions/{session}?reason=Cheating");
    let ended = ask(here.admin(), "DELETE", &path, "", "");
    assert_eq!((ended.status, json(&ended)), (200, json!({ "ended": 1 })));
    assert_eq!(client.close_reason(), (4001, "Session invalidated: Cheating".to_owned()));
    assert_eq!(ask(here.admin(), "DELETE", &path, "", "").status, 404, "once");
    assert_eq!(Client::try_connect(here.public(), &token).err(), Some(401), "it is revoked");
}

#[test]
fn a_session_that_nobody_has_is_a_404_and_one_without_a_way_to_it_a_503() {
    let redis = Redis::start();
    let [here, _there] = nodes(&redis, "");
    let alone = apart(&redis, "").start();
    let (held, _, client) = player(&alone);
    let nobody = Uuid::new_v4().to_string();
    for (gateway, session, status) in [
        (&here, &nobody, [404, 404, 404, 200]),
        (&here, &held, [503; 4]),
        // Without links it knows nothing of others.
        (&alone, &nobody, [404, 404, 404, 200]),
    ] {
        let answers = [
            post(gateway, "/client-capabilities", &json!({ "sessionId": session })),
            post(gateway, "/internal/proxy", &call(session)),
            post(gateway, "/events/client-rpc", &message(session)),
            post(gateway, "/events/client-messages", &message(session)),
        ];
        assert_eq!(answers.each_ref().map(|answer| answer.status), status, "{answers:?}");
        if status == [503; 4] {
            let detail = json(&answers[0])["detail"].as_str().expect("a text").to_owned();
            assert!(detail.contains("no link to that node"), "{detail}");
        }
    }
    let failed = "corelane_node_requests_failed_total";
    assert_eq!(here.metric(failed, "reason=\"no_link\""), 4);
    client.leave();
    // Its node knows before Redis does.
    here.wait_until("the session has no connection anywhere", SOON, || {
        post(&here, "/client-capabilities", &json!({ "sessionId": held })).status == 404
    });
}

#[test]
fn while_redis_is_away_nobody_says_that_a_session_is_nowhere() {
    let mut redis = Redis::start();
    let [here, there] = nodes(&redis, "");
    let (session, _, client) = player(&there);
    redis.kill();
    here.await_metric("corelane_redis_up", "", 0);
    let asked = json!({ "sessionId": session });
    let answer = post(&here, "/client-capabilities", &asked);
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.body.contains("Redis"), "{answer:?}");
    assert_eq!(post(&there, "/client-capabilities", &asked).status, 200, "it is here");
    let end = ask(here.admin(), "DELETE", &format!("/sessions/{session}"), "", "");
    assert_eq!(end.status, 503, "{end:?}");
    drop(client);
}
