//! What services and operators ask of a running gateway, and who cannot.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};

use serde_json::{Value, json};
use uuid::Uuid;

use crate::gateway_process::http::{self, Answer};
use crate::gateway_process::token::Claims;
use crate::gateway_process::{Launch, SOON};
use crate::harness::client::Client;
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::http_backend::{self, HttpBackend};
use crate::harness::raw::{dial, exchange};

pub(crate) const TOKEN: &str = "of-the-services-of-this-test";

fn setup(tables: &str) -> Setup {
    Setup::new(tables)
        .set("listen.internal.address", "127.0.0.1:0")
        .set("listen.internal.service_token", TOKEN)
}

pub(crate) fn ask(to: SocketAddr, method: &str, path: &str, fields: &str, body: &str) -> Answer {
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\nX-Service-Token: {TOKEN}\r\n\
         {fields}Content-Length: {length}\r\n\r\n{body}"
    );
    exchange(to, request.as_bytes())
}

pub(crate) fn post(gateway: &Gateway, path: &str, body: &Value) -> Answer {
    ask(gateway.internal(), "POST", path, "", &body.to_string())
}

pub(crate) fn json(answer: &Answer) -> Value {
    serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

/// A connected player: session, token, client.
pub(crate) fn player(gateway: &Gateway) -> (String, String, Client) {
    let session = Uuid::new_v4();
    let token = Claims::default().session(session).sign();
    let client = Client::connect(gateway.public(), &token);
    (session.to_string(), token, client)
}

/// The next event of this name.
fn event(client: &mut Client, name: &str) -> Value {
    loop {
        let event = client.event();
        if event["eventName"] == name {
            return event;
        }
    }
}

#[test]
fn no_internal_route_is_on_the_public_port() {
    let gateway = setup("").start();
    let document = ask(gateway.internal(), "GET", "/openapi.json", "", "");
    let document = json(&document);
    let mut walked = 0;
    for (path, item) in document["paths"].as_object().expect("paths") {
        let path = path.replace("{topic}", "bannou-client-events").replace("{kind}", "info");
        for method in item.as_object().expect("methods").keys() {
            let method = method.to_uppercase();
            let answer = ask(gateway.public(), &method, &path, "", "");
            match (&*method, &*path) {
                // The public port has one of its own, for which nobody needs a token.
                ("GET", "/health") => assert_eq!(answer.status, 200, "{answer:?}"),
                ("POST", "/health") => assert_eq!(answer.status, 405, "{answer:?}"),
                _ => assert_eq!(answer.status, 404, "{method} {path}: {answer:?}"),
            }
            walked += 1;
        }
    }
    assert!(walked > 15, "{walked}");
    for path in ["/sessions", "/config", "/log-level", "/metrics"] {
        assert_eq!(ask(gateway.public(), "GET", path, "", "").status, 404, "{path}");
        assert_eq!(ask(gateway.internal(), "GET", path, "", "").status, 404, "{path}");
    }
}

#[test]
fn the_internal_listener_is_off_unless_it_is_switched_on_with_a_token() {
    let ended = Launch::new("").set("listen.internal.address", "127.0.0.1:0").run_to_end();
    assert_eq!(ended.status.code(), Some(64), "{}", ended.stderr);
    assert!(ended.stderr.contains("CONNECT_INTERNAL_SERVICE_TOKEN"), "{}", ended.stderr);
    let gateway = setup("").start();
    let bare = http::request(gateway.internal(), "GET", "/health").expect("an answer");
    assert_eq!(bare.status, 401, "{bare:?}");
    let refused = gateway.metric("corelane_internal_token_refused_total", "");
    assert_eq!(refused, 1);
    assert!(!gateway.log().text().contains(TOKEN), "the token is in the log");
}

#[test]
fn a_service_reaches_a_player_and_calls_in_its_name() {
    let backend = HttpBackend::start(|_| http_backend::Answer::ok("{\"at\":1}"));
    let gateway = setup(&backend.service("/demo/time", "")).start();
    let (session, token, mut client) = player(&gateway);
    let asked = post(&gateway, "/client-capabilities", &json!({ "sessionId": session }));
    let guid = &client.manifest["availableApis"][0]["serviceId"];
    assert_eq!(json(&asked)["capabilities"][0]["guid"], *guid, "as the manifest says");

    let notice = json!({ "eventName": "system.notification", "message": "Hello" });
    let path = format!("/bus/bannou-client-events?session={session}");
    let published = post(&gateway, &path, &notice);
    assert_eq!(published.status, 202, "{published:?}");
    assert_eq!(event(&mut client, "system.notification"), notice);

    let message = json!({
        "clientId": session, "serviceGuid": Uuid::new_v4().to_string(), "messageId": 5, "payload": "e30=",
    });
    assert_eq!(post(&gateway, "/events/client-messages", &message).status, 200);
    let pushed = std::iter::repeat_with(|| client.request()).find(|it| it.id == 5);
    assert_eq!(pushed.expect("it never ends").flags, 0x11);

    let proxied = json!({
        "sessionId": session, "targetService": "demo", "targetEndpoint": "/demo/time",
        "method": "POST", "body": {},
    });
    let answer = json(&post(&gateway, "/internal/proxy", &proxied));
    assert_eq!((&answer["statusCode"], &answer["response"]), (&json!(200), &json!("{\"at\":1}")));

    let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n");
    let body = json!({ "path": "/demo/other/meta/info" }).to_string();
    let meta = |token: &str| {
        let path = "/connect/get-endpoint-meta";
        ask(gateway.internal(), "POST", path, &bearer(token), &body).status
    };
    assert_eq!((meta(&token), meta("forged"), meta(&gateway.token())), (403, 401, 401));
    client.leave();
}

#[test]
fn descriptions_of_endpoints_have_a_public_server_of_their_own() {
    let described = json!({
        "metaType": "endpoint-info", "serviceName": "demo", "method": "POST", "path": "/demo/time",
        "data": {},
    });
    let backend = HttpBackend::start(move |_| http_backend::Answer::ok(described.to_string()));
    let setup = Setup::new(backend.service("/demo/time", ""));
    let gateway = setup.set("listen.internal.endpoint_meta_address", "127.0.0.1:0").start();
    let (_, token, client) = player(&gateway);
    let ask_about = |endpoint: &str, method: &str, path: &str, fields: &str| {
        let body = json!({ "path": format!("{endpoint}/meta/info") }).to_string();
        ask(gateway.endpoint_meta(), method, path, fields, &body)
    };
    let ask = |method: &str, path: &str, fields: &str| {
        ask_about("/demo/other", method, path, fields).status
    };
    let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n");
    let path = "/connect/get-endpoint-meta";
    let answer = ask_about("/demo/time", "POST", path, &bearer(&token));
    assert_eq!((answer.status, &json(&answer)["serviceName"]), (200, &json!("demo")));
    // No role has the endpoint.
    assert_eq!(ask("POST", path, &bearer(&token)), 403);
    assert_eq!(ask("POST", path, &bearer("forged")), 401);
    assert_eq!(ask("POST", path, ""), 401, "the service token is nothing here");
    assert_eq!(ask("GET", path, &bearer(&token)), 405);
    for path in ["/bus", "/openapi.json", "/health", "/client-capabilities", "/internal/proxy"] {
        assert_eq!(ask("POST", path, &bearer(&token)), 404, "{path}");
    }
    client.leave();
}

#[test]
fn a_subscriber_hears_of_sessions() {
    let gateway = setup("").start();
    let mut stream = dial(gateway.internal());
    let request = format!(
        "GET /bus?topic=session.connected HTTP/1.1\r\nHost: i\r\nX-Service-Token: {TOKEN}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).expect("the gateway reads");
    stream.set_read_timeout(Some(SOON)).expect("a legal time-out");
    let mut lines = BufReader::new(stream).lines();
    let mut line = |wanted: &str| {
        let found = lines.find_map(|line| {
            let line = line.expect("the stream goes on");
            line.strip_prefix(wanted).map(str::to_owned)
        });
        found.unwrap_or_else(|| panic!("the stream ended before {wanted:?}"))
    };
    line("HTTP/1.1 200");
    line("content-type: text/event-stream");
    let (session, _, client) = player(&gateway);
    assert_eq!(line("event: "), "session.connected");
    let connected: Value = serde_json::from_str(&line("data: ")).expect("JSON");
    assert_eq!(connected["sessionId"], json!(session));
    client.leave();
}

#[test]
fn an_operator_finds_and_ends_sessions() {
    let gateway = setup("").start();
    let (session, token, mut client) = player(&gateway);
    let admin = |method: &str, path: &str| ask(gateway.admin(), method, path, "", "");
    let page = json(&admin("GET", "/sessions"));
    assert_eq!(page["sessions"][0]["sessionId"], json!(session));
    let account = page["sessions"][0]["accountId"].as_str().expect("it has one").to_owned();
    let one = json(&admin("GET", &format!("/sessions/{session}")));
    assert_eq!((&one["live"], &one["accountId"]), (&json!(true), &json!(account)));
    let ended = admin("DELETE", &format!("/sessions?account={account}&reason=Cheating"));
    assert_eq!(json(&ended), json!({ "ended": 1 }));
    assert_eq!(client.close_reason(), (4001, "Session invalidated: Cheating".to_owned()));
    let path = format!("/sessions/{session}");
    gateway.wait_until("the session has gone", SOON, || admin("DELETE", &path).status == 404);
    assert_eq!(Client::try_connect(gateway.public(), &token).err(), Some(401), "it is revoked");
}

#[test]
fn an_operator_sees_the_configuration_that_holds() {
    let mut gateway = setup("").start();
    let shown = |gateway: &Gateway, key: &str| {
        let answer = ask(gateway.admin(), "GET", "/config", "", "");
        assert!(!answer.body.contains(TOKEN) && !answer.body.contains("a salt of"), "{answer:?}");
        json(&answer)[key].clone()
    };
    let key = "limits.fragments_max";
    assert_eq!(shown(&gateway, key), json!({ "value": 64, "from": "default" }));
    gateway.reload("[limits]\nfragments_max = 9");
    let taken = json!({ "value": 9, "from": "file" });
    gateway.wait_until("the reload is shown", SOON, || shown(&gateway, key) == taken);
    gateway.reload("[limits]\nfragments_max = 8\n[control]\nnode = 3");
    gateway.await_log("configuration refused");
    assert_eq!(shown(&gateway, key), taken);
    let level = |body: &str| ask(gateway.admin(), "PUT", "/log-level", "", body).status;
    assert_eq!((level(r#"{"level":"debug"}"#), level("{}")), (200, 400));
}

#[test]
fn connections_of_services_are_kept() {
    let gateway = setup("").start();
    let mut stream = dial(gateway.internal());
    for _ in 0..3 {
        let request =
            format!("GET /health HTTP/1.1\r\nHost: i\r\nX-Service-Token: {TOKEN}\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("the gateway reads");
        assert_eq!(healthy(&mut stream), "Healthy");
    }
}

fn healthy(stream: &mut TcpStream) -> String {
    use std::io::Read as _;
    let head = crate::harness::raw::read_head(stream);
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let mut body = [0; 7];
    stream.read_exact(&mut body).expect("a body");
    String::from_utf8(body.into()).expect("a text")
}
