use serde_json::{Value, json};

use super::*;

const SID: &str = "3f2504e0-4f89-41d3-9a0c-0305e82c3301";

fn invalidated(rest: &str) -> Result<SessionInvalidated, NoticeFault> {
    let notice = format!(r#"{{"eventName":"session.invalidated",{rest}}}"#);
    SessionInvalidated::read(notice.as_bytes())
}

#[test]
fn an_invalidation_names_its_sessions() {
    let read = invalidated(&format!(
        r#""eventId":"5a1d3c1e-0f5f-4c1e-9a3f-4b0d7f2f6a01","timestamp":"2026-03-02T14:56:21.1234567+00:00","accountId":"7f1e0f1c-6f0e-4b53-9d2e-0a1b2c3d4e5f","sessionIds":["{SID}"],"reason":"Logout","disconnectClients":true"#
    ));
    let expected = SessionInvalidated {
        sessions: vec![SID.parse().unwrap()],
        unreadable: 0,
        reason: InvalidationReason::Logout,
        disconnect_clients: true,
    };
    assert_eq!(read, Ok(expected));
}

#[test]
fn clients_are_disconnected_unless_the_notice_says_no() {
    for (rest, disconnect) in [
        ("", true),
        (r#","disconnectClients":null"#, true),
        (r#","disconnectClients":true"#, true),
        (r#","disconnectClients":false"#, false),
        (r#","DisconnectClients":false"#, false),
    ] {
        let read = invalidated(&format!(r#""sessionIds":["{SID}"]{rest}"#)).unwrap();
        assert_eq!(read.disconnect_clients, disconnect, "{rest}");
    }
}

#[test]
fn every_reason_ends_a_session() {
    for reason in InvalidationReason::ALL {
        let small = reason.as_str().to_ascii_lowercase();
        for word in [reason.as_str(), &small] {
            let read = invalidated(&format!(r#""sessionIds":["{SID}"],"reason":"{word}""#));
            assert_eq!(read.unwrap().reason, reason);
        }
    }
    for rest in ["", r#","reason":"Whim""#, r#","reason":null"#] {
        let read = invalidated(&format!(r#""sessionIds":["{SID}"]{rest}"#)).unwrap();
        assert_eq!(read.reason, InvalidationReason::Other, "{rest}");
    }
}

#[test]
fn one_bad_id_does_not_save_the_other_sessions() {
    let read = invalidated(&format!(r#""SessionIds":["me","{SID}",""]"#)).unwrap();
    assert_eq!(read.sessions, [SID.parse().unwrap()]);
    assert_eq!(read.unreadable, 2);
    assert_eq!(invalidated(r#""sessionIds":["me"]"#), Err(NoticeFault::NoSession));
    assert_eq!(invalidated(r#""sessionIds":[]"#).unwrap().sessions, []);
}

#[test]
fn an_invalidation_of_another_form_is_refused() {
    for rest in [r#""a":1"#, r#""sessionIds":null"#, r#""sessionIds":[1]"#, r#""sessionIds":"x""#] {
        assert_eq!(invalidated(rest), Err(NoticeFault::Form), "{rest}");
    }
    let ids = format!(r#"["{SID}"]"#);
    for notice in ["", "null", &format!("[{ids}]"), &format!(" [[{ids}]]"), "{\"sessionIds\":"] {
        assert_eq!(SessionInvalidated::read(notice.as_bytes()), Err(NoticeFault::Form), "{notice}");
    }
}

#[test]
fn an_event_that_strayed_onto_a_topic_is_refused() {
    let stray = format!(r#"{{"eventName":"session.connected","sessionIds":["{SID}"]}}"#);
    assert_eq!(SessionInvalidated::read(stray.as_bytes()), Err(NoticeFault::OtherEvent));
    let unnamed = format!(r#"{{"sessionIds":["{SID}"]}}"#);
    assert!(SessionInvalidated::read(unnamed.as_bytes()).is_ok());
}

#[test]
fn the_mappings_of_services_are_read() {
    let notice = br#"{"eventName":"orchestrator.full_service_mappings","eventId":"5a1d3c1e-0f5f-4c1e-9a3f-4b0d7f2f6a01","timestamp":"2026-03-02T14:56:21.1234567+00:00","mappings":{"account":"bannou-accounts"},"defaultAppId":"bannou","version":42,"sourceInstanceId":"c0ffee00-1234-4abc-8def-00112233aabb","totalServices":1}"#;
    let expected = FullServiceMappings {
        version: 42,
        mappings: BTreeMap::from([("account".into(), "bannou-accounts".into())]),
        default_app_id: Some("bannou".into()),
    };
    assert_eq!(FullServiceMappings::read(notice), Ok(expected));
    let hyphened =
        br#"{"eventName":"orchestrator.full-service-mappings","mappings":{},"version":0}"#;
    assert_eq!(FullServiceMappings::read(hyphened).unwrap().default_app_id, None);
    for bad in [r#"{"mappings":{}}"#, r#"{"version":1}"#, r#"{"version":-1,"mappings":{}}"#] {
        assert_eq!(FullServiceMappings::read(bad.as_bytes()), Err(NoticeFault::Form), "{bad}");
    }
}

const ERROR: &str = r#"{"eventName":"service.error","eventId":"5a1d3c1e-0f5f-4c1e-9a3f-4b0d7f2f6a01","timestamp":"2026-03-02T14:56:21.1234567+00:00","serviceId":"c0ffee00-1234-4abc-8def-00112233aabb","serviceName":"connect","appId":"bannou","operation":"RouteToService","errorType":"transport_error","message":"connection refused","severity":"Error","dependency":"account","endpoint":"post:/account/get","details":{"Method":"POST"},"stack":"at A.B()","cpuUsage":0,"memoryUsage":0}"#;

#[test]
fn an_error_becomes_the_protocols_notice() {
    let body = AdminNotices::body(ERROR.as_bytes()).unwrap();
    assert_eq!(
        String::from_utf8(body).unwrap(),
        r#"{"eventName":"service_error","eventId":"5a1d3c1e-0f5f-4c1e-9a3f-4b0d7f2f6a01","timestamp":"2026-03-02T14:56:21.1234567+00:00","serviceId":"c0ffee00-1234-4abc-8def-00112233aabb","appId":"bannou","operation":"RouteToService","errorType":"transport_error","message":"connection refused","severity":"error","dependency":"account","endpoint":"post:/account/get"}"#
    );
}

#[test]
fn a_notice_has_a_correlation_only_if_the_error_has_one() {
    let error = br#"{"Message":"a \"b\"","Severity":"Warning","correlationId":"x","stack":"at"}"#;
    let body: Value = serde_json::from_slice(&AdminNotices::body(error).unwrap()).unwrap();
    let expected = json!({
        "eventName": "service_error",
        "message": "a \"b\"",
        "severity": "warning",
        "correlationId": "x",
    });
    assert_eq!(body, expected);
    let null = br#"{"message":"m","correlationId":null}"#;
    let body: Value = serde_json::from_slice(&AdminNotices::body(null).unwrap()).unwrap();
    assert_eq!(body, json!({"eventName": "service_error", "message": "m"}));
}

#[test]
fn an_error_that_cannot_be_read_makes_no_notice() {
    for (error, fault) in [
        ("x", NoticeFault::Form),
        (r#"{"message":7}"#, NoticeFault::Form),
        (r#"{"eventName":"service.warning"}"#, NoticeFault::OtherEvent),
    ] {
        assert_eq!(AdminNotices::body(error.as_bytes()), Err(fault), "{error}");
    }
}

#[test]
fn notices_have_the_guid_of_the_vectors_and_the_time_as_their_id() {
    let vectors: Value =
        serde_json::from_str(include_str!("../../../shard/testdata/guid-vectors.json")).unwrap();
    let vector = &vectors["admin_notification_v5"];
    let header = AdminNotices::new(vector["salt"].as_str().unwrap()).header(1_772_463_381_123);
    assert_eq!(header.guid.to_string(), vector["guid"].as_str().unwrap());
    assert_eq!(header.message_id, 1_772_463_381_123);
    assert_eq!(header.flags, Flags::EVENT);
    assert_eq!((header.channel, header.sequence), (0, 0));
}

#[test]
fn notices_reach_administrators() {
    assert!(AdminNotices::reach(&["user", "Admin"]));
    assert!(AdminNotices::reach(&["ADMIN"]));
    assert!(!AdminNotices::reach(&["user", "administrator"]));
    assert!(!AdminNotices::reach(&[] as &[&str]));
}
