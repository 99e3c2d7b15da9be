//! The demo backend over HTTP, also to be read as an example of one.
//!
//! The gateway sends a call as a POST with the client's payload as its body, and the session id in
//! a header. 200 and its body reach the client; of other statuses only the number counts. Questions
//! about an endpoint arrive as GET of its path with `/meta/…`.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::thread;

use axum::Router;
use axum::body::Bytes;
use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt as _;
use serde_json::json;
use tracing::error;

use super::configuration::SERVICE;
use super::description::{Description, Question};
use super::wall_clock;

pub(super) const ECHO: &str = "/demo/echo";
pub(super) const TIME: &str = "/demo/time";

/// Correlates a call with a session. It is no proof of identity: whoever reaches this port can
/// send it.
const SESSION_HEADER: &str = "X-Bannou-Session-Id";

/// Serves on a thread of its own until the process ends.
pub(super) fn spawn() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("demo-http".to_owned()).spawn(move || {
        let served: io::Result<()> = runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            // A connection whose latency cannot be cut works all the same.
            let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
            axum::serve(listener, router()).await
        });
        if let Err(error) = served {
            error!(%error, "the demo HTTP backend has ended");
        }
    })?;
    Ok(address)
}

fn router() -> Router {
    Router::new()
        .route(ECHO, post(echo))
        .route(TIME, post(time))
        .route("/demo/{endpoint}/meta/{question}", get(meta))
}

/// The bytes as they came: also payloads that are not JSON.
async fn echo(headers: HeaderMap, body: Bytes) -> Response {
    match headers.get(header::CONTENT_TYPE) {
        Some(kind) => ([(header::CONTENT_TYPE, kind.clone())], body).into_response(),
        None => body.into_response(),
    }
}

async fn time(headers: HeaderMap) -> Response {
    let session = headers.get(SESSION_HEADER).and_then(|value| value.to_str().ok());
    let now = wall_clock::unix_ms();
    let answer = json!({ "now": wall_clock::iso(now), "unixMs": now, "session": session });
    as_json(answer.to_string())
}

async fn meta(Path((endpoint, question)): Path<(String, String)>) -> Response {
    match (describe(&endpoint), Question::from_path(&question)) {
        (Some(endpoint), Some(question)) => as_json(endpoint.answer(question)),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

fn as_json(body: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn describe(endpoint: &str) -> Option<Description> {
    match endpoint {
        "echo" => Some(Description {
            service: SERVICE,
            path: ECHO,
            operation: "echo",
            summary: "Answers with the request's payload",
            request: json!(true),
            response: json!(true),
        }),
        "time" => Some(Description {
            service: SERVICE,
            path: TIME,
            operation: "time",
            summary: "Answers with the time of day and the caller's session",
            request: json!(true),
            response: json!({
                "type": "object",
                "required": ["now", "unixMs", "session"],
                "properties": {
                    "now": { "type": "string", "format": "date-time" },
                    "unixMs": { "type": "integer" },
                    "session": { "type": ["string", "null"] },
                },
            }),
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    use std::net::TcpStream;

    use serde_json::Value;

    use super::*;

    struct Client(BufReader<TcpStream>);

    impl Client {
        fn connect() -> Self {
            let stream = TcpStream::connect(spawn().unwrap()).unwrap();
            let patience = std::time::Duration::from_secs(20);
            stream.set_read_timeout(Some(patience)).unwrap();
            Self(BufReader::new(stream))
        }

        /// Status line and body; the body's length must be given.
        fn ask(&mut self, line: &str, headers: &str, body: &[u8]) -> (String, Vec<u8>) {
            let length = body.len();
            let head = format!(
                "{line} HTTP/1.1\r\nHost: demo\r\nContent-Length: {length}\r\n{headers}\r\n"
            );
            let stream = self.0.get_mut();
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(body).unwrap();
            let mut lines = Vec::new();
            loop {
                let mut line = String::new();
                self.0.read_line(&mut line).unwrap();
                match line.trim_end() {
                    "" => break,
                    line => lines.push(line.to_ascii_lowercase()),
                }
            }
            let length = lines.iter().find_map(|line| line.strip_prefix("content-length: "));
            let mut body = vec![0; length.unwrap().parse().unwrap()];
            self.0.read_exact(&mut body).unwrap();
            (lines[0].clone(), body)
        }

        fn json(&mut self, line: &str, headers: &str) -> Value {
            let (status, body) = self.ask(line, headers, b"");
            assert_eq!(status, "http/1.1 200 ok");
            serde_json::from_slice(&body).unwrap()
        }
    }

    #[test]
    fn one_connection_carries_call_after_call() {
        let mut client = Client::connect();
        for body in [&b"{\"a\":1}"[..], b"", b"\xff\x00 no JSON", &[7; 1 << 20]] {
            let (status, answer) = client.ask("POST /demo/echo", "", body);
            assert_eq!(status, "http/1.1 200 ok");
            assert!(answer == body, "{} bytes", body.len());
        }
        let (status, _) = client.ask("GET /demo/echo", "", b"");
        assert_eq!(status, "http/1.1 405 method not allowed");
        let session = "3f2a9c10-77aa-4c1e-8d3b-5e0a4a6f9c21";
        let header = format!("X-Bannou-Session-Id: {session}\r\n");
        let time = client.json("POST /demo/time", &header);
        assert_eq!(time["session"], session);
        assert_eq!(time["now"], wall_clock::iso(time["unixMs"].as_u64().unwrap()));
        assert_eq!(client.json("POST /demo/time", "")["session"], Value::Null);
    }

    #[test]
    fn every_question_about_every_endpoint_is_answered() {
        let mut client = Client::connect();
        for path in [ECHO, TIME] {
            for (question, meta_type) in [
                ("info", "endpoint-info"),
                ("request-schema", "request-schema"),
                ("response-schema", "response-schema"),
                ("schema", "full-schema"),
            ] {
                let answer = client.json(&format!("GET {path}/meta/{question}"), "");
                assert_eq!(answer["metaType"], meta_type);
                assert_eq!(answer["path"], path);
                assert_eq!(answer["serviceName"], SERVICE);
                assert_ne!(answer["data"], Value::Null);
            }
        }
        for path in ["/demo/echo/meta/other", "/demo/none/meta/info", "/"] {
            let (status, _) = client.ask(&format!("GET {path}"), "", b"");
            assert_eq!(status, "http/1.1 404 not found");
        }
    }
}
