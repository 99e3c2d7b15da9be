//! The bus over HTTP.

use axum::body::BodyDataStream;
use futures_util::StreamExt as _;

use super::*;
use crate::control::internal::bus::SUBSCRIBERS_MAX;

const EVENTS: &str = "/bus/bannou-client-events";
const EVENT: &str = r#"{"eventName":"system.notification"}"#;

#[test]
fn a_record_is_published_with_what_the_request_says() {
    run(async {
        let rig = Rig::new(Fake::default());
        let answer = rig.post("/bus/session.invalidated?key=k%201&expires-at-ms=12", "{}").await;
        assert_eq!((answer.status, answer.json()), (202, json!({ "published": 1 })));
        let request = Rig::request("POST", "/bus/other")
            .header("key", "k2")
            .header("expires-at-ms", "13")
            .body(Body::from("[]"));
        assert_eq!(rig.send(request.unwrap()).await.status, 202);
        assert_eq!(rig.post("/bus/other", "null").await.status, 202);
        let record = |topic: &str, key: &str, value: &str, expires_at_ms| Record {
            topic: topic.into(),
            key: key.into(),
            value: Arc::from(value.as_bytes()),
            expires_at_ms,
            position: None,
            trail: Some(Box::default()),
        };
        assert_eq!(
            rig.core.heard.lock().unwrap().records,
            [
                record("session.invalidated", "k 1", "{}", Some(12)),
                record("other", "k2", "[]", Some(13)),
                record("other", "", "null", None),
            ]
        );
    });
}

#[test]
fn an_event_reaches_a_session_or_all_of_an_account() {
    run(async {
        let rig = Rig::new(Fake::default());
        let answer = rig.post(&format!("{EVENTS}?session={LIVE}"), EVENT).await;
        assert_eq!((answer.status, answer.json()), (202, json!({ "published": 1 })));
        let answer = rig.post(&format!("{EVENTS}?account={ACCOUNT}"), EVENT).await;
        assert_eq!((answer.status, answer.json()), (202, json!({ "published": 2 })));
        let keyed = format!("{EVENTS}?key=CONNECT_SESSION_{WAITING}");
        assert_eq!(rig.post(&keyed, EVENT).await.status, 202);
        let heard = rig.core.heard.lock().unwrap();
        let keys: Vec<_> = heard.records.iter().map(|record| record.key.to_string()).collect();
        let expected =
            [LIVE, LIVE, WAITING, WAITING].map(|session| format!("CONNECT_SESSION_{session}"));
        assert_eq!(keys, expected);
    });
}

#[test]
fn an_event_for_nobody_or_without_meaning_is_refused_with_its_fault() {
    run(async {
        let rig = Rig::new(Fake::default());
        let to = |query: &str| format!("{EVENTS}?{query}");
        let absent = to(&format!("session={ABSENT}"));
        rig.post(&absent, EVENT).await.assert_problem(404, "no session");
        rig.post(&to("account=nobody"), EVENT).await.assert_problem(404, "\"nobody\"");
        let live = to(&format!("session={LIVE}"));
        rig.post(&live, "{}").await.assert_problem(422, "no eventName");
        rig.post(&live, "{").await.assert_problem(422, "not JSON");
        rig.post(EVENTS, EVENT).await.assert_problem(422, "CONNECT_SESSION_");
        let account = to(&format!("account={ACCOUNT}"));
        rig.post(&account, "{}").await.assert_problem(422, "no eventName");
        let long = r#"{"eventName":"too.long"}"#;
        rig.post(&live, long).await.assert_problem(413, "longer");
        assert!(rig.core.heard.lock().unwrap().records.is_empty());
    });
}

#[test]
fn a_request_that_contradicts_itself_publishes_nothing() {
    run(async {
        let rig = Rig::new(Fake::default());
        for (path, cause) in [
            ("/bus/a%20b", "topic"),
            ("/bus/t?kay=1", "\"kay\""),
            ("/bus/t?key=1&key=2", "more than once"),
            ("/bus/t?expires-at-ms=soon", "expires-at-ms = \"soon\""),
            ("/bus/t?expires-at-ms=-1", "expires-at-ms"),
            ("/bus/t?account=a", "bannou-client-events"),
            ("/bus/bannou-client-events?session=x", "session = \"x\""),
            ("/bus/bannou-client-events?account=a&key=b", "exclude each other"),
        ] {
            rig.post(path, EVENT).await.assert_problem(400, cause);
        }
        assert_eq!(rig.asked.load(Ordering::Relaxed), 0);
    });
}

/// A subscription whose text is read as it comes.
struct Followed {
    stream: BodyDataStream,
    read: String,
}

impl Rig {
    async fn follow(&self, path: &str) -> Followed {
        let request = Self::request("GET", path).body(Body::empty()).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status().as_u16(), 200);
        let content_type = response.headers().get(header::CONTENT_TYPE).unwrap();
        assert_eq!(content_type, "text/event-stream");
        Followed { stream: response.into_body().into_data_stream(), read: String::new() }
    }
}

impl Followed {
    /// The next event, its fields as they are written.
    async fn event(&mut self) -> String {
        loop {
            if let Some((event, rest)) = self.read.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.read = rest;
                return event;
            }
            let chunk = self.stream.next().await.expect("the stream goes on").unwrap();
            self.read += str::from_utf8(&chunk).unwrap();
        }
    }
}

#[test]
fn a_subscriber_gets_the_records_of_its_topics() {
    run(async {
        let rig = Rig::new(Fake::default());
        let mut some = rig.follow("/bus?topic=a&topic=c").await;
        let mut all = rig.follow("/bus").await;
        for topic in ["a", "b", "c"] {
            let text = format!("{{\"of\":\n\"{topic}\"}}");
            assert_eq!(rig.post(&format!("/bus/{topic}"), text).await.status, 202);
        }
        assert_eq!(some.event().await, "event: a\nid: 1\ndata: {\"of\":\ndata: \"a\"}");
        assert_eq!(some.event().await, "event: c\nid: 2\ndata: {\"of\":\ndata: \"c\"}");
        for topic in ["a", "b", "c"] {
            assert!(all.event().await.starts_with(&format!("event: {topic}\n")));
        }
    });
}

#[test]
fn a_subscriber_that_falls_behind_is_told_how_far() {
    run(async {
        let rig = Rig::new(Fake::default());
        let mut slow = rig.follow("/bus").await;
        for number in 0..6 {
            rig.post("/bus/t", number.to_string()).await;
        }
        assert_eq!(slow.event().await, "event: lagged\ndata: 2");
        assert_eq!(slow.event().await, "event: t\nid: 1\ndata: 2");
    });
}

#[test]
fn subscribers_are_so_many_and_give_their_place_back() {
    run(async {
        let rig = Rig::new(Fake::default());
        let mut followed = Vec::new();
        for _ in 0..SUBSCRIBERS_MAX {
            followed.push(rig.follow("/bus").await);
        }
        rig.get("/bus").await.assert_problem(503, "follow the bus already");
        followed.pop();
        rig.follow("/bus").await;
        rig.get("/bus?topic=a%20b").await.assert_problem(400, "topic");
        rig.get("/bus?tpoic=a").await.assert_problem(400, "tpoic");
    });
}
