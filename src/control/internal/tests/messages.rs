//! Messages and RPCs for clients.

use corelane_shard::wire::header::RequestHeader;

use super::*;

const GUID: &str = "cab54425-5941-5c52-bfb2-221b0cea4f17";

fn message(session: SessionId) -> Value {
    json!({
        "clientId": session.to_string(), "serviceName": "x", "serviceGuid": GUID,
        "messageId": -2, "payload": "eyJhIjoxfQ==", "flags": 8, "channel": 5,
        "timestamp": "2026-03-02T14:56:21+00:00",
    })
}

fn with(mut message: Value, name: &str, value: Value) -> Value {
    message[name] = value;
    message
}

#[test]
fn a_message_becomes_a_frame_for_its_session() {
    run(async {
        let rig = Rig::new(Fake::default());
        let answer = rig.post_json("/events/client-messages", message(LIVE)).await;
        assert_eq!((answer.status, &*answer.body), (200, ""));
        let pushed = std::mem::take(&mut rig.core.heard.lock().unwrap().pushed);
        let [(session, frame)] = &pushed[..] else { panic!("{pushed:?}") };
        assert_eq!(*session, LIVE);
        let header = RequestHeader::parse(frame).unwrap();
        assert_eq!((header.flags.0, header.channel, header.sequence), (0x08 | 0x11, 5, 0));
        assert_eq!((header.guid.to_string(), header.message_id), (GUID.to_owned(), u64::MAX - 1));
        assert_eq!(&frame[RequestHeader::LEN..], br#"{"a":1}"#);
    });
}

#[test]
fn a_message_to_nobody_is_no_error() {
    run(async {
        let rig = Rig::new(Fake::default());
        assert_eq!(rig.post_json("/events/client-messages", message(ABSENT)).await.status, 200);
    });
}

#[test]
fn message_ids_are_64_bits_with_or_without_a_sign() {
    run(async {
        let rig = Rig::new(Fake::default());
        for (id, bits) in
            [(json!(5), 5), (json!(u64::MAX), u64::MAX), (json!(i64::MIN), 1_u64 << 63)]
        {
            let message = with(message(LIVE), "messageId", id);
            assert_eq!(rig.post_json("/events/client-messages", message).await.status, 200);
            let pushed = rig.core.heard.lock().unwrap().pushed.pop().unwrap();
            assert_eq!(RequestHeader::parse(&pushed.1).unwrap().message_id, bits);
        }
        for id in [json!(1.5), json!("5"), json!(null)] {
            let message = with(message(LIVE), "messageId", id);
            rig.post_json("/events/client-messages", message).await.assert_problem(400, "body");
        }
    });
}

#[test]
fn what_cannot_be_read_is_a_400_and_sends_nothing() {
    run(async {
        let rig = Rig::new(Fake::default());
        for path in ["/events/client-messages", "/events/client-rpc"] {
            let whole = with(message(LIVE), "responseChannel", json!("answers"));
            for (name, value, cause) in [
                ("clientId", json!("x"), "clientId"),
                ("serviceGuid", json!("x"), "serviceGuid"),
                ("payload", json!("*"), "base64"),
                ("flags", json!(256), "256"),
                ("channel", json!(65_536), "65536"),
            ] {
                let answer = rig.post_json(path, with(whole.clone(), name, value)).await;
                answer.assert_problem(400, cause);
            }
            rig.post(path, "").await.assert_problem(400, "body");
        }
        for topic in ["", "a b", "a\nb", "a/b", &"x".repeat(250)] {
            let rpc = with(message(LIVE), "responseChannel", json!(topic));
            let answer = rig.post_json("/events/client-rpc", rpc).await;
            answer.assert_problem(400, "responseChannel");
        }
        assert_eq!(rig.asked.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn an_rpc_reaches_its_session_with_its_time() {
    run(async {
        let rig = Rig::new(Fake::default());
        let rpc = with(message(LIVE), "responseChannel", json!("game.answers"));
        for (seconds, timeout) in [
            (json!(7), Some(Duration::from_secs(7))),
            (json!(0), None),
            (json!(-3), None),
            (json!(1_000_000), Some(Duration::from_secs(300))),
        ] {
            let rpc = with(rpc.clone(), "timeoutSeconds", seconds);
            let answer = rig.post_json("/events/client-rpc", rpc).await;
            assert_eq!((answer.status, &*answer.body), (200, ""), "{answer:?}");
            let heard = rig.core.heard.lock().unwrap().rpcs.pop().unwrap();
            assert_eq!((heard.session, heard.timeout), (LIVE, timeout));
            assert_eq!((&*heard.service, heard.channel, heard.message_id), ("x", 5, u64::MAX - 1));
            assert_eq!(&*heard.payload, br#"{"a":1}"#);
            assert_eq!(&*heard.response_topic, "game.answers");
        }
    });
}

#[test]
fn an_rpc_that_nobody_would_answer_is_refused() {
    run(async {
        let rig = Rig::new(Fake::default());
        let rpc = |session| with(message(session), "responseChannel", json!("answers"));
        let answer = rig.post_json("/events/client-rpc", rpc(ABSENT)).await;
        answer.assert_problem(404, &ABSENT.to_string());
        let many = with(rpc(LIVE), "channel", json!(99));
        rig.post_json("/events/client-rpc", many).await.assert_problem(503, "too many");
    });
}

#[test]
fn an_auth_event_is_taken_and_asks_nothing() {
    run(async {
        let rig = Rig::new(Fake::default());
        for kind in ["Login", "Logout", "TokenRefresh", "PermissionChange"] {
            let event = json!({ "sessionId": LIVE.to_string(), "eventType": kind });
            let answer = rig.post_json("/events/auth-events", event).await;
            assert_eq!((answer.status, &*answer.body), (200, ""));
        }
        let event = json!({ "sessionId": LIVE.to_string(), "eventType": "Lunch" });
        rig.post_json("/events/auth-events", event).await.assert_problem(400, "Lunch");
        assert_eq!(rig.asked.load(Ordering::Relaxed), 0);
    });
}
