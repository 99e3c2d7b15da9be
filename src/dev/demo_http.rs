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
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    thread::Builder::new()
        .name("demo-http".to_owned())
        .spawn(move || {
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
    let session = headers
        .get(SESSION_HEADER)
        .and_then(|value| value.to_str().ok());
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
