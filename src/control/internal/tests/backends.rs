//! Calls to backends, which the tests play over real sockets.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;

use super::*;

/// A backend that answers every connection with `answer`, and keeps what it was asked.
struct Backend {
    address: Address,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Backend {
    async fn start(answer: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let (answer, kept) = (answer.to_owned(), Arc::clone(&requests));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serve(stream, &answer, &kept).await;
            }
        });
        Self { address, requests }
    }

    fn core(&self) -> Fake {
        Fake { addresses: vec![self.address.clone()], ..Fake::default() }
    }

    fn request(&self) -> String {
        self.requests.lock().unwrap().pop().expect("it was asked")
    }
}

async fn serve(
    mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    answer: &str,
    kept: &Mutex<Vec<String>>,
) {
    let mut read = Vec::new();
    while !is_whole(&read) {
        assert_ne!(stream.read_buf(&mut read).await.unwrap(), 0, "{read:?}");
    }
    kept.lock().unwrap().push(String::from_utf8(read).unwrap());
    stream.write_all(answer.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
}

fn is_whole(read: &[u8]) -> bool {
    let text = str::from_utf8(read).unwrap();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    body.len() >= length.map_or(0, |length| length.parse::<usize>().unwrap())
}

fn http(status: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nX-Twice: a\r\nX-Twice: b\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
}

fn proxied(path: &str, method: &str) -> Value {
    json!({
        "sessionId": LIVE.to_string(), "targetService": "account", "targetEndpoint": path,
        "method": method, "headers": { "x": "y" }, "body": { "accountId":  ACCOUNT },
        "queryParameters": { "q": "a b" },
    })
}

const PROXY: &str = "/internal/proxy";

#[test]
fn a_call_in_a_sessions_name_is_made_and_answered_whole() {
    run(async {
        let backend = Backend::start(&http("404 Not Found", r#"{"error":"none"}"#)).await;
        let rig = Rig::new(backend.core());
        let answer = rig.post_json(PROXY, proxied("/account/get", "post")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let answer = answer.json();
        assert_eq!(answer["statusCode"], 404);
        assert_eq!(answer["response"], r#"{"error":"none"}"#);
        assert_eq!(answer["headers"]["x-twice"], json!(["a", "b"]));
        assert!(answer["executionTime"].is_u64() && answer.get("error").is_none(), "{answer}");
        let request = backend.request();
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("POST /account/get?q=a%20b HTTP/1.1\r\n"), "{head}");
        for line in [
            "host: backend.test",
            "accept: application/json",
            "content-type: application/json; charset=utf-8",
            &format!("x-bannou-session-id: {LIVE}"),
        ] {
            assert!(head.lines().any(|found| found == line), "{line:?} in {head}");
        }
        assert!(!head.contains("x: y") && !head.contains(TOKEN), "{head}");
        assert_eq!(body, format!(r#"{{"accountId":"{ACCOUNT}"}}"#));
    });
}

#[test]
fn placeholders_are_filled_and_a_get_has_no_body() {
    run(async {
        let backend = Backend::start(&http("200 OK", "{}")).await;
        let rig = Rig::new(backend.core());
        let mut request = proxied("/account/{id}", "GET");
        request["pathParameters"] = json!({ "id": "7" });
        assert_eq!(rig.post_json(PROXY, request.clone()).await.json()["statusCode"], 200);
        let asked = backend.request();
        assert!(asked.starts_with("GET /account/7?q=a%20b HTTP/1.1\r\n"), "{asked}");
        assert!(asked.ends_with("\r\n\r\n") && !asked.contains("content-type"), "{asked}");
        request["pathParameters"] = json!({ "id": "../admin" });
        rig.post_json(PROXY, request).await.assert_problem(400, "pathParameters.id");
    });
}

#[test]
fn only_what_the_session_may_call_is_called() {
    run(async {
        let backend = Backend::start(&http("200 OK", "{}")).await;
        let rig = Rig::new(backend.core());
        for (path, method) in [
            ("/account/admin", "POST"),
            ("/account/get", "DELETE"),
            ("/account/7", "GET"),
            ("/game/move", "POST"),
            ("/account/get/", "POST"),
        ] {
            let answer = rig.post_json(PROXY, proxied(path, method)).await;
            answer.assert_problem(403, path);
        }
        for session in [WAITING, ABSENT] {
            let mut request = proxied("/account/get", "POST");
            request["sessionId"] = json!(session.to_string());
            rig.post_json(PROXY, request).await.assert_problem(404, &session.to_string());
        }
        rig.post_json(PROXY, proxied("/account/get", "HEAD")).await.assert_problem(400, "HEAD");
        let mut link = proxied("/game/move", "POST");
        link["targetService"] = json!("game");
        rig.post_json(PROXY, link).await.assert_problem(501, "by link");
        assert!(backend.requests.lock().unwrap().is_empty());
    });
}

#[track_caller]
fn assert_unavailable(answer: &Answer, cause: &str) {
    assert_eq!(answer.status, 500, "{answer:?}");
    let answer = answer.json();
    assert_eq!(answer["statusCode"], 503);
    assert!(answer["error"].as_str().unwrap().contains(cause), "{answer}");
    assert!(answer["executionTime"].is_u64(), "{answer}");
}

#[test]
fn a_backend_that_does_not_answer_is_a_500_that_says_503() {
    run(async {
        let rig = Rig::new(Fake::default());
        let none = rig.post_json(PROXY, proxied("/account/get", "POST")).await;
        assert_unavailable(&none, "no address");
        let gone = TcpListener::bind(("127.0.0.1", 0)).await.unwrap().local_addr().unwrap();
        let rig = Rig::new(Fake { addresses: vec![Address::Tcp(gone)], ..Fake::default() });
        let refused = rig.post_json(PROXY, proxied("/account/get", "POST")).await;
        assert_unavailable(&refused, "refused");
        for (answer, cause) in [
            ("", "cannot be reached"),
            ("nonsense\r\n\r\n", "cannot be reached"),
            (&*http("200 OK", &"x".repeat(1025)), "longer than 1024"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", "cannot be reached"),
        ] {
            let backend = Backend::start(answer).await;
            let rig = Rig::new(backend.core());
            let broken = rig.post_json(PROXY, proxied("/account/get", "POST")).await;
            assert_unavailable(&broken, cause);
        }
    });
}

#[test]
fn a_backend_that_is_silent_has_its_time() {
    run(async {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let mut core = Fake { addresses: vec![address], ..Fake::default() };
        core.snapshot.services[0].call_timeout = Duration::from_millis(30);
        let rig = Rig::new(core);
        let silent = rig.post_json(PROXY, proxied("/account/get", "POST")).await;
        assert_unavailable(&silent, "no answer within 30ms");
    });
}

#[test]
fn calls_to_backends_leave_room_for_other_requests() {
    run(async {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let rig = Arc::new(Rig::new(Fake { addresses: vec![address], ..Fake::default() }));
        rig.phase.store(Phase::Running);
        let mut held = Vec::new();
        for _ in 0..backend::CALLS_MAX {
            let rig = Arc::clone(&rig);
            tokio::spawn(
                async move { rig.post_json(PROXY, proxied("/account/get", "POST")).await },
            );
            held.push(listener.accept().await.unwrap());
        }
        let more = rig.post_json(PROXY, proxied("/account/get", "POST")).await;
        more.assert_problem(503, "calls to backends run already");
        let meta = meta(&rig, &format!("Bearer {PLAYER}"), "/account/get/meta/info").await;
        meta.assert_problem(503, "calls to backends run already");
        assert_eq!(rig.get("/health").await.status, 200);
    });
}

#[test]
fn another_address_stands_in_for_one_that_is_gone() {
    run(async {
        let backend = Backend::start(&http("200 OK", "{}")).await;
        let gone = TcpListener::bind(("127.0.0.1", 0)).await.unwrap().local_addr().unwrap();
        let addresses = vec![Address::Tcp(gone), backend.address.clone(), Address::Tcp(gone)];
        let rig = Rig::new(Fake { addresses, ..Fake::default() });
        for _ in 0..16 {
            let answer = rig.post_json(PROXY, proxied("/account/get", "POST")).await;
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    });
}

#[test]
fn a_backend_may_listen_on_a_unix_socket() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("backend.sock");
        let listener = UnixListener::bind(&path).unwrap();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            serve(stream, &http("200 OK", "{}"), &Mutex::default()).await;
        });
        let rig =
            Rig::new(Fake { addresses: vec![Address::Unix(path.clone())], ..Fake::default() });
        let answer = rig.post_json(PROXY, proxied("/account/get", "POST")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    });
}

const META: &str = "/connect/get-endpoint-meta";

async fn meta(rig: &Rig, authorization: &str, path: &str) -> Answer {
    let request = Rig::request("POST", META).header(header::AUTHORIZATION, authorization);
    rig.send(request.body(json!({ "path": path }).to_string().into()).unwrap()).await
}

#[test]
fn an_endpoints_description_is_fetched_from_its_backend() {
    run(async {
        let told = json!({
            "metaType": "endpoint-info", "serviceName": "Account", "method": "POST",
            "path": "/account/get", "data": { "summary": "Get account" },
            "generatedAt": "2026-03-02T14:56:21.12+00:00", "schemaVersion": "0.16.0.0",
        });
        let backend = Backend::start(&http("200 OK", &told.to_string())).await;
        let rig = Rig::new(backend.core());
        for (path, asked) in [
            ("/account/get/meta/info", "/account/get/meta/info"),
            ("/account/{id}/meta/request-schema", "/account/%7Bid%7D/meta/request-schema"),
            ("/other/path/meta/schema", "/other/path/meta/schema"),
        ] {
            let answer = meta(&rig, &format!("bearer {PLAYER}"), path).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            let mut expected = told.clone();
            expected.as_object_mut().unwrap().remove("generatedAt");
            assert_eq!(answer.json(), expected);
            let request = backend.request();
            assert!(request.starts_with(&format!("GET {asked} HTTP/1.1\r\n")), "{request}");
            assert!(!request.contains(PLAYER), "{request}");
        }
    });
}

#[test]
fn a_description_is_only_for_a_connected_player_with_the_endpoint() {
    run(async {
        let rig = Rig::new(Fake::default());
        let path = "/account/get/meta/info";
        let bare = rig.post_json(META, json!({ "path": path })).await;
        bare.assert_problem(401, "no Bearer");
        meta(&rig, "Basic abc", path).await.assert_problem(401, "no Bearer");
        meta(&rig, "Bearer forged", path).await.assert_problem(401, "signature");
        meta(&rig, "Bearer of-nobody", path).await.assert_problem(401, "no connection");
        meta(&rig, "Bearer unavailable", path).await.assert_problem(503, "key source");
        let player = format!("Bearer {PLAYER}");
        for path in ["/account/get", "/account/get/meta/", "/account/get/meta/all", ""] {
            meta(&rig, &player, path).await.assert_problem(404, "/meta/");
        }
        meta(&rig, &player, "/account/admin/meta/info").await.assert_problem(403, "/account/admin");
        meta(&rig, &player, "/game/move/meta/info").await.assert_problem(501, "by link");
    });
}

#[test]
fn a_backend_that_describes_nothing_is_a_404_and_one_that_babbles_a_500() {
    run(async {
        let player = format!("Bearer {PLAYER}");
        let path = "/account/get/meta/info";
        let unreachable = Rig::new(Fake::default());
        meta(&unreachable, &player, path).await.assert_problem(404, "no address");
        let missing = Backend::start(&http("404 Not Found", "{}")).await;
        meta(&Rig::new(missing.core()), &player, path).await.assert_problem(404, "404");
        let babbling = Backend::start(&http("200 OK", "[]")).await;
        meta(&Rig::new(babbling.core()), &player, path).await.assert_problem(500, "cannot be read");
    });
}
