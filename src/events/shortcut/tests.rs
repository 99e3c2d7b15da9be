use corelane_shard::snapshot::Method;
use serde_json::{Value, json};

use super::*;

fn example() -> Value {
    json!({
        "eventName": "session.shortcut-published",
        "eventId": "5a1d3c1e-0f5f-4c1e-9a3f-4b0d7f2f6a01",
        "timestamp": "2026-03-02T14:56:21.1234567+00:00",
        "sessionId": "3f2504e0-4f89-41d3-9a0c-0305e82c3301",
        "shortcut": {
            "routeGuid": "e396fa78-4185-7478-b2be-6c15197f391c",
            "targetGuid": "93faa70b-c616-ce52-b9c4-d0d7d6fae278",
            "boundPayload": "{\"ticketId\":\"b7c1\"}",
            "metadata": {
                "name": "matchmaking_leave",
                "description": "Leave the queue",
                "sourceService": "matchmaking",
                "targetService": "matchmaking",
                "targetMethod": "POST",
                "targetEndpoint": "/matchmaking/leave",
                "createdAt": "2026-03-02T14:56:21+00:00",
                "expiresAt": "2026-03-02T15:06:21+00:00",
                "tags": ["queue"],
                "displayName": "Leave",
            },
        },
        "replaceExisting": true,
    })
}

/// The example with one place of the shortcut set to something else. Null has to mean the same as
/// nothing at all.
fn with(pointer: &str, value: Value) -> Result<PublishedShortcut, Unusable> {
    let mut event = example();
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    let is_null = value.is_null();
    let mut set = |value: Option<Value>| {
        let parent = event["shortcut"].pointer_mut(parent).unwrap().as_object_mut().unwrap();
        match value {
            Some(value) => parent.insert(field.into(), value),
            None => parent.remove(field),
        };
        read(&event.to_string())
    };
    let result = set(Some(value));
    if is_null {
        assert_eq!(result, set(None), "{pointer}");
    }
    result
}

fn fault(fault: ShortcutFault) -> Result<PublishedShortcut, Unusable> {
    Err(Unusable::BadShortcut(fault))
}

#[test]
fn the_protocols_example_is_read() {
    let expected = PublishedShortcut {
        route: "e396fa78-4185-7478-b2be-6c15197f391c".parse().unwrap(),
        target_guid: "93faa70b-c616-ce52-b9c4-d0d7d6fae278".parse().unwrap(),
        target: ShortcutTarget {
            service: "matchmaking".into(),
            method: Method::Post,
            path: "/matchmaking/leave".into(),
        },
        payload: (*br#"{"ticketId":"b7c1"}"#).into(),
        expires: Some(Timestamp(1_772_463_981_000)),
        name: Some("matchmaking_leave".into()),
        description: Some("Leave the queue".into()),
        source_service: Some("matchmaking".into()),
    };
    assert_eq!(read(&example().to_string()), Ok(expected));
}

#[test]
fn what_is_only_shown_may_be_absent_or_empty() {
    for value in [Value::Null, json!("")] {
        assert_eq!(with("/metadata/name", value.clone()).unwrap().name, None);
        assert_eq!(with("/metadata/description", value.clone()).unwrap().description, None);
        assert_eq!(with("/metadata/sourceService", value.clone()).unwrap().source_service, None);
        assert!(with("/boundPayload", value).unwrap().payload.is_empty());
    }
}

#[test]
fn a_shortcut_that_leads_nowhere_names_the_missing_field() {
    for (pointer, field) in [
        ("/metadata/targetService", TargetField::Service),
        ("/metadata/targetMethod", TargetField::Method),
        ("/metadata/targetEndpoint", TargetField::Endpoint),
        ("/metadata", TargetField::Service),
    ] {
        assert_eq!(with(pointer, Value::Null), Err(Unusable::NoShortcutTarget(field)));
    }
    let empty = with("/metadata/targetMethod", json!(""));
    assert_eq!(empty, Err(Unusable::NoShortcutTarget(TargetField::Method)));
}

#[test]
fn guids_have_to_be_guids() {
    for bad in [Value::Null, json!(""), json!("e396fa78"), json!("g")] {
        assert_eq!(with("/routeGuid", bad.clone()), fault(ShortcutFault::RouteGuid));
        assert_eq!(with("/targetGuid", bad), fault(ShortcutFault::TargetGuid));
    }
    assert_eq!(with("/routeGuid", json!(7)), fault(ShortcutFault::Form));
}

#[test]
fn targets_that_cannot_be_called_are_refused() {
    assert_eq!(with("/metadata/targetMethod", json!("HEAD")), fault(ShortcutFault::Method));
    let get = with("/metadata/targetMethod", json!("get")).unwrap();
    assert_eq!(get.target.method, Method::Get);
    for bad in ["x", "x/y", "/a b", "/a\r\nHost: b", "/ä", "/a\u{7f}"] {
        let read = with("/metadata/targetEndpoint", json!(bad));
        assert_eq!(read, fault(ShortcutFault::Endpoint), "{bad:?}");
    }
}

#[test]
fn payloads_are_base64_or_text() {
    for (bound, payload) in [
        ("eyJhIjoxfQ==", &br#"{"a":1}"#[..]),
        (" eyJh\r\nIjox\tfQ== ", br#"{"a":1}"#),
        (r#"{"a":1}"#, br#"{"a":1}"#),
        ("eyJhIjoxfQ", b"eyJhIjoxfQ"),
        ("1234", b"\xd7\x6d\xf8"),
        (" a b ", b" a b "),
        ("ä", "ä".as_bytes()),
    ] {
        assert_eq!(*with("/boundPayload", json!(bound)).unwrap().payload, *payload, "{bound}");
    }
    assert_eq!(with("/boundPayload", json!({"a": 1})), fault(ShortcutFault::Form));
}

#[test]
fn the_end_is_read_in_both_spellings() {
    let end = Some(Timestamp(1_772_463_981_000));
    let underscored = |camel: Value| {
        let mut event = example();
        let metadata = event["shortcut"]["metadata"].as_object_mut().unwrap();
        metadata.insert("expiresAt".into(), camel);
        metadata.insert("expires_at".into(), json!("2026-03-02T15:06:21Z"));
        read(&event.to_string()).unwrap().expires
    };
    assert_eq!(underscored(Value::Null), end);
    assert_eq!(underscored(json!("1970-01-01T00:00:00Z")), Some(Timestamp(0)));
    assert_eq!(with("/metadata/expiresAt", Value::Null).unwrap().expires, None);
}

#[test]
fn an_end_that_is_no_time_makes_no_endless_shortcut() {
    for bad in ["", "soon", "1772463981"] {
        assert_eq!(with("/metadata/expiresAt", json!(bad)), fault(ShortcutFault::Expiry));
    }
    assert_eq!(with("/metadata/expiresAt", json!(1_772_463_981)), fault(ShortcutFault::Form));
}

#[test]
fn what_a_session_would_have_to_keep_is_bounded() {
    let text = |bytes: usize| json!(format!("/{}", "x".repeat(bytes - 1)));
    for field in ["name", "description", "sourceService", "targetService", "targetEndpoint"] {
        let pointer = format!("/metadata/{field}");
        assert!(with(&pointer, text(1024)).is_ok(), "{field}");
        assert_eq!(with(&pointer, text(1025)), fault(ShortcutFault::TooLong), "{field}");
    }
    let payload = |bytes: usize| json!("!".repeat(bytes));
    assert!(with("/boundPayload", payload(Shortcuts::PAYLOAD_MAX)).is_ok());
    let long = with("/boundPayload", payload(Shortcuts::PAYLOAD_MAX + 1));
    assert_eq!(long, fault(ShortcutFault::TooLong));
}

#[test]
fn a_publication_without_a_shortcut_is_refused() {
    for json in ["{}", r#"{"shortcut":null}"#, r#"{"shortcut":"x"}"#] {
        assert_eq!(read(json), fault(ShortcutFault::Form), "{json}");
    }
}

#[test]
fn a_revocation_goes_by_route_or_by_service() {
    let route = "e396fa78-4185-7478-b2be-6c15197f391c";
    let by_route = Ok(Revocation::ByRoute(route.parse().unwrap()));
    let by_service = Ok(Revocation::ByService("matchmaking".into()));
    for (json, expected) in [
        (format!(r#"{{"routeGuid":"{route}","reason":"left queue"}}"#), by_route.clone()),
        (format!(r#"{{"revokeByService":"matchmaking","routeGuid":"{route}"}}"#), by_route),
        (r#"{"revokeByService":"matchmaking"}"#.into(), by_service.clone()),
        (r#"{"routeGuid":null,"revokeByService":"matchmaking"}"#.into(), by_service),
    ] {
        assert_eq!(read_revocation(&json), expected, "{json}");
    }
}

#[test]
fn a_revocation_of_nothing_is_refused() {
    for json in [
        "{}",
        r#"{"routeGuid":null,"revokeByService":null}"#,
        r#"{"revokeByService":""}"#,
        r#"{"routeGuid":"x","revokeByService":"matchmaking"}"#,
        r#"{"routeGuid":7}"#,
    ] {
        assert_eq!(read_revocation(json), Err(Unusable::BadRevocation), "{json}");
    }
}
