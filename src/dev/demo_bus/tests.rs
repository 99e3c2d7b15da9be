//! The demo against an internal listener of a few lines.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::time::timeout;

use super::internal::Lines;
use super::*;

const SESSION: &str = "3f2504e0-4f89-41d3-9a0c-0305e82c3301";
const TOKEN: &str = "the token";
const PATIENCE: Duration = Duration::from_secs(20);

/// Path and query of each request, and what it carries.
type Asked = (String, Value);

/// Publishes one record to each follower, then what is posted is told; sessions but one are unknown.
struct Listener {
    records: &'static str,
    asked: UnboundedSender<Asked>,
}

async fn follow(State(listener): State<Arc<Listener>>, uri: Uri) -> Body {
    drop(listener.asked.send((uri.to_string(), Value::Null)));
    let first = Ok::<_, Infallible>(Bytes::from_static(listener.records.as_bytes()));
    let never = futures_util::stream::pending();
    use futures_util::StreamExt as _;
    Body::from_stream(futures_util::stream::iter([first]).chain(never))
}

async fn take(
    State(listener): State<Arc<Listener>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    assert_eq!(headers["X-Service-Token"], TOKEN);
    let uri = uri.to_string();
    let known = uri.contains(SESSION) || uri.starts_with("/events/");
    drop(listener.asked.send((uri, serde_json::from_slice(&body).unwrap())));
    if known { StatusCode::ACCEPTED } else { StatusCode::NOT_FOUND }
}

/// Runs the demo, which is told `records`; gives what it asks.
async fn demo(records: &'static str, rhythm: Rhythm) -> UnboundedReceiver<Asked> {
    let (asked, heard) = mpsc::unbounded_channel();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new()
        .route("/bus", get(follow))
        .route("/bus/{topic}", post(take))
        .route("/events/client-rpc", post(take))
        .with_state(Arc::new(Listener { records, asked }));
    tokio::spawn(async { axum::serve(listener, router).await });
    tokio::spawn(run(Internal::new(address, TOKEN), rhythm));
    heard
}

/// The next request that `wanted` takes.
async fn next(heard: &mut UnboundedReceiver<Asked>, wanted: impl Fn(&Asked) -> bool) -> Asked {
    timeout(PATIENCE, async {
        loop {
            let asked = heard.recv().await.expect("the demo goes on");
            if wanted(&asked) {
                return asked;
            }
        }
    })
    .await
    .expect("the demo asks that in time")
}

const CONNECTED: &str = concat!(
    "event: session.connected\nid: 1\ndata: {\"sessionId\":\"gone\"}\n\n:\n\n",
    "event: session.connected\nid: 2\n",
    "data: {\"sessionId\":\"3f2504e0-4f89-41d3-9a0c-0305e82c3301\"}\n\n",
);

fn fast() -> Rhythm {
    let short = Duration::from_millis(1);
    Rhythm { tick: short, question_after: short, retry: short }
}

#[tokio::test]
async fn a_new_session_gets_shortcut_events_and_one_question() {
    let mut heard = demo(CONNECTED, fast()).await;
    let path = format!("/bus/bannou-client-events?session={SESSION}");
    let followed = "/bus?topic=session.connected&topic=session.disconnected&topic=demo.answers";
    assert_eq!(next(&mut heard, |_| true).await.0, followed);
    let (_, published) = next(&mut heard, |(uri, body)| {
        *uri == path && body["eventName"] == "session.shortcut-published"
    })
    .await;
    let record = published.to_string();
    let names =
        crate::events::ClientEventNames::new(crate::events::NameDialect::Hyphen, &[TICK]).unwrap();
    let order = crate::events::read(record.as_bytes(), &names);
    assert!(matches!(order, Ok(crate::events::SessionOrder::PublishShortcut(_))), "{order:?}");

    let mut questions = 0;
    let mut last = 0;
    while last < 20 {
        let (uri, body) = next(&mut heard, |(uri, _)| !uri.ends_with("gone")).await;
        if uri == "/events/client-rpc" {
            // The other session was not known any more when it was given its shortcut; that is no
            // reason to leave it out.
            questions += u32::from(body["clientId"] == SESSION);
            assert_eq!(body["responseChannel"], "demo.answers");
            let payload = STANDARD.decode(body["payload"].as_str().unwrap()).unwrap();
            assert!(serde_json::from_slice::<Value>(&payload).unwrap()["question"].is_string());
        } else if body["eventName"] == TICK {
            assert_eq!(uri, path);
            let n = body["n"].as_u64().unwrap();
            assert!(n > last, "{n} after {last}");
            last = n;
        }
    }
    assert_eq!(questions, 1);
}

#[tokio::test]
async fn a_session_that_has_ended_is_left_alone() {
    const ENDED: &str = concat!(
        "event: session.connected\ndata: {\"sessionId\":\"gone\"}\n\n",
        "event: session.disconnected\ndata: {\"sessionId\":\"gone\"}\n\n",
        "event: session.connected\ndata: {\"sessionId\":\"3f2504e0-4f89-41d3-9a0c-0305e82c3301\"}\n\n",
    );
    let slow = Rhythm { question_after: PATIENCE, ..fast() };
    let mut heard = demo(ENDED, slow).await;
    // It knows of both when it gives the second its shortcut.
    next(&mut heard, |(uri, _)| uri.ends_with(SESSION)).await;
    for _ in 0..20 {
        let (uri, _) = next(&mut heard, |_| true).await;
        assert!(uri.ends_with(SESSION), "{uri}");
    }
}

#[test]
fn records_are_read_in_whatever_pieces_they_come() {
    let text =
        "event: a.b\nid: 1\ndata: {\"x\":\ndata: \"\u{e9}\"}\n\n:\n\nevent:lagged\ndata:7\n\n";
    let whole = [("a.b".to_owned(), json!({ "x": "\u{e9}" })), ("lagged".to_owned(), json!(7))];
    for size in 1..text.len() {
        let mut lines = Lines::default();
        text.as_bytes().chunks(size).for_each(|piece| lines.take(piece));
        let read: Vec<_> = std::iter::from_fn(|| lines.next()).collect();
        assert_eq!(read, whole, "pieces of {size}");
    }
}
